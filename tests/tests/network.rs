//! Issue line 3: the default bridge, outgoing NAT, and the networks `none` and `host`.

use std::process::Command;

use atoll_tests::{Engine, Ran};

#[test]
fn containers_reach_each_other_by_address() {
    let engine = Engine::with_image();
    engine
        .docker(&[
            "run",
            "-d",
            "--name",
            "server",
            "bb",
            "sh",
            "-c",
            "while :; do echo served | nc -l -p 80; done",
        ])
        .ok();
    let address = engine
        .docker(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "server"])
        .ok();
    assert!(address.split('.').count() == 4, "{address}");
    let got = engine.docker(&[
        "run",
        "--rm",
        "bb",
        "sh",
        "-c",
        &format!("sleep 0.2; nc {address} 80 < /dev/null"),
    ]);
    assert_eq!(got.ok(), "served");
    let other = engine.docker(&["run", "--rm", "bb", "hostname", "-i"]).ok();
    assert_ne!(other, address);
}

#[test]
fn addresses_come_from_bip_and_return_to_the_pool() {
    let engine = Engine::start(&["--bip", "10.99.0.1/29"]);
    atoll_tests::image::tarball(&engine.path("bb.tar"));
    engine.sh("docker import $T/bb.tar bb").ok();
    for _ in 0..12 {
        let said = engine
            .docker(&[
                "run", "--rm", "bb", "ip", "-4", "-o", "addr", "show", "eth0",
            ])
            .ok();
        assert!(said.contains("10.99.0."), "{said}");
    }
    for _ in 0..5 {
        engine.docker(&["run", "-d", "bb", "sleep", "100"]).ok();
    }
    engine
        .docker(&["run", "-d", "bb", "sleep", "100"])
        .complains(&["10.99.0.0/29"]);
}

#[test]
fn outgoing_traffic_is_translated() {
    let engine = Engine::with_image();
    // Another host behind a link of the engine's network namespace, which knows no route back.
    let mut outside = Command::new("unshare")
        .args([
            "--net",
            "sh",
            "-c",
            "ip link set lo up; sleep 0.5; exec busybox nc -ll -p 7000 -e echo seen",
        ])
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    let (engine_ns, outside_pid) = (engine.namespace_pid(), outside.id());
    let script = format!(
        "in_engine() {{ nsenter --net=/proc/{engine_ns}/ns/net \"$@\"; }}
         in_outside() {{ nsenter --net=/proc/{outside_pid}/ns/net \"$@\"; }}
         in_engine ip link add up0 type veth peer name up1 netns {outside_pid}
         in_engine ip addr add 192.0.2.1/24 dev up0; in_engine ip link set up0 up
         in_outside ip addr add 192.0.2.2/24 dev up1; in_outside ip link set up1 up"
    );
    Ran::of(Command::new("sh").args(["-ec", &script])).ok();
    let got = engine.docker(&[
        "run",
        "--rm",
        "bb",
        "sh",
        "-c",
        "sleep 0.6; nc -w 3 192.0.2.2 7000 < /dev/null",
    ]);
    outside.kill().unwrap();
    outside.wait().unwrap();
    assert_eq!(got.ok(), "seen");
}

#[test]
fn none_has_only_loopback_and_host_has_the_hosts_links() {
    let engine = Engine::with_image();
    let links = |network: &str| {
        engine
            .docker(&[
                "run",
                "--rm",
                "--network",
                network,
                "bb",
                "ls",
                "/sys/class/net",
            ])
            .ok()
    };
    assert_eq!(links("none"), "lo");
    assert_eq!(
        engine
            .docker(&[
                "run",
                "--rm",
                "--network",
                "none",
                "bb",
                "ping",
                "-c1",
                "127.0.0.1"
            ])
            .code,
        0
    );
    let own = engine
        .sh(&format!(
            "nsenter --net=/proc/{}/ns/net ip -o link | wc -l",
            engine.namespace_pid()
        ))
        .ok();
    let seen = engine
        .docker(&[
            "run",
            "--rm",
            "--network",
            "host",
            "bb",
            "sh",
            "-c",
            "ip -o link | wc -l",
        ])
        .ok();
    assert_eq!(seen, own);
    engine
        .docker(&["run", "--rm", "--network", "nosuch", "bb", "true"])
        .fails_with(125);
}

#[test]
fn no_veth_and_no_rule_outlives_its_container() {
    let engine = Engine::with_image();
    for _ in 0..5 {
        engine.docker(&["run", "--rm", "bb", "true"]).ok();
    }
    let links = format!(
        "nsenter --net=/proc/{}/ns/net ip -o link show type veth",
        engine.namespace_pid()
    );
    atoll_tests::waiting::until("no veth is left", || engine.sh(&links).ok().is_empty());
}

#[test]
fn names_of_the_container_itself_resolve_through_its_hosts_file() {
    let engine = Engine::with_image();
    let said = engine
        .docker(&["run", "--rm", "--hostname", "me", "bb", "cat", "/etc/hosts"])
        .ok();
    assert!(said.lines().any(|line| line.ends_with("\tme")), "{said}");
    assert!(said.contains("127.0.0.1\tlocalhost"), "{said}");
    let resolv = engine
        .docker(&["run", "--rm", "bb", "cat", "/etc/resolv.conf"])
        .ok();
    assert!(resolv.contains("nameserver"), "{resolv}");
}
