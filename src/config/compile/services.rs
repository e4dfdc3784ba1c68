//! Which ServiceEntry or Service declares which host and port, seen from one namespace (ISTIO 2.5), and which hosts are aliases (13).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::notes::Notes;
use crate::config::diagnostic::Code;
use crate::config::kinds::SharedText;
use crate::config::kinds::service_entry::{Port, Provider, ServiceEntry};
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
    aliases: Vec<Alias<'e, 'r>>,
    /// Indices of `aliases` by host.
    alias_of: HashMap<Arc<str>, usize>,
}

/// An ExternalName Service whose target is known: another name of that.
#[derive(Debug)]
pub(super) struct Alias<'e, 'r> {
    pub(super) entry: &'e ServiceEntry<'r>,
    pub(super) host: &'e SharedText,
    /// The host that it stands for, itself no alias.
    pub(super) target: Arc<str>,
}

impl<'e, 'r> Registry<'e, 'r> {
    /// The own namespace first, then what the settings allow, then Kubernetes Services, then the oldest; losers add their ports where
    /// everything else is equal, and what the settings allow always does. So nobody outside the namespace can say where a name leads
    /// that the settings allow.
    pub(super) fn new(entries: &'e [ServiceEntry<'r>], namespace: &str, notes: &mut Notes<'_>) -> Self {
        let visible = |entry: &&ServiceEntry<'_>| entry.is_settings() || entry.export_to.reaches(namespace);
        let is_own = |entry: &ServiceEntry<'_>| &*entry.resource.metadata.namespace == namespace;
        let mut entries: Vec<&ServiceEntry<'_>> = entries.iter().filter(visible).collect();
        // Stable: they are ordered by age.
        let rank = |entry: &ServiceEntry<'_>| match (entry.is_settings(), is_own(entry)) {
            (false, true) => 0,
            (true, _) => 1,
            (false, false) => 2,
        };
        entries.sort_by_key(|entry| (rank(entry), !entry.is_kubernetes()));
        let mut owners: HashMap<Arc<str>, &ServiceEntry<'_>> = HashMap::with_capacity(entries.len());
        let mut registry = Self {
            declared: Vec::with_capacity(entries.len()),
            by_host: HostIndex::default(),
            aliases: Vec::new(),
            alias_of: HashMap::new(),
        };
        let mut external_names = Vec::new();
        for entry in entries {
            match &entry.provider {
                Provider::ExternalName(name) => external_names.extend(external_name(entry, name, &mut owners, notes)),
                Provider::External | Provider::Kubernetes { .. } => registry.add_entry(entry, &mut owners, notes),
            }
        }
        registry.add_external_names(&external_names, notes);
        registry
    }

    /// An alias where the registry knows the name, at the end of a chain of them; else a DNS service of its own.
    fn add_external_names(&mut self, names: &[ExternalName<'e, 'r>], notes: &mut Notes<'_>) {
        let by_host: HashMap<&Arc<str>, &ExternalName<'_, '_>> =
            names.iter().map(|name| (&name.host.value, name)).collect();
        let mut aliases = Vec::new();
        for name in names {
            let mut last = name;
            let mut steps = 0;
            while let Some(next) = by_host.get(&last.name.value) {
                last = next;
                steps += 1;
                if steps > by_host.len() {
                    break;
                }
            }
            if steps > by_host.len() {
                let message =
                    format!("{} leads back to itself by way of other Services: nothing declares it", name.host.value);
                notes.once(name.entry.resource, Code::AliasLoop, name.name.span, message);
            } else if self.by_host.get(&last.name.value).is_some_and(|ports| !ports.is_empty()) {
                aliases.push((name, last.name.value.clone()));
            } else if std::ptr::eq(last, name) {
                self.add_own_name(name, notes);
            } else {
                aliases.push((name, last.host.value.clone()));
            }
        }
        for (name, target) in aliases {
            self.warn_of_alias(name, &target, notes);
            self.alias_of.insert(name.host.value.clone(), self.aliases.len());
            self.aliases.push(Alias { entry: name.entry, host: name.host, target });
        }
    }

    fn add_own_name(&mut self, name: &ExternalName<'e, 'r>, notes: &mut Notes<'_>) {
        if name.entry.ports.is_empty() {
            let message =
                format!("nothing loaded declares {}, and a Service of its own needs `ports`", name.name.value);
            notes.once(name.entry.resource, Code::ServiceWithoutPorts, name.name.span, message);
        }
        let hosts: Arc<[Arc<str>]> = Arc::new([name.host.value.clone(), name.name.value.clone()]);
        self.add_ports(name.entry, name.host, &hosts, notes);
    }

    /// The ports of an alias are those of what it stands for (ISTIO 13).
    fn warn_of_alias(&self, name: &ExternalName<'_, '_>, target: &str, notes: &mut Notes<'_>) {
        let ports = self.ports(target);
        for port in &name.entry.ports {
            if !ports.iter().any(|declared| declared.port.number == port.number) {
                let message = format!("not used: this is an alias of {target}, which has no port {}", port.number);
                notes.once(name.entry.resource, Code::AliasPort, port.span, message);
            }
        }
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
            self.add_ports(entry, host, &hosts, notes);
        }
    }

    fn add_ports(
        &mut self,
        entry: &'e ServiceEntry<'r>,
        host: &SharedText,
        hosts: &Arc<[Arc<str>]>,
        notes: &mut Notes<'_>,
    ) {
        for port in &entry.ports {
            // No flow of ours is UDP.
            let Some(protocol) = port.protocol else { continue };
            let declared = Declared { entry, host: host.value.clone(), hosts: hosts.clone(), port, protocol };
            self.add_port(declared, notes);
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

    /// Hosts that stand for others.
    pub(super) fn aliases(&self) -> &[Alias<'e, 'r>] {
        &self.aliases
    }

    /// The alias of this host.
    pub(super) fn alias(&self, host: &str) -> Option<&Alias<'e, 'r>> {
        self.alias_of.get(host).map(|index| &self.aliases[*index])
    }

    /// The ports of exactly this host (or pattern); an alias has those of what it stands for.
    pub(super) fn ports(&self, host: &str) -> Vec<&Declared<'e, 'r>> {
        let host = self.alias(host).map_or(host, |alias| &*alias.target);
        self.by_host.get(host).into_iter().flatten().map(|index| &self.declared[*index as usize]).collect()
    }

    /// The ports of the most specific host over this host or pattern.
    pub(super) fn ports_covering(&self, host: &str) -> Vec<&Declared<'e, 'r>> {
        self.by_host.find_covering(host).into_iter().flatten().map(|index| &self.declared[*index as usize]).collect()
    }
}

/// An ExternalName Service that has its host.
struct ExternalName<'e, 'r> {
    entry: &'e ServiceEntry<'r>,
    host: &'e SharedText,
    name: &'e SharedText,
}

fn external_name<'e, 'r>(
    entry: &'e ServiceEntry<'r>,
    name: &'e SharedText,
    owners: &mut HashMap<Arc<str>, &'e ServiceEntry<'r>>,
    notes: &mut Notes<'_>,
) -> Option<ExternalName<'e, 'r>> {
    let host = entry.hosts.first()?;
    match owners.entry(host.value.clone()) {
        Entry::Vacant(vacant) => {
            vacant.insert(entry);
            Some(ExternalName { entry, host, name })
        }
        Entry::Occupied(owner) => {
            report_lost_host(owner.get(), entry, host, notes);
            None
        }
    }
}

fn is_mergeable(a: &ServiceEntry<'_>, b: &ServiceEntry<'_>) -> bool {
    a.resource.metadata.namespace == b.resource.metadata.namespace
        && a.resolution == b.resolution
        && a.resource.metadata.labels == b.resource.metadata.labels
        && a.provider == b.provider
        && match (&a.selector, &b.selector) {
            (None, None) => true,
            (Some(a), Some(b)) => a.is_same(b),
            _ => false,
        }
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
