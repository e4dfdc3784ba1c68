//! What an http route has done with requests beside sending them on (ISTIO 5.3), compiled where it is read.
//!
//! [`answer`] redirects and direct responses · [`rewrite`] path and host · [`headers`] fields · [`retries`] · [`fault`] · [`cors`] ·
//! [`mirror`] copies.

mod answer;
mod cors;
mod fault;
pub(super) mod headers;
mod mirror;
pub(in crate::config) mod retries;
mod rewrite;

use std::time::Duration;

use super::Reader;
use super::matching::HttpMatch;
use crate::config::diagnostic::{Code, Context};
use crate::config::kinds::scalars::read_duration;
use crate::config::read::Fields;
use crate::config::yaml::Node;
use crate::route::http::actions::{Answer, Authority, Fault, Rewrite, Share};
use crate::route::http::cors::Cors;
use crate::route::http::retries::Retries;

pub use headers::Headers;
pub use mirror::Mirror;

/// All modifiers of one http route.
#[derive(Debug, Default)]
pub struct Actions {
    /// `rewrite.uri` or `rewrite.uriRegexRewrite`.
    pub rewrite: Option<Rewrite>,
    /// `rewrite.authority`, or what `headers` says of the host.
    pub authority: Option<Authority>,
    /// `headers`.
    pub headers: Headers,
    /// `timeout`.
    pub timeout: Option<Duration>,
    /// `retries`; `Some(None)`: none, whatever the default.
    pub retries: Option<Option<Retries>>,
    /// `fault`.
    pub fault: Option<Fault>,
    /// `corsPolicy`.
    pub cors: Option<Cors>,
    /// `mirror` or `mirrors`.
    pub mirrors: Vec<Mirror>,
}

/// `delegate`.
#[derive(Clone, Debug)]
pub struct Delegate {
    /// Name of the VirtualService.
    pub name: Box<str>,
    /// Its namespace; that of the VirtualService that delegates where nothing is said.
    pub namespace: Box<str>,
}

impl Actions {
    pub(super) fn read(fields: &mut Fields<'_>, reader: &Reader<'_>, cx: &mut Context<'_>) -> Self {
        let rewrite = fields.get("rewrite").map(|node| rewrite::read(node, cx)).unwrap_or_default();
        let headers = fields.get("headers").map(|node| Headers::read(node, cx)).unwrap_or_default();
        if let (Some(_), Some(set)) = (&rewrite.authority, &headers.authority) {
            let message = "the host is rewritten already, by `rewrite.authority`";
            cx.report(Code::BadRewrite, set.span, message);
        }
        let authority = rewrite.authority.or_else(|| headers.authority.as_ref().map(|set| set.value.clone()));
        Self {
            rewrite: rewrite.path,
            authority,
            headers,
            timeout: fields.get("timeout").and_then(|node| read_duration(node, cx)),
            retries: fields.get("retries").and_then(|node| retries::read(node, cx)),
            fault: fields.get("fault").and_then(|node| fault::read(node, cx)),
            cors: fields.get("corsPolicy").and_then(|node| cors::read(node, cx)),
            mirrors: mirror::read(fields, reader, cx),
        }
    }
}

pub(super) fn read_redirect(node: &Node, matches: &[HttpMatch], cx: &mut Context<'_>) -> Option<Answer> {
    answer::redirect(node, matches, cx).map(Answer::Redirect)
}

pub(super) fn read_direct(node: &Node, cx: &mut Context<'_>) -> Option<Answer> {
    answer::direct(node, cx)
}

impl Delegate {
    pub(super) fn read(node: &Node, reader: &Reader<'_>, cx: &mut Context<'_>) -> Option<Self> {
        let mut fields = Fields::of(node, cx)?;
        let name = fields.required("name", cx).and_then(|node| node.text(cx)).map(|text| text.value.into());
        let namespace = fields.text("namespace", cx).filter(|text| !text.value.is_empty());
        let namespace =
            namespace.map_or_else(|| (*reader.resource.metadata.namespace).into(), |text| text.value.into());
        fields.finish(cx);
        Some(Self { name: name?, namespace })
    }
}

/// `{ value: 12.5 }`: from 0 to 100, and where it is not 0, not below what Envoy can count.
fn read_percentage(node: &Node, cx: &mut Context<'_>) -> Option<Share> {
    let mut fields = Fields::of(node, cx)?;
    let value = match fields.get("value") {
        Some(value) => percent(value, cx),
        None => Some(Share::of_percent(0.0)), // as protobuf's JSON has it
    };
    fields.finish(cx);
    value
}

fn percent(node: &Node, cx: &mut Context<'_>) -> Option<Share> {
    let value = node.decimal(f64::NEG_INFINITY..=f64::INFINITY, cx)?;
    if !(0.0..=100.0).contains(&value) || (value > 0.0 && value < LEAST_PERCENT) {
        let message = format!("{} is no percentage: 0, or from {LEAST_PERCENT} to 100", node.excerpt());
        cx.report_value(Code::BadPercentage, node, message);
        return None;
    }
    Some(Share::of_percent(value))
}

const LEAST_PERCENT: f64 = 0.0001; // ISTIO 5.6
