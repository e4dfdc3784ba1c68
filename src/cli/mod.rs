//! Commands; the only reader of arguments and environment.

pub mod args;
mod environment;
mod exit;
mod explain;
mod log;

/// Reads the command line and does what it says.
pub fn main() -> std::process::ExitCode { exit::Exit::Ok.into() }
