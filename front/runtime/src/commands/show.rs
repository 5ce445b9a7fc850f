//! `state`, `list`, `ps`.

use std::path::{Path, PathBuf};
use std::process::Command;

use atoll_container::Container;
use atoll_spec::{State, Status};
use serde::Serialize;

use crate::arguments::{ListArguments, PsArguments};
use crate::commands::{print, print_json};
use crate::report::{Failure, Outcome};

/// A container as `state` and `list` print it: the specification's state and what runc adds.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    state: State,
    /// 0 when there is no process, as runc prints it.
    pid: u32,
    rootfs: PathBuf,
    created: String,
    owner: String,
}

impl Shown {
    fn of(container: &Container) -> Outcome<Self> {
        let mut state = container.state()?;
        let pid = state.pid.take().unwrap_or_default();
        let (created, rootfs) = container.origin()?;
        Ok(Self {
            pid,
            rootfs,
            created,
            owner: "root".to_owned(),
            state,
        })
    }
}

/// Prints a container's state as JSON.
pub(crate) fn state(container: &Container) -> Outcome<()> {
    print_json(&Shown::of(container)?)
}

/// Lists the containers below `root`.
pub(crate) fn list(root: &Path, arguments: &ListArguments) -> Outcome<()> {
    let containers = Container::list(root);
    if arguments.quiet {
        return containers
            .iter()
            .try_for_each(|container| print(container.id().as_str()));
    }
    // One that was deleted meanwhile is no longer part of the list.
    let shown: Vec<Shown> = containers
        .iter()
        .filter_map(|container| Shown::of(container).ok())
        .collect();
    if arguments.format == "json" {
        return print_json(&shown);
    }
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(shown.iter().map(|row| {
        [
            row.state.id.clone(),
            row.pid.to_string(),
            row.state.status.to_string(),
            row.state.bundle.display().to_string(),
            row.created.clone(),
            row.owner.clone(),
        ]
    }));
    print(&table(&rows))
}

/// Columns as wide as their widest cell.
fn table(rows: &[[String; 6]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].len())
            .max()
            .unwrap_or_default()
    };
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let cells = row
                .iter()
                .enumerate()
                .map(|(i, cell)| format!("{cell:<0$}", width(i)));
            cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

/// Lists a container's processes.
pub(crate) fn ps(container: &Container, arguments: &PsArguments) -> Outcome<()> {
    if container.state()?.status == Status::Stopped {
        return Err(Failure::new("container not running"));
    }
    let pids = container.pids()?;
    if arguments.format == "json" {
        let text = serde_json::to_string(&pids)
            .map_err(|error| Failure::io("cannot write JSON", &error))?;
        return print(&text);
    }
    let options = if arguments.options.is_empty() {
        vec!["-ef".to_owned()]
    } else {
        arguments.options.clone()
    };
    let output = Command::new("ps")
        .args(&options)
        .output()
        .map_err(|error| Failure::io("cannot run ps", &error).with_hint("use --format json"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Failure::io(format!("ps {}", options.join(" ")), &text));
    }
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    print(&only(&listing, &pids).ok_or_else(|| Failure::new("ps printed no PID column"))?)
}

/// The heading of a ps listing and the lines of `pids`; nothing without a PID column.
fn only(listing: &str, pids: &[u32]) -> Option<String> {
    let (heading, rows) = listing.split_once('\n')?;
    let column = heading.split_whitespace().position(|word| word == "PID")?;
    let is_wanted = |row: &&str| {
        let pid = row
            .split_whitespace()
            .nth(column)
            .and_then(|word| word.parse::<u32>().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    let rows: Vec<&str> = rows.lines().filter(is_wanted).collect();
    Some([&[heading], rows.as_slice()].concat().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_processes_are_listed() {
        let listing =
            "UID   PID  PPID CMD\nroot    7     1 a\nroot   17     7 b 7\nroot   70     1 c\n";
        assert_eq!(
            only(listing, &[17]).unwrap(),
            "UID   PID  PPID CMD\nroot   17     7 b 7"
        );
        assert_eq!(only("USER CMD\nx y\n", &[1]), None);
    }
}
