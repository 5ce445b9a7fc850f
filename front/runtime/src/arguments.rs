//! The command line, option by option as runc has it.

mod criu;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use criu::{CheckpointArguments, RestoreArguments};

use crate::report::Log;

/// Where states are without `--root`.
pub(crate) const DEFAULT_ROOT: &str = "/run/atoll-runtime";

/// Runs containers as the OCI runtime specification describes them.
#[derive(Debug, Parser)]
#[command(name = "atoll-runtime", version = version(), disable_help_subcommand = true, disable_version_flag = true)]
// Podman says some twice, which runc takes.
#[command(args_override_self = true)]
pub(crate) struct Arguments {
    /// Print version
    #[arg(short = 'v', short_alias = 'V', long, action = clap::ArgAction::Version)]
    version: (),
    /// Folder of container states; gone after a reboot. Default is /run/atoll-runtime, of users without privilege
    /// atoll-runtime in XDG_RUNTIME_DIR
    #[arg(long)]
    root: Option<PathBuf>,
    /// File to append failures to
    #[arg(long)]
    log: Option<PathBuf>,
    /// Form of a line in the log: text or json
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
    /// Say more in the log, and on standard error without one
    #[arg(long)]
    pub(crate) debug: bool,
    /// `cgroupsPath` is `slice:prefix:name`
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,
    /// Accepted for runc's callers
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    rootless: Option<String>,
    /// The program CRIU, if not that in PATH
    #[arg(long, hide = true)]
    pub(crate) criu: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// Folder of container states.
    pub(crate) fn root(&self) -> PathBuf {
        let variable = |name| std::env::var_os(name).filter(|text| !text.is_empty());
        let caller = Caller {
            is_root: rustix::process::geteuid().is_root(),
            is_in_user_namespace: atoll_sys::namespace::is_in_user_namespace(),
            user: variable("USER"),
            runtime_folder: variable("XDG_RUNTIME_DIR"),
        };
        self.root.clone().unwrap_or_else(|| default_root(caller))
    }

    /// Where failures are logged besides standard error.
    pub(crate) fn log(&self) -> Option<Log> {
        let path = self
            .log
            .clone()
            .filter(|path| !path.as_os_str().is_empty())?;
        Some(Log {
            path,
            is_json: self.log_format == "json",
        })
    }
}

/// Who calls, as far as it decides where states are.
struct Caller {
    is_root: bool,
    is_in_user_namespace: bool,
    user: Option<OsString>,
    runtime_folder: Option<OsString>,
}

/// Root of another user namespace is an engine of a user's, which is called so by `USER`, unless a whole system is in it.
fn default_root(caller: Caller) -> PathBuf {
    let is_a_systems =
        !caller.is_in_user_namespace || caller.user.is_some_and(|user| user == "root");
    match caller.runtime_folder {
        Some(folder) if !(caller.is_root && is_a_systems) => {
            PathBuf::from(folder).join("atoll-runtime")
        }
        _ => DEFAULT_ROOT.into(),
    }
}

/// The version as runc prints it: container managers read the `spec:` line.
fn version() -> &'static str {
    concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0")
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a container; its program waits for `start`
    Create(CreateArguments),
    /// Make a container, run its program, remove the container
    Run(RunArguments),
    /// Execute the program of a created container
    Start(Id),
    /// Print a container's state as JSON
    State(Id),
    /// Send a signal to a container
    Kill(KillArguments),
    /// Remove a stopped container
    Delete(DeleteArguments),
    /// Run one more program in a container
    Exec(ExecArguments),
    /// List containers
    List(ListArguments),
    /// List a container's processes
    Ps(PsArguments),
    /// Write an example config.json
    Spec(SpecArguments),
    /// Freeze every process of a container
    Pause(Id),
    /// Thaw every process of a container
    Resume(Id),
    /// Change a container's limits
    Update(UpdateArguments),
    /// Write a running container into files
    Checkpoint(CheckpointArguments),
    /// Make a container of the files of a checkpoint
    Restore(RestoreArguments),
    /// Print what a container uses as JSON
    Events(EventsArguments),
    /// Print what this runtime can do as JSON
    Features,
}

