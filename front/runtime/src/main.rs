//! `atoll-runtime`: runc's command line over `isolation/container`; by its other name,
//! `containerd-shim-atoll-v2`, the shim.
//!
//! ```text
//! argv → arguments (clap) → commands/* → atoll_container → exit code
//!                              └ report: words for people and for container managers
//! ```
//!
//! One thread until a container exists; a foreground `run` or `exec` then has one more for
//! signals, with a terminal one for input, and as a service one that waits until it is ready. Nothing outlives the command but the container.

#![forbid(unsafe_code)]

mod arguments;
mod commands;
mod foreground;
mod notify;
mod report;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::Arguments;

/// What the names begin with under which this program is the shim: `containerd-shim-atoll-v2`, or, where containerd and
/// dockerd are to run it unasked, `containerd-shim-runc-v2`.
const SHIM: &str = "containerd-shim-";

fn main() -> ExitCode {
    // Execs itself, so it comes before everything that costs time.
    if let Err(error) = atoll_sys::self_exe::protect() {
        return report::fatal_without_log(&format!(
            "cannot protect the runtime's own program file: {error}"
        ));
    }
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().and_then(OsStr::to_str);
    if name.is_some_and(|name| name.starts_with(SHIM)) {
        return atoll_shim::main();
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let log = arguments.log();
    report::init(log.clone(), arguments.debug);
    match commands::run(arguments) {
        Ok(code) => code,
        Err(failure) => failure.report(log.as_ref()),
    }
}
