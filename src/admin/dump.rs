//! `/config_dump`: the configuration in force, in Envoy's frame: a list of parts, each with its type. The parts are our own: settings,
//! listeners, resources, services and clusters, each with its place. Secrets are in none: rules hold what they compile to.

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::chunks::list;
use super::facts::Facts;
use super::query::Query;
use super::tunnels::describe_hop;
use crate::flow::{Origin, Target};
use crate::route::cluster::{Endpoint, EndpointAddress, ProxyProtocol, Sni};
use crate::route::snapshot::Outbound;
use crate::route::{Cluster, ConnectionPool, Discovery, Mode, Service, Snapshot, Via};

/// What is wanted of it.
#[derive(Debug)]
pub(super) struct Wanted {
    part: Option<Part>,
    filter: String,
    limit: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Settings,
    Listeners,
    Resources,
    Services,
    Clusters,
}

const PARTS: [(&str, Option<Part>); 6] = [
    ("all", None),
    ("settings", Some(Part::Settings)),
    ("listeners", Some(Part::Listeners)),
    ("resources", Some(Part::Resources)),
    ("services", Some(Part::Services)),
    ("clusters", Some(Part::Clusters)),
];

impl Wanted {
    /// Reads `resource` (one part of it), `filter` (a part of the names), `limit` (of each list).
    ///
    /// # Errors
    /// A sentence on the first that makes no sense.
    pub(super) fn parse(query: &Query<'_>) -> Result<Self, String> {
        Ok(Self {
            part: query.one_of("resource", &PARTS)?,
            filter: query.get("filter").unwrap_or_default().into_owned(),
            limit: query.number("limit", usize::MAX >> 1, 1..=usize::MAX >> 1)?,
        })
    }

    fn wants(&self, part: Part) -> bool {
        self.part.is_none_or(|only| only == part)
    }

    fn fits(&self, name: &str) -> bool {
        name.contains(&self.filter)
    }
}

/// Writes it, item by item: 100,000 services are 100 MB of text.
pub(super) fn write(out: &mut impl Write, facts: &Facts, snapshot: &Snapshot, wanted: &Wanted) -> io::Result<()> {
    out.write_all(b"{\"configs\":[")?;
    let mut first = true;
    for (name, part) in
        PARTS.iter().filter_map(|(name, part)| Some((name, (*part)?))).filter(|(_, part)| wanted.wants(*part))
    {
        out.write_all(if std::mem::take(&mut first) { b"\n" } else { b",\n" })?;
        write!(out, "{{\"@type\":\"egret.dev/{name}\",\"generation\":{},\"{name}\":", snapshot.generation())?;
        match part {
            Part::Settings => serde_json::to_writer(&mut *out, &facts.settings)?,
            Part::Listeners => list(out, listeners(facts, wanted))?,
            Part::Resources => list(out, resources(facts, wanted))?,
            Part::Services => {
                list(out, services(snapshot, wanted))?;
                write!(out, ",\"unknown\":{}", unknown(&snapshot.outbound))?;
            }
            Part::Clusters => list(out, clusters(snapshot, wanted))?,
        }
        out.write_all(b"}")?;
    }
    out.write_all(b"]}")
}

fn listeners(facts: &Facts, wanted: &Wanted) -> impl Iterator<Item = Value> {
    let fits = facts.listeners.iter().filter(|listener| wanted.fits(&listener.name));
    fits.take(wanted.limit).map(|listener| listener.settings.clone())
}

fn resources(facts: &Facts, wanted: &Wanted) -> impl Iterator<Item = Value> {
    let fits = facts.resources.iter().filter(|origin| wanted.fits(&origin.resource));
    fits.take(wanted.limit).map(|origin| json!({ "resource": origin.resource, "at": place(origin) }))
}

/// What becomes of targets that no service is.
fn unknown(outbound: &Outbound) -> Value {
    let mode = match outbound.mode {
        Mode::AllowAny => "ALLOW_ANY",
        Mode::RegistryOnly => "REGISTRY_ONLY",
        Mode::Report => "REGISTRY_ONLY, report",
    };
    json!({ "mode": mode, "at": place(&outbound.origin) })
}

