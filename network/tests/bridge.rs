//! Bridges on the real kernel, in network namespaces of each test's own. Needs root.
//!
//! `nft` and `ip` are judges and scene builders here; the crate itself executes nothing.
#![expect(clippy::unwrap_used, reason = "a test that meets an error fails")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atoll_netlink::{netns, route};
use atoll_network::{
    Bridge, BridgeConfig, Endpoint, EndpointRequest, Error, Ipv4Net, Protocol, Published,
    bring_up_loopback, host_networks, uplink_mtu,
};

const DEADLINE: Duration = Duration::from_secs(5);

/// A network namespace; gone with all it contains when dropped.
struct Namespace(OwnedFd);

impl Namespace {
    fn new() -> Self {
        Self(netns::create().unwrap())
    }

    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_inside(self.0.as_fd(), work).unwrap()
    }

    fn links(&self) -> Vec<String> {
        self.run(|| {
            route::links()
                .unwrap()
                .into_iter()
                .map(|link| link.name)
                .collect()
        })
    }

    /// Runs a program inside and returns what it prints.
    fn output(&self, program: &str, arguments: &str) -> String {
        self.run(|| {
            let output = Command::new(program)
                .args(arguments.split(' '))
                .output()
                .unwrap();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{program} {arguments}: {errors}");
            String::from_utf8(output.stdout).unwrap()
        })
    }

    /// Serves one connection: tells the client its address as seen from here. Returns the port.
    fn serve_once(&self) -> u16 {
        let listener = self.run(|| TcpListener::bind("0.0.0.0:0").unwrap());
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            if let Ok((mut stream, peer)) = listener.accept() {
                let _ = write!(stream, "{}", peer.ip());
            }
        });
        port
    }

    /// Connects from inside and returns what the server says.
    fn ask(&self, address: Ipv4Addr, port: u16, deadline: Duration) -> std::io::Result<String> {
        let to = SocketAddr::V4(SocketAddrV4::new(address, port));
        let mut stream = self.run(|| TcpStream::connect_timeout(&to, deadline))?;
        stream.set_read_timeout(Some(deadline))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// Waits for the kernel to have done something it does on its own time.
fn until(mut is_done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_done() {
        assert!(Instant::now() < deadline, "still not done");
        std::thread::yield_now();
    }
}

fn config(bip: &str) -> BridgeConfig {
    let (gateway, subnet) = Ipv4Net::parse_with_address(bip).unwrap();
    BridgeConfig::new("atoll0", subnet, gateway, 1500).unwrap()
}

fn attach(
    host: &Namespace,
    bridge: &Bridge,
    container: &Namespace,
    address: &str,
) -> Result<Endpoint, Error> {
    let request = EndpointRequest {
        container_id: "0123456789abcdef",
        netns: container.0.as_fd(),
        address: address.parse().unwrap(),
        mac: None,
        interface: "eth0",
        is_way_out: true,
    };
    host.run(|| bridge.attach(&request))
}

#[test]
fn containers_reach_each_other_and_the_gateway_by_address() {
    let (host, a, b) = (Namespace::new(), Namespace::new(), Namespace::new());
    let bridge = host
        .run(|| Bridge::ensure(&config("10.88.0.1/24"), &[]))
        .unwrap();
    let endpoint = attach(&host, &bridge, &a, "10.88.0.2").unwrap();
    attach(&host, &bridge, &b, "10.88.0.3").unwrap();

    let port = a.serve_once();
    assert_eq!(
        b.ask(endpoint.address, port, DEADLINE).unwrap(),
        "10.88.0.3"
    );
    let port = host.serve_once();
    assert_eq!(
        a.ask(endpoint.gateway, port, DEADLINE).unwrap(),
        "10.88.0.2"
    );
    let port = b.serve_once();
    let answer = host
        .ask("10.88.0.3".parse().unwrap(), port, DEADLINE)
        .unwrap();
    assert_eq!(answer, "10.88.0.1");
    // Loopback works too.
    let port = a.serve_once();
    assert_eq!(
        a.ask(Ipv4Addr::LOCALHOST, port, DEADLINE).unwrap(),
        "127.0.0.1"
    );
}

#[test]
fn connections_leave_with_the_hosts_address_and_none_come_in() {
    let (internet, host, container) = (Namespace::new(), Namespace::new(), Namespace::new());
    let internet_fd = format!("/proc/{}/fd/{}", std::process::id(), internet.0.as_raw_fd());
    host.output(
        "ip",
        &format!("link add up0 type veth peer name net0 netns {internet_fd}"),
    );
    host.output("ip", "address add 192.0.2.2/24 dev up0");
    host.output("ip", "link set up0 up");
    host.output("ip", "route add default via 192.0.2.1");
    internet.output("ip", "address add 192.0.2.1/24 dev net0");
    internet.output("ip", "link set net0 up");
    internet.output("ip", "route add 10.88.0.0/24 via 192.0.2.2");

    let bridge = host
        .run(|| Bridge::ensure(&config("10.88.0.1/24"), &[]))
        .unwrap();
    let endpoint = attach(&host, &bridge, &container, "10.88.0.2").unwrap();

    let port = internet.serve_once();
    let seen = container
        .ask("192.0.2.1".parse().unwrap(), port, DEADLINE)
        .unwrap();
    assert_eq!(seen, "192.0.2.2", "the source address is the host's");

    let port = container.serve_once();
    let refused = internet.ask(endpoint.address, port, Duration::from_millis(300));
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::TimedOut);

    let taken = host.run(|| host_networks("atoll0")).unwrap();
    assert!(
        taken.contains(&"192.0.2.0/24".parse().unwrap()),
        "{taken:?}"
    );
    assert!(!taken.contains(&bridge.config().subnet()), "{taken:?}");
    assert_eq!(host.run(uplink_mtu).unwrap(), 1500);
}

