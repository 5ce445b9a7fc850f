//! Checkpoints and restores that fail: whatever CRIU does, nothing is lost and nothing is left. That they succeed is proved
//! by `cargo xtask nested-checkpoint`.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use atoll_container::{
    CheckpointRequest, Created, Error, ErrorKind, RestoreRequest, StdioRequest, restore,
};
use atoll_spec::{NamespaceKind, Status};
use atoll_sys::process::{self, Exit};

use crate::support::Bundle;

/// A bundle whose container sleeps, with its configuration in a file.
fn sleeping() -> (Bundle, Created) {
    sleeping_as(|_| ())
}

/// The same with another configuration.
fn sleeping_as(change: impl FnOnce(&mut Bundle)) -> (Bundle, Created) {
    let mut bundle = Bundle::new();
    bundle.args(&["sleep", "100"]);
    change(&mut bundle);
    let text = serde_json::to_vec(&bundle.spec).unwrap();
    fs::write(bundle.path().join("config.json"), text).unwrap();
    let mut created = bundle.create().unwrap();
    created.init.start().unwrap();
    (bundle, created)
}

/// A program in the place of CRIU's: a shell's script.
fn instead(bundle: &Bundle, script: &str) -> PathBuf {
    let path = bundle.path().join("criu");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn end(bundle: &Bundle, created: Created) {
    created.container.delete(true).unwrap();
    process::wait(created.init.pidfd.as_fd()).unwrap();
    bundle.assert_clean();
}

#[test]
fn without_criu_the_container_goes_on() {
    let (bundle, created) = sleeping();
    let mut request = CheckpointRequest::new(bundle.path().join("images"));
    request.criu.program = "/none/criu".into();
    let error = created.container.checkpoint(request).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Criu);
    assert_eq!(
        error.to_string(),
        "criu cannot checkpoint the container: /none/criu: stat /none/criu: no such file or directory"
    );
    assert!(error.hint().unwrap().contains("criu check"));
    assert_eq!(created.container.state().unwrap().status, Status::Running);
    end(&bundle, created);
}

#[test]
fn what_criu_says_before_it_has_a_log_is_told() {
    let (bundle, created) = sleeping();
    for (script, words) in [
        (
            "echo 'Error (criu/vdso.c:381): vdso: Unexpected bounds' >&2",
            "it ended without an answer: vdso: Unexpected bounds",
        ),
        (
            "echo 'no luck' >&2; exit 3",
            "it ended without an answer: no luck",
        ),
        ("exit 1", "it ended without an answer"),
        ("echo what >&3", "its answer is none"),
        // A failure without a reason: type DUMP, no success.
        ("printf '\\010\\001\\020\\000' >&3", "it gives no reason"),
        // A failure with one: cr_errmsg.
        (
            "printf '\\010\\001\\020\\000\\112\\003why' >&3",
            "criu cannot checkpoint the container: why",
        ),
    ] {
        let mut request = CheckpointRequest::new(bundle.path().join("images"));
        request.criu.program = instead(&bundle, script);
        let error = created.container.checkpoint(request).unwrap_err();
        assert!(error.to_string().contains(words), "{script}: {error}");
        assert_eq!(created.container.state().unwrap().status, Status::Running);
    }
    end(&bundle, created);
}

#[test]
fn only_what_runs_is_checkpointed() {
    let mut bundle = Bundle::new();
    bundle.args(&["true"]);
    let created = bundle.create().unwrap();
    let request = CheckpointRequest::new(bundle.path().join("images"));
    let error = created.container.checkpoint(request).unwrap_err();
    assert!(matches!(error, Error::WrongStatus { .. }), "{error}");
    assert!(!bundle.path().join("images").exists());
    end(&bundle, created);
}

