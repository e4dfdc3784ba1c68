//! `mesh`: what Istio keeps in its MeshConfig.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::access_log::{self, AccessLog};
use crate::config::diagnostic::{Code, Context};
use crate::config::read::Fields;
use crate::config::source::Spanned;
use crate::config::yaml::Node;
use crate::flow::Name;

/// `mesh`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// `outboundTrafficPolicy.mode`.
    pub mode: OutboundMode,
    /// `outboundTrafficPolicy.egressProxy`: where unknown targets go under ALLOW_ANY.
    pub egress_proxy: Option<EgressProxy>,
    /// The access log.
    pub access_log: AccessLog,
    /// `connectTimeout`.
    pub connect_timeout: Duration,
    /// `rootNamespace`: its resources apply to all namespaces.
    pub root_namespace: Box<str>,
    /// `trustDomain` of SPIFFE identities.
    pub trust_domain: Box<str>,
}

/// What becomes of targets that no resource knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboundMode {
    /// They pass. The default where the policy is absent.
    AllowAny,
    /// They are refused; or, with `report: true`, pass and are logged as `would_deny`. What `{}` means: the enum's zero in Istio.
    RegistryOnly {
        /// `report`.
        report: bool,
    },
}

/// A parent proxy for unknown targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressProxy {
    /// A name that the registry knows.
    pub host: Spanned<Box<str>>,
    /// Its port.
    pub port: u16,
    /// A subset of a DestinationRule.
    pub subset: Option<Spanned<Box<str>>>,
}

impl Default for Mesh {
    fn default() -> Self {
        Self {
            mode: OutboundMode::AllowAny,
            egress_proxy: None,
            access_log: AccessLog::default(),
            connect_timeout: Duration::from_secs(10), // Istio's default
            root_namespace: "istio-system".into(),
            trust_domain: "cluster.local".into(),
        }
    }
}

impl OutboundMode {
    /// True where an unknown target is let through, if only to be reported.
    pub fn lets_unknown_pass(self) -> bool {
        matches!(self, Self::AllowAny | Self::RegistryOnly { report: true })
    }
}

const CONNECT_TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(600);

pub(super) fn read(mut fields: Fields<'_>, folder: &Path, cx: &mut Context<'_>) -> Mesh {
    let mut mesh = Mesh { access_log: access_log::read(&mut fields, folder, cx), ..Mesh::default() };
    if let Some(policy) = fields.fields("outboundTrafficPolicy", cx) {
        (mesh.mode, mesh.egress_proxy) = read_policy(policy, cx);
    }
    if let Some(timeout) = fields.get("connectTimeout").and_then(|node| node.duration(CONNECT_TIME, cx)) {
        mesh.connect_timeout = timeout;
    }
    for (name, field) in [("rootNamespace", &mut mesh.root_namespace), ("trustDomain", &mut mesh.trust_domain)] {
        if let Some(text) = fields.text(name, cx) {
            *field = text.value.into();
        }
    }
    fields.ignored("defaultHttpRetryPolicy", "requests are not sent again but where RFC 9112 §9.3.1 allows it", cx);
    fields.finish(cx);
    mesh
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    RegistryOnly,
    AllowAny,
}

fn read_policy(mut fields: Fields<'_>, cx: &mut Context<'_>) -> (OutboundMode, Option<EgressProxy>) {
    let modes = [("REGISTRY_ONLY", Mode::RegistryOnly), ("ALLOW_ANY", Mode::AllowAny)];
    let mode = fields.one_of("mode", &modes, cx).unwrap_or(Mode::RegistryOnly);
    let report = fields.get("report").map(|node| (node.span, node.boolean(cx) == Some(true)));
    let proxy = fields.get("egressProxy");
    match (mode, report, proxy) {
        (Mode::AllowAny, Some((span, true)), _) => {
            cx.report(Code::Conflict, span, "under ALLOW_ANY nothing would be denied, so there is nothing to report")
                .help("write `mode: REGISTRY_ONLY` beside `report: true`");
        }
        (Mode::RegistryOnly, _, Some(node)) => {
            cx.report(Code::Conflict, node.span, "unknown targets go to a proxy under ALLOW_ANY only")
                .help("write `mode: ALLOW_ANY` beside it; a policy without mode is REGISTRY_ONLY, as in Istio");
        }
        _ => {}
    }
    let proxy = proxy.and_then(|node| read_proxy(node, cx));
    fields.finish(cx);
    let mode = match mode {
        Mode::AllowAny => OutboundMode::AllowAny,
        Mode::RegistryOnly => OutboundMode::RegistryOnly { report: matches!(report, Some((_, true))) },
    };
    (mode, proxy)
}

/// Istio's Destination: `{ host, port: { number }, subset }`; the host is a full name, the port is required.
fn read_proxy(node: &Node, cx: &mut Context<'_>) -> Option<EgressProxy> {
    let mut fields = Fields::of(node, cx)?;
    let name = |text: &str| match Name::parse(text.as_bytes()) {
        Ok(name) => Ok(Box::from(name.as_str())),
        Err(error) => Err(error.to_string()),
    };
    let host = fields.required("host", cx).and_then(|node| node.parsed(name, cx));
    let port = fields.required("port", cx).and_then(|node| Fields::of(node, cx)).and_then(|mut fields| {
        let number = fields.required("number", cx).and_then(|node| node.port(cx));
        fields.finish(cx);
        number
    });
    let subset = fields.text("subset", cx).map(|subset| subset.map(Into::into));
    fields.finish(cx);
    Some(EgressProxy { host: host?, port: port?, subset })
}
