//! The Task API: each method from request bytes to answer bytes.
//!
//! Source: containerd api/runtime/task/v2 and v3, whose messages are the same.

use atoll_guest::protocol::Request;
use atoll_shim_protocol::machine::{
    CONNECT, ConnectRequest, DISCONNECT, DisconnectRequest, NETWORK_SERVICE,
};
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{EnumOrUnknown, Message, MessageField};
use serde::Deserialize;
use ttrpc::Code;

use crate::clock;
use crate::failure::Failure;
use crate::machine::{Machine, Then};
use crate::process::{Exit, Phase, Process, Waiter};
use crate::server::Shim;
use crate::task::Task;

/// An answer, or `None` when it comes later.
pub(crate) type Answer = Result<Option<Vec<u8>>, Failure>;

/// Answers a request.
///
/// * `from`: where an answer that comes later goes.
pub(crate) fn dispatch(shim: &mut Shim, from: Waiter, request: &ttrpc::Request) -> Answer {
    let is_ours = matches!(
        request.service.as_str(),
        "containerd.task.v2.Task" | "containerd.task.v3.Task"
    );
    let body = request.payload.as_slice();
    if request.service == NETWORK_SERVICE {
        match request.method.as_str() {
            CONNECT => return connect_network(shim, from, body),
            DISCONNECT => return disconnect_network(shim, from, body),
            _ => {}
        }
    }
    match (is_ours, request.method.as_str()) {
        (true, "State") => state(shim, body),
        (true, "Create") => create(shim, from, body),
        (true, "Start") => start(shim, from, body),
        (true, "Delete") => delete(shim, from, body),
        (true, "Pids") => pids(shim, from, body),
        (true, "Pause") => pause(shim, body),
        (true, "Resume") => resume(shim, body),
        (true, "Checkpoint") => checkpoint(shim, body),
        (true, "Kill") => kill(shim, from, body),
        (true, "Exec") => exec(shim, from, body),
        (true, "ResizePty") => resize(shim, from, body),
        (true, "CloseIO") => close_io(shim, body),
        (true, "Update") => update(shim, from, body),
        (true, "Wait") => wait(shim, from, body),
        (true, "Stats") => stats(shim, from, body),
        (true, "Connect") => connect(shim, body),
        (true, "Shutdown") => shutdown(shim, body),
        _ => Err(Failure::new(
            Code::UNIMPLEMENTED,
            format!("/{}/{} is not supported", request.service, request.method),
        )),
    }
}

fn decode<M: Message>(body: &[u8]) -> Result<M, Failure> {
    M::parse_from_bytes(body).map_err(|error| Failure::invalid(format!("bad request: {error}")))
}

pub(crate) fn encode(message: &impl Message) -> Answer {
    message
        .write_to_bytes()
        .map(Some)
        .map_err(|error| Failure::unknown(format!("cannot write the answer: {error}")))
}

/// `google.protobuf.Empty`.
pub(crate) fn empty() -> Answer {
    Ok(Some(Vec::new()))
}

fn task<'a>(shim: &'a mut Shim, id: &str) -> Result<&'a mut Task, Failure> {
    shim.find(id)
        .ok_or_else(|| Failure::not_found("container not created"))
}

/// The container, and the machine it lives in if it does.
fn housed<'a>(
    shim: &'a mut Shim,
    id: &str,
) -> Result<(&'a mut Task, Option<&'a mut Machine>), Failure> {
    let task = shim.tasks.iter_mut().find(|task| task.id == id);
    let task = task.ok_or_else(|| Failure::not_found("container not created"))?;
    let machine = shim.machine.as_deref_mut();
    let machine = machine.filter(|_| task.is_in_machine());
    Ok((task, machine))
}

