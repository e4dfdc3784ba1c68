//! Who may ask what of whom: AuthorizationPolicies, compiled (Istio `security/v1`).
//!
//! A DENY that holds refuses; then, where there are ALLOWs, one of them has to hold. A flow does not show everything that a rule may
//! ask about: of a tunnel nobody sees the requests inside. What is not seen never lets a flow pass ([`Fit::Unknown`]).

use std::cell::OnceCell;
use std::net::IpAddr;
use std::sync::Arc;

use super::addresses::IpSet;
use super::http::Subject;
use super::http::matching::Pattern;
use crate::flow::{Ask, Flow, Host, Identity, Origin, SPIFFE, Transport};

/// One policy.
#[derive(Debug)]
pub struct Policy {
    /// `AuthorizationPolicy default/get`, and where it stands.
    pub origin: Origin,
    /// What follows from a rule that holds.
    pub action: Action,
    /// One has to hold; none: the policy never does.
    pub rules: Vec<Rule>,
}

/// What follows from a policy whose rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The flow passes, if nothing denies it. Where such a policy applies, one of them has to hold.
    Allow,
    /// The flow is refused.
    Deny,
    /// The flow is marked, and decided by the others.
    Audit,
}

/// `rules[]`: one of `from`, one of `to` and all of `when` hold; an empty list asks for nothing.
#[derive(Debug, Default)]
pub struct Rule {
    /// Where it stands.
    pub origin: Origin,
    /// `from[].source`, each with conditions that hold together.
    pub from: Vec<Vec<Condition>>,
    /// `to[].operation`, the same.
    pub to: Vec<Vec<Condition>>,
    /// `when[]`.
    pub when: Vec<Condition>,
}

/// One field of a source or operation, or one side of a `when`.
#[derive(Debug)]
pub struct Condition {
    /// What is looked at.
    pub attribute: Attribute,
    /// One of them fits.
    pub values: Values,
    /// It holds where none fits (`notPorts`, `notValues`).
    pub negated: bool,
}

/// What a condition looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// `principals`: the user of Basic, else the certificate's name, else the account of the listener's workload.
    Principal,
    /// `namespaces`: of the certificate's SPIFFE identity, else of the listener's workload.
    Namespace,
    /// `serviceAccounts`, as `namespace/account`.
    ServiceAccount,
    /// `ipBlocks` and `remoteIpBlocks`: the client, as a trusted PROXY header gives it.
    ClientIp,
    /// `hosts`: what was asked for, with and without its port.
    Host,
    /// `ports`: what was asked for.
    Port,
    /// `methods`.
    Method,
    /// `paths`: without query.
    Path,
    /// `request.headers[name]`; lower case.
    Header(Box<str>),
    /// `destination.ip`: the literal that was asked for.
    DestinationIp,
    /// `connection.sni`.
    Sni,
    /// Something that no flow of ours has, such as a verified token.
    Absent,
    /// Something that is never seen here.
    Unseen,
}

/// What an attribute is compared with.
#[derive(Debug)]
pub enum Values {
    /// Texts.
    Texts(Vec<TextMatch>),
    /// Networks, and how they are written.
    Nets(IpSet, Box<str>),
    /// Ports.
    Ports(Vec<u16>),
}

/// A text with at most one `*`, at one of its ends; or a path template.
#[derive(Clone, Debug)]
pub enum TextMatch {
    /// Equal.
    Exact(Box<str>),
    /// `abc*`.
    Prefix(Box<str>),
    /// `*abc`.
    Suffix(Box<str>),
    /// `*`: there is one, and it is not empty.
    Present,
    /// A path with `{*}` or `{**}`.
    Template(Pattern),
}

/// Whether something holds, as far as a flow shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// It does not.
    No,
    /// It cannot be told.
    Unknown,
    /// It does.
    Yes,
}

