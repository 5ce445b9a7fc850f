//! System instructions.

use atoll_x86::cpuid::{self, Identity};
use iced_x86::Code;

use crate::cpu::{
    AC, CR0_EM, CR0_PE, CR0_PG, CR0_TS, CR0_WP, CR4_FSGSBASE, CR4_KNOWN, CR4_OSXSAVE, CR4_PAE,
    CR4_PGE, Cpu, EFER_LMA, EFER_LME, FS, GS, IF, Mode,
};
use crate::exception::{GP, UD};
use crate::exec::stack::check_io_privilege;
use crate::op::{Fault, Flow, Op, Step};
use crate::operand::{Operand, Place, Source};

/// #UD.
pub(crate) fn undefined(cpu: &mut Cpu, _op: &Op) -> Step {
    Err(cpu.raise(UD, None))
}

/// #GP: an instruction of more than 15 bytes.
pub(crate) fn too_long(cpu: &mut Cpu, _op: &Op) -> Step {
    Err(cpu.raise(GP, Some(0)))
}

/// An instruction of the model shown that nobody has written: the machine stops rather than lie.
pub(crate) fn unsupported(cpu: &mut Cpu, op: &Op) -> Step {
    let code = Code::try_from(op.imm as usize).unwrap_or_default();
    Err(cpu.unsupported(format!("instruction {code:?}")))
}

/// HLT.
pub(crate) fn halt(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_privilege()?;
    cpu.activity = atoll_cpu_api::Activity::Halted;
    cpu.look_at_events();
    cpu.leave(op)
}

/// CLI.
pub(crate) fn clear_interrupts(cpu: &mut Cpu, _op: &Op) -> Step {
    check_io_privilege(cpu)?;
    cpu.system_flags &= !IF;
    Ok(Flow::Next)
}

/// STI: interrupts come after the next instruction.
pub(crate) fn set_interrupts(cpu: &mut Cpu, op: &Op) -> Step {
    check_io_privilege(cpu)?;
    if cpu.system_flags & IF == 0 {
        cpu.system_flags |= IF;
        cpu.shadow = true;
        cpu.interrupts_enabled();
    }
    cpu.leave(op)
}

fn access(cpu: &mut Cpu, flag: u64) -> Step {
    if cpu.cpl != 0 {
        return Err(cpu.raise(UD, None));
    }
    cpu.system_flags = (cpu.system_flags & !AC) | flag;
    cpu.update_context();
    Ok(Flow::Next)
}

/// CLAC.
pub(crate) fn clear_access(cpu: &mut Cpu, _op: &Op) -> Step {
    access(cpu, 0)
}

/// STAC.
pub(crate) fn set_access(cpu: &mut Cpu, _op: &Op) -> Step {
    access(cpu, AC)
}

/// CLTS.
pub(crate) fn clear_task_switched(cpu: &mut Cpu, _op: &Op) -> Step {
    cpu.require_privilege()?;
    cpu.cr0 &= !CR0_TS;
    cpu.update_fpu();
    Ok(Flow::Next)
}

/// CPUID.
pub(crate) fn cpuid(cpu: &mut Cpu, _op: &Op) -> Step {
    let identity = Identity {
        apic_id: cpu.index,
        cpus: cpu.cpus,
        tsc_khz: cpu.clock.khz(),
        osxsave: cpu.cr4 & CR4_OSXSAVE != 0,
    };
    let leaf = cpuid::leaf(u32::get(cpu, 0), u32::get(cpu, 1), identity);
    leaf.eax.set(cpu, 0);
    leaf.ebx.set(cpu, 3);
    leaf.ecx.set(cpu, 1);
    leaf.edx.set(cpu, 2);
    Ok(Flow::Next)
}

fn into_edx_eax(cpu: &mut Cpu, value: u64) {
    (value as u32).set(cpu, 0);
    ((value >> 32) as u32).set(cpu, 2);
}

fn edx_eax(cpu: &Cpu) -> u64 {
    u64::from(u32::get(cpu, 0)) | u64::from(u32::get(cpu, 2)) << 32
}

/// RDTSC. CR4.TSD keeps it from user code.
pub(crate) fn rdtsc(cpu: &mut Cpu, _op: &Op) -> Step {
    if cpu.cr4 & 1 << 2 != 0 {
        cpu.require_privilege()?;
    }
    let tsc = cpu.tsc();
    into_edx_eax(cpu, tsc);
    Ok(Flow::Next)
}

/// RDTSCP.
pub(crate) fn rdtscp(cpu: &mut Cpu, op: &Op) -> Step {
    rdtsc(cpu, op)?;
    (cpu.msrs.tsc_aux as u32).set(cpu, 1);
    Ok(Flow::Next)
}

