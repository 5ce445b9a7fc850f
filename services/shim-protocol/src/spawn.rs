//! Names and numbers both sides agree on when the engine starts a shim itself.
//!
//! The engine executes [`PROGRAM`] with `-namespace atoll -id <id> -bundle <bundle>`, the bundle as
//! working directory, a listening ttrpc socket as stdin ([`LISTEN_ON_STDIN_ENV`]; or as
//! [`LISTEN_FD`], with `/dev/null` as stdin and in a session of its own) and [`LOG_FILE`] as stdout
//! and stderr. No `start` command is involved.

use std::path::{Path, PathBuf};

/// File name of the shim's program.
pub const PROGRAM: &str = "containerd-shim-atoll-v2";

/// containerd's name of the runtime this shim serves.
pub const RUNTIME_NAME: &str = "io.containerd.atoll.v2";

/// Namespace the engine passes as `-namespace`.
pub const NAMESPACE: &str = "atoll";

/// File descriptor of the listening ttrpc socket in an engine-started shim.
pub const LISTEN_FD: i32 = 3;

/// Environment variable with the path of the listening socket, when that is the shim's stdin
/// instead of [`LISTEN_FD`]; the shim then leads a session of its own. In the end it removes the
/// socket, unless an engine started it: the engine removes the whole bundle, and may have made the
/// next run's by then.
///
/// A starter without hooks between fork and exec can be served by vfork, which a large one gains
/// milliseconds by.
pub const LISTEN_ON_STDIN_ENV: &str = "ATOLL_SHIM_LISTEN_ON_STDIN";

/// Environment variable with the numbers, separated by commas, of descriptors the shim keeps until the container's first
/// process has ended: sockets that hold published ports. It closes whatever else it was started with. Only the engine
/// sets it, to the empty text when there are none.
pub const HELD_ENV: &str = "ATOLL_SHIM_HELD";

/// Environment variable with the folder of isolation/container's state, e.g. `/run/atoll/runtime`.
pub const STATE_ROOT_ENV: &str = "ATOLL_STATE_ROOT";

/// State folder when [`STATE_ROOT_ENV`] is unset (containerd started the shim).
pub const DEFAULT_STATE_ROOT: &str = "/run/containerd/atoll";

/// Name, inside the container's folder below [`STATE_ROOT_ENV`], of the ttrpc socket of a shim that a command line has made
/// the keeper of a machine.
pub const KEEPER_SOCKET: &str = "keeper.sock";

/// What `stdout` of a request says when its streams are descriptors sent with it: stdin, stdout and stderr, or one terminal.
pub const SENT_STREAMS: &str = "atoll-sent:";

/// Name of the shim's ttrpc socket inside the bundle.
pub const SHIM_SOCKET: &str = "shim.sock";

/// Name of the init process's attach socket inside the bundle.
pub const ATTACH_SOCKET: &str = "attach.sock";

/// Name of the shim's own log inside the bundle.
pub const LOG_FILE: &str = "shim.log";

/// Name of the [`ExitRecord`](crate::ExitRecord) inside the bundle.
pub const EXIT_FILE: &str = "exit.json";

/// Attach socket of the exec `exec_id` in `bundle`.
pub fn exec_attach_socket(bundle: &Path, exec_id: &str) -> PathBuf {
    bundle.join(format!("exec-{exec_id}.sock"))
}
