//! Rules the types can't express. Spec: OCI runtime-spec 1.3, config.md and config-linux.md.

use std::collections::BTreeSet;
use std::path::Path;

use crate::{Linux, NamespaceKind, Process, Spec, SpecError};

impl Spec {
    /// Checks what the types can't express.
    ///
    /// # Errors
    /// [`SpecError::Field`] for the first field that can't be.
    pub fn validate(&self) -> Result<(), SpecError> {
        check_version(&self.oci_version)?;
        match &self.root {
            Some(root) if root.path.as_os_str().is_empty() => {
                return fault("root.path", "is empty");
            }
            Some(_) => {}
            None => return fault("root", "is missing"),
        }
        if let Some(process) = &self.process {
            process.validate()?;
        }
        for (idx, mount) in self.mounts.iter().enumerate() {
            if mount.destination.as_os_str().is_empty() {
                return fault(&format!("mounts[{idx}].destination"), "is empty");
            }
            no_nul(&format!("mounts[{idx}].destination"), &mount.destination)?;
            if mount.uid_mappings.is_empty() != mount.gid_mappings.is_empty() {
                return fault(
                    &format!("mounts[{idx}]"),
                    "uidMappings and gidMappings come together",
                );
            }
        }
        let empty = Linux::default();
        let linux = self.linux.as_ref().unwrap_or(&empty);
        linux.validate()?;
        if let Some(vm) = &self.vm {
            vm.validate()?;
        }
        let makes_uts = linux.has_namespace(NamespaceKind::Uts);
        if self.hostname.as_ref().is_some_and(|h| !h.is_empty()) && !makes_uts {
            return fault(
                "hostname",
                "unable to set hostname without a private UTS namespace",
            );
        }
        if self.domainname.as_ref().is_some_and(|d| !d.is_empty()) && !makes_uts {
            return fault(
                "domainname",
                "unable to set domainname without a private UTS namespace",
            );
        }
        Ok(())
    }
}

impl Process {
    /// Checks what the types can't express.
    ///
    /// # Errors
    /// [`SpecError::Field`] for the first field that can't be.
    pub fn validate(&self) -> Result<(), SpecError> {
        if self.args.is_empty() {
            return fault("process.args", "must not be empty");
        }
        if !self.cwd.is_absolute() {
            let cwd = self.cwd.display();
            return fault(
                "process.cwd",
                format!("must be an absolute path, is {cwd:?}"),
            );
        }
        no_nul("process.cwd", &self.cwd)?;
        for (idx, text) in self.args.iter().enumerate() {
            no_nul(&format!("process.args[{idx}]"), Path::new(text))?;
        }
        for (idx, text) in self.env.iter().enumerate() {
            no_nul(&format!("process.env[{idx}]"), Path::new(text))?;
        }
        let mut seen = BTreeSet::new();
        for (idx, rlimit) in self.rlimits.iter().enumerate() {
            if !seen.insert(&rlimit.kind) {
                return fault(
                    &format!("process.rlimits[{idx}]"),
                    format!("{} is given twice", rlimit.kind),
                );
            }
            if rlimit.soft > rlimit.hard {
                return fault(
                    &format!("process.rlimits[{idx}]"),
                    format!(
                        "{}: soft limit {} is above hard limit {}",
                        rlimit.kind, rlimit.soft, rlimit.hard
                    ),
                );
            }
        }
        if let Some(adj) = self.oom_score_adj
            && !(-1000..=1000).contains(&adj)
        {
            return fault(
                "process.oomScoreAdj",
                format!("{adj} is not in -1000..=1000"),
            );
        }
        Ok(())
    }
}

impl Linux {
    /// Whether a namespace of this kind is made or joined.
    #[must_use]
    pub fn has_namespace(&self, kind: NamespaceKind) -> bool {
        self.namespaces.iter().any(|ns| ns.kind == kind)
    }

    /// Whether a namespace of this kind is made, not joined.
    #[must_use]
    pub fn makes_namespace(&self, kind: NamespaceKind) -> bool {
        let mut all = self.namespaces.iter();
        all.any(|ns| ns.kind == kind && ns.joined().is_none())
    }

