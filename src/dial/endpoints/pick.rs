//! Which endpoint a flow goes to, and which address of its name: the live state of a cluster put into the arithmetic of
//! [`crate::route::balancing`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::host::Key;
use super::lease::Lease;
use super::members::Members;
use super::state::ClusterState;
use crate::flow::Host;
use crate::route::Cluster;
use crate::route::balancing::line::Line;
use crate::route::balancing::{Balancing, Standing, hashing, warm_up};
use crate::route::cluster::{Endpoint, EndpointAddress};

/// What of a flow its endpoint depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickBy<'a> {
    /// The hash of a flow to a cluster that hashes, if it has one.
    pub hash: Option<u64>,
    /// Addresses that did not serve this request before: taken only where there is no other.
    pub avoid: &'a [SocketAddr],
    /// What was chosen already, while a kept connection to it was looked for.
    pub chosen: Option<&'a Chosen>,
}

impl PickBy<'_> {
    /// Nothing of the flow.
    pub const NOTHING: Self = Self { hash: None, avoid: &[], chosen: None };
}

/// An endpoint of a cluster that has several, and the addresses of its name to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its index.
    pub(in crate::dial) endpoint: u32,
    /// The first address of each family, IPv6 first, as far as they are known.
    pub(in crate::dial) first: [Option<IpAddr>; 2],
    /// Only a new connection leads to the right address.
    pub(in crate::dial) is_fresh: bool,
}

/// Why no endpoint was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dial) enum Nobody {
    /// There is none, or each was tried.
    Left,
    /// All are left out, the first of them for so long.
    InUse(Duration),
}

impl ClusterState {
    /// Picks one of `endpoints`, but none of `tried`, by the cluster's balancing; counts the flow there at once, so that many flows
    /// that begin together spread.
    pub(in crate::dial) fn pick(
        &self,
        cluster: &Arc<Cluster>,
        endpoints: &[Endpoint],
        by: PickBy<'_>,
        tried: &[usize],
    ) -> Result<(usize, Lease), Nobody> {
        let members = self.members(cluster, endpoints);
        let chosen = by.chosen.map(|chosen| chosen.endpoint as usize);
        let index = match chosen.filter(|index| *index < endpoints.len() && tried.is_empty()) {
            Some(index) => index,
            None => self.choose_among(&members, cluster, endpoints, by, tried)?,
        };
        Ok((index, Lease::at(members.hosts[index].clone())))
    }

    /// The same without counting it.
    pub(in crate::dial) fn choose(
        &self,
        cluster: &Arc<Cluster>,
        endpoints: &[Endpoint],
        by: PickBy<'_>,
    ) -> Result<usize, Nobody> {
        let members = self.members(cluster, endpoints);
        self.choose_among(&members, cluster, endpoints, by, &[])
    }

    fn choose_among(
        &self,
        members: &Members,
        cluster: &Cluster,
        endpoints: &[Endpoint],
        by: PickBy<'_>,
        tried: &[usize],
    ) -> Result<usize, Nobody> {
        let weights = match cluster.standing() {
            Some(standing) => Some(weigh(members, standing, endpoints, by.hash)?),
            None => None,
        };
        let standing = |index: usize| match &weights {
            Some(weights) => weights[index],
            None => u64::from(endpoints[index].weight),
        };
        let untried = |index: usize| if tried.contains(&index) { 0 } else { standing(index) };
        let wanted = |index: usize| if is_one_of(&endpoints[index].at, by.avoid) { 0 } else { untried(index) };
        let index = self.by_balancing(members, cluster, endpoints, by.hash, wanted);
        let index = index.or_else(|| {
            let avoids = !by.avoid.is_empty();
            avoids.then(|| self.by_balancing(members, cluster, endpoints, by.hash, untried)).flatten()
        });
        index.ok_or(Nobody::Left)
    }

    fn by_balancing(
        &self,
        members: &Members,
        cluster: &Cluster,
        endpoints: &[Endpoint],
        hash: Option<u64>,
        weight: impl Fn(usize) -> u64,
    ) -> Option<usize> {
        let line = || Line::new(endpoints.len(), &weight);
        Some(match &cluster.balancing {
            Balancing::Hash(hashing) => {
                // A flow without hash goes anywhere (Envoy: by a random one).
                let hash = hash.unwrap_or_else(|| fastrand::u64(..));
                members.of_hash(hashing, endpoints, hash, |index| weight(index) > 0)?
            }
            Balancing::Random => {
                let line = line()?;
                line.at(fastrand::u64(..line.total()))
            }
            Balancing::RoundRobin => line()?.at_turn(self.turn()),
            Balancing::LeastRequest => {
                let line = line()?;
                let (one, other) = (line.at(fastrand::u64(..line.total())), line.at(fastrand::u64(..line.total())));
                let flows = |index: usize| u128::from(members.hosts[index].flows());
                // Flows per weight, compared without division.
                let (more, less) = (flows(one) * u128::from(weight(other)), flows(other) * u128::from(weight(one)));
                if less < more { other } else { one }
            }
        })
    }

