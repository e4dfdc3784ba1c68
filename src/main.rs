//! The `egret` binary.

use std::process::ExitCode;

// Gives memory back after a burst (background_thread, see .cargo/config.toml); glibc's allocator keeps it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    egret::cli::main()
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_is_given_back_in_the_background() {
        assert!(tikv_jemalloc_ctl::background_thread::read().is_ok_and(|runs| runs), "see .cargo/config.toml");
    }
}
