//! One of several destinations, by weight.

/// Draws a number below `total`, which is at least 1. What decides stays pure: whoever asks brings the draw.
pub type Draw = fn(total: u64) -> u64;

/// Destinations with their weights; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split<T> {
    /// Each with the sum of all weights up to and with its own.
    parts: Vec<(u64, T)>,
}

impl<T> Split<T> {
    /// All flows go to one.
    pub fn one(to: T) -> Self {
        Self { parts: vec![(1, to)] }
    }

    /// Destinations with their weights, of which those of weight 0 are left out; `None` where nothing is left.
    pub fn new(weighted: impl IntoIterator<Item = (u32, T)>) -> Option<Self> {
        let mut sum = 0;
        let kept = weighted.into_iter().filter(|(weight, _)| *weight > 0).map(|(weight, to)| {
            sum += u64::from(weight);
            (sum, to)
        });
        let parts: Vec<_> = kept.collect();
        (!parts.is_empty()).then_some(Self { parts })
    }

    /// One of them; nothing is drawn where there is only one.
    pub fn pick(&self, draw: Draw) -> &T {
        match self.parts.as_slice() {
            [(_, only)] => only,
            parts => {
                let drawn = draw(self.total());
                let at = parts.partition_point(|(sum, _)| *sum <= drawn);
                &parts[at.min(parts.len() - 1)].1
            }
        }
    }

    /// Each with its own weight.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        let before = [0].into_iter().chain(self.parts.iter().map(|(sum, _)| *sum));
        self.parts.iter().zip(before).map(|((sum, to), before)| (sum - before, to))
    }

    /// The sum of all weights.
    pub fn total(&self) -> u64 {
        self.parts.last().map_or(0, |(sum, _)| *sum)
    }

    /// True where there is something to choose.
    pub fn is_split(&self) -> bool {
        self.parts.len() > 1
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_is_drawn_as_often_as_its_weight_says() {
        let split = Split::new([(1, "a"), (0, "never"), (3, "b"), (6, "c")]).unwrap();
        assert_eq!((split.total(), split.is_split()), (10, true));
        assert_eq!(split.iter().collect::<Vec<_>>(), [(1, &"a"), (3, &"b"), (6, &"c")]);
        assert_eq!((split.pick(|_| 0), split.pick(|_| 1), split.pick(|_| 3)), (&"a", &"b", &"b"));
        assert_eq!((split.pick(|_| 4), split.pick(|total| total - 1)), (&"c", &"c"));
        let mut seen = [0u32; 3];
        for _ in 0..10_000 {
            let drawn = split.pick(|total| fastrand::u64(..total));
            seen[["a", "b", "c"].iter().position(|name| name == drawn).unwrap()] += 1;
        }
        // 10,000 draws of probability p deviate by less than 5 standard deviations (√(n p (1-p)), 50 at most).
        for (count, expected) in seen.into_iter().zip([1000, 3000, 6000]) {
            assert!(count.abs_diff(expected) < 250, "{seen:?}");
        }
    }

    #[test]
    fn one_destination_needs_no_draw_and_none_is_no_split() {
        assert_eq!(Split::one("a").pick(|_| unreachable!("nothing to draw")), &"a");
        assert_eq!(Split::<&str>::new([(0, "a")]), None);
        assert!(!Split::new([(7, "a"), (0, "b")]).unwrap().is_split());
    }
}
