//! Documents to resources: which kind, whose, and what the loader itself can say about them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;

use crate::config::diagnostic::{Code, Context, Diagnostic, Diagnostics};
use crate::config::names;
use crate::config::read::Fields;
use crate::config::resource::{Kind, Metadata, Resource};
use crate::config::source::Source;
use crate::config::yaml::{self, Node, Value};

use super::fragment::Fragment;

/// The resources read so far, in the order of loading.
#[derive(Default)]
pub(super) struct Documents {
    resources: Vec<Resource>,
}

const ISTIO_NETWORKING: &[&str] =
    &["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"];

/// The kinds that are carried out, their versions, and their fields beside apiVersion, kind and metadata.
const KINDS: [(Kind, &[&str], &[&str]); 12] = [
    (Kind::ServiceEntry, ISTIO_NETWORKING, &["spec", "status"]),
    (Kind::VirtualService, ISTIO_NETWORKING, &["spec", "status"]),
    (Kind::DestinationRule, ISTIO_NETWORKING, &["spec", "status"]),
    (Kind::WorkloadEntry, ISTIO_NETWORKING, &["spec", "status"]),
    (Kind::Sidecar, ISTIO_NETWORKING, &["spec", "status"]),
    (Kind::AuthorizationPolicy, &["security.istio.io/v1", "security.istio.io/v1beta1"], &["spec", "status"]),
    (Kind::IstioOperator, &["install.istio.io/v1alpha1"], &["spec", "status"]),
    (Kind::Service, &["v1"], &["spec", "status"]),
    (Kind::Endpoints, &["v1"], &["subsets"]),
    (Kind::EndpointSlice, &["discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"], &["addressType", "endpoints", "ports"]),
    (Kind::ConfigMap, &["v1"], &["data", "binaryData", "immutable"]),
    (Kind::Secret, &["v1"], &["data", "stringData", "type", "immutable"]),
];

impl Documents {
    /// Reads all documents of a file; `namespace` is that of resources which do not name one.
    pub(super) fn read(&mut self, source: &Arc<Source>, namespace: &Arc<str>, diagnostics: &mut Diagnostics) {
        for root in yaml::parse(source, diagnostics) {
            self.take(root, source, namespace, diagnostics);
        }
    }

    /// True for a file of another program that stands beside resources, such as the `nginx.conf` that a guide makes a ConfigMap of.
    pub(super) fn is_of_others(source: &Source) -> bool {
        let mut unheard = Diagnostics::default();
        let documents = yaml::parse(source, &mut unheard);
        !documents.iter().any(|root| matches!(root.value, Value::Map(_) | Value::List(_)))
    }

    /// Drops what a later document of the same kind, namespace and name replaces.
    pub(super) fn finish(self, diagnostics: &mut Diagnostics) -> Vec<Resource> {
        let mut last: HashMap<Arc<str>, usize> = HashMap::with_capacity(self.resources.len());
        let mut replaced = vec![false; self.resources.len()];
        for (index, resource) in self.resources.iter().enumerate() {
            if let Some(earlier) = last.insert(resource.label.clone(), index)
                && &*resource.metadata.name != NAMELESS
            {
                let first = &self.resources[earlier];
                let place = format!("{}:{}:{}", first.source.name(), first.root.span.line, first.root.span.column);
                let message = format!("replaces the one of the same name at {place}");
                resource.context(diagnostics).report(Code::Replaced, resource.root.span, message);
                replaced[earlier] = true;
            }
        }
        let kept = self.resources.into_iter().zip(replaced).filter(|(_, replaced)| !replaced);
        let mut kept: Vec<Resource> = kept.map(|(resource, _)| resource).collect();
        // Labels outlive the documents, between whose texts they were made: one would hold a page of those each. Their copies lie
        // side by side.
        let labels: Vec<Arc<str>> = kept.iter().map(|resource| Arc::from(&*resource.label)).collect();
        for (resource, label) in kept.iter_mut().zip(labels) {
            resource.label = label;
        }
        kept
    }

