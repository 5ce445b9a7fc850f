//! What engine and shim say to each other beyond containerd's Task API.
//!
//! ```text
//! engine ── spawn (socket as fd 3, see [`spawn`]) ──────────────▶ shim
//!        ── Create{stdout: StdioUri}, Start, Wait … (ttrpc) ────▶
//!        ── attach.sock: AttachRequest, then bytes both ways ───▶
//!        ◀─ bundle/exit.json: ExitRecord ────────────────────────
//! ```
//!
//! Only words and shapes live here: no process is started and no socket opened. Entry points:
//! [`StdioUri`], [`AttachRequest`], [`ExitRecord`], [`start_error_exit_code`].

#![forbid(unsafe_code)]

mod attach;
mod exit;
pub mod machine;
pub mod spawn;
mod stdio;

pub use attach::{
    AttachReply, AttachRequest, FRAME_HEADER_LEN, Framing, StreamKind, frame_header,
    parse_frame_header,
};
pub use exit::{ExitRecord, start_error_exit_code};
pub use stdio::{LogConfig, LogDriver, StdioUri, StdioUriError};
