//! Container networks: bridges, addresses, firewall rules, and the files that name things.
//!
//! ```text
//! BridgeConfig ─► Bridge::plan ────┐                  ┌► rtnetlink: bridge, veth, address, route
//!                                  ├─► Plan ─► apply ─┼► nf_tables: one table of ours per bridge
//! EndpointRequest ─► plan_endpoint ┘  (prints)        └► sysctl: forwarding, no IPv6 autoconf
//!
//! Ipam: which address is whose      choose_subnet: a range no route of the host uses
//! resolv_conf, hosts_file: what a container's /etc says
//! ```
//!
//! Deciding is pure and returns a [`Plan`], which prints and is tested without root; applying a plan
//! decides nothing, and a step that fails undoes those before it. Calls are synchronous and take
//! about a millisecond; no thread, process or file stays behind. State is the kernel's: an engine
//! that died finds its bridge with [`Bridge::ensure`] and drops leftovers with [`Bridge::prune`].
//!
//! It never executes a program, never touches links, routes or firewall tables it did not make, and
//! knows no container, image or HTTP.
#![forbid(unsafe_code)]

mod apply;
mod bridge;
pub mod dns;
mod error;
mod host;
mod hosts_file;
mod ipam;
mod mac;
mod machine;
mod plan;
mod pod;
mod resolv_conf;
mod subnet;
mod table;

pub use atoll_netlink::MacAddr;
pub use bridge::{Bridge, BridgeConfig, Endpoint, EndpointRequest, bring_up_loopback};
pub use error::Error;
pub use host::{host_networks, host_resolv_conf, uplink_mtu};
pub use hosts_file::hosts_file;
pub use ipam::Ipam;
pub use mac::mac_for;
pub use plan::{Plan, Step};
pub use pod::{PodLink, PodRoute, connect_pod, disconnect_pod, pod_link};
pub use resolv_conf::{DnsOptions, resolv_conf};
pub use subnet::{Ipv4Net, choose_small_subnet, choose_subnet};
pub use table::{Protocol, Published};
