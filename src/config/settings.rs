//! The settings file (`egret.yaml`): every key optional, unknown keys are errors, and what stands on the command line on top.
//!
//! Relative paths are relative to the folder of the settings file. Keys of parts that Egret does not have yet are read and
//! checked like the others; they are refused where leaving them out would let more through.

mod access_log;
mod dns;
mod in_force;
mod limits;
mod listeners;
mod mesh;
mod open_proxy;
mod otlp;
mod parents;
mod reader;
mod schema;
mod tls;
mod values;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::diagnostic::{Code, Context, Diagnostic, Diagnostics};
use super::kinds::mesh_config::MeshConfig;
use super::source::{Source, Span, Spanned};
use super::yaml::{Node, Value};
use crate::flow::{Limits, ListenAddress, Origin, Workload};
use crate::route::AddressPolicy;

pub use crate::account::{Encoding, OtlpSettings, Progress};
pub use access_log::AccessLog;
pub use dns::{Dns, Family};
pub use listeners::{Basic, Clients, Listener, Protocol};
pub use mesh::{EgressProxy, Mesh, OutboundMode, OutboundPolicy};
pub use parents::{ParentEntry, Parents};
pub use schema::schema;
pub use tls::{ClientCertificate, Tls};

/// All settings, with defaults where the file says nothing.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `threads`; 0: as many as there are cores this process may use.
    pub threads: usize,
    /// `workload`.
    pub workload: Arc<Workload>,
    /// `mesh`.
    pub mesh: Mesh,
    /// `accessLog`: lines of tunnels that are open.
    pub progress: Progress,
    /// `otlp`: where traces go.
    pub otlp: Option<OtlpSettings>,
    /// `listeners`.
    pub listeners: Vec<Listener>,
    /// `allow`, as written; compiled with the resources.
    pub allow: Vec<Spanned<Box<str>>>,
    /// `addresses`, with `--allow-address`.
    pub addresses: Addresses,
    /// `consistency`.
    pub consistency: Consistency,
    /// `parents`.
    pub parents: Parents,
    /// `onRevoke`.
    pub on_revoke: OnRevoke,
    /// `dial`.
    pub dial: Dial,
    /// `dns`.
    pub dns: Dns,
    /// `limits`.
    pub limits: Limits,
    /// `via`.
    pub via: Via,
    /// `admin.address`.
    pub admin: Admin,
    /// `admin.tokenFile`: holds the secret that lets clients of a TCP admin port change something.
    pub admin_token: Option<Spanned<PathBuf>>,
    /// `drain`: how long running flows have after SIGTERM.
    pub drain: Duration,
    /// `sandbox`.
    pub sandbox: Sandbox,
    /// `files`.
    pub files: Files,
    /// `secrets`: Secrets that are mounted as folders.
    pub secrets: Vec<MountedSecret>,
    /// `resources`.
    pub resources: Vec<ResourceInput>,
    /// `credentials.certificates`: the folder of the certificate that workloads of the mesh know us by.
    pub certificates: Option<Spanned<PathBuf>>,
    /// The resource that says `outboundTrafficPolicy`, where the settings file does not.
    policy_of: Option<MeshConfig>,
    document: Document,
}

/// Where the settings stand, for what is found wrong with them later.
#[derive(Clone, Debug)]
struct Document {
    source: Arc<Source>,
    root: Node,
}

/// `addresses`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Opened for every flow.
    pub allow: Vec<IpNet>,
    /// Closed for every flow, unless `allow` names them.
    pub deny: Vec<IpNet>,
}

/// `consistency`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consistency {
    /// `mode`.
    pub mode: ConsistencyMode,
    /// `ech: deny`.
    pub deny_ech: bool,
}

/// `consistency.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsistencyMode {
    /// Enforce under REGISTRY_ONLY, warn under ALLOW_ANY.
    #[default]
    Auto,
    /// What does not fit is refused.
    Enforce,
    /// What does not fit is logged.
    Warn,
    /// Not judged.
    Off,
}

/// Their names.
pub const CONSISTENCY_MODES: [(&str, ConsistencyMode); 4] = [
    ("auto", ConsistencyMode::Auto),
    ("enforce", ConsistencyMode::Enforce),
    ("warn", ConsistencyMode::Warn),
    ("off", ConsistencyMode::Off),
];

/// `onRevoke`: what becomes of a live tunnel that the new rules would refuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRevoke {
    /// It is closed.
    #[default]
    Close,
    /// It stays and is counted and logged.
    Report,
    /// It stays.
    Keep,
}

/// `dial`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Own addresses to dial from; empty: the kernel chooses.
    pub source: Vec<IpAddr>,
    /// `happyEyeballsDelay`.
    pub happy_eyeballs_delay: Duration,
    /// `tcpUserTimeout`.
    pub tcp_user_timeout: Duration,
}

