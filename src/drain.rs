//! The orderly end, and the list of what is alive.
