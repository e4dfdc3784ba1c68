//! The outbound half.
