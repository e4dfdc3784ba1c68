//! AuthorizationPolicy as written (Istio `security/v1`): who may ask what of whom.

use std::net::IpAddr;

use ipnet::IpNet;

use super::scalars::parse_network;
use super::selector::Selector;
use crate::config::diagnostic::{Code, Context, Diagnostics};
use crate::config::read::Fields;
use crate::config::resource::Resource;
use crate::config::source::{Span, Spanned};
use crate::config::yaml::Node;
use crate::flow::SPIFFE;
use crate::flow::Workload;
use crate::route::authz::{Action, Attribute, Condition, Rule, TextMatch, Values};
use crate::route::http::matching::Pattern;

/// A policy that passed its own rules, or of which the wrong parts were reported.
#[derive(Debug)]
pub struct AuthorizationPolicy<'r> {
    /// Where it stands.
    pub resource: &'r Resource,
    /// What follows from a rule that holds.
    pub action: Action,
    /// Whose flows it judges.
    pub reach: Reach,
    /// In the order written.
    pub rules: Vec<Rule>,
}

/// Which flows a policy judges.
#[derive(Debug)]
pub enum Reach {
    /// Those of every listener that acts for a workload of its namespace, or of all in the root namespace.
    Workloads(Option<Selector>),
    /// Those to these services.
    Services(Vec<Spanned<Protected>>),
}

/// What a policy protects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protected {
    /// Kubernetes' kind `Service`, else a ServiceEntry.
    pub is_kubernetes: bool,
    /// The resource's name, in the namespace of the policy.
    pub name: Box<str>,
}

const ACTIONS: &[(&str, Option<Action>)] =
    &[("ALLOW", Some(Action::Allow)), ("DENY", Some(Action::Deny)), ("AUDIT", Some(Action::Audit)), ("CUSTOM", None)];

impl<'r> AuthorizationPolicy<'r> {
    /// Reads and judges one resource. `trust_domain` is that of the mesh. `None`: nothing that is carried out.
    pub fn read(resource: &'r Resource, trust_domain: &str, diagnostics: &mut Diagnostics) -> Option<Self> {
        let cx = &mut resource.context(diagnostics);
        // Without `spec` it allows nothing.
        let Some(spec) = resource.spec() else {
            let reach = Reach::Workloads(None);
            return Some(Self { resource, action: Action::Allow, reach, rules: Vec::new() });
        };
        let mut fields = Fields::of(spec, cx)?;
        let selector = fields.get("selector").and_then(|node| Selector::read(node, "matchLabels", cx));
        let selector_at = selector.as_ref().map(|selector| selector.span);
        let mut refs: Vec<&Node> = fields.list("targetRefs", cx).iter().collect();
        refs.extend(fields.get("targetRef"));
        let is_targeted = !refs.is_empty();
        if let (Some(at), true) = (selector_at, is_targeted) {
            cx.report(Code::TwoReaches, at, "either `selector` or `targetRefs`: they name different things");
        }
        let targets: Vec<_> = refs.into_iter().filter_map(|node| read_target(node, cx)).collect();
        let action_node = fields.get("action");
        let action = action_node.map_or(Some(Some(Action::Allow)), |node| node.one_of(ACTIONS, cx));
        let rules_node = fields.get("rules");
        let items = rules_node.and_then(|node| node.items(cx)).unwrap_or_default();
        let mut reader = Reader { resource, trust_domain };
        let rules: Vec<Rule> = items.iter().map(|node| reader.rule(node, cx).unwrap_or_else(never)).collect();
        fields.refused("provider", "nobody would be asked whether the flow may pass", cx);
        fields.finish(cx);
        let at = action_node.map_or(spec.span, |node| node.span);
        let action = match action? {
            Some(action) => action,
            None => {
                let message =
                    "CUSTOM asks an authorizer of the mesh, and none is asked here: what it refuses would pass";
                let report = cx.report(Code::NotSupported, at, message);
                report.help("say it with ALLOW and DENY; until then this configuration does not come into force");
                return None;
            }
        };
        if action == Action::Deny && items.is_empty() {
            let message = "a DENY without rules never holds, and refuses nothing; `rules: [{}]` refuses everything";
            cx.report(Code::PolicyWithoutEffect, at, message);
        }
        let reach = match is_targeted {
            true if targets.is_empty() => return None, // of others: each was said
            true => Reach::Services(targets),
            false => Reach::Workloads(selector),
        };
        Some(Self { resource, action, reach, rules })
    }

