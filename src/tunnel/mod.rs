//! One flow from start to end.
