//! Unix sockets at paths of any length: `sun_path` holds 107 bytes, so the directory is opened and named by its descriptor.

use std::{
    fs::File,
    io,
    os::{
        fd::AsRawFd as _,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

/// Binds `path`, which must not exist.
///
/// # Errors
/// As bind(2), and when the directory can't be opened.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    let (_directory, short) = shorten(path)?;
    UnixListener::bind(short)
}

/// Connects to `path`.
///
/// # Errors
/// As connect(2), and when the directory can't be opened.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_directory, short) = shorten(path)?;
    UnixStream::connect(short)
}

/// Connects to `path` for tokio.
///
/// # Errors
/// As [`connect`].
pub(crate) fn connect_async(path: &Path) -> io::Result<tokio::net::UnixStream> {
    let stream = connect(path)?;
    stream.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(stream)
}

fn shorten(path: &Path) -> io::Result<(File, PathBuf)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a socket path",
        ));
    };
    let directory = File::open(parent)?;
    let short = Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name);
    Ok((directory, short))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_paths_work() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let _listener = bind(&deep.join("s")).unwrap();
        connect(&deep.join("s")).unwrap();
    }
}
