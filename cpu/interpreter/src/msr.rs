//! Model-specific registers.

use std::collections::BTreeMap;

use atoll_x86::cpuid::ARCH_CAPABILITIES;

use crate::cpu::{CR0_PG, Cpu, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE, FS, GS};
use crate::exception::GP;
use crate::exec::far::{CSTAR, FMASK, LSTAR, STAR, SYSENTER_CS, SYSENTER_EIP, SYSENTER_ESP};
use crate::op::Fault;

const TSC: u32 = 0x10;
const APIC_BASE: u32 = 0x1B;
const TSC_ADJUST: u32 = 0x3B;
const SPEC_CTRL: u32 = 0x48;
const PRED_CMD: u32 = 0x49;
const MICROCODE: u32 = 0x8B;
const MTRR_CAP: u32 = 0xFE;
const ARCH_CAPABILITIES_MSR: u32 = 0x10A;
const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17A;
const PERF_STATUS: u32 = 0x198;
const MISC_ENABLE: u32 = 0x1A0;
const PAT: u32 = 0x277;
const TSC_DEADLINE: u32 = 0x6E0;
const EFER: u32 = 0xC000_0080;
const FS_BASE: u32 = 0xC000_0100;
const GS_BASE: u32 = 0xC000_0101;
const KERNEL_GS_BASE: u32 = 0xC000_0102;
const TSC_AUX: u32 = 0xC000_0103;
const KVM_WALL_CLOCK_OLD: u32 = 0x11;
const KVM_SYSTEM_TIME_OLD: u32 = 0x12;
const KVM_WALL_CLOCK: u32 = 0x4B56_4D00;
const KVM_SYSTEM_TIME: u32 = 0x4B56_4D01;
/// Where the guest has the word by which it ends interrupts silently.
pub(crate) const KVM_PV_EOI: u32 = 0x4B56_4D04;

/// Registers that are plain memory to software here: written and read back, no effect. Caching and its types are
/// meaningless without caches.
fn is_plain(msr: u32) -> bool {
    matches!(
        msr,
        SPEC_CTRL | MCG_STATUS | MISC_ENABLE | PAT | TSC_ADJUST | MICROCODE | CSTAR
            | SYSENTER_CS | SYSENTER_ESP | SYSENTER_EIP | KVM_PV_EOI
            // Last branch control, fixed and variable range MTRRs.
            | 0x1D9 | 0x200..=0x20F | 0x250 | 0x258 | 0x259 | 0x268..=0x26F | 0x2FF
    ) || cfg!(feature = "resctrl") && is_of_shares(msr)
}

/// Registers of shares of caches and bandwidth: which event is counted, the count, the group that runs, masks, delays.
fn is_of_shares(msr: u32) -> bool {
    matches!(msr, 0xC8D..=0xC8F | 0xC90..=0xC93 | 0xD50..=0xD53)
}

/// The registers.
#[derive(Clone, Debug)]
pub(crate) struct Msrs {
    /// SYSCALL's selectors.
    pub(crate) star: u64,
    /// SYSCALL's target.
    pub(crate) lstar: u64,
    /// Flags that SYSCALL clears.
    pub(crate) fmask: u64,
    /// What SWAPGS exchanges with.
    pub(crate) kernel_gs_base: u64,
    /// What RDTSCP gives in ECX.
    pub(crate) tsc_aux: u64,
    plain: BTreeMap<u32, u64>,
}

impl Default for Msrs {
    fn default() -> Self {
        let plain = BTreeMap::from([
            (PAT, 0x0007_0406_0007_0406),
            // Fast strings; performance monitoring and PEBS absent.
            (MISC_ENABLE, 1 | 1 << 11 | 1 << 12),
            (MICROCODE, 1 << 32),
        ]);
        Self {
            star: 0,
            lstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            tsc_aux: 0,
            plain,
        }
    }
}

impl Msrs {
    /// A register without a field of its own; 0 when never written.
    pub(crate) fn other(&self, msr: u32) -> u64 {
        self.plain.get(&msr).copied().unwrap_or(0)
    }

