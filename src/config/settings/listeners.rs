//! `listeners`: what clients reach, and who may.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use super::reader::{read_workload, refuse_duplicate_names};
use super::tls::{ClientCertificate, Tls};
use super::{Admin, Settings, of_command_line, tls, values};
use crate::config::diagnostic::{Code, Context, Diagnostic, Diagnostics};
use crate::config::read::Fields;
use crate::config::source::{Span, Spanned};
use crate::config::yaml::Node;
use crate::flow::{ListenAddress, Workload};

/// An item of `listeners`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// `name`: unique.
    pub name: Spanned<Box<str>>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `address`; a place of line 0: from the command line, or built in.
    pub address: Spanned<ListenAddress>,
    /// `socketMode`: permissions of a unix socket.
    pub socket_mode: u32,
    /// `workload`, if the listener has one of its own. See [`Settings::workload_of`].
    pub workload: Option<Arc<Workload>>,
    /// `clients`.
    pub clients: Clients,
    /// `tls`; `None`: clients speak in the clear.
    pub tls: Option<Tls>,
    /// `proxyProtocol.from`; `None`: nobody may send a PROXY header, and none is looked for.
    pub proxy_protocol: Option<Vec<IpNet>>,
    /// `upstreamPort` of `sni` listeners: the port dialled.
    pub upstream_port: u16,
}

/// `listeners[].protocol`, as far as it is carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Explicit proxy.
    #[default]
    Forward,
    /// TLS forwarded by SNI.
    Sni,
}

/// `listeners[].clients`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clients {
    /// `from` as written; see [`Listener::admitted`].
    pub from: Option<Vec<IpNet>>,
    /// `basic`.
    pub basic: Option<Basic>,
    /// `open: true`: meant to be used by everybody.
    pub open: bool,
}

/// `listeners[].clients.basic`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Basic {
    /// The file with bcrypt hashes.
    pub htpasswd: Spanned<PathBuf>,
    /// Shown to clients.
    pub realm: Box<str>,
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            name: Spanned { value: "proxy".into(), span: Span::default() },
            protocol: Protocol::Forward,
            address: Spanned { value: SocketAddr::from(([127, 0, 0, 1], 3128)).into(), span: Span::default() },
            socket_mode: SOCKET_MODE,
            workload: None,
            clients: Clients::default(),
            tls: None,
            proxy_protocol: None,
            upstream_port: HTTPS_PORT,
        }
    }
}

const HTTPS_PORT: u16 = 443;
const SOCKET_MODE: u32 = 0o600; // whoever may open the file may use the proxy: by default, who runs it

impl Listener {
    /// The networks whose clients may use it; `None`: all. Without `clients.from` a loopback listener admits loopback clients, any
    /// other listener all; on a unix socket nobody has an address.
    pub fn admitted(&self) -> Option<Vec<IpNet>> {
        match &self.clients.from {
            Some(from) => Some(from.clone()),
            None if self.address.inet().is_some() && self.address.is_local() => {
                Some(["127.0.0.0/8", "::1/128"].map(|net| net.parse().expect("well-formed")).to_vec())
            }
            None => None,
        }
    }

    /// True if clients may show certificates.
    pub fn asks_certificates(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.client_certificate != ClientCertificate::None)
    }

    /// True if nobody gets in without a client certificate.
    pub fn requires_certificates(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.client_certificate == ClientCertificate::Required)
    }
}

/// The kinds of CONTRACT, with why those that are missing are refused.
#[derive(Clone, Copy)]
enum Written {
    Known(Protocol),
    NotYet,
}

const PROTOCOLS: [(&str, Written); 4] = [
    ("forward", Written::Known(Protocol::Forward)),
    ("sni", Written::Known(Protocol::Sni)),
    ("transparent", Written::NotYet),
    ("hbone", Written::NotYet),
];

pub(super) fn read(node: &Node, folder: &Path, cx: &mut Context<'_>) -> Vec<Listener> {
    let items = node.items(cx).unwrap_or_default();
    let listeners: Vec<_> = items.iter().filter_map(|item| read_one(item, folder, cx)).collect();
    refuse_duplicate_names(listeners.iter().map(|listener| &listener.name), "listener", cx);
    if items.is_empty() {
        cx.report(Code::NoListener, node.span, "there is no listener")
            .help("leave `listeners` out for the default one");
    }
    listeners
}

