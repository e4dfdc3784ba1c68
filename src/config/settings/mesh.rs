//! `mesh`: what Istio keeps in its MeshConfig.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Settings;
use super::access_log::{self, AccessLog};
use crate::account::Format;
use crate::config::diagnostic::{Code, Context, Diagnostics};
use crate::config::kinds::destination_rule::UPGRADES;
use crate::config::kinds::mesh_config::MeshConfig;
use crate::config::kinds::virtual_service::actions::retries;
use crate::config::read::Fields;
use crate::config::source::Spanned;
use crate::config::yaml::{Node, Value};
use crate::flow::Name;
use crate::route::http::retries::Retries;

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
    /// `defaultHttpRetryPolicy`, or Istio's own where it is not written; `None`: nothing is sent again.
    pub retries: Option<Arc<Retries>>,
    /// `h2UpgradePolicy`, of a MeshConfig only; it changes ports of HTTP whose rule leaves it to the mesh.
    pub upgrades_to_http2: Option<bool>,
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

/// `outboundTrafficPolicy`, of the mesh or of a Sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundPolicy {
    /// `mode`, with `report`.
    pub mode: OutboundMode,
    /// `egressProxy`.
    pub egress_proxy: Option<EgressProxy>,
}

impl OutboundPolicy {
    /// Reads that of a Sidecar, which knows no mode that resolves unknown names.
    pub fn read_of_sidecar(mut fields: Fields<'_>, cx: &mut Context<'_>) -> Self {
        let mode = fields.get("mode");
        if let Some(node) = mode.filter(|node| !matches!(node.scalar(), Some("REGISTRY_ONLY" | "ALLOW_ANY"))) {
            cx.report(Code::BadValue, node.span, "a Sidecar says REGISTRY_ONLY or ALLOW_ANY").found(node.excerpt());
        }
        let (mode, egress_proxy) = read_policy(fields, cx);
        Self { mode, egress_proxy }
    }
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
            retries: Some(Arc::new(Retries::built_in())),
            upgrades_to_http2: None,
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
    let mesh = read_carried_out(&mut fields, folder, cx);
    fields.finish(cx);
    mesh
}

/// Lays the MeshConfigs of resources under the settings file: what the file says counts, then who says it first. Whoever writes
/// resources can close what the file leaves open, and never open what it closes.
pub(super) fn lay_under(settings: &mut Settings, configs: Vec<MeshConfig>, diagnostics: &mut Diagnostics) {
    let mut taken: Vec<(&str, String)> = Vec::new();
    for key in CARRIED_OUT {
        let span = settings.place_of(&["mesh", key]);
        if span.line > 0 {
            taken.push((key, format!("{} (line {})", settings.origin(span).file, span.line)));
        }
    }
    for config in configs {
        let cx = &mut config.context(diagnostics);
        let Some(mut fields) = Fields::of(&config.config, cx) else { continue };
        let mut read = read_carried_out(&mut fields, Path::new(""), cx);
        read.access_log.file = read.access_log.file.map(|path| below(&settings.files.root, path));
        if let Some(upgrades) = fields.one_of("h2UpgradePolicy", UPGRADES, cx).flatten() {
            settings.mesh.upgrades_to_http2.get_or_insert(upgrades);
        }
        pass_over(&mut fields, cx);
        fields.finish(cx);
        for key in CARRIED_OUT {
            let Some(node) = config.config.entry(key) else { continue };
            if let Some((_, by)) = taken.iter().find(|(other, _)| *other == key) {
                let message = format!("not used: {by} says it already");
                cx.report(Code::MeshSettingTaken, node.span, message).found(node.excerpt());
                continue;
            }
            taken.push((key, config.label.to_string()));
            take(&mut settings.mesh, &read, key);
            if key == POLICY {
                settings.policy_of = Some(config.clone());
            }
        }
        judge_format(settings, &config, diagnostics);
    }
}

fn take(mesh: &mut Mesh, read: &Mesh, key: &str) {
    match key {
        POLICY => {
            mesh.mode = read.mode;
            mesh.egress_proxy.clone_from(&read.egress_proxy);
        }
        "accessLogFile" => mesh.access_log.file.clone_from(&read.access_log.file),
        "accessLogEncoding" => mesh.access_log.encoding = read.access_log.encoding,
        "accessLogFormat" => mesh.access_log.format.clone_from(&read.access_log.format),
        "connectTimeout" => mesh.connect_timeout = read.connect_timeout,
        "rootNamespace" => mesh.root_namespace.clone_from(&read.root_namespace),
        "trustDomain" => mesh.trust_domain.clone_from(&read.trust_domain),
        RETRIES => mesh.retries.clone_from(&read.retries),
        _ => {}
    }
}

