//! What can go wrong between us and the kernel's netlink families.

use std::io;

/// Why a netlink request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused one request; those before it in the same call may have been done
    /// (rtnetlink) or have been undone (nf_tables, one transaction).
    #[error("{request}")]
    Refused {
        /// The request, as it prints.
        request: String,
        /// The kernel's errno.
        #[source]
        source: io::Error,
    },
    /// The socket itself failed: not available, out of buffer space, closed.
    #[error("netlink: {action}")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The kernel answered something that does not parse.
    #[error("netlink: malformed answer to {request}")]
    Malformed {
        /// The request, as it prints.
        request: String,
    },
    /// A network namespace can't be made or entered.
    #[error("network namespace: {action}")]
    Namespace {
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// The errno the kernel gave, when there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. }
            | Self::Socket { source, .. }
            | Self::Namespace { source, .. } => source.raw_os_error(),
            Self::Malformed { .. } => None,
        }
    }

    /// Whether the kernel refused because the named object already exists (`EEXIST`).
    #[must_use]
    pub fn is_already_there(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// Whether the kernel refused because the named object does not exist (`ENODEV`, `ENOENT`).
    #[must_use]
    pub fn is_not_there(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENODEV | libc::ENOENT | libc::EADDRNOTAVAIL)
        )
    }

    pub(crate) fn socket(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Socket { action, source }
    }
}
