//! One engine per data root and per exec root.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

/// Why a root can't be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another engine has it.
    #[error("{what} {root} is in use by another engine{}", pid_words(pid))]
    Held {
        /// `data root` or `exec root`.
        what: &'static str,
        /// The root.
        root: PathBuf,
        /// The other engine's process id as the lock file says, if it does.
        pid: Option<u32>,
    },
    /// The lock file can't be made.
    #[error("cannot lock {path}")]
    Open {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl LockError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Held { .. } => Some(
                "use the engine that runs, stop it first, or give this one its own --data-root and --exec-root"
                    .to_owned(),
            ),
            Self::Open { .. } => Some(
                "run as root, or choose a --data-root and --exec-root that you may write".to_owned(),
            ),
        }
    }
}

fn pid_words(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// The file in a root that the lock is on.
pub(crate) const LOCK_FILE: &str = "engine.lock";

/// The held lock; dropped with the process, also by kill -9.
#[derive(Debug)]
pub(crate) struct RootLock {
    _file: File,
}

impl RootLock {
    /// Takes the lock of `root` and writes our process id into its file.
    ///
    /// * `what`: `data root` or `exec root`, for the error.
    /// * `root`: exists.
    ///
    /// # Errors
    /// [`LockError::Held`] when another engine has it; [`LockError::Open`] on any other failure.
    pub(crate) fn take(what: &'static str, root: &Path) -> Result<Self, LockError> {
        let path = root.join(LOCK_FILE);
        let open = |source| LockError::Open {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(open)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.take(32).read_to_string(&mut text);
                let pid = text.trim().parse().ok();
                return Err(LockError::Held {
                    what,
                    root: root.to_owned(),
                    pid,
                });
            }
            Err(TryLockError::Error(source)) => return Err(open(source)),
        }
        file.set_len(0).map_err(open)?;
        file.rewind().map_err(open)?;
        writeln!(file, "{}", std::process::id()).map_err(open)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_engine_is_refused_with_pid_and_hint() {
        let directory = tempfile::tempdir().unwrap();
        let take = || RootLock::take("exec root", directory.path());
        let held = take().unwrap();
        let error = take().unwrap_err();
        let pid = std::process::id();
        assert!(error.to_string().starts_with("exec root "));
        assert!(
            error
                .to_string()
                .ends_with(&format!("in use by another engine (pid {pid})"))
        );
        assert!(error.hint().unwrap().contains("--data-root"));
        drop(held);
        take().unwrap();
    }
}
