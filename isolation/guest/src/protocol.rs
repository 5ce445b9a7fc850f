//! The protocol between a guest's first process (the agent) and the host (docs/formats/guest-protocol.md).
//!
//! The guest connects to the host's vsock port [`PORT`], and each connection begins with a line that says what it is
//! ([`Greeting`]): one of the agent, on which the host calls and the agent answers, and one for each stream of a
//! process, which is that stream's bytes from there on. Both sides take the other's lines to be hostile: they are
//! bounded ([`LONGEST_LINE`]) and parsed into these types or refused.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use atoll_spec::{Process, Spec};
use serde::{Deserialize, Serialize};

/// Version of the protocol, in every [`Hello`].
pub const VERSION: u32 = 2;
/// The host's port that guests connect to.
pub const PORT: u32 = 1024;
/// Bytes of the longest line, its newline included: a container's whole configuration is on one.
pub const LONGEST_LINE: usize = 4 << 20;
/// Bytes of the longest line the host takes from a guest.
pub const LONGEST_ANSWER: usize = 256 << 10;
/// Bytes of the longest greeting, its newline included.
pub const LONGEST_GREETING: usize = 1024;
/// The word on the kernel's command line, after `--`, that makes the first process an agent.
pub const SERVE: &str = "--serve";
/// The only argument of the agent's own program that does nothing.
pub const NOTHING: &str = "--nothing";
/// The tag of the virtiofs share that a container's files come from.
pub const SHARE_TAG: &str = "atoll";
/// Where that share is mounted in the guest.
pub const SHARE: &str = "/run/atoll/share";

/// The tag of the virtiofs share with the upper directory of a root file system of layers.
pub const UPPER_TAG: &str = "upper";
/// Where that share is mounted: `diff` and `work` are in it.
pub const UPPER: &str = "/run/atoll/upper";
/// Where a root file system of layers is mounted; one without is `rootfs` in [`SHARE`].
pub const ROOTFS: &str = "/run/atoll/rootfs";

/// The first line of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Greeting {
    /// The agent's own connection: it is ready.
    Agent(Hello),
    /// A stream of a process.
    Stream(StreamName),
}

/// Who the agent is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// The guest kernel's release.
    pub release: String,
}

/// Which stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamName {
    /// The process: empty for the container's first.
    pub process: String,
    /// Which of its streams.
    pub kind: StreamKind,
}

/// A stream of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamKind {
    /// From the host to the process; its end closes the process's standard input.
    Stdin,
    /// From the process to the host.
    Stdout,
    /// From the process to the host.
    Stderr,
    /// Both ways.
    Terminal,
}

/// The streams a process is to have. Those it has not lead to `/dev/null`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// A terminal instead of three streams.
    pub terminal: bool,
    /// Whether there is a standard input.
    pub stdin: bool,
    /// The terminal's rows and columns, when they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<(u16, u16)>,
}

/// A request of the host's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Comes back with the answer.
    pub id: u64,
    /// What to do.
    pub request: Request,
}

/// What the agent can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Makes the container; its streams are connected before the answer. Once in a machine's life.
    Create(Box<Create>),
    /// Makes such a container, runs a program of the agent's own in it that does nothing, and takes all of it away: what a
    /// container needs has been executed once then, and machines made of this one know the code. Nothing of `network`,
    /// `sysctls`, `clock_ns` and `entropy` is done, and nothing connected. Before [`Request::Create`] only.
    Rehearse(Box<Create>),
    /// Executes the container's program.
    Start,
    /// Runs one more process.
    Exec(Box<Exec>),
    /// Sends a signal.
    Signal {
        /// The process: empty for the container's first.
        process: String,
        /// The signal's number.
        signal: i32,
        /// To every process of the container.
        all: bool,
    },
    /// Gives a terminal a size.
    Resize {
        /// The process: empty for the container's first.
        process: String,
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// Lists the container's processes.
    Processes,
}

/// A container to make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Create {
    /// Its id.
    pub id: String,
    /// Its configuration, whose paths are the guest's.
    pub spec: Spec,
    /// The streams of its first process.
    pub streams: Streams,
    /// The layers of its root file system, if it is made of some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// The guest's network, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Settings of the guest's network: `net.ipv4.ip_forward` → `1`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Nanoseconds since 1970 when this was sent.
    pub clock_ns: u64,
    /// Random bytes of the host's.
    pub entropy: Vec<u8>,
}

