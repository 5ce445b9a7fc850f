//! Groups: looked at, made, joined, changed, removed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::filesystem::last_status;
use crate::plan::{Clos, Plan};
use crate::{Error, Resctrl, Result, schemata};

/// How long another program's lock is waited for; they hold it for some writes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A container's group, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Root of the file system.
    root: PathBuf,
    /// The group.
    folder: PathBuf,
    /// It wasn't there before the container.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_new: bool,
    /// It goes with the container.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_own: bool,
    /// The group below it by which the container is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    monitor: Option<PathBuf>,
}

/// A group that is about to be made; undone when dropped unless kept.
#[derive(Debug)]
pub struct NewGroup {
    group: Group,
    plan: Plan,
    /// What has been made so far, in this order.
    made: Vec<PathBuf>,
    lock: Option<Lock>,
}

/// Files by which a process moves itself into its group.
#[derive(Debug)]
pub struct JoinHandles {
    tasks: Vec<File>,
}

impl JoinHandles {
    /// Moves the calling thread, a single-threaded process; its children follow.
    ///
    /// Only writes to open files: no allocation, no lock, safe between clone3(2) and execve(2).
    ///
    /// # Errors
    /// The kernel's.
    pub fn join_self(&self) -> io::Result<()> {
        // 0 is the writer, whatever its PID namespace.
        self.tasks
            .iter()
            .try_for_each(|mut tasks| tasks.write_all(b"0"))
    }
}

impl Resctrl {
    /// Looks whether the group of `plan` is there, and locks the file system until it is made.
    ///
    /// # Errors
    /// [`Error::NoClos`] and [`Error::Mismatch`] for a group that isn't as it is to be, [`Error::Locked`],
    /// [`Error::Kernel`].
    pub fn prepare(&self, plan: &Plan) -> Result<NewGroup> {
        let root = self.root();
        let lock = lock(root)?;
        let (folder, is_own) = match &plan.clos {
            Clos::Default => (root.to_owned(), false),
            Clos::Named(name) => (root.join(name), false),
            Clos::Own(name) => (root.join(name), true),
        };
        let asks_nothing = plan.schemas.is_empty() && plan.schemata.is_empty();
        let is_new = match fs::symlink_metadata(&folder) {
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound && (is_own || !asks_nothing) => {
                true
            }
            Err(source) => {
                return Err(Error::NoClos {
                    path: folder,
                    source,
                });
            }
        };
        let monitor = plan.monitor.as_ref();
        let group = Group {
            root: root.to_owned(),
            monitor: monitor.map(|name| folder.join("mon_groups").join(name)),
            folder,
            is_new,
            is_own: is_own && is_new,
        };
        if !is_new {
            group.check(&plan.schemas, bandwidth_step(root))?;
        }
        Ok(NewGroup {
            group,
            plan: plan.clone(),
            made: Vec::new(),
            lock: Some(lock),
        })
    }
}

impl NewGroup {
    /// What is to be remembered of it, before it is made: whoever is killed meanwhile leaves nothing then.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Makes what isn't there and gives it its share; the lock is given back.
    ///
    /// # Errors
    /// [`Error::Kernel`], with what the kernel says of schemata it doesn't take.
    pub fn make(&mut self) -> Result<()> {
        let group = &self.group;
        if group.is_new {
            make_folder(&group.root, &group.folder)?;
            self.made.push(group.folder.clone());
            group.write_schemata(&self.plan.schemas)?;
        }
        group.write_schemata(&self.plan.schemata)?;
        if let Some(monitor) = &group.monitor {
            match make_folder(&group.root, monitor) {
                Ok(()) => self.made.push(monitor.clone()),
                // Named after the container, so it is of one of the same name that was never deleted.
                Err(Error::Kernel { source, .. })
                    if source.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        self.lock = None;
        Ok(())
    }

    /// Leaves it there.
    pub fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for NewGroup {
    fn drop(&mut self) {
        for folder in self.made.iter().rev() {
            // One with a name of its own may be another container's, too, by now.
            if self.group.is_own || *folder != self.group.folder || is_empty(folder) {
                let _ = fs::remove_dir(folder);
            }
        }
    }
}

impl Group {
    /// The group's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The root of its file system.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder by whose counters the container is measured apart.
    #[must_use]
    pub fn monitor(&self) -> Option<&Path> {
        self.monitor.as_deref()
    }

    /// Files by which a process moves itself into it, the group first: a process can only be measured in its own.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn handles(&self) -> Result<JoinHandles> {
        let folders = [Some(self.folder()), self.monitor()];
        let open = |folder: &Path| {
            let path = folder.join("tasks");
            let file = File::options().write(true).open(&path);
            file.map_err(|source| self.failure("open", &path, source))
        };
        let tasks = folders.into_iter().flatten().map(open);
        Ok(JoinHandles {
            tasks: tasks.collect::<Result<_>>()?,
        })
    }

    /// Moves every thread of process `pid`, which is stopped or makes no more.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn add_process(&self, pid: u32) -> Result<()> {
        let path = PathBuf::from(format!("/proc/{pid}/task"));
        let entries = fs::read_dir(&path).map_err(|source| self.failure("read", &path, source))?;
        for thread in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
            for folder in [Some(self.folder()), self.monitor()].into_iter().flatten() {
                self.write(&folder.join("tasks"), &thread)?;
            }
        }
        Ok(())
    }

