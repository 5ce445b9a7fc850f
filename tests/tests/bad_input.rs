//! Bad input: one clear line with the reason and a hint, and nothing left behind.

use std::process::Command;

use atoll_tests::{Engine, Ran, programs};

/// What the engine keeps of images on disk.
fn stored(engine: &Engine) -> String {
    engine
        .sh("find $T/data/image $T/data/layers $T/data/tmp ! -name '*.redb' | sort")
        .ok()
}

#[test]
fn unreadable_archives_are_refused() {
    let engine = Engine::start(&[]);
    let before = stored(&engine);
    engine
        .sh("head -c 100000 /dev/urandom | docker load")
        .complains(&["archive"]);
    engine
        .sh("head -c 100000 /dev/urandom | docker import - bad")
        .complains(&[]);
    engine
        .sh("head -c 100000 /dev/urandom | gzip | docker import - bad")
        .complains(&[]);
    engine.sh("echo hello | docker load").complains(&[]);
    engine
        .sh("tar -C /etc -c hostname | docker load")
        .complains(&["manifest"]);
    engine
        .sh("tar -C /bin -c busybox | gzip | head -c 200000 | docker import - bad")
        .complains(&[]);
    assert_eq!(stored(&engine), before);
    assert_eq!(engine.docker(&["images", "-q"]).ok(), "");
}

#[test]
fn layers_that_reach_outside_are_refused() {
    let engine = Engine::start(&[]);
    let before = stored(&engine);
    let python = r#"
import io, sys, tarfile
kind, target = sys.argv[1], sys.argv[2]
out = tarfile.open(fileobj=sys.stdout.buffer, mode="w|")
def file(name):
    info = tarfile.TarInfo(name); info.size = 3
    out.addfile(info, io.BytesIO(b"own"))
if kind == "dots":
    file("../" * 12 + target)
elif kind == "symlink":
    info = tarfile.TarInfo("way"); info.type = tarfile.SYMTYPE; info.linkname = target.rsplit("/", 1)[0]
    out.addfile(info); file("way/" + target.rsplit("/", 1)[1])
elif kind == "hardlink":
    info = tarfile.TarInfo("copy"); info.type = tarfile.LNKTYPE; info.linkname = "../" * 12 + target
    out.addfile(info)
out.close()
"#;
    std::fs::write(engine.path("evil.py"), python).unwrap();
    for kind in ["dots", "symlink", "hardlink"] {
        let script = format!("python3 $T/evil.py {kind} $T/victim | docker import - evil:{kind}");
        let ran = engine.sh(&script);
        assert!(!engine.path("victim").exists(), "{kind} escaped: {ran}");
        if kind == "symlink" && ran.code == 0 {
            // Docker resolves the link inside the layer; that is no escape.
            engine.docker(&["rmi", &format!("evil:{kind}")]).ok();
            continue;
        }
        ran.complains(&[]);
    }
    assert_eq!(stored(&engine), before);
}

#[test]
fn a_bad_configuration_file_names_line_and_column() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("daemon.json");
    std::fs::write(&file, "{\n  \"bip\": oops\n}\n").unwrap();
    let ran = Ran::of(
        Command::new(programs::ours("atoll"))
            .args(["engine", "--config-file"])
            .arg(&file)
            .arg("--data-root")
            .arg(folder.path().join("data"))
            .arg("--exec-root")
            .arg(folder.path().join("exec")),
    );
    ran.complains(&["daemon.json", "line 2", "column", "hint:"]);
    assert!(!folder.path().join("data").exists() && !folder.path().join("exec").exists());
}

