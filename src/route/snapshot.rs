//! All rules compiled, one immutable generation, and the decision for one flow.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use foldhash::HashMap;
use ipnet::IpNet;
use smallvec::SmallVec;

use super::authz::{self, Asked, Policies};
use super::cluster::{Cluster, Origination, Sni};
use super::consistency::{Expected, Policy};
use super::hosts::HostIndex;
use super::http::{Destination, Draw, HttpTo, Routes, Subject, Taken};
use super::nearest::NearbyHosts;
use super::parents::Parents;
use super::{Choice, Protocol, Refusal, Route, Service, Stage, TunnelKind};
use crate::flow::{Ask, ErrorType, Flow, Host, ListenerKind, Origin, Request, Scheme, Target, Workload};
use crate::tls::ClientTls;

/// One generation of rules.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up with each reload.
    pub generation: u64,
    /// What each namespace sees that a listener's workload lives in.
    pub views: HashMap<Arc<str>, View>,
    /// What all other namespaces see, where clients name their own by certificate.
    pub elsewhere: Option<Box<View>>,
    /// What single workloads see that a DestinationRule selects; mostly none.
    pub selected: Vec<(Arc<Workload>, View)>,
    /// What becomes of flows that no rule knows.
    pub outbound: Outbound,
    /// What becomes of tunnels that carry something else than they were asked for.
    pub consistency: Arc<Policy>,
    /// The TLS client of requests for `https://` whose service has no DestinationRule for TLS: system roots.
    pub https: Result<ClientTls, Arc<str>>,
    /// `mesh.trustDomain`.
    pub trust_domain: Arc<str>,
}

/// `mesh.outboundTrafficPolicy`, compiled.
#[derive(Debug)]
pub struct Outbound {
    /// What is done.
    pub mode: Mode,
    /// Where it was said.
    pub origin: Origin,
}

/// What becomes of flows that no rule knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They pass.
    AllowAny,
    /// They are refused.
    RegistryOnly,
    /// They pass, and what would have been refused is logged (REGISTRY_ONLY with `report: true`).
    Report,
}

/// The services that one namespace sees.
#[derive(Debug)]
pub struct View {
    /// Where flows to unknown targets go, if they may: `PassthroughCluster` itself, or through `egressProxy`.
    unknown: Arc<Cluster>,
    hosts: HostIndex<Ports>,
    literals: HashMap<IpAddr, Ports>,
    /// Longest prefix first; all networks of one length in one map.
    networks: Vec<(u8, HashMap<IpNet, Ports>)>,
    pub(super) nearby: NearbyHosts,
    /// AuthorizationPolicies over all flows of its workloads.
    pub policies: Policies,
    /// What becomes of flows that no rule knows, where a Sidecar says so; else what the mesh says.
    pub outbound: Option<Outbound>,
    /// Which targets go through a parent, and which never do, where the settings say so.
    pub parents: Option<Arc<Parents>>,
}

/// The declared ports of a host, in order of their number; the only one of most hosts stands in place.
pub type Ports = SmallVec<[Arc<Service>; 1]>;

