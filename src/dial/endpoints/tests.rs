//! Ten thousand picks of each balancer against what is to be expected, and what changes them: tries, failures, age, distance.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::testing::{cluster, endpoint};
use super::*;
use crate::route::Discovery;
use crate::route::balancing::hashing::{HashOn, Table, of_bytes};
use crate::route::balancing::locality::{Localities, Place};
use crate::route::balancing::outliers::Event;
use crate::route::balancing::{Balancing, Hashing, Outliers, Standing, WarmUp};
use crate::route::cluster::{Endpoint, TrafficPolicy};

struct Picking {
    state: ClusterState,
    cluster: Arc<Cluster>,
    endpoints: Vec<Endpoint>,
}

fn peer(index: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, index as u8], 80))
}

fn picking(balancing: Balancing, weights: &[u32], standing: Standing) -> Picking {
    let endpoints = weights.iter().enumerate();
    let endpoints: Vec<Endpoint> =
        endpoints.map(|(index, weight)| Endpoint { weight: *weight, ..endpoint(&peer(index).to_string()) }).collect();
    let standing = (!standing.is_plain()).then_some(standing);
    let policy = TrafficPolicy { standing, ..TrafficPolicy::default() }.if_any();
    let cluster = Cluster { discovery: Discovery::Static(endpoints.clone()), balancing, policy, ..cluster() };
    Picking { state: ClusterState::default(), cluster: Arc::new(cluster), endpoints }
}

fn hashing(table: Table) -> Balancing {
    Balancing::Hash(Arc::new(Hashing { on: HashOn::SourceIp, table }))
}

fn all_balancings() -> [Balancing; 5] {
    let (ring, maglev) = (Table::Ring { points_min: 65_536 }, Table::Maglev { places: 65_537 });
    [Balancing::Random, Balancing::LeastRequest, Balancing::RoundRobin, hashing(ring), hashing(maglev)]
}

fn by(number: usize) -> PickBy<'static> {
    PickBy { hash: Some(of_bytes(number.to_string().as_bytes())), ..PickBy::default() }
}

impl Picking {
    fn pick(&self, by: PickBy<'_>, tried: &[usize]) -> Result<(usize, Lease), Nobody> {
        self.state.pick(&self.cluster, &self.endpoints, by, tried)
    }

    /// Picks for as many flows, each over before the next begins.
    fn counts(&self, flows: usize) -> Vec<usize> {
        let mut counts = vec![0; self.endpoints.len()];
        (0..flows).for_each(|number| counts[self.pick(by(number), &[]).unwrap().0] += 1);
        counts
    }

    fn fail(&self, index: usize) -> bool {
        let outliers = self.cluster.outliers().unwrap();
        let host = self.state.host(peer(index).into());
        let all = || (0..self.endpoints.len()).map(|index| peer(index).into()).collect();
        self.state.note(&host, outliers, Event::Answered(500), all).is_some()
    }
}

/// Six standard deviations of a draw, and a little for the tables, which are drawn themselves.
fn assert_shares(counts: &[usize], shares: &[f64]) {
    let flows: usize = counts.iter().sum();
    let total: f64 = shares.iter().sum();
    for (count, share) in counts.iter().zip(shares) {
        let p = share / total;
        let deviation = (flows as f64 * p * (1.0 - p)).sqrt();
        let off = (*count as f64 - flows as f64 * p).abs();
        assert!(off <= 6.0 * deviation + 0.01 * flows as f64, "{counts:?} for {shares:?}");
    }
}

#[test]
fn ten_thousand_picks_follow_the_weights() {
    for balancing in all_balancings() {
        for weights in [[1, 3, 6], [1, 1, 1], [100, 1, 99]] {
            let counts = picking(balancing.clone(), &weights, Standing::default()).counts(10_000);
            assert_shares(&counts, &weights.map(f64::from));
        }
    }
}

#[test]
fn turns_are_exact_for_any_weights() {
    let counts = |weights: &[u32], flows| picking(Balancing::RoundRobin, weights, Standing::default()).counts(flows);
    assert_eq!(counts(&[1, 1, 1], 9), [3, 3, 3]);
    assert_eq!(counts(&[1, 3, 6], 10_000), [1000, 3000, 6000]);
}

#[test]
fn least_request_evens_out_open_flows_by_weight() {
    let picking = picking(Balancing::LeastRequest, &[1, 1, 2], Standing::default());
    let leases: Vec<_> = (0..400).map(|_| picking.pick(PickBy::default(), &[]).unwrap().1).collect();
    let flows = |index: usize| picking.state.find(&peer(index).into()).unwrap().flows();
    assert_eq!((0..3).map(flows).sum::<u32>(), 400);
    assert!(flows(0).abs_diff(100) < 15 && flows(1).abs_diff(100) < 15 && flows(2).abs_diff(200) < 20);
    drop(leases);
    assert_eq!((0..3).map(flows).sum::<u32>(), 0);
}

