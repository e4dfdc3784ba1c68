//! What a certificate says: who its holder is, and how long it is good. Whether it is to be believed is decided elsewhere.

use std::fmt::Write as _;
use std::net::IpAddr;

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::flow::{PeerCertificate, transport};

/// From when until when a certificate is good, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub not_before: i64,
    /// Last second.
    pub not_after: i64,
}

impl Validity {
    /// What is wrong at this second since 1970, as the end of "the certificate …".
    pub fn problem(self, now: i64) -> Option<String> {
        let date = |seconds| {
            jiff::Timestamp::from_second(seconds)
                .map_or_else(|_| format!("{seconds} s"), |timestamp| timestamp.to_string())
        };
        match self {
            Self { not_after, .. } if not_after < now => Some(format!("has expired on {}", date(not_after))),
            Self { not_before, .. } if not_before > now => Some(format!("is not valid before {}", date(not_before))),
            _ => None,
        }
    }
}

/// What operators are shown of a certificate in use. Nothing is decided by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// In hexadecimal, without leading zeros.
    pub serial: Box<str>,
    /// Subject alternative names, the first hundred.
    pub names: Box<[SubjectName]>,
    /// How long it is good.
    pub validity: Validity,
}

/// A subject alternative name, without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the kinds of RFC 5280 §4.2.1.6 that name servers and workloads
pub enum SubjectName {
    Dns(Box<str>),
    Uri(Box<str>),
    Ip(IpAddr),
}

const NAMES_MAX: usize = 100; // certificates of shared edges hold hundreds

/// `None`: it cannot be read.
pub(super) fn shown(certificate: &CertificateDer<'_>) -> Option<Shown> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension.map(|extension| &*extension.value.general_names).unwrap_or_default();
    let serial = hexadecimal(certificate.raw_serial());
    let validity = certificate.validity();
    Some(Shown {
        serial: serial.trim_start_matches('0').into(),
        names: names.iter().filter_map(subject_name).take(NAMES_MAX).collect(),
        validity: Validity { not_before: validity.not_before.timestamp(), not_after: validity.not_after.timestamp() },
    })
}

/// Of all that can be read.
pub(super) fn all_shown(certificates: &[CertificateDer<'_>]) -> Box<[Shown]> {
    certificates.iter().filter_map(shown).collect()
}

fn subject_name(name: &GeneralName<'_>) -> Option<SubjectName> {
    let printable = |text: &str| text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>().into();
    match name {
        GeneralName::DNSName(name) => Some(SubjectName::Dns(printable(name))),
        GeneralName::URI(uri) => Some(SubjectName::Uri(printable(uri))),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(SubjectName::Ip)
        }
        _ => None,
    }
}

/// What a verified certificate says of its holder; `None`: it cannot be read, though the verifier could.
pub(super) fn holder(certificate: &CertificateDer<'_>) -> Option<PeerCertificate> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let extension = certificate.subject_alternative_name().ok()?;
    let names = extension.map(|extension| &*extension.value.general_names).unwrap_or_default();
    let uris: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let dns: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        })
        .collect();
    let subject = distinguished(certificate.subject());
    let common_name = certificate.subject().iter_common_name().find_map(|name| name.as_str().ok());
    Some(PeerCertificate {
        name: transport::identity(&uris, &dns, common_name, &subject).into(),
        issuer: distinguished(certificate.issuer()).into(),
        serial: hexadecimal(certificate.raw_serial()).into(),
        uri_sans: uris.join(",").into(),
        dns_sans: dns.join(",").into(),
        subject: subject.into(),
    })
}

/// As RFC 4514 §2 writes a name: the last part first, `CN=egret,O=Example`.
fn distinguished(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    for (index, part) in name.iter_rdn().collect::<Vec<_>>().into_iter().rev().enumerate() {
        if index > 0 {
            text.push(',');
        }
        for (index, attribute) in part.iter().enumerate() {
            if index > 0 {
                text.push('+');
            }
            push_attribute(&mut text, attribute);
        }
    }
    text
}

fn push_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let oid = attribute.attr_type().to_id_string();
    let short = SHORT_NAMES.iter().find(|(id, _)| *id == oid);
    text.push_str(short.map_or(&oid, |(_, short)| short));
    text.push('=');
    let Ok(value) = attribute.as_str() else {
        text.push('#');
        text.push_str(&hexadecimal(attribute.as_slice()));
        return;
    };
    let last = value.chars().count().saturating_sub(1);
    for (index, c) in value.chars().enumerate() {
        // RFC 4514 §2.4.
        let edge = (c == ' ' && (index == 0 || index == last)) || (c == '#' && index == 0);
        if edge || matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
}

/// RFC 4514 §3, and the address that old certificates carry in their subject.
const SHORT_NAMES: [(&str, &str); 10] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::{DnType, SerialNumber, date_time_ymd};

    use super::super::certs;
    use super::super::testing::Authority;
    use super::*;

    #[test]
    fn a_certificate_tells_names_serial_and_end() {
        let leaf =
            Authority::new().issue(&["spiffe://td/ns/a/sa/b", "a.example", "127.0.0.1", "b.example"], |params| {
                params.distinguished_name.push(DnType::OrganizationName, "Example, Inc.");
                params.distinguished_name.push(DnType::CommonName, "#client ");
                params.serial_number = Some(SerialNumber::from(vec![0x0a, 0xbc]));
                params.not_before = date_time_ymd(2020, 1, 1);
                params.not_after = date_time_ymd(2030, 1, 1);
            });
        let certificate = certs::chain(&leaf.chain, "x").unwrap().remove(0);
        let holder = holder(&certificate).unwrap();
        assert_eq!(&*holder.name, "spiffe://td/ns/a/sa/b");
        assert_eq!(&*holder.subject, "O=Example\\, Inc.,CN=\\#client\\ ");
        assert!(holder.issuer.starts_with("CN=authority "), "{}", holder.issuer);
        assert_eq!((&*holder.serial, &*holder.uri_sans), ("0abc", "spiffe://td/ns/a/sa/b"));
        assert_eq!(&*holder.dns_sans, "a.example,b.example");
        let shown = shown(&certificate).unwrap();
        assert_eq!((shown.validity.not_before, shown.validity.not_after), (1_577_836_800, 1_893_456_000));
        let dns = |name: &str| SubjectName::Dns(name.into());
        let uri = SubjectName::Uri("spiffe://td/ns/a/sa/b".into());
        let ip = SubjectName::Ip(IpAddr::from([127, 0, 0, 1]));
        assert_eq!((&*shown.serial, &*shown.names), ("abc", &[uri, dns("a.example"), ip, dns("b.example")][..]));
    }

    #[test]
    fn what_is_no_certificate_says_nothing() {
        let leaf = Authority::new().issue(&["a.example"], |_| {});
        let whole = certs::chain(&leaf.chain, "x").unwrap().remove(0);
        for length in 0..whole.len() {
            let cut = CertificateDer::from(&whole[..length]);
            assert!(holder(&cut).is_none() && shown(&cut).is_none(), "{length} bytes");
        }
    }
}
