//! The user's terminal: its size, and raw mode that ends on every path.

use std::io::{self, IsTerminal};
use std::os::fd::BorrowedFd;

use rustix::stdio;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::error::Error;

/// Whether the standard input is a terminal.
pub(crate) fn is_input() -> bool {
    io::stdin().is_terminal()
}

/// Whether the standard output is one.
pub(crate) fn is_output() -> bool {
    io::stdout().is_terminal()
}

/// Rows and columns of the terminal on the standard output, or else input.
pub(crate) fn size() -> Option<(u16, u16)> {
    let of = |fd: BorrowedFd<'_>| tcgetwinsize(fd).ok().filter(|size| size.ws_row > 0);
    let size = of(stdio::stdout()).or_else(|| of(stdio::stdin()))?;
    Some((size.ws_row, size.ws_col))
}

/// Raw mode of the terminal on the standard input; dropping it restores what was before.
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Passes every key on as it is typed: no echo, no line editing, no signals.
    ///
    /// # Errors
    /// [`Error::Io`] when the standard input is no terminal.
    pub(crate) fn enter() -> Result<Self, Error> {
        let failed = |errno: rustix::io::Errno| Error::io("set the terminal raw")(errno.into());
        let before = tcgetattr(stdio::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdio::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing is left to do when the terminal has gone.
        let _ = tcsetattr(stdio::stdin(), OptionalActions::Now, &self.before);
    }
}
