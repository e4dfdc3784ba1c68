//! Settings and resources to one [`Snapshot`]: everything that concerns several of them together.
//!
//! [`services`] which resource declares which host, seen from each namespace · [`rules`] the DestinationRule of a host · [`clusters`] what to
//! connect to · [`routes`] VirtualServices · [`kubernetes`] Services with their addresses · [`names`] aliases and short names ·
//! [`authz`] AuthorizationPolicies · [`sidecars`] what a workload knows · [`credentials`] files and Secrets · [`allow`] the one-line list ·
//! [`consistency`] what a tunnel may carry.

pub mod allow;
mod authz;
mod clusters;
mod consistency;
mod credentials;
mod kubernetes;
mod literals;
mod names;
mod notes;
mod routes;
mod rules;
mod services;
mod sidecars;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use super::diagnostic::{Code, Diagnostics};
use super::kinds::authorization_policy::AuthorizationPolicy;
use super::kinds::destination_rule::DestinationRule;
use super::kinds::endpoint_slice;
use super::kinds::endpoints::Endpoints;
use super::kinds::secret::Secret;
use super::kinds::service;
use super::kinds::service_entry::ServiceEntry;
use super::kinds::sidecar::Sidecar;
use super::kinds::virtual_service::VirtualService;
use super::kinds::workload_entry::WorkloadEntry;
use super::resource::{Kind, Resource};
use super::settings::{Listener, OutboundMode, Settings};
use crate::flow::{Origin, Workload};
use crate::route::snapshot::{Outbound, View};
use crate::route::{AddressPolicy, Mode, Service, Snapshot};

use clusters::Clusters;
use credentials::Credentials;
use kubernetes::Kubernetes;
use notes::Notes;
use routes::VirtualServices;
use rules::Rules;
use services::Registry;

pub use allow::Expansion;

/// What came out.
#[derive(Debug)]
pub struct Compiled {
    /// The rules; to be used only if there were no errors.
    pub snapshot: Snapshot,
    /// Files that resources refer to (certificates, credentials), whose change calls for a reload.
    pub inputs: Vec<PathBuf>,
}

/// Compiles everything and reports all that is wrong. `resources` are in the order of loading, each name once.
pub fn compile(
    settings: &Settings,
    resources: &[Resource],
    generation: u64,
    diagnostics: &mut Diagnostics,
) -> Compiled {
    let allow = allow::expand(settings, resources.len(), diagnostics);
    let mut written = Written::read(resources, &settings.mesh.trust_domain, diagnostics);
    written.add_allow(&allow, diagnostics);
    written.add_mounted_secrets(settings, diagnostics);
    let mut notes = Notes::new(diagnostics);
    let mesh = settings.certificates.as_ref().map(|folder| folder.value.as_path());
    let mut credentials = Credentials::new(&settings.files.root, mesh, std::mem::take(&mut written.secrets));
    let policy = Arc::new(settings.addresses.policy());
    let mut views = foldhash::HashMap::default();
    for namespace in namespaces(settings, resources) {
        let client = Workload { namespace: namespace.clone(), ..Workload::default() };
        let mut seen = Seen { settings, written: &written, policy: &policy, client: &client };
        let view = seen.compile(&mut credentials, &mut notes);
        views.insert(namespace, view);
    }
    // No namespace is called that: nothing is its own.
    let nobody = Workload { namespace: "".into(), ..Workload::default() };
    let elsewhere = asks_certificates(settings).then(|| {
        let mut seen = Seen { settings, written: &written, policy: &policy, client: &nobody };
        Box::new(seen.compile(&mut credentials, &mut notes))
    });
    let mut selected: Vec<(Arc<Workload>, View)> = Vec::new();
    for client in workloads(settings).chain(certified(settings, resources)) {
        let is_new = !selected.iter().any(|(other, _)| other.has_same_rules(&client));
        let root = &settings.mesh.root_namespace;
        if is_new && (written.is_selecting(&client) || written.policies.select(&client, root)) {
            let mut seen = Seen { settings, written: &written, policy: &policy, client: &client };
            let view = seen.compile(&mut credentials, &mut notes);
            selected.push((client, view));
        }
    }
    let snapshot = Snapshot {
        generation,
        views,
        elsewhere,
        selected,
        outbound: outbound(settings),
        consistency: Arc::new(consistency::of_settings(settings)),
        https: credentials.system_roots(),
        trust_domain: (&*settings.mesh.trust_domain).into(),
    };
    Compiled { snapshot, inputs: credentials.into_inputs() }
}

/// Resources as written, by kind; the older before the younger.
#[derive(Debug, Default)]
struct Written<'r> {
    entries: Vec<ServiceEntry<'r>>,
    rules: Vec<DestinationRule<'r>>,
    virtual_services: Vec<VirtualService<'r>>,
    sidecars: Vec<Sidecar<'r>>,
    policies: authz::Compiled<'r>,
    secrets: HashMap<(Arc<str>, Arc<str>), Secret>,
}

