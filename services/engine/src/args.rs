//! The engine's command line: dockerd's flags where they mean the same.

use std::path::PathBuf;

/// Runs the engine: the Docker Engine API over images, networks and containers.
#[derive(Debug, Clone, Default, clap::Parser)]
#[command(name = "atolld", version, about)]
pub struct EngineArgs {
    /// Directory of what persists: images, containers, their writable layers and logs.
    #[arg(long, value_name = "DIR")]
    pub data_root: Option<PathBuf>,

    /// Directory of what lives as long as the machine is up: sockets, bundles, state.
    #[arg(long, value_name = "DIR")]
    pub exec_root: Option<PathBuf>,

    /// Where to listen: `unix://PATH` or `tcp://127.0.0.1:PORT`; may be given several times.
    #[arg(short = 'H', long = "host", value_name = "ADDRESS")]
    pub hosts: Vec<String>,

    /// Configuration file in the form of dockerd's daemon.json.
    #[arg(long, value_name = "FILE")]
    pub config_file: Option<PathBuf>,

    /// Address and prefix of the default bridge, for example `172.20.0.1/16`.
    #[arg(long, value_name = "CIDR")]
    pub bip: Option<String>,

    /// Name of the default bridge's link; `none` for no bridge.
    #[arg(short = 'b', long, value_name = "NAME")]
    pub bridge: Option<String>,

    /// MTU of the default bridge.
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u32>,

    /// Address of the host that ports are published on when nobody says; default: all of them.
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,

    /// What to log: `debug`, `info`, `warn`, `error` or `fatal`.
    #[arg(short = 'l', long, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// The same as `--log-level debug`.
    #[arg(short = 'D', long)]
    pub debug: bool,

    /// File to write the engine's process id to.
    #[arg(short = 'p', long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,

    /// Parent cgroup of all containers; relative to the engine's own cgroup unless it starts with `/`.
    #[arg(long, value_name = "PATH")]
    pub cgroup_parent: Option<String>,

    /// Size of /dev/shm of containers that don't say, for example `64m`.
    #[arg(long, value_name = "BYTES")]
    pub default_shm_size: Option<String>,

    /// Resource limit of containers that don't say: `TYPE=SOFT[:HARD]`; may be given several times.
    #[arg(long = "default-ulimit", value_name = "LIMIT")]
    pub default_ulimits: Vec<String>,

    /// Log driver of containers that don't say: `json-file` or `none`.
    #[arg(long, value_name = "DRIVER")]
    pub log_driver: Option<String>,

    /// Option of the log driver, `max-size=10m` or `max-file=3`; may be given several times.
    #[arg(long = "log-opt", value_name = "KEY=VALUE")]
    pub log_opts: Vec<String>,

    /// DNS server of containers; may be given several times.
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<String>,

    /// The shim to run containers with; default: `containerd-shim-atoll-v2` beside this program.
    #[arg(long, value_name = "PATH")]
    pub shim: Option<PathBuf>,
}
