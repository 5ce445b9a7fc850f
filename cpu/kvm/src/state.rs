//! The whole state of a vCPU, read from and written to the kernel.
//!
//! Order of writing: what a processor is doing and its registers first, then the local APIC, then MSRs (the TSC before
//! the deadline that is compared with it, both after the APIC's timer mode), then pending events.

mod lapic;
mod msrs;
mod segments;
mod xsave;

use atoll_cpu_api::{Activity, CpuError, VcpuState};
use kvm_bindings::{
    KVM_MP_STATE_AP_RESET_HOLD, KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_UNINITIALIZED,
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, KVM_X86_SHADOW_INT_MOV_SS,
    KVM_X86_SHADOW_INT_STI, kvm_debugregs, kvm_mp_state, kvm_regs, kvm_sregs, kvm_vcpu_events,
    kvm_xcr, kvm_xcrs,
};
use kvm_ioctls::VcpuFd;

use crate::clock::Clock;
use crate::error::host;

pub(crate) use msrs::{SavedMsrs, set_reset_values};
pub(crate) use xsave::XsaveLayout;

/// `IA32_APIC_BASE`, which the kernel keeps among the special registers.
const APIC_BASE: u32 = 0x1B;
/// Where the local APIC is at reset, enabled (Intel SDM vol. 3 §11.4.4).
const APIC_BASE_RESET: u64 = 0xFEE0_0900;

/// RFLAGS.IF.
pub(crate) const INTERRUPT_FLAG: u64 = 1 << 9;

/// What the translation depends on besides the CPU itself: the host's processor, the machine's clocks. One a machine.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) xsave: XsaveLayout,
    pub(crate) msrs: SavedMsrs,
    /// Frequency of the guest's TSC.
    pub(crate) tsc_khz: u32,
    pub(crate) clock: Clock,
}

/// Reads the state of `vcpu`.
pub(crate) fn read(vcpu: &VcpuFd, shape: &Shape) -> Result<VcpuState, CpuError> {
    // First: the kernel lets INIT and start-up messages take effect when it is asked for this.
    let activity = activity(vcpu.get_mp_state().map_err(host("KVM_GET_MP_STATE"))?);
    let regs = vcpu.get_regs().map_err(host("KVM_GET_REGS"))?;
    let sregs = vcpu.get_sregs().map_err(host("KVM_GET_SREGS"))?;
    let debug = vcpu.get_debug_regs().map_err(host("KVM_GET_DEBUGREGS"))?;
    let events = vcpu
        .get_vcpu_events()
        .map_err(host("KVM_GET_VCPU_EVENTS"))?;
    let xcrs = vcpu.get_xcrs().map_err(host("KVM_GET_XCRS"))?;
    let xsave = vcpu.get_xsave().map_err(host("KVM_GET_XSAVE"))?;
    let lapic = vcpu.get_lapic().map_err(host("KVM_GET_LAPIC"))?;
    let (fpu, extended) = shape.xsave.read(&xsave);
    let (tsc, mut msrs) = shape.msrs.read(vcpu)?;
    msrs.insert(APIC_BASE, sregs.apic_base);
    let mut local_apic = lapic::bytes(&lapic);
    if events.interrupt.injected != 0 && events.interrupt.soft == 0 {
        lapic::give_back(&mut local_apic, events.interrupt.nr);
    }
    Ok(VcpuState {
        registers: general(&regs),
        rip: regs.rip,
        rflags: regs.rflags,
        segments: segments::read(&sregs),
        gdtr: segments::table(&sregs.gdt),
        idtr: segments::table(&sregs.idt),
        cr0: sregs.cr0,
        cr2: sregs.cr2,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        cr8: sregs.cr8,
        efer: sregs.efer,
        xcr0: xcr0(&xcrs),
        dr: debug.db,
        dr6: debug.dr6,
        dr7: debug.dr7,
        fpu,
        tsc: shape.clock.tsc_to_save(vcpu, tsc),
        msrs,
        activity,
        interrupt_shadow: events.interrupt.shadow != 0,
        nmi_blocked: events.nmi.masked != 0,
        local_apic,
        nmi_pending: events.nmi.pending != 0 || events.nmi.injected != 0,
        extended,
    })
}

