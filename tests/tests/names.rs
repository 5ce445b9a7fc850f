//! Issue 4: names of containers and machines in users' networks, by the real docker CLI.

use std::process::Command;

use atoll_tests::{Engine, Ran, waiting};

fn sleeper(engine: &Engine, name: &str, more: &[&str]) {
    let first = ["run", "-d", "--name", name];
    let arguments = [&first[..], more, &["bb", "sleep", "1000"]].concat();
    engine.docker(&arguments).ok();
}

/// What a name server says of `name`, as its client prints it.
fn lookup(engine: &Engine, from: &str, words: &[&str]) -> Ran {
    engine.docker(&[&["exec", from, "nslookup"], words].concat())
}

fn reaches(engine: &Engine, from: &str, to: &str) -> bool {
    engine
        .docker(&["exec", from, "ping", "-c1", "-W2", to])
        .code
        == 0
}

/// A name server of the outside world in the engine's network namespace.
struct World(std::process::Child);

impl World {
    /// Knows `there.example` as 192.0.2.7 (TCP only when `is_long`), and nothing else.
    fn start(engine: &Engine, address: &str, is_long: bool) -> Self {
        let script = r#"
            use IO::Socket::INET; use IO::Select;
            my ($address, $long) = @ARGV;
            my $udp = IO::Socket::INET->new(Proto => 'udp', LocalAddr => $address, LocalPort => 53) or die $!;
            my $tcp = IO::Socket::INET->new(Proto => 'tcp', LocalAddr => $address, LocalPort => 53, Listen => 5, ReuseAddr => 1) or die $!;
            sub answer { my ($q, $by_tcp) = @_;
                my $id = substr($q, 0, 2); my $end = 12; my $name = '';
                while (my $n = ord substr($q, $end, 1)) { $name .= substr($q, $end + 1, $n) . '.'; $end += $n + 1 }
                my $type = unpack 'n', substr($q, $end + 1, 2); my $question = substr($q, 12, $end + 5 - 12);
                my $known = lc($name) eq 'there.example.';
                return $id . "\x83\x80\0\1\0\0\0\0\0\0" . $question if $known && $long && !$by_tcp;
                my $data = $known && $type == 1 ? "\xc0\x0c\0\1\0\1\0\0\0\x05\0\4\xc0\0\2\x07" : '';
                return $id . ($known ? "\x81\x80" : "\x81\x83") . "\0\1" . pack('n', $data ne '') . "\0\0\0\0" . $question . $data;
            }
            my $select = IO::Select->new($udp, $tcp);
            while (1) { for my $s ($select->can_read) {
                if ($s == $udp) { $udp->recv(my $q, 4096); $udp->send(answer($q, 0)) if length $q > 12 }
                else { my $c = $tcp->accept or next; $c->read(my $n, 2); $c->read(my $q, unpack 'n', $n); my $a = answer($q, 1); print $c pack('n', length $a), $a; close $c }
            } }"#;
        let child = Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", engine.namespace_pid()))
            .args([
                "perl",
                "-e",
                script,
                address,
                if is_long { "1" } else { "" },
            ])
            .spawn()
            .expect("nsenter and perl are installed");
        Self(child)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn containers_know_each_other_by_every_name() {
    let engine = Engine::with_image();
    engine.docker(&["network", "create", "net"]).ok();
    engine.docker(&["network", "create", "other"]).ok();
    sleeper(
        &engine,
        "web",
        &[
            "--network",
            "net",
            "--network-alias",
            "site",
            "--hostname",
            "box",
        ],
    );
    sleeper(
        &engine,
        "asker",
        &["--network", "net", "--link", "web:linked"],
    );
    sleeper(&engine, "stranger", &["--network", "other"]);
    let id = engine.docker(&["inspect", "-f", "{{.Id}}", "web"]).ok();
    let address = engine
        .docker(&[
            "inspect",
            "-f",
            "{{.NetworkSettings.Networks.net.IPAddress}}",
            "web",
        ])
        .ok();
    for name in ["web", "WEB", "site", "box", &id[..12], "web.net", "linked"] {
        let said = lookup(&engine, "asker", &["-type=a", name]);
        assert!(
            said.ok().contains(&format!("Address: {address}")),
            "{name}: {said}"
        );
        assert!(reaches(&engine, "asker", name), "{name}");
    }
    // An address is all there is: no IPv6 one, and that is no failure.
    let said = lookup(&engine, "asker", &["-type=aaaa", "web"]);
    assert!(
        !said.stdout.contains("NXDOMAIN") && !said.stdout.contains("SERVFAIL"),
        "{said}"
    );
    let reverse = lookup(&engine, "asker", &[&address]).ok();
    assert!(reverse.contains("web.net"), "{reverse}");
    // Aliases and links are those of a network and of a container.
    assert!(!reaches(&engine, "stranger", "web") && !reaches(&engine, "web", "linked"));
    let resolv = engine
        .docker(&["exec", "asker", "cat", "/etc/resolv.conf"])
        .ok();
    assert!(resolv.contains("ndots:0"), "{resolv}");
    // Two with one alias are both told; one that is gone is forgotten at once, and a new name known.
    sleeper(
        &engine,
        "second",
        &["--network", "net", "--network-alias", "site"],
    );
    let both = lookup(&engine, "asker", &["-type=a", "site"]).ok();
    assert_eq!(both.matches("Name:").count(), 2, "{both}");
    engine.docker(&["rm", "-f", "second"]).ok();
    assert!(!reaches(&engine, "asker", "second"));
    engine.docker(&["rename", "web", "renamed"]).ok();
    assert!(reaches(&engine, "asker", "renamed") && !reaches(&engine, "asker", "web"));
}

#[test]
fn other_names_are_asked_of_the_outside_world() {
    let engine = Engine::with_image();
    engine
        .sh(&format!(
            "nsenter --net=/proc/{}/ns/net sh -ec 'for n in 1 2 3; do ip addr add 198.51.100.$n/32 dev lo; done'",
            engine.namespace_pid()
        ))
        .ok();
    let _plain = World::start(&engine, "198.51.100.1", false);
    let _long = World::start(&engine, "198.51.100.2", true);
    engine.docker(&["network", "create", "net"]).ok();
    engine
        .docker(&["network", "create", "--internal", "inside"])
        .ok();
    // The first of these is silent.
    sleeper(
        &engine,
        "plain",
        &[
            "--network",
            "net",
            "--dns",
            "198.51.100.3",
            "--dns",
            "198.51.100.1",
        ],
    );
    sleeper(
        &engine,
        "long",
        &["--network", "net", "--dns", "198.51.100.2"],
    );
    sleeper(
        &engine,
        "shut",
        &["--network", "inside", "--dns", "198.51.100.1"],
    );
    waiting::until("the world answers", || {
        lookup(&engine, "plain", &["-type=a", "there.example"])
            .stdout
            .contains("192.0.2.7")
    });
    let none = lookup(&engine, "plain", &["-type=a", "nowhere.example"]);
    assert!(none.stdout.contains("NXDOMAIN"), "{none}");
    let no_data = lookup(&engine, "plain", &["-type=aaaa", "there.example"]);
    assert!(!no_data.stdout.contains("NXDOMAIN"), "{no_data}");
    // An answer too long for UDP is asked for by TCP, through the server.
    let ask = engine.docker(&["exec", "long", "ping", "-c1", "-W1", "there.example"]);
    assert!(ask.stdout.contains("192.0.2.7"), "{ask}");
    let shut = lookup(&engine, "shut", &["-type=a", "there.example"]);
    assert!(
        shut.stdout.contains("NXDOMAIN"),
        "nothing leaves an internal network: {shut}"
    );
}

#[test]
fn names_come_back_with_the_engine() {
    let mut engine = Engine::with_image();
    engine.docker(&["network", "create", "net"]).ok();
    sleeper(&engine, "one", &["--network", "net"]);
    sleeper(&engine, "two", &["--network", "net"]);
    assert!(reaches(&engine, "one", "two"));
    engine.kill();
    engine.restart();
    waiting::until("names resolve", || reaches(&engine, "one", "two"));
}

#[test]
fn a_machine_and_a_container_know_each_other() {
    let engine = Engine::with_image();
    engine.docker(&["network", "create", "net"]).ok();
    let serve = "while :; do echo from-$(hostname) | nc -l -p 80; done";
    for (name, wall) in [("box", "process"), ("machine", "vm")] {
        let isolation = format!("--isolation={wall}");
        engine
            .docker(&[
                "run",
                "-d",
                "--name",
                name,
                "--hostname",
                name,
                "--network",
                "net",
                "--network-alias",
                &format!("{name}-alias"),
                &isolation,
                "bb",
                "sh",
                "-c",
                serve,
            ])
            .ok();
    }
    for (from, to) in [("box", "machine"), ("machine", "box")] {
        for name in [to.to_owned(), format!("{to}-alias")] {
            // A server that sees our end before it has anything to say says nothing: it is asked again.
            let script = format!(
                "for n in 1 2 3 4 5 6 7 8 9; do nc -w 3 {name} 80 < /dev/null | grep . && exit; sleep 0.3; done; exit 1"
            );
            let said = engine.docker(&["exec", from, "sh", "-c", &script]).ok();
            assert_eq!(said, format!("from-{to}"));
        }
    }
}

#[test]
fn hosts_and_resolver_files_say_what_was_asked_for() {
    let engine = Engine::with_image();
    engine.docker(&["network", "create", "net"]).ok();
    let gateway = engine
        .docker(&[
            "network",
            "inspect",
            "-f",
            "{{(index .IPAM.Config 0).Gateway}}",
            "net",
        ])
        .ok();
    let run = |more: &[&str], file: &str| {
        let all = [&["run", "--rm"], more, &["bb", "cat", file]].concat();
        engine.docker(&all).ok()
    };
    let hosts = run(
        &[
            "--network",
            "net",
            "--hostname",
            "me",
            "--add-host",
            "gate:host-gateway",
            "--add-host",
            "db:10.9.8.7",
        ],
        "/etc/hosts",
    );
    assert!(
        hosts.contains(&format!("{gateway}\tgate\n10.9.8.7\tdb\n")),
        "{hosts}"
    );
    assert!(hosts.ends_with("\tme"), "{hosts}");
    let resolv = run(
        &[
            "--network",
            "net",
            "--dns-search",
            "example.org",
            "--dns-option",
            "ndots:2",
        ],
        "/etc/resolv.conf",
    );
    assert_eq!(
        resolv,
        format!("nameserver {gateway}\nsearch example.org\noptions ndots:2")
    );
    let plain = run(&["--dns", "198.51.100.9"], "/etc/resolv.conf");
    assert!(plain.starts_with("nameserver 198.51.100.9"), "{plain}");
    // In the default bridge, links are all the names there are.
    sleeper(&engine, "db", &[]);
    let linked = run(&["--link", "db:store"], "/etc/hosts");
    assert!(linked.contains("\tstore "), "{linked}");
    // One network, one set of files.
    sleeper(&engine, "main", &["--network", "net"]);
    let shared = run(&["--network", "container:main"], "/etc/resolv.conf");
    assert!(
        shared.starts_with(&format!("nameserver {gateway}")),
        "{shared}"
    );
}
