//! Rules of single values: names, hosts, ports, addresses (ISTIO 3.1).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::diagnostic::{Code, Context};
use crate::config::read::parse_duration;
use crate::config::yaml::Node;

/// Why a text is no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    /// Nothing.
    Empty,
    /// An address where names are wanted.
    Address,
    /// Longer than 255 characters, or a label longer than 63.
    TooLong,
    /// `*` elsewhere than at the beginning, or doubled.
    Wildcard,
    /// Characters that are none of a DNS name's.
    Characters,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the host is empty",
            Self::Address => "an address stands where a DNS name is wanted",
            Self::TooLong => "longer than a DNS name (255 characters, 63 per label)",
            Self::Wildcard => "`*` stands at the beginning of the first label or nowhere",
            Self::Characters => "labels hold letters, digits and `-`, and do not begin or end with `-` (write international names as xn--…)",
        })
    }
}

/// A DNS name, with a trailing dot or without.
///
/// # Errors
/// See [`HostError`].
pub fn check_fqdn(text: &str) -> Result<(), HostError> {
    if text.is_empty() {
        return Err(HostError::Empty);
    }
    if text.len() > HOST_CHARACTERS_MAX {
        return Err(HostError::TooLong);
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    for label in text.split('.') {
        if label.len() > LABEL_CHARACTERS_MAX {
            return Err(HostError::TooLong);
        }
        if label.contains('*') {
            return Err(HostError::Wildcard);
        }
        if !is_label(label) {
            return Err(HostError::Characters);
        }
    }
    let last = text.rsplit('.').next().unwrap_or(text);
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return Err(HostError::Address);
    }
    Ok(())
}

/// A DNS name whose first label may be `*`, `*foo` or `*-foo`; `*` alone passes, and each kind decides about it.
///
/// # Errors
/// See [`HostError`].
pub fn check_wildcard_domain(text: &str) -> Result<(), HostError> {
    match text.strip_prefix('*') {
        None => check_fqdn(text),
        Some("") => Ok(()),
        Some(rest) => match rest.strip_prefix(['.', '-']) {
            Some(rest) => check_fqdn(rest),
            None => check_fqdn(rest),
        },
    }
}

/// A DNS label of RFC 1123 in lower case, as names of ports, subsets and namespaces are.
pub fn is_dns_label(text: &str) -> bool {
    is_label(text) && text.len() <= LABEL_CHARACTERS_MAX && !text.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// An address, or a network whose host bits are cut off.
///
/// # Errors
/// A sentence.
pub fn parse_network(text: &str) -> Result<IpNet, &'static str> {
    if let Ok(ip) = IpAddr::from_str(text) {
        return Ok(IpNet::from(ip));
    }
    IpNet::from_str(text).map(|net| net.trunc()).map_err(|_| "neither an address nor a network such as 192.0.2.0/24")
}

/// A duration of a resource: whole milliseconds, at least one.
pub fn read_duration(node: &Node, cx: &mut Context<'_>) -> Option<Duration> {
    let duration = node.duration(Duration::ZERO..=Duration::MAX, cx)?;
    if !is_whole_milliseconds(duration) {
        let report = cx.report(Code::BadDuration, node.span, "durations are whole milliseconds, at least one");
        report.found(node.excerpt());
        return None;
    }
    Some(duration)
}

/// True for what Istio accepts as a duration.
pub fn is_duration(text: &str) -> bool {
    parse_duration(text).is_some_and(is_whole_milliseconds)
}

fn is_whole_milliseconds(duration: Duration) -> bool {
    duration >= Duration::from_millis(1) && duration.subsec_nanos().is_multiple_of(1_000_000)
}

