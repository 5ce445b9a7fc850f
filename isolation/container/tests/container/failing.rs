//! Each failing step is told in one line and leaves nothing.

use atoll_container::{Error, ErrorKind, RootfsMount};
use atoll_spec::{Mount, Namespace, NamespaceKind};

use crate::support::Bundle;

fn refused(bundle: &Bundle) -> Error {
    let error = bundle.run().expect_err("it can't run");
    bundle.assert_clean();
    error
}

#[test]
fn commands_that_can_not_be_executed() {
    let mut bundle = Bundle::new();
    for (command, words, kind) in [
        (
            "nosuch",
            "exec: \"nosuch\": executable file not found in $PATH",
            ErrorKind::CommandNotFound,
        ),
        (
            "/nosuch",
            "exec: \"/nosuch\": stat /nosuch: no such file or directory",
            ErrorKind::CommandNotFound,
        ),
        (
            "/etc",
            "exec: \"/etc\": is a directory",
            ErrorKind::CommandNotExecutable,
        ),
        (
            "/etc/passwd",
            "exec: \"/etc/passwd\": permission denied",
            ErrorKind::CommandNotExecutable,
        ),
    ] {
        bundle.args(&[command]);
        let error = refused(&bundle);
        assert_eq!((error.to_string().as_str(), error.kind()), (words, kind));
    }
}

#[test]
fn a_missing_bind_source() {
    let mut bundle = Bundle::new();
    bundle.spec.mounts.push(Mount {
        destination: "/x".into(),
        kind: Some("bind".to_owned()),
        source: Some("/does/not/exist".into()),
        ..Mount::default()
    });
    let error = refused(&bundle);
    assert_eq!(
        error.to_string(),
        "mount /does/not/exist → /x: ENOENT (No such file or directory)"
    );
}

#[test]
fn steps_in_the_child() {
    let mut bundle = Bundle::new();
    bundle.spec.mounts[1]
        .options
        .push("nosuchoption=1".to_owned());
    let error = refused(&bundle);
    assert_eq!(
        error.to_string(),
        "mount tmpfs to /dev: EINVAL (Invalid argument)"
    );

    let mut bundle = Bundle::new();
    bundle
        .linux()
        .sysctl
        .insert("net.ipv4.nosuch".to_owned(), "1".to_owned());
    let error = refused(&bundle);
    assert!(
        error
            .to_string()
            .starts_with("write /proc/sys/net/ipv4/nosuch: ENOENT"),
        "{error}"
    );

    let mut bundle = Bundle::new();
    bundle.process().cwd = "/etc/passwd".into();
    let error = refused(&bundle);
    assert!(
        error.to_string().contains("working directory") || error.to_string().contains("chdir"),
        "{error}"
    );
}

#[test]
fn a_missing_namespace_root_or_layer() {
    let mut bundle = Bundle::new();
    bundle
        .linux()
        .namespaces
        .retain(|ns| ns.kind != NamespaceKind::Network);
    bundle.linux().namespaces.push(Namespace {
        kind: NamespaceKind::Network,
        path: Some("/run/nosuchns".into()),
    });
    assert_eq!(
        refused(&bundle).to_string(),
        "cannot open namespace /run/nosuchns"
    );

    let mut bundle = Bundle::new();
    bundle.spec.root.as_mut().unwrap().path = "nowhere".into();
    assert!(refused(&bundle).to_string().starts_with("open rootfs "));

    let bundle = Bundle::new();
    let mut request = bundle.request();
    request.rootfs_mounts = vec![RootfsMount {
        kind: "overlay".to_owned(),
        source: "overlay".to_owned(),
        options: vec!["lowerdir=/nosuch".to_owned()],
    }];
    let error = bundle.run_request(request).unwrap_err();
    assert_eq!(error.to_string(), "cannot open layer /nosuch");
    bundle.assert_clean();
}

#[test]
fn a_taken_id() {
    let mut bundle = Bundle::new();
    bundle.script("sleep 60");
    let created = bundle.create().unwrap();
    let error = bundle.create().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.hint().unwrap().contains("delete"));
    // The first is unharmed.
    assert!(created.container.state().unwrap().pid.is_some());
}

#[test]
fn an_overlay_root_takes_writes_above() {
    let mut bundle = Bundle::new();
    for name in ["upper", "work"] {
        std::fs::create_dir(bundle.path().join(name)).unwrap();
    }
    bundle.script("echo new > /new; cat /new");
    let path = |name: &str| bundle.path().join(name).display().to_string();
    let mut request = bundle.request();
    request.rootfs_mounts = vec![RootfsMount {
        kind: "overlay".to_owned(),
        source: "overlay".to_owned(),
        options: vec![
            format!("lowerdir={}", path("rootfs")),
            format!("upperdir={}", path("upper")),
            format!("workdir={}", path("work")),
        ],
    }];
    assert_eq!(bundle.run_request(request).unwrap().stdout, "new\n");
    assert!(bundle.path().join("upper/new").exists() && !bundle.rootfs().join("new").exists());
    bundle.assert_clean();
}

#[test]
fn a_filter_without_socket_calls_does_not_hide_a_failure() {
    use std::os::unix::fs::PermissionsExt;
    let mut bundle = Bundle::new();
    let path = bundle.rootfs().join("bad");
    std::fs::write(&path, "no program\0").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
        "syscalls":[{"names":["sendto","sendmsg"],"action":"SCMP_ACT_ERRNO"}]}"#;
    bundle.linux().seccomp = Some(serde_json::from_str(profile).unwrap());
    bundle.args(&["/bad"]);
    let error = bundle.run().unwrap_err();
    assert_eq!(error.to_string(), "exec: \"/bad\": exec format error");
    assert_eq!(error.kind(), ErrorKind::CommandNotExecutable);
}
