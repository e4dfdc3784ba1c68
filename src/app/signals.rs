//! What the operator's signals mean.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that we act on, from now on.
#[derive(Debug)]
pub(super) struct Signals {
    hangup: Signal,
    user1: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGUSR1: open the log files again, after they were moved.
    ReopenLogs,
    /// SIGTERM, SIGINT: end in order, within `drain`.
    Stop,
    /// SIGQUIT: end in order, however long that takes.
    StopWhenIdle,
}

impl Signals {
    /// Takes the signals over. Must be called inside the runtime.
    ///
    /// # Errors
    /// If the kernel refuses a handler.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// The next one. Dropping the future loses none.
    pub(super) async fn next(&mut self) -> Wish {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.quit.recv() => Wish::StopWhenIdle,
            _ = self.hangup.recv() => Wish::Reload,
            _ = self.user1.recv() => Wish::ReopenLogs,
        }
    }
}
