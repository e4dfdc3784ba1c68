//! What is asked about: TARGET becomes the request that a client would send, and the proxy's own parser reads it.

use std::fmt;

use bytes::BytesMut;

use crate::flow::{Ask, ErrorType, Failure, Flow, ListenerKind, Request, RequestFields, Scheme, Source, Target};
use crate::http1::{HeadLimits, RequestTarget, parse_request};

/// A flow as a client would ask for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// `CONNECT host:port`.
    Connect(Target),
    /// A request for a URL.
    Http { target: Target, method: String, scheme: Scheme, path: String, fields: Fields },
    /// A ClientHello.
    Sni(Target),
}

/// Header fields of a request, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields(Vec<(Box<str>, Box<[u8]>)>);

impl RequestFields for Fields {
    fn each<'f>(&'f self, name: &str, look: &mut dyn FnMut(&'f [u8])) {
        self.0.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name)).for_each(|(_, value)| look(value));
    }
}

/// Why there is no question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoQuestion {
    /// The command line makes no sense.
    Usage(String),
    /// The proxy would refuse to read the request: that is a decision.
    Refused(Failure),
}

impl Question {
    /// Reads TARGET for a listener of this kind; `sni_port` is the port that an `sni` listener dials. `headers` are lines of the request.
    pub(super) fn read(
        text: &str,
        method: Option<&str>,
        headers: &[String],
        (kind, sni_port): (ListenerKind, u16),
        limits: &HeadLimits,
    ) -> Result<Self, NoQuestion> {
        let is_url = text.contains("://");
        let is_request = is_url && kind == ListenerKind::Forward;
        if !headers.is_empty() && !is_request {
            return Err(usage("headers are those of an HTTP request: write its URL"));
        }
        if headers.iter().any(|line| line.contains(['\r', '\n']) || !line.contains(':')) {
            return Err(usage("a header is one line, NAME: VALUE"));
        }
        match (kind, is_url, method) {
            (ListenerKind::Sni, true, _) => Err(usage("an sni listener is asked for a name, not for a URL")),
            (ListenerKind::Sni, false, Some(_)) => Err(usage("an sni listener knows no method")),
            (ListenerKind::Sni, false, None) => Target::parse_or_port(text.as_bytes(), sni_port)
                .map(Self::Sni)
                .map_err(|error| NoQuestion::Refused(Failure::new(ErrorType::BadRequest, error.to_string()))),
            (ListenerKind::Forward, false, None | Some("CONNECT")) => {
                Self::of_request(&format!("CONNECT {text} HTTP/1.1\r\nHost: {text}\r\n"), headers, limits)
            }
            (ListenerKind::Forward, false, Some(method)) => {
                Err(usage(&format!("host:port is a CONNECT; for {method} write the URL, http://{text}/")))
            }
            (ListenerKind::Forward, true, Some("CONNECT")) => Err(usage("CONNECT takes host:port, not a URL")),
            (ListenerKind::Forward, true, method) => {
                let authority = text.split_once("://").map_or("", |(_, rest)| rest);
                let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
                let method = method.unwrap_or("GET");
                Self::of_request(&format!("{method} {text} HTTP/1.1\r\nHost: {authority}\r\n"), headers, limits)
            }
        }
    }

    fn of_request(begin: &str, headers: &[String], limits: &HeadLimits) -> Result<Self, NoQuestion> {
        // TARGET is one word of one line; what breaks out of it would make another request of it.
        if begin.matches("\r\n").count() != 2 {
            return Err(NoQuestion::Refused(Failure::new(ErrorType::BadRequest, "the target has a line break in it")));
        }
        let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let mut bytes = BytesMut::from(format!("{begin}{lines}\r\n").as_bytes());
        let head = match parse_request(&mut bytes, limits) {
            Ok(Some(head)) => head,
            Ok(None) => return Err(NoQuestion::Refused(Failure::new(ErrorType::BadRequest, "the request has no end"))),
            Err(error) => return Err(NoQuestion::Refused(Failure::new(error.error_type(), error.to_string()))),
        };
        match head.target() {
            RequestTarget::Authority(target) => Ok(Self::Connect(target.clone())),
            RequestTarget::Absolute { scheme, target } => Ok(Self::Http {
                target: target.clone(),
                method: head.method().to_owned(),
                scheme: *scheme,
                path: head.path().to_owned(),
                fields: Fields(head.fields().map(|(name, value)| (name.into(), value.into())).collect()),
            }),
            RequestTarget::Origin | RequestTarget::Asterisk => {
                Err(NoQuestion::Refused(Failure::new(ErrorType::BadRequest, "neither host:port nor a whole URL")))
            }
        }
    }

