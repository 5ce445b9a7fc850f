//! A machine's tap in place of a pod's link, on the real kernel. Needs root; `ip` builds the scene and judges.
#![expect(clippy::unwrap_used, reason = "a test that meets an error fails")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use atoll_netlink::netns;
use atoll_network::{Error, PodRoute, connect_pod, disconnect_pod, pod_link};

fn run(netns: &OwnedFd, lines: &str) -> String {
    netns::run_inside(netns.as_fd(), || {
        let mut said = String::new();
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split(' ').collect();
            let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{line}: {errors}");
            said.push_str(&String::from_utf8_lossy(&output.stdout));
        }
        said
    })
    .unwrap()
}

/// A pod as the `ptp` plugin of CNI makes it, and the node at the other end.
fn pod_and_node() -> (OwnedFd, OwnedFd) {
    let (pod, node) = (netns::create().unwrap(), netns::create().unwrap());
    let path = format!("/proc/{}/fd/{}", std::process::id(), node.as_raw_fd());
    run(
        &pod,
        &format!(
            "ip link add eth0 mtu 1400 type veth peer name host netns {path}
            ip address add 10.93.0.7/24 dev eth0
            ip link set lo up
            ip link set eth0 address 02:11:22:33:44:55 up"
        ),
    );
    run(
        &node,
        "ip address add 10.93.0.1/32 dev host
        ip link set host mtu 1400 up
        ip route add 10.93.0.7/32 dev host",
    );
    run(
        &pod,
        "ip route del 10.93.0.0/24
        ip route add 10.93.0.1/32 dev eth0
        ip route add 10.93.0.0/24 via 10.93.0.1
        ip route add default via 10.93.0.1",
    );
    (pod, node)
}

#[test]
fn a_link_is_read_with_addresses_and_routes() {
    let (pod, node) = pod_and_node();
    let link = pod_link(pod.as_fd()).unwrap().unwrap();
    assert_eq!(link.mac.to_string(), "02:11:22:33:44:55");
    assert_eq!(link.mtu, 1400);
    assert_eq!(link.addresses, [([10, 93, 0, 7].into(), 24)]);
    let route = |destination: [u8; 4], prefix_len, gateway: Option<[u8; 4]>| PodRoute {
        destination: destination.into(),
        prefix_len,
        gateway: gateway.map(Into::into),
    };
    let hop = Some([10, 93, 0, 1]);
    let expected = [
        route([10, 93, 0, 1], 32, None),
        route([10, 93, 0, 0], 24, hop),
        route([0; 4], 0, hop),
    ];
    assert_eq!(link.routes, expected);
    assert_eq!(pod_link(node.as_fd()).unwrap(), None);
}

#[test]
fn packets_go_between_the_nodes_end_and_the_tap_until_the_link_is_free() {
    let (pod, node) = pod_and_node();
    let missing = connect_pod(pod.as_fd(), "nosuch0").unwrap_err();
    assert!(matches!(missing, Error::NoSuchLink { name } if name == "nosuch0"));
    let tap = netns::run_inside(pod.as_fd(), || atoll_sys::tap::open("tap0", 12).unwrap());
    let mut tap = std::fs::File::from(tap.unwrap());
    connect_pod(pod.as_fd(), "tap0").unwrap();
    assert!(run(&pod, "ip link show tap0").contains("mtu 1400"));
    // Somebody else's filters stay.
    assert!(connect_pod(pod.as_fd(), "tap0").is_err());

    // From the node: who has 10.93.0.7? The namespace's own stack must not answer, the card's guest does.
    run(&node, "ip neigh flush dev host");
    let asking = std::thread::spawn({
        let node = node.try_clone().unwrap();
        move || {
            netns::run_inside(node.as_fd(), || {
                let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.send_to(b"hello guest", "10.93.0.7:9").unwrap();
            })
        }
    });
    let is_arp = |frame: &[u8]| frame.get(24..26) == Some(&[8, 6]);
    let question = frame(&mut tap, is_arp);
    asking.join().unwrap().unwrap();
    let asked = &question[12..];
    let mac = [2, 0x11, 0x22, 0x33, 0x44, 0x55];
    let mut answer = vec![0; 12];
    answer.extend(&asked[6..12]);
    answer.extend(mac);
    answer.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    answer.extend(mac);
    answer.extend([10, 93, 0, 7]);
    answer.extend(&asked[22..32]);
    tap.write_all(&answer).unwrap();
    frame(&mut tap, |frame| {
        frame.windows(11).any(|part| part == b"hello guest")
    });

    disconnect_pod(pod.as_fd()).unwrap();
    disconnect_pod(pod.as_fd()).unwrap();
    drop(tap);
    let listener = netns::run_inside(node.as_fd(), || TcpListener::bind("10.93.0.1:0").unwrap());
    let address = listener.as_ref().unwrap().local_addr().unwrap();
    let limit = Duration::from_secs(5);
    let reached = netns::run_inside(pod.as_fd(), || TcpStream::connect_timeout(&address, limit));
    reached.unwrap().unwrap();
}

/// The first frame from the tap, with its header of 12 bytes, that `is_it`.
fn frame(tap: &mut std::fs::File, is_it: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut buffer = [0; 2048];
    while Instant::now() < deadline {
        match tap.read(&mut buffer) {
            Ok(count) if is_it(&buffer[..count]) => return buffer[..count].to_vec(),
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    panic!("no such frame came");
}
