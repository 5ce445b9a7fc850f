//! Entry names made safe: cleaned by their text alone, before the kernel sees them.

/// Why an entry's name can't be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadPath {
    /// More `..` than directories to leave.
    Escapes,
}

/// Drops leading slashes, `.` and doubled slashes, and takes `..` back, all by text.
///
/// The result is relative, without a trailing slash, and empty for the layer's root. Docker
/// cleans names the same way; what is left is resolved by the kernel beneath the root.
pub(super) fn clean(path: &[u8]) -> Result<Vec<u8>, BadPath> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or(BadPath::Escapes)?;
            }
            _ => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

/// Splits a cleaned path into its parent directory and its last name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// What a name says about lower layers.
///
/// Spec: OCI image-spec layer.md#whiteouts.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whiteout<'a> {
    /// An ordinary name.
    None,
    /// The whole directory hides what is below.
    Opaque,
    /// Hides this name.
    Name(&'a [u8]),
    /// aufs' own book-keeping (`.wh..wh.plnk`, …): to be skipped.
    Bookkeeping,
    /// `.wh.` before nothing, `.` or `..`.
    Invalid,
}

impl<'a> Whiteout<'a> {
    pub(super) fn of(name: &'a [u8]) -> Self {
        let Some(hidden) = name.strip_prefix(b".wh.") else {
            return Self::None;
        };
        match hidden {
            b".wh..opq" => Self::Opaque,
            b"" | b"." | b".." => Self::Invalid,
            _ if hidden.starts_with(b".wh.") => Self::Bookkeeping,
            _ => Self::Name(hidden),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_by_text() {
        for (path, cleaned) in [
            (&b"./a//b/"[..], &b"a/b"[..]),
            (b"/etc/passwd", b"etc/passwd"),
            (b"a/../b", b"b"),
            (b"./", b""),
            (b"a/..", b""),
        ] {
            assert_eq!(clean(path).as_deref(), Ok(cleaned));
        }
        for path in [&b"../x"[..], b"a/../../x", b"/..", b".."] {
            assert_eq!(clean(path), Err(BadPath::Escapes));
        }
    }

    #[test]
    fn whiteouts_are_told_apart() {
        assert_eq!(Whiteout::of(b".wh.a"), Whiteout::Name(b"a"));
        assert_eq!(Whiteout::of(b".wh..wh..opq"), Whiteout::Opaque);
        assert_eq!(Whiteout::of(b".wh..wh.plnk"), Whiteout::Bookkeeping);
        assert_eq!(Whiteout::of(b".wh..a"), Whiteout::Name(b".a"));
        assert_eq!(Whiteout::of(b".wh..."), Whiteout::Invalid);
        assert_eq!(Whiteout::of(b".wh."), Whiteout::Invalid);
        assert_eq!(Whiteout::of(b"wh.a"), Whiteout::None);
    }
}
