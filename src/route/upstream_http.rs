//! Which HTTP is spoken upstream, and what HTTP/2 there has to keep to (ISTIO 6.4).

use std::sync::Arc;
use std::time::Duration;

/// How a cluster is spoken to where HTTP is spoken: by requests, and by the CONNECT to a parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamHttp {
    /// Which version.
    pub version: UpstreamVersion,
    /// What a rule says of HTTP/2; most say nothing.
    pub http2: Option<Arc<Http2Options>>,
}

/// Which version of HTTP goes upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamVersion {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: by prior knowledge, and by ALPN under TLS of ours.
    Http2,
    /// That of the client's request (`useClientProtocol`).
    AsClient,
}

/// `connectionPool.http`, as far as it is about HTTP/2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Http2Options {
    /// `maxConcurrentStreams`: streams of ours on one connection; `None`: [`STREAMS_DEFAULT`]. The upstream may allow fewer.
    pub streams_max: Option<u32>,
    /// `http2KeepAlive`.
    pub keepalive: Option<Keepalive>,
}

/// How a connection is asked whether it still lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// From one PING to the next.
    pub interval: Duration,
    /// How long its answer may take; then the connection is given up.
    pub timeout: Duration,
}

/// As many as a client may open on a connection of ours, and as most servers allow.
pub const STREAMS_DEFAULT: u32 = 100;
/// More than that of one connection would share one congestion window, and a window of 64 MiB; beyond it another one is opened.
pub const STREAMS_MAX: u32 = 256;

impl UpstreamHttp {
    /// Whether a request goes out in HTTP/2; `client`: it came so.
    pub fn is_http2(&self, client: bool) -> bool {
        match self.version {
            UpstreamVersion::Http1 => false,
            UpstreamVersion::Http2 => true,
            UpstreamVersion::AsClient => client,
        }
    }

    /// Streams of ours on one connection, at most.
    pub fn streams_max(&self) -> usize {
        let asked = self.http2.as_ref().and_then(|options| options.streams_max).unwrap_or(STREAMS_DEFAULT);
        asked.clamp(1, STREAMS_MAX) as usize
    }

    /// `http2KeepAlive`.
    pub fn keepalive(&self) -> Option<Keepalive> {
        self.http2.as_ref()?.keepalive
    }
}

impl UpstreamVersion {
    /// For operators.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::AsClient => "the client's",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_bounded_whatever_a_rule_says() {
        let of = |streams_max| {
            let http2 = Some(Arc::new(Http2Options { streams_max, keepalive: None }));
            UpstreamHttp { http2, ..UpstreamHttp::default() }.streams_max()
        };
        assert_eq!(UpstreamHttp::default().streams_max(), 100);
        assert_eq!([of(None), of(Some(1)), of(Some(256)), of(Some(257)), of(Some(u32::MAX))], [100, 1, 256, 256, 256]);
    }
}
