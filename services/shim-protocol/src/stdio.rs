//! The stdio address the engine puts into `CreateTaskRequest.stdout` and `ExecProcessRequest.stdout`.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use thiserror::Error;

/// Every byte but unreserved ones and `/` is escaped.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_');

/// Start of the string form; anything else in `stdout` is a path of containerd's.
const SCHEME: &str = "atoll-stdio:?";

/// Where a process's streams go when the engine, not containerd, is the caller.
///
/// The string form is `atoll-stdio:?attach=PATH[&log=DRIVER&log-path=PATH[&max-size=BYTES]`
/// `&max-files=N][&open-stdin][&stdin-once]`, values percent-encoded; `stdin` and `stderr` of the
/// request stay empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StdioUri {
    /// Unix socket the shim listens on for attach clients.
    pub attach_socket: PathBuf,
    /// Log of the output; none for exec.
    pub log: Option<LogConfig>,
    /// The process has a stdin that stays open; otherwise it reads `/dev/null`.
    pub open_stdin: bool,
    /// The end of the first attached client's input closes stdin (not with a terminal).
    pub stdin_once: bool,
}

/// How output is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Kind of log.
    pub driver: LogDriver,
    /// The log's file; rotated files are `PATH.1` (newest) to `PATH.N-1`.
    pub path: PathBuf,
    /// Length at which the file is rotated; never when absent.
    pub max_size_bytes: Option<u64>,
    /// Number of files kept, the current one included; at least 1.
    pub max_files: u32,
}

/// Kind of log the shim can write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogDriver {
    /// Docker's `json-file`.
    JsonFile,
    /// Nothing is kept.
    None,
}

impl LogDriver {
    /// Docker's name of the driver.
    pub fn name(self) -> &'static str {
        match self {
            Self::JsonFile => "json-file",
            Self::None => "none",
        }
    }
}

/// Why a string is no [`StdioUri`].
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum StdioUriError {
    /// It doesn't start with `atoll-stdio:?`.
    #[error("stdio address `{0}` does not start with `atoll-stdio:?`")]
    Scheme(String),
    /// A key that this version doesn't know.
    #[error("stdio address has the unknown key `{0}`")]
    UnknownKey(String),
    /// A key without which the address means nothing.
    #[error("stdio address has no `{0}`")]
    Missing(&'static str),
    /// A value that can't be understood.
    #[error("stdio address has `{value}` as {key}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value as written.
        value: String,
    },
}

impl StdioUri {
    /// Whether `stdout` of a request is meant for this type (rather than a fifo's path).
    pub fn is_stdio_uri(stdout: &str) -> bool {
        stdout.starts_with(SCHEME)
    }
}

impl fmt::Display for StdioUri {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{SCHEME}attach={}", escape(&self.attach_socket))?;
        if let Some(log) = &self.log {
            write!(
                out,
                "&log={}&log-path={}",
                log.driver.name(),
                escape(&log.path)
            )?;
            if let Some(limit) = log.max_size_bytes {
                write!(out, "&max-size={limit}")?;
            }
            write!(out, "&max-files={}", log.max_files)?;
        }
        if self.open_stdin {
            out.write_str("&open-stdin")?;
        }
        if self.stdin_once {
            out.write_str("&stdin-once")?;
        }
        Ok(())
    }
}