fn services<'s>(snapshot: &'s Snapshot, wanted: &Wanted) -> impl Iterator<Item = Value> + use<'s> {
    let mut all: Vec<(&Arc<str>, &Arc<Service>)> = Vec::new();
    for (namespace, view) in &snapshot.views {
        all.extend(view.services().filter(|service| wanted.fits(&service.host)).map(|service| (namespace, service)));
    }
    // Those that have several names stand under each of them; they are one.
    all.sort_unstable_by(|(a, x), (b, y)| (a, &x.host, x.port).cmp(&(b, &y.host, y.port)));
    all.dedup_by(|(a, x), (b, y)| a == b && Arc::ptr_eq(x, y));
    all.into_iter().take(wanted.limit).map(|(namespace, service)| {
        json!({
            "host": service.host,
            "port": service.port,
            "protocol": service.protocol.as_str(),
            "seen_from": namespace,
            "cluster": service.cluster.name,
            "resource": service.origin.resource,
            "at": place(&service.origin),
            "routes": service.routes.as_ref().map(|routes| &routes.rule),
            "protected": service.policies.is_some(),
        })
    })
}

fn clusters(snapshot: &Snapshot, wanted: &Wanted) -> Vec<Value> {
    let (mut seen, mut found) = (HashSet::new(), Vec::new());
    snapshot.for_each_cluster(|cluster| {
        if found.len() < wanted.limit && wanted.fits(&cluster.name) && seen.insert(cluster.name.clone()) {
            found.push(describe(cluster));
        }
    });
    found
}

fn describe(cluster: &Cluster) -> Value {
    let all = |endpoints: &[Endpoint]| -> Vec<Value> {
        endpoints
            .iter()
            .map(|endpoint| json!({ "address": address(&endpoint.at), "weight": endpoint.weight }))
            .collect()
    };
    let (discovery, endpoints) = match &cluster.discovery {
        Discovery::Asked { port } => (json!({ "type": "asked", "port": port }), Vec::new()),
        Discovery::Dns { endpoints, first_address_only } => {
            (json!({ "type": "dns", "first_address_only": first_address_only }), all(endpoints))
        }
        Discovery::Static(endpoints) => (json!({ "type": "static" }), all(endpoints)),
        Discovery::Missing(problem) => (json!({ "type": "missing", "problem": problem }), Vec::new()),
    };
    let tls = cluster.tls.as_ref().map(|tls| {
        let sni = match &tls.sni {
            Sni::Fixed(name) => name.as_str(),
            Sni::Asked => "as asked",
        };
        json!({
            "mode": tls.mode,
            "sni": sni,
            "problem": tls.client.as_ref().err(),
            "ca": tls.client.as_ref().ok().and_then(|client| client.files().ca.clone()),
            "certificate": tls.client.as_ref().ok().and_then(|client| client.files().chain.clone()),
            "resource": tls.origin.resource,
            "at": place(&tls.origin),
        })
    });
    let via = match &cluster.via {
        Via::Direct => Value::Null,
        Via::Connect(hop) => json!({
            "parent": describe_hop(hop),
            "cluster": hop.cluster.name,
            "asked_for": hop.target.as_ref().map(ToString::to_string),
            "method": hop.method.as_str(),
            "absolute_form": hop.absolute_form,
            "probe": hop.probe.as_ref().map(|probe| json!({
                "target": probe.target.to_string(),
                "interval_s": probe.interval.as_secs_f64(),
                "timeout_s": probe.timeout.as_secs_f64(),
            })),
            "by": hop.origin.resource,
            "authorization": hop.authorization.as_ref().map(|authorization| match &authorization.value {
                Ok(_) => "redacted",
                Err(problem) => &**problem,
            }),
            "at": place(&hop.origin),
        }),
    };
    let seconds = |duration: Duration| duration.as_secs_f64();
    json!({
        "name": cluster.name,
        "resource": cluster.origin.resource,
        "at": place(&cluster.origin),
        "discovery": discovery,
        "endpoints": endpoints,
        "via": via,
        "straight": cluster.straight.as_ref().map(|rule| json!({ "by": rule.resource, "at": place(rule) })),
        "tls": tls,
        "balancing": cluster.balancing.as_str(),
        "outlier_detection": cluster.outliers().is_some(),
        "source": cluster.source,
        "connect_timeout_s": seconds(cluster.connect_timeout),
        "idle_timeout_s": cluster.idle_timeout().map(seconds),
        "requests_per_connection_max": cluster.requests_per_connection_max(),
        "http": cluster.http.version.as_str(),
        "streams_per_connection_max": cluster.http.streams_max(),
        "http2_keepalive_s": cluster.http.keepalive().map(|ping| [seconds(ping.interval), seconds(ping.timeout)]),
        "connection_pool": cluster.pool().map(connection_pool),
        "proxy_protocol": cluster.proxy_protocol().map(ProxyProtocol::as_str),
    })
}

