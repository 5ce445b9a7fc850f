//! Better code for a saved machine: what one that went on from it executed since.
//!
//! ```text
//!   monitor of the one that went on ─ save_code ─► a file, as much to be trusted as its guest
//!       a process that runs no guest ─ learn ─► each block decoded again from the saved memory ─► the folder's `code`
//! ```

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use atoll_cpu_api::VmConfig;

use super::code::{self, Code};
use super::snapshot::CODE_FILE;
use super::{Machine, Snapshot};
use crate::config::Backend;
use crate::error::MachineError;

const NEW_CODE_FILE: &str = "code.new";

impl Machine {
    /// Writes the code that the first CPU of the machine, which is paused, has decoded into an empty file, for [`learn`].
    ///
    /// # Errors
    /// [`MachineError::Snapshot`] when it has none, or has let go of some; [`MachineError::Io`].
    pub fn save_code(&self, file: OwnedFd) -> Result<(), MachineError> {
        let vcpu = self.vcpu(0);
        let code = vcpu.code().filter(|_| vcpu.has_all_code());
        let Some(code) = code else {
            let why = "its processor does not have all the code it executed".to_owned();
            return Err(MachineError::Snapshot(why));
        };
        code::write(&File::from(file), &code).map_err(MachineError::io("write the code"))
    }
}

/// Has the machine saved in `folder` begin with what of `code` is true of its memory, in place of the code it has.
///
/// * `code`: written by [`Machine::save_code`] of a machine that went on from it, or by anybody else.
///
/// # Errors
/// [`MachineError::Snapshot`] when it is another program's or damaged, or the machine does not go on in software; as
/// [`Snapshot::open`], [`MachineError::Cpu`], [`MachineError::Io`]. The code that was there stays then.
pub fn learn(folder: &Path, code: File) -> Result<(), MachineError> {
    let wrong = |why: &str| MachineError::Snapshot(why.to_owned());
    let (snapshot, memory) = Snapshot::open(folder)?;
    let state = snapshot.cpus.first();
    let state = state
        .filter(|_| snapshot.backend() == Backend::Soft)
        .ok_or_else(|| wrong("no processor in software goes on with it"))?;
    // Who wrote it may write on.
    let code = Code::copied(code)
        .map_err(MachineError::io("read the code"))?
        .ok_or_else(|| wrong("the code is another program's"))?;
    let config = VmConfig {
        vcpus: snapshot.shape()?.cpus,
        tsc_khz: Some(snapshot.tsc_khz),
    };
    let vm = Backend::Soft.open()?.create_vm(config, memory)?;
    let mut vcpu = vm.create_vcpu(0, None)?;
    vcpu.set_state(state)?;
    if !code.teach(&mut *vcpu) {
        return Err(wrong("the code is damaged"));
    }
    vcpu.check_code();
    let new = folder.join(NEW_CODE_FILE);
    let write = || -> io::Result<()> {
        code::write(&File::create(&new)?, &vcpu.code().unwrap_or_default())?;
        std::fs::rename(&new, folder.join(CODE_FILE))
    };
    write().map_err(MachineError::io(format!("write {}", new.display())))
}