fn read_one(node: &Node, folder: &Path, cx: &mut Context<'_>) -> Option<Listener> {
    let mut fields = Fields::of(node, cx)?;
    let mut listener = Listener::default();
    listener.name = match fields.get("name").and_then(|node| node.parsed(listener_name, cx)) {
        Some(name) => name,
        None => Spanned { span: node.span, ..listener.name },
    };
    let protocol = match fields.get("protocol") {
        Some(node) => {
            let written = node.one_of(&PROTOCOLS, cx);
            if matches!(written, Some(Written::NotYet)) {
                let message = format!("listeners of the protocol {} are not supported yet", node.excerpt());
                cx.report_value(Code::NotSupported, node, message);
            }
            written.and_then(|written| match written {
                Written::Known(protocol) => Some(protocol),
                Written::NotYet => None,
            })
        }
        None => Some(Protocol::Forward),
    };
    let address = match protocol {
        Some(Protocol::Sni) => fields.required("address", cx),
        _ => fields.get("address"),
    };
    match address {
        Some(address) => listener.address = read_address(address, cx).unwrap_or(listener.address),
        None => listener.address.span = node.span,
    }
    listener.workload = fields.get("workload").and_then(|node| read_workload(node, cx)).map(Arc::new);
    let is_unix = matches!(*listener.address, ListenAddress::Unix(_));
    if let Some(mode) = fields.get("socketMode") {
        listener.socket_mode = mode.parsed(values::file_mode, cx).map_or(SOCKET_MODE, |mode| mode.value);
        if !is_unix {
            cx.report(Code::Conflict, mode.span, "socketMode has a meaning for unix sockets that are bound here only");
        }
    }
    match protocol {
        Some(Protocol::Sni) => fields.refused("tls", "TLS is forwarded here, and not opened", cx),
        _ => {
            listener.tls = fields.fields("tls", cx).and_then(|fields| {
                if is_unix {
                    let message = "what passes a unix socket does not leave this machine: there is nothing to encrypt";
                    cx.report(Code::Conflict, fields.span(), message);
                }
                tls::read(fields, folder, cx)
            });
        }
    }
    listener.proxy_protocol = read_proxy_protocol(&mut fields, is_unix, cx);
    if let Some(node) = fields.get("clients")
        && let Some(clients) = Fields::of(node, cx)
    {
        listener.clients = read_clients(clients, protocol, folder, cx);
        if is_unix && listener.clients.from.is_some() {
            let message = "clients of a unix socket have no address: `from` would let nobody in";
            cx.report(Code::Conflict, node.span, message)
                .help("the file's permissions say who may use it (`socketMode`)");
        }
    }
    if let Some(ports) = fields.get("serverFirstPorts")
        && ports.items(cx).is_some_and(|ports| !ports.is_empty())
        && protocol.is_some()
    {
        cx.report(Code::Conflict, ports.span, "serverFirstPorts has a meaning on transparent listeners only");
    }
    if let Some(port) = fields.get("upstreamPort") {
        listener.upstream_port = port.port(cx).unwrap_or(listener.upstream_port);
        if protocol == Some(Protocol::Forward) {
            cx.report(
                Code::Conflict,
                port.span,
                "upstreamPort has a meaning on sni listeners only: clients of a forward listener name the port",
            );
        }
    }
    fields.finish(cx);
    Some(Listener { protocol: protocol?, ..listener })
}

fn read_address(node: &Node, cx: &mut Context<'_>) -> Option<Spanned<ListenAddress>> {
    node.parsed(str::parse::<ListenAddress>, cx)
}

