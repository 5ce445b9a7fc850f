//! From creation to deletion: start, exec, signals, pause, limits, terminals.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use atoll_container::{Container, Created, ErrorKind, ExecRequest, StartBy, StdioRequest, create};
use atoll_spec::{Memory, Pids, Resources, Status};
use atoll_sys::process::{self, Exit};

use crate::support::{Bundle, exec, piped};

/// Waits for a condition another process brings about.
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_created_container_waits_for_its_maker() {
    let mut bundle = Bundle::new();
    bundle.script("sleep 60");
    let mut created = bundle.create().unwrap();
    assert_eq!(created.container.state().unwrap().status, Status::Created);
    // Started by its maker only.
    let error = created.container.start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongStatus);
    created.init.start().unwrap();
    let state = created.container.state().unwrap();
    assert_eq!(
        (state.status, state.pid),
        (Status::Running, Some(created.init.pid))
    );
    assert_eq!(created.container.pids().unwrap(), [created.init.pid]);
    assert!(created.container.delete(false).is_err());

    created.container.kill(libc::SIGKILL, false).unwrap();
    assert_eq!(
        process::wait(created.init.pidfd.as_fd()).unwrap(),
        Exit::Signal(9)
    );
    assert_eq!(created.container.state().unwrap().status, Status::Stopped);
    let error = created.container.kill(libc::SIGTERM, false).unwrap_err();
    assert!(error.to_string().starts_with("container not running"));
    created.container.delete(false).unwrap();
    bundle.assert_clean();
}

#[test]
fn a_maker_that_gives_up_takes_the_container_along() {
    let mut bundle = Bundle::new();
    bundle.script("sleep 60");
    let created = bundle.create().unwrap();
    let (container, pidfd) = (
        created.container.clone(),
        created.init.pidfd.try_clone().unwrap(),
    );
    drop(created.init);
    assert_eq!(process::wait(pidfd.as_fd()).unwrap(), Exit::Code(1));
    container.delete(false).unwrap();
    bundle.assert_clean();
}

#[test]
fn anyone_may_start_by_fifo() {
    let mut bundle = Bundle::new();
    bundle.script("sleep 60");
    let mut request = bundle.request();
    request.start_by = StartBy::Anyone;
    let created = create(request, &bundle.spec).unwrap();
    let loaded = Container::load(&bundle.state_root(), &bundle.id).unwrap();
    assert_eq!(loaded.state().unwrap().status, Status::Created);
    loaded.start().unwrap();
    assert_eq!(loaded.state().unwrap().status, Status::Running);
    assert!(loaded.start().is_err());
    loaded.delete(true).unwrap();
    assert_eq!(
        process::wait(created.init.pidfd.as_fd()).unwrap(),
        Exit::Signal(9)
    );
    bundle.assert_clean();
}

#[test]
fn a_start_by_fifo_tells_why_the_program_failed() {
    let mut bundle = Bundle::new();
    bundle.args(&["/bad"]);
    let path = bundle.rootfs().join("bad");
    std::fs::write(&path, "no program\0").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut request = bundle.request();
    request.start_by = StartBy::Anyone;
    let created = create(request, &bundle.spec).unwrap();
    std::fs::write(
        bundle.path().join("config.json"),
        serde_json::to_vec(&bundle.spec).unwrap(),
    )
    .unwrap();
    let error = created.container.start().unwrap_err();
    assert_eq!(error.to_string(), "exec: \"/bad\": exec format error");
    assert_eq!(error.kind(), ErrorKind::CommandNotExecutable);
    created.container.delete(true).unwrap();
    let _ = process::wait(created.init.pidfd.as_fd());
}

