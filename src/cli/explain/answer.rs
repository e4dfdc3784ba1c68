//! The answer to a question: the plan of the data plane's own function, and what else can be judged without the network.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::consistency;
use super::plan::Plan;
use super::question::Question;
use super::report::{
    Decision, DestinationReport, Explanation, NearestReport, StraightReport, TlsReport, WorkloadReport, endpoints,
    hops, place, printable,
};
use super::stages::Trail;
use super::suggest::suggestions;
use crate::accept::ListenerSettings;
use crate::dial::OwnListeners;
use crate::flow::{ErrorType, Failure, Host, Identity, Name, Origin, Source, Target, Workload};
use crate::route::weighed::Weighed;
use crate::route::{Choice, Cluster, Nearest, Protocol, Refusal, Route, Service, Snapshot, Stage, TunnelKind};
use crate::tls::server::ServerTls;

/// What DNS said of a name.
pub(super) type Answers = BTreeMap<Name, Result<Vec<IpAddr>, Failure>>;

/// Everything that an answer depends on.
pub(super) struct Asking<'a> {
    pub(super) listener: &'a ListenerSettings,
    pub(super) client: IpAddr,
    pub(super) user: Option<&'a str>,
    pub(super) sni: Option<&'a str>,
    pub(super) snapshot: &'a Snapshot,
    /// Listening addresses of ours, as configured.
    pub(super) own: &'a OwnListeners,
    pub(super) answers: &'a Answers,
    /// The YAML that an `allow` entry at this place stands for.
    pub(super) expansion: &'a dyn Fn(&Origin) -> Option<String>,
}

