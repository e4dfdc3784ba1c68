//! What to connect to: clusters of service ports, of subsets, and of parent proxies.

pub(super) mod balancing;
mod connection_pool;
mod discovery;
mod origination;
mod parents;
mod upstream_http;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use self::balancing::standing;
use self::connection_pool::connection_pool;
use self::discovery::{discovery, opened, parent_discovery};
use self::origination::{parent_origination, warn_of_double_tls};
use self::upstream_http::upstream_http;
use super::credentials::{Credentials, Missing};
use super::notes::Notes;
use super::rules::{Rule, Rules};
use super::services::{Declared, Registry};
use crate::config::diagnostic::Code;
use crate::config::kinds::SharedText;
use crate::config::kinds::destination_rule::{How, Settings as PortSettings, Subset, Tunnel};
use crate::config::kinds::service_entry::ServiceEntry;
use crate::config::kinds::sidecar::Sidecar;
use crate::config::resource::Resource;
use crate::config::settings::Settings;
use crate::config::source::Span;
use crate::flow::{Origin, Workload};
use crate::route::cluster::{Authorization, Balancing, Hop, TrafficPolicy};
use crate::route::parents::Parents;
use crate::route::upstream_http::UpstreamHttp;
use crate::route::{AddressPolicy, AddressRules, Cluster, Discovery, IpSet, PASSTHROUGH_CLUSTER, Protocol, Via};

/// Makes the clusters that one namespace sees.
#[derive(Debug)]
pub(super) struct Clusters<'c, 'r, 's> {
    settings: &'c Settings,
    policy: &'c Arc<AddressPolicy>,
    client: &'c Workload,
    namespace: &'c Arc<str>,
    registry: &'c Registry<'c, 'r>,
    rules: &'c Rules<'c, 'r>,
    credentials: &'c mut Credentials<'s>,
    /// `dial.source`, once for all clusters.
    source: Arc<[IpAddr]>,
    /// `parents` of the settings.
    parents: Option<Arc<Parents>>,
    /// Of routes, so that many routes to one place share one cluster.
    made: HashMap<Place, Arc<Cluster>>,
}

/// Where a route leads, and which kind of route it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) host: Arc<str>,
    pub(super) port: u16,
    pub(super) subset: Option<Arc<str>>,
    /// One of several weighted destinations of a route of bytes: there the tunnel of a subset does not count (ISTIO 8).
    pub(super) is_one_of_several: bool,
}

/// What a reference means.
struct Found<'c, 'r> {
    declared: Declared<'c, 'r>,
    rule: Option<&'c Rule<'c, 'r>>,
    subset: Option<&'c Subset>,
}

/// Where a reference stands, for what is missing.
#[derive(Clone, Copy)]
pub(super) struct Reference<'a> {
    pub(super) stands: Stands<'a>,
    pub(super) host: Span,
    pub(super) subset: Span,
}

/// In what a reference stands.
#[derive(Clone, Copy)]
pub(super) enum Stands<'a> {
    In(&'a Resource),
    /// `outboundTrafficPolicy`, of the settings or of a resource.
    InPolicy,
    InSettings,
}

impl<'c, 'r, 's> Clusters<'c, 'r, 's> {
    pub(super) fn new(
        settings: &'c Settings,
        policy: &'c Arc<AddressPolicy>,
        client: &'c Workload,
        registry: &'c Registry<'c, 'r>,
        rules: &'c Rules<'c, 'r>,
        credentials: &'c mut Credentials<'s>,
    ) -> Self {
        let source = settings.dial.source.as_slice().into();
        let namespace = &client.namespace;
        let (parents, made) = (None, HashMap::new());
        Self { settings, policy, client, namespace, registry, rules, credentials, source, parents, made }
    }

    /// The cluster of a service port itself.
    pub(super) fn own(&mut self, declared: &Declared<'_, '_>, notes: &mut Notes<'_>) -> Arc<Cluster> {
        let rule = self.rule(declared);
        if let Some(rule) = rule.filter(|_| declared.protocol == Protocol::Tls) {
            warn_of_double_tls(declared, rule, notes);
        }
        Arc::new(self.make(declared, rule, None, false, notes))
    }