impl FromStr for StdioUri {
    type Err = StdioUriError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let query = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| StdioUriError::Scheme(text.to_owned()))?;
        let (mut attach, mut driver, mut log_path) = (None, None, None);
        let (mut max_size_bytes, mut max_files) = (None, 1);
        let (mut open_stdin, mut stdin_once) = (false, false);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "attach" => attach = Some(unescape(value)),
                "log" => driver = Some(parse_driver(value)?),
                "log-path" => log_path = Some(unescape(value)),
                "max-size" => max_size_bytes = Some(parse_number("max-size", value)?),
                "max-files" => max_files = parse_number("max-files", value)?,
                "open-stdin" => open_stdin = true,
                "stdin-once" => stdin_once = true,
                other => return Err(StdioUriError::UnknownKey(other.to_owned())),
            }
        }
        let log = match driver {
            None => None,
            Some(driver) => Some(LogConfig {
                driver,
                path: match (driver, log_path) {
                    (LogDriver::JsonFile, None) => return Err(StdioUriError::Missing("log-path")),
                    (_, path) => path.unwrap_or_default(),
                },
                max_size_bytes,
                max_files: max_files.max(1),
            }),
        };
        Ok(Self {
            attach_socket: attach.ok_or(StdioUriError::Missing("attach"))?,
            log,
            open_stdin,
            stdin_once,
        })
    }
}

fn escape(path: &Path) -> impl fmt::Display + '_ {
    percent_encode(path.as_os_str().as_bytes(), ESCAPED)
}

fn unescape(value: &str) -> PathBuf {
    PathBuf::from(OsString::from_vec(percent_decode_str(value).collect()))
}

fn parse_driver(value: &str) -> Result<LogDriver, StdioUriError> {
    match value {
        "json-file" => Ok(LogDriver::JsonFile),
        "none" => Ok(LogDriver::None),
        other => Err(StdioUriError::Value {
            key: "log",
            value: other.to_owned(),
        }),
    }
}

fn parse_number<T: FromStr>(key: &'static str, value: &str) -> Result<T, StdioUriError> {
    value.parse().map_err(|_| StdioUriError::Value {
        key,
        value: value.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn string_form_is_stable() {
        let uri = StdioUri {
            attach_socket: "/run/atoll/bundles/a b/attach.sock".into(),
            log: Some(LogConfig {
                driver: LogDriver::JsonFile,
                path: "/var/lib/x&y".into(),
                max_size_bytes: Some(10),
                max_files: 3,
            }),
            open_stdin: true,
            stdin_once: true,
        };
        let text = "atoll-stdio:?attach=/run/atoll/bundles/a%20b/attach.sock&log=json-file\
                    &log-path=/var/lib/x%26y&max-size=10&max-files=3&open-stdin&stdin-once";
        assert_eq!(uri.to_string(), text);
        assert_eq!(text.parse(), Ok(uri));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let parse = |text: &str| text.parse::<StdioUri>().unwrap_err();
        assert!(matches!(parse("/run/fifo"), StdioUriError::Scheme(_)));
        assert_eq!(
            parse("atoll-stdio:?log=none"),
            StdioUriError::Missing("attach")
        );
        assert!(matches!(
            parse("atoll-stdio:?attach=/a&color"),
            StdioUriError::UnknownKey(_)
        ));
        assert!(matches!(
            parse("atoll-stdio:?attach=/a&log=syslog"),
            StdioUriError::Value { .. }
        ));
    }

    proptest! {
        #[test]
        fn print_then_parse_is_identity(
            attach in proptest::collection::vec(1u8..=255, 1..60),
            log in proptest::option::of((
                proptest::collection::vec(1u8..=255, 1..60),
                proptest::option::of(any::<u64>()),
                1u32..1000,
            )),
            open_stdin in any::<bool>(),
            stdin_once in any::<bool>(),
        ) {
            let uri = StdioUri {
                attach_socket: OsString::from_vec(attach).into(),
                log: log.map(|(path, max_size_bytes, max_files)| LogConfig {
                    driver: LogDriver::JsonFile,
                    path: OsString::from_vec(path).into(),
                    max_size_bytes,
                    max_files,
                }),
                open_stdin,
                stdin_once,
            };
            prop_assert_eq!(uri.to_string().parse(), Ok(uri));
        }

        #[test]
        fn parsing_never_panics(text in "(atoll-stdio:[?])?[a-z=&%0-9/-]{0,80}") {
            drop(text.parse::<StdioUri>());
        }
    }
}
