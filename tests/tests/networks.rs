//! Issue 4: networks of users' own, by the real docker CLI.

use std::process::Command;

use atoll_tests::{Engine, Ran, waiting};

/// Runs a program in the network namespace of the engine, whose host it is.
fn on_host(engine: &Engine, script: &str) -> Ran {
    let namespace = format!("--net=/proc/{}/ns/net", engine.namespace_pid());
    Ran::of(Command::new("nsenter").args([&namespace, "--", "sh", "-ec", script]))
}

fn sleeper(engine: &Engine, name: &str, more: &[&str]) {
    let first = ["run", "-d", "--name", name];
    let arguments = [&first[..], more, &["bb", "sleep", "1000"]].concat();
    engine.docker(&arguments).ok();
}

fn address(engine: &Engine, container: &str, network: &str) -> String {
    let format = format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}");
    engine.docker(&["inspect", "-f", &format, container]).ok()
}

fn reaches(engine: &Engine, from: &str, to: &str) -> bool {
    let ping = ["exec", from, "ping", "-c1", "-W1", to];
    engine.docker(&ping).code == 0
}

#[test]
fn a_network_is_made_shown_used_and_removed() {
    let engine = Engine::with_image();
    let id = engine
        .docker(&[
            "network",
            "create",
            "--subnet",
            "10.77.0.0/24",
            "--ip-range",
            "10.77.0.128/25",
            "--gateway",
            "10.77.0.9",
            "--label",
            "a=b",
            "-o",
            "com.docker.network.driver.mtu=1400",
            "-o",
            "com.docker.network.bridge.name=br77",
            "net",
        ])
        .ok();
    assert_eq!(id.len(), 64);
    let shown = engine
        .docker(&[
            "network", "inspect", "-f",
            "{{.Driver}} {{.Labels.a}} {{(index .IPAM.Config 0).Gateway}} {{(index .IPAM.Config 0).IPRange}}",
            "net",
        ])
        .ok();
    assert_eq!(shown, "bridge b 10.77.0.9 10.77.0.128/25");
    engine
        .docker(&["network", "create", "net"])
        .complains(&["network with name net already exists"]);
    sleeper(&engine, "one", &["--network", "net"]);
    sleeper(
        &engine,
        "two",
        &[
            "--network",
            &id[..8],
            "--ip",
            "10.77.0.7",
            "--mac-address",
            "02:00:00:00:00:77",
        ],
    );
    assert_eq!(address(&engine, "one", "net"), "10.77.0.128");
    assert_eq!(address(&engine, "two", "net"), "10.77.0.7");
    let link = engine
        .docker(&["exec", "two", "ip", "link", "show", "eth0"])
        .ok();
    assert!(
        link.contains("mtu 1400") && link.contains("02:00:00:00:00:77"),
        "{link}"
    );
    assert!(reaches(&engine, "one", "10.77.0.7"));
    let members = engine
        .docker(&[
            "network",
            "inspect",
            "-f",
            "{{range .Containers}}{{.Name}} {{.IPv4Address}};{{end}}",
            "net",
        ])
        .ok();
    assert!(members.contains("one 10.77.0.128/24;"), "{members}");
    let listed = engine.docker(&["ps", "-q", "--filter", "network=net"]).ok();
    assert_eq!(listed.lines().count(), 2);
    engine
        .docker(&[
            "run",
            "--rm",
            "--network",
            "net",
            "--ip",
            "10.77.0.7",
            "bb",
            "true",
        ])
        .complains(&["Address already in use"]);
    engine
        .docker(&[
            "run",
            "--rm",
            "--network",
            "net",
            "--ip",
            "10.78.0.7",
            "bb",
            "true",
        ])
        .complains(&["no configured subnet contains IP address 10.78.0.7"]);
    engine
        .docker(&["network", "rm", "net"])
        .complains(&["has active endpoints", "name:\"one\""]);
    // The address stays the container's over a restart.
    engine.docker(&["restart", "-t", "0", "two"]).ok();
    assert_eq!(address(&engine, "two", "net"), "10.77.0.7");
    engine.docker(&["rm", "-f", "one", "two"]).ok();
    engine.docker(&["network", "rm", "net"]).ok();
    engine
        .docker(&["network", "inspect", "net"])
        .complains(&["network net not found"]);
    let left = on_host(&engine, "ip -o link; nft list tables").ok();
    assert!(!left.contains("br77"), "{left}");
}

