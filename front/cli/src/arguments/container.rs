//! Flags of `run` and `create`.

use std::path::PathBuf;

use clap::Args;

use super::HelpFlag;

/// `run`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct RunArgs {
    /// Leave the container running in the background and print its id
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Do not pass signals on to the container
    #[arg(long)]
    pub(crate) no_sig_proxy: bool,
    /// Keys that leave the terminal and let the container go on
    #[arg(long, value_name = "KEYS", default_value = crate::detach_keys::DEFAULT)]
    pub(crate) detach_keys: String,
    #[command(flatten)]
    pub(crate) create: ContainerArgs,
    #[command(flatten)]
    help: HelpFlag,
}

/// `create`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) create: ContainerArgs,
    #[command(flatten)]
    help: HelpFlag,
}

/// What a container is to be.
#[derive(Debug, Default, Args)]
pub(crate) struct ContainerArgs {
    /// Pass the standard input on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Remove the container when it stops
    #[arg(long)]
    pub(crate) rm: bool,
    /// Name of the container
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Wall around the container: chroot, process, system, vm, vm:kvm, vm:soft
    #[arg(long, value_name = "WALL")]
    pub(crate) isolation: Option<String>,
    /// OCI runtime to use
    #[arg(long)]
    pub(crate) runtime: Option<String>,
    /// Platform of the image, like linux/amd64
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,
    /// When to fetch the image
    #[arg(long, value_name = "WHEN", default_value = "missing",
        value_parser = ["always", "missing", "never"])]
    pub(crate) pull: String,
    /// Write the container's id to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,

    /// Set an environment variable (NAME=value, or NAME to pass ours on)
    #[arg(short, long, value_name = "NAME[=VALUE]", help_heading = "Process")]
    pub(crate) env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "DIR", help_heading = "Process")]
    pub(crate) workdir: Option<String>,
    /// User, and group: name or id
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "Process")]
    pub(crate) user: Option<String>,
    /// Additional groups
    #[arg(long, value_name = "GROUP", help_heading = "Process")]
    pub(crate) group_add: Vec<String>,
    /// Program instead of the image's entry point
    #[arg(long, value_name = "PROGRAM", help_heading = "Process")]
    pub(crate) entrypoint: Option<String>,
    /// Run an init process that reaps orphans
    #[arg(long, help_heading = "Process")]
    pub(crate) init: bool,
    /// Signal that stops the container
    #[arg(long, value_name = "SIGNAL", help_heading = "Process")]
    pub(crate) stop_signal: Option<String>,
    /// Seconds between the stop signal and SIGKILL
    #[arg(long, value_name = "SECONDS", help_heading = "Process")]
    pub(crate) stop_timeout: Option<i32>,
    /// What to do when the container stops: no, always, unless-stopped, on-failure[:count]
    #[arg(long, value_name = "POLICY", help_heading = "Process")]
    pub(crate) restart: Option<String>,
    /// Label, KEY=value
    #[arg(short, long, value_name = "KEY[=VALUE]", help_heading = "Process")]
    pub(crate) label: Vec<String>,

    /// Bind mount or volume, source:target[:options]
    #[arg(short, long, value_name = "SOURCE:TARGET", help_heading = "Files")]
    pub(crate) volume: Vec<String>,
    /// Mount, like type=bind,source=/a,target=/b,readonly
    #[arg(long, value_name = "KEY=VALUE,...", help_heading = "Files")]
    pub(crate) mount: Vec<String>,
    /// File system in memory, target[:options]
    #[arg(long, value_name = "TARGET[:OPTIONS]", help_heading = "Files")]
    pub(crate) tmpfs: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES", help_heading = "Files")]
    pub(crate) shm_size: Option<String>,
    /// Make the root file system read-only
    #[arg(long, help_heading = "Files")]
    pub(crate) read_only: bool,

    /// Memory limit, like 512m
    #[arg(short, long, value_name = "BYTES", help_heading = "Limits")]
    pub(crate) memory: Option<String>,
    /// Limit of memory and swap together (-1: unlimited swap)
    #[arg(
        long,
        value_name = "BYTES",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    pub(crate) memory_swap: Option<String>,
    /// Number of processors, like 1.5
    #[arg(long, value_name = "NUMBER", help_heading = "Limits")]
    pub(crate) cpus: Option<String>,
    /// Share of processor time relative to others
    #[arg(short, long, value_name = "SHARES", help_heading = "Limits")]
    pub(crate) cpu_shares: Option<i64>,
    /// Processors to use, like 0-2,4
    #[arg(long, value_name = "LIST", help_heading = "Limits")]
    pub(crate) cpuset_cpus: Option<String>,
    /// Limit of processes and threads (-1: none)
    #[arg(
        long,
        value_name = "NUMBER",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    pub(crate) pids_limit: Option<i64>,

    /// Give a capability, like NET_ADMIN or ALL
    #[arg(long, value_name = "CAPABILITY", help_heading = "Rights")]
    pub(crate) cap_add: Vec<String>,
    /// Take a capability away
    #[arg(long, value_name = "CAPABILITY", help_heading = "Rights")]
    pub(crate) cap_drop: Vec<String>,
    /// Give the container all rights the host's root has
    #[arg(long, help_heading = "Rights")]
    pub(crate) privileged: bool,
    /// Security option, like no-new-privileges or seccomp=unconfined
    #[arg(long, value_name = "OPTION", help_heading = "Rights")]
    pub(crate) security_opt: Vec<String>,

    /// Host name inside the container
    #[arg(short = 'h', long, value_name = "NAME", help_heading = "Network")]
    pub(crate) hostname: Option<String>,
    /// Network: bridge, none, host, container:NAME, or one of `atoll network`; may be given several times
    #[arg(
        long,
        visible_alias = "net",
        value_name = "NETWORK",
        help_heading = "Network"
    )]
    pub(crate) network: Vec<String>,
    /// Further name in the first network
    #[arg(long, value_name = "NAME", help_heading = "Network")]
    pub(crate) network_alias: Vec<String>,
    /// Address in the first network
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub(crate) ip: Option<String>,
    /// Hardware address in the first network
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub(crate) mac_address: Option<String>,
    /// Name another container here, NAME[:ALIAS]
    #[arg(long, value_name = "NAME[:ALIAS]", help_heading = "Network")]
    pub(crate) link: Vec<String>,
    /// Publish a port of the container on the host
    #[arg(
        short,
        long,
        value_name = "[[ADDRESS:]HOST:]CONTAINER[/PROTOCOL]",
        help_heading = "Network"
    )]
    pub(crate) publish: Vec<String>,
    /// Publish every exposed port on a free port of the host
    #[arg(short = 'P', long, help_heading = "Network")]
    pub(crate) publish_all: bool,
    /// Expose a port, or a range
    #[arg(long, value_name = "PORT[/PROTOCOL]", help_heading = "Network")]
    pub(crate) expose: Vec<String>,
    /// Name server instead of the host's
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub(crate) dns: Vec<String>,
    /// Domain to look names up in instead of the host's
    #[arg(long, value_name = "DOMAIN", help_heading = "Network")]
    pub(crate) dns_search: Vec<String>,
    /// Option of the resolver, like ndots:2
    #[arg(long, value_name = "OPTION", help_heading = "Network")]
    pub(crate) dns_option: Vec<String>,
    /// Additional line of /etc/hosts, NAME:ADDRESS; host-gateway is the host's address
    #[arg(long, value_name = "NAME:ADDRESS", help_heading = "Network")]
    pub(crate) add_host: Vec<String>,

    /// Image, command and its arguments
    #[arg(value_name = "IMAGE [COMMAND]", required = true, num_args = 1..,
        trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<String>,
}

impl ContainerArgs {
    /// The image's name.
    pub(crate) fn image(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The command after the image, without a `--` between the two.
    pub(crate) fn command(&self) -> &[String] {
        let rest = self.words.get(1..).unwrap_or_default();
        match rest {
            [dash, command @ ..] if dash == "--" => command,
            command => command,
        }
    }

    #[cfg(test)]
    pub(crate) fn image_and_command(&self) -> Vec<String> {
        std::iter::once(self.image().to_owned())
            .chain(self.command().iter().cloned())
            .collect()
    }
}