/// Makes `vcpu`, which is CPU `index` of its machine, have `state`.
pub(crate) fn write(
    vcpu: &VcpuFd,
    shape: &Shape,
    index: u8,
    state: &VcpuState,
) -> Result<(), CpuError> {
    // Everything that can be refused without asking the kernel, before anything is changed.
    let xsave = shape.xsave.write(state)?;
    let lapic = lapic::registers(&state.local_apic)?;
    if state.xcr0 & !shape.xsave.components() != 0 {
        return Err(CpuError::State(
            "XCR0 names vector state that this host lacks",
        ));
    }

    vcpu.set_mp_state(mp_state(state.activity))
        .map_err(host("KVM_SET_MP_STATE"))?;
    vcpu.set_regs(&regs(state)).map_err(host("KVM_SET_REGS"))?;
    vcpu.set_sregs(&sregs(state, index))
        .map_err(refused("KVM_SET_SREGS", "control registers or segments"))?;
    // SAFETY: the structure is as long as the kernel reads: no component shown lies beyond it (`XsaveLayout::new`).
    unsafe { vcpu.set_xsave(&xsave) }.map_err(refused("KVM_SET_XSAVE", "MXCSR"))?;
    vcpu.set_xcrs(&xcrs(state.xcr0))
        .map_err(refused("KVM_SET_XCRS", "XCR0"))?;
    let debug = kvm_debugregs {
        db: state.dr,
        dr6: state.dr6,
        dr7: state.dr7,
        ..kvm_debugregs::default()
    };
    vcpu.set_debug_regs(&debug)
        .map_err(refused("KVM_SET_DEBUGREGS", "debug registers"))?;
    if let Some(lapic) = lapic {
        vcpu.set_lapic(&lapic)
            .map_err(refused("KVM_SET_LAPIC", "local APIC"))?;
    }
    let tsc = || msrs::tsc(vcpu);
    let tsc = shape
        .clock
        .restore_tsc(vcpu, shape.tsc_khz, tsc, state.tsc)?;
    shape.msrs.write(vcpu, state, tsc)?;
    vcpu.set_vcpu_events(&events(state))
        .map_err(host("KVM_SET_VCPU_EVENTS"))
}

/// `what` failed: `invalid` of the state when the kernel called it that.
fn refused(
    what: &'static str,
    invalid: &'static str,
) -> impl FnOnce(kvm_ioctls::Error) -> CpuError {
    move |error| match error.errno() {
        libc::EINVAL => CpuError::State(invalid),
        _ => host(what)(error),
    }
}

fn general(regs: &kvm_regs) -> [u64; 16] {
    [
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8,
        regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ]
}

fn regs(state: &VcpuState) -> kvm_regs {
    let [
        rax,
        rcx,
        rdx,
        rbx,
        rsp,
        rbp,
        rsi,
        rdi,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
    ] = state.registers;
    kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: state.rip,
        rflags: state.rflags,
    }
}

fn sregs(state: &VcpuState, index: u8) -> kvm_sregs {
    let bootstrap = if index == 0 { 0 } else { 0x100 };
    let apic_base = state.msrs.get(&APIC_BASE).copied();
    kvm_sregs {
        gdt: segments::kvm_table(state.gdtr),
        idt: segments::kvm_table(state.idtr),
        cr0: state.cr0,
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4,
        cr8: state.cr8,
        efer: state.efer,
        apic_base: apic_base.unwrap_or(APIC_BASE_RESET & !bootstrap),
        ..segments::write(&state.segments)
    }
}

fn xcr0(xcrs: &kvm_xcrs) -> u64 {
    let count = usize::try_from(xcrs.nr_xcrs).unwrap_or(0);
    let found = xcrs.xcrs.iter().take(count).find(|entry| entry.xcr == 0);
    found.map_or(1, |entry| entry.value)
}

fn xcrs(xcr0: u64) -> kvm_xcrs {
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..kvm_xcrs::default()
    };
    xcrs.xcrs[0] = kvm_xcr {
        xcr: 0,
        reserved: 0,
        value: xcr0,
    };
    xcrs
}

fn activity(state: kvm_mp_state) -> Activity {
    match state.mp_state {
        KVM_MP_STATE_HALTED => Activity::Halted,
        KVM_MP_STATE_UNINITIALIZED
        | KVM_MP_STATE_INIT_RECEIVED
        | KVM_MP_STATE_SIPI_RECEIVED
        | KVM_MP_STATE_AP_RESET_HOLD => Activity::WaitingForStartup,
        _ => Activity::Running,
    }
}

fn mp_state(activity: Activity) -> kvm_mp_state {
    let mp_state = match activity {
        Activity::Running => KVM_MP_STATE_RUNNABLE,
        Activity::Halted => KVM_MP_STATE_HALTED,
        Activity::WaitingForStartup => KVM_MP_STATE_INIT_RECEIVED,
    };
    kvm_mp_state { mp_state }
}

/// Nothing pending but what `state` says: an exception that was being delivered is raised again by its instruction.
fn events(state: &VcpuState) -> kvm_vcpu_events {
    let mut events = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        ..kvm_vcpu_events::default()
    };
    if state.interrupt_shadow {
        // A processor refuses to be entered after an STI that left interrupts off (Intel SDM vol. 3 §27.3.1.5).
        let enabled = state.rflags & INTERRUPT_FLAG != 0;
        let shadow = if enabled {
            KVM_X86_SHADOW_INT_STI
        } else {
            KVM_X86_SHADOW_INT_MOV_SS
        };
        events.interrupt.shadow = u8::try_from(shadow).unwrap_or(u8::MAX);
    }
    events.nmi.masked = state.nmi_blocked.into();
    events.nmi.pending = state.nmi_pending.into();
    events
}
