//! Files through which a new process puts itself into a cgroup.

use std::fs::File;
use std::io::{self, Write as _};

/// Open `tasks` files of a cgroup's v1 hierarchies, memory last.
///
/// Memory comes last so that what the set-up costs is charged to its caller. Made by
/// [`Cgroup::join_handles`](crate::Cgroup::join_handles); the files are close-on-exec.
#[derive(Debug)]
pub struct JoinHandles {
    files: Vec<File>,
}

impl JoinHandles {
    pub(crate) fn new(files: Vec<File>) -> Self {
        Self { files }
    }

    /// Moves the calling thread into the cgroup.
    ///
    /// For a single-threaded process that is the whole process. Only writes to open files: no
    /// allocation, no lock, safe between `clone3` and `execve`.
    ///
    /// # Errors
    /// The kernel's answer of the first hierarchy that refuses; earlier ones stay joined.
    pub fn join_self(&self) -> io::Result<()> {
        for mut file in &self.files {
            loop {
                match file.write(b"0") {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                    Ok(_) => break,
                }
            }
        }
        Ok(())
    }
}