/// What the registry says of a host and a port.
pub(super) enum Found<'a> {
    /// The pair is declared.
    Service(&'a Arc<Service>),
    /// The host is declared, the port is not.
    OtherPorts(&'a [Arc<Service>]),
    /// Nothing declares the host.
    Nothing,
}

impl Snapshot {
    /// Says what will be done with a flow, and why. Pure: of several weighted destinations it names the first.
    pub fn route(&self, flow: &Flow<'_>) -> Choice {
        self.route_drawing(flow, |_| 0)
    }

    /// The same with a draw, which is asked only where a route has several weighted destinations.
    pub fn route_drawing(&self, flow: &Flow<'_>, draw: Draw) -> Choice {
        let Some(view) = self.view(flow) else {
            let detail = format!("no rules are loaded for namespace {}", flow.source.workload.namespace);
            return Choice::refused(None, refusal(ErrorType::Configuration, Stage::Registry, detail));
        };
        match view.find(&flow.target) {
            Found::Service(service) => {
                let (authorized, inside, audited) = match self.authorize(view, Some(service), flow) {
                    Ok(Authorized { by, inside, audited }) => (by, inside, audited),
                    Err(refusal) => return Choice::refused(Some(service.clone()), refusal),
                };
                let verdict = self.route_to(service, flow, draw).map(|route| match inside {
                    Some(policy) => Route { tunnel: TunnelKind::Terminated(policy), ..route },
                    None => route,
                });
                let verdict = verdict.map(|route| match &view.parents {
                    Some(parents) => parents.lead(route, &flow.target),
                    None => route,
                });
                let verdict = verdict.map(|route| self.expecting(route, Some(service), flow));
                Choice { service: Some(service.clone()), verdict, would_deny: None, authorized, audited }
            }
            found => self.route_unknown(view, &found, flow),
        }
    }

    fn outbound_of<'s>(&'s self, view: &'s View) -> &'s Outbound {
        view.outbound.as_ref().unwrap_or(&self.outbound)
    }

    /// Counts up with each reload.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn view(&self, flow: &Flow<'_>) -> Option<&View> {
        let workload = &flow.source.workload;
        let selected = self.selected.iter().find(|(other, _)| other.has_same_rules(workload));
        selected.map(|(_, view)| view).or_else(|| self.views.get(&workload.namespace)).or(self.elsewhere.as_deref())
    }

    /// All views.
    pub(super) fn all_views(&self) -> impl Iterator<Item = &View> {
        self.views.values().chain(self.elsewhere.as_deref()).chain(self.selected.iter().map(|(_, view)| view))
    }

    fn route_to(&self, service: &Service, flow: &Flow<'_>, draw: Draw) -> Result<Route, Refusal> {
        match flow.ask {
            Ask::Connect => route_connect(service, &flow.target, draw),
            Ask::Sni => route_sni(service, &flow.target, draw),
            Ask::Http(request) => {
                let route = route_http(service, &flow.target, &request, draw)?;
                Ok(match request.scheme {
                    Scheme::Http => route,
                    Scheme::Https => self.over_tls(route),
                })
            }
        }
    }

    fn route_unknown(&self, view: &View, found: &Found<'_>, flow: &Flow<'_>) -> Choice {
        let outbound = self.outbound_of(view);
        let unknown = |origin: &Origin| Refusal {
            error: ErrorType::NotFound,
            stage: Stage::Registry,
            detail: describe_unknown(found, &flow.target).into(),
            origin: (*origin != Origin::default()).then(|| origin.clone()),
        };
        // A gateway has no pass-through, and an `sni` listener is one (CONTRACT "Explicit listeners").
        if flow.source.listener.kind == ListenerKind::Sni {
            return Choice::refused(None, unknown(&Origin::default()));
        }
        if outbound.mode == Mode::RegistryOnly {
            return Choice::refused(None, unknown(&outbound.origin));
        }
        if MAIL_PORTS.contains(&flow.target.port) {
            let detail = format!(
                "no rule names {}: mail ports are open only to destinations that a ServiceEntry or allow names",
                flow.target
            );
            let refusal = refusal(ErrorType::NotFound, Stage::Registry, detail);
            return Choice::refused(None, Refusal { origin: Some(outbound.origin.clone()), ..refusal });
        }
        let (authorized, audited) = match self.authorize(view, None, flow) {
            Ok(Authorized { by, audited, .. }) => (by, audited),
            Err(refusal) => return Choice::refused(None, refusal),
        };
        let would_deny = (outbound.mode == Mode::Report).then(|| unknown(&outbound.origin));
        let route = self.expecting(self.pass_through(view, flow), None, flow);
        Choice { service: None, verdict: Ok(route), would_deny, authorized, audited }
    }

    /// Asks the AuthorizationPolicies of the workload and of the service.
    fn authorize(&self, view: &View, service: Option<&Service>, flow: &Flow<'_>) -> Result<Authorized, Refusal> {
        let of_service = service.and_then(|service| service.policies.as_deref()).map_or(&[][..], Vec::as_slice);
        if view.policies.is_empty() && of_service.is_empty() {
            return Ok(Authorized::default());
        }
        let policies = view.policies.iter().chain(of_service).map(|policy| &**policy);
        let asked = Asked::new(flow, &self.trust_domain);
        let audited = authz::audited(policies.clone(), &asked).map(|policy| policy.origin.clone());
        match authz::judge(policies, &asked) {
            authz::Verdict::Allowed(rule) => {
                Ok(Authorized { by: rule.map(|rule| rule.origin.clone()), inside: None, audited })
            }
            authz::Verdict::Denied(policy) => Err(access_denied(policy)),
            authz::Verdict::Unseen(policy) => match (flow.ask, service) {
                (Ask::Connect, Some(service))
                    if policy.looks_inside() && (service.protocol.is_http() || service.protocol == Protocol::Auto) =>
                {
                    Ok(Authorized { by: None, inside: Some(policy.origin.resource.clone()), audited })
                }
                (Ask::Http(_), _) if asked.is_ambiguous() => {
                    let detail =
                        "the path holds dot segments, double slashes or escapes of them, and a policy goes by the path";
                    let refusal = refusal(ErrorType::BadRequest, Stage::Authorization, detail.to_owned());
                    Err(Refusal { origin: Some(policy.origin.clone()), ..refusal })
                }
                _ => {
                    let detail = format!(
                        "{ACCESS_DENIED}: {} asks for what a flow of this kind does not show",
                        policy.origin.resource
                    );
                    let refusal = refusal(ErrorType::RequestDenied, Stage::Authorization, detail);
                    Err(Refusal { origin: Some(policy.origin.clone()), ..refusal })
                }
            },
        }
    }

    /// Adds what a tunnel's first bytes are held against. A literal names nobody, and what is served from inside is judged there, each
    /// request by itself. By SNI the name is the target: only what else the rule says of a hello is left.
    fn expecting(&self, route: Route, service: Option<&Arc<Service>>, flow: &Flow<'_>) -> Route {
        let is_judged = match (flow.ask, &route.tunnel) {
            (Ask::Http(_), _) | (_, TunnelKind::Terminated(_)) => false,
            (Ask::Connect, _) => true,
            (Ask::Sni, _) => self.consistency.deny_ech || route.cluster.tls.is_some(),
        };
        let expected = match &flow.target.host {
            Host::Name(name) if is_judged => {
                let expected = Expected::new(&self.consistency, service, name);
                expected.map(|expected| expected.wrapped(route.cluster.tls.clone()))
            }
            _ => None,
        };
        Route { expected, ..route }
    }

    fn pass_through(&self, view: &View, flow: &Flow<'_>) -> Route {
        let outbound = self.outbound_of(view);
        let listed = view.parents.as_ref().and_then(|parents| parents.find(&flow.target));
        let route = Route {
            cluster: listed.map_or(&view.unknown, |entry| &entry.unknown).clone(),
            name: if outbound.mode == Mode::Report { WOULD_DENY.clone() } else { ALLOW_ANY.clone() },
            origin: outbound.origin.clone(),
            tunnel: TunnelKind::Opaque,
            expected: None,
            taken: None,
        };
        match flow.ask {
            Ask::Http(request) if request.scheme == Scheme::Https => self.over_tls(route),
            _ => route,
        }
    }

    /// A request for `https://` goes out over TLS, whatever the cluster says of plaintext.
    fn over_tls(&self, route: Route) -> Route {
        if route.cluster.tls.is_some() {
            return route;
        }
        let tls =
            Origination { mode: "SIMPLE", sni: Sni::Asked, client: self.https.clone(), origin: route.origin.clone() };
        let cluster = Cluster { tls: Some(Arc::new(tls)), ..Cluster::clone(&route.cluster) };
        Route { cluster: Arc::new(cluster), ..route }
    }
}