#[test]
fn the_table_is_what_nft_lists() {
    let host = Namespace::new();
    for bip in ["172.17.0.1/16", "10.1.2.129/25", "10.64.0.1/11"] {
        let config = config(bip);
        let address = config.subnet().first_host();
        for published in [vec![], ports(address)] {
            for is_internal in [false, true] {
                let config = config.clone().internal(is_internal);
                host.run(|| Bridge::ensure(&config, &published)).unwrap();
                let listed = host.output("nft", "list table ip atoll-atoll0");
                assert_eq!(config.table(&published).to_string(), listed);
            }
        }
    }
}

/// A port of each kind.
fn ports(address: Ipv4Addr) -> Vec<Published> {
    let port = |protocol, host_address: [u8; 4], host_port, port| Published {
        protocol,
        host_address: host_address.into(),
        host_port,
        address,
        port,
    };
    vec![
        port(Protocol::Tcp, [0, 0, 0, 0], 8080, 80),
        port(Protocol::Udp, [127, 0, 0, 1], 53, 5353),
        port(Protocol::Tcp, [192, 0, 2, 1], 65535, 1),
    ]
}

/// Two hosts with a link between them, 192.0.2.1 and 192.0.2.2.
fn neighbours() -> (Namespace, Namespace) {
    let (host, outside) = (Namespace::new(), Namespace::new());
    outside.run(|| {
        let peer = host.0.as_raw_fd();
        let path = format!("/proc/{}/fd/{peer}", std::process::id());
        let status = Command::new("ip")
            .args(["link", "add", "up1", "type", "veth", "peer", "up0", "netns"])
            .arg(path)
            .status();
        assert!(status.unwrap().success());
    });
    for (namespace, link, address) in [
        (&host, "up0", "192.0.2.1/24"),
        (&outside, "up1", "192.0.2.2/24"),
    ] {
        namespace.output("ip", &format!("addr add {address} dev {link}"));
        namespace.output("ip", &format!("link set {link} up"));
        namespace.output("ip", "link set lo up");
    }
    (host, outside)
}

fn published(host_address: [u8; 4], host_port: u16, port: u16) -> Published {
    Published {
        protocol: Protocol::Tcp,
        host_address: host_address.into(),
        host_port,
        address: "10.88.0.2".parse().unwrap(),
        port,
    }
}

const SHORT: Duration = Duration::from_millis(300);

