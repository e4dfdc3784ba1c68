//! Through a parent proxy: to the parent, its TLS, and the tunnel that it is asked for. Where there are several, another one is asked
//! as long as nothing of the client was sent; what none of them gives is not had in another way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::time::timeout_at;

use super::bounds::expiry;
use super::connect::{self, Asking};
use super::endpoints::{Lease, Nobody, PickBy};
use super::origination::{originate, sni};
use super::proxy_header;
use super::reach::nobody_of;
use super::{DialError, Dialer, Reached, Way};
use crate::account::usage::Resource;
use crate::flow::{DialTrace, Host, Target};
use crate::http1::HeadLimits;
use crate::route::cluster::{Endpoint, EndpointAddress};
use crate::route::upstream_http::UpstreamVersion;
use crate::route::{Cluster, Discovery, Hop};

/// The tunnel that a parent is asked for.
#[derive(Clone, Copy)]
struct Tunnel<'a> {
    asked: &'a Target,
    /// Written already, so that a parent that cannot be asked is not dialled; of no use over HTTP/2.
    request: &'a [u8],
    /// Under the name of the parent's cluster.
    asking: Asking<'a>,
    /// Counts as nobody's connection.
    is_probe: bool,
    /// The cluster that goes through the parent: its connect timeout bounds the answer, as it would bound the connection.
    cluster: &'a Cluster,
}

impl Dialer {
    /// Connects through a parent: to the parent, its TLS, and the tunnel.
    pub(super) async fn through(
        &self,
        way: Way<'_>,
        hop: &Hop,
        received_via: Option<&str>,
        trace: &mut DialTrace,
    ) -> Result<Reached, DialError> {
        let (asked, lease) = self.asked_of(way, hop)?;
        let name = hop_name(hop);
        trace.hop = Some(name.clone()); // also where it is not reached
        let settings = self.settings.load_full();
        let asking = Asking {
            hop: &name,
            method: hop.method,
            via: settings.via.as_deref(),
            received_via,
            head: HeadLimits { bytes: settings.head_bytes, fields: HEAD_FIELDS_MAX },
        };
        let request = connect::request(hop, &asked, asking)
            .map_err(|source| DialError::Hop { hop: name.clone(), source: Box::new(source) })?;
        let tunnel = Tunnel { asked: &asked, request: &request, asking, is_probe: false, cluster: way.cluster };
        let to_hop = Way { cluster: &hop.cluster, ..way };
        let reached = self.one_of_parents(to_hop, hop, Some(tunnel), false, trace).await?;
        // The flow counts at the parent and at the endpoint asked for; the parent's count is the one that spreads load.
        Ok(Reached { lease: reached.lease.or(lease), began: Instant::now(), ..reached })
    }

    /// Connects to a parent: TCP and the TLS that it wants, to be asked in HTTP/2 if `http2`.
    pub(super) async fn reach_parent(
        &self,
        way: Way<'_>,
        hop: &Hop,
        http2: bool,
        trace: &mut DialTrace,
    ) -> Result<Reached, DialError> {
        self.one_of_parents(way, hop, None, http2, trace).await
    }

    /// Asks one of a parent's endpoints whether it gives the tunnel of a probe, which is closed at once.
    ///
    /// # Errors
    /// Why it does not, in one line for the operator.
    pub async fn probe(&self, hop: &Hop, index: usize, target: &Target, deadline: Instant) -> Result<(), Box<str>> {
        let (settings, name) = (self.settings.load_full(), hop_name(hop));
        let head = HeadLimits { bytes: settings.head_bytes, fields: HEAD_FIELDS_MAX };
        let via = settings.via.as_deref();
        let asking = Asking { hop: &name, method: hop.method, via, received_via: None, head };
        let request = connect::request(hop, target, asking).map_err(|error| error.reason())?;
        let tunnel = Tunnel { asked: target, request: &request, asking, is_probe: true, cluster: &hop.cluster };
        let way = Way { cluster: &hop.cluster, target, client: None, deadline, by: &PickBy::NOTHING };
        let endpoint = hop.cluster.endpoints().get(index);
        let asked = self.ask_parent(way, hop, endpoint, Some(tunnel), false, &mut DialTrace::default()).await;
        asked.map(drop).map_err(|error| error.reason().into())
    }

