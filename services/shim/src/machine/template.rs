//! Templates: a machine whose agent was ready, saved, to make others of.
//!
//! The first machine of a kind is saved before it gets its container; later ones go on from there, with host ends of
//! their own. What was saved knows nothing of a container.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use atoll_machine::protocol::{Client, Request};
use atoll_machine::{Backend, Disk, MachineError, SNAPSHOT_VERSION, Source, VmmConfig, host};

use super::plan::Plan;
use crate::failure::Failure;

/// The file that says that a template's code is no longer that of its first rehearsal.
const TAUGHT: &str = "taught";
/// A guest that is being ended may hold its monitor up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where machines of one kind begin.
pub(crate) struct Template {
    /// `<kind>-<what it was made of>`.
    folder: PathBuf,
}

impl Template {
    /// The template for machines that boot as `config` says, which was made of `plan`.
    ///
    /// # Errors
    /// When the monitor or the kernel isn't there.
    pub(crate) fn of(config: &VmmConfig, plan: &Plan) -> Result<Self, MachineError> {
        let Source::Boot(source) = &config.source else {
            let why = io::Error::other("it does not boot");
            return Err(MachineError::io("make a template of a machine")(why));
        };
        let mut kind = DefaultHasher::new();
        let tags: Vec<_> = config.shares.iter().map(|share| &share.tag).collect();
        let disks: Vec<_> = config.disks.iter().map(Disk::partitions).collect();
        // A guest's driver takes no longer packets than it was told of at first.
        let cards: Vec<_> = config.networks.iter().map(|card| card.mtu).collect();
        let devices = (disks, cards, config.spare_cards, tags);
        (source.memory_bytes, source.cpus, devices).hash(&mut kind);
        format!("{:?}", config.backend).hash(&mut kind);
        // What a bundle asks for is a kind of its own; another version of the host's newest kernel is not.
        (&plan.kernel, &plan.parameters).hash(&mut kind);
        let mut made_of = DefaultHasher::new();
        (SNAPSHOT_VERSION, &source.command_line).hash(&mut made_of);
        host_of(config.backend).hash(&mut made_of);
        let monitor = host::program("atoll-vmm")?;
        for path in [&monitor, &source.kernel].into_iter().chain(&source.initrd) {
            let failed = MachineError::io(format!("look at {}", path.display()));
            let facts = fs::metadata(path).map_err(failed)?;
            let change = (facts.mtime(), facts.mtime_nsec());
            (path, facts.dev(), facts.ino(), facts.len(), change).hash(&mut made_of);
        }
        let name = format!("{:016x}-{:016x}", kind.finish(), made_of.finish());
        Ok(Self {
            folder: host::cache().join("templates").join(name),
        })
    }

    /// The configuration of a machine made of it that has the host ends of `config`; none when there is no template.
    pub(crate) fn clone_of(&self, config: &VmmConfig) -> Option<VmmConfig> {
        self.folder.is_dir().then(|| VmmConfig {
            source: Source::Restore(self.folder.clone()),
            ..config.clone()
        })
    }

    /// Saves the machine at `control`, which then goes on, as this template. One that is there stays.
    ///
    /// # Errors
    /// When it cannot be written; nothing stays then.
    pub(crate) fn keep(&self, control: &Path) -> Result<(), Failure> {
        let failed = |error: io::Error| {
            Failure::unknown(format!(
                "cannot keep the template {}: {error}",
                self.folder.display()
            ))
        };
        let root = self.folder.parent().unwrap_or(Path::new("/"));
        let make = |path: &Path| DirBuilder::new().mode(0o700).recursive(true).create(path);
        let half = Half(root.join(format!("half-{}", std::process::id())));
        make(root).map_err(failed)?;
        self.remove_others(root, OsStr::new("half-"));
        make(&half.0).map_err(failed)?;
        let folder = File::open(&half.0).map_err(failed)?;
        let saved = Client::connect(control)
            .and_then(|mut monitor| monitor.ask(Request::Save, Some(folder.as_fd())));
        saved.map_err(super::monitor::machine_failed)?;
        match fs::rename(&half.0, &self.folder) {
            // Another shim was first.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            renamed => renamed.map_err(failed),
        }
    }

    /// Has it begin with the code that the machine at `control`, which went on from it, has executed: once for each
    /// template, from the first machine that still has all of it. Takes a quarter of a second then.
    pub(crate) fn teach(&self, control: &Path) {
        let mark = self.folder.join(TAUGHT);
        if File::create_new(&mark).is_err() {
            // Somebody has, or it is gone.
            return;
        }
        let Ok(code) = code_of(control) else {
            // A long-lived one lets go of code; another may be asked.
            let _ = fs::remove_file(&mark);
            return;
        };
        if let Err(failure) = self.learn(code) {
            crate::report(format_args!("{failure}"));
        }
    }

    /// Has a process that runs no guest take over what is true of `code`.
    fn learn(&self, code: OwnedFd) -> Result<(), Failure> {
        let program = host::program("atoll-vmm").map_err(super::monitor::machine_failed)?;
        let mut command = Command::new(program);
        command.arg("--learn").arg(&self.folder).stdin(code);
        let what = || format!("give the template {} better code", self.folder.display());
        let output = command.output().map_err(super::share::failed(what()))?;
        if output.status.success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&output.stderr);
        Err(Failure::unknown(format!("cannot {}: {why}", what())))
    }

    /// Removes it, because no machine can be made of it.
    pub(crate) fn discard(&self) {
        if let Err(error) = fs::remove_dir_all(&self.folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            crate::report(format_args!(
                "cannot remove {}: {error}",
                self.folder.display()
            ));
        }
    }

    /// Removes templates of the same kind made of something else, and what dead shims left half-done. Machines that
    /// were made of them have their files open.
    fn remove_others(&self, root: &Path, half: &OsStr) {
        let ours = self.folder.file_name().unwrap_or_default();
        let kind = ours.as_encoded_bytes().get(..17).unwrap_or_default();
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let bytes = name.as_encoded_bytes();
            let is_old = name != ours && bytes.starts_with(kind);
            let maker = bytes.strip_prefix(half.as_encoded_bytes());
            let maker = maker.and_then(|pid| std::str::from_utf8(pid).ok());
            let is_left = maker.is_some_and(|pid| !Path::new("/proc").join(pid).exists());
            if is_old || is_left {
                // Somebody else may be removing it, too.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// What the machine at `control` has decoded, in a file in memory.
fn code_of(control: &Path) -> Result<OwnedFd, MachineError> {
    let failed = MachineError::io("make a file in memory");
    let file = rustix::fs::memfd_create("code", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|errno| failed(errno.into()))?;
    let mut monitor = Client::connect(control)?;
    monitor.expect_within(PATIENCE)?;
    monitor.ask(Request::Code, Some(file.as_fd()))?;
    Ok(file)
}

/// A folder that goes unless it was renamed.
struct Half(PathBuf);

impl Drop for Half {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a choice of backend depends on: a host without KVM stays one, any other is asked again after it was started.
fn host_of(backend: Backend) -> Option<Vec<u8>> {
    let may_be_kvm = backend == Backend::Auto && Path::new("/dev/kvm").exists();
    may_be_kvm.then(|| fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default())
}
