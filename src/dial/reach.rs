//! From a cluster to a connected transport: which endpoint, which address, one attempt after the other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout_at;

use super::endpoints::{ClusterState, Key, Lease, Nobody};
use super::own::{Before, OwnListeners};
use super::tcp::{self, Pacing, RaceError};
use super::{DialError, Dialer, Reached, ResolveError, Way};
use crate::account::hosts::Connection;
use crate::flow::{DialTrace, Host, Name};
use crate::route::cluster::{Endpoint, EndpointAddress};
use crate::route::{Cluster, Discovery};

impl Dialer {
    /// Connects to where the cluster is, without what is around the transport.
    pub(super) async fn reach(&self, way: Way<'_>, trace: &mut DialTrace) -> Result<Reached, DialError> {
        let watched = way.cluster.outliers().is_some();
        match &way.cluster.discovery {
            Discovery::Asked { port } => {
                let port = port.unwrap_or(way.target.port);
                let state = watched.then(|| self.endpoints.of(way.cluster));
                match &way.target.host {
                    Host::Ip(ip) => {
                        let peer = SocketAddr::new(*ip, port);
                        self.reach_address(way, peer, None, false, state.as_ref(), trace).await
                    }
                    Host::Name(name) => Box::pin(self.reach_name(way, name, port, state.as_ref(), trace)).await,
                }
            }
            Discovery::Static(endpoints) | Discovery::Dns { endpoints, .. } => match endpoints.as_slice() {
                [] => Err(no_endpoint(way.cluster)),
                [endpoint] if !watched => self.reach_endpoint(way, endpoint, trace).await,
                endpoints => Box::pin(self.reach_one_of(way, endpoints, trace)).await,
            },
            Discovery::Missing(reason) => Err(DialError::Configuration(reason.clone())),
        }
    }

