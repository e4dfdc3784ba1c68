//! Where a route leads: services with their ports and subsets, by weight.

use std::sync::Arc;

use super::Reader;
use super::actions::Headers;
use crate::config::diagnostic::{Code, Context};
use crate::config::kinds::SharedText;
use crate::config::kinds::destination_rule::whole_host;
use crate::config::kinds::scalars::{check_wildcard_domain, is_dns_label};
use crate::config::read::Fields;
use crate::config::source::Spanned;
use crate::config::yaml::Node;

/// `destination`.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Whole, lower case.
    pub host: SharedText,
    /// `subset`.
    pub subset: Option<SharedText>,
    /// `port.number`.
    pub port: Option<u16>,
}

/// One of several destinations.
#[derive(Clone, Debug)]
pub struct Weighted {
    /// Where to.
    pub to: Destination,
    /// Its part; at least 1.
    pub weight: u32,
    /// `headers`, of http routes.
    pub headers: Headers,
}

impl Destination {
    pub(super) fn read(node: &Node, reader: &Reader<'_>, cx: &mut Context<'_>) -> Option<Self> {
        let mut fields = Fields::of(node, cx)?;
        let host = fields.required("host", cx).and_then(|node| {
            let text = node.text(cx)?;
            match check_wildcard_domain(text.value) {
                Ok(()) => {
                    Some(Spanned { value: whole_host(text.value, reader.resource, reader.domain), span: node.span })
                }
                Err(error) => {
                    cx.report(Code::BadHost, node.span, format!("{:?}: {error}", text.value)).found(text.value);
                    None
                }
            }
        });
        let subset = fields.text("subset", cx).filter(|subset| !subset.value.is_empty());
        if let Some(subset) = subset.filter(|subset| !is_dns_label(subset.value)) {
            let message = format!("{:?} is not a DNS label", subset.value);
            cx.report(Code::BadSubsetName, subset.span, message).found(subset.value);
        }
        let port = fields.get("port").and_then(|node| {
            let mut fields = Fields::of(node, cx)?;
            let number = fields.required("number", cx).and_then(|node| node.port(cx));
            fields.finish(cx);
            number
        });
        fields.finish(cx);
        Some(Self { host: host?, subset: subset.map(|subset| subset.map(Arc::from)), port })
    }
}

/// The destinations of `route`. Istio drops entries of weight 0 among several, and ignores the weight of a single one; weights need not
/// add up to anything. `None`: there is none, or one is wrong, so that the others would get more than their part.
pub(super) fn read_all(node: &Node, reader: &Reader<'_>, cx: &mut Context<'_>) -> Option<Vec<Weighted>> {
    let items = node.items(cx)?;
    let read: Vec<Option<Weighted>> = items.iter().map(|item| Weighted::read(item, reader, cx)).collect();
    let mut read = read.into_iter().collect::<Option<Vec<_>>>()?;
    match read.as_mut_slice() {
        [] => {
            cx.report(Code::NoDestination, node.span, "a route needs a destination");
            return None;
        }
        [only] => only.weight = 1,
        several => {
            if several.iter().all(|weighted| weighted.weight == 0) {
                cx.report(Code::BadWeight, node.span, "of several destinations none has a weight");
                return None;
            }
        }
    }
    read.retain(|weighted| weighted.weight > 0);
    Some(read)
}

impl Weighted {
    fn read(node: &Node, reader: &Reader<'_>, cx: &mut Context<'_>) -> Option<Self> {
        let mut fields = Fields::of(node, cx)?;
        let weight = fields.whole("weight", 0..=i32::MAX as u64, cx).unwrap_or_default();
        let to = fields.required("destination", cx).and_then(|node| Destination::read(node, reader, cx));
        let headers = fields.get("headers").map(|node| Headers::read(node, cx)).unwrap_or_default();
        fields.finish(cx);
        Some(Self { to: to?, weight: u32::try_from(weight).unwrap_or(u32::MAX), headers })
    }
}
