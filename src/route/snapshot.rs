//! All rules compiled, one immutable generation.

/// One generation of rules.
#[derive(Debug)]
pub struct Snapshot {}
