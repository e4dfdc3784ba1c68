//! Routes of VirtualServices, compiled for one port of one service: destinations are clusters already, and what does not apply to the
//! port or the workload is left out.
//!
//! [`matching`] what a request has to look like · [`path`] the path as rules compare it · [`split`] one of several by weight ·
//! [`actions`] what is done beside sending on: [`changes`] of fields, [`redirect`], [`retries`], [`cors`].

pub mod actions;
pub mod changes;
pub mod cors;
pub mod matching;
pub mod path;
pub mod redirect;
pub mod retries;
pub mod split;

use std::sync::Arc;

use super::addresses::IpSet;
use super::cluster::Cluster;
use super::hosts;
use crate::flow::{Host, Origin};

pub use actions::Actions;
pub use matching::{Match, Subject};
pub use split::{Draw, Split};

/// Compiled routes of one service port. A kind of route without entries leaves the flow to the service itself.
#[derive(Debug, Default)]
pub struct Routes {
    /// `VirtualService default/api`, for `explain`.
    pub rule: Arc<str>,
    /// In order; the first that fits is taken, and none fits means 404.
    pub http: Vec<HttpRoute>,
    /// In order; the first that fits is taken, and none fits means refused.
    pub tls: Vec<TlsRoute>,
    /// In order; the first that fits is taken, and where none fits the service itself is.
    pub tcp: Vec<TcpRoute>,
}

/// A route by what a request looks like.
#[derive(Debug)]
pub struct HttpRoute {
    /// Where it stands in its VirtualService: `http[2]`.
    pub label: Box<str>,
    /// The route's own name for the log, or `default`.
    pub name: Arc<str>,
    /// Where the route stands.
    pub origin: Origin,
    /// One of them has to hold; none: every request fits.
    pub matches: Vec<Match>,
    /// Where to.
    pub to: Split<HttpTo>,
}

/// One destination of an http route.
#[derive(Clone, Debug)]
pub struct HttpTo {
    /// What to connect to; `None`: the route answers itself.
    pub cluster: Option<Arc<Cluster>>,
    /// What else is done; `None`: nothing.
    pub actions: Option<Arc<Actions>>,
}

/// What a route has done with the request that it took.
#[derive(Clone, Debug)]
pub struct Taken {
    /// What is done.
    pub actions: Arc<Actions>,
    /// How many bytes of the path a prefix took, for rewrites.
    pub matched_bytes: usize,
}

/// Where a route of bytes leads.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Where the route stands.
    pub origin: Origin,
    /// What to connect to.
    pub to: Split<Arc<Cluster>>,
}

/// A route by the name that TLS is asked for.
#[derive(Debug)]
pub struct TlsRoute {
    /// Names or wildcards, at least one.
    pub sni_hosts: Vec<Arc<str>>,
    /// `destinationSubnets`.
    pub subnets: Option<Subnets>,
    /// Where to.
    pub to: Destination,
}

/// A route by address.
#[derive(Debug)]
pub struct TcpRoute {
    /// `destinationSubnets`; `None`: all.
    pub subnets: Option<Subnets>,
    /// Where to.
    pub to: Destination,
}

/// `destinationSubnets`, against the address that was asked for; a name is that of the service, and has its addresses.
#[derive(Debug)]
pub struct Subnets {
    /// The networks.
    pub nets: IpSet,
    /// One of the service's own addresses lies in them, so that whoever asks for it by name is meant too.
    pub hold_service: bool,
}

/// The route that takes a request.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'r> {
    /// The route.
    pub route: &'r HttpRoute,
    /// Name for the log.
    pub name: &'r Arc<str>,
    /// How many bytes of the path a prefix took, for rewrites.
    pub matched_bytes: usize,
}

impl Routes {
    /// The first http route that takes the request, if one does; and whether the path had a say in that.
    pub fn choose<'r>(&'r self, subject: &Subject<'_>) -> (Option<Chosen<'r>>, bool) {
        let mut by_path = false;
        for route in &self.http {
            if route.matches.is_empty() {
                return (Some(Chosen { route, name: &route.name, matched_bytes: "/".len() }), by_path);
            }
            for held in &route.matches {
                let judged = held.judge(subject);
                by_path |= judged.by_path;
                if let Some(matched_bytes) = judged.matched_bytes {
                    return (Some(Chosen { route, name: &held.name, matched_bytes }), by_path);
                }
            }
        }
        (None, by_path)
    }

    /// The http route that takes every request, where it is the first.
    pub fn unconditional(&self) -> Option<&HttpRoute> {
        self.http.first().filter(|route| route.matches.is_empty() || route.matches.iter().any(Match::is_everything))
    }

    /// The tls route for a host asked for. A literal names nobody and takes the first route.
    pub fn tls(&self, host: &Host) -> Option<&Destination> {
        self.tls_route(host).map(|route| &route.to)
    }

    /// The same with its names.
    pub fn tls_route(&self, host: &Host) -> Option<&TlsRoute> {
        let named = |route: &TlsRoute| match host {
            Host::Name(name) => route.sni_hosts.iter().any(|pattern| hosts::covers(pattern, name.as_str())),
            Host::Ip(_) => true,
        };
        self.tls.iter().find(|route| named(route) && is_within(route.subnets.as_ref(), host))
    }

    /// The tcp route for a host asked for.
    pub fn tcp(&self, host: &Host) -> Option<&Destination> {
        self.tcp.iter().find(|route| is_within(route.subnets.as_ref(), host)).map(|route| &route.to)
    }

    /// Every cluster that one of the routes leads to.
    pub fn for_each_cluster(&self, look: &mut dyn FnMut(&Cluster)) {
        for (_, to) in self.http.iter().flat_map(|route| route.to.iter()) {
            to.cluster.iter().for_each(|cluster| look(cluster));
            let mirrors = to.actions.iter().flat_map(|actions| &actions.mirrors);
            mirrors.for_each(|mirror| look(&mirror.cluster));
        }
        let tls = self.tls.iter().map(|route| &route.to.to);
        let tcp = self.tcp.iter().map(|route| &route.to.to);
        tls.chain(tcp).flat_map(Split::iter).for_each(|(_, cluster)| look(cluster));
    }
}

fn is_within(subnets: Option<&Subnets>, host: &Host) -> bool {
    subnets.is_none_or(|subnets| match host.ip() {
        Some(ip) => subnets.nets.contains(ip),
        None => subnets.hold_service,
    })
}
