//! What an operator could write so that a refused flow is allowed.

use std::net::IpAddr;

use serde::Serialize;

use super::{Nearest, Service};
use crate::flow::{Ask, ErrorType, Flow, Host, Scheme, Target};

/// YAML, and the place where it belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// In words.
    pub r#where: String,
    /// Lines of YAML.
    pub yaml: String,
}

/// What would allow this flow that failed with `error`: each on its own, the narrowest first. Nothing where no rule can mend it.
pub fn remedies(
    error: ErrorType,
    flow: &Flow<'_>,
    service: Option<&Service>,
    nearest: Option<&Nearest>,
) -> Vec<Remedy> {
    match error {
        ErrorType::NotFound => not_found(flow, nearest),
        ErrorType::IpProhibited => prohibited(&flow.target, service),
        ErrorType::ClientDenied => {
            vec![client_denied(&flow.source.listener.name, flow.source.peer.ip().to_canonical())]
        }
        _ => Vec::new(),
    }
}

/// What would let a client use a listener.
pub fn client_denied(listener: &str, client: IpAddr) -> Remedy {
    Remedy {
        r#where: format!("the settings, listener {listener}, in addition to what is there"),
        yaml: format!("clients: {{ from: [\"{client}\"] }}"),
    }
}

fn not_found(flow: &Flow<'_>, nearest: Option<&Nearest>) -> Vec<Remedy> {
    let target = &flow.target;
    let mut remedies = Vec::new();
    if let Some(nearest) = nearest.filter(|nearest| nearest.differs_in == "port") {
        let protocol = protocol(flow);
        remedies.push(Remedy {
            r#where: format!("spec.ports of {} ({})", nearest.rule, nearest.origin),
            yaml: format!(
                "- {{ number: {}, name: {}-{}, protocol: {protocol} }}",
                target.port,
                protocol.to_lowercase(),
                target.port
            ),
        });
    }
    remedies.push(Remedy {
        r#where: "the settings, beside what stands there".to_owned(),
        yaml: format!("allow: [\"{target}\"]"),
    });
    remedies
}

fn prohibited(target: &Target, service: Option<&Service>) -> Vec<Remedy> {
    // The addresses behind a name are the network's to know; only a literal says what has to be opened.
    let net = match target.host {
        Host::Ip(ip) => ip.to_string(),
        Host::Name(_) => "10.0.0.0/8".to_owned(),
    };
    let mut remedies = Vec::new();
    if let Some(service) = service.filter(|service| service.origin.line > 0 && !service.origin.resource.is_empty()) {
        remedies.push(Remedy {
            r#where: format!("metadata of {} ({}), for this service only", service.origin.resource, service.origin),
            yaml: format!("annotations: {{ egret.dev/allow-addresses: \"{net}\" }}"),
        });
    }
    remedies.push(Remedy {
        r#where: "the settings, for every flow".to_owned(),
        yaml: format!("addresses: {{ allow: [\"{net}\"] }}"),
    });
    remedies
}

/// The protocol that a port would have to be declared with to carry what is asked.
fn protocol(flow: &Flow<'_>) -> &'static str {
    match flow.ask {
        Ask::Http(request) if request.scheme == Scheme::Http => "HTTP",
        Ask::Connect if flow.target.port == 80 => "HTTP",
        _ => "TLS",
    }
}
