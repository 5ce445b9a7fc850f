//! The guest's two clocks, kvmclock and the TSC, saved and restored as of one moment.
//!
//! A guest takes one for the watchdog of the other, and any time between the calls that read or write them would be a
//! skew for good. So both are tied to a reading of the host's TSC, which `KVM_GET_CLOCK` gives together with kvmclock:
//!
//! ```text
//!   save:     KVM_GET_CLOCK ─► kvmclock c, host h               TSC of each CPU: h + its offset
//!   restore:  KVM_SET_CLOCK c, KVM_GET_CLOCK ─► c', h'          offset of each CPU: TSC + (c' - c) · frequency - h'
//! ```
//!
//! That needs Linux 5.16 on both sides, a host whose own clock is the TSC, and a guest whose TSC is not scaled. Elsewhere
//! the TSC is read and written by its MSR, between one call and the next.
//!
//! Kernel interface: Documentation/virt/kvm/devices/vcpu.rst `KVM_VCPU_TSC_CTRL`, api.rst `KVM_GET_CLOCK`.

use std::arch::x86_64::_rdtsc;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_cpu_api::CpuError;
use kvm_bindings::{
    KVM_CLOCK_HOST_TSC, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_clock_data, kvm_device_attr,
};
use kvm_ioctls::{VcpuFd, VmFd};

use crate::error::{host, last};

/// `_IOW(KVMIO, 0xE1, struct kvm_device_attr)` and the next (linux/kvm.h).
const SET_DEVICE_ATTR: libc::Ioctl = 0x4018_AEE1_u32 as libc::Ioctl;
const GET_DEVICE_ATTR: libc::Ioctl = 0x4018_AEE2_u32 as libc::Ioctl;

/// What the CPUs of one machine share about its clocks.
#[derive(Debug, Default)]
pub(crate) struct Clock(Mutex<Moment>);

/// What the CPUs' TSCs are tied to.
#[derive(Clone, Copy, Debug, Default)]
enum Moment {
    /// Nothing: a TSC is read and written as of the call.
    #[default]
    Now,
    /// kvmclock was read when the host's TSC was this.
    Read { host_tsc: u64 },
    /// kvmclock was set.
    Set(Set),
}

#[derive(Clone, Copy, Debug)]
struct Set {
    at: Instant,
    /// The host's TSC somewhat later, and by how much kvmclock had gone on by then.
    reading: Option<(u64, Duration)>,
    /// The offset of the CPU that was set first.
    offset: Option<u64>,
}

/// How a CPU's TSC is to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tsc {
    /// It was, by its offset.
    Done,
    /// By its MSR, to this.
    Value(u64),
}

impl Clock {
    /// Reads kvmclock; the CPUs' TSCs are those of that moment until [`Clock::release`].
    pub(crate) fn read(&self, vm: &VmFd) -> Result<u64, CpuError> {
        let clock = vm.get_clock().map_err(host("KVM_GET_CLOCK"))?;
        self.tie(host_tsc(&clock).map_or(Moment::Now, |host_tsc| Moment::Read { host_tsc }));
        Ok(clock.clock)
    }

    /// Sets kvmclock; until [`Clock::release`], a CPU's TSC that is set is taken for that of this moment.
    pub(crate) fn set(&self, vm: &VmFd, nanoseconds: u64) -> Result<(), CpuError> {
        let clock = kvm_clock_data {
            clock: nanoseconds,
            ..kvm_clock_data::default()
        };
        vm.set_clock(&clock).map_err(host("KVM_SET_CLOCK"))?;
        let at = Instant::now();
        // kvmclock starts from the host's clock as it was within that call: only a reading says when that was.
        let clock = vm.get_clock().map_err(host("KVM_GET_CLOCK"))?;
        let since = clock.clock.checked_sub(nanoseconds);
        let reading = host_tsc(&clock).zip(since.map(Duration::from_nanos));
        self.tie(Moment::Set(Set {
            at,
            reading,
            offset: None,
        }));
        Ok(())
    }

    /// A CPU runs: time goes on.
    pub(crate) fn release(&self) {
        self.tie(Moment::Now);
    }

    /// The TSC to save of `vcpu`, whose MSR was just read as `tsc`.
    pub(crate) fn tsc_to_save(&self, vcpu: &VcpuFd, tsc: u64) -> u64 {
        match *self.moment() {
            Moment::Read { host_tsc } => {
                offset(vcpu, host_tsc, tsc).map_or(tsc, |offset| host_tsc.wrapping_add(offset))
            }
            Moment::Now | Moment::Set(_) => tsc,
        }
    }

