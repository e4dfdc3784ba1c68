//! `outlierDetection`: when an endpoint is left out, and for how long. What happened to which one is kept in `dial`.

use std::time::Duration;

/// `outlierDetection`. A count of 0 is none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outliers {
    /// `consecutive5xxErrors`.
    pub consecutive_5xx: u32,
    /// `consecutiveGatewayErrors`: 502, 503, 504.
    pub consecutive_gateway: u32,
    /// `consecutiveLocalOriginFailures`: counted apart only with `splitExternalLocalOriginErrors`.
    pub consecutive_local: u32,
    /// `splitExternalLocalOriginErrors`: what failed on the way there is no answer of the endpoint.
    pub split: bool,
    /// `interval`: a whole one without an ejection takes one off the next one's length.
    pub interval: Duration,
    /// `baseEjectionTime`, times the ejections of late.
    pub base_ejection: Duration,
    /// `maxEjectionPercent` of the endpoints are left out at most.
    pub max_ejection_percent: u32,
    /// `minHealthPercent`: with fewer left, all of them are used again; 0: never.
    pub min_health_percent: u32,
}

/// What became of one flow at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A tunnel stands, or the connection of a request.
    Connected,
    /// There is no connection, or TLS on it failed.
    ConnectFailed,
    /// An answer of this status.
    Answered(u16),
    /// No answer came in time.
    TimedOut,
    /// The connection ended without an answer, or with something that is none.
    Broken,
}

/// Why an endpoint is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// `consecutive5xxErrors`.
    Consecutive5xx,
    /// `consecutiveGatewayErrors`.
    ConsecutiveGateway,
    /// `consecutiveLocalOriginFailures`.
    ConsecutiveLocal,
}

/// Consecutive failures of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streaks {
    server: u32,
    gateway: u32,
    local: u32,
}

impl Default for Outliers {
    /// What Istio leaves to Envoy: five 5xx, every 10 s, 30 s, 10 percent, no panic.
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway: 0,
            consecutive_local: 5,
            split: false,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection_percent: 10,
            min_health_percent: 0,
        }
    }
}

impl Cause {
    /// Envoy's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGateway => "consecutive_gateway_failure",
            Self::ConsecutiveLocal => "consecutive_local_origin_failure",
        }
    }
}

impl Outliers {
    /// Takes one more event; says why the endpoint has to be left out, if it has to.
    pub fn count(&self, streaks: &mut Streaks, event: Event) -> Option<Cause> {
        // Without the split, what failed on the way counts as the answer that a client would get for it.
        let status = match event {
            Event::Answered(status) => Some(status),
            Event::Connected if self.split => None,
            Event::Connected => Some(200),
            Event::ConnectFailed | Event::Broken | Event::TimedOut if self.split => None,
            Event::ConnectFailed | Event::Broken => Some(503),
            Event::TimedOut => Some(504),
        };
        if self.split {
            match event {
                Event::Connected | Event::Answered(_) => streaks.local = 0,
                Event::ConnectFailed | Event::Broken | Event::TimedOut => {
                    streaks.local = streaks.local.saturating_add(1);
                    if is_reached(streaks.local, self.consecutive_local) {
                        return Some(Cause::ConsecutiveLocal);
                    }
                }
            }
        }
        match status? {
            502..=504 => streaks.gateway = streaks.gateway.saturating_add(1),
            _ => streaks.gateway = 0,
        }
        match status? {
            500..=599 => streaks.server = streaks.server.saturating_add(1),
            _ => streaks.server = 0,
        }
        if is_reached(streaks.gateway, self.consecutive_gateway) {
            return Some(Cause::ConsecutiveGateway);
        }
        is_reached(streaks.server, self.consecutive_5xx).then_some(Cause::Consecutive5xx)
    }

    /// True if one more of `total` endpoints may be left out, of which `active` are.
    pub fn allows(&self, active: usize, total: usize) -> bool {
        (active as u64 + 1) * 100 <= u64::from(self.max_ejection_percent) * total as u64
    }

    /// True if so few of `total` endpoints are left that all of them are used.
    pub fn panics(&self, left: usize, total: usize) -> bool {
        (left as u64) * 100 < u64::from(self.min_health_percent) * total as u64
    }

    /// How long an endpoint is left out for the `ejections`th time of late.
    pub fn ejection(&self, ejections: u32) -> Duration {
        let max = self.base_ejection.max(EJECTION_MAX);
        self.base_ejection.checked_mul(ejections).map_or(max, |time| time.min(max))
    }
}