const HOST_CHARACTERS_MAX: usize = 255;
const LABEL_CHARACTERS_MAX: usize = 63; // RFC 1123 §2.1

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::kinds::ExportTo;
    use crate::config::source::Source;
    use crate::config::{Context, Diagnostics, yaml};
    use crate::route::shared_cases::{Cases, shared_cases};

    #[test]
    fn hosts_have_bounds_on_both_sides() {
        let label = "a".repeat(63);
        let long = format!("{label}.{label}.{label}.{label}");
        assert_eq!(check_fqdn(&long), Ok(()));
        assert_eq!(check_fqdn(&format!("{long}a")), Err(HostError::TooLong));
        assert_eq!(check_fqdn(&format!("a.{label}")), Ok(()));
        assert_eq!(check_fqdn(&format!("a.{label}a")), Err(HostError::TooLong));
        for (text, expected) in [
            ("a.com.", Ok(())),
            ("", Err(HostError::Empty)),
            (".", Err(HostError::Characters)),
            ("a..com", Err(HostError::Characters)),
            ("a.com..", Err(HostError::Characters)),
            ("1.2.3.4", Err(HostError::Address)),
            ("a_b.com", Err(HostError::Characters)),
            ("-a.com", Err(HostError::Characters)),
            ("bücher.example", Err(HostError::Characters)),
        ] {
            assert_eq!(check_fqdn(text), expected, "{text}");
        }
        for (text, expected) in [
            ("*", Ok(())),
            ("*.a.com", Ok(())),
            ("*a.com", Ok(())),
            ("*-a.com", Ok(())),
            ("**.a.com", Err(HostError::Wildcard)),
            ("a.*.com", Err(HostError::Wildcard)),
            ("*.*.com", Err(HostError::Wildcard)),
            ("*.", Err(HostError::Empty)),
        ] {
            assert_eq!(check_wildcard_domain(text), expected, "{text}");
        }
    }

    #[test]
    fn networks_lose_their_host_bits_and_addresses_are_networks_of_one() {
        assert_eq!(parse_network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(parse_network("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        for text in ["", "10.1.2", "10.1.2.3/33", "a.com", "2001:db8::/129"] {
            assert!(parse_network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn istio_s_table_of_scalars_holds() {
        let Some(cases) = shared_cases("scalars.json") else { return };
        let mut seen = Cases::default();
        for (table, row) in cases.rows() {
            let input = |key: &str| row["input"][key].as_str().unwrap();
            let valid = match row["kind"].as_str().unwrap() {
                "fqdn" => check_fqdn(input("fqdn")).is_ok(),
                "wildcard-domain" => check_wildcard_domain(input("in")).is_ok(),
                "ip-address" => input("addr").parse::<IpAddr>().is_ok(),
                "ip-subnet" => parse_network(input("subnet")).is_ok(),
                "port-name" => is_dns_label(input("name")),
                "duration" => is_duration(input("value")),
                "exportTo" if row["input"]["isDestinationRuleWithSelector"] == true => {
                    is_valid_with_selector(&row["input"])
                }
                "exportTo" => export_to_is_valid(&row["input"]),
                "http-header-name-in-match" => {
                    let value = serde_json::json!({ input("name"): { "exact": "a" } });
                    route_is_valid(serde_json::json!({ "match": [{ "headers": value }] }))
                }
                "http-header-value" => {
                    let set = serde_json::json!({ "x-a": input("value") });
                    route_is_valid(serde_json::json!({ "headers": { "request": { "set": set } } }))
                }
                "http-status" => {
                    let abort = serde_json::json!({ "httpStatus": row["input"]["in"], "percentage": { "value": 100 } });
                    route_is_valid(serde_json::json!({ "fault": { "abort": abort } }))
                }
                "wildcard-domain-of-vs-bound-to-gateway" => {
                    seen.skipped(table, "a VirtualService that is bound to Gateways alone is passed over");
                    continue;
                }
                other => panic!("a new kind of row: {other}"),
            };
            assert_eq!(valid, row["valid"].as_bool().unwrap(), "{table} {}", row["index"]);
            seen.held();
        }
        seen.report("scalars.json", 38);
    }

    fn is_error_free(resource: &serde_json::Value) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules.yaml");
        std::fs::write(&path, resource.to_string()).unwrap();
        let sources = crate::config::Sources { resources: vec![(None, path)], ..Default::default() };
        crate::config::Configuration::load(&sources, 1).diagnostics.errors() == 0
    }

    fn resource(kind: &str, metadata: &serde_json::Value, spec: &serde_json::Value) -> serde_json::Value {
        let version = "networking.istio.io/v1";
        serde_json::json!({ "apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec })
    }

    /// An http route with these fields beside its destination.
    fn route_is_valid(mut route: serde_json::Value) -> bool {
        route["route"] = serde_json::json!([{ "destination": { "host": "a.test" } }]);
        let spec = serde_json::json!({ "hosts": ["a.test"], "http": [route] });
        is_error_free(&resource("VirtualService", &serde_json::json!({ "name": "a" }), &spec))
    }

    fn is_valid_with_selector(input: &serde_json::Value) -> bool {
        let spec = serde_json::json!({
            "host": "a.test",
            "workloadSelector": { "matchLabels": { "app": "a" } },
            "exportTo": input["exportTo"],
            "trafficPolicy": { "tls": { "mode": "SIMPLE" } },
        });
        is_error_free(&resource(
            "DestinationRule",
            &serde_json::json!({ "name": "a", "namespace": input["namespace"] }),
            &spec,
        ))
    }

    fn export_to_is_valid(input: &serde_json::Value) -> bool {
        let source = Source::new("exportTo", input["exportTo"].to_string());
        let mut diagnostics = Diagnostics::default();
        let documents = yaml::parse(&source, &mut diagnostics);
        let mut cx = Context::new(&source, &documents[0], "", &mut diagnostics);
        let items = documents[0].items(&mut cx).unwrap();
        let own = input["namespace"].as_str().unwrap().into();
        ExportTo::read(items, &own, input["isServiceEntry"] == true, &mut cx);
        diagnostics.iter().next().is_none()
    }
}
