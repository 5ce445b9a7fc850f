//! Loads and stores at linear addresses.

use atoll_memory::{PAGE, Value};
use atoll_x86::flags::Flags;

use crate::cpu::{Cpu, Pending};
use crate::exception::{GP, PF};
use crate::op::{Fault, Op, WRAP_NONE};
use crate::operand::Operand;
use crate::paging::{Access, PageFault};
use crate::tlb::{Context, Mapping};

/// The page of the local APIC's registers, which no guest can move here.
const LOCAL_APIC: u64 = 0xFEE0_0000;

/// Where an address leads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// To memory, at this offset.
    Ram(u64),
    /// To the bus, at this physical address.
    Bus(u64),
}

impl Cpu {
    /// The linear address of `op`'s memory operand.
    #[inline(always)]
    pub(crate) fn address(&self, op: &Op) -> u64 {
        let address = self.effective_address(op);
        if op.wrap == WRAP_NONE {
            address.wrapping_add(self.seg_base[usize::from(op.seg & 7)])
        } else {
            address.wrapping_add(self.seg_base[usize::from(op.seg & 7)]) & op.linear_mask()
        }
    }

    /// The effective address of `op`'s memory operand: without its segment's base.
    #[inline(always)]
    pub(crate) fn effective_address(&self, op: &Op) -> u64 {
        let address = self.regs[usize::from(op.base & 31)]
            .wrapping_add(self.regs[usize::from(op.index & 31)] << (op.scale & 3))
            .wrapping_add(op.disp);
        if op.wrap == WRAP_NONE {
            address
        } else {
            address & op.address_mask()
        }
    }

    /// Loads a value.
    #[inline(always)]
    pub(crate) fn load<T: Operand>(&mut self, address: u64) -> Result<T, Fault> {
        match self.tlb.readable(self.context, address, T::BYTES) {
            Some(offset) => Ok(self.ram.load(offset)),
            None => self.load_slow(self.context, address),
        }
    }

    /// Stores a value.
    #[inline(always)]
    pub(crate) fn store<T: Operand>(&mut self, address: u64, value: T) -> Result<(), Fault> {
        match self.tlb.writable(self.context, address, T::BYTES) {
            Some(offset) => {
                self.ram.store(offset, value);
                Ok(())
            }
            None => self.store_slow(self.context, address, value),
        }
    }