/// What the AuthorizationPolicies let pass.
#[derive(Default)]
struct Authorized {
    /// The rule by which.
    by: Option<Origin>,
    /// The policy for which a tunnel is served from inside: it judges each request.
    inside: Option<Arc<str>>,
    /// The policy that wants to know of it.
    audited: Option<Origin>,
}

const ACCESS_DENIED: &str = "RBAC: access denied"; // Istio's words

fn access_denied(policy: Option<&authz::Policy>) -> Refusal {
    let detail = match policy {
        Some(policy) => format!("{ACCESS_DENIED} by {}", policy.origin.resource),
        None => format!("{ACCESS_DENIED}: no AuthorizationPolicy allows it"),
    };
    let origin = policy.map(|policy| policy.origin.clone());
    Refusal { origin, ..refusal(ErrorType::RequestDenied, Stage::Authorization, detail) }
}

impl Choice {
    /// True if the flow goes out.
    pub fn is_allowed(&self) -> bool {
        self.verdict.is_ok()
    }

    fn refused(service: Option<Arc<Service>>, refusal: Refusal) -> Self {
        Self { service, verdict: Err(refusal), would_deny: None, authorized: None, audited: None }
    }
}

impl View {
    /// A view without services; `unknown` takes flows to targets that no service is.
    pub fn new(unknown: Arc<Cluster>) -> Self {
        Self {
            unknown,
            hosts: HostIndex::default(),
            literals: HashMap::default(),
            networks: Vec::new(),
            nearby: NearbyHosts::default(),
            policies: Policies::new(),
            outbound: None,
            parents: None,
        }
    }

