//! Issue 4: docker-compose (the Python one of Debian, API client docker-py) brings services up, of containers and of machines.
//!
//! Its file knows `isolation`, which it hands to the engine as `docker run --isolation` does.

use std::fs;
use std::path::Path;
use std::process::Command;

use atoll_tests::{Engine, Ran, waiting};

/// A store behind a web server: two networks of which one leads nowhere, a volume, a folder of the host's, a port.
const FILE: &str = r#"
services:
  web:
    image: bb
    isolation: WEB
    command: ["sh", "-c", "while :; do nc -w 3 store 81 < /dev/null | cat /site/head - | nc -l -p 80; done"]
    depends_on: [store]
    environment: {GREETING: hello, ROUND: "${ROUND}"}
    labels: {round: "${ROUND}"}
    networks:
      front: {}
      back: {aliases: [page]}
    ports: ["8080:80"]
    volumes: ["./site:/site:ro"]
    stop_grace_period: 1s
  store:
    image: bb
    isolation: STORE
    command: ["sh", "-c", "echo started >> /data/log; echo store is up; while :; do wc -l < /data/log | nc -l -p 81; done"]
    networks: [back]
    volumes: ["words:/data"]
    tmpfs: [/scratch]
    restart: unless-stopped
    stop_grace_period: 1s
networks:
  front: {}
  back: {internal: true}
volumes:
  words: {}
"#;

struct Project<'a> {
    engine: &'a Engine,
    folder: &'a Path,
    round: u32,
}

impl Project<'_> {
    fn compose(&self, arguments: &[&str]) -> Ran {
        let mut command = self.engine.client("docker-compose");
        command
            .current_dir(self.folder)
            .args(["--project-name", "shop", "--no-ansi"])
            .args(arguments)
            .env("ROUND", self.round.to_string());
        Ran::of(&mut command)
    }

    /// What the published port says at last: the page's head, and how often the store was started.
    fn says(&self, times: u32) {
        let namespace = format!("--net=/proc/{}/ns/net", self.engine.namespace_pid());
        let ask = "timeout 5 busybox nc -w 2 127.0.0.1 8080 < /dev/null";
        let expected = format!("the shop\n{times}\n");
        waiting::until(&format!("the port says {expected:?}"), || {
            let ran = Ran::of(Command::new("nsenter").args([&namespace, "--", "sh", "-c", ask]));
            ran.stdout == expected
        });
    }

    fn ids(&self) -> Vec<String> {
        let ids = self.compose(&["ps", "-q"]).ok();
        ids.lines().map(str::to_owned).collect()
    }
}

fn round_of(engine: &Engine, web: &str, store: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("site")).expect("a folder in it");
    fs::write(folder.path().join("site/head"), "the shop\n").expect("it is written");
    let file = FILE.replace("WEB", web).replace("STORE", store);
    fs::write(folder.path().join("docker-compose.yml"), file).expect("it is written");
    let mut project = Project {
        engine,
        folder: folder.path(),
        round: 1,
    };
    project.compose(&["config", "-q"]).ok();
    let up = project.compose(&["up", "-d"]);
    up.ok();
    for part in [
        "Creating network \"shop_front\"",
        "Creating volume \"shop_words\"",
    ] {
        assert!(up.stderr.contains(part), "{}", up.stderr);
    }
    project.says(1);
    let shown = project.compose(&["ps"]).ok();
    let rows: Vec<_> = shown
        .lines()
        .filter(|line| line.starts_with("shop_"))
        .collect();
    assert_eq!(rows.len(), 2, "{shown}");
    assert!(rows.iter().all(|row| row.contains(" Up")), "{shown}");
    assert!(shown.contains("0.0.0.0:8080->80/tcp"), "{shown}");
    assert!(
        project
            .compose(&["logs", "store"])
            .ok()
            .contains("store is up")
    );
    assert_eq!(project.compose(&["port", "web", "80"]).ok(), "0.0.0.0:8080");
    assert!(project.compose(&["top"]).ok().contains("nc -l -p 81"));

    let exec =
        |service: &str, script: &str| project.compose(&["exec", "-T", service, "sh", "-c", script]);
    assert_eq!(
        exec("web", "echo $GREETING $(ls /sys/class/net)").ok(),
        "hello eth0 eth1 lo"
    );
    assert_eq!(exec("store", "echo $(ls /sys/class/net)").ok(), "eth0 lo");
    assert_eq!(exec("store", "exit 3").code, 3);
    exec("store", "ping -c1 -W2 page && ping -c1 -W2 web").ok();
    exec("web", "ping -c1 -W2 store && ! touch /site/x 2> /dev/null").ok();
    exec("store", "touch /scratch/x").ok();
    let route = exec("store", "ip route").ok();
    assert!(!route.contains("default"), "back leads nowhere: {route}");

    // Nothing changed, so nothing is done; then one service did, and is made anew.
    let before = project.ids();
    let again = project.compose(&["up", "-d"]);
    again.ok();
    assert!(again.stderr.contains("up-to-date"), "{}", again.stderr);
    assert_eq!(project.ids(), before);
    project.round = 2;
    project.compose(&["up", "-d", "-t", "0"]).ok();
    let after = project.ids();
    assert_eq!(before.iter().filter(|id| after.contains(id)).count(), 1);
    project.says(1);
    project.compose(&["restart", "-t", "0", "store"]).ok();
    project.says(2);
    project.compose(&["stop", "-t", "0"]).ok();
    assert!(project.compose(&["ps"]).ok().contains(" Exit "));
    project.compose(&["start"]).ok();
    project.says(3);
    project
        .compose(&[
            "run",
            "--rm",
            "-T",
            "store",
            "grep",
            "-c",
            "started",
            "/data/log",
        ])
        .ok();
    let ids = project.ids();
    project.compose(&["down", "-v", "-t", "0"]).ok();
    for id in ids.iter().chain(&before) {
        engine.assert_no_trace_of(id);
    }
    for list in [&["ps", "-aq"][..], &["volume", "ls", "-q"]] {
        assert_eq!(engine.docker(list).ok(), "");
    }
    let networks = engine
        .docker(&["network", "ls", "--format", "{{.Name}}"])
        .ok();
    assert!(!networks.contains("shop"), "{networks}");
}

#[test]
fn compose_runs_containers() {
    round_of(&Engine::with_image(), "default", "default");
}

#[test]
fn compose_runs_a_machine_on_two_networks_beside_a_container() {
    round_of(&Engine::with_image(), "vm", "default");
}

#[test]
fn compose_runs_machines() {
    round_of(&Engine::with_image(), "vm", "vm");
}
