//! Where some frames lie, so that a search starts near what it looks for. In bounded memory.
//!
//! *Passed*: about one frame a megabyte, for the newest part of the log. *Learned*: where readers
//! left off, wherever that is. Nothing here is needed: a segment's first frame can be found from
//! its file.

use std::collections::VecDeque;

use celeriant_schema::{Lsn, Stamp};

use crate::frame::FrameHeader;

/// Between two that are passed, in bytes.
const STRIDE_BYTES: u64 = 1 << 20;
const PASSED_MAX: usize = 1024;
const LEARNED_MAX: usize = 64;

/// A frame, or, if its segment ends there, the first of the next one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Landmark {
    /// Its first record.
    pub(crate) lsn: Lsn,
    /// Every stamp before it is lower than this or equal, every one from it on greater.
    pub(crate) after: Stamp,
    pub(crate) segment: u32,
    /// Where it starts, in bytes.
    pub(crate) offset: u64,
}

/// What a search is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sought {
    /// The frame that contains this record.
    Lsn(Lsn),
    /// The first frame with a greater stamp.
    Behind(Stamp),
}

impl Sought {
    /// It is this frame or a later one.
    fn is_from(self, frame: &Landmark) -> bool {
        match self {
            Self::Lsn(lsn) => frame.lsn <= lsn,
            Self::Behind(stamp) => frame.after <= stamp,
        }
    }

    fn is_at(self, frame: &Landmark) -> bool {
        match self {
            Self::Lsn(lsn) => frame.lsn == lsn,
            Self::Behind(stamp) => frame.after == stamp,
        }
    }

    /// It is the frame of this header or a later one.
    pub(super) fn is_from_header(self, header: &FrameHeader) -> bool {
        match self {
            Self::Lsn(lsn) => header.first_lsn <= lsn,
            Self::Behind(stamp) => header.first_stamp <= stamp,
        }
    }

    /// It is the frame of this header or an earlier one.
    pub(super) fn is_upto(self, header: &FrameHeader) -> bool {
        match self {
            Self::Lsn(lsn) => header.last_lsn() >= lsn,
            Self::Behind(stamp) => header.last_stamp > stamp,
        }
    }
}

/// Frames that are known by their place.
#[derive(Debug, Default)]
pub(crate) struct Landmarks {
    /// Ascending, without gaps longer than a stride and a frame.
    passed: VecDeque<Landmark>,
    /// The oldest first.
    learned: VecDeque<Landmark>,
}

impl Landmarks {
    /// The next frame of the log is there, with these first record and stamp.
    pub(crate) fn pass(&mut self, lsn: Lsn, first: Stamp, segment: u32, offset: u64) {
        let is_near = self
            .passed
            .back()
            .is_some_and(|last| last.segment == segment && offset < last.offset + STRIDE_BYTES);
        if is_near {
            return;
        }
        if self.passed.len() == PASSED_MAX {
            self.passed.pop_front();
        }
        let after = below(first);
        self.passed.push_back(Landmark { lsn, after, segment, offset });
    }

    /// Somebody read up to there and may go on.
    pub(crate) fn learn(&mut self, landmark: Landmark) {
        if self.learned.contains(&landmark) {
            return;
        }
        if self.learned.len() == LEARNED_MAX {
            self.learned.pop_front();
        }
        self.learned.push_back(landmark);
    }

    /// The oldest that was passed: everything before it must be searched for.
    pub(crate) fn oldest(&self) -> Option<Landmark> {
        self.passed.front().copied()
    }

    /// What is sought, or a frame shortly before it.
    pub(crate) fn near(&self, sought: Sought) -> Option<Landmark> {
        let at = self.passed.partition_point(|passed| sought.is_from(passed));
        let passed = at.checked_sub(1).and_then(|at| self.passed.get(at));
        let exact = self.learned.iter().find(|learned| sought.is_at(learned));
        exact.or(passed).copied()
    }

    /// The nearest before what is sought, however far.
    pub(crate) fn before(&self, sought: Sought) -> Option<Landmark> {
        let before = self.learned.iter().filter(|learned| sought.is_from(learned));
        before.max_by_key(|learned| learned.lsn).copied()
    }
}

/// The greatest stamp that may come before `first`.
pub(super) fn below(first: Stamp) -> Stamp {
    Stamp::new(first.value().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn landmark(lsn: u64, segment: u32, offset: u64) -> Landmark {
        Landmark { lsn: Lsn::new(lsn), after: Stamp::new(lsn * 10), segment, offset }
    }

    #[test]
    fn a_search_starts_at_most_a_stride_before_its_frame() {
        let mut landmarks = Landmarks::default();
        for frame in 0..1000 {
            landmarks.pass(
                Lsn::new(1 + frame),
                Stamp::new(11 + frame * 10),
                1,
                4096 + frame * 8192,
            );
        }
        assert_eq!(landmarks.passed.len(), 8);
        for lsn in 1..=1000 {
            for sought in [Sought::Lsn(Lsn::new(lsn)), Sought::Behind(Stamp::new(lsn * 10 + 5))] {
                let near = landmarks.near(sought).expect("all of it was passed");
                assert!(near.lsn.value() <= lsn && lsn - near.lsn.value() <= 128, "{near:?}");
            }
        }
        assert_eq!(landmarks.near(Sought::Lsn(Lsn::ZERO)), None);
    }

    #[test]
    fn memory_is_bounded_and_what_is_forgotten_is_the_oldest() {
        let mut landmarks = Landmarks::default();
        for segment in 1..=2000 {
            landmarks.pass(Lsn::new(segment), Stamp::new(segment * 10 + 1), segment as u32, 4096);
            landmarks.learn(landmark(segment, segment as u32, 8192));
        }
        assert_eq!(landmarks.oldest(), Some(landmark(977, 977, 4096)));
        assert_eq!(landmarks.near(Sought::Lsn(Lsn::new(976))), None);
        assert_eq!(
            landmarks.before(Sought::Lsn(Lsn::new(1_950))),
            Some(landmark(1950, 1950, 8192))
        );
        assert_eq!(landmarks.before(Sought::Lsn(Lsn::new(1_900))), None);
    }

    #[test]
    fn where_a_reader_left_off_is_found_again() {
        let mut landmarks = Landmarks::default();
        landmarks.pass(Lsn::new(1), Stamp::new(1), 1, 4096);
        landmarks.learn(landmark(7, 1, 65536));
        let first = Landmark { after: Stamp::ZERO, ..landmark(1, 1, 4096) };
        let by_lsn = |lsn| landmarks.near(Sought::Lsn(Lsn::new(lsn)));
        assert_eq!((by_lsn(7), by_lsn(8)), (Some(landmark(7, 1, 65536)), Some(first)));
        let behind = |stamp| landmarks.near(Sought::Behind(Stamp::new(stamp)));
        assert_eq!((behind(70), behind(71)), (Some(landmark(7, 1, 65536)), Some(first)));
    }
}