/// `via`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// `name`; `None`: drawn per process (`auto`).
    pub name: Option<Box<str>>,
    /// False: the field is not sent.
    pub send: bool,
}

/// `admin.address`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    /// No admin port.
    Off,
    /// A TCP address.
    Address(SocketAddr),
    /// `unix:PATH`: a socket that only our own user may connect to.
    Unix(PathBuf),
}

/// `sandbox`: whether the process gives up what it does not need of the file system, by landlock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// As far as the kernel can.
    #[default]
    Auto,
    /// The process does not start without.
    Required,
    /// Not.
    Off,
}

/// `files`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Prefix of absolute paths in resources.
    pub root: PathBuf,
    /// Folders that unix endpoints may lie in.
    pub sockets: Vec<PathBuf>,
}

/// An item of `secrets`: a Secret whose entries are files of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedSecret {
    /// Its name.
    pub name: Spanned<Box<str>>,
    /// Its namespace.
    pub namespace: Box<str>,
    /// The folder.
    pub dir: PathBuf,
}

/// An item of `resources`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceInput {
    /// File or folder.
    pub path: PathBuf,
    /// Namespace of resources that do not name one.
    pub namespace: Option<Box<str>>,
}

/// What the command line says on top of the settings file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen`: the address of the first forward listener, or of one more.
    pub listen: Option<ListenAddress>,
    /// `--admin`.
    pub admin: Option<Admin>,
    /// `--allow-address`.
    pub allow_addresses: Vec<IpNet>,
}

impl Default for Settings {
    fn default() -> Self {
        let nothing = Node { span: Span::default(), value: Value::Null };
        Self {
            threads: 0,
            workload: Arc::default(),
            mesh: Mesh::default(),
            progress: Progress::default(),
            otlp: None,
            listeners: vec![Listener::default()],
            allow: Vec::new(),
            addresses: Addresses::default(),
            consistency: Consistency::default(),
            parents: Parents::default(),
            on_revoke: OnRevoke::default(),
            dial: Dial::default(),
            dns: Dns::default(),
            limits: Limits::default(),
            via: Via { name: None, send: true },
            admin: Admin::default(),
            admin_token: None,
            drain: Duration::from_secs(30),
            sandbox: Sandbox::default(),
            files: Files { root: "/".into(), sockets: Vec::new() },
            secrets: Vec::new(),
            resources: Vec::new(),
            certificates: None,
            policy_of: None,
            document: Document { source: Arc::new(Source::new("built-in", "")), root: nothing },
        }
    }
}

impl Settings {
    /// Reads the text of a settings file; relative paths are taken from `folder`. What is wrong is reported and has its default.
    /// Nothing is judged here that the command line may still change: see [`Self::finish`].
    pub fn read(source: Arc<Source>, folder: &Path, diagnostics: &mut Diagnostics) -> Self {
        reader::read(source, folder, diagnostics)
    }

    /// Takes what resources say of the mesh and the file does not: see [`MeshConfig`].
    pub fn with_mesh_configs(mut self, configs: Vec<MeshConfig>, diagnostics: &mut Diagnostics) -> Self {
        mesh::lay_under(&mut self, configs, diagnostics);
        self
    }

    /// Puts the command line on top, and judges what the whole comes to: open proxies, addresses used twice.
    pub fn finish(mut self, overrides: &Overrides, diagnostics: &mut Diagnostics) -> Self {
        if let Some(address) = &overrides.listen {
            self.listen_on(address.clone());
        }
        self.admin = overrides.admin.clone().unwrap_or(self.admin);
        self.addresses.allow.extend(&overrides.allow_addresses);
        listeners::judge_addresses(&self, diagnostics);
        open_proxy::judge(&self, diagnostics);
        self
    }

    fn listen_on(&mut self, address: ListenAddress) {
        let place = Spanned { value: address, span: Span::default() };
        match self.listeners.iter_mut().find(|listener| listener.protocol == Protocol::Forward) {
            Some(listener) => listener.address = place,
            None => {
                let taken = |name: &str| self.listeners.iter().any(|listener| &*listener.name.value == name);
                let name = if taken("proxy") { "listen" } else { "proxy" };
                let name = Spanned { value: name.into(), span: Span::default() };
                self.listeners.push(Listener { name, address: place, ..Listener::default() });
            }
        }
    }

    /// Where code that judges settings reports to.
    pub fn context<'a>(&'a self, diagnostics: &'a mut Diagnostics) -> Context<'a> {
        Context::new(&self.document.source, &self.document.root, "", diagnostics)
    }

