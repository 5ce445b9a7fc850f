//! What a comparison found, as data (docs/formats/compare.md) and as a table.

use serde::Serialize;

use super::statistics::{BYTES, NANOSECONDS, SECONDS, Spread, digits};
use super::trial::{Start, Trial};
use crate::doctor::{DEFAULT_WALL, Finding, State};

/// A whole comparison.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Version of these fields, which are only ever added to.
    pub(super) version: u32,
    pub(super) image: String,
    /// What was timed inside, with the image's entry point.
    pub(super) command: Option<Vec<String>>,
    /// Containers behind each wall, without the first.
    pub(super) rounds: u32,
    pub(super) walls: Vec<Wall>,
}

/// One wall.
#[derive(Debug, Serialize)]
pub(super) struct Wall {
    pub(super) wall: &'static str,
    pub(super) state: State,
    pub(super) because: Vec<String>,
    pub(super) hint: Option<String>,
    /// Absent where it does not work.
    #[serde(flatten)]
    pub(super) measured: Option<Measured>,
}

/// What was measured behind a wall.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    kernel: String,
    /// Who executes the machine, as the engine says; `null` without a machine.
    backend: Option<String>,
    consists_of: Vec<String>,
    /// The first container, which may have had to make what later ones find.
    first: Start,
    /// Whether a template of a machine was made for the first; `null` for walls without.
    made_template: Option<bool>,
    create_s: Option<Spread>,
    start_s: Option<Spread>,
    output_s: Option<Spread>,
    total_s: Option<Spread>,
    exit_s: Option<Spread>,
    processes: Vec<String>,
    pss_bytes: Option<Spread>,
    rss_bytes: Option<Spread>,
    system_call_ns: Option<Spread>,
    page_fault_ns: Option<Spread>,
    integer_ns: Option<Spread>,
    copy_ns: Option<Spread>,
    /// `integer_ns` as a multiple of the default wall's.
    cpu_slowdown: Option<f64>,
    command: Option<Timed>,
}

/// The user's command behind a wall.
#[derive(Debug, Serialize)]
struct Timed {
    seconds: Option<Spread>,
    /// A multiple of the default wall's.
    slowdown: Option<f64>,
    /// Of the last round.
    exit_code: i32,
    /// The last line it wrote, when it failed.
    last_words: Option<String>,
}

impl Measured {
    /// What a wall's trials say, the first of which is told apart.
    pub(super) fn of(first: &Trial, rounds: &[Trial], made_template: Option<bool>) -> Self {
        let spread =
            |value: &dyn Fn(&Trial) -> Option<f64>| Spread::of(rounds.iter().filter_map(value));
        let last = rounds.last().unwrap_or(first);
        let seen = last.seen.as_ref();
        Self {
            kernel: last.kernel.clone(),
            backend: last.backend.clone(),
            consists_of: consists_of(last),
            first: first.start,
            made_template,
            create_s: spread(&|trial| Some(trial.start.create_s)),
            start_s: spread(&|trial| Some(trial.start.start_s)),
            output_s: spread(&|trial| Some(trial.start.output_s)),
            total_s: spread(&|trial| Some(trial.start.total_s)),
            exit_s: spread(&|trial| Some(trial.exit_s)),
            processes: seen.map(|seen| seen.names.clone()).unwrap_or_default(),
            pss_bytes: spread(&|trial| Some(float(trial.seen.as_ref()?.memory.pss_bytes))),
            rss_bytes: spread(&|trial| Some(float(trial.seen.as_ref()?.memory.rss_bytes))),
            system_call_ns: spread(&|trial| trial.costs.system_call_ns),
            page_fault_ns: spread(&|trial| trial.costs.page_fault_ns),
            integer_ns: spread(&|trial| trial.costs.integer_ns),
            copy_ns: spread(&|trial| trial.costs.copy_ns),
            cpu_slowdown: None,
            command: last.command.as_ref().map(|command| Timed {
                seconds: spread(&|trial| Some(trial.command.as_ref()?.seconds)),
                slowdown: None,
                exit_code: command.exit_code,
                last_words: (command.exit_code != 0).then(|| command.last_words.clone()),
            }),
        }
    }
}

