//! Which HTTP a cluster is spoken to in.

use std::sync::Arc;

use crate::config::kinds::destination_rule::Pool;
use crate::config::settings::Settings;
use crate::route::Protocol;
use crate::route::upstream_http::{Http2Options, UpstreamHttp, UpstreamVersion};

/// As Istio decides it (ISTIO 6.4): the port's protocol says HTTP/2, or the rule or the mesh makes it so; `useClientProtocol` goes before
/// both. A port of no declared protocol is asked in HTTP/1.1: that a client speaks HTTP/2 to its proxy says nothing of the origin.
pub(super) fn upstream_http(protocol: Protocol, pool: &Pool, settings: &Settings) -> UpstreamHttp {
    let of_rule = pool.upgrades == Some(true);
    let of_either = pool.upgrades.or(settings.mesh.upgrades_to_http2) == Some(true);
    let version = match protocol {
        Protocol::Tcp => UpstreamVersion::Http1,
        _ if pool.uses_client_protocol => UpstreamVersion::AsClient,
        Protocol::Http2 | Protocol::Grpc => UpstreamVersion::Http2,
        Protocol::Http if of_either => UpstreamVersion::Http2,
        Protocol::Tls | Protocol::Auto if of_rule => UpstreamVersion::Http2,
        Protocol::Http | Protocol::Tls | Protocol::Auto => UpstreamVersion::Http1,
    };
    let says_something = pool.http2 != Http2Options::default();
    UpstreamHttp { version, http2: says_something.then(|| Arc::new(pool.http2)) }
}