fn connection_pool(pool: &ConnectionPool) -> Value {
    let seconds = |duration: Duration| duration.as_secs_f64();
    json!({
        "at": place(&pool.origin),
        "connections_max": pool.connections_max,
        "pending_requests_max": pool.pending_requests_max,
        "requests_max": pool.requests_max,
        "retries_max": pool.retries_max,
        "retry_budget": pool.retry_budget.map(|budget| json!({ "percent": budget.percent, "min": budget.min })),
        "lifetime_s": pool.lifetime.map(seconds),
        "idle_s": pool.idle.map(seconds),
        "keepalive": pool.keepalive.map(|keepalive| json!({
            "probes": keepalive.probes,
            "time_s": keepalive.time.map(seconds),
            "interval_s": keepalive.interval.map(seconds),
        })),
    })
}

fn address(address: &EndpointAddress) -> String {
    match address {
        EndpointAddress::Host(host, port) => Target { host: host.clone(), port: *port }.to_string(),
        EndpointAddress::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// `file:line:column`, where there is a file.
fn place(origin: &Origin) -> Option<String> {
    (origin.line > 0).then(|| origin.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::route::Protocol;
    use crate::route::sample::{service, snapshot};

    fn dump(query: &str) -> Value {
        let services = ["a.test", "b.test"].map(|host| service(host, 443, Protocol::Tls));
        let snapshot = snapshot(Mode::RegistryOnly, services.to_vec());
        let facts = Facts {
            settings: json!({ "threads": 1 }),
            resources: vec![Origin {
                file: "r.yaml".into(),
                line: 3,
                column: 1,
                resource: "ServiceEntry default/a".into(),
            }],
            ..Facts::default()
        };
        let mut out = Vec::new();
        write(&mut out, &facts, &snapshot, &Wanted::parse(&Query::new(Some(query))).unwrap()).unwrap();
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn each_part_has_its_type_and_can_be_had_alone() {
        let all = dump("");
        let types: Vec<&str> =
            all["configs"].as_array().unwrap().iter().map(|part| part["@type"].as_str().unwrap()).collect();
        assert_eq!(
            types,
            ["settings", "listeners", "resources", "services", "clusters"].map(|part| format!("egret.dev/{part}"))
        );
        assert_eq!(
            all["configs"][2]["resources"][0],
            json!({ "resource": "ServiceEntry default/a", "at": "r.yaml:3:1" })
        );
        assert_eq!(all["configs"][3]["unknown"]["mode"], "REGISTRY_ONLY");
        let one = dump("resource=services&filter=b.test");
        assert_eq!(one["configs"].as_array().unwrap().len(), 1);
        assert_eq!(one["configs"][0]["services"].as_array().unwrap().len(), 1);
        assert_eq!(one["configs"][0]["services"][0]["host"], "b.test");
        assert_eq!(dump("resource=services&limit=1")["configs"][0]["services"][0]["host"], "a.test");
        assert!(Wanted::parse(&Query::new(Some("resource=secrets"))).unwrap_err().contains("clusters"));
    }
}
