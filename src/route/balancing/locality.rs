//! `localityLbSetting`: endpoints that are near come first (failover), or each place gets the share that is written (distribute).
//!
//! Where each endpoint stands was decided when the rules were compiled; here is what becomes of it while some are left out: as in
//! Envoy, a priority that is not healthy enough leaves a part of its flows to the next one.

use std::sync::Arc;

/// Where the endpoints of a cluster are, as seen from us.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Localities {
    /// By endpoint.
    pub places: Box<[Place]>,
    /// `distribute`: the share of each locality, of 100; empty: by the weights of their endpoints.
    pub shares: Box<[u32]>,
}

/// Where one endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `region/zone/subzone` as written; may be empty.
    pub locality: Arc<str>,
    /// Index into the shares; without shares of no meaning.
    pub group: u16,
    /// 0 first.
    pub priority: u8,
}

/// A region is as good as healthy with this part of it left, of 100: so few cost the others no flows (Envoy's overprovisioning).
const OVERPROVISIONING: u64 = 140;

impl Localities {
    /// Takes the weights away from endpoints that this flow does not go to, and gives the others those of their localities.
    ///
    /// `weights` has 0 for those that are left out; `place` is where the flow falls, any number: flows of one number go one way.
    pub fn apply(&self, weights: &mut [u64], place: u64) {
        let loads = self.loads(weights);
        let mut place = place % 100;
        let mut chosen = 0;
        for (priority, load) in loads.iter().enumerate() {
            match place.checked_sub(*load) {
                Some(rest) => place = rest,
                None => {
                    chosen = priority;
                    break;
                }
            }
        }
        let totals = self.shares.iter().enumerate().map(|(group, share)| self.group(weights, group, chosen, *share));
        let totals: Vec<(u64, u64)> = totals.collect();
        for (weight, at) in weights.iter_mut().zip(&self.places) {
            if usize::from(at.priority) != chosen {
                *weight = 0;
            } else if let Some((total, share)) = totals.get(usize::from(at.group))
                && *weight > 0
            {
                let part = u128::from(*weight) * u128::from(*share) / u128::from((*total).max(1));
                *weight = u64::try_from(part).unwrap_or(u64::MAX).max(u64::from(*share > 0));
            }
        }
    }

    /// How many flows of 100 each priority gets: all the first, as long as enough of it is left.
    fn loads(&self, weights: &[u64]) -> Vec<u64> {
        let priorities = self.places.iter().map(|place| usize::from(place.priority) + 1).max().unwrap_or(1);
        let of = |priority: usize| {
            let members = self.places.iter().zip(weights).filter(|(place, _)| usize::from(place.priority) == priority);
            let (left, all) = members.fold((0, 0), |(left, all), (_, weight)| (left + u64::from(*weight > 0), all + 1));
            health(left, all)
        };
        let healths: Vec<u64> = (0..priorities).map(of).collect();
        let total = healths.iter().sum::<u64>().clamp(1, 100);
        let mut rest = 100;
        let mut loads: Vec<u64> = healths
            .iter()
            .map(|health| {
                let load = (health * 100 / total).min(rest);
                rest -= load;
                load
            })
            .collect();
        // What rounding left over goes to the first that has any.
        if let Some(load) = loads.iter_mut().find(|load| **load > 0) {
            *load += rest;
        }
        loads
    }

    /// Sum of the weights in a group, and the share it gets: less where many of it are left out.
    fn group(&self, weights: &[u64], group: usize, priority: usize, share: u32) -> (u64, u64) {
        let members = self.places.iter().zip(weights);
        let members = members.filter(|(at, _)| usize::from(at.group) == group && usize::from(at.priority) == priority);
        let (mut total, mut left, mut all) = (0, 0, 0);
        for (_, weight) in members {
            total += weight;
            left += u64::from(*weight > 0);
            all += 1;
        }
        (total, u64::from(share) * health(left, all) * SCALE)
    }
}

/// How healthy a place is, of 100, with so many of all of its endpoints left.
fn health(left: u64, all: u64) -> u64 {
    (left * OVERPROVISIONING).checked_div(all).map_or(0, |part| part.min(100))
}

const SCALE: u64 = 1000; // so that whole numbers hold small parts of a share

#[cfg(test)]
mod tests {
    use super::*;

    fn localities(places: &[(u8, u16)], shares: &[u32]) -> Localities {
        let place = |(priority, group): &(u8, u16)| Place { locality: "".into(), group: *group, priority: *priority };
        Localities { places: places.iter().map(place).collect(), shares: shares.into() }
    }

    fn applied(localities: &Localities, weights: &[u64], place: u64) -> Vec<u64> {
        let mut weights = weights.to_vec();
        localities.apply(&mut weights, place);
        weights
    }

    #[test]
    fn the_nearest_get_all_flows_until_too_many_of_them_are_left_out() {
        let of = localities(&[(0, 0), (0, 0), (1, 1), (2, 2)], &[]);
        assert_eq!(of.loads(&[1, 1, 1, 1]), [100, 0, 0]);
        assert_eq!(of.loads(&[0, 1, 1, 1]), [70, 30, 0]);
        assert_eq!(of.loads(&[0, 0, 1, 1]), [0, 100, 0]);
        assert_eq!(of.loads(&[0, 0, 0, 5]), [0, 0, 100]);
        assert_eq!(of.loads(&[0, 0, 0, 0]), [0, 0, 0]);
        assert_eq!(applied(&of, &[0, 7, 9, 9], 69), [0, 7, 0, 0]);
        assert_eq!(applied(&of, &[0, 7, 9, 9], 70), [0, 0, 9, 0]);
        assert_eq!(applied(&of, &[0, 0, 0, 0], 5), [0, 0, 0, 0]);
        // Three of four are as good as all.
        let of = localities(&[(0, 0), (0, 0), (0, 0), (0, 0), (1, 1)], &[]);
        assert_eq!(of.loads(&[0, 1, 1, 1, 1]), [100, 0]);
    }

    #[test]
    fn shares_are_kept_whatever_the_number_of_endpoints() {
        let of = localities(&[(0, 0), (0, 0), (0, 0), (0, 1)], &[20, 80]);
        let weights = applied(&of, &[1, 1, 2, 1], 0);
        let total: u64 = weights.iter().sum();
        assert_eq!(weights[3] * 100 / total, 80);
        assert_eq!(weights[2], 2 * weights[0]);
        // A locality that has lost its endpoints gives its share to the others.
        assert_eq!(applied(&of, &[1, 1, 1, 0], 0)[3], 0);
        let half = applied(&of, &[0, 0, 1, 1], 0);
        assert!(half[2] * 100 / (half[2] + half[3]) < 12, "{half:?}");
    }
}
