//! Containers: a bundle in, running processes out.

mod container;
mod error;
mod id;
mod request;

pub use container::{Container, Created, ExecProcess, InitProcess, create};
pub use error::{Error, ErrorKind, Result};
pub use id::ContainerId;
pub use request::{CreateRequest, ExecRequest, RootfsMount, StartBy, StdioRequest};
