//! The set of states that were seen, as fingerprints, with where each was reached from.
//!
//! ```text
//! slot        0        1        2    …      fixed at start: 12 bytes a slot, never grown
//! print       f31a…    0 free   90c2…       64 bits of the canonical state
//! parent      7        –        0           slot of the state before: a trace is a walk back
//! ```
//! Threads insert concurrently; whoever wins a slot names the parent. A fingerprint of two states
//! would hide one of them: among n states that is n²/2⁶⁵ likely, less than 1 in 10,000 for 50 M.
//!
//! Deliberately absent: the states themselves, growth, removal.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// 64 bits that stand for a state. Never zero.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Print(u64);

impl Print {
    /// The fingerprint of `state`, the same in every run and on every machine of this word size.
    pub fn of(state: &impl Hash) -> Self {
        let mut mixer = Mixer { mixed: 0x243f_6a88_85a3_08d3, pending: 0, bytes: 0 };
        state.hash(&mut mixer);
        Self(mixer.finish().max(1))
    }
}

/// Place of a fingerprint in the table.
pub type Slot = u32;

/// Parent of the first state.
const NONE: Slot = Slot::MAX;

/// What became of an insertion.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Inserted {
    /// Seen for the first time.
    New(Slot),
    /// Seen before.
    Known,
    /// As many states as the table was made for.
    Full,
}

/// The table.
pub struct Seen {
    prints: Vec<AtomicU64>,
    parents: Vec<AtomicU32>,
    states: AtomicUsize,
    states_max: usize,
}

impl Seen {
    /// Room for `states_max` states, all of it taken at once: 15 bytes a state, a fifth of it empty
    /// so that probing stays short.
    pub fn with_room_for(states_max: usize) -> Self {
        let slots = (states_max + states_max / 4 + 16).min(NONE as usize);
        Self {
            prints: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            parents: (0..slots).map(|_| AtomicU32::new(NONE)).collect(),
            states: AtomicUsize::new(0),
            states_max,
        }
    }

    /// States seen so far.
    pub fn states(&self) -> usize {
        self.states.load(Ordering::Relaxed)
    }

    /// Bytes that the table takes.
    pub fn bytes(&self) -> usize {
        self.prints.len() * 12
    }

    /// Adds the first state.
    pub fn insert_first(&self, print: Print) -> Inserted {
        self.insert(print, NONE)
    }

    /// Adds a state reached from the one at `parent`.
    pub fn insert(&self, print: Print, parent: Slot) -> Inserted {
        let slots = self.prints.len();
        let mut at = ((u128::from(print.0) * slots as u128) >> 64) as usize;
        loop {
            let found = match self.prints[at].load(Ordering::Relaxed) {
                0 if self.states() >= self.states_max => return Inserted::Full,
                0 => self.prints[at].compare_exchange(
                    0,
                    print.0,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                ),
                taken => Err(taken),
            };
            match found {
                Ok(_) => {
                    self.parents[at].store(parent, Ordering::Relaxed);
                    self.states.fetch_add(1, Ordering::Relaxed);
                    return Inserted::New(at as Slot);
                }
                Err(taken) if taken == print.0 => return Inserted::Known,
                Err(_) => at = (at + 1) % slots,
            }
        }
    }

    /// Fingerprints from the first state to the one at `slot`.
    pub fn path(&self, slot: Slot) -> Vec<Print> {
        let mut path = Vec::new();
        let mut at = slot;
        while at != NONE {
            path.push(Print(self.prints[at as usize].load(Ordering::Relaxed)));
            at = self.parents[at as usize].load(Ordering::Relaxed);
        }
        path.reverse();
        path
    }
}

/// Gathers bytes into words and mixes those. States are many small fields, so
/// a hasher that mixes at every byte would be most of the run.
struct Mixer {
    mixed: u64,
    pending: u64,
    bytes: u32,
}

impl Mixer {
    /// For each `mixed` a bijection of `word`: states meet by chance only, not by a weakness.
    fn mix(&mut self, word: u64) {
        let mut mixed = self.mixed ^ word;
        mixed = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed = (mixed ^ mixed >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.mixed = (mixed ^ mixed >> 32).rotate_left(17);
    }
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        let mut last = Self { mixed: self.mixed, pending: 0, bytes: 0 };
        last.mix(self.pending);
        last.mix(u64::from(self.bytes) | 1 << 40);
        last.mix(0x1319_8a2e_0370_7344);
        last.mixed
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u8(*byte));
    }

    fn write_u8(&mut self, byte: u8) {
        self.pending = self.pending << 8 | u64::from(byte);
        self.bytes += 1;
        if self.bytes.is_multiple_of(8) {
            let word = std::mem::take(&mut self.pending);
            self.mix(word);
        }
    }

    // Lengths of arrays and which variant an enum is: always small here.
    fn write_usize(&mut self, number: usize) {
        self.write_u8(number as u8);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u8(number as u8);
    }

    fn write_u32(&mut self, number: u32) {
        self.write(&number.to_le_bytes());
    }
}
