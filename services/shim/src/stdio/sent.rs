//! Streams that a command line has sent as descriptors: those its own caller gave it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};

use super::setup::IoNames;
use super::sink::Sink;
use super::{Stdio, setup};
use crate::failure::Failure;

/// Puts them into `ours`. All have a stdin.
///
/// * `is_first`: of the container's first process. Its terminal becomes this process's own where it is nobody's, so that a
///   new size and a hang-up are heard of as signals.
pub(super) fn open(
    ours: &mut Stdio,
    names: &IoNames,
    is_first: bool,
    sent: Vec<OwnedFd>,
) -> Result<(), Failure> {
    let count = sent.len();
    let failed = |error: io::Error| Failure::unknown(format!("cannot use a stream: {error}"));
    let wrong =
        |wanted: &str| Failure::invalid(format!("{count} descriptors came as streams; {wanted}"));
    if names.terminal {
        let [terminal] =
            <[OwnedFd; 1]>::try_from(sent).map_err(|_| wrong("it must be a terminal"))?;
        if is_first {
            // Another session's is left to it.
            let _ = rustix::process::ioctl_tiocsctty(&terminal);
        }
        let terminal = unblocked(terminal, OFlags::RDWR).map_err(failed)?;
        let output = terminal.try_clone().map_err(failed)?;
        ours.fifos[0] = Some(Sink::new(output, false, [true, false]));
        ours.sent_terminal = Some(terminal.try_clone().map_err(failed)?);
        ours.sent_input = Some(terminal);
        return Ok(());
    }
    let [stdin, stdout, stderr] = <[OwnedFd; 3]>::try_from(sent)
        .map_err(|_| wrong("they must be stdin, stdout and stderr"))?;
    for (at, fd) in [stdout, stderr].into_iter().enumerate() {
        let fd = unblocked(fd, OFlags::WRONLY).map_err(failed)?;
        ours.fifos[at] = Some(Sink::new(fd, false, [at == 0, at == 1]));
    }
    ours.sent_input = Some(unblocked(stdin, OFlags::RDONLY).map_err(failed)?);
    ours.input_ends_once = true;
    ours.breaks_output = true;
    Ok(())
}

/// The same stream without waiting. Whoever else has it must not see it change, so pipes and devices are opened once more.
fn unblocked(fd: OwnedFd, access: OFlags) -> io::Result<OwnedFd> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
    if matches!(kind, FileType::Fifo | FileType::CharacterDevice) {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        if let Ok(again) = rustix::fs::open(path, flags, Mode::empty()) {
            return Ok(again);
        }
    } else if kind != FileType::Socket {
        // Files are always ready.
        return Ok(fd);
    }
    setup::set_nonblocking(&fd)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use rustix::fs::fcntl_getfl;

    use super::*;

    fn blocks(fd: impl AsFd) -> bool {
        !fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK)
    }

    #[test]
    fn a_pipe_stays_as_its_owner_has_it() {
        let (mut reader, writer) = io::pipe().unwrap();
        let ours = unblocked(writer.try_clone().unwrap().into(), OFlags::WRONLY).unwrap();
        assert!(!blocks(&ours) && blocks(&writer));
        File::from(ours).write_all(b"x").unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn a_file_goes_on_where_it_is() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"one ").unwrap();
        let ours = unblocked(file.try_clone().unwrap().into(), OFlags::WRONLY).unwrap();
        File::from(ours).write_all(b"two").unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two");
        let (socket, _other) = UnixStream::pair().unwrap();
        assert!(!blocks(unblocked(socket.into(), OFlags::WRONLY).unwrap()));
    }

    #[test]
    fn the_wrong_number_is_refused() {
        let refused = |terminal, count| {
            let names = IoNames {
                terminal,
                ..IoNames::default()
            };
            let null = || OwnedFd::from(File::open("/dev/null").unwrap());
            let sent = (0..count).map(|_| null()).collect();
            open(&mut Stdio::default(), &names, false, sent).map_err(|failure| failure.message)
        };
        assert!(refused(true, 3).unwrap_err().contains("3 descriptors"));
        assert!(refused(false, 0).unwrap_err().contains("stdin, stdout"));
        assert_eq!(refused(false, 3), Ok(()));
    }
}
