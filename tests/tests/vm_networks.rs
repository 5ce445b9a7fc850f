//! Issue 4: machines on several networks, and cards that are plugged in and out while they run, by the real docker CLI.

use std::process::Command;

use atoll_tests::{Engine, Ran, waiting};

/// Runs a program in the network namespace of the engine, whose host it is.
fn on_host(engine: &Engine, script: &str) -> String {
    let namespace = format!("--net=/proc/{}/ns/net", engine.namespace_pid());
    Ran::of(Command::new("nsenter").args([&namespace, "--", "sh", "-ec", script])).ok()
}

fn taps(engine: &Engine) -> usize {
    let links = on_host(engine, "ip -o link");
    links.matches(": tap").count()
}

fn networks(engine: &Engine, names: &[&str]) {
    for name in names {
        engine.docker(&["network", "create", name]).ok();
    }
}

fn sleeper(engine: &Engine, name: &str, more: &[&str]) {
    let first = ["run", "-d", "--name", name];
    let arguments = [&first[..], more, &["bb", "sleep", "1000"]].concat();
    engine.docker(&arguments).ok();
}

fn machine(engine: &Engine, name: &str, more: &[&str]) {
    sleeper(engine, name, &[&["--isolation=vm"], more].concat());
}

fn end(engine: &Engine, container: &str, network: &str, field: &str) -> String {
    let format = format!("{{{{(index .NetworkSettings.Networks {network:?}).{field}}}}}");
    engine.docker(&["inspect", "-f", &format, container]).ok()
}

fn address(engine: &Engine, container: &str, network: &str) -> String {
    end(engine, container, network, "IPAddress")
}

fn gateway(engine: &Engine, network: &str) -> String {
    let format = "{{(index .IPAM.Config 0).Gateway}}";
    engine
        .docker(&["network", "inspect", "-f", format, network])
        .ok()
}

fn inside(engine: &Engine, container: &str, script: &str) -> String {
    engine.docker(&["exec", container, "sh", "-c", script]).ok()
}

/// The names of its links, in one line.
fn links(engine: &Engine, container: &str) -> String {
    inside(engine, container, "echo $(ls /sys/class/net)")
}

/// Where its default route leads: address and link.
fn way_out(engine: &Engine, container: &str) -> String {
    let routes = inside(engine, container, "ip route");
    let defaults: Vec<_> = routes
        .lines()
        .filter_map(|line| line.trim().strip_prefix("default via "))
        .collect();
    defaults.join("; ").replace("dev ", "").trim().to_owned()
}

fn reaches(engine: &Engine, from: &str, to: &str) -> bool {
    let ping = ["exec", from, "ping", "-c1", "-W2", to];
    engine.docker(&ping).code == 0
}

fn reaches_at_last(engine: &Engine, from: &str, to: &str) {
    waiting::until(&format!("{from} reaches {to}"), || {
        reaches(engine, from, to)
    });
}

#[test]
fn a_machine_is_on_several_networks_from_its_start() {
    // The first machine boots and is the template; the others are made of it.
    let engine = Engine::with_image_and_own_cache();
    networks(&engine, &["a", "b", "c"]);
    for name in ["a", "b", "c"] {
        let server = format!("server-{name}");
        sleeper(&engine, &server, &["--network", name]);
    }
    for name in ["first", "second"] {
        machine(
            &engine,
            name,
            &["--network", "b", "--network", "a", "--network", "c"],
        );
        assert_eq!(links(&engine, name), "eth0 eth1 eth2 lo");
        // The first network named is the first link; the first by name is the way out.
        for (link, network) in [("eth0", "b"), ("eth1", "a"), ("eth2", "c")] {
            let shown = inside(&engine, name, &format!("ip -o address show {link}"));
            let own = address(&engine, name, network);
            assert!(shown.contains(&format!("inet {own}/")), "{link}: {shown}");
            let mac = end(&engine, name, network, "MacAddress");
            let link = inside(&engine, name, &format!("cat /sys/class/net/{link}/address"));
            assert_eq!(link, mac);
            let server = format!("server-{network}");
            reaches_at_last(&engine, name, &server);
            reaches_at_last(&engine, &server, name);
        }
        let out = format!("{} eth1", gateway(&engine, "a"));
        assert_eq!(way_out(&engine, name), out);
        assert!(!reaches(&engine, "server-a", "server-b"));
    }
    assert_eq!(taps(&engine), 6);
    let stats = engine.docker(&["stats", "--no-stream", "--format", "{{.NetIO}}", "second"]);
    assert_ne!(stats.ok(), "0B / 0B");
    engine.docker(&["restart", "-t", "0", "second"]).ok();
    assert_eq!(links(&engine, "second"), "eth0 eth1 eth2 lo");
    reaches_at_last(&engine, "second", "server-c");
    engine.docker(&["rm", "-f", "first", "second"]).ok();
    assert_eq!(taps(&engine), 0);
    machine(
        &engine,
        "chosen",
        &["--network", "a", "--network", "name=b,gw-priority=7"],
    );
    let out = format!("{} eth1", gateway(&engine, "b"));
    assert_eq!(way_out(&engine, "chosen"), out);
    engine
        .docker(&[
            "create",
            "--name",
            "made",
            "--isolation=vm",
            "bb",
            "sleep",
            "1000",
        ])
        .ok();
    engine.docker(&["network", "connect", "c", "made"]).ok();
    engine.docker(&["start", "made"]).ok();
    reaches_at_last(&engine, "made", "server-c");
}