#[test]
fn what_criu_cannot_do_for_other_walls_is_said_before() {
    for (wall, reason) in [
        ("system", "idmapped mounts"),
        ("chroot", "its process ids are the host's"),
    ] {
        let (bundle, created) = sleeping_as(|bundle| {
            let wall = ("io.atoll.isolation".to_owned(), wall.to_owned());
            bundle.spec.annotations.extend([wall]);
            if bundle
                .spec
                .annotations
                .values()
                .any(|wall| wall == "chroot")
            {
                bundle.spec.hostname = None;
                let kinds = &mut bundle.linux().namespaces;
                kinds.retain(|namespace| namespace.kind == NamespaceKind::Mount);
            }
        });
        let images = bundle.path().join("images");
        let request = CheckpointRequest::new(images.clone());
        let dumped = created.container.checkpoint(request).unwrap_err();
        let from = RestoreRequest::new(images.clone());
        let mut request = bundle.request();
        request.id = format!("{}-again", bundle.id).parse().unwrap();
        let restored = restore(request, &bundle.spec, &from).unwrap_err();
        for error in [dumped, restored] {
            let text = error.to_string();
            let words = format!(
                "a container behind the wall {wall} is neither checkpointed nor restored: "
            );
            assert!(text.starts_with(&words) && text.contains(reason), "{text}");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.hint().unwrap().contains("keep its data in a volume"));
        }
        assert!(!images.exists());
        assert_eq!(created.container.state().unwrap().status, Status::Running);
        end(&bundle, created);
    }
}

#[test]
fn a_restore_that_fails_leaves_nothing() {
    let mut bundle = Bundle::new();
    let images = bundle.path().join("images");
    let mut from = RestoreRequest::new(images.clone());
    let error = restore(bundle.request(), &bundle.spec, &from).unwrap_err();
    assert!(
        error.to_string().ends_with("images/descriptors.json"),
        "{error}"
    );
    bundle.assert_clean();

    fs::create_dir(&images).unwrap();
    fs::write(images.join("descriptors.json"), "[]").unwrap();
    for script in [
        "exit 1",
        // It finds the root file system mounted, with places for mounts, but nobody else does.
        "grep -q ' /.*/criu-root ' /proc/self/mountinfo && test -d */*/criu-root/dev; exit 1",
        "printf '\\010\\002\\020\\000' >&3",
    ] {
        from.criu.program = instead(&bundle, script);
        let error = restore(bundle.request(), &bundle.spec, &from).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Criu, "{error}");
        bundle.assert_clean();
    }

    let kinds = &mut bundle.linux().namespaces;
    kinds.retain(|namespace| namespace.kind != NamespaceKind::Mount);
    bundle.linux().masked_paths.clear();
    bundle.linux().readonly_paths.clear();
    let error = restore(bundle.request(), &bundle.spec, &from).unwrap_err();
    assert!(matches!(error, Error::Plan { .. }), "{error}");
    bundle.assert_clean();
}

#[test]
fn criu_sees_the_root_file_system_where_nobody_else_does() {
    let bundle = Bundle::new();
    let images = bundle.path().join("images");
    fs::create_dir(&images).unwrap();
    fs::write(images.join("descriptors.json"), "[]").unwrap();
    let seen = bundle.path().join("seen");
    let script = format!(
        "grep ' /.*/criu-root ' /proc/self/mountinfo > {seen}; cat /proc/self/cgroup >> {seen}; exit 1",
        seen = seen.display()
    );
    let mut from = RestoreRequest::new(images);
    from.criu.program = instead(&bundle, &script);
    restore(bundle.request(), &bundle.spec, &from).unwrap_err();
    let text = fs::read_to_string(seen).unwrap();
    let mounted = text.lines().filter(|line| line.contains("criu-root"));
    assert_eq!(mounted.count(), 1, "{text}");
    assert!(text.contains(&format!("/{}\n", bundle.id)), "{text}");
    bundle.assert_clean();
}

#[test]
fn the_null_device_of_streams_is_the_containers_own() {
    let mut bundle = Bundle::new();
    // Device numbers of the file systems they are in.
    bundle.script("stat -L -c %d /proc/self/fd/0 /dev/null");
    let (stdio, reader) = crate::support::piped();
    let mut request = bundle.request();
    assert!(matches!(stdio, StdioRequest::Fds { .. }));
    request.stdio = stdio;
    let mut created = atoll_container::create(request, &bundle.spec).unwrap();
    created.init.start().unwrap();
    let (out, err) = reader.read();
    let exit = process::wait(created.init.pidfd.as_fd()).unwrap();
    assert_eq!(exit, Exit::Code(0), "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], lines[1], "{out}");
    created.container.delete(false).unwrap();
}
