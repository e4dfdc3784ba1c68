//! Which targets go through a parent, and which never do, by lists of the settings (`parents.always`, `parents.never`).
//!
//! The most specific entry over a target decides: of names as everywhere, of networks the longest; an entry with a port before one
//! without. Rules of a service (`egret.dev/via`, `tunnel`) stand above the lists, `egressProxy` below them.

use std::sync::Arc;

use ipnet::IpNet;

use super::hosts::{HostIndex, by_specificity};
use super::{Cluster, Hop, Route, Via};
use crate::flow::{Host, Origin, Target};

/// The lists, compiled.
#[derive(Debug, Default)]
pub struct Parents {
    hosts: HostIndex<Vec<Entry>>,
    /// The longest first, with a port before without.
    networks: Vec<(IpNet, Entry)>,
}

/// What is said of some targets.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The only port that it is about.
    pub port: Option<u16>,
    /// Where targets go that no service is: `PassthroughCluster`, straight or through the parent.
    pub unknown: Arc<Cluster>,
    /// The parent; `None`: never through one.
    pub hop: Option<Arc<Hop>>,
    /// The entry of the list.
    pub origin: Arc<Origin>,
}

/// Whom an entry is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// A name, `*.suffix` or `*`.
    Hosts(Arc<str>),
    /// Literals in a network.
    Network(IpNet),
}

impl Parents {
    /// Of entries in any order; the first of two over the same targets counts.
    pub fn new(entries: impl IntoIterator<Item = (Whom, Entry)>) -> Self {
        let (mut patterns, mut networks) = (Vec::new(), Vec::new());
        for (whom, entry) in entries {
            match whom {
                Whom::Hosts(pattern) => patterns.push((pattern, entry)),
                Whom::Network(net) => networks.push((net, entry)),
            }
        }
        networks.sort_by_key(|(net, entry)| (std::cmp::Reverse(net.prefix_len()), entry.port.is_none()));
        // The widest first, so that each takes over what wider ones say of ports that it says nothing of.
        patterns.sort_by(|(a, _), (b, _)| by_specificity(b, a));
        let mut hosts: HostIndex<Vec<Entry>> = HostIndex::default();
        for same in patterns.chunk_by(|(a, _), (b, _)| a == b) {
            let mut list: Vec<Entry> = same.iter().map(|(_, entry)| entry.clone()).collect();
            list.sort_by_key(|entry| entry.port.is_none());
            let pattern = &same[0].0;
            list.extend(hosts.find_covering(pattern).into_iter().flatten().cloned());
            *hosts.entry(pattern, Vec::new) = list;
        }
        Self { hosts, networks }
    }

    /// What is said of a target.
    pub fn find(&self, target: &Target) -> Option<&Entry> {
        let is_about = |entry: &&Entry| entry.port.is_none_or(|port| port == target.port);
        match &target.host {
            Host::Name(name) => self.hosts.find(name.as_str())?.iter().find(is_about),
            Host::Ip(ip) => {
                let mut fitting = self.networks.iter().filter(|(net, entry)| net.contains(ip) && is_about(&entry));
                let network = fitting.next().map(|(_, entry)| entry);
                // `*` is about literals too.
                network.or_else(|| self.hosts.get("*")?.iter().find(is_about))
            }
        }
    }

    /// The way of a route, as the lists have it.
    pub(super) fn lead(&self, route: Route, target: &Target) -> Route {
        if route.answers() {
            return route;
        }
        Route { cluster: self.lead_cluster(route.cluster, target), ..route }
    }

    /// The cluster on the way that the lists have for this target. What a rule said of the way stays.
    pub fn lead_cluster(&self, cluster: Arc<Cluster>, target: &Target) -> Arc<Cluster> {
        if matches!(cluster.via, Via::Connect(_)) || cluster.straight.is_some() {
            return cluster;
        }
        let Some(entry) = self.find(target) else { return cluster };
        let via = entry.hop.as_ref().map_or(Via::Direct, |hop| Via::Connect(hop.clone()));
        let straight = entry.hop.is_none().then(|| entry.origin.clone());
        Arc::new(Cluster { via, straight, ..Cluster::clone(&cluster) })
    }

    /// Where targets lead that no service is.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        let entries = self.hosts.values().flatten().chain(self.networks.iter().map(|(_, entry)| entry));
        entries.map(|entry| &entry.unknown)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::route::sample::{cluster, origin};

    fn parents(entries: &[(&str, Option<u16>)]) -> Parents {
        Parents::new(entries.iter().enumerate().map(|(index, (whom, port))| {
            let whom = whom.parse().map_or_else(|_| Whom::Hosts((*whom).into()), Whom::Network);
            let origin = Arc::new(origin("parents.never", u32::try_from(index).unwrap() + 1));
            (whom, Entry { port: *port, unknown: cluster("PassthroughCluster"), hop: None, origin })
        }))
    }

    #[test]
    fn the_most_specific_entry_with_the_port_decides_whatever_the_order() {
        let mut entries = vec![
            ("*", None),
            ("*.example.com", None),
            ("*.example.com", Some(443)),
            ("api.example.com", Some(8443)),
            ("10.0.0.0/8", None),
            ("10.1.0.0/16", Some(80)),
            ("10.1.2.3/32", None),
        ];
        for _ in 0..entries.len() {
            let parents = parents(&entries);
            for (asked, expected) in [
                ("other.test:80", ("*", None)),
                ("www.example.com:80", ("*.example.com", None)),
                ("www.example.com:443", ("*.example.com", Some(443))),
                ("api.example.com:8443", ("api.example.com", Some(8443))),
                // It says nothing of this port, the wider one does.
                ("api.example.com:443", ("*.example.com", Some(443))),
                ("api.example.com:80", ("*.example.com", None)),
                ("example.com:80", ("*", None)),
                ("10.9.9.9:80", ("10.0.0.0/8", None)),
                ("10.1.9.9:80", ("10.1.0.0/16", Some(80))),
                ("10.1.9.9:443", ("10.0.0.0/8", None)),
                ("10.1.2.3:80", ("10.1.2.3/32", None)),
                ("192.0.2.1:80", ("*", None)),
                ("[2001:db8::1]:80", ("*", None)),
            ] {
                let found = parents.find(&Target::parse_authority(asked.as_bytes()).unwrap()).unwrap();
                let index = usize::try_from(found.origin.line).unwrap() - 1;
                assert_eq!(entries[index], expected, "{asked} of {entries:?}");
            }
            entries.rotate_left(1);
        }
        let parents = parents(&[("a.test", None), ("10.0.0.0/8", Some(1))]);
        for asked in ["b.test:80", "10.0.0.1:80", "192.0.2.1:1"] {
            assert!(parents.find(&Target::parse_authority(asked.as_bytes()).unwrap()).is_none(), "{asked}");
        }
    }

    #[test]
    fn of_two_entries_about_the_same_the_first_counts() {
        let parents = parents(&[("a.test", Some(1)), ("a.test", None), ("a.test", Some(1)), ("a.test", None)]);
        for (asked, line) in [("a.test:1", 1), ("a.test:2", 2)] {
            let found = parents.find(&Target::parse_authority(asked.as_bytes()).unwrap()).unwrap();
            assert_eq!(found.origin.line, line, "{asked}");
        }
    }
}
