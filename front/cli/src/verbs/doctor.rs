//! `doctor`.

use crate::arguments::DoctorArgs;
use crate::doctor::Report;
use crate::error::Error;
use crate::print;

/// `atoll doctor`: 0 when the default wall works, else 1.
///
/// # Errors
/// [`Error::Io`] when the output is closed.
pub(super) fn doctor(args: &DoctorArgs) -> Result<u8, Error> {
    let report = Report::of_this_host();
    if args.json {
        print::line(&serde_json::to_string(&report).unwrap_or_default())?;
    } else {
        print::text(&report.text())?;
    }
    Ok(u8::from(!report.is_usable()))
}
