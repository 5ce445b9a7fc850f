//! `docker load`.

use std::process::Command;

use atoll_image::ImageError;
use serde_json::json;

use crate::support::{Packing, Sandbox, TestImage, tar_of};

const CONTAINERD: &str = "io.containerd.image.name";
const REF: &str = "org.opencontainers.image.ref.name";

#[test]
fn every_layout_and_packing_gives_the_same_image() {
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let image = TestImage::small(packing);
        let archives = [
            image.docker(&["bb:1"]),
            image.oci_named(CONTAINERD, "docker.io/library/bb:1"),
            image.oci_named(REF, "bb:1"),
        ];
        for archive in archives {
            for outer in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
                let sandbox = Sandbox::new();
                let loaded = sandbox.load(&outer.pack(&archive)).unwrap();
                assert_eq!(loaded.len(), 1);
                assert_eq!(loaded[0].reference.as_deref(), Some("bb:1"));
                assert_eq!(loaded[0].id, image.id);
                assert_eq!(sandbox.file("bb:1", "a").as_deref(), Some("1"));
                assert_eq!(sandbox.file("bb:1", "b").as_deref(), Some("3"));
            }
        }
    }
}

#[test]
fn skopeos_archives_load() {
    let dir = tempfile::tempdir().unwrap();
    let image = TestImage::small(Packing::Gzip);
    let first = dir.path().join("first.tar");
    std::fs::write(&first, image.oci_named(REF, "bb:1")).unwrap();
    for kind in ["docker-archive", "oci-archive"] {
        let tar = dir.path().join(kind);
        let status = Command::new("skopeo")
            .args(["copy", "-q", "--insecure-policy"])
            .arg(format!("oci-archive:{}:bb:1", first.display()))
            .arg(format!("{kind}:{}:bb:1", tar.display()))
            .status()
            .unwrap();
        assert!(status.success());
        let sandbox = Sandbox::new();
        let loaded = sandbox.load(&std::fs::read(tar).unwrap()).unwrap();
        assert_eq!(loaded[0].reference.as_deref(), Some("bb:1"), "{kind}");
        assert_eq!(sandbox.file("bb:1", "b").as_deref(), Some("3"));
    }
}

#[test]
fn nested_indexes_give_this_machines_image() {
    let mut image = TestImage::small(Packing::Gzip);
    let mut ours = image.descriptor(&image.manifest);
    ours["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let mut other = ours.clone();
    other["digest"] = json!(atoll_image::Digest::of(b"not in the archive"));
    other["platform"]["architecture"] = json!("s390x");
    let index = image.put(&json!({"schemaVersion": 2, "manifests": [other, ours]}));
    let mut entry = image.descriptor(&index);
    entry["annotations"] = json!({ CONTAINERD: "bb:1" });
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.load(&image.oci(&[entry])).unwrap()[0].id, image.id);
}

#[test]
fn a_layer_may_occur_several_times() {
    let empty = vec![0; 1024];
    let base = tar_of([("a", &b"1"[..])]);
    let layers = [
        base,
        empty.clone(),
        tar_of([("b", &b"2"[..])]),
        empty.clone(),
        empty,
    ];
    let image = TestImage::new(&layers, Packing::Plain);
    for archive in [image.docker(&["bb"]), image.oci_named(REF, "bb:latest")] {
        let sandbox = Sandbox::new();
        sandbox.load(&archive).unwrap();
        assert_eq!(sandbox.store.layers().list().unwrap().len(), 5);
        assert_eq!(sandbox.file("bb", "a").as_deref(), Some("1"));
        assert_eq!(sandbox.file("bb", "b").as_deref(), Some("2"));
    }
}

#[test]
fn an_archive_without_names_gives_an_image_without() {
    let image = TestImage::small(Packing::Plain);
    let sandbox = Sandbox::new();
    for archive in [image.docker(&[]), image.oci_named(REF, "latest")] {
        let loaded = sandbox.load(&archive).unwrap();
        assert_eq!((loaded.len(), &loaded[0].reference), (1, &None));
    }
    assert_eq!(
        sandbox.store.resolve(&image.id.short()).unwrap().id,
        image.id
    );
}

