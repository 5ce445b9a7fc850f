//! Which wall a container gets: what its bundle says, else what the options of the runtime say.
//!
//! A bundle says it by an annotation or by having a `vm` object (OCI runtime-spec 1.3, config-vm.md). The options come
//! from who starts the task: `ctr run --runtime-config-path`, or a runtime's table in the configuration of containerd,
//! which is what a Kubernetes RuntimeClass names. They are `runtimeoptions.v1.Options` with a file, or its content:
//! `{"isolation": "vm"}`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use atoll_machine::Backend;
use atoll_shim_protocol::machine::ISOLATION;
use atoll_spec::Spec;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{CodedInputStream, rt};
use serde::Deserialize;

use crate::failure::Failure;

/// The message of options that any runtime may have. Source: containerd 1.6, pkg/runtimeoptions/v1/api.proto.
const OPTIONS: &str = "runtimeoptions.v1.Options";
/// Those of runc's shim. Source: containerd 2.0, api/types/runc/options/oci.proto.
const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";
/// Its `systemd_cgroup`.
const SYSTEMD_CGROUP: u32 = 9;
/// A longer file is no configuration of ours.
const LONGEST: u64 = 64 << 10;

/// The backend when the container is to live in a machine. A wall of the host's kernel that the options name becomes the
/// configuration's annotation, where isolation/container looks for it.
///
/// * `options`: of the request; other runtimes' are ignored, as `runc`'s are sent by many.
///
/// # Errors
/// A wall that there isn't; options that can't be read, with their file.
pub(crate) fn wanted(spec: &mut Spec, options: Option<&Any>) -> Result<Option<Backend>, Failure> {
    if let Some(wall) = annotated(spec)? {
        return Ok(wall.backend());
    }
    let option = options.map_or(Ok(None), from_options)?;
    let backend = option.and_then(Wall::backend);
    let backend = backend.or(spec.vm.is_some().then_some(Backend::Auto));
    if let (None, Some(Wall::Host(name))) = (backend, option) {
        let name = name.to_owned();
        spec.annotations.insert(ISOLATION.to_owned(), name);
    }
    Ok(backend)
}

/// Whether a configuration asks for a machine by itself.
pub(crate) fn is_machine(spec: &Spec) -> Result<bool, Failure> {
    let wall = annotated(spec)?;
    Ok(wall.map_or(spec.vm.is_some(), |wall| wall.backend().is_some()))
}

/// The wall of a configuration's annotation.
fn annotated(spec: &Spec) -> Result<Option<Wall>, Failure> {
    let annotation = spec.annotations.get(ISOLATION);
    let annotation = annotation.map_or("", String::as_str);
    match Wall::named(annotation, &format!("annotation {ISOLATION}"))? {
        Some(Wall::Host(_)) if spec.vm.is_some() => Err(Failure::invalid(format!(
            "the annotation {ISOLATION}={annotation} contradicts the vm object of the same configuration"
        ))),
        wall => Ok(wall),
    }
}

/// Whether the options, which may be those for runc's shim, have systemd make the control groups.
///
/// # Errors
/// Options that can't be read.
pub(crate) fn asks_systemd(options: Option<&Any>) -> Result<bool, Failure> {
    let Some(options) = options.filter(|options| is_of(options, RUNC_OPTIONS)) else {
        return Ok(false);
    };
    let read = || {
        let mut input = CodedInputStream::from_bytes(&options.value);
        let mut asks = false;
        while let Some(tag) = input.read_raw_tag_or_eof()? {
            // Field number and wire type 0: a number.
            match (tag >> 3, tag & 7) {
                (SYSTEMD_CGROUP, 0) => asks = input.read_bool()?,
                _ => rt::skip_field_for_tag(tag, &mut input)?,
            }
        }
        Ok(asks)
    };
    read().map_err(|error: containerd_shim_protos::protobuf::Error| {
        Failure::invalid(format!(
            "bad options of the runtime ({RUNC_OPTIONS}): {error}"
        ))
    })
}

/// Whether it is a message of this name; newer containerds prefix it with a host.
fn is_of(options: &Any, name: &str) -> bool {
    options.type_url.rsplit('/').next() == Some(name)
}

/// What can be around a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wall {
    /// One of the host's own kernel, by name.
    Host(&'static str),
    Machine(Backend),
}

