mod mounts;
mod overlay;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use proptest::prelude::*;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tempfile::TempDir;

use super::wire::{IN_HEADER, OUT_HEADER, Out, opcode};
use super::*;
use crate::driver::{Driver, Line, Part};

const REQUEST: usize = 1;
const ROOT: u64 = 1;
const USER: u32 = 1234;

struct Guest {
    driver: Driver,
    folder: TempDir,
}

fn open(path: &std::path::Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// A device for the folder `share` in `folder`, beside which lies a secret.
fn device(folder: &TempDir, options: FsOptions) -> FsDevice {
    FsDevice::new(open(&folder.path().join("share")), options).unwrap()
}

fn args(fields: &[u64]) -> Vec<u8> {
    // Fields of 8 bytes; two of 4 are packed by `pair`.
    fields
        .iter()
        .flat_map(|field| field.to_le_bytes())
        .collect()
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn named(fields: &[u64], names: &[&str]) -> Vec<u8> {
    let mut bytes = args(fields);
    for name in names {
        bytes.extend(name.bytes());
        bytes.push(0);
    }
    bytes
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

impl Guest {
    fn new() -> Self {
        Self::with(FsOptions::new("share"))
    }

    fn with(options: FsOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("share")).unwrap();
        fs::write(folder.path().join("secret"), "secret").unwrap();
        let driver = Driver::start(Box::new(device(&folder, options)));
        Self { driver, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("share").join(name)
    }

    /// Sends a request with room for `room` bytes of answer.
    fn ask(
        &mut self,
        operation: u32,
        node: u64,
        body: &[u8],
        room: usize,
    ) -> Result<Vec<u8>, Errno> {
        let mut head = Out::default();
        head.u32((IN_HEADER + body.len()) as u32).u32(operation);
        head.u64(77).u64(node).u32(USER).u32(USER).u64(0);
        let out: &[&[u8]] = if body.is_empty() {
            &[&head.0]
        } else {
            &[&head.0, body]
        };
        let (written, answer) = self
            .driver
            .request(REQUEST, out, &[OUT_HEADER, room.max(1)]);
        assert_eq!(le32(&answer, 0), written);
        assert_eq!(le64(&answer, 8), 77);
        match le32(&answer, 4).cast_signed() {
            0 => Ok(answer[OUT_HEADER..written as usize].to_vec()),
            error => {
                assert_eq!(written as usize, OUT_HEADER);
                Err(Errno::from_raw_os_error(-error))
            }
        }
    }

    fn look_up(&mut self, parent: u64, name: &str) -> Result<u64, Errno> {
        let entry = self.ask(opcode::LOOKUP, parent, &named(&[], &[name]), 128)?;
        assert_eq!(entry.len(), 128);
        Ok(le64(&entry, 0))
    }

    fn open(&mut self, node: u64, flags: OFlags) -> Result<u64, Errno> {
        let body = args(&[u64::from(flags.bits())]);
        let answer = self.ask(opcode::OPEN, node, &body, 16)?;
        Ok(le64(&answer, 0))
    }

    fn create(&mut self, parent: u64, name: &str, mode: u32) -> Result<(u64, u64), Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE;
        let body = named(&[pair(flags.bits(), mode), 0], &[name]);
        let answer = self.ask(opcode::CREATE, parent, &body, 144)?;
        Ok((le64(&answer, 0), le64(&answer, 128)))
    }

    fn read(&mut self, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let body = args(&[handle, offset, u64::from(size), 0, 0]);
        self.ask(opcode::READ, 0, &body, size as usize)
    }

    fn write(&mut self, handle: u64, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let mut body = args(&[handle, offset, data.len() as u64, 0, 0]);
        body.extend(data);
        let answer = self.ask(opcode::WRITE, 0, &body, 8)?;
        Ok(le32(&answer, 0))
    }

    fn list(&mut self, node: u64, plus: bool, room: u32) -> Vec<(String, u64)> {
        let opened = self.ask(opcode::OPENDIR, node, &args(&[0]), 16).unwrap();
        let handle = le64(&opened, 0);
        let operation = if plus {
            opcode::READDIRPLUS
        } else {
            opcode::READDIR
        };
        let mut names = Vec::new();
        let mut offset = 0;
        loop {
            let body = args(&[handle, offset, u64::from(room), 0, 0]);
            let mut answer = &self.ask(operation, node, &body, room as usize).unwrap()[..];
            if answer.is_empty() {
                break;
            }
            while !answer.is_empty() {
                let mut id = 0;
                if plus {
                    id = le64(answer, 0);
                    answer = &answer[128..];
                }
                offset = le64(answer, 8);
                let len = le32(answer, 16) as usize;
                // DT_DIR or DT_REG.
                assert!(matches!(le32(answer, 20), 4 | 8));
                names.push((
                    String::from_utf8(answer[24..24 + len].to_vec()).unwrap(),
                    id,
                ));
                answer = &answer[24 + len.next_multiple_of(8)..];
            }
        }
        self.ask(opcode::RELEASEDIR, node, &args(&[handle, 0, 0]), 1)
            .unwrap();
        names.sort();
        names
    }
}

#[test]
fn a_session_is_opened_with_the_newest_version_understood() {
    let mut guest = Guest::new();
    let mut tag = b"share".to_vec();
    tag.resize(36, 0);
    tag.extend([1, 0, 0, 0]);
    assert_eq!(guest.driver.config(40), tag);
    let hello = args(&[pair(7, 38), pair(131_072, u32::MAX)]);
    let answer = guest.ask(opcode::INIT, 0, &hello, 64).unwrap();
    assert_eq!(answer.len(), 64);
    assert_eq!((le32(&answer, 0), le32(&answer, 4)), (7, 32));
    assert_eq!(le32(&answer, 20), 1 << 20);
    let newer = args(&[pair(8, 0), 0]);
    let answer = guest.ask(opcode::INIT, 0, &newer, 64).unwrap();
    assert_eq!(le32(&answer, 0), 7);
    let older = args(&[pair(6, 0), 0]);
    assert_eq!(guest.ask(opcode::INIT, 0, &older, 64), Err(Errno::PROTO));
    assert_eq!(guest.ask(9999, ROOT, &[], 64), Err(Errno::NOSYS));
}

#[test]
fn files_are_made_written_read_and_owned_by_who_made_them() {
    let mut guest = Guest::new();
    let (node, handle) = guest.create(ROOT, "file", 0o100_640).unwrap();
    assert_eq!(guest.write(handle, 3, b"hello").unwrap(), 5);
    assert_eq!(guest.read(handle, 0, 100).unwrap(), b"\0\0\0hello");
    assert_eq!(guest.read(handle, 4, 2).unwrap(), b"el");
    let metadata = fs::metadata(guest.path("file")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (USER, USER));
    assert_eq!(metadata.mode() & 0o7777, 0o640);
    for operation in [opcode::FLUSH, opcode::FSYNC] {
        guest
            .ask(operation, node, &args(&[handle, 1, 0]), 1)
            .unwrap();
    }
    guest
        .ask(opcode::RELEASE, node, &args(&[handle, 0, 0]), 1)
        .unwrap();
    assert_eq!(guest.read(handle, 0, 1), Err(Errno::BADF));
    let again = guest.look_up(ROOT, "file").unwrap();
    assert_eq!(again, node);
    let handle = guest.open(node, OFlags::WRONLY | OFlags::APPEND).unwrap();
    guest.write(handle, 0, b"!").unwrap();
    assert_eq!(fs::read(guest.path("file")).unwrap(), b"\0\0\0hello!");
    let handle = guest.open(node, OFlags::WRONLY | OFlags::TRUNC).unwrap();
    assert_eq!(fs::read(guest.path("file")).unwrap(), b"");
    assert_eq!(guest.read(handle, 0, 1), Err(Errno::BADF));
}

#[test]
fn attributes_are_shown_and_set() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), "0123456789").unwrap();
    let node = guest.look_up(ROOT, "file").unwrap();
    let mut body = args(&[
        pair(0b1100_1111 & !(1 << 6) | 1 << 5, 0),
        0,
        4,
        0,
        0,
        1_000_000_000,
        0,
        pair(0, 500),
        pair(0, 0o4755),
        pair(0, 7),
        pair(8, 0),
    ]);
    let answer = guest.ask(opcode::SETATTR, node, &body, 104).unwrap();
    let metadata = fs::metadata(guest.path("file")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.len()), (7, 8, 4));
    assert_eq!(metadata.mode() & 0o777, 0o755);
    assert_eq!(
        (metadata.mtime(), metadata.mtime_nsec()),
        (1_000_000_000, 500)
    );
    assert_eq!(le64(&answer, 16), metadata.ino());
    assert_eq!(le64(&answer, 24), 4);
    let got = guest
        .ask(opcode::GETATTR, node, &args(&[0, 0]), 104)
        .unwrap();
    assert_eq!(got, answer);
    body.truncate(80);
    assert_eq!(
        guest.ask(opcode::SETATTR, node, &body, 104),
        Err(Errno::INVAL)
    );
    assert_eq!(
        guest.ask(opcode::GETATTR, 99, &args(&[0, 0]), 104),
        Err(Errno::STALE)
    );
    assert_eq!(guest.ask(opcode::STATFS, ROOT, &[], 80).unwrap().len(), 80);
    assert!(guest.ask(opcode::ACCESS, node, &args(&[4]), 1).is_ok());
}

