//! Starting an engine when none answers.

use std::env;
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::address::{Address, default_exec_root};
use crate::client::Client;
use crate::error::{Error, Message};

/// Name (`argv[0]`) of the engine we start: it makes a session of its own before anything else.
pub(crate) const DETACHED_NAME: &str = "atolld:detached";
const DEADLINE: Duration = Duration::from_secs(15);
const LOG_NAME: &str = "atolld.log";
const LAST_WORDS_BYTES: usize = 2000;

/// Connects to the engine at `address`; starts one there first when none answers.
///
/// # Errors
/// [`Error::Connect`] when none answers and none may be started there, [`Error::EngineStart`] when
/// it does not come up.
pub(crate) async fn connect_or_start(address: Address) -> Result<Client, Error> {
    let error = match Client::connect(address.clone()).await {
        Ok(client) => return Ok(client),
        Err(error) => error,
    };
    let is_nobody_there = matches!(&error, Error::Connect { source, .. }
        if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused));
    let Some(socket) = address.startable().filter(|_| is_nobody_there) else {
        return Err(error);
    };
    let exec_root = default_exec_root();
    let log = exec_root.join(LOG_NAME);
    let mut engine = spawn(socket, &exec_root, &log)?;
    anstream::eprintln!("no engine at {address}: started one (pid {})", engine.id());
    wait_for(socket, &mut engine, &log)?;
    Client::connect(address).await
}

fn spawn(socket: &Path, exec_root: &Path, log: &Path) -> Result<Child, Error> {
    let failed = |source: io::Error| Error::EngineStart {
        log: log.to_owned(),
        message: Message(source.to_string()),
    };
    fs::create_dir_all(exec_root).map_err(failed)?;
    let output = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .map_err(failed)?;
    let errors = output.try_clone().map_err(failed)?;
    let mut command = Command::new(env::current_exe().map_err(failed)?);
    command
        .arg0(DETACHED_NAME)
        .arg("--exec-root")
        .arg(exec_root);
    command
        .arg("-H")
        .arg(format!("unix://{}", socket.display()));
    if let Some(data_root) = env::var_os("ATOLL_DATA_ROOT").filter(|root| !root.is_empty()) {
        command.arg("--data-root").arg(data_root);
    }
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(failed)
}

/// Waits until the socket accepts connections, the engine has ended, or the deadline has passed.
fn wait_for(socket: &Path, engine: &mut Child, log: &Path) -> Result<(), Error> {
    let failed = |message: String| Error::EngineStart {
        log: log.to_owned(),
        message: Message(message),
    };
    let deadline = Instant::now() + DEADLINE;
    let mut pause = Duration::from_millis(1);
    while UnixStream::connect(socket).is_err() {
        if let Ok(Some(status)) = engine.try_wait() {
            // Two clients at once: the other one's engine may have won.
            if UnixStream::connect(socket).is_ok() {
                return Ok(());
            }
            let words = last_words(log);
            return Err(failed(if words.is_empty() {
                status.to_string()
            } else {
                words
            }));
        }
        if Instant::now() >= deadline {
            let seconds = DEADLINE.as_secs();
            return Err(failed(format!(
                "its socket did not answer within {seconds} s"
            )));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    Ok(())
}

/// The end of the engine's log, from a line's start.
fn last_words(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let tail = &bytes[bytes.len().saturating_sub(LAST_WORDS_BYTES)..];
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(4)..].join("\n")
}
