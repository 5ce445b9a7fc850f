//! Reading and writing control files.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use crate::Error;
use crate::plan::{Step, Write};

/// Does one step.
pub(crate) fn apply(step: &Step) -> Result<(), Error> {
    match step {
        Step::Write(write) => apply_write(write),
        Step::EitherOrder(first, second) => match apply_write(first) {
            Err(Error::Write { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
                apply_write(second)?;
                apply_write(first)
            }
            Err(error) => Err(error),
            Ok(()) => apply_write(second),
        },
        Step::FirstExisting(choices) => {
            let found = choices.iter().find(|choice| choice.file.exists());
            match found.or(choices.last()) {
                Some(choice) => apply_write(choice),
                None => Ok(()),
            }
        }
    }
}

fn apply_write(write: &Write) -> Result<(), Error> {
    let failed = |value: &str, source| Error::Write {
        path: write.file.clone(),
        value: value.to_owned(),
        source,
    };
    let mut file = match OpenOptions::new().write(true).open(&write.file) {
        Ok(file) => file,
        Err(error) if write.optional && error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(&write.values.join(" "), error)),
    };
    for value in &write.values {
        write_whole(&mut file, value).map_err(|source| failed(value, source))?;
    }
    Ok(())
}

/// One `write`, repeated when a signal interrupts it.
fn write_whole(file: &mut fs::File, value: &str) -> io::Result<()> {
    loop {
        match file.write(value.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(drop),
        }
    }
}

/// Writes `value` to the control file `path`.
pub(crate) fn put(path: &Path, value: &str) -> Result<(), Error> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| write_whole(&mut file, value))
        .map_err(|source| Error::Write {
            path: path.to_path_buf(),
            value: value.to_owned(),
            source,
        })
}

/// Reads a control file whole.
pub(crate) fn get(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.to_path_buf(),
        source,
    })
}

/// Pids in a `cgroup.procs` file of `folder`; none when the folder is gone. Processes that live in
/// pid namespaces outside ours are listed as 0 and left out.
pub(crate) fn pids_in(folder: &Path) -> Result<Vec<u32>, Error> {
    match fs::read_to_string(folder.join("cgroup.procs")) {
        Ok(text) => Ok(text
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid| *pid != 0)
            .collect()),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::ENODEV) =>
        {
            Ok(Vec::new())
        }
        Err(source) => Err(Error::Read {
            path: folder.join("cgroup.procs"),
            source,
        }),
    }
}

/// `folder` and every cgroup below it, children before parents.
pub(crate) fn tree(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    if let Ok(entries) = fs::read_dir(folder) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.extend(tree(&entry.path()));
            }
        }
    }
    found.push(folder.to_path_buf());
    found
}