    /// Reports about a place in the settings.
    pub fn report<'d>(
        &self,
        code: Code,
        span: Span,
        message: impl Into<Box<str>>,
        diagnostics: &'d mut Diagnostics,
    ) -> &'d mut Diagnostic {
        let Document { source, root } = &self.document;
        let diagnostic = diagnostics.push(Diagnostic::in_source(code, source, span, message));
        diagnostic.path = root.path_to(span).into();
        diagnostic
    }

    /// Where a setting stands, as `explain` and the log name it.
    pub fn origin(&self, span: Span) -> Origin {
        let (file, resource) = (self.document.source.name().clone(), self.document.root.path_to(span).into());
        Origin { file, line: span.line, column: span.column, resource }
    }

    /// Where `outboundTrafficPolicy` is said, and by whom; `None`: nobody says it.
    pub fn policy_origin(&self) -> Option<Origin> {
        const PATH: [&str; 2] = ["mesh", "outboundTrafficPolicy"];
        if let Some(config) = &self.policy_of {
            let span = config.config.entry(PATH[1]).map_or(config.config.span, |node| node.span);
            let (file, resource) = (config.source.name().clone(), format!("{} of {}", PATH.join("."), config.label));
            return Some(Origin { file, line: span.line, column: span.column, resource: resource.into() });
        }
        let span = self.place_of(&PATH);
        (span.line > 0).then(|| Origin { resource: PATH.join(".").into(), ..self.origin(span) })
    }

    /// Reports about a place in `outboundTrafficPolicy`, wherever that stands.
    pub fn report_policy(&self, code: Code, span: Span, message: String, diagnostics: &mut Diagnostics) {
        match &self.policy_of {
            Some(config) => _ = config.context(diagnostics).report(code, span, message),
            None => _ = self.report(code, span, message, diagnostics),
        }
    }

    /// The place of a key, by the names on the way to it; line 0 where the file does not have it.
    pub fn place_of(&self, path: &[&str]) -> Span {
        let node = path.iter().try_fold(&self.document.root, |node, name| node.entry(name));
        node.map_or_else(Span::default, |node| node.span)
    }

    /// The keys of the file, each with what it says.
    pub(super) fn top_level(&self) -> impl Iterator<Item = (&str, &Node)> {
        let entries = match &self.document.root.value {
            Value::Map(entries) => &**entries,
            _ => &[],
        };
        entries.iter().map(|(key, value)| (&*key.text, value))
    }

    /// The workload that a listener acts for.
    pub fn workload_of(&self, listener: &Listener) -> Arc<Workload> {
        listener.workload.clone().unwrap_or_else(|| self.workload.clone())
    }

    /// Files and folders named in the settings, beside resources, whose change calls for a reload.
    pub fn watched(&self) -> Vec<PathBuf> {
        let passwords =
            self.listeners.iter().filter_map(|listener| Some(listener.clients.basic.as_ref()?.htpasswd.value.clone()));
        let certificates = self.listeners.iter().filter_map(|listener| listener.tls.as_ref()).flat_map(|tls| {
            let of_clients = [tls.client_ca.as_ref(), tls.client_crl.as_ref()];
            let files = [Some(&tls.certificate), Some(&tls.private_key)].into_iter().chain(of_clients);
            files.flatten().map(|file| file.value.clone()).collect::<Vec<_>>()
        });
        let token = self.admin_token.iter().map(|file| file.value.clone());
        let secrets = self.secrets.iter().map(|secret| secret.dir.clone());
        let mesh = self.certificates.iter().map(|folder| folder.value.clone());
        let resolv_conf = self.dns.servers.is_empty().then(|| PathBuf::from("/etc/resolv.conf"));
        passwords.chain(certificates).chain(secrets).chain(mesh).chain(token).chain(resolv_conf).collect()
    }
}

impl Addresses {
    /// As the rules use them.
    pub fn policy(&self) -> AddressPolicy {
        AddressPolicy { allow: self.allow.iter().copied().collect(), deny: self.deny.iter().copied().collect() }
    }
}

impl Default for Dial {
    fn default() -> Self {
        Self {
            source: Vec::new(),
            happy_eyeballs_delay: Duration::from_millis(250), // RFC 8305 §8
            tcp_user_timeout: Duration::from_secs(120),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self::Address(SocketAddr::from(([127, 0, 0, 1], 15000)))
    }
}

impl std::str::FromStr for Admin {
    type Err = String;

    /// `off`, `unix:PATH`, or an address with port.
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("unix:")) {
            ("off", _) => Ok(Self::Off),
            (_, Some("")) => Err("the path of the socket is missing".to_owned()),
            (_, Some(path)) => Ok(Self::Unix(path.into())),
            _ => values::socket_address(text).map(Self::Address),
        }
    }
}

/// Says where a diagnostic about a thing of the command line comes from.
fn of_command_line(mut diagnostic: Diagnostic, flag: &'static str) -> Diagnostic {
    diagnostic.file = flag.into();
    diagnostic
}

#[cfg(test)]
mod tests;