impl Wall {
    /// The wall of a name; none when whoever says it leaves it to others.
    fn named(name: &str, place: &str) -> Result<Option<Self>, Failure> {
        match name {
            "" | "default" => Ok(None),
            "process" => Ok(Some(Self::Host("process"))),
            "system" => Ok(Some(Self::Host("system"))),
            "chroot" => Ok(Some(Self::Host("chroot"))),
            "vm" => Ok(Some(Self::Machine(Backend::Auto))),
            "vm:kvm" => Ok(Some(Self::Machine(Backend::Kvm))),
            "vm:soft" => Ok(Some(Self::Machine(Backend::Soft))),
            other => Err(Failure::invalid(format!(
                "isolation {other:?} ({place}) is not available; process, system, chroot, vm, vm:kvm and vm:soft are"
            ))),
        }
    }

    fn backend(self) -> Option<Backend> {
        match self {
            Self::Host(_) => None,
            Self::Machine(backend) => Some(backend),
        }
    }
}

/// What the file of the options says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    isolation: String,
}

fn from_options(options: &Any) -> Result<Option<Wall>, Failure> {
    if !is_of(options, OPTIONS) {
        return Ok(None);
    }
    let bad = |error| Failure::invalid(format!("bad options of the runtime ({OPTIONS}): {error}"));
    let (path, body) = fields(&options.value).map_err(bad)?;
    if !path.is_empty() {
        let place = format!("options of the runtime, {path}");
        let text = read(Path::new(&path))
            .map_err(|error| Failure::invalid(format!("{place}: cannot read it: {error}")))?;
        return parse(&text, &place);
    }
    if body.is_empty() {
        return Ok(None);
    }
    parse(&body, "options of the runtime (config_body)")
}

/// `config_path` and `config_body` of the message.
fn fields(message: &[u8]) -> Result<(String, Vec<u8>), containerd_shim_protos::protobuf::Error> {
    let (mut path, mut body) = (String::new(), Vec::new());
    let mut input = CodedInputStream::from_bytes(message);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        // Field number and wire type 2: bytes with their length.
        match (tag >> 3, tag & 7) {
            (2, 2) => path = input.read_string()?,
            (3, 2) => body = input.read_bytes()?,
            _ => rt::skip_field_for_tag(tag, &mut input)?,
        }
    }
    Ok((path, body))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    if !path.is_absolute() {
        return Err("the path must be absolute".into());
    }
    let described = |error: std::io::Error| error.to_string();
    let facts = std::fs::metadata(path).map_err(described)?;
    if !facts.is_file() {
        return Err("it is no file".into());
    }
    let mut text = Vec::new();
    let file = File::open(path).map_err(described)?;
    file.take(LONGEST + 1)
        .read_to_end(&mut text)
        .map_err(described)?;
    let is_short = u64::try_from(text.len()).is_ok_and(|len| len <= LONGEST);
    is_short
        .then_some(text)
        .ok_or_else(|| format!("it is longer than {LONGEST} bytes"))
}

fn parse(text: &[u8], place: &str) -> Result<Option<Wall>, Failure> {
    let found: Configuration = serde_json::from_slice(text).map_err(|error| {
        Failure::invalid(format!(
            "{place}: {error}; it must be JSON like {{\"isolation\": \"vm\"}}"
        ))
    })?;
    Wall::named(&found.isolation, place)
}

#[cfg(test)]
mod tests {
    use atoll_spec::{Vm, VmKernel};
    use containerd_shim_protos::protobuf::CodedOutputStream;

    use super::*;

    fn options(path: &str, body: &[u8]) -> Any {
        let mut value = Vec::new();
        let mut out = CodedOutputStream::vec(&mut value);
        out.write_string(1, "whatever").unwrap();
        out.write_string(2, path).unwrap();
        out.write_bytes(3, body).unwrap();
        out.flush().unwrap();
        drop(out);
        Any {
            type_url: format!("types.containerd.io/{OPTIONS}"),
            value,
            ..Any::default()
        }
    }

    fn bundle(annotation: Option<&str>, has_vm: bool) -> Spec {
        let annotation = annotation.map(|text| (ISOLATION.to_owned(), text.to_owned()));
        let vm = Vm {
            kernel: VmKernel {
                path: "/k".into(),
                ..VmKernel::default()
            },
            ..Vm::default()
        };
        Spec {
            annotations: annotation.into_iter().collect(),
            vm: has_vm.then_some(vm),
            ..Spec::default()
        }
    }