#[test]
fn networks_are_apart_and_an_internal_one_is_shut_in() {
    let engine = Engine::with_image();
    for arguments in [&["a"][..], &["b"], &["--internal", "inside"]] {
        engine
            .docker(&[&["network", "create"], arguments].concat())
            .ok();
    }
    sleeper(&engine, "in-a", &["--network", "a"]);
    sleeper(&engine, "in-b", &["--network", "b"]);
    sleeper(&engine, "in-both", &["--network", "a", "--network", "b"]);
    sleeper(&engine, "alone", &["--network", "inside"]);
    sleeper(&engine, "beside", &["--network", "inside"]);
    let (a, b) = (address(&engine, "in-a", "a"), address(&engine, "in-b", "b"));
    assert!(!reaches(&engine, "in-a", &b) && !reaches(&engine, "in-b", &a));
    assert!(reaches(&engine, "in-both", &a) && reaches(&engine, "in-both", &b));
    assert!(!reaches(&engine, "alone", &a));
    assert!(reaches(
        &engine,
        "alone",
        &address(&engine, "beside", "inside")
    ));
    let routes = engine.docker(&["exec", "alone", "ip", "route"]).ok();
    assert!(!routes.contains("default"), "{routes}");
    let routes = engine.docker(&["exec", "in-both", "ip", "route"]).ok();
    assert_eq!(routes.matches("default").count(), 1, "{routes}");
    // Subnets are small, and none meets another.
    let subnets = engine
        .sh("docker network inspect -f '{{(index .IPAM.Config 0).Subnet}}' a b inside | sort -u")
        .ok();
    assert_eq!(
        subnets
            .lines()
            .filter(|subnet| subnet.ends_with("/24"))
            .count(),
        3,
        "{subnets}"
    );
    engine
        .docker(&[
            "network",
            "create",
            "--subnet",
            subnets.lines().next().unwrap(),
            "c",
        ])
        .complains(&["Pool overlaps with other one"]);
}

#[test]
fn subnets_avoid_the_hosts_routes() {
    let engine = Engine::with_image();
    on_host(
        &engine,
        "ip link add vpn type bridge; ip link set vpn up; ip route add 172.16.0.0/12 dev vpn",
    )
    .ok();
    engine.docker(&["network", "create", "net"]).ok();
    let subnet = engine
        .docker(&[
            "network",
            "inspect",
            "-f",
            "{{(index .IPAM.Config 0).Subnet}}",
            "net",
        ])
        .ok();
    assert_eq!(subnet, "192.168.0.0/24");
}

#[test]
fn containers_are_connected_and_taken_out_while_they_run() {
    let engine = Engine::with_image();
    engine.docker(&["network", "create", "a"]).ok();
    engine.docker(&["network", "create", "b"]).ok();
    sleeper(&engine, "server", &["--network", "a"]);
    sleeper(&engine, "mover", &["--network", "b"]);
    let server = address(&engine, "server", "a");
    assert!(!reaches(&engine, "mover", &server));
    engine
        .docker(&["network", "connect", "--ip", &server, "a", "mover"])
        .complains(&["Address already in use"]);
    engine
        .docker(&["network", "connect", "--alias", "guest", "a", "mover"])
        .ok();
    assert!(reaches(&engine, "mover", &server) && reaches(&engine, "server", "guest"));
    engine
        .docker(&["network", "connect", "a", "mover"])
        .complains(&["already exists in network a"]);
    engine.docker(&["restart", "-t", "0", "mover"]).ok();
    assert!(reaches(&engine, "mover", "server"));
    engine.docker(&["network", "disconnect", "a", "mover"]).ok();
    assert!(!reaches(&engine, "mover", &server) && !reaches(&engine, "server", "guest"));
    engine
        .docker(&["network", "disconnect", "a", "mover"])
        .complains(&["is not connected to network a"]);
    // Created, not running.
    engine
        .docker(&[
            "create",
            "--name",
            "later",
            "--network",
            "b",
            "bb",
            "sleep",
            "1000",
        ])
        .ok();
    engine.docker(&["network", "connect", "a", "later"]).ok();
    engine.docker(&["start", "later"]).ok();
    assert!(reaches(&engine, "later", &server));
    // From the default bridge into a network with names, and out of every network.
    sleeper(&engine, "plain", &[]);
    engine.docker(&["network", "connect", "a", "plain"]).ok();
    assert!(reaches(&engine, "plain", "server"));
    engine.docker(&["network", "disconnect", "a", "plain"]).ok();
    engine
        .docker(&["network", "disconnect", "bridge", "plain"])
        .ok();
    assert_eq!(
        engine
            .docker(&["exec", "plain", "ls", "/sys/class/net"])
            .ok(),
        "lo"
    );
    engine
        .docker(&["rm", "-f", "server", "mover", "later", "plain"])
        .ok();
    engine.docker(&["network", "prune", "-f"]).ok();
    let left = on_host(&engine, "ip -o link show type bridge").ok();
    assert!(!left.contains("at-"), "{left}");
}

