//! Issue line 3: terminals of `docker run -it` and `docker exec -it`.

use atoll_tests::Engine;
use atoll_tests::terminal::Terminal;

fn shell(engine: &Engine, arguments: &[&str]) -> Terminal {
    Terminal::start("docker", arguments, (33, 101), |command| {
        engine.point_keeping_stdin(command);
    })
}

#[test]
fn a_terminal_has_the_right_size_and_resizes() {
    let engine = Engine::with_image();
    let mut terminal = shell(&engine, &["run", "--rm", "-it", "bb", "sh"]);
    terminal.expect("#");
    terminal.type_in("tty; stty size\r");
    terminal.expect("/dev/pts/0");
    terminal.expect("33 101");
    terminal.resize((44, 122));
    terminal.type_in("sleep 0.2; stty size\r");
    terminal.expect("44 122");
    terminal.type_in("exit 5\r");
    assert_eq!(terminal.exit_code(), 5);
}

#[test]
fn interrupt_reaches_the_foreground_job() {
    let engine = Engine::with_image();
    let mut terminal = shell(&engine, &["run", "--rm", "-it", "bb", "sh"]);
    terminal.expect("#");
    terminal.type_in("sleep 1000\r");
    terminal.expect("sleep 1000");
    std::thread::sleep(std::time::Duration::from_millis(200));
    terminal.type_in("\x03");
    terminal.type_in("echo still-$((40+2))\r");
    terminal.expect("still-42");
    terminal.type_in("exit\r");
    terminal.exit_code();
}

#[test]
fn exec_gets_a_terminal_of_its_own() {
    let engine = Engine::with_image();
    engine
        .docker(&["run", "-d", "--name", "box", "bb", "sleep", "100"])
        .ok();
    let mut terminal = shell(&engine, &["exec", "-it", "box", "sh"]);
    terminal.expect("#");
    terminal.type_in("stty size\r");
    terminal.expect("33 101");
    terminal.type_in("exit 9\r");
    assert_eq!(terminal.exit_code(), 9);
}

#[test]
fn detaching_leaves_the_container_running() {
    let engine = Engine::with_image();
    let mut terminal = shell(&engine, &["run", "-it", "--name", "box", "bb", "sh"]);
    terminal.expect("#");
    terminal.type_in("\x10\x11");
    terminal.exit_code();
    assert_eq!(
        engine
            .docker(&["inspect", "-f", "{{.State.Running}}", "box"])
            .ok(),
        "true"
    );
    let mut again = shell(&engine, &["attach", "box"]);
    again.type_in("echo back-$((40+2))\r");
    again.expect("back-42");
    again.type_in("exit\r");
    again.exit_code();
}
