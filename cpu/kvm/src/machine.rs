//! One machine: its memory slots, interrupt routes, doorbells and dirty log.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd};
use std::sync::{Arc, Mutex, PoisonError};

use atoll_cpu_api::{
    Accelerated, CpuError, CpuidLeaf, IO_APIC_PINS, InterruptController, Msi, Processor, Vcpu, Vm,
    VmConfig,
};
use atoll_memory::{GuestMemory, PAGE, Region};
use kvm_bindings::{
    KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_SPLIT_IRQCHIP, KVM_IRQ_ROUTING_MSI,
    KVM_MAX_CPUID_ENTRIES, KVM_MEM_LOG_DIRTY_PAGES, KvmIrqRouting, kvm_cpuid_entry2,
    kvm_enable_cap, kvm_irq_routing_entry, kvm_irq_routing_msi, kvm_msi,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm as Device, VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::clock::Clock;
use crate::error::host;
use crate::hypervisor::TSS_BASE;
use crate::state::{SavedMsrs, Shape, XsaveLayout, set_reset_values};
use crate::vcpu::KvmVcpu;
use crate::{cpuid, kick};

/// How often making a VM is tried again after a signal.
const TRIES: u32 = 8;
/// How far apart, in millionths, the kernel calls two frequencies of a TSC the same: it is measured at each boot.
const TSC_TOLERANCE_PPM: u64 = 250;

/// A virtual machine of the kernel.
#[derive(Debug)]
pub(crate) struct Machine {
    fd: VmFd,
    memory: GuestMemory,
    config: VmConfig,
    /// What the kernel can show of the host's processor.
    supported: Vec<kvm_cpuid_entry2>,
    shape: Arc<Shape>,
    /// CPU 0, made with the machine to learn the TSC's frequency and the MSRs; handed out once.
    first: Mutex<Option<VcpuFd>>,
    /// The message of each pin that is not masked.
    routes: Mutex<BTreeMap<u8, Msi>>,
}

impl Machine {
    pub(crate) fn new(
        device: &Device,
        config: VmConfig,
        memory: GuestMemory,
    ) -> Result<Self, CpuError> {
        kick::install_handler()?;
        let fd = create(device)?;
        let base = usize::try_from(TSS_BASE).unwrap_or(usize::MAX);
        fd.set_identity_map_address(TSS_BASE - PAGE)
            .map_err(host("KVM_SET_IDENTITY_MAP_ADDR"))?;
        fd.set_tss_address(base).map_err(host("KVM_SET_TSS_ADDR"))?;
        let split = kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            args: [IO_APIC_PINS.into(), 0, 0, 0],
            ..kvm_enable_cap::default()
        };
        fd.enable_cap(&split)
            .map_err(host("KVM_CAP_SPLIT_IRQCHIP"))?;
        map(&fd, &memory, 0)?;

        let supported = device
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(host("KVM_GET_SUPPORTED_CPUID"))?
            .as_slice()
            .to_vec();
        let first = vcpu(&fd, &supported, config, 0)?;
        let leaves = cpuid::filter(&supported, 0, config.vcpus);
        let shape = Shape {
            xsave: XsaveLayout::new(&leaves),
            msrs: SavedMsrs::new(&first)?,
            tsc_khz: first.get_tsc_khz().map_err(host("KVM_GET_TSC_KHZ"))?,
            clock: Clock::default(),
        };
        Ok(Self {
            fd,
            memory,
            config,
            supported,
            shape: Arc::new(shape),
            first: Mutex::new(Some(first)),
            routes: Mutex::default(),
        })
    }
}

impl Machine {
    fn route(&self, routes: &BTreeMap<u8, Msi>) -> Result<(), CpuError> {
        self.fd
            .set_gsi_routing(&routing(routes)?)
            .map_err(host("KVM_SET_GSI_ROUTING"))
    }
}

/// A VM of the kernel: interrupted by a signal, it is tried again.
fn create(device: &Device) -> Result<VmFd, CpuError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match device.create_vm() {
            Err(error) if error.errno() == libc::EINTR && tries < TRIES => {}
            result => return result.map_err(host("KVM_CREATE_VM")),
        }
    }
}

