//! Where the engine listens.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::Error;

/// The socket's name below the engine's exec root.
const SOCKET_NAME: &str = "docker.sock";
/// Sockets that are another program's by convention: no engine of ours is started there.
const DOCKERS_OWN: [&str; 2] = ["/var/run/docker.sock", "/run/docker.sock"];

/// An engine's address; prints as `unix:///run/atoll/docker.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP address, `host:port`, without TLS.
    Tcp(String),
}

impl Address {
    /// Chooses: the flag, else `ATOLL_HOST`, else `DOCKER_HOST`, else the default socket.
    ///
    /// # Errors
    /// [`Error::Value`] when the chosen text is no address.
    pub(crate) fn choose(flag: Option<&str>) -> Result<Self, Error> {
        let variable = |name| env::var(name).ok().filter(|text: &String| !text.is_empty());
        let chosen = flag
            .map(str::to_owned)
            .or_else(|| variable("ATOLL_HOST"))
            .or_else(|| variable("DOCKER_HOST"));
        match chosen {
            Some(text) => text.parse(),
            None => Ok(Self::Unix(default_exec_root().join(SOCKET_NAME))),
        }
    }

    /// The socket an engine of ours may be started at: any but Docker's own, and no TCP address.
    pub(crate) fn startable(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) if DOCKERS_OWN.iter().all(|own| path != Path::new(own)) => Some(path),
            _ => None,
        }
    }
}

/// The engine's exec root: `ATOLL_EXEC_ROOT`, else `/run/atoll`.
pub(crate) fn default_exec_root() -> PathBuf {
    env::var_os("ATOLL_EXEC_ROOT")
        .filter(|root| !root.is_empty())
        .map_or_else(|| PathBuf::from("/run/atoll"), PathBuf::from)
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || {
            Error::value(
                "address",
                text,
                "expected unix:///path/of/socket or tcp://host:port",
            )
        };
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("tcp" | "http", host)) => {
                let host = host.trim_end_matches('/');
                let has_port = host
                    .rsplit_once(':')
                    .is_some_and(|(name, port)| !name.is_empty() && port.parse::<u16>().is_ok());
                if has_port {
                    Ok(Self::Tcp(host.to_owned()))
                } else {
                    Err(invalid())
                }
            }
            None if text.starts_with('/') => Ok(Self::Unix(text.into())),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_as_they_are_written() {
        for text in [
            "unix:///run/x.sock",
            "tcp://127.0.0.1:2375",
            "tcp://[::1]:2375",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!(
            "/a/b".parse::<Address>().unwrap().to_string(),
            "unix:///a/b"
        );
        for bad in [
            "",
            "unix://",
            "unix://relative",
            "tcp://host",
            "ssh://host",
            "npipe:////x",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_engine_is_started_in_dockers_place() {
        let startable = |text: &str| text.parse::<Address>().unwrap().startable().is_some();
        assert!(startable("unix:///run/atoll/docker.sock"));
        assert!(!startable("unix:///var/run/docker.sock"));
        assert!(!startable("tcp://127.0.0.1:2375"));
    }
}