/// RDPMC: there are no counters.
pub(crate) fn rdpmc(cpu: &mut Cpu, _op: &Op) -> Step {
    Err(cpu.raise(GP, Some(0)))
}

/// RDMSR.
pub(crate) fn rdmsr(cpu: &mut Cpu, _op: &Op) -> Step {
    cpu.require_privilege()?;
    let value = cpu.read_msr(u32::get(cpu, 1))?;
    into_edx_eax(cpu, value);
    Ok(Flow::Next)
}

/// WRMSR.
pub(crate) fn wrmsr(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_privilege()?;
    let value = edx_eax(cpu);
    cpu.write_msr(u32::get(cpu, 1), value)?;
    cpu.leave(op)
}

/// SWAPGS.
pub(crate) fn swapgs(cpu: &mut Cpu, _op: &Op) -> Step {
    if cpu.mode != Mode::Bits64 {
        return Err(cpu.raise(UD, None));
    }
    cpu.require_privilege()?;
    std::mem::swap(&mut cpu.segments[GS].base, &mut cpu.msrs.kernel_gs_base);
    cpu.update_base(GS);
    Ok(Flow::Next)
}

/// INVLPG.
pub(crate) fn invlpg(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_privilege()?;
    let address = cpu.address(op);
    if cpu.tlb.may_know_large(address) {
        // One INVLPG is for all of a larger page, of which the table holds pieces.
        cpu.forget_translations(false);
        return cpu.leave(op);
    }
    cpu.tlb.forget_page(address);
    if cpu.fetched_pages.contains(address) && cpu.forgotten_page.replace(address).is_some() {
        // Only one page is remembered: two in one block forget everything.
        cpu.forget_translations(false);
    }
    cpu.leave(op)
}

/// WBINVD, INVD: there are no caches.
pub(crate) fn flush_caches(cpu: &mut Cpu, _op: &Op) -> Step {
    cpu.require_privilege()?;
    Ok(Flow::Next)
}

fn require_xsave(cpu: &mut Cpu) -> Result<(), Fault> {
    if cpu.cr4 & CR4_OSXSAVE == 0 {
        return Err(cpu.raise(UD, None));
    }
    Ok(())
}

/// XGETBV.
pub(crate) fn xgetbv(cpu: &mut Cpu, _op: &Op) -> Step {
    require_xsave(cpu)?;
    if u32::get(cpu, 1) != 0 {
        return Err(cpu.raise(GP, Some(0)));
    }
    let value = cpu.xcr0;
    into_edx_eax(cpu, value);
    Ok(Flow::Next)
}

/// XSETBV: x87 always, SSE if wanted.
pub(crate) fn xsetbv(cpu: &mut Cpu, _op: &Op) -> Step {
    require_xsave(cpu)?;
    cpu.require_privilege()?;
    let value = edx_eax(cpu);
    if u32::get(cpu, 1) != 0 || value & 1 == 0 || value & !3 != 0 {
        return Err(cpu.raise(GP, Some(0)));
    }
    cpu.xcr0 = value;
    Ok(Flow::Next)
}

fn require_bases(cpu: &mut Cpu) -> Result<(), Fault> {
    if cpu.cr4 & CR4_FSGSBASE == 0 {
        return Err(cpu.raise(UD, None));
    }
    Ok(())
}

/// RDFSBASE, RDGSBASE.
pub(crate) fn read_base<T: Operand, const SEGMENT: usize>(cpu: &mut Cpu, op: &Op) -> Step {
    require_bases(cpu)?;
    T::low(cpu.segments[SEGMENT].base).set(cpu, op.dst);
    Ok(Flow::Next)
}

/// WRFSBASE, WRGSBASE.
pub(crate) fn write_base<T: Operand, const SEGMENT: usize>(cpu: &mut Cpu, op: &Op) -> Step {
    require_bases(cpu)?;
    let value = T::get(cpu, op.dst).zero_extended();
    if !cpu.is_canonical(value) {
        return Err(cpu.raise(GP, Some(0)));
    }
    cpu.set_base(SEGMENT, value);
    Ok(Flow::Next)
}

impl Cpu {
    /// Sets the base of FS or GS.
    pub(crate) fn set_base(&mut self, segment: usize, value: u64) {
        debug_assert!(segment == FS || segment == GS);
        self.segments[segment].base = value;
        self.update_base(segment);
    }

