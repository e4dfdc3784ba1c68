//! Egret, an egress proxy and egress gateway in one binary. Everything is a tunnel: each flow goes
//!
//! > **accept → classify → route → dial → relay → account**
//!
//! and the folders are named after that sentence. This page is the map.
//!
//! # The house
//!
//! ```text
//!  7  main    cli/        commands; the only reader of arguments and environment
//!  6  app                 wires everything: bind all, then serve; signals; reload; drain order
//!  5  accept/   admin/    inbound half: forward, sni; the operator's port
//!  4  tunnel/             one flow from start to end: open + relay, or open + exchange (HTTP)
//!  3  dial/  |  config/   outbound half (data)  |  files -> resources -> snapshot (control); neither sees the other
//!  2  route/  relay       compiled rules, pure  |  copying bytes both ways
//!  1  stream/ http1/ tls/ account/ drain
//!  0  flow/               words everybody uses; no I/O
//! ```
//!
//! A module imports only from lower floors, and the data plane never imports [`config`]. `tests/it/house.rs` checks both.
//!
//! # One CONNECT
//!
//! 1. [`accept::Listener::serve`] takes a connection and counts it; a task of its own reads the head with [`http1`], strictly.
//! 2. [`accept::forward`] asks for credentials and makes a [`flow::Flow`] of the head: who asks, how, for which [`flow::Target`].
//! 3. [`route::Snapshot::route`], pure, gives the whole plan: a [`route::Choice`] with the [`route::Route`] or a [`route::Refusal`].
//! 4. [`tunnel::Proxy::open`] carries it out: [`dial::Dialer::dial`] resolves, judges each address, connects, asks a parent proxy where
//!    the plan says so, and wraps TLS around the result.
//! 5. `200` goes out, the task of the handshake ends, and a small future of [`relay`] copies bytes until both sides are done.
//! 6. [`account::AccessRecord`] writes exactly one line, whatever became of the flow.
//!
//! HTTP/2 is [`accept::forward::http2`]: each stream is a flow of its own, written down as a request of HTTP/1.1 so that the same rules
//! judge it, and for the relay a [`stream::Stream`] like any other.
//!
//! Plain HTTP takes the same way up to the dial and then [`tunnel::exchange`] instead of the relay; a CONNECT to a port whose
//! routes need HTTP is answered at once and served by the same code from inside the tunnel.
//!
//! `egret explain` calls the function of step 3 and prints the plan.
//!
//! # Glossary
//!
//! *downstream* the client's side · *upstream* the side we dial · *flow* one client request · *target* what the client asked for ·
//! *route* what a rule says · *cluster* the named thing we connect to, `outbound|443|subset|host` · *endpoint* an address of it ·
//! *hop* another proxy on the way · *tunnel* an open flow · *workload* who we act for (namespace, labels, service account) ·
//! *snapshot* all rules compiled, one immutable generation · *drain* the orderly end.

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
