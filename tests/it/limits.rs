//! The settings' `limits`, each on both sides of its bound: what is within passes, what is beyond is told so and counted.

mod bodies;
mod counts;
mod rates;

use crate::support::Egret;
use crate::support::client;

/// How often a limit was met.
pub(crate) fn reached(egret: &Egret, limit: &str) -> u64 {
    let body = String::from_utf8(client::get_from(egret.admin(), "/metrics").body).unwrap();
    let name = format!("egret_limit_reached_total{{limit=\"{limit}\"}} ");
    let line = body.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |value| value.parse().unwrap())
}
