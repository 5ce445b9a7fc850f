//! What can be wrong with a profile.

use thiserror::Error;

/// Why a profile can't be compiled.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Programs are made for x86 machines only.
    #[error("seccomp programs for {0} cannot be made on this machine")]
    Architecture(String),
    /// An argument index beyond the sixth argument.
    #[error("rule for `{name}` compares argument {index}, but there are only 0 to 5")]
    ArgumentIndex {
        /// The first system call of the rule.
        name: String,
        /// The index.
        index: u32,
    },
    /// An errno the kernel can't return.
    #[error("rule for `{name}` returns errno {errno}, above 4095")]
    Errno {
        /// The first system call of the rule, or `defaultAction`.
        name: String,
        /// The errno.
        errno: u32,
    },
    /// More instructions than the kernel takes.
    #[error("profile needs {0} instructions, and the kernel takes 4096")]
    TooLong(usize),
    /// A notify action without a listener, or for everything.
    #[error("action SCMP_ACT_NOTIFY needs `listenerPath` and can't be the default action")]
    Notify,
}