#[test]
fn a_published_port_is_reached_from_everywhere() {
    let (host, outside) = neighbours();
    let (container, other) = (Namespace::new(), Namespace::new());
    let bridge = host
        .run(|| Bridge::ensure(&config("10.88.0.1/24"), &[]))
        .unwrap();
    let endpoint = attach(&host, &bridge, &container, "10.88.0.2").unwrap();
    attach(&host, &bridge, &other, "10.88.0.3").unwrap();
    host.run(|| bridge.set_port(&endpoint.host_ifname, true, false))
        .unwrap();
    // Each of these serves one connection and says who asks.
    let ways: [(&Namespace, &str, &str); 6] = [
        (&outside, "192.0.2.1", "192.0.2.2"),
        (&host, "192.0.2.1", "192.0.2.1"),
        (&host, "127.0.0.1", "10.88.0.1"),
        (&host, "10.88.0.1", "10.88.0.1"),
        (&other, "10.88.0.1", "10.88.0.1"),
        (&container, "192.0.2.1", "10.88.0.1"),
    ];
    for (from, to, seen) in ways {
        let port = container.serve_once();
        host.run(|| bridge.publish(&[published([0, 0, 0, 0], 8080, port)]))
            .unwrap();
        let said = from.ask(to.parse().unwrap(), 8080, DEADLINE);
        assert_eq!(said.ok().as_deref(), Some(seen), "asked {to}");
    }
    // Withdrawn, nobody is there.
    host.run(|| bridge.publish(&[])).unwrap();
    assert!(host.ask(Ipv4Addr::LOCALHOST, 8080, SHORT).is_err());
    assert!(outside.ask([192, 0, 2, 1].into(), 8080, SHORT).is_err());
}

#[test]
fn a_port_published_on_loopback_is_the_hosts_alone() {
    let (host, outside) = neighbours();
    let (container, other) = (Namespace::new(), Namespace::new());
    let bridge = host
        .run(|| Bridge::ensure(&config("10.88.0.1/24"), &[]))
        .unwrap();
    attach(&host, &bridge, &container, "10.88.0.2").unwrap();
    attach(&host, &bridge, &other, "10.88.0.3").unwrap();
    let port = container.serve_once();
    host.run(|| bridge.publish(&[published([127, 0, 0, 1], 8080, port)]))
        .unwrap();
    assert!(outside.ask([192, 0, 2, 1].into(), 8080, SHORT).is_err());
    // Who routes 127.0.0.1 to the host reaches neither the port nor what the host itself has there.
    let service = host.run(|| UdpSocket::bind("127.0.0.1:9000").unwrap());
    service.set_read_timeout(Some(SHORT)).unwrap();
    for (from, link, gateway) in [
        (&outside, "up1", "192.0.2.1"),
        (&other, "eth0", "10.88.0.1"),
    ] {
        let setting = format!("net.ipv4.conf.{link}.route_localnet=1");
        from.output("sysctl", &format!("-qw {setting}"));
        from.output("ip", "addr del 127.0.0.1/8 dev lo");
        from.output(
            "ip",
            &format!("route add 127.0.0.1 via {gateway} dev {link}"),
        );
        assert!(
            from.ask(Ipv4Addr::LOCALHOST, 8080, SHORT).is_err(),
            "{link}"
        );
        let client = from.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        client.send_to(b"in", "127.0.0.1:9000").unwrap();
        let mut buffer = [0; 8];
        assert!(service.recv(&mut buffer).is_err(), "let in by {link}");
    }
    assert_eq!(
        host.ask(Ipv4Addr::LOCALHOST, 8080, DEADLINE).unwrap(),
        "10.88.0.1"
    );
}

#[test]
fn isolated_endpoints_reach_the_host_but_not_each_other() {
    let host = Namespace::new();
    let (a, b) = (Namespace::new(), Namespace::new());
    let bridge = host
        .run(|| Bridge::ensure(&config("10.88.0.1/24"), &[]))
        .unwrap();
    for (namespace, address) in [(&a, "10.88.0.2"), (&b, "10.88.0.3")] {
        let endpoint = attach(&host, &bridge, namespace, address).unwrap();
        host.run(|| bridge.set_port(&endpoint.host_ifname, false, true))
            .unwrap();
    }
    let port = a.serve_once();
    assert!(b.ask([10, 88, 0, 2].into(), port, SHORT).is_err());
    let port = host.serve_once();
    assert!(b.ask([10, 88, 0, 1].into(), port, DEADLINE).is_ok());
}

#[test]
fn networks_reach_each_other_only_by_published_ports() {
    let host = Namespace::new();
    host.output("ip", "link set lo up");
    let (a, b) = (Namespace::new(), Namespace::new());
    let other = |bip: &str| {
        let (gateway, subnet) = Ipv4Net::parse_with_address(bip).unwrap();
        BridgeConfig::new("atoll1", subnet, gateway, 1500).unwrap()
    };
    let first = host
        .run(|| Bridge::ensure(&config("10.88.0.1/24"), &[]))
        .unwrap();
    let second = host
        .run(|| Bridge::ensure(&other("10.89.0.1/24"), &[]))
        .unwrap();
    attach(&host, &first, &a, "10.88.0.2").unwrap();
    attach(&host, &second, &b, "10.89.0.2").unwrap();
    let port = a.serve_once();
    assert!(b.ask([10, 88, 0, 2].into(), port, SHORT).is_err());
    host.run(|| first.publish(&[published([0, 0, 0, 0], 8080, port)]))
        .unwrap();
    assert!(b.ask([10, 88, 0, 2].into(), port, SHORT).is_err());
    assert!(b.ask([10, 89, 0, 1].into(), 8080, DEADLINE).is_ok());
}