    /// Sets the TSC of `vcpu`, which is `now` and runs at `khz`, to `saved` as of the moment kvmclock was set.
    pub(crate) fn restore_tsc(
        &self,
        vcpu: &VcpuFd,
        khz: u32,
        now: impl FnOnce() -> Result<u64, CpuError>,
        saved: u64,
    ) -> Result<Tsc, CpuError> {
        let mut moment = self.moment();
        let Moment::Set(set) = &mut *moment else {
            return Ok(Tsc::Value(saved));
        };
        if let Some((host_tsc, since)) = set.reading
            && offset(vcpu, host_tsc, now()?).is_some()
        {
            let wanted = saved.wrapping_add(ticks(since, khz));
            let wanted = wanted.wrapping_sub(host_tsc);
            let offset = in_step(wanted, set.offset, khz);
            set.offset.get_or_insert(offset);
            set_offset(vcpu, offset)?;
            return Ok(Tsc::Done);
        }
        Ok(Tsc::Value(saved.wrapping_add(ticks(set.at.elapsed(), khz))))
    }

    fn moment(&self) -> MutexGuard<'_, Moment> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tie(&self, moment: Moment) {
        *self.moment() = moment;
    }
}

/// The host's TSC of the same moment, where the kernel knows it.
fn host_tsc(clock: &kvm_clock_data) -> Option<u64> {
    (clock.flags & KVM_CLOCK_HOST_TSC != 0).then_some(clock.host_tsc)
}

/// Ticks of a TSC of `khz` in `time`.
fn ticks(time: Duration, khz: u32) -> u64 {
    let ticks = time.as_nanos() * u128::from(khz) / 1_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// The offset for a CPU that ought to have `wanted`, after one that has `first`.
///
/// What is less than a second apart was in step, and read at different times: the kernel judges so of a TSC that is
/// written by its MSR. kvmclock needs CPUs exactly in step to go without a jump.
fn in_step(wanted: u64, first: Option<u64>, khz: u32) -> u64 {
    let second = u64::from(khz) * 1000;
    match first {
        Some(first) if wanted.wrapping_sub(first).cast_signed().unsigned_abs() < second => first,
        _ => wanted,
    }
}

/// What is added to the host's TSC for `vcpu`, whose TSC read `tsc` after the host's was `before`.
///
/// `None` when the kernel does not say, or when it scales the TSC besides.
fn offset(vcpu: &VcpuFd, before: u64, tsc: u64) -> Option<u64> {
    let mut offset = 0u64;
    attribute(vcpu, GET_DEVICE_ATTR, &raw mut offset).ok()?;
    // SAFETY: every processor with KVM has the instruction, and nothing here forbids it to this process.
    let after = unsafe { _rdtsc() };
    (before..=after)
        .contains(&tsc.wrapping_sub(offset))
        .then_some(offset)
}

fn set_offset(vcpu: &VcpuFd, mut offset: u64) -> Result<(), CpuError> {
    attribute(vcpu, SET_DEVICE_ATTR, &raw mut offset)
}

/// Gets or sets the TSC's offset of `vcpu`, to or from `value`.
fn attribute(vcpu: &VcpuFd, request: libc::Ioctl, value: *mut u64) -> Result<(), CpuError> {
    let attribute = kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: value as u64,
    };
    // SAFETY: the callers' `value` is a local of theirs, alive and 8 bytes long, which is what the kernel reads or writes
    // for this attribute; `attribute` it reads only.
    match unsafe { libc::ioctl(vcpu.as_raw_fd(), request, &raw const attribute) } {
        0 => Ok(()),
        _ => Err(last("KVM_VCPU_TSC_OFFSET")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_less_than_a_second_apart_are_in_step() {
        let khz = 2_000_000;
        let second = 2_000_000_000;
        let first = 5u64.wrapping_neg();
        assert_eq!(in_step(7, None, khz), 7);
        assert_eq!(in_step(7, Some(first), khz), first);
        assert_eq!(in_step(first - second + 1, Some(first), khz), first);
        for apart in [first - second, first.wrapping_add(second)] {
            assert_eq!(in_step(apart, Some(first), khz), apart);
        }
    }

    #[test]
    fn ticks_are_exact_for_years() {
        assert_eq!(ticks(Duration::from_nanos(999), 1_000_000), 999);
        assert_eq!(ticks(Duration::from_nanos(3), 2_500_000), 7);
        let year = Duration::from_secs(365 * 86400);
        assert_eq!(ticks(year, 4_000_001), year.as_secs() * 4_000_001_000);
        assert_eq!(ticks(Duration::MAX, u32::MAX), u64::MAX);
    }
}
