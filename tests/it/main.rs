//! Integration tests: the built binary and the house it comes from.
#![allow(clippy::unwrap_used)]

mod house;
