//! Networking: a bridge with its firewall, a container's pair and a machine's tap are made in a
//! network namespace that disappears afterwards.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use atoll_netlink::netns;
use atoll_network::{Bridge, BridgeConfig, EndpointRequest, Ipv4Net};
use atoll_sys::tap;

use super::Finding;

const BRIDGE: &str = "atolldoctor";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Bytes of the virtio-net header before a frame.
const HEADER_BYTES: u8 = 12;

pub(super) fn finding() -> Finding {
    let mut finding = Finding::works("network");
    let tried = netns::create().and_then(|host| {
        let container = netns::create()?;
        netns::run_inside(host.as_fd(), || {
            (
                connect(container.as_fd()),
                tap::open("doctor%d", HEADER_BYTES),
            )
        })
    });
    let (connected, tap) = match tried {
        Ok(tried) => tried,
        Err(error) => {
            finding.fails(&error, Some("run it as root".to_owned()));
            return finding;
        }
    };
    match connected {
        Ok(()) => finding.fact(
            "a bridge, its nf_tables rules and a container's pair (veth) were made in a namespace",
        ),
        Err(error) => {
            let hint = "load what the kernel lacks: `modprobe -a bridge veth nf_tables \
                        nft_chain_nat nft_masq nft_ct`, or use `--network none`";
            finding.fails(&error, Some(hint.to_owned()));
        }
    }
    match tap {
        Ok(_) => finding.fact("a machine's tap was made there, too"),
        Err(errno) => {
            let because = format!("cannot make a tap: {}", atoll_sys::describe(errno));
            let hint = "load it with `modprobe tun`; machines without a network need none \
                        (`--network none`)";
            finding.fails_with(vec![because], Some(hint.to_owned()));
        }
    }
    finding
}

/// Makes what a container on the default network needs.
fn connect(container: std::os::fd::BorrowedFd<'_>) -> Result<(), atoll_network::Error> {
    let Some(subnet) = Ipv4Net::containing(GATEWAY, 24) else {
        // A prefix of 24 bits is one.
        return Ok(());
    };
    let config = BridgeConfig::new(BRIDGE, subnet, GATEWAY, 1500)?;
    let bridge = Bridge::ensure(&config, &[])?;
    let request = EndpointRequest {
        container_id: "doctor",
        netns: container,
        address: CONTAINER,
        mac: None,
        interface: "eth0",
        is_way_out: true,
    };
    bridge.attach(&request).map(drop)
}
