//! Where two logs part (R10): the longest prefix that both have, found from their ends downwards.
//!
//! Equal hashes mean equal prefixes, so the first frame end that both logs share is the answer.
//! Logs differ only in what was never acknowledged, which is a few frames: one at a time is fast
//! enough.

use celeriant_schema::Lsn;
use celeriant_schema::peer::{FramePlace, Position};

/// A search in progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Comparison {
    /// Neither log is looked at above this.
    probe: Lsn,
    own: Option<Position>,
    theirs: Option<Position>,
}

/// What the search needs next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// This node's frame that contains the position, or is the last before it.
    Own(Lsn),
    /// The follower's.
    Theirs(Lsn),
    /// The logs are equal up to here, and not further.
    Common(Position),
}

impl Comparison {
    /// Starts at the follower's durable end.
    pub(super) fn new(theirs: Position) -> Self {
        Self { probe: theirs.lsn, own: None, theirs: Some(theirs) }
    }

    /// Takes this node's frame at the probe.
    pub(super) fn own(&mut self, frame: Option<FramePlace>) {
        self.own = Some(self.end_of(frame));
    }

    /// Takes the follower's frame at the probe.
    pub(super) fn theirs(&mut self, frame: Option<FramePlace>) {
        self.theirs = Some(self.end_of(frame));
    }

    /// The last frame end at or below the probe.
    fn end_of(&self, frame: Option<FramePlace>) -> Position {
        match frame {
            Some(frame) if frame.end.lsn <= self.probe => frame.end,
            Some(frame) => frame.before,
            None => Position::default(),
        }
    }

    pub(super) fn next(&mut self) -> Next {
        let (Some(own), Some(theirs)) = (self.own, self.theirs) else {
            let missing = if self.own.is_none() { Next::Own } else { Next::Theirs };
            return missing(self.probe);
        };
        if own == theirs {
            return Next::Common(own);
        }
        // Each keeps its end where that is at or below the new probe already.
        self.probe = match own.lsn == theirs.lsn {
            true => Lsn::new(own.lsn.value().saturating_sub(1)),
            false => own.lsn.min(theirs.lsn),
        };
        self.own = Some(own).filter(|own| own.lsn <= self.probe);
        self.theirs = Some(theirs).filter(|theirs| theirs.lsn <= self.probe);
        self.next()
    }
}

#[cfg(test)]
mod tests {
    use celeriant_schema::{Epoch, Hash};

    use super::*;

    /// Frames that end at these positions; the second number tells logs apart.
    type Frames = [(u64, u8)];

    fn position(frame: &(u64, u8)) -> Position {
        Position { lsn: Lsn::new(frame.0), hash: Hash([frame.1; 32]) }
    }

    fn find(log: &Frames, lsn: Lsn) -> Option<FramePlace> {
        let at = log.iter().position(|frame| frame.0 >= lsn.value());
        let at = at.or(log.len().checked_sub(1))?;
        let before = at.checked_sub(1).map(|at| position(&log[at])).unwrap_or_default();
        // What starts behind the position is not it.
        let is_before = log[at].0 >= lsn.value() && before.lsn >= lsn;
        (!is_before).then(|| FramePlace { epoch: Epoch::new(1), before, end: position(&log[at]) })
    }

    fn common(own: &Frames, theirs: &Frames) -> Position {
        let end = theirs.last().map(position).unwrap_or_default();
        let mut comparison = Comparison::new(end);
        for _ in 0..100 {
            match comparison.next() {
                Next::Own(lsn) => comparison.own(find(own, lsn)),
                Next::Theirs(lsn) => comparison.theirs(find(theirs, lsn)),
                Next::Common(position) => return position,
            }
        }
        panic!("no end");
    }

    #[test]
    fn the_longest_common_prefix_is_found() {
        let base = [(2, 1), (5, 2), (6, 3)];
        assert_eq!(common(&base, &base), position(&(6, 3)));
        assert_eq!(common(&base, &[]), Position::default());
        assert_eq!(common(&[], &base), Position::default());
        assert_eq!(common(&base, &[(2, 1)]), position(&(2, 1)), "the follower is behind");
        let longer = [(2, 1), (5, 2), (6, 3), (9, 4), (12, 5)];
        assert_eq!(common(&base, &longer), position(&(6, 3)), "the follower is ahead");
        let other = [(2, 1), (5, 2), (7, 8), (9, 9)];
        assert_eq!(common(&base, &other), position(&(5, 2)), "their tails differ");
        let same_length = [(2, 1), (5, 7), (6, 8)];
        assert_eq!(common(&base, &same_length), position(&(2, 1)));
        assert_eq!(common(&[(6, 1)], &[(6, 2)]), Position::default(), "nothing in common");
        assert_eq!(common(&[(10, 1)], &[(3, 2), (4, 3)]), Position::default());
    }
}
