//! What to connect to: clusters of service ports, of subsets, and of parent proxies.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::credentials::{Credentials, Missing, Peer};
use super::notes::Notes;
use super::rules::{Rule, Rules};
use super::services::{Declared, Registry};
use crate::account::Traffic;
use crate::config::diagnostic::Code;
use crate::config::kinds::SharedText;
use crate::config::kinds::destination_rule::{Balancer, Settings as PortSettings, Subset, Tls, TlsMode};
use crate::config::kinds::service_entry::{self, Resolution, ServiceEntry};
use crate::config::kinds::sidecar::Sidecar;
use crate::config::resource::Resource;
use crate::config::settings::Settings;
use crate::config::source::{Span, Spanned};
use crate::flow::{Host, Name, Origin};
use crate::route::cluster::{Authorization, Balancing, Endpoint, EndpointAddress, Hop, Origination, Sni};
use crate::route::{AddressPolicy, AddressRules, Cluster, Discovery, IpSet, PASSTHROUGH_CLUSTER, Protocol, Via};
use crate::tls::ClientTls;
use crate::tls::x509::Shown;

/// Makes the clusters that one namespace sees.
#[derive(Debug)]
pub(super) struct Clusters<'c, 'r, 's> {
    settings: &'c Settings,
    policy: &'c Arc<AddressPolicy>,
    namespace: &'c Arc<str>,
    registry: &'c Registry<'c, 'r>,
    rules: &'c Rules<'c, 'r>,
    credentials: &'c mut Credentials<'s>,
    /// `dial.source`, once for all clusters.
    source: Arc<[IpAddr]>,
    /// Of routes, so that many routes to one place share one cluster.
    made: HashMap<Place, Arc<Cluster>>,
}

/// Where a route leads, and which kind of route it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) host: Arc<str>,
    pub(super) port: u16,
    pub(super) subset: Option<Arc<str>>,
    /// `tunnel` of a DestinationRule acts on these routes only (ISTIO 8).
    pub(super) is_tcp: bool,
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
    pub(super) resource: Option<&'a Resource>,
    pub(super) host: Span,
    pub(super) subset: Span,
}

impl<'c, 'r, 's> Clusters<'c, 'r, 's> {
    pub(super) fn new(
        settings: &'c Settings,
        policy: &'c Arc<AddressPolicy>,
        namespace: &'c Arc<str>,
        registry: &'c Registry<'c, 'r>,
        rules: &'c Rules<'c, 'r>,
        credentials: &'c mut Credentials<'s>,
    ) -> Self {
        let source = settings.dial.source.as_slice().into();
        Self { settings, policy, namespace, registry, rules, credentials, source, made: HashMap::new() }
    }

