//! When a request is sent again (ISTIO 11).

use std::time::Duration;

/// `retries`, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How often a request is sent again, beside the first time.
    pub attempts: u32,
    /// From the end of the request to the end of one attempt's answer.
    pub per_try: Option<Duration>,
    /// After what.
    pub on: RetryOn,
    /// The first pause; they double, up to ten times this.
    pub backoff: Duration,
    /// Not to an endpoint that failed before, while there are others (`retryIgnorePreviousHosts`).
    pub avoids_previous: bool,
    /// Nobody asked for it: what is sent again where neither route nor mesh say anything.
    pub is_built_in: bool,
}

/// `retryOn`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// `5xx`: any answer of this kind, and what counts as one.
    pub server_errors: bool,
    /// `gateway-error`: 502, 503, 504.
    pub gateway_errors: bool,
    /// `reset`, `reset-before-request`.
    pub reset: bool,
    /// `connect-failure`.
    pub connect_failure: bool,
    /// `refused-stream`.
    pub refused_stream: bool,
    /// `retriable-4xx`: 409.
    pub conflict: bool,
    /// `envoy-ratelimited`: an answer with that field.
    pub rate_limited: bool,
    /// Status codes, where `retriable-status-codes` is written or a number is.
    pub statuses: Vec<u16>,
    /// gRPC conditions, as `grpc-status` gives them in the head of an answer.
    pub grpc: Vec<u8>,
}

impl RetryOn {
    /// Where no conditions are written: `connect-failure,refused-stream,unavailable,cancelled`.
    pub fn of_istio() -> Self {
        Self {
            connect_failure: true,
            refused_stream: true,
            grpc: vec![GRPC_CANCELLED, GRPC_UNAVAILABLE],
            ..Self::default()
        }
    }
}

/// `grpc-status` of a call that was cancelled.
pub const GRPC_CANCELLED: u8 = 1;
/// And of a service that is not there.
pub const GRPC_UNAVAILABLE: u8 = 14;

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// There was no connection, so nothing was sent.
    Connect,
    /// The upstream said that it did nothing with the request.
    RefusedStream,
    /// The connection ended before a byte of an answer.
    Reset,
    /// No answer within the time for one attempt.
    PerTry,
}

impl Retries {
    /// Istio's without `retryOn` (ISTIO 11).
    pub const DEFAULT_ATTEMPTS: u32 = 2;
    /// Envoy's base.
    pub const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);

    /// What Istio has where nothing is said.
    pub fn built_in() -> Self {
        Self {
            attempts: Self::DEFAULT_ATTEMPTS,
            per_try: None,
            on: RetryOn::of_istio(),
            backoff: Self::DEFAULT_BACKOFF,
            avoids_previous: true,
            is_built_in: true,
        }
    }

    /// `attempts: 0`: nothing is sent again, whatever the default.
    pub fn never() -> Self {
        Self { attempts: 0, is_built_in: false, ..Self::built_in() }
    }

    /// Whether an attempt that failed so is repeated. A request that may have been carried out is repeated only if doing it twice is as
    /// doing it once.
    pub fn after(&self, failed: Failed, is_idempotent: bool) -> bool {
        let on = &self.on;
        let as_answer = on.server_errors || on.gateway_errors;
        match failed {
            Failed::Connect => on.connect_failure || as_answer,
            Failed::RefusedStream => on.refused_stream || on.server_errors,
            Failed::Reset => is_idempotent && (on.reset || on.server_errors),
            Failed::PerTry => is_idempotent && (as_answer || on.statuses.contains(&504)),
        }
    }

    /// Whether an answer is not the last word. `field` gives the value of a field by its lower-case name.
    pub fn after_answer<'h>(&self, status: u16, field: impl Fn(&str) -> Option<&'h [u8]>) -> bool {
        let on = &self.on;
        let grpc = || std::str::from_utf8(field("grpc-status")?).ok()?.trim().parse::<u8>().ok();
        on.server_errors && (500..600).contains(&status)
            || on.gateway_errors && (502..=504).contains(&status)
            || on.conflict && status == 409
            || on.statuses.contains(&status)
            || on.rate_limited && field("x-envoy-ratelimited").is_some()
            || !on.grpc.is_empty() && grpc().is_some_and(|code| on.grpc.contains(&code))
    }

    /// The pause before repetition `n`, from 1: Envoy's exponential back-off with full jitter. `draw` gives a number below its argument.
    pub fn pause(&self, n: u32, draw: super::Draw) -> Duration {
        let most = self.backoff.saturating_mul(1 << n.min(16)).min(self.backoff.saturating_mul(10));
        let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(draw(millis))
    }
}

/// Methods that do the same twice as once (RFC 9110 §9.2.2).
pub fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(on: RetryOn) -> Retries {
        Retries { on, ..Retries::built_in() }
    }

    #[test]
    fn what_may_have_been_done_is_done_again_only_where_twice_is_as_once() {
        let all = on(RetryOn { server_errors: true, reset: true, connect_failure: true, ..RetryOn::default() });
        for (failed, twice_is_once, expected) in [
            (Failed::Connect, false, true),
            (Failed::RefusedStream, false, true),
            (Failed::Reset, false, false),
            (Failed::Reset, true, true),
            (Failed::PerTry, false, false),
            (Failed::PerTry, true, true),
        ] {
            assert_eq!(all.after(failed, twice_is_once), expected, "{failed:?}");
        }
        let connect = on(RetryOn { connect_failure: true, ..RetryOn::default() });
        assert!(connect.after(Failed::Connect, true) && !connect.after(Failed::Reset, true));
        for method in ["GET", "PUT", "DELETE"] {
            assert!(is_idempotent(method), "{method}");
        }
        for method in ["POST", "PATCH", "get", "CONNECT"] {
            assert!(!is_idempotent(method), "{method}");
        }
    }

    #[test]
    fn answers_are_judged_by_status_and_field() {
        let none = |_: &str| None;
        let grpc = |name: &str| (name == "grpc-status").then_some(&b"14"[..]);
        let gateway = on(RetryOn { gateway_errors: true, statuses: vec![418], ..RetryOn::default() });
        for (status, expected) in [(200, false), (500, false), (502, true), (504, true), (505, false), (418, true)] {
            assert_eq!(gateway.after_answer(status, none), expected, "{status}");
        }
        assert!(on(RetryOn { server_errors: true, ..RetryOn::default() }).after_answer(599, none));
        assert!(on(RetryOn { conflict: true, ..RetryOn::default() }).after_answer(409, none));
        let unavailable = on(RetryOn { grpc: vec![14], ..RetryOn::default() });
        assert!(unavailable.after_answer(200, grpc) && !unavailable.after_answer(200, none));
    }

    #[test]
    fn pauses_double_up_to_ten_times_the_first() {
        let retries = on(RetryOn::default());
        let longest = |n| retries.pause(n, |below| below).as_millis();
        assert_eq!([longest(1), longest(2), longest(3), longest(4), longest(40)], [50, 100, 200, 250, 250]);
        assert_eq!(retries.pause(3, |_| 0), Duration::ZERO);
    }
}