    /// Adds a port of a service under its host. The first to name a port of a host keeps it.
    pub fn add(&mut self, service: &Arc<Service>) -> bool {
        insert(self.hosts.entry(&service.host, Ports::new), service)
    }

    /// Adds a port of a service under another name than its host's.
    pub fn add_under(&mut self, name: &Arc<str>, service: &Arc<Service>) -> bool {
        insert(self.hosts.entry(name, Ports::new), service)
    }

    /// Adds a port of a service under an address that names it.
    pub fn add_literal(&mut self, ip: IpAddr, service: &Arc<Service>) -> bool {
        insert(self.literals.entry(ip.to_canonical()).or_default(), service)
    }

    /// Adds a port of a service under a network.
    pub fn add_network(&mut self, net: IpNet, service: &Arc<Service>) -> bool {
        let length = net.prefix_len();
        let at = self.networks.partition_point(|(other, _)| *other > length);
        if self.networks.get(at).is_none_or(|(other, _)| *other != length) {
            self.networks.insert(at, (length, HashMap::default()));
        }
        insert(self.networks[at].1.entry(net.trunc()).or_default(), service)
    }

    /// Gives services the policies that protect them, however they are asked for.
    pub fn protect(&mut self, by: impl Fn(&Service) -> Policies) {
        let networks = self.networks.iter_mut().flat_map(|(_, networks)| networks.values_mut());
        for service in self.hosts.values_mut().chain(self.literals.values_mut()).chain(networks).flatten() {
            let policies = by(service);
            if !policies.is_empty() {
                *service = Arc::new(Service { policies: Some(Arc::new(policies)), ..Service::clone(service) });
            }
        }
    }

    /// The declared ports of exactly this pattern.
    pub fn ports_of(&self, pattern: &str) -> Option<&Ports> {
        self.hosts.get(pattern)
    }

    /// The declared ports of the most specific pattern over this name or pattern.
    pub fn ports_covering(&self, pattern: &str) -> Option<&Ports> {
        self.hosts.find_covering(pattern)
    }

    /// Where flows to unknown targets go, if they may.
    pub fn unknown(&self) -> &Arc<Cluster> {
        &self.unknown
    }

    /// All service ports, in no order; those with several addresses more than once.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.hosts.values().flatten()
    }

    pub(super) fn hosts(&self) -> &HostIndex<Ports> {
        &self.hosts
    }

    /// Asks for a pair: the most specific host first, and only its ports count then.
    pub(super) fn find(&self, target: &Target) -> Found<'_> {
        match &target.host {
            Host::Name(name) => pick(self.hosts.find(name.as_str()), target.port),
            Host::Ip(ip) => self.find_literal(*ip, target.port),
        }
    }

    /// Single addresses first, then networks, the longest first; as in Istio, only those that declare the port count.
    fn find_literal(&self, ip: IpAddr, port: u16) -> Found<'_> {
        let networks = self.networks.iter().filter_map(|(length, networks)| {
            let net = IpNet::new(ip, *length).ok()?; // an IPv6 length does not fit an IPv4 address
            networks.get(&net.trunc())
        });
        let mut nearest = Found::Nothing;
        for ports in self.literals.get(&ip).into_iter().chain(networks) {
            match (pick(Some(ports), port), &nearest) {
                (Found::Service(service), _) => return Found::Service(service),
                (found, Found::Nothing) => nearest = found,
                _ => {}
            }
        }
        nearest
    }
}

