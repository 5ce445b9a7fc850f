//! Issue 4: published ports, of containers and of machines, by the real docker CLI.

use std::process::Command;

use atoll_tests::{Engine, Ran};

const SERVER: &str = "while :; do echo served | nc -l -p 80; done";

/// Runs a program in the network namespace of the engine, whose host it is.
fn on_host(engine: &Engine, script: &str) -> Ran {
    let namespace = format!("--net=/proc/{}/ns/net", engine.namespace_pid());
    Ran::of(Command::new("nsenter").args([&namespace, "--", "sh", "-ec", script]))
}

/// Asks until there is an answer: the server in the container may not listen yet.
fn ask(engine: &Engine, address: &str, port: &str) -> String {
    let script = format!(
        "for n in $(seq 50); do busybox timeout 2 busybox nc {address} {port} < /dev/null | grep . && exit; sleep 0.1; done; exit 1"
    );
    on_host(engine, &script).ok()
}

fn refused(engine: &Engine, address: &str, port: &str) {
    let script = format!("busybox timeout 2 busybox nc {address} {port} < /dev/null");
    assert_ne!(on_host(engine, &script).code, 0, "{address}:{port} answers");
}

fn run(engine: &Engine, more: &[&str]) {
    let mut arguments = vec!["run", "-d"];
    arguments.extend(more);
    arguments.extend(["bb", "sh", "-c", SERVER]);
    engine.docker(&arguments).ok();
}

#[test]
fn a_published_port_is_reached_told_and_given_back() {
    let engine = Engine::with_image();
    run(
        &engine,
        &["--name", "web", "-p", "8080:80", "-p", "127.0.0.1::80"],
    );
    assert_eq!(ask(&engine, "127.0.0.1", "8080"), "served");
    let own = engine
        .docker(&["inspect", "-f", "{{.NetworkSettings.Gateway}}", "web"])
        .ok();
    assert_eq!(ask(&engine, &own, "8080"), "served");
    let ports = engine.docker(&["port", "web"]).ok();
    assert!(ports.contains("80/tcp -> 0.0.0.0:8080"), "{ports}");
    let ephemeral = ports
        .lines()
        .find_map(|line| line.strip_prefix("80/tcp -> 127.0.0.1:"))
        .expect("an ephemeral port");
    assert_eq!(ask(&engine, "127.0.0.1", ephemeral), "served");
    refused(&engine, &own, ephemeral);
    let listed = engine.docker(&["ps", "--format", "{{.Ports}}"]).ok();
    assert!(listed.contains("0.0.0.0:8080->80/tcp"), "{listed}");
    // From a container, its own and another, by the host's address.
    let script = format!(
        "for n in 1 2 3 4 5; do nc -w 2 {own} 8080 < /dev/null | grep . && exit; done; exit 1"
    );
    assert_eq!(
        engine
            .docker(&["run", "--rm", "bb", "sh", "-c", &script])
            .ok(),
        "served"
    );
    assert_eq!(
        engine.docker(&["exec", "web", "sh", "-c", &script]).ok(),
        "served"
    );

    engine.docker(&["stop", "-t", "0", "web"]).ok();
    refused(&engine, "127.0.0.1", "8080");
    assert_eq!(engine.docker(&["port", "web"]).ok(), "");
    // Whoever hears of the end gets the port at once.
    let bind = "busybox timeout 0.2 busybox nc -l -p 8080 < /dev/null || [ $? = 143 ]";
    on_host(&engine, bind).ok();
    engine.docker(&["start", "web"]).ok();
    assert_eq!(ask(&engine, "127.0.0.1", "8080"), "served");
    engine.docker(&["restart", "-t", "0", "web"]).ok();
    assert_eq!(ask(&engine, "127.0.0.1", "8080"), "served");
}

