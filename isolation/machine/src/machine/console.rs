//! What the guest says on its serial port: passed on by a thread of its own, the last lines kept.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Lines kept for a report of the guest's death.
const LINES: usize = 80;
/// Longest line kept.
const LINE_BYTES: usize = 400;
/// Bytes that may wait for a slow reader; then the guest waits too.
const WAITING: usize = 256 * 1024;

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    writing: bool,
    closed: bool,
    lines: VecDeque<Vec<u8>>,
    line: Vec<u8>,
}

/// The guest's console. Clones are the same console.
#[derive(Clone, Debug, Default)]
pub(super) struct Console(Arc<(Mutex<State>, Condvar)>);

impl Console {
    /// A console whose output a thread writes to `output`, until [`Console::close`].
    ///
    /// # Errors
    /// When there can be no thread.
    pub(super) fn new(output: Box<dyn Write + Send>) -> io::Result<Self> {
        let console = Self::default();
        let reader = console.clone();
        thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || reader.pass_on(output))?;
        Ok(console)
    }

    /// The last lines, oldest first, as far as they are text.
    pub(super) fn last_lines(&self) -> Vec<String> {
        let state = self.lock();
        let lines = state.lines.iter().chain(Some(&state.line));
        lines
            .map(|line| String::from_utf8_lossy(line).trim_end().to_owned())
            .filter(|line| !line.is_empty())
            .collect()
    }

    /// Waits until everything is written, and ends the thread.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        while !state.waiting.is_empty() || state.writing {
            state = self.wait(state);
        }
        state.closed = true;
        self.0.1.notify_all();
    }

    fn pass_on(&self, mut output: Box<dyn Write + Send>) {
        let mut bytes = Vec::new();
        let mut broken = false;
        loop {
            {
                let mut state = self.lock();
                state.writing = false;
                self.0.1.notify_all();
                while state.waiting.is_empty() {
                    if state.closed {
                        return;
                    }
                    state = self.wait(state);
                }
                bytes.clear();
                std::mem::swap(&mut bytes, &mut state.waiting);
                state.writing = true;
            }
            // A reader that has gone does not stop the guest.
            broken |= !broken
                && output
                    .write_all(&bytes)
                    .and_then(|()| output.flush())
                    .is_err();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.0.1.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.lock();
        while state.waiting.len() > WAITING && !state.closed {
            state = self.wait(state);
        }
        if !state.closed {
            state.waiting.extend_from_slice(bytes);
        }
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut state.line);
                state.lines.push_back(line);
                if state.lines.len() > LINES {
                    state.lines.pop_front();
                }
            } else if state.line.len() < LINE_BYTES {
                state.line.push(byte);
            }
        }
        self.0.1.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Sender(mpsc::Sender<Vec<u8>>);

    impl Write for Sender {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_output_arrives_in_order_and_the_last_lines_are_kept() {
        let (sender, receiver) = mpsc::channel();
        let mut console = Console::new(Box::new(Sender(sender))).unwrap();
        let mut all = String::new();
        for number in 0..100 {
            let line = format!("line {number}\r\n");
            console.write_all(line.as_bytes()).unwrap();
            all.push_str(&line);
        }
        console.write_all(b"last").unwrap();
        console.close();
        let seen: Vec<u8> = receiver.iter().flatten().collect();
        assert_eq!(String::from_utf8(seen).unwrap(), all + "last");
        let lines = console.last_lines();
        assert_eq!((lines.len(), &lines[0][..]), (LINES + 1, "line 20"));
        assert_eq!(lines.last().unwrap(), "last");
    }

    #[test]
    fn a_reader_that_has_gone_and_endless_lines_are_borne() {
        let (sender, receiver) = mpsc::channel();
        drop(receiver);
        let mut console = Console::new(Box::new(Sender(sender))).unwrap();
        for _ in 0..10 {
            console.write_all(&[b'x'; WAITING]).unwrap();
        }
        console.close();
        assert_eq!(console.last_lines(), ["x".repeat(LINE_BYTES)]);
    }
}
