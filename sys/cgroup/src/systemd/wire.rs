//! Messages of D-Bus as bytes: what this crate sends, and the little of what comes back that it looks at.
//!
//! Source: D-Bus specification 0.43, "Message Protocol". Numbers are little-endian, values are aligned to their size, counted
//! from the message's begin, whose header's length is a multiple of eight.

use std::io;

/// Kinds of messages.
pub(super) const CALL: u8 = 1;
pub(super) const RETURN: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const SIGNAL: u8 = 4;

/// Longest message that is read: answers here are shorter than a kilobyte.
const MOST_BYTES: usize = 1 << 20;

/// Fields of a header.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Bytes of a message that grows at its end.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    pub(super) fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.align(8);
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.u32(value.into());
    }

    /// A string or the path of an object.
    pub(super) fn string(&mut self, text: &str) {
        self.u32(len(text.len()));
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    pub(super) fn signature(&mut self, text: &str) {
        // Signatures here are a few letters long.
        self.byte(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    /// An array, whose elements are aligned to `align` and written by `fill`.
    pub(super) fn array(&mut self, align: usize, fill: impl FnOnce(&mut Self)) {
        self.u32(0);
        let at = self.bytes.len();
        self.align(align);
        let first = self.bytes.len();
        fill(self);
        let size = len(self.bytes.len() - first);
        self.bytes[at - 4..at].copy_from_slice(&size.to_le_bytes());
    }
}

/// Lengths of messages are far below 4 GiB.
fn len(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Who is called, and what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    /// Of the arguments; empty without any.
    pub(super) signature: &'a str,
}

/// A call as it is sent.
///
/// * `serial`: not 0, another one for each call.
/// * `body`: the arguments.
pub(super) fn call(call: Call<'_>, serial: u32, body: &Writer) -> Vec<u8> {
    let mut out = Writer::default();
    out.bytes.extend([b'l', CALL, 0, 1]);
    out.u32(len(body.bytes.len()));
    out.u32(serial);
    out.array(8, |out| {
        for (field, kind, text) in [
            (PATH, "o", call.path),
            (INTERFACE, "s", call.interface),
            (MEMBER, "s", call.member),
            (DESTINATION, "s", call.destination),
            (SIGNATURE, "g", call.signature),
        ] {
            if text.is_empty() {
                continue;
            }
            out.align(8);
            out.byte(field);
            out.signature(kind);
            match kind {
                "g" => out.signature(text),
                _ => out.string(text),
            }
        }
    });
    out.align(8);
    out.bytes.extend(&body.bytes);
    out.bytes
}

/// What came.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) member: String,
    pub(super) error: String,
    pub(super) reply_to: u32,
    pub(super) signature: String,
    pub(super) body: Vec<u8>,
}

/// How long the message is that begins with `head`, its first 16 bytes.
pub(super) fn whole_len(head: &[u8; 16]) -> io::Result<usize> {
    if head[0] != b'l' || head[3] != 1 {
        return Err(bad("of another byte order or version"));
    }
    let number = |at: usize| {
        let bytes = [head[at], head[at + 1], head[at + 2], head[at + 3]];
        usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX)
    };
    let (body, fields) = (number(4), number(12));
    if body > MOST_BYTES || fields > MOST_BYTES {
        return Err(bad("that is too long"));
    }
    Ok((16 + fields).next_multiple_of(8) + body)
}

/// Reads a whole message.
pub(super) fn parse(bytes: &[u8]) -> io::Result<Message> {
    let mut reader = Reader { bytes, at: 12 };
    let mut message = Message {
        kind: *bytes.get(1).ok_or_else(short)?,
        ..Message::default()
    };
    let fields = reader.u32()?;
    let end = reader.at + usize::try_from(fields).map_err(|_| short())?;
    while reader.at < end {
        reader.align(8);
        let field = reader.byte()?;
        let kind = reader.signature()?;
        let text = match kind.as_str() {
            "s" | "o" => reader.string()?,
            "g" => reader.signature()?,
            "u" => {
                let number = reader.u32()?;
                if field == REPLY_SERIAL {
                    message.reply_to = number;
                }
                continue;
            }
            _ => return Err(bad("with a field of unknown type")),
        };
        match field {
            MEMBER => message.member = text,
            ERROR_NAME => message.error = text,
            SIGNATURE => message.signature = text,
            _ => {}
        }
    }
    reader.align(8);
    message.body = bytes.get(reader.at..).ok_or_else(short)?.to_vec();
    Ok(message)
}

/// Values of a message, in order.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { bytes: body, at: 0 }
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let end = self.at.checked_add(count).ok_or_else(short)?;
        let found = self.bytes.get(self.at..end).ok_or_else(short)?;
        self.at = end;
        Ok(found)
    }

    fn byte(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u32(&mut self) -> io::Result<u32> {
        self.align(4);
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A string or the path of an object.
    pub(super) fn string(&mut self) -> io::Result<String> {
        let count = usize::try_from(self.u32()?).map_err(|_| short())?;
        self.text(count)
    }

    pub(super) fn signature(&mut self) -> io::Result<String> {
        let count = self.byte()?;
        self.text(count.into())
    }

    fn text(&mut self, count: usize) -> io::Result<String> {
        let bytes = self.take(count)?.to_vec();
        self.take(1)?;
        String::from_utf8(bytes).map_err(|_| bad("whose text is no UTF-8"))
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a message {what}"))
}

fn short() -> io::Error {
    bad("that ends too early")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut body = Writer::default();
        body.string("a.scope");
        body.array(8, |body| {
            body.align(8);
            body.string("Delegate");
            body.signature("b");
            body.bool(true);
        });
        let of = Call {
            destination: "org.example",
            path: "/org/example",
            interface: "org.example.Manager",
            member: "Start",
            signature: "sa(sv)",
        };
        call(of, 7, &body)
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = sample();
        let mut head = [0; 16];
        head.copy_from_slice(&bytes[..16]);
        assert_eq!(whole_len(&head).unwrap(), bytes.len());
        let message = parse(&bytes).unwrap();
        assert_eq!((message.kind, message.member.as_str()), (CALL, "Start"));
        assert_eq!(message.signature, "sa(sv)");
        let mut body = Reader::new(&message.body);
        assert_eq!(body.string().unwrap(), "a.scope");
        // The array's length, without the padding before its first element.
        assert_eq!(body.u32().unwrap(), 4 + 9 + 3 + 4);
        body.align(8);
        assert_eq!(body.string().unwrap(), "Delegate");
        assert_eq!(body.signature().unwrap(), "b");
        assert_eq!(body.u32().unwrap(), 1);
    }

    #[test]
    fn what_ends_early_or_is_too_long_is_refused() {
        let bytes = sample();
        for end in 0..bytes.len() {
            let Ok(message) = parse(&bytes[..end]) else {
                continue;
            };
            let mut body = Reader::new(&message.body);
            let _ = body.string().and_then(|_| body.string());
        }
        let mut head = [0; 16];
        head.copy_from_slice(&bytes[..16]);
        head[0] = b'B';
        assert!(whole_len(&head).is_err());
        head[0] = b'l';
        head[7] = 0xff;
        assert!(whole_len(&head).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            if let Ok(message) = parse(&bytes) {
                let mut body = Reader::new(&message.body);
                drop(body.u32().and_then(|_| body.string()).and_then(|_| body.signature()));
            }
        }
    }
}
