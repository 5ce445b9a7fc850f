//! Failures in words: for people on standard error, for container managers in runc's log lines.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use atoll_container::{Error, ErrorKind};

/// The outcome of a command.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// A failed command: what failed, why, and what the user can do.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What failed and its causes, outermost first.
    causes: Vec<String>,
    hint: Option<String>,
    /// The exit code runc has for it.
    code: u8,
}

impl Failure {
    /// A failure of one sentence.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            causes: vec![text.into()],
            hint: None,
            code: 1,
        }
    }

    /// A failed system call on `what`.
    pub(crate) fn io(what: impl Into<String>, error: &dyn std::fmt::Display) -> Self {
        Self {
            causes: vec![what.into(), error.to_string()],
            hint: None,
            code: 1,
        }
    }

    /// The same failure with a hint.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure with another exit code.
    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// The same failure as a cause of `what`.
    pub(crate) fn during(mut self, what: impl Into<String>) -> Self {
        self.causes.insert(0, what.into());
        self
    }

    /// Says it on standard error and in the log, and gives the exit code.
    pub(crate) fn report(&self, log: Option<&Log>) -> ExitCode {
        if let Some(log) = log {
            // The command's own failure matters more than a log that can't be written.
            let _ = log.write("error", &self.causes.join(": "));
        }
        let mut text = format!(
            "error: {}\n",
            self.causes.first().map_or("", String::as_str)
        );
        for cause in self.causes.iter().skip(1) {
            text.push_str(&format!("  because: {cause}\n"));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
        let _ = std::io::stderr().write_all(text.as_bytes());
        ExitCode::from(self.code)
    }
}

/// Where words besides failures go.
#[derive(Debug)]
struct Words {
    log: Option<Log>,
    is_debug: bool,
}

static WORDS: OnceLock<Words> = OnceLock::new();

/// Sets where [`warn`] and [`debug`] go; before, and when set again, it has no effect.
pub(crate) fn init(log: Option<Log>, is_debug: bool) {
    let _ = WORDS.set(Words { log, is_debug });
}

/// Where failures are logged, to append to.
pub(crate) fn log_file() -> Option<File> {
    let log = WORDS.get()?.log.as_ref()?;
    let file = File::options().append(true).create(true).open(&log.path);
    file.ok()
}

/// Says what was left out of a request, in the log or else on standard error.
pub(crate) fn warn(texts: &[String]) {
    for text in texts {
        say("warning", text);
    }
}

/// Says what is going on, if that was asked for.
pub(crate) fn debug(text: &str) {
    if WORDS.get().is_some_and(|words| words.is_debug) {
        say("debug", text);
    }
}

fn say(level: &str, text: &str) {
    // A word that can't be written is no reason to fail.
    let _ = match WORDS.get().and_then(|words| words.log.as_ref()) {
        Some(log) => log.write(level, text),
        None => std::io::stderr().write_all(line(level, text, false).as_bytes()),
    };
}

/// Reports a failure before the arguments are known.
pub(crate) fn fatal_without_log(text: &str) -> ExitCode {
    Failure::new(text).report(None)
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut causes = Vec::new();
        // containerd and dockerd look for these words.
        if matches!(
            error.kind(),
            ErrorKind::CommandNotFound | ErrorKind::CommandNotExecutable | ErrorKind::Other
        ) {
            causes.push("unable to start container process".to_owned());
        }
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(current) = cause {
            let text = current.to_string();
            if causes.last() != Some(&text) {
                causes.push(text);
            }
            cause = current.source();
        }
        Self {
            causes,
            hint: error.hint(),
            code: 1,
        }
    }
}

impl From<atoll_spec::SpecError> for Failure {
    fn from(error: atoll_spec::SpecError) -> Self {
        Self::from(Error::from(error))
    }
}

/// Where and how `--log` wants failures written.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    /// The file, appended to.
    pub(crate) path: PathBuf,
    /// Whether a line is a JSON object instead of logfmt.
    pub(crate) is_json: bool,
}

impl Log {
    fn write(&self, level: &str, message: &str) -> std::io::Result<()> {
        let mut file = File::options().create(true).append(true).open(&self.path)?;
        file.write_all(line(level, message, self.is_json).as_bytes())
    }
}

/// A line of a log, as runc's callers parse it.
fn line(level: &str, message: &str, is_json: bool) -> String {
    let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let time = time.to_string();
    if is_json {
        let line = serde_json::json!({"level": level, "msg": message, "time": time});
        return format!("{line}\n");
    }
    let message = serde_json::Value::from(message);
    format!("time=\"{time}\" level={level} msg={message}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_are_what_containerd_parses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.json");
        let log = Log {
            path: path.clone(),
            is_json: true,
        };
        Failure::new("a \"b\"").during("outer").report(Some(&log));
        let line = std::fs::read_to_string(&path).unwrap();
        let line: serde_json::Value = serde_json::from_str(line.trim_end()).unwrap();
        assert_eq!(line["level"], "error");
        assert_eq!(line["msg"], "outer: a \"b\"");
        assert!(line["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn a_missing_command_keeps_runcs_words() {
        let error = Error::CommandNotFound {
            command: "nosuch".to_owned(),
            reason: "executable file not found in $PATH".to_owned(),
        };
        assert_eq!(
            Failure::from(error).causes.join(": "),
            "unable to start container process: exec: \"nosuch\": executable file not found in $PATH"
        );
    }
}