/// What the policies say of a flow.
#[derive(Clone, Copy, Debug)]
pub enum Verdict<'p> {
    /// It passes, by this rule, or because none restricts it.
    Allowed(Option<&'p Rule>),
    /// It is refused: by this policy, or because no ALLOW holds.
    Denied(Option<&'p Policy>),
    /// This policy asks for something that the flow does not show.
    Unseen(&'p Policy),
}

/// A flow as policies see it. What takes an allocation is made when a policy asks for it.
pub struct Asked<'a> {
    flow: &'a Flow<'a>,
    subject: Option<Subject<'a>>,
    trust_domain: &'a str,
    principal: OnceCell<String>,
    authority: OnceCell<String>,
}

impl<'a> Asked<'a> {
    /// `trust_domain` is that of the mesh (`mesh.trustDomain`): workloads are accounts of it.
    pub fn new(flow: &'a Flow<'a>, trust_domain: &'a str) -> Self {
        let subject = match &flow.ask {
            Ask::Http(request) => Some(Subject::new(request, &flow.target)),
            Ask::Connect | Ask::Sni => None,
        };
        Self { flow, subject, trust_domain, principal: OnceCell::new(), authority: OnceCell::new() }
    }

    /// The path can be read in two ways, so that nothing is said by it.
    pub fn is_ambiguous(&self) -> bool {
        self.subject.as_ref().is_some_and(Subject::is_ambiguous)
    }

    fn principal(&self) -> &str {
        self.principal.get_or_init(|| match self.flow.source.identity.as_deref() {
            Some(Identity::User(name)) => name.to_string(),
            Some(Identity::Certificate(name)) => name.strip_prefix(SPIFFE).unwrap_or(name).to_owned(),
            None => {
                let workload = &self.flow.source.workload;
                format!("{}/ns/{}/sa/{}", self.trust_domain, workload.namespace, workload.service_account)
            }
        })
    }

    fn authority(&self) -> &str {
        self.authority.get_or_init(|| self.flow.target.to_string())
    }
}

const CONNECT: &str = "CONNECT";

/// Judges a flow by the policies that apply to it.
pub fn judge<'p>(policies: impl Iterator<Item = &'p Policy> + Clone, asked: &Asked<'_>) -> Verdict<'p> {
    let of = |action| policies.clone().filter(move |policy| policy.action == action);
    let mut unseen = None;
    for policy in of(Action::Deny) {
        match policy.rules.iter().map(|rule| rule.fit(asked)).max().unwrap_or(Fit::No) {
            Fit::Yes => return Verdict::Denied(Some(policy)),
            Fit::Unknown => unseen = unseen.or(Some(policy)),
            Fit::No => {}
        }
    }
    let (mut best, mut by) = (Fit::No, None);
    let mut restricted = false;
    for policy in of(Action::Allow) {
        restricted = true;
        for rule in &policy.rules {
            let fit = rule.fit(asked);
            if fit > best {
                (best, by) = (fit, Some((policy, rule)));
            }
        }
    }
    match (restricted, best, by, unseen) {
        (true, Fit::No, ..) => Verdict::Denied(None),
        (_, _, _, Some(policy)) => Verdict::Unseen(policy),
        (true, Fit::Unknown, Some((policy, _)), None) => Verdict::Unseen(policy),
        (_, _, by, None) => Verdict::Allowed(by.map(|(_, rule)| rule)),
    }
}

/// The first policy that wants to know of the flow. What the flow does not show says nothing.
pub fn audited<'p>(mut policies: impl Iterator<Item = &'p Policy>, asked: &Asked<'_>) -> Option<&'p Policy> {
    policies
        .find(|policy| policy.action == Action::Audit && policy.rules.iter().any(|rule| rule.fit(asked) == Fit::Yes))
}

/// The ALLOW rule that comes nearest to holding, and the first of its conditions that does not.
pub fn nearest<'p>(
    policies: impl Iterator<Item = &'p Policy>,
    asked: &Asked<'_>,
) -> Option<(&'p Policy, &'p Rule, &'p Condition)> {
    let allows = policies.filter(|policy| policy.action == Action::Allow);
    let rules = allows.flat_map(|policy| policy.rules.iter().map(move |rule| (policy, rule)));
    let missed = rules.map(|(policy, rule)| (rule.missed(asked), policy, rule));
    let (mut missed, policy, rule) = missed.min_by_key(|(missed, ..)| missed.len())?;
    (!missed.is_empty()).then(|| (policy, rule, missed.swap_remove(0)))
}

