//! All rules compiled, one immutable generation.

use super::{Choice, Nearest};
use crate::flow::Flow;

/// One generation of rules.
#[derive(Debug)]
pub struct Snapshot {}

impl Snapshot {
    /// Says what will be done with a flow, and why. Pure.
    pub fn route(&self, _flow: &Flow<'_>) -> Choice {
        unimplemented!()
    }
    /// The rule that comes nearest to allowing a flow that was refused.
    pub fn nearest(&self, _flow: &Flow<'_>) -> Option<Nearest> {
        unimplemented!()
    }
    /// Counts up with each reload.
    pub fn generation(&self) -> u64 {
        unimplemented!()
    }
}
