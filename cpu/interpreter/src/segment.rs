//! Segment registers and descriptors (Intel SDM vol. 3 chapter 3).

use atoll_cpu_api::Segment;

use crate::cpu::{CS, Cpu, FS, GS, Mode, SS as SS_SLOT};
use crate::exception::{GP, NP, SS};
use crate::op::Fault;

/// The 8 bytes of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor(pub(crate) u64);

impl Descriptor {
    /// Flat writable data, privilege 0, accessed.
    pub(crate) const FLAT_DATA: Self = Self(0x00CF_9300_0000_FFFF);

    /// Type field: bits 0 accessed, 1 writable/readable, 2 expand-down/conforming, 3 code.
    pub(crate) fn kind(self) -> u8 {
        (self.0 >> 40 & 15) as u8
    }

    /// Code or data rather than system.
    pub(crate) fn is_segment(self) -> bool {
        self.0 >> 44 & 1 != 0
    }

    /// Code.
    pub(crate) fn is_code(self) -> bool {
        self.is_segment() && self.kind() & 8 != 0
    }

    /// DPL.
    pub(crate) fn privilege(self) -> u8 {
        (self.0 >> 45 & 3) as u8
    }

    /// P.
    pub(crate) fn is_present(self) -> bool {
        self.0 >> 47 & 1 != 0
    }

    /// L.
    pub(crate) fn is_long(self) -> bool {
        self.0 >> 53 & 1 != 0
    }

    /// D/B.
    pub(crate) fn is_32_bit(self) -> bool {
        self.0 >> 54 & 1 != 0
    }

    /// Base, 32 bits of it.
    pub(crate) fn base(self) -> u64 {
        (self.0 >> 16 & 0xFF_FFFF) | (self.0 >> 32 & 0xFF00_0000)
    }

    /// Limit in bytes.
    pub(crate) fn limit(self) -> u32 {
        let limit = (self.0 & 0xFFFF) as u32 | (self.0 >> 32) as u32 & 0xF_0000;
        if self.0 >> 55 & 1 != 0 {
            limit << 12 | 0xFFF
        } else {
            limit
        }
    }

    /// Bits 40 to 55 without the limit's.
    pub(crate) fn attributes(self) -> u16 {
        (self.0 >> 40) as u16 & 0xF0FF
    }

    /// The segment register that it makes.
    pub(crate) fn segment(self, selector: u16) -> Segment {
        Segment {
            selector,
            base: self.base(),
            limit: self.limit(),
            attributes: self.attributes(),
        }
    }
}

impl Cpu {
    /// Where `selector`'s descriptor lies, if its table reaches that far.
    fn descriptor_address(&self, selector: u16, bytes: u64) -> Option<u64> {
        let (base, limit) = if selector & 4 != 0 {
            if self.ldtr.attributes >> 7 & 1 == 0 {
                return None;
            }
            (self.ldtr.base, u64::from(self.ldtr.limit))
        } else {
            (self.gdtr.base, u64::from(self.gdtr.limit))
        };
        let place = u64::from(selector & !7);
        (place + bytes - 1 <= limit).then(|| base.wrapping_add(place))
    }

    /// Reads the descriptor that `selector` names; #GP with the selector and `external` when there is none.
    pub(crate) fn descriptor(&mut self, selector: u16, external: u32) -> Result<Descriptor, Fault> {
        match self.descriptor_address(selector, 8) {
            Some(address) => Ok(Descriptor(self.load_system(address)?)),
            None => Err(self.raise(GP, Some(u32::from(selector & !3) | external))),
        }
    }

    /// Reads the descriptor if there is one, for LAR, LSL, VERR and VERW.
    pub(crate) fn find_descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Fault> {
        match self.descriptor_address(selector, 8) {
            Some(address) if selector & !3 != 0 => Ok(Some(Descriptor(self.load_system(address)?))),
            _ => Ok(None),
        }
    }

    /// The upper half of a 16-byte system descriptor.
    pub(crate) fn descriptor_high(&mut self, selector: u16) -> Result<u64, Fault> {
        match self.descriptor_address(selector, 16) {
            Some(address) => self.load_system(address.wrapping_add(8)),
            None => Err(self.raise(GP, Some(u32::from(selector & !3)))),
        }
    }