    /// The flow that a client at `source` would make of it.
    pub(super) fn flow<'a>(&'a self, source: &'a Source) -> Flow<'a> {
        let ask = match self {
            Self::Connect(_) => Ask::Connect,
            Self::Sni(_) => Ask::Sni,
            Self::Http { method, scheme, path, fields, .. } => {
                Ask::Http(Request { method, scheme: *scheme, path, inside_tunnel: false, fields })
            }
        };
        Flow { source, ask, target: self.target().clone() }
    }

    /// What is asked for.
    pub(super) fn target(&self) -> &Target {
        match self {
            Self::Connect(target) | Self::Sni(target) | Self::Http { target, .. } => target,
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(target) => write!(f, "CONNECT {target}"),
            Self::Sni(target) => write!(f, "TLS to {target}"),
            Self::Http { target, method, scheme, path, .. } => {
                let authority = target.to_string();
                let port = format!(":{}", scheme.default_port());
                let authority = authority.strip_suffix(&port).unwrap_or(&authority);
                write!(f, "{method} {}://{authority}{path}", scheme.as_str())
            }
        }
    }
}

fn usage(text: &str) -> NoQuestion {
    NoQuestion::Usage(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 32 * 1024, fields: 100 };

    fn read(text: &str, method: Option<&str>) -> Result<Question, NoQuestion> {
        Question::read(text, method, &[], (ListenerKind::Forward, 443), &LIMITS)
    }

    fn target(text: &str) -> Target {
        Target::parse_authority(text.as_bytes()).expect("a target")
    }

    #[test]
    fn host_and_port_is_a_connect_and_a_url_is_a_request() {
        assert_eq!(read("API.example.com.:443", None), Ok(Question::Connect(target("api.example.com:443"))));
        let http = Question::Http {
            target: target("api.example.com:80"),
            method: "HEAD".to_owned(),
            scheme: Scheme::Http,
            path: "/a?b".to_owned(),
            fields: Fields(vec![("Host".into(), b"api.example.com"[..].into())]),
        };
        assert_eq!(read("http://api.example.com/a?b", Some("HEAD")), Ok(http));
    }

    #[test]
    fn what_the_proxy_would_not_read_is_a_decision() {
        for text in
            ["api.example.com", "api.example.com:0", "u@h:1", "a:1\r\nX: y", "http://u@h/", "ftp://h/", "http:///"]
        {
            let Err(NoQuestion::Refused(failure)) = read(text, None) else { panic!("{text} was read") };
            assert_eq!(failure.error.row().status, 400, "{text}");
        }
    }

    #[test]
    fn a_method_that_does_not_fit_is_a_mistake_of_the_command_line() {
        assert!(matches!(read("h:80", Some("GET")), Err(NoQuestion::Usage(_))));
        assert!(matches!(read("http://h/", Some("CONNECT")), Err(NoQuestion::Usage(_))));
        assert_eq!(read("h:80", Some("CONNECT")), Ok(Question::Connect(target("h:80"))));
    }

    #[test]
    fn an_sni_listener_is_asked_for_names() {
        let read = |text| Question::read(text, None, &[], (ListenerKind::Sni, 8443), &LIMITS);
        assert_eq!(read("a.example.com"), Ok(Question::Sni(target("a.example.com:8443"))));
        assert_eq!(read("a.example.com:443"), Ok(Question::Sni(target("a.example.com:443"))));
        assert!(matches!(read("https://a.example.com/"), Err(NoQuestion::Usage(_))));
    }
}
