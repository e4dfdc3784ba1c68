//! Answers that a route gives without an upstream: redirects, direct responses, CORS preflights, and faults.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

use crate::http1::RequestHead;
use crate::route::http::actions::{Abort, Actions, Answer};
use crate::tunnel::http::HttpPlan;

/// An answer of ours that is no refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnAnswer {
    /// 200 to 599.
    pub status: u16,
    /// Fields, without those of framing and connection.
    pub fields: Vec<(Cow<'static, str>, String)>,
    /// The body; not for HEAD.
    pub body: Bytes,
    /// Envoy's RESPONSE_CODE_DETAILS.
    pub details: &'static str,
    /// A fault that was asked for (`FI`).
    pub is_fault: bool,
}

/// What happens before a request goes out.
#[derive(Clone, Debug, Default)]
pub struct Before {
    /// It waits.
    pub delay: Option<Duration>,
    /// And then it does not go out.
    pub answer: Option<OwnAnswer>,
}

/// What the route of a request has in store for it before anything goes out: in Envoy's order CORS, faults, answers.
pub fn before(plan: &HttpPlan<'_>, head: &RequestHead) -> Before {
    let Some(taken) = &plan.route.taken else { return Before::default() };
    let actions = &*taken.actions;
    if let Some(answer) = preflight(actions, head) {
        return Before { delay: None, answer: Some(answer) };
    }
    let draws = |share: crate::route::http::actions::Share| share.takes(|total| fastrand::u64(..total));
    let fault = actions.fault.as_ref();
    let delay = fault.and_then(|fault| fault.delay).filter(|(share, _)| draws(*share)).map(|(_, delay)| delay);
    let abort = fault.and_then(|fault| fault.abort).filter(|(share, _)| draws(*share)).map(|(_, abort)| abort);
    let answer = abort.map(aborted).or_else(|| own(plan, actions, taken.matched_bytes));
    Before { delay, answer }
}

fn own(plan: &HttpPlan<'_>, actions: &Actions, matched_bytes: usize) -> Option<OwnAnswer> {
    let mut answer = match actions.answer.as_ref()? {
        Answer::Redirect(redirect) => {
            let location = redirect.location(plan.scheme, plan.target, plan.path, matched_bytes);
            OwnAnswer { fields: vec![("Location".into(), location)], ..plain(redirect.status.as_u16()) }
        }
        Answer::Direct { status, body } => {
            let mut answer = OwnAnswer { body: Bytes::from_owner(body.clone()), ..plain(status.as_u16()) };
            if !answer.body.is_empty() {
                answer.fields.push(("Content-Type".into(), "text/plain".to_owned())); // as Envoy has it, unless the route says more
            }
            answer
        }
    };
    answer.fields.retain(|(name, _)| !actions.response.drops(name.as_bytes()));
    answer.fields.extend(actions.response.fields().map(|(name, value)| (name.to_owned().into(), value.to_owned())));
    Some(answer)
}

/// OPTIONS with `Origin` and `Access-Control-Request-Method` asks whether a page may ask.
fn preflight(actions: &Actions, head: &RequestHead) -> Option<OwnAnswer> {
    let cors = actions.cors.as_ref().filter(|_| head.method() == "OPTIONS")?;
    head.field("access-control-request-method")?;
    let origin = std::str::from_utf8(head.field("origin")?).ok()?;
    let fields = cors.preflight(origin)?;
    Some(OwnAnswer { fields: fields.into_iter().map(|(name, value)| (name.into(), value)).collect(), ..plain(200) })
}

fn aborted(abort: Abort) -> OwnAnswer {
    let answer = OwnAnswer { details: "fault_filter_abort", is_fault: true, ..plain(200) };
    match abort {
        Abort::Status(status) => OwnAnswer {
            status: status.as_u16(),
            fields: vec![("Content-Type".into(), "text/plain".to_owned())],
            body: Bytes::from_static(b"fault filter abort"),
            ..answer
        },
        Abort::Grpc(code) => OwnAnswer {
            fields: vec![
                ("Content-Type".into(), "application/grpc".to_owned()),
                ("grpc-status".into(), code.to_string()),
                ("grpc-message".into(), "fault filter abort".to_owned()),
            ],
            ..answer
        },
    }
}

fn plain(status: u16) -> OwnAnswer {
    OwnAnswer { status, fields: Vec::new(), body: Bytes::new(), details: "direct_response", is_fault: false }
}
