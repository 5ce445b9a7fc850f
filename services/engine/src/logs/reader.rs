//! Streams a log to a client.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use atoll_shim_protocol::{FRAME_HEADER_LEN, StreamKind, frame_header};
use bytes::Bytes;
use tokio::sync::watch as records;

use super::{line, tail, watch::Watch};
use crate::{container::Record, http::body::BodySender, time};

/// Bytes read and sent at a time.
const CHUNK: usize = 128 << 10;

/// Longest line that is waited for; what is longer is no line of ours.
const MAX_LINE: usize = 1 << 20;

/// What a client wants of a log.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogRequest {
    /// The newest file; older ones have `.1`, `.2`, … after it.
    pub(crate) path: PathBuf,
    /// Lines of stdout.
    pub(crate) stdout: bool,
    /// Lines of stderr.
    pub(crate) stderr: bool,
    /// A time before each line.
    pub(crate) timestamps: bool,
    /// Without frames, as of a terminal.
    pub(crate) raw: bool,
    /// Only the last lines.
    pub(crate) tail: Option<u64>,
    /// Only from this time on, in nanoseconds since 1970.
    pub(crate) since_nanos: Option<i64>,
    /// Only up to this time.
    pub(crate) until_nanos: Option<i64>,
    /// What comes too, until the container has ended.
    pub(crate) follow: bool,
}

/// Sends the log to `client` until its end, or until the client has gone.
///
/// * `state`: the container's records, to know when following ends.
pub(crate) async fn stream(
    request: LogRequest,
    client: BodySender,
    state: records::Receiver<Arc<Record>>,
) {
    if let Err(error) = run(&request, &client, state).await {
        tracing::warn!(path = %request.path.display(), %error, "cannot read a log");
    }
}

async fn run(
    request: &LogRequest,
    client: &BodySender,
    mut state: records::Receiver<Arc<Record>>,
) -> io::Result<()> {
    // Watched before the first read, so that nothing falls in between.
    let watch = match (request.follow, request.path.parent()) {
        (true, Some(directory)) => Some(Watch::new(directory)?),
        _ => None,
    };
    let mut formatter = Formatter {
        request,
        out: Vec::with_capacity(CHUNK + CHUNK / 4),
    };
    let mut files = open_files(&request.path);
    let start = match request.tail {
        Some(lines) => seek_tail(&mut files, lines)?,
        None => 0,
    };
    let mut newest = None;
    for file in files.into_iter().skip(start) {
        let mut current = Current::new(file)?;
        if !current.drain(&mut formatter, client).await? {
            return Ok(());
        }
        newest = Some(current);
    }
    let Some(mut watch) = watch else {
        return Ok(());
    };
    loop {
        let is_over = !state.borrow_and_update().state.is_running();
        if !next_files(&request.path, &mut newest, &mut formatter, client).await? || is_over {
            return Ok(());
        }
        tokio::select! {
            changed = watch.changed() => changed?,
            changed = state.changed() => if changed.is_err() { return Ok(()) },
            () = client.closed() => return Ok(()),
        }
    }
}

/// Reads on in the current file and in those that took its place.
async fn next_files(
    path: &Path,
    newest: &mut Option<Current>,
    formatter: &mut Formatter<'_>,
    client: &BodySender,
) -> io::Result<bool> {
    loop {
        if let Some(current) = newest.as_mut()
            && !current.drain(formatter, client).await?
        {
            return Ok(false);
        }
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        let inode = file.metadata()?.ino();
        if newest
            .as_ref()
            .is_some_and(|current| current.inode == inode)
        {
            return Ok(true);
        }
        // Rotated. Its predecessor may have got lines between our last read and the rename.
        if let Some(current) = newest.as_mut()
            && !current.drain(formatter, client).await?
        {
            return Ok(false);
        }
        *newest = Some(Current::new(file)?);
    }
}

