//! The inbound half.

pub mod answer;
pub mod basic;
pub mod socket;
