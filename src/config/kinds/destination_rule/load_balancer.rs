//! `loadBalancer`: which endpoint a flow goes to (ISTIO 6.4).

use std::sync::Arc;

use super::locality::{LocalityLb, read_locality};
use crate::config::diagnostic::{Code, Context};
use crate::config::kinds::scalars::read_duration;
use crate::config::read::Fields;
use crate::config::source::{Span, Spanned};
use crate::config::yaml::Node;
use crate::route::balancing::hashing::{Cookie, HashOn, Table};
use crate::route::balancing::{Balancing, Hashing, WarmUp, maglev, ring};

/// `loadBalancer`.
#[derive(Clone, Debug)]
pub struct Balancer {
    /// Where it stands.
    pub span: Span,
    /// `simple` or `consistentHash`.
    pub how: How,
    /// `warmup`, or `warmupDurationSecs`.
    pub warm_up: Option<Spanned<WarmUp>>,
    /// `localityLbSetting`.
    pub locality: Option<Spanned<LocalityLb>>,
}

/// Who picks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// Among the endpoints.
    Endpoints(Balancing),
    /// PASSTHROUGH: what the client asked for is dialled.
    Asked,
}

pub(super) fn read_balancer(node: &Node, has_outliers: bool, cx: &mut Context<'_>) -> Option<Balancer> {
    let mut fields = Fields::of(node, cx)?;
    let simple = fields.one_of("simple", BALANCERS, cx);
    let hash_node = fields.get("consistentHash");
    let hashing = hash_node.and_then(|node| read_hash(node, cx));
    if let (Some(_), Some(node)) = (simple, hash_node) {
        cx.report(Code::BadBalancer, node.span, "`simple` and `consistentHash` exclude each other");
    }
    let how = match (simple, hashing) {
        (_, Some(hashing)) => How::Endpoints(Balancing::Hash(Arc::new(hashing))),
        (Some(Simple::LeastRequest) | None, None) => How::Endpoints(Balancing::LeastRequest),
        (Some(Simple::RoundRobin), None) => How::Endpoints(Balancing::RoundRobin),
        (Some(Simple::Random), None) => How::Endpoints(Balancing::Random),
        (Some(Simple::Passthrough), None) => How::Asked,
    };
    let warm_up = read_warm_up(&mut fields, cx);
    if let Some(warm_up) = &warm_up
        && !matches!(how, How::Endpoints(Balancing::LeastRequest | Balancing::RoundRobin))
    {
        let message = "endpoints are warmed up with LEAST_REQUEST and ROUND_ROBIN only, as in Istio";
        cx.report(Code::BalancingWithoutEffect, warm_up.span, message);
    }
    let locality = fields.get("localityLbSetting");
    if let (Some(_), Some(zone)) = (locality, fields.get("zoneAwareLbSetting")) {
        let message = "`localityLbSetting` and `zoneAwareLbSetting` exclude each other";
        cx.report(Code::BadBalancer, zone.span, message);
    }
    let locality =
        locality.and_then(|node| Some(Spanned { value: read_locality(node, has_outliers, cx)?, span: node.span }));
    fields.ignored(
        "zoneAwareLbSetting",
        "the other proxies of this zone are not known here; localityLbSetting acts",
        cx,
    );
    fields.finish(cx);
    Some(Balancer { span: node.span, how, warm_up, locality })
}

fn read_hash(node: &Node, cx: &mut Context<'_>) -> Option<Hashing> {
    let mut fields = Fields::of(node, cx)?;
    let header = fields.text("httpHeaderName", cx).filter(|text| !text.value.is_empty());
    let cookie = fields.get("httpCookie");
    let query = fields.text("httpQueryParameterName", cx).filter(|text| !text.value.is_empty());
    let source = fields.boolean("useSourceIp", cx) == Some(true);
    let keys = [header.is_some(), cookie.is_some(), query.is_some(), source];
    if keys.iter().filter(|is_there| **is_there).count() != 1 {
        let message = "one of `httpHeaderName`, `httpCookie`, `useSourceIp: true` and `httpQueryParameterName` says what is hashed";
        cx.report(Code::BadBalancer, node.span, message);
    }
    if let Some(header) = header
        && !is_token(header.value)
    {
        let message = format!("{:?} is no name of a header", header.value);
        cx.report(Code::BadHeader, header.span, message).found(header.value);
    }
    let cookie = cookie.and_then(|node| read_cookie(node, cx));
    let table = read_table(&mut fields, cx);
    fields.finish(cx);
    let on = match (header, cookie, query) {
        (Some(header), _, _) => HashOn::Header(header.value.into()),
        (_, Some(cookie), _) => HashOn::Cookie(Box::new(cookie)),
        (_, _, Some(query)) => HashOn::Query(query.value.into()),
        _ if source => HashOn::SourceIp,
        _ => return None,
    };
    Some(Hashing { on, table })
}