/// Nobody is a balancer unless named: an empty list would leave nobody who may connect with a header, so it is a mistake.
fn read_proxy_protocol(fields: &mut Fields<'_>, is_unix: bool, cx: &mut Context<'_>) -> Option<Vec<IpNet>> {
    let node = fields.get("proxyProtocol")?;
    let mut fields = Fields::of(node, cx)?;
    let from = fields.required("from", cx).and_then(|node| {
        let from = values::networks(node, cx)?;
        if node.items(cx).is_some_and(<[Node]>::is_empty) {
            cx.report(Code::MissingField, node.span, "name the load balancers: nobody else may send a PROXY header");
        }
        Some(from)
    });
    fields.finish(cx);
    if is_unix {
        cx.report(Code::Conflict, node.span, "peers of a unix socket have no address by which they could be trusted");
    }
    from
}

fn read_clients(mut fields: Fields<'_>, protocol: Option<Protocol>, folder: &Path, cx: &mut Context<'_>) -> Clients {
    let from = fields.get("from").and_then(|node| values::networks(node, cx));
    let basic = fields.get("basic").and_then(|node| {
        if protocol == Some(Protocol::Sni) {
            cx.report(Code::Conflict, node.span, "clients of an sni listener cannot be asked for a password");
        }
        let mut fields = Fields::of(node, cx)?;
        let htpasswd = fields.required("htpasswd", cx).and_then(|node| values::path(node, folder, cx));
        let realm = fields.get("realm").and_then(|node| node.parsed(realm, cx));
        fields.finish(cx);
        let realm = realm.map_or_else(|| "egret".into(), |realm| realm.value);
        Some(Basic { htpasswd: htpasswd?, realm })
    });
    let open = fields.boolean("open", cx).unwrap_or(false);
    fields.finish(cx);
    Clients { from, basic, open }
}

/// Names stand in logs and metrics.
fn listener_name(text: &str) -> Result<Box<str>, &'static str> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    match text.bytes().all(fits) && (1..=63).contains(&text.len()) {
        true => Ok(text.into()),
        false => Err("a name is 1 to 63 letters, digits, `-`, `_` and `.`"),
    }
}

/// Goes into a quoted-string (RFC 9110 §11.5).
fn realm(text: &str) -> Result<Box<str>, &'static str> {
    match text.bytes().all(|b| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\')) {
        true => Ok(text.into()),
        false => Err("a realm is printable ASCII without quotes and backslashes"),
    }
}

/// Two sockets cannot be bound to one address; with port 0 the kernel finds a free one.
pub(super) fn judge_addresses(settings: &Settings, diagnostics: &mut Diagnostics) {
    let listeners = &settings.listeners;
    for (index, listener) in listeners.iter().enumerate() {
        if let Some(earlier) = listeners[..index].iter().find(|earlier| collide(&earlier.address, &listener.address)) {
            let message = format!("{} is the address of listener {} too", *listener.address, earlier.name.value);
            report(Code::AddressUsedTwice, settings, listener, message, diagnostics);
        }
        if let Admin::Address(admin) = settings.admin
            && collide(&admin.into(), &listener.address)
        {
            let message = format!("{} is the address of the admin port too", *listener.address);
            report(Code::AddressUsedTwice, settings, listener, message, diagnostics);
        }
    }
}

fn collide(a: &ListenAddress, b: &ListenAddress) -> bool {
    let (a, b) = match (a, b) {
        (ListenAddress::Inet(a), ListenAddress::Inet(b)) => (a, b),
        (ListenAddress::Unix(a), ListenAddress::Unix(b)) => return a == b,
        _ => return false, // several sockets may be passed under one name
    };
    let (a_ip, b_ip) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port()
        && a.port() != 0
        && (a_ip == b_ip
            || (a_ip.is_unspecified() && a.is_ipv4() == b.is_ipv4())
            || (b_ip.is_unspecified() && a.is_ipv4() == b.is_ipv4()))
}

/// Reports about a listener: at its address, or at the flag that set it.
pub(super) fn report<'d>(
    code: Code,
    settings: &Settings,
    listener: &Listener,
    message: String,
    diagnostics: &'d mut Diagnostics,
) -> &'d mut Diagnostic {
    match listener.address.span.line {
        0 => diagnostics.push(of_command_line(Diagnostic::of_file(code, "", message), "--listen")),
        _ => settings.report(code, listener.address.span, message, diagnostics),
    }
}