fn insert(ports: &mut Ports, service: &Arc<Service>) -> bool {
    match ports.binary_search_by_key(&service.port, |service| service.port) {
        Ok(_) => false,
        Err(at) => {
            ports.insert(at, service.clone());
            true
        }
    }
}

fn pick(ports: Option<&Ports>, port: u16) -> Found<'_> {
    let Some(ports) = ports.filter(|ports| !ports.is_empty()) else { return Found::Nothing };
    match ports.binary_search_by_key(&port, |service| service.port) {
        Ok(at) => Found::Service(&ports[at]),
        Err(_) => Found::OtherPorts(ports),
    }
}

/// CONTRACT "CONNECT meets routes".
fn route_connect(service: &Service, target: &Target, draw: Draw) -> Result<Route, Refusal> {
    let routes = service.routes.as_deref();
    match service.protocol {
        Protocol::Tls => route_tls(service, target, draw),
        Protocol::Tcp => Ok(route_tcp(service, target, draw)),
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => Ok(match terminated_by(service) {
            Some(reason) => Route { tunnel: TunnelKind::Terminated(reason), ..around(service) },
            None => service_route(service),
        }),
        Protocol::Auto => match routes {
            Some(routes) if !routes.http.is_empty() => {
                let reason = routes.rule.clone();
                Ok(Route { tunnel: TunnelKind::Detect(reason), ..route_tcp(service, target, draw) })
            }
            Some(routes) if !routes.tls.is_empty() => route_tls(service, target, draw),
            _ => Ok(route_tcp(service, target, draw)),
        },
    }
}

/// The rule for which a CONNECT to an HTTP port is served from inside, if there is one.
fn terminated_by(service: &Service) -> Option<Arc<str>> {
    if let Some(routes) = service.routes.as_deref().filter(|routes| !routes.http.is_empty()) {
        return Some(routes.rule.clone());
    }
    service.cluster.tls.as_ref().map(|tls| tls.origin.resource.clone())
}

/// What a tunnel that is served from inside counts to: each request in it has a route of its own.
fn around(service: &Service) -> Route {
    let route = service.routes.as_deref().and_then(Routes::unconditional);
    route.map_or_else(
        || service_route(service),
        |route| opaque(cluster_of(route.to.pick(|_| 0), service), &route.name, &route.origin),
    )
}

fn route_sni(service: &Service, target: &Target, draw: Draw) -> Result<Route, Refusal> {
    match service.protocol {
        Protocol::Tls => route_tls(service, target, draw),
        Protocol::Auto if service.routes.as_ref().is_some_and(|routes| !routes.tls.is_empty()) => {
            route_tls(service, target, draw)
        }
        Protocol::Tcp | Protocol::Auto => Ok(route_tcp(service, target, draw)),
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
            let detail = format!("port {} of {} carries plain HTTP, not TLS", target.port, target.host);
            let refusal = refusal(ErrorType::NotFound, Stage::Registry, detail);
            Err(Refusal { origin: Some(service.origin.clone()), ..refusal })
        }
    }
}

fn route_http(service: &Service, target: &Target, request: &Request<'_>, draw: Draw) -> Result<Route, Refusal> {
    match (service.protocol, request.scheme) {
        (Protocol::Tls, Scheme::Http) => {
            let (port, host) = (target.port, &target.host);
            let authority = if port == Scheme::Https.default_port() { host_text(host) } else { target.to_string() };
            let detail = format!("port {port} of {host} carries TLS: ask https://{authority}/");
            let refusal = refusal(ErrorType::RequestDenied, Stage::Registry, detail);
            Err(Refusal { origin: Some(service.origin.clone()), ..refusal })
        }
        (Protocol::Tls, Scheme::Https) => route_tls(service, target, draw),
        (Protocol::Tcp, _) => Ok(route_tcp(service, target, draw)),
        (Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Auto, _) => {
            match service.routes.as_deref().filter(|routes| !routes.http.is_empty()) {
                Some(routes) => route_by(routes, service, target, request, draw),
                None if service.protocol == Protocol::Auto => Ok(route_tcp(service, target, draw)),
                None => Ok(service_route(service)),
            }
        }
    }
}