    fn validate(&self) -> Result<(), SpecError> {
        let mut seen = BTreeSet::new();
        for (idx, namespace) in self.namespaces.iter().enumerate() {
            let field = format!("linux.namespaces[{idx}]");
            if !seen.insert(namespace.kind) {
                return fault(&field, "this kind of namespace is given twice");
            }
            match &namespace.path {
                Some(path) if !path.as_os_str().is_empty() && !path.is_absolute() => {
                    return fault(&field, "path must be absolute");
                }
                _ => {}
            }
        }
        let maps = !self.uid_mappings.is_empty() || !self.gid_mappings.is_empty();
        if maps && !self.has_namespace(NamespaceKind::User) {
            return fault("linux.uidMappings", "needs a user namespace");
        }
        for (idx, device) in self.devices.iter().enumerate() {
            if !matches!(device.kind.as_str(), "c" | "u" | "b" | "p") {
                return fault(
                    &format!("linux.devices[{idx}].type"),
                    format!("{:?} is not one of c, u, b, p", device.kind),
                );
            }
            if !device.path.is_absolute() {
                return fault(&format!("linux.devices[{idx}].path"), "must be absolute");
            }
        }
        if let Some(propagation) = &self.rootfs_propagation {
            let word = propagation.strip_prefix('r').unwrap_or(propagation);
            if !matches!(word, "" | "shared" | "slave" | "private" | "unbindable") {
                return fault(
                    "linux.rootfsPropagation",
                    format!("{propagation:?} is not shared, slave, private or unbindable"),
                );
            }
        }
        for key in self.sysctl.keys() {
            if key.is_empty()
                || key
                    .split(['.', '/'])
                    .any(|part| part.is_empty() || part == "..")
            {
                return fault("linux.sysctl", format!("{key:?} is not a parameter name"));
            }
        }
        Ok(())
    }
}

/// A version as semver.org has it, of major 1: newer minor versions only add.
fn check_version(text: &str) -> Result<(), SpecError> {
    let wrong = |reason: &str| fault("ociVersion", format!("{text:?} {reason}"));
    let (core, build) = text.split_once('+').unwrap_or((text, "0"));
    let (core, pre) = core.split_once('-').unwrap_or((core, "0"));
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if !pre.split('.').all(is_word) || !build.split('.').all(is_word) {
        return wrong("is not a semantic version");
    }
    let numbers: Vec<&str> = core.split('.').collect();
    let is_number = |word: &&str| {
        let zeros = word.len() > 1 && word.starts_with('0');
        !word.is_empty() && !zeros && word.bytes().all(|byte| byte.is_ascii_digit())
    };
    if numbers.len() != 3 || !numbers.iter().all(is_number) {
        return wrong("is not a semantic version");
    }
    if numbers[0] != "1" {
        return wrong("is not supported, need 1.x");
    }
    Ok(())
}

pub(crate) fn fault<T>(field: &str, reason: impl Into<String>) -> Result<T, SpecError> {
    Err(SpecError::Field {
        field: field.to_owned(),
        reason: reason.into(),
    })
}

pub(crate) fn no_nul(field: &str, path: &Path) -> Result<(), SpecError> {
    use std::os::unix::ffi::OsStrExt;
    if path.as_os_str().as_bytes().contains(&0) {
        return fault(field, "holds a NUL byte");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::{Namespace, NamespaceKind, example};

    #[test]
    fn example_is_valid() {
        example().validate().unwrap();
    }

    #[test]
    fn versions_are_semantic_and_of_major_one() {
        for good in [
            "1.0.0",
            "1.0.2-dev",
            "1.3.0+build.7",
            "1.99.0-rc.1",
            "1.0.0-x-y",
        ] {
            super::check_version(good).unwrap();
        }
        for bad in [
            "", "1.0", "1.0.x", "1.01.0", "v1.0.0", "1.0.0-", "1.0.0+", "2.0.0", "0.9.0",
        ] {
            assert!(super::check_version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn faults_name_the_field() {
        let mut spec = example();
        spec.process.as_mut().unwrap().cwd = "relative".into();
        let text = spec.validate().unwrap_err().to_string();
        assert_eq!(
            text,
            "process.cwd: must be an absolute path, is \"relative\""
        );

        let mut spec = example();
        let linux = spec.linux.as_mut().unwrap();
        linux.namespaces.retain(|ns| ns.kind != NamespaceKind::Uts);
        let text = spec.validate().unwrap_err().to_string();
        assert!(
            text.starts_with("hostname: unable to set hostname"),
            "{text}"
        );

        let mut spec = example();
        let linux = spec.linux.as_mut().unwrap();
        linux.namespaces.push(Namespace {
            kind: NamespaceKind::Pid,
            path: None,
        });
        assert!(spec.validate().is_err());
    }
}
