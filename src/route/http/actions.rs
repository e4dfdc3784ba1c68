//! What a route has done with a request beside sending it on; compiled, and carried out by `tunnel`.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::changes::Changes;
use super::cors::Cors;
use super::matching::Pattern;
use super::redirect::Redirect;
use super::retries::Retries;
use crate::flow::Target;
use crate::route::Cluster;

/// Everything that one route (with one of its destinations) wants done. Routes that want nothing have none of these.
#[derive(Debug, Default)]
pub struct Actions {
    /// We answer, and nothing goes out.
    pub answer: Option<Answer>,
    /// The path that goes out.
    pub rewrite: Option<Rewrite>,
    /// The host, and port where one is said, that goes out in `Host`.
    pub authority: Option<Authority>,
    /// Fields of the request.
    pub request: Changes,
    /// Fields of the answer.
    pub response: Changes,
    /// From the end of the request to the end of the answer, all attempts together.
    pub timeout: Option<Duration>,
    /// When a request is sent again.
    pub retries: Option<Retries>,
    /// What goes wrong on purpose.
    pub fault: Option<Fault>,
    /// Who may ask from other origins.
    pub cors: Option<Cors>,
    /// Who gets copies.
    pub mirrors: Vec<Mirror>,
}

/// An answer of the route's own.
#[derive(Clone, Debug)]
pub enum Answer {
    /// `redirect`.
    Redirect(Redirect),
    /// `directResponse`.
    Direct {
        /// 200 to 599.
        status: StatusCode,
        /// At most a megabyte.
        body: Arc<[u8]>,
    },
}

/// `rewrite.authority`, or `Host` among the headers to set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The host, and the port or 0.
    pub target: Target,
    /// The port goes out too.
    pub has_port: bool,
}

/// How the path changes; the query stays.
#[derive(Clone, Debug)]
pub enum Rewrite {
    /// What the match took of the path is replaced.
    Prefix(Box<str>),
    /// Each part that fits is replaced, with the groups of the pattern in place of `$1`.
    Regex(Pattern, Box<str>),
}

/// `fault`.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Requests wait before they go out.
    pub delay: Option<(Share, Duration)>,
    /// Requests are answered with this instead.
    pub abort: Option<(Share, Abort)>,
}

/// What a request is aborted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// `httpStatus`.
    Status(StatusCode),
    /// `grpcStatus`: 200 with this in `grpc-status`.
    Grpc(u8),
}

/// A part of all requests, in millionths, as Envoy counts percentages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u32);

/// `mirrors[]`.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Where copies go.
    pub cluster: Arc<Cluster>,
    /// How many of the requests.
    pub share: Share,
}

impl Share {
    /// All requests.
    pub const ALL: Self = Self(Self::WHOLE);
    const WHOLE: u32 = 1_000_000;

    /// Of a percentage from 0 to 100.
    pub fn of_percent(percent: f64) -> Self {
        let millionths = (percent * f64::from(Self::WHOLE / 100)).round();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
        Self(millionths.clamp(0.0, f64::from(Self::WHOLE)) as u32)
    }

    /// The percentage.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / f64::from(Self::WHOLE / 100)
    }

    /// True for this part of all draws; nothing is drawn for none or all.
    pub fn takes(self, draw: super::Draw) -> bool {
        match self.0 {
            0 => false,
            Self::WHOLE => true,
            share => draw(u64::from(Self::WHOLE)) < u64::from(share),
        }
    }
}

impl Rewrite {
    /// The path and query that go out for those received, of which the match took `matched_bytes` of the path.
    pub fn apply(&self, path_and_query: &str, matched_bytes: usize) -> String {
        let at = path_and_query.find('?').unwrap_or(path_and_query.len());
        let (path, query) = path_and_query.split_at(at);
        let rewritten = match self {
            Self::Prefix(with) => format!("{with}{}", path.get(matched_bytes..).unwrap_or_default()),
            Self::Regex(pattern, with) => {
                let replaced = pattern.regex().replace_all(path.as_bytes(), with.as_bytes());
                String::from_utf8_lossy(&replaced).into_owned()
            }
        };
        // A request goes out in origin-form, whatever a rule makes of it (RFC 9112 §3.2.1).
        let root = if rewritten.starts_with('/') { "" } else { "/" };
        format!("{root}{rewritten}{query}")
    }
}

