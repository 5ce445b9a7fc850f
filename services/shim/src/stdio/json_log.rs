//! The `json-file` log: escaping, splitting into lines, batching, rotation.
//!
//! Format page: docs/formats/json-log.md.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use atoll_shim_protocol::{LogConfig, StreamKind};

use super::escape;
use crate::clock;
use crate::report;

/// Longest piece of a line in bytes of output.
const PIECE: usize = 16_384;

/// Length of the batch at which it is written.
const BATCH: usize = 256 << 10;

const PREFIX: &[u8] = b"{\"log\":\"";

/// An open log file.
pub(crate) struct JsonLog {
    file: File,
    path: PathBuf,
    written: u64,
    max_size: Option<u64>,
    max_files: u32,
    batch: Vec<u8>,
    unfinished: [Unfinished; 2],
    failing: bool,
}

/// A line whose end has not come yet.
#[derive(Default)]
struct Unfinished {
    /// Its text so far, escaped.
    escaped: Vec<u8>,
    /// Bytes of output in it.
    len: usize,
    /// First bytes of a character cut off by the end of a read.
    cut_off: Vec<u8>,
}

impl JsonLog {
    /// Opens the log for appending.
    pub(crate) fn open(config: &LogConfig) -> io::Result<Self> {
        let file = append_to(&config.path)?;
        Ok(Self {
            written: file.metadata()?.len(),
            file,
            path: config.path.clone(),
            max_size: config.max_size_bytes,
            max_files: config.max_files,
            batch: Vec::new(),
            unfinished: Default::default(),
            failing: false,
        })
    }

    /// Logs output that was just read. Nothing is returned: a full disk must not stop the container.
    pub(crate) fn write(&mut self, stream: StreamKind, data: &[u8], now: SystemTime) {
        let suffix = suffix(stream, now);
        let index = stream as usize - 1;
        let cut_off = std::mem::take(&mut self.unfinished[index].cut_off);
        if cut_off.is_empty() {
            self.append(index, data, &suffix, false);
        } else {
            self.append(index, &[&cut_off, data].concat(), &suffix, false);
        }
        self.flush();
    }

    /// Logs what is left of a stream's last line.
    pub(crate) fn finish(&mut self, stream: StreamKind, now: SystemTime) {
        let suffix = suffix(stream, now);
        let index = stream as usize - 1;
        let cut_off = std::mem::take(&mut self.unfinished[index].cut_off);
        self.append(index, &cut_off, &suffix, true);
        self.flush();
    }

    /// Gives buffers back after a burst.
    pub(crate) fn shrink(&mut self) {
        self.batch = Vec::new();
        self.unfinished.iter_mut().for_each(|line| {
            line.escaped.shrink_to_fit();
        });
    }

    fn append(&mut self, index: usize, mut data: &[u8], suffix: &[u8], is_last: bool) {
        let mut line = std::mem::take(&mut self.unfinished[index]);
        loop {
            if self.batch.len() >= BATCH {
                self.flush();
            }
            let start = self.batch.len();
            self.batch.extend_from_slice(PREFIX);
            self.batch.extend_from_slice(&line.escaped);
            let (taken, is_whole) =
                escape::append(&mut self.batch, data, PIECE - line.len, is_last);
            line.len += taken;
            data = &data[taken..];
            let is_full = line.len >= PIECE || (!data.is_empty() && !is_cut_off(data));
            if is_whole || is_full || (is_last && line.len > 0) {
                self.batch.extend_from_slice(suffix);
                line.escaped.clear();
                line.len = 0;
                continue;
            }
            line.escaped.clear();
            line.escaped
                .extend_from_slice(&self.batch[start + PREFIX.len()..]);
            line.cut_off = data.to_vec();
            self.batch.truncate(start);
            break;
        }
        self.unfinished[index] = line;
    }

