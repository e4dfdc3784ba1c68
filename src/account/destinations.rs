//! The destinations that most flows and bytes go to: a sketch of fixed size, however many there are (Metwally, Agrawal and El Abbadi,
//! "Efficient computation of frequent and top-k elements in data streams", 2005: space-saving).

use std::hash::BuildHasher;
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::flow::Target;

/// What is known of one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Host and port.
    pub target: Target,
    /// Flows that ended, since it was last taken into the sketch.
    pub flows: u64,
    /// Bytes both ways of these.
    pub bytes: u64,
    /// Where another gave way to it: what that one had, and this one may have had before.
    weight_before: u64,
}

/// One part of the sketch.
#[derive(Debug, Default)]
struct Sketch {
    hashes: Vec<u64>,
    kept: Vec<Destination>,
}

const PARTS: usize = 8; // by hash, so that workers seldom meet
const KEPT: usize = 64; // of each part
const BYTES_PER_FLOW: u64 = 64 * 1024; // as heavy as one more flow: those with many small flows stay beside those with few large ones

static PARTS_OF: [Mutex<Sketch>; PARTS] =
    [const { Mutex::new(Sketch { hashes: Vec::new(), kept: Vec::new() }) }; PARTS];
static HASHER: LazyLock<foldhash::quality::RandomState> = LazyLock::new(foldhash::quality::RandomState::default);

/// A flow ended.
pub fn note(target: &Target, bytes: u64) {
    let hash = HASHER.hash_one(target);
    let part = &PARTS_OF[(hash >> 32) as usize % PARTS];
    part.lock().unwrap_or_else(PoisonError::into_inner).note(hash, target, bytes);
}

/// The heaviest, by bytes.
pub fn top(max: usize) -> Vec<Destination> {
    let mut top = Vec::new();
    for part in &PARTS_OF {
        top.extend(part.lock().unwrap_or_else(PoisonError::into_inner).kept.iter().cloned());
    }
    top.sort_unstable_by_key(|one| std::cmp::Reverse((one.bytes, one.flows)));
    top.truncate(max);
    top
}

impl Sketch {
    fn note(&mut self, hash: u64, target: &Target, bytes: u64) {
        let found = self.hashes.iter().position(|known| *known == hash);
        if let Some(known) = found.map(|at| &mut self.kept[at]).filter(|known| known.target == *target) {
            known.flows += 1;
            known.bytes = known.bytes.saturating_add(bytes);
            return;
        }
        let new = Destination { target: target.clone(), flows: 1, bytes, weight_before: 0 };
        if self.kept.len() < KEPT {
            self.hashes.push(hash);
            self.kept.push(new);
            return;
        }
        let Some(lightest) = (0..self.kept.len()).min_by_key(|at| self.kept[*at].weight()) else { return };
        let weight_before = self.kept[lightest].weight();
        self.hashes[lightest] = hash;
        self.kept[lightest] = Destination { weight_before, ..new };
    }
}

impl Destination {
    fn weight(&self) -> u64 {
        self.weight_before + self.flows + self.bytes / BYTES_PER_FLOW
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn target(name: &str) -> Target {
        Target::parse_authority(format!("{name}:443").as_bytes()).unwrap()
    }

    #[test]
    fn heavy_ones_are_found_among_very_many() {
        let heavy: Vec<_> = (0..20).map(|n| target(&format!("heavy{n}.example"))).collect();
        for n in 0..100_000_usize {
            note(&target(&format!("l{n}.example")), 10);
            if n % 20 == 0 {
                note(&heavy[n / 20 % heavy.len()], 100_000);
            }
        }
        let top = top(20);
        assert!(heavy.iter().all(|one| top.iter().any(|known| known.target == *one)), "{top:?}");
        assert!(PARTS_OF.iter().all(|part| part.lock().unwrap().kept.len() <= KEPT));
    }

    #[test]
    fn flows_and_bytes_add_up_while_there_is_room() {
        for bytes in [5, 7] {
            note(&target("a.example"), bytes);
        }
        assert!(top(10).iter().any(|one| (one.target == target("a.example"), one.flows, one.bytes) == (true, 2, 12)));
    }
}
