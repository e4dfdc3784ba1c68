//! `parents`: which targets go through a parent proxy, and which never do.

use std::sync::Arc;

use super::super::diagnostic::{Code, Context};
use super::super::kinds::canonical_host;
use super::super::kinds::parent::ParentRef;
use super::super::kinds::scalars::{check_wildcard_domain, parse_network};
use super::super::read::Fields;
use super::super::source::Spanned;
use super::super::yaml::Node;
use crate::route::parents::Whom;

/// `parents`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parents {
    /// `through`: the parent of `always`; `None`: `egressProxy`.
    pub through: Option<ParentRef>,
    /// `always`.
    pub always: Vec<Spanned<ParentEntry>>,
    /// `never`.
    pub never: Vec<Spanned<ParentEntry>>,
}

/// An entry of one of the lists, as NO_PROXY has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentEntry {
    /// As written.
    pub text: Box<str>,
    /// `corp.example` is the name and everything under it, so there may be two.
    pub whom: Vec<Whom>,
    /// The only port that it is about.
    pub port: Option<u16>,
}

impl ParentEntry {
    /// Reads `corp.example`, `.corp.example` or `*.corp.example`, `*`, an address or a network, each with `:PORT` or without.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let entry = |whom: Vec<Whom>, port| Self { text: text.into(), whom, port };
        if let Ok(net) = parse_network(text) {
            return Ok(entry(vec![Whom::Network(net)], None));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => {
                let number = port.parse::<u16>().ok().filter(|number| *number != 0 && !port.starts_with('+'));
                (host, Some(number.ok_or_else(|| format!("{port:?} is no port (1 to 65535)"))?))
            }
            None => (text, None),
        };
        let unbracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if let Ok(net) = parse_network(unbracketed.unwrap_or(host)) {
            return Ok(entry(vec![Whom::Network(net)], port));
        }
        let patterns = match host.strip_prefix("*.").or_else(|| host.strip_prefix('.')) {
            _ if host == "*" => vec!["*".to_owned()],
            Some(rest) => vec![format!("*.{rest}")],
            None => vec![host.to_owned(), format!("*.{host}")],
        };
        let whom = patterns.iter().map(|pattern| {
            if pattern != "*" {
                check_wildcard_domain(pattern).map_err(|error| format!("{host:?}: {error}"))?;
            }
            Ok::<_, String>(Whom::Hosts(Arc::clone(&canonical_host(pattern))))
        });
        Ok(entry(whom.collect::<Result<_, _>>()?, port))
    }
}

pub(super) fn read(mut fields: Fields<'_>, cx: &mut Context<'_>) -> Parents {
    let through = fields.get("through").and_then(|node| node.parsed(|text| ParentRef::parse(text, node.span), cx));
    let always = entries(fields.list("always", cx), cx);
    let never = entries(fields.list("never", cx), cx);
    for entry in &never {
        let same = |other: &&Spanned<ParentEntry>| {
            other.value.whom == entry.value.whom && other.value.port == entry.value.port
        };
        if let Some(other) = always.iter().find(same) {
            let message = format!("{} stands in parents.always too ({:?})", entry.value.text, other.value.text);
            cx.report(Code::Conflict, entry.span, message).found(&*entry.value.text);
        }
    }
    fields.finish(cx);
    Parents { through: through.map(|through| through.value), always, never }
}

fn entries(items: &[Node], cx: &mut Context<'_>) -> Vec<Spanned<ParentEntry>> {
    items.iter().filter_map(|item| item.parsed(ParentEntry::parse, cx)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String, String> {
        let entry = ParentEntry::parse(text)?;
        let whom: Vec<String> = entry
            .whom
            .iter()
            .map(|whom| match whom {
                Whom::Hosts(pattern) => pattern.to_string(),
                Whom::Network(net) => net.to_string(),
            })
            .collect();
        Ok(whom.join(" ") + &entry.port.map(|port| format!(" port {port}")).unwrap_or_default())
    }

    #[test]
    fn entries_are_written_as_users_of_no_proxy_write_them() {
        for (text, expected) in [
            ("Corp.Example", "corp.example *.corp.example"),
            ("corp.example:8080", "corp.example *.corp.example port 8080"),
            (".corp.example", "*.corp.example"),
            ("*.corp.example:443", "*.corp.example port 443"),
            ("localhost", "localhost *.localhost"),
            ("*", "*"),
            ("*:25", "* port 25"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.7:443", "192.0.2.7/32 port 443"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("[::1]:80", "::1/128 port 80"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(expected), "{text}");
        }
        for text in [
            "",
            ":80",
            "a b",
            "a..b",
            "corp.example:0",
            "corp.example:65536",
            "corp.example:+1",
            "http://a",
            "10.0.0.0/33",
            ".",
        ] {
            assert!(shown(text).is_err(), "{text:?}: {:?}", shown(text));
        }
    }
}
