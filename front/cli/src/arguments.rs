//! The command line: Docker's verbs and flags.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

pub(crate) mod container;
pub(crate) mod machine;
pub(crate) mod network;
pub(crate) mod volume;

use container::{CreateArgs, RunArgs};

/// Runs OCI images behind the wall you pick.
#[derive(Debug, Parser)]
#[command(
    name = "atoll",
    version,
    disable_help_subcommand = true,
    disable_help_flag = true,
    after_help = "Environment:\n  \
        ATOLL_HOST, DOCKER_HOST  the engine's address, when -H is not given\n  \
        ATOLL_EXEC_ROOT          exec root of an engine that is started, and place of its socket\n  \
        ATOLL_DATA_ROOT          data root of an engine that is started\n\n\
        When no engine answers, one is started in the background."
)]
pub(crate) struct Cli {
    /// Address of the engine: unix:///path/of/socket or tcp://host:port
    #[arg(short = 'H', long = "host", value_name = "ADDRESS")]
    pub(crate) host: Option<String>,

    /// Print help
    #[arg(long, short = 'h', action = ArgAction::Help, global = false)]
    help: Option<bool>,

    /// What to do
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// One verb. Each has `--help` only: `-h` is a host name to `run`.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create and start a container from an image, and attach to it
    #[command(override_usage = "atoll run [OPTIONS] IMAGE [COMMAND] [ARG...]")]
    Run(Box<RunArgs>),
    /// Create a container without starting it
    #[command(override_usage = "atoll create [OPTIONS] IMAGE [COMMAND] [ARG...]")]
    Create(Box<CreateArgs>),
    /// Attach to a running container
    Attach(AttachArgs),
    /// Run a command in a running container
    #[command(override_usage = "atoll exec [OPTIONS] CONTAINER COMMAND [ARG...]")]
    Exec(ExecArgs),
    /// List containers
    #[command(visible_alias = "list")]
    Ps(PsArgs),
    /// Show a container's output
    Logs(LogsArgs),
    /// Start stopped containers
    Start(StartArgs),
    /// Stop running containers: the stop signal, and SIGKILL after a while
    Stop(StopArgs),
    /// Send a signal to running containers
    Kill(KillArgs),
    /// Wait until containers stop and print their exit codes
    Wait(NamesArgs),
    /// Remove containers
    Rm(RmArgs),
    /// Copy files between a container and this system
    #[command(
        override_usage = "atoll cp [OPTIONS] CONTAINER:PATH PATH|-\n       atoll cp [OPTIONS] PATH|- CONTAINER:PATH"
    )]
    Cp(CpArgs),
    /// Make, list and remove volumes
    Volume(volume::VolumeArgs),
    /// List images
    Images(ImagesArgs),
    /// Fetch an image from a registry
    Pull(PullArgs),
    /// Load images from an archive (docker-archive or OCI layout, compressed or not)
    Load(LoadArgs),
    /// Make an image from a tar archive of a root file system
    Import(ImportArgs),
    /// Remove images
    Rmi(RmiArgs),
    /// Show all details of containers and images
    Inspect(InspectArgs),
    /// Show where a container's ports are reached
    Port(network::PortArgs),
    /// Make, list, remove networks, and connect containers to them
    Network(network::NetworkArgs),
    /// Show the versions of client and engine
    Version(FormatArgs),
    /// Show what the engine is and has
    Info(FormatArgs),
    /// Show which walls work on this host, why the others do not, and what to do
    Doctor(DoctorArgs),
    /// Run an image behind each wall that works here and show what the walls cost
    #[command(override_usage = "atoll compare [OPTIONS] IMAGE [-- COMMAND [ARG...]]")]
    Compare(CompareArgs),
    /// Run virtual machines by themselves
    Machine(machine::MachineArgs),
    /// Find, fetch and list kernels for virtual machines
    Kernel(machine::KernelArgs),
    /// Be the engine: serve the Docker Engine API
    Engine(Box<atoll_engine::EngineArgs>),
}

/// `--help` without `-h`.
#[derive(Debug, Args)]
pub(crate) struct HelpFlag {
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// Names or ids of objects.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct NamesArgs {
    /// Names or ids of containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    help: HelpFlag,
}

/// `exec`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct ExecArgs {
    /// Leave the command running in the background
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Pass the standard input on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set an environment variable (NAME=value, or NAME to pass ours on)
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User, and group: name or id
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Give the command all rights the host's root has
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Keys that leave the terminal and let the command go on
    #[arg(long, value_name = "KEYS", default_value = crate::detach_keys::DEFAULT)]
    pub(crate) detach_keys: String,
    /// Container, command and its arguments
    #[arg(value_name = "CONTAINER COMMAND", required = true, num_args = 1..,
        trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<String>,
    #[command(flatten)]
    help: HelpFlag,
}

