//! Tells from the first bytes what a client speaks.
