//! The probe.

use std::time::{Duration, Instant};

use atoll_kvm::{MINIMUM_MIPS, Unusable, probe};

/// Set where the host is known to accelerate.
const MUST: &str = "ATOLL_KVM_ACCELERATES";

/// Whether this host is known to accelerate.
pub(crate) fn accelerates() -> bool {
    std::env::var_os(MUST).is_some()
}

#[test]
fn the_probe_says_how_fast_this_host_s_kvm_is() {
    let start = Instant::now();
    let result = probe();
    let took = start.elapsed();
    match result {
        Ok(probe) => {
            println!("usable: {probe:?} in {took:?}");
            assert!(probe.kernel_mips >= MINIMUM_MIPS && probe.user_mips >= MINIMUM_MIPS);
        }
        Err(Unusable::Slow { ring, mips }) if !accelerates() => {
            println!("slow: {mips} MIPS in ring {ring}, found in {took:?}");
            assert!(mips > 0.0 && mips < MINIMUM_MIPS);
        }
        Err(other) => panic!("this test needs /dev/kvm, accelerating if {MUST} is set: {other}"),
    }
    assert!(took < Duration::from_secs(2), "{took:?}");
}
