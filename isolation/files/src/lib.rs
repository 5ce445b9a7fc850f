//! Files in and out of a container's root file system, as tar archives: what `docker cp` needs.
//!
//! ```text
//! Request ─► place (openat2 below the root) ─► read:  tree → Entry, data → archive
//!                                           └► write: archive → Entry, data → tree
//! ```
//!
//! The container's processes may change every name at any time. So nothing is ever reached by a path of the host: the root is
//! a descriptor, names in it are resolved by openat2(2) with `RESOLVE_IN_ROOT`, and what was found is used by its descriptor
//! (CVE-2018-15664). Nothing of the container is executed or loaded (CVE-2019-14271): no process enters it. Devices, fifos and
//! sockets are never opened. Memory is bounded whatever the tree or the archive is, but for a few bytes for each hard link
//! read and each directory written.
//!
//! The engine calls it for containers on this host, the guest's agent for those in a machine; both on a thread or in a
//! process that may wait. Entry point: [`serve`].

#![forbid(unsafe_code)]

mod attributes;
mod error;
mod place;
mod read;
mod write;

use std::io::{BufRead, Write};
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

pub use error::{Fault, FaultKind, FilesError};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Where, in the container: absolute or not means the same. An end of `/` or `/.` means what a symlink leads to.
    pub path: String,
    /// What to do there.
    pub action: Action,
}

/// What is done at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Only looks.
    Stat,
    /// Writes an archive of what is there, after looking.
    Read,
    /// Unpacks an archive into the folder that is there.
    Write(Options),
}

/// How an archive is unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// A folder is never replaced by something else, nor something else by a folder.
    pub keeps_kinds: bool,
    /// Owner and group of all that is written, instead of the archive's.
    pub owner: Option<(u32, u32)>,
    /// What the tree is to be called there: the first name of every entry becomes this one. An archive of `.` is put below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStat {
    /// Its last name as it was asked for; `/` for the root.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Type and permissions as Go's `fs.FileMode` has them.
    pub mode: u32,
    /// Seconds since 1970 and nanoseconds of the last change of its content.
    pub mtime: (i64, u32),
    /// Of a symlink: where it leads, from the container's root; else empty.
    pub link_target: String,
}

/// How ids in a container are those of its files as the caller sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ids {
    /// The same.
    #[default]
    Same,
    /// `first` is the container's 0, and so on for `count` ids. Writing is done as that user.
    Shifted {
        /// The container's root.
        first: u32,
        /// How many there are.
        count: u32,
    },
}

/// Writes an archive of what is at `path` below `root`, called `name` in it.
///
/// # Errors
/// As [`serve`].
pub fn read_as(
    root: BorrowedFd<'_>,
    path: &str,
    name: &str,
    output: &mut dyn Write,
) -> Result<(), FilesError> {
    let mut place = place::Place::parse(path)?;
    let found = place.find(root)?;
    place.shown = name.as_bytes().to_vec();
    read::archive(root, &place, &found, Ids::Same, output)
}

/// Does what `request` asks for below `root`.
///
/// * `root`: the container's root directory; opened with or without `O_PATH`.
/// * `input`: the archive to unpack; read to its end marker, not further.
/// * `output`: gets the archive of what is read.
/// * `on_found`: hears what is at the path before anything is read or written; not for [`Action::Write`].
///
/// Blocks: file systems, input and output may make it wait.
///
/// # Errors
/// [`FilesError`]; entries unpacked before stay, the one that failed does not.
pub fn serve(
    root: BorrowedFd<'_>,
    ids: Ids,
    request: &Request,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
    on_found: &mut dyn FnMut(PathStat),
) -> Result<(), FilesError> {
    let place = place::Place::parse(&request.path)?;
    match &request.action {
        Action::Stat => {
            on_found(place.find(root)?.stat(root, &place)?);
            Ok(())
        }
        Action::Read => {
            let found = place.find(root)?;
            on_found(found.stat(root, &place)?);
            read::archive(root, &place, &found, ids, output)
        }
        Action::Write(options) => match ids {
            Ids::Same => write::extract(root, &place, options, ids, input),
            Ids::Shifted { first, .. } => {
                let mut outcome = Ok(());
                atoll_sys::filesystem_user::acting_as(first, first, || {
                    outcome = write::extract(root, &place, options, ids, input);
                    Ok(())
                })
                .map_err(|errno| {
                    error::kernel("act as the container's root for", &request.path, errno)
                })?;
                outcome
            }
        },
    }
}