impl Policy {
    /// Whether it asks about more than a tunnel shows: then one to a port of HTTP is served from inside, each request by itself.
    pub fn looks_inside(&self) -> bool {
        let conditions = |rule: &Rule| {
            let mut lists = rule.from.iter().chain(&rule.to).flatten().chain(&rule.when);
            lists.any(|condition| {
                matches!(condition.attribute, Attribute::Method | Attribute::Path | Attribute::Header(_))
            })
        };
        self.rules.iter().any(conditions)
    }
}

impl Rule {
    /// Whether it holds.
    pub fn fit(&self, asked: &Asked<'_>) -> Fit {
        let all = |conditions: &[Condition]| {
            conditions.iter().map(|condition| condition.fit(asked)).min().unwrap_or(Fit::Yes)
        };
        let one = |lists: &[Vec<Condition>]| match lists {
            [] => Fit::Yes,
            lists => lists.iter().map(|list| all(list)).max().unwrap_or(Fit::No),
        };
        one(&self.from).min(one(&self.to)).min(all(&self.when))
    }

    /// What does not hold of the alternative that comes nearest.
    fn missed<'r>(&'r self, asked: &Asked<'_>) -> Vec<&'r Condition> {
        let wrong = |conditions: &'r [Condition]| -> Vec<&'r Condition> {
            conditions.iter().filter(|condition| condition.fit(asked) != Fit::Yes).collect()
        };
        let nearest =
            |lists: &'r [Vec<Condition>]| lists.iter().map(|list| wrong(list)).min_by_key(Vec::len).unwrap_or_default();
        [nearest(&self.from), nearest(&self.to), wrong(&self.when)].concat()
    }
}

impl Condition {
    fn fit(&self, asked: &Asked<'_>) -> Fit {
        match (self.fits(asked), self.negated) {
            (Fit::Yes, true) => Fit::No,
            (Fit::No, true) => Fit::Yes,
            (fit, _) => fit,
        }
    }

    fn fits(&self, asked: &Asked<'_>) -> Fit {
        let flow = asked.flow;
        let workload = &flow.source.workload;
        match &self.attribute {
            Attribute::Principal => self.text(asked.principal()),
            Attribute::Namespace => self.text(&workload.namespace),
            Attribute::ServiceAccount => self.text(&format!("{}/{}", workload.namespace, workload.service_account)),
            Attribute::ClientIp => match flow.source.transport {
                Transport::Unix(_) => Fit::No,
                _ => self.address(flow.source.peer.ip()),
            },
            Attribute::Host => {
                // Names are canonical, so patterns are lower case too.
                let host = match &flow.target.host {
                    Host::Name(name) => self.text(name.as_str()),
                    Host::Ip(ip) => self.text(&ip.to_string()),
                };
                host.max(self.text(asked.authority()))
            }
            Attribute::Port => match &self.values {
                Values::Ports(ports) => fit(ports.contains(&flow.target.port)),
                _ => Fit::No,
            },
            Attribute::Method => match flow.ask {
                Ask::Http(request) => self.text(request.method),
                // Whoever names CONNECT means the tunnel. Any other method may be used inside it.
                Ask::Connect => self.text(CONNECT).max(Fit::Unknown),
                Ask::Sni => Fit::Unknown,
            },
            Attribute::Path => match &asked.subject {
                Some(subject) if !subject.is_ambiguous() => self.text(subject.path()),
                _ => Fit::Unknown,
            },
            Attribute::Header(name) => match &asked.subject {
                Some(subject) => {
                    subject.field(name).map_or(Fit::No, |value| self.text(&String::from_utf8_lossy(&value)))
                }
                None => Fit::Unknown,
            },
            Attribute::DestinationIp => match flow.target.host {
                Host::Ip(ip) => self.address(ip),
                Host::Name(_) => Fit::Unknown, // DNS is asked only once the flow may go
            },
            Attribute::Sni => match (flow.ask, &flow.target.host) {
                (Ask::Sni, Host::Name(name)) => self.text(name.as_str()),
                (Ask::Http(_), _) => Fit::No,
                _ => Fit::Unknown,
            },
            Attribute::Absent => Fit::No,
            Attribute::Unseen => Fit::Unknown,
        }
    }