#[test]
fn names_are_made_linked_renamed_and_removed() {
    let mut guest = Guest::new();
    let folder = guest
        .ask(opcode::MKDIR, ROOT, &named(&[pair(0o755, 0)], &["d"]), 128)
        .unwrap();
    let folder = le64(&folder, 0);
    let mknod = |mode: u32, device: u32, name: &str| named(&[pair(mode, device), 0], &[name]);
    guest
        .ask(opcode::MKNOD, folder, &mknod(0o100_600, 0, "f"), 128)
        .unwrap();
    guest
        .ask(opcode::MKNOD, folder, &mknod(0o010_600, 0, "fifo"), 128)
        .unwrap();
    assert!(
        fs::metadata(guest.path("d/fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    for device in [0o020_600, 0o060_600] {
        let outcome = guest.ask(opcode::MKNOD, folder, &mknod(device, 0x103, "null"), 128);
        assert_eq!(outcome, Err(Errno::PERM));
    }
    let file = guest.look_up(folder, "f").unwrap();
    guest
        .ask(opcode::LINK, ROOT, &named(&[file], &["hard"]), 128)
        .unwrap();
    assert_eq!(fs::metadata(guest.path("hard")).unwrap().nlink(), 2);
    let link = guest
        .ask(
            opcode::SYMLINK,
            ROOT,
            &named(&[], &["soft", "/etc/passwd"]),
            128,
        )
        .unwrap();
    let link = le64(&link, 0);
    assert_eq!(
        guest.ask(opcode::READLINK, link, &[], 4096).unwrap(),
        b"/etc/passwd"
    );
    guest
        .ask(opcode::RENAME, folder, &named(&[ROOT], &["f", "g"]), 1)
        .unwrap();
    let flags = |bits: u32| [ROOT, u64::from(bits)];
    let exclusive = guest.ask(opcode::RENAME2, ROOT, &named(&flags(1), &["g", "hard"]), 1);
    // Both are one file, but the name is taken.
    assert_eq!(exclusive, Err(Errno::EXIST));
    guest
        .ask(opcode::RENAME2, ROOT, &named(&flags(2), &["g", "soft"]), 1)
        .unwrap();
    assert!(fs::symlink_metadata(guest.path("g")).unwrap().is_symlink());
    let full = guest.ask(opcode::RMDIR, ROOT, &named(&[], &["d"]), 1);
    assert_eq!(full, Err(Errno::NOTEMPTY));
    guest
        .ask(opcode::UNLINK, folder, &named(&[], &["fifo"]), 1)
        .unwrap();
    guest
        .ask(opcode::RMDIR, ROOT, &named(&[], &["d"]), 1)
        .unwrap();
    assert!(!guest.path("d").exists());
}

#[test]
fn directories_are_listed_whole_however_small_the_steps() {
    let mut guest = Guest::new();
    let mut expected: Vec<String> = (0..60).map(|number| format!("file-{number:030}")).collect();
    for name in &expected {
        fs::write(guest.path(name), "").unwrap();
    }
    expected.extend([".".into(), "..".into()]);
    expected.sort();
    for (plus, room) in [(false, 200), (false, 65_536), (true, 400), (true, 65_536)] {
        let listed = guest.list(ROOT, plus, room);
        let names: Vec<String> = listed.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, expected);
        assert!(!plus || listed[2..].iter().all(|(_, node)| *node > ROOT));
    }
    let parent = guest.list(ROOT, true, 65_536);
    assert_eq!(parent[1], ("..".into(), 0));
}

#[test]
fn holes_and_space_are_found_and_made() {
    let mut guest = Guest::new();
    let (node, handle) = guest.create(ROOT, "sparse", 0o100_600).unwrap();
    guest.write(handle, 1 << 20, b"data").unwrap();
    let seek = |guest: &mut Guest, offset, whence: u32| {
        let body = args(&[handle, offset, u64::from(whence)]);
        guest
            .ask(opcode::LSEEK, node, &body, 8)
            .map(|answer| le64(&answer, 0))
    };
    assert_eq!(seek(&mut guest, 0, 3), Ok(1 << 20));
    assert_eq!(seek(&mut guest, 1 << 20, 4), Ok((1 << 20) + 4));
    assert_eq!(seek(&mut guest, 0, 0), Err(Errno::INVAL));
    let allocate = |mode: u32| args(&[handle, 0, 1 << 21, u64::from(mode)]);
    guest.ask(opcode::FALLOCATE, node, &allocate(0), 1).unwrap();
    assert_eq!(fs::metadata(guest.path("sparse")).unwrap().len(), 1 << 21);
    guest.ask(opcode::FALLOCATE, node, &allocate(3), 1).unwrap();
    assert!(
        guest
            .read(handle, 1 << 20, 4)
            .unwrap()
            .iter()
            .all(|byte| *byte == 0)
    );
    let unknown = guest.ask(opcode::FALLOCATE, node, &allocate(1 << 30), 1);
    assert_eq!(unknown, Err(Errno::OPNOTSUPP));
}

#[test]
fn attributes_of_the_users_namespace_are_kept() {
    let mut guest = Guest::new();
    let (node, _) = guest.create(ROOT, "file", 0o100_600).unwrap();
    let mut set = named(&[pair(5, 0)], &["user.colour"]);
    set.extend(b"green");
    guest.ask(opcode::SETXATTR, node, &set, 1).unwrap();
    let get = |size: u32, name| named(&[u64::from(size)], &[name]);
    let value = guest.ask(opcode::GETXATTR, node, &get(100, "user.colour"), 100);
    assert_eq!(value.unwrap(), b"green");
    let len = guest
        .ask(opcode::GETXATTR, node, &get(0, "user.colour"), 8)
        .unwrap();
    assert_eq!(le32(&len, 0), 5);
    let short = guest.ask(opcode::GETXATTR, node, &get(2, "user.colour"), 8);
    assert_eq!(short, Err(Errno::RANGE));
    let names = guest
        .ask(opcode::LISTXATTR, node, &args(&[100]), 100)
        .unwrap();
    assert_eq!(names, b"user.colour\0");
    guest
        .ask(opcode::REMOVEXATTR, node, &named(&[], &["user.colour"]), 1)
        .unwrap();
    let gone = guest.ask(opcode::GETXATTR, node, &get(100, "user.colour"), 100);
    assert_eq!(gone, Err(Errno::NODATA));
    for name in [
        "security.capability",
        "trusted.overlay.opaque",
        "system.posix_acl_access",
    ] {
        let mut set = named(&[pair(1, 0)], &[name]);
        set.push(1);
        assert_eq!(
            guest.ask(opcode::SETXATTR, node, &set, 1),
            Err(Errno::OPNOTSUPP)
        );
    }
}

#[test]
fn nothing_outside_the_share_is_reached() {
    let mut guest = Guest::new();
    for name in ["..", ".", "", "../secret", "/etc/passwd", "a/b"] {
        let found = guest.look_up(ROOT, name);
        assert_eq!(found, Err(Errno::INVAL), "{name}");
        let made = guest.create(ROOT, name, 0o600);
        assert_eq!(made.unwrap_err(), Errno::INVAL, "{name}");
        let renamed = guest.ask(opcode::RENAME, ROOT, &named(&[ROOT], &["x", name]), 1);
        assert_eq!(renamed, Err(Errno::INVAL), "{name}");
    }
    let name = "n".repeat(256);
    assert_eq!(guest.look_up(ROOT, &name), Err(Errno::NAMETOOLONG));
    // Links lead nowhere for us: the guest follows them in its own world.
    for (name, target) in [
        ("up", "../secret"),
        ("root", "/"),
        ("proc", "/proc/self/root"),
    ] {
        symlink(target, guest.path(name)).unwrap();
        let link = guest.look_up(ROOT, name).unwrap();
        assert_eq!(guest.open(link, OFlags::RDONLY), Err(Errno::LOOP));
        assert_eq!(guest.look_up(link, "secret"), Err(Errno::NOTDIR));
        let outcome = guest.ask(opcode::OPENDIR, link, &args(&[0]), 16);
        assert_eq!(outcome, Err(Errno::LOOP));
        let mode = args(&[1, 0, 0, 0, 0, 0, 0, 0, pair(0, 0o777), 0, 0]);
        assert_eq!(
            guest.ask(opcode::SETATTR, link, &mode, 104),
            Err(Errno::OPNOTSUPP)
        );
        let made = guest.create(ROOT, name, 0o600);
        assert_eq!(made.unwrap_err(), Errno::LOOP);
    }
    let secret = fs::metadata(guest.folder.path().join("secret")).unwrap();
    assert_ne!(secret.permissions().mode() & 0o777, 0o777);
    rustix::fs::mknodat(
        open(&guest.path("")),
        c"pipe",
        rustix::fs::FileType::Fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )
    .unwrap();
    let pipe = guest.look_up(ROOT, "pipe").unwrap();
    assert_eq!(guest.open(pipe, OFlags::RDONLY), Err(Errno::OPNOTSUPP));
}

#[test]
fn a_read_only_share_is_not_changed() {
    let mut guest = Guest::with(FsOptions {
        read_only: true,
        ..FsOptions::new("ro")
    });
    fs::write(guest.path("file"), "text").unwrap();
    let node = guest.look_up(ROOT, "file").unwrap();
    for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::TRUNC] {
        assert_eq!(guest.open(node, flags), Err(Errno::ROFS));
    }
    let handle = guest.open(node, OFlags::RDONLY).unwrap();
    assert_eq!(guest.read(handle, 0, 10).unwrap(), b"text");
    assert_eq!(guest.write(handle, 0, b"x"), Err(Errno::ROFS));
    assert_eq!(guest.create(ROOT, "new", 0o600), Err(Errno::ROFS));
    let one = named(&[0, 0], &["file", "new"]);
    for operation in [
        opcode::SETATTR,
        opcode::SYMLINK,
        opcode::MKNOD,
        opcode::MKDIR,
        opcode::LINK,
        opcode::UNLINK,
        opcode::RMDIR,
        opcode::RENAME,
        opcode::RENAME2,
        opcode::FALLOCATE,
        opcode::SETXATTR,
        opcode::REMOVEXATTR,
    ] {
        assert_eq!(guest.ask(operation, ROOT, &one, 128), Err(Errno::ROFS));
    }
}

