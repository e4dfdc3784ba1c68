//! One buffer per worker, lent to whichever tunnel is copying: a tunnel that waits has none.

use std::cell::RefCell;

/// Lends the first `bytes` of this worker's buffer. What is in it is left over from other tunnels: only what the borrower has
/// written itself may be read.
pub(super) fn with<R>(bytes: usize, borrower: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.is_empty() {
            *scratch = vec![0; SCRATCH_BYTES].into_boxed_slice();
        }
        borrower(&mut scratch[..bytes.min(SCRATCH_BYTES)])
    })
}

/// DESIGN 5: on bulk 64 KiB take 1.3 times as much CPU per byte; this much still fits the second-level cache.
pub(super) const SCRATCH_BYTES: usize = 256 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::default();
}