    /// Keeps a register without a field of its own.
    pub(crate) fn set_other(&mut self, msr: u32, value: u64) {
        self.plain.insert(msr, value);
    }

    /// All registers by number, as they are saved.
    pub(crate) fn all(&self) -> BTreeMap<u32, u64> {
        let mut all = self.plain.clone();
        all.extend([
            (STAR, self.star),
            (LSTAR, self.lstar),
            (FMASK, self.fmask),
            (KERNEL_GS_BASE, self.kernel_gs_base),
            (TSC_AUX, self.tsc_aux),
        ]);
        all
    }

    /// Takes what [`Msrs::all`] or another backend gave; registers unknown here are left out.
    pub(crate) fn from_all(all: &BTreeMap<u32, u64>) -> Self {
        let mut msrs = Self::default();
        for (&msr, &value) in all {
            match msr {
                STAR => msrs.star = value,
                LSTAR => msrs.lstar = value,
                FMASK => msrs.fmask = value,
                KERNEL_GS_BASE => msrs.kernel_gs_base = value,
                TSC_AUX => msrs.tsc_aux = value,
                KVM_WALL_CLOCK_OLD | KVM_SYSTEM_TIME_OLD | KVM_WALL_CLOCK | KVM_SYSTEM_TIME => {
                    msrs.plain.insert(msr, value);
                }
                _ if is_plain(msr) => {
                    msrs.plain.insert(msr, value);
                }
                _ => {}
            }
        }
        msrs
    }
}

impl Cpu {
    /// RDMSR.
    pub(crate) fn read_msr(&mut self, msr: u32) -> Result<u64, Fault> {
        Ok(match msr {
            TSC => self.tsc(),
            EFER => self.efer,
            STAR => self.msrs.star,
            LSTAR => self.msrs.lstar,
            FMASK => self.msrs.fmask,
            FS_BASE => self.segments[FS].base,
            GS_BASE => self.segments[GS].base,
            KERNEL_GS_BASE => self.msrs.kernel_gs_base,
            TSC_AUX => self.msrs.tsc_aux,
            ARCH_CAPABILITIES_MSR => ARCH_CAPABILITIES,
            // No variable ranges beyond 8, fixed ranges, write combining.
            MTRR_CAP => 0x508,
            MCG_CAP | PERF_STATUS => 0,
            KVM_WALL_CLOCK_OLD | KVM_SYSTEM_TIME_OLD | KVM_WALL_CLOCK | KVM_SYSTEM_TIME => {
                self.msrs.other(msr)
            }
            APIC_BASE | TSC_DEADLINE | 0x800..=0x8FF => {
                if msr != TSC_DEADLINE {
                    self.settle_end_of_interrupt();
                }
                let tsc = self.tsc();
                let Some(controller) = self.controller.clone() else {
                    return Err(self.raise(GP, Some(0)));
                };
                match controller.read_msr(msr, tsc) {
                    Ok(value) => value,
                    Err(_) => return Err(self.raise(GP, Some(0))),
                }
            }
            _ if is_plain(msr) => self.msrs.other(msr),
            _ => return Err(self.raise(GP, Some(0))),
        })
    }