impl<'r> Written<'r> {
    fn read(resources: &'r [Resource], trust_domain: &str, diagnostics: &mut Diagnostics) -> Self {
        let mut written = Self::default();
        let mut policies = Vec::new();
        let mut kubernetes = Kubernetes::default();
        for resource in resources {
            match resource.kind {
                Kind::ServiceEntry => written.entries.extend(ServiceEntry::read(resource, diagnostics)),
                Kind::DestinationRule => {
                    written.rules.extend(DestinationRule::read(resource, CLUSTER_DOMAIN, diagnostics));
                }
                Kind::VirtualService => {
                    written.virtual_services.extend(VirtualService::read(resource, CLUSTER_DOMAIN, diagnostics));
                }
                Kind::WorkloadEntry => {
                    kubernetes.workloads.extend(WorkloadEntry::read(resource, diagnostics));
                }
                Kind::Sidecar => written.sidecars.extend(Sidecar::read(resource, diagnostics)),
                Kind::AuthorizationPolicy => {
                    policies.extend(AuthorizationPolicy::read(resource, trust_domain, diagnostics));
                }
                Kind::Service => {
                    kubernetes.services.extend(service::Service::read(resource, CLUSTER_DOMAIN, diagnostics));
                }
                Kind::Endpoints => kubernetes.endpoints.extend(Endpoints::read(resource, diagnostics)),
                Kind::EndpointSlice => kubernetes.endpoints.extend(endpoint_slice::read(resource, diagnostics)),
                // What they say of the mesh is in the settings by now.
                Kind::ConfigMap | Kind::IstioOperator => {}
                Kind::Secret => {
                    let key = (resource.metadata.namespace.clone(), resource.metadata.name.clone());
                    written.secrets.extend(Secret::read(resource, diagnostics).map(|secret| (key, secret)));
                }
            }
        }
        kubernetes.put_together(&mut written.entries, diagnostics);
        written.policies = authz::Compiled::new(policies);
        written.entries.sort_by_key(|entry| entry.resource.age());
        written.sidecars.sort_by_key(|sidecar| sidecar.resource.age());
        written.rules.sort_by_key(|rule| rule.resource.age());
        written.virtual_services.sort_by_key(|service| service.resource.age());
        written
    }

    /// True if something applies to this very workload, and not to all of its namespace.
    fn is_selecting(&self, client: &Workload) -> bool {
        self.rules.iter().any(|rule| rule.is_selecting(client))
            || self.virtual_services.iter().any(|service| service.is_selecting(client))
            || self.sidecars.iter().any(|sidecar| sidecar.is_selecting(client))
            // Which endpoints are near depends on where it is.
            || clusters::balancing::of_workload(client).is_some() && !self.rules.is_empty()
    }

    /// Secrets that the settings mount win over documents: whoever writes resources must not replace them.
    fn add_mounted_secrets(&mut self, settings: &Settings, diagnostics: &mut Diagnostics) {
        for mounted in &settings.secrets {
            match Secret::mounted(&mounted.dir) {
                Ok(secret) => {
                    let key = (Arc::from(&*mounted.namespace), Arc::from(&*mounted.name.value));
                    self.secrets.insert(key, secret);
                }
                Err(_) if !mounted.dir.is_dir() => {} // warned of where the settings are read
                Err(error) => {
                    let message = format!("{}: {error}", mounted.dir.display());
                    settings.report(Code::MissingFile, mounted.name.span, message, diagnostics);
                }
            }
        }
    }

    /// What the settings allow adds to the resources of a namespace, and comes before those of all others.
    fn add_allow(&mut self, allow: &'r [Expansion], diagnostics: &mut Diagnostics) {
        for expansion in allow {
            // A service without name in its protocol is warned of where somebody chose it, not where we wrote it.
            let mut unheard = Diagnostics::default();
            let entry = ServiceEntry::read(&expansion.resource, &mut unheard);
            debug_assert_eq!(unheard.errors(), 0, "an expansion is valid: {}", expansion.yaml());
            if unheard.errors() > 0 {
                diagnostics.append(unheard);
            }
            self.entries.extend(entry.map(|entry| ServiceEntry { origin: Some(expansion.origin.clone()), ..entry }));
        }
    }
}

/// Everything as seen from one namespace, or from one workload in it.
struct Seen<'c, 'r> {
    settings: &'c Settings,
    written: &'c Written<'r>,
    policy: &'c Arc<AddressPolicy>,
    client: &'c Workload,
}