#[test]
fn a_second_engine_on_the_same_root_is_refused() {
    let engine = Engine::start(&[]);
    let ran = engine.sh(
        "timeout 5 atoll engine --data-root $T/data --exec-root $T/exec2 -H unix://$T/second.sock",
    );
    ran.complains(&["hint:", &engine.path("data").display().to_string()]);
    assert_ne!(ran.code, 124, "{ran}");
    // An engine removes bundles without a record: the first one's containers would lose theirs.
    let ran = engine.sh(
        "timeout 5 atoll engine --data-root $T/data3 --exec-root $T/exec -H unix://$T/second.sock",
    );
    ran.complains(&["hint:", &engine.path("exec").display().to_string()]);
    assert_ne!(ran.code, 124, "{ran}");
    for left in ["exec2", "data3", "second.sock"] {
        assert!(!engine.path(left).exists(), "{left} was left behind");
    }
    let ran = engine
        .sh("timeout 5 atoll engine --data-root $T/data2 --exec-root $T/exec2 -H unix://$SOCKET");
    assert!(
        ran.code != 0 && ran.code != 124,
        "the socket is taken: {ran}"
    );
    engine.docker(&["version"]).ok();
}

#[test]
fn a_full_disk_is_a_clear_error_and_leaves_nothing() {
    let engine = Engine::start(&[]);
    drop(engine);
    // The data root is a small tmpfs inside a private mount namespace.
    let folder = tempfile::tempdir().unwrap();
    atoll_tests::image::tarball(&folder.path().join("bb.tar"));
    let bin = programs::ours("atoll");
    let script = format!(
        "T={t}; mkdir $T/data; mount -t tmpfs -o size=3m none $T/data; ip link set lo up
         head -c 20000000 /dev/urandom > $T/big; tar -C $T -cf $T/big.tar big
         {bin} engine --data-root $T/data --exec-root $T/exec -H unix://$T/s 2> $T/log & pid=$!
         export DOCKER_HOST=unix://$T/s
         for i in $(seq 200); do docker version >/dev/null 2>&1 && break; sleep 0.02; done
         before=$(find $T/data -type f ! -name '*.redb' | sort)
         code=0; docker import $T/big.tar big || code=$?
         after=$(find $T/data -type f ! -name '*.redb' | sort)
         docker images -q; docker import $T/bb.tar bb >/dev/null && docker run --rm bb echo fits
         head -c 20000000 /dev/zero > $T/data/fill; docker run --rm bb true; rm $T/data/fill
         docker ps -aq
         kill $pid; wait $pid || true
         test \"$before\" = \"$after\" || {{ echo left: \"$before\" -- \"$after\"; exit 90; }}
         exit $code",
        t = folder.path().display(),
        bin = bin.display()
    );
    let ran = Ran::of(Command::new("unshare").args(["--net", "--mount", "sh", "-uc", &script]));
    ran.complains(&["o space left on device", "hint: the disk is full"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, "fits\n"), "{ran}");
}

#[test]
fn errors_name_the_object_and_hint() {
    let engine = Engine::with_image();
    engine
        .docker(&["run", "--rm", "--isolation", "nosuch", "bb", "true"])
        .complains(&["isolation", "nosuch"]);
    engine
        .docker(&["run", "--rm", "-v", "relative:name:/x:bad", "bb", "true"])
        .complains(&[]);
    engine
        .docker(&["start", "nosuch"])
        .complains(&["No such container: nosuch"]);
    // The exit code comes from the words of the message; the hint must not change it.
    for (arguments, code, words) in [
        (&["bb", "nosuch"][..], 127, "executable file not found"),
        (&["bb", "/etc/plain"], 126, "permission denied"),
        (&["-u", "nobody7", "bb", "true"], 125, "find user nobody7"),
        (&["-u", "0:none7", "bb", "true"], 125, "find group none7"),
    ] {
        let ran = engine.docker(&[&["run", "--rm"], arguments].concat());
        assert_eq!(ran.code, code, "{ran}");
        ran.complains(&[words, "hint: "]);
    }
    let ran = engine.docker(&["run", "--rm", "-w", "/etc/plain", "bb", "true"]);
    ran.complains(&["/etc/plain", "ENOTDIR"]);
    assert!(!ran.stderr.contains("name a program"), "{ran}");
    assert_eq!(engine.docker(&["ps", "-aq"]).ok(), "");
    engine.docker(&["build", "-"]).complains(&[]);
}
