//! `docker cp` behind every wall: both ways, running and not, and attacks on it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Stdio;

use atoll_tests::{Engine, Ran, leaks, waiting};

/// A wall of each kind.
const WALLS: [&str; 4] = ["process", "vm", "system", "chroot"];

fn start(engine: &Engine, wall: &str, name: &str, options: &[&str]) {
    let isolation = format!("--isolation={wall}");
    let run = ["run", "-d", &isolation, "--name", name];
    engine
        .docker(&[&run[..], options, &["bb", "sleep", "100000"]].concat())
        .ok();
}

fn exec(engine: &Engine, name: &str, script: &str) -> String {
    engine.docker(&["exec", name, "sh", "-c", script]).ok()
}

fn cp(engine: &Engine, from: &str, to: &str) -> Ran {
    engine.docker(&["cp", "-q", from, to])
}

/// A tree in the test's folder, with files of several kinds.
fn tree(engine: &Engine) {
    engine
        .sh("mkdir -p $T/tree/sub/deep && cd $T/tree && echo hello > file && chown 12:34 file && chmod 4751 file
             ln file sub/twin && ln -s /etc/passwd link && chown 5:6 sub/deep && chmod 1700 sub/deep
             head -c 3000000 /dev/urandom > sub/big && touch -d @1000 sub")
        .ok();
}

fn assert_same_tree(engine: &Engine, copy: &Path) {
    let meta = |path: &Path| fs::symlink_metadata(path).expect("it was copied");
    let original = engine.path("tree");
    for name in ["file", "sub", "sub/deep", "sub/big", "sub/twin"] {
        let (from, to) = (meta(&original.join(name)), meta(&copy.join(name)));
        assert_eq!(
            (from.mode(), from.mtime()),
            (to.mode(), to.mtime()),
            "{name}"
        );
    }
    assert_eq!(
        meta(&copy.join("file")).ino(),
        meta(&copy.join("sub/twin")).ino()
    );
    let read = |path: &Path| fs::read(path).expect("it was copied");
    assert_eq!(read(&original.join("sub/big")), read(&copy.join("sub/big")));
    let link = fs::read_link(copy.join("link")).expect("it was copied");
    assert_eq!(link, Path::new("/etc/passwd"));
}

#[test]
fn trees_go_in_and_come_out_behind_every_wall() {
    let engine = Engine::with_image();
    tree(&engine);
    let tree = engine.path("tree").display().to_string();
    for wall in WALLS {
        start(&engine, wall, wall, &[]);
        cp(&engine, &tree, &format!("{wall}:/tmp")).ok();
        let said = exec(
            &engine,
            wall,
            "cat /tmp/tree/file; cd /tmp/tree; busybox stat -c '%a %u %g %n' file sub/deep; busybox readlink link; cat /proc/self/uid_map | busybox awk '{print $1}'",
        );
        assert_eq!(
            said, "hello\n4751 12 34 file\n1700 5 6 sub/deep\n/etc/passwd\n0",
            "{wall}"
        );
        let out = engine.path(&format!("out-{wall}"));
        cp(
            &engine,
            &format!("{wall}:/tmp/tree"),
            &out.display().to_string(),
        )
        .ok();
        assert_same_tree(&engine, &out);
        let missing = cp(&engine, &format!("{wall}:/nope"), "-");
        assert!(
            missing.code != 0
                && missing
                    .stderr
                    .contains("Could not find the file /nope in container"),
            "{wall}: {}",
            missing.stderr
        );
        engine.docker(&["rm", "-f", wall]).ok();
    }
}

#[test]
fn containers_that_do_not_run_are_copied_from_and_into() {
    let engine = Engine::with_image();
    tree(&engine);
    let tree = engine.path("tree").display().to_string();
    for wall in WALLS {
        let isolation = format!("--isolation={wall}");
        engine
            .docker(&[
                "create",
                &isolation,
                "--name",
                wall,
                "-v",
                "data:/data",
                "-v",
                &format!("{tree}:/ro:ro"),
                "bb",
                "sh",
                "-c",
                "cat /new /data/new; echo made > /made",
            ])
            .ok();
        fs::write(engine.path("new"), format!("for {wall}\n")).expect("the folder is writable");
        let new = engine.path("new").display().to_string();
        cp(&engine, &new, &format!("{wall}:/")).ok();
        cp(&engine, &new, &format!("{wall}:/data/")).ok();
        let in_volume = engine.path("data/volumes/data/_data/new");
        assert_eq!(
            fs::read_to_string(&in_volume).expect("it is in the volume"),
            format!("for {wall}\n")
        );
        let refused = cp(&engine, &new, &format!("{wall}:/ro/"));
        assert!(
            refused
                .stderr
                .contains("mounted volume is marked read-only"),
            "{wall}: {}",
            refused.stderr
        );
        let started = engine.docker(&["start", "-a", wall]).ok();
        assert_eq!(started, format!("for {wall}\nfor {wall}"));
        // It has ended: what it wrote is there, and what was mounted.
        assert_eq!(
            engine
                .sh(&format!("docker cp {wall}:/made - | tar -xO"))
                .ok(),
            "made"
        );
        let out = engine.path(&format!("out-{wall}"));
        cp(
            &engine,
            &format!("{wall}:/ro/."),
            &out.display().to_string(),
        )
        .ok();
        assert_same_tree(&engine, &out);
        assert_eq!(
            leaks::mounts_below(&engine.path("data")),
            Vec::<String>::new()
        );
        engine.docker(&["rm", wall]).ok();
    }
}

#[test]
fn names_links_and_streams_are_as_dockers() {
    let engine = Engine::with_image();
    tree(&engine);
    for wall in ["process", "vm"] {
        start(&engine, wall, wall, &[]);
        exec(
            &engine,
            wall,
            "mkdir -p /real/d; echo x > /real/f; busybox ln -s /real /way; busybox ln -s f /real/l",
        );
        let list = |path: &str| {
            engine
                .sh(&format!("docker cp {wall}:{path} - | tar -t | sort"))
                .ok()
        };
        assert_eq!(list("/real"), "real/\nreal/d/\nreal/f\nreal/l");
        assert_eq!(list("/real/."), "./\n./d/\n./f\n./l");
        assert_eq!(list("/way"), "way");
        assert_eq!(list("/way/"), "way/\nway/d/\nway/f\nway/l");
        let follow = engine.sh(&format!(
            "docker cp -L {wall}:/real/l $T/l-{wall} && cat $T/l-{wall}"
        ));
        assert!(follow.ok().ends_with('x'), "{wall}");
        engine
            .sh(&format!("tar -C $T/tree -c file | docker cp - {wall}:/way"))
            .ok();
        assert_eq!(exec(&engine, wall, "cat /real/file"), "hello");
        engine
            .sh(&format!(
                "tar -C $T/tree -cz sub/deep | docker cp - {wall}:/real/d"
            ))
            .ok();
        assert_eq!(exec(&engine, wall, "ls /real/d/sub"), "deep");
        engine
            .sh(&format!("docker cp -a $T/tree/file {wall}:/real/renamed"))
            .ok();
        assert_eq!(exec(&engine, wall, "cat /real/renamed"), "hello");
        for (from, to, words) in [
            ("$T/tree/file", "/none/", "no such"),
            ("$T/tree/sub", "/real/f", "cannot copy directory"),
            ("$T/tree/file", "/real/f/", "no such directory"),
        ] {
            let refused = engine.sh(&format!("docker cp {from} {wall}:{to}"));
            assert!(
                refused.code != 0 && refused.stderr.to_lowercase().contains(words),
                "{wall} {to}: {}",
                refused.stderr
            );
        }
        let garbage = engine.sh(&format!(
            "head -c 4096 /dev/urandom | docker cp - {wall}:/tmp"
        ));
        assert!(
            garbage.stderr.contains("not a valid tar archive"),
            "{wall}: {}",
            garbage.stderr
        );
        let cut = engine.sh(&format!(
            "tar -C $T/tree -c sub/big | head -c 1000000 | docker cp - {wall}:/tmp"
        ));
        assert!(
            cut.stderr.contains("ends too early"),
            "{wall}: {}",
            cut.stderr
        );
        assert_eq!(exec(&engine, wall, "ls /tmp/sub"), "", "no half of a file");
    }
}

#[test]
fn what_is_mounted_and_read_only_is_respected() {
    let engine = Engine::with_image();
    tree(&engine);
    let file = engine.path("tree/file").display().to_string();
    for wall in ["process", "vm"] {
        start(
            &engine,
            wall,
            wall,
            &[
                "--read-only",
                "-v",
                "data:/data",
                "-v",
                "data:/ro:ro",
                "--tmpfs",
                "/mem",
            ],
        );
        let into = |place: &str| cp(&engine, &file, &format!("{wall}:{place}"));
        into("/data/").ok();
        into("/mem/").ok();
        assert_eq!(
            exec(&engine, wall, "cat /ro/file /mem/file"),
            "hello\nhello"
        );
        waiting::until("the host sees it", || {
            engine.path("data/volumes/data/_data/file").exists()
        });
        let refused = into("/").stderr;
        assert!(
            refused.contains("container rootfs is marked read-only"),
            "{wall}: {refused}"
        );
        let refused = into("/ro/").stderr;
        assert!(
            refused.contains("mounted volume is marked read-only"),
            "{wall}: {refused}"
        );
        // Another container sees it, behind another wall.
        let other = if wall == "vm" { "process" } else { "vm" };
        let isolation = format!("--isolation={other}");
        let seen = engine.docker(&[
            "run", "--rm", &isolation, "-v", "data:/d", "bb", "cat", "/d/file",
        ]);
        assert_eq!(seen.ok(), "hello");
        fs::remove_file(engine.path("data/volumes/data/_data/file")).expect("it is there");
    }
    let whole = engine.sh("docker cp process:/ - | tar -t").ok();
    assert!(
        whole.contains("/etc/passwd") && whole.contains("/data/"),
        "{whole}"
    );
    assert!(
        !whole.contains("/proc/1") && !whole.contains("/dev/null"),
        "{whole}"
    );
    engine.docker(&["pause", "process"]).ok();
    assert_eq!(
        engine.sh("docker cp process:/etc/plain - | tar -t").ok(),
        "plain"
    );
    engine.docker(&["pause", "vm"]).ok();
    let paused = engine.docker(&["cp", "vm:/etc/plain", "-"]).stderr;
    assert!(paused.contains("paused, unpause"), "{paused}");
    engine.docker(&["unpause", "vm"]).ok();
}

#[test]
fn a_full_disk_is_told_and_leaves_no_half() {
    let engine = Engine::with_image();
    for wall in ["process", "vm"] {
        start(&engine, wall, wall, &["--tmpfs", "/mem:size=1m"]);
        let full = engine.sh(&format!(
            "head -c 5000000 /dev/zero > $T/zeros && docker cp $T/zeros {wall}:/mem/"
        ));
        assert!(
            full.code != 0 && full.stderr.contains("No space left on device"),
            "{wall}: {}",
            full.stderr
        );
        assert_eq!(exec(&engine, wall, "ls /mem"), "", "{wall}");
    }
}

#[test]
fn gigabytes_take_no_memory_and_clients_may_leave() {
    let mut engine = Engine::with_image();
    start(&engine, "process", "cont", &[]);
    exec(&engine, "cont", "busybox truncate -s 512M /tmp/huge");
    let peak = |engine: &Engine| {
        let status = fs::read_to_string(format!("/proc/{}/status", engine.pid())).expect("it runs");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .expect("the kernel tells");
        line.split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse::<u64>().ok())
            .expect("a number")
    };
    let before = peak(&engine);
    let count = engine.sh("docker cp cont:/tmp/huge - | wc -c").ok();
    assert!(
        count.parse::<u64>().expect("a number") > 512 << 20,
        "{count}"
    );
    let after = peak(&engine);
    assert!(
        after < before + 64 * 1024,
        "{before} KiB became {after} KiB"
    );
    // Somebody who reads a little and goes, and somebody who sends a little and goes.
    engine
        .sh("docker cp cont:/tmp/huge - | head -c 100000 > /dev/null || true")
        .ok();
    let mut sender = engine.client("docker");
    sender
        .args(["cp", "-", "cont:/tmp"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null());
    let mut sender = sender.spawn().expect("the docker CLI is installed");
    let mut archive = fs::read(engine.path("bb.tar")).expect("the image's archive");
    archive.truncate(300_000);
    sender
        .stdin
        .as_mut()
        .expect("piped")
        .write_all(&archive)
        .expect("it reads");
    sender.kill().expect("it is ours");
    sender.wait().expect("it is ours");
    waiting::until("no file of the container is open", || {
        let opened = fs::read_dir(format!("/proc/{}/fd", engine.pid())).expect("it runs");
        !opened
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|path| path.ends_with("huge"))
    });
    engine.docker(&["stop", "-t", "0", "cont"]).ok();
    // The lock of a container that does not run is let go of, too.
    engine
        .sh("docker cp cont:/tmp/huge - | head -c 100000 > /dev/null || true")
        .ok();
    engine.docker(&["start", "cont"]).ok();
    engine.docker(&["rm", "-f", "cont"]).ok();
    engine.terminate();
    engine.restart();
}