impl Seen<'_, '_> {
    fn compile(&mut self, credentials: &mut Credentials<'_>, notes: &mut Notes<'_>) -> View {
        let namespace = &self.client.namespace;
        let registry = Registry::new(&self.written.entries, namespace, notes);
        let root = &*self.settings.mesh.root_namespace;
        let sidecar = sidecars::of(&self.written.sidecars, self.client, root);
        let rules = Rules::new(&self.written.rules, self.client, root, notes);
        let virtual_services = VirtualServices::new(&self.written.virtual_services, self.client, sidecar, notes);
        let mut clusters = Clusters::new(self.settings, self.policy, self.client, &registry, &rules, credentials);
        let mut view = View::new(clusters.unknown(sidecar, notes));
        view.parents = clusters.listed(notes);
        view.policies = self.written.policies.of(self.client, root);
        view.outbound = sidecar.and_then(outbound_of_sidecar);
        let is_known = |host: &str, entry: &ServiceEntry<'_>, port: Option<u16>| {
            let namespace = &*entry.resource.metadata.namespace;
            entry.is_settings() || sidecar.is_none_or(|sidecar| sidecar.imports_service(namespace, host, port))
        };
        for declared in registry.iter() {
            if !is_known(&declared.host, declared.entry, Some(declared.port.number)) {
                continue; // routes may lead there all the same
            }
            let routes = virtual_services.routes(declared, &mut clusters, notes);
            let cluster = clusters.own(declared, notes);
            let service = Arc::new(Service {
                host: declared.host.clone(),
                port: declared.port.number,
                protocol: declared.protocol,
                origin: declared.entry.origin(declared.port.span),
                hosts: declared.hosts.clone(),
                consistency: consistency::of_entry(declared.entry, self.settings),
                cluster,
                routes,
                policies: None,
            });
            view.add(&service);
            literals::add(&mut view, declared, &service);
        }
        let known_aliases = registry.aliases().iter().filter(|alias| is_known(&alias.host.value, alias.entry, None));
        names::add_aliases(&mut view, known_aliases, &virtual_services, &mut clusters, notes);
        virtual_services.add_narrower_hosts(&mut view, &registry, &mut clusters, notes);
        names::add_short(&mut view, namespace, CLUSTER_DOMAIN);
        self.written.policies.protect(&mut view, &registry, notes);
        rules.warn_of_unused(&registry, notes);
        view
    }
}

/// What a Sidecar says of unknown targets.
fn outbound_of_sidecar(sidecar: &Sidecar<'_>) -> Option<Outbound> {
    let policy = sidecar.policy.as_ref()?;
    Some(Outbound { mode: mode(policy.value.mode), origin: sidecar.resource.origin(policy.span) })
}

/// Those that clients may have: the listeners', and all that have resources where certificates say whose a client is.
fn namespaces(settings: &Settings, resources: &[Resource]) -> BTreeSet<Arc<str>> {
    let certified = resources.iter().filter(|_| asks_certificates(settings)).map(|of| of.metadata.namespace.clone());
    workloads(settings).map(|workload| workload.namespace.clone()).chain(certified).collect()
}

/// What listeners that ask for certificates may act for.
fn certified(settings: &Settings, resources: &[Resource]) -> impl Iterator<Item = Arc<Workload>> {
    let asking = settings.listeners.iter().filter(|listener| listener.asks_certificates());
    asking.flat_map(|listener| {
        let own = settings.workload_of(listener);
        let of = move |namespace| Arc::new(Workload { namespace, ..Workload::clone(&own) });
        namespaces(settings, resources).into_iter().map(of)
    })
}

fn asks_certificates(settings: &Settings) -> bool {
    settings.listeners.iter().any(Listener::asks_certificates)
}

fn workloads(settings: &Settings) -> impl Iterator<Item = Arc<Workload>> {
    settings.listeners.iter().map(|listener| settings.workload_of(listener)).chain([settings.workload.clone()])
}

fn outbound(settings: &Settings) -> Outbound {
    Outbound { mode: mode(settings.mesh.mode), origin: policy_origin(settings) }
}

fn mode(mode: OutboundMode) -> Mode {
    match mode {
        OutboundMode::AllowAny => Mode::AllowAny,
        OutboundMode::RegistryOnly { report: false } => Mode::RegistryOnly,
        OutboundMode::RegistryOnly { report: true } => Mode::Report,
    }
}

/// What says what becomes of unknown targets; the built-in default where nothing does.
fn policy_origin(settings: &Settings) -> Origin {
    let built_in =
        || Origin { file: "built-in".into(), resource: "mesh.outboundTrafficPolicy".into(), ..Origin::default() };
    settings.policy_origin().unwrap_or_else(built_in)
}

const CLUSTER_DOMAIN: &str = "cluster.local"; // Kubernetes' default; short names are completed with it