/// `ps`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct PsArgs {
    /// List stopped containers too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Show only the newest container, in any state
    #[arg(short, long)]
    pub(crate) latest: bool,
    /// Show the newest N containers, in any state
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) last: Option<u32>,
    /// Keep only what matches, like status=exited or label=a=b
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
    #[command(flatten)]
    help: HelpFlag,
}

/// What every list has.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Print ids only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Do not shorten ids and commands
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// table, json, or a text with fields like '{{.ID}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: String,
    /// Print one JSON object per line (the same as --format json)
    #[arg(long, conflicts_with = "format")]
    pub(crate) json: bool,
}

impl ListArgs {
    /// The format asked for.
    pub(crate) fn format(&self) -> &str {
        if self.json { "json" } else { &self.format }
    }
}

/// `logs`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct LogsArgs {
    /// Go on as output comes
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Start with the last N lines
    #[arg(short = 'n', long, value_name = "N", default_value = "all")]
    pub(crate) tail: String,
    /// Put the time before each line
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Only what came after this time: RFC 3339, seconds since 1970, or a span like 10m
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only what came before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    pub(crate) name: String,
    #[command(flatten)]
    help: HelpFlag,
}

/// `start`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct StartArgs {
    /// Attach to the container's output and exit with its code
    #[arg(short, long)]
    pub(crate) attach: bool,
    /// Pass the standard input on as well
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Keys that leave the terminal and let the container go on
    #[arg(long, value_name = "KEYS", default_value = crate::detach_keys::DEFAULT)]
    pub(crate) detach_keys: String,
    /// Names or ids of containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    help: HelpFlag,
}

/// `attach`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct AttachArgs {
    /// Do not pass the standard input on
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Do not pass signals on to the container
    #[arg(long)]
    pub(crate) no_sig_proxy: bool,
    /// Keys that leave the terminal and let the container go on
    #[arg(long, value_name = "KEYS", default_value = crate::detach_keys::DEFAULT)]
    pub(crate) detach_keys: String,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    pub(crate) name: String,
    #[command(flatten)]
    help: HelpFlag,
}

/// `stop`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct StopArgs {
    /// Seconds to wait before SIGKILL (-1: for ever)
    #[arg(
        short = 't',
        long,
        visible_alias = "time",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    pub(crate) timeout: Option<i32>,
    /// Signal to send first
    #[arg(short, long)]
    pub(crate) signal: Option<String>,
    /// Names or ids of containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    help: HelpFlag,
}

/// `kill`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct KillArgs {
    /// Signal to send: name or number [default: KILL]
    #[arg(short, long)]
    pub(crate) signal: Option<String>,
    /// Names or ids of containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    help: HelpFlag,
}

/// `rm`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct RmArgs {
    /// Remove running containers too (SIGKILL)
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Remove anonymous volumes of the containers
    #[arg(short, long)]
    pub(crate) volumes: bool,
    /// Names or ids of containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    help: HelpFlag,
}

/// `cp`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct CpArgs {
    /// Keep owners and groups
    #[arg(short, long)]
    pub(crate) archive: bool,
    /// Copy what a symlink at the source leads to
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,
    /// Say nothing when it is done
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// CONTAINER:PATH, a path here, or - for an archive on the standard input
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// CONTAINER:PATH, a path here, or - for an archive on the standard output
    #[arg(value_name = "DESTINATION")]
    pub(crate) destination: String,
    #[command(flatten)]
    help: HelpFlag,
}

/// `images`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct ImagesArgs {
    /// List intermediate images too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Show digests
    #[arg(long)]
    pub(crate) digests: bool,
    /// Keep only what matches, like dangling=true or reference=a*
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Only images of this repository, and tag
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) reference: Option<String>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
    #[command(flatten)]
    help: HelpFlag,
}

/// `pull`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct PullArgs {
    /// Print the image's name only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Platform of the image, like linux/amd64
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,
    /// Image to fetch
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub(crate) name: String,
    #[command(flatten)]
    help: HelpFlag,
}

/// `load`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct LoadArgs {
    /// Read from this file instead of the standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Print the names of loaded images only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    help: HelpFlag,
}