/// Options of `events`.
#[derive(Debug, Args)]
pub(crate) struct EventsArguments {
    /// The container
    pub(crate) id: String,
    /// Print once and end
    #[arg(long)]
    pub(crate) stats: bool,
    /// Time between prints: 5s, 500ms, 1m
    #[arg(long, default_value = "5s")]
    pub(crate) interval: String,
}

/// A container's id.
#[derive(Debug, Args)]
pub(crate) struct Id {
    /// The container
    pub(crate) id: String,
}

/// Options of `create`, also of `run`.
#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// The container's new id
    pub(crate) id: String,
    /// Folder with config.json
    #[arg(long, short, default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Unix socket that gets the terminal's master
    #[arg(long)]
    pub(crate) console_socket: Option<PathBuf>,
    /// File to write the process id to
    #[arg(long)]
    pub(crate) pid_file: Option<PathBuf>,
    /// Unix socket that gets a descriptor of the process
    #[arg(long)]
    pub(crate) pidfd_socket: Option<PathBuf>,
    /// Move the root mount instead of pivot_root(2), for an initramfs
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
    /// Descriptors from 3 on to pass to the program
    #[arg(long, default_value_t = 0)]
    pub(crate) preserve_fds: u32,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub(crate) create: CreateArguments,
    /// Return when the program runs
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Keep the container when its program has ended
    #[arg(long)]
    pub(crate) keep: bool,
    /// Accepted for runc's callers
    #[arg(long)]
    no_subreaper: bool,
}

/// Options of `kill`.
#[derive(Debug, Args)]
pub(crate) struct KillArguments {
    /// The container
    pub(crate) id: String,
    /// Name or number
    #[arg(default_value = "SIGTERM")]
    pub(crate) signal: String,
    /// Signal every process
    #[arg(long, short)]
    pub(crate) all: bool,
}

/// Options of `delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArguments {
    /// The container
    pub(crate) id: String,
    /// Kill it first if it runs; a missing one is no error
    #[arg(long, short)]
    pub(crate) force: bool,
}

/// Options of `exec`.
#[derive(Debug, Args)]
pub(crate) struct ExecArguments {
    /// Unix socket that gets the terminal's master
    #[arg(long)]
    pub(crate) console_socket: Option<PathBuf>,
    /// Working directory
    #[arg(long)]
    pub(crate) cwd: Option<PathBuf>,
    /// Environment variable, NAME=VALUE
    #[arg(long, short)]
    pub(crate) env: Vec<String>,
    /// Give it a terminal
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// UID[:GID]
    #[arg(long, short)]
    pub(crate) user: Option<String>,
    /// Supplementary group ids
    #[arg(long, short = 'g')]
    pub(crate) additional_gids: Vec<u32>,
    /// JSON file with the whole process
    #[arg(long, short)]
    pub(crate) process: Option<PathBuf>,
    /// Return when the program runs
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// File to write the process id to
    #[arg(long)]
    pub(crate) pid_file: Option<PathBuf>,
    /// Forbid gaining privileges by execve(2)
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// Capability to add
    #[arg(long, short)]
    pub(crate) cap: Vec<String>,
    /// Descriptors from 3 on to pass to the program
    #[arg(long, default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Existing folder below the container's cgroup to run in, [CONTROLLER:]FOLDER
    #[arg(long)]
    pub(crate) cgroup: Vec<String>,
    /// Unix socket that gets a descriptor of the process
    #[arg(long)]
    pub(crate) pidfd_socket: Option<PathBuf>,
    /// AppArmor profile of the program
    #[arg(long)]
    pub(crate) apparmor: Option<String>,
    /// SELinux label of the program
    #[arg(long)]
    pub(crate) process_label: Option<String>,
    /// Run also in a paused container, when it is resumed
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    /// The container
    pub(crate) id: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

/// Options of `list`.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// table or json
    #[arg(long, short, default_value = "table", value_parser = ["table", "json"])]
    pub(crate) format: String,
    /// Ids only
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Options of `ps`.
#[derive(Debug, Args)]
pub(crate) struct PsArguments {
    /// table or json
    #[arg(long, short, default_value = "table", value_parser = ["table", "json"])]
    pub(crate) format: String,
    /// The container
    pub(crate) id: String,
    /// Options for ps(1), -ef when absent
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) options: Vec<String>,
}

