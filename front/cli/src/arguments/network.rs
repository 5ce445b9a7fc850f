//! Flags of `network` and `port`.

use clap::{Args, Subcommand};

use super::{HelpFlag, ListArgs};

/// `network`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct NetworkArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: NetworkVerb,
    #[command(flatten)]
    help: HelpFlag,
}

/// What can be done with networks.
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkVerb {
    /// Make a network and print its id
    Create(CreateNetworkArgs),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(ListNetworksArgs),
    /// Show all details of networks
    Inspect(InspectNetworksArgs),
    /// Remove networks that no running container is in
    Rm(NetworkNamesArgs),
    /// Remove all networks that no container is in
    Prune(PruneNetworksArgs),
    /// Connect a container to a network, running or not
    Connect(ConnectArgs),
    /// Take a container out of a network, running or not
    Disconnect(DisconnectArgs),
}

/// `network create`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct CreateNetworkArgs {
    /// Addresses of the network, like 10.9.8.0/24; a free range when not given
    #[arg(long, value_name = "SUBNET")]
    pub(crate) subnet: Option<String>,
    /// Address of the host in the network
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) gateway: Option<String>,
    /// Part of the subnet that containers get addresses from
    #[arg(long, value_name = "SUBNET")]
    pub(crate) ip_range: Option<String>,
    /// Cut the network off from everything outside
    #[arg(long)]
    pub(crate) internal: bool,
    /// Label, KEY=value
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) label: Vec<String>,
    /// Option of the bridge, KEY=value
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) opt: Vec<String>,
    /// Kind of network
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    pub(crate) driver: String,
    /// Name of the network
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    #[command(flatten)]
    help: HelpFlag,
}

/// `network ls`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct ListNetworksArgs {
    /// Keep only what matches, like driver=bridge or label=a=b
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
    #[command(flatten)]
    help: HelpFlag,
}

/// `network inspect`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct InspectNetworksArgs {
    /// json, or a text with fields like '{{.Driver}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Names or ids of networks
    #[arg(value_name = "NETWORK", required = true)]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    help: HelpFlag,
}

/// `network rm`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct NetworkNamesArgs {
    /// Names or ids of networks
    #[arg(value_name = "NETWORK", required = true)]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    help: HelpFlag,
}

/// `network prune`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct PruneNetworksArgs {
    /// Only what matches, like label=a or until=24h
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    #[command(flatten)]
    help: HelpFlag,
}

/// `network connect`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct ConnectArgs {
    /// Address of the container in the network
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Option<String>,
    /// Further name of the container in the network
    #[arg(long, value_name = "NAME")]
    pub(crate) alias: Vec<String>,
    /// Name or id of the network
    #[arg(value_name = "NETWORK")]
    pub(crate) network: String,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    #[command(flatten)]
    help: HelpFlag,
}

/// `network disconnect`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct DisconnectArgs {
    /// Also when the container is gone
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Name or id of the network
    #[arg(value_name = "NETWORK")]
    pub(crate) network: String,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    #[command(flatten)]
    help: HelpFlag,
}

/// `port`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct PortArgs {
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    /// One port of the container
    #[arg(value_name = "PORT[/PROTOCOL]")]
    pub(crate) port: Option<String>,
    #[command(flatten)]
    help: HelpFlag,
}