/// `import`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct ImportArgs {
    /// Apply a Dockerfile instruction, like 'CMD ["/bin/sh"]'
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub(crate) change: Vec<String>,
    /// Note for the image's history
    #[arg(short, long)]
    pub(crate) message: Option<String>,
    /// Platform of the image, like linux/amd64
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,
    /// Archive, or - for the standard input
    #[arg(value_name = "FILE|-")]
    pub(crate) file: String,
    /// Name of the new image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) reference: Option<String>,
    #[command(flatten)]
    help: HelpFlag,
}

/// `rmi`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct RmiArgs {
    /// Remove images that stopped containers use or that have several names
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Keep untagged parents
    #[arg(long)]
    pub(crate) no_prune: bool,
    /// Names or ids of images
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    help: HelpFlag,
}

/// `inspect`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct InspectArgs {
    /// json, or a text with fields like '{{.State.Status}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Show sizes of containers
    #[arg(short, long)]
    pub(crate) size: bool,
    /// Only objects of this type
    #[arg(long = "type", value_name = "TYPE", value_parser = ["container", "image"])]
    pub(crate) kind: Option<String>,
    /// Names or ids of containers or images
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    help: HelpFlag,
}

/// `version` and `info`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct FormatArgs {
    /// json, or a text with fields like '{{.ServerVersion}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Print JSON (the same as --format json)
    #[arg(long, conflicts_with = "format")]
    pub(crate) json: bool,
    #[command(flatten)]
    help: HelpFlag,
}

/// `doctor`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    help: HelpFlag,
}

/// `compare`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct CompareArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Containers behind each wall, after a first one that is told apart
    #[arg(short = 'n', long, value_name = "ROUNDS", default_value = "5",
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Image to run; it needs no program of its own
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// Command to time inside, after the image's entry point
    #[arg(value_name = "COMMAND", last = true, num_args = 0..)]
    pub(crate) command: Vec<String>,
    #[command(flatten)]
    help: HelpFlag,
}

impl FormatArgs {
    /// The format asked for, if any.
    pub(crate) fn format(&self) -> Option<&str> {
        if self.json {
            Some("json")
        } else {
            self.format.as_deref()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// The command line as a page: docs/cli.md.
    fn reference() -> String {
        let mut root = Cli::command().term_width(100);
        root.build();
        let mut text = "# The `atoll` command\n\nWritten by a test: `ATOLL_BLESS=1 cargo test -p \
                        atoll-cli reference` after a change of flags.\n"
            .to_owned();
        let mut page = |title: &str, command: &mut clap::Command| {
            let help = command.render_long_help().to_string();
            let help: Vec<&str> = help.lines().map(str::trim_end).collect();
            text.push_str(&format!(
                "\n## {title}\n```text\n{}\n```\n",
                help.join("\n").trim_end()
            ));
        };
        page("atoll", &mut root);
        for verb in root.get_subcommands_mut() {
            let title = format!("atoll {}", verb.get_name());
            page(&title, verb);
            for inner in verb.get_subcommands_mut() {
                if inner.get_name() != "help" {
                    page(&format!("{title} {}", inner.get_name()), inner);
                }
            }
        }
        text
    }

    #[test]
    fn the_reference_page_is_the_command_line() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");
        let expected = reference();
        if std::env::var_os("ATOLL_BLESS").is_some() {
            std::fs::write(path, &expected).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == expected,
            "docs/cli.md is old: run with ATOLL_BLESS=1 and look at it"
        );
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    fn run_words(line: &str) -> Vec<String> {
        match Cli::try_parse_from(line.split(' ')).unwrap().verb {
            Verb::Run(run) => run.create.image_and_command(),
            verb => panic!("{verb:?}"),
        }
    }

    #[test]
    fn the_double_dash_may_stand_before_or_after_the_image() {
        for line in [
            "atoll run host -- ls /",
            "atoll run -- host ls /",
            "atoll run host ls /",
        ] {
            assert_eq!(run_words(line), ["host", "ls", "/"], "{line}");
        }
        assert_eq!(
            run_words("atoll run --rm -it a -v -- -x"),
            ["a", "-v", "--", "-x"]
        );
        assert_eq!(run_words("atoll run a ls -- x"), ["a", "ls", "--", "x"]);
        assert_eq!(run_words("atoll run -e A=b -h name a"), ["a"]);
    }

    #[test]
    fn a_wrong_verb_is_answered_with_the_nearest() {
        let error = Cli::try_parse_from(["atoll", "imagse"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("'images'"), "{error}");
    }
}
