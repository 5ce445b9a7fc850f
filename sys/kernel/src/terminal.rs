//! Pseudo terminals.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, OutputModes, Winsize};

use crate::{Errno, Result, inside};

/// Major and minor number of a devpts' own `ptmx`.
const PTMX: (u32, u32) = (5, 2);
/// statfs(2)'s magic number of devpts.
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// A pseudo terminal.
#[derive(Debug)]
pub struct Terminal {
    /// The side of the terminal emulator.
    pub master: OwnedFd,
    /// The side of the program.
    pub slave: OwnedFd,
}

/// Allocates a pseudo terminal from the devpts below `root` (its `dev/pts/ptmx`, or its `dev/ptmx`
/// where a devpts has none). Child-safe.
///
/// The file opened is checked to be the ptmx device; the slave comes from the master by ioctl(2),
/// not by a path the container could redirect.
///
/// # Errors
/// `ENXIO` when the file found is not a ptmx device, else the kernel's.
pub fn open_inside(root: BorrowedFd<'_>) -> Result<Terminal> {
    let place = match inside::open(root, c"/dev/pts/ptmx", OFlags::PATH) {
        Err(Errno::NOENT) => inside::open(root, c"/dev/ptmx", OFlags::PATH)?,
        outcome => outcome?,
    };
    let stat = rustix::fs::fstat(&place)?;
    let device = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    if device != PTMX || stat.st_mode & libc::S_IFMT != libc::S_IFCHR {
        return Err(Errno::NXIO);
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = inside::reopen(place.as_fd(), flags)?;
    from_master(master)
}

/// Allocates a pseudo terminal from the caller's `/dev/ptmx`.
///
/// # Errors
/// The kernel's.
pub fn open() -> Result<Terminal> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    from_master(rustix::fs::openat(
        rustix::fs::CWD,
        c"/dev/ptmx",
        flags,
        Mode::empty(),
    )?)
}

/// Whether `fd` is on a devpts. Child-safe.
#[must_use]
pub fn is_devpts(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|stat| stat.f_type == DEVPTS_MAGIC)
}

/// Sets a terminal's size in characters. Child-safe.
///
/// # Errors
/// The kernel's.
pub fn resize(terminal: impl AsFd, rows: u16, columns: u16) -> Result<()> {
    rustix::termios::tcsetwinsize(
        terminal,
        Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )
}

/// Has a terminal pass line ends on as programs write them, without a carriage return. Child-safe.
///
/// # Errors
/// The kernel's.
pub fn keep_line_ends(terminal: impl AsFd) -> Result<()> {
    let mut modes = rustix::termios::tcgetattr(&terminal)?;
    modes.output_modes.remove(OutputModes::ONLCR);
    rustix::termios::tcsetattr(&terminal, OptionalActions::Now, &modes)
}

fn from_master(master: OwnedFd) -> Result<Terminal> {
    rustix::pty::unlockpt(&master)?;
    let slave = slave_of(master.as_fd())?;
    Ok(Terminal { master, slave })
}

/// The other side of an unlocked master, opened once more. Child-safe.
///
/// As long as it is open, the master does not report an end while programs close and open their side in turn, as a
/// service manager does with its console.
///
/// # Errors
/// The kernel's.
pub fn slave_of(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    rustix::pty::ioctl_tiocgptpeer(
        master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slave_is_the_masters_peer() {
        let terminal = open().unwrap();
        resize(&terminal.master, 33, 77).unwrap();
        let size = rustix::termios::tcgetwinsize(&terminal.slave).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (33, 77));
        assert!(is_devpts(terminal.slave.as_fd()));
        keep_line_ends(&terminal.slave).unwrap();
        rustix::io::write(&terminal.slave, b"a\nb").unwrap();
        let mut room = [0; 8];
        let count = rustix::io::read(&terminal.master, &mut room).unwrap();
        assert_eq!(&room[..count], b"a\nb");
    }

    #[test]
    fn a_master_whose_other_side_is_kept_reports_no_end() {
        let terminal = open().unwrap();
        rustix::io::ioctl_fionbio(&terminal.master, true).unwrap();
        let keeper = slave_of(terminal.master.as_fd()).unwrap();
        drop(terminal.slave);
        let read = || rustix::io::read(&terminal.master, &mut [0; 16]);
        assert_eq!(read(), Err(Errno::AGAIN));
        drop(keeper);
        assert_eq!(read(), Err(Errno::IO));
    }
}
