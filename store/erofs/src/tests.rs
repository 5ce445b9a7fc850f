//! Images judged by `fsck.erofs`, and by the kernel: mounted, all that is in them is compared with what they were made of.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::tree::{Kind, Tree};
use crate::{BLOCK, ErofsError, scan, write_image};

fn open(path: &Path) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).unwrap()
}

fn image_of(folder: &Path, image: &Path) -> u64 {
    let file = File::create(image).unwrap();
    write_image(open(folder).as_fd(), &file, [7; 16]).unwrap()
}

/// The image's root, mounted where nobody sees it; `None` when this kernel cannot.
fn mounted(image: &Path) -> OwnedFd {
    let failed = "the kernel mounts EROFS from files, as root";
    let fs = rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).expect(failed);
    rustix::mount::fsconfig_set_string(&fs, "source", image).expect(failed);
    rustix::mount::fsconfig_create(&fs).expect("the kernel takes the image");
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let mount = rustix::mount::fsmount(&fs, flags, MountAttrFlags::MOUNT_ATTR_RDONLY).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(&mount, ".", flags, Mode::empty()).unwrap()
}

/// All about each node but where it is and, of directories, how many links (file systems differ).
fn facts(tree: &Tree) -> Vec<String> {
    let fact = |node: &crate::tree::Node| {
        let (mode, xattrs, modified) = (node.mode, &node.xattrs, node.modified);
        let (uid, gid, links) = (node.uid, node.gid, node.links);
        let kind = match &node.kind {
            Kind::Directory { entries } => {
                let names = entries
                    .iter()
                    .map(|e| (String::from_utf8_lossy(&e.name), e.node));
                format!("{:?}", names.collect::<Vec<_>>())
            }
            kind => format!("{kind:?}"),
        };
        format!("{mode:o} {uid} {gid} {links} {modified:?} {xattrs:?} {kind}")
    };
    tree.nodes.iter().map(fact).collect()
}

fn same_contents(tree: &Tree, left: BorrowedFd<'_>, right: BorrowedFd<'_>) {
    for node in &tree.nodes {
        let Kind::Regular { bytes } = node.kind else {
            continue;
        };
        let read = |folder| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(folder, &node.path[..], flags, Mode::empty()).unwrap();
            let mut contents = vec![0; bytes as usize];
            File::from(fd).read_exact_at(&mut contents, 0).unwrap();
            contents
        };
        let path = String::from_utf8_lossy(&node.path);
        assert!(read(left) == read(right), "{path} differs");
    }
}

fn judge(folder: &Path) {
    let scratch = tempfile::tempdir().unwrap();
    let image = scratch.path().join("image");
    let bytes = image_of(folder, &image);
    assert_eq!(fs::metadata(&image).unwrap().len(), bytes);
    let again = scratch.path().join("again");
    image_of(folder, &again);
    assert!(fs::read(&image).unwrap() == fs::read(&again).unwrap());
    let fsck = Command::new("fsck.erofs").arg(&image).output();
    let fsck =
        fsck.expect("no fsck.erofs: run `cargo xtask setup`, or apt-get install erofs-utils");
    assert!(fsck.status.success(), "{fsck:?}");
    let (root, source) = (mounted(&image), open(folder));
    let (expected, found) = (
        scan::scan(source.as_fd()).unwrap(),
        scan::scan(root.as_fd()).unwrap(),
    );
    assert_eq!(facts(&found), facts(&expected));
    same_contents(&expected, source.as_fd(), root.as_fd());
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

#[test]
fn every_kind_of_file_is_kept_with_its_attributes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for bytes in [
        0,
        1,
        2047,
        2048,
        2049,
        3900,
        4095,
        4096,
        4097,
        8192,
        70_000,
        3 << 20,
    ] {
        let pattern: Vec<u8> = (0..bytes)
            .map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        fs::write(at(&format!("file-{bytes}")), pattern).unwrap();
    }
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 5 << 20).unwrap();
    for (name, file_type, device) in [
        ("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
        ("whiteout", FileType::CharacterDevice, 0),
        (
            "large",
            FileType::BlockDevice,
            rustix::fs::makedev(4095, 1_048_575),
        ),
        ("pipe", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
    ] {
        let mode = Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(rustix::fs::CWD, at(name), file_type, mode, device).unwrap();
    }
    fs::create_dir_all(at("deep/er/est")).unwrap();
    fs::write(at("deep/er/est/file"), "deep").unwrap();
    fs::hard_link(at("deep/er/est/file"), at("another name")).unwrap();
    fs::hard_link(at("deep/er/est/file"), at("deep/third")).unwrap();
    symlink("deep/er", at("link")).unwrap();
    symlink("x".repeat(4000), at("long link")).unwrap();
    symlink("y".repeat(4095), at("longest link")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::create_dir(at("opaque")).unwrap();
    set_xattr(&at("opaque"), "trusted.overlay.opaque", b"y");
    set_xattr(&at("file-1"), "user.empty", b"");
    set_xattr(
        &at("file-1"),
        "security.capability",
        b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    );
    for number in 0..20 {
        set_xattr(&at("file-3900"), &format!("user.{number}"), &[number; 150]);
    }
    for (name, mode) in [("file-0", 0o4755), ("empty", 0o1777), ("opaque", 0o2750)] {
        fs::set_permissions(at(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::lchown(at("link"), Some(4_000_000_000), Some(70_000)).unwrap();
    for (name, seconds) in [("file-1", -5), ("link", 1), ("deep", 5_000_000_000)] {
        let time = Timespec {
            tv_sec: seconds,
            tv_nsec: 123_456_789,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(rustix::fs::CWD, at(name), &times, AtFlags::SYMLINK_NOFOLLOW)
            .unwrap();
    }
    judge(folder.path());
}

#[test]
fn directories_of_many_blocks_and_names_around_dot_are_found() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..3000 {
        fs::write(
            folder
                .path()
                .join(format!("{number}-{}", "n".repeat(number % 200))),
            "x",
        )
        .unwrap();
    }
    for name in ["!", "-", "+a", ".a", "..a", "...", "\u{e4}", "A", "~"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    fs::write(folder.path().join("m".repeat(255)), "").unwrap();
    judge(folder.path());
}

#[test]
fn an_empty_directory_is_an_image() {
    judge(tempfile::tempdir().unwrap().path());
}

#[test]
fn a_file_that_shrinks_and_one_that_cannot_be_written_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, vec![1; 3 * BLOCK as usize]).unwrap();
    let root = open(folder.path());
    let tree = scan::scan(root.as_fd()).unwrap();
    let layout = crate::layout::layout(&tree).unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(BLOCK)
        .unwrap();
    let image = tempfile::tempfile().unwrap();
    let written = crate::write::write(root.as_fd(), &tree, &layout, &image, [0; 16]);
    assert!(matches!(written, Err(ErofsError::Changed(path)) if path == "/file"));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let written = write_image(root.as_fd(), &full, [0; 16]);
    assert!(matches!(written, Err(ErofsError::Write(_))));
}
