//! Network devices of the host that move into a container. The host's network here is a namespace of the test's own.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;
use std::os::fd::AsFd;

use atoll_container::Error;
use atoll_netlink::route::{AnyAddress, Request, execute, link};
use atoll_netlink::{MacAddr, netns};
use atoll_spec::{NamespaceKind, NetDevice};

use crate::support::Bundle;

/// Makes the link `far0` with addresses of both families.
fn make_device() {
    let here = netns::current().unwrap();
    execute(&[Request::CreateBridge {
        name: "br0".to_owned(),
        mac: MacAddr([2, 0, 0, 0, 0, 9]),
        mtu: 1500,
    }])
    .unwrap();
    execute(&[Request::CreateVeth {
        name: "near0".to_owned(),
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        controller: link("br0").unwrap().unwrap().index,
        mtu: 1300,
        peer_name: "far0".to_owned(),
        peer_mac: MacAddr([2, 0, 0, 0, 0, 2]),
        peer_netns: here.as_fd(),
    }])
    .unwrap();
    let index = link("far0").unwrap().unwrap().index;
    let add = |text: &str, prefix_len| Request::AddAnyAddress {
        index,
        address: AnyAddress {
            address: text.parse::<IpAddr>().unwrap(),
            prefix_len,
        },
    };
    execute(&[add("10.9.8.7", 24), add("2001:db8::7", 64)]).unwrap();
}

fn device(bundle: &mut Bundle, outside: &str, inside: &str) {
    let device = NetDevice {
        name: inside.to_owned(),
    };
    bundle
        .linux()
        .net_devices
        .insert(outside.to_owned(), device);
}

#[test]
fn a_device_moves_with_its_addresses_under_its_new_name() {
    let host = netns::create().unwrap();
    netns::run_inside(host.as_fd(), || {
        make_device();
        let mut bundle = Bundle::new();
        device(&mut bundle, "far0", "eth0");
        let out = bundle.output_of("ip -o addr show eth0; ip link show eth0; ip -o link | wc -l");
        for words in [
            "10.9.8.7/24",
            "2001:db8::7/64",
            "02:00:00:00:00:02",
            "mtu 1300",
            ",UP",
        ] {
            assert!(out.contains(words), "{words}: {out}");
        }
        assert!(out.trim_end().ends_with('2'), "{out}");
        // It was in the container's namespace, and went with it.
        assert_eq!(link("far0").unwrap(), None);
    })
    .unwrap();
}

#[test]
fn a_device_moves_into_a_namespace_that_is_joined() {
    let (host, joined) = (netns::create().unwrap(), netns::create().unwrap());
    netns::run_inside(host.as_fd(), || {
        make_device();
        let mut bundle = Bundle::new();
        device(&mut bundle, "far0", "");
        let number = std::os::fd::AsRawFd::as_raw_fd(&joined);
        for namespace in &mut bundle.linux().namespaces {
            if namespace.kind == NamespaceKind::Network {
                namespace.path = Some(format!("/proc/{}/fd/{number}", std::process::id()).into());
            }
        }
        let out = bundle.output_of("ip -o addr show far0");
        assert!(out.contains("10.9.8.7/24"), "{out}");
        assert_eq!(link("far0").unwrap(), None);
    })
    .unwrap();
    netns::run_inside(joined.as_fd(), || {
        assert!(link("far0").unwrap().is_some_and(|link| link.is_up));
    })
    .unwrap();
}

#[test]
fn a_device_that_cannot_move_is_named() {
    let host = netns::create().unwrap();
    netns::run_inside(host.as_fd(), || {
        let mut bundle = Bundle::new();
        bundle.args(&["true"]);
        for name in ["none0", "lo"] {
            bundle.linux().net_devices.clear();
            device(&mut bundle, name, "eth0");
            let error = bundle.run().unwrap_err();
            assert!(matches!(&error, Error::NetDevice { name: found, .. } if found == name));
            bundle.assert_clean();
        }
    })
    .unwrap();
}