    /// Brings the addresses of a name, of one family, into the order in which a flow tries them, without those that are left out. Says
    /// for how long the first of these is, where there is no other.
    pub(in crate::dial) fn arrange(
        &self,
        cluster: &Cluster,
        ips: &mut Vec<IpAddr>,
        port: u16,
        by: PickBy<'_>,
    ) -> Option<Duration> {
        let left_out = self.leave_out(cluster, ips, port);
        if ips.len() > 1 {
            let chosen = by.chosen.and_then(|chosen| ips.iter().position(|ip| chosen.first.contains(&Some(*ip))));
            let first = chosen.unwrap_or_else(|| self.first_of(cluster, ips, port, by.hash));
            ips.rotate_left(first);
            if !by.avoid.is_empty() {
                ips.sort_by_key(|ip| by.avoid.contains(&SocketAddr::new(*ip, port))); // stable
            }
        }
        left_out.filter(|_| ips.is_empty())
    }

    fn first_of(&self, cluster: &Cluster, ips: &[IpAddr], port: u16, hash: Option<u64>) -> usize {
        match (&cluster.balancing, hash) {
            (Balancing::RoundRobin, _) => self.turn() % ips.len(),
            (Balancing::Hash(_), Some(hash)) => {
                let scores = ips.iter().enumerate().map(|(index, ip)| (hashing::score(hash, *ip), index));
                scores.max().map_or(0, |(_, index)| index)
            }
            (Balancing::Random | Balancing::Hash(_), _) => fastrand::usize(..ips.len()),
            (Balancing::LeastRequest, _) => {
                let (one, other) = (fastrand::usize(..ips.len()), fastrand::usize(..ips.len()));
                let key = |index: usize| Key::Host(Host::Ip(ips[index]), port);
                let flows = |index: usize| self.find(&key(index)).map_or(0, |host| host.flows());
                if flows(other) < flows(one) { other } else { one }
            }
        }
    }

    /// Takes out the addresses that are left out, unless so few remain that all are used.
    fn leave_out(&self, cluster: &Cluster, ips: &mut Vec<IpAddr>, port: u16) -> Option<Duration> {
        let outliers = cluster.outliers()?;
        let now = Instant::now();
        let left_out = |ip: &IpAddr| self.left_out(&Key::Host(Host::Ip(*ip), port), now);
        let shortest = ips.iter().filter_map(left_out).min()?;
        let kept: Vec<IpAddr> = ips.iter().copied().filter(|ip| left_out(ip).is_none()).collect();
        if !outliers.panics(kept.len(), ips.len()) {
            *ips = kept;
        }
        Some(shortest)
    }
}

/// What each endpoint weighs now; 0: it is left out.
fn weigh(
    members: &Members,
    standing: &Standing,
    endpoints: &[Endpoint],
    hash: Option<u64>,
) -> Result<Vec<u64>, Nobody> {
    let now = Instant::now();
    let mut weights: Vec<u64> = endpoints.iter().map(|endpoint| endpoint.weight.into()).collect();
    if let Some(warm_up) = &standing.warm_up {
        let shares = members.hosts.iter().map(|host| warm_up.share(now.saturating_duration_since(host.since)));
        if shares.clone().any(|share| share < warm_up::WHOLE) {
            weights.iter_mut().zip(shares).for_each(|(weight, share)| *weight *= share);
        }
    }
    if let Some(outliers) = &standing.outliers {
        let left_out: Vec<_> = members.hosts.iter().map(|host| host.health.left_out(now)).collect();
        if let Some(shortest) = left_out.iter().flatten().min() {
            let left = left_out.iter().filter(|left_out| left_out.is_none()).count();
            if !outliers.panics(left, endpoints.len()) {
                if left == 0 {
                    return Err(Nobody::InUse(*shortest));
                }
                let out = weights.iter_mut().zip(&left_out).filter(|(_, left_out)| left_out.is_some());
                out.for_each(|(weight, _)| *weight = 0);
            }
        }
    }
    if let Some(localities) = &standing.localities {
        localities.apply(&mut weights, hash.unwrap_or_else(|| fastrand::u64(..)));
    }
    Ok(weights)
}

fn is_one_of(at: &EndpointAddress, peers: &[SocketAddr]) -> bool {
    match at {
        EndpointAddress::Host(Host::Ip(ip), port) => peers.contains(&SocketAddr::new(*ip, *port)),
        EndpointAddress::Host(Host::Name(_), _) | EndpointAddress::Unix(_) => false,
    }
}
