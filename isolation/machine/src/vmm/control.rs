//! The control socket: its server, a thread for each connection.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread;

use atoll_machine::devices::{Balloon, Cards};
use atoll_machine::protocol::{Activity, Answer, LONGEST_LINE, PROTOCOL_VERSION, Request, Status};
use atoll_machine::{Backend, Machine, MachineError, VmmConfig};
use atoll_sys::unix;

use crate::Current;
use crate::host::Host;

/// Connections at once; more are closed at once.
const MAX_CONNECTIONS: usize = 16;

/// What the connections share.
struct Server {
    current: Current,
    config: VmmConfig,
    backend: Backend,
    balloon: Option<Balloon>,
    cards: Cards,
    connections: AtomicUsize,
}

/// Serves the machine that is current, on threads of their own.
pub(crate) fn serve(
    listener: UnixListener,
    current: &Current,
    config: &VmmConfig,
    host: &Host,
) -> Result<(), MachineError> {
    let server = Arc::new(Server {
        current: Arc::clone(current),
        config: config.clone(),
        backend: host.backend(),
        balloon: host.balloon(),
        cards: host.cards(),
        connections: AtomicUsize::new(0),
    });
    thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            for socket in listener.incoming() {
                let Ok(socket) = socket else {
                    // Out of descriptors, most likely: others have to close theirs first.
                    thread::sleep(std::time::Duration::from_millis(10));
                    continue;
                };
                accept(&server, socket);
            }
        })
        .map_err(MachineError::io("start a thread"))?;
    Ok(())
}

fn accept(server: &Arc<Server>, socket: UnixStream) {
    if server.connections.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
        server.connections.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let connection = Arc::clone(server);
    let started = thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            // Whatever is wrong with a connection ends it and nothing else.
            let _ = converse(&connection, socket);
            connection.connections.fetch_sub(1, Ordering::Relaxed);
        });
    if started.is_err() {
        server.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers requests until the client leaves.
fn converse(server: &Server, mut socket: UnixStream) -> io::Result<()> {
    let mut line = Vec::new();
    let mut fds = Vec::new();
    let mut buffer = [0; LONGEST_LINE];
    loop {
        let (count, more) = unix::recv_fds(&socket, &mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        fds.extend(more);
        for &byte in &buffer[..count] {
            if byte != b'\n' {
                line.push(byte);
            } else {
                let fds = std::mem::take(&mut fds);
                let (answer, ended) = server.answer(&line, fds);
                let mut answer = serde_json::to_vec(&answer)?;
                answer.push(b'\n');
                let sent = socket.write_all(&answer);
                // After the answer: this process ends with its machine.
                ended.iter().for_each(|machine| machine.stop());
                sent?;
                line.clear();
            }
        }
        if line.len() >= LONGEST_LINE || fds.len() > 1 {
            return Ok(());
        }
    }
}

impl Server {
    /// The answer, and the machine to stop once it is sent.
    fn answer(&self, line: &[u8], fds: Vec<OwnedFd>) -> (Answer, Option<Arc<Machine>>) {
        let refused = |message: String, hint: Option<&str>| {
            let hint = hint.map(str::to_owned);
            (Answer::Error { message, hint }, None)
        };
        let request = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(why) => return refused(format!("this is no request: {why}"), None),
        };
        let machine = {
            let seat = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            seat.machine.clone()
        };
        let Some(machine) = machine else {
            return refused("the machine is being started".to_owned(), Some("ask again"));
        };
        if let Err(error) = self.perform(request, &machine, fds) {
            return refused(atoll_sys::with_causes(&error), error.hint().as_deref());
        }
        let ended = (request == Request::Stop).then(|| Arc::clone(&machine));
        let status = Status {
            version: PROTOCOL_VERSION,
            activity: if ended.is_some() {
                Activity::Ended
            } else {
                machine.activity()
            },
            backend: self.backend,
            memory_bytes: machine.memory().len(),
            cpus: machine.cpus(),
            balloon_bytes: self.balloon.as_ref().map(Balloon::bytes),
        };
        (Answer::Ok(status), ended)
    }

    fn perform(
        &self,
        request: Request,
        machine: &Machine,
        fds: Vec<OwnedFd>,
    ) -> Result<(), MachineError> {
        match request {
            // Stopping is for later.
            Request::Status | Request::Stop => Ok(()),
            Request::Pause => pause(machine),
            Request::Resume => {
                machine.resume();
                Ok(())
            }
            Request::Balloon { bytes } => {
                let balloon = self.balloon.as_ref().ok_or(MachineError::NoBalloon)?;
                balloon.resize(machine, bytes);
                Ok(())
            }
            Request::Plug { place, mac, mtu } => {
                let tap = fds.into_iter().next().ok_or_else(|| {
                    let why = io::Error::other("no tap came with the request");
                    MachineError::io("plug in a network card")(why)
                })?;
                self.cards.plug(machine, place.into(), tap, mac, mtu)
            }
            Request::Unplug { place } => self.cards.unplug(machine, place.into()),
            Request::ForgetCode => while_paused(machine, || {
                machine.forget_code();
                Ok(())
            }),
            Request::Code => {
                let file = fds.into_iter().next().ok_or_else(|| {
                    MachineError::Snapshot("no file came with the request".to_owned())
                })?;
                while_paused(machine, || machine.save_code(file))
            }
            Request::Save => {
                let folder = fds.first().ok_or_else(|| {
                    MachineError::Snapshot("no folder came with the request".to_owned())
                })?;
                // A folder with a state is whole, so that is last.
                let folder = folder.as_fd();
                while_paused(machine, || {
                    self.config.save(folder).and_then(|()| machine.save(folder))
                })
            }
        }
    }
}

/// Does something while the machine is paused; it goes on afterwards if it ran before.
fn while_paused(
    machine: &Machine,
    act: impl FnOnce() -> Result<(), MachineError>,
) -> Result<(), MachineError> {
    let runs = machine.activity() == Activity::Running;
    pause(machine)?;
    let done = act();
    if runs {
        machine.resume();
    }
    done
}

fn pause(machine: &Machine) -> Result<(), MachineError> {
    if machine.pause() {
        return Ok(());
    }
    let why = io::Error::other("it ended meanwhile, or its console's reader has stopped reading");
    Err(MachineError::io("pause the machine")(why))
}
