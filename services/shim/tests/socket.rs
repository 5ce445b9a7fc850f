//! Whose the socket of a shim is that was started with it as stdin; needs root.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use atoll_shim_protocol::spawn;
use containerd_shim_protos::{Client, TaskClient, api};
use ttrpc::context;

use common::program;

/// Starts a shim and shuts it down; whether its socket is there afterwards.
///
/// * `address`: containerd's, empty for an engine.
fn leaves_its_socket(address: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join(spawn::SHIM_SOCKET);
    let listener = OwnedFd::from(UnixListener::bind(&socket).unwrap());
    let mut command = Command::new(program());
    if !address.is_empty() {
        command.args(["-address", address]);
    }
    let mut shim = command
        .args(["-namespace", spawn::NAMESPACE, "-id", "socket", "-bundle"])
        .arg(folder.path())
        .current_dir(folder.path())
        .env(spawn::STATE_ROOT_ENV, folder.path().join("state"))
        .env(spawn::LISTEN_ON_STDIN_ENV, &socket)
        .env_remove("TTRPC_ADDRESS")
        .stdin(listener)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let address = format!("unix://{}", socket.display());
    let task = TaskClient::new(Client::connect(&address).unwrap());
    let request = api::ShutdownRequest {
        id: "socket".to_owned(),
        ..Default::default()
    };
    // It may be gone before it has answered.
    let _ = task.shutdown(context::with_timeout(5_000_000_000), &request);
    assert!(shim.wait().unwrap().success());
    socket.exists()
}

#[test]
fn an_engines_socket_is_the_engines() {
    // The next run's could be there by now.
    assert!(leaves_its_socket(""));
}

#[test]
fn another_starters_socket_goes_with_the_shim() {
    assert!(!leaves_its_socket("/run/containerd/containerd.sock"));
}