    fn text(&self, text: &str) -> Fit {
        match &self.values {
            Values::Texts(matches) => fit(matches.iter().any(|each| each.fits(text))),
            Values::Nets(..) | Values::Ports(_) => Fit::No,
        }
    }

    fn address(&self, ip: IpAddr) -> Fit {
        match &self.values {
            Values::Nets(nets, _) => fit(nets.contains(ip.to_canonical())),
            Values::Texts(_) | Values::Ports(_) => Fit::No,
        }
    }

    /// The field that it comes from, for people.
    pub fn name(&self) -> &'static str {
        match self.attribute {
            Attribute::Principal => "principal",
            Attribute::Namespace => "namespace",
            Attribute::ServiceAccount => "service account",
            Attribute::ClientIp => "client address",
            Attribute::Host => "host",
            Attribute::Port => "port",
            Attribute::Method => "method",
            Attribute::Path => "path",
            Attribute::Header(_) => "header",
            Attribute::DestinationIp => "destination address",
            Attribute::Sni => "server name",
            Attribute::Absent | Attribute::Unseen => "an attribute that is not known here",
        }
    }

    /// What it asks for, for people: `GET, HEAD`, `not 443`.
    pub fn declared(&self) -> String {
        let values = match &self.values {
            Values::Texts(matches) => matches.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            Values::Nets(_, text) => text.to_string(),
            Values::Ports(ports) => ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        if self.negated { format!("not {values}") } else { values }
    }
}

fn fit(fits: bool) -> Fit {
    if fits { Fit::Yes } else { Fit::No }
}

impl TextMatch {
    fn fits(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *text,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Suffix(suffix) => text.ends_with(&**suffix),
            Self::Present => !text.is_empty(),
            Self::Template(pattern) => pattern.regex().is_match(text.as_bytes()),
        }
    }
}

/// As it is written in a policy; a template as the expression that it became.
impl std::fmt::Display for TextMatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Present => f.write_str("*"),
            Self::Template(pattern) => f.write_str(pattern.regex().as_str()),
        }
    }
}

