//! Reads a TLS ClientHello as it comes, without consuming it.
