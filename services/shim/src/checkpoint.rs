//! What containerd asks of checkpoints and restores, as requests to `isolation/container`.
//!
//! Options are those of runc's shim, which containerd's own client sends whatever the runtime: for one of another name those
//! of runc's first shim, whose fields are the same.
//! Source: containerd 1.6, runtime/v2/runc/options/oci.proto, runtime/linux/runctypes/runc.proto.

use std::path::PathBuf;

use atoll_container::{CgroupsMode, CheckpointRequest, RestoreRequest};
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{CodedInputStream, Error, rt};

use crate::failure::Failure;

/// The messages of options of a checkpoint.
const CHECKPOINT_OPTIONS: [&str; 2] = [
    "containerd.runc.v1.CheckpointOptions",
    "containerd.linux.runc.CheckpointOptions",
];
/// The message of options of a container.
const OPTIONS: &str = "containerd.runc.v1.Options";

/// The checkpoint that `request` asks for.
///
/// # Errors
/// Options that can't be read or that there aren't.
pub(crate) fn checkpoint(
    request: &api::CheckpointTaskRequest,
) -> Result<CheckpointRequest, Failure> {
    let options = match request.options.as_ref() {
        Some(options) if CHECKPOINT_OPTIONS.iter().any(|name| is_of(options, name)) => {
            checkpoint_options(&options.value).map_err(|error| bad(&options.type_url, &error))?
        }
        _ => CheckpointOptions::default(),
    };
    // The path is a folder of containerd's own, which may not know of the other for a runtime that is not called runc.
    let images = options.images.as_ref();
    let images = images.map_or_else(|| PathBuf::from(&request.path), PathBuf::clone);
    if !images.is_absolute() {
        return Err(Failure::invalid(
            "a checkpoint needs an absolute path for its images",
        ));
    }
    let mut checkpoint = CheckpointRequest::new(images);
    checkpoint.leave_running = !options.exit;
    checkpoint.criu.work = options.work;
    checkpoint.criu.tcp_established = options.open_tcp;
    checkpoint.criu.ext_unix_sockets = options.external_unix_sockets;
    checkpoint.criu.shell_job = options.terminal;
    checkpoint.criu.file_locks = options.file_locks;
    checkpoint.criu.cgroups = match options.cgroups_mode.as_str() {
        "" => CgroupsMode::Default,
        "ignore" => CgroupsMode::Ignore,
        "soft" => CgroupsMode::Soft,
        "full" => CgroupsMode::Full,
        "strict" => CgroupsMode::Strict,
        other => {
            let text = format!("{other:?} is no mode of control groups CRIU has");
            return Err(Failure::invalid(text));
        }
    };
    Ok(checkpoint)
}

/// The restore that `request` asks for; `None` when it asks for a new container.
///
/// # Errors
/// Options that can't be read.
pub(crate) fn restore(request: &api::CreateTaskRequest) -> Result<Option<RestoreRequest>, Failure> {
    if request.checkpoint.is_empty() {
        return Ok(None);
    }
    let mut restore = RestoreRequest::new(PathBuf::from(&request.checkpoint));
    // containerd's own shim puts them in the bundle.
    restore.criu.work = Some(PathBuf::from(&request.bundle).join("criu-work"));
    if let Some(options) = request.options.as_ref()
        && is_of(options, OPTIONS)
    {
        let work = strings(&options.value, 11).map_err(|error| bad(OPTIONS, &error))?;
        restore.criu.work = work.map(PathBuf::from).or(restore.criu.work);
    }
    Ok(Some(restore))
}

fn is_of(options: &Any, message: &str) -> bool {
    // Newer containerds prefix it with a host.
    options.type_url.rsplit('/').next() == Some(message)
}

fn bad(message: &str, error: &Error) -> Failure {
    Failure::invalid(format!("bad options of the runtime ({message}): {error}"))
}

#[derive(Debug, Default, PartialEq)]
struct CheckpointOptions {
    exit: bool,
    open_tcp: bool,
    external_unix_sockets: bool,
    terminal: bool,
    file_locks: bool,
    cgroups_mode: String,
    images: Option<PathBuf>,
    work: Option<PathBuf>,
}

