//! Which walls work on this host, found out by trying: those of its own kernel by running a container,
//! KVM by its probe guest, networking by making a bridge in a namespace of its own.
//!
//! Nothing here needs an engine, and nothing stays behind.

mod host_wall;
mod machine;
mod network;
mod process;
mod scratch;

use std::error::Error as StdError;

use serde::Serialize;

/// Whether something works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It was tried and works.
    Works,
    /// It was tried, or what it needs was looked for, in vain.
    Fails,
}

/// What was found out about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// A wall as `--isolation` takes it, or `network`.
    pub(crate) name: &'static str,
    /// Whether it works.
    pub(crate) state: State,
    /// What was seen, a sentence each.
    pub(crate) facts: Vec<String>,
    /// Why it does not work, the outermost reason first.
    pub(crate) because: Vec<String>,
    /// What to do about it.
    pub(crate) hint: Option<String>,
}

impl Finding {
    /// One that works until it is said that it fails.
    fn works(name: &'static str) -> Self {
        Self {
            name,
            state: State::Works,
            facts: Vec::new(),
            because: Vec::new(),
            hint: None,
        }
    }

    fn fact(&mut self, text: impl Into<String>) {
        self.facts.push(text.into());
    }

    /// It fails because of `error` and its causes; the first failure's hint stays.
    fn fails(&mut self, error: &dyn StdError, hint: Option<String>) {
        let mut causes = vec![error.to_string()];
        let mut cause = error.source();
        while let Some(source) = cause {
            causes.push(source.to_string());
            cause = source.source();
        }
        self.fails_with(causes, hint);
    }

    /// It fails for these reasons.
    pub(crate) fn fails_with(&mut self, because: Vec<String>, hint: Option<String>) {
        self.state = State::Fails;
        self.because.extend(because);
        self.hint = self.hint.take().or(hint);
    }
}

/// Everything found out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Version of this report's fields, which are only ever added to.
    pub(crate) version: u32,
    /// Release of the host's kernel.
    pub(crate) kernel: String,
    /// The wall containers get when none is named.
    pub(crate) default_wall: &'static str,
    /// In a fixed order: the walls, then networking.
    pub(crate) findings: Vec<Finding>,
}

/// The wall containers get when none is named.
pub(crate) const DEFAULT_WALL: &str = "process";

impl Report {
    /// Tries everything; takes a tenth of a second, half a second with a KVM that hangs.
    pub(crate) fn of_this_host() -> Self {
        let mut findings = walls();
        findings.push(network::finding());
        Self {
            version: 1,
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            default_wall: DEFAULT_WALL,
            findings,
        }
    }

    /// Whether containers run without naming a wall.
    pub(crate) fn is_usable(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.name == self.default_wall && finding.state == State::Works)
    }

    /// The report for people: a line for each finding, what belongs to it below.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("kernel {}\n", self.kernel);
        for finding in &self.findings {
            let default = if finding.name == self.default_wall {
                " (the default wall)"
            } else {
                ""
            };
            let state = match finding.state {
                State::Works => "works",
                State::Fails => "fails",
            };
            text.push_str(&format!("\n{:<9} {state}{default}\n", finding.name));
            text.push_str(&finding.details("  "));
        }
        text
    }
}

impl Finding {
    /// Facts, reasons and the hint, a line each, after `indent`.
    pub(crate) fn details(&self, indent: &str) -> String {
        let facts = self.facts.iter().map(|fact| format!("{indent}{fact}\n"));
        let because = self
            .because
            .iter()
            .filter(|_| self.state == State::Fails)
            .map(|reason| format!("{indent}because: {reason}\n"));
        let hint = self
            .hint
            .iter()
            .map(|hint| format!("{indent}hint: {hint}\n"));
        facts.chain(because).chain(hint).collect()
    }
}

/// The walls: the default one, others of the host's kernel, machines.
pub(crate) fn walls() -> Vec<Finding> {
    vec![
        process::finding(),
        host_wall::system(),
        host_wall::chroot(),
        machine::software(),
        machine::kvm(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(state: State) -> Report {
        let mut process = Finding::works("process");
        process.fact("a container ran");
        if state == State::Fails {
            let inner = std::io::Error::other("inner");
            process.fails(&inner, Some("do this".to_owned()));
            process.fails(&inner, Some("later ones do not count".to_owned()));
        }
        Report {
            version: 1,
            kernel: "6.1.0".to_owned(),
            default_wall: DEFAULT_WALL,
            findings: vec![process, Finding::works("chroot")],
        }
    }

    #[test]
    fn a_report_reads_without_colour() {
        assert_eq!(
            report(State::Works).text(),
            "kernel 6.1.0\n\nprocess   works (the default wall)\n  a container ran\n\n\
             chroot    works\n"
        );
        assert_eq!(
            report(State::Fails).text(),
            "kernel 6.1.0\n\nprocess   fails (the default wall)\n  a container ran\n  \
             because: inner\n  because: inner\n  hint: do this\n\nchroot    works\n"
        );
    }

    #[test]
    fn a_host_is_usable_when_its_default_wall_works() {
        assert!(report(State::Works).is_usable());
        assert!(!report(State::Fails).is_usable());
    }

    #[test]
    fn fields_are_as_documented() {
        let json = serde_json::to_value(report(State::Works)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "version": 1, "kernel": "6.1.0", "default_wall": "process", "findings": [
                    {"name": "process", "state": "works", "facts": ["a container ran"],
                     "because": [], "hint": null},
                    {"name": "chroot", "state": "works", "facts": [],
                     "because": [], "hint": null},
                ],
            })
        );
    }
}
