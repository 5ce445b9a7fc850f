//! What a test's guest runs to talk to its host by vsock: `send PORT BYTES` or `echo PORT`.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a part of a test: an error fails it"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::thread;

use atoll_sys::vsock;
use rustix::net::{Shutdown, SocketFlags};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["send", port, bytes] => send(port.parse().unwrap(), bytes.parse().unwrap()),
        ["echo", port] => echo(port.parse().unwrap()),
        _ => panic!("{words:?}"),
    }
}

/// Sends bytes to a port of the host, and gets the same ones back.
fn send(port: u32, count: usize) {
    let mut socket = File::from(vsock::connect(vsock::HOST, port).unwrap());
    let sent: Vec<u8> = (0..=250).cycle().take(count).collect();
    let (mut writer, bytes) = (socket.try_clone().unwrap(), sent.clone());
    let writing = thread::spawn(move || {
        writer.write_all(&bytes).unwrap();
        rustix::net::shutdown(&writer, Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    socket.read_to_end(&mut got).unwrap();
    writing.join().unwrap();
    assert!(got == sent, "{} bytes came back of {count}", got.len());
}

/// Serves one connection.
fn echo(port: u32) {
    let listener = vsock::listen(port).unwrap();
    println!("do vsock");
    let socket = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC).unwrap();
    let mut socket = File::from(socket);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = socket.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        socket.write_all(&buffer[..count]).unwrap();
    }
}
