//! A resource as loaded: which kind, whose, and its document, ready to be read by the code of its kind.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::diagnostic::{Context, Diagnostics};
use super::source::{Source, Span, Spanned};
use super::yaml::Node;
use crate::flow::Origin;

/// One resource of a kind that Egret carries out.
#[derive(Clone, Debug)]
pub struct Resource {
    /// What it is.
    pub kind: Kind,
    /// Whose it is.
    pub metadata: Metadata,
    /// The whole document.
    pub root: Node,
    /// The file it stands in.
    pub source: Arc<Source>,
    /// Counts up in the order of loading: order of `-f`, then path, then document.
    pub order: usize,
    /// `Kind namespace/name`.
    pub label: Arc<str>,
}

/// The kinds that Egret carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// networking.istio.io
    ServiceEntry,
    /// networking.istio.io
    VirtualService,
    /// networking.istio.io
    DestinationRule,
    /// networking.istio.io: an endpoint that selectors pick.
    WorkloadEntry,
    /// networking.istio.io: what a workload knows of the registry.
    Sidecar,
    /// security.istio.io
    AuthorizationPolicy,
    /// install.istio.io, for its `meshConfig`; or an overlay of one, without `kind`.
    IstioOperator,
    /// Core Kubernetes.
    Service,
    /// Core Kubernetes: addresses of a Service.
    Endpoints,
    /// discovery.k8s.io: the same in slices.
    EndpointSlice,
    /// Core Kubernetes, for Istio's MeshConfig.
    ConfigMap,
    /// Core Kubernetes: credentials and certificates.
    Secret,
}

/// `metadata`, as far as it is used.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    /// The name.
    pub name: Arc<str>,
    /// The namespace as written, else that of the input.
    pub namespace: Arc<str>,
    /// `creationTimestamp`, where the file came out of a cluster.
    pub created: Option<Timestamp>,
    /// Annotations with their places.
    pub annotations: BTreeMap<Box<str>, Spanned<Box<str>>>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl Kind {
    /// The name in `kind:`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServiceEntry => "ServiceEntry",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::Sidecar => "Sidecar",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::IstioOperator => "IstioOperator",
            Self::Service => "Service",
            Self::Endpoints => "Endpoints",
            Self::EndpointSlice => "EndpointSlice",
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

impl Resource {
    /// `spec`, if there is one.
    pub fn spec(&self) -> Option<&Node> {
        self.root.entry("spec")
    }

    /// Where reading code reports to about this resource.
    pub fn context<'a>(&'a self, diagnostics: &'a mut Diagnostics) -> Context<'a> {
        let context = Context::new(&self.source, &self.root, &self.label, diagnostics);
        if self.kind == Kind::Secret { context.confidential() } else { context }
    }

    /// A place in this resource, as `explain` and the log name it.
    pub fn origin(&self, span: Span) -> Origin {
        Origin { file: self.source.name().clone(), line: span.line, column: span.column, resource: self.label.clone() }
    }

    /// What makes a resource the older one: `creationTimestamp` where there is one, else the order of loading.
    pub fn age(&self) -> (Timestamp, usize) {
        // A file without a timestamp is not older than one from a cluster: it was written down after.
        (self.metadata.created.unwrap_or(Timestamp::MAX), self.order)
    }
}