impl Actions {
    /// True where nothing is to be done.
    pub fn is_empty(&self) -> bool {
        let Self { answer, rewrite, authority, request, response, timeout, retries, fault, cors, mirrors } = self;
        answer.is_none()
            && rewrite.is_none()
            && authority.is_none()
            && request.is_empty()
            && response.is_empty()
            && timeout.is_none()
            && retries.is_none()
            && fault.is_none()
            && cors.is_none()
            && mirrors.is_empty()
    }

    /// What is done, in a few words each, for `explain`.
    pub fn describe(&self) -> Vec<String> {
        let mut words = Vec::new();
        match &self.answer {
            Some(Answer::Redirect(redirect)) => words.push(format!("redirects with {}", redirect.status.as_u16())),
            Some(Answer::Direct { status, .. }) => words.push(format!("answers {} itself", status.as_u16())),
            None => {}
        }
        if let Some(Fault { delay, abort }) = &self.fault {
            if let Some((share, delay)) = delay {
                words.push(format!("delays {}% of requests by {delay:?}", share.percent()));
            }
            if let Some((share, abort)) = abort {
                let with = match abort {
                    Abort::Status(status) => status.as_u16().to_string(),
                    Abort::Grpc(code) => format!("grpc-status {code}"),
                };
                words.push(format!("aborts {}% of requests with {with}", share.percent()));
            }
        }
        if self.rewrite.is_some() {
            words.push("rewrites the path".to_owned());
        }
        if let Some(authority) = &self.authority {
            words.push(format!("rewrites Host to {}", authority.target.host));
        }
        if !self.request.is_empty() || !self.response.is_empty() {
            words.push("changes headers".to_owned());
        }
        if let Some(timeout) = self.timeout {
            words.push(format!("timeout {timeout:?}"));
        }
        if let Some(retries) = &self.retries {
            words.push(match retries.attempts {
                0 => "no retries".to_owned(),
                attempts => format!("up to {attempts} retries"),
            });
        }
        if self.cors.is_some() {
            words.push("answers CORS preflights".to_owned());
        }
        for Mirror { cluster, share } in &self.mirrors {
            words.push(format!("mirrors {}% to {}", share.percent(), cluster.name));
        }
        words
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_and_the_query_stays() {
        let rewrite = |with: &str, path: &str, matched| Rewrite::Prefix(with.into()).apply(path, matched);
        for (with, path, matched, expected) in [
            ("/v2", "/api/x?y=/api", 4, "/v2/x?y=/api"),
            ("/", "/foo/bar", 4, "//bar"), // as Envoy does: the rule says so
            ("/v1/", "/x", 1, "/v1/x"),
            ("/whole", "/a/b", 4, "/whole"),
            ("", "/a/b", 2, "/b"),
            ("x", "/a", 2, "/x"),
        ] {
            assert_eq!(rewrite(with, path, matched), expected, "{with} {path}");
        }
    }

    #[test]
    fn groups_stand_in_for_themselves() {
        let pattern = Pattern::new("^/service/([^/]+)(/.*)$", false, false).unwrap();
        let rewrite = Rewrite::Regex(pattern, "${2}/instance/${1}".into());
        assert_eq!(rewrite.apply("/service/foo/v1/api?q=1", 0), "/v1/api/instance/foo?q=1");
        assert_eq!(rewrite.apply("/other", 0), "/other");
        let each = Rewrite::Regex(Pattern::new("one", false, false).unwrap(), "two".into());
        assert_eq!(each.apply("/xxx/one/yyy/one/zzz?one", 0), "/xxx/two/yyy/two/zzz?one");
    }

    #[test]
    fn shares_are_those_of_their_percentage() {
        assert!(Share::of_percent(100.0).takes(|_| unreachable!("nothing to draw")));
        assert!(!Share::of_percent(0.0).takes(|_| unreachable!("nothing to draw")));
        let share = Share::of_percent(0.0001);
        assert!(share.takes(|_| 0) && !share.takes(|_| 1));
        let taken = (0..10_000).filter(|_| Share::of_percent(25.0).takes(|total| fastrand::u64(..total))).count();
        assert!(taken.abs_diff(2500) < 220, "{taken} of 10,000"); // five standard deviations
    }
}
