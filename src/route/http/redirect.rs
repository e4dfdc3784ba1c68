//! Where a redirect leads.

use http::StatusCode;

use crate::flow::{Scheme, Target};

/// `redirect`, compiled.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// 301 where nothing is said.
    pub status: StatusCode,
    /// `None`: that of the request.
    pub scheme: Option<Scheme>,
    /// `None`: that of the request.
    pub authority: Option<Box<str>>,
    /// How the port is chosen.
    pub port: RedirectPort,
    /// `None`: that of the request.
    pub path: Option<RedirectPath>,
}

/// `port` or `derivePort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectPort {
    /// Nothing is said: that of the request goes with its host, unless the scheme changes what it means.
    Unsaid,
    /// `port`.
    Fixed(u16),
    /// `FROM_PROTOCOL_DEFAULT`.
    OfScheme,
    /// `FROM_REQUEST_PORT`.
    OfRequest,
}

/// `uri` or `prefixRewrite`.
#[derive(Clone, Debug)]
pub enum RedirectPath {
    /// The whole path; the query stays unless it brings one.
    Whole(Box<str>),
    /// In place of what the match took of the path.
    Prefix(Box<str>),
}

impl Redirect {
    /// `Location` for a request; ports that the scheme means anyway are left out.
    pub fn location(&self, scheme: Scheme, target: &Target, path: &str, matched_bytes: usize) -> String {
        let to_scheme = self.scheme.unwrap_or(scheme);
        let port = match (self.port, &self.authority) {
            (RedirectPort::Fixed(port), _) => Some(port),
            (RedirectPort::OfRequest, _) => Some(target.port),
            (RedirectPort::OfScheme, _) | (RedirectPort::Unsaid, Some(_)) => None,
            (RedirectPort::Unsaid, None) => (target.port != scheme.default_port()).then_some(target.port),
        };
        let port = port.filter(|port| *port != to_scheme.default_port());
        let mut location = format!("{}://", to_scheme.as_str());
        match &self.authority {
            Some(authority) => {
                location.push_str(authority);
                if let Some(port) = port {
                    location.push_str(&format!(":{port}"));
                }
            }
            None => {
                let mut host = Vec::new();
                target.put_with_port(&mut host, port);
                location.push_str(&String::from_utf8_lossy(&host));
            }
        }
        location.push_str(&self.path(path, matched_bytes));
        location
    }

    fn path(&self, path_and_query: &str, matched_bytes: usize) -> String {
        let at = path_and_query.find('?').unwrap_or(path_and_query.len());
        let (path, query) = path_and_query.split_at(at);
        match &self.path {
            None if path == "*" => "/".to_owned(),
            None => path_and_query.to_owned(),
            Some(RedirectPath::Whole(whole)) if whole.contains('?') => rooted(whole.to_string()),
            Some(RedirectPath::Whole(whole)) => rooted(format!("{whole}{query}")),
            Some(RedirectPath::Prefix(with)) => {
                rooted(format!("{with}{}{query}", path.get(matched_bytes..).unwrap_or_default()))
            }
        }
    }
}

fn rooted(path: String) -> String {
    if path.starts_with('/') { path } else { format!("/{path}") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PLAIN: Redirect = Redirect {
        status: StatusCode::MOVED_PERMANENTLY,
        scheme: None,
        authority: None,
        port: RedirectPort::Unsaid,
        path: None,
    };

    #[test]
    fn a_location_is_put_together_of_what_is_said_and_what_was_asked() {
        let whole = |path: &str| Some(RedirectPath::Whole(path.into()));
        for (redirect, asked, path, expected) in [
            (Redirect { scheme: Some(Scheme::Https), ..PLAIN }, "a.org:80", "/x?y", "https://a.org/x?y"),
            (Redirect { scheme: Some(Scheme::Https), ..PLAIN }, "a.org:8080", "/x", "https://a.org:8080/x"),
            (Redirect { authority: Some("b.org".into()), ..PLAIN }, "a.org:8080", "/x", "http://b.org/x"),
            (Redirect { path: whole("/v2"), ..PLAIN }, "a.org:8080", "/x?y", "http://a.org:8080/v2?y"),
            (Redirect { path: whole("/v2?z"), ..PLAIN }, "a.org:80", "/x?y", "http://a.org/v2?z"),
            (Redirect { path: whole("lerp"), ..PLAIN }, "a.org:80", "/x", "http://a.org/lerp"),
            (
                Redirect { path: Some(RedirectPath::Prefix("/new".into())), ..PLAIN },
                "a.org:80",
                "/old/x?y",
                "http://a.org/new/x?y",
            ),
            (
                Redirect { port: RedirectPort::Fixed(443), scheme: Some(Scheme::Https), ..PLAIN },
                "a.org:80",
                "/",
                "https://a.org/",
            ),
            (Redirect { port: RedirectPort::Fixed(8443), ..PLAIN }, "a.org:80", "/", "http://a.org:8443/"),
            (Redirect { port: RedirectPort::OfScheme, ..PLAIN }, "a.org:8080", "/", "http://a.org/"),
            (
                Redirect { port: RedirectPort::OfRequest, authority: Some("b.org".into()), ..PLAIN },
                "a.org:8080",
                "/",
                "http://b.org:8080/",
            ),
            (PLAIN, "[2001:db8::1]:81", "*", "http://[2001:db8::1]:81/"),
        ] {
            let target = Target::parse_authority(asked.as_bytes()).unwrap();
            assert_eq!(redirect.location(Scheme::Http, &target, path, 4), expected, "{redirect:?}");
        }
    }
}