    /// Writes CR0, with its effects on mode and paging.
    pub(crate) fn set_cr0(&mut self, value: u64) -> Result<(), Fault> {
        let value = (value & 0xE005_003F) | 1 << 4;
        let (paging, protected) = (value & CR0_PG != 0, value & CR0_PE != 0);
        let cache_bits = value >> 29 & 3;
        if (paging && !protected) || cache_bits == 1 {
            return Err(self.raise(GP, Some(0)));
        }
        if paging && self.cr0 & CR0_PG == 0 {
            if self.efer & EFER_LME == 0 {
                return Err(self.unsupported("paging outside long mode"));
            }
            if self.cr4 & CR4_PAE == 0 {
                return Err(self.raise(GP, Some(0)));
            }
            self.efer |= EFER_LMA;
        } else if !paging && self.cr0 & CR0_PG != 0 {
            if self.mode == Mode::Bits64 {
                return Err(self.raise(GP, Some(0)));
            }
            self.efer &= !EFER_LMA;
        }
        let changed = self.cr0 ^ value;
        self.cr0 = value;
        self.update_fpu();
        if changed & (CR0_PE | CR0_PG) != 0 {
            self.update_mode();
        }
        if changed & (CR0_PG | CR0_WP | CR0_PE) != 0 {
            self.update_paging();
        }
        Ok(())
    }

    fn set_cr4(&mut self, value: u64) -> Result<(), Fault> {
        if value & !CR4_KNOWN != 0 || (self.is_long_mode() && value & CR4_PAE == 0) {
            return Err(self.raise(GP, Some(0)));
        }
        let changed = self.cr4 ^ value;
        self.cr4 = value;
        self.update_fpu();
        if changed & (CR4_PGE | CR4_PAE | 1 << 4 | 1 << 20) != 0 {
            self.update_paging();
        }
        self.update_context();
        Ok(())
    }
}

/// MOV from CRn.
pub(crate) fn read_control<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_privilege()?;
    let value = match op.extra {
        0 => cpu.cr0,
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4,
        8 => cpu
            .controller
            .as_ref()
            .map_or(0, |controller| u64::from(controller.task_priority())),
        _ => return Err(cpu.raise(UD, None)),
    };
    T::low(value).set(cpu, op.dst);
    Ok(Flow::Next)
}

/// MOV to CRn.
pub(crate) fn write_control<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_privilege()?;
    let value = T::get(cpu, op.src).zero_extended();
    match op.extra {
        0 => {
            if value >> 32 != 0 {
                return Err(cpu.raise(GP, Some(0)));
            }
            cpu.set_cr0(value)?;
        }
        2 => cpu.cr2 = value,
        3 => {
            if cpu.is_long_mode() && value >> cpuid::PHYSICAL_BITS != 0 {
                return Err(cpu.raise(GP, Some(0)));
            }
            cpu.cr3 = value;
            cpu.paging.root = value;
            cpu.forget_translations(cpu.cr4 & CR4_PGE != 0);
        }
        4 => cpu.set_cr4(value)?,
        8 => {
            if value > 15 {
                return Err(cpu.raise(GP, Some(0)));
            }
            if let Some(controller) = &cpu.controller {
                controller.set_task_priority(value as u8);
            }
            cpu.interrupt_hint = true;
            cpu.look_at_events();
        }
        _ => return Err(cpu.raise(UD, None)),
    }
    cpu.leave(op)
}

/// Debug registers 4 and 5 are 6 and 7 unless CR4.DE makes them undefined.
fn debug_index(cpu: &mut Cpu, op: &Op) -> Result<usize, Fault> {
    cpu.require_privilege()?;
    match op.extra {
        index @ (4 | 5) if cpu.cr4 & 1 << 3 == 0 => Ok(usize::from(index) + 2),
        4 | 5 => Err(cpu.raise(UD, None)),
        index => Ok(usize::from(index & 7)),
    }
}

/// MOV from DRn.
pub(crate) fn read_debug<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let index = debug_index(cpu, op)?;
    T::low(cpu.dr[index]).set(cpu, op.dst);
    Ok(Flow::Next)
}

/// MOV to DRn.
pub(crate) fn write_debug<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let index = debug_index(cpu, op)?;
    let value = T::get(cpu, op.src).zero_extended();
    if index >= 6 && value >> 32 != 0 {
        return Err(cpu.raise(GP, Some(0)));
    }
    cpu.dr[index] = match index {
        6 => (value & 0xE00F) | 0xFFFF_0FF0,
        7 => (value & 0xFFFF_2BFF) | 0x400,
        _ => value,
    };
    cpu.leave(op)
}

/// SMSW.
pub(crate) fn store_status<T: Operand, P: Place>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.check_umip()?;
    let value = T::low(cpu.cr0);
    P::write(cpu, op, value)?;
    Ok(Flow::Next)
}

/// LMSW: may set PE, not clear it.
pub(crate) fn load_status<S: Source>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_privilege()?;
    let value: u16 = S::read(cpu, op)?;
    let value = (cpu.cr0 & !(CR0_EM | CR0_TS | 2)) | u64::from(value & 15);
    cpu.set_cr0(value)?;
    cpu.leave(op)
}