    /// The cluster of a service port itself.
    pub(super) fn own(&mut self, declared: &Declared<'_, '_>, notes: &mut Notes<'_>) -> Arc<Cluster> {
        let rule = self.rule(declared);
        if let Some(rule) = rule.filter(|_| declared.protocol == Protocol::Tls) {
            warn_of_double_tls(declared, rule, notes);
        }
        Arc::new(self.make(declared, rule, None, !declared.protocol.is_http(), notes))
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
            None => (super::policy_origin(self.settings), None, self.settings.mesh.egress_proxy.as_ref()),
        };
        let plain = Cluster {
            traffic: Traffic::new(PASSTHROUGH_CLUSTER.into(), origin.resource.clone()),
            name: PASSTHROUGH_CLUSTER.into(),
            origin: origin.clone(),
            discovery: Discovery::Asked { port: None },
            via: Via::Direct,
            tls: None,
            connect_timeout: self.settings.mesh.connect_timeout,
            addresses: self.address_rules(IpSet::default()),
            source: self.source.clone(),
            balancing: Balancing::default(),
            idle_timeout: None,
            requests_per_connection_max: 0,
        };
        let Some(proxy) = proxy else { return Arc::new(plain) };
        let place = Place {
            host: proxy.host.value.as_ref().into(),
            port: proxy.port,
            subset: proxy.subset.as_ref().map(|subset| subset.value.as_ref().into()),
            is_tcp: false,
        };
        let subset = proxy.subset.as_ref().map_or(proxy.host.span, |subset| subset.span);
        let reference = Reference { resource, host: proxy.host.span, subset };
        let (discovery, via) = match self.find(&place, reference, notes) {
            Ok(Found { declared, rule, subset }) => {
                let hop = self.hop(&declared, rule, subset, None, origin, notes);
                (Discovery::Asked { port: None }, Via::Connect(Arc::new(hop)))
            }
            Err(sentence) => (Discovery::Missing(sentence), Via::Direct),
        };
        Arc::new(Cluster { discovery, via, ..plain })
    }

    fn make_of_route(&mut self, place: &Place, reference: Reference<'_>, notes: &mut Notes<'_>) -> Cluster {
        match self.find(place, reference, notes) {
            Ok(Found { declared, rule, subset }) => self.make(&declared, rule, subset, place.is_tcp, notes),
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
        match reference.resource {
            Some(resource) => notes.once(resource, code, span, message),
            None if notes.is_new(usize::MAX, code, span) => {
                self.settings.report_policy(code, span, message, notes.diagnostics);
            }
            None => {}
        }
    }

    fn rule(&self, declared: &Declared<'_, '_>) -> Option<&'c Rule<'c, 'r>> {
        self.rules.find(&declared.host, &declared.entry.resource.metadata.namespace)
    }

    /// A service port or a subset of it; through a CONNECT where the rule says `tunnel` and the route is one of bytes.
    fn make(
        &mut self,
        declared: &Declared<'_, '_>,
        rule: Option<&Rule<'_, '_>>,
        subset: Option<&Subset>,
        is_tcp: bool,
        notes: &mut Notes<'_>,
    ) -> Cluster {
        let tunnel = rule.filter(|_| is_tcp).and_then(|rule| match subset {
            Some(subset) => Some((rule, subset.policy.tunnel.as_ref()?)),
            None => Some((rule, rule.policy().tunnel.as_ref()?)),
        });
        let Some((rule, target)) = tunnel else { return self.direct(declared, rule, subset, notes) };
        let origin = rule.resource().origin(target.span);
        let hop = self.hop(declared, Some(rule), subset, Some(target.value.clone()), origin, notes);
        Cluster {
            name: hop.cluster.name.clone(),
            origin: declared.entry.origin(declared.port.span),
            discovery: Discovery::Asked { port: None },
            via: Via::Connect(Arc::new(hop)),
            tls: None,
            addresses: self.address_rules(IpSet::default()),
            ..self.direct(declared, None, None, notes)
        }
    }

    /// A parent proxy: the service port that it is.
    fn hop(
        &mut self,
        declared: &Declared<'_, '_>,
        rule: Option<&Rule<'_, '_>>,
        subset: Option<&Subset>,
        target: Option<crate::flow::Target>,
        origin: Origin,
        notes: &mut Notes<'_>,
    ) -> Hop {
        if matches!(declared.protocol, Protocol::Http2 | Protocol::Grpc) {
            let message =
                format!("{} is asked as a parent proxy, which HTTP/2 is not supported for yet", declared.host);
            notes.once_with(declared.entry.resource, Code::ParentProtocol, declared.port.span, message, |diagnostic| {
                diagnostic.help("a port of protocol HTTP or TCP is asked with HTTP/1.1");
            });
        }
        let cluster = self.direct(declared, rule, subset, notes);
        let discovery = parent_discovery(declared, cluster.discovery.clone());
        let tls = cluster.tls.as_deref().map(|tls| Arc::new(parent_origination(declared, tls.clone())));
        let authorization = rule.and_then(Rule::authorization).map(|(resource, reference)| {
            let value = self
                .credentials
                .authorization(&reference.value)
                .map_err(|missing| report_missing(resource, reference.span, missing, "the parent proxy", notes));
            Authorization { value }
        });
        Hop {
            cluster: Arc::new(Cluster { discovery, tls, ..cluster }),
            target,
            authorization,
            absolute_form: declared.entry.annotations.absolute_form || rule.is_some_and(Rule::is_absolute_form),
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
        Cluster {
            traffic: Traffic::new(name.clone(), origin.resource.clone()),
            name,
            origin,
            discovery: discovery(declared, subset, settings.balancer, &self.settings.files.sockets, notes),
            via: Via::Direct,
            tls: self.origination(declared, rule, subset, &settings, notes).map(Arc::new),
            connect_timeout: pool.connect_timeout.unwrap_or(self.settings.mesh.connect_timeout),
            addresses: self.address_rules(opened(entry)),
            source: if source.is_empty() { self.source.clone() } else { source.as_slice().into() },
            balancing: match settings.balancer {
                Some(Balancer::Endpoints(balancing)) => balancing,
                Some(Balancer::Asked) | None => Balancing::default(),
            },
            idle_timeout: pool.idle_timeout,
            requests_per_connection_max: pool.requests_per_connection_max,
        }
    }

    fn origination(
        &mut self,
        declared: &Declared<'_, '_>,
        rule: Option<&Rule<'_, '_>>,
        subset: Option<&Subset>,
        settings: &PortSettings,
        notes: &mut Notes<'_>,
    ) -> Option<Origination> {
        let tls = settings.tls.as_ref()?;
        let mode = match tls.value.mode {
            TlsMode::Disable => return None,
            TlsMode::Simple => "SIMPLE",
            TlsMode::Mutual => "MUTUAL",
            TlsMode::IstioMutual => "ISTIO_MUTUAL",
        };
        let rule = rule?;
        // Where the subset has settings, they stand in its own resource.
        let resource = match subset.and_then(|subset| rule.subset(&subset.name.value)) {
            Some((of, subset)) if is_from_subset(tls, subset) => of.resource,
            _ => rule.resource(),
        };
        let subset_name = subset.map(|subset| &*subset.name.value);
        let peer = Peer {
            names: &declared.entry.subject_alt_names,
            namespace: self.namespace,
            trust_domain: &self.settings.mesh.trust_domain,
            protocol: declared.protocol,
        };
        let client = self.credentials.client(&tls.value, &peer);
        let client = client.map_err(|missing| {
            let span = missing_span(&tls.value, tls.span);
            report_missing(resource, span, missing, "TLS", notes)
        });
        if let Ok(client) = &client
            && let Some(problem) = expiry(client)
        {
            notes.once(resource, Code::CertificateNotValid, missing_span(&tls.value, tls.span), problem);
        }
        let of_mesh = || (tls.value.mode == TlsMode::IstioMutual).then(|| mesh_sni(declared, subset_name)).flatten();
        let sni = tls.value.sni.clone().or_else(of_mesh).map_or(Sni::Asked, Sni::Fixed);
        Some(Origination { mode, sni, client, origin: resource.origin(tls.span) })
    }

    /// A cluster that fails every flow, for the reason given.
    pub(super) fn nowhere(&self, host: &str, port: u16, sentence: &str) -> Arc<Cluster> {
        let place = Place { host: host.into(), port, subset: None, is_tcp: false };
        Arc::new(self.missing(&place, sentence.into()))
    }

    fn missing(&self, place: &Place, sentence: Arc<str>) -> Cluster {
        let subset = place.subset.as_deref().unwrap_or_default();
        let name: Arc<str> = format!("outbound|{}|{subset}|{}", place.port, place.host).into();
        let origin = Origin::default();
        Cluster {
            traffic: Traffic::new(name.clone(), origin.resource.clone()),
            name,
            origin,
            discovery: Discovery::Missing(sentence),
            via: Via::Direct,
            tls: None,
            connect_timeout: self.settings.mesh.connect_timeout,
            addresses: self.address_rules(IpSet::default()),
            source: Arc::default(),
            balancing: Balancing::default(),
            idle_timeout: None,
            requests_per_connection_max: 0,
        }
    }

    fn address_rules(&self, opened: IpSet) -> AddressRules {
        AddressRules { policy: self.policy.clone(), opened }
    }

    pub(super) fn consistency(&self, entry: &ServiceEntry<'_>) -> Option<Arc<crate::route::consistency::Policy>> {
        super::consistency::of_entry(entry, self.settings)
    }

    pub(super) fn registry(&self) -> &'c Registry<'c, 'r> {
        self.registry
    }
}

