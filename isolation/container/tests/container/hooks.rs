//! Programs run at points of a container's life.

use std::fs;

use atoll_spec::{Hook, Hooks};

use crate::support::Bundle;

fn shell(script: &str) -> Hook {
    Hook {
        path: "/bin/sh".into(),
        args: ["sh", "-c", script].map(str::to_owned).into(),
        ..Hook::default()
    }
}

#[test]
fn hooks_run_in_order_each_in_its_place() {
    let mut bundle = Bundle::new();
    let log = bundle.path().join("log");
    let note = |name: &str| {
        // Which root it sees, and what its input says of the container.
        let log = log.display();
        shell(&format!(
            "read -r state; echo {name} $(readlink /proc/self/ns/uts) $PWD $state >>{log}"
        ))
    };
    bundle.spec.hooks = Some(Hooks {
        prestart: vec![note("prestart")],
        create_runtime: vec![note("createRuntime")],
        create_container: vec![note("createContainer1"), note("createContainer2")],
        start_container: vec![shell(
            "read -r state; echo startContainer $PWD $state >/tmp/inside",
        )],
        poststart: vec![note("poststart")],
        poststop: vec![shell("exit 1"), note("poststop")],
    });
    bundle.script("test -f /tmp/inside && readlink /proc/self/ns/uts >/tmp/uts");
    let outcome = bundle.run().unwrap();
    assert_eq!(outcome.exit, atoll_sys::process::Exit::Code(0));
    let text = fs::read_to_string(&log).unwrap();
    let host = fs::read_link("/proc/self/ns/uts").unwrap();
    let host = host.to_str().unwrap();
    let inside = fs::read_to_string(bundle.rootfs().join("tmp/uts")).unwrap();
    let rootfs = bundle.rootfs();
    let expected = [
        ("prestart", host, "creating"),
        ("createRuntime", host, "creating"),
        ("createContainer1", inside.trim(), "creating"),
        ("createContainer2", inside.trim(), "creating"),
        ("poststart", host, "running"),
        ("poststop", host, "stopped"),
    ];
    assert_eq!(text.lines().count(), expected.len(), "{text}");
    for (line, (name, namespace, status)) in text.lines().zip(expected) {
        let mut words = line.splitn(4, ' ');
        assert_eq!(words.next(), Some(name));
        assert_eq!(words.next(), Some(namespace), "{line}");
        // Those in the container's namespaces begin at its root, as with runc; the others in the bundle.
        let is_inside = namespace == inside.trim();
        let folder = if is_inside { &rootfs } else { bundle.path() };
        assert_eq!(words.next(), folder.to_str(), "{line}");
        let state: serde_json::Value = serde_json::from_str(words.next().unwrap()).unwrap();
        assert_eq!(state["status"], status, "{line}");
        assert_eq!(state["id"], bundle.id.as_str());
        if is_inside {
            assert_eq!(state["pid"], 1, "the pid as the container sees it");
        }
    }
    let started = fs::read_to_string(bundle.rootfs().join("tmp/inside")).unwrap();
    let rest = started.strip_prefix("startContainer / ").unwrap();
    let state: serde_json::Value = serde_json::from_str(rest).unwrap();
    assert_eq!(
        (&state["status"], &state["pid"]),
        (&"created".into(), &1.into())
    );
    bundle.assert_clean();
}

#[test]
fn hooks_find_the_root_in_the_hosts_place_in_the_containers_mounts() {
    // Vendors' hooks enter the mount namespace of the state's pid and mount below the path of the root, as the host has it.
    for in_userns in [false, true] {
        let mut bundle = Bundle::new();
        if in_userns {
            let map = vec![atoll_spec::IdMapping {
                container_id: 0,
                host_id: 0,
                size: 65_536,
            }];
            let linux = bundle.linux();
            linux.namespaces.push(atoll_spec::Namespace {
                kind: atoll_spec::NamespaceKind::User,
                path: None,
            });
            linux.uid_mappings.clone_from(&map);
            linux.gid_mappings = map;
        }
        // Their places are made although the program may write nowhere.
        bundle.spec.root.as_mut().unwrap().readonly = true;
        for mount in &mut bundle.spec.mounts {
            if mount.destination.as_os_str() == "/dev" {
                mount.options.push("ro".to_owned());
            }
        }
        let (rootfs, source) = (bundle.rootfs(), bundle.path().join("source"));
        fs::write(&source, "theirs\n").unwrap();
        let (rootfs, source) = (rootfs.display(), source.display());
        let enter = "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/')";
        bundle.spec.hooks = Some(Hooks {
            create_runtime: vec![shell(&format!(
                "{enter} && touch {rootfs}/tmp/a && nsenter -m -t $pid mount --bind {source} {rootfs}/tmp/a"
            ))],
            create_container: vec![shell(&format!(
                "touch tmp/b dev/b && mount --bind {source} ./tmp/b"
            ))],
            ..Hooks::default()
        });
        let text = bundle.output_of("cat /tmp/a /tmp/b; ls /dev/b; touch /tmp/c /dev/c || true");
        assert_eq!(text, "theirs\ntheirs\n/dev/b\n");
        assert!(!bundle.rootfs().join("tmp/c").exists());
        // Only in the container.
        assert_eq!(fs::read(bundle.rootfs().join("tmp/a")).unwrap(), b"");
        bundle.assert_clean();
    }
}

