//! The application log: on standard error, so that standard output is free for the access log.

use tracing_subscriber::EnvFilter;

use super::environment::{self, Look};

/// Starts the application log. RUST_LOG beats `level`.
///
/// # Errors
/// A sentence on a filter that is none.
pub(super) fn start(level: &str) -> Result<(), String> {
    let (name, directives) = match environment::rust_log() {
        Some(directives) => ("RUST_LOG", directives),
        None => ("--log-level", level.to_owned()),
    };
    let filter = EnvFilter::try_new(&directives).map_err(|error| {
        format!("{name}: {directives:?} is no filter ({error}); expected error, warn, info, debug or trace")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(Look::of_stderr().color)
        .with_target(false)
        .init();
    Ok(())
}
