//! The inbound half.
