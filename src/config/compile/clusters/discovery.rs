//! Where the addresses of a cluster come from.

use std::path::Path;

use crate::config::compile::notes::Notes;
use crate::config::compile::services::Declared;
use crate::config::diagnostic::Code;
use crate::config::kinds::destination_rule::{Balancer, How, Subset};
use crate::config::kinds::service_entry::{self, Resolution, ServiceEntry};
use crate::flow::Host;
use crate::route::cluster::{Endpoint, EndpointAddress};
use crate::route::{Discovery, IpSet};

/// Where addresses come from (CONTRACT "resolution on explicit listeners"), and for each endpoint as what it was written.
pub(super) fn discovery<'e, 'r>(
    declared: &Declared<'e, 'r>,
    subset: Option<&Subset>,
    balancer: Option<&Balancer>,
    sockets: &[impl AsRef<Path>],
    notes: &mut Notes<'_>,
) -> (Discovery, Vec<&'e service_entry::Endpoint<'r>>) {
    let (entry, port) = (declared.entry, declared.port);
    let number = port.target_port.unwrap_or(port.number);
    let is_asked = matches!(entry.resolution, Resolution::None | Resolution::DynamicDns);
    if is_asked || balancer.is_some_and(|balancer| balancer.how == How::Asked) {
        return (Discovery::Asked { port: Some(number) }, Vec::new());
    }
    let chosen = |endpoint: &&service_entry::Endpoint<'r>| {
        subset.is_none_or(|subset| subset.labels.iter().all(|label| endpoint.labels.contains(label)))
    };
    let located = |endpoint: &'e service_entry::Endpoint<'r>| {
        let at = locate(endpoint, entry.endpoint_port(endpoint, port)?, sockets, notes)?;
        Some((Endpoint { at, weight: endpoint.weight }, endpoint))
    };
    let located = entry.endpoints.iter().filter(chosen).filter_map(located);
    let (mut endpoints, written): (Vec<Endpoint>, Vec<_>) = located.unzip();
    endpoints.shrink_to_fit(); // they stay as long as the generation
    if entry.resolution == Resolution::Static {
        return (Discovery::Static(endpoints), written);
    }
    if entry.endpoints.is_empty()
        && entry.selector.is_none()
        && subset.is_none_or(|subset| subset.labels.is_empty())
        && let Ok(host) = Host::of_resource(&declared.host)
    {
        endpoints = vec![Endpoint { at: EndpointAddress::Host(host, number), weight: 1 }];
    }
    if endpoints.is_empty() {
        return (Discovery::Static(endpoints), written);
    }
    let first_address_only = entry.resolution == Resolution::DnsRoundRobin;
    (Discovery::Dns { endpoints, first_address_only }, written)
}

fn locate(
    endpoint: &service_entry::Endpoint<'_>,
    port: u16,
    sockets: &[impl AsRef<Path>],
    notes: &mut Notes<'_>,
) -> Option<EndpointAddress> {
    match endpoint.address.as_ref()? {
        service_entry::EndpointAddress::Host(host) => Some(EndpointAddress::Host(host.clone(), port)),
        service_entry::EndpointAddress::Unix(path) => {
            let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
            if !climbs && sockets.iter().any(|folder| path.starts_with(folder)) {
                return Some(EndpointAddress::Unix(path.clone()));
            }
            let message = format!("{} lies under none of the folders of `files.sockets`", path.display());
            notes.once(endpoint.resource, Code::SocketNotAllowed, endpoint.span, message);
            None
        }
    }
}

/// What is dialled for a parent is the parent, whatever the client asked for: with NONE its address if it has one, else its name.
pub(super) fn parent_discovery(declared: &Declared<'_, '_>, discovery: Discovery) -> Discovery {
    let Discovery::Asked { port } = discovery else { return discovery };
    let port = port.unwrap_or(declared.port.number);
    let single = declared.entry.addresses.iter().filter(|net| net.prefix_len() == net.max_prefix_len());
    let endpoint = |host| Endpoint { at: EndpointAddress::Host(host, port), weight: 1 };
    let endpoints: Vec<Endpoint> = single.map(|net| endpoint(Host::Ip(net.addr().to_canonical()))).collect();
    if !endpoints.is_empty() {
        return Discovery::Static(endpoints);
    }
    match Host::of_resource(&declared.host) {
        Ok(host) => Discovery::Dns { endpoints: vec![endpoint(host)], first_address_only: false },
        Err(_) => Discovery::Missing(format!("{} is no name of a parent proxy", declared.host).into()),
    }
}

/// What the resource spells out: endpoints, `addresses` with NONE, and what its annotation opens (DESIGN 4.6).
pub(super) fn opened(entry: &ServiceEntry<'_>) -> IpSet {
    let endpoints = entry.endpoints.iter().filter_map(|endpoint| match endpoint.address {
        Some(service_entry::EndpointAddress::Host(Host::Ip(ip))) => Some(ip.into()),
        _ => None,
    });
    let addresses = entry.addresses.iter().map(|net| net.value).filter(|_| entry.resolution == Resolution::None);
    endpoints.chain(addresses).chain(entry.annotations.allow_addresses.iter().copied()).collect()
}
