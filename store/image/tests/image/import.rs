//! `docker import`.

use atoll_image::{ImageError, ImportOptions};

use crate::support::{Packing, Sandbox, tar_of};

#[test]
fn a_tar_becomes_an_image_with_the_changes_asked_for() {
    let sandbox = Sandbox::new();
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let tar = packing.pack(&tar_of([("etc/motd", &b"hello"[..])]));
        let options = ImportOptions {
            reference: Some("bb".parse().unwrap()),
            changes: vec!["CMD [\"sh\"]".to_owned(), "ENV A=b".to_owned()],
            message: String::new(),
        };
        let id = sandbox.store.import(&tar[..], options).unwrap();
        let image = sandbox.store.resolve("bb").unwrap();
        assert_eq!(image.id, id);
        assert_eq!(image.repo_tags, ["bb:latest"]);
        assert_eq!(image.config.config.cmd.as_deref().unwrap(), ["sh"]);
        assert_eq!(image.config.config.env.as_deref().unwrap(), ["A=b"]);
        assert_eq!(
            image.config.history[0].comment.as_deref(),
            Some("Imported from -")
        );
        assert_eq!(image.size_bytes, 5);
        assert_eq!(sandbox.file("bb", "etc/motd").as_deref(), Some("hello"));
    }
    assert_eq!(
        sandbox.store.layers().list().unwrap().len(),
        1,
        "one content, one layer"
    );
    assert_eq!(
        sandbox.store.list().unwrap().len(),
        3,
        "the earlier ones lost their name"
    );
}

#[test]
fn what_cannot_be_imported_is_said_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let before = sandbox.paths();
    let import = |tar: &[u8], change: &str, name: &str| {
        let options = ImportOptions {
            reference: Some(name.parse().unwrap()),
            changes: if change.is_empty() {
                Vec::new()
            } else {
                vec![change.to_owned()]
            },
            message: String::new(),
        };
        sandbox.store.import(tar, options).unwrap_err()
    };
    let tar = tar_of([("a", &b"1"[..])]);
    for (bytes, change, name) in [
        (&b"garbage"[..], "", "bb"),
        (&[0; 1024], "", "bb"),
        (&[], "", "bb"),
        (&tar, "RUN true", "bb"),
        (&tar, "", "host"),
    ] {
        let error = import(bytes, change, name);
        assert_eq!(sandbox.paths(), before, "{error}");
    }
    let error = import(&tar, "", "host");
    assert!(matches!(error, ImageError::HostReserved { .. }) && error.hint().is_some());
}
