//! Layers as EROFS images: judged by `fsck.erofs`, and by the kernel, which mounts them. Needs root.

use std::{
    fs::{self, File},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use atoll_layer::{ChainId, Digest, Layer, LayerError, LayerStore};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use crate::{
    gnu_tar::{make_tree, run},
    support::{Sandbox, archive, directory, file, tree},
};

/// Mounts an image without a place in any mount table; read it below the result.
fn mounted(image: &Path) -> (OwnedFd, String) {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_set_string(&context, "source", image).unwrap();
    fsconfig_create(&context).expect("the kernel mounts EROFS from files");
    let (flags, attributes) = (FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
    let mount = fsmount(&context, flags, attributes).unwrap();
    let path = format!("/proc/self/fd/{}/.", mount.as_raw_fd());
    (mount, path)
}

/// A layer from GNU tar with everything an image can have, on top of one whose files it hides.
fn layers(sandbox: &Sandbox) -> [Layer; 2] {
    let below = archive(&[
        directory("swapped"),
        file("swapped/gone", b"1"),
        directory("opaque"),
        file("opaque/gone", b"2"),
        file("gone", b"3"),
        directory("etc"),
        file("etc/x", b"4"),
    ]);
    let below = sandbox.unpack(&below).unwrap();
    let source = sandbox.dir.path().join("source");
    fs::create_dir(&source).unwrap();
    make_tree(&source);
    for folder in ["opaque", "swapped"] {
        fs::create_dir(source.join(folder)).unwrap();
        fs::write(source.join(folder).join("new"), folder).unwrap();
    }
    for mark in [
        "opaque/.wh..wh..opq",
        ".wh.swapped",
        ".wh.gone",
        "etc/.wh.x",
    ] {
        fs::write(source.join(mark), "").unwrap();
    }
    let options = ["--format=pax", "--xattrs", "--xattrs-include=*"];
    let arguments = [&["-cf", "../source.tar"], &options[..], &["."]].concat();
    run("tar", &arguments, &source);
    let tar = File::open(sandbox.dir.path().join("source.tar")).unwrap();
    let parent = Some(&below.chain_id);
    let above = sandbox.store.unpack(parent, tar, None, &mut |_| {});
    [above.unwrap(), below]
}

#[test]
fn an_image_holds_all_that_the_layer_does() {
    let sandbox = Sandbox::new();
    for layer in layers(&sandbox) {
        let image = sandbox.store.erofs_image(&layer.chain_id).unwrap();
        let fsck = Command::new("fsck.erofs").arg(&image).output();
        let fsck = fsck.expect("no fsck.erofs: run `cargo xtask setup`");
        assert!(fsck.status.success(), "{fsck:?}");
        let (_mount, root) = mounted(&image);
        let expected = tree(&sandbox.root_of(&layer));
        assert_eq!(tree(Path::new(&root)), expected);
        let bytes = fs::read(&image).unwrap();
        let mut uuid = layer.chain_id.digest().as_bytes()[..16].to_vec();
        uuid[6] = uuid[6] & 15 | 0x80;
        uuid[8] = uuid[8] & 63 | 0x80;
        assert_eq!(bytes[1024 + 48..1024 + 64], uuid);
        assert_eq!(fs::metadata(&image).unwrap().mode() & 0o777, 0o600);
    }
    assert_eq!(fs::read_dir(sandbox.store.tmp_dir()).unwrap().count(), 0);
}

#[test]
fn overlay_on_images_is_overlay_on_layers() {
    let sandbox = Sandbox::new();
    let ids = layers(&sandbox).map(|layer| layer.chain_id);
    let mounts = ids.map(|id| mounted(&sandbox.store.erofs_image(&id).unwrap()));
    let images: Vec<PathBuf> = mounts.iter().map(|(_, root)| root.into()).collect();
    let overlay = |lowers: &[PathBuf]| {
        let mount = atoll_layer::open_rootfs(lowers, None).unwrap();
        tree(Path::new(&format!("/proc/self/fd/{}/.", mount.as_raw_fd())))
    };
    let found = overlay(&images);
    assert_eq!(found, overlay(&sandbox.store.dirs(&ids)));
    assert!(found.contains_key("swapped/new") && found.contains_key("opaque/new"));
    for gone in ["gone", "swapped/gone", "opaque/gone", "etc/x"] {
        assert!(!found.contains_key(gone), "{gone}");
    }
}

#[test]
fn an_image_is_made_once_for_all_who_ask() {
    let sandbox = Sandbox::new();
    let bytes = archive(&[file("a", &[1; 2_000_000]), file("b", &[2; 3_000])]);
    let layer = sandbox.unpack(&bytes).unwrap();
    let image = || sandbox.store.erofs_image(&layer.chain_id).unwrap();
    let inode = || fs::metadata(image()).unwrap().ino();
    let inodes: Vec<u64> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(inode)).collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap());
        joined.collect()
    });
    assert!(inodes.iter().all(|inode| *inode == inodes[0]), "{inodes:?}");
    assert_eq!(fs::read_dir(sandbox.store.tmp_dir()).unwrap().count(), 0);
    sandbox.store.wait_synced();
    assert!(!image().with_extension("erofs.unsynced").exists());
    assert_eq!(sandbox.store.list().unwrap().len(), 1);
}