/// Bytes as a number to calculate with.
fn float(bytes: u64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "memory has fewer than 2^53 bytes"
    )]
    let bytes = bytes as f64;
    bytes
}

/// What stands between the container and the host, a sentence each.
fn consists_of(trial: &Trial) -> Vec<String> {
    let confinement = trial.seen.iter().flat_map(|seen| &seen.confinement);
    let Some(backend) = &trial.backend else {
        let kernel = format!("the host's kernel, {}", trial.kernel);
        return std::iter::once(kernel)
            .chain(confinement.cloned())
            .collect();
    };
    let cpu = match backend.as_str() {
        "soft" => {
            "a CPU that is a program: the processor executes none of the guest's instructions"
        }
        "kvm" => "the processor's own virtualization (KVM)",
        _ => "a virtual CPU",
    };
    let mut lines = vec![
        format!("a kernel of its own, {}", trial.kernel),
        cpu.to_owned(),
    ];
    lines.extend(confinement.map(|line| format!("around its monitor: {line}")));
    lines
}

impl Wall {
    /// A wall of which only this is known.
    pub(super) fn unmeasured(finding: Finding) -> Self {
        Self {
            wall: finding.name,
            state: finding.state,
            because: finding.because,
            hint: finding.hint,
            measured: None,
        }
    }
}

impl Report {
    /// Fills in what is relative to the default wall.
    pub(super) fn relate(&mut self) {
        let base = self.walls.iter().find(|wall| wall.wall == DEFAULT_WALL);
        let base = base.and_then(|wall| wall.measured.as_ref());
        let integer = base.and_then(|base| base.integer_ns);
        let command = base.and_then(|base| base.command.as_ref()?.seconds);
        let ratio = |of: Option<Spread>, to: Option<Spread>| {
            let (of, to) = (of?.median, to?.median);
            (to > 0.0).then_some(of / to)
        };
        for measured in self
            .walls
            .iter_mut()
            .filter_map(|wall| wall.measured.as_mut())
        {
            measured.cpu_slowdown = ratio(measured.integer_ns, integer);
            if let Some(timed) = &mut measured.command {
                timed.slowdown = ratio(timed.seconds, command);
            }
        }
    }

    /// The report for people.
    pub(super) fn text(&self) -> String {
        let measured: Vec<(&'static str, &Measured)> = self
            .walls
            .iter()
            .filter_map(|wall| Some((wall.wall, wall.measured.as_ref()?)))
            .collect();
        let mut text = format!(
            "image {}, {} round{}: medians (least–greatest)\n",
            self.image,
            self.rounds,
            if self.rounds == 1 { "" } else { "s" },
        );
        if let Some(command) = &self.command {
            text.push_str(&format!("command {}\n", command.join(" ")));
        }
        if !measured.is_empty() {
            text.push('\n');
            text.push_str(&table(&measured));
        }
        for (wall, measured) in &measured {
            text.push_str(&format!("\n{wall} consists of\n"));
            for line in &measured.consists_of {
                text.push_str(&format!("  {line}\n"));
            }
        }
        for wall in &self.walls {
            text.push_str(&wall.failure());
        }
        text
    }
}

impl Wall {
    /// Why it does not work; nothing when it does.
    fn failure(&self) -> String {
        let mut text = match self.state {
            State::Works => return String::new(),
            State::Fails => format!("\n{} does not work here\n", self.wall),
        };
        for reason in &self.because {
            text.push_str(&format!("  because: {reason}\n"));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("  hint: {hint}\n"));
        }
        text
    }
}

