//! Egret, an egress proxy and egress gateway.

pub mod flow;

pub mod account;
pub mod drain;
pub mod http1;
pub mod stream;
pub mod tls;

pub mod relay;
pub mod route;

pub mod config;
pub mod dial;

pub mod tunnel;

pub mod accept;
pub mod admin;

pub mod app;

pub mod cli;