#[test]
fn an_image_goes_with_its_layer_but_can_be_read_by_who_has_it() {
    let sandbox = Sandbox::new();
    let layer = sandbox.unpack(&archive(&[file("a", b"1")])).unwrap();
    let path = sandbox.store.erofs_image(&layer.chain_id).unwrap();
    let open = File::open(&path).unwrap();
    sandbox.store.remove(&layer.chain_id).unwrap();
    assert!(!path.exists());
    let mut magic = [0; 4];
    open.read_exact_at(&mut magic, 1024).unwrap();
    assert_eq!(magic, 0xE0F5_E1E2_u32.to_le_bytes());
    let never = ChainId::from_digest(Digest::of(b"never"));
    for id in [layer.chain_id, never] {
        let error = sandbox.store.erofs_image(&id).unwrap_err();
        assert!(matches!(error, LayerError::NotFound(_)), "{error}");
    }
}

#[test]
fn removing_and_making_at_once_leave_no_half_things() {
    let sandbox = Sandbox::new();
    // With its root, which else has the time of unpacking.
    let bytes = archive(&[directory("."), file("a", &[1; 400_000])]);
    let expected = {
        let layer = sandbox.unpack(&bytes).unwrap();
        fs::read(sandbox.store.erofs_image(&layer.chain_id).unwrap()).unwrap()
    };
    for _ in 0..20 {
        let layer = sandbox.unpack(&bytes).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| sandbox.store.remove(&layer.chain_id).unwrap());
            match sandbox.store.erofs_image(&layer.chain_id) {
                // It may be gone by now; if not, it is whole.
                Ok(path) => assert!(fs::read(path).map_or(true, |image| image == expected)),
                Err(error) => assert!(matches!(error, LayerError::NotFound(_)), "{error}"),
            }
        });
        assert_eq!(fs::read_dir(sandbox.store.tmp_dir()).unwrap().count(), 0);
        assert!(sandbox.store.chain_ids().unwrap().is_empty());
    }
}

#[test]
fn an_image_lost_in_a_crash_is_made_again_and_the_layer_stays() {
    let sandbox = Sandbox::new();
    let layer = sandbox.unpack(&archive(&[file("a", b"kept")])).unwrap();
    let path = sandbox.store.erofs_image(&layer.chain_id).unwrap();
    let whole = fs::read(&path).unwrap();
    sandbox.store.wait_synced();
    let mark = path.with_extension("erofs.unsynced");
    let (layers, tmp) = (sandbox.dir.path().join("layers"), sandbox.store.tmp_dir());
    let open = || LayerStore::open(&layers, tmp).unwrap();
    fs::write(tmp.join("image-1-1"), "half").unwrap();
    // Zeros where the disk had nothing yet, and a mark that the disk had not all of.
    for boot in ["another boot", ""] {
        fs::write(&path, vec![0; whole.len()]).unwrap();
        fs::write(&mark, boot).unwrap();
        let again = open();
        assert!(!path.exists() && !mark.exists());
        assert_eq!(fs::read_dir(tmp).unwrap().count(), 0);
        assert_eq!(again.erofs_image(&layer.chain_id).unwrap(), path);
        assert!(fs::read(&path).unwrap() == whole);
        again.wait_synced();
    }
    // One of this boot stays: the kernel still has all of it.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    fs::write(&mark, boot).unwrap();
    open().wait_synced();
    assert!(path.exists() && !mark.exists());
}

#[test]
fn a_full_disk_is_said_and_leaves_no_image() {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_set_string(&context, "size", "3m").unwrap();
    fsconfig_create(&context).unwrap();
    let (flags, attributes) = (FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
    let mount = fsmount(&context, flags, attributes).unwrap();
    let root = format!("/proc/self/fd/{}", mount.as_raw_fd());
    let root = Path::new(&root);
    let store = LayerStore::open(&root.join("layers"), &root.join("tmp")).unwrap();
    let bytes = archive(&[file("big", &vec![1; 2 << 20])]);
    let layer = store.unpack(None, &bytes[..], None, &mut |_| {}).unwrap();
    let error = store.erofs_image(&layer.chain_id).unwrap_err();
    let text = format!("cannot make the disk image of layer {}", layer.chain_id);
    assert_eq!(error.to_string(), text);
    assert!(error.is_disk_full(), "{error:?}");
    let hint = error.hint().unwrap();
    assert!(hint.contains("disk of the data root is full"), "{hint}");
    assert_eq!(fs::read_dir(store.tmp_dir()).unwrap().count(), 0);
    assert!(store.exists(&layer.chain_id));
}
