//! Mounts with more to them than a place.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use atoll_spec::{IdMapping, Mount, Namespace, NamespaceKind};
use atoll_sys::mount::{self as sys_mount, Attributes, Change, Propagation};
use atoll_sys::namespace;
use atoll_sys::rustix::fs::CWD;

use crate::support::Bundle;

fn mount(kind: &str, source: &str, destination: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.into(),
        kind: Some(kind.to_owned()),
        source: Some(source.into()),
        options: options.iter().map(|&word| word.to_owned()).collect(),
        ..Mount::default()
    }
}

fn map(host_id: u32, size: u32) -> Vec<IdMapping> {
    vec![IdMapping {
        container_id: 0,
        host_id,
        size,
    }]
}

#[test]
fn a_tmpfs_begins_with_what_it_hides() {
    let mut bundle = Bundle::new();
    let place = bundle.rootfs().join("etc/app");
    fs::create_dir_all(place.join("deep")).unwrap();
    fs::write(place.join("deep/file"), "kept").unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o711)).unwrap();
    let copied = mount("tmpfs", "tmpfs", "/etc/app", &["tmpcopyup", "ro"]);
    bundle.spec.mounts.push(copied);
    let plain = mount("tmpfs", "tmpfs", "/new", &[]);
    bundle.spec.mounts.push(plain);
    let text = bundle.output_of(
        "cat /etc/app/deep/file; echo; stat -c %a /etc/app /new; touch /etc/app/x 2>&1 || true",
    );
    assert_eq!(
        text,
        "kept\n711\n1777\ntouch: /etc/app/x: Read-only file system\n"
    );
    bundle.assert_clean();
}

#[test]
fn only_a_tmpfs_copies_up() {
    let mut bundle = Bundle::new();
    let wrong = mount("bind", "/tmp", "/x", &["bind", "tmpcopyup"]);
    bundle.spec.mounts.push(wrong);
    let error = bundle.create().unwrap_err().to_string();
    assert!(error.ends_with("tmpcopyup is for tmpfs only"), "{error}");
}

#[test]
fn ids_are_shifted_by_the_mounts_own_mapping() {
    let mut bundle = Bundle::new();
    let source = bundle.path().join("data");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("of-root"), "").unwrap();
    let mut shifted = mount("bind", source.to_str().unwrap(), "/data", &["rbind"]);
    shifted.uid_mappings = map(5000, 10);
    shifted.gid_mappings = map(6000, 10);
    bundle.spec.mounts.push(shifted);
    let capabilities = bundle.process().capabilities.as_mut().unwrap();
    for set in [
        &mut capabilities.bounding,
        &mut capabilities.permitted,
        &mut capabilities.effective,
    ] {
        *set = vec!["CAP_DAC_OVERRIDE".to_owned()];
    }
    let text = bundle.output_of("stat -c %u:%g /data/of-root");
    assert_eq!(text, "5000:6000\n");
    bundle.assert_clean();
}

#[test]
fn ids_are_shifted_by_the_containers_mapping() {
    let mut bundle = Bundle::new();
    let source = bundle.path().join("data");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("of-root"), "").unwrap();
    fs::set_permissions(bundle.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let linux = bundle.linux();
    linux.namespaces.push(Namespace {
        kind: NamespaceKind::User,
        path: None,
    });
    linux.uid_mappings = map(100_000, 65_536);
    linux.gid_mappings = map(100_000, 65_536);
    let source = source.to_str().unwrap();
    let shifted = mount("bind", source, "/data", &["bind", "idmap"]);
    bundle.spec.mounts.push(shifted);
    // Missing folders of the root are made by the mapped root.
    fs::create_dir(bundle.rootfs().join("data")).unwrap();
    let text = bundle.output_of("stat -c %u /data/of-root; touch /data/new; stat -c %u /data/new");
    assert_eq!(text, "0\n0\n");
    // Written by the container's root, it is the host's root's.
    let made = fs::metadata(bundle.path().join("data/new")).unwrap();
    assert_eq!(made.uid(), 0);
    bundle.assert_clean();
}