#[test]
fn cards_are_plugged_into_a_running_machine_and_taken_out() {
    let mut engine = Engine::with_image();
    networks(&engine, &["a", "b"]);
    sleeper(&engine, "server", &["--network", "a"]);
    let server = address(&engine, "server", "a");
    machine(&engine, "mover", &["--network", "b"]);
    assert_eq!(links(&engine, "mover"), "eth0 lo");
    engine
        .docker(&["network", "connect", "--ip", &server, "a", "mover"])
        .complains(&["Address already in use"]);
    engine
        .docker(&["network", "connect", "--alias", "guest", "a", "mover"])
        .ok();
    assert_eq!(links(&engine, "mover"), "eth0 eth1 lo");
    reaches_at_last(&engine, "mover", "server");
    reaches_at_last(&engine, "server", "guest");
    engine
        .docker(&["network", "connect", "a", "mover"])
        .complains(&["already exists in network a"]);
    // The way out is the first network by name, the one that is left, or that of the highest priority.
    let out = |network: &str, link: &str| {
        let expected = format!("{} {link}", gateway(&engine, network));
        assert_eq!(way_out(&engine, "mover"), expected);
    };
    out("a", "eth1");
    engine.docker(&["network", "disconnect", "a", "mover"]).ok();
    out("b", "eth0");
    engine
        .docker(&["network", "connect", "--alias", "guest", "a", "mover"])
        .ok();
    engine.docker(&["network", "disconnect", "b", "mover"]).ok();
    assert_eq!(links(&engine, "mover"), "eth1 lo");
    out("a", "eth1");
    let resolver = inside(&engine, "mover", "cat /etc/resolv.conf");
    assert!(resolver.contains(&gateway(&engine, "a")), "{resolver}");
    reaches_at_last(&engine, "mover", "server");
    engine
        .docker(&["network", "connect", "--gw-priority", "5", "b", "mover"])
        .ok();
    assert_eq!(links(&engine, "mover"), "eth0 eth1 lo");
    out("b", "eth0");
    // As it was made, after another start and under another engine.
    engine.docker(&["restart", "-t", "0", "mover"]).ok();
    reaches_at_last(&engine, "mover", "server");
    engine.kill();
    engine.restart();
    assert_eq!(taps(&engine), 2);
    engine.docker(&["network", "disconnect", "a", "mover"]).ok();
    assert!(!reaches(&engine, "mover", &server) && !reaches(&engine, "server", "guest"));
    engine
        .docker(&["network", "disconnect", "a", "mover"])
        .complains(&["is not connected to network a"]);
    assert_eq!(taps(&engine), 1);
    // Out of every network and in again, in the same place.
    for _ in 0..3 {
        engine.docker(&["network", "disconnect", "b", "mover"]).ok();
        assert_eq!(
            (links(&engine, "mover"), taps(&engine)),
            ("lo".to_owned(), 0)
        );
        engine.docker(&["network", "connect", "b", "mover"]).ok();
    }
    assert!(reaches(&engine, "mover", &gateway(&engine, "b")));
    machine(&engine, "none", &["--network", "none"]);
    engine
        .docker(&["network", "disconnect", "none", "none"])
        .complains(&["cannot be disconnected"]);
    engine.docker(&["network", "connect", "a", "none"]).ok();
    assert_eq!(links(&engine, "none"), "eth0 lo");
    reaches_at_last(&engine, "none", "server");
    engine.docker(&["rm", "-f", "mover", "none"]).ok();
    assert_eq!(taps(&engine), 0);
    engine.docker(&["rm", "-f", "server"]).ok();
    engine.docker(&["network", "rm", "a", "b"]).ok();
}

