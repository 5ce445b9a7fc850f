//! Who a container runs as: `USER` resolved against the image's own passwd and group files. Pure.

use std::collections::BTreeSet;

use crate::error::{Error, Result};

/// Who a process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// User.
    pub(crate) uid: u32,
    /// Primary group.
    pub(crate) gid: u32,
    /// Supplementary groups, the primary one first as Docker has it.
    pub(crate) additional_gids: Vec<u32>,
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Resolves `spec`, `user[:group]` each by name or number, empty for root.
///
/// * `passwd`, `group`: contents of the image's files, empty when it has none.
/// * `extra`: groups of `--group-add`, by name or number.
///
/// # Errors
/// 400 in dockerd's words when a name is in neither file or a number is out of range.
pub(crate) fn resolve(spec: &str, passwd: &str, group: &str, extra: &[String]) -> Result<Identity> {
    let (user, primary) = match spec.split_once(':') {
        Some((user, primary)) => (user, Some(primary).filter(|name| !name.is_empty())),
        None => (spec, None),
    };
    let wanted = if user.is_empty() { "0" } else { user };
    let number = number(wanted)?;
    let found = users(passwd)
        .find(|entry| entry.name == wanted || number.is_some_and(|uid| uid == entry.uid));
    let (uid, mut gid, name) = match (found, number) {
        (Some(entry), _) => (entry.uid, entry.gid, Some(entry.name)),
        (None, Some(uid)) => (uid, 0, None),
        (None, None) => {
            return Err(Error::invalid(format!(
                "unable to find user {wanted}: no matching entries in passwd file"
            ))
            .with_hint(Some(
                "give a number, or a name that the image's /etc/passwd has".to_owned(),
            )));
        }
    };
    let mut gids = BTreeSet::new();
    match primary {
        Some(primary) => gid = find_group(primary, group)?,
        // Membership counts only when no group is named, as in Docker.
        None => gids.extend(
            groups(group)
                .filter(|entry| {
                    name.is_some_and(|name| entry.members.split(',').any(|member| member == name))
                })
                .map(|entry| entry.gid),
        ),
    }
    for name in extra {
        gids.insert(find_group(name, group)?);
    }
    gids.remove(&gid);
    let additional_gids = std::iter::once(gid).chain(gids).collect();
    Ok(Identity {
        uid,
        gid,
        additional_gids,
    })
}

fn find_group(wanted: &str, group: &str) -> Result<u32> {
    let number = number(wanted)?;
    let found = groups(group)
        .find(|entry| entry.name == wanted || number.is_some_and(|gid| gid == entry.gid))
        .map(|entry| entry.gid);
    found.or(number).ok_or_else(|| {
        Error::invalid(format!(
            "unable to find group {wanted}: no matching entries in group file"
        ))
        .with_hint(Some(
            "give a number, or a name that the image's /etc/group has".to_owned(),
        ))
    })
}

/// The number `text` is, if it is one.
fn number(text: &str) -> Result<Option<u32>> {
    if text.is_empty() || !text.bytes().all(|digit| digit.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(number) if number <= i32::MAX.unsigned_abs() => Ok(Some(number)),
        _ => Err(Error::invalid(format!(
            "{text}: uids and gids must be in range 0-2147483647"
        ))),
    }
}

fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(User { name, uid, gid })
    })
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Group {
            name,
            gid,
            members: fields.next().unwrap_or_default(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nweb:x:33:33::/var/www:/bin/false\nbad:x:y:z\nops:x:1000:1000::/home/ops:/bin/sh\n";
    const GROUP: &str = "root:x:0:\ndisk:x:6:root,ops\nweb:x:33:\nadm:x:4:ops\nops:x:1000:\n";

    fn who(spec: &str) -> Result<Identity> {
        resolve(spec, PASSWD, GROUP, &[])
    }

    #[test]
    fn names_and_numbers() {
        let identity = |uid, gid, gids: &[u32]| Identity {
            uid,
            gid,
            additional_gids: gids.into(),
        };
        assert_eq!(who("").unwrap(), identity(0, 0, &[0, 6]));
        assert_eq!(who("root").unwrap(), identity(0, 0, &[0, 6]));
        assert_eq!(who("ops").unwrap(), identity(1000, 1000, &[1000, 4, 6]));
        assert_eq!(who("1000").unwrap(), identity(1000, 1000, &[1000, 4, 6]));
        assert_eq!(who("4321").unwrap(), identity(4321, 0, &[0]));
        assert_eq!(who("ops:web").unwrap(), identity(1000, 33, &[33]));
        assert_eq!(who("4321:8765").unwrap(), identity(4321, 8765, &[8765]));
        assert_eq!(who(":web").unwrap(), identity(0, 33, &[33]));
    }

    #[test]
    fn unknown_names_are_refused_in_dockers_words() {
        assert_eq!(
            who("nosuch").unwrap_err().to_string(),
            "unable to find user nosuch: no matching entries in passwd file"
        );
        assert_eq!(
            who("0:nosuch").unwrap_err().to_string(),
            "unable to find group nosuch: no matching entries in group file"
        );
        assert!(
            who("4294967295")
                .unwrap_err()
                .to_string()
                .contains("must be in range")
        );
    }

    #[test]
    fn images_without_files_and_extra_groups() {
        assert_eq!(resolve("", "", "", &[]).unwrap().additional_gids, [0]);
        let extra = ["adm".to_owned(), "77".to_owned()];
        assert_eq!(
            resolve("web", PASSWD, GROUP, &extra)
                .unwrap()
                .additional_gids,
            [33, 4, 77]
        );
    }
}
