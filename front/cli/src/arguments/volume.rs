//! `volume` and its verbs.

use clap::{Args, Subcommand};

use super::{HelpFlag, ListArgs};

/// `volume`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true, disable_help_subcommand = true)]
pub(crate) struct VolumeArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: VolumeVerb,
    #[command(flatten)]
    help: HelpFlag,
}

/// What is done with volumes.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeVerb {
    /// Make a volume
    Create(CreateArgs),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show all details of volumes
    Inspect(InspectArgs),
    /// Remove volumes that no container has
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Remove all anonymous volumes that no container has
    Prune(PruneArgs),
}

/// `volume create`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct CreateArgs {
    /// Give it a label
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) label: Vec<String>,
    /// Option of the driver: type, device and o, as mount(8) has them
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) opt: Vec<String>,
    /// Its name; without one, 64 random digits
    #[arg(value_name = "VOLUME")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    help: HelpFlag,
}

/// `volume ls`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct LsArgs {
    /// Keep only what matches, like dangling=true or name=a
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
    #[command(flatten)]
    help: HelpFlag,
}

/// `volume inspect`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct InspectArgs {
    /// json, or a text with fields like '{{.Mountpoint}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Names of volumes
    #[arg(value_name = "VOLUME", required = true)]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    help: HelpFlag,
}

/// `volume rm`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct RmArgs {
    /// Do not mind volumes that are not there
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Names of volumes
    #[arg(value_name = "VOLUME", required = true)]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    help: HelpFlag,
}

/// `volume prune`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct PruneArgs {
    /// Volumes with a name too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Keep only what matches, like label=a=b
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    #[command(flatten)]
    help: HelpFlag,
}
