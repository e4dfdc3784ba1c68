//! Istio's MeshConfig as resources carry it: ConfigMap `istio` of the root namespace (key `mesh`), and `spec.meshConfig` of an
//! IstioOperator. What is read of it, and what the settings file says before it, is for [`crate::config::settings`] to say.

use std::sync::Arc;

use crate::config::diagnostic::{Code, Context, Diagnostics};
use crate::config::resource::{Kind, Resource};
use crate::config::source::Source;
use crate::config::yaml::{self, Node};

/// One MeshConfig and the document it stands in.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// The text its places belong to: the file, or the lines of the file that hold it.
    pub source: Arc<Source>,
    /// The document that is read.
    pub root: Node,
    /// The MeshConfig itself, in `root` or the whole of it.
    pub config: Node,
    /// `ConfigMap istio-system/istio`.
    pub label: Arc<str>,
}

impl MeshConfig {
    /// The MeshConfig of a resource, if it holds one that counts: of ConfigMaps only that of the root namespace.
    pub fn read(resource: &Resource, root_namespace: &str, diagnostics: &mut Diagnostics) -> Option<Self> {
        match resource.kind {
            Kind::ConfigMap => Self::read_config_map(resource, root_namespace, diagnostics),
            Kind::IstioOperator => Self::read_operator(resource, root_namespace, diagnostics),
            _ => None,
        }
    }

    /// Where reading code reports to.
    pub fn context<'a>(&'a self, diagnostics: &'a mut Diagnostics) -> Context<'a> {
        Context::new(&self.source, &self.root, &self.label, diagnostics)
    }

    fn read_config_map(resource: &Resource, root_namespace: &str, diagnostics: &mut Diagnostics) -> Option<Self> {
        let cx = &mut resource.context(diagnostics);
        let (name, namespace) = (&*resource.metadata.name, &*resource.metadata.namespace);
        let kind = resource.root.entry("kind").map_or(resource.root.span, |node| node.span);
        let mesh = resource.root.entry("data").and_then(|data| data.entry("mesh"));
        if name != CONFIG_MAP || namespace != root_namespace {
            let is_mesh = mesh.is_some() && (name == CONFIG_MAP || name.starts_with("istio-"));
            let (code, message) = match is_mesh {
                true => (
                    Code::OtherMesh,
                    format!("not the mesh's configuration, and passed over: that is {root_namespace}/{CONFIG_MAP}"),
                ),
                false => (Code::KindPassedOver, "v1 ConfigMap is not carried out, and passed over".to_owned()),
            };
            cx.report(code, kind, message).found("ConfigMap");
            return None;
        }
        let Some(mesh) = mesh else {
            cx.report(Code::MissingField, resource.root.span, "`data.mesh` is missing");
            return None;
        };
        let text = mesh.text(cx)?;
        let source = Arc::new(embedded(&resource.source, mesh, text.value));
        let mut documents = yaml::parse(&source, diagnostics).into_iter();
        let root = documents.next()?;
        Some(Self { source, config: root.clone(), root, label: resource.label.clone() })
    }

    fn read_operator(resource: &Resource, root_namespace: &str, diagnostics: &mut Diagnostics) -> Option<Self> {
        let cx = &mut resource.context(diagnostics);
        let kind = resource.root.entry("kind").map_or(resource.root.span, |node| node.span);
        let namespace = &*resource.metadata.namespace;
        if namespace != root_namespace && namespace != "default" {
            let message = format!("not the mesh's configuration, and passed over: that is in {root_namespace}");
            cx.report(Code::OtherMesh, kind, message);
            return None;
        }
        cx.report(Code::KindPassedOver, kind, "of an installation only `meshConfig` is read: nothing is installed");
        let spec = resource.spec();
        let values = spec.and_then(|spec| spec.entry("values"));
        // Values say the policy in older ways, too: passed over, they would leave open what they close.
        let old = |values: Option<&'_ Node>| {
            values.and_then(|values| values.entry("global")?.entry("outboundTrafficPolicy")).map(|node| node.span)
        };
        let nested = values.and_then(|values| values.entry("meshConfig")).map(|node| node.span);
        for span in [old(values), old(Some(&resource.root)), nested].into_iter().flatten() {
            let report = cx.report(Code::NotSupported, span, "not supported here: what it closes would stay open");
            report.help("write it into `meshConfig`; in an IstioOperator that is `spec.meshConfig`");
        }
        let config = spec.and_then(|spec| spec.entry("meshConfig")).or_else(|| resource.root.entry("meshConfig"))?;
        Some(Self {
            source: resource.source.clone(),
            root: resource.root.clone(),
            config: config.clone(),
            label: resource.label.clone(),
        })
    }
}

/// The text of a literal block with its places kept: all lines of the file before it are empty. What is quoted has places of its own.
fn embedded(source: &Source, node: &Node, text: &str) -> Source {
    let lines_before = (node.span.line as usize).saturating_sub(1);
    let before = lines_before.checked_sub(1).and_then(|index| source.text().lines().nth(index)).unwrap_or_default();
    let indicator = before.trim_end().rsplit([' ', ':', '\t']).next().unwrap_or_default();
    if !indicator.starts_with('|') {
        return Source::new(format!("{}:{}:{}", source.name(), node.span.line, node.span.column), text);
    }
    let mut padded = "\n".repeat(lines_before);
    for line in source.text().lines().skip(lines_before).take(text.trim_start_matches('\n').lines().count()) {
        padded.push_str(line);
        padded.push('\n');
    }
    Source::new(source.name().clone(), padded)
}

const CONFIG_MAP: &str = "istio"; // of the default revision
