//! `loadBalancer`: which endpoint a flow goes to (ISTIO 6.4).

use crate::config::diagnostic::Context;
use crate::config::read::Fields;
use crate::config::yaml::Node;
use crate::route::cluster::Balancing;

/// `loadBalancer.simple`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balancer {
    /// Among the endpoints.
    Endpoints(Balancing),
    /// PASSTHROUGH: what the client asked for is dialled.
    Asked,
}

pub(super) fn read_balancer(node: &Node, cx: &mut Context<'_>) -> Option<Balancer> {
    let mut fields = Fields::of(node, cx)?;
    let simple = fields.one_of("simple", BALANCERS, cx);
    for (name, why) in [
        ("consistentHash", "LEAST_REQUEST is used"),
        ("localityLbSetting", "endpoints are taken wherever they are"),
        ("zoneAwareLbSetting", "endpoints are taken wherever they are"),
        ("warmup", "new endpoints get their full share at once"),
        ("warmupDurationSecs", "new endpoints get their full share at once"),
    ] {
        fields.ignored(name, why, cx);
    }
    fields.finish(cx);
    simple
}

const BALANCERS: &[(&str, Balancer)] = &[
    ("UNSPECIFIED", Balancer::Endpoints(Balancing::LeastRequest)),
    ("LEAST_REQUEST", Balancer::Endpoints(Balancing::LeastRequest)),
    ("LEAST_CONN", Balancer::Endpoints(Balancing::LeastRequest)),
    ("ROUND_ROBIN", Balancer::Endpoints(Balancing::RoundRobin)),
    ("RANDOM", Balancer::Endpoints(Balancing::Random)),
    ("PASSTHROUGH", Balancer::Asked),
];
