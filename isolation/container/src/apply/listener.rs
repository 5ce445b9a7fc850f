//! Hands the descriptor of a filter that leaves calls open to whoever decides them.
//!
//! The process says only the descriptor's number, by write(2), since the filter may forbid or ask about anything else; the
//! runtime takes the descriptor out of it (pidfd_getfd) and sends it on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use atoll_spec::State;
use atoll_sys::rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use atoll_sys::unix;
use serde::Serialize;

use crate::error::{Result, kernel};
use crate::plan::SeccompListener;
use crate::state;

/// What a listener is told. Spec: config-linux.md#containerprocessstate.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a> {
    oci_version: &'a str,
    /// Names of the descriptors that come along.
    fds: [&'static str; 1],
    pid: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
    state: &'a State,
}

/// Takes descriptor `number` out of the process `pid` and sends it to `listener`.
///
/// # Errors
/// [`crate::Error::File`] when nobody listens, [`crate::Error::Kernel`] when the descriptor can't be taken.
pub(crate) fn hand_over(
    listener: &SeccompListener,
    state: &State,
    pid: u32,
    pidfd: BorrowedFd<'_>,
    number: i32,
) -> Result<()> {
    let fd = pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty())
        .map_err(|errno| kernel("take the seccomp descriptor out of the process", errno))?;
    let message = ProcessState {
        oci_version: atoll_spec::OCI_VERSION,
        fds: ["seccompFd"],
        pid,
        metadata: &listener.metadata,
        state,
    };
    let path: &Path = &listener.path;
    let failed = |action| move |source| state::file(action, path, source);
    let text = serde_json::to_vec(&message).map_err(std::io::Error::from);
    let text = text.map_err(failed("write to"))?;
    let socket = connect(path).map_err(failed(
        "deliver the filter: failed to connect with seccomp agent at",
    ))?;
    unix::send_fds(&socket, &text, &[fd.as_fd()]).map_err(failed("send to seccomp listener"))?;
    Ok(())
}

/// Connects, for a while again and again: the listener may be started along with the container.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let mut tries = 0;
    loop {
        match unix::connect_at(path) {
            Err(error) if is_absent(&error) && tries < 50 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            outcome => return outcome,
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}
