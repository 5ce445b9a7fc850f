//! The `atoll` command: Docker's verbs as a client of the engine's API.
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
mod error;
mod frames;
mod human;
mod pipes;
mod print;
mod progress;
mod session;
mod table;
mod template;
mod terminal;
mod values;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

use crate::address::Address;
use crate::arguments::Cli;
use crate::error::Error;

/// Exit code of a command line that can't be read, as Docker's.
const USAGE: u8 = 125;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to the standard output; a closed one is no reason to fail.
            let _ = error.print();
            return if error.use_stderr() {
                USAGE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match run(cli) {
        Ok(code) => code.into(),
        Err(error) => {
            error::report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<u8, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start"))?;
    let code = runtime.block_on(async {
        let address = Address::choose(cli.host.as_deref())?;
        let client = autostart::connect_or_start(address).await?;
        verbs::dispatch(&client, cli.verb).await
    });
    // A thread may still wait for input that nobody will type.
    runtime.shutdown_background();
    code
}