    #[test]
    fn the_bundle_wins_over_the_options() {
        let vm = options("", br#"{"isolation": "vm:soft"}"#);
        let process = options("", br#"{"isolation": "process"}"#);
        let get = |spec: &Spec, options| wanted(&mut spec.clone(), options).unwrap();
        assert_eq!(get(&bundle(None, false), None), None);
        assert_eq!(get(&bundle(None, false), Some(&vm)), Some(Backend::Soft));
        assert_eq!(
            get(&bundle(Some(""), false), Some(&vm)),
            Some(Backend::Soft)
        );
        assert_eq!(get(&bundle(Some("process"), false), Some(&vm)), None);
        let kvm = bundle(Some("vm:kvm"), false);
        assert_eq!(get(&kvm, Some(&process)), Some(Backend::Kvm));
        assert_eq!(get(&bundle(None, true), None), Some(Backend::Auto));
        assert_eq!(get(&bundle(None, true), Some(&vm)), Some(Backend::Soft));
        assert_eq!(
            get(&bundle(None, true), Some(&process)),
            Some(Backend::Auto)
        );
        assert_eq!(
            get(&bundle(Some("vm:soft"), true), None),
            Some(Backend::Soft)
        );
        let both = wanted(&mut bundle(Some("process"), true), None).unwrap_err();
        assert!(both.message.contains("contradicts the vm object"));
        let other = wanted(&mut bundle(Some("hyperv"), false), Some(&vm)).unwrap_err();
        assert!(other.message.contains("\"hyperv\" (annotation"), "{other}");
    }

    #[test]
    fn a_wall_of_the_hosts_kernel_becomes_the_annotation() {
        let system = options("", br#"{"isolation": "system"}"#);
        let mut spec = bundle(None, false);
        assert_eq!(wanted(&mut spec, Some(&system)).unwrap(), None);
        assert_eq!(spec.annotations[ISOLATION], "system");
        let mut spec = bundle(Some("chroot"), false);
        assert_eq!(wanted(&mut spec, Some(&system)).unwrap(), None);
        assert_eq!(spec.annotations[ISOLATION], "chroot");
        let mut spec = bundle(None, true);
        assert_eq!(
            wanted(&mut spec, Some(&system)).unwrap(),
            Some(Backend::Auto)
        );
        assert!(spec.annotations.is_empty());
        assert_eq!(ISOLATION, atoll_container::ISOLATION);
    }

    #[test]
    fn options_are_a_file_or_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vm.json");
        std::fs::write(&file, "{\"isolation\": \"vm\"}\n").unwrap();
        let said = from_options(&options(file.to_str().unwrap(), b"")).unwrap();
        assert_eq!(said, Some(Wall::Machine(Backend::Auto)));
        assert_eq!(from_options(&options("", b"")).unwrap(), None);
        let runc = Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: vec![0xff],
            ..Any::default()
        };
        assert_eq!(from_options(&runc).unwrap(), None);
        assert!(asks_systemd(Some(&runc)).is_err());
    }

    #[test]
    fn runcs_options_ask_for_systemds_control_groups() {
        let runc = |fill: &dyn Fn(&mut CodedOutputStream<'_>)| {
            let mut value = Vec::new();
            let mut out = CodedOutputStream::vec(&mut value);
            fill(&mut out);
            out.flush().unwrap();
            drop(out);
            let type_url = format!("types.containerd.io/{RUNC_OPTIONS}");
            asks_systemd(Some(&Any {
                type_url,
                value,
                ..Any::default()
            }))
            .unwrap()
        };
        assert!(!runc(&|_| ()));
        assert!(runc(&|out| {
            out.write_string(6, "runc").unwrap();
            out.write_bool(9, true).unwrap();
        }));
        assert!(!runc(&|out| out.write_bool(1, true).unwrap()));
        assert!(!asks_systemd(Some(&options("", b"{}"))).unwrap());
        assert!(!asks_systemd(None).unwrap());
    }

    #[test]
    fn options_that_say_nothing_are_refused_with_their_place() {
        let refused = |options: &Any| from_options(options).unwrap_err().message;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vm.json");
        let path = file.to_str().unwrap();
        let of_file = |text: &[u8]| {
            std::fs::write(&file, text).unwrap();
            refused(&options(path, b""))
        };
        for text in [
            &b"isolation = \"vm\""[..],
            b"",
            b"[]",
            b"{\"isolation\": 1}",
        ] {
            let said = of_file(text);
            assert!(
                said.contains(path) && said.contains("must be JSON"),
                "{said}"
            );
        }
        let said = of_file(br#"{"isolation": "vm", "memory": 1}"#);
        assert!(said.contains("unknown field `memory`"), "{said}");
        let said = of_file(br#"{"isolation": "gvisor"}"#);
        assert!(
            said.contains("\"gvisor\" (options of the runtime, /"),
            "{said}"
        );
        assert!(of_file(&[b' '; 1 << 17]).contains("longer than"));
        assert!(refused(&options("/nonexistent/x", b"")).contains("/nonexistent/x: cannot read"));
        assert!(refused(&options("vm.json", b"")).contains("must be absolute"));
        assert!(refused(&options("/dev/zero", b"")).contains("no file"));
        let mut broken = options(path, b"");
        broken.value.truncate(14);
        assert!(refused(&broken).contains("bad options of the runtime"));
    }
}
