//! Issue line 4: exit codes as Docker's.

use atoll_tests::Engine;

#[test]
fn exit_codes_are_dockers() {
    let engine = Engine::with_image();
    let run = |arguments: &[&str]| engine.docker(&[&["run", "--rm"], arguments].concat());
    run(&["bb", "true"]).fails_with(0);
    run(&["bb", "sh", "-c", "exit 42"]).fails_with(42);
    run(&["bb", "sh", "-c", "kill -9 $$"]).fails_with(0); // pid 1 is immune to its own signals
    assert!(
        run(&["bb", "nosuch"])
            .fails_with(127)
            .contains("executable file not found")
    );
    assert!(
        run(&["bb", "/no/such"])
            .fails_with(127)
            .contains("no such file or directory")
    );
    assert!(
        run(&["bb", "/etc/plain"])
            .fails_with(126)
            .contains("permission denied")
    );
    assert!(
        run(&["bb", "/etc"])
            .fails_with(126)
            .contains("is a directory")
    );
    run(&["--no-such-flag", "bb", "true"]).fails_with(125);
    assert!(
        run(&["-u", "nosuch", "bb", "true"])
            .fails_with(125)
            .contains("nosuch")
    );
    assert!(
        run(&["nosuch.invalid:1/x", "true"])
            .fails_with(125)
            .contains("nosuch.invalid")
    );
    assert_eq!(
        engine.docker(&["ps", "-aq"]).ok(),
        "",
        "failed runs with --rm leave nothing"
    );
}

#[test]
fn a_signal_is_128_plus_its_number() {
    let engine = Engine::with_image();
    let id = engine.docker(&["run", "-d", "bb", "sleep", "100"]).ok();
    engine.docker(&["kill", "-s", "9", &id]).ok();
    assert_eq!(engine.docker(&["wait", &id]).ok(), "137");
    let id = engine
        .docker(&[
            "run",
            "-d",
            "bb",
            "sh",
            "-c",
            "trap 'exit 12' USR1; while :; do sleep 0.05; done",
        ])
        .ok();
    std::thread::sleep(std::time::Duration::from_millis(200));
    engine.docker(&["kill", "-s", "USR1", &id]).ok();
    assert_eq!(engine.docker(&["wait", &id]).ok(), "12");
}

#[test]
fn the_clis_order_of_calls_works_by_hand() {
    let engine = Engine::with_image();
    let script = r#"
        api() { curl -s --unix-socket $SOCKET "$@"; }
        id=$(api -H 'Content-Type: application/json' -d '{"Image":"bb","Cmd":["echo","hi"],"AttachStdout":true,"HostConfig":{"AutoRemove":true}}' http://d/v1.51/containers/create | sed 's/.*"Id":"\([0-9a-f]*\)".*/\1/')
        # The header must come before the container is even started.
        api -N -D $T/head -o $T/body -X POST "http://d/v1.51/containers/$id/wait?condition=removed" &
        for i in $(seq 100); do grep -q '200 OK' $T/head 2>/dev/null && break; sleep 0.02; done
        grep -q '200 OK' $T/head
        api -X POST http://d/v1.51/containers/$id/start
        wait
        cat $T/body
    "#;
    let body = engine.sh(script).ok();
    assert!(body.contains("\"StatusCode\":0"), "{body}");
}

#[test]
fn hijack_answers_101_only_when_asked_to_upgrade() {
    let engine = Engine::with_image();
    engine
        .docker(&["run", "-d", "--name", "plain", "bb", "sleep", "100"])
        .ok();
    engine
        .docker(&["run", "-dt", "--name", "tty", "bb", "sleep", "100"])
        .ok();
    let head = |name: &str, version: &str, upgrade: bool| {
        let upgrade = if upgrade {
            "Connection: Upgrade\r\nUpgrade: tcp\r\n"
        } else {
            ""
        };
        let path = format!("/v{version}/containers/{name}/attach?stream=1&stdout=1");
        engine
            .raw(&format!("POST {path} HTTP/1.1\r\nHost: d\r\n{upgrade}\r\n"))
            .to_lowercase()
    };
    let answer = head("plain", "1.51", true);
    assert!(answer.starts_with("http/1.1 101 upgraded"), "{answer}");
    assert!(
        answer.contains("application/vnd.docker.multiplexed-stream"),
        "{answer}"
    );
    assert!(head("tty", "1.51", true).contains("application/vnd.docker.raw-stream"));
    assert!(head("plain", "1.41", true).contains("application/vnd.docker.raw-stream"));
    assert!(head("plain", "1.51", false).starts_with("http/1.1 200 ok"));
}
