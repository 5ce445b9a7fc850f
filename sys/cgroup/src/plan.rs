//! What creating or changing a cgroup will do, decided before anything is done.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::{CgroupPath, DeviceRule, Error, Hierarchies, Layout, Resources, plan_v1, plan_v2};

/// A list of folders to make and values to write, in order.
///
/// Prints as one line an action, for `--explain` and snapshot tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Folders to make, one for each hierarchy.
    pub directories: Vec<Directory>,
    /// Writes, after all folders exist.
    pub steps: Vec<Step>,
    /// Rules of the device program for cgroup2 (v1 has files instead).
    pub device_program: Option<Vec<DeviceRule>>,
    /// Folder by controller, `""` for cgroup2: what [`Cgroup::paths`](crate::Cgroup::paths) gives.
    pub paths: BTreeMap<String, PathBuf>,
}

/// One folder to make, with its missing parents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Existing folder; nothing at it or above is changed, except that v2 controllers are enabled
    /// for its children.
    pub base: PathBuf,
    /// The folder to make, below `base`.
    pub path: PathBuf,
    /// A v1 cpuset: CPUs and memory nodes are taken from the parent on the way down, because a
    /// cpuset without them accepts no process.
    pub inherit_cpuset: bool,
    /// Controllers of v2 to enable from `base` to the folder's parent, as far as they exist.
    pub enable: Vec<String>,
}

/// One action on control files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Writes one file.
    Write(Write),
    /// Two files whose order depends on their present values: `.0` then `.1`, and the other way
    /// round when the kernel calls that invalid.
    EitherOrder(Write, Write),
    /// The first file of these that exists.
    FirstExisting(Vec<Write>),
}

/// Values for one control file, each in a `write` of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The file.
    pub file: PathBuf,
    /// What to write.
    pub values: Vec<String>,
    /// A kernel without this file is no error.
    pub optional: bool,
}

impl Write {
    pub(crate) fn new(folder: &Path, file: &str, value: impl ToString) -> Self {
        Self {
            file: folder.join(file),
            values: vec![value.to_string()],
            optional: false,
        }
    }

    pub(crate) fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

/// Plans a new cgroup at `path` with `resources`.
///
/// # Errors
/// [`Error::NoController`] for a setting without a mounted controller; [`Error::Setting`] for values
/// that contradict each other or mean nothing in this layout.
pub fn plan(
    hierarchies: &Hierarchies,
    path: &CgroupPath,
    resources: &Resources,
) -> Result<Plan, Error> {
    match hierarchies.layout() {
        Layout::V1 | Layout::Hybrid => plan_v1::create(hierarchies, path, resources),
        Layout::V2 => plan_v2::create(hierarchies, path, resources),
    }
}

/// Plans a change of a cgroup that exists at `paths`; only settings present in `resources` change.
///
/// # Errors
/// As [`plan`].
pub fn plan_update(
    layout: Layout,
    paths: &BTreeMap<String, PathBuf>,
    resources: &Resources,
) -> Result<Plan, Error> {
    match layout {
        Layout::V1 | Layout::Hybrid => plan_v1::update(paths, resources),
        Layout::V2 => plan_v2::update(paths, resources),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for directory in &self.directories {
            if !directory.enable.is_empty() {
                let names = directory.enable.join(" +");
                writeln!(out, "enable +{names} from {}", directory.base.display())?;
            }
            writeln!(out, "mkdir {}", directory.path.display())?;
            if directory.inherit_cpuset {
                writeln!(
                    out,
                    "inherit cpuset from {} to {}",
                    directory.base.display(),
                    directory.path.display()
                )?;
            }
        }
        for step in &self.steps {
            writeln!(out, "{step}")?;
        }
        if let Some(rules) = &self.device_program {
            for rule in rules {
                let verb = if rule.allow { "allow" } else { "deny" };
                writeln!(out, "device program: {verb} {rule}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(write) => write.fmt(out),
            Self::EitherOrder(first, second) => {
                write!(out, "{first}\n{second} (either order)")
            }
            Self::FirstExisting(choices) => {
                for (at, choice) in choices.iter().enumerate() {
                    let prefix = if at == 0 { "" } else { " or " };
                    write!(out, "{prefix}{choice}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Write {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let optional = if self.optional { " (if there)" } else { "" };
        for (at, value) in self.values.iter().enumerate() {
            if at > 0 {
                out.write_str("\n")?;
            }
            write!(out, "write {} = {value}{optional}", self.file.display())?;
        }
        Ok(())
    }
}
