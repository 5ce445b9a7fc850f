//! What can go wrong in a client, and how it is told: error, because, hint.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;

use crate::address::Address;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// The engine refused a request; `message` is its own words.
    #[error("cannot {action}")]
    Api {
        /// What was tried: `create container`.
        action: String,
        /// HTTP status.
        status: u16,
        /// The engine's `message`.
        #[source]
        message: Message,
    },
    /// Nobody listens at the engine's address.
    #[error("cannot reach the engine at {address}")]
    Connect {
        /// The address.
        address: Address,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The connection broke during a request.
    #[error("lost the engine while trying to {action}")]
    Http {
        /// What was tried.
        action: String,
        /// HTTP's reason.
        #[source]
        source: hyper::Error,
    },
    /// The engine answered something unexpected.
    #[error("unexpected answer of the engine to {action}")]
    Answer {
        /// What was tried.
        action: String,
        /// What is wrong with it.
        #[source]
        message: Message,
    },
    /// An engine was started and did not come up.
    #[error("cannot start an engine")]
    EngineStart {
        /// Its log file.
        log: PathBuf,
        /// Its last words, or what kept it from starting.
        #[source]
        message: Message,
    },
    /// A flag's value can't be used.
    #[error("invalid {what} {value:?}")]
    Value {
        /// The flag or argument.
        what: String,
        /// The value.
        value: String,
        /// What is expected.
        #[source]
        message: Message,
    },
    /// A file or stream of ours failed.
    #[error("cannot {action}")]
    Io {
        /// What was tried: `read env.list`.
        action: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The standard input is no terminal, and `-t` with `-i` wants one.
    #[error("the standard input is not a terminal")]
    NotATerminal,
    /// A machine, or what it is made of.
    #[error(transparent)]
    Machine(#[from] atoll_machine::MachineError),
    /// A tool of the distribution failed.
    #[error("{tool} failed")]
    Tool {
        /// Its name.
        tool: String,
        /// What it said.
        #[source]
        message: Message,
    },
    /// What should run in a container does not.
    #[error("cannot {action}")]
    Inside {
        /// What was tried: `run sh in bb`.
        action: String,
        /// What was seen of it.
        #[source]
        message: Message,
    },
    /// Some of several objects failed; each was reported already.
    #[error("not everything succeeded")]
    Partial,
}

/// A text as the source of an error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Message(pub(crate) String);

impl Error {
    /// An invalid flag value.
    pub(crate) fn value(what: &str, value: &str, expected: &str) -> Self {
        Self::Value {
            what: what.to_owned(),
            value: value.to_owned(),
            message: Message(expected.to_owned()),
        }
    }

    /// Wraps a system error with what was tried.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action: action.into(),
            source,
        }
    }

    /// Wraps an HTTP error with what was tried.
    pub(crate) fn http(action: &str) -> impl FnOnce(hyper::Error) -> Self {
        let action = action.to_owned();
        move |source| Self::Http { action, source }
    }

    /// The engine's HTTP status, if it answered.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Api { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The engine's own words, if it answered.
    pub(crate) fn api_message(&self) -> Option<&str> {
        match self {
            Self::Api { message, .. } => Some(&message.0),
            _ => None,
        }
    }

    /// Whether the reader of our output has gone (`atoll logs … | head`).
    pub(crate) fn is_closed_output(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// What the user can do, when there is something.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run it as root, or as a member of the socket's group".to_owned()
            }
            Self::Connect { .. } => {
                "start one with `atoll engine`, or set ATOLL_HOST to where one listens".to_owned()
            }
            Self::EngineStart { log, .. } => format!("its log is {}", log.display()),
            Self::NotATerminal => "leave out -t when input comes from a pipe or file".to_owned(),
            Self::Machine(error) => error.hint()?,
            Self::Tool { tool, .. } if tool.starts_with("apt-") => {
                "refresh the package lists with `apt-get update`".to_owned()
            }
            Self::Api { message, .. } => api_hint(&message.0)?,
            Self::Inside { message, .. } if message.0.contains("No such file") => {
                "name a program that the image has after `--`".to_owned()
            }
            _ => return None,
        };
        Some(hint)
    }
}

/// Hints for the engine's commonest refusals.
fn api_hint(message: &str) -> Option<String> {
    let hint = if message.contains("No such container") {
        "list all containers with `atoll ps -a`"
    } else if message.contains("No such image") {
        "list images with `atoll images`, fetch one with `atoll pull`, or use the image `host`"
    } else if message.contains("is already in use by container") {
        "choose another --name, or remove that container with `atoll rm`"
    } else {
        return None;
    };
    Some(hint.to_owned())
}

/// Prints an error with its causes and its hint on the standard error.
pub(crate) fn report(error: &Error) {
    if !error.is_closed_output() && !matches!(error, Error::Partial) {
        anstream::eprint!("{}", explained(error));
    }
}

/// An error in lines: what failed, because of what, and what to do.
fn explained(error: &Error) -> String {
    let (reasons, hints) = reasons(error);
    let mut text = String::new();
    for (depth, reason) in reasons.iter().enumerate() {
        let prefix = if depth == 0 { "error" } else { "  because" };
        text.push_str(&format!("{prefix}: {reason}\n"));
    }
    for hint in hints {
        text.push_str(&format!("hint: {hint}\n"));
    }
    text
}

/// What failed and because of what, the outermost first, and what to do.
///
/// The engine's messages may end in hints of their own, which take the place of ours.
pub(crate) fn reasons(error: &Error) -> (Vec<String>, Vec<String>) {
    let mut reasons = vec![error.to_string()];
    let mut hints = Vec::new();
    let mut cause = error.source();
    while let Some(source) = cause {
        for line in source.to_string().lines() {
            match line.strip_prefix("hint: ") {
                Some(hint) => hints.push(hint.to_owned()),
                None => reasons.push(line.to_owned()),
            }
        }
        cause = source.source();
    }
    if hints.is_empty() {
        hints.extend(error.hint());
    }
    (reasons, hints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(message: &str) -> String {
        let message = Message(message.to_owned());
        explained(&Error::Api {
            action: "remove container a".to_owned(),
            status: 404,
            message,
        })
    }

    #[test]
    fn the_engines_hints_come_before_ours() {
        let ours = "error: cannot remove container a\n  because: No such container: a\n\
                    hint: list all containers with `atoll ps -a`\n";
        assert_eq!(refused("No such container: a"), ours);
        let theirs = "error: cannot remove container a\n  because: No such container: a\n\
                      hint: look elsewhere\n";
        assert_eq!(
            refused("No such container: a\nhint: look elsewhere"),
            theirs
        );
    }
}