#[test]
fn exec_joins_everything() {
    let mut bundle = Bundle::new();
    bundle.script("sleep 60");
    let mut created = bundle.create().unwrap();
    created.init.start().unwrap();
    let process = bundle.process().clone();
    let script = "for n in pid net ipc uts mnt cgroup; do [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo $n; done; \
         cat /proc/self/cgroup | grep -v ':/$'; ls /proc/$$/fd; grep CapEff /proc/self/status; exit 7";
    let outcome = exec(&created.container, &process, script).unwrap();
    assert_eq!(
        outcome.stdout, "0\n1\n2\nCapEff:\t0000000020000420\n",
        "{outcome:?}"
    );
    assert_eq!(outcome.exit, Exit::Code(7));

    let mut missing = process.clone();
    missing.args = vec!["nosuch".to_owned()];
    let error = created
        .container
        .exec(ExecRequest::new(missing))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "exec: \"nosuch\": executable file not found in $PATH"
    );

    // The calling thread's children are born in its own PID namespace again.
    let output = std::process::Command::new("readlink")
        .arg("/proc/self/ns/pid")
        .output()
        .unwrap();
    let own = std::fs::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        own.to_str().unwrap()
    );

    created.container.delete(true).unwrap();
    let _ = process::wait(created.init.pidfd.as_fd());
    bundle.assert_clean();
}

#[test]
fn pause_stops_and_resume_continues() {
    let mut bundle = Bundle::new();
    bundle.script("sleep 60");
    let mut created = bundle.create().unwrap();
    created.init.start().unwrap();
    let container = &created.container;
    container.pause().unwrap();
    assert_eq!(container.state().unwrap().status, Status::Paused);
    let error = container
        .exec(ExecRequest::new(bundle.process().clone()))
        .unwrap_err();
    assert!(error.to_string().contains("paused"), "{error}");
    container.resume().unwrap();
    assert_eq!(container.state().unwrap().status, Status::Running);
    // A frozen container dies nevertheless.
    container.pause().unwrap();
    container.delete(true).unwrap();
    assert_eq!(
        process::wait(created.init.pidfd.as_fd()).unwrap(),
        Exit::Signal(9)
    );
    bundle.assert_clean();
}

#[test]
fn limits_are_applied_and_updated() {
    let mut bundle = Bundle::new();
    bundle.script("sleep 60");
    bundle.linux().resources = Some(Resources {
        memory: Some(Memory {
            limit: Some(64 << 20),
            ..Memory::default()
        }),
        pids: Some(Pids { limit: Some(50) }),
        ..Resources::default()
    });
    let mut created = bundle.create().unwrap();
    created.init.start().unwrap();
    let stats = created.container.stats().unwrap();
    assert_eq!((stats.memory.limit_bytes, stats.pids.limit), (64 << 20, 50));
    assert!(stats.pids.current >= 1);
    let more = Resources {
        pids: Some(Pids { limit: Some(77) }),
        ..Resources::default()
    };
    created.container.update(&more).unwrap();
    let stats = created.container.stats().unwrap();
    assert_eq!((stats.memory.limit_bytes, stats.pids.limit), (64 << 20, 77));
    created.container.delete(true).unwrap();
    let _ = process::wait(created.init.pidfd.as_fd());
    bundle.assert_clean();
}

#[test]
fn half_a_mebibyte_of_memory_starts() {
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/true"]);
    bundle.linux().resources = Some(Resources {
        memory: Some(Memory {
            limit: Some(512 << 10),
            ..Memory::default()
        }),
        ..Resources::default()
    });
    assert_eq!(bundle.run().unwrap().exit, Exit::Code(0));
}

#[test]
fn the_terminal_is_the_containers_own() {
    let mut bundle = Bundle::new();
    bundle.script("tty; stty size; stat -c %t /dev/console; read line; echo got $line");
    let mut request = bundle.request();
    request.stdio = StdioRequest::Terminal {
        size: Some((33, 99)),
    };
    let mut created = create(request, &bundle.spec).unwrap();
    let mut master = std::fs::File::from(created.init.terminal.take().unwrap());
    created.init.start().unwrap();
    master.write_all(b"word\n").unwrap();
    let mut text = Vec::new();
    // EIO is a terminal's end of file.
    let _ = master.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text).replace('\r', "");
    for expected in ["/dev/pts/0\n", "33 99\n", "88\n", "got word\n"] {
        assert!(text.contains(expected), "{text}");
    }
    assert_eq!(
        process::wait(created.init.pidfd.as_fd()).unwrap(),
        Exit::Code(0)
    );
    created.container.delete(false).unwrap();
    bundle.assert_clean();
}

