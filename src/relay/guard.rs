//! Holds the first bytes of a client until it is known that they fit what the tunnel was asked for; bytes of the upstream never wait.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::flow::{Finding, Name};
use crate::route::Expected;
use crate::route::consistency::{FIRST_BYTES_MAX, Judgement, Shown};

/// Watches a tunnel until the client's first bytes are judged. Gone then, unless there is a finding to tell of, or another server name
/// than the tunnel was asked for.
///
/// Boxed, because an idle tunnel pays for the place of it. The usual hello comes whole: it is judged where it was read, nothing is
/// copied and no timer set.
#[derive(Debug)]
pub struct Guard {
    expected: Expected,
    /// What we call ourselves towards a client that is refused.
    proxy: Option<Arc<str>>,
    /// What has come so far, while it is not enough.
    seen: Vec<u8>,
    /// How much of it has gone on.
    passed: usize,
    /// Set when bytes begin to wait.
    timer: Option<Pin<Box<Sleep>>>,
    finding: Option<Finding>,
    /// Fits, and is not the name asked for.
    other_name: Option<Name>,
}

/// What is to be done with bytes that were read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// They go on.
    Pass,
    /// They are kept here.
    Hold,
    /// These go on in their place: what was kept, and they behind it.
    Release(Box<[u8]>),
    /// They go nowhere, and the tunnel ends.
    Refuse,
}

impl Guard {
    /// Watches for what is expected of the client. `proxy` is our name, for who is refused.
    pub fn new(expected: Expected, proxy: Option<Arc<str>>) -> Box<Self> {
        Box::new(Self { expected, proxy, seen: Vec::new(), passed: 0, timer: None, finding: None, other_name: None })
    }

    /// Looks at bytes of the client, none at its end; takes the guard out once nothing is left to do. `as_asked` is set where TLS names
    /// what the tunnel was asked for.
    pub(super) fn look(guard: &mut Option<Box<Self>>, as_asked: &mut bool, bytes: &[u8]) -> Look {
        let Some(watching) = guard.as_deref_mut().filter(|guard| guard.is_watching()) else { return Look::Pass };
        let is_end = bytes.is_empty();
        let judgement = match (watching.seen.as_slice(), is_end) {
            ([], true) => Judgement::Fits(Shown::Nothing), // it left without a word
            ([], false) => watching.expected.judge(bytes, false),
            _ => {
                watching.seen.extend_from_slice(bytes);
                watching.expected.judge(&watching.seen, is_end)
            }
        };
        let is_enforced = watching.expected.is_enforced();
        if watching.seen.is_empty() && matches!(judgement, Judgement::Open | Judgement::More) {
            watching.seen.extend_from_slice(bytes);
        }
        match judgement {
            Judgement::Open => {
                watching.passed = watching.seen.len();
                Look::Pass
            }
            Judgement::More => {
                if watching.timer.is_none() {
                    watching.timer = Some(Box::pin(sleep(FIRST_BYTES_TIME)));
                }
                debug_assert!(watching.seen.len() < FIRST_BYTES_MAX, "undecided at the limit is a finding");
                if is_enforced { Look::Hold } else { Look::Pass }
            }
            Judgement::Fits(shown) => {
                let waiting = watching.seen.split_off(watching.passed);
                match shown {
                    Shown::Other(name) => watching.rest(Some(name)),
                    shown => {
                        *as_asked = shown == Shown::Asked;
                        *guard = None;
                    }
                }
                if is_enforced && !waiting.is_empty() { Look::Release(waiting.into()) } else { Look::Pass }
            }
            Judgement::Unfit(finding) => watching.found(finding),
        }
    }

    /// Ready once what was seen has waited too long for the rest, and the tunnel is refused for it.
    pub(super) fn poll_late(guard: &mut Option<Box<Self>>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(watching) = guard.as_deref_mut() else { return Poll::Pending };
        let Some(timer) = &mut watching.timer else { return Poll::Pending };
        std::task::ready!(timer.as_mut().poll(cx));
        match watching.found(Finding::undecided("what the client speaks was not clear in time")) {
            Look::Refuse => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }

    /// What we call ourselves, if somebody may have to be told.
    pub(super) fn proxy(&self) -> Option<&Arc<str>> {
        self.proxy.as_ref()
    }

    /// The server name of TLS that is not the one asked for.
    pub(super) fn other_name(&self) -> Option<&Name> {
        self.other_name.as_ref()
    }

    /// What does not fit; where that is not enforced, the tunnel goes on.
    pub(super) fn finding(&self) -> Option<(&Finding, &Expected)> {
        self.finding.as_ref().map(|finding| (finding, &self.expected))
    }

    /// True while bytes of the client wait here.
    pub(super) fn is_holding(&self) -> bool {
        self.expected.is_enforced() && self.seen.len() > self.passed
    }

    fn found(&mut self, finding: Finding) -> Look {
        self.finding = Some(finding);
        self.timer = None;
        if self.expected.is_enforced() {
            return Look::Refuse;
        }
        self.rest(None);
        Look::Pass
    }

    fn is_watching(&self) -> bool {
        self.finding.is_none() && self.other_name.is_none()
    }

    /// Nothing is looked at any more, and nothing kept but what there is to tell.
    fn rest(&mut self, other_name: Option<Name>) {
        self.other_name = other_name;
        (self.seen, self.passed, self.timer) = (Vec::new(), 0, None);
    }
}

const FIRST_BYTES_TIME: Duration = Duration::from_secs(5); // CONTRACT "consistency"; as long as an sni listener waits for a hello