/// By the http routes of a VirtualService. Where the path had a say and could be read in two ways, neither is taken (CONTRACT).
fn route_by(
    routes: &Routes,
    service: &Service,
    target: &Target,
    request: &Request<'_>,
    draw: Draw,
) -> Result<Route, Refusal> {
    let subject = Subject::new(request, target);
    let (chosen, by_path) = routes.choose(&subject);
    if by_path && subject.is_ambiguous() {
        let detail = "the path holds dot segments, double slashes or escapes of them, and routes go by the path";
        let refusal = refusal(ErrorType::BadRequest, Stage::Route, detail.to_owned());
        let origin = chosen.map_or(&service.origin, |chosen| &chosen.route.origin);
        return Err(Refusal { origin: Some(origin.clone()), ..refusal });
    }
    let Some(chosen) = chosen else {
        let detail = format!("no route of {target} takes this request");
        let origin = routes.http.last().map_or(&service.origin, |route| &route.origin);
        return Err(Refusal { origin: Some(origin.clone()), ..refusal(ErrorType::NoRoute, Stage::Route, detail) });
    };
    let to = chosen.route.to.pick(draw);
    let taken = to.actions.clone().map(|actions| Taken { actions, matched_bytes: chosen.matched_bytes });
    Ok(Route { taken, ..opaque(cluster_of(to, service), chosen.name, &chosen.route.origin) })
}

/// What answers itself counts to the service.
fn cluster_of<'a>(to: &'a HttpTo, service: &'a Service) -> &'a Arc<Cluster> {
    to.cluster.as_ref().unwrap_or(&service.cluster)
}

fn route_tls(service: &Service, target: &Target, draw: Draw) -> Result<Route, Refusal> {
    let Some(routes) = service.routes.as_deref().filter(|routes| !routes.tls.is_empty()) else {
        return Ok(service_route(service));
    };
    routes.tls(&target.host).map(|to| bytes(to, draw)).ok_or_else(|| no_route(routes, service, target))
}

fn route_tcp(service: &Service, target: &Target, draw: Draw) -> Route {
    let tcp = service.routes.as_deref().and_then(|routes| routes.tcp(&target.host));
    tcp.map_or_else(|| service_route(service), |to| bytes(to, draw))
}

fn service_route(service: &Service) -> Route {
    Route {
        cluster: service.cluster.clone(),
        name: DEFAULT.clone(),
        origin: service.origin.clone(),
        tunnel: TunnelKind::Opaque,
        expected: None,
        taken: None,
    }
}

fn bytes(to: &Destination, draw: Draw) -> Route {
    opaque(to.to.pick(draw), &DEFAULT, &to.origin)
}

fn opaque(cluster: &Arc<Cluster>, name: &Arc<str>, origin: &Origin) -> Route {
    Route {
        cluster: cluster.clone(),
        name: name.clone(),
        origin: origin.clone(),
        tunnel: TunnelKind::Opaque,
        expected: None,
        taken: None,
    }
}

fn no_route(routes: &Routes, service: &Service, target: &Target) -> Refusal {
    let detail = format!("no route of {} covers {target}", routes.rule);
    Refusal { origin: Some(service.origin.clone()), ..refusal(ErrorType::NotFound, Stage::Route, detail) }
}

fn refusal(error: ErrorType, stage: Stage, detail: String) -> Refusal {
    Refusal { error, stage, detail: detail.into(), origin: None }
}

fn describe_unknown(found: &Found<'_>, target: &Target) -> String {
    match found {
        Found::OtherPorts([only]) => {
            format!("no route allows {target}: of {} only port {} is declared", target.host, only.port)
        }
        Found::OtherPorts(ports) => {
            let list: Vec<String> = ports.iter().take(PORTS_SHOWN).map(|service| service.port.to_string()).collect();
            let more = if ports.len() > PORTS_SHOWN { ", …" } else { "" };
            format!("no route allows {target}: of {} only ports {}{more} are declared", target.host, list.join(", "))
        }
        Found::Service(_) | Found::Nothing => format!("no route allows {target}"),
    }
}

fn host_text(host: &Host) -> String {
    match host {
        Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]"),
        host => host.to_string(),
    }
}

