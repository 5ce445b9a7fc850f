//! What is recorded when a container's init process ends, and exit codes of failed starts.

use serde::{Deserialize, Serialize};

/// Content of `bundle/exit.json`, written by temp + rename before `Wait` is answered.
///
/// Page: docs/formats/exit-record.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Format version, 1.
    pub version: u32,
    /// The init process's pid in the host's pid namespace; 0 when it never started.
    pub pid: u32,
    /// Exit status, or 128 + signal.
    pub exit_code: u32,
    /// Signal that ended the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The kernel killed a process of the container's memory cgroup.
    #[serde(default)]
    pub oom_killed: bool,
    /// When, RFC 3339 with nanoseconds, UTC.
    pub exited_at: String,
    /// Why the process could not be observed to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl ExitRecord {
    /// Version written by this code.
    pub const VERSION: u32 = 1;

    /// Reads a record.
    ///
    /// # Errors
    /// When `bytes` is not the JSON of a record.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// The record as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a struct of numbers and strings always serializes")
    }
}

/// Exit code Docker records for a container whose start failed with `message`.
///
/// 127 when the command does not exist, 126 when it cannot be executed, else 128 (dockerd's code
/// for any other failed start; the docker CLI then exits with 125 by itself). Only the words count,
/// as in dockerd, because a ttrpc status has no room for more.
pub fn start_error_exit_code(message: &str) -> i32 {
    const NOT_FOUND: [&str; 2] = ["executable file not found", "no such file or directory"];
    const NOT_EXECUTABLE: [&str; 4] = [
        "permission denied",
        "is a directory",
        "not a directory",
        "exec format error",
    ];
    let message = message.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if has(&NOT_EXECUTABLE) {
        126
    } else if has(&NOT_FOUND) {
        127
    } else {
        128
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_round_trips_and_old_readers_cope() {
        let record = ExitRecord {
            version: ExitRecord::VERSION,
            pid: 42,
            exit_code: 137,
            signal: Some(9),
            oom_killed: true,
            exited_at: "2026-11-23T13:00:00.000000001Z".into(),
            error: None,
        };
        assert_eq!(
            ExitRecord::parse(record.to_json().as_bytes()).unwrap(),
            record
        );
        let more = br#"{"version":1,"pid":1,"exit_code":0,"exited_at":"x","later":[1]}"#;
        assert_eq!(ExitRecord::parse(more).unwrap().pid, 1);
    }

    #[test]
    fn start_errors_map_as_in_docker() {
        for (message, code) in [
            (
                "exec: \"nosuch\": executable file not found in $PATH: unknown",
                127,
            ),
            (
                "exec: \"/x\": stat /x: no such file or directory: unknown",
                127,
            ),
            ("exec: \"/etc\": is a directory: unknown", 126),
            ("exec: \"/etc/passwd\": permission denied", 126),
            ("exec /a: exec format error", 126),
            ("cannot join cgroup", 128),
        ] {
            assert_eq!(start_error_exit_code(message), code, "{message}");
        }
    }
}
