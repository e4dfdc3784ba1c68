//! Which rule comes nearest to allowing a flow that was refused: for `explain`, never on the way of a flow.

use std::sync::{Arc, OnceLock};

use super::authz::{self, Asked};
use super::snapshot::{Found, View};
use super::weighed::nearest_route;
use super::{Nearest, Service, Snapshot, Stage};
use crate::flow::{Ask, ErrorType, Flow, Host};

impl Snapshot {
    /// The rule that comes nearest to allowing a flow that was refused: the same host on another port or in another protocol,
    /// else a host one slip of the finger away, else a neighbour in the name's tree.
    pub fn nearest(&self, flow: &Flow<'_>) -> Option<Nearest> {
        let view = self.view(flow)?;
        match view.find(&flow.target) {
            Found::Service(service) => {
                let refusal = self.route(flow).verdict.err()?;
                match (refusal.stage, refusal.error, &flow.ask) {
                    (Stage::Authorization, _, _) => self.nearest_policy(view, Some(service), flow),
                    (_, ErrorType::NoRoute, Ask::Http(request)) => nearest_route(view, service, request, flow),
                    (_, ErrorType::BadRequest, _) => None, // it is the request that has to change
                    _ => Some(differs_in_protocol(service)),
                }
            }
            // What is unknown to the registry may pass, and be refused by a policy.
            _ if self.is_refused_by_policy(flow) => self.nearest_policy(view, None, flow),
            Found::OtherPorts(ports) => differs_in_port(ports, flow.target.port),
            Found::Nothing => match &flow.target.host {
                Host::Name(name) => view.nearby.find(view, name.as_str(), flow.target.port),
                Host::Ip(_) => None,
            },
        }
    }

    fn is_refused_by_policy(&self, flow: &Flow<'_>) -> bool {
        self.route(flow).verdict.is_err_and(|refusal| refusal.stage == Stage::Authorization)
    }

    /// The ALLOW that comes nearest; where a DENY refuses, none would have helped.
    fn nearest_policy(&self, view: &View, service: Option<&Service>, flow: &Flow<'_>) -> Option<Nearest> {
        let of_service = service.and_then(|service| service.policies.as_deref()).map_or(&[][..], Vec::as_slice);
        let policies = view.policies.iter().chain(of_service).map(|policy| &**policy);
        let asked = Asked::new(flow, &self.trust_domain);
        if let authz::Verdict::Denied(Some(_)) = authz::judge(policies.clone(), &asked) {
            return None;
        }
        let (policy, rule, condition) = authz::nearest(policies, &asked)?;
        Some(Nearest {
            rule: policy.origin.resource.clone(),
            origin: rule.origin.clone(),
            differs_in: condition.name(),
            declared: condition.declared().into(),
        })
    }
}

/// The names of a view in the order of their labels from the right, so that neighbours stand side by side. Made when first asked.
#[derive(Debug, Default)]
pub(super) struct NearbyHosts {
    sorted: OnceLock<Vec<Arc<str>>>,
}

impl NearbyHosts {
    fn find(&self, view: &View, name: &str, port: u16) -> Option<Nearest> {
        let slip = || one_slip_away(name, |name| view.hosts().get(name).is_some());
        let host = slip().or_else(|| wildcard_below(view, name)).or_else(|| self.neighbour(view, name))?;
        let ports = view.ports_of(&host)?;
        let service = ports.iter().min_by_key(|service| service.port.abs_diff(port))?;
        Some(nearest(service, "host", &service.host))
    }

    /// The name that shares the most with `name`: its parent domain, and there the smallest distance.
    fn neighbour(&self, view: &View, name: &str) -> Option<String> {
        let sorted = self.sorted.get_or_init(|| {
            let mut names: Vec<Arc<str>> = view.hosts().names().map(|(name, _)| name.clone()).collect();
            names.sort_by(|a, b| a.rsplit('.').cmp(b.rsplit('.')));
            names
        });
        let (_, parent) = name.split_once('.')?;
        if !parent.contains('.') {
            // Neighbours in a top-level domain are strangers, but for the same name under another one.
            return None;
        }
        let before = |other: &Arc<str>| other.rsplit('.').lt(parent.rsplit('.'));
        let start = sorted.partition_point(before);
        let below =
            |other: &&Arc<str>| other.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        let neighbours = sorted[start..].iter().take_while(below).take(NEIGHBOURS_MAX);
        neighbours.min_by_key(|other| distance(name, other)).map(|other| other.to_string())
    }
}

