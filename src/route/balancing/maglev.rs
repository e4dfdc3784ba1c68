//! Maglev's table (Eisenbud et al., NSDI 2016 §3.4): each endpoint takes places of a prime number of them in an order of its own, as
//! often as its weight says.

use twox_hash::XxHash64;

use super::hashing::of_bytes;

/// Which endpoint stands at which place.
#[derive(Debug)]
pub struct Maglev {
    places: Box<[u32]>,
}

/// Tables of this size and more are refused when the configuration is read (Envoy's bound).
pub const PLACES_MAX: u32 = 5_000_011;

/// Istio's and Envoy's default.
pub const PLACES: u32 = 65_537;

/// How one endpoint goes through the table.
struct Taker {
    next: u64,
    skip: u64,
    weight: f64,
    due: f64,
    index: u32,
}

impl Maglev {
    /// Lets endpoints, given by name and weight, fill a table of `places`, which is a prime.
    pub fn new(endpoints: &[(String, u32)], places: u32) -> Self {
        let size = u64::from(places);
        let heaviest = endpoints.iter().map(|(_, weight)| *weight).max().unwrap_or(1).max(1);
        let taker = |(index, (name, weight)): (usize, &(String, u32))| Taker {
            next: of_bytes(name.as_bytes()) % size,
            skip: XxHash64::oneshot(1, name.as_bytes()) % (size - 1) + 1,
            weight: f64::from(*weight) / f64::from(heaviest),
            due: 0.0,
            index: index as u32,
        };
        let mut takers: Vec<Taker> = endpoints.iter().enumerate().map(taker).collect();
        // By name, so that the order in which endpoints are written changes nothing.
        takers.sort_by(|a, b| endpoints[a.index as usize].0.cmp(&endpoints[b.index as usize].0));
        let mut table = vec![NOBODY; places as usize];
        let mut left = if takers.is_empty() { 0 } else { places };
        while left > 0 {
            for taker in &mut takers {
                // The heaviest takes one in each round, others as often as their weight fills a whole one.
                taker.due += taker.weight;
                if taker.due < 1.0 {
                    continue;
                }
                taker.due -= 1.0;
                while table[taker.next as usize] != NOBODY {
                    taker.next = (taker.next + taker.skip) % size;
                }
                table[taker.next as usize] = taker.index;
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        Self { places: table.into() }
    }

    /// The endpoint of this hash among those that `fits`. Where it does not, the hash is hashed again, so that the flows of one that is
    /// left out spread over all others.
    pub fn pick(&self, hash: u64, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let size = self.places.len() as u64;
        let fitting = |index: &u32| *index != NOBODY && fits(*index as usize);
        let mut place = hash;
        for _ in 0..AGAIN_MAX {
            let index = self.places[(place % size) as usize];
            if fitting(&index) {
                return Some(index as usize);
            }
            place = XxHash64::oneshot(hash, &place.to_be_bytes());
        }
        let (before, behind) = self.places.split_at((place % size) as usize);
        behind.iter().chain(before).copied().find(fitting).map(|index| index as usize)
    }
}

const NOBODY: u32 = u32::MAX;
const AGAIN_MAX: usize = 16; // with half of the endpoints left out, one flow in 65,536 is not done by then

/// True for a prime, which the table needs so that every order goes through all places.
pub fn is_prime(number: u32) -> bool {
    number >= 2
        && (2_u32..)
            .take_while(|d| u64::from(*d) * u64::from(*d) <= u64::from(number))
            .all(|d| !number.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{chi_square, endpoints, hashes, moved};
    use super::*;

    #[test]
    fn ten_thousand_hashes_follow_the_weights() {
        let weights = [1, 3, 6];
        let table = Maglev::new(&endpoints(&weights), PLACES);
        let mut counts = [0; 3];
        hashes(10_000).for_each(|hash| counts[table.pick(hash, |_| true).unwrap_or(9)] += 1);
        assert!(chi_square(&counts, &weights) < 30.0, "{counts:?}");
        let mut places = [0_u32; 3];
        table.places.iter().for_each(|index| places[*index as usize] += 1);
        assert!(
            places.iter().zip([6554_u32, 19_661, 39_322]).all(|(places, share)| places.abs_diff(share) < 10),
            "{places:?}"
        );
    }

    #[test]
    fn an_endpoint_that_goes_or_comes_moves_little_beside_its_share() {
        let (before, after) =
            (Maglev::new(&endpoints(&[1, 1, 1, 1]), PLACES), Maglev::new(&endpoints(&[1, 1, 1, 1, 1]), PLACES));
        let moves = moved(&|hash| before.pick(hash, |_| true), &|hash| after.pick(hash, |_| true));
        let needless = moves.iter().filter(|(_, to)| *to != 4).count();
        assert!((1700..2600).contains(&moves.len()) && needless < 400, "{} of {}", needless, moves.len());
        let moves = moved(&|hash| after.pick(hash, |_| true), &|hash| after.pick(hash, |index| index != 2));
        assert!(moves.iter().all(|(from, _)| *from == 2));
        let to = |to: usize| moves.iter().filter(|(_, other)| *other == to).count();
        assert!([0, 1, 3, 4].iter().all(|index| to(*index) > moves.len() / 8), "they spread over all others");
        assert_eq!(after.pick(7, |_| false), None);
        assert_eq!(after.pick(7, |index| index == 3), Some(3));
    }

    #[test]
    fn the_smallest_table_and_none_at_all() {
        let table = Maglev::new(&endpoints(&[1, 1, 1]), 2);
        assert!(hashes(100).all(|hash| table.pick(hash, |_| true).is_some()));
        assert_eq!(Maglev::new(&[], 5).pick(1, |_| true), None);
        let one = endpoints(&[1, 2, 3]);
        let other: Vec<_> = one.iter().rev().cloned().collect();
        let (a, b) = (Maglev::new(&one, 251), Maglev::new(&other, 251));
        assert!(hashes(1000).all(|hash| a.pick(hash, |_| true) == b.pick(hash, |_| true).map(|index| 2 - index)));
    }

    #[test]
    fn primes_are_told_from_others() {
        for prime in [2, 3, 5, 251, 65_537, 4_999_999, 5_000_011] {
            assert!(is_prime(prime), "{prime}");
        }
        for other in [0, 1, 4, 9, 65_536, 25, 4_999_997 * 2, u32::MAX] {
            assert!(!is_prime(other), "{other}");
        }
    }
}
