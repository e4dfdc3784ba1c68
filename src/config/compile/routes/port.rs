//! The routes of one port of one service: what does not apply to the port or the client's workload is left out, destinations become
//! clusters.

use std::sync::Arc;

use ipnet::IpNet;

use super::super::clusters::{Clusters, Place, Reference, Stands};
use super::super::notes::Notes;
use super::delegates::{Delegates, Flat};
use crate::config::kinds::virtual_service::{Action, Destination, VirtualService, Weighted};
use crate::config::source::Span;
use crate::flow::Workload;
use crate::route::cluster::{Origination, Sni};
use crate::route::http::actions::{Authority, Mirror};
use crate::route::http::retries::Retries;
use crate::route::http::{self, Actions, HttpTo, Routes, Split, Subnets};
use crate::route::{Cluster, Protocol};

/// A port of a service, as one workload asks for it.
#[derive(Clone, Copy)]
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
        self,
        service: &VirtualService<'_>,
        delegates: &Delegates<'_, '_>,
        clusters: &mut Clusters<'_, '_, '_>,
        notes: &mut Notes<'_>,
    ) -> Option<Arc<Routes>> {
        let (is_http, is_tls) = (self.protocol.is_http(), self.protocol == Protocol::Tls);
        let is_auto = self.protocol == Protocol::Auto;
        let mut made = Routes { rule: service.resource.label.clone(), ..Routes::default() };
        if is_http || is_auto {
            let flat = delegates.flatten(service, self, notes);
            made.http = flat.iter().filter_map(|flat| self.http(flat, clusters, notes)).collect();
        }
        let mut to = |of: &[Weighted], span: Span| {
            let several = of.len() > 1;
            let clusters =
                of.iter().map(|part| (part.weight, self.cluster(service, &part.to, several, clusters, notes)));
            Some(http::Destination { origin: service.resource.origin(span), to: Split::new(clusters)? })
        };
        if is_tls || is_auto {
            let tls = service.tls.iter().filter(|route| route.scope.includes(self.number, self.client));
            let tls = tls.filter_map(|route| {
                Some(http::TlsRoute {
                    sni_hosts: route.sni_hosts.iter().map(|host| host.value.clone()).collect(),
                    subnets: self.subnets(route.subnets.as_deref()),
                    to: to(&route.to, route.span)?,
                })
            });
            made.tls = tls.collect();
        }
        if !is_http && !is_tls {
            let tcp = service.tcp.iter().filter(|route| route.scope.includes(self.number, self.client));
            let tcp = tcp.filter_map(|route| {
                let subnets = self.subnets(route.subnets.as_deref());
                Some(http::TcpRoute { subnets, to: to(&route.to, route.span)? })
            });
            made.tcp = tcp.collect();
        }
        (!made.http.is_empty() || !made.tls.is_empty() || !made.tcp.is_empty()).then(|| Arc::new(made))
    }

    fn subnets(self, nets: Option<&[IpNet]>) -> Option<Subnets> {
        let nets = nets?;
        let is_single = |net: &&IpNet| net.prefix_len() == net.max_prefix_len();
        let mut own = self.addresses.iter().filter(is_single);
        let hold_service = own.any(|own| nets.iter().any(|net| net.contains(own)));
        Some(Subnets { nets: nets.iter().copied().collect(), hold_service })
    }

    fn http(
        self,
        flat: &Flat<'_, '_>,
        clusters: &mut Clusters<'_, '_, '_>,
        notes: &mut Notes<'_>,
    ) -> Option<http::HttpRoute> {
        let to = match &flat.route.action {
            Action::Forward(parts) => {
                let parts = parts.iter().map(|part| (part.weight, self.http_to(flat, part, clusters, notes)));
                Split::new(parts.collect::<Vec<_>>())?
            }
            Action::Answer(answer) => {
                let actions = Actions { answer: Some(answer.clone()), ..self.actions(flat, None, clusters, notes) };
                Split::one(HttpTo { cluster: None, actions: Some(Arc::new(actions)) })
            }
            // Its delegate is missing, which was said; other routes must not take over what was meant for it.
            Action::Delegate(delegate) => {
                let name = format!("{}/{}", delegate.namespace, delegate.name);
                let sentence = format!("there is no VirtualService {name} to delegate to");
                Split::one(HttpTo { cluster: Some(clusters.nowhere(&name, self.number, &sentence)), actions: None })
            }
        };
        Some(http::HttpRoute {
            label: flat.label.clone(),
            name: flat.name.clone(),
            origin: flat.service.resource.origin(flat.route.span),
            matches: flat.matches.clone(),
            to,
        })
    }

    fn http_to(
        self,
        flat: &Flat<'_, '_>,
        part: &Weighted,
        clusters: &mut Clusters<'_, '_, '_>,
        notes: &mut Notes<'_>,
    ) -> HttpTo {
        let actions = self.actions(flat, Some(part), clusters, notes);
        let cluster = self.cluster(flat.service, &part.to, false, clusters, notes);
        let cluster = match &actions.authority {
            Some(authority) => asked_as(cluster, authority),
            None => cluster,
        };
        HttpTo { cluster: Some(cluster), actions: (!actions.is_empty()).then(|| Arc::new(actions)) }
    }

    /// What the route says counts, then what its root says; the fields of a destination are changed after the route's.
    fn actions(
        self,
        flat: &Flat<'_, '_>,
        part: Option<&Weighted>,
        clusters: &mut Clusters<'_, '_, '_>,
        notes: &mut Notes<'_>,
    ) -> Actions {
        let said = |is_said: fn(&crate::config::kinds::virtual_service::actions::Actions) -> bool| {
            let own = &flat.route.actions;
            match flat.root {
                Some(root) if !is_said(own) => &root.actions,
                _ => own,
            }
        };
        let headers = &said(|actions| {
            !actions.headers.request.is_empty() || !actions.headers.response.is_empty() || actions.authority.is_some()
        })
        .headers;
        let of_part = part.map(|part| &part.headers);
        let changes = |of: fn(&crate::config::kinds::virtual_service::actions::Headers) -> &http::changes::Changes| {
            of_part.map_or_else(|| of(headers).clone(), |part| of(headers).then(of(part)))
        };
        let rewriting = said(|actions| actions.rewrite.is_some() || actions.authority.is_some());
        let authority = of_part.and_then(|part| part.authority.as_ref()).map(|set| set.value.clone());
        let mirrors = said(|actions| !actions.mirrors.is_empty()).mirrors.iter().map(|mirror| Mirror {
            cluster: {
                let cluster = self.cluster(flat.service, &mirror.to, false, clusters, notes);
                clusters.led_by_lists(cluster, &mirror.to.host.value, mirror.to.port.unwrap_or(self.number))
            },
            share: mirror.share,
        });
        Actions {
            answer: None,
            rewrite: rewriting.rewrite.clone(),
            authority: authority.or_else(|| rewriting.authority.clone()),
            request: changes(|headers| &headers.request),
            response: changes(|headers| &headers.response),
            timeout: said(|actions| actions.timeout.is_some()).timeout,
            retries: {
                let said = said(|actions| actions.retries.is_some()).retries.clone();
                said.map(|retries| retries.unwrap_or_else(Retries::never))
            },
            fault: said(|actions| actions.fault.is_some()).fault.clone(),
            cors: said(|actions| actions.cors.is_some()).cors.clone(),
            mirrors: mirrors.collect(),
        }
    }

    /// The port of a destination: explicit, else the service's only one, else the one asked for.
    fn cluster(
        self,
        service: &VirtualService<'_>,
        destination: &Destination,
        is_one_of_several: bool,
        clusters: &mut Clusters<'_, '_, '_>,
        notes: &mut Notes<'_>,
    ) -> Arc<Cluster> {
        let host = &destination.host;
        let port = destination.port.unwrap_or_else(|| match clusters.registry().ports(&host.value).as_slice() {
            [only] => only.port.number,
            _ => self.number,
        });
        let subset = destination.subset.as_ref();
        let subset_name = subset.map(|subset| subset.value.clone());
        let place = Place { host: host.value.clone(), port, subset: subset_name, is_one_of_several };
        let reference = Reference {
            stands: Stands::In(service.resource),
            host: host.span,
            subset: subset.map_or(host.span, |subset| subset.span),
        };
        clusters.of_route(&place, reference, notes)
    }
}

/// TLS goes to the host that the request names after it was rewritten (ISTIO 7, auto SNI).
fn asked_as(cluster: Arc<Cluster>, authority: &Authority) -> Arc<Cluster> {
    match (&cluster.tls, authority.target.host.name()) {
        (Some(tls), Some(name)) if tls.sni == Sni::Asked => {
            let tls = Origination { sni: Sni::Fixed(name.clone()), ..Origination::clone(tls) };
            Arc::new(Cluster { tls: Some(Arc::new(tls)), ..Cluster::clone(&cluster) })
        }
        _ => cluster,
    }
}
