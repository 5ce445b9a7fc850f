//! Descriptor tables and descriptors as operands.

use atoll_cpu_api::{DescriptorTable, Segment};

use crate::cpu::{CR4_UMIP, Cpu, Mode};
use crate::exception::{GP, NP, UD};
use crate::op::{Fault, Flow, Op, Step};
use crate::operand::{Operand, Place, Source};
use crate::segment::Descriptor;

impl Cpu {
    /// #GP unless privilege is 0.
    pub(crate) fn require_privilege(&mut self) -> Result<(), Fault> {
        if self.cpl == 0 {
            Ok(())
        } else {
            Err(self.raise(GP, Some(0)))
        }
    }

    /// #GP where user code may not ask for system addresses.
    pub(crate) fn check_umip(&mut self) -> Result<(), Fault> {
        if self.cr4 & CR4_UMIP != 0 {
            self.require_privilege()
        } else {
            Ok(())
        }
    }
}

/// LGDT, LIDT.
pub(crate) fn load_table<const INTERRUPT: bool>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_privilege()?;
    let address = cpu.address(op);
    let limit: u16 = cpu.load(address)?;
    let place = address.wrapping_add(2);
    let base = if cpu.mode == Mode::Bits64 {
        cpu.load::<u64>(place)?
    } else {
        u64::from(cpu.load::<u32>(place)?)
    };
    if !cpu.is_canonical(base) {
        return Err(cpu.raise(GP, Some(0)));
    }
    let table = DescriptorTable { base, limit };
    if INTERRUPT {
        cpu.idtr = table;
    } else {
        cpu.gdtr = table;
    }
    Ok(Flow::Next)
}

/// SGDT, SIDT.
pub(crate) fn store_table<const INTERRUPT: bool>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.check_umip()?;
    let table = if INTERRUPT { cpu.idtr } else { cpu.gdtr };
    let address = cpu.address(op);
    let bytes = if cpu.mode == Mode::Bits64 { 10 } else { 6 };
    let mut image = [0; 10];
    image[..2].copy_from_slice(&table.limit.to_le_bytes());
    image[2..].copy_from_slice(&table.base.to_le_bytes());
    cpu.write_bytes(cpu.context, address, &image[..bytes])?;
    Ok(Flow::Next)
}

/// A system descriptor of 8 bytes, or 16 in long mode, as the register it makes.
fn system_segment(
    cpu: &mut Cpu,
    selector: u16,
    kinds: [u8; 2],
) -> Result<(Segment, Descriptor), Fault> {
    let error = Some(u32::from(selector & !3));
    if selector & 4 != 0 {
        return Err(cpu.raise(GP, error));
    }
    let descriptor = cpu.descriptor(selector, 0)?;
    if descriptor.is_segment() || !kinds.contains(&descriptor.kind()) {
        return Err(cpu.raise(GP, error));
    }
    if !descriptor.is_present() {
        return Err(cpu.raise(NP, error));
    }
    let mut segment = descriptor.segment(selector);
    if cpu.is_long_mode() {
        segment.base |= cpu.descriptor_high(selector)? << 32;
        if !cpu.is_canonical(segment.base) {
            return Err(cpu.raise(GP, error));
        }
    }
    Ok((segment, descriptor))
}

/// LLDT.
pub(crate) fn load_local<S: Source>(cpu: &mut Cpu, op: &Op) -> Step {
    protected(cpu)?;
    cpu.require_privilege()?;
    let selector: u16 = S::read(cpu, op)?;
    cpu.ldtr = if selector & !3 == 0 {
        Segment {
            selector,
            ..Segment::default()
        }
    } else {
        system_segment(cpu, selector, [2, 2])?.0
    };
    Ok(Flow::Next)
}

