//! Ketama's ring: each endpoint at many points by its weight, a flow goes to the first point behind its hash.
//!
//! Points are laid out as Envoy does it (XXH64 of `address_n`), so a fleet of both agrees as long as the endpoints are addresses.

use super::hashing::of_bytes;

/// Points, sorted by their hash.
#[derive(Debug)]
pub struct Ring {
    points: Box<[(u64, u32)]>,
}

/// A ring of more points than that is refused when the configuration is read (Envoy's bound).
pub const RING_POINTS_MAX: u32 = 8 * 1024 * 1024;

impl Ring {
    /// Lays out endpoints, given by name and weight, on at least `points_min` points. The lightest has a whole number of them, as far as
    /// the bound allows.
    pub fn new(endpoints: &[(String, u32)], points_min: u32) -> Self {
        let total: f64 = endpoints.iter().map(|(_, weight)| f64::from(*weight)).sum();
        let lightest = endpoints.iter().map(|(_, weight)| f64::from(*weight) / total).fold(1.0, f64::min);
        let scale = ((lightest * f64::from(points_min)).ceil() / lightest).min(f64::from(RING_POINTS_MAX));
        let mut points = Vec::with_capacity(scale.ceil() as usize);
        let (mut laid, mut wanted) = (0.0, 0.0);
        for (index, (name, weight)) in endpoints.iter().enumerate() {
            let mut key = format!("{name}_");
            let stem = key.len();
            wanted += scale * f64::from(*weight) / total;
            let mut number = 0_u32;
            while laid < wanted {
                key.truncate(stem);
                key.push_str(itoa::Buffer::new().format(number));
                points.push((of_bytes(key.as_bytes()), index as u32));
                number += 1;
                laid += 1.0;
            }
        }
        points.sort_unstable();
        Self { points: points.into() }
    }

    /// The endpoint of this hash among those that `fits`: the first behind it on the ring.
    pub fn pick(&self, hash: u64, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let at = self.points.partition_point(|(point, _)| *point < hash);
        let (before, behind) = self.points.split_at(at);
        behind.iter().chain(before).map(|(_, index)| *index as usize).find(|index| fits(*index))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.points.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{chi_square, endpoints, hashes, moved};
    use super::*;

    #[test]
    fn a_ring_has_at_least_its_points_and_the_lightest_endpoint_a_whole_number() {
        assert_eq!(Ring::new(&endpoints(&[1]), 1024).len(), 1024);
        assert_eq!(Ring::new(&endpoints(&[1, 1, 1]), 1024).len(), 1026); // 342 each
        let ring = Ring::new(&endpoints(&[1, 3]), 1024);
        let of_first = ring.points.iter().filter(|(_, index)| *index == 0).count();
        assert_eq!((ring.len(), of_first), (1024, 256));
        assert_eq!(Ring::new(&endpoints(&[1, 1_000_000]), RING_POINTS_MAX).len(), RING_POINTS_MAX as usize);
        assert_eq!(Ring::new(&[], 1024).pick(1, |_| true), None);
    }

    #[test]
    fn ten_thousand_hashes_follow_the_weights() {
        let weights = [1, 3, 6];
        let ring = Ring::new(&endpoints(&weights), 65_536);
        let mut counts = [0; 3];
        hashes(10_000).for_each(|hash| counts[ring.pick(hash, |_| true).unwrap_or(9)] += 1);
        // Beside the draw, the ring's own points are drawn: their variance is 10,000 × 10,000 / 65,536 and more.
        assert!(chi_square(&counts, &weights) < 40.0, "{counts:?}");
    }

    #[test]
    fn an_endpoint_that_goes_or_comes_moves_its_share_and_nothing_else() {
        let (four, five) = (endpoints(&[1, 1, 1, 1]), endpoints(&[1, 1, 1, 1, 1]));
        let (before, after) = (Ring::new(&four, 8192), Ring::new(&five, 10_240));
        let moves = moved(&|hash| before.pick(hash, |_| true), &|hash| after.pick(hash, |_| true));
        assert!(moves.iter().all(|(_, to)| *to == 4), "an endpoint that stays lost flows to another that stays");
        assert!((1700..2300).contains(&moves.len()), "{}", moves.len());
        // Left out for a while: only its own flows go elsewhere.
        let moves = moved(&|hash| after.pick(hash, |_| true), &|hash| after.pick(hash, |index| index != 2));
        assert!(moves.iter().all(|(from, _)| *from == 2) && (1700..2300).contains(&moves.len()), "{}", moves.len());
        assert_eq!(after.pick(7, |_| false), None);
    }

    #[test]
    fn the_same_endpoints_in_another_order_are_the_same_ring() {
        let one = endpoints(&[1, 2, 3]);
        let other: Vec<_> = one.iter().rev().cloned().collect();
        let (a, b) = (Ring::new(&one, 6000), Ring::new(&other, 6000));
        assert!(hashes(1000).all(|hash| a.pick(hash, |_| true) == b.pick(hash, |_| true).map(|index| 2 - index)));
    }
}
