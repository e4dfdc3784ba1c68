//! What the service manager is told of us (sd_notify(3), `Type=notify` and `notify-reload`); nothing where there is none.

use std::time::Duration;

use sd_notify::NotifyState;

/// Everything is bound and served; after [`reloading`], that this is over, whatever came of it.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // One message: systemd takes the time for that of the signal which it waits to see answered.
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no time for the service manager"),
    }
}

/// The orderly end begins.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Tells the watchdog, if there is one, that tasks still run, twice as often as it wants to know (`WatchdogSec=`).
pub(super) async fn watchdog() {
    let Some(patience) = sd_notify::watchdog_enabled().filter(|patience| !patience.is_zero()) else { return };
    loop {
        tell(&[NotifyState::Watchdog]);
        tokio::time::sleep((patience / 2).max(LEAST_PAUSE)).await;
    }
}

const LEAST_PAUSE: Duration = Duration::from_millis(10); // WATCHDOG_USEC=1 must not keep a worker busy

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager was not told");
    }
}
