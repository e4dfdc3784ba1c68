//! VirtualServices to the routes of service ports (ISTIO 5).

use std::sync::Arc;

use super::clusters::{Clusters, Place, Reference};
use super::notes::Notes;
use super::services::{Declared, Registry};
use crate::config::diagnostic::Code;
use crate::config::kinds::SharedText;
use crate::config::kinds::virtual_service::{Destination, VirtualService};
use crate::config::source::Span;
use crate::route::hosts::HostIndex;
use crate::route::http::{Destination as RouteTo, Routes, TcpRoute, TlsRoute};
use crate::route::snapshot::View;
use crate::route::{Protocol, Service};

/// The VirtualServices that one namespace sees, by host: the oldest has it.
#[derive(Debug)]
pub(super) struct VirtualServices<'v, 'r> {
    by_host: HostIndex<&'v VirtualService<'r>>,
    hosts: Vec<(&'v SharedText, &'v VirtualService<'r>)>,
}

impl<'v, 'r> VirtualServices<'v, 'r> {
    pub(super) fn new(services: &'v [VirtualService<'r>], namespace: &str, notes: &mut Notes<'_>) -> Self {
        let mut found = Self { by_host: HostIndex::default(), hosts: Vec::new() };
        for service in services.iter().filter(|service| service.export_to.reaches(namespace)) {
            for host in &service.hosts {
                let owner = *found.by_host.entry(&host.value, || service);
                if std::ptr::eq(owner, service) {
                    found.hosts.push((host, service));
                    continue;
                }
                let message = format!("{} routes {} already and is older", owner.resource.label, host.value);
                notes.once(service.resource, Code::LostRule, host.span, message);
            }
        }
        found
    }

    /// The routes of a service port, by the most specific host over the service's.
    pub(super) fn routes(
        &self,
        declared: &Declared<'_, '_>,
        clusters: &mut Clusters<'_, '_, '_>,
        notes: &mut Notes<'_>,
    ) -> Option<Arc<Routes>> {
        let service = self.by_host.find_covering(&declared.host)?;
        compile(service, declared.port.number, declared.protocol, clusters, notes)
    }

    /// The http routes of exactly this host, an alias of the service (ISTIO 13).
    pub(super) fn http_routes_of(
        &self,
        alias: &str,
        of: &Service,
        clusters: &mut Clusters<'_, '_, '_>,
        notes: &mut Notes<'_>,
    ) -> Option<Arc<Routes>> {
        let service = self.by_host.get(alias)?;
        compile(service, of.port, of.protocol, clusters, notes).filter(|routes| routes.http.is_some())
    }

    /// A VirtualService may name a host that only a wildcard declares: then the host gets the wildcard's ports with these routes. A host
    /// that nothing declares gets port 80, as in Istio.
    pub(super) fn add_narrower_hosts(
        &self,
        view: &mut View,
        registry: &Registry<'_, '_>,
        clusters: &mut Clusters<'_, '_, '_>,
        notes: &mut Notes<'_>,
    ) {
        for (host, service) in &self.hosts {
            let covered =
                if registry.ports(&host.value).is_empty() { registry.ports_covering(&host.value) } else { continue };
            let covers_some = || registry.iter().any(|other| crate::route::hosts::is_subset(&other.host, &host.value));
            if covered.is_empty() {
                if !host.value.starts_with('*') || !covers_some() {
                    add_undeclared(host, service, view, clusters, notes);
                }
                continue;
            }
            for declared in covered {
                let routes = compile(service, declared.port.number, declared.protocol, clusters, notes);
                view.add(&Arc::new(Service {
                    host: host.value.clone(),
                    port: declared.port.number,
                    protocol: declared.protocol,
                    origin: declared.entry.origin(declared.port.span),
                    hosts: declared.hosts.clone(),
                    consistency: clusters.consistency(declared.entry),
                    cluster: clusters.own(declared, notes),
                    routes,
                    refused: None,
                }));
            }
        }
    }
}

