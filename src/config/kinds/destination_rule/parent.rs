//! What our annotations say of a host as a parent proxy.

use std::fmt;
use std::sync::Arc;

use crate::config::diagnostic::{Code, Context};
use crate::config::kinds::scalars::is_dns_label;
use crate::config::resource::Resource;
use crate::config::source::Spanned;

/// Where credentials for a parent proxy are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialRef {
    /// `secret://[namespace/]name`: keys `username` and `password` (Basic), or `token` (Bearer).
    Secret {
        /// The rule's own where none is written.
        namespace: Arc<str>,
        /// The name.
        name: Arc<str>,
    },
    /// `file:///path`: `user:password` (Basic), or the whole field value, such as `Bearer 7f3a…`.
    File(Arc<str>),
}

impl fmt::Display for CredentialRef {
    /// As the annotation says it, with the namespace.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret { namespace, name } => write!(f, "secret://{namespace}/{name}"),
            Self::File(path) => write!(f, "file://{path}"),
        }
    }
}

/// `egret.dev/proxy-authorization`.
pub(super) fn read_authorization(resource: &Resource, cx: &mut Context<'_>) -> Option<Spanned<CredentialRef>> {
    let text = resource.metadata.annotations.get(PROXY_AUTHORIZATION)?;
    let own = &resource.metadata.namespace;
    let parsed = match text.value.split_once("://") {
        Some(("file", path)) if path.starts_with('/') => Some(CredentialRef::File(path.into())),
        Some(("secret", path)) => match path.split_once('/') {
            None => Some((&**own, path)),
            Some((namespace, name)) => Some((namespace, name)),
        }
        .filter(|(namespace, name)| is_dns_label(namespace) && !name.is_empty() && !name.contains('/'))
        .map(|(namespace, name)| CredentialRef::Secret { namespace: namespace.into(), name: name.into() }),
        _ => None,
    };
    let Some(value) = parsed else {
        let report = cx.report(Code::BadCredentialReference, text.span, "this is no reference to credentials");
        report.help("write secret://name, secret://namespace/name or file:///path");
        return None;
    };
    if let CredentialRef::Secret { namespace, .. } = &value
        && namespace != own
    {
        let message = format!("a rule of namespace {own} may use Secrets of its own namespace only");
        cx.report(Code::BadCredentialReference, text.span, message);
        return None;
    }
    Some(Spanned { value, span: text.span })
}

pub(super) const PROXY_AUTHORIZATION: &str = "egret.dev/proxy-authorization";
