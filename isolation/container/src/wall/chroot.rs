//! The wall `chroot`: the root directory only. It has a mount namespace, so that its mounts end with it, and control
//! groups, by which it is limited and ended; all else is the host's. What it cannot honour is refused by name.

use atoll_spec::{Namespace, NamespaceKind, Spec};

use crate::error::{Error, Result};
use crate::plan::file_name;

pub(super) fn prepare(spec: &Spec) -> Result<Spec> {
    let refuse = |field: &str, what: &str| {
        Err(Error::Plan {
            field: field.to_owned(),
            reason: format!(
                "{what}, which the wall chroot cannot honour: it separates the root directory only"
            ),
        })
    };
    let mut spec = spec.clone();
    let linux = spec.linux.get_or_insert_default();
    if let Some(other) = linux
        .namespaces
        .iter()
        .find(|namespace| namespace.kind != NamespaceKind::Mount)
    {
        let name = file_name(other.kind);
        return refuse("linux.namespaces", &format!("asks for a {name} namespace"));
    }
    let asked = [
        (
            !linux.uid_mappings.is_empty(),
            "linux.uidMappings",
            "maps user ids",
        ),
        (
            !linux.gid_mappings.is_empty(),
            "linux.gidMappings",
            "maps group ids",
        ),
        (
            !linux.sysctl.is_empty(),
            "linux.sysctl",
            "sets kernel parameters",
        ),
        (
            !linux.net_devices.is_empty(),
            "linux.netDevices",
            "moves network devices",
        ),
        (
            !linux.time_offsets.is_empty(),
            "linux.timeOffsets",
            "sets clocks",
        ),
        (
            spec.hostname.as_ref().is_some_and(|name| !name.is_empty()),
            "hostname",
            "sets a host name",
        ),
        (
            spec.domainname
                .as_ref()
                .is_some_and(|name| !name.is_empty()),
            "domainname",
            "sets a domain name",
        ),
    ];
    if let Some((_, field, what)) = asked.iter().find(|(asked, ..)| *asked) {
        return refuse(field, what);
    }
    if linux.namespaces.is_empty() {
        linux.namespaces.push(Namespace {
            kind: NamespaceKind::Mount,
            path: None,
        });
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare() -> Spec {
        let mut spec = atoll_spec::example();
        spec.hostname = None;
        spec.linux.as_mut().unwrap().namespaces.clear();
        spec
    }

    #[test]
    fn what_needs_namespaces_is_refused_by_name() {
        let refused = |change: fn(&mut Spec)| {
            let mut spec = bare();
            change(&mut spec);
            prepare(&spec).unwrap_err().to_string()
        };
        let said = refused(|spec| {
            spec.linux.as_mut().unwrap().namespaces.push(Namespace {
                kind: NamespaceKind::Network,
                path: None,
            });
        });
        assert_eq!(
            said,
            "linux.namespaces: asks for a net namespace, which the wall chroot cannot honour: it separates the root directory only"
        );
        assert!(
            refused(|spec| spec.hostname = Some("web".into()))
                .starts_with("hostname: sets a host name")
        );
        let said = refused(|spec| {
            let sysctl = ("net.ipv4.ip_forward".to_owned(), "1".to_owned());
            spec.linux.as_mut().unwrap().sysctl.extend([sysctl]);
        });
        assert!(said.starts_with("linux.sysctl: "), "{said}");
    }

    #[test]
    fn mounts_are_its_own() {
        let kinds = |spec: &Spec| -> Vec<NamespaceKind> {
            let list = &spec.linux.as_ref().unwrap().namespaces;
            list.iter().map(|namespace| namespace.kind).collect()
        };
        assert_eq!(kinds(&prepare(&bare()).unwrap()), [NamespaceKind::Mount]);
        let mut bundle = bare();
        bundle.linux = None;
        assert_eq!(kinds(&prepare(&bundle).unwrap()), [NamespaceKind::Mount]);
    }
}