#[test]
fn exec_gets_a_terminal() {
    let mut bundle = Bundle::new();
    bundle.script("sleep 60");
    let mut created = bundle.create().unwrap();
    created.init.start().unwrap();
    let mut process = bundle.process().clone();
    process.args = ["sh", "-c", "tty; stty size"].map(str::to_owned).into();
    let mut request = ExecRequest::new(process);
    request.stdio = StdioRequest::Terminal {
        size: Some((11, 22)),
    };
    let mut exec = created.container.exec(request).unwrap();
    let mut text = Vec::new();
    let _ = std::fs::File::from(exec.terminal.take().unwrap()).read_to_end(&mut text);
    assert_eq!(String::from_utf8_lossy(&text), "/dev/pts/0\r\n11 22\r\n");
    assert_eq!(process::wait(exec.pidfd.as_fd()).unwrap(), Exit::Code(0));
    created.container.delete(true).unwrap();
    let _ = process::wait(created.init.pidfd.as_fd());
}

/// A running container of three processes, which have no PID namespace of their own.
fn three_in_the_hosts_pid_namespace() -> (Bundle, Created) {
    let mut bundle = Bundle::new();
    bundle
        .linux()
        .namespaces
        .retain(|ns| ns.kind != atoll_spec::NamespaceKind::Pid);
    bundle.script("sleep 61 & sleep 62 & exec sleep 60");
    let mut created = bundle.create().expect("the bundle is right");
    created.init.start().expect("it was created just now");
    wait_until("three processes", || {
        created.container.pids().expect("its cgroup is there").len() == 3
    });
    (bundle, created)
}

#[test]
fn without_a_pid_namespace_all_processes_are_found_and_killed() {
    let (bundle, created) = three_in_the_hosts_pid_namespace();
    let container = &created.container;
    container.kill(libc::SIGTERM, true).unwrap();
    let _ = process::wait(created.init.pidfd.as_fd());
    container.delete(true).unwrap();
    bundle.assert_clean();
}

#[test]
fn a_kill_ends_what_no_pid_namespace_ends() {
    let (bundle, created) = three_in_the_hosts_pid_namespace();
    let container = &created.container;
    // Only SIGKILL is for all, as only that can't be asked for by the first process itself.
    container.kill(libc::SIGTERM, false).unwrap();
    let _ = process::wait(created.init.pidfd.as_fd());
    wait_until("two processes", || container.pids().unwrap().len() == 2);
    assert_eq!(container.state().unwrap().status, Status::Stopped);
    container.kill(libc::SIGKILL, false).unwrap();
    wait_until("no process", || container.pids().unwrap().is_empty());
    let error = container.kill(libc::SIGKILL, false).unwrap_err();
    assert!(
        error.to_string().starts_with("container not running"),
        "{error}"
    );
    container.delete(false).unwrap();
    bundle.assert_clean();
}

#[test]
fn a_kill_ends_no_other_container_in_the_same_pid_namespace() {
    let mut bundle = Bundle::new();
    bundle.script("exec sleep 60");
    let mut owner = bundle.create().unwrap();
    owner.init.start().unwrap();
    let mut guest = Bundle::new();
    let namespaces = &mut guest.linux().namespaces;
    let shared = namespaces
        .iter_mut()
        .find(|ns| ns.kind == atoll_spec::NamespaceKind::Pid);
    shared.unwrap().path = Some(format!("/proc/{}/ns/pid", owner.init.pid).into());
    guest.script("sleep 61 & exec sleep 60");
    let mut created = guest.create().unwrap();
    created.init.start().unwrap();
    let container = &created.container;
    wait_until("two processes", || container.pids().unwrap().len() == 2);
    container.kill(libc::SIGKILL, false).unwrap();
    let _ = process::wait(created.init.pidfd.as_fd());
    wait_until("no process", || container.pids().unwrap().is_empty());
    assert_eq!(owner.container.pids().unwrap().len(), 1);
    container.delete(false).unwrap();
    guest.assert_clean();
    owner.container.delete(true).unwrap();
    let _ = process::wait(owner.init.pidfd.as_fd());
    bundle.assert_clean();
}

