//! The top level of the settings file, and its small maps.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{
    Addresses, Admin, CONSISTENCY_MODES, Consistency, ConsistencyMode, Dial, Document, Files, MountedSecret, OnRevoke,
    ResourceInput, Sandbox, Settings, Via, access_log, dns, limits, listeners, mesh, otlp, parents, values,
};
use crate::config::diagnostic::{Code, Context, Diagnostics};
use crate::config::names::{namespace, object_name};
use crate::config::read::Fields;
use crate::config::source::{Source, Spanned};
use crate::config::yaml::{self, Node};
use crate::flow::Workload;

pub(super) fn read(source: Arc<Source>, folder: &Path, diagnostics: &mut Diagnostics) -> Settings {
    let mut documents = yaml::parse(&source, diagnostics).into_iter();
    let Some(root) = documents.next() else {
        let document = Document { source, ..Settings::default().document };
        return Settings { document, ..Settings::default() };
    };
    if let Some(second) = documents.next() {
        Context::new(&source, &second, "", diagnostics)
            .report(Code::Conflict, second.span, "a settings file is one document; this is a second one")
            .help("resources stand in files of their own, named with -f or in `resources`");
    }
    let mut cx = Context::new(&source, &root, "", diagnostics);
    let settings = Fields::of(&root, &mut cx).map(|fields| read_all(fields, folder, &mut cx)).unwrap_or_default();
    Settings { document: Document { source, root }, ..settings }
}

const THREADS_MAX: usize = 1024;
const DRAIN: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(86_400);
const ON_REVOKE: [(&str, OnRevoke); 3] =
    [("close", OnRevoke::Close), ("report", OnRevoke::Report), ("keep", OnRevoke::Keep)];
const SANDBOX: [(&str, Sandbox); 3] = [("auto", Sandbox::Auto), ("required", Sandbox::Required), ("off", Sandbox::Off)];

fn read_all(mut fields: Fields<'_>, folder: &Path, cx: &mut Context<'_>) -> Settings {
    let mut settings = Settings::default();
    if let Some(threads) = fields.get("threads").and_then(|node| node.count(0..=THREADS_MAX, cx)) {
        settings.threads = threads;
    }
    if let Some(workload) = fields.get("workload").and_then(|node| read_workload(node, cx)) {
        settings.workload = Arc::new(workload);
    }
    if let Some(fields) = fields.fields("mesh", cx) {
        settings.mesh = mesh::read(fields, folder, cx);
    }
    if let Some(fields) = fields.fields("accessLog", cx) {
        settings.progress = access_log::read_progress(fields, settings.mesh.access_log.encoding, cx);
    }
    if let Some(fields) = fields.fields("otlp", cx) {
        settings.otlp = otlp::read(fields, cx);
    }
    if let Some(node) = fields.get("listeners") {
        settings.listeners = listeners::read(node, folder, cx);
    }
    read_gateways(fields.list("gateways", cx), cx);
    for item in fields.list("allow", cx) {
        settings.allow.extend(item.text(cx).map(|entry| entry.map(Into::into)));
    }
    if let Some(fields) = fields.fields("addresses", cx) {
        settings.addresses = read_addresses(fields, cx);
    }
    if let Some(fields) = fields.fields("parents", cx) {
        settings.parents = parents::read(fields, cx);
    }
    if let Some(fields) = fields.fields("consistency", cx) {
        settings.consistency = read_consistency(fields, cx);
    }
    settings.on_revoke = fields.one_of("onRevoke", &ON_REVOKE, cx).unwrap_or_default();
    if let Some(fields) = fields.fields("dial", cx) {
        settings.dial = read_dial(fields, cx);
    }
    if let Some(fields) = fields.fields("dns", cx) {
        settings.dns = dns::read(fields, folder, cx);
    }
    if let Some(fields) = fields.fields("limits", cx) {
        settings.limits = limits::read(fields, cx);
    }
    if let Some(fields) = fields.fields("via", cx) {
        settings.via = read_via(fields, cx);
    }
    if let Some(node) = fields.get("admin") {
        (settings.admin, settings.admin_token) = read_admin(node, folder, cx);
    }
    if let Some(drain) = fields.get("drain").and_then(|node| node.duration(DRAIN, cx)) {
        settings.drain = drain;
    }
    settings.sandbox = fields.one_of("sandbox", &SANDBOX, cx).unwrap_or_default();
    if let Some(fields) = fields.fields("files", cx) {
        settings.files = read_files(fields, folder, cx);
    }
    settings.secrets = read_secrets(fields.list("secrets", cx), folder, cx);
    if let Some(mut fields) = fields.fields("credentials", cx) {
        settings.certificates = fields.get("certificates").and_then(|node| values::path(node, folder, cx));
        if let Some(dir) = &settings.certificates {
            warn_of_missing(dir, "the certificate of the mesh", cx);
        }
        fields.finish(cx);
    }
    let resources = fields.list("resources", cx);
    settings.resources = resources.iter().filter_map(|item| read_resource_input(item, folder, cx)).collect();
    fields.finish(cx);
    settings
}