/// Gives the guest its memory, one slot a region; again with other `flags` later.
fn map(fd: &VmFd, memory: &GuestMemory, flags: u32) -> Result<(), CpuError> {
    for (slot, region) in (0..).zip(memory.layout()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: region.address,
            memory_size: region.len,
            userspace_addr: memory.host_address(region),
        };
        // SAFETY: the range is the guest's memory and nothing else; it stays mapped as long as a clone of `memory`,
        // which the machine and each of its CPUs hold.
        unsafe { fd.set_user_memory_region(region) }.map_err(host("KVM_SET_USER_MEMORY_REGION"))?;
    }
    Ok(())
}

/// CPU `index`, as after reset.
fn vcpu(
    vm: &VmFd,
    supported: &[kvm_cpuid_entry2],
    config: VmConfig,
    index: u8,
) -> Result<VcpuFd, CpuError> {
    let fd = vm
        .create_vcpu(index.into())
        .map_err(host("KVM_CREATE_VCPU"))?;
    let enforce = kvm_enable_cap {
        cap: KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
        args: [1, 0, 0, 0],
        ..kvm_enable_cap::default()
    };
    // Linux 5.10; older kernels let the guest use paravirtual registers that it does not see.
    if vm.check_extension_raw(KVM_CAP_ENFORCE_PV_FEATURE_CPUID.into()) > 0 {
        fd.enable_cap(&enforce)
            .map_err(host("KVM_CAP_ENFORCE_PV_FEATURE_CPUID"))?;
    }
    let leaves = cpuid::filter(supported, index, config.vcpus);
    fd.set_cpuid2(&cpuid::list(&leaves)?)
        .map_err(host("KVM_SET_CPUID2"))?;
    if let Some(khz) = config.tsc_khz {
        set_tsc_khz(vm, &fd, khz)?;
    }
    set_reset_values(&fd)?;
    Ok(fd)
}

/// Gives the TSC the frequency a guest is used to.
fn set_tsc_khz(vm: &VmFd, vcpu: &VcpuFd, wanted_khz: u32) -> Result<(), CpuError> {
    let host_khz = vcpu.get_tsc_khz().map_err(host("KVM_GET_TSC_KHZ"))?;
    let refused = CpuError::Tsc {
        wanted_khz,
        host_khz,
    };
    // Without scaling the kernel takes what is slower than wanted, and lets the TSC jump at exits to make up for it.
    let apart = u64::from(wanted_khz.abs_diff(host_khz)) * 1_000_000;
    let scales = vm.check_extension(Cap::TscControl);
    if !scales && apart > u64::from(host_khz) * TSC_TOLERANCE_PPM {
        return Err(refused);
    }
    match vcpu.set_tsc_khz(wanted_khz) {
        Err(error) if error.errno() == libc::EINVAL => Err(refused),
        result => result.map_err(host("KVM_SET_TSC_KHZ")),
    }
}

impl Vm for Machine {
    fn create_vcpu(
        &self,
        index: u8,
        _controller: Option<Arc<dyn InterruptController>>,
    ) -> Result<Box<dyn Vcpu>, CpuError> {
        let made = if index == 0 {
            let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
            first.take()
        } else {
            None
        };
        let fd = match made {
            Some(fd) => fd,
            None => vcpu(&self.fd, &self.supported, self.config, index)?,
        };
        let (memory, shape) = (self.memory.clone(), Arc::clone(&self.shape));
        Ok(Box::new(KvmVcpu::new(fd, index, shape, memory)?))
    }

    fn accelerated(&self) -> Option<&dyn Accelerated> {
        Some(self)
    }

    fn tsc_khz(&self) -> u32 {
        self.shape.tsc_khz
    }

    fn processor(&self) -> Processor {
        let leaves = cpuid::filter(&self.supported, 0, self.config.vcpus);
        let leaf = |entry: &kvm_cpuid_entry2| CpuidLeaf {
            function: entry.function,
            index: entry.index,
            registers: [entry.eax, entry.ebx, entry.ecx, entry.edx],
        };
        Processor(leaves.iter().map(leaf).collect())
    }
}