fn create(shim: &mut Shim, from: Waiter, body: &[u8]) -> Answer {
    let request: api::CreateTaskRequest = decode(body)?;
    if shim.find(&request.id).is_some() {
        return Err(Failure::new(
            Code::ALREADY_EXISTS,
            format!("container {} already exists", request.id),
        ));
    }
    let key = shim.next_key();
    let sent = shim.sent_with(from);
    let mut task = Task::create(&request, &shim.options, key, from, &mut shim.machine, sent)?;
    if shim.options.keeps && !task.is_in_machine() {
        task.abandon();
        return Err(Failure::invalid("a keeper keeps machines only"));
    }
    if task.is_in_machine() {
        task.creating = Some(Box::new(request));
        shim.tasks.push(task);
        return Ok(None);
    }
    shim.tasks.push(task);
    created(shim, &request)
}

/// The answer to `Create`, once the container is made.
pub(crate) fn created(shim: &mut Shim, request: &api::CreateTaskRequest) -> Answer {
    let pid = task(shim, &request.id)?.init.pid;
    shim.events.created(request, pid);
    encode(&api::CreateTaskResponse {
        pid,
        ..Default::default()
    })
}

fn start(shim: &mut Shim, from: Waiter, body: &[u8]) -> Answer {
    let request: api::StartRequest = decode(body)?;
    let (task, machine) = housed(shim, &request.id)?;
    if let Some(machine) = machine {
        task.start_in_machine(machine, &request.exec_id, from)?;
        return Ok(None);
    }
    let key = task.key;
    let pid = if request.exec_id.is_empty() {
        task.start()
    } else {
        task.start_exec(&request.exec_id)
    };
    // Whoever waits already must hear that a process will never run.
    shim.answer_waiters(key, &request.exec_id);
    started(shim, &request.id, &request.exec_id, pid?)
}

/// The answer to `Start`, once the process runs.
pub(crate) fn started(shim: &mut Shim, id: &str, exec_id: &str, pid: u32) -> Answer {
    shim.events.started(id, exec_id, pid);
    encode(&api::StartResponse {
        pid,
        ..Default::default()
    })
}

fn delete(shim: &mut Shim, from: Waiter, body: &[u8]) -> Answer {
    let request: api::DeleteRequest = decode(body)?;
    if shim.options.keeps {
        // It is removed by whoever sees its keeper end.
        return Err(Failure::precondition("a keeper ends with its container"));
    }
    let (task, machine) = housed(shim, &request.id)?;
    if !request.exec_id.is_empty() {
        let (process, exit) = task.delete_exec(&request.exec_id)?;
        return deleted(shim, &request.id, process, exit);
    }
    task.end()?;
    if let (Some(machine), Some(_)) = (machine, task.folder())
        && machine.is_ready()
    {
        machine.call(&request.id, Request::Delete, from, Then::Deleted)?;
        return Ok(None);
    }
    removed(shim, &request.id)
}

/// The answer to `Delete`, once nobody but us has the container.
pub(crate) fn removed(shim: &mut Shim, id: &str) -> Answer {
    let (task, machine) = housed(shim, id)?;
    let exit = task.end()?;
    task.delete()?;
    if let (Some(machine), Some(folder)) = (machine, task.folder()) {
        machine.forget(folder);
    }
    let task = shim.take_deleted(id);
    let task = task.ok_or_else(|| Failure::not_found("container not created"))?;
    for exec in task.execs {
        // Announced and never started, or ended with the container and not collected.
        let exit = exec.process.exit().unwrap_or(Exit::never_started(255));
        for waiter in &exec.process.waiters {
            shim.answer_later(*waiter, wait_response(exit));
        }
        shim.linger(exec.process.stdio);
    }
    deleted(shim, id, task.init, exit)
}

fn deleted(shim: &mut Shim, id: &str, process: Process, exit: Exit) -> Answer {
    shim.events.deleted(id, &process, exit);
    let pid = process.pid;
    for waiter in &process.waiters {
        shim.answer_later(*waiter, wait_response(exit));
    }
    shim.linger(process.stdio);
    encode(&api::DeleteResponse {
        pid,
        exit_status: exit.code,
        exited_at: MessageField::some(clock::timestamp(exit.at)),
        ..Default::default()
    })
}

