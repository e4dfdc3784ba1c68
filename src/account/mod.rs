//! Exactly one line per flow.
