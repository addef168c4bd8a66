//! The clock seam: where time comes from, in production and in simulation.

mod system;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use celeriant_schema::Stamp;
use celeriant_schema::limits::NUMBER_MAX;

pub use system::SystemClock;

/// Monotonic time of one node, µs since an arbitrary start.
pub type Micros = u64;

/// Time as a node sees it.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic, µs. Keeps running while the machine sleeps where the system can tell.
    fn now(&self) -> Micros;
    /// Wall time, µs since 1970. May jump; asked only when a node starts.
    fn wall(&self) -> i64;
}

/// Hands out stamps: unique on this node, increasing, close to real time (semantics.md §1).
///
/// A hybrid logical clock: it follows the monotonic clock from the wall time at start, never falls
/// below the highest stamp found in a local log, and a wall clock that jumps later is not even
/// looked at.
#[derive(Clone, Debug)]
pub struct StampClock {
    /// Stamp of monotonic time 0.
    offset: u64,
    highest: Arc<AtomicU64>,
    /// The highest committed one in any local log: the floor of every later start.
    durable: Arc<AtomicU64>,
}

impl StampClock {
    /// Starts above `floor`, the highest stamp in any local log.
    pub fn new(clock: &dyn Clock, floor: Stamp) -> Self {
        let wall = Stamp::from_unix_micros(clock.wall()).value();
        let offset = wall.saturating_sub(clock.now() * 8);
        let at_floor = || Arc::new(AtomicU64::new(floor.value()));
        Self { offset, highest: at_floor(), durable: at_floor() }
    }

    /// Starts above `floor`, the highest stamp in any local log of a node that is one of a pair:
    /// what is in them may yet be cut, and nothing of it is told as passed.
    pub fn of_member(clock: &dyn Clock, floor: Stamp) -> Self {
        Self { durable: Arc::default(), ..Self::new(clock, floor) }
    }

    /// Takes `count` consecutive stamps (at least one) at monotonic time `now`, returns the first.
    ///
    /// # Panics
    /// When 2^53 stamps are used up: the year is 2060, or a log holds an impossible stamp.
    pub fn take(&self, now: Micros, count: u64) -> Stamp {
        let count = count.max(1);
        let wall = self.offset + now * 8;
        let mut highest = self.highest.load(Ordering::Relaxed);
        loop {
            let first = wall.max(highest + 1);
            let last = first + count - 1;
            assert!(last < NUMBER_MAX, "stamp {last} leaves the range of exact JSON numbers");
            // Relaxed is enough: real-time order between shards comes from the messages that carry
            // the answers, and the read-modify-write itself makes stamps unique.
            match self.highest.compare_exchange_weak(
                highest,
                last,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Stamp::new(first),
                Err(seen) => highest = seen,
            }
        }
    }

    /// A record with this stamp is committed in some shard's log that another node made: every
    /// later one is greater.
    pub fn note(&self, stamp: Stamp) {
        self.avoid(stamp);
        self.note_durable(stamp);
    }

    /// A record with this stamp is in some shard's log, and may yet be cut: every later one is
    /// greater all the same.
    pub fn avoid(&self, stamp: Stamp) {
        self.highest.fetch_max(stamp.value(), Ordering::Relaxed);
    }

    /// A record with this stamp is committed in some shard's log.
    pub fn note_durable(&self, stamp: Stamp) {
        self.durable.fetch_max(stamp.value(), Ordering::Relaxed);
    }

    /// The highest stamp that may be told to anyone as passed: every later one is greater, also
    /// after a crash with a wall clock that went back, because a log holds it. (A stamp that was
    /// only handed out is forgotten with the write that it was for.)
    pub fn durable(&self) -> Stamp {
        Stamp::new(self.durable.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;
    impl Clock for Fixed {
        fn now(&self) -> Micros {
            5
        }
        fn wall(&self) -> i64 {
            Stamp::ORIGIN_UNIX_MICROS + 100
        }
    }

    #[test]
    fn stamps_are_unique_and_never_below_the_floor_even_when_the_clock_stands_still() {
        let stamps = StampClock::new(&Fixed, Stamp::new(10_000));
        let first = stamps.take(5, 3);
        assert_eq!(first, Stamp::new(10_001));
        assert_eq!(stamps.take(5, 1), Stamp::new(10_004));
    }

    #[test]
    fn a_stamp_that_was_only_handed_out_is_not_told_as_passed() {
        let stamps = StampClock::new(&Fixed, Stamp::new(10_000));
        let first = stamps.take(5, 3);
        assert_eq!(stamps.durable(), Stamp::new(10_000));
        stamps.note_durable(first);
        assert_eq!(stamps.durable(), first);
    }

    #[test]
    fn what_a_member_may_yet_cut_is_avoided_and_not_told_as_passed() {
        let stamps = StampClock::of_member(&Fixed, Stamp::new(10_000));
        stamps.avoid(Stamp::new(20_000));
        assert_eq!(stamps.durable(), Stamp::ZERO);
        assert_eq!(stamps.take(5, 1), Stamp::new(20_001));
    }

    #[test]
    fn stamps_follow_the_clock_when_it_is_ahead_of_the_log() {
        let stamps = StampClock::new(&Fixed, Stamp::ZERO);
        assert_eq!(stamps.take(5, 1).unix_micros(), Stamp::ORIGIN_UNIX_MICROS + 100);
    }
}