#[test]
fn networks_outlive_the_engine_and_half_removed_ones_do_not() {
    let mut engine = Engine::with_image();
    engine.docker(&["network", "create", "kept"]).ok();
    let gone = engine.docker(&["network", "create", "gone"]).ok();
    sleeper(&engine, "one", &["--network", "kept"]);
    let one = address(&engine, "one", "kept");
    engine.kill();
    // As an engine leaves it that is killed in the middle of a removal.
    let record = engine.path(&format!("data/networks/{gone}.json"));
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(
        &record,
        text.replace("\"is_removed\": false", "\"is_removed\": true"),
    )
    .unwrap();
    std::fs::write(engine.path("data/networks/half.tmp"), "{").unwrap();
    // And one that made no bridge yet.
    let kept = text
        .replace(&gone, &"1".repeat(64))
        .replace("\"gone\"", "\"new\"");
    let kept = kept
        .replace(&gone[..12], &"1".repeat(12))
        .replace("172.18.1", "172.29.9");
    std::fs::write(
        engine.path(&format!("data/networks/{}.json", "1".repeat(64))),
        kept,
    )
    .unwrap();
    engine.restart();
    let names = engine
        .docker(&["network", "ls", "--format", "{{.Name}}"])
        .ok();
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["bridge", "host", "kept", "new", "none"]);
    let left = on_host(&engine, "ip -o link; nft list tables").ok();
    assert!(!left.contains(&format!("at-{}", &gone[..12])), "{left}");
    assert!(!engine.path("data/networks/half.tmp").exists());
    waiting::until("the new bridge is up", || {
        on_host(&engine, "ip -o link")
            .ok()
            .contains("at-111111111111")
    });
    sleeper(&engine, "two", &["--network", "kept"]);
    assert_ne!(address(&engine, "two", "kept"), one);
    assert!(reaches(&engine, "two", "one") && reaches(&engine, "one", "two"));
    engine
        .docker(&["network", "rm", "kept"])
        .complains(&["has active endpoints"]);
}

#[test]
fn what_is_not_available_is_refused_by_name() {
    let engine = Engine::with_image();
    for (arguments, words) in [
        (
            &["-d", "macvlan", "x"][..],
            "network driver macvlan is not available",
        ),
        (&["-d", "nosuch", "x"], "plugin \"nosuch\" not found"),
        (&["--ipv6", "x"], "IPv6 of networks is not available"),
        (
            &["-o", "com.docker.nosuch=1", "x"],
            "network option com.docker.nosuch is not available",
        ),
        (
            &["--subnet", "10.1.2.3/24", "x"],
            "it should be 10.1.2.0/24",
        ),
        (
            &["--subnet", "10.1.2.0/31", "x"],
            "has no room for containers",
        ),
        (
            &["--subnet", "10.1.2.0/24", "--gateway", "10.9.9.9", "x"],
            "10.9.9.9",
        ),
        (&["a b"], "invalid network name"),
    ] {
        let all = [&["network", "create"], arguments].concat();
        engine.docker(&all).complains(&[words]);
    }
    engine
        .docker(&["network", "rm", "bridge"])
        .complains(&["pre-defined network"]);
}

#[test]
fn containers_of_a_network_without_icc_do_not_see_each_other() {
    let engine = Engine::with_image();
    engine
        .docker(&[
            "network",
            "create",
            "-o",
            "com.docker.network.bridge.enable_icc=false",
            "net",
        ])
        .ok();
    sleeper(&engine, "one", &["--network", "net"]);
    sleeper(&engine, "two", &["--network", "net"]);
    let gateway = engine
        .docker(&[
            "network",
            "inspect",
            "-f",
            "{{(index .IPAM.Config 0).Gateway}}",
            "net",
        ])
        .ok();
    assert!(reaches(&engine, "one", &gateway));
    assert!(!reaches(&engine, "one", &address(&engine, "two", "net")));
}
