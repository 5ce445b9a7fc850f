//! Flags and daemon.json, joined and checked into settings that can't be wrong.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::args::EngineArgs;

/// Name of the shim's program.
pub(crate) const SHIM_PROGRAM: &str = "containerd-shim-atoll-v2";

/// Why the engine can't be configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The configuration file can't be read.
    #[error("cannot read configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration file isn't valid.
    #[error("configuration file {path}, line {line}, column {column}: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the parser says.
        reason: String,
    },
    /// A value is set by a flag and in the file.
    #[error("{key} is set both by a flag and in the configuration file")]
    Twice {
        /// The key's name in the file.
        key: &'static str,
    },
    /// A value is not understood.
    #[error("{key}: {reason}")]
    Value {
        /// The flag or key.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl SettingsError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } => Some(
                "name a file that can be read with --config-file, or leave the flag out".to_owned(),
            ),
            Self::Parse { .. } => {
                Some("correct the file there; it is JSON with dockerd's keys".to_owned())
            }
            Self::Twice { .. } => {
                Some("take it out of the configuration file, or leave out the flag".to_owned())
            }
            Self::Value { .. } => None,
        }
    }
}

/// Where the engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listen {
    /// A Unix socket.
    Unix(PathBuf),
    /// A loopback TCP address.
    Tcp(SocketAddr),
}

/// How much is logged.
pub(crate) type LogLevel = tracing::Level;