/// The files of a log, oldest first.
fn open_files(path: &Path) -> Vec<File> {
    let mut files: Vec<File> = File::open(path).into_iter().collect();
    for number in 1.. {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        match File::open(name) {
            Ok(file) => files.push(file),
            Err(_) => break,
        }
    }
    files.reverse();
    files
}

/// Puts each file at its part of the last `lines` lines; answers the first file that has any.
fn seek_tail(files: &mut [File], lines: u64) -> io::Result<usize> {
    let mut left = lines;
    let mut first = files.len();
    for (index, file) in files.iter_mut().enumerate().rev() {
        if left == 0 && index + 1 < first {
            break;
        }
        let len = file.metadata()?.len();
        let (offset, found) = match left {
            0 => (len, 0),
            left => tail::start_of_last(file, len, left)?,
        };
        file.seek(SeekFrom::Start(offset))?;
        left -= found.min(left);
        first = index;
        if left == 0 {
            break;
        }
    }
    Ok(first)
}

/// The file being read.
struct Current {
    file: File,
    inode: u64,
    /// Bytes read and not yet used: the beginning of a line.
    rest: Vec<u8>,
}

impl Current {
    fn new(file: File) -> io::Result<Self> {
        let inode = file.metadata()?.ino();
        Ok(Self {
            file,
            inode,
            rest: Vec::new(),
        })
    }

    /// Sends all whole lines up to the end of the file; answers false when the client has gone or wants no more.
    async fn drain(
        &mut self,
        formatter: &mut Formatter<'_>,
        client: &BodySender,
    ) -> io::Result<bool> {
        loop {
            let len = self.rest.len();
            self.rest.resize(len + CHUNK, 0);
            let read = self.file.read(&mut self.rest[len..])?;
            self.rest.truncate(len + read);
            if read == 0 {
                if self.rest.is_empty() {
                    self.rest = Vec::new();
                }
                return Ok(formatter.send(client).await);
            }
            let whole = self
                .rest
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            for line in self.rest[..whole].split(|byte| *byte == b'\n') {
                if !formatter.add(line) {
                    formatter.send(client).await;
                    return Ok(false);
                }
            }
            self.rest.drain(..whole);
            if self.rest.len() > MAX_LINE {
                self.rest.clear();
            }
            if formatter.out.len() >= CHUNK && !formatter.send(client).await {
                return Ok(false);
            }
        }
    }
}

/// Turns lines into what the client gets.
struct Formatter<'a> {
    request: &'a LogRequest,
    out: Vec<u8>,
}

impl Formatter<'_> {
    /// Adds a line; answers false when it and all that follow are too late.
    fn add(&mut self, bytes: &[u8]) -> bool {
        let request = self.request;
        let Some(line) = line::parse(bytes) else {
            return true;
        };
        let is_wanted = if line.is_stderr {
            request.stderr
        } else {
            request.stdout
        };
        if !is_wanted {
            return true;
        }
        if request.since_nanos.is_some() || request.until_nanos.is_some() {
            let at = time::parse_nanos(&line.time).unwrap_or(0);
            if request.since_nanos.is_some_and(|since| at < since) {
                return true;
            }
            if request.until_nanos.is_some_and(|until| at > until) {
                return false;
            }
        }
        let start = self.out.len();
        if !request.raw {
            self.out.extend_from_slice(&[0; FRAME_HEADER_LEN]);
        }
        if request.timestamps {
            append_time(&line.time, &mut self.out);
            self.out.push(b' ');
        }
        line.text.append_to(&mut self.out);
        if !request.raw {
            let len = self.out.len() - start - FRAME_HEADER_LEN;
            let kind = if line.is_stderr {
                StreamKind::Stderr
            } else {
                StreamKind::Stdout
            };
            let header = frame_header(kind, u32::try_from(len).unwrap_or(u32::MAX));
            self.out[start..start + FRAME_HEADER_LEN].copy_from_slice(&header);
        }
        true
    }

    /// Sends what has gathered; answers false when the client has gone.
    async fn send(&mut self, client: &BodySender) -> bool {
        if self.out.is_empty() {
            return !client.is_closed();
        }
        let bytes = Bytes::copy_from_slice(&self.out);
        self.out.clear();
        client.send(bytes).await.is_ok()
    }
}

