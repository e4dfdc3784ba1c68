//! Integration tests: the built binary over real sockets, and the house it comes from.
#![allow(clippy::unwrap_used)]

mod agreement;
mod attacks;
mod authorization;
mod balancing;
mod cli;
mod clients;
mod commands;
mod connection_pool;
mod consistency;
mod descriptors;
mod dns_storm;
mod drain;
mod house;
mod http2;
mod inbound;
mod kubernetes;
mod leak;
mod limits;
mod many_rules;
mod operator;
mod origins;
#[cfg(feature = "otlp")]
mod otlp;
mod packages;
mod parents;
mod progress;
mod reload;
mod reload_load;
mod reload_many;
mod reopen;
mod run;
mod sandbox;
mod support;
mod tasks;
mod virtual_service;
mod wire;
