//! The store on the real kernel: overlay mounts, whiteouts, crashes, full disks. Needs root.

use std::{
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    thread,
};

use atoll_layer::{ChainId, LayerError, LayerStore, WritableKind, WritableLayer, open_rootfs};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use crate::support::{Sandbox, archive, directory, file, symlink};

/// Mounts directories, top first, without a place in any mount table; read it below the result.
fn mounted(lowers: &[PathBuf], writable: Option<&WritableLayer>) -> (OwnedFd, String) {
    let mount = open_rootfs(lowers, writable).unwrap();
    let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
    (mount, path)
}

#[test]
fn whiteouts_hide_what_is_below() {
    let sandbox = Sandbox::new();
    let below = sandbox
        .unpack(&archive(&[
            directory("a"),
            file("a/gone", b"1"),
            file("a/stays", b"2"),
            directory("opaque"),
            file("opaque/gone", b"3"),
            directory("swapped"),
            file("swapped/gone", b"4"),
            directory("swapped-too"),
            file("swapped-too/gone", b"4"),
        ]))
        .unwrap();
    let above = archive(&[
        directory("a"),
        file("a/.wh.gone", b""),
        directory("opaque"),
        file("opaque/new", b"5"),
        file("opaque/.wh..wh..opq", b""),
        file(".wh..wh.plnk", b""),
        file(".wh.swapped", b""),
        directory("swapped"),
        file("swapped/new", b"6"),
        directory("swapped-too"),
        file(".wh.swapped-too", b""),
    ]);
    let above = sandbox
        .store
        .unpack(Some(&below.chain_id), &above[..], None, &mut |_| {})
        .unwrap();
    let stack = sandbox.store.stack(&above.chain_id).unwrap();
    assert_eq!(stack, [above.chain_id, below.chain_id]);
    let (_mount, root) = mounted(&sandbox.store.dirs(&stack), None);
    let mut names: Vec<String> = crate::support::tree(Path::new(&format!("{root}/.")))
        .into_keys()
        .collect();
    names.retain(|name| !name.is_empty());
    assert_eq!(
        names,
        [
            "a",
            "a/stays",
            "opaque",
            "opaque/new",
            "swapped",
            "swapped-too",
            "swapped/new"
        ]
    );
}

#[test]
fn directories_without_an_entry_take_the_lower_ones_attributes() {
    let sandbox = Sandbox::new();
    let mut bytes = crate::support::entry(&directory("tmp"));
    bytes[100..108].copy_from_slice(b"0001777\0");
    bytes[108..116].copy_from_slice(b"0000021\0");
    bytes[148..156].copy_from_slice(b"        ");
    let sum: u32 = bytes[..512].iter().map(|byte| u32::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let below = sandbox.unpack(&bytes).unwrap();
    let above = archive(&[file("tmp/x", b"x"), file("new/y", b"y")]);
    let above = sandbox
        .store
        .unpack(Some(&below.chain_id), &above[..], None, &mut |_| {})
        .unwrap();
    let tmp = fs::metadata(sandbox.root_of(&above).join("tmp")).unwrap();
    assert_eq!((tmp.mode() & 0o7777, tmp.uid()), (0o1777, 0o21));
    let new = fs::metadata(sandbox.root_of(&above).join("new")).unwrap();
    assert_eq!(new.mode() & 0o7777, 0o755);
}

#[test]
fn a_writable_layer_makes_a_root_to_write_to() {
    let sandbox = Sandbox::new();
    let layer = sandbox
        .unpack(&archive(&[directory("."), file("a", b"1")]))
        .unwrap();
    let lowers = sandbox.store.dirs(&[layer.chain_id]);
    let container = sandbox.dir.path().join("container");
    fs::create_dir(&container).unwrap();
    let writable = WritableLayer::create(&container, &lowers, &WritableKind::Empty).unwrap();
    let (mount, root) = mounted(&lowers, Some(&writable));
    fs::write(format!("{root}/a"), "2").unwrap();
    drop(mount);
    assert_eq!(fs::read_to_string(writable.diff().join("a")).unwrap(), "2");
    assert_eq!(fs::read_to_string(lowers[0].join("a")).unwrap(), "1");
    let spec = writable.mount(&lowers);
    assert_eq!(
        spec.options[1],
        format!("upperdir={}", writable.diff().display())
    );
    writable.remove().unwrap();
    writable.remove().unwrap();
    assert!(fs::read_dir(&container).unwrap().next().is_none());
}

#[test]
fn the_host_as_image_hides_what_it_must() {
    let sandbox = Sandbox::new();
    let host = sandbox.dir.path().join("host");
    for path in ["home/me", "root", "etc", "var/tmp", "var/lib/atoll"] {
        fs::create_dir_all(host.join(path)).unwrap();
        fs::write(host.join(path).join("file"), path).unwrap();
    }
    fs::create_dir(host.join("home/me/hidden")).unwrap();
    fs::set_permissions(host.join("root"), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink("var/tmp", host.join("tmp")).unwrap();
    let container = host.join("var/lib/atoll/container");
    fs::create_dir(&container).unwrap();
    let hidden = [
        "/home",
        "/root",
        "/tmp",
        "/var/tmp",
        "/var/lib/atoll",
        "/missing",
    ];
    let kind = WritableKind::Host {
        hidden: hidden.map(Into::into).to_vec(),
    };
    let lowers = [host.clone()];
    let writable = WritableLayer::create(&container, &lowers, &kind).unwrap();
    // The upper directory is beneath the lower one, as with the real root.
    let (_mount, root) = mounted(&lowers, Some(&writable));
    let names = |path: &str| {
        let entries = fs::read_dir(format!("{root}/{path}")).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect::<Vec<_>>()
    };
    for path in ["home", "root", "var/tmp", "var/lib/atoll"] {
        assert_eq!(names(path), Vec::<String>::new(), "{path}");
    }
    assert_eq!(names("etc"), ["file"]);
    assert_eq!(
        fs::metadata(format!("{root}/root")).unwrap().mode() & 0o7777,
        0o700
    );
    fs::write(format!("{root}/etc/file"), "changed").unwrap();
    assert_eq!(fs::read_to_string(host.join("etc/file")).unwrap(), "etc");
}

#[test]
fn the_running_systems_root_can_be_the_lower_layer() {
    let container = tempfile::tempdir().unwrap();
    let lowers = [PathBuf::from("/")];
    let kind = WritableKind::Host {
        hidden: vec!["/root".into(), "/tmp".into()],
    };
    let writable = WritableLayer::create(container.path(), &lowers, &kind).unwrap();
    let (_mount, root) = mounted(&lowers, Some(&writable));
    assert!(fs::metadata(format!("{root}/bin/sh")).unwrap().is_file());
    assert_eq!(fs::read_dir(format!("{root}/root")).unwrap().count(), 0);
    // Other file systems are left out.
    assert_eq!(fs::read_dir(format!("{root}/proc")).unwrap().count(), 0);
}

#[test]
fn two_pulls_of_one_layer_end_with_one() {
    let sandbox = Sandbox::new();
    let bytes = archive(&[
        directory("d"),
        file("d/a", &[1; 200_000]),
        symlink("l", "d"),
    ]);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| sandbox.unpack(&bytes).unwrap().chain_id))
            .collect();
        let ids: Vec<ChainId> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        assert!(ids.iter().all(|id| *id == ids[0]));
    });
    assert_eq!(sandbox.store.list().unwrap().len(), 1);
    assert_eq!(fs::read_dir(sandbox.store.tmp_dir()).unwrap().count(), 0);
}

