//! The part of the second proof that saves a machine on KVM and restores it: two shell scripts, and what their clocks
//! must have said.
//!
//! ```text
//!   outer init: start the monitor ─ clock 1 ─ pause ─ save ─ stop ─ (GAP passes) ─ restore ─ clock 2 ─ nap ─ clock 3 ─ end
//!                    host times:  0                1                              2             3                4
//!                          sums:            1                                                     2
//! ```

use anyhow::{Context, Result, ensure};

/// Seconds between the end of the machine and its restoration, which its clock must not see.
const GAP: f64 = 2.0;
/// Seconds by which two clocks may differ: they have hundredths, and a nap is at least as long as its name says.
const SLACK: f64 = 0.1;

/// What the guest's console says of a clock: its number, then seconds since the guest booted.
const CLOCK: &str = "ATOLL-CLOCK ";
/// What the outer machine says of its own.
const HOST: &str = "ATOLL-HOST ";
/// What host and guest say of a disk and a share: a number (0 is the host's), then two sums.
const SUMS: &str = "ATOLL-SUMS ";
/// What the guest's console says of its kernel's clocks: a number, then the names of those it still trusts.
const SOURCES: &str = "ATOLL-SOURCES ";
/// Where it has them from.
const SOURCES_FILE: &str = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
/// What the guest says when its kernel complained.
const COMPLAINT: &str = "ATOLL-COMPLAINT";

/// Modules of the guest, below the kernel's folder, in the order of loading.
pub(super) const GUEST_MODULES: [&str; 6] = [
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_mmio.ko",
    "drivers/block/virtio_blk.ko",
    "fs/fuse/fuse.ko",
    "fs/fuse/virtiofs.ko",
];
/// The devices of both machines: `/disk`, and `/share` with the file `data`.
pub(super) const DEVICES: &str = "\"disks\": [{\"path\": \"/disk\", \"read_only\": true}], \
    \"shares\": [{\"path\": \"/share\", \"tag\": \"share\", \"read_only\": true}], \"control\": \"/tmp/control\"";

/// 1 MiB that does not repeat itself, another one for each `seed` (Marsaglia, "Xorshift RNGs", 2003).
pub(super) fn content(seed: u64) -> Vec<u8> {
    let mut word = seed;
    let next = |_| {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word.to_le_bytes()
    };
    (0..(1 << 20) / 8).flat_map(next).collect()
}

/// The guest's init: loads `/modules`, says `ready`, then obeys one word a line. Each CPU has to run something before a clock is read,
/// and what the kernel said of its clocks while it booted does not count. An echo of the words would fall into its answers.
pub(super) fn guest_init(ready: &str) -> String {
    format!(
        "#!/bin/busybox sh\n\
         export PATH=/bin\n\
         busybox mount -t proc proc /proc\n\
         busybox mount -t devtmpfs dev /dev\n\
         busybox mount -t sysfs sys /sys\n\
         for module in /modules/*; do busybox insmod $module; done\n\
         busybox mount -t virtiofs -o ro share /share\n\
         sum() {{ busybox sha256sum $1 | busybox cut -d' ' -f1; }}\n\
         uptime() {{ busybox cut -d' ' -f1 /proc/uptime; }}\n\
         busybox stty -echo\n\
         echo \"{ready} after $(uptime) s\"\n\
         busybox dmesg -c >/dev/null\n\
         count=0\n\
         while read word; do\n\
         case $word in\n\
         clock) count=$((count + 1)); for cpu in $(busybox seq 0 $(($(busybox nproc) - 1))); do\n\
         busybox taskset -c $cpu busybox true; done; \
         echo \"{SOURCES}$count $(busybox cat {SOURCES_FILE})\"; echo \"{CLOCK}$count $(uptime)\";;\n\
         sums) echo 3 >/proc/sys/vm/drop_caches; echo \"{SUMS}$count $(sum /dev/vda) $(sum /share/data)\";;\n\
         nap) busybox sleep 1; echo ATOLL-NAPPED;;\n\
         end) break;;\n\
         esac\n\
         done\n\
         busybox dmesg | busybox grep -iE 'unstable|lockup|stall|hung|skew' && busybox dmesg && echo {COMPLAINT}\n\
         busybox poweroff -f\n"
    )
}

/// The outer machine's script: `/config` boots the machine, `/restore` continues the one in `/saved`, `/other` does so
/// on the CPU in software, which has to say why not.
pub(super) fn host_script(ready: &str) -> String {
    format!(
        "#!/bin/busybox sh\n\
         export PATH=/bin\n\
         fail() {{ busybox cat /tmp/out /tmp/answer; echo \"failed: $*\"; exit 1; }}\n\
         sum() {{ busybox sha256sum $1 | busybox cut -d' ' -f1; }}\n\
         now() {{ echo \"{HOST}$1 $(busybox cut -d' ' -f1 /proc/uptime)\"; }}\n\
         start() {{ busybox mkfifo /tmp/in; /atoll-vmm --config $1 </tmp/in >/tmp/out 2>&1 & vmm=$!; exec 3>/tmp/in; \
         busybox rm /tmp/in; }}\n\
         await() {{ for try in $(busybox seq 600); do busybox grep -q \"$1\" /tmp/out && return; \
         kill -0 $vmm 2>/dev/null || break; busybox sleep 0.1; done; fail \"never said $1\"; }}\n\
         ask() {{ /atoll-vmm --ask /tmp/control $* >/tmp/answer 2>&1 || fail \"ask $*\"; }}\n\
         busybox mkdir /saved\n\
         echo \"{SUMS}0 $(sum /disk) $(sum /share/data)\"\n\
         start /config\n\
         await '{ready}'\n\
         now 0; echo clock >&3; await '{CLOCK}1'\n\
         echo sums >&3; await '{SUMS}1'\n\
         ask pause; now 1\n\
         ask save /saved\n\
         ask stop\n\
         wait $vmm || fail 'the machine ended badly'\n\
         busybox cat /tmp/out\n\
         busybox sleep {GAP}\n\
         now 2\n\
         start /restore\n\
         echo clock >&3; await '{CLOCK}2'; now 3\n\
         echo sums >&3; await '{SUMS}2'\n\
         echo nap >&3; await ATOLL-NAPPED; echo clock >&3; await '{CLOCK}3'; now 4\n\
         echo end >&3\n\
         wait $vmm || fail 'the restored machine ended badly'\n\
         busybox cat /tmp/out\n\
         echo ATOLL-OTHER\n\
         /atoll-vmm --config /other </dev/null\n\
         [ $? = 1 ]\n"
    )
}

