//! `loadBalancer.warmup` (slow start): a new endpoint begins with a part of its weight and has all of it after a while.

use std::time::Duration;

/// `warmup`, or `warmupDurationSecs`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WarmUp {
    /// After this an endpoint is as good as any.
    pub duration: Duration,
    /// `minimumPercent`: of its weight at the beginning.
    pub minimum_percent: f64,
    /// `aggression`, at least 1: how much faster than even its share grows at the beginning.
    pub aggression: f64,
}

/// A whole weight, of which [`WarmUp::share`] is a part.
pub const WHOLE: u64 = 1024;

impl WarmUp {
    /// The part of its weight that an endpoint of this age has, of [`WHOLE`]; at least 1.
    pub fn share(&self, age: Duration) -> u64 {
        if age >= self.duration {
            return WHOLE;
        }
        // Envoy: max(minimum, (age / duration) ^ (1 / aggression)), the first second counting as one.
        let age = age.as_secs_f64().max(1.0).min(self.duration.as_secs_f64());
        let part = (age / self.duration.as_secs_f64()).powf(1.0 / self.aggression).max(self.minimum_percent / 100.0);
        ((part * WHOLE as f64).round() as u64).clamp(1, WHOLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_from_the_minimum_to_the_whole() {
        let even = WarmUp { duration: Duration::from_secs(100), minimum_percent: 10.0, aggression: 1.0 };
        let at = |seconds: u64| even.share(Duration::from_secs(seconds));
        assert_eq!((at(0), at(10), at(50), at(99), at(100), at(1000)), (102, 102, 512, 1014, WHOLE, WHOLE));
        let eager = WarmUp { aggression: 2.0, ..even };
        assert_eq!(eager.share(Duration::from_secs(25)), 512);
        let short = WarmUp { duration: Duration::from_millis(1), ..even };
        assert_eq!((short.share(Duration::ZERO), short.share(Duration::from_millis(1))), (WHOLE, WHOLE));
        let none = WarmUp { duration: Duration::from_secs(1_000_000_000), minimum_percent: 0.0, aggression: 1.0 };
        assert_eq!(none.share(Duration::ZERO), 1);
    }
}