fn wildcard_below(view: &View, name: &str) -> Option<String> {
    let pattern = format!("*.{name}");
    view.hosts().get(&pattern).map(|_| pattern)
}

fn differs_in_port(ports: &[Arc<Service>], port: u16) -> Option<Nearest> {
    let service = ports.iter().min_by_key(|service| service.port.abs_diff(port))?;
    Some(nearest(service, "port", &service.port.to_string()))
}

fn differs_in_protocol(service: &Service) -> Nearest {
    nearest(service, "protocol", service.protocol.as_str())
}

fn nearest(service: &Service, differs_in: &'static str, declared: &str) -> Nearest {
    Nearest {
        rule: service.origin.resource.clone(),
        origin: service.origin.clone(),
        differs_in,
        declared: declared.into(),
    }
}

/// The first name that `known` knows among all that one deletion, swap, replacement or insertion makes of `name`.
fn one_slip_away(name: &str, known: impl Fn(&str) -> bool) -> Option<String> {
    if !name.is_ascii() || name.len() > SLIP_BYTES_MAX {
        return None;
    }
    let cut = |at: usize, skip: usize, with: &str| format!("{}{with}{}", &name[..at], &name[at + skip..]);
    let letters = || (b'a'..=b'z').chain(b'0'..=b'9').chain([b'-', b'.']);
    let one = |at: usize, skip: usize| {
        letters().map(move |letter| cut(at, skip, char::from(letter).encode_utf8(&mut [0; 4])))
    };
    let deleted = (0..name.len()).map(|at| cut(at, 1, ""));
    let swapped = (1..name.len()).map(|at| cut(at - 1, 2, &format!("{}{}", &name[at..=at], &name[at - 1..at])));
    let replaced = (0..name.len()).flat_map(|at| one(at, 1));
    let inserted = (0..=name.len()).flat_map(|at| one(at, 0));
    deleted.chain(swapped).chain(replaced).chain(inserted).find(|other| other != name && known(other))
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

const SLIP_BYTES_MAX: usize = 64; // some 5,000 lookups
const NEIGHBOURS_MAX: usize = 256;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::route::sample::{service, snapshot, with_flow};
    use crate::route::{Mode, Protocol};

    fn nearest_to(snapshot: &Snapshot, asked: &str) -> Option<(&'static str, String)> {
        let nearest = with_flow(asked, |flow| snapshot.nearest(flow))?;
        Some((nearest.differs_in, nearest.declared.into()))
    }

    #[test]
    fn a_slip_a_port_a_protocol_or_a_neighbour_is_pointed_at() {
        let services = [
            ("api.example.com", 443, Protocol::Tls),
            ("api.example.com", 8443, Protocol::Tls),
            ("www.example.com", 443, Protocol::Tls),
            ("*.wiki.org", 443, Protocol::Tls),
            ("other.com", 443, Protocol::Tls),
        ];
        let services = services.map(|(host, port, protocol)| service(host, port, protocol));
        let snapshot = snapshot(Mode::RegistryOnly, services.into());
        for (asked, expected) in [
            ("api.example.com:8444", Some(("port", "8443"))),
            ("http://api.example.com:443/", Some(("protocol", "TLS"))),
            ("apo.example.com:443", Some(("host", "api.example.com"))),
            ("ap.example.com:443", Some(("host", "api.example.com"))),
            ("apii.example.com:443", Some(("host", "api.example.com"))),
            ("pai.example.com:443", Some(("host", "api.example.com"))),
            ("www2b.example.com:443", Some(("host", "www.example.com"))),
            ("wiki.org:443", Some(("host", "*.wiki.org"))),
            ("stranger.com:443", None),
            ("10.0.0.1:443", None),
            ("api.example.com:443", None),
        ] {
            assert_eq!(nearest_to(&snapshot, asked), expected.map(|(a, b)| (a, b.to_owned())), "{asked}");
        }
    }

    #[test]
    fn long_names_and_many_hosts_are_bounded() {
        let services = (0..20_000).map(|n| service(&format!("host-{n}.example.com"), 443, Protocol::Tls)).collect();
        let snapshot = snapshot(Mode::RegistryOnly, services);
        let label = "a".repeat(60);
        let started = Instant::now();
        for asked in [format!("{label}.{label}.{label}.{label}:443"), format!("{label}.example.com:443")] {
            nearest_to(&snapshot, &asked);
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }

    #[test]
    fn distance_counts_edits() {
        for (a, b, edits) in [("", "abc", 3), ("kitten", "sitting", 3), ("same", "same", 0)] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }
}
