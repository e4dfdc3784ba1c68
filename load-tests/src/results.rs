//! What a run found: one row per scenario and contestant.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

use crate::contestant::Contestant;
use crate::scenario::Scenario;
use crate::syscalls::Counts;

/// One contestant in one scenario, over all rounds.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) scenario: Scenario,
    pub(crate) contestant: Contestant,
    /// It relays TCP to a fixed target instead of answering CONNECT.
    pub(crate) blind: bool,
    /// It has an access log with lines in it.
    pub(crate) logged: bool,
    pub(crate) rounds: Vec<Round>,
    pub(crate) memory: Vec<Memory>,
    /// Per operation, or why they could not be counted.
    #[serde(serialize_with = "counted")]
    pub(crate) calls: Option<Result<Counts, String>>,
    /// Of all rounds together, in nanoseconds.
    #[serde(serialize_with = "percentiles")]
    pub(crate) latency: Histogram<u64>,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// Why there are no more rounds.
    pub(crate) failure: Option<String>,
}

/// One measured round.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Round {
    pub(crate) operations: u64,
    pub(crate) bytes: u64,
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
    /// Share of all cores that neither the proxy nor this program used.
    pub(crate) elsewhere: f64,
}

/// Resident bytes before, with and after idle tunnels.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Memory {
    pub(crate) tunnels: u64,
    pub(crate) start: u64,
    pub(crate) open: u64,
    pub(crate) after: u64,
    /// When it was first within 8 MB of the start again.
    pub(crate) back_after: Option<Duration>,
}

/// The number that stands for a row, of all its rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) least: f64,
}

impl Row {
    pub(crate) fn new(scenario: Scenario, contestant: Contestant, blind: bool) -> Self {
        let latency = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("constant bounds are valid");
        Self {
            scenario,
            contestant,
            blind,
            logged: false,
            rounds: Vec::new(),
            memory: Vec::new(),
            calls: None,
            latency,
            errors: 0,
            first_error: None,
            failure: None,
        }
    }

    /// How busy others kept the machine, round by round. In a chain the parent is one of them, so that tells nothing.
    pub(crate) fn elsewhere(&self) -> impl Iterator<Item = f64> {
        self.rounds.iter().filter(|_| self.scenario != Scenario::Chain).map(|round| round.elsewhere)
    }

    /// System calls per operation, all of them together.
    pub(crate) fn calls_total(&self) -> Option<f64> {
        Some(self.calls.as_ref()?.as_ref().ok()?.total())
    }

    pub(crate) fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }

    /// In the scenario's unit; `None` if no round came to its end.
    pub(crate) fn figure(&self) -> Option<Figure> {
        Figure::of(self.values().into_iter())
    }

    /// This row's figure in those of `other`: the median of what the two gave in the same round, one right after the other.
    ///
    /// The speed of a shared machine changes by half within seconds; two medians of their own may come from different minutes.
    pub(crate) fn times(&self, other: &Self) -> Option<f64> {
        let pairs = self.values().into_iter().zip(other.values());
        Some(Figure::of(pairs.map(|(own, other)| own / other))?.median)
    }

    /// In the scenario's unit, round by round.
    fn values(&self) -> Vec<f64> {
        let rounds = self.rounds.iter();
        match self.scenario {
            Scenario::Idle => self.memory.iter().map(|memory| memory.per_tunnel() / 1000.0).collect(),
            Scenario::Bulk1 | Scenario::Bulk16 => {
                rounds.map(|round| round.cpu.as_secs_f64() / (round.bytes as f64 / 1e9)).collect()
            }
            _ => rounds.map(|round| round.cpu.as_secs_f64() * 1e6 / round.operations as f64).collect(),
        }
    }

    /// Operations (bulk: GB) per second of wall clock, the median round.
    pub(crate) fn rate(&self) -> Option<f64> {
        let bulk = matches!(self.scenario, Scenario::Bulk1 | Scenario::Bulk16);
        let work = |round: &Round| if bulk { round.bytes as f64 / 1e9 } else { round.operations as f64 };
        Some(Figure::of(self.rounds.iter().map(|round| work(round) / round.wall.as_secs_f64()))?.median)
    }

    /// Share of one core that the proxy used, the median round: well below 1 means that the load was the bottleneck.
    pub(crate) fn busy(&self) -> Option<f64> {
        Some(Figure::of(self.rounds.iter().map(|round| round.cpu.as_secs_f64() / round.wall.as_secs_f64()))?.median)
    }
}

impl Memory {
    pub(crate) fn per_tunnel(&self) -> f64 {
        (self.open as f64 - self.start as f64) / self.tunnels as f64
    }
}

impl Figure {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let least = *values.first()?;
        let middle = values.len() / 2;
        let median =
            if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] };
        Some(Self { median, least })
    }
}

fn counted<S: Serializer>(calls: &Option<Result<Counts, String>>, serializer: S) -> Result<S::Ok, S::Error> {
    calls.as_ref().and_then(|calls| calls.as_ref().ok()).serialize(serializer)
}

fn percentiles<S: Serializer>(latency: &Histogram<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(
        [50.0, 90.0, 99.0, 99.9].map(|percentile| (percentile.to_string(), latency.value_at_percentile(percentile))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_and_the_least() {
        assert_eq!(Figure::of([3.0, 1.0, 2.0].into_iter()), Some(Figure { median: 2.0, least: 1.0 }));
        assert_eq!(Figure::of([4.0, 1.0, 2.0, 3.0].into_iter()), Some(Figure { median: 2.5, least: 1.0 }));
        assert_eq!(Figure::of(std::iter::empty()), None);
    }

    #[test]
    fn a_row_counts_cpu_per_operation() {
        let mut row = Row::new(Scenario::Connect, Contestant::Floor, false);
        assert_eq!(row.figure(), None);
        let round = Round {
            operations: 1000,
            bytes: 0,
            cpu: Duration::from_millis(90),
            wall: Duration::from_millis(180),
            elsewhere: 0.0,
        };
        row.rounds.push(round);
        assert_eq!(row.figure(), Some(Figure { median: 90.0, least: 90.0 }));
        assert_eq!(row.busy(), Some(0.5));
    }

    #[test]
    fn two_rows_are_compared_within_each_round() {
        let row = |contestant, micros: [u64; 3]| {
            let mut row = Row::new(Scenario::Connect, contestant, false);
            row.rounds.extend(micros.map(|micros| Round {
                operations: 1,
                bytes: 0,
                cpu: Duration::from_micros(micros),
                wall: Duration::from_millis(1),
                elsewhere: 0.0,
            }));
            row
        };
        let (floor, egret) = (row(Contestant::Floor, [100, 200, 300]), row(Contestant::Egret, [110, 220, 600]));
        let times = egret.times(&floor).unwrap_or_default();
        assert!((times - 1.1).abs() < 1e-9, "{times}");
        assert_eq!(egret.times(&Row::new(Scenario::Connect, Contestant::Nginx, false)), None);
    }

    #[test]
    fn a_bulk_row_counts_cpu_per_gigabyte() {
        let mut row = Row::new(Scenario::Bulk16, Contestant::Floor, false);
        let round = Round {
            operations: 16,
            bytes: 2_000_000_000,
            cpu: Duration::from_secs(1),
            wall: Duration::from_secs(2),
            elsewhere: 0.0,
        };
        row.rounds.push(round);
        assert_eq!(row.figure(), Some(Figure { median: 0.5, least: 0.5 }));
        assert_eq!(row.rate(), Some(1.0));
    }
}