fn warn_of_double_tls(declared: &Declared<'_, '_>, rule: &Rule<'_, '_>, notes: &mut Notes<'_>) {
    let Some(tls) = rule.settings(None, declared.port.number).tls.filter(|tls| tls.value.mode != TlsMode::Disable)
    else {
        return;
    };
    let message = format!(
        "tunnels to port {} of {} carry TLS of the client, which this rule would wrap into TLS again",
        declared.port.number, declared.host
    );
    notes.once_with(rule.resource(), Code::DoubleTls, tls.span, message, |diagnostic| {
        diagnostic.help("limit it to the plain port with portLevelSettings");
    });
}

fn cluster_name(port: u16, subset: Option<&SharedText>, host: &str) -> Arc<str> {
    format!("outbound|{port}|{}|{host}", subset.map_or("", |subset| &*subset.value)).into()
}

/// Where addresses come from (CONTRACT "resolution on explicit listeners").
fn discovery(
    declared: &Declared<'_, '_>,
    subset: Option<&Subset>,
    balancer: Option<Balancer>,
    sockets: &[impl AsRef<Path>],
    notes: &mut Notes<'_>,
) -> Discovery {
    let (entry, port) = (declared.entry, declared.port);
    let number = port.target_port.unwrap_or(port.number);
    let is_asked = matches!(entry.resolution, Resolution::None | Resolution::DynamicDns);
    if is_asked || balancer == Some(Balancer::Asked) {
        return Discovery::Asked { port: Some(number) };
    }
    let chosen = |endpoint: &&service_entry::Endpoint<'_>| {
        subset.is_none_or(|subset| subset.labels.iter().all(|label| endpoint.labels.contains(label)))
    };
    let located = |endpoint: &service_entry::Endpoint<'_>| {
        let at = locate(endpoint, entry.endpoint_port(endpoint, port)?, sockets, notes)?;
        Some(Endpoint { at, weight: endpoint.weight })
    };
    let mut endpoints: Vec<Endpoint> = entry.endpoints.iter().filter(chosen).filter_map(located).collect();
    endpoints.shrink_to_fit(); // they stay as long as the generation
    if entry.resolution == Resolution::Static {
        return Discovery::Static(endpoints);
    }
    if entry.endpoints.is_empty()
        && entry.selector.is_none()
        && subset.is_none_or(|subset| subset.labels.is_empty())
        && let Ok(host) = Host::of_resource(&declared.host)
    {
        endpoints = vec![Endpoint { at: EndpointAddress::Host(host, number), weight: 1 }];
    }
    if endpoints.is_empty() {
        return Discovery::Static(endpoints);
    }
    Discovery::Dns { endpoints, first_address_only: entry.resolution == Resolution::DnsRoundRobin }
}

