//! What Egret has to withstand, each attack as it is made.

mod addresses;
mod author;
pub(crate) mod dns_server;
mod fronting;
mod holding;
pub(crate) mod injection;
mod ourselves;
mod pinning;
