//! The operator's port.
