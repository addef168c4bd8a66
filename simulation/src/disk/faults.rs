//! What is wrong with a device, and how long its operations take.

use celeriant_storage::disk::Op;

use super::State;
use super::flight::Outcome;
use crate::rng::Rng;
use crate::timeline::Micros;

/// How long operations take.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// Shortest, in µs.
    pub from: Micros,
    /// Longest of an ordinary one, in µs.
    pub to: Micros,
    /// One in a thousand times this often it takes up to fifty times as long.
    pub outliers_per_mille: u64,
}

impl Latency {
    /// How long one operation takes, in µs.
    pub(crate) fn draw(&self, rng: &mut Rng) -> Micros {
        let took = rng.between(self.from, self.to);
        match rng.chance(self.outliers_per_mille) {
            true => took * rng.between(2, 50),
            false => took,
        }
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self { from: 60, to: 250, outliers_per_mille: 5 }
    }
}

/// One thing to go wrong, once.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Ailment {
    /// A write, extension or sync fails; what it left is anything.
    FailWrite,
    /// A read fails.
    FailRead,
    /// Making a file fails.
    FailCreate,
    /// Replacing a file fails; the file is the old one or the new one.
    FailPut,
    /// Removing a file fails.
    FailRemove,
}

impl Ailment {
    fn befalls(self, op: &Op) -> bool {
        matches!(
            (self, op),
            (Self::FailWrite, Op::Write { .. } | Op::Extend { .. } | Op::Sync { .. })
                | (Self::FailRead, Op::Read { .. })
                | (Self::FailCreate, Op::Create { .. } | Op::Make { .. })
                | (Self::FailPut, Op::Put { .. })
                | (Self::FailRemove, Op::Remove { .. })
        )
    }
}

/// What is wrong with a device.
#[derive(Clone, Debug)]
pub struct Ailments {
    /// How long operations take.
    pub latency: Latency,
    /// Operations take this many times longer.
    pub slowness: u64,
    /// Nothing completes before this time.
    pub stalled_until: Micros,
    /// No space for new files, or for longer ones.
    pub full: bool,
    /// Planted bug: writes are reported as durable long before they are.
    pub lies: bool,
    /// Each befalls the next operation of its kind, then is gone.
    pub pending: Vec<Ailment>,
    /// How many operations met with one.
    pub reached: u64,
    /// How many operations were refused for lack of space.
    pub refused: u64,
}

impl Default for Ailments {
    fn default() -> Self {
        Self {
            latency: Latency::default(),
            slowness: 1,
            stalled_until: 0,
            full: false,
            lies: false,
            pending: Vec::new(),
            reached: 0,
            refused: 0,
        }
    }
}

impl State {
    /// How the operation will end, if power stays.
    pub(super) fn decide(&mut self, op: &Op) -> Outcome {
        let ailments = &mut self.ailments;
        if let Some(at) = ailments.pending.iter().position(|ailment| ailment.befalls(op)) {
            ailments.pending.remove(at);
            ailments.reached += 1;
            return Outcome::Fails;
        }
        let needs_space =
            matches!(op, Op::Create { .. } | Op::Make { .. } | Op::Extend { .. } | Op::Put { .. });
        if ailments.full && needs_space {
            ailments.refused += 1;
            return Outcome::Full;
        }
        Outcome::Succeeds
    }

    pub(super) fn ends_at(&mut self, now: Micros, op: &Op, outcome: &Outcome) -> Micros {
        let mut took = self.ailments.latency.draw(&mut self.rng);
        // Bytes cost time too: about 1 GB/s.
        took += match op {
            Op::Create { len, .. } if *outcome == Outcome::Succeeds => *len / 1000,
            Op::Write { buffer, .. } | Op::Extend { buffer, .. } => buffer.len() as u64 / 1000,
            Op::Read { len, .. } => u64::from(*len) / 1000,
            _ => 0,
        };
        (now + took * self.ailments.slowness).max(self.ailments.stalled_until)
    }
}