impl Accelerated for Machine {
    fn signal_msi(&self, msi: Msi) -> Result<(), CpuError> {
        let (address_lo, address_hi) = halves(msi.address);
        let message = kvm_msi {
            address_lo,
            address_hi,
            data: msi.data,
            ..kvm_msi::default()
        };
        match self.fd.signal_msi(message) {
            // A message for an APIC that is not there or takes none is lost, as on a bus.
            Err(error) if error.errno() != libc::EPERM => Err(host("KVM_SIGNAL_MSI")(error)),
            _ => Ok(()),
        }
    }

    fn connect_pin(&self, pin: u8, event: BorrowedFd<'_>) -> Result<(), CpuError> {
        self.fd
            .register_irqfd(&event_fd(event)?, pin.into())
            .map_err(host("KVM_IRQFD"))
    }

    fn describe_pin(&self, pin: u8, msi: Option<Msi>) -> Result<(), CpuError> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match msi {
            Some(msi) => routes.insert(pin, msi),
            None => routes.remove(&pin),
        };
        if before == msi {
            return Ok(());
        }
        self.route(&routes)
    }

    fn connect_doorbell(
        &self,
        address: u64,
        value: u32,
        event: BorrowedFd<'_>,
    ) -> Result<(), CpuError> {
        self.fd
            .register_ioevent(&event_fd(event)?, &IoEventAddress::Mmio(address), value)
            .map_err(host("KVM_IOEVENTFD"))
    }

    fn guest_clock(&self) -> Result<u64, CpuError> {
        self.shape.clock.read(&self.fd)
    }

    fn set_guest_clock(&self, nanoseconds: u64) -> Result<(), CpuError> {
        self.shape.clock.set(&self.fd, nanoseconds)
    }

    fn record_dirty_pages(&self, on: bool) -> Result<(), CpuError> {
        let flags = if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        map(&self.fd, &self.memory, flags)
    }

    fn take_dirty_pages(&self) -> Result<Vec<u64>, CpuError> {
        let mut bitmap = Vec::new();
        for (slot, region) in (0..).zip(self.memory.layout()) {
            let part = self
                .fd
                .get_dirty_log(slot, bytes(region))
                .map_err(host("KVM_GET_DIRTY_LOG"))?;
            // The lower region is a multiple of 64 pages whenever there is an upper one, so the parts join.
            bitmap.extend(part);
        }
        Ok(bitmap)
    }
}

fn bytes(region: &Region) -> usize {
    usize::try_from(region.len).unwrap_or(usize::MAX)
}

fn halves(address: u64) -> (u32, u32) {
    let half = |value: u64| u32::try_from(value & 0xFFFF_FFFF).unwrap_or(u32::MAX);
    (half(address), half(address >> 32))
}

/// A descriptor of its own for `event`, as `kvm-ioctls` wants it.
fn event_fd(event: BorrowedFd<'_>) -> Result<EventFd, CpuError> {
    let owned = event
        .try_clone_to_owned()
        .map_err(|source| CpuError::Host {
            what: "dup",
            source,
        })?;
    // SAFETY: the descriptor was duplicated in the line above and belongs to nobody else. Should it be no eventfd, the
    // kernel refuses it.
    Ok(unsafe { EventFd::from_raw_fd(owned.into_raw_fd()) })
}

fn routing(routes: &BTreeMap<u8, Msi>) -> Result<KvmIrqRouting, CpuError> {
    let entries: Vec<_> = routes
        .iter()
        .map(|(&pin, msi)| {
            let (address_lo, address_hi) = halves(msi.address);
            let mut entry = kvm_irq_routing_entry {
                gsi: pin.into(),
                type_: KVM_IRQ_ROUTING_MSI,
                ..kvm_irq_routing_entry::default()
            };
            entry.u.msi = kvm_irq_routing_msi {
                address_lo,
                address_hi,
                data: msi.data,
                ..kvm_irq_routing_msi::default()
            };
            entry
        })
        .collect();
    KvmIrqRouting::from_entries(&entries)
        .map_err(|_| CpuError::State("more interrupt routes than the kernel takes"))
}
