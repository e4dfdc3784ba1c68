//! Routes of VirtualServices, compiled for one port of one service: destinations are clusters already.

use std::net::IpAddr;
use std::sync::Arc;

use super::addresses::IpSet;
use super::cluster::Cluster;
use super::hosts;
use crate::flow::{Host, Origin};

/// Compiled routes of one service port. A kind of route without entries leaves the flow to the service itself.
#[derive(Debug, Default)]
pub struct Routes {
    /// `VirtualService default/api`, for `explain`.
    pub rule: Arc<str>,
    /// The first http route that applies to the port; matching on more than the port is refused when compiled.
    pub http: Option<Destination>,
    /// In order; the first that fits is taken, and none fits means refused.
    pub tls: Vec<TlsRoute>,
    /// In order; the first that fits is taken, and where none fits the service itself is.
    pub tcp: Vec<TcpRoute>,
}

/// Where a route leads.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The route's own name for the log, or `default`.
    pub name: Arc<str>,
    /// Where the route stands.
    pub origin: Origin,
    /// What to connect to.
    pub cluster: Arc<Cluster>,
}

/// A route by the name that TLS is asked for.
#[derive(Debug)]
pub struct TlsRoute {
    /// Names or wildcards, at least one.
    pub sni_hosts: Vec<Arc<str>>,
    /// Where to.
    pub to: Destination,
}

/// A route by address.
#[derive(Debug)]
pub struct TcpRoute {
    /// `destinationSubnets`, against the literal asked for; `None`: all.
    pub subnets: Option<IpSet>,
    /// Where to.
    pub to: Destination,
}

impl Routes {
    /// The tls route for a host asked for. A literal names nobody and takes the first route.
    pub fn tls(&self, host: &Host) -> Option<&Destination> {
        self.tls_route(host).map(|route| &route.to)
    }

    /// The same with its names.
    pub fn tls_route(&self, host: &Host) -> Option<&TlsRoute> {
        let fits = |route: &&TlsRoute| match host {
            Host::Name(name) => route.sni_hosts.iter().any(|pattern| hosts::covers(pattern, name.as_str())),
            Host::Ip(_) => true,
        };
        self.tls.iter().find(fits)
    }

    /// Every cluster that one of the routes leads to.
    pub fn for_each_cluster(&self, look: &mut dyn FnMut(&Cluster)) {
        let tls = self.tls.iter().map(|route| &route.to);
        let tcp = self.tcp.iter().map(|route| &route.to);
        self.http.iter().chain(tls).chain(tcp).for_each(|to| look(&to.cluster));
    }

    /// The tcp route for a host asked for; subnets cover literals only.
    pub fn tcp(&self, host: &Host) -> Option<&Destination> {
        let fits = |ip: Option<IpAddr>, subnets: &IpSet| ip.is_some_and(|ip| subnets.contains(ip));
        let covers = |route: &&TcpRoute| route.subnets.as_ref().is_none_or(|subnets| fits(host.ip(), subnets));
        self.tcp.iter().find(covers).map(|route| &route.to)
    }
}
