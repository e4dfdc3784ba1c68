//! Through a parent proxy: to the parent, its TLS, CONNECT.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::time::timeout_at;

use super::bounds::expiry;
use super::connect::{self, Asking};
use super::endpoints::Lease;
use super::origination::{originate, sni};
use super::proxy_header;
use super::reach::no_endpoint;
use super::{DialError, Dialer, Reached, Way};
use crate::account::usage::Resource;
use crate::flow::{DialTrace, Host, Target};
use crate::http1::HeadLimits;
use crate::route::cluster::{Endpoint, EndpointAddress};
use crate::route::upstream_http::UpstreamVersion;
use crate::route::{Discovery, Hop};

impl Dialer {
    /// Connects through a parent: to the parent, its TLS, CONNECT.
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
        let on_the_way = |source| DialError::Hop { hop: name.clone(), source: Box::new(source) };
        let settings = self.settings.load_full();
        let asking = Asking {
            hop: &name,
            method: hop.method,
            via: settings.via.as_deref(),
            received_via,
            head: HeadLimits { bytes: settings.head_bytes, fields: HEAD_FIELDS_MAX },
        };
        let to_hop = Way { cluster: &hop.cluster, ..way };
        if hop.cluster.http.version == UpstreamVersion::Http2 {
            let reached = self.connect_http2(to_hop, hop, &asked, asking, trace).await?;
            return Ok(Reached { lease: reached.lease.or(lease), ..reached });
        }
        let request = connect::request(hop, &asked, asking).map_err(on_the_way)?;
        let Reached { stream, lease: hop_lease, .. } = self.reach_parent(to_hop, hop, false, trace).await?;
        let started = Instant::now();
        let until = way.deadline.min(started + way.cluster.connect_timeout);
        let tunnel = timeout_at(until.into(), connect::connect(stream, &request, &asked, asking)).await;
        trace.connect += started.elapsed();
        let stream = match tunnel {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                trace.hop_status = error.hop_status();
                return Err(match error {
                    DialError::HopRefused { hop: name, status: 407, reason, .. } => {
                        DialError::HopRefused { hop: name, status: 407, reason, about: hop.about_407().into() }
                    }
                    DialError::HopRefused { .. } | DialError::HopProtocol { .. } => error,
                    error => on_the_way(error),
                });
            }
            Err(_) => {
                let step = format!("{} {asked}", hop.method.as_str()).into();
                return Err(on_the_way(DialError::Timeout { step, after: until - started }));
            }
        };
        // The flow counts at the parent and at the endpoint asked for; the parent's count is the one that spreads load.
        Ok(Reached { stream, lease: hop_lease.or(lease), began: Instant::now() })
    }

    /// Connects to a parent: TCP and the TLS that it wants, to be asked in HTTP/2 if `http2`.
    pub(super) async fn reach_parent(
        &self,
        way: Way<'_>,
        hop: &Hop,
        http2: bool,
        trace: &mut DialTrace,
    ) -> Result<Reached, DialError> {
        let name = hop_name(hop);
        trace.hop = Some(name.clone());
        let on_the_way = |source| DialError::Hop { hop: name.clone(), source: Box::new(source) };
        let held = self.hold(way.cluster, Resource::Connections)?;
        let mut reached = match self.reach(way, trace).await {
            Ok(reached) => reached,
            Err(error) => return Err(on_the_way(error)),
        };
        if let Some(version) = way.cluster.proxy_protocol {
            Box::pin(proxy_header::send(&mut reached, version, way, trace)).await.map_err(on_the_way)?;
        }
        if let Some(tls) = &hop.cluster.tls {
            let name = sni(tls, hop_host(hop).unwrap_or(&way.target.host));
            reached.stream =
                originate(way, tls, &name, reached.stream, reached.began, http2, trace).await.map_err(on_the_way)?;
        }
        reached.lease.keep(held, expiry(way.cluster));
        Ok(reached)
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
                let picked = self.endpoints.of(way.cluster).pick(way.cluster.balancing, endpoints, &[]);
                let (index, lease) = picked.ok_or_else(|| no_endpoint(way.cluster))?;
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

/// The parent as written: its address where it has one, else the name of its cluster.
fn hop_name(hop: &Hop) -> Arc<str> {
    match &hop.cluster.discovery {
        Discovery::Dns { endpoints, .. } | Discovery::Static(endpoints) => match endpoints.as_slice() {
            [Endpoint { at: EndpointAddress::Host(host, port), .. }] => {
                Target { host: host.clone(), port: *port }.to_string().into()
            }
            [Endpoint { at: EndpointAddress::Unix(path), .. }] => path.display().to_string().into(),
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
