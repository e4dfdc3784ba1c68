//! Who was refused what of late, by target, or by listener where it was refused before anybody looked at one: the last few hundred, each with how often and why.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde_json::json;

use super::events;
use crate::flow::{Ask, ErrorType, Flow, NoFields, Origin, Request, Scheme, Source, Target};

/// Flows that were refused for the same reason.
#[derive(Clone, Debug)]
pub struct Refused {
    /// What was asked for; `None` where that did not matter: clients that nobody knows must not fill the list with names.
    pub target: Option<Target>,
    /// How.
    pub asked: Asked,
    /// Why.
    pub error: ErrorType,
    /// Who asked last.
    pub source: Arc<Source>,
    /// The sentence of the last one.
    pub detail: Box<str>,
    /// The rule that refused, where one did.
    pub rule: Option<Origin>,
    /// How many.
    pub times: u64,
    /// When the first of them came.
    pub first: SystemTime,
    /// And the last.
    pub last: SystemTime,
}

/// How a flow asked, as far as rules differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Bytes that are no request, or not yet one.
    Unreadable,
    /// CONNECT.
    Connect,
    /// A ClientHello.
    Sni,
    /// A plain request.
    Http(Scheme),
}

static REFUSED: Mutex<Vec<Refused>> = Mutex::new(Vec::new());

const REFUSED_MAX: usize = 200; // what somebody may want to look through; the one that is the longest ago leaves

impl Asked {
    /// Of a flow.
    pub const fn of(ask: &Ask<'_>) -> Self {
        match ask {
            Ask::Connect => Self::Connect,
            Ask::Sni => Self::Sni,
            Ask::Http(request) => Self::Http(request.scheme),
        }
    }

    /// `unreadable`, `connect`, `sni`, `http`, `https`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Connect => "connect",
            Self::Sni => "sni",
            Self::Http(scheme) => scheme.as_str(),
        }
    }
}

impl Refused {
    /// The flow, to be asked again, where its target is known. Of a request's method and path nothing is kept: it is asked as `GET /`.
    pub fn flow(&self) -> Option<Flow<'_>> {
        let target = self.target.clone()?;
        let ask = match self.asked {
            Asked::Unreadable => return None,
            Asked::Connect => Ask::Connect,
            Asked::Sni => Ask::Sni,
            Asked::Http(scheme) => {
                Ask::Http(Request { method: "GET", scheme, path: "/", inside_tunnel: false, fields: &NoFields })
            }
        };
        Some(Flow { source: &self.source, ask, target })
    }
}

/// Notes a flow that we refused.
pub(super) fn note(
    source: &Arc<Source>,
    asked: Asked,
    target: Option<&Target>,
    error: ErrorType,
    detail: &str,
    rule: Option<&Origin>,
) {
    let now = SystemTime::now();
    {
        let mut refused = REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |one: &&mut Refused| {
            one.error == error
                && one.asked == asked
                && one.target.as_ref() == target
                && one.source.listener == source.listener
        };
        if let Some(known) = refused.iter_mut().find(same) {
            known.times += 1;
            known.last = now;
            if *known.detail != *detail {
                known.detail = detail.into();
            }
            if !Arc::ptr_eq(&known.source, source) {
                known.source = source.clone();
            }
        } else {
            if refused.len() >= REFUSED_MAX
                && let Some(oldest) = (0..refused.len()).min_by_key(|at| refused[*at].last)
            {
                refused.swap_remove(oldest);
            }
            let (target, source, detail) = (target.cloned(), source.clone(), detail.into());
            refused.push(Refused {
                target,
                asked,
                error,
                source,
                detail,
                rule: rule.cloned(),
                times: 1,
                first: now,
                last: now,
            });
        }
    }
    events::tell("refused", || {
        json!({
            "target": target.map(ToString::to_string),
            "client": source.peer.to_string(),
            "asked_by": asked.as_str(),
            "reason": error.row().reason,
            "detail": detail,
            "rule": rule.map(ToString::to_string),
        })
    });
}

/// The last ones, the latest first.
pub fn list(max: usize) -> Vec<Refused> {
    let mut list = REFUSED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    list.sort_unstable_by_key(|one| std::cmp::Reverse(one.last));
    list.truncate(max);
    list
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::account::testing::source_from;

    #[test]
    fn the_same_refusal_is_counted_and_the_oldest_leaves() {
        let source = Arc::new(source_from("192.0.2.1:4000".parse().unwrap()));
        let target = |n: usize| Target::parse_authority(format!("h{n}.example:443").as_bytes()).unwrap();
        for _ in 0..3 {
            note(&source, Asked::Connect, Some(&target(0)), ErrorType::NotFound, "no rule", None);
        }
        note(&source, Asked::Sni, Some(&target(0)), ErrorType::NotFound, "no rule", None);
        let listed = list(10);
        assert_eq!(listed.iter().map(|one| one.times).sum::<u64>(), 4);
        assert_eq!((listed[0].asked, listed[0].times), (Asked::Sni, 1));
        for n in 1..=REFUSED_MAX {
            note(&source, Asked::Connect, Some(&target(n)), ErrorType::NotFound, "no rule", None);
        }
        let listed = list(1000);
        assert_eq!(listed.len(), REFUSED_MAX);
        assert!(listed.iter().all(|one| one.target != Some(target(0))), "those before are gone");
        assert_eq!(list(5).len(), 5);
    }

    #[test]
    fn what_nobody_looked_at_the_target_of_takes_one_place_for_each_listener() {
        let source = Arc::new(source_from("192.0.2.1:4000".parse().unwrap()));
        for n in 0..1000 {
            let detail = format!("user or password is wrong ({n})");
            note(&source, Asked::Connect, None, ErrorType::AuthenticationRequired, &detail, None);
        }
        let listed = list(10);
        let one = listed.iter().find(|one| one.error == ErrorType::AuthenticationRequired).unwrap();
        assert_eq!(
            (one.times, &*one.detail),
            (1000, "user or password is wrong (999)"),
            "the sentence of the last one"
        );
        assert!(one.flow().is_none());
    }
}
