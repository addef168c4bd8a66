//! Where some frames lie, so that a search starts near what it looks for. In bounded memory.
//!
//! *Passed*: about one frame a megabyte, for the newest part of the log. *Learned*: where readers
//! left off, wherever that is. Nothing here is needed: a segment's first frame can be found from
//! its file.

use std::collections::VecDeque;

use celeriant_schema::Lsn;

/// Between two that are passed, in bytes.
const STRIDE_BYTES: u64 = 1 << 20;
const PASSED_MAX: usize = 1024;
const LEARNED_MAX: usize = 64;

/// A frame, or, if its segment ends there, the first of the next one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Landmark {
    /// Its first record.
    pub(crate) lsn: Lsn,
    pub(crate) segment: u32,
    /// Where it starts, in bytes.
    pub(crate) offset: u64,
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
    /// The next frame of the log is there.
    pub(crate) fn pass(&mut self, lsn: Lsn, segment: u32, offset: u64) {
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
        self.passed.push_back(Landmark { lsn, segment, offset });
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

    /// The frame of `lsn`, or one shortly before it.
    pub(crate) fn near(&self, lsn: Lsn) -> Option<Landmark> {
        let at = self.passed.partition_point(|passed| passed.lsn <= lsn);
        let passed = at.checked_sub(1).and_then(|at| self.passed.get(at));
        let exact = self.learned.iter().find(|learned| learned.lsn == lsn);
        exact.or(passed).copied()
    }

    /// The nearest before `lsn`, however far.
    pub(crate) fn before(&self, lsn: Lsn) -> Option<Landmark> {
        let before = self.learned.iter().filter(|learned| learned.lsn <= lsn);
        before.max_by_key(|learned| learned.lsn).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn landmark(lsn: u64, segment: u32, offset: u64) -> Landmark {
        Landmark { lsn: Lsn::new(lsn), segment, offset }
    }

    #[test]
    fn a_search_starts_at_most_a_stride_before_its_frame() {
        let mut landmarks = Landmarks::default();
        for frame in 0..1000 {
            landmarks.pass(Lsn::new(1 + frame), 1, 4096 + frame * 8192);
        }
        assert_eq!(landmarks.passed.len(), 8);
        for lsn in 1..=1000 {
            let near = landmarks.near(Lsn::new(lsn)).expect("all of it was passed");
            assert!(near.lsn.value() <= lsn && lsn - near.lsn.value() <= 128, "{near:?}");
        }
        assert_eq!(landmarks.near(Lsn::ZERO), None);
    }

    #[test]
    fn memory_is_bounded_and_what_is_forgotten_is_the_oldest() {
        let mut landmarks = Landmarks::default();
        for segment in 1..=2000 {
            landmarks.pass(Lsn::new(segment), segment as u32, 4096);
            landmarks.learn(landmark(segment, segment as u32, 8192));
        }
        assert_eq!(landmarks.oldest(), Some(landmark(977, 977, 4096)));
        assert_eq!(landmarks.near(Lsn::new(976)), None);
        assert_eq!(landmarks.before(Lsn::new(1_950)), Some(landmark(1950, 1950, 8192)));
        assert_eq!(landmarks.before(Lsn::new(1_900)), None);
    }

    #[test]
    fn where_a_reader_left_off_is_found_again() {
        let mut landmarks = Landmarks::default();
        landmarks.pass(Lsn::new(1), 1, 4096);
        landmarks.learn(landmark(7, 1, 65536));
        assert_eq!(landmarks.near(Lsn::new(7)), Some(landmark(7, 1, 65536)));
        assert_eq!(landmarks.near(Lsn::new(8)), Some(landmark(1, 1, 4096)));
    }
}