#[test]
fn endpoints_that_were_tried_are_not_picked_again_and_avoided_ones_last() {
    for balancing in all_balancings() {
        let picking = picking(balancing, &[5, 1], Standing::default());
        assert_eq!(picking.pick(by(1), &[0]).unwrap().0, 1);
        assert_eq!(picking.pick(by(1), &[0, 1]).unwrap_err(), Nobody::Left);
        let (one, both) = ([peer(0)], [peer(0), peer(1)]);
        for number in 0..50 {
            assert_eq!(picking.pick(PickBy { avoid: &one, ..by(number) }, &[]).unwrap().0, 1);
            assert!(picking.pick(PickBy { avoid: &both, ..by(number) }, &[]).is_ok());
        }
        let chosen = Chosen { endpoint: 0, first: [None; 2], is_fresh: false };
        assert_eq!(picking.pick(PickBy { chosen: Some(&chosen), ..by(1) }, &[]).unwrap().0, 0);
        assert_eq!(picking.pick(PickBy { chosen: Some(&chosen), ..by(1) }, &[0]).unwrap().0, 1);
        assert!(self::picking(Balancing::Random, &[], Standing::default()).pick(by(1), &[]).is_err());
    }
}

#[test]
fn one_hash_leads_to_one_endpoint_and_no_hash_anywhere() {
    for balancing in all_balancings().into_iter().filter(|balancing| balancing.hashing().is_some()) {
        let picking = picking(balancing, &[1, 1, 1, 1], Standing::default());
        let first: Vec<usize> = (0..100).map(|number| picking.pick(by(number), &[]).unwrap().0).collect();
        for _ in 0..3 {
            let again: Vec<usize> = (0..100).map(|number| picking.pick(by(number), &[]).unwrap().0).collect();
            assert_eq!(first, again);
        }
        let mut counts = [0; 4];
        (0..10_000).for_each(|_| counts[picking.pick(PickBy::default(), &[]).unwrap().0] += 1);
        assert_shares(&counts, &[1.0; 4]);
    }
}

#[test]
fn an_endpoint_that_fails_is_left_out_by_every_balancer_until_all_are() {
    let outliers = Outliers { consecutive_5xx: 2, max_ejection_percent: 100, ..Outliers::default() };
    for balancing in all_balancings() {
        let picking = picking(balancing, &[1, 1, 2], Standing { outliers: Some(outliers), ..Standing::default() });
        assert_eq!([picking.fail(2), picking.fail(2)], [false, true]);
        assert_shares(&picking.counts(1000), &[1.0, 1.0, 0.0]);
        assert_eq!([picking.fail(0), picking.fail(0)], [false, true]);
        assert_eq!(picking.counts(100), [0, 100, 0]);
        assert_eq!([picking.fail(1), picking.fail(1)], [false, true]);
        let Err(Nobody::InUse(left)) = picking.pick(by(1), &[]) else { panic!("all are left out") };
        assert!(left <= Duration::from_secs(30) && left > Duration::from_secs(20), "{left:?}");
    }
}

#[test]
fn too_few_healthy_endpoints_and_all_are_used() {
    let outliers =
        Outliers { consecutive_5xx: 1, max_ejection_percent: 100, min_health_percent: 50, ..Outliers::default() };
    let standing = Standing { outliers: Some(outliers), ..Standing::default() };
    let picking = picking(Balancing::RoundRobin, &[1, 1, 1, 1], standing);
    assert!(picking.fail(0) && picking.fail(1));
    assert_eq!(picking.counts(100), [0, 0, 50, 50]);
    assert!(picking.fail(2));
    assert_eq!(picking.counts(100), [25, 25, 25, 25]);
}

#[test]
fn a_new_endpoint_begins_with_a_part_of_its_weight() {
    let warm_up = WarmUp { duration: Duration::from_secs(10_000), minimum_percent: 10.0, aggression: 1.0 };
    let standing = || Standing { warm_up: Some(warm_up), ..Standing::default() };
    for balancing in [Balancing::RoundRobin, Balancing::LeastRequest] {
        let before = picking(balancing.clone(), &[1, 1], standing());
        assert_shares(&before.counts(10_000), &[1.0, 1.0]); // all are new: none is spared
        let hosts = [0, 1].map(|index| before.state.host(peer(index).into()));
        assert!(hosts.iter().all(|host| host.since.elapsed() < Duration::from_secs(60)));
        let aged = picking(balancing, &[1, 1, 1], standing());
        for index in 0..2 {
            aged.state.age(peer(index).into(), Duration::from_secs(20_000));
        }
        assert_shares(&aged.counts(10_000), &[1.0, 1.0, 0.1]);
        aged.state.age(peer(2).into(), Duration::from_secs(5_000));
        let cluster = Arc::new(Cluster::clone(&aged.cluster)); // as after a reload
        assert_shares(&Picking { cluster, ..aged }.counts(10_000), &[1.0, 1.0, 0.5]);
    }
}

