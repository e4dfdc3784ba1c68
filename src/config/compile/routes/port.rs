//! The routes of one port of one service: what does not apply to the port or the client's workload is left out, destinations become
//! clusters.

use std::sync::Arc;

use ipnet::IpNet;

use super::super::clusters::{Clusters, Place, Reference};
use super::super::notes::Notes;
use crate::config::kinds::virtual_service::matching::HttpMatch;
use crate::config::kinds::virtual_service::{Destination, HttpRoute, VirtualService, Weighted};
use crate::config::source::Span;
use crate::flow::Workload;
use crate::route::http::{self, Match, Routes, Split, Subnets};
use crate::route::{Cluster, Protocol};

/// A port of a service, as one workload asks for it.
pub(super) struct Port<'a> {
    pub(super) number: u16,
    pub(super) protocol: Protocol,
    /// The service's own addresses.
    pub(super) addresses: &'a [IpNet],
    pub(super) client: &'a Workload,
}

impl Port<'_> {
    /// The routes that apply; `None` where the service itself is to be taken.
    pub(super) fn routes(
        &self,
        service: &VirtualService<'_>,
        clusters: &mut Clusters<'_, '_, '_>,
        notes: &mut Notes<'_>,
    ) -> Option<Arc<Routes>> {
        let (is_http, is_tls) = (self.protocol.is_http(), self.protocol == Protocol::Tls);
        let is_auto = self.protocol == Protocol::Auto;
        let mut made = Routes { rule: service.resource.label.clone(), ..Routes::default() };
        let mut to = |of: &[Weighted], is_tcp: bool| self.split(of, service, is_tcp, clusters, notes);
        if is_http || is_auto {
            let http = service.http.iter().filter_map(|route| {
                let matches = self.matches(route)?;
                Some(http::HttpRoute {
                    label: format!("http[{}]", route.index).into(),
                    name: route.name.as_deref().unwrap_or(DEFAULT).into(),
                    origin: service.resource.origin(route.span),
                    matches,
                    to: to(&route.to, false)?,
                })
            });
            made.http = http.collect();
        }
        let destination =
            |span: Span, to: Split<Arc<Cluster>>| http::Destination { origin: service.resource.origin(span), to };
        if is_tls || is_auto {
            let tls = service.tls.iter().filter(|route| route.scope.includes(self.number, self.client));
            let tls = tls.filter_map(|route| {
                Some(http::TlsRoute {
                    sni_hosts: route.sni_hosts.iter().map(|host| host.value.clone()).collect(),
                    subnets: self.subnets(route.subnets.as_deref()),
                    to: destination(route.span, to(&route.to, true)?),
                })
            });
            made.tls = tls.collect();
        }
        if !is_http && !is_tls {
            let tcp = service.tcp.iter().filter(|route| route.scope.includes(self.number, self.client));
            let tcp = tcp.filter_map(|route| {
                Some(http::TcpRoute {
                    subnets: self.subnets(route.subnets.as_deref()),
                    to: destination(route.span, to(&route.to, true)?),
                })
            });
            made.tcp = tcp.collect();
        }
        (!made.http.is_empty() || !made.tls.is_empty() || !made.tcp.is_empty()).then(|| Arc::new(made))
    }

    /// `None`: the route is for others. An empty list takes every request.
    fn matches(&self, route: &HttpRoute) -> Option<Vec<Match>> {
        if !route.is_in_mesh() {
            return None;
        }
        let matches = route.matches.iter().filter(|found| found.scope.includes(self.number, self.client));
        let matches: Vec<Match> = matches.map(|found| compiled(route, found)).collect();
        (route.takes_all || !matches.is_empty()).then_some(matches)
    }

    fn subnets(&self, nets: Option<&[IpNet]>) -> Option<Subnets> {
        let nets = nets?;
        let is_single = |net: &&IpNet| net.prefix_len() == net.max_prefix_len();
        let mut own = self.addresses.iter().filter(is_single);
        let hold_service = own.any(|own| nets.iter().any(|net| net.contains(own)));
        Some(Subnets { nets: nets.iter().copied().collect(), hold_service })
    }

    fn split(
        &self,
        weighted: &[Weighted],
        service: &VirtualService<'_>,
        is_tcp: bool,
        clusters: &mut Clusters<'_, '_, '_>,
        notes: &mut Notes<'_>,
    ) -> Option<Split<Arc<Cluster>>> {
        Split::new(weighted.iter().map(|part| {
            let cluster = cluster(service, &part.to, self.number, is_tcp, clusters, notes);
            (part.weight, cluster)
        }))
    }
}

/// The name for the log is that of the route, and of the match behind a dot, as Istio writes it.
fn compiled(route: &HttpRoute, found: &HttpMatch) -> Match {
    let name = match (route.name.as_deref().filter(|name| !name.is_empty()), found.name.as_deref()) {
        (Some(route), Some(found)) if !found.is_empty() => format!("{route}.{found}").into(),
        (route, _) => route.unwrap_or(DEFAULT).into(),
    };
    Match { name, others: found.others.clone(), path: found.path.clone() }
}

/// The port of a destination: explicit, else the service's only one, else the one asked for.
fn cluster(
    service: &VirtualService<'_>,
    destination: &Destination,
    asked: u16,
    is_tcp: bool,
    clusters: &mut Clusters<'_, '_, '_>,
    notes: &mut Notes<'_>,
) -> Arc<Cluster> {
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

const DEFAULT: &str = "default"; // Istio's name of a route without one
