//! `cp`: an archive from one side is unpacked on the other. Our side is read and written by the code that does it in
//! containers.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use atoll_files::{Action, Ids, Options, PathStat, Request};
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Response};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::arguments::CpArgs;
use crate::client::{self, Body, Client, Target};
use crate::error::{Error, Message};
use crate::frames::Stream;
use crate::pipes::{self, Output, Stdin};

/// How many symlinks of a container are followed.
const MOST_LINKS: u32 = 40;
/// Pieces that wait between our side and the connection.
const PIECES: usize = 8;
/// Bytes of a piece.
const PIECE: usize = 64 << 10;
/// Go's bit of a folder, and of a symlink.
const FOLDER: u32 = 1 << 31;
const LINK: u32 = 1 << 27;

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    Container { name: &'a str, path: &'a str },
    Here(&'a str),
    Stream,
}

impl<'a> Side<'a> {
    /// Reads `CONTAINER:PATH`, `-`, or a path: one that begins with `/` or `.` is always here.
    fn parse(text: &'a str) -> Self {
        match text.split_once(':') {
            _ if text == "-" => Self::Stream,
            Some((name, path))
                if !name.is_empty() && !text.starts_with(['/', '.']) && !name.contains('/') =>
            {
                Self::Container { name, path }
            }
            _ => Self::Here(text),
        }
    }
}

/// `atoll cp`.
pub(super) async fn cp(client: &Client, args: &CpArgs) -> Result<(), Error> {
    let wrong = |text: &str, expected: &str| Err(Error::value("path", text, expected));
    match (Side::parse(&args.source), Side::parse(&args.destination)) {
        (Side::Container { name, path }, Side::Here(place)) => {
            out(client, args, name, path, place).await
        }
        (Side::Container { name, path }, Side::Stream) => {
            let answer = read(client, name, &source_path(client, args, name, path).await?).await?;
            pass_on(answer).await
        }
        (Side::Here(place), Side::Container { name, path }) => {
            into(client, args, name, path, place).await
        }
        (Side::Stream, Side::Container { name, path }) => {
            if crate::terminal::is_input() {
                return wrong(
                    "-",
                    "expected an archive on the standard input, not a terminal",
                );
            }
            let body = client::streamed(pipes::read(Stdin)?);
            send(client, args, name, path, body).await
        }
        (Side::Container { .. }, Side::Container { .. }) => wrong(
            &args.destination,
            "copying between containers is not available: copy here first",
        ),
        _ => wrong(&args.source, "expected CONTAINER:PATH on one side"),
    }
}

/// What the engine says of a path in a container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Stat {
    name: String,
    mode: u32,
    link_target: String,
}

impl Stat {
    fn of(answer: &Response<Incoming>, action: &str) -> Result<Self, Error> {
        let header = answer.headers().get("x-docker-container-path-stat");
        let text = header.map(|value| value.as_bytes()).unwrap_or_default();
        let bytes = base64::engine::general_purpose::STANDARD.decode(text);
        let bytes = bytes.unwrap_or_default();
        serde_json::from_slice(&bytes).map_err(|error| Error::Answer {
            action: action.to_owned(),
            message: Message(format!("it does not say what the path is: {error}")),
        })
    }

    fn is_folder(&self) -> bool {
        self.mode & FOLDER != 0
    }
}

fn target(name: &str, path: &str) -> Target {
    Target::object("containers", name, "archive").with("path", path)
}

async fn stat(client: &Client, name: &str, path: &str) -> Result<Stat, Error> {
    let action = format!("look at {name}:{path}");
    let target = target(name, path);
    let answer = client
        .request(&action, Method::HEAD, &target, client::empty())
        .await?;
    Stat::of(&answer, &action)
}

/// The same of what symlinks lead to, and its path.
async fn followed(client: &Client, name: &str, path: &str) -> Result<(Stat, String), Error> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let found = stat(client, name, &path).await?;
        if found.mode & LINK == 0 {
            return Ok((found, path));
        }
        path = found.link_target;
    }
    Err(Error::value(
        "path",
        &path,
        "too many symlinks lead to each other",
    ))
}

async fn source_path(
    client: &Client,
    args: &CpArgs,
    name: &str,
    path: &str,
) -> Result<String, Error> {
    match args.follow_link {
        true => Ok(followed(client, name, path).await?.1),
        false => Ok(path.to_owned()),
    }
}

