//! Noticing that the OOM killer was here.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;

use crate::stats::keyed;
use crate::{Error, files};

/// Readable when the cgroup ran out of memory; call [`Self::drain`] before waiting again.
///
/// It also becomes readable when the cgroup is removed.
#[derive(Debug)]
pub struct OomNotifier {
    fd: OwnedFd,
    _control: Option<File>,
}

impl OomNotifier {
    pub(crate) fn new(paths: &BTreeMap<String, PathBuf>) -> Result<Self, Error> {
        let read_failed = |path: &Path, error: rustix::io::Errno| Error::Read {
            path: path.to_path_buf(),
            source: error.into(),
        };
        if let Some(folder) = paths.get("memory") {
            let path = folder.join("memory.oom_control");
            let control = File::open(&path).map_err(|source| Error::Read {
                path: path.clone(),
                source,
            })?;
            let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|error| read_failed(&path, error))?;
            let line = format!("{} {}", fd.as_raw_fd(), control.as_raw_fd());
            files::put(&folder.join("cgroup.event_control"), &line)?;
            return Ok(Self {
                fd,
                _control: Some(control),
            });
        }
        let path = paths.get("").map(|folder| folder.join("memory.events"));
        let Some(path) = path.filter(|path| path.exists()) else {
            return Err(Error::NoController {
                controller: "memory".into(),
                setting: "out-of-memory notice".into(),
            });
        };
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let fd = inotify::init(flags).map_err(|error| read_failed(&path, error))?;
        inotify::add_watch(&fd, &path, inotify::WatchFlags::MODIFY)
            .map_err(|error| read_failed(&path, error))?;
        Ok(Self { fd, _control: None })
    }

    /// Takes what is pending off the descriptor; whether it was a kill is told by
    /// [`Cgroup::oom_kills`](crate::Cgroup::oom_kills).
    pub fn drain(&self) {
        let mut buffer = [0u8; 512];
        while rustix::io::read(&self.fd, &mut buffer).is_ok_and(|count| count > 0) {}
    }
}

impl AsFd for OomNotifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(crate) fn kills(paths: &BTreeMap<String, PathBuf>) -> u64 {
    let file = match (paths.get("memory"), paths.get("")) {
        (Some(folder), _) => folder.join("memory.oom_control"),
        (None, Some(folder)) => folder.join("memory.events"),
        (None, None) => return 0,
    };
    files::get(&file)
        .ok()
        .and_then(|text| keyed(&text).remove("oom_kill"))
        .unwrap_or(0)
}
