//! Which endpoint of a cluster a flow goes to, as far as that is arithmetic: weights on a [`mod@line`], the tables of consistent hashing
//! ([`ring`], [`maglev`]), what of a flow is hashed ([`hashing`]), new endpoints ([`warm_up`]), near ones ([`locality`]) and failing ones
//! ([`outliers`]). Pure: what happened so far is kept in `dial`, and randomness comes from there.

pub mod hashing;
pub mod line;
pub mod locality;
pub mod maglev;
pub mod outliers;
pub mod ring;
pub mod warm_up;

use std::sync::Arc;

pub use hashing::Hashing;
pub use locality::Localities;
pub use outliers::Outliers;
pub use warm_up::WarmUp;

/// How an endpoint is picked (`loadBalancer`); LEAST_REQUEST is the default as in Istio since 1.14.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Balancing {
    /// Of two random endpoints the one with fewer open flows.
    #[default]
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// By weight only.
    Random,
    /// Always the same one for the same property of flows (`consistentHash`).
    Hash(Arc<Hashing>),
}

impl Balancing {
    /// Istio's name; of consistent hashing Envoy's.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::LeastRequest => "LEAST_REQUEST",
            Self::RoundRobin => "ROUND_ROBIN",
            Self::Random => "RANDOM",
            Self::Hash(hashing) => hashing.table.as_str(),
        }
    }

    /// What is hashed, where something is.
    pub fn hashing(&self) -> Option<&Hashing> {
        match self {
            Self::Hash(hashing) => Some(hashing),
            Self::LeastRequest | Self::RoundRobin | Self::Random => None,
        }
    }
}

/// What makes endpoints of one cluster unequal beside their weights. Most clusters have nothing of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// `outlierDetection`: those that fail are left out for a while.
    pub outliers: Option<Outliers>,
    /// `loadBalancer.warmup`: new ones get their share by and by.
    pub warm_up: Option<WarmUp>,
    /// `loadBalancer.localityLbSetting`: near ones are preferred, or get the share that is written.
    pub localities: Option<Localities>,
}

impl Standing {
    /// True where all endpoints are equal.
    pub fn is_plain(&self) -> bool {
        self.outliers.is_none() && self.warm_up.is_none() && self.localities.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::hashing::of_bytes;

    pub(super) fn endpoints(weights: &[u32]) -> Vec<(String, u32)> {
        weights.iter().enumerate().map(|(index, weight)| (format!("192.0.2.{index}:443"), *weight)).collect()
    }

    /// Hashes of numbers, as headers of so many users would have.
    pub(super) fn hashes(count: usize) -> impl Iterator<Item = u64> {
        (0..count).map(|number| of_bytes(number.to_string().as_bytes()))
    }

    /// Of 10,000 hashes those that lead elsewhere, and where from and to.
    pub(super) fn moved(
        before: &dyn Fn(u64) -> Option<usize>,
        after: &dyn Fn(u64) -> Option<usize>,
    ) -> Vec<(usize, usize)> {
        hashes(10_000).filter_map(|hash| before(hash).zip(after(hash))).filter(|(from, to)| from != to).collect()
    }

    /// Pearson's sum for counts that should follow the weights.
    pub(super) fn chi_square(counts: &[u32], weights: &[u32]) -> f64 {
        let (all, total): (u32, u32) = (counts.iter().sum(), weights.iter().sum());
        let term = |(count, weight): (&u32, &u32)| {
            let expected = f64::from(all) * f64::from(*weight) / f64::from(total);
            (f64::from(*count) - expected).powi(2) / expected
        };
        counts.iter().zip(weights).map(term).sum()
    }
}