    /// The cluster a route leads to; one that fails every flow where the place does not exist.
    pub(super) fn of_route(&mut self, place: &Place, reference: Reference<'_>, notes: &mut Notes<'_>) -> Arc<Cluster> {
        if let Some(made) = self.made.get(place) {
            return made.clone();
        }
        let cluster = Arc::new(self.make_of_route(place, reference, notes));
        self.made.insert(place.clone(), cluster.clone());
        cluster
    }

    /// What flows to unknown targets go to: themselves, or `egressProxy`.
    pub(super) fn unknown(&mut self, sidecar: Option<&Sidecar<'_>>, notes: &mut Notes<'_>) -> Arc<Cluster> {
        let own = sidecar.and_then(|sidecar| Some((sidecar.resource, sidecar.policy.as_ref()?)));
        let (origin, resource, proxy) = match own {
            Some((resource, policy)) => {
                (resource.origin(policy.span), Some(resource), policy.value.egress_proxy.as_ref())
            }
            None => {
                (crate::config::compile::policy_origin(self.settings), None, self.settings.mesh.egress_proxy.as_ref())
            }
        };
        let plain = self.pass_through(origin.clone());
        let Some(proxy) = proxy else { return Arc::new(plain) };
        let place = Place {
            host: proxy.host.value.as_ref().into(),
            port: proxy.port,
            subset: proxy.subset.as_ref().map(|subset| subset.value.as_ref().into()),
            is_one_of_several: false,
        };
        let subset = proxy.subset.as_ref().map_or(proxy.host.span, |subset| subset.span);
        let stands = resource.map_or(Stands::InPolicy, Stands::In);
        let reference = Reference { stands, host: proxy.host.span, subset };
        let (discovery, via) = match self.find(&place, reference, notes) {
            Ok(Found { declared, rule, subset }) => {
                let hop = self.hop(&declared, rule, subset, None, origin, notes);
                (Discovery::Asked { port: None }, Via::Connect(Arc::new(hop)))
            }
            Err(sentence) => (Discovery::Missing(sentence), Via::Direct),
        };
        Arc::new(Cluster { discovery, via, ..plain })
    }

    /// Unknown targets themselves.
    fn pass_through(&self, origin: Origin) -> Cluster {
        let (name, discovery) = (PASSTHROUGH_CLUSTER.into(), Discovery::Asked { port: None });
        let addresses = self.address_rules(IpSet::default());
        let cluster = Cluster::new(name, origin, discovery, addresses, self.settings.mesh.connect_timeout);
        Cluster { source: self.source.clone(), ..cluster }
    }

    fn make_of_route(&mut self, place: &Place, reference: Reference<'_>, notes: &mut Notes<'_>) -> Cluster {
        match self.find(place, reference, notes) {
            Ok(Found { declared, rule, subset }) => self.make(&declared, rule, subset, place.is_one_of_several, notes),
            Err(sentence) => self.missing(place, sentence),
        }
    }

    /// Finds the service port and subset that a reference means, or reports what is missing.
    fn find(&self, place: &Place, reference: Reference<'_>, notes: &mut Notes<'_>) -> Result<Found<'c, 'r>, Arc<str>> {
        let ports = self.registry.ports(&place.host);
        let Some(declared) = ports.iter().find(|declared| declared.port.number == place.port) else {
            let sentence = match ports.as_slice() {
                [] => format!("no loaded resource declares {}", place.host),
                _ => format!("{} has no port {}", place.host, place.port),
            };
            self.report(reference, Code::MissingDestination, reference.host, &sentence, notes);
            return Err(sentence.into());
        };
        let rule = self.rule(declared);
        let found = |subset| Found { declared: (*declared).clone(), rule, subset };
        let Some(name) = &place.subset else { return Ok(found(None)) };
        match rule.and_then(|rule| rule.subset(name)) {
            Some((_, subset)) => Ok(found(Some(subset))),
            None => {
                let sentence = format!("no DestinationRule declares a subset {name} of {}", place.host);
                self.report(reference, Code::MissingSubset, reference.subset, &sentence, notes);
                Err(sentence.into())
            }
        }
    }