/// Everything the engine was told, checked.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Persistent state.
    pub(crate) data_root: PathBuf,
    /// State of this boot.
    pub(crate) exec_root: PathBuf,
    /// Where to listen; never empty.
    pub(crate) listen: Vec<Listen>,
    /// Address of the default bridge.
    pub(crate) bip: Option<String>,
    /// Name of the default bridge.
    pub(crate) bridge: Option<String>,
    /// MTU of the default bridge.
    pub(crate) mtu: u32,
    /// Where ports are published when nobody says.
    pub(crate) host_address: Ipv4Addr,
    /// What to log.
    pub(crate) log_level: LogLevel,
    /// Where to write the process id, besides `exec_root`.
    pub(crate) pidfile: Option<PathBuf>,
    /// Parent cgroup.
    pub(crate) cgroup_parent: Option<String>,
    /// Default /dev/shm.
    pub(crate) shm_size_bytes: i64,
    /// Default rlimits: name → (soft, hard).
    pub(crate) ulimits: BTreeMap<String, (i64, i64)>,
    /// Default log driver.
    pub(crate) log_driver: String,
    /// Default log options.
    pub(crate) log_opts: BTreeMap<String, String>,
    /// Default DNS servers.
    pub(crate) dns: Vec<String>,
    /// Default DNS search domains.
    pub(crate) dns_search: Vec<String>,
    /// Default DNS options.
    pub(crate) dns_opts: Vec<String>,
    /// Engine labels.
    pub(crate) labels: Vec<String>,
    /// The shim's program.
    pub(crate) shim: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct ConfigFile {
    data_root: Option<PathBuf>,
    exec_root: Option<PathBuf>,
    hosts: Option<Vec<String>>,
    bip: Option<String>,
    bridge: Option<String>,
    mtu: Option<u32>,
    ip: Option<String>,
    log_level: Option<String>,
    debug: Option<bool>,
    pidfile: Option<PathBuf>,
    cgroup_parent: Option<String>,
    default_shm_size: Option<String>,
    default_ulimits: Option<BTreeMap<String, FileUlimit>>,
    log_driver: Option<String>,
    log_opts: Option<BTreeMap<String, String>>,
    dns: Option<Vec<String>>,
    dns_search: Option<Vec<String>>,
    dns_opts: Option<Vec<String>>,
    labels: Option<Vec<String>>,
    shim: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FileUlimit {
    hard: i64,
    soft: i64,
}

impl Settings {
    /// Joins flags and file.
    ///
    /// # Errors
    /// [`SettingsError`] when the file is unreadable or invalid, or a value is not understood.
    pub(crate) fn load(args: &EngineArgs) -> Result<Self, SettingsError> {
        let file = match &args.config_file {
            Some(path) => read_file(path)?,
            None => {
                let path = Path::new("/etc/atoll/daemon.json");
                if path.exists() {
                    read_file(path)?
                } else {
                    ConfigFile::default()
                }
            }
        };
        Self::join(args, file)
    }

    fn join(args: &EngineArgs, file: ConfigFile) -> Result<Self, SettingsError> {
        let data_root = one("data-root", args.data_root.clone(), file.data_root)?
            .unwrap_or_else(|| PathBuf::from("/var/lib/atoll"));
        let exec_root = one("exec-root", args.exec_root.clone(), file.exec_root)?
            .unwrap_or_else(|| PathBuf::from("/run/atoll"));
        let data_root = absolute("data-root", data_root)?;
        let exec_root = absolute("exec-root", exec_root)?;
        let hosts = one("hosts", some(args.hosts.clone()), file.hosts)?.unwrap_or_default();
        let mut listen = hosts
            .iter()
            .map(|host| parse_listen(host))
            .collect::<Result<Vec<_>, _>>()?;
        if listen.is_empty() {
            listen.push(Listen::Unix(exec_root.join("docker.sock")));
        }
        let level = one("log-level", args.log_level.clone(), file.log_level)?;
        let log_level = if args.debug || file.debug == Some(true) {
            LogLevel::DEBUG
        } else {
            parse_level(level.as_deref().unwrap_or("info"))?
        };
        let shm = one(
            "default-shm-size",
            args.default_shm_size.clone(),
            file.default_shm_size,
        )?;
        let shm_size_bytes = match shm {
            Some(text) => parse_bytes(&text).ok_or_else(|| SettingsError::Value {
                key: "default-shm-size",
                reason: format!("{text} is not a size"),
            })?,
            None => 64 << 20,
        };
        let mut ulimits = BTreeMap::new();
        for (name, limit) in file.default_ulimits.unwrap_or_default() {
            ulimits.insert(name, (limit.soft, limit.hard));
        }
        for text in &args.default_ulimits {
            let (name, limit) = parse_ulimit(text)?;
            ulimits.insert(name, limit);
        }
        let mut log_opts = file.log_opts.unwrap_or_default();
        for text in &args.log_opts {
            let (key, value) = text.split_once('=').ok_or_else(|| SettingsError::Value {
                key: "log-opt",
                reason: format!("{text} is not KEY=VALUE"),
            })?;
            log_opts.insert(key.to_owned(), value.to_owned());
        }
        let log_driver = one("log-driver", args.log_driver.clone(), file.log_driver)?
            .unwrap_or_else(|| "json-file".to_owned());
        let shim = one("shim", args.shim.clone(), file.shim)?.unwrap_or_else(find_shim);
        let ip = one("ip", args.ip.clone(), file.ip)?;
        let host_address = match &ip {
            None => Ipv4Addr::UNSPECIFIED,
            Some(text) => text.parse().map_err(|_| SettingsError::Value {
                key: "ip",
                reason: format!("{text} is not an IPv4 address"),
            })?,
        };
        Ok(Self {
            host_address,
            listen,
            bip: one("bip", args.bip.clone(), file.bip)?,
            bridge: one("bridge", args.bridge.clone(), file.bridge)?,
            mtu: one("mtu", args.mtu, file.mtu)?.unwrap_or(1500),
            log_level,
            pidfile: one("pidfile", args.pidfile.clone(), file.pidfile)?,
            cgroup_parent: one(
                "cgroup-parent",
                args.cgroup_parent.clone(),
                file.cgroup_parent,
            )?,
            shm_size_bytes,
            ulimits,
            log_driver,
            log_opts,
            dns: one("dns", some(args.dns.clone()), file.dns)?.unwrap_or_default(),
            dns_search: file.dns_search.unwrap_or_default(),
            dns_opts: file.dns_opts.unwrap_or_default(),
            labels: file.labels.unwrap_or_default(),
            shim,
            data_root,
            exec_root,
        })
    }
}

fn read_file(path: &Path) -> Result<ConfigFile, SettingsError> {
    let text = std::fs::read(path).map_err(|source| SettingsError::Read {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|error| {
        let words = error.to_string();
        let reason = match words.rfind(" at line ") {
            Some(end) => words[..end].to_owned(),
            None => words,
        };
        SettingsError::Parse {
            path: path.to_owned(),
            line: error.line(),
            column: error.column(),
            reason,
        }
    })
}

fn one<T>(key: &'static str, flag: Option<T>, file: Option<T>) -> Result<Option<T>, SettingsError> {
    match (flag, file) {
        (Some(_), Some(_)) => Err(SettingsError::Twice { key }),
        (flag, file) => Ok(flag.or(file)),
    }
}

fn some<T>(values: Vec<T>) -> Option<Vec<T>> {
    if values.is_empty() {
        None
    } else {
        Some(values)
    }
}

fn absolute(key: &'static str, path: PathBuf) -> Result<PathBuf, SettingsError> {
    std::path::absolute(&path).map_err(|error| SettingsError::Value {
        key,
        reason: error.to_string(),
    })
}

fn parse_listen(text: &str) -> Result<Listen, SettingsError> {
    let bad = |reason: String| SettingsError::Value {
        key: "host",
        reason,
    };
    if let Some(path) = text.strip_prefix("unix://") {
        if !path.starts_with('/') {
            return Err(bad(format!("{text}: the socket's path must be absolute")));
        }
        return Ok(Listen::Unix(PathBuf::from(path)));
    }
    if let Some(address) = text.strip_prefix("tcp://") {
        let address = address.replace("localhost", "127.0.0.1");
        let address: SocketAddr = address
            .parse()
            .map_err(|_| bad(format!("{text} is not tcp://ADDRESS:PORT")))?;
        if !address.ip().is_loopback() {
            return Err(bad(format!(
                "{text}: only loopback addresses are served, since the API gives root to whoever reaches it"
            )));
        }
        return Ok(Listen::Tcp(address));
    }
    Err(bad(format!(
        "{text} is neither unix://PATH nor tcp://ADDRESS:PORT"
    )))
}

fn parse_level(text: &str) -> Result<LogLevel, SettingsError> {
    match text {
        "trace" => Ok(LogLevel::TRACE),
        "debug" => Ok(LogLevel::DEBUG),
        "info" => Ok(LogLevel::INFO),
        "warn" | "warning" => Ok(LogLevel::WARN),
        "error" | "fatal" | "panic" => Ok(LogLevel::ERROR),
        _ => Err(SettingsError::Value {
            key: "log-level",
            reason: format!("{text} is none of debug, info, warn, error, fatal"),
        }),
    }
}

fn parse_ulimit(text: &str) -> Result<(String, (i64, i64)), SettingsError> {
    let bad = || SettingsError::Value {
        key: "default-ulimit",
        reason: format!("{text} is not TYPE=SOFT[:HARD]"),
    };
    let (name, limits) = text.split_once('=').ok_or_else(bad)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    Ok((
        name.to_owned(),
        (
            soft.parse().map_err(|_| bad())?,
            hard.parse().map_err(|_| bad())?,
        ),
    ))
}

/// Reads `10`, `10b`, `10k`, `10m`, `10g`, with or without a `b` after the letter; powers of 1024.
pub(crate) fn parse_bytes(text: &str) -> Option<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let lower = lower.strip_suffix('i').unwrap_or(lower);
    let (digits, shift) = match lower.as_bytes().last()? {
        b'k' => (&lower[..lower.len() - 1], 10),
        b'm' => (&lower[..lower.len() - 1], 20),
        b'g' => (&lower[..lower.len() - 1], 30),
        b't' => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    let number: i64 = digits.trim().parse().ok()?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes >= 0)
}

/// The shim beside our own executable, else the first one in PATH, else its bare name.
fn find_shim() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|exe| {
        let directory = exe.parent()?.to_owned();
        // Examples and tests live one level below the programs.
        let above = directory.parent().map(|parent| parent.join(SHIM_PROGRAM));
        [Some(directory.join(SHIM_PROGRAM)), above]
            .into_iter()
            .flatten()
            .find(|path| path.exists())
    });
    beside
        .or_else(|| {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path)
                .map(|directory| directory.join(SHIM_PROGRAM))
                .find(|candidate| candidate.exists())
        })
        .unwrap_or_else(|| PathBuf::from(SHIM_PROGRAM))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<ConfigFile, SettingsError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("daemon.json");
        std::fs::write(&path, text).unwrap();
        read_file(&path)
    }

    #[test]
    fn bad_json_names_file_line_and_column() {
        let error = file("{\n  \"bip\": 5\n}").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("daemon.json, line 2, column 10: invalid type"),
            "{text}"
        );
        let error = file("{\n \"bipp\": \"x\"}").unwrap_err().to_string();
        assert!(
            error.contains("line 2") && error.contains("unknown field `bipp`"),
            "{error}"
        );
    }

    #[test]
    fn flag_and_file_conflict() {
        let args = EngineArgs {
            bip: Some("10.0.0.1/24".into()),
            ..EngineArgs::default()
        };
        let error = Settings::join(&args, file(r#"{"bip":"10.1.0.1/24"}"#).unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "bip is set both by a flag and in the configuration file"
        );
    }

    #[test]
    fn default_socket_is_below_the_exec_root() {
        let args = EngineArgs {
            exec_root: Some("/x/run".into()),
            ..EngineArgs::default()
        };
        let settings = Settings::join(&args, ConfigFile::default()).unwrap();
        assert_eq!(settings.listen, [Listen::Unix("/x/run/docker.sock".into())]);
        assert_eq!(settings.shm_size_bytes, 67_108_864);
    }

    #[test]
    fn hosts_are_checked() {
        assert!(parse_listen("tcp://0.0.0.0:2375").is_err());
        assert!(parse_listen("fd://").is_err());
        assert!(parse_listen("unix://relative").is_err());
        assert_eq!(
            parse_listen("tcp://localhost:1").unwrap(),
            Listen::Tcp("127.0.0.1:1".parse().unwrap())
        );
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("10"), Some(10));
        assert_eq!(parse_bytes("10m"), Some(10 << 20));
        assert_eq!(parse_bytes("1GB"), Some(1 << 30));
        assert_eq!(parse_bytes("1KiB"), Some(1024));
        assert_eq!(parse_bytes("-1"), None);
        assert_eq!(parse_bytes("x"), None);
        assert_eq!(parse_bytes(""), None);
    }
}
