//! The pages that a case sees, the same in both worlds.
//!
//! ```text
//!   1000_0000  code, one page, rwx, all INT3 but for the case
//!   1fff_f000  read-only page, r--
//!   2000_0000  data, two pages, rw-; nothing above
//! ```

/// Where the code page lies.
pub const CODE: u64 = 0x1000_0000;
/// Bytes of code a case may have.
pub const CODE_MAX: usize = 64;
/// The read-only page, right below the data.
pub const READ_ONLY: u64 = DATA - PAGE as u64;
/// The data area.
pub const DATA: u64 = 0x2000_0000;
/// Its bytes.
pub const DATA_LEN: usize = 2 * PAGE;
/// Bytes in a page.
pub const PAGE: usize = 4096;
/// The byte that fills the code page: INT3, so that code that runs out of the case stops.
pub const FILL: u8 = 0xCC;
/// Where user addresses end on Linux: its page fault error codes for higher ones hide whether a page is there.
pub const USER_END: u64 = 0x7FFF_FFFF_F000;

/// What the data area and, before it, the read-only page contain before a case's patches.
///
/// Saved cases depend on it: never change it.
pub fn background() -> Box<[u8; PAGE + DATA_LEN]> {
    let mut bytes = Box::new([0; PAGE + DATA_LEN]);
    let mut state = 0x6A75_6467_655F_3031_u64;
    for chunk in bytes.chunks_exact_mut(8) {
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        let word = state ^ state >> 29;
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}
