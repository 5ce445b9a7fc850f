//! The attach socket's words: one request line, one reply line, then bytes.

use serde::{Deserialize, Serialize};

/// Length in bytes of the header before each multiplexed chunk.
pub const FRAME_HEADER_LEN: usize = 8;

/// First line a client sends on the attach socket, as JSON ended by `\n`.
///
/// Page: docs/formats/attach.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// The client's bytes after this line go to the process's stdin.
    #[serde(default)]
    pub stdin: bool,
    /// The client wants what the process writes to stdout (or its terminal).
    #[serde(default)]
    pub stdout: bool,
    /// The client wants what the process writes to stderr.
    #[serde(default)]
    pub stderr: bool,
    /// How output is wrapped.
    #[serde(default)]
    pub framing: Framing,
}

impl AttachRequest {
    /// The request as the line to send, `\n` included.
    pub fn to_line(&self) -> String {
        format!(
            "{{\"stdin\":{},\"stdout\":{},\"stderr\":{},\"framing\":\"{}\"}}\n",
            self.stdin,
            self.stdout,
            self.stderr,
            match self.framing {
                Framing::Multiplexed => "multiplexed",
                Framing::Raw => "raw",
            }
        )
    }
}

/// How output bytes travel on an attach connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Framing {
    /// Each chunk after an 8-byte header, see [`frame_header`].
    #[default]
    Multiplexed,
    /// Bytes as they come (terminals).
    Raw,
}

/// The shim's answer to an [`AttachRequest`], as JSON ended by `\n`.
///
/// Once `ok` is read, all output written afterwards is delivered to this client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachReply {
    /// The client is registered.
    pub ok: bool,
    /// Why it isn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Standard stream a chunk belongs to; the value is the header's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum StreamKind {
    /// Standard output, and everything a terminal prints.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
}

impl StreamKind {
    /// The name json-file log lines use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Builds Docker's stream header: stream, three zero bytes, length (big endian).
///
/// Source: Docker Engine API, `POST /containers/{id}/attach`, "Stream format".
pub fn frame_header(stream: StreamKind, len: u32) -> [u8; FRAME_HEADER_LEN] {
    let [a, b, c, d] = len.to_be_bytes();
    [stream as u8, 0, 0, 0, a, b, c, d]
}

/// Reads a header made by [`frame_header`]; `None` for an unknown stream.
pub fn parse_frame_header(header: [u8; FRAME_HEADER_LEN]) -> Option<(StreamKind, u32)> {
    let [stream, _, _, _, a, b, c, d] = header;
    let stream = match stream {
        1 => StreamKind::Stdout,
        2 => StreamKind::Stderr,
        _ => return None,
    };
    Some((stream, u32::from_be_bytes([a, b, c, d])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_line_is_what_serde_reads() {
        let request = AttachRequest {
            stdin: true,
            stdout: true,
            stderr: false,
            framing: Framing::Raw,
        };
        let line = request.to_line();
        assert!(line.ends_with('\n'));
        assert_eq!(
            serde_json::from_str::<AttachRequest>(&line).unwrap(),
            request
        );
    }

    #[test]
    fn absent_fields_mean_no() {
        let request: AttachRequest = serde_json::from_str("{\"stdout\":true}").unwrap();
        assert!(request.stdout && !request.stdin && !request.stderr);
        assert_eq!(request.framing, Framing::Multiplexed);
    }

    #[test]
    fn frame_header_round_trips() {
        let header = frame_header(StreamKind::Stderr, 0x0102_0304);
        assert_eq!(header, [2, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(
            parse_frame_header(header),
            Some((StreamKind::Stderr, 0x0102_0304))
        );
        assert_eq!(parse_frame_header([9; 8]), None);
    }
}
