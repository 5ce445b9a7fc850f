//! Stopping and resuming all processes of a cgroup.
//!
//! No path leaves a cgroup frozen that was not frozen before: a frozen process can't be killed on
//! v1, and whoever waits for it hangs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Error, files};

/// How long a cgroup may take to freeze.
const TIMEOUT: Duration = Duration::from_secs(2);

enum Freezer<'a> {
    V1(&'a Path),
    V2(&'a Path),
}

impl Freezer<'_> {
    fn find(paths: &BTreeMap<String, PathBuf>) -> Result<Freezer<'_>, Error> {
        if let Some(folder) = paths.get("freezer") {
            return Ok(Freezer::V1(folder));
        }
        if let Some(folder) = paths.get("") {
            return Ok(Freezer::V2(folder));
        }
        Err(Error::NoController {
            controller: "freezer".into(),
            setting: "pause".into(),
        })
    }

    fn folder(&self) -> &Path {
        match self {
            Self::V1(folder) | Self::V2(folder) => folder,
        }
    }

    fn set(&self, frozen: bool) -> Result<(), Error> {
        match self {
            Self::V1(folder) => files::put(
                &folder.join("freezer.state"),
                if frozen { "FROZEN" } else { "THAWED" },
            ),
            Self::V2(folder) => files::put(
                &folder.join("cgroup.freeze"),
                if frozen { "1" } else { "0" },
            ),
        }
    }

    fn is_frozen(&self) -> Result<bool, Error> {
        match self {
            Self::V1(folder) => Ok(files::get(&folder.join("freezer.state"))?.trim() == "FROZEN"),
            Self::V2(folder) => Ok(files::get(&folder.join("cgroup.events"))?
                .lines()
                .any(|line| line == "frozen 1")),
        }
    }
}

pub(crate) fn freeze(paths: &BTreeMap<String, PathBuf>) -> Result<(), Error> {
    let freezer = Freezer::find(paths)?;
    let result = freeze_until(&freezer, Instant::now() + TIMEOUT);
    if result.is_err() {
        // The first failure is the one to report.
        drop(freezer.set(false));
    }
    result
}

fn freeze_until(freezer: &Freezer<'_>, deadline: Instant) -> Result<(), Error> {
    freezer.set(true)?;
    let mut pause = Duration::from_micros(50);
    let mut rounds = 0u32;
    while !freezer.is_frozen()? {
        if Instant::now() >= deadline {
            return Err(Error::FreezeTimeout {
                path: freezer.folder().to_path_buf(),
                timeout_ms: 2000,
            });
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
        rounds += 1;
        // A v1 freezer that meets a fork in the wrong moment stays FREEZING until asked again.
        if rounds.is_multiple_of(8) && matches!(freezer, Freezer::V1(_)) {
            freezer.set(false)?;
            freezer.set(true)?;
        }
    }
    Ok(())
}

pub(crate) fn thaw(paths: &BTreeMap<String, PathBuf>) -> Result<(), Error> {
    Freezer::find(paths)?.set(false)
}

pub(crate) fn is_frozen(paths: &BTreeMap<String, PathBuf>) -> bool {
    Freezer::find(paths)
        .and_then(|freezer| freezer.is_frozen())
        .unwrap_or(false)
}
