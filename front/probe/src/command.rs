//! Runs the user's command and times it from inside, without the wall's own start.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use crate::line::Line;

/// Runs `command` to its end: fork, exec, run, wait. Its output goes to our standard error, its
/// input is empty.
pub(crate) fn run(command: &[OsString]) -> Line {
    let Some((program, arguments)) = command.split_first() else {
        return Line::new().text("error", "no command was given");
    };
    let output = match io::stderr().as_fd().try_clone_to_owned() {
        Ok(fd) => Stdio::from(fd),
        Err(error) => return Line::new().text("error", &error.to_string()),
    };
    let started = Instant::now();
    let ended = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output)
        .status();
    let seconds = started.elapsed().as_secs_f64();
    match ended {
        Ok(status) => Line::new()
            .number("seconds", seconds)
            .number("exit_code", code(status).into()),
        Err(error) => {
            let text = error.to_string();
            let reason = text.split(" (os error").next().unwrap_or(&text);
            let program = program.to_string_lossy();
            Line::new().text("error", &format!("cannot run {program}: {reason}"))
        }
    }
}

/// The exit code as a shell has it: 128 and the signal for a process that was killed.
fn code(status: ExitStatus) -> i32 {
    let killed = status.signal().map(|signal| 128 + signal);
    status.code().or(killed).unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(words: &[&str]) -> String {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        run(&words).finished()
    }

    #[test]
    fn commands_end_as_a_shell_says() {
        assert!(answer(&["sh", "-c", "exit 7"]).ends_with(",\"exit_code\":7}\n"));
        assert!(answer(&["sh", "-c", "kill -9 $$"]).ends_with(",\"exit_code\":137}\n"));
        assert_eq!(
            answer(&["no-such-program"]),
            "{\"error\":\"cannot run no-such-program: No such file or directory\"}\n"
        );
        assert_eq!(answer(&[]), "{\"error\":\"no command was given\"}\n");
    }
}
