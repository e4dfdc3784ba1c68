//! HTTP/2 outwards (RFC 9113): connections that many flows share. [`Dialer::http2`] gives a flow a stream of one, and dials where none
//! has room; [`connect`] asks a parent for a tunnel that way.
//!
//! The `h2` crate frames and keeps the protocol's rules; what an upstream may make us hold is bounded in [`connection`].

mod connect;
mod connection;
mod connections;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::Request;
use socket2::SockRef;
use tokio::time::timeout_at;

use self::connection::StreamGuard;
use self::connections::Claim;
use super::bounds::expiry;
use super::endpoints::Lease;
use super::origination::{originate, sni};
use super::pool::PoolKey;
use super::{Asker, DialError, Dialer, PickBy, Reached, Way, nothing_is_missing, proxy_header};
use crate::account::usage::Resource;
use crate::flow::{DialTrace, Target};
use crate::route::balancing::outliers::Event;
use crate::route::{Cluster, Hop, Via};
use crate::stream::http2::Hold;

pub(super) use self::connections::Connections;

/// Room for one request on a connection of HTTP/2. Dropping it gives the room back.
#[derive(Debug)]
pub struct Http2Upstream {
    send: SendRequest<Bytes>,
    guard: StreamGuard,
    lease: Lease,
    /// The connection has served others before.
    pub reused: bool,
}

/// A request that was handed to its connection.
#[derive(Debug)]
pub struct Http2Sent {
    /// Its answer.
    pub response: ResponseFuture,
    /// Where its body goes.
    pub body: SendStream<Bytes>,
    /// Counts it at its connection, for as long as the stream lives.
    pub hold: Hold,
    /// Counts the flow at its endpoint.
    pub lease: Lease,
}

