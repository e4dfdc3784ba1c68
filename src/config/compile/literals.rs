//! Which addresses name a service: its `addresses`, else the endpoints of a STATIC one (CONTRACT "resolution on explicit listeners").

use std::sync::Arc;

use super::services::Declared;
use crate::flow::Host;
use crate::route::cluster::{Discovery, Endpoint, EndpointAddress};
use crate::route::snapshot::View;
use crate::route::{Cluster, Service};

pub(super) fn add(view: &mut View, declared: &Declared<'_, '_>, service: &Arc<Service>) {
    for net in &declared.entry.addresses {
        if net.prefix_len() == net.max_prefix_len() {
            view.add_literal(net.addr(), service);
        } else {
            view.add_network(net.value, service);
        }
    }
    if declared.entry.is_named_by_endpoints() {
        add_endpoints(view, service);
    }
}

/// Whoever asks for one endpoint by its address gets that one.
fn add_endpoints(view: &mut View, service: &Arc<Service>) {
    let Discovery::Static(endpoints) = &service.cluster.discovery else { return };
    for endpoint in endpoints {
        let EndpointAddress::Host(Host::Ip(ip), _) = &endpoint.at else { continue };
        let service = if endpoints.len() == 1 { service.clone() } else { Arc::new(narrowed(service, endpoint)) };
        view.add_literal(*ip, &service);
    }
}

fn narrowed(service: &Service, endpoint: &Endpoint) -> Service {
    let discovery = Discovery::Static(vec![endpoint.clone()]);
    Service {
        host: service.host.clone(),
        port: service.port,
        protocol: service.protocol,
        origin: service.origin.clone(),
        hosts: service.hosts.clone(),
        cluster: Arc::new(Cluster { discovery, ..Cluster::clone(&service.cluster) }),
        consistency: service.consistency.clone(),
        routes: service.routes.clone(),
        policies: service.policies.clone(),
    }
}