#[test]
fn ids_are_shifted_by_the_mapping_of_a_namespace_that_is_joined() {
    let mut bundle = Bundle::new();
    let source = bundle.path().join("data");
    fs::create_dir(&source).unwrap();
    fs::set_permissions(bundle.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let map = "0 100000 65536\n";
    let namespace = namespace::user_namespace(map, map).unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    bundle.linux().namespaces.push(Namespace {
        kind: NamespaceKind::User,
        path: Some(path.into()),
    });
    let source = source.to_str().unwrap();
    let shifted = mount("bind", source, "/data", &["bind", "idmap"]);
    bundle.spec.mounts.push(shifted);
    fs::create_dir(bundle.rootfs().join("data")).unwrap();
    assert_eq!(bundle.output_of("stat -c %u:%g /data"), "0:0\n");
    bundle.assert_clean();
}

#[test]
fn ids_of_the_roots_own_are_shifted_in_a_user_namespace_that_may_not() {
    let mut bundle = Bundle::new();
    fs::set_permissions(bundle.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let rootfs = bundle.rootfs();
    for name in ["source", "shown"] {
        fs::create_dir(rootfs.join(name)).unwrap();
    }
    let linux = bundle.linux();
    linux.namespaces.push(Namespace {
        kind: NamespaceKind::User,
        path: None,
    });
    linux.uid_mappings = map(100_000, 65_536);
    linux.gid_mappings = map(100_000, 65_536);
    let source = rootfs.join("source");
    let shifted = mount(
        "bind",
        source.to_str().unwrap(),
        "/shown",
        &["bind", "idmap"],
    );
    bundle.spec.mounts.push(shifted);
    let text = bundle.output_of("stat -c %u /source /shown");
    assert_eq!(text, "65534\n0\n");
    // A mount made of others' is refused with the step's name, by whoever is asked.
    let twice = mount(
        "bind",
        rootfs.join("shown").to_str().unwrap(),
        "/tmp",
        &["bind", "idmap"],
    );
    bundle.spec.mounts.push(twice);
    let error = bundle.create().unwrap_err().to_string();
    assert_eq!(error, "mount shown → /tmp: EPERM (Operation not permitted)");
    bundle.assert_clean();
}

#[test]
fn a_user_namespace_keeps_what_its_sources_are_locked_by() {
    let mut bundle = Bundle::new();
    let source = bundle.path().join("source");
    fs::create_dir(&source).unwrap();
    let words = ["bind", "suid", "dev", "noexec"];
    let bind = mount("bind", source.to_str().unwrap(), "/host", &words);
    bundle.spec.mounts.push(bind);
    // The source's mount is this thread's own.
    let in_own_mounts = std::thread::spawn(move || {
        namespace::unshare(libc::CLONE_NEWNS).unwrap();
        let private = Change::propagation(Propagation::Private);
        sys_mount::set_attributes(CWD, c"/", true, &private).unwrap();
        let locks = Attributes::NOSUID | Attributes::NODEV;
        let tmpfs = sys_mount::new_filesystem(c"tmpfs", [], locks).unwrap();
        let place = CString::new(source.as_os_str().as_bytes()).unwrap();
        sys_mount::attach_at(tmpfs.as_fd(), &place).unwrap();

        let text = bundle.output_of("grep ' /host ' /proc/mounts");
        let is_free =
            text.contains("noexec") && !text.contains("nosuid") && !text.contains("nodev");
        assert!(is_free, "the host's root may: {text}");

        let linux = bundle.linux();
        linux.namespaces.push(Namespace {
            kind: NamespaceKind::User,
            path: None,
        });
        linux.uid_mappings = map(0, 65_536);
        linux.gid_mappings = map(0, 65_536);
        let error = bundle.create().unwrap_err().to_string();
        let (_, what) = error.split_once(" → ").unwrap();
        assert_eq!(
            what,
            "/host without nosuid, nodev, which its source has and a user namespace keeps: \
             EPERM (Operation not permitted)"
        );
        // What is not named stays.
        bundle.spec.mounts.last_mut().unwrap().options = vec!["bind".to_owned(), "exec".to_owned()];
        let text = bundle.output_of("grep ' /host ' /proc/mounts");
        assert!(text.contains("nosuid,nodev"), "{text}");
        bundle.assert_clean();
    });
    in_own_mounts.join().unwrap();
}

#[test]
fn an_idmap_without_a_mapping_is_refused() {
    let mut bundle = Bundle::new();
    let wrong = mount("bind", "/tmp", "/x", &["bind", "idmap"]);
    bundle.spec.mounts.push(wrong);
    let error = bundle.create().unwrap_err().to_string();
    assert!(
        error.contains("idmap needs uidMappings and gidMappings"),
        "{error}"
    );
    let mut proc = mount("tmpfs", "tmpfs", "/x", &[]);
    proc.uid_mappings = map(0, 1);
    proc.gid_mappings = map(0, 1);
    *bundle.spec.mounts.last_mut().unwrap() = proc;
    let error = bundle.create().unwrap_err().to_string();
    assert!(
        error.ends_with("only bind mounts can be idmapped"),
        "{error}"
    );
}

#[test]
fn recursive_attributes_reach_mounts_below() {
    let mut bundle = Bundle::new();
    let outer = bundle.path().join("outer");
    fs::create_dir(&outer).unwrap();
    // A bind of /dev has mounts below it on the host (pts, shm).
    let recursive = mount("bind", "/dev", "/host", &["rbind", "rro", "rnosuid"]);
    bundle.spec.mounts.push(recursive);
    let text = bundle.output_of("grep -E ' /host' /proc/self/mountinfo | busybox awk '{print $6}'");
    assert!(text.lines().count() > 1, "{text}");
    for line in text.lines() {
        assert!(line.starts_with("ro,nosuid"), "{line}");
    }
    bundle.assert_clean();
}

#[test]
fn a_bind_of_the_roots_own_shows_what_earlier_mounts_put_there() {
    let mut bundle = Bundle::new();
    fs::create_dir(bundle.rootfs().join("first")).unwrap();
    let first = mount("tmpfs", "tmpfs", "/first/x", &["mode=1731"]);
    let inside = bundle.rootfs().join("first/x");
    let second = mount("bind", inside.to_str().unwrap(), "/second", &["bind", "ro"]);
    bundle.spec.mounts.extend([first, second]);
    let script = "stat -c %a /second; touch /first/x/a; ls /second; touch /second/b 2>&1 || true";
    assert_eq!(
        bundle.output_of(script),
        "1731\na\ntouch: /second/b: Read-only file system\n"
    );
    bundle.assert_clean();
}

#[test]
fn a_tmpfs_tells_the_mode_it_took() {
    let mut bundle = Bundle::new();
    let folder = bundle.rootfs().join("hidden");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o710)).unwrap();
    bundle
        .spec
        .mounts
        .push(mount("tmpfs", "tmpfs", "/hidden", &["nosuid"]));
    let out = bundle.output_of("stat -c %a /hidden; grep ' /hidden ' /proc/self/mounts");
    assert!(
        out.starts_with("710\n") && out.contains("mode=710"),
        "{out}"
    );
}

#[test]
fn a_destination_below_the_root_file_systems_folder_begins_there() {
    let mut bundle = Bundle::new();
    fs::create_dir_all(bundle.path().join("volume")).unwrap();
    fs::write(bundle.path().join("volume/file"), "found").unwrap();
    let destination = bundle.rootfs().join("data");
    let options = ["bind"];
    bundle.spec.mounts.push(mount(
        "bind",
        "volume",
        destination.to_str().unwrap(),
        &options,
    ));
    assert_eq!(bundle.output_of("cat /data/file"), "found");
}
