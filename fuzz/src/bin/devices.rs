//! Every device against a hostile driver; the input's first byte chooses which.
#![no_main]

use atoll_fuzz::{Input, drive};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let [number, rest @ ..] = bytes {
        drive(u64::from(*number), &mut Input::new(rest));
    }
});