    /// Asks parents, by the balancing of their cluster, until one gives what is asked for. One that probes found to be down is asked only
    /// where no other is left.
    async fn one_of_parents(
        &self,
        way: Way<'_>,
        hop: &Hop,
        tunnel: Option<Tunnel<'_>>,
        http2: bool,
        trace: &mut DialTrace,
    ) -> Result<Reached, DialError> {
        let endpoints = hop.cluster.endpoints();
        if endpoints.len() < 2 {
            return self.ask_parent(way, hop, None, tunnel, http2, trace).await;
        }
        let state = self.endpoints.of(way.cluster);
        let down = self.parents_down(hop);
        let (mut tried, mut failed) = (Vec::with_capacity(PARENTS_TRIED_MAX), None::<DialError>);
        while tried.len() < PARENTS_TRIED_MAX {
            let left_out: Vec<usize> = tried.iter().chain(&down).copied().collect();
            let pick = |left_out: &[usize]| state.pick(way.cluster, endpoints, *way.by, left_out);
            let (index, lease) = match pick(&left_out).or_else(|_| pick(&tried)) {
                Ok(picked) => picked,
                Err(nobody) => return Err(failed.unwrap_or_else(|| nobody_of(way.cluster, nobody))),
            };
            tried.push(index);
            match self.ask_parent(way, hop, Some(&endpoints[index]), tunnel, http2, trace).await {
                Ok(reached) => {
                    trace.hop_status = None; // another one's
                    return Ok(Reached { lease: lease.or(reached.lease), ..reached });
                }
                Err(error) if error.is_of_one_parent() && Instant::now() < way.deadline => {
                    tracing::debug!(parent = %endpoints[index].at, error = error.reason(), "another parent is asked");
                    failed = Some(match failed {
                        Some(kept) if kept.weight() >= error.weight() => kept,
                        _ => error,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or_else(|| nobody_of(way.cluster, Nobody::Left)))
    }

    /// Asks one parent; `endpoint` where it has several.
    async fn ask_parent(
        &self,
        way: Way<'_>,
        hop: &Hop,
        endpoint: Option<&Endpoint>,
        tunnel: Option<Tunnel<'_>>,
        http2: bool,
        trace: &mut DialTrace,
    ) -> Result<Reached, DialError> {
        let name = match (endpoint, &tunnel) {
            (Some(endpoint), _) => endpoint.at.to_string().into(),
            (None, Some(tunnel)) => tunnel.asking.hop.clone(),
            (None, None) => hop_name(hop),
        };
        trace.hop = Some(name.clone());
        if let Some(Tunnel { asked, asking, .. }) = tunnel
            && hop.cluster.http.version == UpstreamVersion::Http2
        {
            let asking = Asking { hop: &name, ..asking };
            // Connections are shared by what leads to the same place, so each of several has a plan of its own.
            let alone = endpoint.map(|endpoint| at_endpoint(hop, endpoint));
            let hop = alone.as_ref().unwrap_or(hop);
            let way = Way { cluster: &hop.cluster, ..way };
            return Box::pin(self.connect_http2(way, hop, asked, asking, trace)).await;
        }
        let on_the_way = |source| DialError::Hop { hop: name.clone(), source: Box::new(source) };
        let is_probe = tunnel.is_some_and(|tunnel| tunnel.is_probe);
        let held = if is_probe { None } else { self.hold(way.cluster, Resource::Connections)? };
        let reached = match endpoint {
            Some(endpoint) => self.reach_endpoint(way, endpoint, trace).await,
            None => self.reach(way, trace).await,
        };
        let mut reached = reached.map_err(on_the_way)?;
        if let Some(version) = way.cluster.proxy_protocol() {
            Box::pin(proxy_header::send(&mut reached, version, way, trace)).await.map_err(on_the_way)?;
        }
        if let Some(tls) = &hop.cluster.tls {
            let name = sni(tls, hop_host(hop).unwrap_or(&way.target.host));
            reached.stream =
                originate(way, tls, &name, reached.stream, reached.began, http2, trace).await.map_err(on_the_way)?;
        }
        reached.lease.keep(held, expiry(way.cluster));
        let Some(tunnel) = tunnel else { return Ok(reached) };
        let asking = Asking { hop: &name, ..tunnel.asking };
        let started = Instant::now();
        let until = way.deadline.min(started + tunnel.cluster.connect_timeout);
        let asked = connect::connect(reached.stream, tunnel.request, tunnel.asked, asking);
        let answered = timeout_at(until.into(), asked).await;
        trace.connect += started.elapsed();
        match answered {
            Ok(Ok(stream)) => Ok(Reached { stream, ..reached }),
            Ok(Err(error)) => {
                trace.hop_status = error.hop_status();
                Err(match error {
                    DialError::HopRefused { hop: name, status: 407, reason, .. } => {
                        DialError::HopRefused { hop: name, status: 407, reason, about: hop.about_407().into() }
                    }
                    DialError::HopRefused { .. } | DialError::HopProtocol { .. } => error,
                    error => on_the_way(error),
                })
            }
            Err(_) => {
                let step = format!("{} {}", tunnel.asking.method.as_str(), tunnel.asked).into();
                Err(on_the_way(DialError::Timeout { step, after: until - started }))
            }
        }
    }

    /// What the parent is asked for: the rule's own target, else an endpoint of the cluster, else what the client asked for. A name
    /// is the parent's to resolve; a literal is judged here.
    fn asked_of(&self, way: Way<'_>, hop: &Hop) -> Result<(Target, Lease), DialError> {
        if let Some(target) = &hop.target {
            return Ok((target.clone(), Lease::default()));
        }
        let (host, port, spelled, lease) = match &way.cluster.discovery {
            Discovery::Asked { port } => (&way.target.host, port.unwrap_or(way.target.port), false, Lease::default()),
            Discovery::Dns { endpoints, .. } | Discovery::Static(endpoints) => {
                let picked = self.endpoints.of(way.cluster).pick(way.cluster, endpoints, *way.by, &[]);
                let (index, lease) = picked.map_err(|nobody| nobody_of(way.cluster, nobody))?;
                match &endpoints[index].at {
                    EndpointAddress::Host(host, port) => (host, *port, true, lease),
                    EndpointAddress::Unix(path) => {
                        let reason = format!("{} cannot be reached through a parent proxy", path.display());
                        return Err(DialError::Configuration(reason.into()));
                    }
                }
            }
            Discovery::Missing(reason) => return Err(DialError::Configuration(reason.clone())),
        };
        if let Host::Ip(ip) = host {
            self.judge(way.cluster, SocketAddr::new(*ip, port), spelled)?;
        }
        Ok((Target { host: host.clone(), port }, lease))
    }
}

/// One of several parents, as if it were the only one.
fn at_endpoint(hop: &Hop, endpoint: &Endpoint) -> Hop {
    let endpoints = vec![endpoint.clone()];
    let discovery = match &hop.cluster.discovery {
        Discovery::Dns { first_address_only, .. } => {
            Discovery::Dns { endpoints, first_address_only: *first_address_only }
        }
        _ => Discovery::Static(endpoints),
    };
    Hop { cluster: Arc::new(Cluster { discovery, ..Cluster::clone(&hop.cluster) }), ..hop.clone() }
}

/// The parent as written: its address where it has one, else the name of its cluster.
fn hop_name(hop: &Hop) -> Arc<str> {
    match &hop.cluster.discovery {
        Discovery::Dns { endpoints, .. } | Discovery::Static(endpoints) => match endpoints.as_slice() {
            [only] => only.at.to_string().into(),
            _ => hop.cluster.name.clone(),
        },
        Discovery::Asked { .. } | Discovery::Missing(_) => hop.cluster.name.clone(),
    }
}

fn hop_host(hop: &Hop) -> Option<&Host> {
    match &hop.cluster.discovery {
        Discovery::Dns { endpoints, .. } | Discovery::Static(endpoints) => match endpoints.first()?.at {
            EndpointAddress::Host(ref host, _) => Some(host),
            EndpointAddress::Unix(_) => None,
        },
        Discovery::Asked { .. } | Discovery::Missing(_) => None,
    }
}

const HEAD_FIELDS_MAX: usize = 100; // of a parent's answer, as `limits.headFields` by default
const PARENTS_TRIED_MAX: usize = 5; // for one flow: the client waits