fn checkpoint_options(message: &[u8]) -> Result<CheckpointOptions, Error> {
    let mut options = CheckpointOptions::default();
    let path = |text: String| (!text.is_empty()).then(|| PathBuf::from(text));
    let mut input = CodedInputStream::from_bytes(message);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        // Field number, and wire type: 0 numbers, 2 bytes with their length.
        match (tag >> 3, tag & 7) {
            (1, 0) => options.exit = input.read_bool()?,
            (2, 0) => options.open_tcp = input.read_bool()?,
            (3, 0) => options.external_unix_sockets = input.read_bool()?,
            (4, 0) => options.terminal = input.read_bool()?,
            (5, 0) => options.file_locks = input.read_bool()?,
            (7, 2) => options.cgroups_mode = input.read_string()?,
            (8, 2) => options.images = path(input.read_string()?),
            (9, 2) => options.work = path(input.read_string()?),
            // 6: namespaces to leave empty; those of networks always are.
            _ => rt::skip_field_for_tag(tag, &mut input)?,
        }
    }
    Ok(options)
}

/// The last text of field `number` that isn't empty.
fn strings(message: &[u8], number: u32) -> Result<Option<String>, Error> {
    let mut found = None;
    let mut input = CodedInputStream::from_bytes(message);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        if (tag >> 3, tag & 7) == (number, 2) {
            found = Some(input.read_string()?).filter(|text| !text.is_empty());
        } else {
            rt::skip_field_for_tag(tag, &mut input)?;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::protobuf::MessageField;

    use super::*;

    fn asked(path: &str, options: &[u8]) -> api::CheckpointTaskRequest {
        asked_by(CHECKPOINT_OPTIONS[0], path, options)
    }

    fn asked_by(name: &str, path: &str, options: &[u8]) -> api::CheckpointTaskRequest {
        api::CheckpointTaskRequest {
            path: path.to_owned(),
            options: MessageField::some(Any {
                type_url: format!("types.containerd.io/{name}"),
                value: options.to_vec(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn options_are_those_of_runcs_shim() {
        let request = checkpoint(&asked(
            "/i",
            b"\x08\x01\x28\x01\x32\x07network\x3a\x04soft\x4a\x02/w",
        ))
        .unwrap();
        assert!(!request.leave_running && request.criu.file_locks);
        assert_eq!(request.criu.cgroups, CgroupsMode::Soft);
        assert_eq!(request.criu.images, PathBuf::from("/i"));
        assert_eq!(request.criu.work, Some("/w".into()));
        let request = checkpoint(&asked("", b"\x42\x02/o")).unwrap();
        assert!(request.leave_running);
        assert_eq!(request.criu.images, PathBuf::from("/o"));
    }

    #[test]
    fn a_folder_of_the_clients_is_taken_before_containerds() {
        for name in CHECKPOINT_OPTIONS {
            let request = checkpoint(&asked_by(name, "/i", b"\x08\x01\x42\x02/o")).unwrap();
            assert!(!request.leave_running, "{name}");
            assert_eq!(request.criu.images, PathBuf::from("/o"), "{name}");
        }
        let other = checkpoint(&asked_by("other.Options", "/i", b"\x08\x01")).unwrap();
        assert!(other.leave_running);
    }

    #[test]
    fn options_that_are_none_are_refused() {
        for (path, options) in [
            ("relative", &b""[..]),
            ("", b""),
            ("/i", b"\x3a\x04hard"),
            ("/i", b"\x3a\x7fshort"),
            ("/i", b"\xff"),
        ] {
            assert!(
                checkpoint(&asked(path, options)).is_err(),
                "{path} {options:?}"
            );
        }
    }

    #[test]
    fn a_restore_is_asked_for_by_a_folder() {
        let mut request = api::CreateTaskRequest {
            bundle: "/b".to_owned(),
            ..Default::default()
        };
        assert!(restore(&request).unwrap().is_none());
        request.checkpoint = "/i".to_owned();
        let asked = restore(&request).unwrap().unwrap();
        assert_eq!(asked.criu.images, PathBuf::from("/i"));
        assert_eq!(asked.criu.work, Some("/b/criu-work".into()));
    }
}
