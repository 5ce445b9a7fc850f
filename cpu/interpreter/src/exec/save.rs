//! Control words and the saving of floating point and vector state.

use atoll_cpu_api::Fpu;
use atoll_x86::x87::X87;

use crate::cpu::{CR4_OSXSAVE, Cpu, Mode};
use crate::exception::{GP, MF, UD};
use crate::fpu::{self, LEGACY_WRITTEN, MXCSR_MASK};
use crate::op::{Fault, Flow, Op, Step};
use crate::operand::{Operand, Place};

/// FNINIT.
pub(crate) fn initialise(cpu: &mut Cpu, _op: &Op) -> Step {
    cpu.require_x87()?;
    // The registers' contents stay, only their tags say that they are empty.
    cpu.fpu.x87 = X87 {
        registers: cpu.fpu.x87.registers,
        ..X87::default()
    };
    Ok(Flow::Next)
}

/// FNCLEX.
pub(crate) fn clear_exceptions(cpu: &mut Cpu, _op: &Op) -> Step {
    cpu.require_x87()?;
    cpu.fpu.x87.status &= 0x7F00;
    Ok(Flow::Next)
}

/// FWAIT: CR0.MP makes TS count.
pub(crate) fn wait(cpu: &mut Cpu, _op: &Op) -> Step {
    if cpu.cr0 & 0b1010 == 0b1010 {
        return Err(cpu.raise(crate::exception::NM, None));
    }
    if cpu.fpu.x87.has_pending_exception() {
        return Err(cpu.raise(MF, None));
    }
    Ok(Flow::Next)
}

/// FNSTSW.
pub(crate) fn store_status<P: Place>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_x87()?;
    let status = cpu.fpu.x87.status;
    P::write(cpu, op, status)?;
    Ok(Flow::Next)
}

/// FNSTCW.
pub(crate) fn store_control<P: Place>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_x87()?;
    let control = cpu.fpu.x87.control;
    P::write(cpu, op, control)?;
    Ok(Flow::Next)
}

/// FLDCW.
pub(crate) fn load_control(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_x87_idle()?;
    let address = cpu.address(op);
    let control: u16 = cpu.load(address)?;
    cpu.fpu.x87.control = (control & 0x1F7F) | 0x40;
    cpu.fpu.x87.summarise();
    Ok(Flow::Next)
}

/// LDMXCSR.
pub(crate) fn load_mxcsr(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_vectors()?;
    let address = cpu.address(op);
    let value: u32 = cpu.load(address)?;
    check_mxcsr(cpu, value)?;
    cpu.fpu.mxcsr = value;
    Ok(Flow::Next)
}

/// STMXCSR.
pub(crate) fn store_mxcsr(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_vectors()?;
    let address = cpu.address(op);
    cpu.store(address, cpu.fpu.mxcsr)?;
    Ok(Flow::Next)
}

fn check_mxcsr(cpu: &mut Cpu, value: u32) -> Result<(), Fault> {
    if value & !MXCSR_MASK != 0 {
        return Err(cpu.raise(GP, Some(0)));
    }
    Ok(())
}

/// #GP unless the area is aligned to `bytes`.
fn aligned(cpu: &mut Cpu, op: &Op, bytes: u64) -> Result<u64, Fault> {
    let address = cpu.address(op);
    if !address.is_multiple_of(bytes) {
        return Err(cpu.raise(GP, Some(0)));
    }
    Ok(address)
}

/// Vector registers that the current mode has.
fn vectors(cpu: &Cpu) -> usize {
    if cpu.mode == Mode::Bits64 { 16 } else { 8 }
}

/// FXSAVE.
pub(crate) fn fxsave<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_x87()?;
    let address = aligned(cpu, op, 16)?;
    let image = fpu::image(&cpu.saved_fpu(), WIDE);
    // All of the area must be writable, also what is left alone.
    cpu.prepare_write(cpu.context, address, 512)?;
    let len = if vectors(cpu) == 16 {
        LEGACY_WRITTEN
    } else {
        288
    };
    cpu.write_bytes(cpu.context, address, &image[..len])?;
    Ok(Flow::Next)
}