    /// True if it judges all flows of this workload. `root` is the mesh's root namespace: what stands there is for all namespaces.
    pub fn is_of(&self, workload: &Workload, root: &str) -> bool {
        let namespace = &*self.resource.metadata.namespace;
        let Reach::Workloads(selector) = &self.reach else { return false };
        (namespace == root || *namespace == *workload.namespace)
            && selector.as_ref().is_none_or(|selector| selector.selects(&workload.labels))
    }

    /// True if that depends on the workload's labels.
    pub fn is_selecting(&self, workload: &Workload, root: &str) -> bool {
        matches!(&self.reach, Reach::Workloads(Some(selector)) if !selector.labels.is_empty())
            && self.is_of(workload, root)
    }
}

/// Stands for a rule with a mistake: an error keeps the policy from being used, and until then it holds for nobody.
fn never() -> Rule {
    let condition = Condition { attribute: Attribute::Absent, values: Values::Texts(Vec::new()), negated: false };
    Rule { when: vec![condition], ..Rule::default() }
}

fn read_target(node: &Node, cx: &mut Context<'_>) -> Option<Spanned<Protected>> {
    let mut fields = Fields::of(node, cx)?;
    let kind = fields.required("kind", cx).and_then(|node| node.text(cx));
    let name = fields.required("name", cx).and_then(|node| node.text(cx));
    for known in ["group", "namespace"] {
        fields.text(known, cx);
    }
    fields.finish(cx);
    let kind = kind?;
    let is_kubernetes = match kind.value {
        "ServiceEntry" => false,
        "Service" => true,
        other => {
            let message = format!("{other}: none of our listeners is one, so this policy judges nothing by it");
            cx.report(Code::KindPassedOver, kind.span, message).found(other);
            return None;
        }
    };
    Some(Spanned { value: Protected { is_kubernetes, name: name?.value.into() }, span: node.span })
}

/// How the values of a field are read.
#[derive(Clone, Copy)]
enum Form {
    Text,
    /// Lower case: hosts are compared in their canonical form.
    Host,
    Principal,
    Path,
    Net,
    Port,
}

/// `source`: fields, what they look at, and the same negated.
const SOURCE: [(&str, &str, Attribute, Form); 6] = [
    ("principals", "notPrincipals", Attribute::Principal, Form::Principal),
    ("requestPrincipals", "notRequestPrincipals", Attribute::Absent, Form::Text), // no token is verified here
    ("namespaces", "notNamespaces", Attribute::Namespace, Form::Text),
    ("serviceAccounts", "notServiceAccounts", Attribute::ServiceAccount, Form::Text),
    ("ipBlocks", "notIpBlocks", Attribute::ClientIp, Form::Net),
    ("remoteIpBlocks", "notRemoteIpBlocks", Attribute::ClientIp, Form::Net),
];

/// `operation`.
const OPERATION: [(&str, &str, Attribute, Form); 4] = [
    ("hosts", "notHosts", Attribute::Host, Form::Host),
    ("ports", "notPorts", Attribute::Port, Form::Port),
    ("methods", "notMethods", Attribute::Method, Form::Text),
    ("paths", "notPaths", Attribute::Path, Form::Path),
];

/// Keys of `when`, but for those with a name in brackets.
const KEYS: [(&str, Attribute, Form); 11] = [
    ("source.ip", Attribute::ClientIp, Form::Net),
    ("remote.ip", Attribute::ClientIp, Form::Net),
    ("source.namespace", Attribute::Namespace, Form::Text),
    ("source.principal", Attribute::Principal, Form::Principal),
    ("source.serviceAccount", Attribute::ServiceAccount, Form::Text),
    ("destination.ip", Attribute::DestinationIp, Form::Net),
    ("destination.port", Attribute::Port, Form::Port),
    ("connection.sni", Attribute::Sni, Form::Host),
    ("request.auth.principal", Attribute::Absent, Form::Text),
    ("request.auth.audiences", Attribute::Absent, Form::Text),
    ("request.auth.presenter", Attribute::Absent, Form::Text),
];

struct Reader<'a> {
    resource: &'a Resource,
    trust_domain: &'a str,
}

