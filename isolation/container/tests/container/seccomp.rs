//! Filters that leave calls to a listener.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use atoll_container::{StartBy, create};

use crate::support::{Bundle, exec};

fn notify(bundle: &mut Bundle, calls: &[&str], nnp: bool) -> std::path::PathBuf {
    let path = bundle.path().join("listener.sock");
    bundle.process().no_new_privileges = nnp;
    bundle.linux().seccomp = Some(
        serde_json::from_value(serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": path,
            "listenerMetadata": "who",
            "syscalls": [{"names": calls, "action": "SCMP_ACT_NOTIFY"}],
        }))
        .unwrap(),
    );
    path
}

/// Takes one process: what is said of it, and the descriptor of its filter.
fn agent(listener: &UnixListener) -> JoinHandle<(serde_json::Value, OwnedFd)> {
    let listener = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut bytes = [0; 4096];
        let (count, mut fds) = atoll_sys::unix::recv_fds(&socket, &mut bytes).unwrap();
        assert_eq!(fds.len(), 1);
        let said = serde_json::from_slice(&bytes[..count]).unwrap();
        (said, fds.remove(0))
    })
}

#[test]
fn a_listener_gets_each_process_and_decides_its_calls() {
    for nnp in [true, false] {
        let mut bundle = Bundle::new();
        let path = notify(&mut bundle, &["mkdir", "mkdirat"], nnp);
        let listener = UnixListener::bind(path).unwrap();
        bundle.args(&["sleep", "60"]);
        let first = agent(&listener);
        let mut created = bundle.create().unwrap();
        let (said, of_first) = first.join().unwrap();
        assert_eq!(said["fds"][0], "seccompFd");
        assert_eq!(said["pid"], created.init.pid);
        assert_eq!(said["metadata"], "who");
        assert_eq!(said["state"]["id"], bundle.id.as_str());
        assert_eq!(said["state"]["status"], "creating");
        created.init.start().unwrap();
        let second = agent(&listener);
        let process = bundle.process().clone();
        let (container, asked) = (created.container.clone(), process.clone());
        let runs = std::thread::spawn(move || {
            let script = "echo at work; mkdir /tmp/asked; grep -E 'CapEff|NoNew' /proc/self/status";
            exec(&container, &asked, script)
        });
        let (said, of_second) = second.join().unwrap();
        assert_eq!(said["state"]["status"], "running");
        assert_ne!(said["pid"], created.init.pid);
        // A call whose listener has gone is one the kernel doesn't have.
        drop(of_second);
        let outcome = runs.join().unwrap().unwrap();
        assert!(outcome.stdout.starts_with("at work\n"), "{outcome:?}");
        assert!(
            outcome.stderr.contains("Function not implemented"),
            "{outcome:?}"
        );
        // The capability that installing took is given up.
        let nnp_shown = format!("NoNewPrivs:\t{}", u8::from(nnp));
        assert!(outcome.stdout.contains(&nnp_shown), "{outcome:?}");
        assert!(
            outcome.stdout.contains("CapEff:\t0000000020000420"),
            "{outcome:?}"
        );
        drop(of_first);
        created.container.delete(true).unwrap();
        bundle.assert_clean();
    }
}

#[test]
fn a_listener_gets_a_process_that_somebody_else_starts() {
    let mut bundle = Bundle::new();
    let path = notify(&mut bundle, &["mkdir", "mkdirat"], true);
    let listener = UnixListener::bind(path).unwrap();
    bundle.args(&["sleep", "60"]);
    // What it is told besides must not be taken for the answer to its offer, however the two are scheduled.
    for _ in 0..10 {
        let first = agent(&listener);
        let mut request = bundle.request();
        request.start_by = StartBy::Anyone;
        let created = create(request, &bundle.spec).unwrap();
        let (said, _) = first.join().unwrap();
        assert_eq!(said["pid"], created.init.pid);
        created.container.start().unwrap();
        created.container.delete(true).unwrap();
    }
    bundle.assert_clean();
}

#[test]
fn a_listener_that_is_not_there_is_told() {
    let mut bundle = Bundle::new();
    notify(&mut bundle, &["mkdir"], true);
    let error = bundle.create().unwrap_err().to_string();
    assert!(
        error.contains("failed to connect with seccomp agent at /"),
        "{error}"
    );
    bundle.assert_clean();
}

#[test]
fn what_could_not_be_answered_is_refused() {
    let mut bundle = Bundle::new();
    notify(&mut bundle, &["write"], true);
    assert_eq!(
        bundle.create().unwrap_err().to_string(),
        "linux.seccomp: SCMP_ACT_NOTIFY cannot be used for the write syscall"
    );
    notify(&mut bundle, &["mkdir"], true);
    bundle.linux().seccomp.as_mut().unwrap().default_action =
        serde_json::from_str("\"SCMP_ACT_NOTIFY\"").unwrap();
    assert_eq!(
        bundle.create().unwrap_err().to_string(),
        "linux.seccomp: SCMP_ACT_NOTIFY cannot be used as default action"
    );
    notify(&mut bundle, &["mkdir"], true);
    bundle.linux().seccomp.as_mut().unwrap().listener_path = None;
    assert!(bundle.create().is_err());
}
