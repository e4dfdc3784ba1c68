//! Kubernetes Services and their addresses to the shape that ServiceEntries have (ISTIO 13), and workloads to the endpoints of those that
//! select them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::diagnostic::{Code, Diagnostics};
use crate::config::kinds::endpoints::{Endpoints, NamedPort};
use crate::config::kinds::service::{Service, ServiceAddress, ServicePort, TargetPort};
use crate::config::kinds::service_entry::{Endpoint, EndpointAddress, Port, Provider, Resolution, ServiceEntry};
use crate::config::kinds::workload_entry::WorkloadEntry;
use crate::config::resource::{Kind, Resource};
use crate::config::source::{Span, Spanned};
use crate::flow::Host;

/// What Kubernetes' kinds and WorkloadEntries say, before they are put together.
#[derive(Debug, Default)]
pub(super) struct Kubernetes<'r> {
    pub(super) services: Vec<Service<'r>>,
    /// Of Endpoints and EndpointSlices.
    pub(super) endpoints: Vec<Endpoints<'r>>,
    pub(super) workloads: Vec<WorkloadEntry<'r>>,
}

/// Namespace and name.
type Key = (Arc<str>, Arc<str>);

impl<'r> Kubernetes<'r> {
    /// Gives selectors of ServiceEntries their workloads, and makes an entry of each Service.
    pub(super) fn put_together(self, entries: &mut Vec<ServiceEntry<'r>>, diagnostics: &mut Diagnostics) {
        let workloads = Workloads::new(&self.workloads);
        for entry in entries.iter_mut() {
            // Listed and selected exclude each other, which was reported.
            let Some(selector) = entry.selector.as_ref().filter(|_| entry.endpoints.is_empty()) else { continue };
            let span = selector.span;
            let selected = workloads.select(&entry.resource.metadata.namespace, |labels| selector.selects(labels));
            entry.endpoints = fitting(entry, selected, diagnostics);
            let is_used = !matches!(entry.resolution, Resolution::None | Resolution::DynamicDns);
            if entry.endpoints.is_empty() && is_used {
                let message = "no loaded WorkloadEntry of the namespace is selected: flows are answered 503".to_owned();
                report(entry.resource, Code::ServiceWithoutEndpoints, span, message, diagnostics);
            }
        }
        let known: HashSet<Key> = self.services.iter().map(Service::key).collect();
        let mut lists: HashMap<Key, Vec<&Endpoints<'r>>> = HashMap::new();
        for list in &self.endpoints {
            if known.contains(&list.key()) {
                lists.entry(list.key()).or_default().push(list);
            } else {
                let (namespace, name) = list.key();
                let message = format!("no Service {namespace}/{name} is loaded: these addresses are not used");
                report(list.resource, Code::EndpointsWithoutService, list.service.span, message, diagnostics);
            }
        }
        for service in self.services {
            let lists = lists.get(&service.key()).map(Vec::as_slice).unwrap_or_default();
            entries.push(declare(service, lists, &workloads, diagnostics));
        }
    }
}

/// WorkloadEntries by namespace.
struct Workloads<'w, 'r> {
    by_namespace: HashMap<Arc<str>, Vec<&'w WorkloadEntry<'r>>>,
}

impl<'w, 'r> Workloads<'w, 'r> {
    fn new(all: &'w [WorkloadEntry<'r>]) -> Self {
        let mut by_namespace: HashMap<Arc<str>, Vec<&WorkloadEntry<'_>>> = HashMap::new();
        for workload in all {
            by_namespace.entry(workload.resource.metadata.namespace.clone()).or_default().push(workload);
        }
        Self { by_namespace }
    }

    fn select(
        &self,
        namespace: &Arc<str>,
        fits: impl Fn(&std::collections::BTreeMap<String, String>) -> bool,
    ) -> Vec<&'w WorkloadEntry<'r>> {
        let all = self.by_namespace.get(namespace).map(Vec::as_slice).unwrap_or_default();
        all.iter().filter(|workload| fits(&workload.labels)).copied().collect()
    }
}

/// The endpoints of a ServiceEntry with a selector: those that its resolution can use.
fn fitting<'r>(
    entry: &ServiceEntry<'r>,
    selected: Vec<&WorkloadEntry<'r>>,
    diagnostics: &mut Diagnostics,
) -> Vec<Endpoint<'r>> {
    let mut endpoints = Vec::new();
    for workload in selected {
        let problem = match (&workload.endpoint.address, entry.resolution) {
            (None, _) | (_, Resolution::None | Resolution::DynamicDns) => continue, // reported where it stands
            (Some(EndpointAddress::Host(Host::Name(_))), Resolution::Static) => "STATIC resolves no names",
            (Some(EndpointAddress::Unix(_)), Resolution::Dns | Resolution::DnsRoundRobin) => {
                "DNS dials no unix sockets"
            }
            (Some(EndpointAddress::Unix(_)), _) if entry.ports.len() != 1 => "a unix socket serves exactly one port",
            (Some(_), Resolution::DnsRoundRobin) if !endpoints.is_empty() => "DNS_ROUND_ROBIN takes one endpoint only",
            (Some(_), _) => {
                endpoints.push(workload.endpoint.clone());
                continue;
            }
        };
        let message = format!("{} selects it and cannot use it: {problem}", entry.resource.label);
        report(workload.resource, Code::UnfitWorkload, workload.endpoint.span, message, diagnostics);
    }
    endpoints
}

