//! Translation of linear addresses (Intel SDM vol. 3 chapter 5): 4-level paging, or none.

use atoll_memory::{PAGE, Ram};

use crate::tlb::Context;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
/// The address bits that this CPU has in an entry.
const ADDRESS: u64 = ((1 << atoll_x86::cpuid::PHYSICAL_BITS) - 1) & !(PAGE - 1);
/// Physical address bits beyond the shown width: reserved, must be zero.
const RESERVED: u64 = ((1 << 52) - 1) & !((1 << atoll_x86::cpuid::PHYSICAL_BITS) - 1);

/// What is done with the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// A load.
    Read,
    /// A store, or the store of a read-modify-write.
    Write,
    /// An instruction fetch.
    Execute,
}

/// What translation depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paging {
    /// CR0.PG: off means linear is physical.
    pub(crate) enabled: bool,
    /// CR3.
    pub(crate) root: u64,
    /// CR0.WP: supervisor writes respect read-only pages.
    pub(crate) write_protect: bool,
    /// EFER.NXE.
    pub(crate) no_execute: bool,
    /// CR4.SMEP.
    pub(crate) smep: bool,
    /// CR4.PGE.
    pub(crate) global: bool,
}

/// A page found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Its physical address.
    pub(crate) physical: u64,
    /// Whether a write now needs no further look: permitted, and the dirty bit is set.
    pub(crate) writable: bool,
    /// Whether it outlives a write of CR3.
    pub(crate) global: bool,
    /// Whether it is a piece of a page of 2 MiB or 1 GiB.
    pub(crate) large: bool,
}

/// The error code of a page fault (Intel SDM vol. 3 §4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageFault(pub(crate) u32);

impl Paging {
    /// Finds the page of canonical `linear` for `access` by `context`; sets accessed and dirty bits as the processor
    /// does.
    pub(crate) fn translate(
        &self,
        ram: &Ram,
        linear: u64,
        access: Access,
        context: Context,
    ) -> Result<Page, PageFault> {
        if !self.enabled {
            return Ok(Page {
                physical: linear & !(PAGE - 1) & ((1 << atoll_x86::cpuid::PHYSICAL_BITS) - 1),
                writable: true,
                global: false,
                large: false,
            });
        }
        let user = context == Context::User;
        let mut code = u32::from(access == Access::Write) << 1 | u32::from(user) << 2;
        if access == Access::Execute && (self.no_execute || self.smep) {
            code |= 1 << 4;
        }
        let mut table = self.root & ADDRESS;
        let mut rights = WRITABLE | USER;
        let mut no_execute = 0;
        let mut shift = 39;
        loop {
            let place = table + (linear >> shift & 511) * 8;
            // Tables outside memory read as absent.
            let offset = ram.offset_of(place).ok_or(PageFault(code))?;
            let entry: u64 = ram.load(offset);
            if entry & PRESENT == 0 {
                return Err(PageFault(code));
            }
            let leaf = shift == 12 || (entry & LARGE != 0 && shift < 39);
            let mut reserved = RESERVED;
            if !self.no_execute {
                reserved |= NO_EXECUTE;
            }
            if shift == 39 {
                reserved |= LARGE;
            } else if leaf && shift > 12 {
                // Bit 12 is PAT; the others below the page size are reserved.
                reserved |= ((1 << shift) - 1) & !0x1FFF;
            }
            if entry & reserved != 0 {
                return Err(PageFault(code | 1 | 1 << 3));
            }
            rights &= entry;
            no_execute |= entry & NO_EXECUTE;
            if !leaf {
                if entry & ACCESSED == 0 {
                    ram.update(offset, |old: u64| old | ACCESSED);
                }
                table = entry & ADDRESS;
                shift -= 9;
                continue;
            }
            let may_write = rights & WRITABLE != 0 || (!user && !self.write_protect);
            if !self.permits(access, context, rights, no_execute != 0, may_write) {
                return Err(PageFault(code | 1));
            }
            let mark = ACCESSED | if access == Access::Write { DIRTY } else { 0 };
            if entry & mark != mark {
                ram.update(offset, |old: u64| old | mark);
            }
            let size_mask = (1u64 << shift) - 1;
            let physical = (entry & ADDRESS & !size_mask) | (linear & size_mask & !(PAGE - 1));
            return Ok(Page {
                physical,
                writable: may_write && (entry | mark) & DIRTY != 0,
                global: self.global && entry & GLOBAL != 0,
                large: shift > 12,
            });
        }
    }

    fn permits(
        &self,
        access: Access,
        context: Context,
        rights: u64,
        no_execute: bool,
        may_write: bool,
    ) -> bool {
        let user_page = rights & USER != 0;
        match access {
            Access::Execute => {
                let mode = match context {
                    Context::User => user_page,
                    _ => !(user_page && self.smep),
                };
                mode && !no_execute
            }
            Access::Read | Access::Write => {
                let mode = match context {
                    Context::User => user_page,
                    Context::Supervisor => !user_page,
                    Context::SupervisorUserAccess => true,
                };
                mode && (access == Access::Read || may_write)
            }
        }
    }
}
