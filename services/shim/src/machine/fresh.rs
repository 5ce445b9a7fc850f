//! What a copy of a template needs of its own.

use std::time::SystemTime;

/// Random bytes for the guest.
const ENTROPY: usize = 64;

/// The time in nanoseconds since 1970.
pub(super) fn since_1970() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// Random bytes; fewer, or none, where the kernel has no more.
pub(super) fn random() -> Vec<u8> {
    let mut bytes = vec![0; ENTROPY];
    let flags = rustix::rand::GetRandomFlags::empty();
    let count = rustix::rand::getrandom(&mut bytes[..], flags).unwrap_or(0);
    bytes.truncate(count);
    bytes
}
