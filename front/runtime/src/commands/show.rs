//! `state`, `list`, `ps`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use atoll_container::Container;
use atoll_guest::protocol::ProcessStatus;
use atoll_shim::keeper::Keeper;
use atoll_spec::Status;
use serde::Serialize;

use crate::arguments::{DEFAULT_ROOT, ListArguments, PsArguments};
use crate::commands::{machine, print, print_json};
use crate::report::{Failure, Outcome};

/// A container as `state` and `list` print it: the specification's state and what runc adds, in runc's order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    oci_version: String,
    id: String,
    /// 0 when there is no process, as runc prints it.
    pid: u32,
    status: Status,
    bundle: PathBuf,
    rootfs: PathBuf,
    created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    owner: String,
}

impl Shown {
    fn of(root: &Path, container: &Container) -> Outcome<Self> {
        let state = container.state()?;
        let (created, rootfs) = container.origin()?;
        Ok(Self {
            oci_version: state.oci_version,
            id: state.id,
            pid: state.pid.unwrap_or_default(),
            status: machine::status(root, container)?,
            bundle: state.bundle,
            rootfs,
            created,
            annotations: state.annotations,
            owner: user_name(container.owner()?),
        })
    }
}

/// The name of a user, `#` and the number without one.
fn user_name(uid: u32) -> String {
    if uid == 0 {
        return "root".to_owned();
    }
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = uid.to_string();
    let line = text
        .lines()
        .find(|line| line.split(':').nth(2) == Some(&number));
    let name = line.and_then(|line| line.split(':').next());
    name.map_or_else(|| format!("#{uid}"), str::to_owned)
}

/// Prints a container's state as JSON.
pub(crate) fn state(root: &Path, container: &Container) -> Outcome<()> {
    print_json(&Shown::of(root, container)?)
}

/// Lists the containers below `root`.
pub(crate) fn list(root: &Path, arguments: &ListArguments) -> Outcome<()> {
    // The usual folder is made by the first container.
    if root != Path::new(DEFAULT_ROOT) && !root.is_dir() {
        return Err(Failure::new(format!("no folder {}", root.display()))
            .with_hint("give the --root that the containers were made with"));
    }
    let containers = Container::list(root);
    if arguments.quiet {
        return containers
            .iter()
            .try_for_each(|container| print(container.id().as_str()));
    }
    // One that was deleted meanwhile is no longer part of the list.
    let shown: Vec<Shown> = containers
        .iter()
        .filter_map(|container| Shown::of(root, container).ok())
        .collect();
    if arguments.format == "json" {
        let text = serde_json::to_string(&shown)
            .map_err(|error| Failure::io("cannot write JSON", &error))?;
        return print(&text);
    }
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(shown.iter().map(|row| {
        [
            row.id.clone(),
            row.pid.to_string(),
            row.status.to_string(),
            row.bundle.display().to_string(),
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
pub(crate) fn ps(root: &Path, container: &Container, arguments: &PsArguments) -> Outcome<()> {
    if let Some(processes) = machine::ask(root, container, Keeper::processes)? {
        return guests(&processes, arguments);
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

/// Lists processes of a guest, which no ps(1) of this host sees.
fn guests(processes: &[ProcessStatus], arguments: &PsArguments) -> Outcome<()> {
    if arguments.format == "json" {
        let pids: Vec<u32> = processes.iter().map(|process| process.pid).collect();
        let text = serde_json::to_string(&pids)
            .map_err(|error| Failure::io("cannot write JSON", &error))?;
        return print(&text);
    }
    if !arguments.options.is_empty() {
        return Err(
            Failure::new("options of ps(1) mean nothing in a machine").with_hint("leave them out")
        );
    }
    let mut rows = vec![["UID", "PID", "PPID", "SECONDS", "TIME", "CMD"].map(str::to_owned)];
    rows.extend(processes.iter().map(|process| {
        [
            process.uid.to_string(),
            process.pid.to_string(),
            process.parent.to_string(),
            process.age_s.to_string(),
            format!(
                "{}.{:02}",
                process.cpu_ms / 1000,
                process.cpu_ms % 1000 / 10
            ),
            process.command.clone(),
        ]
    }));
    print(&table(&rows))
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