/// Loads, expects a failure, and that nothing stays.
fn refused(tar: &[u8]) -> ImageError {
    let sandbox = Sandbox::new();
    let before = sandbox.paths();
    let error = sandbox.load(tar).expect_err("must be refused");
    assert_eq!(sandbox.paths(), before, "{error}");
    error
}

#[test]
fn archives_that_are_no_images_are_refused() {
    assert!(matches!(refused(b"garbage"), ImageError::Unreadable(_)));
    assert!(matches!(refused(b""), ImageError::Archive(_)));
    let error = refused(&tar_of([("etc/motd", &b"hello"[..])]));
    assert_eq!(
        error.to_string(),
        "invalid image archive: it has no manifest.json and no index.json"
    );
    assert!(error.hint().unwrap().contains("docker import"));
    assert!(matches!(
        refused(&tar_of([("manifest.json", &b"[{"[..])])),
        ImageError::Json { .. }
    ));
    assert!(matches!(
        refused(&tar_of([("manifest.json", &b"[]"[..])])),
        ImageError::Archive(_)
    ));
    let whole = TestImage::small(Packing::Gzip).docker(&["bb"]);
    assert!(matches!(
        refused(&whole[..whole.len() / 2]),
        ImageError::Unreadable(_) | ImageError::Archive(_)
    ));
    let zipped = Packing::Gzip.pack(&whole);
    assert!(matches!(
        refused(&zipped[..zipped.len() / 2]),
        ImageError::Unreadable(_)
    ));
}

#[test]
fn wrong_bytes_are_refused() {
    let good = TestImage::small(Packing::Gzip);
    let damaged = |digest, change: &dyn Fn(&mut Vec<u8>)| {
        let mut image = TestImage::small(Packing::Gzip);
        change(image.blobs.get_mut(digest).unwrap());
        image
    };
    // Another layer under the right name: digest in an OCI layout, diff ID in docker's.
    let other = Packing::Gzip.pack(&tar_of([("b", &b"evil"[..])]));
    let swapped = damaged(&good.layers[1], &|bytes| bytes.clone_from(&other));
    assert!(matches!(
        refused(&swapped.oci_named(REF, "bb:1")),
        ImageError::BlobDigest { .. }
    ));
    let error = refused(&swapped.docker(&["bb"]));
    assert!(
        matches!(error, ImageError::Layer { index: 2, .. }),
        "{error:?}"
    );
    assert!(error.hint().is_some());
    // Documents.
    let config = damaged(&good.id, &|bytes| bytes.push(b' '));
    assert!(matches!(
        refused(&config.docker(&["bb"])),
        ImageError::BlobDigest { .. }
    ));
    assert!(matches!(
        refused(&config.oci_named(REF, "bb:1")),
        ImageError::BlobDigest { .. }
    ));
    let manifest = damaged(&good.manifest, &|bytes| bytes.push(b' '));
    assert!(matches!(
        refused(&manifest.oci_named(REF, "bb:1")),
        ImageError::BlobDigest { .. }
    ));
    // A layer cut short, a layer missing.
    let cut = damaged(&good.layers[0], &|bytes| bytes.truncate(30));
    assert!(matches!(
        refused(&cut.docker(&["bb"])),
        ImageError::Layer { index: 1, .. }
    ));
    let mut missing = TestImage::small(Packing::Gzip);
    missing.blobs.remove(&good.layers[0]);
    assert!(matches!(
        refused(&missing.oci_named(REF, "bb:1")),
        ImageError::Archive(_)
    ));
}

#[test]
fn one_bad_image_of_two_keeps_both_out() {
    let good = TestImage::small(Packing::Plain);
    let layers = [tar_of([]), tar_of([("y", &b"y"[..])])];
    let mut both = TestImage::new(&layers, Packing::Plain);
    both.blobs.extend(good.blobs.clone());
    let bad_layer = both.layers[1];
    both.blobs
        .insert(bad_layer, b"\x1f\x8b\x08 not gzip at all".to_vec());
    let entries = [
        both.descriptor(&good.manifest),
        both.descriptor(&both.manifest),
    ];
    refused(&both.oci(&entries));
}
