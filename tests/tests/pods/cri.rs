//! A client of the Kubernetes Container Runtime Interface: unary gRPC calls over a Unix socket.
//!
//! Only the fields that the tests need are written and read, by their numbers in `runtime.v1`
//! (kubernetes/cri-api, pkg/apis/runtime/v1/api.proto).

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

/// A protobuf message that is being written.
#[derive(Clone, Default)]
pub(crate) struct Fields(Vec<u8>);

impl Fields {
    pub(crate) fn text(self, number: u8, value: &str) -> Self {
        self.bytes(number, value.as_bytes())
    }

    pub(crate) fn texts(self, number: u8, values: &[&str]) -> Self {
        let add = |fields: Self, value: &&str| fields.text(number, value);
        values.iter().fold(self, add)
    }

    pub(crate) fn message(self, number: u8, value: &Self) -> Self {
        self.bytes(number, &value.0)
    }

    /// An entry of a map from strings to strings.
    pub(crate) fn entry(self, number: u8, (key, value): (&str, &str)) -> Self {
        self.message(number, &Self::default().text(1, key).text(2, value))
    }

    pub(crate) fn number(mut self, number: u8, value: u64) -> Self {
        self.0.push(number << 3);
        self.varint(value);
        self
    }

    fn bytes(mut self, number: u8, value: &[u8]) -> Self {
        assert!(number < 16, "one byte holds the tag");
        self.0.push(number << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }
}

/// A message that was received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message(Vec<(u64, Value)>);

#[derive(Clone, Debug)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

impl Message {
    fn parse(mut bytes: &[u8]) -> Self {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes);
            let value = match tag & 7 {
                0 => Value::Number(varint(&mut bytes)),
                2 => {
                    let length = usize::try_from(varint(&mut bytes)).unwrap();
                    let (value, rest) = bytes.split_at(length);
                    bytes = rest;
                    Value::Bytes(value.to_vec())
                }
                other => panic!("a field of wire type {other}"),
            };
            fields.push((tag >> 3, value));
        }
        Self(fields)
    }

    fn bytes(&self, number: u64) -> &[u8] {
        let found = self.0.iter().find_map(|(known, value)| match value {
            Value::Bytes(bytes) if *known == number => Some(bytes.as_slice()),
            _ => None,
        });
        found.unwrap_or_default()
    }

    /// Whether `text` is in it anywhere.
    pub(crate) fn holds(&self, text: &str) -> bool {
        let has = |bytes: &[u8]| {
            let mut windows = bytes.windows(text.len());
            windows.any(|window| window == text.as_bytes())
        };
        let mut values = self.0.iter().map(|(_, value)| value);
        values.any(|value| matches!(value, Value::Bytes(bytes) if has(bytes)))
    }

    pub(crate) fn text(&self, number: u64) -> String {
        String::from_utf8_lossy(self.bytes(number)).into_owned()
    }

    pub(crate) fn message(&self, number: u64) -> Self {
        Self::parse(self.bytes(number))
    }

    /// Every one of a repeated field.
    pub(crate) fn messages(&self, number: u64) -> Vec<Self> {
        let found = self.0.iter().filter_map(|(known, value)| match value {
            Value::Bytes(bytes) if *known == number => Some(Self::parse(bytes)),
            _ => None,
        });
        found.collect()
    }

    pub(crate) fn number(&self, number: u64) -> u64 {
        let found = self.0.iter().find_map(|(known, value)| match value {
            Value::Number(value) if *known == number => Some(*value),
            _ => None,
        });
        found.unwrap_or_default()
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().expect("a number ends");
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            break;
        }
    }
    value
}

/// The runtime service at a socket.
pub(crate) struct Cri {
    socket: PathBuf,
    runtime: Runtime,
}

impl Cri {
    pub(crate) fn at(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            runtime: Builder::new_current_thread().enable_all().build().unwrap(),
        }
    }

    /// Calls a method of `runtime.v1.RuntimeService`, or `ListImages` of its neighbour.
    ///
    /// # Errors
    /// The message of the status that is not OK, or why there is none.
    pub(crate) fn call(&self, method: &str, request: &Fields) -> Result<Message, String> {
        self.runtime.block_on(async {
            let limit = std::time::Duration::from_secs(100);
            let answer = tokio::time::timeout(limit, self.exchange(method, request));
            answer.await.map_err(|error| error.to_string())?
        })
    }

    async fn exchange(&self, method: &str, request: &Fields) -> Result<Message, String> {
        fn said(error: impl std::fmt::Display) -> String {
            error.to_string()
        }
        let socket = UnixStream::connect(&self.socket).await.map_err(said)?;
        let (client, connection) = h2::client::handshake(socket).await.map_err(said)?;
        tokio::spawn(connection);
        let mut client = client.ready().await.map_err(said)?;
        let service = match method {
            "ListImages" => "runtime.v1.ImageService",
            _ => "runtime.v1.RuntimeService",
        };
        let head = http::Request::post(format!("http://cri/{service}/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(said)?;
        let (answer, mut body) = client.send_request(head, false).map_err(said)?;
        // One message, not compressed.
        let mut frame = vec![0];
        let length = u32::try_from(request.0.len()).map_err(said)?;
        frame.extend(length.to_be_bytes());
        frame.extend(&request.0);
        body.send_data(Bytes::from(frame), true).map_err(said)?;
        let (head, mut body) = answer.await.map_err(said)?.into_parts();
        let mut received = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.map_err(said)?;
            let room = body.flow_control().release_capacity(data.len());
            room.map_err(said)?;
            received.extend_from_slice(&data);
        }
        let trailers = body.trailers().await.map_err(said)?;
        // An error without a body has its status in the head.
        let status = trailers.unwrap_or(head.headers);
        let get = |name: &str| {
            let value = status.get(name).map(http::HeaderValue::as_bytes);
            String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
        };
        if get("grpc-status") != "0" {
            return Err(get("grpc-message"));
        }
        Ok(Message::parse(received.get(5..).unwrap_or_default()))
    }
}
