use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::connection::BUFFER;
use super::packet::SHUT_RECEIVE;
use super::*;
use crate::driver::{Driver, Part};

const CID: u64 = 7;

fn device(folder: &TempDir, max_connections: usize) -> VsockDevice {
    VsockDevice::new(VsockOptions {
        guest_cid: CID,
        path: folder.path().join("v"),
        max_connections,
    })
    .unwrap()
}

/// A guest with receive buffers given.
struct Guest {
    driver: Driver,
    folder: TempDir,
}

impl Guest {
    fn new() -> Self {
        Self::with_limit(8)
    }

    fn with_limit(max_connections: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let driver = Driver::start(Box::new(device(&folder, max_connections)));
        let mut guest = Self { driver, folder };
        for _ in 0..8 {
            guest.give_buffer();
        }
        guest
    }

    fn give_buffer(&mut self) {
        self.driver.submit(RECEIVE, &[Part::In(HEADER + 4096)]);
        self.driver.kick(RECEIVE);
    }

    fn listen(&self, port: u32) -> UnixListener {
        let listener = UnixListener::bind(self.folder.path().join(format!("v_{port}"))).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    }

    fn header(operation: Operation, host: u32, guest: u32) -> Header {
        Header {
            source_cid: CID,
            target_cid: HOST_CID,
            source_port: guest,
            target_port: host,
            len: 0,
            kind: STREAM,
            operation: operation as u16,
            flags: 0,
            buffer: 1 << 20,
            forwarded: 0,
        }
    }

    fn send(&mut self, header: Header, data: &[u8]) {
        let header = Header {
            len: data.len() as u32,
            ..header
        };
        let bytes = header.bytes();
        if data.is_empty() {
            self.driver.submit(TRANSMIT, &[Part::Out(&bytes)]);
        } else {
            self.driver
                .submit(TRANSMIT, &[Part::Out(&bytes), Part::Out(data)]);
        }
        self.driver.kick(TRANSMIT);
        while self.driver.used(TRANSMIT).is_some() {}
    }

    fn try_receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let packet = self.driver.received(RECEIVE)?;
        self.give_buffer();
        let header = Header::parse(packet[..HEADER].try_into().unwrap());
        assert_eq!((header.source_cid, header.target_cid), (HOST_CID, CID));
        assert_eq!(header.len as usize, packet.len() - HEADER);
        Some((header, packet[HEADER..].to_vec()))
    }

    fn receive(&mut self) -> (Header, Vec<u8>) {
        let mut packet = self.try_receive();
        if packet.is_none() {
            let mut got = None;
            let (driver, folder) = (&mut self.driver, &self.folder);
            driver.poll_until(|driver| {
                got = driver.received(RECEIVE);
                got.is_some()
            });
            assert!(folder.path().exists());
            let bytes = got.unwrap();
            self.give_buffer();
            let header = Header::parse(bytes[..HEADER].try_into().unwrap());
            packet = Some((header, bytes[HEADER..].to_vec()));
        }
        packet.unwrap()
    }

    fn expect(&mut self, operation: Operation) -> (Header, Vec<u8>) {
        let (header, data) = self.receive();
        assert_eq!(Operation::from_code(header.operation), Some(operation));
        (header, data)
    }

    /// A connection from guest port 99 to host port 5.
    fn connected(&mut self) -> UnixStream {
        let listener = self.listen(5);
        self.send(Self::header(Operation::Request, 5, 99), &[]);
        self.expect(Operation::Response);
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream
    }
}