/// Which way a connection is made.
#[derive(Clone, Copy, Debug)]
enum Lead<'a> {
    /// The cluster's own; `Via` goes on to a parent.
    Cluster(Option<&'a str>),
    /// To a parent, which is asked for whole URLs there.
    Parent(&'a Hop),
    /// To a parent, which is asked for a tunnel there: a part of a dial that is counted.
    Tunnel(&'a Hop),
}

impl Dialer {
    /// A stream to `cluster`, on a connection that stands or on a new one. The limits are those of [`Dialer::dial`].
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn http2(
        &self,
        cluster: &Arc<Cluster>,
        target: &Target,
        asker: Asker<'_>,
        deadline: Instant,
        trace: &mut DialTrace,
    ) -> Result<Http2Upstream, DialError> {
        self.stream_of(asker.way(cluster, target, deadline), Lead::Cluster(asker.received_via), trace).await
    }

    /// The same to the parent itself, which is to be asked for whole URLs; see [`Dialer::dial_parent`].
    ///
    /// # Errors
    /// [`DialError::Hop`] for all that fails on the way.
    pub async fn http2_parent(
        &self,
        hop: &Hop,
        target: &Target,
        asker: Asker<'_>,
        deadline: Instant,
        trace: &mut DialTrace,
    ) -> Result<Http2Upstream, DialError> {
        let way = asker.way(&hop.cluster, target, deadline);
        self.stream_of(way, Lead::Parent(hop), trace).await
    }

    /// The same for a tunnel through the parent: a part of a dial that is counted already.
    async fn http2_tunnel(&self, hop: &Hop, way: Way<'_>, trace: &mut DialTrace) -> Result<Http2Upstream, DialError> {
        self.stream_of(way, Lead::Tunnel(hop), trace).await
    }

    async fn stream_of(&self, way: Way<'_>, lead: Lead<'_>, trace: &mut DialTrace) -> Result<Http2Upstream, DialError> {
        let chosen = self.choose(way.cluster, *way.by)?;
        let by = PickBy { chosen: chosen.as_ref(), ..*way.by };
        let way = Way { by: &by, ..way };
        let key = PoolKey::new(way.cluster, way.target, way.client, chosen);
        let mut joins = true; // once: who found no room on what others dialled dials for itself
        let count = || if let Lead::Tunnel(_) = lead { Ok(None) } else { self.enter().map(Some) };
        let dialling = loop {
            match self.http2.claim(&key, joins) {
                Claim::Stream(upstream) => {
                    upstream.guard.connection().retrace(trace);
                    return Ok(upstream);
                }
                Claim::Wait(settled) => {
                    joins = false;
                    let _pending = count()?;
                    // Whatever came of it, the table is asked again; the time is that of this flow's own dial.
                    let _ = timeout_at(way.deadline.into(), settled).await;
                }
                Claim::Dial(dialling) => break dialling,
            }
        };
        let _pending = count()?;
        let Reached { stream, lease, began } = self.reach_http2(way, lead, trace).await?;
        trace.local = stream.local_addr().or(trace.local);
        if let Some(tcp) = stream.transport() {
            let _ = SockRef::from(tcp).set_tcp_user_timeout(Some(self.tcp_user_timeout()));
        }
        let until = way.deadline.min(began + way.cluster.connect_timeout);
        let settings = self.settings.load_full();
        let bounds = connection::Bounds::new(way.cluster, &settings);
        let shaken = timeout_at(until.into(), connection::shake_hands(stream, &bounds)).await;
        let (send, io) = match shaken {
            Ok(Ok(shaken)) => shaken,
            Ok(Err(error)) => return Err(lost(&error, way.target)),
            Err(_) => {
                let after = until.saturating_duration_since(began);
                return Err(DialError::Timeout { step: format!("HTTP/2 with {}", way.target).into(), after });
            }
        };
        let facts = connection::Facts {
            lease: lease.park_unused(),
            peer: trace.upstream,
            local: trace.local,
            hop: trace.hop.clone(),
        };
        Ok(self.http2.open(key, send, io, bounds, facts, dialling))
    }

    /// A stream of bytes to where HTTP/2 is to be spoken.
    async fn reach_http2(&self, way: Way<'_>, lead: Lead<'_>, trace: &mut DialTrace) -> Result<Reached, DialError> {
        let received_via = match lead {
            Lead::Parent(hop) | Lead::Tunnel(hop) => {
                nothing_is_missing(way.cluster, trace)?;
                return Box::pin(self.reach_parent(way, hop, true, trace)).await;
            }
            Lead::Cluster(received_via) => received_via,
        };
        nothing_is_missing(way.cluster, trace)?;
        let held = self.hold(way.cluster, Resource::Connections)?;
        let mut reached = match &way.cluster.via {
            Via::Direct => self.reach(way, trace).await?,
            Via::Connect(hop) => Box::pin(self.through(way, hop, received_via, trace)).await?,
        };
        reached.lease.keep(held, expiry(way.cluster));
        if let (Some(version), Via::Direct) = (way.cluster.proxy_protocol(), &way.cluster.via) {
            Box::pin(proxy_header::send(&mut reached, version, way, trace)).await?;
        }
        if let Some(tls) = &way.cluster.tls {
            let name = sni(tls, &way.target.host);
            let stream = reached.stream;
            reached.stream = match Box::pin(originate(way, tls, &name, stream, reached.began, true, trace)).await {
                Ok(stream) => stream,
                Err(error) => {
                    reached.lease.connect_failed();
                    if error.is_of_one_endpoint() {
                        self.note(way.cluster, &reached.lease.witness(), Event::ConnectFailed);
                    }
                    return Err(error);
                }
            };
        }
        Ok(reached)
    }
}

impl Http2Upstream {
    /// Tells the trace of a flow where its connection leads.
    pub fn retrace(&self, trace: &mut DialTrace) {
        self.guard.connection().retrace(trace);
        trace.reused = self.reused;
    }

    /// The counters of the address at the other end, if it has one.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// True where the upstream carries websockets (RFC 8441); waits for its settings, which a fresh connection may not have yet.
    pub async fn carries_websockets(&self) -> bool {
        self.guard.connection().settled().await;
        self.send.is_extended_connect_protocol_enabled()
    }

    /// Hands a request to the connection; `end`: it has no body. What the upstream's bound on streams does not let go out yet waits
    /// there.
    ///
    /// # Errors
    /// Where the connection takes no more: nothing was sent.
    pub fn send(mut self, request: Request<()>, end: bool) -> Result<Http2Sent, h2::Error> {
        let (response, body) = self.send.send_request(request, end)?;
        Ok(Http2Sent { response, body, hold: Box::new(self.guard), lease: self.lease })
    }
}

/// True where the other side says that it did nothing with a request, so that any may be sent again (RFC 9113 §8.7): it refused the
/// stream, or its GOAWAY leaves it out. h2 gives that error of GOAWAY to no other stream.
pub fn is_refused(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
}

/// A connection that broke, or whose other side does not speak HTTP/2.
fn lost(error: &h2::Error, target: &Target) -> DialError {
    let source = match error.get_io() {
        Some(error) => std::io::Error::new(error.kind(), error.to_string()),
        None => std::io::Error::new(std::io::ErrorKind::ConnectionReset, error.to_string()),
    };
    DialError::Connect { peer: target.to_string().into(), source }
}

/// Where a connection leads, for the flows that use it later.
fn retrace(trace: &mut DialTrace, peer: Option<SocketAddr>, local: Option<SocketAddr>, hop: Option<&Arc<str>>) {
    (trace.upstream, trace.local) = (peer, local);
    if let Some(hop) = hop {
        trace.hop = Some(hop.clone());
    }
}