/// Paths of resources are looked up under `files.root`; the process's own output is where it is.
fn below(root: &Path, path: PathBuf) -> PathBuf {
    if access_log::is_own_output(&path) { path } else { root.join(path.strip_prefix("/").unwrap_or(&path)) }
}

/// A format is judged with the encoding that counts in the end, where it was written.
fn judge_format(settings: &mut Settings, config: &MeshConfig, diagnostics: &mut Diagnostics) {
    let Some(node) = config.config.entry("accessLogFormat") else { return };
    let log = &mut settings.mesh.access_log;
    if log.format.span != node.span {
        return;
    }
    if let Err(error) = Format::compile(log.encoding, &log.format.value) {
        config.context(diagnostics).report(Code::BadValue, node.span, error.to_string());
        log.format = AccessLog::default().format;
    }
}

/// Fields of Istio's MeshConfig that Egret does not carry out; what would close something is refused.
fn pass_over(fields: &mut Fields<'_>, cx: &mut Context<'_>) {
    for name in ["serviceEntryVisibility", "discoverySelectors"] {
        fields.refused(name, "resources that it hides would be seen", cx);
    }
    for name in ["defaultServiceExportTo", "defaultVirtualServiceExportTo", "defaultDestinationRuleExportTo"] {
        let is_all = |node: &Node| matches!(&node.value, Value::List(items) if items.iter().all(|item| item.scalar() == Some("*")));
        if fields.get(name).is_some_and(|node| !is_all(node)) {
            fields.refused(name, "resources would be seen from more namespaces than it says; write `exportTo`", cx);
        }
    }
    for name in MESH_CONFIG_PASSED_OVER {
        fields.ignored(name, "a setting of Istio's own proxies", cx);
    }
}

/// What is read of a MeshConfig, wherever it stands.
const CARRIED_OUT: [&str; 8] = [
    POLICY,
    "accessLogFile",
    "accessLogEncoding",
    "accessLogFormat",
    "connectTimeout",
    "rootNamespace",
    "trustDomain",
    RETRIES,
];
const RETRIES: &str = "defaultHttpRetryPolicy";
const POLICY: &str = "outboundTrafficPolicy";

/// The other fields of MeshConfig (istio/api mesh/v1alpha1).
const MESH_CONFIG_PASSED_OVER: [&str; 37] = [
    "proxyListenPort",
    "proxyInboundListenPort",
    "proxyHttpPort",
    "tcpKeepalive",
    "ingressClass",
    "ingressService",
    "ingressControllerMode",
    "ingressSelector",
    "enableTracing",
    "enableEnvoyAccessLogService",
    "disableEnvoyListenerLog",
    "defaultConfig",
    "inboundTrafficPolicy",
    "configSources",
    "enableAutoMtls",
    "trustDomainAliases",
    "caCertificates",
    "localityLbSetting",
    "dnsRefreshRate",
    "inboundClusterStatName",
    "outboundClusterStatName",
    "certificates",
    "thriftConfig",
    "serviceSettings",
    "enablePrometheusMerge",
    "verifyCertificateAtClient",
    "ca",
    "extensionProviders",
    "defaultProviders",
    "pathNormalization",
    "meshMTLS",
    "tlsDefaults",
    "defaultTrafficPolicy",
    "protocolDetectionTimeout",
    "reportBatchMaxEntries",
    "sdsUdsPath",
    "mixerCheckServer",
];

fn read_carried_out(fields: &mut Fields<'_>, folder: &Path, cx: &mut Context<'_>) -> Mesh {
    let mut mesh = Mesh { access_log: access_log::read(fields, folder, cx), ..Mesh::default() };
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
    if let Some(node) = fields.get(RETRIES)
        && let Some(policy) = retries::read(node, cx)
    {
        mesh.retries = policy.map(Arc::new);
    }
    mesh
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    RegistryOnly,
    AllowAny,
}

fn read_policy(mut fields: Fields<'_>, cx: &mut Context<'_>) -> (OutboundMode, Option<EgressProxy>) {
    // Unknown names are resolved by us under ALLOW_ANY too, so its form with DNS says nothing new (ISTIO 1).
    let modes = [
        ("REGISTRY_ONLY", Mode::RegistryOnly),
        ("ALLOW_ANY", Mode::AllowAny),
        ("ALLOW_ANY_DYNAMIC_DNS", Mode::AllowAny),
    ];
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
