//! Options of `checkpoint` and `restore`.

use std::os::fd::RawFd;
use std::path::PathBuf;

use atoll_container::{CgroupsMode, CriuRequest, PageServer};
use clap::{Args, ValueEnum};

/// What both have.
#[derive(Debug, Args)]
pub(crate) struct CriuArguments {
    /// Folder of CRIU's images, made when missing
    #[arg(long, default_value = "checkpoint", hide_default_value = true)]
    pub(crate) image_path: PathBuf,
    /// Folder of logs and other work files; default is that of the images
    #[arg(long)]
    work_path: Option<PathBuf>,
    /// Allow established TCP connections
    #[arg(long)]
    tcp_established: bool,
    /// Allow Unix sockets connected to outside
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow a terminal that is not the container's own
    #[arg(long)]
    shell_job: bool,
    /// Allow file locks
    #[arg(long)]
    file_locks: bool,
    /// Free earlier images of memory that later ones have too
    #[arg(long)]
    auto_dedup: bool,
    /// Send memory when it is touched
    #[arg(long)]
    lazy_pages: bool,
    /// What CRIU does with control groups
    #[arg(long, default_value = "", hide_default_value = true, value_parser = cgroups_mode)]
    manage_cgroups_mode: CgroupsMode,
    /// Namespaces whose contents are left alone: those of networks always are
    #[arg(long, value_enum)]
    empty_ns: Vec<EmptyNamespace>,
}

/// What `--empty-ns` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EmptyNamespace {
    /// Cards, addresses, routes.
    Network,
}

impl CriuArguments {
    /// The request, to the program `criu`.
    pub(crate) fn request(&self, criu: Option<PathBuf>) -> CriuRequest {
        let mut request = CriuRequest::new(self.image_path.clone());
        if let Some(criu) = criu.filter(|path| !path.as_os_str().is_empty()) {
            request.program = criu;
        }
        CriuRequest {
            work: self.work_path.clone(),
            tcp_established: self.tcp_established,
            ext_unix_sockets: self.ext_unix_sk,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            auto_dedup: self.auto_dedup,
            lazy_pages: self.lazy_pages,
            cgroups: self.manage_cgroups_mode,
            debug: crate::report::debug,
            ..request
        }
    }
}

/// Options of `checkpoint`.
#[derive(Debug, Args)]
pub(crate) struct CheckpointArguments {
    /// The container
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) criu: CriuArguments,
    /// Folder of an earlier checkpoint whose memory is left out, relative to --image-path
    #[arg(long)]
    pub(crate) parent_path: Option<PathBuf>,
    /// Let the container go on
    #[arg(long)]
    pub(crate) leave_running: bool,
    /// Leave out TCP connections that are being made
    #[arg(long)]
    pub(crate) tcp_skip_in_flight: bool,
    /// Name files that have no name any more for the time
    #[arg(long)]
    pub(crate) link_remap: bool,
    /// Write memory only, and let the container go on
    #[arg(long)]
    pub(crate) pre_dump: bool,
    /// Descriptor that gets a zero byte when --lazy-pages waits to be asked
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) status_fd: Option<RawFd>,
    /// ADDRESS:PORT where memory goes to, or is asked for
    #[arg(long, value_parser = page_server)]
    pub(crate) page_server: Option<PageServer>,
}

/// Options of `restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArguments {
    /// The container's new id
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) criu: CriuArguments,
    /// Folder with config.json
    #[arg(long, short, default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Unix socket that gets the terminal's master
    #[arg(long)]
    pub(crate) console_socket: Option<PathBuf>,
    /// File to write the process id to
    #[arg(long)]
    pub(crate) pid_file: Option<PathBuf>,
    /// Return when the processes go on
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Accepted for runc's callers; CRIU has the root's mount as the container had it
    #[arg(long)]
    no_pivot: bool,
    /// Accepted for runc's callers
    #[arg(long)]
    no_subreaper: bool,
    /// Another profile of the security module, TYPE:NAME
    #[arg(long)]
    pub(crate) lsm_profile: Option<String>,
    /// Another mount context
    #[arg(long)]
    pub(crate) lsm_mount_context: Option<String>,
}

fn cgroups_mode(text: &str) -> Result<CgroupsMode, String> {
    match text {
        "" => Ok(CgroupsMode::Default),
        "ignore" => Ok(CgroupsMode::Ignore),
        "soft" => Ok(CgroupsMode::Soft),
        "full" => Ok(CgroupsMode::Full),
        "strict" => Ok(CgroupsMode::Strict),
        _ => Err("it is soft, full, strict or ignore".to_owned()),
    }
}

fn page_server(text: &str) -> Result<PageServer, String> {
    let wrong = || "it is ADDRESS:PORT".to_owned();
    let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let port = port.parse::<u16>().ok().filter(|port| *port != 0);
    match (address, port) {
        ("", _) | (_, None) => Err(wrong()),
        (address, Some(port)) => Ok(PageServer {
            address: address.to_owned(),
            port,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_servers_have_an_address_and_a_port() {
        let of = |address: &str, port| PageServer {
            address: address.to_owned(),
            port,
        };
        assert_eq!(page_server("0.0.0.0:27277"), Ok(of("0.0.0.0", 27277)));
        assert_eq!(page_server("[::1]:1"), Ok(of("::1", 1)));
        for text in [
            "",
            "1.2.3.4",
            ":80",
            "1.2.3.4:",
            "1.2.3.4:0",
            "1.2.3.4:99999",
        ] {
            assert!(page_server(text).is_err(), "{text}");
        }
    }

    #[test]
    fn modes_of_control_groups_are_runcs() {
        assert_eq!(cgroups_mode(""), Ok(CgroupsMode::Default));
        assert_eq!(cgroups_mode("strict"), Ok(CgroupsMode::Strict));
        assert!(cgroups_mode("hard").is_err());
    }
}
