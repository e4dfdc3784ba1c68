//! The endpoints of one cluster of one snapshot with their live state, looked up once.

use std::sync::{Arc, OnceLock};

use super::host::Host;
use crate::route::balancing::Hashing;
use crate::route::balancing::hashing::Table;
use crate::route::balancing::maglev::Maglev;
use crate::route::balancing::ring::Ring;
use crate::route::cluster::Endpoint;

/// By the index of the endpoint.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) hosts: Box<[Arc<Host>]>,
    /// Built for the first flow that is hashed.
    table: OnceLock<HashTable>,
}

#[derive(Debug)]
enum HashTable {
    Ring(Ring),
    Maglev(Maglev),
}

impl Members {
    pub(super) fn new(hosts: Box<[Arc<Host>]>) -> Self {
        Self { hosts, table: OnceLock::new() }
    }

    /// The endpoint of this hash among those that `fits`.
    pub(super) fn of_hash(
        &self,
        hashing: &Hashing,
        endpoints: &[Endpoint],
        hash: u64,
        fits: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let table = self.table.get_or_init(|| {
            let named = self.hosts.iter().zip(endpoints);
            let named: Vec<_> = named.map(|(host, endpoint)| (host.key.to_string(), endpoint.weight)).collect();
            match hashing.table {
                Table::Ring { points_min } => HashTable::Ring(Ring::new(&named, points_min)),
                Table::Maglev { places } => HashTable::Maglev(Maglev::new(&named, places)),
            }
        });
        match table {
            HashTable::Ring(ring) => ring.pick(hash, fits),
            HashTable::Maglev(maglev) => maglev.pick(hash, fits),
        }
    }
}