#[test]
fn a_hook_has_its_own_environment_or_the_programs() {
    let mut bundle = Bundle::new();
    let own = Hook {
        env: vec!["MINE=1".to_owned()],
        ..shell("/bin/env >/tmp/own")
    };
    bundle.spec.hooks = Some(Hooks {
        start_container: vec![shell("env >/tmp/programs"), own],
        ..Hooks::default()
    });
    bundle.process().env.push("THEIRS=2".to_owned());
    bundle.output_of("true");
    let read = |name: &str| fs::read_to_string(bundle.rootfs().join("tmp").join(name)).unwrap();
    assert!(read("programs").contains("THEIRS=2"));
    let own = read("own");
    assert!(own.contains("MINE=1") && !own.contains("THEIRS"), "{own}");
}

#[test]
fn a_failing_hook_inside_stops_the_container_and_is_quoted() {
    for (inside, kind) in [(false, "createContainer"), (true, "startContainer")] {
        let mut bundle = Bundle::new();
        let list = vec![shell("true"), shell("echo no luck >&2; exit 7")];
        let mut hooks = Hooks::default();
        if inside {
            hooks.start_container = list;
        } else {
            hooks.create_container = list;
        }
        bundle.spec.hooks = Some(hooks);
        bundle.script("echo not reached >/tmp/reached");
        let error = bundle.run().unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("error running {kind} hook #1: exit status 7, stderr: no luck")
        );
        assert!(!bundle.rootfs().join("tmp/reached").exists());
        if let Ok(container) = atoll_container::Container::load(&bundle.state_root(), &bundle.id) {
            container.delete(false).unwrap();
        }
        bundle.assert_clean();
    }
}

#[test]
fn a_hook_that_takes_too_long_is_killed() {
    for inside in [false, true] {
        let mut bundle = Bundle::new();
        let slow = Hook {
            timeout: Some(1),
            ..shell("exec sleep 60")
        };
        let mut hooks = Hooks::default();
        let list = if inside {
            &mut hooks.create_container
        } else {
            &mut hooks.create_runtime
        };
        list.push(slow);
        bundle.spec.hooks = Some(hooks);
        let started = std::time::Instant::now();
        let error = bundle.run().unwrap_err().to_string();
        assert!(error.contains("did not end"), "{error}");
        assert!(started.elapsed() < std::time::Duration::from_secs(10));
        bundle.assert_clean();
    }
}

#[test]
fn a_hook_without_a_program_is_told() {
    let mut bundle = Bundle::new();
    bundle.spec.hooks = Some(Hooks {
        create_container: vec![Hook {
            path: "/nosuch".into(),
            ..Hook::default()
        }],
        ..Hooks::default()
    });
    let error = bundle.run().unwrap_err().to_string();
    assert_eq!(
        error,
        "error running createContainer hook #0: exit status 127 (its program could not be executed?)"
    );
    bundle.assert_clean();
}

#[test]
fn a_failing_poststart_hook_fails_the_start_and_stops_the_container() {
    let mut bundle = Bundle::new();
    bundle.spec.hooks = Some(Hooks {
        poststart: vec![shell("echo late >&2; exit 3")],
        ..Hooks::default()
    });
    bundle.args(&["sleep", "60"]);
    let mut created = bundle.create().unwrap();
    let error = created.init.start().unwrap_err().to_string();
    assert!(
        error.contains("poststart") && error.contains("late"),
        "{error}"
    );
    let state = created.container.state().unwrap();
    assert_eq!(state.status, atoll_spec::Status::Stopped);
    created.container.delete(false).unwrap();
    bundle.assert_clean();
}

#[test]
fn a_hook_inside_is_confined_as_its_program() {
    for nnp in [true, false] {
        let mut bundle = Bundle::new();
        bundle.process().no_new_privileges = nnp;
        bundle.linux().seccomp = Some(
            serde_json::from_value(serde_json::json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
            }))
            .unwrap(),
        );
        bundle.spec.hooks = Some(Hooks {
            start_container: vec![shell("mkdir /tmp/made")],
            ..Hooks::default()
        });
        let error = bundle.run().unwrap_err().to_string();
        assert!(error.contains("Operation not permitted"), "{error}");
        assert!(!bundle.rootfs().join("tmp/made").exists());
    }
}

#[test]
fn nothing_of_a_hook_is_open_in_the_program() {
    let mut bundle = Bundle::new();
    bundle.spec.hooks = Some(Hooks {
        create_container: vec![shell("true")],
        start_container: vec![shell("true")],
        ..Hooks::default()
    });
    let text = bundle.output_of("ls /proc/self/fd");
    // The three streams and the folder being listed.
    assert_eq!(text, "0\n1\n2\n3\n");
}