/// Options of `spec`.
#[derive(Debug, Args)]
pub(crate) struct SpecArguments {
    /// Folder to write config.json to
    #[arg(long, short, default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Make one for a user without privileges
    #[arg(long)]
    pub(crate) rootless: bool,
}

/// Options of `update`: absent ones stay as they are.
#[derive(Debug, Args)]
pub(crate) struct UpdateArguments {
    /// The container
    pub(crate) id: String,
    /// JSON file with OCI resources, - for standard input
    #[arg(long, short)]
    pub(crate) resources: Option<PathBuf>,
    /// Memory limit in bytes, or with a unit: 512m, 1.5GiB; -1 is none
    #[arg(long, allow_hyphen_values = true, value_parser = bytes)]
    pub(crate) memory: Option<i64>,
    /// Soft memory limit
    #[arg(long, allow_hyphen_values = true, value_parser = bytes)]
    pub(crate) memory_reservation: Option<i64>,
    /// Limit of memory plus swap
    #[arg(long, allow_hyphen_values = true, value_parser = bytes)]
    pub(crate) memory_swap: Option<i64>,
    /// Processor time per period in microseconds
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// Period in microseconds
    #[arg(long)]
    pub(crate) cpu_period: Option<u64>,
    /// Relative weight
    #[arg(long)]
    pub(crate) cpu_share: Option<u64>,
    /// CPUs to run on
    #[arg(long)]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long)]
    pub(crate) cpuset_mems: Option<String>,
    /// Number of tasks
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// Processor time that may be saved up, in microseconds
    #[arg(long)]
    pub(crate) cpu_burst: Option<u64>,
    /// 1 runs the container only when nothing else runs
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_idle: Option<i64>,
    /// Real-time period in microseconds
    #[arg(long)]
    pub(crate) cpu_rt_period: Option<u64>,
    /// Real-time processor time per period in microseconds
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_rt_runtime: Option<i64>,
    /// Relative weight for block devices, 10 to 1000
    #[arg(long)]
    pub(crate) blkio_weight: Option<u16>,
    /// Accepted for runc's callers; the kernel has no such limit any more
    #[arg(long, hide = true, allow_hyphen_values = true)]
    kernel_memory: Option<String>,
    /// Accepted for runc's callers; the kernel has no such limit any more
    #[arg(long, hide = true, allow_hyphen_values = true)]
    kernel_memory_tcp: Option<String>,
    /// Cache schema of the container's resctrl group
    #[arg(long)]
    pub(crate) l3_cache_schema: Option<String>,
    /// Memory bandwidth schema of the container's resctrl group
    #[arg(long)]
    pub(crate) mem_bw_schema: Option<String>,
}