async fn read(client: &Client, name: &str, path: &str) -> Result<Response<Incoming>, Error> {
    let action = format!("read {name}:{path}");
    client
        .request(&action, Method::GET, &target(name, path), client::empty())
        .await
}

/// Puts a container's archive on the standard output.
async fn pass_on(answer: Response<Incoming>) -> Result<(), Error> {
    if crate::terminal::is_output() {
        return Err(Error::value(
            "output",
            "terminal",
            "expected a file or a pipe for the archive",
        ));
    }
    let output = Output::start()?;
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(Error::http("read the archive"))?;
        if let Ok(bytes) = frame.into_data()
            && !output.write(Stream::Out, bytes).await
        {
            break;
        }
    }
    output.finish().await
}

/// Copies out of a container.
async fn out(
    client: &Client,
    args: &CpArgs,
    name: &str,
    path: &str,
    place: &str,
) -> Result<(), Error> {
    let real = source_path(client, args, name, path).await?;
    let answer = read(client, name, &real).await?;
    let stat = Stat::of(&answer, "read the archive")?;
    let asked_name = Path::new(path)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let (folder, new_name) = destination(
        place,
        stat.is_folder(),
        Path::new(place).metadata().ok().map(|found| found.is_dir()),
    )?;
    // What a symlink led to is called as the symlink.
    let new_name = new_name.or(match args.follow_link && stat.name != "." {
        true => asked_name,
        false => None,
    });
    let options = Options {
        keeps_kinds: true,
        owner: match args.archive {
            true => None,
            false => Some((
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            )),
        },
        name: new_name,
    };
    let (sender, receiver) = mpsc::channel(PIECES);
    let request = here(&folder, Action::Write(options))?;
    let action = format!("write {place}");
    let unpacking = tokio::task::spawn_blocking(move || {
        let mut input = BufReader::with_capacity(
            PIECE,
            Pieces {
                receiver,
                piece: Bytes::new(),
            },
        );
        serve(&request, &mut input, &mut io::sink())
    });
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let piece = match frame {
            Ok(frame) => frame
                .into_data()
                .map(Ok)
                .unwrap_or_else(|_| Ok(Bytes::new())),
            Err(error) => Err(io::Error::other(error)),
        };
        if sender.send(piece).await.is_err() {
            break;
        }
    }
    drop(sender);
    let unpacked = unpacking
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the writing thread failed")));
    unpacked.map_err(Error::io(action))?;
    told(args, &format!("copied {name}:{path} to {place}"));
    Ok(())
}

/// Copies into a container.
async fn into(
    client: &Client,
    args: &CpArgs,
    name: &str,
    path: &str,
    place: &str,
) -> Result<(), Error> {
    let action = format!("read {place}");
    let source = match args.follow_link {
        true => fs::canonicalize(place)
            .map_err(Error::io(&action))?
            .to_string_lossy()
            .into_owned(),
        false => place.to_owned(),
    };
    let is_folder = fs::symlink_metadata(&source)
        .map_err(Error::io(&action))?
        .is_dir()
        || source.ends_with('/') && Path::new(&source).is_dir();
    let (found, path) = match followed(client, name, path).await {
        Ok((found, path)) => (Some(found.is_folder()), path),
        Err(error) if error.status() == Some(404) => (None, path.to_owned()),
        Err(error) => return Err(error),
    };
    let (folder, new_name) = destination(&path, is_folder, found)?;
    let (sender, receiver) = mpsc::channel(PIECES);
    let request = here(Path::new(&source), Action::Read)?;
    let reading = tokio::task::spawn_blocking(move || {
        let renamed = new_name;
        let mut output = Sender { sender };
        let read = match renamed {
            None => serve(&request, &mut io::empty(), &mut output),
            Some(name) => renamed_archive(&request, &name, &mut output),
        };
        if let Err(error) = &read {
            // The request breaks off, so that the engine keeps no half of a file.
            let _ = output
                .sender
                .blocking_send(Err(io::Error::other(error.to_string())));
        }
        read
    });
    let sent = send(
        client,
        args,
        name,
        &folder.to_string_lossy(),
        client::streamed(receiver),
    )
    .await;
    let read = reading
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the reading thread failed")));
    match (sent, read) {
        // Who unpacks says better why it stopped.
        (Err(error @ Error::Api { .. }), _) => return Err(error),
        (_, Err(error)) => return Err(Error::io(action)(error)),
        (sent, Ok(())) => sent?,
    }
    told(args, &format!("copied {place} to {name}:{path}"));
    Ok(())
}