#[test]
fn opening_removes_half_done_work_and_layers_lost_in_a_crash() {
    let sandbox = Sandbox::new();
    let lost = sandbox.unpack(&archive(&[file("a", b"lost")])).unwrap();
    let kept = sandbox.unpack(&archive(&[file("a", b"kept")])).unwrap();
    sandbox.store.wait_synced();
    let layers = sandbox.dir.path().join("layers");
    let mark = |layer: &atoll_layer::Layer| layers.join(layer.chain_id.hex()).join("unsynced");
    assert!(!mark(&lost).exists(), "synced layers have no mark");
    fs::write(mark(&lost), "another boot").unwrap();
    fs::create_dir_all(sandbox.dir.path().join("tmp/layer-1-1/diff")).unwrap();
    fs::write(sandbox.dir.path().join("tmp/blob-1"), "half").unwrap();

    let again = LayerStore::open(&layers, &sandbox.dir.path().join("tmp")).unwrap();
    assert_eq!(again.chain_ids().unwrap(), [kept.chain_id]);
    assert_eq!(fs::read_dir(again.tmp_dir()).unwrap().count(), 0);
    assert_eq!(fs::metadata(&layers).unwrap().mode() & 0o777, 0o700);
    again.remove(&kept.chain_id).unwrap();
    assert!(matches!(
        again.remove(&kept.chain_id),
        Err(LayerError::NotFound(_))
    ));
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_set_string(&context, "size", "1m").unwrap();
    fsconfig_create(&context).unwrap();
    let mount = fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .unwrap();
    let root = format!("/proc/self/fd/{}", mount.as_raw_fd());
    let root = Path::new(&root);
    let store = LayerStore::open(&root.join("layers"), &root.join("tmp")).unwrap();
    let bytes = archive(&[file("a", b"x"), file("big", &vec![1; 3 << 20])]);
    let error = store
        .unpack(None, &bytes[..], None, &mut |_| {})
        .unwrap_err();
    assert_eq!(error.to_string(), "cannot write entry `big`");
    assert!(error.is_disk_full());
    assert!(
        error
            .hint()
            .unwrap()
            .contains("disk of the data root is full")
    );
    assert!(store.chain_ids().unwrap().is_empty());
    assert_eq!(fs::read_dir(store.tmp_dir()).unwrap().count(), 0);
    store
        .unpack(
            None,
            &archive(&[file("small", b"x")])[..],
            None,
            &mut |_| {},
        )
        .unwrap();
}

#[test]
fn where_overlay_cannot_write_the_changes_stay_in_memory() {
    let sandbox = Sandbox::new();
    let layer = sandbox
        .unpack(&archive(&[directory("."), file("a", b"1")]))
        .unwrap();
    let lowers = sandbox.store.dirs(&[layer.chain_id]);
    let outer_dir = sandbox.dir.path().join("outer");
    fs::create_dir(&outer_dir).unwrap();
    let outer = WritableLayer::create(&outer_dir, &lowers, &WritableKind::Empty).unwrap();
    // A container's directory that is itself on an overlay, as in docker in docker.
    let (_outer_mount, outer_root) = mounted(&lowers, Some(&outer));
    let container = Path::new(&outer_root).join("container");
    fs::create_dir(&container).unwrap();
    let inner = WritableLayer::create(&container, &lowers, &WritableKind::Empty).unwrap();
    let elsewhere = fs::read_link(container.join("upper")).unwrap();
    let (mount, root) = mounted(&lowers, Some(&inner));
    fs::write(format!("{root}/a"), "2").unwrap();
    assert_eq!(fs::read_to_string(elsewhere.join("diff/a")).unwrap(), "2");
    drop(mount);
    inner.remove().unwrap();
    assert!(!elsewhere.exists() && fs::read_dir(&container).unwrap().next().is_none());
}
