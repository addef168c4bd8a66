//! What a crash does to operations in flight.

use crate::disk::{Fate, Flight};
use crate::invariants::i17_recovery_is_idempotent::any_fate;
use crate::rng::Rng;
use crate::timeline::Micros;

/// A crash.
#[derive(Clone, Copy, Debug)]
pub struct Crash {
    how: How,
    /// Longest pause before the next start, in µs.
    pub pause_max: Micros,
}

/// How operations in flight end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum How {
    /// By chance.
    Any,
    /// Nothing survives.
    Drop,
    /// Everything survives.
    Keep,
    /// Everything is torn.
    Tear,
    /// One is lost.
    DropOne,
    /// One is torn.
    TearOne,
}

impl Crash {
    /// By chance.
    pub fn any() -> Self {
        Self::of(How::Any)
    }

    /// All of them in one way.
    pub fn of(how: How) -> Self {
        Self { how, pause_max: 200_000 }
    }

    /// How `flight` ends; one of all is `chosen`.
    pub fn fate(&mut self, flight: &Flight, chosen: bool, rng: &mut Rng) -> Fate {
        match self.how {
            How::Any => any_fate(flight, rng),
            How::Drop => Fate::Drop,
            How::DropOne if chosen => Fate::Drop,
            How::Tear => Fate::Tear(rng.number()),
            How::TearOne if chosen => Fate::Tear(rng.number()),
            How::Keep | How::DropOne | How::TearOne => Fate::Keep,
        }
    }
}