pub(super) fn read_workload(node: &Node, cx: &mut Context<'_>) -> Option<Workload> {
    let mut fields = Fields::of(node, cx)?;
    let mut workload = Workload::default();
    if let Some(name) = fields.get("namespace").and_then(|node| node.parsed(namespace, cx)) {
        workload.namespace = name.value.into();
    }
    if let Some(name) = fields.get("serviceAccount").and_then(|node| node.parsed(object_name, cx)) {
        workload.service_account = name.value.into();
    }
    for (key, value) in fields.map("labels", cx) {
        if let Some(value) = value.text(cx) {
            workload.labels.insert(key.text.to_string(), value.to_string());
        }
    }
    fields.finish(cx);
    Some(workload)
}

/// Gateways are read so that mistakes are found, and not opened: nothing passes through a listener that is not there.
fn read_gateways(items: &[Node], cx: &mut Context<'_>) {
    for item in items {
        let Some(mut fields) = Fields::of(item, cx) else { continue };
        fields.required("name", cx).map(|node| node.parsed(object_name, cx));
        fields.get("namespace").map(|node| node.parsed(namespace, cx));
        fields.get("serviceAccount").map(|node| node.parsed(object_name, cx));
        for (_, value) in fields.map("labels", cx) {
            value.text(cx);
        }
        fields.get("address").map(|node| node.parsed(|text| text.parse::<std::net::IpAddr>(), cx));
        for port in fields.list("ports", cx) {
            let Some(mut fields) = Fields::of(port, cx) else { continue };
            fields.required("port", cx).map(|node| node.port(cx));
            fields.text("name", cx);
            fields.whole("bind", 0..=u64::from(u16::MAX), cx);
            fields.finish(cx);
        }
        fields.finish(cx);
        cx.report(Code::Ignored, item.span, "gateways are not supported yet: this one is not opened");
    }
}

fn read_addresses(mut fields: Fields<'_>, cx: &mut Context<'_>) -> Addresses {
    let mut networks = |name| fields.get(name).and_then(|node| values::networks(node, cx)).unwrap_or_default();
    let addresses = Addresses { allow: networks("allow"), deny: networks("deny") };
    fields.finish(cx);
    addresses
}

fn read_consistency(mut fields: Fields<'_>, cx: &mut Context<'_>) -> Consistency {
    let (mode, ech) = (fields.get("mode"), fields.get("ech"));
    let consistency = Consistency {
        mode: mode.and_then(|node| node.one_of(&CONSISTENCY_MODES, cx)).unwrap_or_default(),
        deny_ech: ech.and_then(|node| node.one_of(&[("allow", false), ("deny", true)], cx)).unwrap_or_default(),
    };
    if let (ConsistencyMode::Off, true, Some(node)) = (consistency.mode, consistency.deny_ech, ech) {
        let message = "with `mode: off` nothing is judged, so encrypted ClientHellos pass";
        cx.report_value(Code::Conflict, node, message).help("leave `mode` out, or write `ech: allow`");
    }
    fields.finish(cx);
    consistency
}

fn read_dial(mut fields: Fields<'_>, cx: &mut Context<'_>) -> Dial {
    let mut dial = Dial::default();
    for item in fields.list("source", cx) {
        dial.source.extend(item.parsed(|text| text.parse::<std::net::IpAddr>(), cx).map(|ip| ip.value));
    }
    // RFC 8305 §5: the delay is 10 ms to 2 s.
    let delay = Duration::from_millis(10)..=Duration::from_secs(2);
    let timeout = Duration::ZERO..=Duration::from_secs(86_400); // 0: the kernel's own
    for (name, field, bounds) in [
        ("happyEyeballsDelay", &mut dial.happy_eyeballs_delay, delay),
        ("tcpUserTimeout", &mut dial.tcp_user_timeout, timeout),
    ] {
        if let Some(duration) = fields.get(name).and_then(|node| node.duration(bounds, cx)) {
            *field = duration;
        }
    }
    fields.finish(cx);
    dial
}

