//! The console as a terminal.

use std::fs::{self, OpenOptions};
use std::os::fd::AsFd;

use rustix::process::{ioctl_tiocsctty, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

/// Makes the device behind /dev/console our standard streams and controlling terminal, so that keys like Ctrl-C reach
/// the command. When there is none, the streams stay as the kernel made them.
pub(crate) fn take_console() {
    // The last of several consoles is the one /dev/console means.
    let Ok(active) = fs::read_to_string("/sys/class/tty/console/active") else {
        return;
    };
    let Some(name) = active.split_whitespace().last() else {
        return;
    };
    let path = format!("/dev/{name}");
    let Ok(console) = OpenOptions::new().read(true).write(true).open(path) else {
        return;
    };
    let console = console.as_fd();
    // Each step is a comfort: a command without job control is better than none.
    let _ = setsid();
    let _ = ioctl_tiocsctty(console);
    let _ = dup2_stdin(console);
    let _ = dup2_stdout(console);
    let _ = dup2_stderr(console);
}
