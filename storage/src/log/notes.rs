//! When the watermark is written: at most one write at a time, into the slots in turn.

use celeriant_schema::{Epoch, Hash, Lsn};

use crate::Identity;
use crate::disk::{Done, FileId, Op};
use crate::watermark::Watermark;

/// The shard's notes of what is durable.
#[derive(Debug)]
pub(crate) struct Notes {
    file: FileId,
    /// What the next note would say.
    next: Watermark,
    /// The newest note that is durable.
    noted: Watermark,
    in_flight: Option<Watermark>,
    is_wanted: bool,
}

impl Notes {
    pub(crate) fn new(file: FileId, noted: Watermark) -> Self {
        Self { file, next: noted, noted, in_flight: None, is_wanted: false }
    }

    /// The newest durable note.
    pub(crate) fn watermark(&self) -> &Watermark {
        &self.noted
    }

    pub(crate) fn durable(&mut self, lsn: Lsn, hash: Hash) {
        self.next.durable = lsn;
        self.next.hash = hash;
    }

    /// Everything up to `lsn` is committed.
    pub(crate) fn committed(&mut self, lsn: Lsn) {
        self.next.committed = lsn;
    }

    /// What is known should be noted, if it is not yet.
    pub(crate) fn want(&mut self) {
        let newest = self.in_flight.as_ref().unwrap_or(&self.noted);
        self.is_wanted |=
            (newest.durable, newest.committed) != (self.next.durable, self.next.committed);
    }

    /// Frames of `epoch` are made here from now on.
    pub(crate) fn made_in(&mut self, epoch: Epoch) {
        self.next.made_in = epoch;
        self.is_wanted = true;
    }

    /// Segment `number` is made: it may be used once that is noted.
    pub(crate) fn want_segments(&mut self, number: u32) {
        self.next.segments_made = self.next.segments_made.max(number);
        self.is_wanted = true;
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && !self.is_wanted
    }

    pub(crate) fn start_if_due(&mut self, identity: &Identity) -> Option<(u64, Op)> {
        if !self.is_wanted || self.in_flight.is_some() {
            return None;
        }
        self.is_wanted = false;
        let note = Watermark { turn: self.noted.turn + 1, ..self.next };
        self.in_flight = Some(note);
        let buffer = note.encode(identity);
        Some((note.turn, Op::Write { file: self.file, offset: note.slot_offset(), buffer }))
    }

    pub(crate) fn written(&mut self, done: Done) -> Watermark {
        let (Done::Written(_), Some(note)) = (&done, self.in_flight.take()) else {
            panic!("a note of the watermark ended with {done:?}")
        };
        self.noted = note;
        note
    }
}
