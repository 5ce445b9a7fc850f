//! Between the CPU and the format in which states are saved.

use atoll_cpu_api::{CpuError, DescriptorTable, Segment, Segments, VcpuState};
use atoll_x86::flags::Flags;

use crate::cpu::{CR0_PE, CR0_PG, CR4_KNOWN, CR4_PAE, Cpu, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE};
use crate::msr::Msrs;

impl Cpu {
    /// Everything, as it is between two instructions.
    pub(crate) fn save(&self) -> VcpuState {
        let mut registers = [0; 16];
        registers.copy_from_slice(&self.regs[..16]);
        let [es, cs, ss, ds, fs, gs] = self.segments;
        VcpuState {
            registers,
            rip: self.rip,
            rflags: self.rflags(),
            segments: Segments {
                es,
                cs,
                ss,
                ds,
                fs,
                gs,
                ldtr: self.ldtr,
                tr: self.tr,
            },
            gdtr: self.gdtr,
            idtr: self.idtr,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            cr8: self
                .controller
                .as_ref()
                .map_or(0, |controller| u64::from(controller.task_priority())),
            efer: self.efer,
            xcr0: self.xcr0,
            dr: [self.dr[0], self.dr[1], self.dr[2], self.dr[3]],
            dr6: self.dr[6],
            dr7: self.dr[7],
            fpu: (&self.fpu).into(),
            tsc: self.tsc(),
            msrs: self.msrs.all(),
            activity: self.activity,
            interrupt_shadow: self.shadow,
            nmi_blocked: self.nmi_blocked,
            ..VcpuState::default()
        }
    }

    /// Takes a state; refuses what no processor of this model can be in.
    pub(crate) fn restore(&mut self, state: &VcpuState) -> Result<(), CpuError> {
        check(state)?;
        self.regs[..16].copy_from_slice(&state.registers);
        self.rip = state.rip;
        let s = &state.segments;
        self.segments = [s.es, s.cs, s.ss, s.ds, s.fs, s.gs];
        (self.ldtr, self.tr) = (s.ldtr, s.tr);
        (self.gdtr, self.idtr) = (state.gdtr, state.idtr);
        (self.cr0, self.cr2, self.cr3, self.cr4) = (state.cr0, state.cr2, state.cr3, state.cr4);
        self.efer = state.efer;
        self.xcr0 = state.xcr0;
        self.dr[..4].copy_from_slice(&state.dr);
        (self.dr[6], self.dr[7]) = (state.dr6, state.dr7);
        self.fpu = (&state.fpu).into();
        self.update_fpu();
        self.set_tsc(state.tsc);
        self.msrs = Msrs::from_all(&state.msrs);
        self.end_is_offered = false;
        self.activity = state.activity;
        self.shadow = state.interrupt_shadow;
        self.nmi_blocked = state.nmi_blocked;
        if let Some(controller) = &self.controller {
            controller.set_task_priority((state.cr8 & 15) as u8);
        }
        self.system_flags = 0;
        self.flags = Flags::default();
        self.set_rflags(state.rflags);
        self.update_mode();
        self.update_paging();
        self.interrupt_hint = true;
        self.look_at_events();
        Ok(())
    }

    /// Makes the time stamp counter show `value`, or what the machine's other CPUs show when that is nearly the same.
    fn set_tsc(&mut self, value: u64) {
        let wanted = value.wrapping_sub(self.clock.now());
        let tolerance = u64::from(self.clock.khz()) * 20;
        self.tsc_offset = self.peers.agree_on_offset(wanted, tolerance);
    }

    /// INIT: the state after reset, but for what INIT keeps; waits for a start-up message.
    pub(crate) fn reset(&mut self) {
        let mut state = VcpuState {
            tsc: self.tsc(),
            activity: atoll_cpu_api::Activity::WaitingForStartup,
            ..VcpuState::default()
        };
        // EDX tells the processor's signature.
        state.registers[2] = 0x0002_06C2;
        if self.restore(&state).is_err() {
            debug_assert!(false, "the state after reset is a state");
        }
    }
}

/// What every consistent state keeps to.
fn check(state: &VcpuState) -> Result<(), CpuError> {
    let paging = state.cr0 & CR0_PG != 0;
    let long = state.efer & EFER_LMA != 0;
    if paging && state.cr0 & CR0_PE == 0 {
        return Err(CpuError::State("paging without protected mode"));
    }
    if long != (paging && state.efer & EFER_LME != 0) {
        return Err(CpuError::State(
            "EFER.LMA is not what CR0.PG and EFER.LME make it",
        ));
    }
    if paging && !long {
        return Err(CpuError::State(
            "paging outside long mode is not supported by the software CPU",
        ));
    }
    if long && state.cr4 & CR4_PAE == 0 {
        return Err(CpuError::State("long mode without CR4.PAE"));
    }
    if state.cr4 & !CR4_KNOWN != 0 {
        return Err(CpuError::State(
            "CR4 has bits that the software CPU does not have",
        ));
    }
    if state.efer & !(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE) != 0 {
        return Err(CpuError::State(
            "EFER has bits that the software CPU does not have",
        ));
    }
    if state.xcr0 & !3 != 0 {
        return Err(CpuError::State(
            "XCR0 has bits that the software CPU does not have",
        ));
    }
    Ok(())
}

/// Nothing loaded.
pub(crate) const NO_SEGMENT: Segment = Segment {
    selector: 0,
    base: 0,
    limit: 0,
    attributes: 0,
};

/// No table.
pub(crate) const NO_TABLE: DescriptorTable = DescriptorTable { base: 0, limit: 0 };