fn locate(
    endpoint: &service_entry::Endpoint<'_>,
    port: u16,
    sockets: &[impl AsRef<Path>],
    notes: &mut Notes<'_>,
) -> Option<EndpointAddress> {
    match endpoint.address.as_ref()? {
        service_entry::EndpointAddress::Host(host) => Some(EndpointAddress::Host(host.clone(), port)),
        service_entry::EndpointAddress::Unix(path) => {
            let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
            if !climbs && sockets.iter().any(|folder| path.starts_with(folder)) {
                return Some(EndpointAddress::Unix(path.clone()));
            }
            let message = format!("{} lies under none of the folders of `files.sockets`", path.display());
            notes.once(endpoint.resource, Code::SocketNotAllowed, endpoint.span, message);
            None
        }
    }
}

/// What is dialled for a parent is the parent, whatever the client asked for: with NONE its address if it has one, else its name.
fn parent_discovery(declared: &Declared<'_, '_>, discovery: Discovery) -> Discovery {
    let Discovery::Asked { port } = discovery else { return discovery };
    let port = port.unwrap_or(declared.port.number);
    let single = declared.entry.addresses.iter().filter(|net| net.prefix_len() == net.max_prefix_len());
    let endpoint = |host| Endpoint { at: EndpointAddress::Host(host, port), weight: 1 };
    let endpoints: Vec<Endpoint> = single.map(|net| endpoint(Host::Ip(net.addr().to_canonical()))).collect();
    if !endpoints.is_empty() {
        return Discovery::Static(endpoints);
    }
    match Host::of_resource(&declared.host) {
        Ok(host) => Discovery::Dns { endpoints: vec![endpoint(host)], first_address_only: false },
        Err(_) => Discovery::Missing(format!("{} is no name of a parent proxy", declared.host).into()),
    }
}

