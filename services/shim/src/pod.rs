//! Pods of Kubernetes: which containers belong together.
//!
//! containerd's CRI plugin makes a container for the pod itself, its sandbox, and says in annotations of each further one
//! which sandbox it is for. Source: containerd 1.6, pkg/cri/annotations.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use atoll_spec::{Cpu, Memory, Resources};
use serde::Deserialize;

use crate::failure::Failure;

/// `sandbox` or `container`.
const KIND: &str = "io.kubernetes.cri.container-type";
/// The sandbox's id, in both.
const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";

/// What a container is to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role<'a> {
    /// It is in none.
    Alone,
    /// It is the pod's first, which has its namespaces.
    Sandbox,
    /// It belongs to the sandbox of this id.
    Member(&'a str),
}

/// What `annotations` say of their container.
pub(crate) fn role(annotations: &BTreeMap<String, String>) -> Role<'_> {
    let sandbox = annotations.get(SANDBOX).map_or("", String::as_str);
    match annotations.get(KIND).map(String::as_str) {
        Some("sandbox") => Role::Sandbox,
        Some("container") if !sandbox.is_empty() => Role::Member(sandbox),
        _ => Role::Alone,
    }
}

/// What the annotations say of the sizes of a sandbox's pod, as limits: what the kubelet
/// sent as the sum of its containers'.
///
/// # Errors
/// A size that is no number.
pub(crate) fn sizes(annotations: &BTreeMap<String, String>) -> Result<Resources, Failure> {
    let number = |name: &str| -> Result<Option<i64>, Failure> {
        let name = format!("io.kubernetes.cri.sandbox-{name}");
        let Some(text) = annotations.get(&name) else {
            return Ok(None);
        };
        let number: i64 = text
            .parse()
            .map_err(|_| Failure::invalid(format!("bad annotation {name}: {text:?}")))?;
        Ok((number > 0).then_some(number))
    };
    let period = number("cpu-period")?;
    Ok(Resources {
        memory: Some(Memory {
            limit: number("memory")?,
            ..Memory::default()
        }),
        cpu: Some(Cpu {
            quota: number("cpu-quota")?,
            period: period.map(i64::cast_unsigned),
            ..Cpu::default()
        }),
        ..Resources::default()
    })
}

/// Of a configuration, what says so.
#[derive(Deserialize)]
struct Configuration {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// The id of the sandbox that the container in `bundle` belongs to, if that is another's.
///
/// # Errors
/// When its configuration cannot be read.
pub(crate) fn of(bundle: &Path) -> io::Result<Option<String>> {
    let path = bundle.join("config.json");
    let bad = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("cannot read {}: {error}", path.display()),
        )
    };
    let file = BufReader::new(File::open(&path).map_err(bad)?);
    let found: Configuration = serde_json::from_reader(file).map_err(|error| bad(error.into()))?;
    Ok(match role(&found.annotations) {
        Role::Member(sandbox) => Some(sandbox.to_owned()),
        Role::Alone | Role::Sandbox => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox_of(config: &str) -> io::Result<Option<String>> {
        let bundle = tempfile::tempdir().unwrap();
        std::fs::write(bundle.path().join("config.json"), config).unwrap();
        of(bundle.path())
    }

    #[test]
    fn only_a_container_of_a_pod_has_another_sandbox() {
        let member = r#"{"annotations": {"io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": "pod1"}, "process": {"args": ["x"]}}"#;
        assert_eq!(sandbox_of(member).unwrap().as_deref(), Some("pod1"));
        for other in [
            "{}".to_owned(),
            member.replace("\"container\"", "\"sandbox\""),
            member.replace("\"pod1\"", "\"\""),
            member.replace("container-type", "other"),
        ] {
            assert_eq!(sandbox_of(&other).unwrap(), None, "{other}");
        }
    }

    #[test]
    fn sizes_of_a_pod_are_limits() {
        let of = |pairs: &[(&str, &str)]| {
            let name = |name: &str| format!("io.kubernetes.cri.sandbox-{name}");
            let pairs = pairs
                .iter()
                .map(|(key, value)| (name(key), (*value).to_owned()));
            sizes(&pairs.collect())
        };
        let said = of(&[
            ("memory", "1073741824"),
            ("cpu-quota", "150000"),
            ("cpu-period", "100000"),
        ]);
        let said = said.unwrap();
        assert_eq!(said.memory.unwrap().limit, Some(1 << 30));
        let cpu = said.cpu.unwrap();
        assert_eq!((cpu.quota, cpu.period), (Some(150_000), Some(100_000)));
        let none = of(&[("memory", "0")]).unwrap();
        assert_eq!(none.memory.unwrap().limit, None);
        let bad = of(&[("memory", "much")]).unwrap_err().message;
        assert!(bad.contains("sandbox-memory: \"much\""), "{bad}");
    }

    #[test]
    fn a_configuration_that_is_none_is_named() {
        for bad in ["", "[", r#"{"annotations": {"a": 1}}"#] {
            let error = sandbox_of(bad).unwrap_err().to_string();
            assert!(error.contains("config.json"), "{error}");
        }
        assert!(of(Path::new("/nonexistent")).is_err());
    }
}