/// Docker prints nine digits, so that lines stand in columns.
fn append_time(time: &str, out: &mut Vec<u8>) {
    let (Some(whole), true) = (time.get(..19), time.ends_with('Z')) else {
        out.extend_from_slice(time.as_bytes());
        return;
    };
    let fraction = time[19..time.len() - 1]
        .strip_prefix('.')
        .unwrap_or_default();
    out.extend_from_slice(whole.as_bytes());
    out.extend_from_slice(format!(".{fraction:0<9}Z").as_bytes());
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::http::body::Body;

    fn log(directory: &Path, name: &str, lines: std::ops::Range<u32>) {
        let text: String = lines
            .map(|number| {
                let stream = if number % 2 == 0 { "stdout" } else { "stderr" };
                format!(
                    "{{\"log\":\"line {number}\\n\",\"stream\":\"{stream}\",\"time\":\"2026-01-01T00:00:{number:02}Z\"}}\n"
                )
            })
            .collect();
        fs::write(directory.join(name), text).unwrap();
    }

    async fn read(request: LogRequest) -> String {
        let (sender, body) = Body::channel();
        let Body::Stream(mut receiver) = body else {
            unreachable!()
        };
        let record = Arc::new(crate::container::registry::tests::record("abc", "x"));
        let (_keep, state) = records::channel(record);
        let task = tokio::spawn(stream(request, sender, state));
        let mut text = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            text.extend_from_slice(&chunk);
        }
        task.await.unwrap();
        String::from_utf8(text).unwrap()
    }

    fn request(directory: &Path) -> LogRequest {
        LogRequest {
            path: directory.join("log"),
            stdout: true,
            stderr: true,
            raw: true,
            ..LogRequest::default()
        }
    }

    #[tokio::test]
    async fn rotated_files_come_first_and_tail_spans_them() {
        let directory = tempfile::tempdir().unwrap();
        log(directory.path(), "log.2", 0..3);
        log(directory.path(), "log.1", 3..6);
        log(directory.path(), "log", 6..8);
        let all = read(request(directory.path())).await;
        assert_eq!(all.lines().count(), 8);
        assert!(all.starts_with("line 0\n") && all.ends_with("line 7\n"));
        let tail = |lines| LogRequest {
            tail: Some(lines),
            ..request(directory.path())
        };
        assert_eq!(read(tail(3)).await, "line 5\nline 6\nline 7\n");
        assert_eq!(read(tail(0)).await, "");
        assert_eq!(read(tail(100)).await, all);
    }

    #[tokio::test]
    async fn streams_and_times_select() {
        let directory = tempfile::tempdir().unwrap();
        log(directory.path(), "log", 0..6);
        let seconds = |text: &str| time::parse_nanos(text);
        let some = LogRequest {
            stderr: false,
            since_nanos: seconds("2026-01-01T00:00:02Z"),
            until_nanos: seconds("2026-01-01T00:00:04Z"),
            timestamps: true,
            ..request(directory.path())
        };
        assert_eq!(
            read(some).await,
            "2026-01-01T00:00:02.000000000Z line 2\n2026-01-01T00:00:04.000000000Z line 4\n"
        );
    }

    #[tokio::test]
    async fn frames_carry_stream_and_length() {
        let directory = tempfile::tempdir().unwrap();
        log(directory.path(), "log", 1..2);
        let framed = LogRequest {
            raw: false,
            ..request(directory.path())
        };
        assert_eq!(read(framed).await, "\u{2}\0\0\0\0\0\0\u{7}line 1\n");
    }

    #[tokio::test]
    async fn missing_log_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(request(directory.path())).await, "");
    }
}
