//! Whether the kernel has AppArmor, and which profile a process enters for what its configuration names.
//!
//! Whether a profile is loaded, the kernel says when it is entered: its list takes a mounted securityfs.

use std::ffi::{CStr, CString};
use std::fs;

use crate::error::{Error, Result};

/// The profile that confines nothing.
const UNCONFINED: &CStr = c"unconfined";

/// Whether processes can enter profiles.
#[must_use]
pub(crate) fn is_enabled() -> bool {
    fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

/// What a process enters for `profile`: without AppArmor nothing confines it, which is what `unconfined` asks for.
///
/// # Errors
/// [`Error::Plan`] in runc's words for another profile without AppArmor.
pub(crate) fn entered(profile: Option<CString>, has_apparmor: bool) -> Result<Option<CString>> {
    match profile {
        Some(profile) if !has_apparmor => match profile.as_c_str() == UNCONFINED {
            true => Ok(None),
            false => Err(Error::Plan {
                field: "process.apparmorProfile".to_owned(),
                reason: "apparmor: config provided but apparmor not supported".to_owned(),
            }),
        },
        profile => Ok(profile),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_apparmor_only_what_confines_nothing_is_had() {
        let asked = |profile: &str| Some(CString::new(profile).unwrap());
        assert_eq!(entered(asked("unconfined"), false).unwrap(), None);
        assert_eq!(entered(None, false).unwrap(), None);
        let refused = entered(asked("docker-default"), false).unwrap_err();
        assert!(refused.to_string().contains("apparmor not supported"));
    }

    #[test]
    fn with_apparmor_each_profile_is_entered() {
        for profile in ["unconfined", "docker-default", "outer//&inner"] {
            let asked = Some(CString::new(profile).unwrap());
            assert_eq!(entered(asked.clone(), true).unwrap(), asked);
        }
    }
}
