//! Which ids of the host a container's own users are: a range for each container, so that one that got out finds nothing
//! of another's.

use std::fs;

use serde::{Deserialize, Serialize};

use super::registry::Registry;
use crate::error::{Error, Result};

/// How many users and groups a container has.
const SIZE: u32 = 1 << 16;
/// Where ranges begin, and the last one does. Source: systemd, UIDs and GIDs: "container UIDs", which are nobody's else
/// and which tools of the host leave alone.
const FIRST: u32 = 0x0008_0000;
const LAST: u32 = 0x6fff_0000;
/// Where ids are promised to users of the host. Source: subuid(5).
const PROMISED: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

/// Ids of the host from `first` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdRange {
    /// The container's root.
    pub(crate) first: u32,
    /// How many.
    pub(crate) size: u32,
}

impl IdRange {
    fn overlaps(self, other: Self) -> bool {
        let end = |range: Self| u64::from(range.first) + u64::from(range.size);
        u64::from(self.first) < end(other) && u64::from(other.first) < end(self)
    }

    /// The option of a mount that shows what `0` owns as the container's root's. Source: containerd, `uidmap=`.
    pub(crate) fn mapping(self) -> String {
        format!("0:{}:{}", self.first, self.size)
    }
}

/// A range for the container `id` that no other container of this engine has, nor a user of the host. Nobody else
/// chooses before the caller has recorded it.
///
/// # Errors
/// 500 when there is none left.
pub(crate) fn choose(id: &str, containers: &Registry) -> Result<IdRange> {
    let others = containers.all();
    let mut taken: Vec<IdRange> = others
        .iter()
        .filter_map(|container| container.record().id_range)
        .collect();
    for path in PROMISED {
        taken.extend(promised(&fs::read_to_string(path).unwrap_or_default()));
    }
    first_free(id, &taken)
        .ok_or_else(|| Error::internal("there is no free range of user ids for the container"))
}

/// Begins where the container's id says, so that it most likely gets the same one again, wherever it is made.
fn first_free(id: &str, taken: &[IdRange]) -> Option<IdRange> {
    let count = (LAST - FIRST) / SIZE + 1;
    let digits = id
        .get(..8)
        .and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let start = digits.unwrap_or(0) % count;
    (0..count)
        .map(|step| IdRange {
            first: FIRST + (start + step) % count * SIZE,
            size: SIZE,
        })
        .find(|range| !taken.iter().any(|other| other.overlaps(*range)))
}

/// `name:first:count` lines.
fn promised(text: &str) -> Vec<IdRange> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().rsplitn(3, ':');
            let size = fields.next()?.parse().ok()?;
            let first = fields.next()?.parse().ok()?;
            Some(IdRange { first, size })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_overlap() {
        let first = first_free("00000000ab", &[]).unwrap();
        assert_eq!(
            first,
            IdRange {
                first: FIRST,
                size: SIZE
            }
        );
        assert_eq!(
            first_free("00000000ab", &[first]).unwrap().first,
            FIRST + SIZE
        );
        assert_eq!(first_free("00000001ab", &[]).unwrap().first, FIRST + SIZE);
        let promised = promised("me:524288:65537\n# no\nbad:line\nyou:x:1\n");
        assert_eq!(promised.len(), 1);
        assert_eq!(
            first_free("00000000ab", &promised).unwrap().first,
            FIRST + 2 * SIZE
        );
        let all = IdRange {
            first: 0,
            size: u32::MAX,
        };
        assert_eq!(first_free("00000000ab", &[all]), None);
        let highest = first_free(&format!("{:08x}", (LAST - FIRST) / SIZE), &[]).unwrap();
        assert_eq!(highest.first, LAST);
    }
}
