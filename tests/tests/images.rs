//! Issue line 2: import, load (docker-archive and OCI layout, gzip and zstd), pull.

use atoll_tests::registry::Registry;
use atoll_tests::{Engine, image};

#[test]
fn import_takes_a_tar_from_standard_input() {
    let engine = Engine::start(&[]);
    image::tarball(&engine.path("bb.tar"));
    let id = engine.sh("docker import - bb:latest < $T/bb.tar").ok();
    assert!(id.starts_with("sha256:"), "{id}");
    let line = engine.docker(&[
        "images",
        "--no-trunc",
        "--format",
        "{{.Repository}}:{{.Tag}} {{.ID}}",
    ]);
    assert_eq!(line.ok(), format!("bb:latest {id}"));
    assert_eq!(
        engine.docker(&["run", "--rm", "bb", "echo", "hi"]).ok(),
        "hi"
    );
}

/// An image in the OCI layout with one layer, as `skopeo copy tarball:` makes it.
fn oci_layout(engine: &Engine) {
    image::tarball(&engine.path("bb.tar"));
    engine
        .sh("skopeo --insecure-policy copy -q tarball:$T/bb.tar oci:$T/layout:bb:latest")
        .ok();
}

#[test]
fn load_takes_an_oci_layout_with_gzip_layers() {
    let engine = Engine::start(&[]);
    oci_layout(&engine);
    engine.sh("skopeo --insecure-policy copy -q oci:$T/layout:bb:latest oci-archive:$T/oci.tar:bb:latest").ok();
    let said = engine.sh("docker load < $T/oci.tar").ok();
    assert!(said.contains("Loaded image"), "{said}");
    let name = said.rsplit_once(": ").unwrap().1;
    assert_eq!(
        engine
            .docker(&["run", "--rm", name, "/bin/echo", "hi"])
            .ok(),
        "hi"
    );
}

#[test]
fn load_takes_an_oci_layout_with_zstd_layers() {
    let engine = Engine::start(&[]);
    oci_layout(&engine);
    engine
        .sh("skopeo --insecure-policy copy -q --dest-compress-format zstd --dest-compress oci:$T/layout:bb:latest oci:$T/zstd:bb:latest
             grep -rq zstd $T/zstd/blobs || grep -q zstd $T/zstd/index.json
             tar -C $T/zstd -cf $T/zstd.tar .")
        .ok();
    let said = engine.sh("docker load < $T/zstd.tar").ok();
    let name = said.rsplit_once(": ").unwrap().1;
    assert_eq!(
        engine
            .docker(&["run", "--rm", name, "/bin/echo", "hi"])
            .ok(),
        "hi"
    );
}

#[test]
fn load_takes_a_docker_archive_also_compressed() {
    let engine = Engine::start(&[]);
    oci_layout(&engine);
    engine
        .sh("skopeo --insecure-policy copy -q oci:$T/layout:bb:latest docker-archive:$T/a.tar:plain:1
             skopeo --insecure-policy copy -q oci:$T/layout:bb:latest docker-archive:$T/b.tar:packed:1
             gzip $T/b.tar")
        .ok();
    assert_eq!(
        engine.sh("docker load < $T/a.tar").ok(),
        "Loaded image: plain:1"
    );
    assert_eq!(
        engine.sh("docker load -i $T/b.tar.gz").ok(),
        "Loaded image: packed:1"
    );
    for name in ["plain:1", "packed:1"] {
        assert_eq!(
            engine
                .docker(&["run", "--rm", name, "/bin/echo", "hi"])
                .ok(),
            "hi"
        );
    }
}

#[test]
fn pull_takes_an_image_from_a_real_registry_with_progress_per_layer() {
    let engine = Engine::start(&[]);
    oci_layout(&engine);
    let registry = Registry::start(&engine);
    registry.push(
        &format!("oci:{}:bb:latest", engine.path("layout").display()),
        "bb:latest",
    );
    let name = format!("{}/bb:latest", Registry::ADDRESS);
    let said = engine.docker(&["pull", &name]).ok();
    for part in [
        "Pulling from bb",
        "Pulling fs layer",
        "Pull complete",
        "Digest: sha256:",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    assert!(
        said.contains(&format!("Status: Downloaded newer image for {name}")),
        "{said}"
    );
    let again = engine.docker(&["pull", &name]).ok();
    assert!(again.contains("Image is up to date"), "{again}");
    assert_eq!(
        engine
            .docker(&["run", "--rm", &name, "/bin/echo", "hi"])
            .ok(),
        "hi"
    );
    // `docker run` of a missing image pulls it.
    engine.docker(&["rmi", &name]).ok();
    assert_eq!(
        engine
            .docker(&["run", "--rm", &name, "/bin/echo", "hi"])
            .ok(),
        "hi"
    );
    let digest = engine
        .docker(&["inspect", "-f", "{{index .RepoDigests 0}}", &name])
        .ok();
    assert!(
        digest.starts_with(&format!("{}/bb@sha256:", Registry::ADDRESS)),
        "{digest}"
    );
}

#[test]
fn pull_says_what_is_wrong_and_leaves_nothing() {
    let engine = Engine::start(&[]);
    oci_layout(&engine);
    let registry = Registry::start(&engine);
    registry.push(
        &format!("oci:{}:bb:latest", engine.path("layout").display()),
        "bb:latest",
    );
    let missing = engine.docker(&["pull", &format!("{}/bb:nosuch", Registry::ADDRESS)]);
    missing.complains(&["manifest unknown"]);
    engine
        .docker(&["pull", "127.0.0.1:1/bb"])
        .complains(&["connection refused"]);
    // A blob that is still good gzip (its time stamp differs) but not what its digest promises.
    let blobs = registry.storage().join("docker/registry/v2/blobs");
    engine
        .sh(&format!(
            "for f in $(find {} -name data -size +10k); do printf X | dd of=$f bs=1 seek=4 conv=notrunc status=none; done",
            blobs.display()
        ))
        .ok();
    let broken = engine.docker(&["pull", &format!("{}/bb:latest", Registry::ADDRESS)]);
    broken.complains(&["digest"]);
    assert_eq!(engine.docker(&["images", "-q"]).ok(), "");
    assert_eq!(
        engine
            .sh("find $T/data/layers $T/data/tmp -mindepth 1 | head")
            .ok(),
        ""
    );
}

#[test]
fn tags_and_removal_keep_count_of_names() {
    let engine = Engine::with_image();
    engine.docker(&["tag", "bb", "other:2"]).ok();
    let untagged = engine.docker(&["rmi", "bb"]).ok();
    assert_eq!(untagged, "Untagged: bb:latest");
    let deleted = engine.docker(&["rmi", "other:2"]).ok();
    assert!(deleted.contains("Deleted: sha256:"), "{deleted}");
    assert_eq!(engine.docker(&["images", "-q"]).ok(), "");
    engine
        .docker(&["rmi", "other:2"])
        .complains(&["No such image: other:2"]);
}
