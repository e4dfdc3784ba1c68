//! Routes of VirtualServices.

/// Compiled routes of one host.
#[derive(Debug)]
pub struct Routes {}