static DEFAULT: LazyLock<Arc<str>> = LazyLock::new(|| "default".into());
static ALLOW_ANY: LazyLock<Arc<str>> = LazyLock::new(|| "allow_any".into());
// Of what passes under `report: true` alone: the route is the one place of Istio's text format where it can be seen.
static WOULD_DENY: LazyLock<Arc<str>> = LazyLock::new(|| "would_deny".into());
/// SMTP and submission (RFC 5321, 8314, 6409): what an open relay is abused for; CONTRACT "ALLOW_ANY does not tunnel to".
const MAIL_PORTS: [u16; 3] = [25, 465, 587];
const PORTS_SHOWN: usize = 5;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::route::sample::{ask, cluster, service, snapshot, verdict, with_view};

    fn registry(mode: Mode) -> Snapshot {
        snapshot(
            mode,
            vec![
                service("api.example.com", 443, Protocol::Tls),
                service("api.example.com", 80, Protocol::Http),
                service("db.example.com", 5432, Protocol::Tcp),
                service("*.example.com", 443, Protocol::Tls),
                service("*.example.com", 8080, Protocol::Http),
            ],
        )
    }

    #[test]
    fn the_registry_is_asked_for_the_pair_of_host_and_port() {
        let snapshot = registry(Mode::RegistryOnly);
        for (asked, expected) in [
            ("api.example.com:443", "outbound|443||api.example.com"),
            ("other.example.com:443", "outbound|443||*.example.com"),
            ("db.example.com:5432", "outbound|5432||db.example.com"),
            ("http://api.example.com/", "outbound|80||api.example.com"),
            ("example.com:443", "not_found at registry: no route allows example.com:443"),
            ("192.0.2.1:443", "not_found at registry: no route allows 192.0.2.1:443"),
            (
                "api.example.com:8080", // *.example.com has it, but the most specific host decides
                "not_found at registry: no route allows api.example.com:8080: of api.example.com only ports 80, 443 are declared",
            ),
            (
                "db.example.com:443",
                "not_found at registry: no route allows db.example.com:443: of db.example.com only port 5432 is declared",
            ),
        ] {
            assert_eq!(verdict(&ask(&snapshot, asked)), expected, "{asked}");
        }
    }

    #[test]
    fn what_the_registry_does_not_know_passes_under_allow_any_except_mail() {
        let snapshot = registry(Mode::AllowAny);
        for asked in ["example.com:443", "192.0.2.1:443", "api.example.com:8443", "http://x.org/", "x.org:26"] {
            let choice = ask(&snapshot, asked);
            assert_eq!(verdict(&choice), "PassthroughCluster", "{asked}");
            assert_eq!(&*choice.verdict.unwrap().name, "allow_any");
        }
        for port in MAIL_PORTS {
            let refused = verdict(&ask(&snapshot, &format!("mail.example.org:{port}")));
            assert!(refused.starts_with("not_found at registry: no rule names mail.example.org:"), "{refused}");
        }
        let with_mail = super::super::sample::snapshot(Mode::AllowAny, vec![service("mx.org", 25, Protocol::Tcp)]);
        assert_eq!(verdict(&ask(&with_mail, "mx.org:25")), "outbound|25||mx.org");
    }

    #[test]
    fn report_lets_pass_and_says_what_would_have_been_refused() {
        let choice = ask(&registry(Mode::Report), "unknown.org:443");
        assert_eq!(verdict(&choice), "PassthroughCluster");
        assert_eq!(&*choice.verdict.as_ref().unwrap().name, "would_deny");
        let would_deny = choice.would_deny.unwrap();
        assert_eq!(&*would_deny.detail, "no route allows unknown.org:443");
        assert_eq!(would_deny.origin.unwrap().line, 3);
        assert!(ask(&registry(Mode::Report), "api.example.com:443").would_deny.is_none());
    }

    #[test]
    fn an_sni_listener_passes_nothing_through_whatever_the_mode() {
        for mode in [Mode::AllowAny, Mode::Report, Mode::RegistryOnly] {
            let snapshot = registry(mode);
            assert_eq!(verdict(&ask(&snapshot, "sni:x.example.com:443")), "outbound|443||*.example.com");
            let choice = ask(&snapshot, "sni:unknown.org:443");
            assert_eq!(verdict(&choice), "not_found at registry: no route allows unknown.org:443");
            assert!(choice.would_deny.is_none());
            assert_eq!(
                verdict(&ask(&snapshot, "sni:api.example.com:80")),
                "not_found at registry: port 80 of api.example.com carries plain HTTP, not TLS"
            );
        }
    }

    #[test]
    fn plain_http_is_not_spoken_to_a_tls_port() {
        let snapshot = registry(Mode::AllowAny);
        for (asked, expected) in [
            ("http://api.example.com:443/", "port 443 of api.example.com carries TLS: ask https://api.example.com/"),
            ("http://db.example.com:5432/", ""),
        ] {
            let verdict = verdict(&ask(&snapshot, asked));
            match expected {
                "" => assert_eq!(verdict, "outbound|5432||db.example.com"),
                expected => assert_eq!(verdict, format!("http_request_denied at registry: {expected}")),
            }
        }
        let odd = super::super::sample::snapshot(Mode::AllowAny, vec![service("a.org", 8443, Protocol::Tls)]);
        assert!(verdict(&ask(&odd, "http://a.org:8443/")).ends_with("ask https://a.org:8443/"));
    }

    #[test]
    fn a_request_for_https_goes_out_over_tls_even_where_it_is_passed_through() {
        let snapshot = registry(Mode::AllowAny);
        assert_eq!(verdict(&ask(&snapshot, "https://api.example.com/")), "outbound|443||api.example.com over TLS");
        assert_eq!(verdict(&ask(&snapshot, "https://unknown.org/")), "PassthroughCluster over TLS");
        assert_eq!(verdict(&ask(&snapshot, "http://unknown.org/")), "PassthroughCluster");
        assert_eq!(verdict(&ask(&snapshot, "api.example.com:443")), "outbound|443||api.example.com");
    }

    #[test]
    fn literals_match_single_addresses_then_the_longest_network_that_has_the_port() {
        let mut view = View::new(cluster("PassthroughCluster"));
        let add = |host: &str, port| Arc::new(service(host, port, Protocol::Tcp));
        view.add_literal("10.1.2.3".parse().unwrap(), &add("vip", 443));
        view.add_network("10.0.0.0/8".parse().unwrap(), &add("eight", 443));
        view.add_network("10.1.0.0/16".parse().unwrap(), &add("sixteen", 443));
        view.add_network("10.0.0.0/8".parse().unwrap(), &add("eight", 80));
        view.add_network("2001:db8::/32".parse().unwrap(), &add("six", 443));
        let snapshot = with_view(Mode::RegistryOnly, view);
        for (asked, expected) in [
            ("10.1.2.3:443", "outbound|443||vip"),
            ("10.1.2.4:443", "outbound|443||sixteen"),
            ("10.2.0.1:443", "outbound|443||eight"),
            ("10.1.2.3:80", "outbound|80||eight"),
            ("[2001:db8:1::2]:443", "outbound|443||six"),
            ("[::ffff:10.2.0.1]:443", "outbound|443||eight"),
            (
                "10.2.0.1:81",
                "not_found at registry: no route allows 10.2.0.1:81: of 10.2.0.1 only ports 80, 443 are declared",
            ),
            ("11.0.0.1:443", "not_found at registry: no route allows 11.0.0.1:443"),
        ] {
            assert_eq!(verdict(&ask(&snapshot, asked)), expected, "{asked}");
        }
    }

    #[test]
    fn the_first_service_keeps_a_port() {
        let mut view = View::new(cluster("PassthroughCluster"));
        assert!(view.add(&Arc::new(service("a.org", 443, Protocol::Tls))));
        assert!(!view.add(&Arc::new(service("a.org", 443, Protocol::Tcp))));
        assert!(view.add(&Arc::new(service("a.org", 80, Protocol::Http))));
        assert_eq!(view.ports_of("a.org").unwrap()[1].protocol, Protocol::Tls);
    }

    #[test]
    fn a_namespace_without_rules_is_a_mistake_of_the_configuration() {
        let mut snapshot = registry(Mode::AllowAny);
        snapshot.views.clear();
        let refused = verdict(&ask(&snapshot, "api.example.com:443"));
        assert_eq!(refused, "proxy_configuration_error at registry: no rules are loaded for namespace default");
    }
}
