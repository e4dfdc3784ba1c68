//! Further names of services: aliases by ExternalName, and the short names of Kubernetes services (ISTIO 3.3, 13).

use std::sync::Arc;

use super::clusters::Clusters;
use super::notes::Notes;
use super::routes::VirtualServices;
use super::services::Alias;
use crate::route::Service;
use crate::route::snapshot::View;

/// An alias has the ports of what it stands for, and where no VirtualService names it for HTTP, its routes.
pub(super) fn add_aliases<'a, 'e: 'a, 'r: 'e>(
    view: &mut View,
    aliases: impl Iterator<Item = &'a Alias<'e, 'r>>,
    virtual_services: &VirtualServices<'_, '_>,
    clusters: &mut Clusters<'_, '_, '_>,
    notes: &mut Notes<'_>,
) {
    for alias in aliases {
        let Some(ports) = view.ports_of(&alias.target).cloned() else { continue };
        for port in ports {
            let own = virtual_services.http_routes_of(&alias.host.value, &port, clusters, notes);
            view.add(&Arc::new(Service {
                host: alias.host.value.clone(),
                port: port.port,
                protocol: port.protocol,
                origin: alias.entry.origin(alias.host.span),
                hosts: [alias.host.value.clone()].into_iter().chain(port.hosts.iter().cloned()).collect(),
                consistency: port.consistency.clone(),
                cluster: port.cluster.clone(),
                routes: own.or_else(|| port.routes.clone()),
                policies: None,
            }));
        }
    }
}

/// `name.namespace` and `name.namespace.svc` of every service of the cluster, and `name` in the namespace itself. What declares such a
/// name in full has it.
pub(super) fn add_short(view: &mut View, namespace: &str, domain: &str) {
    let mut short: Vec<(Arc<str>, Arc<Service>)> = Vec::new();
    for service in view.services() {
        let Some((name, of, rest)) = split(&service.host, domain) else { continue };
        let mut add = |text: String| {
            if view.ports_of(&text).is_none() {
                short.push((text.into(), service.clone()));
            }
        };
        add(format!("{name}.{of}"));
        add(format!("{name}.{of}.{rest}"));
        if of == namespace {
            add(name.to_owned());
        }
    }
    for (name, service) in short {
        view.add_under(&name, &service);
    }
}

/// Name, namespace and `svc` of a host of the cluster; patterns have no short names.
fn split<'h>(host: &'h str, domain: &str) -> Option<(&'h str, &'h str, &'h str)> {
    let mut labels = host.strip_suffix(domain)?.strip_suffix('.')?.split('.');
    let (name, of, rest) = (labels.next()?, labels.next()?, labels.next()?);
    (labels.next().is_none() && rest == "svc" && !name.starts_with('*')).then_some((name, of, rest))
}
