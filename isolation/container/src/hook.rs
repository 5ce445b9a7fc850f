//! Programs the configuration wants run.
//!
//! Spec: OCI runtime-spec 1.3, config.md#posix-platform-hooks.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::Duration;

use atoll_spec::{Hook, Hooks, State};
use atoll_sys::process;
use atoll_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Error, Result};

/// Whether the first process waits for hooks between the making of namespaces and pivot_root; it also does when it runs
/// some of its own then, whose input it must not read too early.
pub(crate) fn run_before_start(hooks: &Hooks) -> bool {
    run_outside(hooks) || !hooks.create_container.is_empty()
}

/// Whether there are hooks that the runtime runs in its own namespaces before pivot_root.
pub(crate) fn run_outside(hooks: &Hooks) -> bool {
    !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty()
}

/// Runs hooks in order with the container's state on their standard input.
///
/// # Errors
/// [`Error::Hook`] for the first that can't be run, fails or takes too long (and is killed).
pub(crate) fn run(kind: &'static str, hooks: &[Hook], state: &State) -> Result<()> {
    for (at, hook) in hooks.iter().enumerate() {
        run_one(hook, state).map_err(|reason| Error::Hook {
            kind,
            at,
            reason: format!("{}: {reason}", hook.path.display()),
        })?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &State) -> std::result::Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let input = serde_json::to_vec(state).map_err(|error| error.to_string())?;
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    let pairs = hook.env.iter().filter_map(|entry| entry.split_once('='));
    command.env_clear().envs(pairs);
    // The folder may be gone by the time of the last hooks.
    if state.bundle.is_dir() {
        command.current_dir(&state.bundle);
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(text)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read its input.
        let _ = stdin.write_all(&input);
    }
    if let Some(seconds) = hook.timeout.and_then(|seconds| u64::try_from(seconds).ok())
        && !ends_within(child.id(), Duration::from_secs(seconds))
    {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("did not end within {seconds} s"));
    }
    let output = child.wait_with_output().map_err(text)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let how = match (output.status.code(), output.status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown end".to_owned(),
    };
    Err(format!("{how}, stderr: {}", said.trim()))
}

fn ends_within(pid: u32, time: Duration) -> bool {
    let Ok(pidfd) = process::open(pid) else {
        return true;
    };
    let limit = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&limit)).is_ok_and(|count| count > 0)
}