/// The name to send to a parent and to find in its certificate is the parent's own, not that of what the client asked for.
fn parent_origination(declared: &Declared<'_, '_>, tls: Origination) -> Origination {
    match (&tls.sni, Host::parse(declared.host.as_bytes())) {
        (Sni::Asked, Ok(Host::Name(name))) => Origination { sni: Sni::Fixed(name), ..tls },
        _ => tls,
    }
}

/// What the resource spells out: endpoints, `addresses` with NONE, and what its annotation opens (DESIGN 4.6).
fn opened(entry: &ServiceEntry<'_>) -> IpSet {
    let endpoints = entry.endpoints.iter().filter_map(|endpoint| match endpoint.address {
        Some(service_entry::EndpointAddress::Host(Host::Ip(ip))) => Some(ip.into()),
        _ => None,
    });
    let addresses = entry.addresses.iter().map(|net| net.value).filter(|_| entry.resolution == Resolution::None);
    endpoints.chain(addresses).chain(entry.annotations.allow_addresses.iter().copied()).collect()
}

fn is_from_subset(tls: &Spanned<Tls>, subset: &Subset) -> bool {
    let settings = subset.policy.ports.iter().map(|(_, settings)| settings).chain([&subset.policy.settings]);
    settings.filter_map(|settings| settings.tls.as_ref()).any(|own| own.span == tls.span)
}

/// The name that Istio's own proxies ask for inside the mesh (ISTIO 7); a wildcard has none.
fn mesh_sni(declared: &Declared<'_, '_>, subset: Option<&str>) -> Option<Name> {
    let name = format!("outbound_.{}_.{}_.{}", declared.port.number, subset.unwrap_or_default(), declared.host);
    Name::parse(name.as_bytes()).ok()
}

/// What is wrong with the dates of a client's certificates. They are used all the same, as in Istio: clocks may differ.
fn expiry(client: &ClientTls) -> Option<String> {
    let files = client.files();
    let of = |path: &Option<Arc<str>>, shown: &[Shown]| {
        let now = Timestamp::now().as_second();
        let problem = shown.iter().find_map(|shown| shown.validity.problem(now))?;
        Some(format!("{}: the certificate {problem}", path.as_deref().unwrap_or("the client certificate")))
    };
    of(&files.chain, client.chain()).or_else(|| of(&files.ca, client.authorities()))
}

fn missing_span(tls: &Tls, whole: Span) -> Span {
    let client = tls.client.as_ref().map(|(certificate, _)| certificate);
    [tls.credential.as_ref(), tls.ca.as_ref(), tls.crl.as_ref(), client]
        .into_iter()
        .flatten()
        .next()
        .map_or(whole, |text| text.span)
}

fn report_missing(resource: &Resource, span: Span, missing: Missing, what: &str, notes: &mut Notes<'_>) -> Arc<str> {
    let message = format!("{}: flows that need {what} fail with 503", missing.sentence);
    notes.once(resource, missing.code, span, message);
    missing.sentence.into()
}
