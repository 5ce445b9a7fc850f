//! One 512-byte tar header block, taken apart.
//!
//! Formats: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".

/// Bytes of a tar block.
pub(crate) const BLOCK_BYTES: usize = 512;

/// A header block as it came.
pub(crate) struct Header<'a>(pub(crate) &'a [u8; BLOCK_BYTES]);

/// Why a header field is wrong.
pub(crate) type Reason = String;

impl<'a> Header<'a> {
    /// Whether the block is all zeros: the archive's end.
    pub(crate) fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// Whether the checksum field fits the block, in either historical reading.
    pub(crate) fn has_right_checksum(&self) -> bool {
        let Ok(Some(wanted)) = number(&self.0[148..156]).map(|sum| i64::try_from(sum).ok()) else {
            return false;
        };
        let mut unsigned = 0i64;
        let mut signed = 0i64;
        for (index, byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&index) {
                b' '
            } else {
                *byte
            };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        wanted == unsigned || wanted == signed
    }

    pub(crate) fn type_flag(&self) -> u8 {
        self.0[156]
    }

    pub(crate) fn is_gnu(&self) -> bool {
        self.0[257..265] == *b"ustar  \0"
    }

    /// The path, with ustar's prefix put before it.
    pub(crate) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[0..100]);
        let has_prefix = self.0[257..262] == *b"ustar" && !self.is_gnu();
        let prefix = if has_prefix {
            text(&self.0[345..500])
        } else {
            &[]
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        let mut path = prefix.to_vec();
        path.push(b'/');
        path.extend_from_slice(name);
        path
    }

    pub(crate) fn link(&self) -> &'a [u8] {
        text(&self.0[157..257])
    }

    pub(crate) fn mode(&self) -> Result<u32, Reason> {
        Ok(u32::try_from(number(&self.0[100..108])? & 0o7777).unwrap_or(0))
    }

    pub(crate) fn uid(&self) -> Result<u32, Reason> {
        id(number(&self.0[108..116])?, "uid")
    }

    pub(crate) fn gid(&self) -> Result<u32, Reason> {
        id(number(&self.0[116..124])?, "gid")
    }

    pub(crate) fn size_bytes(&self) -> Result<u64, Reason> {
        size(number(&self.0[124..136])?)
    }

    pub(crate) fn mtime_s(&self) -> Result<i64, Reason> {
        i64::try_from(number(&self.0[136..148])?).map_err(|_| "time out of range".to_owned())
    }

    /// Major and minor number, absent in pre-POSIX headers.
    pub(crate) fn device(&self) -> Result<(u32, u32), Reason> {
        Ok((
            id(number(&self.0[329..337])?, "device number")?,
            id(number(&self.0[337..345])?, "device number")?,
        ))
    }

    /// The four sparse (offset, length) slots of an old GNU sparse header.
    pub(crate) fn sparse_slots(&self) -> &'a [u8] {
        &self.0[386..482]
    }

    pub(crate) fn has_sparse_extension(&self) -> bool {
        self.0[482] != 0
    }

    /// The size a sparse file has once expanded.
    pub(crate) fn sparse_real_size_bytes(&self) -> Result<u64, Reason> {
        size(number(&self.0[483..495])?)
    }
}

/// Parses pairs of 12-byte numbers until an empty one; true when the list ended.
pub(crate) fn sparse_segments(slots: &[u8], into: &mut Vec<(u64, u64)>) -> Result<(), Reason> {
    for slot in slots.chunks_exact(24) {
        if slot[0] == 0 && slot[12] == 0 {
            break;
        }
        into.push((size(number(&slot[..12])?)?, size(number(&slot[12..])?)?));
    }
    Ok(())
}

fn text(field: &[u8]) -> &[u8] {
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len());
    &field[..end]
}

/// Octal text, or GNU's base-256 when the first bit is set.
fn number(field: &[u8]) -> Result<i128, Reason> {
    if field[0] & 0x80 != 0 {
        let is_negative = field[0] & 0x40 != 0;
        let first = if is_negative {
            field[0] | 0x80
        } else {
            field[0] & 0x7f
        };
        let mut value = if is_negative {
            i128::from(first.cast_signed())
        } else {
            first.into()
        };
        for byte in &field[1..] {
            value = value
                .checked_mul(256)
                .ok_or_else(|| "number out of range".to_owned())?
                + i128::from(*byte);
        }
        return Ok(value);
    }
    let mut value = 0i128;
    let mut digits = field.iter().skip_while(|byte| **byte == b' ');
    for byte in digits.by_ref() {
        match byte {
            b'0'..=b'7' => value = value * 8 + i128::from(byte - b'0'),
            0 | b' ' => break,
            _ => return Err("header number is not octal".to_owned()),
        }
    }
    Ok(value)
}

fn id(value: i128, what: &str) -> Result<u32, Reason> {
    u32::try_from(value).map_err(|_| format!("{what} {value} out of range"))
}

fn size(value: i128) -> Result<u64, Reason> {
    i64::try_from(value)
        .ok()
        .and_then(|value| u64::try_from(value).ok())
        .ok_or_else(|| format!("size {value} out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0"), Ok(0o644));
        assert_eq!(number(b"   644 \0"), Ok(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Ok(0));
        assert_eq!(number(b"\x80\0\0\0\0\0\x01\0"), Ok(256));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff"), Ok(-1));
        assert!(number(b"12z4567\0").is_err());
    }

    #[test]
    fn sizes_above_i64_are_refused() {
        assert!(size(number(b"\x80\0\0\0\x80\0\0\0\0\0\0\0").unwrap()).is_err());
        assert!(size(-1).is_err());
    }
}
