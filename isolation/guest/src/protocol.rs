//! The protocol between a guest's first process (the agent) and the host (docs/formats/guest-protocol.md).
//!
//! The guest connects to the host's vsock port [`PORT`], and each connection begins with a line that says what it is
//! ([`Greeting`]): one of the agent, on which the host calls and the agent answers, and one for each stream of a
//! process, which is that stream's bytes from there on. Both sides take the other's lines to be hostile: they are
//! bounded ([`LONGEST_LINE`]) and parsed into these types or refused.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use atoll_spec::{Process, Resources, Spec};
use serde::{Deserialize, Serialize};

/// Version of the protocol, in every [`Hello`].
pub const VERSION: u32 = 4;
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
/// The first of three arguments of the agent's own program that copies files: then come the process id of the container's first
/// process and an [`atoll_files::Request`] as JSON. Archives are its standard streams; its standard error has [`FilesMessage`]s.
pub const FILES: &str = "--files";
/// Type of an [`atoll_files::Request`] as JSON in an `Exec` request of the Task API.
pub const FILES_REQUEST: &str = "io.atoll.files.v1.Request";
/// The tag of the virtiofs share that a container's files come from.
pub const SHARE_TAG: &str = "atoll";
/// Where that share is mounted in the guest.
pub const SHARE: &str = "/run/atoll/share";

/// Folder of the share, in which each further container of a pod has its files: `rootfs` and `binds` in a folder of its
/// own.
pub const MEMBERS: &str = "pod";
/// Where the shared memory of a pod is mounted: the `/dev/shm` of its containers.
pub const POD_SHM: &str = "/run/atoll/shm";

/// The tag of the virtiofs share with the upper directory of a root file system of layers.
pub const UPPER_TAG: &str = "upper";
/// Where that share is mounted: `diff` and `work` are in it.
pub const UPPER: &str = "/run/atoll/upper";
/// Where a root file system of layers is mounted; one without is `rootfs` in [`SHARE`].
pub const ROOTFS: &str = "/run/atoll/rootfs";
/// The control group of a machine's first container, which is there already in copies of a machine; no id has an `@`.
pub const FIRST_CGROUP: &str = "/@container";

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
    /// The container's id.
    pub container: String,
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
    /// The id of the container it is about.
    pub container: String,
    /// What to do.
    pub request: Request,
}

/// What the agent can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Makes the container; its streams are connected before the answer. The first one of a machine says also how the
    /// machine is to be.
    Create(Box<Create>),
    /// Makes such a container, runs a program of the agent's own in it that does nothing, and takes all of it away: what a
    /// container needs has been executed once then, and machines made of this one know the code. What is left is
    /// [`FIRST_CGROUP`] and, with a card that is not plugged in, that card, up. Nothing else of `networks`, nor of `sysctls`,
    /// `clock_ns` and `entropy`, is done, and nothing connected. Before [`Request::Create`] only.
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
    /// Says what the container used.
    Usage,
    /// Changes the container's limits.
    Update(Box<Resources>),
    /// Brings a network card up that was plugged in. Nothing stays when it fails.
    Connect(Box<Network>),
    /// Lets go of a network card, which is plugged out next.
    Disconnect {
        /// Its place among the machine's devices.
        place: u8,
        /// Where the default route leads afterwards, if it has to lead somewhere else.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gateway: Option<Ipv4Addr>,
    },
    /// Removes the container, whose first process has ended or was never started, and lets go of its files.
    Delete,
}

/// A container to make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Create {
    /// Its configuration, whose paths are the guest's.
    pub spec: Spec,
    /// The streams of its first process.
    pub streams: Streams,
    /// How the machine is to be, with its first container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Setup>,
    /// The name of its folder in [`MEMBERS`], if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
}

/// What is done once in a machine's life, before its first container is made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// The layers of the first container's root file system, if it is made of some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// The guest's network cards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
    /// Bytes of the shared memory at [`POD_SHM`], of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_bytes: Option<u64>,
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

/// How a network card of the guest's is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The place among the machine's devices where it was plugged in, and where no driver has looked yet; none for the card
    /// that the machine was made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<u8>,
    /// The name of its link. One that was not plugged in is `eth0`.
    pub interface: String,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its longest packet.
    pub mtu: u32,
    /// Its addresses, with the bits of their subnets.
    pub addresses: Vec<(Ipv4Addr, u8)>,
    /// Its routes, all of them: an address brings none. A default route takes the place of another card's.
    pub routes: Vec<Route>,
}

/// A route out by the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads.
    pub destination: Ipv4Addr,
    /// Bits of the destination; 0 is everything else.
    pub prefix_len: u8,
    /// Next hop, when it is not on the link itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
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
    /// Files to copy, by the agent's own program outside of the container, instead of running `spec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<atoll_files::Request>,
}

/// A line on the standard error of a process that copies files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilesMessage {
    /// What is at the path; an archive of it follows on the standard output, if one was asked for.
    Found(atoll_files::PathStat),
    /// All is done, and written back to the host.
    Done,
    /// It was not done.
    Failed(atoll_files::Fault),
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
        /// The container's id.
        container: String,
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
    /// What the container used.
    Usage(Box<Usage>),
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

/// What a container used; what the guest's kernel does not say is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// CPU time, in nanoseconds: all of it, in user mode, in the kernel.
    pub cpu_ns: [u64; 3],
    /// Periods in which its quota was in force, those in which it was used up, and nanoseconds of waiting for the next.
    pub throttled: [u64; 3],
    /// Bytes of memory used now, page cache included.
    pub memory_bytes: u64,
    /// Most ever.
    pub max_memory_bytes: u64,
    /// Its limit; `u64::MAX` without one.
    pub memory_limit_bytes: u64,
    /// Times the limit was met.
    pub memory_limit_hits: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
    /// The kernel's `memory.stat`.
    pub memory_details: BTreeMap<String, u64>,
    /// Processes and threads.
    pub pids: u64,
    /// How many there may be; 0 without a limit.
    pub pids_limit: u64,
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
            "{\"agent\":{\"version\":4,\"release\":\"6.1.0\"}}\n"
        );
        let stream = Greeting::Stream(StreamName {
            container: "web".to_owned(),
            process: String::new(),
            kind: StreamKind::Stdout,
        });
        assert_eq!(
            text(line(&stream).unwrap()),
            "{\"stream\":{\"container\":\"web\",\"process\":\"\",\"kind\":\"stdout\"}}\n"
        );
        let call = Call {
            id: 7,
            container: "web".to_owned(),
            request: Request::Start,
        };
        assert_eq!(
            text(line(&call).unwrap()),
            "{\"id\":7,\"container\":\"web\",\"request\":\"start\"}\n"
        );
        let call = Call {
            id: 8,
            container: "web".to_owned(),
            request: Request::Disconnect {
                place: 7,
                gateway: None,
            },
        };
        assert_eq!(
            text(line(&call).unwrap()),
            "{\"id\":8,\"container\":\"web\",\"request\":{\"disconnect\":{\"place\":7}}}\n"
        );
        let exited = Message::Exited {
            container: "web".to_owned(),
            process: "e1".to_owned(),
            code: 137,
            signal: Some(9),
            oom_killed: false,
        };
        assert_eq!(
            text(line(&exited).unwrap()),
            "{\"exited\":{\"container\":\"web\",\"process\":\"e1\",\"code\":137,\"signal\":9,\"oom_killed\":false}}\n"
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
