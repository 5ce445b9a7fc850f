//! Compressed ELF files inside a bzImage, and compressed modules.

use std::io::{self, Read};

use crate::error::NotAKernel;

/// The largest kernel we take: several times what distributions ship.
const LIMIT: u64 = 512 << 20;

/// What a payload is compressed with, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Gzip,
    Xz,
    Lz4,
    Zstd,
    Plain,
}

impl Format {
    fn of(payload: &[u8]) -> Option<Self> {
        Some(match payload.get(..4)? {
            [0x1F, 0x8B, ..] => Self::Gzip,
            [0xFD, b'7', b'z', b'X'] => Self::Xz,
            // The legacy frame, which is what the kernel's build makes.
            [0x02, 0x21, 0x4C, 0x18] => Self::Lz4,
            [0x28, 0xB5, 0x2F, 0xFD] => Self::Zstd,
            [0x7F, b'E', b'L', b'F'] => Self::Plain,
            _ => return None,
        })
    }
}

/// The ELF in a bzImage's payload.
///
/// The payload's last four bytes are the ELF's size: the kernel's build appends it, and gzip ends in it anyway.
///
/// # Errors
/// [`NotAKernel::Compression`] for bzip2, LZMA and LZO; [`NotAKernel::Corrupt`] when the data are damaged or not as
/// long as they say.
pub(super) fn payload(payload: &[u8]) -> Result<Vec<u8>, NotAKernel> {
    let format = Format::of(payload).ok_or(NotAKernel::Compression)?;
    if format == Format::Plain {
        return Ok(payload.to_vec());
    }
    let (data, size) = payload.split_at(payload.len() - 4);
    let size = u32::from_le_bytes([size[0], size[1], size[2], size[3]]);
    if u64::from(size) > LIMIT {
        return Err(NotAKernel::Corrupt("it claims to be over 512 MiB".into()));
    }
    let data = if format == Format::Gzip {
        payload
    } else {
        data
    };
    let corrupt = |why: io::Error| NotAKernel::Corrupt(why.to_string());
    let elf = expand(format, data, u64::from(size)).map_err(corrupt)?;
    if elf.len() as u64 != u64::from(size) {
        return Err(NotAKernel::Corrupt(format!(
            "{} bytes came out where {size} were promised",
            elf.len()
        )));
    }
    Ok(elf)
}

/// The contents of an .xz file, at most `limit` bytes.
///
/// # Errors
/// When the data are damaged or more than that.
pub(crate) fn xz_file(data: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    let contents = expand(Format::Xz, data, limit + 1)?;
    if contents.len() as u64 > limit {
        return Err(io::Error::other("it is too large"));
    }
    Ok(contents)
}

/// The first `limit` bytes that come out.
fn expand(format: Format, data: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    let mut read = |reader: &mut dyn Read| reader.take(limit).read_to_end(&mut contents);
    match format {
        Format::Gzip => read(&mut flate2::read::GzDecoder::new(data))?,
        Format::Xz => read(&mut lzma_rust2::XzReader::new(data, false))?,
        Format::Lz4 => read(&mut lz4_flex::frame::FrameDecoder::new(data))?,
        Format::Zstd => read(&mut zstd::stream::read::Decoder::new(data)?)?,
        Format::Plain => read(&mut &*data)?,
    };
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn elf() -> Vec<u8> {
        let mut elf = b"\x7FELF".to_vec();
        // Calls, for the filter that xz kernels use.
        for number in 0..60_000u32 {
            elf.extend([0xE8]);
            elf.extend((number * 5 % 777).to_le_bytes());
        }
        elf
    }

    fn sized(mut data: Vec<u8>) -> Vec<u8> {
        data.extend(u32::try_from(elf().len()).unwrap().to_le_bytes());
        data
    }

    fn gzip() -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&elf()).unwrap();
        encoder.finish().unwrap()
    }

    fn xz() -> Vec<u8> {
        use lzma_rust2::{FilterConfig, FilterType, XzOptions, XzWriter};
        let mut options = XzOptions::with_preset(1);
        let filter = FilterConfig {
            filter_type: FilterType::BcjX86,
            property: 0,
        };
        options.filters.insert(0, filter);
        let mut writer = XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(&elf()).unwrap();
        sized(writer.finish().unwrap())
    }

    fn lz4() -> Vec<u8> {
        let mut data = vec![0x02, 0x21, 0x4C, 0x18];
        let block = lz4_flex::block::compress(&elf());
        data.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
        data.extend(block);
        sized(data)
    }

    #[test]
    fn every_format_a_kernel_comes_in_is_expanded() {
        let zstd = sized(zstd::encode_all(&elf()[..], 1).unwrap());
        for (name, data) in [
            ("gzip", gzip()),
            ("xz", xz()),
            ("lz4", lz4()),
            ("zstd", zstd),
        ] {
            assert!(payload(&data).unwrap() == elf(), "{name}");
            let mut wrong = data.clone();
            let last = wrong.len() - 4;
            wrong[last] ^= 1;
            assert!(
                matches!(payload(&wrong), Err(NotAKernel::Corrupt(_))),
                "{name}"
            );
            let mut damaged = data;
            damaged.truncate(last / 2);
            assert!(
                matches!(payload(&damaged), Err(NotAKernel::Corrupt(_))),
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_no_known_format_or_too_large_is_refused() {
        assert_eq!(payload(b"BZh9abcdef"), Err(NotAKernel::Compression));
        assert_eq!(payload(b"BZ"), Err(NotAKernel::Compression));
        let mut bomb = gzip();
        let at = bomb.len() - 1;
        bomb[at] = 0x7F;
        assert!(matches!(payload(&bomb), Err(NotAKernel::Corrupt(_))));
        assert!(xz_file(&xz()[..], 10).is_err());
        let whole = xz_file(&xz()[..xz().len() - 4], elf().len() as u64);
        assert!(whole.unwrap() == elf());
    }
}
