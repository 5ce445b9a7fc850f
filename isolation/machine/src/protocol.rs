//! The monitor's control socket: what is asked and answered, and a client (docs/formats/monitor-control.md).

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use atoll_sys::{mount, unix};
use serde::{Deserialize, Serialize};

use crate::config::Backend;
use crate::error::MachineError;

/// Version of the protocol, in every [`Status`].
pub const PROTOCOL_VERSION: u32 = 1;
/// Bytes of the longest request or answer, its newline included.
pub const LONGEST_LINE: usize = 4096;

/// A request: one JSON object on a line of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// How the machine is.
    Status,
    /// Stop its CPUs and devices where they are.
    Pause,
    /// Let them go on.
    Resume,
    /// Save it into the folder whose descriptor comes with the request. It goes on afterwards if it ran before.
    Save,
    /// Forget the code that was decoded so far: one saved later has the code that was executed from now on.
    ForgetCode,
    /// Write the code that was decoded into the file whose descriptor comes with the request.
    Code,
    /// Ask the guest to give this much of its memory to its balloon, or to take back what is more.
    Balloon {
        /// Bytes, in whole pages.
        bytes: u64,
    },
    /// Put a network card into an empty place; its tap's descriptor comes with the request.
    Plug {
        /// The place among the machine's devices ([`card_places`](crate::VmmConfig::card_places)).
        place: u8,
        /// The card's hardware address.
        mac: [u8; 6],
        /// The longest packet of its network, if the guest is to know.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mtu: Option<u16>,
    },
    /// Take the network card out of a place, whose driver has let go of it or loses it. An empty one stays so.
    Unplug {
        /// As for [`Request::Plug`].
        place: u8,
    },
    /// End the machine as if it were switched off.
    Stop,
}

/// Whether the CPUs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activity {
    /// They run.
    Running,
    /// They are paused.
    Paused,
    /// The machine is about to be gone.
    Ended,
}

/// How a machine is, after what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// Whether it runs.
    pub activity: Activity,
    /// Who executes it: never `auto`.
    pub backend: Backend,
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Its CPUs.
    pub cpus: u8,
    /// Bytes its balloon has of the guest, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balloon_bytes: Option<u64>,
}

/// An answer: one JSON object on a line of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It was done.
    Ok(Status),
    /// It was not.
    Error {
        /// What failed and why.
        message: String,
        /// What to do about it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
}

/// A connection to a monitor.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
}

impl Client {
    /// Connects to the monitor whose control socket is at `path`.
    ///
    /// # Errors
    /// [`MachineError::Io`] when nobody listens there.
    pub fn connect(path: &Path) -> Result<Self, MachineError> {
        let socket = unix::connect_at(path).map_err(MachineError::io(format!(
            "reach a machine at {}",
            path.display()
        )))?;
        Ok(Self { socket })
    }

    /// Has answers come within `patience`: one that does not is a failure.
    ///
    /// # Errors
    /// [`MachineError::Io`] for no time at all.
    pub fn expect_within(&self, patience: Duration) -> Result<(), MachineError> {
        let failed = MachineError::io("talk to the machine's monitor");
        self.socket.set_read_timeout(Some(patience)).map_err(failed)
    }

    /// Asks for `request`, with a folder for [`Request::Save`], a file for [`Request::Code`] or a tap for
    /// [`Request::Plug`], and waits for the answer.
    ///
    /// # Errors
    /// [`MachineError::Io`] when the connection breaks, [`MachineError::Refused`] when the monitor says no.
    pub fn ask(
        &mut self,
        request: Request,
        with: Option<BorrowedFd<'_>>,
    ) -> Result<Status, MachineError> {
        let failed = || MachineError::io("talk to the machine's monitor");
        let mut line = serde_json::to_vec(&request).map_err(|why| failed()(why.into()))?;
        line.push(b'\n');
        // As a detached mount, where we may make one: a monitor that was taken over finds no way up from it.
        let folder = with.filter(|_| request == Request::Save);
        let detached = folder.and_then(|folder| mount::clone_tree(folder, c"", false, false).ok());
        let fds: Vec<_> = detached
            .as_ref()
            .map(AsFd::as_fd)
            .or(with)
            .into_iter()
            .collect();
        // A line is far shorter than a socket's buffer: it is sent whole.
        unix::send_fds(&self.socket, &line, &fds).map_err(failed())?;
        let line = self.read_line().map_err(failed())?;
        match serde_json::from_slice(&line).map_err(|why| failed()(why.into()))? {
            Answer::Ok(status) => Ok(status),
            Answer::Error { message, hint } => Err(MachineError::Refused { message, hint }),
        }
    }

    fn read_line(&self) -> io::Result<Vec<u8>> {
        // One answer comes for one request, so nothing behind it is lost.
        let mut line = Vec::new();
        let limited = (&self.socket).take(LONGEST_LINE as u64);
        BufReader::new(limited).read_until(b'\n', &mut line)?;
        match line.pop() {
            Some(b'\n') => Ok(line),
            Some(_) if line.len() + 1 == LONGEST_LINE => {
                Err(io::Error::other("its answer is too long"))
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_have_the_form_of_the_document() {
        let text = serde_json::to_string(&Request::Save).unwrap();
        assert_eq!(text, r#"{"do":"save"}"#);
        let text = serde_json::to_string(&Request::Code).unwrap();
        assert_eq!(text, r#"{"do":"code"}"#);
        let text = serde_json::to_string(&Request::Balloon { bytes: 8 }).unwrap();
        assert_eq!(text, r#"{"do":"balloon","bytes":8}"#);
        let text = serde_json::to_string(&Request::Unplug { place: 9 }).unwrap();
        assert_eq!(text, r#"{"do":"unplug","place":9}"#);
        let plug = Request::Plug {
            place: 9,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: Some(1500),
        };
        let text = serde_json::to_string(&plug).unwrap();
        let expected = r#"{"do":"plug","place":9,"mac":[2,0,0,0,0,1],"mtu":1500}"#;
        assert_eq!(text, expected);
        for bad in [
            r#"{"do":"plug","place":256,"mac":[2,0,0,0,0,1]}"#,
            r#"{"do":"plug","place":9,"mac":[2]}"#,
            r#"{"do":"fly"}"#,
            r#"{"do":1}"#,
            r#"{"do":"balloon"}"#,
            r#"{"do":"balloon","bytes":-1}"#,
            "{}",
            "[]",
            "",
        ] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
        let status = Status {
            version: PROTOCOL_VERSION,
            activity: Activity::Paused,
            backend: Backend::Soft,
            memory_bytes: 4096,
            cpus: 2,
            balloon_bytes: None,
        };
        let text = serde_json::to_string(&Answer::Ok(status)).unwrap();
        let expected = r#"{"ok":{"version":1,"activity":"paused","backend":"soft","memory_bytes":4096,"cpus":2}}"#;
        assert_eq!(text, expected);
        let error = r#"{"error":{"message":"m"}}"#;
        let parsed: Answer = serde_json::from_str(error).unwrap();
        assert_eq!(serde_json::to_string(&parsed).unwrap(), error);
    }
}