fn read_table(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Table {
    let bounds = 1..=u64::from(ring::RING_POINTS_MAX);
    let size = |number: Option<u64>| number.and_then(|number| u32::try_from(number).ok());
    let deprecated = fields.get("minimumRingSize");
    let mut points_min =
        size(deprecated.filter(|node| node.scalar() != Some("0")).and_then(|node| node.whole(bounds.clone(), cx)));
    if let Some(node) = deprecated {
        let report = cx.report(Code::DeprecatedField, node.span, "`minimumRingSize` is deprecated");
        report.help("write `ringHash: { minimumRingSize: … }`");
    }
    if let Some(mut ring) = fields.fields("ringHash", cx) {
        points_min = size(ring.whole("minimumRingSize", bounds, cx)).or(points_min);
        ring.finish(cx);
    }
    let Some(node) = fields.get("maglev") else {
        return points_min.map_or_else(Table::default, |points_min| Table::Ring { points_min });
    };
    if fields.get("ringHash").is_some() {
        cx.report(Code::BadBalancer, node.span, "`ringHash` and `maglev` exclude each other");
    }
    let mut places = maglev::PLACES;
    if let Some(mut maglev) = Fields::of(node, cx) {
        if let Some(node) = maglev.get("tableSize")
            && let Some(number) = node.whole(0..=u64::MAX, cx)
        {
            match u32::try_from(number).ok().filter(|size| *size < maglev::PLACES_MAX && maglev::is_prime(*size)) {
                Some(size) => places = size,
                None => {
                    let message = format!("the size of Maglev's table is a prime below {}", maglev::PLACES_MAX);
                    let report = cx.report(Code::BadTableSize, node.span, message);
                    report.found(node.excerpt()).help("65537 is the default");
                }
            }
        }
        maglev.finish(cx);
    }
    Table::Maglev { places }
}

fn read_cookie(node: &Node, cx: &mut Context<'_>) -> Option<Cookie> {
    let mut fields = Fields::of(node, cx)?;
    let name = fields.required("name", cx).and_then(|node| node.text(cx));
    if let Some(name) = name.filter(|name| !is_token(name.value)) {
        let message = format!("{:?} is no name of a cookie", name.value);
        cx.report(Code::BadCookie, name.span, message).found(name.value);
    }
    let path = fields.text("path", cx).filter(|text| !text.value.is_empty());
    let path = path.and_then(|path| value(path, cx));
    let ttl = fields.duration("ttl", cx);
    let mut attributes: Vec<(Box<str>, Box<str>)> = Vec::new();
    for item in fields.list("attributes", cx) {
        let Some(mut attribute) = Fields::of(item, cx) else { continue };
        let name = attribute.required("name", cx).and_then(|node| node.text(cx));
        let text = attribute.get("value").and_then(|node| Some(Spanned { value: node.scalar()?, span: node.span }));
        attribute.finish(cx);
        let Some(name) = name else { continue };
        let text = text.map_or(Some("".into()), |text| value(text, cx));
        if !is_token(name.value) {
            let message = format!("{:?} is no name of a cookie's attribute", name.value);
            cx.report(Code::BadCookie, name.span, message).found(name.value);
        } else if attributes.iter().any(|(other, _)| other.eq_ignore_ascii_case(name.value)) {
            cx.report(Code::BadCookie, name.span, format!("{:?} is listed twice", name.value)).found(name.value);
        } else if let Some(text) = text {
            attributes.push((name.value.into(), text));
        }
    }
    fields.finish(cx);
    let name = name?.value;
    is_token(name).then(|| Cookie { name: name.into(), ttl, path, attributes })
}

/// A value of a cookie's attribute (RFC 6265 §4.1.1): it may not end the attribute, nor the line.
fn value(text: Spanned<&str>, cx: &mut Context<'_>) -> Option<Box<str>> {
    if text.value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b';') {
        return Some(text.value.into());
    }
    let message = "a value of a cookie's attribute is printable ASCII without `;`";
    cx.report(Code::BadCookie, text.span, message).found(text.value);
    None
}

fn read_warm_up(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Option<Spanned<WarmUp>> {
    let old = fields.get("warmupDurationSecs").and_then(|node| Some((read_duration(node, cx)?, node.span)));
    let Some(node) = fields.get("warmup") else {
        let (duration, span) = old?;
        let value = WarmUp { duration, minimum_percent: MINIMUM_PERCENT, aggression: 1.0 };
        return Some(Spanned { value, span });
    };
    if let Some((_, span)) = old {
        cx.report(Code::BadBalancer, span, "`warmup` and `warmupDurationSecs` exclude each other");
    }
    let mut fields = Fields::of(node, cx)?;
    let duration = fields.required("duration", cx).and_then(|node| read_duration(node, cx));
    let minimum_percent = fields.get("minimumPercent").and_then(|node| node.decimal(0.0..=100.0, cx));
    let aggression = fields.get("aggression").and_then(|node| node.decimal(1.0..=AGGRESSION_MAX, cx));
    fields.finish(cx);
    let value = WarmUp {
        duration: duration?,
        minimum_percent: minimum_percent.unwrap_or(MINIMUM_PERCENT),
        aggression: aggression.unwrap_or(1.0),
    };
    Some(Spanned { value, span: node.span })
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(is_token)
}

#[derive(Clone, Copy)]
enum Simple {
    LeastRequest,
    RoundRobin,
    Random,
    Passthrough,
}

const BALANCERS: &[(&str, Simple)] = &[
    ("UNSPECIFIED", Simple::LeastRequest),
    ("LEAST_REQUEST", Simple::LeastRequest),
    ("LEAST_CONN", Simple::LeastRequest),
    ("ROUND_ROBIN", Simple::RoundRobin),
    ("RANDOM", Simple::Random),
    ("PASSTHROUGH", Simple::Passthrough),
];
const MINIMUM_PERCENT: f64 = 10.0; // Envoy's default
const AGGRESSION_MAX: f64 = 1000.0; // beyond, nothing is left of the warm-up
