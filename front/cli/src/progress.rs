//! Progress of pulling and loading: bars on a terminal, lines elsewhere. All on the standard error.
//!
//! Docker Engine API v1.51, ImageCreate: JSON objects `{status, id, progressDetail, stream, error}`
//! one after another.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Deserialize;

use crate::error::{Error, Message};

/// One message of the engine.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Event {
    status: Option<String>,
    id: Option<String>,
    #[serde(rename = "progressDetail")]
    detail: Option<Detail>,
    /// Plain text: `Loaded image: bb:latest\n`.
    pub(crate) stream: Option<String>,
    error: Option<String>,
}

impl Event {
    /// What goes on, in the engine's words.
    pub(crate) fn status(&self) -> Option<&str> {
        self.status.as_deref()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Detail {
    current: Option<u64>,
    total: Option<u64>,
}

/// Shows progress until the engine is done; gives each event to `take` too.
///
/// * `action`: what is done, for errors: `pull image bb`.
/// * `is_quiet`: shows nothing.
///
/// # Errors
/// [`Error::Api`] with the engine's words when it fails on the way.
pub(crate) async fn follow(
    action: &str,
    mut body: Incoming,
    is_quiet: bool,
    mut take: impl FnMut(&Event) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut display: Box<dyn Display> = if is_quiet {
        Box::new(Silent)
    } else if std::io::stderr().is_terminal() {
        Box::new(Bars::default())
    } else {
        Box::new(Lines::default())
    };
    let mut lines = LineBuffer::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(Error::http(action))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        lines.0.extend_from_slice(data);
        while let Some(line) = lines.next() {
            let Ok(event) = serde_json::from_slice::<Event>(&line) else {
                continue;
            };
            if let Some(error) = event.error {
                let message = Message(error);
                return Err(Error::Api {
                    action: action.to_owned(),
                    status: 500,
                    message,
                });
            }
            display.show(&event);
            take(&event)?;
        }
    }
    Ok(())
}

#[derive(Default)]
struct LineBuffer(BytesMut);

impl LineBuffer {
    /// Cuts the next whole line off; empty ones are skipped.
    fn next(&mut self) -> Option<Bytes> {
        loop {
            let end = self.0.iter().position(|byte| *byte == b'\n')?;
            let line = self.0.split_to(end + 1).freeze();
            if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
    }
}

trait Display {
    fn show(&mut self, event: &Event);
}

struct Silent;

impl Display for Silent {
    fn show(&mut self, _: &Event) {}
}

/// One line per change of a layer's status.
#[derive(Default)]
struct Lines {
    last: HashMap<String, String>,
}

impl Display for Lines {
    fn show(&mut self, event: &Event) {
        let Some(status) = &event.status else { return };
        match &event.id {
            Some(id) => {
                let last = self.last.insert(id.clone(), status.clone());
                if last.as_deref() != Some(status) {
                    anstream::eprintln!("{id}: {status}");
                }
            }
            None => anstream::eprintln!("{status}"),
        }
    }
}

/// One bar per layer.
struct Bars {
    all: MultiProgress,
    bars: HashMap<String, ProgressBar>,
    counting: ProgressStyle,
    plain: ProgressStyle,
}

impl Default for Bars {
    fn default() -> Self {
        let style = |text: &str| {
            ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_bar())
        };
        Self {
            all: MultiProgress::new(),
            bars: HashMap::new(),
            counting: style("{prefix}: {msg:<14} [{bar:30}] {bytes}/{total_bytes}")
                .progress_chars("=> "),
            plain: style("{prefix}: {msg}"),
        }
    }
}

impl Display for Bars {
    fn show(&mut self, event: &Event) {
        let Some(status) = &event.status else { return };
        let Some(id) = &event.id else {
            // A terminal that has gone is noticed elsewhere.
            let _ = self.all.println(status);
            return;
        };
        let bar = self.bars.entry(id.clone()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(0));
            bar.set_prefix(id.clone());
            bar.enable_steady_tick(Duration::from_secs(1));
            bar
        });
        bar.set_message(status.clone());
        match &event.detail {
            Some(Detail {
                current: Some(current),
                total: Some(total),
            }) if *total > 0 => {
                bar.set_style(self.counting.clone());
                bar.set_length(*total);
                bar.set_position(*current);
            }
            _ => bar.set_style(self.plain.clone()),
        }
        if matches!(status.as_str(), "Pull complete" | "Already exists") {
            bar.abandon();
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        for bar in self.bars.values() {
            bar.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_wherever_reads_end() {
        let mut lines = LineBuffer::default();
        lines.0.extend_from_slice(b"{\"a\":1}\r\n\r\n{\"b\"");
        assert_eq!(lines.next().as_deref(), Some(&b"{\"a\":1}\r\n"[..]));
        assert_eq!(lines.next(), None);
        lines.0.extend_from_slice(b":2}\n");
        assert_eq!(lines.next().as_deref(), Some(&b"{\"b\":2}\n"[..]));
    }
}