#[test]
fn nodes_and_open_files_are_bounded_and_forgotten() {
    let mut guest = Guest::with(FsOptions {
        max_nodes: 3,
        max_handles: 2,
        ..FsOptions::new("small")
    });
    let names = ["a", "b", "c", "d"];
    for name in names {
        fs::write(guest.path(name), name).unwrap();
    }
    let nodes: Vec<u64> = names[..3]
        .iter()
        .map(|name| guest.look_up(ROOT, name).unwrap())
        .collect();
    assert_eq!(guest.look_up(ROOT, "d"), Err(Errno::NFILE));
    assert_eq!(guest.look_up(ROOT, "a"), Ok(nodes[0]));
    assert_eq!(guest.list(ROOT, true, 4096).len(), 6);
    for _ in 0..2 {
        guest.open(nodes[0], OFlags::RDONLY).unwrap();
    }
    assert_eq!(guest.open(nodes[0], OFlags::RDONLY), Err(Errno::MFILE));
    assert_eq!(guest.create(ROOT, "e", 0o600), Err(Errno::MFILE));
    // Looked up once, and once more by the list.
    let forget = args(&[2]);
    let mut head = Out::default();
    head.u32(48)
        .u32(opcode::FORGET)
        .u64(1)
        .u64(nodes[1])
        .u64(0)
        .u64(0);
    head.0.extend(forget);
    guest.driver.submit(0, &[Part::Out(&head.0)]);
    guest.driver.kick(0);
    assert_eq!(guest.driver.used(0), Some((0, 0)));
    assert!(guest.look_up(ROOT, "d").is_ok());
    let stale = guest.ask(opcode::GETATTR, nodes[1], &args(&[0, 0]), 104);
    assert_eq!(stale, Err(Errno::STALE));
}

