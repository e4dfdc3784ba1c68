//! Endpoints laid out on a line by their weights: who stands at a place, and which place a turn has.

/// The endpoints of a cluster on a line. One of weight 0 has no place on it.
#[derive(Debug)]
pub struct Line<W> {
    count: usize,
    weight: W,
    total: u64,
}

impl<W: Fn(usize) -> u64> Line<W> {
    /// Lays out `count` endpoints by their weights. `None`: nobody has any.
    pub fn new(count: usize, weight: W) -> Option<Self> {
        let total = (0..count).map(&weight).fold(0_u64, u64::saturating_add);
        (total > 0).then_some(Self { count, weight, total })
    }

    /// How long the line is.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whoever stands at this place, 0 to `total - 1`.
    pub fn at(&self, mut place: u64) -> usize {
        let mut last = 0;
        for index in 0..self.count {
            let weight = (self.weight)(index);
            match place.checked_sub(weight) {
                Some(rest) => place = rest,
                None => return index,
            }
            if weight > 0 {
                last = index;
            }
        }
        last // only where weights shrank since the line was measured
    }

    /// Whose turn it is. Equal weights: strictly in turn. Others: steps of about the golden ratio, so that a heavy endpoint's turns do
    /// not clump; over `total` turns each has exactly its share.
    pub fn at_turn(&self, turn: usize) -> usize {
        let turn = turn as u64;
        let mut weights = (0..self.count).map(&self.weight).filter(|weight| *weight > 0);
        let first = weights.next().unwrap_or(1);
        if weights.all(|weight| weight == first) {
            let standing = self.total / first;
            return self.at(turn % standing * first);
        }
        let golden = (u128::from(self.total) * 0x9e37_79b9) >> 32;
        let mut step = u64::try_from(golden).unwrap_or(1).max(1);
        while gcd(step, self.total) != 1 {
            step += 1;
        }
        let place = u128::from(turn % self.total) * u128::from(step) % u128::from(self.total);
        self.at(u64::try_from(place).unwrap_or(0))
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn turns(weights: &[u64], turns: usize) -> Vec<usize> {
        let line = Line::new(weights.len(), |index| weights[index]).unwrap();
        let mut counts = vec![0; weights.len()];
        (0..turns).for_each(|turn| counts[line.at_turn(turn)] += 1);
        counts
    }

    #[test]
    fn turns_are_exact_for_any_weights() {
        assert_eq!(turns(&[1, 1, 1], 9), [3, 3, 3]);
        assert_eq!(turns(&[2, 2], 4), [2, 2]);
        assert_eq!(turns(&[1, 3, 6], 100), [10, 30, 60]);
        assert_eq!(turns(&[0, 3, 0, 3], 10), [0, 5, 0, 5]);
        assert_eq!(turns(&[u64::from(u32::MAX), 1], 1000)[0], 1000);
        // Long before each had all of its turns the shares are about right.
        let counts = turns(&[666_666, 666_666, 666_666, 8_000_000], 10_000);
        assert!(
            counts.iter().zip([667_usize, 667, 667, 8000]).all(|(count, share)| count.abs_diff(share) < 10),
            "{counts:?}"
        );
    }

    #[test]
    fn a_heavy_endpoint_s_turns_do_not_clump() {
        let weights = [1, 9];
        let line = Line::new(2, |index| weights[index]).unwrap();
        assert_eq!((0..10).filter(|turn| line.at_turn(*turn) == 0).count(), 1);
        let weights = [5, 4];
        let line = Line::new(2, |index| weights[index]).unwrap();
        let order: Vec<usize> = (0..9).map(|turn| line.at_turn(turn)).collect();
        assert!(!order.windows(3).any(|three| three.iter().all(|index| *index == three[0])), "{order:?}");
    }

    #[test]
    fn places_lie_within_the_weights_and_nobody_is_no_line() {
        let weights = [2, 0, 3];
        let line = Line::new(3, |index| weights[index]).unwrap();
        let at: Vec<usize> = (0..line.total()).map(|place| line.at(place)).collect();
        assert_eq!(at, [0, 0, 2, 2, 2]);
        assert!(Line::new(2, |_| 0).is_none());
        assert!(Line::new(0, |_| 1).is_none());
        assert_eq!(Line::new(3, |_| u64::MAX).unwrap().total(), u64::MAX);
    }
}
