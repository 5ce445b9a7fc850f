//! The walls of machines: what they are made of is looked for, KVM's probe guest is run.

use std::error::Error as StdError;
use std::{fs, io};

use atoll_machine::{MachineError, host};

use super::{Finding, State};

/// The software CPU.
pub(super) fn software() -> Finding {
    let mut finding = Finding::works("vm:soft");
    finding.fact("the guest's CPU is a program, which needs nothing of the processor");
    parts(&mut finding);
    finding
}

/// The processor's own virtualization.
pub(super) fn kvm() -> Finding {
    let mut finding = Finding::works("vm:kvm");
    match host::kvm() {
        Ok(speed) => finding.fact(format!(
            "a guest ran: {:.0} million instructions a second in ring 0, {:.0} in ring 3",
            speed.kernel_mips, speed.user_mips
        )),
        Err(error) => {
            let hint = kvm_hint(&error);
            finding.fails(&error, Some(hint.to_owned()));
            return finding;
        }
    }
    parts(&mut finding);
    finding
}

fn kvm_hint(error: &host::KvmUnusable) -> &'static str {
    match (error, errno(error)) {
        (_, Some(io::ErrorKind::NotFound)) => {
            "load it with `modprobe kvm_intel` or `modprobe kvm_amd`; that takes virtualization switched on in the \
             firmware, or nested virtualization in a cloud. `--isolation=vm` uses the software CPU without it"
        }
        (_, Some(io::ErrorKind::PermissionDenied)) => {
            "run it as root, or as a member of the group that owns /dev/kvm"
        }
        (host::KvmUnusable::NoTsc, _) => {
            "load KVM's modules again, now that the TSC's frequency is known: `rmmod kvm_intel kvm` or `rmmod kvm_amd kvm`, \
             then `modprobe`. `--isolation=vm` takes the software CPU until then"
        }
        (host::KvmUnusable::Slow { .. }, _) => {
            "leave the choice to `--isolation=vm`: it takes the software CPU here, which is faster than that"
        }
        _ => "leave the choice to `--isolation=vm`: it takes the software CPU here",
    }
}

/// The kind of the system's error at the end of the causes.
fn errno(error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    let system = causes.filter_map(|cause| cause.downcast_ref::<io::Error>());
    system.last().map(io::Error::kind)
}

/// Programs, kernel, ramdisk and templates.
fn parts(finding: &mut Finding) {
    if !rustix::process::geteuid().is_root() {
        let because = "an engine needs root to put a machine into control groups and on a bridge";
        finding.fails_with(vec![because.to_owned()], Some("run it as root".to_owned()));
    }
    match host::program("atoll-vmm") {
        Ok(path) => finding.fact(format!("monitor: {}", path.display())),
        Err(error) => fails(finding, &error),
    }
    // The ramdisk holds the agent and the kernel's modules: making it looks for all of them.
    let kernel = host::choose(None).and_then(|(kernel, modules)| {
        host::initramfs(modules.as_deref())?;
        Ok(kernel)
    });
    match kernel {
        Ok(path) => finding.fact(format!("kernel, modules and agent: {}", path.display())),
        Err(error) => fails(finding, &error),
    }
    if finding.state == State::Works {
        let folder = host::cache().join("templates");
        let kept = fs::read_dir(&folder).map_or(0, |entries| {
            let name = |entry: fs::DirEntry| entry.file_name();
            let names = entries.flatten().map(name);
            names
                .filter(|name| !name.as_encoded_bytes().starts_with(b"half-"))
                .count()
        });
        finding.fact(match kept {
            0 => format!(
                "templates: none in {}; the first machine of a size boots and makes one",
                folder.display()
            ),
            some => format!(
                "templates: {some} in {}; machines of their size are copies",
                folder.display()
            ),
        });
    }
}

/// It fails for want of a part.
fn fails(finding: &mut Finding, error: &MachineError) {
    let missing = match error {
        MachineError::Io { .. } => Some("install all of Atoll's programs in one folder".to_owned()),
        _ => None,
    };
    finding.fails(error, error.hint().or(missing));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_reason_is_found_below_others() {
        let inner = io::Error::from(io::ErrorKind::PermissionDenied);
        let outer = MachineError::Io {
            action: "open it".to_owned(),
            source: inner,
        };
        assert_eq!(errno(&outer), Some(io::ErrorKind::PermissionDenied));
        assert_eq!(errno(&MachineError::NoKernel("/boot".into())), None);
    }
}