    fn take(&mut self, root: Node, source: &Arc<Source>, namespace: &Arc<str>, diagnostics: &mut Diagnostics) {
        if let Some(part) = Fragment::of(&root) {
            return self.take_fragment(part, root, source, namespace, diagnostics);
        }
        let Some((version, kind)) = read_type(&root, &mut Context::new(source, &root, "", diagnostics)) else { return };
        if kind.ends_with("List") && matches!(root.entry("items"), Some(Node { value: Value::List(_), .. })) {
            for item in into_items(root) {
                self.take(item, source, namespace, diagnostics);
            }
            return;
        }
        let known = KINDS.iter().find(|(known, ..)| *known.as_str() == *kind);
        let Some((kind, versions, fields)) = known.filter(|_| !is_of_others(&version, &kind)) else {
            let diagnostic = pass_over(&root, source, &version, &kind, namespace);
            diagnostics.push(diagnostic);
            return;
        };
        let metadata = read_metadata(&root, source, *kind, namespace, diagnostics);
        let order = self.resources.len();
        let label: Arc<str> = format!("{} {}/{}", kind.as_str(), metadata.namespace, metadata.name).into();
        let resource = Resource { kind: *kind, metadata, root, source: source.clone(), order, label };
        let cx = &mut resource.context(diagnostics);
        if !versions.contains(&&*version) {
            let at = resource.root.entry("apiVersion").map_or(resource.root.span, |node| node.span);
            cx.report(Code::UnknownApiVersion, at, format!("{version} has no {}", kind.as_str()))
                .found(version)
                .help(format!("write {}", versions.join(" or ")));
        }
        if let Some(mut all) = Fields::of(&resource.root, cx) {
            for name in ["apiVersion", "kind", "metadata"].iter().chain(*fields) {
                all.get(name);
            }
            all.finish(cx);
        }
        self.resources.push(resource);
    }

    /// What tools are given beside resources; an installation may hold a MeshConfig.
    fn take_fragment(
        &mut self,
        part: Fragment,
        root: Node,
        source: &Arc<Source>,
        namespace: &Arc<str>,
        diagnostics: &mut Diagnostics,
    ) {
        if part != Fragment::Installation {
            let message = format!("{} is no resource, and passed over", part.as_str());
            diagnostics.push(Diagnostic::in_source(Code::KindPassedOver, source, root.span, message));
            return;
        }
        let kind = Kind::IstioOperator;
        let metadata = Metadata { name: NAMELESS.into(), namespace: namespace.clone(), ..Metadata::default() };
        let label: Arc<str> = format!("{} {namespace}/{NAMELESS}", kind.as_str()).into();
        let order = self.resources.len();
        self.resources.push(Resource { kind, metadata, root, source: source.clone(), order, label });
    }
}

/// True for kinds of other groups that share their name with one of Kubernetes' own: a Knative Service is no Service.
fn is_of_others(version: &str, kind: &str) -> bool {
    matches!(kind, "Service" | "Endpoints" | "ConfigMap" | "Secret") && version.contains('/')
}

/// `apiVersion` and `kind`; reports what is no resource.
fn read_type(root: &Node, cx: &mut Context<'_>) -> Option<(Box<str>, Box<str>)> {
    if !matches!(root.value, Value::Map(_)) {
        let message = format!("expected a resource (a map with apiVersion and kind), found {}", root.describe());
        cx.report(Code::NotAResource, root.span, message);
        return None;
    }
    let (version, kind) = (root.entry("apiVersion"), root.entry("kind"));
    let missing = match (version, kind) {
        (Some(version), Some(kind)) => {
            return Some((version.text(cx)?.value.into(), kind.text(cx)?.value.into()));
        }
        (None, None) => "neither apiVersion nor kind is there",
        (None, Some(_)) => "apiVersion is missing",
        (Some(_), None) => "kind is missing",
    };
    cx.report(Code::NotAResource, root.span, format!("this is no resource: {missing}"))
        .help("settings (egret.yaml) are named with -c, resources with -f");
    None
}

