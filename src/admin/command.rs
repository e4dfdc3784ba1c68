//! What an operator asks of the whole process; carried out by `app`, which alone can.

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

/// A wish, and where its answer goes. Whoever asked may have left meanwhile.
#[derive(Debug)]
pub enum Command {
    /// Read the configuration again and put it in force.
    Reload(oneshot::Sender<Reloaded>),
    /// Begin the orderly end, as SIGTERM does. The answer says how long it may take, in seconds.
    Drain(oneshot::Sender<f64>),
}

/// What became of a reload.
#[derive(Clone, Debug, PartialEq)]
pub struct Reloaded {
    /// The new configuration is in force.
    pub ok: bool,
    /// The report, an object.
    pub report: Value,
}

/// The receiving end of [`channel`].
pub type Commands = mpsc::Receiver<Command>;

/// Commands on their way; more than a few at once are refused rather than queued.
pub fn channel() -> (mpsc::Sender<Command>, Commands) {
    mpsc::channel(COMMANDS_MAX)
}

const COMMANDS_MAX: usize = 4;
