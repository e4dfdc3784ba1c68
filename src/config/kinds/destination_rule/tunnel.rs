//! `tunnel`: through the service, which is a proxy, to a fixed target (ISTIO 8).

use crate::config::diagnostic::{Code, Context};
use crate::config::kinds::scalars::check_fqdn;
use crate::config::read::Fields;
use crate::config::source::Spanned;
use crate::config::yaml::Node;
use crate::flow::{Host, Target};
use crate::route::TunnelMethod;

/// `tunnel`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// `protocol`.
    pub method: TunnelMethod,
    /// `targetHost` and `targetPort`.
    pub target: Target,
}

pub(super) fn read_tunnel(node: &Node, cx: &mut Context<'_>) -> Option<Spanned<Tunnel>> {
    let mut fields = Fields::of(node, cx)?;
    let method = fields.text("protocol", cx).map_or(Some(TunnelMethod::Connect), |protocol| match protocol.value {
        "" | "CONNECT" => Some(TunnelMethod::Connect),
        "POST" => Some(TunnelMethod::Post),
        other => {
            let report =
                cx.report(Code::UnknownValue, protocol.span, format!("{other:?} is none of the values known here"));
            report.found(other).help("one of CONNECT, POST");
            None
        }
    });
    let host = fields.required("targetHost", cx).and_then(|node| {
        let text = node.text(cx)?;
        let is_host = text.value.parse::<std::net::IpAddr>().is_ok() || check_fqdn(text.value).is_ok();
        let host = Host::parse(text.value.as_bytes()).ok().filter(|_| is_host);
        if host.is_none() {
            let message = format!("{:?} is neither a DNS name nor an IP address", text.value);
            cx.report(Code::BadHost, node.span, message).found(text.value);
        }
        host
    });
    let port = fields.required("targetPort", cx).and_then(|node| node.port(cx));
    fields.finish(cx);
    let target = Target { host: host?, port: port? };
    Some(Spanned { value: Tunnel { method: method?, target }, span: node.span })
}