#[test]
fn our_own_command_copies_as_dockers_does() {
    let engine = Engine::with_image();
    tree(&engine);
    start(&engine, "process", "cont", &[]);
    let atoll = |line: &str| engine.sh(&format!("cd $T; {line}"));
    atoll("atoll cp tree cont:/tmp").ok();
    atoll("atoll cp -q tree/. cont:/tmp/other").ok();
    atoll("atoll cp tree/file cont:/tmp/renamed").ok();
    atoll("atoll cp -L tree/link cont:/tmp/passwd").ok();
    assert_eq!(
        exec(
            &engine,
            "cont",
            "cd /tmp; cat tree/file other/file renamed; ls other; test -s passwd && echo full"
        ),
        "hello\nhello\nhello\nfile\nlink\nsub\nfull"
    );
    atoll("atoll cp cont:/tmp/tree out").ok();
    assert_same_tree(&engine, &engine.path("out"));
    atoll("mkdir there; atoll cp cont:/tmp/tree there; atoll cp cont:/tmp/tree/. there/flat; atoll cp cont:/tmp/renamed as-is").ok();
    assert_same_tree(&engine, &engine.path("there/tree"));
    assert_same_tree(&engine, &engine.path("there/flat"));
    assert_eq!(
        fs::metadata(engine.path("as-is"))
            .expect("it was copied")
            .uid(),
        0
    );
    atoll("atoll cp -a cont:/tmp/tree/file with-owner").ok();
    assert_eq!(
        fs::metadata(engine.path("with-owner"))
            .expect("it was copied")
            .uid(),
        12
    );
    assert_eq!(
        atoll("atoll cp cont:/tmp/tree/file - | tar -xO").ok(),
        "hello"
    );
    atoll("tar -C tree -c file | atoll cp - cont:/root").ok();
    assert_eq!(exec(&engine, "cont", "cat /root/file"), "hello");
    for (line, words) in [
        ("atoll cp cont:/none x", "Could not find the file /none"),
        ("atoll cp nothing cont:/tmp", "cannot read nothing"),
        (
            "atoll cp tree cont:/tmp/renamed",
            "a folder cannot take the place of a file",
        ),
        (
            "atoll cp tree/file cont:/tmp/none/",
            "there is no such folder",
        ),
        ("atoll cp tree other", "expected CONTAINER:PATH on one side"),
        ("atoll cp cont:/etc cont:/tmp", "copying between containers"),
        ("atoll cp tree nobody:/tmp", "No such container: nobody"),
    ] {
        let refused = atoll(line);
        assert!(
            refused.code != 0 && refused.stderr.contains(words),
            "{line}: {}",
            refused.stderr
        );
    }
}