    /// Tries endpoints until one connects.
    async fn reach_one_of(
        &self,
        way: Way<'_>,
        endpoints: &[Endpoint],
        trace: &mut DialTrace,
    ) -> Result<Reached, DialError> {
        let state = self.endpoints.of(way.cluster);
        let mut tried = Vec::with_capacity(ENDPOINTS_TRIED_MAX);
        let (mut left_out, mut failed) = (0, None::<DialError>);
        while tried.len() - left_out < ENDPOINTS_TRIED_MAX {
            let (index, lease) = match state.pick(way.cluster, endpoints, *way.by, &tried) {
                Ok(picked) => picked,
                Err(nobody) => return Err(failed.unwrap_or_else(|| nobody_of(way.cluster, nobody))),
            };
            tried.push(index);
            match self.reach_endpoint(way, &endpoints[index], trace).await {
                Ok(reached) => return Ok(Reached { lease: lease.or(reached.lease), ..reached }),
                Err(error) if error.is_of_one_endpoint() && Instant::now() < way.deadline => {
                    left_out += usize::from(matches!(error, DialError::Ejected { .. })); // costs no time
                    failed = Some(match failed {
                        Some(kept) if kept.weight() >= error.weight() => kept,
                        _ => error,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or_else(|| no_endpoint(way.cluster)))
    }

    pub(super) async fn reach_endpoint(
        &self,
        way: Way<'_>,
        endpoint: &Endpoint,
        trace: &mut DialTrace,
    ) -> Result<Reached, DialError> {
        match &endpoint.at {
            EndpointAddress::Host(Host::Ip(ip), port) => {
                // Whether it is left out was asked when it was picked.
                self.reach_address(way, SocketAddr::new(*ip, *port), None, true, None, trace).await
            }
            EndpointAddress::Host(Host::Name(name), port) => {
                let state = self.endpoints.of(way.cluster);
                Box::pin(self.reach_name(way, name, *port, Some(&state), trace)).await
            }
            EndpointAddress::Unix(path) => {
                let began = Instant::now();
                trace.attempts += 1;
                let until = way.deadline.min(began + way.cluster.connect_timeout);
                let peer = || path.display().to_string().into();
                let error = match timeout_at(until.into(), UnixStream::connect(path)).await {
                    Ok(Ok(stream)) => return Ok(Reached { stream: stream.into(), lease: Lease::default(), began }),
                    Ok(Err(source)) => DialError::Connect { peer: peer(), source },
                    Err(_) => {
                        let step = format!("connect to {}", path.display()).into();
                        DialError::Timeout { step, after: until - began }
                    }
                };
                self.note_failed(way.cluster, || Key::of(&endpoint.at), &error);
                Err(error)
            }
        }
    }

    /// The straight way: one address, one attempt. `state`: the address is not a picked endpoint, but counts as one.
    async fn reach_address(
        &self,
        way: Way<'_>,
        peer: SocketAddr,
        name: Option<&str>,
        spelled: bool,
        state: Option<&Arc<ClusterState>>,
        trace: &mut DialTrace,
    ) -> Result<Reached, DialError> {
        let before = self.judge(way.cluster, peer, spelled)?;
        if let Some(outliers) = way.cluster.outliers()
            && let Some(left) = state.and_then(|state| state.left_out(&peer.into(), Instant::now()))
            && !outliers.panics(0, 1)
        {
            return Err(nobody_of(way.cluster, Nobody::InUse(left)));
        }
        let began = Instant::now();
        trace.upstream = Some(peer);
        trace.attempts += 1;
        let connection = Connection::begin(self.endpoints.hosts(way.cluster).host(peer, name));
        let connected = attempt(way, connection, peer, before, began).await;
        trace.connect += began.elapsed();
        let (stream, connection) =
            connected.inspect_err(|error| self.note_failed(way.cluster, || peer.into(), error))?;
        let mut lease = Lease::on(connection);
        if let Some(state) = state {
            state.count_address(&mut lease, peer);
        }
        Ok(Reached { stream: stream.into(), lease, began })
    }

    /// Resolves, then dials what is found. `state`: the name is an endpoint of a cluster, and each of its addresses one too.
    async fn reach_name(
        &self,
        way: Way<'_>,
        name: &Name,
        port: u16,
        state: Option<&Arc<ClusterState>>,
        trace: &mut DialTrace,
    ) -> Result<Reached, DialError> {
        let started = Instant::now();
        let lookup = self.resolver.load().lookup(name);
        if let Some(ip) = lookup.sole_address() {
            let peer = SocketAddr::new(ip, port);
            return self.reach_address(way, peer, Some(name.as_str()), false, state, trace).await;
        }
        let settings = self.settings.load_full();
        let pacing = Pacing {
            delay: settings.happy_eyeballs_delay,
            attempts_max: settings.dns.addresses_max,
            deadline: way.deadline,
        };
        let first_only = matches!(way.cluster.discovery, Discovery::Dns { first_address_only: true, .. });
        let mut left_out = None;
        let arrange = |ips: &mut Vec<IpAddr>| {
            if first_only {
                // The first that may be dialled: one that may not says nothing against the others, as explain says too.
                let may = |ip: &IpAddr| self.judge(way.cluster, SocketAddr::new(*ip, port), false).is_ok();
                let first = ips.iter().position(may).unwrap_or_default();
                ips.swap(0, first);
                ips.truncate(1);
            }
            let left = state.and_then(|state| state.arrange(way.cluster, ips, port, *way.by));
            left_out = left_out.into_iter().chain(left).min();
        };
        let (mut resolved, mut upstream, mut attempts) = (None, None, 0);
        let hosts = self.endpoints.hosts(way.cluster);
        let begin = |ip: IpAddr| {
            let now = Instant::now();
            resolved.get_or_insert(now);
            let peer = SocketAddr::new(ip, port);
            let before = self.judge(way.cluster, peer, false)?;
            tracing::debug!(%peer, %name, "dialling");
            upstream = Some(peer);
            attempts += 1;
            let connection = Connection::begin(hosts.host(peer, Some(name.as_str())));
            Ok(async move {
                let attempted = attempt(way, connection, peer, before, now).await;
                attempted.inspect_err(|error| self.note_failed(way.cluster, || peer.into(), error))
            })
        };
        let raced = tcp::race(lookup, pacing, arrange, begin).await;
        let began = resolved.unwrap_or_else(Instant::now);
        trace.dns += began - started;
        trace.connect += began.elapsed();
        trace.attempts += attempts;
        let failed = match raced {
            Ok((ip, (stream, connection))) => {
                trace.upstream = Some(SocketAddr::new(ip, port));
                let mut lease = Lease::on(connection);
                if let Some(state) = state {
                    state.count_address(&mut lease, SocketAddr::new(ip, port));
                }
                return Ok(Reached { stream: stream.into(), lease, began });
            }
            Err(failed) => failed,
        };
        trace.upstream = upstream.or(trace.upstream);
        if let (Some(left), None) = (left_out, upstream) {
            return Err(nobody_of(way.cluster, Nobody::InUse(left)));
        }
        Err(match (failed, upstream) {
            (RaceError::Dial(error), _) => error,
            (RaceError::Late, Some(peer)) => {
                DialError::Timeout { step: format!("connect to {peer}").into(), after: began.elapsed() }
            }
            (RaceError::Late, None) => DialError::Resolve { name: name.clone(), source: ResolveError::Timeout },
            (RaceError::Resolve(source), _) => DialError::Resolve { name: name.clone(), source },
        })
    }

    /// Judges exactly the address that is dialled next.
    pub(super) fn judge(&self, cluster: &Cluster, peer: SocketAddr, spelled: bool) -> Result<Before, DialError> {
        cluster.addresses.judge(peer.ip()).map_err(DialError::Prohibited)?;
        match self.own.load().before(peer, spelled) {
            Before::Own => Err(DialError::Loop(peer)),
            before => Ok(before),
        }
    }
}

/// Connects to an address that was judged; what only the connected socket tells is judged on it.
async fn attempt(
    way: Way<'_>,
    connection: Connection,
    peer: SocketAddr,
    before: Before,
    began: Instant,
) -> Result<(TcpStream, Connection), DialError> {
    match connect_to(way, peer, before, began).await {
        Ok(stream) => Ok((stream, connection)),
        Err(error) => {
            connection.failed();
            Err(error)
        }
    }
}

async fn connect_to(way: Way<'_>, peer: SocketAddr, before: Before, began: Instant) -> Result<TcpStream, DialError> {
    let until = way.deadline.min(began + way.cluster.connect_timeout);
    let failed = |source| DialError::Connect { peer: peer.to_string().into(), source };
    let stream = match timeout_at(until.into(), tcp::connect(peer, &way.cluster.source)).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(_) => {
            let after = until.saturating_duration_since(began);
            return Err(DialError::Timeout { step: format!("connect to {peer}").into(), after });
        }
    };
    if before == Before::AskSocket && OwnListeners::is_own_end(peer, stream.local_addr().map_err(failed)?) {
        return Err(DialError::Loop(peer));
    }
    if let Some(keepalive) = way.cluster.pool().and_then(|pool| pool.keepalive) {
        tcp::keep_alive(&stream, keepalive);
    }
    Ok(stream)
}

pub(super) fn nobody_of(cluster: &Cluster, nobody: Nobody) -> DialError {
    match nobody {
        Nobody::Left => no_endpoint(cluster),
        Nobody::InUse(left) => DialError::Ejected { cluster: cluster.name.clone(), left },
    }
}

pub(super) fn no_endpoint(cluster: &Cluster) -> DialError {
    DialError::NoEndpoint(cluster.name.clone())
}

const ENDPOINTS_TRIED_MAX: usize = 3; // of one cluster for one flow: the client waits