fn state(shim: &mut Shim, body: &[u8]) -> Answer {
    let request: api::StateRequest = decode(body)?;
    let task = task(shim, &request.id)?;
    let is_paused = task.is_paused;
    let bundle = task.bundle.to_string_lossy().into_owned();
    let process = task.find(&request.exec_id)?;
    let status = match process.phase {
        Phase::Created => api::Status::CREATED,
        Phase::Running if is_paused => api::Status::PAUSED,
        // Until its output is read it counts as running.
        Phase::Running | Phase::Draining { .. } => api::Status::RUNNING,
        Phase::Exited(_) => api::Status::STOPPED,
    };
    let exit = process.exit();
    encode(&api::StateResponse {
        id: request.id,
        bundle,
        pid: process.pid,
        status: EnumOrUnknown::new(status),
        stdin: process.io.stdin.clone(),
        stdout: process.io.stdout.clone(),
        stderr: process.io.stderr.clone(),
        terminal: process.io.terminal,
        exit_status: exit.map_or(0, |exit| exit.code),
        exited_at: exit
            .map(|exit| clock::timestamp(exit.at))
            .map_or_else(MessageField::none, MessageField::some),
        exec_id: process.exec_id.clone(),
        ..Default::default()
    })
}

fn pids(shim: &mut Shim, from: Waiter, body: &[u8]) -> Answer {
    let request: api::PidsRequest = decode(body)?;
    let (task, machine) = housed(shim, &request.id)?;
    if let Some(machine) = machine {
        machine.call(&request.id, Request::Processes, from, Then::Pids)?;
        return Ok(None);
    }
    let processes = task
        .pids()?
        .into_iter()
        .map(|pid| api::ProcessInfo {
            pid,
            ..Default::default()
        })
        .collect();
    encode(&api::PidsResponse {
        processes,
        ..Default::default()
    })
}

fn pause(shim: &mut Shim, body: &[u8]) -> Answer {
    let request: api::PauseRequest = decode(body)?;
    let (task, machine) = housed(shim, &request.id)?;
    task.pause(machine.as_deref())?;
    shim.events.paused(&request.id);
    empty()
}

fn resume(shim: &mut Shim, body: &[u8]) -> Answer {
    let request: api::ResumeRequest = decode(body)?;
    let (task, machine) = housed(shim, &request.id)?;
    task.resume(machine.as_deref())?;
    shim.events.resumed(&request.id);
    empty()
}

fn checkpoint(shim: &mut Shim, body: &[u8]) -> Answer {
    let request: api::CheckpointTaskRequest = decode(body)?;
    let asked = crate::checkpoint::checkpoint(&request)?;
    task(shim, &request.id)?.checkpoint(asked)?;
    shim.events.checkpointed(&request.id, &request.path);
    empty()
}

fn kill(shim: &mut Shim, from: Waiter, body: &[u8]) -> Answer {
    let request: api::KillRequest = decode(body)?;
    let (exec_id, signal, all) = (&request.exec_id, request.signal, request.all);
    let (task, machine) = housed(shim, &request.id)?;
    let Some(machine) = machine else {
        task.kill(exec_id, signal, all)?;
        return empty();
    };
    let is_asked = task.kill_in_machine(machine, exec_id, signal, all, from)?;
    if is_asked { Ok(None) } else { empty() }
}

fn exec(shim: &mut Shim, from: Waiter, body: &[u8]) -> Answer {
    let request: api::ExecProcessRequest = decode(body)?;
    let key = shim.next_key();
    let sent = shim.sent_with(from);
    task(shim, &request.id)?.add_exec(&request, key, sent)?;
    shim.events.exec_added(&request.id, &request.exec_id);
    empty()
}

fn resize(shim: &mut Shim, from: Waiter, body: &[u8]) -> Answer {
    let request: api::ResizePtyRequest = decode(body)?;
    let side = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    let (task, machine) = housed(shim, &request.id)?;
    if let Some(machine) = machine {
        let (rows, columns) = (side(request.height), side(request.width));
        let is_asked = task.resize_in_machine(machine, &request.exec_id, rows, columns, from)?;
        return if is_asked { Ok(None) } else { empty() };
    }
    task.find(&request.exec_id)?
        .resize(side(request.height), side(request.width))
        .map_err(|errno| Failure::unknown(format!("cannot resize the terminal: {errno}")))?;
    empty()
}

