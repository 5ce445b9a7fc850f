//! Bad archives: each gives one clear error with a hint and leaves nothing.

use crate::support::{Item, Sandbox, archive, directory, entry, file, gzip, hard_link, symlink};
use atoll_layer::{Digest, LayerError};
use tar::EntryType;

/// Unpacks, expects a failure, and that everything is as before.
fn refused(bytes: &[u8]) -> LayerError {
    let sandbox = Sandbox::new();
    let before = sandbox.everything();
    let error = sandbox.unpack(bytes).expect_err("must be refused");
    assert_eq!(strip(sandbox.everything()), strip(before), "{error}");
    assert!(error.hint().is_some(), "no hint for: {error}");
    error
}

/// Without the directories that staging makes younger.
fn strip(
    mut tree: std::collections::BTreeMap<String, String>,
) -> std::collections::BTreeMap<String, String> {
    tree.remove("tmp");
    tree
}

#[test]
fn paths_that_lead_outside_are_refused() {
    let absolute = std::env::temp_dir().display().to_string();
    let cases: [&[Item<'_>]; 7] = [
        &[file("../escaped", b"x")],
        &[directory("a"), file("a/../../escaped", b"x")],
        &[symlink("out", &absolute), file("out/escaped", b"x")],
        &[symlink("out", "../../.."), file("out/escaped", b"x")],
        &[
            directory("a"),
            symlink("a/out", "../../outside"),
            directory("a/out/b"),
        ],
        &[symlink("out", ".."), hard_link("in", "out/outside")],
        &[hard_link("in", "../outside")],
    ];
    for case in cases {
        let error = refused(&archive(case));
        assert!(
            matches!(
                error,
                LayerError::Escape { .. } | LayerError::HardLink { .. }
            ),
            "{error:?}"
        );
    }
    let error = refused(&archive(&[file("../escaped", b"x")]));
    assert_eq!(
        error.to_string(),
        "entry `../escaped` leads outside the layer"
    );
}

#[test]
fn files_are_never_written_through_symlinks() {
    let sandbox = Sandbox::new();
    let outside = sandbox.dir.path().join("outside").display().to_string();
    let layer = sandbox
        .unpack(&archive(&[
            symlink("name", &outside),
            file("name", b"replaced"),
        ]))
        .unwrap();
    let root = sandbox.root_of(&layer);
    assert_eq!(
        std::fs::read_to_string(root.join("name")).unwrap(),
        "replaced"
    );
    assert_eq!(std::fs::read_to_string(outside).unwrap(), "untouched");
}

#[test]
fn hard_links_link_symlinks_and_not_what_they_point_to() {
    let sandbox = Sandbox::new();
    let outside = sandbox.dir.path().join("outside").display().to_string();
    let layer = sandbox
        .unpack(&archive(&[
            symlink("a", &outside),
            hard_link("b", "a"),
            file("b", b"new"),
        ]))
        .unwrap();
    assert!(sandbox.root_of(&layer).join("a").is_symlink());
    assert_eq!(std::fs::read_to_string(outside).unwrap(), "untouched");
}

#[test]
fn symlinked_parents_resolve_inside_the_layer() {
    let sandbox = Sandbox::new();
    let layer = sandbox
        .unpack(&archive(&[
            directory("usr/"),
            directory("usr/lib/"),
            directory("run/"),
            symlink("lib", "usr/lib"),
            directory("var"),
            symlink("var/run", "/run"),
            file("lib/a", b"a"),
            file("var/run/b", b"b"),
        ]))
        .unwrap();
    let root = sandbox.root_of(&layer);
    assert!(root.join("usr/lib/a").is_file());
    assert!(root.join("run/b").is_file());
}

#[test]
fn absolute_names_become_relative_and_duplicates_take_the_last() {
    let sandbox = Sandbox::new();
    let layer = sandbox
        .unpack(&archive(&[
            file("/etc/a", b"first"),
            file("etc/a", b"last"),
            file("etc/b", b"file"),
            directory("etc/b"),
            file("etc/b/c", b"c"),
            directory("etc/d"),
            file("etc/d/e", b"e"),
            symlink("etc/d", "a"),
        ]))
        .unwrap();
    let root = sandbox.root_of(&layer);
    assert_eq!(std::fs::read_to_string(root.join("etc/a")).unwrap(), "last");
    assert!(root.join("etc/b/c").is_file());
    assert!(root.join("etc/d").is_symlink());
}

#[test]
fn garbage_is_no_archive() {
    for bytes in [&b"hello"[..], &[b'x'; 2000], br#"{"not": "a tar"}"#] {
        assert_eq!(
            refused(bytes).to_string(),
            "not a valid tar archive: no tar header at byte 0"
        );
    }
    assert_eq!(
        refused(b"BZh91AY&SY0123").to_string(),
        "bzip2 compression is not supported"
    );
}

#[test]
fn truncated_archives_are_refused_at_every_length() {
    let whole = archive(&[file("a", &[1; 3000]), file("b", b"x")]);
    // What ends at a block, or leaves out the last padding, is whole for docker and GNU tar.
    for length in [1, 511, 513, 2000, 512 * 7 + 100] {
        let error = refused(&whole[..length]);
        assert!(
            matches!(
                error,
                LayerError::Truncated { .. } | LayerError::Tar { offset: 0, .. }
            ),
            "{length}: {error}"
        );
    }
    let zipped = gzip(&whole);
    for length in [8, 20, zipped.len() - 9, zipped.len() - 1] {
        let error = refused(&zipped[..length]);
        assert!(
            matches!(error, LayerError::Decompress { format: "gzip", .. }),
            "{error:?}"
        );
    }
    let packed = zstd::encode_all(&whole[..], 1).unwrap();
    let error = refused(&packed[..packed.len() - 3]);
    assert!(
        matches!(error, LayerError::Decompress { format: "zstd", .. }),
        "{error:?}"
    );
}

#[test]
fn damaged_gzip_data_fails_its_checksum() {
    let mut zipped = gzip(&archive(&[file("a", &[1; 100_000])]));
    let at = zipped.len() - 6;
    zipped[at] ^= 1;
    assert!(matches!(refused(&zipped), LayerError::Decompress { .. }));
}

#[test]
fn huge_declared_sizes_take_no_space() {
    let mut bytes = entry(&file("huge", b""));
    // 8 EiB - 1 in base-256.
    bytes[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x7f, 255, 255, 255, 255, 255, 255, 255]);
    fix_checksum(&mut bytes);
    assert!(matches!(refused(&bytes), LayerError::Truncated { .. }));
    bytes[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]);
    fix_checksum(&mut bytes);
    assert!(
        refused(&bytes)
            .to_string()
            .contains("size 9223372036854775808 out of range")
    );
    let mut pax = entry(&Item {
        kind: EntryType::XHeader,
        path: "x",
        link: "",
        data: b"",
    });
    pax[124..136].copy_from_slice(b"77777777777\0");
    fix_checksum(&mut pax);
    assert!(refused(&pax).to_string().contains("is too large"));
}