    /// Writes the batch, in pieces that fit the files.
    fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let mut rest = batch.as_slice();
        while !rest.is_empty() {
            let fitting = self.fitting(rest);
            if fitting == 0 {
                if let Err(error) = self.rotate() {
                    self.complain("rotate", &error);
                    break;
                }
                continue;
            }
            let (now, later) = rest.split_at(fitting);
            match self.file.write_all(now) {
                Ok(()) => {
                    self.written += u64::try_from(now.len()).unwrap_or(0);
                    self.failing = false;
                }
                Err(error) => {
                    self.complain("write", &error);
                    // Half a line would spoil the next one.
                    if self.file.set_len(self.written).is_err() {
                        break;
                    }
                    break;
                }
            }
            rest = later;
        }
        self.batch = batch;
        self.batch.clear();
    }

    /// How many bytes of `rest`, in whole lines, go into the present file; 0 asks for the next one.
    fn fitting(&self, rest: &[u8]) -> usize {
        let Some(limit) = self.max_size else {
            return rest.len();
        };
        let room = usize::try_from(limit.saturating_sub(self.written)).unwrap_or(usize::MAX);
        if rest.len() <= room {
            return rest.len();
        }
        match rest[..room].iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            // Longer than a whole file: there is no better place.
            None if self.written == 0 => first_line(rest),
            None => 0,
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.max_files <= 1 {
            self.file.set_len(0)?;
        } else {
            for number in (1..self.max_files - 1).rev() {
                let from = numbered(&self.path, number);
                if from.exists() {
                    fs::rename(from, numbered(&self.path, number + 1))?;
                }
            }
            fs::rename(&self.path, numbered(&self.path, 1))?;
            self.file = append_to(&self.path)?;
        }
        self.written = 0;
        Ok(())
    }

    fn complain(&mut self, action: &str, error: &io::Error) {
        if !self.failing {
            report(format_args!(
                "cannot {action} log {}: {error}",
                self.path.display()
            ));
        }
        self.failing = true;
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn first_line(text: &[u8]) -> usize {
    text.iter()
        .position(|byte| *byte == b'\n')
        .map_or(text.len(), |end| end + 1)
}

/// Whether `data` is what [`escape::append`] leaves of a character whose end has not come.
fn is_cut_off(data: &[u8]) -> bool {
    data.len() < 4
        && data[0] >= 0xc2
        && std::str::from_utf8(data)
            .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}

fn suffix(stream: StreamKind, now: SystemTime) -> Vec<u8> {
    format!(
        "\",\"stream\":\"{}\",\"time\":\"{}\"}}\n",
        stream.name(),
        clock::rfc3339(now)
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_shim_protocol::LogDriver;
    use std::time::{Duration, UNIX_EPOCH};

    fn open(folder: &Path, max_size_bytes: Option<u64>, max_files: u32) -> JsonLog {
        JsonLog::open(&LogConfig {
            driver: LogDriver::JsonFile,
            path: folder.join("c.log"),
            max_size_bytes,
            max_files,
        })
        .unwrap()
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::new(1, 5)
    }

    /// (text, stream) of each line.
    fn lines(path: &Path) -> Vec<(String, String)> {
        fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(|line| {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(value["time"], "1970-01-01T00:00:01.000000005Z");
                (
                    value["log"].as_str().unwrap().to_owned(),
                    value["stream"].as_str().unwrap().to_owned(),
                )
            })
            .collect()
    }

    #[test]
    fn one_object_a_line_in_dockers_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path(), None, 1);
        log.write(StreamKind::Stdout, b"hello\n", now());
        assert_eq!(
            fs::read_to_string(folder.path().join("c.log")).unwrap(),
            "{\"log\":\"hello\\n\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:01.000000005Z\"}\n"
        );
    }

    #[test]
    fn lines_come_together_across_reads_and_streams() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path(), None, 1);
        log.write(StreamKind::Stdout, b"ab", now());
        log.write(StreamKind::Stderr, b"error\nhalf", now());
        log.write(StreamKind::Stdout, b"c\n\nend\xe2", now());
        log.write(StreamKind::Stdout, b"\x82\xac", now());
        log.finish(StreamKind::Stdout, now());
        log.finish(StreamKind::Stderr, now());
        log.finish(StreamKind::Stderr, now());
        let expected = [
            ("error\n", "stderr"),
            ("abc\n", "stdout"),
            ("\n", "stdout"),
            ("end€", "stdout"),
            ("half", "stderr"),
        ];
        let found = lines(&folder.path().join("c.log"));
        let found: Vec<_> = found
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn long_lines_are_split_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path(), None, 1);
        let text = "é\"x".repeat(20_000) + "\n";
        for part in text.as_bytes().chunks(999) {
            log.write(StreamKind::Stdout, part, now());
        }
        let found = lines(&folder.path().join("c.log"));
        assert!(found.iter().all(|(piece, _)| piece.len() <= PIECE));
        assert!(found[0].0.len() > PIECE - 4);
        assert_eq!(found.len(), 5);
        let whole: String = found.into_iter().map(|(piece, _)| piece).collect();
        assert_eq!(whole, text);
    }

    /// What Go's decoder makes of `data`: U+FFFD for each byte that is in no character.
    fn lossy(mut data: &[u8]) -> String {
        let mut text = String::new();
        loop {
            match std::str::from_utf8(data) {
                Ok(rest) => return text + rest,
                Err(error) => {
                    let (valid, rest) = data.split_at(error.valid_up_to());
                    text += std::str::from_utf8(valid).unwrap();
                    text.push('\u{fffd}');
                    data = &rest[1..];
                }
            }
        }
    }

    #[test]
    fn any_bytes_in_any_reads_come_back() {
        const ALPHABET: &[u8] =
            b"ab\n\n\r\t\"\\<\xe2\x82\xac\xc3\xa9\xf0\x9f\x98\x80\xff\x80\xe2\x80\xa8";
        let mut seed = 1_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(seed >> 33).unwrap() % below
        };
        for _ in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            let mut log = open(folder.path(), None, 1);
            let mut data = Vec::new();
            for _ in 0..random(400) {
                if random(4) == 0 {
                    data.extend_from_slice("é€😀".as_bytes());
                } else {
                    data.push(ALPHABET[random(ALPHABET.len())]);
                }
            }
            let mut rest = data.as_slice();
            while !rest.is_empty() {
                let (now_read, later) = rest.split_at(1 + random(rest.len()));
                log.write(StreamKind::Stdout, now_read, now());
                rest = later;
            }
            log.finish(StreamKind::Stdout, now());
            let found = lines(&folder.path().join("c.log"));
            let whole: String = found.into_iter().map(|(piece, _)| piece).collect();
            assert_eq!(whole, lossy(&data), "{data:?}");
        }
    }

    #[test]
    fn exact_multiples_of_a_piece() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path(), None, 1);
        log.write(StreamKind::Stdout, &[b'a'; PIECE], now());
        log.write(StreamKind::Stdout, b"\nnext\n", now());
        let found = lines(&folder.path().join("c.log"));
        let lens: Vec<_> = found.iter().map(|(piece, _)| piece.len()).collect();
        assert_eq!(lens, [PIECE, 1, 5]);
    }

    #[test]
    fn rotation_keeps_whole_lines_and_so_many_files() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path(), Some(300), 3);
        for number in 0..20 {
            log.write(
                StreamKind::Stdout,
                format!("line {number:02}\nand more\n").as_bytes(),
                now(),
            );
        }
        let mut kept = Vec::new();
        for name in ["c.log.2", "c.log.1", "c.log"] {
            let path = folder.path().join(name);
            assert!(fs::metadata(&path).unwrap().len() <= 300);
            kept.extend(lines(&path));
        }
        assert!(!folder.path().join("c.log.3").exists());
        assert_eq!(kept.last().unwrap().0, "and more\n");
        assert_eq!(kept[kept.len() - 2].0, "line 19\n");

        let mut log = open(folder.path(), Some(100), 1);
        log.write(StreamKind::Stdout, &[b'x'; 500], now());
        log.write(StreamKind::Stdout, b"\nlast\n", now());
        assert_eq!(
            lines(&folder.path().join("c.log")).last().unwrap().0,
            "last\n"
        );
    }

    #[test]
    fn reopened_it_is_continued() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path(), None, 1).write(StreamKind::Stdout, b"a\n", now());
        open(folder.path(), None, 1).write(StreamKind::Stdout, b"b\n", now());
        assert_eq!(lines(&folder.path().join("c.log")).len(), 2);
    }

    #[test]
    fn a_full_disk_is_survived() {
        let log = LogConfig {
            driver: LogDriver::JsonFile,
            path: "/dev/full".into(),
            max_size_bytes: None,
            max_files: 1,
        };
        let mut log = JsonLog::open(&log).unwrap();
        for _ in 0..3 {
            log.write(StreamKind::Stdout, b"a\n", now());
        }
        assert!(log.failing);
    }
}