#[test]
fn a_taken_port_is_refused_in_dockers_words_and_nothing_stays() {
    let engine = Engine::with_image();
    run(&engine, &["--name", "web", "-p", "8080:80"]);
    let said = engine.docker(&[
        "run", "-d", "--name", "second", "-p", "8080:80", "bb", "sleep", "9",
    ]);
    said.fails_with(125);
    said.complains(&["Bind for 0.0.0.0:8080 failed: port is already allocated"]);
    let state = engine
        .docker(&["inspect", "-f", "{{.State.Status}}", "second"])
        .ok();
    assert_eq!(state, "created");
    // Another program of the host.
    let mut other = Command::new("nsenter")
        .arg(format!("--net=/proc/{}/ns/net", engine.namespace_pid()))
        .args(["busybox", "nc", "-l", "-p", "9090"])
        .spawn()
        .unwrap();
    atoll_tests::waiting::until("it listens", || {
        on_host(&engine, "ss -tln | grep -q :9090").code == 0
    });
    let said = engine.docker(&["run", "-d", "-p", "9090:80", "bb", "sleep", "9"]);
    said.complains(&["address already in use"]);
    other.kill().unwrap();
    other.wait().unwrap();
    // And the other way round: nobody gets a container's port unnoticed.
    on_host(
        &engine,
        "! busybox timeout 1 busybox nc -l -p 8080 < /dev/null 2>&1 | grep -v 'in use'",
    )
    .ok();
    engine
        .docker(&["run", "-d", "-p", "192.0.2.9:80:80", "bb", "sleep", "9"])
        .complains(&["cannot assign requested address"]);
    engine
        .docker(&["run", "-d", "-p", "[::1]:80:80", "bb", "sleep", "9"])
        .complains(&["publishing on ::1 is not available"]);
    assert_eq!(ask(&engine, "127.0.0.1", "8080"), "served");
}

#[test]
fn ranges_and_all_exposed_ports_are_published() {
    let engine = Engine::start(&["--ip", "127.0.0.1"]);
    atoll_tests::image::tarball(&engine.path("bb.tar"));
    engine
        .sh("docker import --change 'EXPOSE 80/tcp 5353/udp' $T/bb.tar bb")
        .ok();
    engine
        .docker(&["run", "-d", "--name", "all", "-P", "bb", "sleep", "100"])
        .ok();
    let ports = engine.docker(&["port", "all"]).ok();
    assert!(ports.contains("80/tcp -> 127.0.0.1:"), "{ports}");
    assert!(ports.contains("5353/udp -> 127.0.0.1:"), "{ports}");
    engine
        .docker(&[
            "run",
            "-d",
            "--name",
            "range",
            "-p",
            "7000-7002:7000-7002",
            "bb",
            "sleep",
            "100",
        ])
        .ok();
    assert_eq!(engine.docker(&["port", "range"]).ok().lines().count(), 3);
    // Of a range for one port, the first that is free.
    for expected in ["127.0.0.1:7003", "127.0.0.1:7004"] {
        let id = engine
            .docker(&["run", "-d", "-p", "7002-7004:80", "bb", "sleep", "100"])
            .ok();
        assert_eq!(engine.docker(&["port", &id, "80"]).ok(), expected);
    }
    engine
        .docker(&["run", "-d", "-p", "7002-7004:80", "bb", "sleep", "100"])
        .complains(&["all ports of the range are allocated"]);
}

#[test]
fn udp_is_led_to_the_container() {
    let engine = Engine::with_image();
    let publish = ["run", "-d", "--name", "udp", "-p", "127.0.0.1:5300:53/udp"];
    engine
        .docker(&[&publish[..], &["bb", "sleep", "100"]].concat())
        .ok();
    let pid = engine
        .docker(&["inspect", "-f", "{{.State.Pid}}", "udp"])
        .ok();
    // The small image has no server of UDP; one of the host's stands in its network.
    let server = "my $s = IO::Socket::INET->new(Proto => 'udp', LocalPort => 53) or die $!; while ($s->recv(my $m, 99)) { $s->send(\"you said $m\") }";
    let mut echo = Command::new("nsenter")
        .arg(format!("--net=/proc/{pid}/ns/net"))
        .args(["perl", "-MIO::Socket::INET", "-e", server])
        .spawn()
        .unwrap();
    let client = "$s = IO::Socket::INET->new(Proto => 'udp', PeerAddr => '127.0.0.1:5300'); for (1..50) { $s->send('hello'); alarm 5; if ($s->recv($m, 99)) { print $m; exit } select undef, undef, undef, 0.1 } exit 1";
    let said = on_host(
        &engine,
        &format!(
            "perl -MIO::Socket::INET -e \"{}\"",
            client.replace('$', "\\$")
        ),
    );
    echo.kill().unwrap();
    echo.wait().unwrap();
    assert_eq!(said.ok(), "you said hello");
}

