//! PEM, certificates and the names in them.
