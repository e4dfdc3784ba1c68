//! Which ServiceEntry declares which host and port, seen from one namespace (ISTIO 2.5).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::notes::Notes;
use crate::config::diagnostic::Code;
use crate::config::kinds::SharedText;
use crate::config::kinds::service_entry::{Port, ServiceEntry};
use crate::route::Protocol;
use crate::route::hosts::HostIndex;

/// One port of one host, and the entry that declares it.
#[derive(Clone, Debug)]
pub(super) struct Declared<'e, 'r> {
    pub(super) entry: &'e ServiceEntry<'r>,
    pub(super) host: Arc<str>,
    /// All hosts of the entry.
    pub(super) hosts: Arc<[Arc<str>]>,
    pub(super) port: &'e Port,
    pub(super) protocol: Protocol,
}

/// All declared pairs, as one namespace sees them.
#[derive(Debug)]
pub(super) struct Registry<'e, 'r> {
    declared: Vec<Declared<'e, 'r>>,
    /// Indices of `declared` by host.
    by_host: HostIndex<Vec<u32>>,
}

impl<'e, 'r> Registry<'e, 'r> {
    /// The own namespace first, then the oldest; losers add their ports where everything else is equal.
    pub(super) fn new(entries: &'e [ServiceEntry<'r>], namespace: &str, notes: &mut Notes<'_>) -> Self {
        let visible = |entry: &&ServiceEntry<'_>| entry.is_settings() || entry.export_to.reaches(namespace);
        let is_own = |entry: &&ServiceEntry<'_>| &*entry.resource.metadata.namespace == namespace;
        let own = entries.iter().filter(visible).filter(is_own);
        let others = entries.iter().filter(visible).filter(|entry| !is_own(entry));
        // `entries` are ordered by age, what the settings allow last.
        let (settings, resources): (Vec<_>, Vec<_>) = own.chain(others).partition(|entry| entry.is_settings());
        let mut owners: HashMap<Arc<str>, &ServiceEntry<'_>> = HashMap::with_capacity(entries.len());
        let mut registry = Self { declared: Vec::with_capacity(entries.len()), by_host: HostIndex::default() };
        for entry in resources.into_iter().chain(settings) {
            registry.add_entry(entry, &mut owners, notes);
        }
        registry
    }

    fn add_entry(
        &mut self,
        entry: &'e ServiceEntry<'r>,
        owners: &mut HashMap<Arc<str>, &'e ServiceEntry<'r>>,
        notes: &mut Notes<'_>,
    ) {
        let hosts: Arc<[Arc<str>]> = entry.hosts.iter().map(|host| host.value.clone()).collect();
        for host in &entry.hosts {
            let owner = match owners.entry(host.value.clone()) {
                Entry::Vacant(vacant) => *vacant.insert(entry),
                Entry::Occupied(occupied) => *occupied.get(),
            };
            if !std::ptr::eq(owner, entry) && !entry.is_settings() && !is_mergeable(owner, entry) {
                report_lost_host(owner, entry, host, notes);
                continue;
            }
            for port in &entry.ports {
                // No flow of ours is UDP.
                let Some(protocol) = port.protocol else { continue };
                let declared = Declared { entry, host: host.value.clone(), hosts: hosts.clone(), port, protocol };
                self.add_port(declared, notes);
            }
        }
    }

    fn add_port(&mut self, declared: Declared<'e, 'r>, notes: &mut Notes<'_>) {
        let indices = self.by_host.entry(&declared.host, Vec::new);
        let same = |index: &&u32| self.declared[**index as usize].port.number == declared.port.number;
        if let Some(first) = indices.iter().find(same) {
            let first = self.declared[*first as usize].entry;
            let message = format!(
                "port {} of {} is declared by {} already, which came first",
                declared.port.number, declared.host, first.resource.label
            );
            if !declared.entry.is_settings() {
                notes.once(declared.entry.resource, Code::LostPort, declared.port.span, message);
            }
            return;
        }
        // More than 4 G ports do not fit into memory.
        indices.push(u32::try_from(self.declared.len()).expect("fewer ports than addresses"));
        self.declared.push(declared);
    }

    /// All, in the order in which they were declared.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, Declared<'e, 'r>> {
        self.declared.iter()
    }

    /// The ports of exactly this host (or pattern).
    pub(super) fn ports(&self, host: &str) -> Vec<&Declared<'e, 'r>> {
        self.by_host.get(host).into_iter().flatten().map(|index| &self.declared[*index as usize]).collect()
    }

    /// The ports of the most specific host over this host or pattern.
    pub(super) fn ports_covering(&self, host: &str) -> Vec<&Declared<'e, 'r>> {
        self.by_host.find_covering(host).into_iter().flatten().map(|index| &self.declared[*index as usize]).collect()
    }
}

fn is_mergeable(a: &ServiceEntry<'_>, b: &ServiceEntry<'_>) -> bool {
    a.resource.metadata.namespace == b.resource.metadata.namespace
        && a.resolution == b.resolution
        && a.resource.metadata.labels == b.resource.metadata.labels
        && a.has_selector == b.has_selector
        && a.export_to == b.export_to
}

fn report_lost_host(owner: &ServiceEntry<'_>, entry: &ServiceEntry<'_>, host: &SharedText, notes: &mut Notes<'_>) {
    let message = format!(
        "{} is declared by {} already, which came first and differs in more than its ports",
        host.value, owner.resource.label
    );
    notes.once_with(entry.resource, Code::LostHost, host.span, message, |diagnostic| {
        diagnostic
            .found(&*host.value)
            .help("ports are merged only where namespace, resolution, labels and exportTo are equal");
    });
}