#[test]
fn threads_may_make_containers_at_once() {
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..6)
            .map(|number| {
                scope.spawn(move || {
                    let mut bundle = Bundle::new();
                    let text = bundle.output_of(&format!("echo {number}"));
                    bundle.assert_clean();
                    text
                })
            })
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert_eq!(outcomes, ["0\n", "1\n", "2\n", "3\n", "4\n", "5\n"]);
}

#[test]
fn hooks_get_the_state_and_can_refuse() {
    let mut bundle = Bundle::new();
    bundle.script("true");
    let file = bundle.path().join("seen");
    let hook = |script: String| atoll_spec::Hook {
        path: "/bin/sh".into(),
        args: ["sh", "-c", &script].map(str::to_owned).into(),
        ..atoll_spec::Hook::default()
    };
    let seen = file.display();
    bundle.spec.hooks = Some(atoll_spec::Hooks {
        create_runtime: vec![hook(format!("cat > {seen}"))],
        poststop: vec![hook(format!("cat >> {seen}"))],
        ..atoll_spec::Hooks::default()
    });
    bundle.run().unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("\"creating\"") && text.contains("\"stopped\""),
        "{text}"
    );

    bundle.spec.hooks.as_mut().unwrap().create_runtime =
        vec![hook("echo no >&2; exit 3".to_owned())];
    let error = bundle.run().unwrap_err();
    assert!(
        error.to_string().ends_with("exit status 3, stderr: no"),
        "{error}"
    );
    bundle.assert_clean();
}

#[test]
fn a_detached_streams_request_keeps_pipes_apart() {
    let mut bundle = Bundle::new();
    bundle.script("echo out; echo err >&2");
    let (stdio, reader) = piped();
    let mut request = bundle.request();
    request.stdio = stdio;
    let mut created = create(request, &bundle.spec).unwrap();
    created.init.start().unwrap();
    assert_eq!(reader.read(), ("out\n".to_owned(), "err\n".to_owned()));
    let _ = process::wait(created.init.pidfd.as_fd());
    created.container.delete(false).unwrap();
}

#[test]
fn what_a_killed_maker_leaves_is_deleted() {
    let mut bundle = Bundle::new();
    bundle.script("sleep 60");
    let created = bundle.create().unwrap();
    // As if the maker had been killed before it recorded the process: the rest is there.
    let path = bundle
        .state_root()
        .join(bundle.id.as_str())
        .join("state.json");
    let mut record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    record["pid"] = 0.into();
    std::fs::write(&path, record.to_string()).unwrap();
    created.container.delete(false).unwrap();
    assert_eq!(
        process::wait(created.init.pidfd.as_fd()).unwrap(),
        Exit::Signal(9)
    );
    bundle.assert_clean();

    // Before it wrote anything.
    let folder = bundle.state_root().join(bundle.id.as_str());
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join(".state.json.1-0"), "").unwrap();
    assert!(Container::load(&bundle.state_root(), &bundle.id).is_err());
    Container::delete_unrecorded(&bundle.state_root(), &bundle.id).unwrap();
    Container::delete_unrecorded(&bundle.state_root(), &bundle.id).unwrap();
    bundle.assert_clean();
}

#[test]
fn a_created_container_ends_when_it_is_asked_to() {
    let mut bundle = Bundle::new();
    bundle.args(&["true"]);
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut request = bundle.request();
        request.start_by = StartBy::Anyone;
        let created = create(request, &bundle.spec).unwrap();
        created.container.kill(signal, false).unwrap();
        let exit = process::wait(created.init.pidfd.as_fd()).unwrap();
        assert_eq!(exit, Exit::Code(128 + signal));
        created.container.delete(false).unwrap();
        bundle.assert_clean();
    }
}
