//! What is durable here and not committed yet, in log order.
//!
//! A leader keeps all of it: admission bounds it, and its answers wait there. A follower may be far
//! ahead of what it knows to be committed (after a start, or when the leader goes on alone): it
//! keeps the first of it, and reads the rest from the log when its turn comes.

use std::collections::VecDeque;

use celeriant_schema::Lsn;
use celeriant_storage::log::DurableFrame;
use celeriant_storage::recovery::TAIL_BYTES_MAX;

#[derive(Debug)]
pub(super) struct Tail {
    frames: VecDeque<DurableFrame>,
    bytes: usize,
    /// The last record that was ever in here.
    end: Lsn,
    /// The log is being read for more.
    pub(super) is_loading: bool,
}

impl Tail {
    /// What recovery found behind `committed`.
    pub(super) fn new(committed: Lsn, found: Vec<DurableFrame>) -> Self {
        let mut tail =
            Self { frames: VecDeque::new(), bytes: 0, end: committed, is_loading: false };
        found.into_iter().for_each(|frame| tail.push(frame));
        tail
    }

    /// A leader's own frame.
    pub(super) fn push(&mut self, frame: DurableFrame) {
        assert_eq!(frame.first_lsn, self.end.next(), "frames are committed in log order");
        self.end = frame.last_lsn;
        self.bytes += frame.bytes.len();
        self.frames.push_back(frame);
    }

    /// A follower's frame, if it is the next one and there is room for it.
    pub(super) fn offer(&mut self, frame: DurableFrame) {
        let has_room = self.frames.is_empty() || self.bytes + frame.bytes.len() <= TAIL_BYTES_MAX;
        if frame.first_lsn == self.end.next() && has_room {
            self.push(frame);
        }
    }

    pub(super) fn first(&self) -> Option<&DurableFrame> {
        self.frames.front()
    }

    /// The next frame, if it is wanted.
    pub(super) fn pop_if(
        &mut self,
        wanted: impl Fn(&DurableFrame) -> bool,
    ) -> Option<DurableFrame> {
        let frame = self.frames.pop_front_if(|frame| wanted(frame))?;
        self.bytes -= frame.bytes.len();
        Some(frame)
    }

    /// Everything behind this is only in the log.
    pub(super) fn end(&self) -> Lsn {
        self.end
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}
