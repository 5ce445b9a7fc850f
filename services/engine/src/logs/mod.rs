//! Reading containers' logs back: json-file lines, tail, rotation, following.

mod line;
mod reader;
mod tail;
mod watch;

pub(crate) use reader::{LogRequest, stream};