#[test]
fn pax_sizes_apply_to_the_entry_and_not_to_helpers() {
    let record = |text: &str| {
        let item = Item {
            kind: EntryType::XHeader,
            path: "x",
            link: "",
            data: text.as_bytes(),
        };
        entry(&item)
    };
    // The size is for `a`; a parser that applied it to the long name would see `evil`.
    let mut bytes = record("9 size=0\n");
    bytes.extend(entry(&Item {
        kind: EntryType::GNULongName,
        path: "l",
        link: "",
        data: b"long-name\0",
    }));
    bytes.extend(entry(&file("a", b"")));
    bytes.extend(entry(&file("b", b"b")));
    let sandbox = Sandbox::new();
    let layer = sandbox.unpack(&bytes).unwrap();
    let names: Vec<String> = crate::support::tree(&sandbox.root_of(&layer))
        .into_keys()
        .collect();
    assert_eq!(names, ["", "b", "long-name"]);
}

#[test]
fn entries_that_cannot_exist_are_refused() {
    for items in [
        &[file("a", b"x"), file("a/b", b"y")][..],
        &[directory("d"), hard_link("h", "d")],
        &[hard_link("h", "missing")],
        &[symlink("s", "")],
        &[symlink("a", "b"), symlink("b", "a"), file("a/x", b"")],
        &[file(".wh...", b"")],
        &[file("d/.wh.", b"")],
    ] {
        refused(&archive(items));
    }
    let mut unknown = entry(&file("a", b""));
    unknown[156] = b'Q';
    fix_checksum(&mut unknown);
    assert!(
        refused(&unknown)
            .to_string()
            .contains("unknown entry type `Q`")
    );
    let mut owner = entry(&file("a", b""));
    owner[108..116].copy_from_slice(&[0x80, 0, 0, 0, 255, 255, 255, 255]);
    fix_checksum(&mut owner);
    assert!(refused(&owner).to_string().contains("owner 4294967295"));
}

#[test]
fn a_wrong_diff_id_is_refused() {
    let sandbox = Sandbox::new();
    let bytes = archive(&[file("a", b"x")]);
    let expected = Digest::of(b"something else");
    let error = sandbox
        .store
        .unpack(None, &bytes[..], Some(&expected), &mut |_| {})
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "layer has diff ID {}, but its image names {expected}",
            Digest::of(&bytes)
        )
    );
    assert!(sandbox.store.list().unwrap().is_empty());
}

#[test]
fn overlays_own_attributes_cannot_be_smuggled_in() {
    let record = crate::support::pax_record("SCHILY.xattr.trusted.overlay.redirect", b"/etc");
    let mut bytes = entry(&Item {
        kind: EntryType::XHeader,
        path: "x",
        link: "",
        data: &record,
    });
    bytes.extend(archive(&[directory("d")]));
    let sandbox = Sandbox::new();
    let layer = sandbox.unpack(&bytes).unwrap();
    assert!(crate::support::tree(&sandbox.root_of(&layer))["d"].ends_with("{}"));
}

fn fix_checksum(block: &mut [u8]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block[..512].iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