/// LTR: marks the task busy.
pub(crate) fn load_task<S: Source>(cpu: &mut Cpu, op: &Op) -> Step {
    protected(cpu)?;
    cpu.require_privilege()?;
    let selector: u16 = S::read(cpu, op)?;
    if selector & !3 == 0 {
        return Err(cpu.raise(GP, Some(0)));
    }
    let kinds = if cpu.is_long_mode() { [9, 9] } else { [1, 9] };
    let (mut segment, descriptor) = system_segment(cpu, selector, kinds)?;
    cpu.set_descriptor_kind(selector, (descriptor.0 >> 40) as u8 | 2)?;
    segment.attributes |= 2;
    cpu.tr = segment;
    Ok(Flow::Next)
}

fn protected(cpu: &mut Cpu) -> Result<(), Fault> {
    if cpu.is_protected() {
        Ok(())
    } else {
        Err(cpu.raise(UD, None))
    }
}

/// SLDT.
pub(crate) fn store_local<T: Operand, P: Place>(cpu: &mut Cpu, op: &Op) -> Step {
    protected(cpu)?;
    cpu.check_umip()?;
    let value = T::low(u64::from(cpu.ldtr.selector));
    P::write(cpu, op, value)?;
    Ok(Flow::Next)
}

/// STR.
pub(crate) fn store_task<T: Operand, P: Place>(cpu: &mut Cpu, op: &Op) -> Step {
    protected(cpu)?;
    cpu.check_umip()?;
    let value = T::low(u64::from(cpu.tr.selector));
    P::write(cpu, op, value)?;
    Ok(Flow::Next)
}

/// The descriptor that `selector` names when the current privilege may see it.
fn visible(cpu: &mut Cpu, selector: u16) -> Result<Option<Descriptor>, Fault> {
    let Some(descriptor) = cpu.find_descriptor(selector)? else {
        return Ok(None);
    };
    let conforming = descriptor.is_code() && descriptor.kind() & 4 != 0;
    let privilege = cpu.cpl.max((selector & 3) as u8);
    Ok((conforming || privilege <= descriptor.privilege()).then_some(descriptor))
}

/// VERR, VERW.
pub(crate) fn verify<S: Source, const WRITE: bool>(cpu: &mut Cpu, op: &Op) -> Step {
    protected(cpu)?;
    let selector: u16 = S::read(cpu, op)?;
    let usable = visible(cpu, selector)?.is_some_and(|descriptor| {
        let kind = descriptor.kind();
        let code = kind & 8 != 0;
        descriptor.is_segment()
            && if WRITE {
                !code && kind & 2 != 0
            } else {
                !code || kind & 2 != 0
            }
    });
    cpu.flags.set_zero(usable);
    Ok(Flow::Next)
}

/// LAR.
pub(crate) fn access_rights<T: Operand, S: Source>(cpu: &mut Cpu, op: &Op) -> Step {
    protected(cpu)?;
    let selector: u16 = S::read(cpu, op)?;
    let long = cpu.is_long_mode();
    let found = visible(cpu, selector)?.filter(|descriptor| {
        descriptor.is_segment()
            || match descriptor.kind() {
                2 | 9 | 0xB | 0xC => true,
                1 | 3 | 4 | 5 => !long,
                _ => false,
            }
    });
    if let Some(descriptor) = found {
        T::low(descriptor.0 >> 32 & 0x00F0_FF00).set(cpu, op.dst);
    }
    cpu.flags.set_zero(found.is_some());
    Ok(Flow::Next)
}

/// LSL.
pub(crate) fn segment_limit<T: Operand, S: Source>(cpu: &mut Cpu, op: &Op) -> Step {
    protected(cpu)?;
    let selector: u16 = S::read(cpu, op)?;
    let long = cpu.is_long_mode();
    let found = visible(cpu, selector)?.filter(|descriptor| {
        descriptor.is_segment()
            || match descriptor.kind() {
                2 | 9 | 0xB => true,
                1 | 3 => !long,
                _ => false,
            }
    });
    if let Some(descriptor) = found {
        T::low(u64::from(descriptor.limit())).set(cpu, op.dst);
    }
    cpu.flags.set_zero(found.is_some());
    Ok(Flow::Next)
}
