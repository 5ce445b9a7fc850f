//! Trees out and in again, archives that lie, and roots that are changed meanwhile.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atoll_files::{Action, Fault, FaultKind, FilesError, Ids, Options, PathStat, Request, serve};
use atoll_tar::{Entry, EntryKind, TarWriter};
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// A folder with a root in it, and something beside the root that is nobody's business.
struct Rig {
    folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("root/dst")).unwrap();
        fs::create_dir(folder.path().join("outside")).unwrap();
        fs::write(folder.path().join("outside/secret"), "TOPSECRET").unwrap();
        Self { folder }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn outside(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("outside")).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn read(&self, path: &str) -> Result<(Vec<PathStat>, Vec<u8>), FilesError> {
        let root = File::open(self.root()).unwrap();
        let request = Request {
            path: path.to_owned(),
            action: Action::Read,
        };
        let (mut found, mut output) = (Vec::new(), Vec::new());
        let mut on_found = |stat| found.push(stat);
        serve(
            root.as_fd(),
            Ids::Same,
            &request,
            &mut &b""[..],
            &mut output,
            &mut on_found,
        )?;
        Ok((found, output))
    }

    fn write(&self, path: &str, options: Options, archive: &[u8]) -> Result<(), FilesError> {
        let root = File::open(self.root()).unwrap();
        let request = Request {
            path: path.to_owned(),
            action: Action::Write(options),
        };
        let mut input = archive;
        serve(
            root.as_fd(),
            Ids::Same,
            &request,
            &mut input,
            &mut std::io::sink(),
            &mut drop,
        )
    }

    fn tar(&self, arguments: &[&str], input: &[u8]) -> String {
        let mut child = Command::new("tar")
            .args(arguments)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }
}

fn entry(path: &str, kind: EntryKind, link: &str) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        link: link.as_bytes().to_vec(),
        kind,
        mode: if kind == EntryKind::Directory {
            0o755
        } else {
            0o640
        },
        uid: 0,
        gid: 0,
        size_bytes: if kind == EntryKind::File { 4 } else { 0 },
        mtime: (1000, 0),
        atime: None,
        device: (1, 3),
        xattrs: Vec::new(),
        segments: None,
    }
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for entry in entries {
        writer.entry(entry).unwrap();
        if entry.kind == EntryKind::File {
            writer.data(b"data").unwrap();
        }
    }
    writer.finish().unwrap()
}