#[test]
fn ensure_again_keeps_endpoints_and_follows_a_changed_address() {
    let (host, container) = (Namespace::new(), Namespace::new());
    host.output("nft", "add table ip somebody");
    let bridge = host
        .run(|| Bridge::ensure(&config("10.88.0.1/24"), &[]))
        .unwrap();
    attach(&host, &bridge, &container, "10.88.0.2").unwrap();
    let links = host.links();

    host.run(|| Bridge::ensure(&config("10.88.0.1/24"), &[]))
        .unwrap();
    assert_eq!(host.links(), links);
    let port = container.serve_once();
    assert!(
        host.ask("10.88.0.2".parse().unwrap(), port, DEADLINE)
            .is_ok()
    );

    host.run(|| Bridge::ensure(&config("10.99.0.1/24"), &[]))
        .unwrap();
    let addresses = host.run(|| route::addresses().unwrap());
    let addresses: Vec<_> = addresses
        .into_iter()
        .map(|a| a.address.to_string())
        .collect();
    assert_eq!(addresses, ["10.99.0.1"]);
    let tables = host.output("nft", "list tables");
    assert_eq!(tables, "table ip somebody\ntable ip atoll-atoll0\n");
}

#[test]
fn remove_leaves_nothing_and_may_be_repeated() {
    let (host, container) = (Namespace::new(), Namespace::new());
    let before = host.links();
    let bridge = host
        .run(|| Bridge::ensure(&config("10.88.0.1/24"), &[]))
        .unwrap();
    let endpoint = attach(&host, &bridge, &container, "10.88.0.2").unwrap();
    let again = bridge.clone();
    host.run(|| bridge.remove()).unwrap();
    assert_eq!(host.links(), before);
    assert_eq!(host.output("nft", "list ruleset"), "");
    assert!(!container.links().contains(&"eth0".to_owned()));
    host.run(|| again.detach(&endpoint)).unwrap();
    host.run(|| again.remove()).unwrap();
}

#[test]
fn leaked_ends_are_found_and_removed_and_others_kept() {
    let (host, a, b) = (Namespace::new(), Namespace::new(), Namespace::new());
    host.output("ip", "link add veth-other type veth peer name other");
    let bridge = host
        .run(|| Bridge::ensure(&config("10.88.0.1/24"), &[]))
        .unwrap();
    let known = attach(&host, &bridge, &a, "10.88.0.2").unwrap();
    let leaked = attach(&host, &bridge, &b, "10.88.0.3").unwrap();
    assert!(
        known.host_ifname.starts_with("veth01234"),
        "{}",
        known.host_ifname
    );

    let removed = host.run(|| bridge.prune(&[&known.host_ifname])).unwrap();
    assert_eq!(removed, [leaked.host_ifname]);
    let links = host.links();
    assert!(links.contains(&known.host_ifname) && links.contains(&"veth-other".to_owned()));
}

#[test]
fn the_pair_disappears_with_the_namespace() {
    let (host, container) = (Namespace::new(), Namespace::new());
    let bridge = host
        .run(|| Bridge::ensure(&config("10.88.0.1/24"), &[]))
        .unwrap();
    let endpoint = attach(&host, &bridge, &container, "10.88.0.2").unwrap();
    drop(container);
    until(|| !host.links().contains(&endpoint.host_ifname));
    host.run(|| bridge.detach(&endpoint)).unwrap();
}

#[test]
fn an_end_takes_the_default_route_over() {
    let (host, container) = (Namespace::new(), Namespace::new());
    let bridge = host
        .run(|| Bridge::ensure(&config("10.88.0.1/24"), &[]))
        .unwrap();
    container.output("ip", "link set lo up");
    container.output("ip", "route add default dev lo");
    attach(&host, &bridge, &container, "10.88.0.2").unwrap();
    let routes = container.output("ip", "route show default");
    assert_eq!(routes.trim(), "default via 10.88.0.1 dev eth0");
}

