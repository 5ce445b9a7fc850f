//! Volumes behind every wall: the docker CLI makes them, containers share them, nothing is left.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use atoll_tests::{Engine, waiting};

/// A wall of each kind.
const WALLS: [&str; 4] = ["process", "vm", "system", "chroot"];

/// Runs `script` of the shell in a container that goes when it ends.
fn run(engine: &Engine, wall: &str, options: &[&str], script: &str) -> atoll_tests::Ran {
    let isolation = format!("--isolation={wall}");
    let start = ["run", "--rm", &isolation];
    engine.docker(&[&start[..], options, &["bb", "sh", "-c", script]].concat())
}

fn names(engine: &Engine, filters: &[&str]) -> Vec<String> {
    let listed = engine
        .docker(&[&["volume", "ls", "-q"], filters].concat())
        .ok();
    listed.lines().map(ToOwned::to_owned).collect()
}

fn data(engine: &Engine, name: &str) -> PathBuf {
    engine.path(&format!("data/volumes/{name}/_data"))
}

/// An image `filled` with `VOLUME /data`, where there are files of every kind.
fn filled_image(engine: &Engine) {
    engine
        .sh(r#"mkdir -p $T/img/data/deep && cd $T/img/data
            echo hello > file && chown 123:456 file && chmod 4750 file
            ln file deep/twin && ln -s /etc/passwd outside && ln -s ../../../.. deep/up
            mkfifo pipe && chmod 700 deep && chown 7:8 deep && touch -d @1000 deep
            python3 -c 'import os; os.setxattr("file", "user.colour", b"red")'
            chown 11:12 . && chmod 1777 .
            tar -C $T/img -xf $T/bb.tar
            tar -C $T/img --xattrs --format=pax -cf $T/img.tar .
            docker import -c 'VOLUME /data' -c 'CMD ["true"]' $T/img.tar filled:latest"#)
        .ok();
}

#[test]
fn volumes_are_made_listed_and_removed() {
    let engine = Engine::with_image();
    let created = engine.docker(&["volume", "create", "--label", "kind=test", "data"]);
    assert_eq!(created.ok(), "data");
    engine.docker(&["volume", "create", "other"]).ok();
    let inspected = engine.docker(&[
        "volume",
        "inspect",
        "-f",
        "{{.Name}} {{.Driver}} {{.Scope}} {{.Mountpoint}} {{.Labels.kind}}",
        "data",
    ]);
    let place = data(&engine, "data");
    let expected = format!("data local local {} test", place.display());
    assert_eq!(inspected.ok(), expected);
    assert_eq!(
        place.metadata().unwrap().permissions().mode() & 0o7777,
        0o755
    );
    assert_eq!(names(&engine, &["-f", "label=kind=test"]), ["data"]);
    assert_eq!(names(&engine, &["-f", "name=oth"]), ["other"]);
    assert_eq!(names(&engine, &["-f", "driver=local"]).len(), 2);
    assert!(names(&engine, &["-f", "driver=nfs"]).is_empty());
    engine
        .docker(&["create", "--name", "user", "-v", "data:/d", "bb", "true"])
        .ok();
    assert_eq!(names(&engine, &["-f", "dangling=true"]), ["other"]);
    assert_eq!(names(&engine, &["-f", "dangling=false"]), ["data"]);
    let id = engine.docker(&["inspect", "-f", "{{.Id}}", "user"]).ok();
    let used = engine.docker(&["volume", "rm", "data"]);
    let words = format!("remove data: volume is in use - [{id}]");
    assert!(
        used.code == 1 && used.stderr.contains(&words),
        "{}",
        used.stderr
    );
    let usage = engine
        .docker(&["system", "df", "-v", "--format", "{{json .Volumes}}"])
        .ok();
    assert!(usage.contains(r#""Links":"1""#), "{usage}");
    engine.docker(&["rm", "user"]).ok();
    engine.docker(&["volume", "rm", "data", "other"]).ok();
    assert!(names(&engine, &[]).is_empty());
    assert!(!place.exists());
    let missing = engine.docker(&["volume", "rm", "data"]);
    assert!(
        missing.stderr.contains("no such volume"),
        "{}",
        missing.stderr
    );
    engine.docker(&["volume", "rm", "-f", "data"]).ok();
    for bad in ["a", "../up", "-x/y", "sp ace"] {
        let refused = engine.docker(&["volume", "create", "--name", bad]);
        assert_ne!(refused.code, 0, "{bad}");
    }
    let refused = engine.docker(&["volume", "create", "-d", "nope", "x1"]);
    assert!(
        refused.stderr.contains("plugin \"nope\" not found"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_volume_is_shared_by_containers_behind_all_walls() {
    let engine = Engine::with_image();
    for wall in WALLS {
        let script = format!("echo from {wall} > /v/{wall}; cat /v/*; id -u > /v/uid");
        let said = run(&engine, wall, &["-v", "data:/v"], &script).ok();
        assert!(
            said.ends_with(&format!("from {wall}")) || said.contains(wall),
            "{said}"
        );
        let written = data(&engine, "data").join(wall);
        assert_eq!(
            fs::read_to_string(&written).unwrap(),
            format!("from {wall}\n")
        );
        assert_eq!(written.metadata().unwrap().uid(), 0, "{wall}");
        fs::remove_file(data(&engine, "data").join("uid")).unwrap();
        let refused = run(&engine, wall, &["-v", "data:/v:ro"], "touch /v/x");
        assert!(
            refused.stderr.contains("Read-only file system"),
            "{wall}: {}",
            refused.stderr
        );
    }
    assert_eq!(
        fs::read_dir(data(&engine, "data")).unwrap().count(),
        WALLS.len()
    );
    assert_eq!(names(&engine, &[]), ["data"]);
}

#[test]
fn what_one_container_writes_another_sees_at_once() {
    let engine = Engine::with_image();
    let serve = "until [ -e /v/ask ]; do sleep 0.1; done; cat /v/ask > /v/answer; sleep 1000";
    for (wall, name) in [("vm", "mach"), ("process", "cont")] {
        let isolation = format!("--isolation={wall}");
        let volume = format!("{name}:/v");
        engine
            .docker(&[
                "run", "-d", &isolation, "--name", name, "-v", &volume, "bb", "sh", "-c", serve,
            ])
            .ok();
        let other = if wall == "vm" { "process" } else { "vm" };
        run(
            &engine,
            other,
            &["-v", &volume],
            "echo question > /v/.a; busybox mv /v/.a /v/ask",
        )
        .ok();
        let answer = data(&engine, name).join("answer");
        waiting::until("it has answered", || {
            fs::read_to_string(&answer).is_ok_and(|text| text == "question\n")
        });
    }
}

#[test]
fn an_empty_volume_gets_what_the_image_has_there() {
    let engine = Engine::with_image();
    filled_image(&engine);
    let check = |place: &Path| {
        let meta = |name: &str| fs::symlink_metadata(place.join(name)).unwrap();
        assert_eq!(
            (meta("").uid(), meta("").gid(), meta("").mode() & 0o7777),
            (11, 12, 0o1777)
        );
        let file = meta("file");
        assert_eq!(
            (file.uid(), file.gid(), file.mode() & 0o7777),
            (123, 456, 0o4750)
        );
        assert_eq!(file.ino(), meta("deep/twin").ino());
        assert_eq!((meta("deep").mtime(), meta("deep").uid()), (1000, 7));
        assert_eq!(
            fs::read_link(place.join("outside")).unwrap(),
            Path::new("/etc/passwd")
        );
        assert_eq!(meta("pipe").mode() & 0o170_000, 0o010_000);
        let mut colour = [0; 8];
        let length = rustix::fs::getxattr(place.join("file"), "user.colour", &mut colour[..]);
        assert_eq!(&colour[..length.unwrap()], b"red");
    };
    engine
        .docker(&["create", "--name", "cc", "-v", "named:/data", "filled"])
        .ok();
    check(&data(&engine, "named"));
    engine.docker(&["rm", "cc"]).ok();
    // Not a second time, and not where it is unwanted.
    fs::remove_file(data(&engine, "named").join("file")).unwrap();
    engine
        .docker(&["run", "--rm", "-v", "named:/data", "filled", "true"])
        .ok();
    assert!(!data(&engine, "named").join("file").exists());
    engine
        .docker(&[
            "create",
            "--name",
            "cc",
            "-v",
            "bare:/data:nocopy",
            "filled",
        ])
        .ok();
    assert_eq!(fs::read_dir(data(&engine, "bare")).unwrap().count(), 0);
    engine.docker(&["rm", "cc"]).ok();
    engine
        .docker(&[
            "create",
            "--name",
            "cc",
            "--mount",
            "type=volume,src=m1,dst=/data,volume-nocopy",
            "filled",
        ])
        .ok();
    assert_eq!(fs::read_dir(data(&engine, "m1")).unwrap().count(), 0);
    engine.docker(&["rm", "cc"]).ok();
    // The image's own volume, behind the wall of a machine, with a second container of its volumes.
    engine
        .docker(&[
            "run",
            "-d",
            "--isolation=vm",
            "--name",
            "mach",
            "filled",
            "sleep",
            "1000",
        ])
        .ok();
    let seen = engine
        .docker(&["exec", "mach", "cat", "/data/deep/twin"])
        .ok();
    assert_eq!(seen, "hello");
    let name = engine
        .docker(&["inspect", "-f", "{{range .Mounts}}{{.Name}}{{end}}", "mach"])
        .ok();
    check(&data(&engine, &name));
    let from = run(
        &engine,
        "process",
        &["--volumes-from", "mach:ro"],
        "cat /data/file; touch /data/x",
    );
    assert!(
        from.stdout == "hello\n" && from.stderr.contains("Read-only"),
        "{}",
        from.stderr
    );
    engine.docker(&["rm", "-f", "-v", "mach"]).ok();
    assert!(!data(&engine, &name).exists());
    assert_eq!(names(&engine, &[]), ["bare", "m1", "named"]);
}

#[test]
fn an_images_links_lead_no_copy_out_of_its_root() {
    let engine = Engine::with_image();
    fs::write(engine.path("secret"), "outside").unwrap();
    engine
        .sh(r#"mkdir -p $T/img/etc && ln -s ../../../../../../../../$T $T/img/up && ln -s $T $T/img/abs
            cp $T/bb.tar $T/img.tar && tar -C $T/img -rf $T/img.tar ./up ./abs
            docker import -c 'CMD ["true"]' $T/img.tar links:latest"#)
        .ok();
    for place in [
        "/up",
        "/abs",
        "/up/../up",
        "/proc/self/root",
        "/proc/1/root/etc",
    ] {
        engine.docker(&["volume", "create", "trap"]).ok();
        let volume = format!("trap:{place}");
        engine
            .docker(&["create", "--name", "cc", "-v", &volume, "links"])
            .ok();
        let copied = fs::read_dir(data(&engine, "trap")).unwrap().count();
        assert_eq!(copied, 0, "{place}");
        let _ = engine.docker(&["rm", "-f", "cc"]);
        engine.docker(&["volume", "rm", "trap"]).ok();
    }
    let file = engine.docker(&["create", "-v", "trap:/etc/passwd", "links"]);
    assert!(
        file.stderr
            .contains("cannot mount volume over existing file"),
        "{}",
        file.stderr
    );
}

#[test]
fn anonymous_volumes_go_with_their_container() {
    let engine = Engine::with_image();
    run(
        &engine,
        "process",
        &["-v", "/a", "-v", "keep:/k"],
        "touch /a/x /k/y",
    )
    .ok();
    run(
        &engine,
        "vm",
        &["-v", "/a", "-v", "keep:/k"],
        "touch /a/x /k/z",
    )
    .ok();
    assert_eq!(names(&engine, &[]), ["keep"]);
    engine
        .docker(&[
            "create",
            "--name",
            "one",
            "-v",
            "/a",
            "--mount",
            "type=volume,dst=/b",
            "bb",
            "true",
        ])
        .ok();
    engine
        .docker(&[
            "create",
            "--name",
            "two",
            "--volumes-from",
            "one",
            "bb",
            "true",
        ])
        .ok();
    assert_eq!(names(&engine, &[]).len(), 3);
    engine.docker(&["rm", "-v", "one"]).ok();
    assert_eq!(names(&engine, &[]).len(), 3, "the second has them");
    engine.docker(&["rm", "-v", "two"]).ok();
    assert_eq!(names(&engine, &[]), ["keep"]);
    engine
        .docker(&["create", "--name", "one", "-v", "/a", "bb", "true"])
        .ok();
    engine.docker(&["rm", "one"]).ok();
    assert_eq!(names(&engine, &["-f", "dangling=1"]).len(), 2);
    let pruned = engine.docker(&["volume", "prune", "-f"]).ok();
    assert!(pruned.contains("Total reclaimed space"), "{pruned}");
    assert_eq!(names(&engine, &[]), ["keep"]);
    engine
        .docker(&["volume", "prune", "-f", "-a", "--filter", "label=x"])
        .ok();
    assert_eq!(names(&engine, &[]), ["keep"]);
    engine
        .docker(&["volume", "prune", "-f", "--filter", "all=1"])
        .ok();
    assert!(names(&engine, &[]).is_empty());
}

#[test]
fn volumes_with_options_are_mounted_while_a_container_runs() {
    let engine = Engine::with_image();
    filled_image(&engine);
    fs::create_dir(engine.path("srv")).unwrap();
    let device = format!("device={}", engine.path("srv").display());
    engine
        .docker(&[
            "volume",
            "create",
            "-o",
            "type=none",
            "-o",
            &device,
            "-o",
            "o=bind",
            "bound",
        ])
        .ok();
    let create = ["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs"];
    engine
        .docker(&[&create[..], &["-o", "o=size=1m,mode=711", "mem"]].concat())
        .ok();
    for wall in ["process", "vm"] {
        let script = format!(
            "echo {wall} > /b/{wall}; ls -ld /m | busybox cut -c1-10; dd if=/dev/zero of=/m/x bs=1M count=2 2>&1 | grep space; ls /m"
        );
        let said = run(&engine, wall, &["-v", "bound:/b", "-v", "mem:/m"], &script).ok();
        assert!(said.starts_with("drwx--x--x"), "{wall}: {said}");
        assert!(said.contains("No space left on device"), "{wall}: {said}");
        assert_eq!(
            fs::read_to_string(engine.path("srv").join(wall)).unwrap(),
            format!("{wall}\n")
        );
        assert_eq!(
            atoll_tests::leaks::mounts_below(&engine.path("data")),
            Vec::<String>::new()
        );
    }
    // What is in memory is kept as long as one container runs.
    let start = [
        "run",
        "-d",
        "--name",
        "holder",
        "-v",
        "mem:/data",
        "filled",
        "sleep",
        "1000",
    ];
    engine.docker(&start).ok();
    assert_eq!(
        run(
            &engine,
            "vm",
            &["-v", "mem:/m"],
            "cat /m/file; touch /m/more"
        )
        .ok(),
        "hello"
    );
    assert_eq!(
        engine.docker(&["exec", "holder", "ls", "/data/more"]).ok(),
        "/data/more"
    );
    engine.docker(&["rm", "-f", "holder"]).ok();
    assert_eq!(fs::read_dir(data(&engine, "mem")).unwrap().count(), 0);
    let made = "type=volume,src=made,dst=/m,volume-opt=type=tmpfs,volume-opt=device=tmpfs";
    assert!(
        run(
            &engine,
            "process",
            &["--mount", made],
            "grep ' /m ' /proc/mounts"
        )
        .ok()
        .contains("tmpfs")
    );
    engine
        .docker(&[
            "volume",
            "create",
            "-o",
            "type=nofs",
            "-o",
            "device=x",
            "bad",
        ])
        .ok();
    let refused = run(
        &engine,
        "process",
        &["-v", "bad:/b", "-v", "mem:/m"],
        "true",
    );
    assert_eq!(refused.code, 125);
    assert!(
        refused
            .stderr
            .contains("this kernel has no file system nofs"),
        "{}",
        refused.stderr
    );
    assert_eq!(
        atoll_tests::leaks::mounts_below(&engine.path("data")),
        Vec::<String>::new()
    );
    let refused = engine.docker(&["volume", "create", "-o", "o=ro", "worse"]);
    assert!(
        refused.stderr.contains("missing required option"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_folder_of_a_volume_can_be_mounted_and_leads_nowhere_else() {
    let engine = Engine::with_image();
    run(
        &engine,
        "process",
        &["-v", "data:/d"],
        "mkdir -p /d/a/b; echo in > /d/a/b/f; busybox ln -s / /d/root; busybox ln -s /a /d/in",
    )
    .ok();
    let mount = |subpath: &str| format!("type=volume,src=data,dst=/s,volume-subpath={subpath}");
    for wall in ["process", "vm"] {
        assert_eq!(
            run(&engine, wall, &["--mount", &mount("a/b")], "cat /s/f").ok(),
            "in"
        );
        assert_eq!(
            run(&engine, wall, &["--mount", &mount("in/b")], "cat /s/f").ok(),
            "in"
        );
        // The same folder twice: what may be written does not depend on which was looked at first.
        let read_only = format!("{},readonly", mount("a/b"));
        let script =
            "cat /s/f; echo new > /d/a/b/g; cat /s/g; rm /d/a/b/g; touch /s/x || echo refused";
        let options = ["-v", "data:/d", "--mount", &read_only];
        assert_eq!(
            run(&engine, wall, &options, script).ok(),
            "in\nnew\nrefused"
        );
        // The volume's own root.
        assert_eq!(
            run(&engine, wall, &["--mount", &mount("root")], "ls /s").ok(),
            "a\nin\nroot"
        );
    }
    let missing = run(&engine, "process", &["--mount", &mount("nope")], "true");
    assert!(
        missing
            .stderr
            .contains("failed to access volume subpath nope"),
        "{}",
        missing.stderr
    );
    let outside = run(&engine, "process", &["--mount", &mount("../x")], "true");
    assert!(
        outside.stderr.contains("relative path within the volume"),
        "{}",
        outside.stderr
    );
}

#[test]
fn inspect_and_events_tell_of_volumes() {
    let engine = Engine::with_image();
    engine
        .docker(&["run", "--rm", "-v", "data:/d:ro", "bb", "true"])
        .ok();
    engine.docker(&["volume", "rm", "data"]).ok();
    let events = engine
        .sh("docker events --since 0 --until $(date +%s.%N) --filter type=volume --format '{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.driver}}'")
        .ok();
    let expected =
        ["create", "mount", "unmount", "destroy"].map(|action| format!("{action} data local"));
    assert_eq!(events.lines().collect::<Vec<_>>(), expected);
    engine
        .docker(&[
            "create",
            "--name",
            "cc",
            "-v",
            "data:/d:ro",
            "-v",
            "/anon",
            "bb",
            "true",
        ])
        .ok();
    let format = "{{range .Mounts}}{{.Type}} {{.Destination}} {{.Driver}} {{.Mode}} {{.RW}} {{.Source}};{{end}}";
    let said = engine.docker(&["inspect", "-f", format, "cc"]).ok();
    let place = data(&engine, "data");
    assert!(
        said.contains(&format!("volume /d local ro false {};", place.display())),
        "{said}"
    );
    assert!(said.contains("volume /anon local  true "), "{said}");
    assert_eq!(
        engine
            .docker(&["ps", "-aq", "--filter", "volume=data"])
            .ok()
            .lines()
            .count(),
        1
    );
}

#[test]
fn our_own_command_knows_volumes() {
    let engine = Engine::with_image();
    assert_eq!(
        engine
            .atoll(&["volume", "create", "-l", "a=b", "data"])
            .ok(),
        "data"
    );
    engine
        .atoll(&[
            "run",
            "--rm",
            "-v",
            "data:/d",
            "bb",
            "sh",
            "-c",
            "echo kept > /d/f",
        ])
        .ok();
    assert_eq!(
        engine
            .atoll(&["run", "--rm", "-v", "data:/d", "bb", "cat", "/d/f"])
            .ok(),
        "kept"
    );
    let listed = engine.atoll(&["volume", "ls"]).ok();
    assert!(
        listed.starts_with("VOLUME NAME") && listed.contains("data"),
        "{listed}"
    );
    assert_eq!(
        engine
            .atoll(&["volume", "ls", "-q", "-f", "label=a=b"])
            .ok(),
        "data"
    );
    let place = engine
        .atoll(&["volume", "inspect", "-f", "{{.Mountpoint}}", "data"])
        .ok();
    assert_eq!(place, data(&engine, "data").display().to_string());
    engine
        .atoll(&["create", "--name", "cc", "-v", "data:/d", "bb", "true"])
        .ok();
    let used = engine.atoll(&["volume", "rm", "data"]);
    assert!(
        used.code != 0 && used.stderr.contains("volume is in use"),
        "{}",
        used.stderr
    );
    engine.atoll(&["rm", "cc"]).ok();
    let pruned = engine.atoll(&["volume", "prune"]);
    assert_eq!(
        (pruned.stdout.as_str(), pruned.stderr.as_str()),
        ("", "0B are free again\n")
    );
    assert_eq!(engine.atoll(&["volume", "prune", "--all"]).ok(), "data");
    assert_ne!(engine.atoll(&["volume", "inspect", "data"]).code, 0);
}

#[test]
fn volumes_and_who_has_them_outlive_a_killed_engine() {
    let mut engine = Engine::with_image();
    let create = [
        "volume",
        "create",
        "-o",
        "type=tmpfs",
        "-o",
        "device=tmpfs",
        "mem",
    ];
    engine.docker(&create).ok();
    for (name, wall) in [("cont", "process"), ("mach", "vm")] {
        let isolation = format!("--isolation={wall}");
        let start = [
            "run", "-d", &isolation, "--name", name, "-v", "data:/d", "-v", "mem:/m",
        ];
        engine
            .docker(
                &[
                    &start[..],
                    &["bb", "sh", "-c", "touch /m/$(hostname); sleep 1000"],
                ]
                .concat(),
            )
            .ok();
    }
    engine
        .docker(&["create", "--name", "idle", "-v", "other:/o", "bb", "true"])
        .ok();
    waiting::until("both wrote", || {
        fs::read_dir(data(&engine, "mem")).unwrap().count() == 2
    });
    engine.kill();
    engine.restart();
    for name in ["data", "mem", "other"] {
        let refused = engine.docker(&["volume", "rm", name]);
        assert!(
            refused.stderr.contains("volume is in use"),
            "{name}: {}",
            refused.stderr
        );
    }
    engine.docker(&["rm", "-f", "cont"]).ok();
    assert_eq!(
        fs::read_dir(data(&engine, "mem")).unwrap().count(),
        2,
        "the other has it"
    );
    engine.docker(&["exec", "mach", "touch", "/m/still"]).ok();
    // Ended while no engine ran.
    let pid = engine
        .docker(&["inspect", "-f", "{{.State.Pid}}", "mach"])
        .ok();
    engine.kill();
    engine.sh(&format!("kill -9 {pid}")).ok();
    engine.restart();
    waiting::until("it is unmounted", || {
        atoll_tests::leaks::mounts_below(&engine.path("data")).is_empty()
    });
    engine.docker(&["rm", "mach", "idle"]).ok();
    engine
        .docker(&["volume", "rm", "data", "mem", "other"])
        .ok();
}