impl Asking<'_> {
    /// Goes through the seven stages. `text` is TARGET as typed.
    pub(super) fn explain(&self, text: &str, question: Result<Question, Failure>) -> Explanation {
        let mut trail = Trail::default();
        let admitted = self.judge_listener(&mut trail);
        let question = match question {
            // The proxy reads a request before it asks who sent it.
            Err(failure) => {
                trail.refuse(Stage::Target, None, failure.detail.to_string());
                return self.refused(text, None, failure, trail);
            }
            Ok(question) => question,
        };
        let source = match admitted {
            Ok(source) => source,
            Err(failure) => return self.refused(text, Some(&question), failure, trail),
        };
        trail.pass(Stage::Target, None, describe_target(question.target()));
        let flow = question.flow(&source);
        let choice = self.snapshot.route(&flow);
        trail.would_deny = choice.would_deny.as_ref().map(|refusal| refusal.detail.to_string());
        match &choice.verdict {
            Ok(route) => {
                let weighed = self.snapshot.weighed(&flow);
                self.routed(&question, &choice, route, weighed.as_ref(), trail)
            }
            Err(refusal) => {
                let nearest = self.snapshot.nearest(&flow);
                self.refused_by_policy(text, &question, &choice, refusal, nearest, trail)
            }
        }
    }

    fn judge_listener(&self, trail: &mut Trail) -> Result<Source, Failure> {
        let name = printable(&self.listener.name.name);
        if self.listener.clients.as_ref().is_some_and(|clients| !clients.contains(self.client)) {
            let failure =
                Failure::new(ErrorType::ClientDenied, format!("clients at {} may not use this proxy", self.client));
            trail.refuse(Stage::Listener, None, format!("clients.from of listener {name} leaves {} out", self.client));
            return Err(failure);
        }
        let identity = match (&self.listener.basic, self.user) {
            (Some(basic), Some(user)) if basic.knows(user) => {
                trail.unknown.push(format!("credentials: the password of {} is not asked for here", printable(user)));
                Some(Identity::User(user.into()))
            }
            (Some(_), user) => {
                let detail = match user {
                    None => "this proxy asks for user and password",
                    Some(_) => "user or password is wrong",
                };
                let why = match user {
                    None => format!("listener {name} asks for user and password; --user NAME asks as one of them"),
                    Some(user) => format!("the htpasswd file of listener {name} has no user {}", printable(user)),
                };
                trail.refuse(Stage::Listener, None, why);
                return Err(Failure::new(ErrorType::AuthenticationRequired, detail));
            }
            (None, user) if self.listener.tls.as_ref().is_some_and(ServerTls::asks_certificates) => {
                self.certified(user, &name, trail)
            }
            (None, None) => None,
            (None, Some(user)) => {
                trail
                    .unknown
                    .push(format!("credentials: listener {name} asks nobody, {} counts for nothing", printable(user)));
                None
            }
        };
        let who =
            identity.as_ref().map(|identity| format!(", as {}", printable(identity.as_str()))).unwrap_or_default();
        trail.pass(Stage::Listener, None, format!("{} may use listener {name}{who}", self.client));
        Ok(self.source(identity))
    }

    fn source(&self, identity: Option<Identity>) -> Source {
        Source {
            peer: SocketAddr::new(self.client, 0),
            local: self.own.proxies.first().copied().unwrap_or_else(|| SocketAddr::new(self.client, 0)),
            transport: crate::flow::Transport::Tcp,
            listener: self.listener.name.clone(),
            workload: self.workload(),
            identity: identity.map(Box::new),
        }
    }

    /// Who the client acts for.
    fn workload(&self) -> Arc<Workload> {
        let workloads = &self.listener.workloads;
        let asks =
            self.listener.basic.is_none() && self.listener.tls.as_ref().is_some_and(ServerTls::asks_certificates);
        match self.user.filter(|_| asks) {
            Some(user) => workloads.of(&Identity::Certificate(user.into())),
            None => workloads.own().clone(),
        }
    }

    /// The holder of a client certificate. Whether the client has it, only a handshake tells.
    fn certified(&self, user: Option<&str>, listener: &str, trail: &mut Trail) -> Option<Identity> {
        let required = self.listener.tls.as_ref().is_some_and(ServerTls::requires_certificates);
        match user {
            Some(user) => {
                trail.unknown.push(format!("credentials: whether the client has a certificate of {}", printable(user)));
                Some(Identity::Certificate(user.into()))
            }
            None => {
                if required {
                    trail.unknown.push(format!(
                        "credentials: listener {listener} requires a client certificate; --user NAME asks as its holder"
                    ));
                }
                None
            }
        }
    }

    fn routed(
        &self,
        question: &Question,
        choice: &Choice,
        route: &Route,
        weighed: Option<&Weighed>,
        mut trail: Trail,
    ) -> Explanation {
        let service = choice.service.as_deref();
        let (at, found) = match service {
            Some(service) => (place(&service.origin), describe_service(service)),
            None => {
                let found = "no resource names it; outboundTrafficPolicy lets pass what is unknown";
                (place(&route.origin), found.to_owned()) // where the policy stands
            }
        };
        let found = match &trail.would_deny {
            Some(would_deny) => format!("{found} (report: would be refused, {would_deny})"),
            None => found,
        };
        trail.pass(Stage::Registry, at, found);
        let audited =
            choice.audited.as_ref().map(|policy| format!(" (marked in the log by {}, AUDIT)", policy.resource));
        let audited = audited.unwrap_or_default();
        match &choice.authorized {
            Some(rule) => {
                trail.pass(Stage::Authorization, place(rule), format!("allowed by {}{audited}", rule.resource));
            }
            None => trail.pass(Stage::Authorization, None, format!("no policy refuses it{audited}")),
        }
        let plan = Plan { question, route, weighed };
        let problem = match plan.problem() {
            Some(failure) => {
                trail.refuse(Stage::Route, place(&route.origin), failure.log.to_string());
                Some(failure)
            }
            None => {
                trail.pass(Stage::Route, place(&route.origin), plan.describe());
                let addresses = self.judge_addresses(&plan, &mut trail);
                addresses.and_then(|()| consistency::judge(question, route, self.snapshot, self.sni, &mut trail)).err()
            }
        };
        // What answers itself goes nowhere.
        let cluster = Some(&route.cluster).filter(|_| !route.answers());
        Explanation {
            service: service.map(|service| service.host.to_string()),
            route: Some(route.name.to_string()),
            cluster: cluster.map(|cluster| cluster.name.to_string()),
            endpoints: cluster.map(|cluster| endpoints(cluster, question.target())).unwrap_or_default(),
            tls: cluster.and_then(|cluster| cluster.tls.as_ref()).map(|tls| TlsReport::of(tls, question.target())),
            via: cluster.map(|cluster| hops(cluster, question.target())).unwrap_or_default(),
            straight: cluster.and_then(|cluster| StraightReport::of(cluster)),
            destinations: weighed.map(DestinationReport::of).unwrap_or_default(),
            tunnel: plan.tunnel(),
            expansion: (self.expansion)(&route.origin).or_else(|| service.and_then(|s| (self.expansion)(&s.origin))),
            suggestions: problem.as_ref().map_or_else(Vec::new, |failure| {
                suggestions(failure.error, Some(question), &self.source(None), service, None)
            }),
            ..self.blank(question.target().to_string(), question.to_string(), problem, plan.status(), trail)
        }
    }

    fn refused_by_policy(
        &self,
        text: &str,
        question: &Question,
        choice: &Choice,
        refusal: &Refusal,
        nearest: Option<Nearest>,
        mut trail: Trail,
    ) -> Explanation {
        let service = choice.service.as_deref();
        for stage in [Stage::Registry, Stage::Authorization, Stage::Route] {
            if stage >= refusal.stage {
                break;
            }
            let at = service.filter(|_| stage == Stage::Registry).and_then(|service| place(&service.origin));
            let text = match (stage, service) {
                (Stage::Registry, Some(service)) => describe_service(service),
                (Stage::Registry, None) => "no resource names it".to_owned(),
                _ => "no policy refuses it".to_owned(),
            };
            trail.pass(stage, at, text);
        }
        trail.refuse(refusal.stage, refusal.origin.as_ref().and_then(place), refusal.detail.to_string());
        let failure = Failure::new(refusal.error, refusal.detail.clone());
        let suggestions = suggestions(refusal.error, Some(question), &self.source(None), service, nearest.as_ref());
        Explanation {
            service: service.map(|service| service.host.to_string()),
            cluster: refusal.cluster().map(str::to_owned),
            nearest: nearest.map(NearestReport::of),
            suggestions,
            ..self.refused(text, Some(question), failure, trail)
        }
    }

    fn refused(&self, text: &str, question: Option<&Question>, failure: Failure, trail: Trail) -> Explanation {
        let target = question.map_or_else(|| printable(text), |question| question.target().to_string());
        let asked = question.map_or_else(|| printable(text), Question::to_string);
        let suggestions = suggestions(failure.error, question, &self.source(None), None, None);
        Explanation { suggestions, ..self.blank(target, asked, Some(failure), None, trail) }
    }

    fn blank(
        &self,
        target: String,
        asked: String,
        failure: Option<Failure>,
        status_if_allowed: Option<u16>,
        trail: Trail,
    ) -> Explanation {
        let row = failure.as_ref().map(|failure| failure.error.row());
        let kind = self.listener.name.kind;
        let status = match &failure {
            // It is judged behind the answer to CONNECT.
            Some(failure) if failure.error == ErrorType::Inconsistent => status_if_allowed,
            Some(failure) => failure.error.status(kind),
            None => status_if_allowed,
        };
        Explanation {
            decision: if failure.is_some() { Decision::Deny } else { Decision::Allow },
            reason: row.map(|row| row.reason),
            status,
            error: row.map(|row| row.rfc9209),
            target,
            service: None,
            route: None,
            cluster: None,
            endpoints: Vec::new(),
            tls: None,
            via: Vec::new(),
            straight: None,
            destinations: Vec::new(),
            workload: WorkloadReport::of(&self.workload()),
            generation: self.snapshot.generation(),
            tunnel: None,
            nearest: None,
            expansion: None,
            suggestions: Vec::new(),
            asked: format!("{asked} from {} through listener {}", self.client, printable(&self.listener.name.name)),
            phrase: row.map(|row| row.phrase),
            refusal: failure.map(|failure| failure.detail.to_string()),
            names: trail.names.clone(),
            unknown: trail.unknown.clone(),
            stages: trail.finish(),
        }
    }

    /// Judges what would be dialled, as far as it is known: literals and fixed addresses always, names where DNS was asked.
    fn judge_addresses(&self, plan: &Plan<'_>, trail: &mut Trail) -> Result<(), Failure> {
        if let (Question::Connect(_), true) = (plan.question, plan.route.tunnel != TunnelKind::Opaque) {
            trail.skip(Stage::Addresses, "judged for each request inside the tunnel; ask with http://".to_owned());
            return Ok(());
        }
        if plan.route.answers() {
            trail.pass(Stage::Addresses, None, "none to judge: nothing goes out".to_owned());
            return Ok(());
        }
        let (mut judged, mut known) = (Vec::new(), false);
        for step in plan.steps() {
            let mut refused = None;
            let before = judged.len();
            for (host, port) in &step.addresses {
                match self.addresses_of(host, trail) {
                    Addresses::Unknown => judged.push(format!("{host} not judged")),
                    Addresses::Failed(failure) => refused = Some(failure),
                    Addresses::Known(addresses) => {
                        let spelled = step.spelled && host.ip().is_some();
                        for ip in addresses {
                            match self.judge_address(step.cluster, SocketAddr::new(ip, *port), spelled) {
                                Ok(()) => {
                                    known = true;
                                    judged.push(format!("{ip} may be dialled"));
                                }
                                Err(failure) => refused = Some(failure),
                            }
                        }
                    }
                }
            }
            // As when dialling: one address that may be dialled is enough.
            if let (true, Some(failure)) = (judged.len() == before, refused) {
                trail.refuse(Stage::Addresses, place(&step.cluster.origin), failure.log.to_string());
                return Err(failure);
            }
        }
        match (judged.is_empty(), known) {
            (true, _) => {
                trail.pass(Stage::Addresses, None, "none to judge: a Unix socket, or the parent resolves".to_owned())
            }
            (false, true) => trail.pass(Stage::Addresses, None, judged.join(", ")),
            (false, false) => {
                trail.skip(Stage::Addresses, format!("{}: DNS is asked only with --resolve", judged.join(", ")));
            }
        }
        Ok(())
    }

    fn addresses_of(&self, host: &Host, trail: &mut Trail) -> Addresses {
        let name = match host {
            Host::Ip(ip) => return Addresses::Known(vec![*ip]),
            Host::Name(name) => name,
        };
        match self.answers.get(name) {
            Some(Ok(addresses)) => Addresses::Known(addresses.clone()),
            Some(Err(failure)) => Addresses::Failed(failure.clone()),
            None => {
                trail.unknown.push(format!("addresses of {name}"));
                trail.names.push(name.clone());
                Addresses::Unknown
            }
        }
    }

    /// Judges an address as the dialler does. `spelled`: a resource spells it out, so that a listener of ours may be meant.
    fn judge_address(&self, cluster: &Cluster, peer: SocketAddr, spelled: bool) -> Result<(), Failure> {
        cluster.addresses.judge(peer.ip()).map_err(|prohibited| {
            Failure::new(ErrorType::IpProhibited, "the address of this destination may not be reached")
                .logged(format!("{prohibited}; a resource or addresses.allow would have to open it"))
        })?;
        if self.own.is_ours(peer, spelled) {
            return Err(Failure::new(ErrorType::LoopDetected, format!("{peer} is this proxy itself")));
        }
        Ok(())
    }
}

/// What is known of a host's addresses.
enum Addresses {
    Known(Vec<IpAddr>),
    Failed(Failure),
    Unknown,
}

fn describe_target(target: &Target) -> String {
    match &target.host {
        Host::Name(name) => format!("name {name}, port {}", target.port),
        Host::Ip(ip) => format!("address {ip}, port {}", target.port),
    }
}

fn describe_service(service: &Service) -> String {
    let protocol = match service.protocol {
        Protocol::Http => "HTTP",
        Protocol::Http2 => "HTTP2",
        Protocol::Grpc => "GRPC",
        Protocol::Tls => "TLS",
        Protocol::Tcp => "TCP",
        Protocol::Auto => "protocol detected",
    };
    let resource = if service.origin.resource.is_empty() { &*service.origin.file } else { &*service.origin.resource };
    format!("{resource}: {} port {} ({protocol})", service.host, service.port)
}
