//! A connection to a service manager: its own socket, which needs no message bus, else the bus.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::user::{self, Socket};
use super::wire::{self, Call, Message, Reader, Writer};

/// How long an answer may take; starting a scope takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// Messages about other things that may come in between.
const MOST_OTHERS: usize = 10_000;

const BUS: &str = "org.freedesktop.DBus";

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    serial: u32,
    /// Signals of ended jobs that nobody has asked for yet: job, result.
    ended: Vec<(String, String)>,
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(super) enum Failed {
    /// The connection.
    Io(io::Error),
    /// Whoever was called says so: name of the error, words.
    Said(String, String),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Connection {
    /// Connects to the manager of the system, or that of the calling user.
    ///
    /// # Errors
    /// That of the last socket tried.
    pub(super) fn open(is_system: bool) -> Result<Self, Failed> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for socket in user::sockets(is_system) {
            match Self::at(&socket, is_system) {
                Ok(connection) => return Ok(connection),
                Err(Failed::Io(error)) => last = error,
                Err(failed) => return Err(failed),
            }
        }
        Err(last.into())
    }

    /// Connects to one socket of the manager of the system, or of a user's.
    fn at(socket: &Socket, is_system: bool) -> Result<Self, Failed> {
        let mut stream = UnixStream::connect_addr(&socket.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        authenticate(&mut stream, is_system)?;
        let mut connection = Self {
            stream,
            serial: 0,
            ended: Vec::new(),
        };
        if socket.is_bus {
            connection.join_bus()?;
        }
        Ok(connection)
    }

    /// On a bus one has a name, and asks for signals.
    fn join_bus(&mut self) -> Result<(), Failed> {
        let of_bus = |member, signature| Call {
            destination: BUS,
            path: "/org/freedesktop/DBus",
            interface: BUS,
            member,
            signature,
        };
        self.call(of_bus("Hello", ""), &Writer::default())?;
        let mut rule = Writer::default();
        rule.string(
            "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
        );
        self.call(of_bus("AddMatch", "s"), &rule)?;
        let subscribe = Call {
            member: "Subscribe",
            signature: "",
            ..super::MANAGER
        };
        match self.call(subscribe, &Writer::default()) {
            // By somebody of the same name before.
            Err(Failed::Said(..)) | Ok(_) => Ok(()),
            Err(failed) => Err(failed),
        }
    }

    /// Calls, and answers what came back.
    ///
    /// # Errors
    /// [`Failed`]; a time-out after [`PATIENCE`].
    pub(super) fn call(&mut self, call: Call<'_>, body: &Writer) -> Result<Message, Failed> {
        self.serial += 1;
        let serial = self.serial;
        self.stream.write_all(&wire::call(call, serial, body))?;
        for _ in 0..MOST_OTHERS {
            let message = self.receive()?;
            if message.reply_to == serial {
                match message.kind {
                    wire::RETURN => return Ok(message),
                    wire::ERROR => {
                        let words = Reader::new(&message.body).string().unwrap_or_default();
                        return Err(Failed::Said(message.error, words));
                    }
                    _ => {}
                }
            }
            self.note(&message)?;
        }
        Err(no_answer().into())
    }

    /// Waits for the end of a job; its result.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(super) fn await_job(&mut self, job: &str) -> Result<String, Failed> {
        for _ in 0..MOST_OTHERS {
            if let Some(at) = self.ended.iter().position(|(ended, _)| ended == job) {
                return Ok(self.ended.swap_remove(at).1);
            }
            let message = self.receive()?;
            self.note(&message)?;
        }
        Err(no_answer().into())
    }

    fn note(&mut self, message: &Message) -> io::Result<()> {
        if message.kind == wire::SIGNAL && message.member == "JobRemoved" {
            let mut body = Reader::new(&message.body);
            body.u32()?;
            let job = body.string()?;
            body.string()?;
            self.ended.push((job, body.string()?));
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<Message> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head).map_err(described)?;
        let mut bytes = head.to_vec();
        bytes.resize(wire::whole_len(&head)?, 0);
        self.stream
            .read_exact(&mut bytes[16..])
            .map_err(described)?;
        wire::parse(&bytes)
    }
}

fn described(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => no_answer(),
        _ => error,
    }
}