/// Policies that apply together, those of the workload and those of the service.
pub type Policies = Vec<Arc<Policy>>;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::flow::{Source, Target};
    use crate::route::sample::{source, with_flow};

    fn texts(values: &[&str]) -> Values {
        let one = |text: &&str| match (text.strip_prefix('*'), text.strip_suffix('*')) {
            _ if *text == "*" => TextMatch::Present,
            (Some(suffix), _) => TextMatch::Suffix(suffix.into()),
            (_, Some(prefix)) => TextMatch::Prefix(prefix.into()),
            _ => TextMatch::Exact((*text).into()),
        };
        Values::Texts(values.iter().map(one).collect())
    }

    fn is(attribute: Attribute, values: &[&str]) -> Condition {
        Condition { attribute, values: texts(values), negated: false }
    }

    fn is_not(attribute: Attribute, values: &[&str]) -> Condition {
        Condition { negated: true, ..is(attribute, values) }
    }

    fn to(conditions: Vec<Condition>) -> Rule {
        Rule { to: vec![conditions], ..Rule::default() }
    }

    fn policy(action: Action, rules: Vec<Rule>) -> Policy {
        Policy { origin: Origin { resource: format!("{action:?}").into(), ..Origin::default() }, action, rules }
    }

    fn verdict(policies: &[Policy], asked: &str) -> String {
        with_flow(asked, |flow| match judge(policies.iter(), &Asked::new(flow, "cluster.local")) {
            Verdict::Allowed(Some(_)) => "allowed by a rule".to_owned(),
            Verdict::Allowed(None) => "allowed".to_owned(),
            Verdict::Denied(policy) => format!("denied by {}", policy.map_or("none", |policy| &policy.origin.resource)),
            Verdict::Unseen(policy) => format!("unseen by {}", policy.origin.resource),
        })
    }

    #[test]
    fn a_deny_wins_and_where_there_are_allows_one_has_to_hold() {
        let get = || to(vec![is(Attribute::Method, &["GET"])]);
        let secret = || to(vec![is(Attribute::Path, &["/secret*"])]);
        let (url, hidden, post) = ("http://a.test/", "http://a.test/secret", "POST http://a.test/");
        for (policies, asked, expected) in [
            (vec![], url, "allowed"),
            (vec![policy(Action::Deny, vec![])], url, "allowed"),
            (vec![policy(Action::Allow, vec![])], url, "denied by none"),
            (vec![policy(Action::Allow, vec![Rule::default()])], url, "allowed by a rule"),
            (vec![policy(Action::Deny, vec![Rule::default()])], url, "denied by Deny"),
            (vec![policy(Action::Allow, vec![get()])], url, "allowed by a rule"),
            (vec![policy(Action::Allow, vec![get()])], post, "denied by none"),
            (vec![policy(Action::Allow, vec![get()]), policy(Action::Deny, vec![secret()])], hidden, "denied by Deny"),
            (vec![policy(Action::Allow, vec![]), policy(Action::Allow, vec![get()])], url, "allowed by a rule"),
        ] {
            assert_eq!(verdict(&policies, asked), expected, "{policies:?} {asked}");
        }
    }

    #[test]
    fn what_a_tunnel_does_not_show_never_lets_it_pass() {
        let get = || vec![to(vec![is(Attribute::Method, &["GET"])])];
        let not_post = || vec![to(vec![is_not(Attribute::Method, &["POST"])])];
        let connect = || vec![to(vec![is(Attribute::Method, &["CONNECT"])])];
        let header = || vec![Rule { when: vec![is(Attribute::Header("x".into()), &["1"])], ..Rule::default() }];
        let other = || vec![to(vec![is(Attribute::Host, &["b.test"]), is(Attribute::Method, &["GET"])])];
        for (action, rules, tunnel, sni) in [
            (Action::Allow, get(), "unseen by Allow", "unseen by Allow"),
            (Action::Deny, get(), "unseen by Deny", "unseen by Deny"),
            (Action::Allow, not_post(), "unseen by Allow", "unseen by Allow"),
            (Action::Deny, not_post(), "unseen by Deny", "unseen by Deny"),
            (Action::Allow, connect(), "allowed by a rule", "unseen by Allow"),
            (Action::Allow, header(), "unseen by Allow", "unseen by Allow"),
            (Action::Allow, other(), "denied by none", "denied by none"),
            (Action::Deny, other(), "allowed", "allowed"),
        ] {
            let policies = [policy(action, rules)];
            assert_eq!(verdict(&policies, "a.test:443"), tunnel, "{policies:?}");
            assert_eq!(verdict(&policies, "sni:a.test:443"), sni, "{policies:?}");
        }
    }

    #[test]
    fn a_path_that_reads_in_two_ways_says_nothing() {
        let policies = |action| [policy(action, vec![to(vec![is(Attribute::Path, &["/public*"])])])];
        for path in ["/public/../secret", "/public/%2e%2e/secret", "//public"] {
            for action in [Action::Allow, Action::Deny] {
                let expected = format!("unseen by {action:?}");
                assert_eq!(verdict(&policies(action), &format!("http://a.test{path}")), expected, "{path}");
            }
        }
        assert_eq!(verdict(&policies(Action::Allow), "http://a.test/public?/../x"), "allowed by a rule");
    }

    fn fits(condition: Condition, source: &Source, asked: &str) -> Fit {
        let target = Target::parse_authority(asked.as_bytes()).unwrap();
        let flow = Flow { source, ask: Ask::Connect, target };
        Rule { when: vec![condition], ..Rule::default() }.fit(&Asked::new(&flow, "td.test"))
    }

    #[test]
    fn who_asks_is_the_user_else_the_certificate_else_the_workload() {
        let mut source = source(crate::flow::ListenerKind::Forward, "sleep");
        let ask =
            |source: &Source, attribute: Attribute, value: &str| fits(is(attribute, &[value]), source, "a.test:443");
        assert_eq!(ask(&source, Attribute::Principal, "td.test/ns/sleep/sa/default"), Fit::Yes);
        assert_eq!(ask(&source, Attribute::Namespace, "sleep"), Fit::Yes);
        source.identity = Some(Box::new(Identity::User("alice".into())));
        assert_eq!(ask(&source, Attribute::Principal, "alice"), Fit::Yes);
        assert_eq!(ask(&source, Attribute::Principal, "td.test*"), Fit::No);
        assert_eq!(ask(&source, Attribute::Namespace, "sleep"), Fit::Yes);
        let robot = "spiffe://other/ns/curl/sa/robot";
        source.identity = Some(Box::new(Identity::Certificate(robot.into())));
        let of_listener = source.workload.clone();
        source.workload = Arc::new(of_listener.certified(robot).unwrap());
        assert_eq!(ask(&source, Attribute::Principal, "other/ns/curl/sa/robot"), Fit::Yes);
        assert_eq!(ask(&source, Attribute::Namespace, "curl"), Fit::Yes);
        assert_eq!(ask(&source, Attribute::ServiceAccount, "curl/robot"), Fit::Yes);
        source.identity = Some(Box::new(Identity::Certificate("build.example".into())));
        source.workload = of_listener;
        assert_eq!(ask(&source, Attribute::Principal, "build.example"), Fit::Yes);
        assert_eq!(ask(&source, Attribute::Namespace, "sleep"), Fit::Yes);
    }

    #[test]
    fn hosts_ports_and_addresses_are_what_was_asked_for() {
        let source = source(crate::flow::ListenerKind::Forward, "default");
        let nets = |attribute: Attribute, net: &str| Condition {
            attribute,
            values: Values::Nets([net.parse::<ipnet::IpNet>().unwrap()].into_iter().collect(), net.into()),
            negated: false,
        };
        let ports = Condition { attribute: Attribute::Port, values: Values::Ports(vec![443]), negated: false };
        assert_eq!(fits(ports, &source, "A.test:443"), Fit::Yes);
        for (pattern, expected) in
            [("a.test", Fit::Yes), ("a.test:443", Fit::Yes), ("*.test", Fit::Yes), ("*", Fit::Yes), ("b.*", Fit::No)]
        {
            assert_eq!(fits(is(Attribute::Host, &[pattern]), &source, "A.test:443"), expected, "{pattern}");
        }
        assert_eq!(fits(is(Attribute::Host, &["192.0.2.1"]), &source, "192.0.2.1:443"), Fit::Yes);
        assert_eq!(fits(nets(Attribute::DestinationIp, "192.0.2.0/24"), &source, "192.0.2.1:443"), Fit::Yes);
        assert_eq!(fits(nets(Attribute::DestinationIp, "192.0.2.0/24"), &source, "a.test:443"), Fit::Unknown);
        assert_eq!(fits(nets(Attribute::ClientIp, "127.0.0.0/8"), &source, "a.test:443"), Fit::Yes);
        let mapped = Source { peer: SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), 1), ..source.clone() };
        assert_eq!(fits(nets(Attribute::ClientIp, "127.0.0.0/8"), &mapped, "a.test:443"), Fit::Yes);
        let unix = Source { transport: Transport::Unix(std::path::PathBuf::from("/s").into()), ..source.clone() };
        assert_eq!(fits(nets(Attribute::ClientIp, "0.0.0.0/0"), &unix, "a.test:443"), Fit::No, "it has no address");
        assert_eq!(fits(is_not(Attribute::Absent, &["*"]), &source, "a.test:443"), Fit::Yes, "no token is verified");
        assert_eq!(fits(is_not(Attribute::Unseen, &["*"]), &source, "a.test:443"), Fit::Unknown);
    }

    #[test]
    fn the_nearest_allow_misses_the_least() {
        let rules = vec![
            to(vec![is(Attribute::Host, &["b.test"]), is(Attribute::Method, &["GET"])]),
            to(vec![is(Attribute::Host, &["a.test"]), is(Attribute::Method, &["GET", "HEAD"])]),
        ];
        let policies = [policy(Action::Allow, rules)];
        let found = with_flow("POST http://a.test/", |flow| {
            let (_, _, condition) = nearest(policies.iter(), &Asked::new(flow, "td")).unwrap();
            (condition.name(), condition.declared())
        });
        assert_eq!(found, ("method", "GET, HEAD".to_owned()));
    }
}
