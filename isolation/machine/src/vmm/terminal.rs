//! Raw mode of the terminal on the standard input.

use rustix::stdio;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Raw mode; dropping it restores what was before.
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Passes every key on as it is typed. `None` when the standard input is no terminal.
    pub(crate) fn enter() -> Option<Self> {
        let before = tcgetattr(stdio::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdio::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing is left to do when the terminal has gone.
        let _ = tcsetattr(stdio::stdin(), OptionalActions::Now, &self.before);
    }
}
