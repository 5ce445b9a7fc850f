//! Copying in a machine: the guest's agent runs the same code as a process of its own, whose streams are an exec's.

use std::{
    io::{self, Read as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::Arc,
};

use atoll_files::{Fault, FaultKind};
use atoll_guest::protocol::FilesMessage;
use atoll_shim_protocol::{
    AttachRequest, FRAME_HEADER_LEN, Framing, StdioUri, StreamKind, parse_frame_header, spawn,
};
use tokio::sync::oneshot;

use super::{Job, PIECE, STACK, ShimRef, told};
use crate::{
    error::{Error, ErrorKind, Result},
    names,
    shim::attach,
};

/// Longest line of the agent's that is kept.
const MAX_LINE: usize = 64 << 10;

/// Has the guest's agent serve a request.
///
/// # Errors
/// As [`super::write`]; 503 when the machine ends meanwhile.
pub(super) async fn run(shim: ShimRef, job: Job) -> Result<()> {
    let exec = format!("files-{}", &names::random_id()[..32]);
    let socket = spawn::exec_attach_socket(shim.bundle(), &exec);
    let stdio = StdioUri {
        attach_socket: socket.clone(),
        log: None,
        open_stdin: true,
        stdin_once: true,
    };
    shim.copy(&exec, &job.request, &stdio).await?;
    let wants = AttachRequest {
        stdin: true,
        stdout: true,
        stderr: true,
        framing: Framing::Multiplexed,
    };
    let connected = async {
        let stream = attach::connect(&socket, &wants).await?;
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        io::Result::Ok(stream)
    };
    let outcome = match connected.await {
        Ok(stream) => match shim.start(&exec).await {
            Ok(_) => serve(job, stream).await,
            Err(error) => Err(error),
        },
        Err(error) => Err(Error::caused(
            ErrorKind::Internal,
            "cannot reach the machine's files",
            &error,
        )),
    };
    // One that has ended is as good.
    let _ = shim.kill(&exec, crate::signal::KILL, false).await;
    let _ = shim.wait(&exec).await;
    let _ = shim.delete(&exec).await;
    outcome
}

async fn serve(job: Job, stream: UnixStream) -> Result<()> {
    let (done, hears) = oneshot::channel();
    let thread = std::thread::Builder::new().stack_size(STACK);
    let started = thread.spawn(move || drop(done.send(exchange(job, &stream))));
    started.map_err(|error| Error::caused(ErrorKind::Internal, "cannot start a thread", &error))?;
    hears
        .await
        .unwrap_or_else(|_| Err(Error::internal("the copying thread failed")))
}

/// Moves the archive both ways, and hears what became of it.
fn exchange(job: Job, stream: &UnixStream) -> Result<()> {
    job.serve(|request, input, output, on_found| {
        let sending = Arc::new(
            stream
                .try_clone()
                .map_err(|error| Error::caused(ErrorKind::Internal, "cannot copy", &error))?,
        );
        let feeder = Arc::clone(&sending);
        // Not waited for: a client that sends nothing more ends it by going away.
        let fed = std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || {
                let copied = input().and_then(|mut input| io::copy(&mut input, &mut &*feeder));
                let _ = feeder.shutdown(Shutdown::Write);
                copied.map(drop)
            });
        let fed = fed
            .map_err(|error| Error::caused(ErrorKind::Internal, "cannot start a thread", &error))?;
        let mut lines = Lines::default();
        let received = receive(stream, output, &mut |bytes| {
            lines.take(bytes, on_found);
        });
        let broken = fed.is_finished().then(|| fed.join().ok()).flatten();
        match (received, lines.end, broken) {
            (Err(error), ..) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(Error::internal("the client has gone"))
            }
            // A client that broke off looks like an archive's end to the guest.
            (_, _, Some(Err(error))) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::invalid(format!("cannot read the archive: {error}")))
            }
            (_, Some(Ok(())), _) => output
                .flush()
                .map_err(|_| Error::internal("the client has gone")),
            (_, Some(Err(fault)), _) => Err(told("", request, &fault, None)),
            (_, None, _) => Err(Error::new(
                ErrorKind::Unavailable,
                "the machine ended while files were copied",
            )),
        }
    })
}

/// Takes frames until the stream's end: the archive is the standard output, the agent's words the standard error.
fn receive(
    mut stream: &UnixStream,
    output: &mut dyn io::Write,
    on_words: &mut dyn FnMut(&[u8]),
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let mut header = [0; FRAME_HEADER_LEN];
        match stream.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        let (kind, length) =
            parse_frame_header(header).ok_or_else(|| io::Error::other("a bad frame"))?;
        let mut left = usize::try_from(length).unwrap_or(usize::MAX);
        while left > 0 {
            let room = left.min(piece.len());
            stream.read_exact(&mut piece[..room])?;
            match kind {
                StreamKind::Stdout => output
                    .write_all(&piece[..room])
                    .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?,
                StreamKind::Stderr => on_words(&piece[..room]),
            }
            left -= room;
        }
    }
}

/// What the agent said so far.
#[derive(Default)]
struct Lines {
    held: Vec<u8>,
    end: Option<Result<(), Fault>>,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], on_found: &mut dyn FnMut(atoll_files::PathStat)) {
        self.held.extend_from_slice(bytes);
        while let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.held.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(FilesMessage::Found(stat)) => on_found(stat),
                Ok(FilesMessage::Done) => self.end = Some(Ok(())),
                Ok(FilesMessage::Failed(fault)) => self.end = Some(Err(fault)),
                Err(_) => {
                    self.end = Some(Err(Fault {
                        kind: FaultKind::Other,
                        message: "the guest's agent said what is no message".to_owned(),
                    }));
                }
            }
        }
        // A guest that says nothing sensible takes no memory.
        self.held.truncate(MAX_LINE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_lines_come_in_any_pieces() {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        let text = b"{\"found\":{\"name\":\"a\",\"size\":1,\"mode\":420,\"mtime\":[1,2],\"link_target\":\"\"}}\n\"done\"\n";
        for byte in text {
            lines.take(&[*byte], &mut |stat| found.push(stat));
        }
        assert_eq!((found.len(), found[0].name.as_str()), (1, "a"));
        assert_eq!(lines.end, Some(Ok(())));
        lines.take(b"nonsense\n", &mut drop);
        assert!(matches!(lines.end, Some(Err(_))));
        lines.take(&vec![b'x'; 1 << 20], &mut drop);
        assert!(lines.held.len() <= MAX_LINE);
    }
}
