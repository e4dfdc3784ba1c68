//! `consistentHash`: what of a flow is hashed, and how. The hash is XXH64 of the same bytes as in Envoy, so that the same header leads
//! to the same number there and here, today and after the next restart.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use twox_hash::XxHash64;

use crate::flow::RequestFields;

/// `consistentHash`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashing {
    /// What is hashed.
    pub on: HashOn,
    /// Which table leads from hashes to endpoints.
    pub table: Table,
}

/// What of a flow is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// `httpHeaderName`: all values of that field.
    Header(Box<str>),
    /// `httpCookie`.
    Cookie(Box<Cookie>),
    /// `useSourceIp`: the client's address.
    SourceIp,
    /// `httpQueryParameterName`: its first value, as written.
    Query(Box<str>),
}

/// `httpCookie`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// Its name.
    pub name: Box<str>,
    /// Clients without one are given one, for this long; zero: until they end. `None`: they are not.
    pub ttl: Option<Duration>,
    /// The path it is for.
    pub path: Option<Box<str>>,
    /// Further attributes: `SameSite` and `Strict`; one without value has an empty one.
    pub attributes: Vec<(Box<str>, Box<str>)>,
}

/// Which table leads from hashes to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// `ringHash`: at least so many points on the ring.
    Ring {
        /// `minimumRingSize`.
        points_min: u32,
    },
    /// `maglev`: exactly so many places, a prime.
    Maglev {
        /// `tableSize`.
        places: u32,
    },
}

/// The hash of a flow, and the cookie that its client has to be given so that the next one has the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hashed {
    /// `None`: the flow has nothing of what is hashed, and goes anywhere.
    pub hash: Option<u64>,
    /// Value of `Set-Cookie`.
    pub set_cookie: Option<Box<str>>,
}

/// What a request offers to be hashed.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its fields.
    pub fields: &'a dyn RequestFields,
    /// Path and query.
    pub path: &'a str,
    /// The client's end of its connection.
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
}

impl Table {
    /// Envoy's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ring { .. } => "RING_HASH",
            Self::Maglev { .. } => "MAGLEV",
        }
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::Ring { points_min: RING_POINTS_MIN }
    }
}

impl Hashing {
    /// The hash of a request.
    pub fn of_request(&self, asked: &Asked<'_>) -> Hashed {
        let mut set_cookie = None;
        let hash = match &self.on {
            HashOn::Header(name) => of_field(asked.fields, name),
            HashOn::SourceIp => Some(of_address(asked.peer.ip())),
            HashOn::Query(name) => query(asked.path, name).map(|value| of_bytes(value.as_bytes())),
            HashOn::Cookie(cookie) => match of_cookie(asked.fields, &cookie.name) {
                None if cookie.ttl.is_some() => {
                    let value = new_value(asked.peer, asked.local);
                    let hash = of_bytes(value.as_bytes());
                    set_cookie = Some(cookie.set_to(&value));
                    Some(hash)
                }
                hash => hash,
            },
        };
        Hashed { hash, set_cookie }
    }

    /// The hash of a flow of bytes: all that is seen of it is where it comes from.
    pub fn of_source(&self, ip: IpAddr) -> Option<u64> {
        (self.on == HashOn::SourceIp).then(|| of_address(ip))
    }
}

impl Cookie {
    /// The `Set-Cookie` that gives a client this value.
    fn set_to(&self, value: &str) -> Box<str> {
        let mut text = format!("{}=\"{value}\"", self.name);
        if let Some(ttl) = self.ttl.filter(|ttl| !ttl.is_zero()) {
            text.push_str(&format!("; Max-Age={}", ttl.as_secs().max(1)));
        }
        if let Some(path) = &self.path {
            text.push_str("; Path=");
            text.push_str(path);
        }
        for (name, value) in &self.attributes {
            text.push_str("; ");
            text.push_str(name);
            if !value.is_empty() {
                text.push('=');
                text.push_str(value);
            }
        }
        text.push_str("; HttpOnly");
        text.into()
    }
}

/// XXH64 without a seed.
pub fn of_bytes(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

/// A score of one address for one hash: whoever has the highest is picked, and stays so when others go or come (rendezvous hashing).
pub fn score(hash: u64, ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => XxHash64::oneshot(hash, &ip.octets()),
        IpAddr::V6(ip) => XxHash64::oneshot(hash, &ip.octets()),
    }
}

fn of_address(ip: IpAddr) -> u64 {
    of_bytes(ip.to_canonical().to_string().as_bytes())
}

fn of_field(fields: &dyn RequestFields, name: &str) -> Option<u64> {
    let mut hash: Option<u64> = None;
    fields.each(name, &mut |value| {
        let value = of_bytes(value);
        hash = Some(hash.map_or(value, |before| before.rotate_left(1) ^ value));
    });
    hash
}

