//! Parent proxies: a real squid, a real Envoy, a scripted one, and Egret itself.

mod chain;
mod envoy;
mod lists;
mod scripted;
mod several;
mod squid;
mod tunnel;

use crate::support::Setup;

/// Unknown targets go to `parent.example:3128`.
const BY_POLICY: &str =
    "outboundTrafficPolicy: { mode: ALLOW_ANY, egressProxy: { host: parent.example, port: { number: 3128 } } }";

/// The parent as a service: `port` is where it really listens.
fn parent(port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: parent }}
spec:
  hosts: [parent.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{ number: 3128, name: tcp, protocol: TCP, targetPort: {port} }}]
  endpoints: [{{ address: 127.0.0.1 }}]
"
    )
}

/// How the parent is connected to, in a DestinationRule.
fn rule(annotations: &str, policy: &str) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: parent, annotations: {{ {annotations} }} }}
spec:
  host: parent.example
  {policy}
"
    )
}

/// A proxy whose unknown targets go to a parent.
fn by_policy(rules: &str) -> Setup<'_> {
    Setup { mesh: BY_POLICY, rules, ..Setup::default() }
}

/// What stands in the log of a flow that the parent refused.
fn refused(status: &str) -> [(&str, &str); 6] {
    [
        ("response_code", "502"),
        ("response_flags", "UF"),
        ("upstream_cluster", "PassthroughCluster"),
        ("reason", "hop_refused"),
        ("hop_status", status),
        ("route_name", "allow_any"),
    ]
}
