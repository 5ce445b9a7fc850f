//! The engine by itself, for work on it: `cargo run -p atoll-engine --example atolld -- --data-root … --exec-root …`.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    atoll_engine::run(atoll_engine::EngineArgs::parse())
}