#[test]
fn ports_outlive_the_engine_and_are_held_without_it() {
    let mut engine = Engine::with_image();
    run(&engine, &["--name", "web", "-p", "8080:80"]);
    assert_eq!(ask(&engine, "127.0.0.1", "8080"), "served");
    let ports = engine.docker(&["port", "web"]).ok();
    engine.kill();
    assert_eq!(ask(&engine, "127.0.0.1", "8080"), "served");
    on_host(
        &engine,
        "busybox nc -l -p 8080 < /dev/null 2>&1 | grep -q 'in use'",
    )
    .ok();
    engine.restart();
    assert_eq!(ask(&engine, "127.0.0.1", "8080"), "served");
    assert_eq!(engine.docker(&["port", "web"]).ok(), ports);
    engine
        .docker(&["run", "-d", "-p", "8080:80", "bb", "sleep", "9"])
        .complains(&["port is already allocated"]);
    // Ended while no engine ran: the next one takes the rules back.
    engine.kill();
    engine
        .sh("kill -9 $(pgrep -f 'containerd-shim-atoll-v2.*'$T | head -1)")
        .ok();
    engine.restart();
    refused(&engine, "127.0.0.1", "8080");
    let rules = on_host(&engine, "nft list ruleset").ok();
    assert!(!rules.contains("dnat to"), "{rules}");
    engine.docker(&["start", "web"]).ok();
    assert_eq!(ask(&engine, "127.0.0.1", "8080"), "served");
}

#[test]
fn a_machines_port_is_published() {
    let mut engine = Engine::with_image();
    run(
        &engine,
        &["--name", "web", "--isolation=vm", "-p", "8080:80"],
    );
    assert_eq!(ask(&engine, "127.0.0.1", "8080"), "served");
    engine.kill();
    assert_eq!(ask(&engine, "127.0.0.1", "8080"), "served");
    engine.restart();
    assert_eq!(
        engine.docker(&["port", "web", "80/tcp"]).ok(),
        "0.0.0.0:8080"
    );
    engine.docker(&["rm", "-f", "web"]).ok();
    refused(&engine, "127.0.0.1", "8080");
}

#[test]
fn a_systems_port_is_published_and_a_chroots_refused() {
    let engine = Engine::with_image();
    run(&engine, &["--isolation=system", "-p", "8080:80"]);
    assert_eq!(ask(&engine, "127.0.0.1", "8080"), "served");
    engine
        .docker(&[
            "run",
            "-d",
            "--isolation=chroot",
            "-p",
            "8081:80",
            "bb",
            "sleep",
            "9",
        ])
        .complains(&["--publish contradicts --isolation chroot"]);
}

#[test]
fn our_own_command_line_does_the_same() {
    let engine = Engine::with_image();
    let id = engine
        .atoll(&["network", "create", "--subnet", "10.66.0.0/24", "net"])
        .ok();
    assert_eq!(id.len(), 64);
    let listed = engine.atoll(&["network", "ls"]).ok();
    assert!(
        listed.contains("10.66.0.0/24") && listed.contains("bridge"),
        "{listed}"
    );
    let run = ["run", "-d", "--name", "web", "--network", "net"];
    let more = [
        "--ip",
        "10.66.0.9",
        "-p",
        "127.0.0.1:8080:80",
        "bb",
        "sh",
        "-c",
        SERVER,
    ];
    engine.atoll(&[&run[..], &more].concat()).ok();
    assert_eq!(engine.atoll(&["port", "web", "80"]).ok(), "127.0.0.1:8080");
    assert_eq!(ask(&engine, "127.0.0.1", "8080"), "served");
    engine
        .atoll(&["network", "rm", "net"])
        .complains(&["has active endpoints", "hint: stop the containers"]);
    engine
        .atoll(&["run", "-d", "-p", "0:0:0", "bb", "true"])
        .complains(&["invalid --publish"]);
    engine.atoll(&["network", "disconnect", "net", "web"]).ok();
    engine.atoll(&["network", "rm", "net"]).ok();
}
