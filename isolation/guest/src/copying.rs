//! The agent's own program as a process that copies files of a container, beside it in the guest.
//!
//! Archives are its standard streams, which the agent moves between host and guest as any process's; what it has to say are
//! lines on its standard error. It ends when a stream breaks, and with the machine.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::os::fd::AsFd;

use atoll_files::{Action, Fault, FaultKind, Ids, Request};
use atoll_guest::protocol::{self, FilesMessage};

/// Bytes held at once, each way.
const PIECE: usize = 64 << 10;

/// Does what the arguments say, and says what came of it.
pub(crate) fn serve() {
    let said = match copy() {
        Ok(()) => FilesMessage::Done,
        Err(fault) => FilesMessage::Failed(fault),
    };
    say(&said);
}

fn copy() -> Result<(), Fault> {
    let other = |message: String| Fault {
        kind: FaultKind::Other,
        message,
    };
    let mut arguments = std::env::args().skip(2);
    let (pid, request) = (arguments.next(), arguments.next());
    let request = request.unwrap_or_default();
    let request: Request = serde_json::from_str(&request)
        .map_err(|error| other(format!("bad request for files: {error}")))?;
    let pid: u32 = pid
        .and_then(|pid| pid.parse().ok())
        .ok_or_else(|| other("no process is named whose files to copy".to_owned()))?;
    let root = File::open(format!("/proc/{pid}/root"))
        .map_err(|error| other(format!("cannot open the container's root: {error}")))?;
    let mut input = BufReader::with_capacity(PIECE, io::stdin());
    let mut output = io::BufWriter::with_capacity(PIECE, io::stdout());
    atoll_files::serve(
        root.as_fd(),
        Ids::Same,
        &request,
        &mut input,
        &mut output,
        &mut |stat| say(&FilesMessage::Found(stat)),
    )
    .map_err(|error| Fault::from(&error))?;
    output
        .flush()
        .map_err(|error| other(format!("cannot write the archive: {error}")))?;
    if matches!(request.action, Action::Write(_)) {
        // The host sees what is written back to it.
        rustix::fs::sync();
    }
    Ok(())
}

/// Nobody is left to tell when it fails.
fn say(message: &FilesMessage) {
    if let Ok(line) = protocol::line(message) {
        let _ = io::stderr().write_all(&line);
    }
}