#[test]
fn a_restored_share_knows_nodes_and_open_files() {
    let mut guest = Guest::new();
    fs::create_dir(guest.path("d")).unwrap();
    let folder = guest.look_up(ROOT, "d").unwrap();
    let (node, handle) = guest.create(folder, "f", 0o100_600).unwrap();
    guest.write(handle, 0, b"kept").unwrap();
    let (gone, _) = guest.create(folder, "gone", 0o100_600).unwrap();
    fs::remove_file(guest.path("d/gone")).unwrap();
    // The host renames it: paths are those at the time of the snapshot.
    fs::rename(guest.path("d/f"), guest.path("d/renamed")).unwrap();
    let text = serde_json::to_string(&guest.driver.transport.save()).unwrap();
    let state = serde_json::from_str(&text).unwrap();
    let device = device(&guest.folder, FsOptions::new("share"));
    let memory = guest.driver.memory.clone();
    let line = Line::default();
    guest.driver.transport = crate::MmioTransport::new(Box::new(device), memory, Box::new(line));
    guest.driver.transport.restore(&state).unwrap();
    guest.driver.transport.resume();
    assert_eq!(guest.read(handle, 0, 10).unwrap(), b"kept");
    assert_eq!(guest.look_up(folder, "renamed"), Ok(node));
    assert_eq!(guest.open(gone, OFlags::RDONLY), Err(Errno::STALE));
    let (new, _) = guest.create(ROOT, "new", 0o100_600).unwrap();
    assert!(new > gone);
}

