//! What Egret has to withstand, each attack as it is made.

mod addresses;
mod dns_server;
mod fronting;
mod holding;
mod injection;
mod ourselves;
mod pinning;
