//! The walls that are made of the host's own kernel, besides the usual one: what a bundle's annotation changes in its
//! configuration before it is planned. Pure but for [`os_release`].

mod chroot;
mod system;

use std::borrow::Cow;

use atoll_spec::Spec;

use crate::error::{Error, Result};

/// Annotation that names the wall.
pub const ISOLATION: &str = "io.atoll.isolation";

/// What separates a container from its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wall {
    /// What the configuration says: an application container. Also the part inside of a machine.
    #[default]
    Process,
    /// The same, with what a service manager expects of its host.
    System,
    /// The root directory only.
    Chroot,
}

/// A configuration as its wall has it.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    pub(crate) spec: Cow<'a, Spec>,
    /// Files to make for the container, which finds them below `/run/host`.
    pub(crate) host_files: Vec<(&'static str, String)>,
}

impl Wall {
    /// The wall that a bundle's annotation names.
    ///
    /// # Errors
    /// [`Error::Plan`] for one that there isn't.
    pub fn of(spec: &Spec) -> Result<Self> {
        match spec.annotations.get(ISOLATION).map_or("", String::as_str) {
            // Those of machines: whoever makes one builds the container inside.
            "" | "default" | "process" | "vm" | "vm:kvm" | "vm:soft" => Ok(Self::Process),
            "system" => Ok(Self::System),
            "chroot" => Ok(Self::Chroot),
            other => Err(Error::Plan {
                field: format!("annotations[{ISOLATION}]"),
                reason: format!(
                    "{other:?} is none of process, system, chroot, vm, vm:kvm, vm:soft"
                ),
            }),
        }
    }
}

/// What the host says it is; empty when it doesn't. Source: os-release(5).
pub(crate) fn os_release() -> String {
    let read = |path| std::fs::read_to_string(path).ok();
    let text = read("/etc/os-release").or_else(|| read("/usr/lib/os-release"));
    text.filter(|text| text.len() <= 64 << 10)
        .unwrap_or_default()
}

/// What the wall of a configuration changes in it.
///
/// * `id`: the container's.
/// * `host_folder`: where its `host_files` will be.
/// * `os_release`: the host's.
///
/// # Errors
/// [`Error::Plan`] naming what the wall cannot honour.
pub(crate) fn prepare<'a>(
    spec: &'a Spec,
    id: &str,
    host_folder: &std::path::Path,
    os_release: impl FnOnce() -> String,
) -> Result<Prepared<'a>> {
    match Wall::of(spec)? {
        Wall::Process => Ok(Prepared {
            spec: Cow::Borrowed(spec),
            host_files: Vec::new(),
        }),
        Wall::Chroot => Ok(Prepared {
            spec: Cow::Owned(chroot::prepare(spec)?),
            host_files: Vec::new(),
        }),
        Wall::System => {
            let (spec, host_files) = system::prepare(spec, id, host_folder, &os_release())?;
            Ok(Prepared {
                spec: Cow::Owned(spec),
                host_files,
            })
        }
    }
}
