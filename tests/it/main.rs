//! Integration tests: the built binary over real sockets, and the house it comes from.
#![allow(clippy::unwrap_used)]

mod attacks;
mod cli;
mod clients;
mod drain;
mod house;
mod origins;
mod parents;
mod reload;
mod run;
mod support;
mod wire;