    /// Replaces a value by `change` of it, atomically where `LOCK`. `change` may be called more than once, but its last
    /// call counts; flags change only when the store happens.
    #[inline(always)]
    pub(crate) fn modify<T: Operand, const LOCK: bool>(
        &mut self,
        address: u64,
        mut change: impl FnMut(T, &mut Flags) -> T,
    ) -> Result<(), Fault> {
        match self.tlb.writable(self.context, address, T::BYTES) {
            Some(offset) if LOCK => {
                let before = self.flags;
                let flags = &mut self.flags;
                self.ram.update(offset, |old| {
                    *flags = before;
                    change(old, flags)
                });
                Ok(())
            }
            Some(offset) => {
                let new = change(self.ram.load(offset), &mut self.flags);
                self.ram.store(offset, new);
                Ok(())
            }
            None => self.modify_slow::<T, LOCK>(address, change),
        }
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn load_slow<T: Operand>(
        &mut self,
        context: Context,
        address: u64,
    ) -> Result<T, Fault> {
        if address % PAGE + T::BYTES <= PAGE {
            match self.translate(context, address, Access::Read)? {
                Target::Ram(offset) => return Ok(self.ram.load(offset)),
                Target::Bus(physical) => {
                    let mut bytes = [0; 8];
                    self.bus_read(physical, &mut bytes[..T::BYTES as usize]);
                    return Ok(T::low(u64::from_le_bytes(bytes)));
                }
            }
        }
        let mut bytes = [0; 8];
        self.read_bytes(context, address, &mut bytes[..T::BYTES as usize])?;
        Ok(T::low(u64::from_le_bytes(bytes)))
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn store_slow<T: Operand>(
        &mut self,
        context: Context,
        address: u64,
        value: T,
    ) -> Result<(), Fault> {
        let bytes = value.zero_extended().to_le_bytes();
        if address % PAGE + T::BYTES > PAGE {
            return self.write_bytes(context, address, &bytes[..T::BYTES as usize]);
        }
        match self.prepare_write(context, address, T::BYTES)? {
            Target::Ram(offset) => {
                self.ram.store(offset, value);
                self.ram.code_pages().written(offset, T::BYTES);
            }
            Target::Bus(physical) => self.bus_write(physical, &bytes[..T::BYTES as usize]),
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn modify_slow<T: Operand, const LOCK: bool>(
        &mut self,
        address: u64,
        mut change: impl FnMut(T, &mut Flags) -> T,
    ) -> Result<(), Fault> {
        // The store's faults come before the load's effects. A page entered by this now hits the fast path.
        if let Target::Ram(offset) = self.prepare_write(self.context, address, T::BYTES)?
            && address % PAGE + T::BYTES <= PAGE
        {
            let before = self.flags;
            let flags = &mut self.flags;
            self.ram.update(offset, |old| {
                *flags = before;
                change(old, flags)
            });
            self.ram.code_pages().written(offset, T::BYTES);
            return Ok(());
        }
        let old = self.load_slow(self.context, address)?;
        let mut flags = self.flags;
        let new = change(old, &mut flags);
        self.store_slow(self.context, address, new)?;
        self.flags = flags;
        Ok(())
    }

    /// Reads any number of bytes, page by page.
    pub(crate) fn read_bytes(
        &mut self,
        context: Context,
        address: u64,
        bytes: &mut [u8],
    ) -> Result<(), Fault> {
        self.check_canonical(address, bytes.len() as u64)?;
        let mut done = 0;
        while done < bytes.len() {
            let at = address.wrapping_add(done as u64);
            let piece = ((PAGE - at % PAGE) as usize).min(bytes.len() - done);
            let part = &mut bytes[done..done + piece];
            match self.translate(context, at, Access::Read)? {
                Target::Ram(offset) => self.ram.read(offset, part),
                Target::Bus(physical) => self.bus_read(physical, part),
            }
            done += piece;
        }
        Ok(())
    }

    /// Writes any number of bytes, after seeing that all may be written.
    pub(crate) fn write_bytes(
        &mut self,
        context: Context,
        address: u64,
        bytes: &[u8],
    ) -> Result<(), Fault> {
        let len = bytes.len() as u64;
        let first = self.prepare_write(context, address, len)?;
        let in_first = (PAGE - address % PAGE).min(len) as usize;
        self.put(first, &bytes[..in_first]);
        let mut done = in_first;
        while done < bytes.len() {
            let at = address.wrapping_add(done as u64);
            let piece = (PAGE as usize).min(bytes.len() - done);
            let target = self.translate(context, at, Access::Write)?;
            self.put(target, &bytes[done..done + piece]);
            done += piece;
        }
        Ok(())
    }

    fn put(&mut self, target: Target, bytes: &[u8]) {
        match target {
            Target::Ram(offset) => {
                self.ram.write(offset, bytes);
                self.ram.code_pages().written(offset, bytes.len() as u64);
            }
            Target::Bus(physical) => self.bus_write(physical, bytes),
        }
    }

    /// Sees that `len` bytes at `address` may be written; gives the target of the first.
    ///
    /// A write that would change code decoded before is refused once with [`Pending::Restart`]: the instruction is
    /// then executed alone, because the rest of its block may be what it overwrites.
    pub(crate) fn prepare_write(
        &mut self,
        context: Context,
        address: u64,
        len: u64,
    ) -> Result<Target, Fault> {
        self.check_canonical(address, len)?;
        let first = self.translate(context, address, Access::Write)?;
        self.refuse_code(first, len.min(PAGE - address % PAGE))?;
        let mut at = (address & !(PAGE - 1)).wrapping_add(PAGE);
        let end = address.wrapping_add(len);
        while at.wrapping_sub(address) < len {
            let target = self.translate(context, at, Access::Write)?;
            self.refuse_code(target, end.wrapping_sub(at).min(PAGE))?;
            at = at.wrapping_add(PAGE);
        }
        Ok(first)
    }

    fn refuse_code(&mut self, target: Target, len: u64) -> Result<(), Fault> {
        if let Target::Ram(offset) = target
            && !self.alone
            && self.ram.code_pages().written(offset, len)
        {
            self.pending = Pending::Restart;
            return Err(Fault);
        }
        Ok(())
    }

    /// #GP unless the first and the last of `len` bytes at `address` have canonical addresses; #SS on the stack.
    pub(crate) fn check_canonical(&mut self, address: u64, len: u64) -> Result<(), Fault> {
        let last = address.wrapping_add(len.max(1) - 1);
        if self.is_canonical(address) && self.is_canonical(last) {
            return Ok(());
        }
        self.non_canonical = true;
        Err(self.raise(GP, Some(0)))
    }

    /// Finds the target of `address` and remembers its page.
    pub(crate) fn translate(
        &mut self,
        context: Context,
        address: u64,
        access: Access,
    ) -> Result<Target, Fault> {
        self.check_canonical(address, 1)?;
        let page = match self.paging.translate(&self.ram, address, access, context) {
            Ok(page) => page,
            Err(PageFault(code)) => {
                self.fault_address = address;
                return Err(self.raise(PF, Some(code)));
            }
        };
        let physical = page.physical | (address % PAGE);
        let Some(offset) = self.ram.offset_of(physical) else {
            return Ok(Target::Bus(physical));
        };
        let start = offset & !(PAGE - 1);
        self.tlb.enter(
            context,
            Mapping {
                page: address & !(PAGE - 1),
                offset: start,
                writable: page.writable && !self.ram.code_pages().has_code(start / PAGE),
                global: page.global,
                large: page.large,
            },
        );
        Ok(Target::Ram(offset))
    }

    /// Whether `address` can be translated at all in the current mode.
    #[inline]
    pub(crate) fn is_canonical(&self, address: u64) -> bool {
        !self.is_long_mode() || ((address << 16).cast_signed() >> 16).cast_unsigned() == address
    }

    fn bus_read(&mut self, physical: u64, bytes: &mut [u8]) {
        if physical & !(PAGE - 1) == LOCAL_APIC {
            self.settle_end_of_interrupt();
        }
        for (index, piece) in bytes.chunks_mut(8).enumerate() {
            self.bus.memory_read(physical + index as u64 * 8, piece);
        }
    }

    fn bus_write(&mut self, physical: u64, bytes: &[u8]) {
        if physical & !(PAGE - 1) == LOCAL_APIC {
            self.settle_end_of_interrupt();
        }
        for (index, piece) in bytes.chunks(8).enumerate() {
            self.bus.memory_write(physical + index as u64 * 8, piece);
        }
        // It may have been the local APIC, or a device that now wants something.
        self.interrupt_hint = true;
    }

    /// Loads 16 bytes.
    #[inline(always)]
    pub(crate) fn load_u128(&mut self, address: u64) -> Result<u128, Fault> {
        if let Some(offset) = self.tlb.readable(self.context, address, 16) {
            return Ok(self.ram.load_u128(offset));
        }
        let mut bytes = [0; 16];
        self.read_bytes(self.context, address, &mut bytes)?;
        Ok(u128::from_le_bytes(bytes))
    }

    /// Stores 16 bytes.
    #[inline(always)]
    pub(crate) fn store_u128(&mut self, address: u64, value: u128) -> Result<(), Fault> {
        if let Some(offset) = self.tlb.writable(self.context, address, 16) {
            self.ram.store_u128(offset, value);
            return Ok(());
        }
        self.write_bytes(self.context, address, &value.to_le_bytes())
    }

    /// Loads as the supervisor, whoever runs: descriptor tables, task states.
    pub(crate) fn load_system<T: Operand>(&mut self, address: u64) -> Result<T, Fault> {
        match self.tlb.readable(self.system_context, address, T::BYTES) {
            Some(offset) => Ok(self.ram.load(offset)),
            None => self.load_slow(self.system_context, address),
        }
    }

    /// Stores as the supervisor.
    pub(crate) fn store_system<T: Operand>(&mut self, address: u64, value: T) -> Result<(), Fault> {
        match self.tlb.writable(self.system_context, address, T::BYTES) {
            Some(offset) => {
                self.ram.store(offset, value);
                Ok(())
            }
            None => self.store_slow(self.system_context, address, value),
        }
    }

    /// Stores to guest physical memory, for paravirtual clocks; outside memory nothing happens.
    pub(crate) fn store_physical(&mut self, physical: u64, bytes: &[u8]) {
        let last = physical.saturating_add(bytes.len() as u64 - 1);
        if let (Some(offset), Some(end)) = (self.ram.offset_of(physical), self.ram.offset_of(last))
            && end - offset == bytes.len() as u64 - 1
        {
            self.ram.write(offset, bytes);
            self.ram.code_pages().written(offset, bytes.len() as u64);
        }
    }
}

/// Bytes of a value of type `T`, as an address step.
pub(crate) const fn bytes_of<T: Value>() -> u64 {
    T::BYTES
}