#[test]
fn a_state_that_makes_no_sense_gives_an_empty_share() {
    let guest = Guest::new();
    fs::write(guest.path("file"), "x").unwrap();
    let node = |id, path: &str| SavedNode {
        id,
        lookups: u64::MAX,
        path: path.into(),
    };
    let handle = |id, node| SavedHandle {
        id,
        node,
        flags: u32::MAX,
    };
    let state = FsState {
        nodes: vec![
            node(1, "file"),
            node(5, "../secret"),
            node(6, "/etc/passwd"),
            node(7, ""),
            node(u64::MAX, "file"),
        ],
        handles: vec![handle(3, 5), handle(4, 99), handle(u64::MAX, 1)],
        next_node: u64::MAX,
        next_handle: u64::MAX,
    };
    let mut device = device(&guest.folder, FsOptions::new("x"));
    device.restore(&DeviceState::Fs(state), None).unwrap();
    let DeviceState::Fs(kept) = device.save() else {
        panic!("another device's state");
    };
    assert_eq!((kept.nodes.len(), kept.handles.len()), (0, 0));
    assert!(kept.next_node < u64::MAX && kept.next_handle < u64::MAX);
}

#[test]
fn short_requests_and_small_answers_do_no_harm() {
    let mut guest = Guest::new();
    assert_eq!(
        guest.ask(opcode::LOOKUP, ROOT, b"no end", 128),
        Err(Errno::INVAL)
    );
    fs::write(guest.path("file"), "x").unwrap();
    let small = guest.ask(opcode::LOOKUP, ROOT, &named(&[], &["file"]), 100);
    assert_eq!(small, Err(Errno::RANGE));
    assert_eq!(guest.ask(opcode::WRITE, 0, &[0; 39], 8), Err(Errno::INVAL));
    let huge = vec![0; 200 << 10];
    assert_eq!(
        guest.ask(opcode::SETXATTR, ROOT, &huge, 8),
        Err(Errno::TOOBIG)
    );
    guest
        .driver
        .submit(REQUEST, &[Part::Out(&[0; 39]), Part::In(16)]);
    guest.driver.kick(REQUEST);
    assert!(guest.driver.is_broken());
}

#[test]
fn tags_that_cannot_be_shown_and_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for tag in ["", "a tag that is longer than thirty-six bytes"] {
        let outcome = FsDevice::new(open(folder.path()), FsOptions::new(tag));
        assert!(matches!(outcome, Err(DeviceError::Name(..))));
    }
    let file = tempfile::tempfile().unwrap();
    let outcome = FsDevice::new(file.into(), FsOptions::new("x"));
    assert!(matches!(outcome, Err(DeviceError::Kernel(..))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn random_requests_never_panic_nor_leave_the_share(
        requests in prop::collection::vec(
            (0u32..52, 0u64..6, prop::collection::vec(prop_oneof![0u8..8, Just(b'a'), Just(0)], 0..120), 0usize..300), 1..80)
    ) {
        let mut guest = Guest::new();
        for (operation, node, body, room) in requests {
            if matches!(operation, opcode::FORGET | opcode::INTERRUPT | opcode::BATCH_FORGET) {
                continue;
            }
            let _ = guest.ask(operation, node, &body, room);
        }
        prop_assert!(!guest.driver.is_broken());
        prop_assert_eq!(fs::read_dir(guest.folder.path()).unwrap().count(), 2);
    }
}