    /// Gives it a share: lines of its `schemata`, in one write; nothing without any.
    ///
    /// # Errors
    /// [`Error::Kernel`]; the share is as it was then.
    pub fn write_schemata(&self, lines: &[String]) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        // The kernel wants an end at each line, also the last.
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.write(&self.folder.join("schemata"), &text)
    }

    /// Removes what goes with the container. What is gone already is fine.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn remove(&self) -> Result<()> {
        let own = Some(self.folder()).filter(|_| self.is_own);
        for folder in self.monitor().into_iter().chain(own) {
            match fs::remove_dir(folder) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(self.failure("remove", folder, source));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What the kernel says of the last command, for a step that failed.
    #[must_use]
    pub fn last_status(&self) -> Option<String> {
        last_status(&self.root)
    }

    /// Whether it has what is asked for.
    fn check(&self, lines: &[String], step: u64) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let path = self.folder.join("schemata");
        let file =
            fs::read_to_string(&path).map_err(|source| self.failure("read", &path, source))?;
        match lines.iter().find(|line| !schemata::has(line, &file, step)) {
            None => Ok(()),
            Some(line) => Err(Error::Mismatch {
                path: self.folder.clone(),
                wanted: line.clone(),
                found: schemata::found_of(line, &file),
            }),
        }
    }

    /// One write: the kernel takes each as a command.
    fn write(&self, path: &Path, text: &str) -> Result<()> {
        let outcome = File::options()
            .write(true)
            .open(path)
            .and_then(|mut file| file.write(text.as_bytes()));
        match outcome {
            Ok(count) if count == text.len() => Ok(()),
            Ok(_) => Err(self.failure(
                &format!("write {text:?} to"),
                path,
                io::ErrorKind::FileTooLarge.into(),
            )),
            Err(source) => Err(self.failure(&format!("write {text:?} to"), path, source)),
        }
    }

    fn failure(&self, action: &str, path: &Path, source: io::Error) -> Error {
        failure(&self.root, action, path, source)
    }
}

fn failure(root: &Path, action: &str, path: &Path, source: io::Error) -> Error {
    Error::Kernel {
        action: action.to_owned(),
        path: path.to_owned(),
        // What it says is about commands that were refused, not about files that aren't there.
        status: last_status(root).filter(|_| source.kind() != io::ErrorKind::NotFound),
        source,
    }
}

fn make_folder(root: &Path, folder: &Path) -> Result<()> {
    fs::create_dir(folder).map_err(|source| failure(root, "make", folder, source))
}

fn is_empty(folder: &Path) -> bool {
    fs::read_to_string(folder.join("tasks")).is_ok_and(|tasks| tasks.trim().is_empty())
}

/// What the kernel rounds bandwidth up to, in percent; 1 where it says nothing.
fn bandwidth_step(root: &Path) -> u64 {
    let text = fs::read_to_string(root.join("info/MB/bandwidth_gran"));
    text.ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1)
}

/// A lock for changes; given back when dropped, also while a child of ours has a copy of its descriptor.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Locks the file system for changes, as resctrl.rst asks programs to.
fn lock(root: &Path) -> Result<Lock> {
    let open = File::open(root);
    let file = open.map_err(|source| failure(root, "open", root, source))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Lock(file)),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::Locked {
                    path: root.to_owned(),
                });
            }
            Err(errno) => return Err(failure(root, "lock", root, errno.into())),
        }
    }
}