/// ISTIO 4: a VirtualService for a host that no registry knows gets a virtual host on port 80 only.
fn add_undeclared(
    host: &SharedText,
    service: &VirtualService<'_>,
    view: &mut View,
    clusters: &mut Clusters<'_, '_, '_>,
    notes: &mut Notes<'_>,
) {
    const PORT: u16 = 80;
    let message =
        format!("no loaded resource declares {}: its http routes apply to port 80 only, as in Istio", host.value);
    notes.once(service.resource, Code::RuleWithoutService, host.span, message);
    let Some(routes) = compile(service, PORT, Protocol::Http, clusters, notes) else { return };
    let Some(to) = routes.http.clone() else { return };
    view.add(&Arc::new(Service {
        host: host.value.clone(),
        port: PORT,
        protocol: Protocol::Http,
        origin: service.resource.origin(host.span),
        hosts: Arc::new([host.value.clone()]),
        consistency: None,
        cluster: to.cluster,
        routes: Some(routes),
        refused: None,
    }));
}

/// The routes that apply to a port; `None` where the service itself is to be taken.
fn compile(
    service: &VirtualService<'_>,
    port: u16,
    protocol: Protocol,
    clusters: &mut Clusters<'_, '_, '_>,
    notes: &mut Notes<'_>,
) -> Option<Arc<Routes>> {
    let mut to = |destination: &Destination, name: Option<&str>, span: Span, is_tcp: bool| {
        let cluster = cluster(service, destination, port, is_tcp, clusters, notes);
        RouteTo { name: name.unwrap_or("default").into(), origin: service.resource.origin(span), cluster }
    };
    let (is_http, is_tls) = (protocol.is_http(), protocol == Protocol::Tls);
    let http = service.http.iter().filter(|_| is_http || protocol == Protocol::Auto);
    let http = http.into_iter().find(|route| route.ports.as_ref().is_none_or(|ports| ports.contains(&port)));
    let http = http.map(|route| to(&route.to, route.name.as_deref(), route.span, false));
    let tls = service.tls.iter().filter(|_| is_tls || protocol == Protocol::Auto);
    let tls = tls.filter(|route| route.port.is_none_or(|number| number == port)).map(|route| TlsRoute {
        sni_hosts: route.sni_hosts.iter().map(|host| host.value.clone()).collect(),
        to: to(&route.to, None, route.span, true),
    });
    let tls = tls.collect::<Vec<_>>();
    let tcp = service.tcp.iter().filter(|_| !is_http && !is_tls);
    let tcp = tcp.filter(|route| route.port.is_none_or(|number| number == port)).map(|route| TcpRoute {
        subnets: route.subnets.as_ref().map(|nets| nets.iter().copied().collect()),
        to: to(&route.to, None, route.span, true),
    });
    let tcp = tcp.collect::<Vec<_>>();
    if http.is_none() && tls.is_empty() && tcp.is_empty() {
        return None;
    }
    Some(Arc::new(Routes { rule: service.resource.label.clone(), http, tls, tcp }))
}

/// The port of a destination: explicit, else the service's only one, else the one asked for.
fn cluster(
    service: &VirtualService<'_>,
    destination: &Destination,
    asked: u16,
    is_tcp: bool,
    clusters: &mut Clusters<'_, '_, '_>,
    notes: &mut Notes<'_>,
) -> Arc<crate::route::Cluster> {
    let host = &destination.host;
    let port = destination.port.unwrap_or_else(|| match clusters.registry().ports(&host.value).as_slice() {
        [only] => only.port.number,
        _ => asked,
    });
    let subset = destination.subset.as_ref();
    let place = Place { host: host.value.clone(), port, subset: subset.map(|subset| subset.value.clone()), is_tcp };
    let reference = Reference {
        resource: Some(service.resource),
        host: host.span,
        subset: subset.map_or(host.span, |subset| subset.span),
    };
    clusters.of_route(&place, reference, notes)
}