/// FXRSTOR.
pub(crate) fn fxrstor<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_x87()?;
    let address = aligned(cpu, op, 16)?;
    let mut image = [0; 512];
    cpu.read_bytes(cpu.context, address, &mut image)?;
    let mxcsr = fpu::mxcsr(&image);
    check_mxcsr(cpu, mxcsr)?;
    let mut saved = cpu.saved_fpu();
    fpu::load_x87(&mut saved, &image, WIDE);
    fpu::load_xmm(&mut saved, &image, vectors(cpu));
    saved.mxcsr = mxcsr;
    cpu.load_fpu(&saved);
    Ok(Flow::Next)
}

/// What XSAVE and XRSTOR work on: EDX:EAX of what XCR0 has.
fn wanted(cpu: &mut Cpu) -> Result<u64, Fault> {
    if cpu.cr4 & CR4_OSXSAVE == 0 {
        return Err(cpu.raise(UD, None));
    }
    cpu.require_x87()?;
    let mask = u64::from(u32::get(cpu, 0)) | u64::from(u32::get(cpu, 2)) << 32;
    Ok(mask & cpu.xcr0)
}

/// Which components are not in their initial state.
fn in_use(fpu: &Fpu) -> u64 {
    let fresh = Fpu::default();
    let x87 = Fpu {
        xmm: fresh.xmm,
        mxcsr: fresh.mxcsr,
        ..fpu.clone()
    };
    let sse = fpu.xmm.iter().any(|register| *register != 0);
    u64::from(x87 != fresh) | u64::from(sse) << 1
}

/// XSAVE (Intel SDM vol. 1 §13.7).
pub(crate) fn xsave<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Step {
    let wanted = wanted(cpu)?;
    let address = aligned(cpu, op, 64)?;
    let image = fpu::image(&cpu.saved_fpu(), WIDE);
    // All of the area's pages are seen to be writable before anything is written.
    cpu.prepare_write(cpu.context, address, 576)?;
    if wanted & 1 != 0 {
        cpu.write_bytes(cpu.context, address, &image[..24])?;
        cpu.write_bytes(cpu.context, address + 32, &image[32..160])?;
    }
    if wanted & 2 != 0 {
        cpu.write_bytes(cpu.context, address + 24, &image[24..32])?;
        let end = 160 + vectors(cpu) * 16;
        cpu.write_bytes(cpu.context, address + 160, &image[160..end])?;
    }
    let header: u64 = cpu.load(address + 512)?;
    let header = (header & !wanted) | (in_use(&cpu.saved_fpu()) & wanted);
    cpu.store(address + 512, header)?;
    Ok(Flow::Next)
}

/// XRSTOR, standard form (Intel SDM vol. 1 §13.8).
pub(crate) fn xrstor<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Step {
    let wanted = wanted(cpu)?;
    let address = aligned(cpu, op, 64)?;
    let mut area = [0; 576];
    cpu.read_bytes(cpu.context, address, &mut area)?;
    let (legacy, header) = area.split_at(512);
    let mut image = [0; 512];
    image.copy_from_slice(legacy);
    let mut bits = [0; 8];
    bits.copy_from_slice(&header[..8]);
    let present = u64::from_le_bytes(bits);
    let reserved = header[8..24].iter().any(|byte| *byte != 0);
    if present & !cpu.xcr0 != 0 || reserved {
        return Err(cpu.raise(GP, Some(0)));
    }
    let mxcsr = fpu::mxcsr(&image);
    let mut saved = cpu.saved_fpu();
    if wanted & 2 != 0 {
        check_mxcsr(cpu, mxcsr)?;
        saved.mxcsr = mxcsr;
        let count = vectors(cpu);
        if present & 2 != 0 {
            fpu::load_xmm(&mut saved, &image, count);
        } else {
            saved.xmm[..count].fill(0);
        }
    }
    if wanted & 1 != 0 {
        if present & 1 != 0 {
            fpu::load_x87(&mut saved, &image, WIDE);
        } else {
            saved = Fpu {
                xmm: saved.xmm,
                mxcsr: saved.mxcsr,
                ..Fpu::default()
            };
        }
    }
    cpu.load_fpu(&saved);
    Ok(Flow::Next)
}