#[test]
fn the_guest_connects_and_bytes_go_both_ways() {
    let mut guest = Guest::new();
    assert_eq!(guest.driver.config(8), CID.to_le_bytes());
    let mut host = guest.connected();
    guest.send(Guest::header(Operation::Data, 5, 99), b"hello");
    let mut bytes = [0; 5];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    host.write_all(b"welcome").unwrap();
    let (header, data) = guest.expect(Operation::Data);
    assert_eq!((header.source_port, header.target_port), (5, 99));
    assert_eq!((header.forwarded, header.buffer), (5, BUFFER));
    assert_eq!(data, b"welcome");
    guest.send(Guest::header(Operation::CreditRequest, 5, 99), &[]);
    assert_eq!(guest.expect(Operation::CreditUpdate).0.forwarded, 5);
}

#[test]
fn a_port_nobody_listens_at_resets_the_guest() {
    let mut guest = Guest::new();
    guest.send(Guest::header(Operation::Request, 6, 99), &[]);
    let (header, _) = guest.expect(Operation::Reset);
    assert_eq!((header.source_port, header.target_port), (6, 99));
}

#[test]
fn the_host_connects_by_the_documented_greeting() {
    let mut guest = Guest::new();
    let mut host = UnixStream::connect(guest.folder.path().join("v")).unwrap();
    host.write_all(b"CONN").unwrap();
    guest.driver.poll_until(|driver| !driver.is_host_ready());
    host.write_all(b"ECT 1024\nearly").unwrap();
    let (request, _) = guest.expect(Operation::Request);
    assert_eq!(request.target_port, 1024);
    let port = request.source_port;
    guest.send(Guest::header(Operation::Response, port, 1024), &[]);
    let mut answer = vec![0; format!("OK {port}\n").len()];
    host.read_exact(&mut answer).unwrap();
    assert_eq!(answer, format!("OK {port}\n").into_bytes());
    let (header, data) = guest.expect(Operation::Data);
    // The greeting's answer is not the guest's and does not count.
    assert_eq!((data.as_slice(), header.forwarded), (&b"early"[..], 0));
}

#[test]
fn a_guest_that_refuses_closes_the_host_connection() {
    let mut guest = Guest::new();
    let mut host = UnixStream::connect(guest.folder.path().join("v")).unwrap();
    host.write_all(b"CONNECT 1\n").unwrap();
    let (request, _) = guest.expect(Operation::Request);
    guest.send(Guest::header(Operation::Reset, request.source_port, 1), &[]);
    assert_eq!(host.read(&mut [0; 8]).unwrap(), 0);
    let mut wrong = UnixStream::connect(guest.folder.path().join("v")).unwrap();
    wrong.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let mut quick = guest.driver.is_host_ready();
    guest.driver.poll_until(|driver| {
        quick |= driver.is_host_ready();
        quick && !driver.is_host_ready()
    });
    assert!(matches!(wrong.read(&mut [0; 8]), Ok(0) | Err(_)));
}

#[test]
fn a_slow_host_uses_up_the_guests_credit_and_gets_everything() {
    let mut guest = Guest::new();
    let mut host = guest.connected();
    let mut sent = 0usize;
    let mut told = 0usize;
    let mut got = Vec::new();
    let mut piece = vec![0; 32 << 10];
    let total = 3 << 20;
    while got.len() < total {
        while sent < total && sent - told + piece.len() <= BUFFER as usize {
            for (at, byte) in piece.iter_mut().enumerate() {
                *byte = ((sent + at) % 253) as u8;
            }
            let piece = piece.clone();
            guest.send(Guest::header(Operation::Data, 5, 99), &piece);
            sent += piece.len();
        }
        let mut some = [0; 64 << 10];
        let count = host.read(&mut some).unwrap();
        got.extend_from_slice(&some[..count]);
        if guest.driver.is_host_ready() {
            guest.driver.transport.host_ready();
        }
        while let Some((header, _)) = guest.try_receive() {
            assert_eq!(header.operation, Operation::CreditUpdate as u16);
            told = header.forwarded as usize;
        }
    }
    assert!(
        got.iter()
            .enumerate()
            .all(|(at, byte)| *byte == (at % 253) as u8)
    );
}