/// A row for each thing measured, a column for each wall.
fn table(walls: &[(&'static str, &Measured)]) -> String {
    type Cell = fn(&Measured) -> Option<String>;
    const ROWS: &[(&str, Cell)] = &[
        ("kernel", |m| Some(m.kernel.clone())),
        ("first start", |m| {
            let made = m.made_template == Some(true);
            let total = Spread::of([m.first.total_s])?.text(SECONDS);
            Some(total + if made { ", template made" } else { "" })
        }),
        ("start", |m| Some(m.total_s?.text(SECONDS))),
        ("  create", |m| Some(m.create_s?.text(SECONDS))),
        ("  start", |m| Some(m.start_s?.text(SECONDS))),
        ("  first output", |m| Some(m.output_s?.text(SECONDS))),
        ("exit, removal", |m| Some(m.exit_s?.text(SECONDS))),
        ("memory, PSS", |m| Some(m.pss_bytes?.text(BYTES))),
        ("memory, RSS", |m| Some(m.rss_bytes?.text(BYTES))),
        ("system call", |m| Some(m.system_call_ns?.text(NANOSECONDS))),
        ("page fault", |m| Some(m.page_fault_ns?.text(NANOSECONDS))),
        ("integer step", |m| Some(m.integer_ns?.text(NANOSECONDS))),
        ("copy of 1 KiB", |m| Some(m.copy_ns?.text(NANOSECONDS))),
        ("CPU slowdown", |m| Some(times(m.cpu_slowdown?))),
        ("command", |m| {
            Some(m.command.as_ref()?.seconds?.text(SECONDS))
        }),
        ("  slowdown", |m| Some(times(m.command.as_ref()?.slowdown?))),
        ("  exit code", |m| {
            let command = m.command.as_ref()?;
            let said = command.last_words.iter().filter(|words| !words.is_empty());
            let said: String = said.map(|words| format!(": {words}")).collect();
            Some(format!("{}{said}", command.exit_code))
        }),
    ];
    let names = walls.iter().map(|(wall, _)| (*wall).to_owned());
    let mut rows = vec![(String::new(), names.collect::<Vec<_>>())];
    for (label, cell) in ROWS {
        let cells: Vec<Option<String>> = walls.iter().map(|(_, wall)| cell(wall)).collect();
        if cells.iter().any(Option::is_some) {
            let cells = cells.into_iter().map(|cell| cell.unwrap_or("-".to_owned()));
            rows.push(((*label).to_owned(), cells.collect()));
        }
    }
    aligned(&rows)
}

/// `22.3×`
fn times(ratio: f64) -> String {
    format!("{}×", digits(ratio))
}

/// Columns as wide as their widest cell, three blanks between.
fn aligned(rows: &[(String, Vec<String>)]) -> String {
    let label_width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    let width_of = |column: usize| {
        let cells = rows.iter().filter_map(|(_, cells)| cells.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let columns = rows.first().map_or(0, |(_, cells)| cells.len());
    let widths: Vec<usize> = (0..columns).map(width_of).collect();
    let mut text = String::new();
    for (label, cells) in rows {
        let mut line = format!("{label:<label_width$}");
        for (cell, width) in cells.iter().zip(&widths) {
            line.push_str(&format!("   {cell:<width$}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::host::Memory;
    use super::super::trial::{Command, Costs, Seen};
    use super::*;

    fn trial(scale: f64, kernel: &str) -> Trial {
        Trial {
            start: Start {
                create_s: 0.001 * scale,
                start_s: 0.02 * scale,
                output_s: 0.003 * scale,
                total_s: 0.024 * scale,
            },
            exit_s: 0.01,
            kernel: kernel.to_owned(),
            backend: (kernel == "6.1").then(|| "soft".to_owned()),
            seen: Some(Seen {
                memory: Memory {
                    pss_bytes: 4_100_000,
                    rss_bytes: 9_000_000,
                },
                names: vec!["shim".to_owned(), "main".to_owned()],
                confinement: vec!["held in".to_owned()],
            }),
            costs: Costs {
                system_call_ns: Some(100.0 * scale),
                page_fault_ns: None,
                integer_ns: Some(2.0 * scale),
                copy_ns: Some(40.0),
            },
            command: Some(Command {
                seconds: 0.5 * scale,
                exit_code: 3,
                last_words: "no such thing".to_owned(),
            }),
        }
    }

    fn report() -> Report {
        let wall = |wall, measured| Wall {
            wall,
            state: State::Works,
            because: Vec::new(),
            hint: None,
            measured: Some(measured),
        };
        let process = Measured::of(
            &trial(1.0, "6.18"),
            &[trial(1.0, "6.18"), trial(1.5, "6.18")],
            None,
        );
        let rounds = [trial(10.0, "6.1"), trial(10.0, "6.1")];
        let machine = Measured::of(&trial(100.0, "6.1"), &rounds, Some(true));
        let mut report = Report {
            version: 1,
            image: "bb".to_owned(),
            command: Some(vec!["false".to_owned(), "-x".to_owned()]),
            rounds: 2,
            walls: vec![
                wall("process", process),
                wall("vm:soft", machine),
                Wall {
                    wall: "vm:kvm",
                    state: State::Fails,
                    because: vec!["it emulates".to_owned()],
                    hint: Some("leave it".to_owned()),
                    measured: None,
                },
            ],
        };
        report.relate();
        report
    }

    #[test]
    fn the_table_has_a_column_for_each_wall_and_no_empty_rows() {
        let expected = "\
image bb, 2 rounds: medians (least–greatest)
command false -x

                 process               vm:soft
kernel           6.18                  6.1
first start      24.0 ms               2.40 s, template made
start            30.0 ms (24.0–36.0)   240 ms
  create         1.25 ms (1.00–1.50)   10.0 ms
  start          25.0 ms (20.0–30.0)   200 ms
  first output   3.75 ms (3.00–4.50)   30.0 ms
exit, removal    10.0 ms               10.0 ms
memory, PSS      4.10 MB               4.10 MB
memory, RSS      9.00 MB               9.00 MB
system call      125 ns (100–150)      1.00 µs
integer step     2.50 ns (2.00–3.00)   20.0 ns
copy of 1 KiB    40.0 ns               40.0 ns
CPU slowdown     1.00×                 8.00×
command          625 ms (500–750)      5.00 s
  slowdown       1.00×                 8.00×
  exit code      3: no such thing      3: no such thing

process consists of
  the host's kernel, 6.18
  held in

vm:soft consists of
  a kernel of its own, 6.1
  a CPU that is a program: the processor executes none of the guest's instructions
  around its monitor: held in

vm:kvm does not work here
  because: it emulates
  hint: leave it
";
        assert_eq!(report().text(), expected);
    }

    #[test]
    fn fields_are_as_documented() {
        let json = serde_json::to_value(report()).unwrap();
        let wall = &json["walls"][1];
        assert_eq!(
            (&wall["wall"], &wall["state"], &wall["made_template"]),
            (&"vm:soft".into(), &"works".into(), &true.into())
        );
        assert_eq!(wall["cpu_slowdown"], 8.0);
        assert_eq!(wall["first"]["total_s"], 2.4);
        assert_eq!(wall["page_fault_ns"], serde_json::Value::Null);
        assert_eq!(wall["command"]["exit_code"], 3);
        let failed = json["walls"][2].as_object().unwrap();
        let fields: Vec<&str> = failed.keys().map(String::as_str).collect();
        assert_eq!(fields, ["because", "hint", "state", "wall"]);
        let page = include_str!("../../../../../docs/formats/compare.md");
        for field in json["walls"][0].as_object().unwrap().keys() {
            assert!(page.contains(&format!("`{field}`")), "{field}");
        }
    }
}
