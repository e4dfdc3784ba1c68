//! Small snapshots for tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::cluster::{Endpoint, EndpointAddress};
use super::snapshot::{Mode, Outbound, Snapshot, View};
use super::{AddressRules, Choice, Cluster, Discovery, Protocol, Service, consistency};
use crate::flow::{
    Ask, Flow, ListenerKind, ListenerName, Origin, Request, RequestFields, Scheme, Source, Target, Workload,
};

pub(crate) fn origin(resource: &str, line: u32) -> Origin {
    Origin { file: "rules.yaml".into(), line, column: 5, resource: resource.into() }
}

pub(crate) fn cluster(name: &str) -> Arc<Cluster> {
    let discovery = Discovery::Asked { port: None };
    let timeout = Duration::from_secs(10);
    Arc::new(Cluster::new(name.into(), Origin::default(), discovery, AddressRules::default(), timeout))
}

pub(crate) fn service(host: &str, port: u16, protocol: Protocol) -> Service {
    let at = EndpointAddress::Host(crate::flow::Host::parse(b"192.0.2.1").expect("a literal"), port);
    let cluster = Cluster {
        discovery: Discovery::Static(vec![Endpoint { at, weight: 1 }]),
        ..Cluster::clone(&cluster(&format!("outbound|{port}||{host}")))
    };
    Service {
        host: host.into(),
        port,
        protocol,
        origin: origin(&format!("ServiceEntry default/{}", host.replace('*', "all")), u32::from(port)),
        hosts: Arc::new([host.into()]),
        cluster: Arc::new(cluster),
        consistency: None,
        routes: None,
        policies: None,
    }
}

pub(crate) fn snapshot(mode: Mode, services: Vec<Service>) -> Snapshot {
    let mut view = View::new(cluster("PassthroughCluster"));
    for service in services {
        view.add(&Arc::new(service));
    }
    with_view(mode, view)
}

pub(crate) fn with_view(mode: Mode, view: View) -> Snapshot {
    Snapshot {
        generation: 1,
        views: [("default".into(), view)].into_iter().collect(),
        elsewhere: None,
        selected: Vec::new(),
        outbound: Outbound { mode, origin: origin("", 3) },
        consistency: Arc::new(policy(consistency::Mode::Off)),
        https: Err("no roots in this test".into()),
        trust_domain: "cluster.local".into(),
    }
}

pub(crate) fn policy(mode: consistency::Mode) -> consistency::Policy {
    consistency::Policy { mode, is_auto: false, deny_ech: false, origin: origin("", 4) }
}

pub(crate) fn source(kind: ListenerKind, namespace: &str) -> Source {
    let workload = Workload { namespace: namespace.into(), service_account: "default".into(), labels: BTreeMap::new() };
    Source {
        peer: ([127, 0, 0, 1], 40000).into(),
        local: ([127, 0, 0, 1], 3128).into(),
        transport: crate::flow::Transport::Tcp,
        listener: Arc::new(ListenerName { name: "proxy".to_owned(), kind }),
        workload: Arc::new(workload),
        identity: None,
    }
}

/// Asks as a client of a `forward` listener in namespace `default`: `host:port` is a CONNECT, a URL a plain request.
pub(crate) fn ask(snapshot: &Snapshot, what: &str) -> Choice {
    with_flow(what, |flow| snapshot.route(flow))
}

/// The flow for `host:port` (CONNECT), `[METHOD ]URL[ NAME=VALUE…]` (plain request) or `sni:host:port`.
pub(crate) fn with_flow<T>(what: &str, then: impl FnOnce(&Flow<'_>) -> T) -> T {
    let (kind, ask, authority, default_port);
    let (before, rest) = what.split_once("://").unwrap_or(("", what));
    let (method, scheme) = before.split_once(' ').unwrap_or(("GET", before));
    let mut words = rest.split(' ');
    let url = words.next().unwrap_or_default();
    let (host, path) = url.split_at(url.find('/').unwrap_or(url.len()));
    let fields = Words(words.filter_map(|word| word.split_once('=')).collect());
    if let Some(rest) = what.strip_prefix("sni:") {
        (kind, ask, authority, default_port) = (ListenerKind::Sni, Ask::Sni, rest, 443);
    } else if before.is_empty() {
        (kind, ask, authority, default_port) = (ListenerKind::Forward, Ask::Connect, what, 443);
    } else {
        let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
        let path = if path.is_empty() { "/" } else { path };
        let request = Request { method, scheme, path, inside_tunnel: false, fields: &fields };
        (kind, ask, authority, default_port) = (ListenerKind::Forward, Ask::Http(request), host, scheme.default_port());
    }
    let source = source(kind, "default");
    let target = Target::parse_or_port(authority.as_bytes(), default_port).expect("a target");
    then(&Flow { source: &source, ask, target })
}

/// Fields of a request in a table.
#[derive(Debug)]
struct Words<'a>(Vec<(&'a str, &'a str)>);

impl RequestFields for Words<'_> {
    fn each<'f>(&'f self, name: &str, look: &mut dyn FnMut(&'f [u8])) {
        let found = self.0.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        found.for_each(|(_, value)| look(value.as_bytes()));
    }
}

/// The verdict in one line, for tables: `cluster`, or `refused not_found at registry: sentence`.
pub(crate) fn verdict(choice: &Choice) -> String {
    match &choice.verdict {
        Ok(route) => {
            let tls = route.cluster.tls.as_ref().map_or("", |_| " over TLS");
            let tunnel = match &route.tunnel {
                super::TunnelKind::Opaque => String::new(),
                super::TunnelKind::Terminated(why) => format!(" terminated by {why}"),
                super::TunnelKind::Detect(why) => format!(" detected for {why}"),
            };
            format!("{}{tls}{tunnel}", route.cluster.name)
        }
        Err(refusal) => format!("{} at {}: {}", refusal.error.row().reason, refusal.stage.as_str(), refusal.detail),
    }
}