    /// Reads a descriptor that must be present code.
    pub(crate) fn code_descriptor(
        &mut self,
        selector: u16,
        external: u32,
    ) -> Result<Descriptor, Fault> {
        let error = u32::from(selector & !3) | external;
        if selector & !3 == 0 {
            return Err(self.raise(GP, Some(external)));
        }
        let descriptor = self.descriptor(selector, external)?;
        if !descriptor.is_code() {
            return Err(self.raise(GP, Some(error)));
        }
        if !descriptor.is_present() {
            return Err(self.raise(NP, Some(error)));
        }
        self.mark_accessed(selector, descriptor)?;
        Ok(descriptor)
    }

    /// Sets the accessed bit of a code or data descriptor in its table.
    fn mark_accessed(&mut self, selector: u16, descriptor: Descriptor) -> Result<(), Fault> {
        if descriptor.kind() & 1 == 0
            && let Some(address) = self.descriptor_address(selector, 8)
        {
            self.store_system(address.wrapping_add(5), (descriptor.0 >> 40) as u8 | 1)?;
        }
        Ok(())
    }

    /// Sets the type of the descriptor of `selector` to `kind`, for LTR's busy bit.
    pub(crate) fn set_descriptor_kind(&mut self, selector: u16, access: u8) -> Result<(), Fault> {
        match self.descriptor_address(selector, 8) {
            Some(address) => self.store_system(address.wrapping_add(5), access),
            None => Ok(()),
        }
    }

    /// MOV and POP to a data or stack segment register, with all checks (Intel SDM vol. 2 MOV).
    pub(crate) fn load_segment(&mut self, slot: usize, selector: u16) -> Result<(), Fault> {
        if !self.is_protected() {
            self.segments[slot].selector = selector;
            self.segments[slot].base = u64::from(selector) << 4;
            self.update_base(slot);
            return Ok(());
        }
        let error = Some(u32::from(selector & !3));
        let requested = (selector & 3) as u8;
        if selector & !3 == 0 {
            if slot == SS_SLOT
                && (self.mode != Mode::Bits64 || self.cpl == 3 || requested != self.cpl)
            {
                return Err(self.raise(GP, Some(0)));
            }
            let base = self.segments[slot].base;
            self.segments[slot] = if slot == SS_SLOT {
                let mut stack = Descriptor::FLAT_DATA.segment(selector);
                stack.attributes |= u16::from(self.cpl) << 5;
                stack
            } else {
                Segment {
                    selector,
                    ..Segment::default()
                }
            };
            // Intel's processors clear FS and GS base with a null selector, AMD's keep it; Linux copes with both.
            if slot != FS && slot != GS {
                self.segments[slot].base = 0;
            } else if self.mode != Mode::Bits64 {
                self.segments[slot].base = base;
            }
            self.update_base(slot);
            return Ok(());
        }
        let descriptor = self.descriptor(selector, 0)?;
        let kind = descriptor.kind();
        let usable = if slot == SS_SLOT {
            requested == self.cpl
                && descriptor.is_segment()
                && !descriptor.is_code()
                && kind & 2 != 0
                && descriptor.privilege() == self.cpl
        } else {
            let readable = descriptor.is_segment() && (kind & 8 == 0 || kind & 2 != 0);
            let conforming = kind & 12 == 12;
            readable
                && (conforming
                    || (requested <= descriptor.privilege() && self.cpl <= descriptor.privilege()))
        };
        if !usable {
            return Err(self.raise(GP, error));
        }
        if !descriptor.is_present() {
            return Err(self.raise(if slot == SS_SLOT { SS } else { NP }, error));
        }
        self.mark_accessed(selector, descriptor)?;
        self.segments[slot] = descriptor.segment(selector);
        self.segments[slot].attributes |= 1;
        self.update_base(slot);
        Ok(())
    }

    /// Loads CS after the far transfer's checks were made.
    pub(crate) fn set_code(&mut self, descriptor: Descriptor, selector: u16) {
        self.segments[CS] = descriptor.segment(selector);
        self.segments[CS].attributes |= 1;
    }

    /// After a return to less privilege: data segments that the new privilege may not use become null.
    pub(crate) fn drop_privileged_segments(&mut self) {
        for slot in [0, 3, FS, GS] {
            let segment = self.segments[slot];
            let privilege = (segment.attributes >> 5 & 3) as u8;
            let conforming = segment.attributes & 0x1C == 0x1C;
            if segment.selector & !3 != 0 && !conforming && privilege < self.cpl {
                self.segments[slot] = Segment::default();
                self.update_base(slot);
            }
        }
    }
}