#[test]
fn a_failed_attach_leaves_nothing() {
    let (host, container) = (Namespace::new(), Namespace::new());
    let bridge = host
        .run(|| Bridge::ensure(&config("10.88.0.1/24"), &[]))
        .unwrap();
    let (host_links, container_links) = (host.links(), container.links());

    // The last step fails: no gateway can be reached by the namespace's rules.
    container.output("ip", "rule add prohibit priority 1");
    let error = attach(&host, &bridge, &container, "10.88.0.2").unwrap_err();
    assert!(matches!(error, Error::Kernel { .. }), "{error:?}");
    assert_eq!(
        (host.links(), container.links()),
        (host_links.clone(), container_links)
    );

    // The first step fails: the name inside is taken.
    container.output("ip", "rule del priority 1");
    container.output("ip", "link add eth0 type veth peer name other");
    attach(&host, &bridge, &container, "10.88.0.2").unwrap_err();
    assert_eq!(host.links(), host_links);

    for outside in ["10.88.0.1", "10.88.0.0", "10.88.0.255", "10.89.0.2"] {
        let error = attach(&host, &bridge, &container, outside).unwrap_err();
        assert!(
            matches!(error, Error::AddressOutside { .. }),
            "{outside}: {error:?}"
        );
    }

    host.output("ip", "link delete atoll0");
    let error = attach(&host, &bridge, &Namespace::new(), "10.88.0.2").unwrap_err();
    assert!(
        matches!(error, Error::NoSuchLink { .. }) && error.hint().is_some(),
        "{error:?}"
    );
}

#[test]
fn a_foreign_link_with_the_bridges_name_is_not_touched() {
    let host = Namespace::new();
    host.output("ip", "link add atoll0 type veth peer name other");
    let error = host
        .run(|| Bridge::ensure(&config("10.88.0.1/24"), &[]))
        .unwrap_err();
    assert_eq!(error.to_string(), "link atoll0 exists and is not a bridge");
    assert!(error.hint().unwrap().contains("ip link delete atoll0"));
    assert_eq!(host.output("nft", "list ruleset"), "");
    assert_eq!(host.run(|| route::addresses().unwrap()), []);
}

#[test]
fn a_failed_ensure_removes_the_bridge_it_made() {
    let host = Namespace::new();
    let before = host.links();
    // A table that a living process owns can't be replaced: the last step fails.
    let mut owner = host.run(|| {
        let mut nft = Command::new("nft");
        nft.arg("-i")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    });
    let mut stdin = owner.stdin.take().unwrap();
    writeln!(stdin, "add table ip atoll-atoll0 {{ flags owner; }}").unwrap();
    until(|| host.output("nft", "list tables").contains("atoll-atoll0"));

    let error = host
        .run(|| Bridge::ensure(&config("10.88.0.1/24"), &[]))
        .unwrap_err();
    assert_eq!(error.to_string(), "cannot install the firewall table");
    assert_eq!(host.links(), before);

    drop(stdin);
    owner.wait().unwrap();
    until(|| !host.output("nft", "list tables").contains("atoll-atoll0"));
    host.run(|| Bridge::ensure(&config("10.88.0.1/24"), &[]))
        .unwrap();
}

#[test]
fn endpoints_have_no_ipv6_autoconfiguration() {
    let (host, container) = (Namespace::new(), Namespace::new());
    let bridge = host
        .run(|| Bridge::ensure(&config("10.88.0.1/24"), &[]))
        .unwrap();
    let endpoint = attach(&host, &bridge, &container, "10.88.0.2").unwrap();
    assert_eq!(container.output("ip", "-6 address show dev eth0"), "");
    assert_eq!(host.output("ip", "-6 address show dev atoll0"), "");
    let shown = container.output("ip", "-br link show eth0");
    assert!(shown.contains(&endpoint.mac.to_string()), "{shown}");
    assert_eq!(endpoint.mac.to_string(), "02:42:0a:58:00:02");
    let json = serde_json::to_string(&endpoint).unwrap();
    assert_eq!(serde_json::from_str::<Endpoint>(&json).unwrap(), endpoint);
}

#[test]
fn loopback_comes_up_without_a_bridge() {
    let namespace = Namespace::new();
    bring_up_loopback(namespace.0.as_fd()).unwrap();
    let port = namespace.serve_once();
    assert_eq!(
        namespace.ask(Ipv4Addr::LOCALHOST, port, DEADLINE).unwrap(),
        "127.0.0.1"
    );
    assert_eq!(namespace.links(), ["lo"]);
}