/// Layers: the partitions of the guest's first disk, each an EROFS file system, the first on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// How many, 1 to 255.
    pub count: u8,
}

/// How the guest's network card is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its longest packet.
    pub mtu: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// Bits of the subnet.
    pub prefix_len: u8,
    /// Where everything else is reached by.
    pub gateway: Ipv4Addr,
}

/// A process to run in the container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// Its name in later requests: not empty.
    pub process: String,
    /// What to run.
    pub spec: Process,
    /// Its streams.
    pub streams: Streams,
}

/// What the agent says on its connection after the greeting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// The answer to a call.
    Answer {
        /// The call's.
        id: u64,
        /// What came of it.
        outcome: Outcome,
    },
    /// A process has ended; what it wrote is on its streams' connections.
    Exited {
        /// The process: empty for the container's first.
        process: String,
        /// Exit status, or 128 + signal.
        code: u32,
        /// The signal that ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
        /// Whether the guest's kernel killed processes of the container for want of memory.
        oom_killed: bool,
    },
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was done.
    Done,
    /// A process runs, with this id in the guest.
    Running {
        /// Its process id.
        pid: u32,
    },
    /// The processes.
    Processes(Vec<ProcessStatus>),
    /// It was not done.
    Failed(Fault),
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What callers distinguish.
    pub kind: FaultKind,
    /// runc's words.
    pub message: String,
}

/// Kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// There is no such thing.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// Not in this state.
    WrongStatus,
    /// The request is wrong.
    InvalidArgument,
    /// Everything else.
    Other,
}

/// Type of a [`ProcessStatus`] as JSON in a `Pids` answer of the Task API.
pub const PROCESS_STATUS: &str = "io.atoll.guest.v1.ProcessStatus";

/// A process of the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Its id in the guest.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its real user.
    pub uid: u32,
    /// Minor number of its terminal's device, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<u32>,
    /// Milliseconds of CPU time it used.
    pub cpu_ms: u64,
    /// Seconds since it was started.
    pub age_s: u64,
    /// Its command line, or its name in brackets.
    pub command: String,
}

/// A line: `value` as JSON with a newline.
///
/// # Errors
/// When it is longer than [`LONGEST_LINE`].
pub fn line<T: Serialize>(value: &T) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    if line.len() > LONGEST_LINE {
        return Err(std::io::Error::other(format!(
            "a message of {} bytes is longer than the {LONGEST_LINE} allowed",
            line.len()
        )));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_form_of_the_document() {
        let text = |value: Vec<u8>| String::from_utf8(value).unwrap();
        let hello = Greeting::Agent(Hello {
            version: VERSION,
            release: "6.1.0".to_owned(),
        });
        assert_eq!(
            text(line(&hello).unwrap()),
            "{\"agent\":{\"version\":2,\"release\":\"6.1.0\"}}\n"
        );
        let stream = Greeting::Stream(StreamName {
            process: String::new(),
            kind: StreamKind::Stdout,
        });
        assert_eq!(
            text(line(&stream).unwrap()),
            "{\"stream\":{\"process\":\"\",\"kind\":\"stdout\"}}\n"
        );
        let call = Call {
            id: 7,
            request: Request::Start,
        };
        assert_eq!(
            text(line(&call).unwrap()),
            "{\"id\":7,\"request\":\"start\"}\n"
        );
        let exited = Message::Exited {
            process: "e1".to_owned(),
            code: 137,
            signal: Some(9),
            oom_killed: false,
        };
        assert_eq!(
            text(line(&exited).unwrap()),
            "{\"exited\":{\"process\":\"e1\",\"code\":137,\"signal\":9,\"oom_killed\":false}}\n"
        );
    }

    #[test]
    fn what_is_none_is_refused() {
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"agent":{"version":-1,"release":""}}"#,
            r#"{"agent":{"version":1}}"#,
            r#"{"stream":{"process":"","kind":"stdfoo"}}"#,
            r#"{"stream":{"process":7,"kind":"stdout"}}"#,
        ] {
            assert!(serde_json::from_str::<Greeting>(bad).is_err(), "{bad}");
        }
        for bad in [
            r#"{"answer":{"id":1}}"#,
            r#"{"answer":{"id":1,"outcome":"maybe"}}"#,
            r#"{"exited":{"process":"","code":-1,"oom_killed":false}}"#,
        ] {
            assert!(serde_json::from_str::<Message>(bad).is_err(), "{bad}");
        }
        assert!(line(&"x".repeat(LONGEST_LINE)).is_err());
    }
}
