//! What is written and counted of each flow.

pub mod live;
pub mod metrics;
pub mod record;

pub use live::{Live, Tunnels};
pub use record::{AccessRecord, Account};
