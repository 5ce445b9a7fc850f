//! Measures attaching to and detaching from a bridge: `cargo run --release --example attach_time`.
//!
//! Runs in network namespaces of its own; needs root.
#![expect(clippy::print_stdout, reason = "a measurement prints its result")]
#![expect(
    clippy::unwrap_used,
    reason = "a measurement that can't be taken stops"
)]

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use atoll_netlink::netns;
use atoll_network::{Bridge, BridgeConfig, EndpointRequest, Ipam, Ipv4Net};

const ROUNDS: usize = 200;

fn main() {
    let host = netns::create().unwrap();
    netns::run_inside(host.as_fd(), measure).unwrap();
}

fn measure() {
    let (gateway, subnet) = Ipv4Net::parse_with_address("10.88.0.1/16").unwrap();
    let config = BridgeConfig::new("atoll0", subnet, gateway, 1500).unwrap();
    let started = Instant::now();
    let bridge = Bridge::ensure(&config, &[]).unwrap();
    println!("ensure (new)        {:>9.1?}", started.elapsed());
    let started = Instant::now();
    Bridge::ensure(&config, &[]).unwrap();
    println!("ensure (again)      {:>9.1?}", started.elapsed());

    let mut ipam = Ipam::new(subnet, gateway).unwrap();
    let mut attach = Vec::new();
    let mut detach = Vec::new();
    let mut enter = Vec::new();
    for _ in 0..ROUNDS {
        let netns = netns::create().unwrap();
        let started = Instant::now();
        netns::run_inside(netns.as_fd(), || {}).unwrap();
        enter.push(started.elapsed());
        let request = EndpointRequest {
            container_id: "0123456789ab",
            netns: netns.as_fd(),
            address: ipam.allocate(None).unwrap(),
            mac: None,
            interface: "eth0",
            is_way_out: true,
        };
        let started = Instant::now();
        let endpoint = bridge.attach(&request).unwrap();
        attach.push(started.elapsed());
        let started = Instant::now();
        bridge.detach(&endpoint).unwrap();
        detach.push(started.elapsed());
    }
    report("enter a namespace", enter);
    report("attach", attach);
    report("detach (alive)", detach);
    bridge.remove().unwrap();
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{what:<18}  min {:>8.1?}  median {:>8.1?}  p95 {:>8.1?}",
        at(0),
        at(50),
        at(95)
    );
}