fn close_io(shim: &mut Shim, body: &[u8]) -> Answer {
    let request: api::CloseIORequest = decode(body)?;
    let process = task(shim, &request.id)?.find(&request.exec_id)?;
    if request.stdin {
        process.stdio.close_input();
    }
    empty()
}

fn update(shim: &mut Shim, from: Waiter, body: &[u8]) -> Answer {
    let request: api::UpdateTaskRequest = decode(body)?;
    let (task, machine) = housed(shim, &request.id)?;
    let resources = &request.resources.value;
    if let (Some(machine), Some(_)) = (machine, task.folder()) {
        let resources = Box::new(crate::task::resources(resources)?);
        machine.call(&request.id, Request::Update(resources), from, Then::Done)?;
        return Ok(None);
    }
    task.update(resources)?;
    empty()
}

fn wait(shim: &mut Shim, from: Waiter, body: &[u8]) -> Answer {
    let request: api::WaitRequest = decode(body)?;
    let process: &mut Process = task(shim, &request.id)?.find(&request.exec_id)?;
    match process.exit() {
        Some(exit) => Ok(Some(wait_response(exit))),
        None => {
            process.waiters.push(from);
            Ok(None)
        }
    }
}

/// The answer to `Wait`.
pub(crate) fn wait_response(exit: Exit) -> Vec<u8> {
    let response = api::WaitResponse {
        exit_status: exit.code,
        exited_at: MessageField::some(clock::timestamp(exit.at)),
        ..Default::default()
    };
    response.write_to_bytes().unwrap_or_default()
}

fn stats(shim: &mut Shim, from: Waiter, body: &[u8]) -> Answer {
    let request: api::StatsRequest = decode(body)?;
    let (task, machine) = housed(shim, &request.id)?;
    if let (Some(machine), Some(_)) = (machine, task.folder()) {
        machine.call(&request.id, Request::Usage, from, Then::Usage)?;
        return Ok(None);
    }
    measured(task.stats()?)
}

/// The answer to `Stats`.
pub(crate) fn measured(stats: Any) -> Answer {
    encode(&api::StatsResponse {
        stats: MessageField::some(stats),
        ..Default::default()
    })
}

fn connect(shim: &mut Shim, body: &[u8]) -> Answer {
    let request: api::ConnectRequest = decode(body)?;
    let task_pid = shim.find(&request.id).map_or(0, |task| task.init.pid);
    encode(&api::ConnectResponse {
        shim_pid: std::process::id(),
        task_pid,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Default::default()
    })
}

fn connect_network(shim: &mut Shim, from: Waiter, body: &[u8]) -> Answer {
    let ConnectRequest { id, card } = parsed(body)?;
    running_machine(shim, &id)?.connect(card, from)?;
    Ok(None)
}

fn disconnect_network(shim: &mut Shim, from: Waiter, body: &[u8]) -> Answer {
    let request: DisconnectRequest = parsed(body)?;
    let machine = running_machine(shim, &request.id)?;
    machine.disconnect(&request.interface, request.gateway, from)?;
    Ok(None)
}

fn parsed<'a, M: Deserialize<'a>>(body: &'a [u8]) -> Result<M, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::invalid(format!("bad request: {error}")))
}

/// The machine of a container, which is not paused: its guest is to do something.
fn running_machine<'a>(shim: &'a mut Shim, id: &str) -> Result<&'a mut Machine, Failure> {
    let (task, machine) = housed(shim, id)?;
    if task.is_paused {
        return Err(Failure::precondition(
            "the machine is paused: its guest cannot be told of its networks",
        ));
    }
    machine.ok_or_else(|| Failure::precondition("the container is not in a machine"))
}

fn shutdown(shim: &mut Shim, body: &[u8]) -> Answer {
    let _request: api::ShutdownRequest = decode(body)?;
    // containerd asks after every deletion; with a container left there is work to do.
    if shim.tasks.is_empty() {
        shim.quit();
    }
    empty()
}
