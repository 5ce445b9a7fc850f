//! A container's cgroup in all hierarchies it is in.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::plan::{Directory, Plan};
use crate::{
    Error, JoinHandles, OomNotifier, Stats, bpf, delegate, device_program, files, freezer, kill,
    oom, stats_v1, stats_v2,
};

/// How long processes that were killed may take to leave.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A cgroup that exists; dropping it does nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    paths: BTreeMap<String, PathBuf>,
}

impl Cgroup {
    /// Makes the folders of `plan` and writes its settings.
    ///
    /// A folder that exists is taken over when it has no process. On failure every folder made here
    /// is removed again.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::Create`], [`Error::Write`] or [`Error::DeviceProgram`].
    pub fn create(plan: &Plan) -> Result<Self, Error> {
        Self::create_around(plan, None)
    }

    /// The same where somebody else made folders with the process `occupant` in them.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_around(plan: &Plan, occupant: Option<u32>) -> Result<Self, Error> {
        let mut undo = Undo(Vec::new());
        for directory in &plan.directories {
            make(directory, occupant, &mut undo.0)?;
        }
        let cgroup = Self {
            paths: plan.paths.clone(),
        };
        cgroup.apply(plan)?;
        undo.0.clear();
        Ok(cgroup)
    }

    /// Takes the folders a state file remembers; none of them is looked at.
    pub fn open(paths: BTreeMap<String, PathBuf>) -> Self {
        Self { paths }
    }

    /// Folder by controller; `""` is cgroup2. Kept in the container's state.
    pub fn paths(&self) -> &BTreeMap<String, PathBuf> {
        &self.paths
    }

    /// Changes settings of the running cgroup by a plan of [`plan_update`](crate::plan_update).
    ///
    /// # Errors
    /// [`Error::Write`] or [`Error::DeviceProgram`]. Settings written before the failure stay.
    pub fn apply(&self, plan: &Plan) -> Result<(), Error> {
        for step in &plan.steps {
            files::apply(step)?;
        }
        if let (Some(rules), Some(folder)) = (&plan.device_program, plan.paths.get("")) {
            bpf::attach(folder, &device_program::compile(rules)).map_err(|source| {
                Error::DeviceProgram {
                    path: folder.clone(),
                    source,
                }
            })?;
        }
        Ok(())
    }

    /// Opens what a new process needs to put itself into the v1 hierarchies; empty on v2.
    ///
    /// A cgroup2 folder, alone or beside v1, is joined with `CLONE_INTO_CGROUP` and
    /// [`Self::v2_dir_fd`] instead.
    ///
    /// # Errors
    /// [`Error::Read`] when a folder is gone.
    pub fn join_handles(&self) -> Result<JoinHandles, Error> {
        let mut open = Vec::new();
        for folder in self.v1_folders() {
            let path = folder.join("tasks");
            let file = OpenOptions::new().write(true).open(&path);
            open.push(file.map_err(|source| Error::Read { path, source })?);
        }
        Ok(JoinHandles::new(open))
    }

    /// Open folder of the cgroup2 hierarchy, for `CLONE_INTO_CGROUP`; `None` when it isn't in one.
    ///
    /// # Errors
    /// [`Error::Read`] when the folder is gone.
    pub fn v2_dir_fd(&self) -> Result<Option<OwnedFd>, Error> {
        let Some(path) = self.paths.get("") else {
            return Ok(None);
        };
        File::open(path)
            .map(|file| Some(file.into()))
            .map_err(|source| Error::Read {
                path: path.clone(),
                source,
            })
    }

    /// Gives the user and group `uid` and `gid` (of the host) what they need to divide the cgroup further: on cgroup2, or
    /// without one in the hierarchy that only has a name. Limits of the cgroup itself stay the caller's.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn delegate(&self, uid: u32, gid: u32) -> Result<(), Error> {
        delegate::to(&self.paths, uid, gid)
    }

    /// Moves the process `pid` into every hierarchy, memory last.
    ///
    /// Slow on v1 (see the crate's head); for processes that can't do it themselves.
    ///
    /// # Errors
    /// [`Error::Write`]; hierarchies written before stay joined.
    pub fn add_pid(&self, pid: u32) -> Result<(), Error> {
        for folder in self.paths.get("").into_iter().map(PathBuf::as_path) {
            put_pid(folder, pid)?;
        }
        self.v1_folders()
            .into_iter()
            .try_for_each(|folder| put_pid(folder, pid))
    }

    /// Whether its cgroup2 folder hands controllers on to cgroups below it, so that no process may be in itself.
    ///
    /// Kernel: Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint".
    pub fn is_divided(&self) -> bool {
        let folder = self.paths.get("");
        let text = folder.map(|folder| files::get(&folder.join("cgroup.subtree_control")));
        matches!(text, Some(Ok(text)) if !text.trim().is_empty())
    }

    /// The same with the cgroup2 folder that process `pid` is in, if that is one below.
    ///
    /// # Errors
    /// [`Error::Detect`] when the process is gone.
    pub fn beside(&self, pid: u32) -> Result<Self, Error> {
        let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
        let text = fs::read_to_string(&path).map_err(|source| Error::Detect { path, source })?;
        let mut paths = self.paths.clone();
        let own = paths.get_mut("");
        let place = text.lines().find_map(|line| line.strip_prefix("0::/"));
        if let (Some(own), Some(place)) = (own, place)
            && let Some(folder) = below(own, Path::new(place))
        {
            *own = folder;
        }
        Ok(Self { paths })
    }

    /// All processes of the cgroup and of cgroups made below it, in our pid namespace's numbers.
    ///
    /// # Errors
    /// [`Error::Read`]; a cgroup that is gone has no processes.
    pub fn pids(&self) -> Result<Vec<u32>, Error> {
        let Some(folder) = self.any_folder() else {
            return Ok(Vec::new());
        };
        let mut pids = Vec::new();
        for folder in files::tree(folder) {
            pids.extend(files::pids_in(&folder)?);
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Stops every process of the cgroup, and returns when all are stopped.
    ///
    /// # Errors
    /// [`Error::FreezeTimeout`], [`Error::Write`], [`Error::NoController`]; the cgroup is thawed
    /// again before any of them is returned.
    pub fn freeze(&self) -> Result<(), Error> {
        freezer::freeze(&self.paths)
    }

    /// Lets frozen processes go on.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::NoController`].
    pub fn thaw(&self) -> Result<(), Error> {
        freezer::thaw(&self.paths)
    }

    /// Whether [`Self::freeze`] is in force.
    pub fn is_frozen(&self) -> bool {
        freezer::is_frozen(&self.paths)
    }

    /// Kills every process of the cgroup and waits until they are dead; reaping them is their
    /// parents' affair.
    ///
    /// # Errors
    /// [`Error::Unkillable`] when some are left after 5 s; the cgroup is never left frozen.
    pub fn kill_all(&self) -> Result<(), Error> {
        kill::all(self)
    }

    /// Removes the folders and those below them; a folder that is gone is no error.
    ///
    /// Waits up to 5 s for processes that are about to go.
    ///
    /// # Errors
    /// [`Error::Remove`] for the first folder that stays.
    pub fn remove(&self) -> Result<(), Error> {
        let deadline = Instant::now() + REMOVE_TIMEOUT;
        let mut first = None;
        for folder in self.folders() {
            if let Err(error) = remove_folder(folder, deadline) {
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Whether any of the folders still exists.
    pub fn exists(&self) -> bool {
        self.folders().into_iter().any(Path::exists)
    }

    /// Reads the counters of all controllers; absent ones stay zero.
    pub fn stats(&self) -> Stats {
        match self.paths.get("") {
            Some(folder) if self.is_v2() => stats_v2::read(folder),
            _ => stats_v1::read(&self.paths),
        }
    }

    /// How many processes the OOM killer took here.
    pub fn oom_kills(&self) -> u64 {
        oom::kills(&self.paths)
    }

    /// A file descriptor that becomes readable when the cgroup runs out of memory.
    ///
    /// # Errors
    /// [`Error::NoController`] without a memory controller, else the kernel's answer.
    pub fn oom_notifier(&self) -> Result<OomNotifier, Error> {
        OomNotifier::new(&self.paths)
    }

    /// Whether everything is on cgroup2.
    pub fn is_v2(&self) -> bool {
        self.paths.len() == 1 && self.paths.contains_key("")
    }

    /// The v1 folders, each once, memory last.
    fn v1_folders(&self) -> Vec<&Path> {
        let memory = self.paths.get("memory").map(PathBuf::as_path);
        let mut folders: Vec<&Path> = Vec::with_capacity(self.paths.len());
        for (name, path) in &self.paths {
            let path = path.as_path();
            if !name.is_empty() && Some(path) != memory && !folders.contains(&path) {
                folders.push(path);
            }
        }
        folders.extend(memory);
        folders
    }

    fn folders(&self) -> Vec<&Path> {
        let mut folders = self.v1_folders();
        folders.extend(self.paths.get("").map(PathBuf::as_path));
        folders
    }

    /// The folder whose process list speaks for all.
    pub(crate) fn any_folder(&self) -> Option<&Path> {
        ["", "pids", "freezer", "memory"]
            .iter()
            .find_map(|name| self.paths.get(*name))
            .or(self.paths.values().next())
            .map(PathBuf::as_path)
    }
}

/// The folder of `place`, counted from wherever the hierarchy is mounted, when it is one below `own`.
fn below(own: &Path, place: &Path) -> Option<PathBuf> {
    let is_plain = |part| matches!(part, Component::Normal(_));
    if !place.components().all(is_plain) {
        return None;
    }
    let mut mounts: Vec<&Path> = own.ancestors().collect();
    mounts.reverse();
    mounts
        .into_iter()
        .map(|mount| mount.join(place))
        .find(|folder| folder.starts_with(own))
        .filter(|folder| folder != own)
}

/// Folders to remove again, last made first.
struct Undo(Vec<PathBuf>);

impl Drop for Undo {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // Nothing better is known to do; the failure that led here is what the caller hears.
            drop(fs::remove_dir(path));
        }
    }
}

fn put_pid(folder: &Path, pid: u32) -> Result<(), Error> {
    files::put(&folder.join("cgroup.procs"), &pid.to_string())
}

/// Makes `directory` with its missing parents and notes what was made.
fn make(
    directory: &Directory,
    occupant: Option<u32>,
    made: &mut Vec<PathBuf>,
) -> Result<(), Error> {
    if directory.enable.is_empty() && make_last(directory, occupant, made)? {
        return Ok(());
    }
    let below = directory
        .path
        .strip_prefix(&directory.base)
        .unwrap_or(&directory.path);
    let mut parent = directory.base.clone();
    for part in below {
        let path = parent.join(part);
        if !directory.enable.is_empty() {
            enable(&parent, &directory.enable)?;
        }
        match fs::create_dir(&path) {
            Ok(()) => made.push(path.clone()),
            Err(error) if path == directory.path => taken_over(&path, occupant, error)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(Error::Create { path, source }),
        }
        if directory.inherit_cpuset {
            inherit_cpuset(&parent, &path, false)?;
        }
        parent = path;
    }
    Ok(())
}

/// An existing folder is fine when it has no process but `occupant` and isn't frozen.
fn taken_over(path: &Path, occupant: Option<u32>, error: io::Error) -> Result<(), Error> {
    let path = path.to_path_buf();
    if error.kind() != io::ErrorKind::AlreadyExists {
        return Err(Error::Create {
            path,
            source: error,
        });
    }
    let says = |file: &str, word: &str| {
        fs::read_to_string(path.join(file)).is_ok_and(|text| text.trim() != word)
    };
    if says("freezer.state", "THAWED") || says("cgroup.freeze", "0") {
        return Err(Error::Frozen { path });
    }
    let text = files::get(&path.join("cgroup.procs"))?;
    let mut pids = text.lines();
    match pids.all(|pid| pid.parse().ok() == occupant && occupant.is_some()) {
        true => Ok(()),
        false => Err(Error::InUse { path }),
    }
}

/// The usual case of [`make`]: the parent is there, and has CPUs and memory nodes. Whether it was.
fn make_last(
    directory: &Directory,
    occupant: Option<u32>,
    made: &mut Vec<PathBuf>,
) -> Result<bool, Error> {
    let path = &directory.path;
    let is_new = match fs::create_dir(path) {
        Ok(()) => {
            made.push(path.clone());
            true
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => {
            taken_over(path, occupant, error)?;
            false
        }
    };
    match path.parent() {
        Some(parent) if directory.inherit_cpuset => inherit_cpuset(parent, path, is_new),
        _ => Ok(true),
    }
}

/// Fills what is empty of `child` from `parent`; whether that had something to give.
///
/// * `is_new`: it is empty, without looking.
fn inherit_cpuset(parent: &Path, child: &Path, is_new: bool) -> Result<bool, Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if is_new || files::get(&child.join(file))?.trim().is_empty() {
            let value = files::get(&parent.join(file))?;
            if value.trim().is_empty() {
                return Ok(false);
            }
            files::put(&child.join(file), value.trim())?;
        }
    }
    Ok(true)
}

/// Enables those of `controllers` that `folder` has and its children lack.
fn enable(folder: &Path, controllers: &[String]) -> Result<(), Error> {
    let available = files::get(&folder.join("cgroup.controllers"))?;
    let file = folder.join("cgroup.subtree_control");
    let enabled = files::get(&file)?;
    let missing: Vec<String> = controllers
        .iter()
        .filter(|name| available.split_whitespace().any(|word| word == *name))
        .filter(|name| !enabled.split_whitespace().any(|word| word == *name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    files::put(&file, &missing.join(" "))
}

fn remove_folder(folder: &Path, deadline: Instant) -> Result<(), Error> {
    let mut pause = Duration::from_micros(200);
    loop {
        let error = match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => error,
        };
        if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() >= deadline {
            return Err(Error::Remove {
                path: folder.to_path_buf(),
                source: error,
            });
        }
        let nested = files::tree(folder);
        for child in &nested[..nested.len() - 1] {
            drop(fs::remove_dir(child));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_below_are_found_wherever_the_hierarchy_is_mounted() {
        let at = |own: &str, place: &str| {
            let found = below(Path::new(own), Path::new(place));
            found.map(|folder| folder.display().to_string())
        };
        let own = "/sys/fs/cgroup/a/b";
        assert_eq!(
            at(own, "a/b/init.scope").unwrap(),
            format!("{own}/init.scope")
        );
        // Its mount is of a part.
        assert_eq!(at(own, "b/x/y").unwrap(), format!("{own}/x/y"));
        assert_eq!(at(own, "a/b"), None);
        assert_eq!(at(own, "../../x"), None);
    }
}
