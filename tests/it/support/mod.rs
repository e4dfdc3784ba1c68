//! What integration tests share: a running Egret, origins for it to reach, and a client that speaks plainly.

pub(crate) mod certificates;
pub(crate) mod chromium;
pub(crate) mod client;
pub(crate) mod crowd;
pub(crate) mod dns;
pub(crate) mod egret;
pub(crate) mod envoy;
pub(crate) mod folder;
pub(crate) mod frames;
pub(crate) mod hello;
pub(crate) mod lines;
pub(crate) mod nginx;
pub(crate) mod origin;
pub(crate) mod peer;
pub(crate) mod setup;
pub(crate) mod squid;
pub(crate) mod world;

use std::time::Duration;

pub(crate) use egret::{Egret, egret};
pub(crate) use folder::Folder;
pub(crate) use setup::Setup;

/// How long a test waits for what has to come. Far above what it takes on a busy machine: only a failing test waits this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within [`PATIENCE`]; `what` says what was waited for.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
