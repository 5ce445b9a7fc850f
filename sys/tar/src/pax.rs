//! PAX extended header records.
//!
//! Format: POSIX.1-2017 pax, "pax Extended Header"; GNU tar manual, "Storing Sparse Files";
//! star's `SCHILY.xattr.` records.

use super::header::Reason;

/// What the records of one extended header say about the entry after it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PaxRecords {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size_bytes: Option<u64>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) mtime: Option<(i64, u32)>,
    pub(crate) atime: Option<(i64, u32)>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: PaxSparse,
}

/// The `GNU.sparse.*` records: which of GNU's three ways an entry is sparse in, if any.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PaxSparse {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) real_size_bytes: Option<u64>,
    pub(crate) segments: Vec<(u64, u64)>,
    pending_offset: Option<u64>,
}

impl PaxSparse {
    pub(crate) fn is_present(&self) -> bool {
        self.real_size_bytes.is_some()
    }

    /// Whether the segment list is at the start of the entry's data.
    pub(crate) fn has_map_in_data(&self) -> bool {
        self.is_present() && self.major == 1 && self.minor == 0
    }
}

/// Parses the data of an `x` entry.
///
/// Each record is `<length> <key>=<value>\n` where the length counts itself; a value may hold
/// any byte, newlines too, so nothing but the length ends it.
pub(crate) fn parse(mut data: &[u8]) -> Result<PaxRecords, Reason> {
    let mut records = PaxRecords::default();
    while !data.is_empty() && data[0] != 0 {
        let (key, value, rest) = record(data).ok_or("malformed pax record")?;
        data = rest;
        apply(&mut records, key, value)
            .map_err(|()| format!("pax record `{}` is invalid", String::from_utf8_lossy(key)))?;
    }
    Ok(records)
}

fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&data[..space])?).ok()?;
    if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
        return None;
    }
    let body = &data[space + 1..length - 1];
    let equals = body.iter().position(|byte| *byte == b'=')?;
    if equals == 0 {
        return None;
    }
    Some((&body[..equals], &body[equals + 1..], &data[length..]))
}

fn apply(records: &mut PaxRecords, key: &[u8], value: &[u8]) -> Result<(), ()> {
    let sparse = &mut records.sparse;
    match key {
        b"path" => records.path = non_empty(value)?,
        b"linkpath" => records.link = non_empty(value)?,
        b"size" => records.size_bytes = size(value)?,
        b"uid" => records.uid = id(value)?,
        b"gid" => records.gid = id(value)?,
        b"mtime" => records.mtime = time(value)?,
        b"atime" => records.atime = time(value)?,
        b"GNU.sparse.major" => sparse.major = id(value)?.unwrap_or(0),
        b"GNU.sparse.minor" => sparse.minor = id(value)?.unwrap_or(0),
        b"GNU.sparse.name" => sparse.name = non_empty(value)?,
        b"GNU.sparse.realsize" | b"GNU.sparse.size" => sparse.real_size_bytes = size(value)?,
        b"GNU.sparse.offset" => sparse.pending_offset = size(value)?,
        b"GNU.sparse.numbytes" => {
            let offset = sparse.pending_offset.take().ok_or(())?;
            sparse.segments.push((offset, size(value)?.ok_or(())?));
        }
        b"GNU.sparse.map" => {
            let mut numbers = value.split(|byte| *byte == b',');
            while let Some(offset) = numbers.next() {
                let length = numbers.next().ok_or(())?;
                let pair = (size(offset)?.ok_or(())?, size(length)?.ok_or(())?);
                sparse.segments.push(pair);
            }
        }
        _ => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                if name.is_empty() || name.contains(&0) {
                    return Err(());
                }
                records.xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
    }
    Ok(())
}

/// An empty value takes a record back, as POSIX says.
fn non_empty(value: &[u8]) -> Result<Option<Vec<u8>>, ()> {
    if value.contains(&0) {
        return Err(());
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits)
        .ok()?
        .parse::<i64>()
        .ok()
        .and_then(|n| u64::try_from(n).ok())
}

fn size(value: &[u8]) -> Result<Option<u64>, ()> {
    if value.is_empty() {
        Ok(None)
    } else {
        decimal(value).map(Some).ok_or(())
    }
}

fn id(value: &[u8]) -> Result<Option<u32>, ()> {
    match size(value)? {
        None => Ok(None),
        Some(number) => u32::try_from(number).map(Some).map_err(|_| ()),
    }
}

/// Seconds and nanoseconds of `[-]seconds[.fraction]`; digits past nine are dropped.
fn time(value: &[u8]) -> Result<Option<(i64, u32)>, ()> {
    if value.is_empty() {
        return Ok(None);
    }
    let (is_negative, digits) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let dot = digits
        .iter()
        .position(|byte| *byte == b'.')
        .unwrap_or(digits.len());
    let seconds = decimal(&digits[..dot])
        .and_then(|s| i64::try_from(s).ok())
        .ok_or(())?;
    let mut nanos = 0u32;
    let mut scale = 100_000_000u32;
    for byte in digits.get(dot + 1..).unwrap_or_default() {
        if !byte.is_ascii_digit() {
            return Err(());
        }
        nanos += u32::from(byte - b'0') * scale;
        scale /= 10;
    }
    Ok(Some(match (is_negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_newlines_and_equal_signs() {
        let records = parse(b"13 path=a\n=b\n").unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"a\n=b"[..]));
    }

    #[test]
    fn wrong_lengths_are_refused() {
        for data in [
            &b"12 path=a\n"[..],
            b"8 path=a\n",
            b"path=a\n",
            b"0 path=a\n",
            b"3 =\n",
        ] {
            assert!(parse(data).is_err(), "{:?}", String::from_utf8_lossy(data));
        }
    }

    #[test]
    fn times_before_1970_keep_their_fraction() {
        assert_eq!(time(b"-1.25"), Ok(Some((-2, 750_000_000))));
        assert_eq!(
            time(b"1700000000.123456789123"),
            Ok(Some((1_700_000_000, 123_456_789)))
        );
        assert_eq!(time(b"12x"), Err(()));
    }

    #[test]
    fn xattr_values_are_binary() {
        let records = parse(b"26 SCHILY.xattr.user.a=\x00\xff\n").unwrap();
        assert_eq!(records.xattrs, [(b"user.a".to_vec(), vec![0, 0xff])]);
    }
}
