//! What the process asks of the kernel for itself.

use std::num::NonZeroUsize;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Workers to start: `configured`, or as many as the process may use at once (affinity and cgroup quota) where that is 0.
pub(super) fn workers(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        workers => workers,
    }
}

/// Raises the limit of open files to the hard one: a tunnel takes two, and the usual soft limit of 1024 is there for select(2).
/// Gives the limit in force; `None` is no limit.
pub(super) fn raise_open_files() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files stays at {}", current.unwrap_or(u64::MAX));
            current
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        assert_eq!(raise_open_files(), before.maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }

    #[test]
    fn zero_means_the_cores_we_may_use() {
        assert_eq!(workers(3), 3);
        assert!(workers(0) >= 1);
    }
}
