//! Writing data to the standard output.

use std::io::Write;

use crate::error::Error;

/// Prints one line.
///
/// # Errors
/// [`Error::Io`] when the output is closed or full.
pub(crate) fn line(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(Error::io("write output"))
}

/// Prints a text as it is.
///
/// # Errors
/// [`Error::Io`] when the output is closed or full.
pub(crate) fn text(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    write!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(Error::io("write output"))
}