/// The first cookie of that name (RFC 6265 §4.2.1); its quotes are no part of the value.
fn of_cookie(fields: &dyn RequestFields, name: &str) -> Option<u64> {
    let mut hash = None;
    fields.each("cookie", &mut |line| {
        for pair in line.split(|b| *b == b';') {
            let pair = pair.trim_ascii();
            let Some(at) = pair.iter().position(|b| *b == b'=') else { continue };
            if hash.is_some() || pair[..at] != *name.as_bytes() {
                continue;
            }
            let value = &pair[at + 1..];
            let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
            hash = (!bare.is_empty()).then(|| of_bytes(bare));
        }
    });
    hash
}

fn query<'p>(path: &'p str, name: &str) -> Option<&'p str> {
    let (_, query) = path.split_once('?')?;
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// One for each connection of a client: requests that race on it are given the same.
fn new_value(peer: SocketAddr, local: SocketAddr) -> String {
    format!("{:x}", of_bytes(format!("{peer}{local}").as_bytes()))
}

const RING_POINTS_MIN: u32 = 1024; // Istio's default

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fields(Vec<(&'static str, &'static str)>);

    impl RequestFields for Fields {
        fn each<'f>(&'f self, name: &str, look: &mut dyn FnMut(&'f [u8])) {
            let of = self.0.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
            of.for_each(|(_, value)| look(value.as_bytes()));
        }
    }

    fn hashed(on: HashOn, fields: &Fields, path: &str) -> Hashed {
        let hashing = Hashing { on, table: Table::default() };
        let (peer, local) = (SocketAddr::from(([192, 0, 2, 1], 40_000)), SocketAddr::from(([192, 0, 2, 2], 3128)));
        hashing.of_request(&Asked { fields, path, peer, local })
    }

    fn cookie(ttl: Option<u64>) -> HashOn {
        HashOn::Cookie(Box::new(Cookie {
            name: "user".into(),
            ttl: ttl.map(Duration::from_secs),
            path: Some("/".into()),
            attributes: vec![("SameSite".into(), "Strict".into()), ("Secure".into(), "".into())],
        }))
    }

    #[test]
    fn the_hash_is_xxh64_as_in_envoy() {
        // Values of the reference implementation.
        assert_eq!(of_bytes(b""), 0xef46_db37_51d8_e999);
        assert_eq!(of_bytes(b"a"), 0xd24e_c4f1_a98c_6e5b);
        let one = Fields(vec![("x-user", "a")]);
        assert_eq!(hashed(HashOn::Header("X-User".into()), &one, "/").hash, Some(of_bytes(b"a")));
        let two = Fields(vec![("x-user", "a"), ("x-user", "b")]);
        let both = of_bytes(b"a").rotate_left(1) ^ of_bytes(b"b");
        assert_eq!(hashed(HashOn::Header("X-User".into()), &two, "/").hash, Some(both));
        assert_eq!(hashed(HashOn::SourceIp, &one, "/").hash, Some(of_bytes(b"192.0.2.1")));
        assert_eq!(hashed(HashOn::Query("q".into()), &one, "/p?x=1&q=a&q=b").hash, Some(of_bytes(b"a")));
    }

    #[test]
    fn a_flow_without_the_property_has_no_hash() {
        let none = Fields(Vec::new());
        assert_eq!(hashed(HashOn::Header("x-user".into()), &none, "/").hash, None);
        for path in ["/", "/?", "/?qq=1", "/?x=q", "/q=a"] {
            assert_eq!(hashed(HashOn::Query("q".into()), &none, path).hash, None, "{path}");
        }
        assert_eq!(hashed(cookie(None), &none, "/"), Hashed::default());
        for line in ["", ";;;", "user", "user=", "user=\"\"", "xuser=a; use=b", "=", "USER=a"] {
            assert_eq!(hashed(cookie(None), &Fields(vec![("cookie", line)]), "/").hash, None, "{line}");
        }
        let of = |on| Hashing { on, table: Table::default() }.of_source(IpAddr::from([192, 0, 2, 1]));
        assert_eq!(of(HashOn::SourceIp), Some(of_bytes(b"192.0.2.1")));
        assert_eq!(
            (of(cookie(Some(1))), of(HashOn::Header("a".into())), of(HashOn::Query("a".into()))),
            (None, None, None)
        );
    }

    #[test]
    fn a_client_without_cookie_is_given_one_that_leads_to_the_same_hash() {
        let first = hashed(cookie(Some(3600)), &Fields(Vec::new()), "/");
        let text = first.set_cookie.as_deref().unwrap_or_default();
        assert!(text.ends_with("; Max-Age=3600; Path=/; SameSite=Strict; Secure; HttpOnly"), "{text}");
        let value = text.split(['"']).nth(1).unwrap_or_default();
        assert_eq!(first.hash, Some(of_bytes(value.as_bytes())));
        for line in [format!("user={value}"), format!("a=b; user=\"{value}\"; c=d")] {
            let fields = Fields(vec![("cookie", Box::leak(line.into_boxed_str()))]);
            assert_eq!(hashed(cookie(Some(3600)), &fields, "/"), Hashed { hash: first.hash, set_cookie: None });
        }
        let session = hashed(cookie(Some(0)), &Fields(Vec::new()), "/").set_cookie.unwrap_or_default();
        assert!(!session.contains("Max-Age"), "{session}");
    }
}