/// CVE-2018-15664: a process of the container exchanges folders and symlinks while files are copied.
#[test]
fn a_running_container_cannot_lead_copies_to_the_host() {
    let engine = Engine::with_image();
    let outside = engine.path("outside");
    fs::create_dir(&outside).expect("the folder is writable");
    fs::write(outside.join("secret"), "TOPSECRET").expect("the folder is writable");
    fs::write(engine.path("new"), "new").expect("the folder is writable");
    let outside = outside.display().to_string();
    for wall in ["process", "vm"] {
        let script = format!(
            "mkdir -p /way; echo mine > /way/secret; busybox ln -s {outside} /link; while :; do busybox mv /way /tmp/way; busybox mv /link /way; busybox mv /way /link; busybox mv /tmp/way /way; done"
        );
        let isolation = format!("--isolation={wall}");
        engine
            .docker(&[
                "run", "-d", &isolation, "--name", wall, "bb", "sh", "-c", &script,
            ])
            .ok();
        for _ in 0..30 {
            let read = engine.sh(&format!(
                "docker cp {wall}:/way/secret - 2>/dev/null | tar -xO 2>/dev/null || true"
            ));
            assert!(!read.stdout.contains("TOPSECRET"), "{wall}");
            let _ = engine.sh(&format!(
                "docker cp $T/new {wall}:/way/ 2>/dev/null || true"
            ));
        }
        let left: Vec<_> = fs::read_dir(engine.path("outside"))
            .expect("it is there")
            .flatten()
            .collect();
        assert_eq!(left.len(), 1, "{wall}: {left:?}");
        engine.docker(&["rm", "-f", wall]).ok();
    }
}