impl Reader<'_> {
    fn rule(&mut self, node: &Node, cx: &mut Context<'_>) -> Option<Rule> {
        let mut fields = Fields::of(node, cx)?;
        let from = self.alternatives(&mut fields, ("from", "source"), &SOURCE, cx);
        let to = self.alternatives(&mut fields, ("to", "operation"), &OPERATION, cx);
        let mut when = Some(Vec::new());
        for node in fields.list("when", cx) {
            let conditions = self.when(node, cx);
            when = when.zip(conditions).map(|(all, more)| all.into_iter().chain(more).collect());
        }
        fields.finish(cx);
        Some(Rule { origin: self.resource.origin(node.span), from: from?, to: to?, when: when? })
    }

    /// `from: [{ source: … }]`; an empty list would read as nobody to some and as everybody to others, so it is an error, as in Istio.
    fn alternatives(
        &self,
        fields: &mut Fields<'_>,
        (list, inner): (&'static str, &'static str),
        known: &[(&'static str, &'static str, Attribute, Form)],
        cx: &mut Context<'_>,
    ) -> Option<Vec<Vec<Condition>>> {
        let Some(node) = fields.get(list) else { return Some(Vec::new()) };
        let items = node.items(cx)?;
        if items.is_empty() {
            cx.report(
                Code::EmptyPolicyPart,
                node.span,
                format!("`{list}` is empty: leave it out, or say what it asks for"),
            );
            return None;
        }
        let mut alternatives = Some(Vec::new());
        for item in items {
            let read = Fields::of(item, cx).and_then(|mut fields| {
                let part = fields.required(inner, cx).and_then(|node| self.part(node, known, cx));
                fields.finish(cx);
                part
            });
            alternatives = alternatives.zip(read).map(|(mut all, one)| {
                all.push(one);
                all
            });
        }
        alternatives
    }

    /// A source or an operation.
    fn part(
        &self,
        node: &Node,
        known: &[(&'static str, &'static str, Attribute, Form)],
        cx: &mut Context<'_>,
    ) -> Option<Vec<Condition>> {
        let mut fields = Fields::of(node, cx)?;
        let mut conditions = Some(Vec::new());
        for (plain, not, attribute, form) in known {
            for (name, negated) in [(*plain, false), (*not, true)] {
                let Some(list) = fields.get(name) else { continue };
                let condition = self.condition(list, attribute.clone(), *form, negated, cx);
                conditions = conditions.zip(condition).map(|(mut all, one)| {
                    all.push(one);
                    all
                });
            }
        }
        let span = fields.span();
        fields.finish(cx);
        if conditions.as_ref().is_some_and(Vec::is_empty) {
            cx.report(Code::EmptyPolicyPart, span, "this asks for nothing: leave it out, or say what it asks for");
            return None;
        }
        conditions
    }

    fn when(&self, node: &Node, cx: &mut Context<'_>) -> Option<Vec<Condition>> {
        let mut fields = Fields::of(node, cx)?;
        let key = fields.required("key", cx).and_then(|node| node.text(cx));
        let [values, not_values] = ["values", "notValues"].map(|name| fields.get(name));
        let span = fields.span();
        fields.finish(cx);
        let key = key?;
        let Some((attribute, form)) = read_key(key.value) else {
            let message = format!("{} is no key that conditions know", cx.quote(key.value));
            let known: Vec<_> = KEYS.iter().map(|(name, ..)| *name).chain(["request.headers[NAME]"]).collect();
            cx.report(Code::BadPolicyKey, key.span, message).help(format!("known: {}", known.join(", ")));
            return None;
        };
        if attribute == Attribute::Unseen {
            let message = "never known here: an ALLOW does not hold by it, and a DENY holds without it";
            cx.report(Code::PolicyWithoutEffect, key.span, message);
        }
        if values.is_none() && not_values.is_none() {
            cx.report(Code::MissingField, span, "`values` or `notValues` is missing");
            return None;
        }
        let mut conditions = Vec::new();
        for (node, negated) in [(values, false), (not_values, true)] {
            if let Some(node) = node {
                conditions.push(self.condition(node, attribute.clone(), form, negated, cx)?);
            }
        }
        Some(conditions)
    }

    fn condition(
        &self,
        list: &Node,
        attribute: Attribute,
        form: Form,
        negated: bool,
        cx: &mut Context<'_>,
    ) -> Option<Condition> {
        let items = list.items(cx)?;
        if items.is_empty() {
            cx.report(Code::EmptyPolicyPart, list.span, "no values: leave the field out, or name some");
            return None;
        }
        let values = match form {
            Form::Net => {
                let nets: Option<Vec<IpNet>> =
                    items.iter().map(|node| Some(node.parsed(canonical, cx)?.value)).collect();
                let nets = nets?;
                let text = nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                Values::Nets(nets.into_iter().collect(), text.into())
            }
            Form::Port => {
                let ports: Option<Vec<u16>> = items.iter().map(|node| Some(node.parsed(port, cx)?.value)).collect();
                Values::Ports(ports?)
            }
            Form::Text | Form::Host | Form::Principal | Form::Path => {
                let mut matches = Vec::new();
                for node in items {
                    let text = node.text(cx)?;
                    if text.value.is_empty() {
                        cx.report(Code::BadValue, text.span, "an empty text fits nothing; `*` fits whatever is there");
                        return None;
                    }
                    matches.extend(self.texts(text, form, cx)?);
                }
                Values::Texts(matches)
            }
        };
        Some(Condition { attribute, values, negated })
    }

    /// One text; two where `cluster.local` stands for the trust domain of the mesh.
    fn texts(&self, text: Spanned<&str>, form: Form, cx: &mut Context<'_>) -> Option<Vec<TextMatch>> {
        match form {
            Form::Path if text.value.contains('{') => Some(vec![template(text, cx)?]),
            Form::Host => Some(vec![pattern(&text.value.to_ascii_lowercase())]),
            Form::Principal => {
                let principal = text.value.strip_prefix(SPIFFE).unwrap_or(text.value);
                let local = principal.strip_prefix("cluster.local/").filter(|_| self.trust_domain != "cluster.local");
                let alias = local.map(|rest| pattern(&format!("{}/{rest}", self.trust_domain)));
                Some([pattern(principal)].into_iter().chain(alias).collect())
            }
            _ => Some(vec![pattern(text.value)]),
        }
    }
}