fn is_reached(streak: u32, bound: u32) -> bool {
    bound > 0 && streak >= bound
}

const EJECTION_MAX: Duration = Duration::from_secs(300); // Envoy's max_ejection_time; a longer baseEjectionTime counts as it is

#[cfg(test)]
mod tests {
    use super::*;

    fn after(outliers: &Outliers, events: &[Event]) -> Option<Cause> {
        let mut streaks = Streaks::default();
        events.iter().fold(None, |_, event| outliers.count(&mut streaks, *event))
    }

    #[test]
    fn the_fifth_5xx_in_a_row_is_one_too_many() {
        let outliers = Outliers::default();
        let bad = Event::Answered(500);
        assert_eq!(after(&outliers, &[bad; 4]), None);
        assert_eq!(after(&outliers, &[bad; 5]), Some(Cause::Consecutive5xx));
        assert_eq!(after(&outliers, &[bad, bad, bad, bad, Event::Answered(404), bad]), None);
        assert_eq!(
            after(&outliers, &[bad, bad, Event::ConnectFailed, Event::TimedOut, Event::Broken]),
            Some(Cause::Consecutive5xx)
        );
        assert_eq!(after(&outliers, &[bad, bad, bad, bad, Event::Connected, bad]), None);
        assert_eq!(after(&Outliers { consecutive_5xx: 0, ..outliers }, &[bad; 100]), None);
    }

    #[test]
    fn gateway_errors_are_502_to_504_and_count_apart() {
        let outliers = Outliers { consecutive_5xx: 0, consecutive_gateway: 2, ..Outliers::default() };
        let of = |status| Event::Answered(status);
        assert_eq!(after(&outliers, &[of(502), of(504)]), Some(Cause::ConsecutiveGateway));
        assert_eq!(after(&outliers, &[of(503), of(500), of(503)]), None);
        assert_eq!(after(&outliers, &[of(505), of(505)]), None);
        assert_eq!(after(&outliers, &[Event::ConnectFailed, Event::TimedOut]), Some(Cause::ConsecutiveGateway));
    }

    #[test]
    fn split_counts_what_failed_on_the_way_apart() {
        let outliers = Outliers { consecutive_5xx: 2, consecutive_local: 3, split: true, ..Outliers::default() };
        let (lost, bad) = (Event::ConnectFailed, Event::Answered(500));
        assert_eq!(after(&outliers, &[lost, lost]), None);
        assert_eq!(after(&outliers, &[lost, Event::TimedOut, Event::Broken]), Some(Cause::ConsecutiveLocal));
        assert_eq!(after(&outliers, &[lost, lost, Event::Connected, lost]), None);
        // An answer ends the streak of what failed on the way, a connection alone not that of bad answers.
        assert_eq!(after(&outliers, &[lost, lost, bad, lost]), None);
        assert_eq!(after(&outliers, &[bad, Event::Connected, bad]), Some(Cause::Consecutive5xx));
    }

    #[test]
    fn shares_have_bounds_on_both_sides() {
        let of = |max_ejection_percent| Outliers { max_ejection_percent, ..Outliers::default() };
        assert!(!of(10).allows(0, 9) && of(10).allows(0, 10) && !of(10).allows(1, 19) && of(10).allows(1, 20));
        assert!(of(50).allows(0, 2) && !of(50).allows(1, 2) && of(100).allows(1, 2) && !of(0).allows(0, 100));
        let of = |min_health_percent| Outliers { min_health_percent, ..Outliers::default() };
        assert!(!of(0).panics(0, 3) && of(50).panics(1, 3) && !of(50).panics(2, 4) && of(100).panics(3, 4));
    }

    #[test]
    fn each_ejection_is_longer_up_to_a_bound() {
        let of = |seconds| Outliers { base_ejection: Duration::from_secs(seconds), ..Outliers::default() };
        assert_eq!(of(30).ejection(1), Duration::from_secs(30));
        assert_eq!(of(30).ejection(9), Duration::from_secs(270));
        assert_eq!(of(30).ejection(11), Duration::from_secs(300));
        assert_eq!(of(600).ejection(7), Duration::from_secs(600));
        assert_eq!(of(u64::MAX / 2).ejection(u32::MAX), Duration::from_secs(u64::MAX / 2));
    }
}