#[test]
fn a_guest_that_ignores_its_credit_is_reset() {
    let mut guest = Guest::new();
    let _host = guest.connected();
    let piece = vec![1; 60_000];
    let mut operation = 0;
    for _ in 0..40 {
        guest.send(Guest::header(Operation::Data, 5, 99), &piece);
        while let Some((header, _)) = guest.try_receive() {
            operation = header.operation;
        }
        if operation == Operation::Reset as u16 {
            return;
        }
    }
    panic!("never reset");
}

#[test]
fn the_host_sends_no_more_than_the_guest_has_room_for() {
    let mut guest = Guest::new();
    let mut host = guest.connected();
    let small = Header {
        buffer: 10,
        ..Guest::header(Operation::CreditUpdate, 5, 99)
    };
    guest.send(small, &[]);
    host.write_all(b"0123456789abcdef").unwrap();
    assert_eq!(guest.expect(Operation::Data).1, b"0123456789");
    assert!(!guest.driver.is_host_ready());
    guest.send(
        Header {
            forwarded: 4,
            ..small
        },
        &[],
    );
    assert_eq!(guest.expect(Operation::Data).1, b"abcd");
}

#[test]
fn ends_are_shut_down_one_by_one() {
    let mut guest = Guest::new();
    let mut host = guest.connected();
    host.write_all(b"last words").unwrap();
    host.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(guest.expect(Operation::Data).1, b"last words");
    let (header, _) = guest.expect(Operation::Shutdown);
    assert_eq!(header.flags, packet::SHUT_SEND);
    guest.send(Guest::header(Operation::Data, 5, 99), b"bye");
    let both = Header {
        flags: SHUT_RECEIVE | packet::SHUT_SEND,
        ..Guest::header(Operation::Shutdown, 5, 99)
    };
    guest.send(both, &[]);
    guest.expect(Operation::Reset);
    let mut rest = String::new();
    host.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "bye");
}

#[test]
fn connections_are_bounded() {
    let mut guest = Guest::with_limit(2);
    let _listener = guest.listen(5);
    for (port, expected) in [
        (1, Operation::Response),
        (2, Operation::Response),
        (3, Operation::Reset),
    ] {
        guest.send(Guest::header(Operation::Request, 5, port), &[]);
        guest.expect(expected);
    }
    guest.send(Guest::header(Operation::Reset, 5, 1), &[]);
    guest.send(Guest::header(Operation::Request, 5, 4), &[]);
    guest.expect(Operation::Response);
}

#[test]
fn packets_out_of_order_or_in_other_names_do_no_harm() {
    let mut guest = Guest::new();
    let _host = guest.connected();
    let data = Guest::header(Operation::Data, 5, 99);
    for stranger in [
        Header {
            source_cid: 8,
            ..data
        },
        Header {
            target_cid: 3,
            ..data
        },
    ] {
        guest.send(stranger, b"x");
        assert!(guest.try_receive().is_none());
    }
    guest.send(Guest::header(Operation::Data, 5, 98), b"x");
    guest.expect(Operation::Reset);
    guest.send(Header { kind: 2, ..data }, b"x");
    guest.expect(Operation::Reset);
    guest.driver.submit(TRANSMIT, &[Part::Out(&[0; 43])]);
    guest.driver.kick(TRANSMIT);
    assert!(guest.driver.used(TRANSMIT).is_some());
    let lying = Header { len: 1000, ..data };
    let bytes = lying.bytes();
    guest.driver.submit(TRANSMIT, &[Part::Out(&bytes)]);
    guest.driver.kick(TRANSMIT);
    guest.expect(Operation::Reset);
}

