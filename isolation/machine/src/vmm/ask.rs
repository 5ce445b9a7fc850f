//! `--ask`: a client of another monitor's control socket, for scripts and hosts without `atoll`.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use atoll_machine::MachineError;
use atoll_machine::protocol::{Answer, Client, Request};
use rustix::fs::{Mode, OFlags};

/// One request to a monitor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Question {
    socket: PathBuf,
    request: Request,
    /// Where to save.
    folder: Option<PathBuf>,
}

impl Question {
    /// The words behind `--ask`: socket, request, for `save` a folder, for `balloon` bytes; `None` when they are not
    /// that.
    pub(crate) fn parse(words: &[OsString]) -> Option<Self> {
        let (socket, name, more) = match words {
            [socket, name] => (socket, name, None),
            [socket, name, more] => (socket, name, Some(more)),
            _ => return None,
        };
        let (request, folder) = match (name.to_str()?, more) {
            ("save", Some(folder)) => (Request::Save, Some(PathBuf::from(folder))),
            ("balloon", Some(bytes)) => {
                let bytes = bytes.to_str()?.parse().ok()?;
                (Request::Balloon { bytes }, None)
            }
            ("save" | "balloon", None) | (_, Some(_)) => return None,
            (name, None) => (named(name)?, None),
        };
        Some(Self {
            socket: socket.into(),
            request,
            folder,
        })
    }

    /// Asks, and prints the answer on the standard output; whether it was done.
    pub(crate) fn ask(&self) -> Result<bool, MachineError> {
        let folder = self.folder.as_deref().map(open).transpose()?;
        let folder = folder.as_ref().map(AsFd::as_fd);
        let answer = match Client::connect(&self.socket)?.ask(self.request, folder) {
            Ok(status) => Answer::Ok(status),
            Err(MachineError::Refused { message, hint }) => Answer::Error { message, hint },
            Err(error) => return Err(error),
        };
        serde_json::to_string(&answer)
            .map_err(io::Error::from)
            .and_then(|line| writeln!(io::stdout(), "{line}"))
            .map_err(MachineError::io("print the answer"))?;
        Ok(matches!(answer, Answer::Ok(_)))
    }
}

/// The request that the protocol calls `name` and that has nothing else.
fn named(name: &str) -> Option<Request> {
    serde_json::from_value(serde_json::json!({ "do": name })).ok()
}

fn open(folder: &Path) -> Result<OwnedFd, MachineError> {
    // Not by path only: the descriptor has to be good for a process that may open no folder.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::empty())
        .map_err(|errno| MachineError::io(format!("open {}", folder.display()))(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Option<Question> {
        let words: Vec<_> = words.iter().map(OsString::from).collect();
        Question::parse(&words)
    }

    #[test]
    fn only_save_and_balloon_take_more_and_need_it() {
        let save = parse(&["s", "save", "f"]).unwrap();
        assert_eq!(save.request, Request::Save);
        assert_eq!(save.folder, Some("f".into()));
        assert_eq!(parse(&["s", "status"]).unwrap().request, Request::Status);
        let balloon = parse(&["s", "balloon", "4096"]).unwrap();
        assert_eq!(balloon.request, Request::Balloon { bytes: 4096 });
        let bad: [&[&str]; 9] = [
            &["s", "balloon"],
            &["s", "balloon", "f"],
            &["s", "balloon", "-1"],
            &[],
            &["s"],
            &["s", "save"],
            &["s", "stop", "f"],
            &["s", "fly"],
            &["s", "save", "f", "g"],
        ];
        for words in bad {
            assert_eq!(parse(words), None, "{words:?}");
        }
    }

    #[test]
    fn sockets_and_folders_that_are_not_there_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control").display().to_string();
        let error = parse(&[&socket, "status"]).unwrap().ask().unwrap_err();
        assert!(error.to_string().contains(&socket), "{error}");
        let error = parse(&[&socket, "save", "/none"])
            .unwrap()
            .ask()
            .unwrap_err();
        assert_eq!(error.to_string(), "cannot open /none");
    }
}
