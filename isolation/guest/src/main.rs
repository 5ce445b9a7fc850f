//! The first process of a guest, PID 1, static, out of the initial ramdisk.
//!
//! ```text
//! kernel ─► mount /proc /sys /dev ─► load /modules in order
//!        ─► with `-- --serve` on the kernel's command line: an agent for the host ([`serve`]) ─► power off
//!        ─► else: "atoll-guest: ready" on the console ─► the command after `--`, or none ─► power off
//! ```
//!
//! One thread. It reaps every orphan, since nobody else can. Whatever fails is printed on the console, and the machine
//! is powered off: a first process that ends would make the kernel panic.

#![forbid(unsafe_code)]

mod copying;
mod modules;
mod mounts;
mod serve;
mod terminal;

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use atoll_guest::protocol::{FILES, NOTHING, SERVE};
use rustix::process::{WaitOptions, wait};
use rustix::system::RebootCommand;
use rustix::time::{ClockId, clock_gettime};

/// A step that failed.
struct Failure {
    step: String,
    reason: io::Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.step, self.reason)
    }
}

impl Failure {
    fn of<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> Self {
        let step = step.into();
        move |reason| Self {
            step,
            reason: reason.into(),
        }
    }
}

fn main() {
    if std::env::args_os().skip(1).eq([NOTHING]) {
        return;
    }
    if std::env::args_os().nth(1).is_some_and(|word| word == FILES)
        && !rustix::process::getpid().is_init()
    {
        copying::serve();
        return;
    }
    if let Err(failure) = run() {
        say(format_args!("{failure}"));
    }
    if rustix::process::getpid().is_init() {
        rustix::fs::sync();
        if let Err(errno) = rustix::system::reboot(RebootCommand::PowerOff) {
            say(format_args!("cannot power off: {errno}"));
        }
    }
}

fn run() -> Result<(), Failure> {
    if !rustix::process::getpid().is_init() {
        let reason = io::Error::other("it is the first process of a guest, and nothing else");
        return Err(Failure::of("run here")(reason));
    }
    mounts::mount_all()?;
    if serves(&fs::read_to_string("/proc/cmdline").map_err(Failure::of("read /proc/cmdline"))?) {
        modules::load_all()?;
        serve::enter_root()?;
        return serve::serve();
    }
    let mut words = std::env::args_os().skip(1);
    terminal::take_console();
    modules::load_all()?;
    let now = clock_gettime(ClockId::Boottime);
    let milliseconds = now.tv_nsec / 1_000_000;
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    say(format_args!(
        "ready after {}.{milliseconds:03} s, Linux {release}",
        now.tv_sec
    ));
    if let Some(program) = words.next() {
        let status = execute(&program, words)?;
        match (status.code(), status.signal()) {
            (Some(code), _) => say(format_args!("exit {code}")),
            (None, signal) => say(format_args!("exit {}", 128 + signal.unwrap_or(0))),
        }
    }
    Ok(())
}

/// Whether the kernel's command line says `-- --serve`. Among our arguments there may be words before that, which the
/// kernel did not know.
fn serves(command_line: &str) -> bool {
    let mut words = command_line.split_ascii_whitespace();
    words.any(|word| word == "--") && words.next() == Some(SERVE)
}

/// Runs a command to its end, and reaps whatever ends meanwhile.
fn execute(
    program: &OsString,
    arguments: impl Iterator<Item = OsString>,
) -> Result<ExitStatus, Failure> {
    let step = format!("run {}", program.to_string_lossy());
    let child = Command::new(program)
        .args(arguments)
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/root")
        .env("TERM", "linux")
        .spawn()
        .map_err(Failure::of(step))?;
    loop {
        let ended = wait(WaitOptions::empty()).map_err(Failure::of("wait for the command"))?;
        if let Some((pid, status)) = ended
            && u32::try_from(pid.as_raw_nonzero().get()) == Ok(child.id())
        {
            return Ok(ExitStatus::from_raw(status.as_raw()));
        }
    }
}

/// Writes a line on the console; nobody is left to tell when that fails.
fn say(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "atoll-guest: {text}");
}

#[cfg(test)]
mod tests {
    use super::serves;

    #[test]
    fn words_before_the_end_of_the_parameters_do_not_matter() {
        assert!(serves("console=ttyS0 quiet -- --serve\n"));
        assert!(serves("hello world foo=bar -- --serve"));
        assert!(!serves("--serve quiet"));
        assert!(!serves("quiet -- /bin/echo --serve"));
        assert!(!serves("quiet --"));
    }
}