#[test]
fn near_endpoints_come_first_while_they_are_healthy_and_shares_are_kept() {
    let place = |priority: u8, group: u16| Place { locality: "".into(), group, priority };
    let outliers = Outliers { consecutive_5xx: 1, max_ejection_percent: 100, ..Outliers::default() };
    for balancing in all_balancings() {
        let places = [place(0, 0), place(0, 0), place(1, 0), place(1, 0)].into();
        let localities = Some(Localities { places, shares: [].into() });
        let standing = Standing { outliers: Some(outliers), localities, ..Standing::default() };
        let failover = picking(balancing.clone(), &[1; 4], standing);
        assert_shares(&failover.counts(10_000), &[1.0, 1.0, 0.0, 0.0]);
        assert!(failover.fail(0));
        assert_shares(&failover.counts(10_000), &[0.0, 0.7, 0.15, 0.15]);
        assert!(failover.fail(1));
        assert_shares(&failover.counts(10_000), &[0.0, 0.0, 1.0, 1.0]);
        let places = [place(0, 0), place(0, 0), place(0, 0), place(0, 1), place(0, 2)].into();
        let localities = Some(Localities { places, shares: [20, 80, 0].into() });
        let shares = picking(balancing.clone(), &[1; 5], Standing { localities, ..Standing::default() });
        if balancing.hashing().is_none() {
            assert_shares(&shares.counts(10_000), &[20.0 / 3.0, 20.0 / 3.0, 20.0 / 3.0, 80.0, 0.0]);
        } else {
            assert_eq!(shares.counts(10_000)[4], 0);
        }
    }
}

#[test]
fn addresses_of_a_name_are_balanced_and_left_out_like_endpoints() {
    let ips: Vec<IpAddr> = (1..=4).map(|n| IpAddr::from([192, 0, 2, n])).collect();
    let outliers = Outliers { consecutive_5xx: 1, max_ejection_percent: 100, ..Outliers::default() };
    for balancing in all_balancings() {
        let of = picking(balancing.clone(), &[1; 5], Standing { outliers: Some(outliers), ..Standing::default() });
        let first = |number: usize, avoid: &[SocketAddr]| {
            let mut order = ips.clone();
            of.state.arrange(&of.cluster, &mut order, 80, PickBy { avoid, ..by(number) });
            order.first().copied()
        };
        let mut counts = [0; 4];
        for number in 0..10_000 {
            let taken = first(number, &[]);
            counts[ips.iter().position(|ip| taken == Some(*ip)).unwrap()] += 1;
        }
        assert_shares(&counts, &[1.0; 4]);
        assert!((0..50).all(|number| first(number, &[peer(1), peer(2), peer(3)]) == Some(ips[3])));
        let before: Vec<_> = (0..100).map(|number| first(number, &[])).collect();
        assert!(of.fail(1));
        let after: Vec<_> = (0..100).map(|number| first(number, &[])).collect();
        assert!(after.iter().all(|ip| *ip != Some(ips[0])));
        if balancing.hashing().is_some() {
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after);
            assert!(moved.clone().count() > 5 && moved.clone().all(|(before, _)| *before == Some(ips[0])));
        }
        assert!(of.fail(2) && of.fail(3) && of.fail(4));
        let mut order = ips.clone();
        assert!(of.state.arrange(&of.cluster, &mut order, 80, PickBy::default()).is_some() && order.is_empty());
    }
}

#[test]
fn a_parked_lease_does_not_count_until_it_is_resumed() {
    let picking = picking(Balancing::Random, &[1, 1], Standing::default());
    let (index, lease) = picking.pick(PickBy::default(), &[]).unwrap();
    let host = picking.state.host(peer(index).into());
    let parked = lease.park();
    assert_eq!(host.flows(), 0);
    let lease = parked.resume();
    assert_eq!(host.flows(), 1);
    assert!(Arc::ptr_eq(lease.witness().host.as_ref().unwrap(), &host));
    drop(lease);
    assert_eq!(host.flows(), 0);
    assert!(host.since <= Instant::now());
}