fn declare<'r>(
    service: Service<'r>,
    lists: &[&Endpoints<'r>],
    workloads: &Workloads<'_, 'r>,
    diagnostics: &mut Diagnostics,
) -> ServiceEntry<'r> {
    let (provider, resolution, endpoints) = match &service.address {
        ServiceAddress::ExternalName(name) => {
            let host = Host::parse(name.value.as_bytes()).ok().map(EndpointAddress::Host);
            let endpoint = endpoint(service.resource, name.span, host, Vec::new());
            (Provider::ExternalName(name.clone()), Resolution::Dns, vec![endpoint])
        }
        address => {
            let headless = *address == ServiceAddress::Headless;
            (Provider::Kubernetes { headless }, Resolution::Static, addresses(&service, lists, workloads, diagnostics))
        }
    };
    let addresses = match &service.address {
        ServiceAddress::Cluster(ips) => ips.iter().map(|ip| ip.map(Into::into)).collect(),
        _ => Vec::new(),
    };
    ServiceEntry {
        resource: service.resource,
        origin: None,
        hosts: vec![service.host],
        addresses,
        ports: service.ports.into_iter().map(|port| port.port).collect(),
        resolution,
        endpoints,
        selector: None,
        provider,
        export_to: service.export_to,
        subject_alt_names: Vec::new(),
        annotations: service.annotations,
    }
}

/// The endpoints that the files give a Service; where they give none at all, its own address.
fn addresses<'r>(
    service: &Service<'r>,
    lists: &[&Endpoints<'r>],
    workloads: &Workloads<'_, 'r>,
    diagnostics: &mut Diagnostics,
) -> Vec<Endpoint<'r>> {
    let selected = match &service.selector {
        Some(selector) => workloads.select(&service.resource.metadata.namespace, |labels| selector.selects(labels)),
        None => Vec::new(),
    };
    if lists.is_empty() && selected.is_empty() {
        return own_address(service, diagnostics);
    }
    let mut endpoints = listed(service, lists, diagnostics);
    for workload in selected {
        let ports = service.ports.iter().map(|port| (port.port.name.clone(), workload_port(port, &workload.endpoint)));
        endpoints.push(Endpoint { ports: ports.collect(), ..workload.endpoint.clone() });
    }
    for port in service.ports.iter().filter(|port| port.port.protocol.is_some() && !endpoints.is_empty()) {
        if !endpoints.iter().any(|endpoint| endpoint.ports.iter().any(|(name, _)| *name == port.port.name)) {
            let Port { name, number, span, .. } = &port.port;
            let message =
                format!("none of the addresses has a port named {name:?}: flows to port {number} are answered 503");
            report(service.resource, Code::PortWithoutEndpoints, *span, message, diagnostics);
        }
    }
    endpoints
}

/// ISTIO 2.3 in Kubernetes' terms: the workload's port of that name, else the number.
fn workload_port(port: &ServicePort, endpoint: &Endpoint<'_>) -> u16 {
    let own = |name: &str| endpoint.ports.iter().find(|(own, _)| **own == *name).map(|(_, number)| *number);
    let (by_name, number) = match &port.target {
        Some(TargetPort::Name(name)) => (own(name), None),
        Some(TargetPort::Number(number)) => (None, Some(*number)),
        None => (None, None),
    };
    by_name.or_else(|| own(&port.port.name)).or(number).unwrap_or(port.port.number)
}

/// EndpointSlices count where there are any: Kubernetes mirrors Endpoints into them, and Istio reads nothing else today.
fn listed<'r>(service: &Service<'r>, lists: &[&Endpoints<'r>], diagnostics: &mut Diagnostics) -> Vec<Endpoint<'r>> {
    let is_slice = |list: &&&Endpoints<'_>| list.resource.kind == Kind::EndpointSlice;
    let has_slices = lists.iter().any(|list| is_slice(&list));
    let mut seen: HashSet<(IpAddr, &[NamedPort])> = HashSet::new();
    let mut endpoints = Vec::new();
    for list in lists {
        if has_slices && !is_slice(&list) {
            let message = "not used: EndpointSlices of the same Service are loaded, and count, as in Istio";
            report(list.resource, Code::EndpointsReplaced, list.service.span, message.to_owned(), diagnostics);
            continue;
        }
        for group in &list.groups {
            for address in &group.addresses {
                // One address may stand in two slices while it moves from one to the other.
                if (address.is_ready || service.publishes_not_ready) && seen.insert((address.ip, &group.ports)) {
                    let host = EndpointAddress::Host(Host::Ip(address.ip));
                    endpoints.push(endpoint(list.resource, address.span, Some(host), group.ports.clone()));
                }
            }
        }
    }
    endpoints
}

/// A cluster would lead from its own address on; here that is all there is to dial.
fn own_address<'r>(service: &Service<'r>, diagnostics: &mut Diagnostics) -> Vec<Endpoint<'r>> {
    if let ServiceAddress::Cluster(ips) = &service.address
        && let Some(Spanned { value: ip, span }) = ips.first()
    {
        let ports = service.ports.iter().map(|port| (port.port.name.clone(), port.port.number)).collect();
        return vec![endpoint(service.resource, *span, Some(EndpointAddress::Host(Host::Ip(*ip))), ports)];
    }
    if service.address == ServiceAddress::Wrong {
        return Vec::new();
    }
    let message = "neither EndpointSlice nor Endpoints nor a clusterIP says where it is: flows to it are answered 503";
    report(service.resource, Code::ServiceWithoutEndpoints, service.host.span, message.to_owned(), diagnostics);
    Vec::new()
}

fn endpoint(resource: &Resource, span: Span, address: Option<EndpointAddress>, ports: Vec<NamedPort>) -> Endpoint<'_> {
    Endpoint { resource, span, address, ports, labels: Vec::new(), weight: 1, locality: None }
}

fn report(resource: &Resource, code: Code, span: Span, message: String, diagnostics: &mut Diagnostics) {
    resource.context(diagnostics).report(code, span, message);
}
