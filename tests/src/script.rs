//! Shell lines as a user would type them, and what came of them.

use std::process::{Command, Output};

/// What a finished program said.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// Standard output, lossily decoded.
    pub stdout: String,
    /// Standard error, lossily decoded.
    pub stderr: String,
    what: String,
}

impl Ran {
    /// Runs `command` to its end.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn of(command: &mut Command) -> Self {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        let what = words.join(" ");
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("cannot start {what}: {error}"));
        Self::from_output(what, &output)
    }

    fn from_output(what: String, output: &Output) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        let status = output.status;
        Self {
            code: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            what,
        }
    }

    /// Asserts exit code 0 and returns standard output without its last line end.
    ///
    /// # Panics
    /// When the program failed; the message holds all it said.
    #[track_caller]
    pub fn ok(&self) -> String {
        assert_eq!(self.code, 0, "{self}");
        self.stdout.trim_end_matches('\n').to_owned()
    }

    /// Asserts the exit code and returns standard error.
    ///
    /// # Panics
    /// When the code is another one.
    #[track_caller]
    pub fn fails_with(&self, code: i32) -> &str {
        assert_eq!(self.code, code, "{self}");
        &self.stderr
    }

    /// Asserts that the program failed and that its standard error holds each of `parts`.
    ///
    /// # Panics
    /// When it succeeded or said something else.
    #[track_caller]
    pub fn complains(&self, parts: &[&str]) {
        assert_ne!(self.code, 0, "{self}");
        for part in parts {
            assert!(self.stderr.contains(part), "no `{part}` in {self}");
        }
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            code,
            stdout,
            stderr,
            what,
        } = self;
        write!(
            f,
            "{what}\nexit code {code}\n--- stdout\n{stdout}\n--- stderr\n{stderr}"
        )
    }
}
