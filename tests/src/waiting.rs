//! Waiting for a condition with a deadline, for states no event announces to a test.

use std::time::{Duration, Instant};

/// Asks `condition` until it holds.
///
/// # Panics
/// When it does not hold within ten seconds; `what` names it.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "within 10 s it never held that {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
