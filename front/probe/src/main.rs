//! `atoll-probe`: runs as a container's first process and says what things cost behind its wall.
//!
//! ```text
//! starts ─► greeting ─► reads a word ─► does it ─► answers in one line ─► … ─► end of input: exits
//! ```
//!
//! It is static and needs nothing of the image: `atoll compare` mounts it into any. Words and
//! answers are in docs/formats/probe.md.
//!
//! Threads: one answers, one reads words. It handles no signal; as the first process of a pid
//! namespace only SIGKILL ends it, or the end of its input, which comes when the client that holds
//! it dies; a command that still runs then ends with it.
#![forbid(unsafe_code)]

mod command;
mod cost;
mod line;

use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use line::Line;

/// Exit code when a word is unknown or the answer can't be written.
const FAILED: u8 = 125;

fn main() -> ExitCode {
    let command: Vec<OsString> = std::env::args_os().skip(1).collect();
    match serve(&command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "atoll-probe: {error}");
            ExitCode::from(FAILED)
        }
    }
}

/// Whether the user's command runs.
static RUNS: AtomicBool = AtomicBool::new(false);

/// Answers one word after the other until the input ends.
fn serve(command: &[OsString]) -> io::Result<()> {
    say(&greeting())?;
    let (sender, words) = channel();
    thread::spawn(move || read(&sender));
    for word in words {
        let answer = match word?.as_str() {
            "measure" => measure(),
            "run" => {
                RUNS.store(true, Ordering::SeqCst);
                let answer = command::run(command);
                RUNS.store(false, Ordering::SeqCst);
                answer
            }
            other => return Err(io::Error::other(format!("unknown word {other:?}"))),
        };
        say(&answer)?;
    }
    Ok(())
}

/// Passes words on until the input ends.
fn read(words: &Sender<io::Result<String>>) {
    for word in io::stdin().lock().lines() {
        if words.send(word).is_err() {
            return;
        }
    }
    if RUNS.load(Ordering::SeqCst) {
        #[expect(
            clippy::exit,
            reason = "the other thread waits for the command, which nobody awaits"
        )]
        std::process::exit(FAILED.into());
    }
}

fn greeting() -> Line {
    let system = rustix::system::uname();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Line::new()
        .number("probe", 1.0)
        .text("kernel", &system.release().to_string_lossy())
        .number("cpus", u32::try_from(cpus).unwrap_or(u32::MAX).into())
}

fn measure() -> Line {
    Line::new()
        .number("system_call_ns", cost::system_call_ns())
        .number("page_fault_ns", cost::page_fault_ns())
        .number("integer_ns", cost::integer_ns())
        .number("copy_ns", cost::copy_ns())
}

/// Writes one line at once, so that no reader sees half of it.
fn say(line: &Line) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(line.finished().as_bytes())?;
    out.flush()
}