#[test]
fn a_card_that_cannot_be_had_leaves_nothing() {
    let engine = Engine::with_image();
    let names: Vec<_> = (0..9).map(|number| format!("n{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    networks(&engine, &names[..1]);
    networks(&engine, &names[2..]);
    // Of one address: who does not give it back is found out.
    let small = ["network", "create", "--subnet", "10.91.1.0/30", "n1"];
    engine.docker(&small).ok();
    machine(
        &engine,
        "mach",
        &["--network", "n0", "--cap-add", "NET_ADMIN"],
    );
    // In a guest that has such a link already, the new one cannot be called so.
    inside(
        &engine,
        "mach",
        "ip link set eth0 down; ip link set eth0 name eth1; ip link set eth1 up",
    );
    engine
        .docker(&["network", "connect", "n1", "mach"])
        .complains(&["link set #", "name eth1"]);
    assert_eq!(
        (links(&engine, "mach"), taps(&engine)),
        ("eth1 lo".to_owned(), 1)
    );
    let connected = "{{len .NetworkSettings.Networks}}";
    assert_eq!(
        engine.docker(&["inspect", "-f", connected, "mach"]).ok(),
        "1"
    );
    let shown = ["run", "--rm", "--network", "n1", "bb", "hostname", "-i"];
    assert_eq!(engine.docker(&shown).ok(), "10.91.1.2");
    inside(
        &engine,
        "mach",
        "ip link set eth1 down; ip link set eth1 name eth0; ip link set eth0 up",
    );
    engine.docker(&["pause", "mach"]).ok();
    for verb in ["connect", "disconnect"] {
        let network = if verb == "connect" { "n1" } else { "n0" };
        engine
            .docker(&["network", verb, network, "mach"])
            .complains(&["the machine is paused", "unpause it first"]);
    }
    engine.docker(&["unpause", "mach"]).ok();
    assert_eq!(taps(&engine), 1);
    for network in &names[1..8] {
        engine.docker(&["network", "connect", network, "mach"]).ok();
    }
    assert!(reaches(&engine, "mach", &gateway(&engine, "n7")));
    assert_eq!(taps(&engine), 8);
    engine
        .docker(&["network", "connect", "n8", "mach"])
        .complains(&[
            "8 network cards",
            "disconnect it from another network first",
        ]);
    engine.docker(&["network", "disconnect", "n3", "mach"]).ok();
    engine.docker(&["network", "connect", "n8", "mach"]).ok();
    assert_eq!(taps(&engine), 8);
    engine.docker(&["rm", "-f", "mach"]).ok();
    assert_eq!(taps(&engine), 0);
    let all: Vec<_> = names.iter().flat_map(|name| ["--network", name]).collect();
    engine
        .docker(&[&["create", "--isolation=vm"][..], &all, &["bb", "true"]].concat())
        .complains(&["9 networks: a machine has at most 8 network cards"]);
    engine
        .docker(&[&["network", "rm"], &names[..]].concat())
        .ok();
}

#[test]
fn published_ports_follow_the_way_out() {
    let engine = Engine::with_image();
    networks(&engine, &["a", "b"]);
    let serve = ["sh", "-c", "while :; do echo here | nc -l -p 80; done"];
    for wall in ["vm", "process"] {
        let isolation = format!("--isolation={wall}");
        let run = [
            "run",
            "-d",
            "--name",
            wall,
            &isolation,
            "--network",
            "a",
            "-p",
            "8080:80",
            "bb",
        ];
        engine.docker(&[&run[..], &serve].concat()).ok();
        // `nc` listens for one client only: between two of them nobody answers.
        let ask = "timeout 2 busybox nc -w 1 127.0.0.1 8080 < /dev/null | grep here || true";
        let answers = || on_host(&engine, ask) == "here";
        let answers_at_last = || waiting::until(&format!("{wall} answers"), answers);
        answers_at_last();
        engine.docker(&["network", "connect", "b", wall]).ok();
        answers_at_last();
        engine.docker(&["network", "disconnect", "a", wall]).ok();
        assert_eq!(
            way_out(&engine, wall),
            format!("{} eth1", gateway(&engine, "b"))
        );
        answers_at_last();
        let port = engine.docker(&["port", wall]).ok();
        assert!(port.contains("80/tcp -> 0.0.0.0:8080"), "{port}");
        engine.docker(&["network", "disconnect", "b", wall]).ok();
        assert!(!answers(), "{wall}");
        engine.docker(&["rm", "-f", wall]).ok();
    }
}
