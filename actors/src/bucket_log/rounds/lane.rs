//! One shard's way into rounds: given as it is sealed, or read from the log.
//!
//! ```text
//!   Level ── sealed, and no room ──► Behind ── all of it was read ──► Level
//! ```

use celeriant_schema::Lsn;
use celeriant_schema::peer::Position;

use crate::replicator::core::Frames;

#[derive(Debug)]
pub(super) struct Lane {
    /// Everything up to here is in a round, or pending for one.
    taken: Position,
    /// The end of what the shard has sealed.
    sealed: Position,
    /// The bucket holds everything up to here.
    held: Position,
    /// What is between `taken` and `sealed` is being read.
    is_reading: bool,
}

impl Lane {
    pub(super) fn new(base: Position, sealed: Position) -> Self {
        assert!(base.lsn <= sealed.lsn, "the base {base:?} lies above the end {sealed:?}");
        Self { taken: base, sealed, held: base, is_reading: false }
    }

    fn is_level(&self) -> bool {
        self.taken == self.sealed
    }

    /// Everything that is sealed is in the bucket.
    pub(super) fn is_complete(&self) -> bool {
        self.held == self.sealed
    }

    /// Frames are sealed. Returned if they go on from here; else they are read later.
    pub(super) fn sealed(&mut self, frames: Frames, has_room: bool) -> Option<Frames> {
        assert_eq!(frames.before, self.sealed, "frames are sealed in order");
        let goes_on = self.is_level() && has_room;
        self.sealed = frames.end;
        if !goes_on {
            return None;
        }
        self.taken = frames.end;
        Some(frames)
    }

    /// Where to read on, if it is behind and nothing is being read.
    pub(super) fn wants_read(&mut self) -> Option<Lsn> {
        if self.is_level() || self.is_reading {
            return None;
        }
        self.is_reading = true;
        Some(self.taken.lsn)
    }

    /// Frames were read.
    pub(super) fn read(&mut self, frames: Frames) -> Frames {
        let asked = self.is_reading && frames.before == self.taken;
        assert!(asked, "{:?} was read, {:?} asked for", frames.before, self.taken);
        assert!(frames.end.lsn <= self.sealed.lsn, "{:?} is not sealed yet", frames.end);
        self.is_reading = false;
        self.taken = frames.end;
        frames
    }

    /// The bucket holds more.
    pub(super) fn held(&mut self, upto: Position) {
        assert!(self.held.lsn < upto.lsn, "held went from {:?} to {upto:?}", self.held);
        self.held = upto;
    }
}
