//! `/dev/kvm`, opened and found complete.

use std::sync::Arc;

use atoll_cpu_api::{CpuError, Hypervisor, Vm, VmConfig};
use atoll_memory::GuestMemory;
use kvm_bindings::KVM_API_VERSION;
use kvm_ioctls::{Cap, Kvm as Device};

use crate::machine::Machine;

/// Guest physical address of 16 KiB, in the hole for devices, that some Intel processors need for real mode; the page
/// below it holds the tables they use without paging. Nothing else may lie there.
pub const TSS_BASE: u64 = 0xFFFB_D000;

/// The name of this backend.
pub(crate) const NAME: &str = "kvm";

/// What a kernel must offer: all of it since Linux 4.12.
const REQUIRED: &[(Cap, &str)] = &[
    (Cap::UserMemory, "user memory slots"),
    (Cap::SetTssAddr, "a TSS address"),
    (Cap::SetIdentityMapAddr, "an identity map address"),
    (Cap::SplitIrqchip, "a split interrupt controller"),
    (Cap::SignalMsi, "message-signalled interrupts"),
    (Cap::IrqRouting, "interrupt routing"),
    (Cap::Irqfd, "interrupts by eventfd"),
    (Cap::Ioeventfd, "doorbells by eventfd"),
    (Cap::ImmediateExit, "an immediate exit"),
    (Cap::ExtCpuid, "extended CPUID"),
    (Cap::MpState, "activity states"),
    (Cap::VcpuEvents, "pending events"),
    (Cap::Debugregs, "debug registers"),
    (Cap::Xsave, "XSAVE"),
    (Cap::Xcrs, "XCR0"),
    (Cap::TscDeadlineTimer, "the TSC deadline timer"),
    (Cap::AdjustClock, "kvmclock"),
    (Cap::UserNmi, "non-maskable interrupts"),
];

/// The backend. Whether it is worth using says [`probe`](crate::probe()).
#[derive(Debug)]
pub struct Kvm(Device);

impl Kvm {
    /// Opens `/dev/kvm` (for this process only: it closes at exec) and asks for what is needed.
    ///
    /// # Errors
    /// [`CpuError::Unavailable`] when there is no device, no right to it, or the kernel is too old.
    pub fn open() -> Result<Self, CpuError> {
        let unavailable = |reason| CpuError::Unavailable {
            backend: NAME,
            reason,
        };
        let device = Device::new().map_err(|error| {
            unavailable(format!(
                "cannot open /dev/kvm: {}",
                std::io::Error::from(error)
            ))
        })?;
        let version = device.get_api_version();
        if u32::try_from(version) != Ok(KVM_API_VERSION) {
            return Err(unavailable(format!("/dev/kvm has version {version}")));
        }
        match REQUIRED
            .iter()
            .find(|(cap, _)| !device.check_extension(*cap))
        {
            Some((_, what)) => Err(unavailable(format!("the kernel's KVM lacks {what}"))),
            None => Ok(Self(device)),
        }
    }
}

impl Hypervisor for Kvm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn create_vm(&self, config: VmConfig, memory: GuestMemory) -> Result<Arc<dyn Vm>, CpuError> {
        Ok(Arc::new(Machine::new(&self.0, config, memory)?))
    }
}
