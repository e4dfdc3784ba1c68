//! HTTP/1, ours and strict.