    /// WRMSR.
    pub(crate) fn write_msr(&mut self, msr: u32, value: u64) -> Result<(), Fault> {
        let canonical = ((value << 16).cast_signed() >> 16).cast_unsigned() == value;
        match msr {
            LSTAR | CSTAR | FS_BASE | GS_BASE | KERNEL_GS_BASE | SYSENTER_ESP | SYSENTER_EIP
                if !canonical =>
            {
                return Err(self.raise(GP, Some(0)));
            }
            TSC => self.tsc_offset = value.wrapping_sub(self.clock.now()),
            TSC_ADJUST => {
                self.tsc_offset = self
                    .tsc_offset
                    .wrapping_add(value.wrapping_sub(self.msrs.other(TSC_ADJUST)));
                self.msrs.plain.insert(msr, value);
            }
            EFER => self.write_efer(value)?,
            STAR => self.msrs.star = value,
            LSTAR => self.msrs.lstar = value,
            FMASK => self.msrs.fmask = value & 0xFFFF_FFFF,
            FS_BASE => self.set_base(FS, value),
            GS_BASE => self.set_base(GS, value),
            KERNEL_GS_BASE => self.msrs.kernel_gs_base = value,
            TSC_AUX => self.msrs.tsc_aux = value & 0xFFFF_FFFF,
            PRED_CMD => {}
            KVM_WALL_CLOCK_OLD | KVM_WALL_CLOCK => {
                self.msrs.plain.insert(msr, value);
                self.write_wall_clock(value);
            }
            KVM_SYSTEM_TIME_OLD | KVM_SYSTEM_TIME => {
                self.msrs.plain.insert(msr, value);
                if value & 1 != 0 {
                    self.write_system_time(value & !1);
                }
            }
            APIC_BASE | TSC_DEADLINE | 0x800..=0x8FF => {
                if msr != TSC_DEADLINE {
                    self.settle_end_of_interrupt();
                }
                let tsc = self.tsc();
                let written = self
                    .controller
                    .as_ref()
                    .map(|controller| controller.write_msr(msr, value, tsc));
                if !matches!(written, Some(Ok(()))) {
                    return Err(self.raise(GP, Some(0)));
                }
                self.interrupt_hint = true;
                if self.system_flags & crate::cpu::IF != 0 {
                    self.look_at_events();
                }
            }
            KVM_PV_EOI => self.write_paravirtual_eoi(value)?,
            _ if is_plain(msr) => {
                self.msrs.plain.insert(msr, value);
            }
            _ => return Err(self.raise(GP, Some(0))),
        }
        Ok(())
    }

    fn write_efer(&mut self, value: u64) -> Result<(), Fault> {
        let known = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
        let toggles_long = (value ^ self.efer) & EFER_LME != 0;
        if value & !known != 0 || (toggles_long && self.cr0 & CR0_PG != 0) {
            return Err(self.raise(GP, Some(0)));
        }
        let before = self.efer;
        self.efer = (value & !EFER_LMA) | (before & EFER_LMA);
        if (before ^ self.efer) & EFER_NXE != 0 {
            self.update_paging();
        }
        Ok(())
    }

    /// `struct pvclock_wall_clock`: seconds and nanoseconds since 1970 at which the system time was zero.
    fn write_wall_clock(&mut self, address: u64) {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let boot = now.saturating_sub(std::time::Duration::from_nanos(
            self.clock.nanoseconds(self.tsc()),
        ));
        let mut image = [0; 12];
        image[..4].copy_from_slice(&2u32.to_le_bytes());
        image[4..8].copy_from_slice(&(boot.as_secs() as u32).to_le_bytes());
        image[8..].copy_from_slice(&boot.subsec_nanos().to_le_bytes());
        self.store_physical(address, &image);
    }

    /// `struct pvclock_vcpu_time_info`: the system time is the TSC in nanoseconds, so it never needs an update.
    fn write_system_time(&mut self, address: u64) {
        // nanoseconds = ticks << shift, times multiplier, >> 32, with a multiplier as large as fits.
        let khz = u64::from(self.clock.khz());
        let (mut shift, mut ticks) = (0i8, khz);
        while ticks > 2_000_000 {
            ticks >>= 1;
            shift -= 1;
        }
        while ticks <= 1_000_000 {
            ticks <<= 1;
            shift += 1;
        }
        let scaled = if shift < 0 {
            u128::from(khz) >> shift.unsigned_abs()
        } else {
            u128::from(khz) << shift
        };
        let multiplier = ((1_000_000u128 << 32) / scaled) as u32;
        let mut image = [0; 32];
        image[..4].copy_from_slice(&2u32.to_le_bytes());
        image[24..28].copy_from_slice(&multiplier.to_le_bytes());
        image[28] = shift.to_le_bytes()[0];
        // Stable on all CPUs.
        image[29] = 1;
        self.store_physical(address, &image);
    }
}