#[test]
fn control_packets_wait_in_bounded_number_for_buffers() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::start(Box::new(device(&folder, 4)));
    let bytes = Guest::header(Operation::Data, 5, 99).bytes();
    let mut answered = 0;
    for _ in 0..MAX_CONTROLS + 5 {
        driver.submit(TRANSMIT, &[Part::Out(&bytes)]);
        driver.kick(TRANSMIT);
        answered += usize::from(driver.used(TRANSMIT).is_some());
    }
    assert_eq!(answered, MAX_CONTROLS);
    driver.submit(RECEIVE, &[Part::In(HEADER + 1)]);
    driver.kick(RECEIVE);
    assert!(driver.used(TRANSMIT).is_some() && driver.used(TRANSMIT).is_none());
}

#[test]
fn after_a_restore_the_guest_hears_that_connections_are_gone() {
    let mut guest = Guest::new();
    let mut host = guest.connected();
    let state = guest.driver.transport.save();
    let other = tempfile::tempdir().unwrap();
    let line = crate::driver::Line::default();
    let memory = guest.driver.memory.clone();
    guest.driver.transport =
        crate::MmioTransport::new(Box::new(device(&other, 8)), memory, Box::new(line));
    assert_eq!(host.read(&mut [0; 8]).unwrap(), 0);
    guest.driver.transport.restore(&state).unwrap();
    guest.driver.transport.resume();
    let (written, event) = guest.driver.request(EVENT, &[], &[8]);
    assert_eq!((written, event), (4, vec![0; 8]));
    let mut again = UnixStream::connect(other.path().join("v")).unwrap();
    again.write_all(b"CONNECT 9\n").unwrap();
    guest.expect(Operation::Request);
}

#[test]
fn a_listener_made_by_someone_else_serves_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("given");
    let listener = UnixListener::bind(&path).unwrap();
    let options = VsockOptions {
        guest_cid: CID,
        path: folder.path().join("v"),
        max_connections: 1,
    };
    let device = VsockDevice::over(options, listener.into()).unwrap();
    let mut driver = Driver::start(Box::new(device));
    driver.submit(RECEIVE, &[Part::In(HEADER + 64)]);
    driver.kick(RECEIVE);
    let mut host = UnixStream::connect(&path).unwrap();
    host.write_all(b"CONNECT 5\n").unwrap();
    let mut request = None;
    driver.poll_until(|driver| {
        request = driver.received(RECEIVE);
        request.is_some()
    });
    let header = Header::parse(request.unwrap()[..].try_into().unwrap());
    assert_eq!((header.operation, header.target_port), (1, 5));
    drop(driver);
    assert!(path.exists());
}

#[test]
fn reserved_context_ids_and_taken_paths_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _first = device(&folder, 1);
    let options = |guest_cid| VsockOptions {
        guest_cid,
        path: folder.path().join(format!("cid-{guest_cid}")),
        max_connections: 1,
    };
    for reserved in [0, 1, 2, 0xFFFF_FFFF, 1 << 40] {
        let outcome = VsockDevice::new(options(reserved));
        assert!(matches!(outcome, Err(DeviceError::ContextId(cid)) if cid == reserved));
    }
    let taken = VsockOptions {
        path: folder.path().join("v"),
        ..options(3)
    };
    assert!(matches!(
        VsockDevice::new(taken),
        Err(DeviceError::Kernel(..))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn random_packets_never_panic(
        packets in prop::collection::vec(
            (0u16..9, 4u32..7, 98u32..100, 0u32..5, any::<u32>(), any::<u32>(), 0usize..200), 1..60)
    ) {
        let mut guest = Guest::new();
        let listener = guest.listen(5);
        let mut streams = Vec::new();
        for (operation, host, port, flags, buffer, forwarded, len) in packets {
            let header = Header {
                operation,
                flags,
                buffer,
                forwarded,
                ..Guest::header(Operation::Data, host, port)
            };
            guest.send(header, &vec![1; len]);
            if let Ok((mut stream, _)) = listener.accept() {
                stream.write_all(&[2; 100]).unwrap();
                streams.push(stream);
            }
            guest.driver.transport.host_ready();
            while guest.try_receive().is_some() {}
        }
        prop_assert!(!guest.driver.is_broken());
    }
}
