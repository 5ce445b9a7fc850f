//! The contents of a directory: blocks of entries sorted by name.
//!
//! A block is an array of 12-byte entries (inode 8, offset of the name 2, type 1, zero), then the names. The offset of the
//! first name tells how many there are; a name ends where the next begins, the last one at a zero or the block's end.

use crate::BLOCK;

const ENTRY: usize = 12;

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name<'a> {
    pub(crate) name: &'a [u8],
    /// What it names: an inode's place, and its type as in `d_type`'s order of the format.
    pub(crate) nid: u64,
    pub(crate) file_type: u8,
}

/// How many bytes a directory with names of these lengths has: whole blocks, then what the last one uses.
pub(crate) fn size(lengths: impl Iterator<Item = usize>) -> u64 {
    let (mut blocks, mut used) = (0, 0);
    for length in lengths {
        let more = (ENTRY + length) as u64;
        if used + more > BLOCK {
            blocks += 1;
            used = 0;
        }
        used += more;
    }
    blocks * BLOCK + used
}

/// The bytes; as many as [`size`] says.
pub(crate) fn encode(names: &[Name<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = names;
    while !rest.is_empty() {
        let mut used = 0;
        let fits = |name: &&Name<'_>| {
            used += ENTRY + name.name.len();
            used <= BLOCK as usize
        };
        let count = rest.iter().take_while(fits).count();
        let (block, after) = rest.split_at(count);
        rest = after;
        let mut offset = count * ENTRY;
        for name in block {
            bytes.extend(name.nid.to_le_bytes());
            bytes.extend((offset as u16).to_le_bytes());
            bytes.extend([name.file_type, 0]);
            offset += name.name.len();
        }
        for name in block {
            bytes.extend(name.name);
        }
        if !rest.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All names of a directory, by the rules above.
    fn decode(bytes: &[u8]) -> Vec<(Vec<u8>, u64)> {
        let mut names = Vec::new();
        for block in bytes.chunks(BLOCK as usize) {
            let first = u16::from_le_bytes([block[8], block[9]]);
            let count = usize::from(first) / ENTRY;
            for index in 0..count {
                let entry = &block[index * ENTRY..];
                let from = usize::from(u16::from_le_bytes([entry[8], entry[9]]));
                let to = if index + 1 < count {
                    usize::from(u16::from_le_bytes([entry[20], entry[21]]))
                } else {
                    let end = block[from..].iter().position(|byte| *byte == 0);
                    end.map_or(block.len(), |end| from + end)
                };
                let nid = u64::from_le_bytes(entry[..8].try_into().unwrap());
                names.push((block[from..to].to_vec(), nid));
            }
        }
        names
    }

    proptest! {
        #[test]
        fn what_is_encoded_has_its_size_and_is_read_back(
            names in proptest::collection::vec(proptest::collection::vec(1u8..=255, 1..=255), 1..200)
        ) {
            let given: Vec<_> = (0..).zip(&names).map(|(nid, name)| Name { name, nid, file_type: 1 }).collect();
            let bytes = encode(&given);
            prop_assert_eq!(bytes.len() as u64, size(names.iter().map(Vec::len)));
            let expected: Vec<_> = names.iter().cloned().zip(0..).collect();
            prop_assert_eq!(decode(&bytes), expected);
        }
    }
}