    fn report(&self, reference: Reference<'_>, code: Code, span: Span, sentence: &str, notes: &mut Notes<'_>) {
        let message = format!("{sentence}: flows that are sent there are answered 503");
        match reference.stands {
            Stands::In(resource) => notes.once(resource, code, span, message),
            Stands::InPolicy if notes.is_new(usize::MAX, code, span) => {
                self.settings.report_policy(code, span, message, notes.diagnostics);
            }
            Stands::InSettings if notes.is_new(usize::MAX, code, span) => {
                self.settings.report(code, span, message, notes.diagnostics);
            }
            Stands::InPolicy | Stands::InSettings => {}
        }
    }

    fn rule(&self, declared: &Declared<'_, '_>) -> Option<&'c Rule<'c, 'r>> {
        self.rules.find(&declared.host, &declared.entry.resource.metadata.namespace)
    }

    /// A service port or a subset of it; through it to a fixed target where the rule says `tunnel`: a route with a subset by that of the
    /// subset alone, every other by the rule's own (ISTIO 8). Istio lets HTTP routes pass it by; here they go the same way.
    fn make(
        &mut self,
        declared: &Declared<'_, '_>,
        rule: Option<&Rule<'_, '_>>,
        subset: Option<&Subset>,
        is_one_of_several: bool,
        notes: &mut Notes<'_>,
    ) -> Cluster {
        let tunnel = rule.and_then(|rule| match subset.filter(|_| !is_one_of_several) {
            Some(subset) => Some((rule, subset.policy.tunnel.as_ref()?)),
            None => Some((rule, rule.policy().tunnel.as_ref()?)),
        });
        let Some((rule, target)) = tunnel else {
            let cluster = self.direct(declared, rule, subset, notes);
            return self.led(cluster, declared, rule, notes);
        };
        let origin = rule.resource().origin(target.span);
        let hop = self.hop(declared, Some(rule), subset, Some(&target.value), origin, notes);
        Cluster {
            name: hop.cluster.name.clone(),
            origin: declared.entry.origin(declared.port.span),
            discovery: Discovery::Asked { port: None },
            via: Via::Connect(Arc::new(hop)),
            tls: None,
            addresses: self.address_rules(IpSet::default()),
            // The port's protocol is how the parent is asked, and says nothing of what it leads to.
            http: UpstreamHttp::default(),
            ..self.direct(declared, None, None, notes)
        }
    }

    /// A parent proxy: the service port that it is.
    fn hop(
        &mut self,
        declared: &Declared<'_, '_>,
        rule: Option<&Rule<'_, '_>>,
        subset: Option<&Subset>,
        tunnel: Option<&Tunnel>,
        origin: Origin,
        notes: &mut Notes<'_>,
    ) -> Hop {
        let cluster = self.direct(declared, rule, subset, notes);
        let discovery = parent_discovery(declared, cluster.discovery.clone());
        let tls = cluster.tls.as_deref().map(|tls| Arc::new(parent_origination(declared, tls.clone())));
        let authorization = rule.and_then(Rule::authorization).map(|(resource, reference)| {
            let value = self
                .credentials
                .authorization(&reference.value)
                .map_err(|missing| report_missing(resource, reference.span, missing, "the parent proxy", notes));
            Authorization { from: reference.value.to_string().into(), value }
        });
        let probe = rule.and_then(Rule::probe).or(declared.entry.annotations.probe.as_ref());
        Hop {
            cluster: Arc::new(Cluster { discovery, tls, ..cluster }),
            method: tunnel.map(|tunnel| tunnel.method).unwrap_or_default(),
            target: tunnel.map(|tunnel| tunnel.target.clone()),
            authorization,
            absolute_form: declared.entry.annotations.absolute_form || rule.is_some_and(Rule::is_absolute_form),
            probe: probe.map(|probe| Arc::new(probe.value.clone())),
            origin,
        }
    }

    fn direct(
        &mut self,
        declared: &Declared<'_, '_>,
        rule: Option<&Rule<'_, '_>>,
        subset: Option<&Subset>,
        notes: &mut Notes<'_>,
    ) -> Cluster {
        let (entry, port) = (declared.entry, declared.port.number);
        let settings = rule.map(|rule| rule.settings(subset, port)).unwrap_or_default();
        let pool = settings.pool.unwrap_or_default();
        let source = &entry.annotations.source;
        let name = cluster_name(port, subset.map(|subset| &subset.name), &declared.host);
        let origin = entry.origin(declared.port.span);
        let (discovery, written) =
            discovery(declared, subset, settings.balancer.as_ref(), &self.settings.files.sockets, notes);
        let resource = rule.map(|rule| resource_of(rule, subset, &settings));
        let standing = standing(&settings, &discovery, &written, self.client, resource, notes);
        let policy = TrafficPolicy {
            standing,
            idle_timeout: pool.idle_timeout,
            requests_per_connection_max: pool.requests_per_connection_max,
            pool: rule.and_then(|rule| connection_pool(rule, subset, &settings)),
            proxy_protocol: rule.and_then(|rule| rule.proxy_protocol(subset)),
        };
        let connect_timeout = pool.connect_timeout.unwrap_or(self.settings.mesh.connect_timeout);
        Cluster {
            tls: self.origination(declared, rule, subset, &settings, notes).map(Arc::new),
            source: if source.is_empty() { self.source.clone() } else { source.as_slice().into() },
            balancing: match settings.balancer.as_ref().map(|balancer| balancer.how.clone()) {
                Some(How::Endpoints(balancing)) => balancing,
                Some(How::Asked) | None => Balancing::default(),
            },
            http: upstream_http(declared.protocol, &pool, self.settings),
            policy: policy.if_any(),
            retries: self.settings.mesh.retries.clone(),
            ..Cluster::new(name, origin, discovery, self.address_rules(opened(entry)), connect_timeout)
        }
    }

    /// A cluster that fails every flow, for the reason given.
    pub(super) fn nowhere(&self, host: &str, port: u16, sentence: &str) -> Arc<Cluster> {
        let place = Place { host: host.into(), port, subset: None, is_one_of_several: false };
        Arc::new(self.missing(&place, sentence.into()))
    }

    fn missing(&self, place: &Place, sentence: Arc<str>) -> Cluster {
        let subset = place.subset.as_deref().unwrap_or_default();
        let name: Arc<str> = format!("outbound|{}|{subset}|{}", place.port, place.host).into();
        let addresses = self.address_rules(IpSet::default());
        let discovery = Discovery::Missing(sentence);
        Cluster::new(name, Origin::default(), discovery, addresses, self.settings.mesh.connect_timeout)
    }

    fn address_rules(&self, opened: IpSet) -> AddressRules {
        AddressRules { policy: self.policy.clone(), opened }
    }

    pub(super) fn consistency(&self, entry: &ServiceEntry<'_>) -> Option<Arc<crate::route::consistency::Policy>> {
        crate::config::compile::consistency::of_entry(entry, self.settings)
    }

    pub(super) fn registry(&self) -> &'c Registry<'c, 'r> {
        self.registry
    }
}

