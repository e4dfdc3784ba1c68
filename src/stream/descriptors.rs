//! The last descriptors of the process are not for flows: with them the operator's port answers, a configuration is read and a log
//! opened while clients hold all the others.
//!
//! The kernel gives out the lowest free number, so the number of a new descriptor tells how many are in use, and asking costs nothing.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use rustix::io::Errno;

/// Takes the limit of open files that is in force; `None` is no limit. Nothing is kept back until this was called.
pub fn set_limit(open_files_max: Option<u64>) {
    let first = match open_files_max {
        None => i32::MAX,
        Some(max) => i32::try_from(max - reserve(max)).unwrap_or(i32::MAX),
    };
    FIRST_RESERVED.store(first, Ordering::Relaxed);
}

/// True if this descriptor is one of the last: a flow has to give it back.
pub fn is_reserved(descriptor: impl AsFd) -> bool {
    descriptor.as_fd().as_raw_fd() >= FIRST_RESERVED.load(Ordering::Relaxed)
}

/// What the kernel would have said, had it had none of the last ones to give.
pub fn exhausted() -> io::Error {
    Errno::MFILE.into()
}

/// While this lives a listener waits for a descriptor to become free.
#[derive(Debug)]
pub struct Shortage(());

impl Shortage {
    /// A listener begins to wait.
    pub fn begin() -> Self {
        WAITING.fetch_add(1, Ordering::Relaxed);
        Self(())
    }

    /// True while any listener waits: what needs descriptors that cannot be judged one by one (DNS) is not begun.
    pub fn is_now() -> bool {
        WAITING.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Shortage {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

fn reserve(open_files_max: u64) -> u64 {
    RESERVE.min(open_files_max / 8)
}

const RESERVE: u64 = 32; // half of the admin port's connections, a log, and a file of a configuration at a time

static FIRST_RESERVED: AtomicI32 = AtomicI32::new(i32::MAX);
static WAITING: AtomicUsize = AtomicUsize::new(0);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_last_numbers_are_kept_back() {
        let file = std::fs::File::open("/dev/null").unwrap();
        // Numbers are higher where whoever started the tests left files open.
        let number = u64::try_from(file.as_raw_fd()).unwrap();
        let limit_above = |count: u64| (0..).find(|max| max - reserve(*max) == count).unwrap();
        for (usable, reserved) in [(number + 1, false), (number, true)] {
            set_limit(Some(limit_above(usable)));
            assert_eq!(is_reserved(&file), reserved, "{number} of {usable}");
        }
        set_limit(None);
        assert!(!is_reserved(&file));
        assert_eq!([16, 64, 1024, 1 << 30].map(reserve), [2, 8, 32, 32]);
    }

    #[test]
    fn a_shortage_lasts_until_the_last_listener_has_what_it_waits_for() {
        let (one, two) = (Shortage::begin(), Shortage::begin());
        drop(one);
        assert!(Shortage::is_now());
        drop(two);
        assert!(!Shortage::is_now());
    }
}
