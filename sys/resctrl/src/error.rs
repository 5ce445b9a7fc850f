//! What can go wrong with resource control groups.

use std::io;
use std::path::PathBuf;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that can't be.
    #[error("{setting} {reason}")]
    Setting {
        /// Its name in the OCI specification, `closID`.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A group that is to be there already is not.
    #[error(
        "clos dir {path} not accessible (must be pre-created when schemata, l3CacheSchema and memBwSchema are empty)"
    )]
    NoClos {
        /// The folder.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A group that is there has another share.
    #[error("{path} has other schemata than the {wanted} asked for: {found}")]
    Mismatch {
        /// The folder.
        path: PathBuf,
        /// The line asked for.
        wanted: String,
        /// What the group has for that resource.
        found: String,
    },
    /// Somebody keeps the file system locked.
    #[error("{path} is locked by another program")]
    Locked {
        /// The root.
        path: PathBuf,
    },
    /// A file or folder can't be read, written, made or removed.
    #[error("cannot {action} {path}{}", said(status))]
    Kernel {
        /// `make`, `write "L3:0=1" to`, …
        action: String,
        /// The file or folder.
        path: PathBuf,
        /// What the kernel says of it in `info/last_cmd_status`, if anything.
        status: Option<String>,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoClos { path, .. } => Some(format!(
                "make it: mkdir {}, or give schemata for it",
                path.display()
            )),
            Self::Mismatch { .. } => {
                Some("ask for the schemata it has, or for none, or name another closID".to_owned())
            }
            _ => None,
        }
    }
}

fn said(status: &Option<String>) -> String {
    status.as_ref().map_or_else(String::new, |status| {
        format!(" (last_cmd_status: {status})")
    })
}