/// With a `*` at one end, or as it is: anywhere else a `*` stands for itself, as in Istio.
fn pattern(text: &str) -> TextMatch {
    match (text.strip_prefix('*'), text.strip_suffix('*')) {
        _ if text == "*" => TextMatch::Present,
        (Some(suffix), _) => TextMatch::Suffix(suffix.into()),
        (_, Some(prefix)) => TextMatch::Prefix(prefix.into()),
        (None, None) => TextMatch::Exact(text.into()),
    }
}

/// `/api/{*}/items/{**}`: `{*}` is one segment, `{**}` any number of them.
fn template(text: Spanned<&str>, cx: &mut Context<'_>) -> Option<TextMatch> {
    let mut expression = String::new();
    let mut bad = None;
    for segment in text.value.split('/').skip(1) {
        expression.push('/');
        match segment {
            "{*}" => expression.push_str("[^/]+"),
            "{**}" => expression.push_str(".*"),
            segment if segment.contains(['{', '}', '*']) => bad = Some(segment),
            segment => expression.push_str(&regex::escape(segment)),
        }
    }
    if let Some(segment) = bad.or((!text.value.starts_with('/')).then_some(text.value)) {
        let message = format!("{}: in a path template a segment is a text, `{{*}}` or `{{**}}`", cx.quote(segment));
        cx.report(Code::BadValue, text.span, message);
        return None;
    }
    match Pattern::new(&expression, true, false) {
        Ok(pattern) => Some(TextMatch::Template(pattern)),
        Err(error) => {
            cx.report(Code::BadValue, text.span, error);
            None
        }
    }
}

fn read_key(key: &str) -> Option<(Attribute, Form)> {
    if let Some(name) = key.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']')) {
        return (!name.is_empty()).then(|| (Attribute::Header(name.to_ascii_lowercase().into()), Form::Text));
    }
    if key.starts_with("request.auth.claims[") && key.ends_with(']') {
        return Some((Attribute::Absent, Form::Text));
    }
    if key.starts_with("experimental.envoy.filters.") {
        return Some((Attribute::Unseen, Form::Text));
    }
    let known = KEYS.iter().find(|(name, ..)| *name == key);
    known.map(|(_, attribute, form)| (attribute.clone(), *form))
}

fn canonical(text: &str) -> Result<IpNet, &'static str> {
    let net = parse_network(text)?;
    // An IPv4-mapped address means the IPv4 one.
    Ok(match net.addr().to_canonical() {
        IpAddr::V4(ip) if net.addr().is_ipv6() && net.prefix_len() >= 96 => {
            IpNet::new(ip.into(), net.prefix_len() - 96).unwrap_or(net)
        }
        _ => net,
    })
}

/// Ports are texts in policies.
fn port(text: &str) -> Result<u16, &'static str> {
    text.parse().ok().filter(|port| *port != 0).ok_or("not a port, 1 to 65535, as text")
}

/// Where something of the policy stands.
impl AuthorizationPolicy<'_> {
    /// The place of the whole.
    pub fn span(&self) -> Span {
        self.resource.root.span
    }
}
