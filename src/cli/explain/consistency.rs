//! The last stage: which rule the first bytes of a tunnel are held against, and what it says of the server name of `--sni`.

use super::question::Question;
use super::report::{place, printable};
use super::stages::Trail;
use crate::flow::{ErrorType, Failure, Host};
use crate::route::consistency::{Judgement, Mode, Policy};
use crate::route::{Expected, Route, Snapshot, Stage, TunnelKind};
use crate::stream::client_hello::{ClientHello, ServerName};

/// Judges what is known of what the client will say, which is the name of `--sni` or nothing.
pub(super) fn judge(
    question: &Question,
    route: &Route,
    snapshot: &Snapshot,
    sni: Option<&str>,
    trail: &mut Trail,
) -> Result<(), Failure> {
    let stage = Stage::Consistency;
    let Some(expected) = &route.expected else {
        let (at, text) = nothing_to_judge(question, route, snapshot);
        trail.pass(stage, at, text);
        return Ok(());
    };
    let at = place(&expected.policy.origin);
    let Some(sni) = sni else {
        trail.skip_at(stage, at, describe(question, expected));
        return Ok(());
    };
    let mode = mode(&expected.policy);
    match expected.judge_hello(&hello(sni)) {
        Judgement::Unfit(finding) if expected.is_enforced() => {
            trail.refuse(stage, at, format!("{mode}: {}", finding.detail));
            Err(Failure::new(ErrorType::Inconsistent, finding.detail))
        }
        Judgement::Unfit(finding) => {
            trail.pass(stage, at, format!("{mode}: {}; it is logged, not refused", finding.detail));
            Ok(())
        }
        Judgement::Fits(_) | Judgement::Open | Judgement::More => {
            trail.pass(stage, at, format!("{mode}: the server name {} fits", printable(sni)));
            Ok(())
        }
    }
}

fn nothing_to_judge(question: &Question, route: &Route, snapshot: &Snapshot) -> (Option<String>, String) {
    let why = match (question, &route.tunnel) {
        (Question::Http { .. }, _) => "no tunnel: the request itself says where it goes",
        (Question::Sni(_), _) => "the server name is the target: there is nothing to compare",
        (Question::Connect(_), TunnelKind::Terminated(_)) => {
            "each request inside has to name the target of the tunnel, or is answered 421"
        }
        (Question::Connect(target), _) if matches!(target.host, Host::Ip(_)) => {
            "no name was asked for: there is nothing to compare"
        }
        (Question::Connect(_), _) => {
            // The service's own rule where the settings judge.
            let at = (snapshot.consistency.mode == Mode::Off).then(|| place(&snapshot.consistency.origin)).flatten();
            return (at, "mode off: what flows is not compared with what was asked".to_owned());
        }
    };
    (None, why.to_owned())
}

fn describe(question: &Question, expected: &Expected) -> String {
    let mode = mode(&expected.policy);
    if expected.is_wrapped() {
        return format!("{mode}: a ClientHello inside of the TLS that we originate is {}", consequence(expected));
    }
    if matches!(question, Question::Sni(_)) {
        return format!("{mode}: an encrypted ClientHello is {}", consequence(expected));
    }
    let name = &expected.asked;
    format!("{mode}: a tunnel whose first ClientHello or Host does not fit {name} is {}", consequence(expected))
}

fn consequence(expected: &Expected) -> &'static str {
    if expected.is_enforced() { "refused" } else { "logged" }
}

fn mode(policy: &Policy) -> String {
    let auto = if policy.is_auto { " (auto, of outboundTrafficPolicy)" } else { "" };
    format!("mode {}{auto}", policy.mode.as_str())
}

/// The hello of a client that is told to send this name; as a parser would read it.
fn hello(sni: &str) -> ClientHello {
    let server_name = match Host::parse(sni.as_bytes()) {
        Ok(Host::Name(name)) => ServerName::Host(name),
        Ok(Host::Ip(ip)) => ServerName::IpLiteral(ip),
        Err(_) => ServerName::Invalid(sni.as_bytes().into()),
    };
    ClientHello { server_name, alpn: Vec::new(), has_ech: false }
}
