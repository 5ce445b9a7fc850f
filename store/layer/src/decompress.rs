//! Finding out how bytes are compressed, and undoing it.

use std::io::{self, BufRead, BufReader, Read};

use crate::LayerError;

/// How a stream is compressed, told by its first bytes and never by its name or media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952, several members one after the other too.
    Gzip,
    /// RFC 8878, several frames and skippable frames too.
    Zstd,
}

/// First bytes [`Compression::sniff`] wants to see.
pub const SNIFF_BYTES: usize = 6;

impl Compression {
    /// Recognises a compression by the first [`SNIFF_BYTES`] (fewer when there are no more).
    ///
    /// # Errors
    /// [`LayerError::Compression`] for bzip2, xz and lzip, which docker reads and Atoll doesn't.
    pub fn sniff(start: &[u8]) -> Result<Self, LayerError> {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Ok(Self::Gzip),
            // A frame, or a skippable frame as zstd:chunked and pzstd put first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err(LayerError::Compression("xz")),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => {
                Err(LayerError::Compression("bzip2"))
            }
            [b'L', b'Z', b'I', b'P', ..] => Err(LayerError::Compression("lzip")),
            _ => Ok(Self::None),
        }
    }

    /// The name used in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "plain tar",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Wraps `input` in the decoder for `self`.
    pub(crate) fn decoder<'a>(
        self,
        input: impl BufRead + 'a,
    ) -> Result<Box<dyn Read + 'a>, LayerError> {
        Ok(match self {
            Self::None => Box::new(input),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input).map_err(
                |source| LayerError::Decompress {
                    format: "zstd",
                    source,
                },
            )?),
        })
    }
}

/// Gives the plain bytes of `reader`, whichever way it is compressed.
///
/// # Errors
/// [`LayerError::Compression`] for a compression that isn't supported, [`LayerError::Read`] when
/// the first bytes can't be read.
pub fn decompress<'a>(reader: impl Read + 'a) -> Result<Box<dyn Read + 'a>, LayerError> {
    let mut reader = BufReader::with_capacity(crate::stream::CHUNK_BYTES, reader);
    let mut start = Vec::with_capacity(SNIFF_BYTES);
    // A pipe may give fewer bytes than asked for, so collect them and put them before the rest.
    io::Read::by_ref(&mut reader)
        .take(SNIFF_BYTES as u64)
        .read_to_end(&mut start)
        .map_err(LayerError::Read)?;
    let compression = Compression::sniff(&start)?;
    let input = io::Cursor::new(start).chain(reader);
    compression.decoder(input)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn plain_gzip_members_and_zstd_frames_are_undone() {
        let gzip = |text: &[u8]| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        };
        let two_members = [gzip(b"one "), gzip(b"two")].concat();
        let two_frames = [
            zstd::encode_all(&b"one "[..], 1).unwrap(),
            zstd::encode_all(&b"two"[..], 1).unwrap(),
        ]
        .concat();
        for bytes in [&b"one two"[..], &two_members, &two_frames] {
            let mut text = String::new();
            decompress(bytes)
                .unwrap()
                .read_to_string(&mut text)
                .unwrap();
            assert_eq!(text, "one two");
        }
    }

    #[test]
    fn unsupported_compressions_are_named() {
        let error = decompress(&b"\xfd7zXZ\0rest"[..]).err().unwrap();
        assert_eq!(error.to_string(), "xz compression is not supported");
        assert!(error.hint().unwrap().contains("gzip"));
    }
}
