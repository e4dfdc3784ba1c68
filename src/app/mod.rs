//! Wires everything: bind all, then serve; signals; reload; the order of the end.

pub mod listeners;
pub mod revoke;

mod process;
mod signals;
mod stop;
mod watch;
