//! What a client's connection runs over, and what it proved by that.

use std::path::Path;
use std::sync::Arc;

/// How a client's bytes reach the listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// TCP and nothing else.
    #[default]
    Tcp,
    /// A TLS session that the listener opened.
    Tls(Arc<TlsSession>),
    /// The listener's unix socket, by its path. Neither side has an address of IP: [`super::Source::peer`] and `local` are
    /// `0.0.0.0:0`, and all clients of such sockets count as one.
    Unix(Arc<Path>),
}

/// A TLS session between a client and us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSession {
    /// `TLSv1.3`, as Envoy writes it.
    pub version: &'static str,
    /// ALPN chose `h2`.
    pub http2: bool,
    /// The client's certificate, verified against the listener's `clientCa`.
    pub certificate: Option<PeerCertificate>,
}

/// What a verified certificate says of its holder. All texts are the issuer's; they are escaped where they are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Who the holder is; see [`identity`].
    pub name: Arc<str>,
    /// Distinguished name, in the order and spelling of RFC 4514.
    pub subject: Box<str>,
    /// Of the issuer.
    pub issuer: Box<str>,
    /// Lower-case hexadecimal digits.
    pub serial: Box<str>,
    /// Subject alternative names that are URIs, in order, with commas between them, as Envoy logs them.
    pub uri_sans: Box<str>,
    /// Those that are DNS names.
    pub dns_sans: Box<str>,
}

impl Transport {
    /// The client's certificate, if it showed one.
    pub fn certificate(&self) -> Option<&PeerCertificate> {
        match self {
            Self::Tls(session) => session.certificate.as_ref(),
            Self::Tcp | Self::Unix(_) => None,
        }
    }
}

/// Who the holder of a certificate is: its SPIFFE id, else its first DNS name, else the common name, else the whole subject.
///
/// A certificate with a SPIFFE id has exactly one URI (X.509-SVID §2): where there are several, none of them is an identity.
pub fn identity<'n>(uris: &[&'n str], dns: &[&'n str], common_name: Option<&'n str>, subject: &'n str) -> &'n str {
    match uris {
        [uri] if uri.starts_with("spiffe://") => uri,
        _ => dns.first().copied().or(common_name).unwrap_or(subject),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_telling_name_is_the_identity() {
        let (one, other) = ("spiffe://td/ns/a/sa/b", "spiffe://td/ns/a/sa/admin");
        for (uris, dns, common_name, expected) in [
            (&[][..], &[][..], None, "O=only"),
            (&[], &[], Some("common"), "common"),
            (&[], &["a.example", "b.example"], Some("common"), "a.example"),
            (&["https://a.example/"], &[], Some("common"), "common"), // names a thing, not a client
            (&[one], &["a.example"], Some("common"), one),
            (&[one, other], &["a.example"], None, "a.example"), // two ids are none
        ] {
            assert_eq!(identity(uris, dns, common_name, "O=only"), expected);
        }
    }
}
