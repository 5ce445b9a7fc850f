//! The `atoll` command: Docker's verbs as a client of the engine's API, and the engine itself.
//!
//! Named `atolld`, or asked for `atoll engine`, it is the engine (`atoll_engine::run`); all else
//! here is the client:
//!
//! ```text
//! arguments ─► container_config (pure) ─► client ─► engine's socket
//!                                           │ none answers: autostart
//! session: stdin ─► connection ─► frames ─► stdout, stderr;  signals, window size, detach keys
//! ```
//!
//! Threads: one runs all requests; while streams are attached, one more reads our input and one
//! writes our output, so that neither waits for the other. Signals are passed on to an attached
//! container. When the engine dies the client reports it and ends; a container goes on. When the
//! client dies the container goes on as well.
#![forbid(unsafe_code)]

mod address;
mod arguments;
mod autostart;
mod client;
mod container_config;
mod detach_keys;
mod doctor;
mod error;
mod frames;
mod human;
mod pipes;
mod ports;
mod print;
mod progress;
mod session;
mod table;
mod template;
mod terminal;
mod values;
mod verbs;

use std::path::Path;
use std::process::ExitCode;

use atoll_engine::EngineArgs;
use clap::Parser;

use crate::address::Address;
use crate::arguments::{Cli, Verb};
use crate::error::Error;

/// Exit code of a command line that can't be read, as Docker's.
const USAGE: u8 = 125;

fn main() -> ExitCode {
    match Role::of_this_process() {
        Role::Client => {}
        Role::Engine => return parsed::<EngineArgs>(atoll_engine::run),
        Role::DetachedEngine => {
            // It was started just now and leads no group, so that this can't fail; if it did, the
            // engine would only end with the terminal.
            let _ = rustix::process::setsid();
            return parsed::<EngineArgs>(atoll_engine::run);
        }
    }
    parsed::<Cli>(|cli| match cli.verb {
        Verb::Engine(args) => atoll_engine::run(*args),
        verb => match run(cli.host.as_deref(), verb) {
            Ok(code) => code.into(),
            Err(error) => {
                error::report(&error);
                ExitCode::FAILURE
            }
        },
    })
}

/// What this process is, by the name it was started with.
enum Role {
    Client,
    Engine,
    DetachedEngine,
}

impl Role {
    fn of_this_process() -> Self {
        let name = std::env::args_os().next().unwrap_or_default();
        match Path::new(&name).file_name().and_then(|name| name.to_str()) {
            Some("atolld") => Self::Engine,
            Some(autostart::DETACHED_NAME) => Self::DetachedEngine,
            _ => Self::Client,
        }
    }
}

/// Reads the command line and goes on with it; explains what is wrong with it otherwise.
fn parsed<T: Parser>(go_on: impl FnOnce(T) -> ExitCode) -> ExitCode {
    match T::try_parse() {
        Ok(arguments) => go_on(arguments),
        Err(error) => {
            // Help goes to the standard output; a closed one is no reason to fail.
            let _ = error.print();
            if error.use_stderr() {
                USAGE.into()
            } else {
                ExitCode::SUCCESS
            }
        }
    }
}

fn run(host: Option<&str>, verb: Verb) -> Result<u8, Error> {
    if let Some(done) = verbs::without_engine(&verb) {
        return done;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start"))?;
    let code = runtime.block_on(async {
        let address = Address::choose(host)?;
        let client = autostart::connect_or_start(address).await?;
        verbs::dispatch(&client, verb).await
    });
    // A thread may still wait for input that nobody will type.
    runtime.shutdown_background();
    code
}