async fn send(
    client: &Client,
    args: &CpArgs,
    name: &str,
    path: &str,
    body: Body,
) -> Result<(), Error> {
    let action = format!("write to {name}:{path}");
    let target = target(name, path)
        .with("noOverwriteDirNonDir", 1)
        .with_flag("copyUIDGID", args.archive);
    let answer = client.request(&action, Method::PUT, &target, body).await?;
    client::read_json::<serde_json::Value>(&action, answer)
        .await
        .map(drop)
}

fn told(args: &CpArgs, text: &str) {
    if !args.quiet {
        anstream::eprintln!("{text}");
    }
}

/// The folder to unpack in, and what the tree is called there if not as before.
///
/// * `found`: whether what is at `place` is a folder; none when nothing is.
fn destination(
    place: &str,
    is_folder: bool,
    found: Option<bool>,
) -> Result<(PathBuf, Option<String>), Error> {
    let path = Path::new(place);
    match found {
        Some(true) => return Ok((path.to_owned(), None)),
        Some(false) if is_folder => {
            return Err(Error::value(
                "destination",
                place,
                "a folder cannot take the place of a file",
            ));
        }
        Some(false) | None if place.ends_with('/') => {
            return Err(Error::value(
                "destination",
                place,
                "there is no such folder",
            ));
        }
        Some(false) | None => {}
    }
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let name =
        name.ok_or_else(|| Error::value("destination", place, "expected a name at its end"))?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    Ok((folder, Some(name)))
}

/// A request about a path of ours.
fn here(path: &Path, action: Action) -> Result<Request, Error> {
    // `absolute` leaves an end of `/` or `.` away, which matters.
    let end = match path.to_string_lossy() {
        text if text.ends_with("/.") || text == "." => "/.",
        text if text.ends_with('/') => "/",
        _ => "",
    };
    let whole = std::path::absolute(path).map_err(Error::io(format!("find {}", path.display())))?;
    let text = whole
        .to_str()
        .ok_or_else(|| Error::value("path", &path.to_string_lossy(), "expected UTF-8"))?;
    Ok(Request {
        path: format!("{text}{end}"),
        action,
    })
}

fn serve(request: &Request, input: &mut dyn io::BufRead, output: &mut dyn Write) -> io::Result<()> {
    let root = File::open("/")?;
    let mut found = |_: PathStat| {};
    atoll_files::serve(root.as_fd(), Ids::Same, request, input, output, &mut found)
        .map_err(|error| io::Error::other(atoll_sys::with_causes(&error)))
}

/// The archive of what is asked for under another name.
fn renamed_archive(request: &Request, name: &str, output: &mut dyn Write) -> io::Result<()> {
    let root = File::open("/")?;
    atoll_files::read_as(root.as_fd(), &request.path, name, output)
        .map_err(|error| io::Error::other(atoll_sys::with_causes(&error)))
}

/// The reading end of an archive that comes in pieces.
struct Pieces {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

/// The writing end.
struct Sender {
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.sender.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        let container = |name, path| Side::Container { name, path };
        assert_eq!(Side::parse("web:/etc"), container("web", "/etc"));
        assert_eq!(Side::parse("web:a:b"), container("web", "a:b"));
        assert_eq!(Side::parse("-"), Side::Stream);
        for here in ["/a:b", "./a:b", "../a:b", "a/b:c", "file", ":x"] {
            assert_eq!(Side::parse(here), Side::Here(here));
        }
    }

    #[test]
    fn names_follow_from_what_is_there() {
        let of = |place: &str, is_folder, found| destination(place, is_folder, found).ok();
        let is = |folder: &str, name: Option<&str>| {
            Some((PathBuf::from(folder), name.map(str::to_owned)))
        };
        assert_eq!(of("/a/b", true, Some(true)), is("/a/b", None));
        assert_eq!(of("/a/b", true, None), is("/a", Some("b")));
        assert_eq!(of("b", false, Some(false)), is(".", Some("b")));
        assert_eq!(of("/a/b/", false, None), None);
        assert_eq!(of("/a/b", true, Some(false)), None);
    }
}
