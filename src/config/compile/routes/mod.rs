//! VirtualServices to the routes of service ports (ISTIO 5): which of them has which host. What a port makes of it is [`port`]'s,
//! and of what another says [`delegates`]'.

mod delegates;
mod port;

use std::sync::Arc;

use ipnet::IpNet;

use super::clusters::Clusters;
use super::notes::Notes;
use super::services::{Declared, Registry};
use crate::config::diagnostic::Code;
use crate::config::kinds::SharedText;
use crate::config::kinds::sidecar::Sidecar;
use crate::config::kinds::virtual_service::VirtualService;
use crate::flow::Workload;
use crate::route::hosts::HostIndex;
use crate::route::http::Routes;
use crate::route::snapshot::View;
use crate::route::{Protocol, Service};

use delegates::Delegates;
use port::Port;

/// The VirtualServices that one namespace sees, by host: the oldest has it.
#[derive(Debug)]
pub(super) struct VirtualServices<'v, 'r> {
    client: &'v Workload,
    delegates: Delegates<'v, 'r>,
    by_host: HostIndex<&'v VirtualService<'r>>,
    hosts: Vec<(&'v SharedText, &'v VirtualService<'r>)>,
}

impl<'v, 'r> VirtualServices<'v, 'r> {
    pub(super) fn new(
        services: &'v [VirtualService<'r>],
        client: &'v Workload,
        sidecar: Option<&Sidecar<'_>>,
        notes: &mut Notes<'_>,
    ) -> Self {
        let delegates = Delegates::new(services);
        let mut found = Self { client, delegates, by_host: HostIndex::default(), hosts: Vec::new() };
        for service in services.iter().filter(|service| service.export_to.reaches(&client.namespace)) {
            let namespace = &*service.resource.metadata.namespace;
            let is_known = |host: &str| sidecar.is_none_or(|sidecar| sidecar.imports_routes(namespace, host));
            for host in service.hosts.iter().filter(|host| is_known(&host.value)) {
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
        self.port_of(declared, &networks(declared)).routes(service, &self.delegates, clusters, notes)
    }

    fn port_of<'a>(&'a self, declared: &Declared<'_, '_>, addresses: &'a [IpNet]) -> Port<'a> {
        Port { number: declared.port.number, protocol: declared.protocol, addresses, client: self.client }
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
        let port = Port { number: of.port, protocol: of.protocol, addresses: &[], client: self.client };
        port.routes(service, &self.delegates, clusters, notes).filter(|routes| !routes.http.is_empty())
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
                    self.add_undeclared(host, service, view, clusters, notes);
                }
                continue;
            }
            for declared in covered {
                let routes =
                    self.port_of(declared, &networks(declared)).routes(service, &self.delegates, clusters, notes);
                view.add(&Arc::new(Service {
                    host: host.value.clone(),
                    port: declared.port.number,
                    protocol: declared.protocol,
                    origin: declared.entry.origin(declared.port.span),
                    hosts: declared.hosts.clone(),
                    consistency: clusters.consistency(declared.entry),
                    cluster: clusters.own(declared, notes),
                    routes,
                    policies: None,
                }));
            }
        }
    }

    /// ISTIO 4: a VirtualService for a host that no registry knows gets a virtual host on port 80 only.
    fn add_undeclared(
        &self,
        host: &SharedText,
        service: &VirtualService<'_>,
        view: &mut View,
        clusters: &mut Clusters<'_, '_, '_>,
        notes: &mut Notes<'_>,
    ) {
        const NUMBER: u16 = 80;
        let message =
            format!("no loaded resource declares {}: its http routes apply to port 80 only, as in Istio", host.value);
        notes.once(service.resource, Code::RuleWithoutService, host.span, message);
        let port = Port { number: NUMBER, protocol: Protocol::Http, addresses: &[], client: self.client };
        let Some(routes) = port.routes(service, &self.delegates, clusters, notes) else { return };
        // Requests that no route takes are answered 404, so nothing goes to the service's own cluster.
        let cluster = clusters.nowhere(&host.value, NUMBER, &format!("no loaded resource declares {}", host.value));
        view.add(&Arc::new(Service {
            host: host.value.clone(),
            port: NUMBER,
            protocol: Protocol::Http,
            origin: service.resource.origin(host.span),
            hosts: Arc::new([host.value.clone()]),
            consistency: None,
            cluster,
            routes: Some(routes),
            policies: None,
        }));
    }
}

fn networks(declared: &Declared<'_, '_>) -> Vec<IpNet> {
    declared.entry.addresses.iter().map(|net| net.value).collect()
}