/// The resource that says how endpoints are picked: that of the subset, where it says so.
fn resource_of<'r>(rule: &Rule<'_, 'r>, subset: Option<&Subset>, settings: &PortSettings) -> &'r Resource {
    let spans = |settings: &PortSettings| {
        (settings.balancer.as_ref().map(|of| of.span), settings.outliers.as_ref().map(|of| of.span))
    };
    let (balancer, outliers) = spans(settings);
    let of_subset = subset.and_then(|subset| rule.subset(&subset.name.value)).filter(|(_, subset)| {
        let policy = &subset.policy;
        policy.ports.iter().map(|(_, settings)| settings).chain([&policy.settings]).any(|own| {
            let (own_balancer, own_outliers) = spans(own);
            balancer.is_some() && own_balancer == balancer || outliers.is_some() && own_outliers == outliers
        })
    });
    of_subset.map_or_else(|| rule.resource(), |(of, _)| of.resource)
}

fn cluster_name(port: u16, subset: Option<&SharedText>, host: &str) -> Arc<str> {
    format!("outbound|{port}|{}|{host}", subset.map_or("", |subset| &*subset.value)).into()
}

fn report_missing(resource: &Resource, span: Span, missing: Missing, what: &str, notes: &mut Notes<'_>) -> Arc<str> {
    let message = format!("{}: flows that need {what} fail with 503", missing.sentence);
    notes.once(resource, missing.code, span, message);
    missing.sentence.into()
}