/// Reads a number of bytes with an optional binary unit, `-1` for no limit.
fn bytes(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is no size such as 4096, 512m or 1.5GiB");
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = lower.split_at(end.unwrap_or(lower.len()));
    let unit = unit.trim();
    let unit = unit
        .strip_suffix("ib")
        .or(unit.strip_suffix('b'))
        .unwrap_or(unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(wrong()),
    };
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(1024_i64.pow(power)).ok_or_else(wrong);
    }
    let parts = number.split_once('.').ok_or_else(wrong)?;
    let is_number = |digits: &str| digits.len() < 10 && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_number(parts.0) || !is_number(parts.1) || parts.1.is_empty() {
        return Err(wrong());
    }
    let scale = 10_i128.pow(u32::try_from(parts.1.len()).map_err(|_| wrong())?);
    let digits: i128 = format!("{}{}", parts.0, parts.1)
        .parse()
        .map_err(|_| wrong())?;
    i64::try_from(digits * 1024_i128.pow(power) / scale).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// The command line as a page: docs/runtime-cli.md.
    fn reference() -> String {
        let mut root = Arguments::command().term_width(100);
        root.build();
        let mut text = "# The `atoll-runtime` command\n\nrunc's command line, for what calls a runtime: dockerd, podman, \
                        CRI-O, containerd's own shims. Written by a test: `ATOLL_BLESS=1 cargo test -p atoll-runtime \
                        reference` after a change of options.\n"
            .to_owned();
        let mut page = |title: &str, command: &mut clap::Command| {
            let help = command.render_long_help().to_string();
            let help: Vec<&str> = help.lines().map(str::trim_end).collect();
            let help = help.join("\n");
            text.push_str(&format!(
                "\n## {title}\n```text\n{}\n```\n",
                help.trim_end()
            ));
        };
        page("atoll-runtime", &mut root);
        for command in root.get_subcommands_mut() {
            page(&format!("atoll-runtime {}", command.get_name()), command);
        }
        text
    }

    #[test]
    fn the_reference_page_is_the_command_line() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/runtime-cli.md");
        let expected = reference();
        if std::env::var_os("ATOLL_BLESS").is_some() {
            std::fs::write(path, &expected).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == expected,
            "docs/runtime-cli.md is old: run with ATOLL_BLESS=1 and look at it"
        );
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_are_taken_before_and_after_the_id() {
        for line in [
            ["r", "create", "--bundle", "/b", "x"],
            ["r", "create", "x", "--bundle", "/b"],
        ] {
            let arguments = Arguments::try_parse_from(line).unwrap();
            let Command::Create(create) = arguments.command else {
                panic!("{line:?}")
            };
            assert_eq!((create.id.as_str(), create.bundle), ("x", "/b".into()));
        }
    }

    #[test]
    fn what_is_said_twice_counts_once_but_lists_grow() {
        let line = [
            "r",
            "--debug",
            "--debug",
            "checkpoint",
            "--leave-running",
            "--leave-running",
            "x",
            "--image-path",
            "/a",
            "--image-path",
            "/b",
        ];
        let arguments = Arguments::try_parse_from(line).unwrap();
        let Command::Checkpoint(checkpoint) = arguments.command else {
            panic!("{line:?}")
        };
        assert!(checkpoint.leave_running);
        assert_eq!(checkpoint.criu.image_path, PathBuf::from("/b"));
        let line = [
            "r", "exec", "-e", "A=1", "--env", "B=2", "-g", "1", "-g", "2", "x", "ls",
        ];
        let arguments = Arguments::try_parse_from(line).unwrap();
        let Command::Exec(exec) = arguments.command else {
            panic!("{line:?}")
        };
        assert_eq!(exec.env, ["A=1", "B=2"]);
        assert_eq!(exec.additional_gids, [1, 2]);
        assert_eq!(exec.command, ["ls"]);
    }

    #[test]
    fn states_of_users_are_theirs_also_where_they_seem_to_be_root() {
        let root = |is_root, is_in_user_namespace, user: &str, folder: &str| {
            let text = |text: &str| (!text.is_empty()).then(|| OsString::from(text));
            let path = default_root(Caller {
                is_root,
                is_in_user_namespace,
                user: text(user),
                runtime_folder: text(folder),
            });
            path.to_string_lossy().into_owned()
        };
        let (own, systems) = ("/run/user/7/atoll-runtime", "/run/atoll-runtime");
        assert_eq!(root(false, false, "lea", "/run/user/7"), own);
        assert_eq!(root(true, true, "lea", "/run/user/7"), own);
        assert_eq!(root(true, true, "", "/run/user/7"), own);
        assert_eq!(root(true, true, "root", "/run/user/0"), systems);
        assert_eq!(root(true, false, "lea", "/run/user/0"), systems);
        assert_eq!(root(false, false, "lea", ""), systems);
    }

    #[test]
    fn sizes_have_units() {
        for (text, number) in [
            ("-1", -1),
            ("0", 0),
            ("4096", 4096),
            ("512m", 512 << 20),
            ("1.5GiB", 3 << 29),
            ("2KB", 2048),
        ] {
            assert_eq!(bytes(text), Ok(number), "{text}");
        }
        for text in ["", "x", "-2", "1x", "1.", "1.2.3", "9999999999g"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn options_of_the_executed_program_are_its_own() {
        let line = ["r", "exec", "-t", "x", "ls", "-l", "--cap"];
        let arguments = Arguments::try_parse_from(line).unwrap();
        let Command::Exec(exec) = arguments.command else {
            panic!("{line:?}")
        };
        assert_eq!(exec.command, ["ls", "-l", "--cap"]);
    }
}
