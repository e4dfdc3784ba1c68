//! What an operator could write so that a refused flow is allowed.

use std::net::IpAddr;

use serde::Serialize;

use super::question::Question;
use crate::accept::ListenerSettings;
use crate::flow::{ErrorType, Host, Scheme, Target};
use crate::route::{Nearest, Service};

/// YAML, and the place where it belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Suggestion {
    /// In words.
    pub(super) r#where: String,
    /// Lines of YAML.
    pub(super) yaml: String,
}

/// Nothing is suggested for what no rule can mend, such as a target that is none.
pub(super) fn suggestions(
    error: ErrorType,
    question: Option<&Question>,
    listener: &ListenerSettings,
    client: IpAddr,
    service: Option<&Service>,
    nearest: Option<&Nearest>,
) -> Vec<Suggestion> {
    let Some(question) = question else { return Vec::new() };
    match error {
        ErrorType::NotFound => not_found(question, nearest),
        ErrorType::IpProhibited => prohibited(question.target(), service),
        ErrorType::ClientDenied => vec![Suggestion {
            r#where: format!("the settings, listener {}, in addition to what is there", listener.name.name),
            yaml: format!("clients: {{ from: [\"{client}\"] }}"),
        }],
        _ => Vec::new(),
    }
}

fn not_found(question: &Question, nearest: Option<&Nearest>) -> Vec<Suggestion> {
    let target = question.target();
    let mut suggestions = Vec::new();
    if let Some(nearest) = nearest.filter(|nearest| nearest.differs_in == "port") {
        let protocol = protocol(question);
        suggestions.push(Suggestion {
            r#where: format!("spec.ports of {} ({})", nearest.rule, nearest.origin),
            yaml: format!(
                "- {{ number: {}, name: {}-{}, protocol: {protocol} }}",
                target.port,
                protocol.to_lowercase(),
                target.port
            ),
        });
    }
    suggestions.push(Suggestion {
        r#where: "the settings, beside what stands there".to_owned(),
        yaml: format!("allow: [\"{target}\"]"),
    });
    suggestions
}

fn prohibited(target: &Target, service: Option<&Service>) -> Vec<Suggestion> {
    // The addresses behind a name are the network's to know; only a literal says what has to be opened.
    let net = match target.host {
        Host::Ip(ip) => ip.to_string(),
        Host::Name(_) => "10.0.0.0/8".to_owned(),
    };
    let mut suggestions = Vec::new();
    if let Some(service) = service.filter(|service| service.origin.line > 0 && !service.origin.resource.is_empty()) {
        suggestions.push(Suggestion {
            r#where: format!("metadata of {} ({}), for this service only", service.origin.resource, service.origin),
            yaml: format!("annotations: {{ egret.dev/allow-addresses: \"{net}\" }}"),
        });
    }
    suggestions.push(Suggestion {
        r#where: "the settings, for every flow".to_owned(),
        yaml: format!("addresses: {{ allow: [\"{net}\"] }}"),
    });
    suggestions
}

/// The protocol that a port would have to be declared with to carry what is asked.
fn protocol(question: &Question) -> &'static str {
    match question {
        Question::Http { scheme: Scheme::Http, .. } => "HTTP",
        Question::Connect(target) if target.port == 80 => "HTTP",
        _ => "TLS",
    }
}