fn fill(root: &Path) {
    fs::create_dir_all(root.join("src/deep/er")).unwrap();
    fs::write(root.join("src/file"), "hello").unwrap();
    fs::set_permissions(root.join("src/file"), fs::Permissions::from_mode(0o4711)).unwrap();
    rustix::fs::chown(
        root.join("src/file"),
        Some(rustix::fs::Uid::from_raw(12)),
        None,
    )
    .unwrap();
    fs::hard_link(root.join("src/file"), root.join("src/deep/twin")).unwrap();
    symlink("/outside/secret", root.join("src/link")).unwrap();
    rustix::fs::mknodat(
        CWD,
        root.join("src/pipe"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let name = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(root.join("src/file"), "user.a", b"b", name).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(root.join("src/socket")).unwrap();
    drop(socket);
}

#[test]
fn a_tree_comes_out_and_goes_in_whole() {
    let rig = Rig::new();
    fill(&rig.root());
    let (found, bytes) = rig.read("/src").unwrap();
    assert_eq!((found.len(), found[0].name.as_str()), (1, "src"));
    let mut names: Vec<String> = rig
        .tar(&["-tf", "-"], &bytes)
        .lines()
        .map(ToOwned::to_owned)
        .collect();
    names.sort();
    let expected = [
        "src/",
        "src/deep/",
        "src/deep/er/",
        "src/deep/twin",
        "src/file",
        "src/link",
        "src/pipe",
    ];
    assert_eq!(names, expected, "without the socket");
    rig.write("dst", Options::default(), &bytes).unwrap();
    let meta = |path: &str| fs::symlink_metadata(rig.root().join(path)).unwrap();
    let (from, into) = (meta("src/file"), meta("dst/src/file"));
    assert_eq!(
        (from.mode(), from.uid(), from.mtime()),
        (into.mode(), into.uid(), into.mtime())
    );
    assert_eq!(into.ino(), meta("dst/src/deep/twin").ino());
    assert_eq!(
        meta("src/deep").mtime_nsec(),
        meta("dst/src/deep").mtime_nsec()
    );
    let link = fs::read_link(rig.root().join("dst/src/link")).unwrap();
    assert_eq!(link, Path::new("/outside/secret"));
    let mut value = [0; 4];
    let length = rustix::fs::getxattr(rig.root().join("dst/src/file"), "user.a", &mut value[..]);
    assert_eq!(&value[..length.unwrap()], b"b");
    // Again over what is there.
    rig.write(
        "dst/",
        Options {
            keeps_kinds: true,
            owner: Some((5, 6)),
            ..Options::default()
        },
        &bytes,
    )
    .unwrap();
    assert_eq!(
        (meta("dst/src/deep").uid(), meta("dst/src/file").gid()),
        (5, 6)
    );
}

#[test]
fn names_begin_as_docker_has_them() {
    let rig = Rig::new();
    fs::create_dir(rig.root().join("real")).unwrap();
    fs::write(rig.root().join("real/f"), "x").unwrap();
    symlink("real", rig.root().join("link")).unwrap();
    let names = |path: &str| rig.tar(&["-Ptf", "-"], &rig.read(path).unwrap().1);
    assert_eq!(names("/real"), "real/\nreal/f\n");
    assert_eq!(names("/real/."), "./\n./f\n");
    assert_eq!(names("/link/"), "link/\nlink/f\n");
    assert_eq!(names("/link"), "link\n");
    assert_eq!(names("/real/f"), "f\n");
    assert!(names("/").lines().any(|name| name == "/real/f"));
    assert!(matches!(rig.read("/none"), Err(FilesError::NotFound(_))));
    assert!(rig.read("/real/f/").is_err());
}

#[test]
fn a_tree_gets_another_name() {
    let rig = Rig::new();
    fill(&rig.root());
    let named = Options {
        name: Some("new".to_owned()),
        ..Options::default()
    };
    let list = |path: &str| {
        let mut names: Vec<_> = fs::read_dir(rig.root().join(path))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    for from in ["/src", "/src/."] {
        rig.write("/dst", named.clone(), &rig.read(from).unwrap().1)
            .unwrap();
        assert_eq!(list("dst"), ["new"], "{from}");
        assert_eq!(list("dst/new"), ["deep", "file", "link", "pipe"], "{from}");
        let inode = |path: &str| fs::metadata(rig.root().join(path)).unwrap().ino();
        assert_eq!(inode("dst/new/file"), inode("dst/new/deep/twin"), "{from}");
        fs::remove_dir_all(rig.root().join("dst/new")).unwrap();
    }
    rig.write("/dst", named, &rig.read("/src/file").unwrap().1)
        .unwrap();
    assert_eq!(list("dst"), ["new"]);
}

#[test]
fn archives_that_lie_lead_nowhere() {
    let rig = Rig::new();
    let outside = rig.folder.path().join("outside");
    let text = outside.to_str().unwrap();
    for names in [vec!["../outside/x"], vec!["a/../../x"], vec!["/../x"]] {
        let entries: Vec<Entry> = names
            .iter()
            .map(|name| entry(name, EntryKind::File, ""))
            .collect();
        let said = rig
            .write("/dst", Options::default(), &archive(&entries))
            .unwrap_err();
        assert_eq!(Fault::from(&said).kind, FaultKind::Invalid, "{said}");
    }
    // Symlinks of the archive, then through them.
    for (target, hard) in [(text, false), ("../../outside", false), (text, true)] {
        let mut entries = vec![entry("way", EntryKind::Symlink, target)];
        entries.push(match hard {
            false => entry("way/x", EntryKind::File, ""),
            true => entry("hard", EntryKind::HardLink, "way/secret"),
        });
        let _ = rig.write("/dst", Options::default(), &archive(&entries));
        assert_eq!(rig.outside(), ["secret"], "{target}");
        assert!(fs::metadata(outside.join("secret")).unwrap().nlink() == 1);
    }
    let replaced = [
        entry("x", EntryKind::Symlink, text),
        entry("x", EntryKind::File, ""),
    ];
    rig.write("/dst", Options::default(), &archive(&replaced))
        .unwrap();
    assert!(
        fs::symlink_metadata(rig.root().join("dst/x"))
            .unwrap()
            .is_file()
    );
    let hard = [entry("h", EntryKind::HardLink, "../../outside/secret")];
    assert!(
        rig.write("/dst", Options::default(), &archive(&hard))
            .is_err()
    );
}

#[test]
fn bad_archives_and_places_are_told() {
    let rig = Rig::new();
    fs::write(rig.root().join("file"), "x").unwrap();
    let good = archive(&[entry("f", EntryKind::File, "")]);
    let kind = |path: &str, bytes: &[u8]| {
        Fault::from(&rig.write(path, Options::default(), bytes).unwrap_err())
    };
    assert_eq!(kind("/none", &good).kind, FaultKind::NotFound);
    assert_eq!(
        kind("/file", &good).message,
        "extraction point is not a directory"
    );
    assert_eq!(
        kind("/dst", b"this is no archive at all, but a text").kind,
        FaultKind::Invalid
    );
    assert!(
        kind("/dst", &good[..514])
            .message
            .contains("ends too early")
    );
    assert!(!rig.root().join("dst/f").exists(), "no half of a file");
    fs::create_dir_all(rig.root().join("dst/f/full")).unwrap();
    let keeps = Options {
        keeps_kinds: true,
        owner: None,
        ..Options::default()
    };
    let said = rig
        .write("/dst", keeps.clone(), &good)
        .unwrap_err()
        .to_string();
    assert_eq!(
        said,
        "cannot overwrite directory \"/dst/f\" with non-directory \"f\""
    );
    rig.write("/dst", Options::default(), &good).unwrap();
    assert!(rig.root().join("dst/f").is_file());
    let said = rig
        .write(
            "/dst",
            keeps.clone(),
            &archive(&[entry("f", EntryKind::Directory, "")]),
        )
        .unwrap_err();
    assert!(
        said.to_string()
            .starts_with("cannot overwrite non-directory"),
        "{said}"
    );
    rig.write("/dst", keeps, b"").unwrap();
}

#[test]
fn shifted_ids_are_the_containers() {
    let rig = Rig::new();
    let ids = Ids::Shifted {
        first: 100_000,
        count: 1000,
    };
    let root = File::open(rig.root()).unwrap();
    let bytes = archive(&[
        entry("new/f", EntryKind::File, ""),
        Entry {
            uid: 7,
            ..entry("g", EntryKind::File, "")
        },
    ]);
    let request = |action| Request {
        path: "/dst".to_owned(),
        action,
    };
    let run = |action, mut input: &[u8]| {
        let mut output = Vec::new();
        let done = serve(
            root.as_fd(),
            ids,
            &request(action),
            &mut input,
            &mut output,
            &mut drop,
        );
        done.map(|()| output)
    };
    run(Action::Write(Options::default()), &bytes).unwrap();
    let owner = |path: &str| fs::metadata(rig.root().join(path)).unwrap().uid();
    assert_eq!(
        (owner("dst/new"), owner("dst/new/f"), owner("dst/g")),
        (100_000, 100_000, 100_007)
    );
    let read = run(Action::Read, b"").unwrap();
    let listed = rig.tar(&["--numeric-owner", "-tvf", "-"], &read);
    assert!(
        listed.contains(" 7/0 ") && listed.contains(" 0/0 "),
        "{listed}"
    );
    let beyond = archive(&[Entry {
        uid: 1000,
        ..entry("f", EntryKind::File, "")
    }]);
    assert!(run(Action::Write(Options::default()), &beyond).is_err());
}

/// CVE-2018-15664: while files are copied, a folder of the container and a symlink out of it change places all the time.
#[test]
fn places_exchanged_for_symlinks_lead_nowhere() {
    let rig = Rig::new();
    let root = rig.root();
    fs::create_dir(root.join("way")).unwrap();
    fs::write(root.join("way/secret"), "mine").unwrap();
    let outside = rig.folder.path().join("outside");
    symlink(&outside, root.join("absolute")).unwrap();
    symlink("../../../..", root.join("up")).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let exchanger = {
        let (root, is_over) = (root.clone(), Arc::clone(&is_over));
        std::thread::spawn(move || {
            let mut count = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                for name in ["absolute", "up"] {
                    for _ in 0..2 {
                        renameat_with(
                            CWD,
                            root.join("way"),
                            CWD,
                            root.join(name),
                            RenameFlags::EXCHANGE,
                        )
                        .unwrap();
                        count += 1;
                    }
                }
            }
            count
        })
    };
    let new = archive(&[
        entry("new", EntryKind::File, ""),
        entry("sub/new", EntryKind::File, ""),
    ]);
    let mut seen = 0;
    for _ in 0..2000 {
        if let Ok((_, bytes)) = rig.read("/way/secret") {
            assert!(!bytes.windows(9).any(|nine| nine == b"TOPSECRET"));
            seen += 1;
        }
        let _ = rig.read("/way/");
        let _ = rig.write("/way", Options::default(), &new);
        let _ = rig.write(
            "/",
            Options::default(),
            &archive(&[entry("way/new", EntryKind::File, "")]),
        );
    }
    is_over.store(true, Ordering::Relaxed);
    assert!(exchanger.join().unwrap() > 100 && seen > 0);
    assert_eq!(rig.outside(), ["secret"]);
    assert_eq!(
        fs::read_to_string(outside.join("secret")).unwrap(),
        "TOPSECRET"
    );
    assert!(!rig.folder.path().join("new").exists());
}
