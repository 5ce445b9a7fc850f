//! Device access rules, and what remains of a list of them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Kind of device node a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DeviceKind {
    /// Both kinds.
    All,
    /// Block devices.
    Block,
    /// Character devices.
    Character,
}

/// Set of accesses: read, write, create the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceAccess {
    /// Opening for reading.
    pub read: bool,
    /// Opening for writing.
    pub write: bool,
    /// `mknod`.
    pub mknod: bool,
}

impl DeviceAccess {
    /// All three.
    pub const ALL: Self = Self {
        read: true,
        write: true,
        mknod: true,
    };

    /// Reads letters `r`, `w`, `m`; the empty string means all. `None` for another letter.
    pub fn parse(letters: &str) -> Option<Self> {
        if letters.is_empty() {
            return Some(Self::ALL);
        }
        let mut access = Self {
            read: false,
            write: false,
            mknod: false,
        };
        for letter in letters.chars() {
            match letter {
                'r' => access.read = true,
                'w' => access.write = true,
                'm' => access.mknod = true,
                _ => return None,
            }
        }
        Some(access)
    }

    /// The kernel's bits: `BPF_DEVCG_ACC_MKNOD` 1, `_READ` 2, `_WRITE` 4.
    pub(crate) fn bits(self) -> u8 {
        u8::from(self.mknod) | u8::from(self.read) << 1 | u8::from(self.write) << 2
    }
}

impl fmt::Display for DeviceAccess {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (set, letter) in [(self.read, "r"), (self.write, "w"), (self.mknod, "m")] {
            if set {
                out.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// One allow or deny rule.
///
/// Spec: OCI runtime-spec config-linux.md#allowed-device-list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Allow or deny.
    pub allow: bool,
    /// Kind of node. `All` means every device, whatever the numbers say (as in the kernel).
    pub kind: DeviceKind,
    /// Major number; every one when absent.
    pub major: Option<u32>,
    /// Minor number; every one when absent.
    pub minor: Option<u32>,
    /// Which accesses.
    pub access: DeviceAccess,
}

impl DeviceRule {
    /// Denies every access to every device.
    pub const DENY_ALL: Self = Self {
        allow: false,
        kind: DeviceKind::All,
        major: None,
        minor: None,
        access: DeviceAccess::ALL,
    };

    /// An allow rule with every access for one character device (`None` minor: all of the major).
    pub const fn allow_character(major: u32, minor: Option<u32>) -> Self {
        Self {
            allow: true,
            kind: DeviceKind::Character,
            major: Some(major),
            minor,
            access: DeviceAccess::ALL,
        }
    }

    /// What every container may use: `mknod` of anything, null, zero, full, random, urandom, tty,
    /// console, ptmx and pseudo-terminals.
    ///
    /// Spec: OCI runtime-spec config-linux.md#default-devices; the runtime appends it to the
    /// configuration's list as runc does.
    pub fn defaults() -> Vec<Self> {
        let mknod = |kind| Self {
            allow: true,
            kind,
            major: None,
            minor: None,
            access: DeviceAccess {
                read: false,
                write: false,
                mknod: true,
            },
        };
        let mut rules = vec![mknod(DeviceKind::Character), mknod(DeviceKind::Block)];
        for (major, minor) in [
            (1, Some(3)),
            (1, Some(5)),
            (1, Some(7)),
            (1, Some(8)),
            (1, Some(9)),
            (5, Some(0)),
            (5, Some(1)),
            (5, Some(2)),
            (136, None),
        ] {
            rules.push(Self::allow_character(major, minor));
        }
        rules
    }
}

impl fmt::Display for DeviceRule {
    /// The line cgroup v1's `devices.allow` and `devices.deny` take.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.kind {
            DeviceKind::All => return out.write_str("a"),
            DeviceKind::Block => 'b',
            DeviceKind::Character => 'c',
        };
        let number =
            |value: Option<u32>| value.map_or_else(|| "*".to_owned(), |value| value.to_string());
        write!(
            out,
            "{letter} {}:{} {}",
            number(self.major),
            number(self.minor),
            self.access
        )
    }
}

/// The rules that still matter: those after the last one about all devices, and that one's verdict.
///
/// The verdict for a device no rule matches is `.0`; without a rule about all devices it is "allow",
/// the state of a new cgroup.
pub(crate) fn effective(rules: &[DeviceRule]) -> (bool, &[DeviceRule]) {
    match rules.iter().rposition(|rule| rule.kind == DeviceKind::All) {
        Some(at) => (rules[at].allow, &rules[at + 1..]),
        None => (true, rules),
    }
}

/// Whether the rules deny anything at all.
pub(crate) fn restricts(rules: &[DeviceRule]) -> bool {
    let (default_allow, rest) = effective(rules);
    !default_allow || rest.iter().any(|rule| !rule.allow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_kernel_lines() {
        assert_eq!(DeviceRule::DENY_ALL.to_string(), "a");
        let lines: Vec<String> = DeviceRule::defaults()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(lines[0], "c *:* m");
        assert_eq!(lines[2], "c 1:3 rwm");
        assert_eq!(lines[10], "c 136:* rwm");
    }

    #[test]
    fn rules_before_one_about_all_devices_do_not_matter() {
        let null = DeviceRule::allow_character(1, Some(3));
        let allow_all = DeviceRule {
            allow: true,
            ..DeviceRule::DENY_ALL
        };
        assert!(!restricts(&[]));
        assert!(!restricts(&[DeviceRule::DENY_ALL, null, allow_all]));
        assert!(restricts(&[DeviceRule::DENY_ALL, null]));
        assert_eq!(
            effective(&[allow_all, DeviceRule::DENY_ALL, null]),
            (false, &[null][..])
        );
    }
}