fn read_via(mut fields: Fields<'_>, cx: &mut Context<'_>) -> Via {
    let name = fields.get("name").and_then(|node| node.parsed(pseudonym, cx));
    let name = name.map(|name| name.value).filter(|name| &**name != "auto");
    let send = fields.boolean("send", cx).unwrap_or(true);
    fields.finish(cx);
    Via { name, send }
}

/// RFC 9110 §7.6.3: a pseudonym is a token.
fn pseudonym(text: &str) -> Result<Box<str>, &'static str> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    match !text.is_empty() && text.bytes().all(is_token) {
        true => Ok(text.into()),
        false => Err("a name in Via is a token: letters, digits, `-`, `.` and the like, no spaces"),
    }
}

/// `off`, or `{ address, tokenFile }` where the address may be `off` too.
fn read_admin(node: &Node, folder: &Path, cx: &mut Context<'_>) -> (Admin, Option<Spanned<PathBuf>>) {
    if node.is_word("off", cx) {
        return (Admin::Off, None);
    }
    let Some(mut fields) = Fields::of(node, cx) else { return (Admin::default(), None) };
    let admin = fields.get("address").and_then(|node| node.parsed(str::parse::<Admin>, cx));
    let token = fields.get("tokenFile").and_then(|node| values::path(node, folder, cx));
    fields.finish(cx);
    let admin = match admin.map(|admin| admin.value) {
        Some(Admin::Unix(path)) => Admin::Unix(folder.join(path)),
        admin => admin.unwrap_or_default(),
    };
    (admin, token)
}

fn read_files(mut fields: Fields<'_>, folder: &Path, cx: &mut Context<'_>) -> Files {
    let mut files = Settings::default().files;
    if let Some(root) = fields.get("root").and_then(|node| values::path(node, folder, cx)) {
        files.root = root.value;
    }
    for item in fields.list("sockets", cx) {
        files.sockets.extend(values::path(item, folder, cx).map(|path| path.value));
    }
    fields.finish(cx);
    files
}

fn read_secrets(items: &[Node], folder: &Path, cx: &mut Context<'_>) -> Vec<MountedSecret> {
    let mut secrets: Vec<MountedSecret> = Vec::new();
    for item in items {
        let Some(mut fields) = Fields::of(item, cx) else { continue };
        let name = fields.required("name", cx).and_then(|node| node.parsed(object_name, cx));
        let space = fields.get("namespace").and_then(|node| node.parsed(namespace, cx));
        let dir = fields.required("dir", cx).and_then(|node| values::path(node, folder, cx));
        fields.finish(cx);
        let (Some(name), Some(dir)) = (name, dir) else { continue };
        let space = space.map_or_else(|| "default".into(), |space| space.value);
        if secrets.iter().any(|secret| secret.name.value == name.value && secret.namespace == space) {
            cx.report(Code::NameUsedTwice, name.span, format!("the Secret {space}/{} is mounted twice", name.value));
        }
        warn_of_missing(&dir, "this Secret", cx);
        secrets.push(MountedSecret { name, namespace: space, dir: dir.value });
    }
    secrets
}

/// A folder may be mounted later.
fn warn_of_missing(dir: &Spanned<PathBuf>, what: &str, cx: &mut Context<'_>) {
    if !dir.is_dir() {
        let message = format!("the folder {} does not exist", dir.display());
        let report = cx.report(Code::FileMissing, dir.span, message);
        report.help(format!("what needs {what} is refused until it is there"));
    }
}

/// A path, or `{ path, namespace }`.
fn read_resource_input(node: &Node, folder: &Path, cx: &mut Context<'_>) -> Option<ResourceInput> {
    if node.scalar().is_some() {
        let path = values::path(node, folder, cx)?;
        return Some(ResourceInput { path: path.value, namespace: None });
    }
    let mut fields = Fields::of(node, cx)?;
    let path = fields.required("path", cx).and_then(|node| values::path(node, folder, cx));
    let space = fields.get("namespace").and_then(|node| node.parsed(namespace, cx));
    fields.finish(cx);
    Some(ResourceInput { path: path?.value, namespace: space.map(|space| space.value) })
}

pub(super) fn refuse_duplicate_names<'a>(
    names: impl Iterator<Item = &'a Spanned<Box<str>>>,
    what: &str,
    cx: &mut Context<'_>,
) {
    let mut seen = HashMap::new();
    for name in names {
        if let Some(first) = seen.insert(&name.value, name.span) {
            let message = format!("{what} {} is there twice (first at {}:{})", name.value, first.line, first.column);
            cx.report(Code::NameUsedTwice, name.span, message).found(&*name.value);
        }
    }
}
