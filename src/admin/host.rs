//! Which `Host` fields the operator's port answers to.

use http::header::{GetAll, HeaderValue};

use crate::flow::{Host, Target};

/// True for no name of anybody else's: an address, `localhost`, one of `names`; or no field at all (HTTP/1.0, no browser).
pub(super) fn is_ours(fields: GetAll<'_, HeaderValue>, names: &[String]) -> bool {
    let mut fields = fields.iter();
    match (fields.next(), fields.next()) {
        (None, _) => true,
        (Some(host), None) => names_us(host.as_bytes(), names),
        (Some(_), Some(_)) => false,
    }
}

fn names_us(host: &[u8], names: &[String]) -> bool {
    // The port says nothing: it may be forwarded (kubectl port-forward, docker -p).
    match Target::parse_or_port(host, 80).map(|target| target.host) {
        Ok(Host::Ip(_)) => true,
        Ok(Host::Name(name)) => {
            name.as_str() == "localhost" || names.iter().any(|ours| ours.eq_ignore_ascii_case(name.as_str()))
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_localhost_and_own_names_are_ours() {
        let names = ["egret.internal".to_owned()];
        for host in ["127.0.0.1:15000", "[::1]:15000", "10.1.2.3", "localhost", "LOCALHOST:1", "Egret.internal:15000"] {
            assert!(names_us(host.as_bytes(), &names), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:15000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "a b",
            "u@localhost",
        ] {
            assert!(!names_us(host.as_bytes(), &names), "{host}");
        }
    }
}