fn into_items(root: Node) -> Vec<Node> {
    let Value::Map(entries) = root.value else { return Vec::new() };
    let items = entries.into_iter().find(|(key, _)| &*key.text == "items");
    match items {
        Some((_, Node { value: Value::List(items), .. })) => items.into_iter().filter(|item| !item.is_null()).collect(),
        _ => Vec::new(),
    }
}

fn pass_over(root: &Node, source: &Source, version: &str, kind: &str, namespace: &str) -> Diagnostic {
    let metadata = root.entry("metadata");
    let text = |name| metadata.and_then(|metadata| metadata.entry(name)).and_then(Node::scalar);
    let span = root.entry("kind").map_or(root.span, |node| node.span);
    let message = match RESTRICTS.contains(&kind) {
        true => format!("{version} {kind} is not carried out: what it would restrict is not restricted"),
        false => format!("{version} {kind} is not carried out, and passed over"),
    };
    let mut diagnostic = Diagnostic::in_source(Code::KindPassedOver, source, span, message);
    let namespace = text("namespace").unwrap_or(namespace);
    diagnostic.resource = format!("{kind} {namespace}/{}", text("name").unwrap_or(NAMELESS)).into();
    diagnostic.path = "kind".into();
    diagnostic.found(kind);
    diagnostic
}

/// Kinds that take away rather than give: who passes them over has to be told plainly.
const RESTRICTS: [&str; 4] = ["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication", "NetworkPolicy"];

/// What is wrong is reported and stands as written, so that the rest of the resource is read and judged too.
fn read_metadata(
    root: &Node,
    source: &Source,
    kind: Kind,
    namespace: &Arc<str>,
    diagnostics: &mut Diagnostics,
) -> Metadata {
    let node = root.entry("metadata");
    let text = |name: &str| node.and_then(|node| node.entry(name)).and_then(Node::scalar);
    let mut metadata = Metadata {
        name: text("name").unwrap_or(NAMELESS).into(),
        namespace: text("namespace").map_or_else(|| namespace.clone(), Into::into),
        ..Metadata::default()
    };
    let label = format!("{} {}/{}", kind.as_str(), metadata.namespace, metadata.name);
    let cx = &mut Context::new(source, root, &label, diagnostics);
    // Tools that install give it a name themselves.
    let is_nameless = kind == Kind::IstioOperator && node.and_then(|node| node.entry("name")).is_none();
    let Some(node) = node.filter(|_| !is_nameless) else {
        if is_nameless {
            return metadata;
        }
        let help = "a resource needs `metadata: { name: … }`";
        cx.report(Code::BadMetadata, root.span, "metadata is missing").help(help);
        return metadata;
    };
    if node.entries(cx).is_none() {
        return metadata;
    }
    match node.entry("name") {
        Some(node) => judge_name(node, names::object_name, cx),
        None => _ = cx.report(Code::BadMetadata, node.span, "the name is missing"),
    }
    if let Some(node) = node.entry("namespace") {
        judge_name(node, names::namespace, cx);
    }
    let created = node.entry("creationTimestamp").and_then(|node| node.parsed(str::parse::<Timestamp>, cx));
    metadata.created = created.map(|created| created.value);
    for (key, value) in node.entry("annotations").and_then(|node| node.entries(cx)).unwrap_or_default() {
        if let Some(value) = value.text(cx) {
            metadata.annotations.insert(key.text.clone(), value.map(Into::into));
        }
    }
    metadata.labels = read_labels(node, cx);
    metadata
}

const NAMELESS: &str = "?";

fn read_labels(metadata: &Node, cx: &mut Context<'_>) -> BTreeMap<String, String> {
    let entries = metadata.entry("labels").and_then(|node| node.entries(cx)).unwrap_or_default();
    let labels = entries.iter().filter_map(|(key, value)| Some((key.text.to_string(), value.text(cx)?.to_string())));
    labels.collect()
}

fn judge_name(node: &Node, read: fn(&str) -> Result<Box<str>, &'static str>, cx: &mut Context<'_>) {
    let Some(text) = node.text(cx) else { return };
    if let Err(problem) = read(&text) {
        let message = format!("{}: {problem}", cx.quote(&text));
        cx.report_value(Code::BadMetadata, node, message);
    }
}