/// Fails unless `console` says that the guest went on as if no time had passed, and was refused elsewhere; a guest that
/// `trusts_tsc` has to do so before and after.
pub(super) fn check(console: &str, trusts_tsc: bool) -> Result<()> {
    let guest = |number: u32| said(console, CLOCK, number);
    let host = |number: u32| said(console, HOST, number);
    // From before the first clock was read until the machine was paused, and from its restoration to the second.
    let ran = host(1)? - host(0)? + host(3)? - host(2)?;
    let passed = guest(2)? - guest(1)?;
    ensure!(
        (0.0..=ran + SLACK).contains(&passed),
        "the guest's clock went on by {passed:.2} s while it ran {ran:.2} s"
    );
    let (napped, outside) = (guest(3)? - guest(2)?, host(4)? - host(2)?);
    ensure!(
        (1.0 - SLACK..=outside + SLACK).contains(&napped),
        "{napped:.2} s passed in the guest in a nap of 1 s, {outside:.2} s outside"
    );
    let sums = |number| line(console, SUMS, number);
    let own = sums(0)?;
    ensure!(own.len() == 129, "the host has no sums but {own}");
    for (number, when) in [(1, "before"), (2, "after")] {
        let read = sums(number)?;
        ensure!(
            read == own,
            "disk and share {when} the restoration: read {read}, not {own}"
        );
    }
    for (number, when) in [(1, "before"), (3, "after")] {
        let sources = line(console, SOURCES, number)?;
        ensure!(
            !trusts_tsc || sources.split_whitespace().any(|name| name == "tsc"),
            "{when} the restoration the guest trusts of all clocks only {sources}"
        );
    }
    ensure!(
        !console.contains(COMPLAINT),
        "the restored guest's kernel complained"
    );
    Ok(())
}

/// The seconds that follow `what` and `number` in a line of `console`.
fn said(console: &str, what: &str, number: u32) -> Result<f64> {
    let text = line(console, what, number)?;
    text.parse()
        .with_context(|| format!("{what}{number} is no time but {text}"))
}

/// What follows `what` and `number` in a line of `console`.
fn line<'a>(console: &'a str, what: &str, number: u32) -> Result<&'a str> {
    let start = format!("{what}{number} ");
    console
        .lines()
        .find_map(|line| line.trim().strip_prefix(&start))
        .with_context(|| format!("the console never said {start}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(clocks: [f64; 3], end: &str) -> String {
        let mut text = String::new();
        for (number, time) in (0..).zip([10.0, 10.6, 13.8, 14.4, 16.0]) {
            text.push_str(&format!("{HOST}{number} {time}\r\n"));
        }
        for (number, time) in (1..).zip(clocks) {
            text.push_str(&format!("{CLOCK}{number} {time}\r\n"));
        }
        let sources = [1, 2, 3].map(|number| format!("{SOURCES}{number} kvm-clock tsc \r\n"));
        text.push_str(&sources.concat());
        let sums = [0, 1, 2].map(|number| format!("{SUMS}{number} {0:064} {0:064}\r\n", 0));
        text + &sums.concat() + end
    }

    #[test]
    fn content_that_was_read_otherwise_fails() {
        let good = console([2.0, 2.9, 4.0], "");
        check(&good, true).unwrap();
        for number in [1, 2] {
            let start = format!("{SUMS}{number} 0");
            check(&good.replace(&start, &start.replace(" 0", " 1")), true).unwrap_err();
        }
        assert_ne!(content(1), content(2));
    }

    #[test]
    fn a_tsc_that_is_given_up_fails() {
        let good = console([2.0, 2.9, 4.0], "");
        for number in [1, 3] {
            let start = format!("{SOURCES}{number} kvm-clock");
            let bad = good.replace(&format!("{start} tsc"), &start);
            check(&bad, true).unwrap_err();
            check(&bad, false).unwrap();
        }
    }

    #[test]
    fn a_clock_that_saw_the_gap_or_stopped_fails() {
        check(&console([2.0, 2.9, 4.0], ""), true).unwrap();
        for clocks in [
            [2.0, 6.0, 7.1],
            [2.0, 1.9, 3.0],
            [2.0, 2.9, 3.0],
            [2.0, 2.9, 9.0],
        ] {
            check(&console(clocks, ""), true).unwrap_err();
        }
        check(&console([2.0, 2.9, 4.0], COMPLAINT), true).unwrap_err();
        check("", true).unwrap_err();
    }
}