/// CVE-2019-14271: the container's libraries and configuration are there to be loaded by who copies.
#[test]
fn nothing_of_the_container_is_loaded_by_copying() {
    let engine = Engine::with_image();
    start(&engine, "process", "cont", &[]);
    let trap = "#!/bin/sh\necho loaded > /loaded\n";
    fs::write(engine.path("trap"), trap).expect("the folder is writable");
    fs::set_permissions(engine.path("trap"), fs::Permissions::from_mode(0o755))
        .expect("it is ours");
    exec(
        &engine,
        "cont",
        "mkdir -p /lib/x86_64-linux-gnu /usr/bin /sbin; echo 'passwd: evil' > /etc/nsswitch.conf; echo /evil.so > /etc/ld.so.preload",
    );
    let trap = engine.path("trap").display().to_string();
    for place in [
        "/lib/x86_64-linux-gnu/libnss_evil.so.2",
        "/lib/x86_64-linux-gnu/libnss_files.so.2",
        "/evil.so",
        "/usr/bin/tar",
        "/bin/docker-tar",
        "/sbin/docker-untar",
    ] {
        cp(&engine, &trap, &format!("cont:{place}")).ok();
    }
    engine
        .sh("docker cp -a $T/trap cont:/tmp/ && docker cp cont:/etc - > /dev/null")
        .ok();
    let maps = fs::read_to_string(format!("/proc/{}/maps", engine.pid())).expect("it runs");
    assert!(
        !maps.contains("evil") && !maps.contains("libnss_files"),
        "{maps}"
    );
    assert_eq!(
        exec(&engine, "cont", "ls /loaded 2>/dev/null || echo none"),
        "none"
    );
    // No process entered it meanwhile: its first is the only one.
    assert_eq!(engine.docker(&["top", "cont"]).ok().lines().count(), 2);
}