fn no_answer() -> io::Error {
    let text = format!("no answer within {} s", PATIENCE.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// By the credentials of the socket. Source: D-Bus specification, "Authentication Protocol".
///
/// The last line goes along with the first, before the answer: systemd doesn't look at a message that it read together with
/// that line before another one comes.
fn authenticate(stream: &mut UnixStream, is_system: bool) -> io::Result<()> {
    let uid = user::seen_by_manager(is_system).to_string();
    let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
    stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\nBEGIN\r\n").as_bytes())?;
    let mut line = Vec::new();
    // A byte at a time: what follows the line belongs to messages.
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).map_err(described)?;
        line.push(byte[0]);
        if line.len() > 1024 {
            break;
        }
    }
    if !line.starts_with(b"OK ") {
        let said = String::from_utf8_lossy(&line).trim().to_owned();
        let text = format!("authentication refused: {said}");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::path::{Path, PathBuf};

    use super::*;

    /// A manager that sends `answers`, raw, each after a message has come.
    fn manager(
        answers: Vec<Vec<u8>>,
    ) -> (tempfile::TempDir, PathBuf, std::thread::JoinHandle<Vec<u8>>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            let mut heard = Vec::new();
            let mut hear = |stream: &mut UnixStream, until: &dyn Fn(&[u8]) -> bool| {
                let from = heard.len();
                while !until(&heard[from..]) {
                    let count = stream.read(&mut buffer).unwrap();
                    assert_ne!(count, 0, "the client hung up");
                    heard.extend(&buffer[..count]);
                }
            };
            hear(&mut stream, &|text| text.ends_with(b"\r\n"));
            stream.write_all(b"OK 0123456789abcdef\r\n").unwrap();
            for answer in answers {
                hear(&mut stream, &|text| text.len() > 16);
                stream.write_all(&answer).unwrap();
            }
            heard
        });
        (folder, path, thread)
    }

    fn message(kind: u8, fields: &[(u8, &str, &str)], reply_to: u32, body: &Writer) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes.extend([b'l', kind, 1, 1]);
        out.u32(u32::try_from(body.bytes.len()).unwrap());
        out.u32(99);
        out.array(8, |out| {
            for (field, kind, text) in fields {
                out.align(8);
                out.byte(*field);
                out.signature(kind);
                out.string(text);
            }
            out.align(8);
            out.byte(5);
            out.signature("u");
            out.u32(reply_to);
        });
        out.align(8);
        out.bytes.extend(&body.bytes);
        out.bytes
    }

    fn removed(job: &str, result: &str) -> Vec<u8> {
        let mut body = Writer::default();
        body.u32(5);
        body.string(job);
        body.string("x.scope");
        body.string(result);
        message(wire::SIGNAL, &[(3, "s", "JobRemoved")], 0, &body)
    }

    #[test]
    fn a_job_may_end_before_its_call_is_answered() {
        let mut job = Writer::default();
        job.string("/job/5");
        let answer = [
            removed("/job/4", "done"),
            removed("/job/5", "failed"),
            message(wire::RETURN, &[], 1, &job),
        ];
        let (_folder, path, thread) = manager(vec![answer.concat()]);
        let mut connection = Connection::at(&Socket::at(&path), true).unwrap();
        let mut body = Writer::default();
        body.string("x.scope");
        let call = Call {
            member: "StopUnit",
            signature: "s",
            ..super::super::MANAGER
        };
        let answer = connection.call(call, &body).unwrap();
        assert_eq!(Reader::new(&answer.body).string().unwrap(), "/job/5");
        assert_eq!(connection.await_job("/job/5").unwrap(), "failed");
        let heard = thread.join().unwrap();
        assert!(heard.starts_with(b"\0AUTH EXTERNAL "));
    }

    #[test]
    fn errors_are_told_and_an_end_is_one() {
        let mut words = Writer::default();
        words.string("no such unit");
        let name = [(4, "s", "org.example.NoSuchUnit")];
        let (_folder, path, thread) = manager(vec![message(wire::ERROR, &name, 1, &words)]);
        let mut connection = Connection::at(&Socket::at(&path), true).unwrap();
        let call = Call {
            member: "GetUnit",
            signature: "",
            ..super::super::MANAGER
        };
        match connection.call(call, &Writer::default()) {
            Err(Failed::Said(name, words)) => {
                assert_eq!(
                    (name.as_str(), words.as_str()),
                    ("org.example.NoSuchUnit", "no such unit")
                );
            }
            other => panic!("{other:?}"),
        }
        thread.join().unwrap();
        assert!(matches!(connection.await_job("/job/1"), Err(Failed::Io(_))));
        assert!(matches!(
            Connection::at(&Socket::at(Path::new("/nonexistent/x")), true),
            Err(Failed::Io(_))
        ));
    }
}
