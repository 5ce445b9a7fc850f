//! The link of a pod's network namespace, whose place the machine's card takes.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use atoll_guest::protocol::{Network, Route};
use atoll_network::{PodLink, connect_pod, disconnect_pod, pod_link};

use super::share::failed;
use crate::failure::Failure;

/// Name of the tap: the namespace is the pod's, so there is no other.
const TAP: &str = "atoll-tap0";

/// A pod's link.
pub(super) struct Link {
    /// The network namespace.
    pub(super) namespace: PathBuf,
    /// The tap that the monitor opens there.
    pub(super) tap: String,
    is_joined: bool,
}

impl Link {
    /// Looks at the link of `namespace`, and how the guest's card is to be; none when there is none.
    pub(super) fn look(namespace: &Path) -> Result<Option<(Self, Network)>, Failure> {
        let file = open(namespace)?;
        if is_ours(&file).map_err(failed("look at the network namespace"))? {
            return Err(Failure::invalid(format!(
                "a machine cannot have the host's own network: {} is this process's",
                namespace.display()
            )));
        }
        let Some(link) = pod_link(file.as_fd()).map_err(network_failed)? else {
            return Ok(None);
        };
        let ours = Self {
            namespace: namespace.to_owned(),
            tap: TAP.to_owned(),
            is_joined: false,
        };
        Ok(Some((ours, card(&link))))
    }

    /// Joins it and the tap, which is there.
    pub(super) fn join(&mut self) -> Result<(), Failure> {
        connect_pod(open(&self.namespace)?.as_fd(), &self.tap).map_err(network_failed)?;
        self.is_joined = true;
        Ok(())
    }

    /// Gives it back, if the namespace is still there.
    pub(super) fn free(&self) {
        if !self.is_joined {
            return;
        }
        let Ok(namespace) = File::open(&self.namespace) else {
            return;
        };
        if let Err(error) = disconnect_pod(namespace.as_fd()) {
            crate::report(format_args!("{}", atoll_sys::with_causes(&error)));
        }
    }
}

/// Whether a network namespace is the one this process is in.
fn is_ours(namespace: &File) -> io::Result<bool> {
    let identity = |facts: std::fs::Metadata| (facts.dev(), facts.ino());
    let ours = std::fs::metadata("/proc/self/ns/net")?;
    Ok(identity(namespace.metadata()?) == identity(ours))
}

fn card(link: &PodLink) -> Network {
    let routes = link.routes.iter().map(|route| Route {
        destination: route.destination,
        prefix_len: route.prefix_len,
        gateway: route.gateway,
    });
    Network {
        place: None,
        interface: "eth0".to_owned(),
        mac: link.mac.0,
        mtu: link.mtu,
        addresses: link.addresses.clone(),
        routes: routes.collect(),
    }
}

fn open(namespace: &Path) -> Result<File, Failure> {
    let action = format!("open the pod's network namespace {}", namespace.display());
    File::open(namespace).map_err(|error: io::Error| failed(action)(error))
}

fn network_failed(error: atoll_network::Error) -> Failure {
    Failure::unknown(atoll_sys::with_causes(&error))
}
