//! `allow: [api.github.com, "*.pypi.org:443", 10.0.0.5:5432]`: each entry stands for a ServiceEntry, which can be shown.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::diagnostic::{Code, Diagnostics};
use crate::config::kinds::scalars::{check_wildcard_domain, parse_network};
use crate::config::resource::{Kind, Metadata, Resource};
use crate::config::settings::Settings;
use crate::config::source::Source;
use crate::config::yaml;
use crate::flow::{Host, Origin};

/// One entry of `allow`, expanded.
#[derive(Clone, Debug)]
pub struct Expansion {
    /// The ServiceEntry.
    pub resource: Resource,
    /// Where the entry stands in the settings.
    pub origin: Origin,
}

impl Expansion {
    /// The ServiceEntry as it could stand in a file.
    pub fn yaml(&self) -> &str {
        self.resource.source.text()
    }

    /// Expands one entry as written.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn parse(entry: &str, index: usize, namespace: &Arc<str>) -> Result<String, String> {
        let (what, port) = split_port(entry)?;
        let ports = port.map_or_else(|| vec![443, 80], |port| vec![port]);
        let mut yaml = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: allow-{index}\n  namespace: {namespace}\nspec:\n"
        );
        // Infallible: a String takes everything.
        let _ = match what {
            What::Host(host) => {
                // DYNAMIC_DNS takes protocols that carry the name; both dial the name that was asked for.
                let has_names = ports.iter().all(|port| matches!(port, 443 | 80));
                let resolution = match (host.starts_with('*'), has_names) {
                    (false, _) => "DNS",
                    (true, true) => "DYNAMIC_DNS",
                    (true, false) => "NONE",
                };
                write!(yaml, "  hosts: [\"{host}\"]\n  resolution: {resolution}\n")
            }
            What::Net(net) => {
                let digits: String =
                    net.to_string().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
                // An entry needs a name; nobody can ask for one under .invalid (RFC 6761 §6.4).
                write!(
                    yaml,
                    "  hosts: [\"n{digits}.allow.invalid\"]\n  addresses: [\"{}\"]\n  resolution: NONE\n",
                    Shown(net)
                )
            }
        };
        yaml.push_str("  ports:\n");
        for port in ports {
            let (name, protocol) = match port {
                443 => ("tls", "TLS"),
                80 => ("http", "HTTP"),
                _ => ("tcp", "TCP"),
            };
            let _ = writeln!(yaml, "  - {{ number: {port}, name: {name}, protocol: {protocol} }}");
        }
        Ok(yaml)
    }
}

/// Expands the list of the settings. `order` is the first number behind those of the resources.
pub(super) fn expand(settings: &Settings, order: usize, diagnostics: &mut Diagnostics) -> Vec<Expansion> {
    let namespace = &settings.workload.namespace;
    let mut expansions = Vec::with_capacity(settings.allow.len());
    for (index, entry) in settings.allow.iter().enumerate() {
        let yaml = match Expansion::parse(&entry.value, index, namespace) {
            Ok(yaml) => yaml,
            Err(problem) => {
                let report = settings.report(Code::BadAllowEntry, entry.span, problem, diagnostics);
                report.found(&*entry.value).help("write api.github.com, *.pypi.org:443 or 10.0.0.5:5432");
                continue;
            }
        };
        let source = Arc::new(Source::new(format!("allow[{index}]"), yaml));
        let Some(root) = yaml::parse(&source, diagnostics).pop() else { continue };
        let name: Arc<str> = format!("allow-{index}").into();
        let origin = Origin { resource: format!("allow[{index}]").into(), ..settings.origin(entry.span) };
        expansions.push(Expansion {
            resource: Resource {
                kind: Kind::ServiceEntry,
                metadata: Metadata { name, namespace: namespace.clone(), ..Metadata::default() },
                root,
                source,
                order: order + index,
                label: origin.resource.clone(),
            },
            origin,
        });
    }
    expansions
}

enum What {
    Host(Arc<str>),
    Net(IpNet),
}

/// A network of one without its length.
struct Shown(IpNet);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

fn split_port(entry: &str) -> Result<(What, Option<u16>), String> {
    if let Ok(net) = parse_network(entry) {
        return Ok((What::Net(net), None));
    }
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) => {
            let plain = port.bytes().all(|b| b.is_ascii_digit());
            let number = port.parse::<u16>().ok().filter(|number| plain && *number != 0);
            (host, Some(number.ok_or_else(|| format!("{port:?} is no port (1 to 65535)"))?))
        }
        None => (entry, None),
    };
    let unbracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if let Ok(net) = parse_network(unbracketed.unwrap_or(host)) {
        return Ok((What::Net(net), port));
    }
    if host == "*" {
        return Err(
            "`*` alone would open every destination: that is mesh.outboundTrafficPolicy.mode: ALLOW_ANY".to_owned()
        );
    }
    check_wildcard_domain(host).map_err(|error| format!("{host:?}: {error}"))?;
    let host = crate::config::kinds::canonical_host(host);
    let is_literal = matches!(Host::parse(host.as_bytes()), Ok(Host::Ip(IpAddr::V4(_))));
    if is_literal {
        return Err(format!("{host:?} is an address in an unusual spelling: write it in four decimal parts"));
    }
    Ok((What::Host(host), port))
}
