//! Published attacks by somebody who changes the root file system while a container is made, and by what is handed on.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use atoll_container::StdioRequest;
use atoll_spec::Mount;
use atoll_sys::process;
use atoll_sys::rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with};

use crate::support::{Bundle, exec};

/// Exchanges two names again and again until it is dropped.
struct Swapper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Swapper {
    fn new(one: PathBuf, other: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                count += 1;
            }
            count
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

/// CVE-2021-30465 (mounts) and CVE-2024-45310 (folders and files made outside): a component of a mount's place is exchanged
/// for a symlink to the host while it is looked up.
#[test]
fn places_exchanged_for_symlinks_lead_nowhere() {
    let mut bundle = Bundle::new();
    let outside = bundle.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let (real, link) = (bundle.rootfs().join("volume"), bundle.rootfs().join("link"));
    fs::create_dir(&real).unwrap();
    // In the root it leads to a folder that isn't there, so nothing of it can be mistaken for the host's.
    symlink(&outside, &link).unwrap();
    for place in ["/volume/a/b", "/volume/c"] {
        bundle.spec.mounts.push(Mount {
            destination: place.into(),
            kind: Some("tmpfs".to_owned()),
            source: Some("tmpfs".into()),
            ..Mount::default()
        });
    }
    bundle.script("true");
    let swapper = Swapper::new(real, link);
    let mut made = 0;
    for _ in 0..60 {
        // What was exchanged at a bad moment may be refused, but never followed to the host.
        if let Ok(created) = bundle.create() {
            made += 1;
            created.container.delete(true).unwrap();
        }
        assert!(is_empty(&outside), "something was made on the host");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(outside.to_str().unwrap()));
    }
    assert!(swapper.end() > 60, "the race was not run");
    assert!(made > 0, "no container got through");
    bundle.assert_clean();
}

/// CVE-2025-31133: the image's null device is exchanged for a symlink while paths are masked with it.
#[test]
fn masks_do_not_come_from_the_image() {
    let mut bundle = Bundle::new();
    bundle
        .spec
        .mounts
        .retain(|mount| !mount.destination.starts_with("/dev"));
    let dev = bundle.rootfs().join("dev");
    let (null, evil) = (dev.join("null"), dev.join("evil"));
    let kind = FileType::CharacterDevice;
    mknodat(CWD, &null, kind, Mode::from_raw_mode(0o666), makedev(1, 3)).unwrap();
    symlink("/proc/uptime", &evil).unwrap();
    bundle.linux().masked_paths = vec!["/proc/keys".to_owned()];
    bundle.script("stat -c %t:%T /proc/keys");
    let swapper = Swapper::new(null, evil);
    let mut made = 0;
    for _ in 0..60 {
        // A link in the place of a device that is to be made is refused by name; a mask of something else would be the flaw.
        match bundle.run() {
            Ok(outcome) => {
                made += 1;
                assert_eq!(outcome.stdout, "1:3\n");
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.starts_with("make device /dev/null: E"), "{text}");
            }
        }
    }
    assert!(
        swapper.end() > 60 && made > 0,
        "{made} containers were made"
    );
}

/// CVE-2025-52565: the console's place or source leads to a kernel file, which would be mounted writable.
#[test]
fn the_console_is_the_terminal_whatever_the_image_says() {
    let mut bundle = Bundle::new();
    bundle
        .spec
        .mounts
        .retain(|mount| mount.destination != Path::new("/dev"));
    let console = bundle.rootfs().join("dev/console");
    symlink("/proc/uptime", console).unwrap();
    bundle.args(&["sleep", "60"]);
    let mut request = bundle.request();
    request.stdio = StdioRequest::Terminal { size: None };
    let mut created = atoll_container::create(request, &bundle.spec).unwrap();
    created.init.start().unwrap();
    let process = bundle.process().clone();
    // Both names lead to a terminal (major number 136, 88 in hexadecimal), so what is written there goes to nobody else.
    let script = "stat -L -c %t /dev/console; stat -c %t /proc/uptime";
    let outcome = exec(&created.container, &process, script).unwrap();
    assert_eq!(outcome.stdout.lines().next(), Some("88"), "{outcome:?}");
    created.container.delete(true).unwrap();
}

/// CVE-2022-29162: inheritable capabilities nobody asked for, which set-user-ID programs would raise.
#[test]
fn no_capability_is_inheritable_unless_asked_for() {
    let mut bundle = Bundle::new();
    bundle.args(&["sleep", "60"]);
    let mut created = bundle.create().unwrap();
    created.init.start().unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", created.init.pid)).unwrap();
    assert!(status.contains("CapInh:\t0000000000000000"), "{status}");
    let mut process = bundle.process().clone();
    process.user.uid = 33;
    let script = "grep -E 'CapInh|CapAmb' /proc/self/status";
    let outcome = exec(&created.container, &process, script).unwrap();
    assert_eq!(
        outcome.stdout,
        "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n"
    );
    created.container.delete(true).unwrap();
    let _ = process::wait(created.init.pidfd.as_fd());
}

/// CVE-2023-27561, CVE-2019-19921: /proc is a volume of the attacker's, in which a label or a parameter would be written.
#[test]
fn what_is_written_to_procfs_never_goes_to_a_volume() {
    let mut bundle = Bundle::new();
    let fake = bundle.path().join("fake");
    fs::create_dir_all(fake.join("sys/net/ipv4")).unwrap();
    fs::create_dir_all(fake.join("self/attr")).unwrap();
    let file = fake.join("sys/net/ipv4/ip_forward");
    fs::write(&file, "untouched").unwrap();
    fs::write(fake.join("self/oom_score_adj"), "untouched").unwrap();
    bundle
        .spec
        .mounts
        .retain(|mount| mount.destination != Path::new("/proc"));
    bundle.spec.mounts.push(Mount {
        destination: "/proc".into(),
        kind: Some("bind".to_owned()),
        source: Some(fake.clone()),
        options: vec!["rbind".to_owned()],
        ..Mount::default()
    });
    bundle
        .linux()
        .sysctl
        .insert("net.ipv4.ip_forward".to_owned(), "1".to_owned());
    bundle.process().oom_score_adj = Some(500);
    bundle.args(&["sleep", "60"]);
    let mut created = bundle.create().unwrap();
    created.init.start().unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "untouched");
    let score = fs::read_to_string(fake.join("self/oom_score_adj"));
    assert_eq!(score.unwrap(), "untouched");
    // And it took effect where it belongs.
    let pid = created.init.pid;
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(score, "500\n");
    created.container.delete(true).unwrap();
    bundle.assert_clean();
}
