//! Frames of this shard's own log, looked up by their place: for the peer, for this node's
//! replicator, for feeds, for audits, and for what a follower is to show.
//!
//! One read of the disk at a time for each search; the log says what to read next.

use celeriant_schema::Lsn;
use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_schema::peer::FramePlace;
use celeriant_storage::Error;
use celeriant_storage::disk::{DiskError, Done, Token};
use celeriant_storage::log::{DurableFrame, SealedFrame, Search, Step};
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::core::{Core, Effect};
use crate::replicator::orders::{Frames, Report};

/// What a search is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// Frames that are to be shown here.
    Tail,
    /// What is committed when watches begin to listen.
    Listen { turn: u64 },
    /// What a watch wants to catch up with.
    Feed { ask: u64 },
    /// What an audit asks for.
    Audit { ask: u64 },
    /// `Order::Read`.
    Read,
    /// `Order::Find`.
    Find { request: u64 },
    /// `Order::Locate`.
    Locate { request: u64 },
}

/// Searches that wait for the disk.
pub(super) type Searches = HashMap<Token, (Purpose, Search), FixedState>;

impl<R> Core<R> {
    /// Reads whole frames behind `after`. What is not durable yet is at hand.
    pub(super) fn read_frames(&mut self, after: Lsn, bytes_max: u32, effects: &mut Vec<Effect<R>>) {
        let durable = self.log.durable();
        if after < durable {
            let step = self.log.read_after(after, durable, bytes_max as usize);
            return self.found(Purpose::Read, step, effects);
        }
        if let Some(frame) = self.log.sealed(after).next() {
            let SealedFrame { place, bytes } = frame;
            let frames = Frames { before: place.before, end: place.end, bytes };
            effects.push(Effect::Report(Report::Read(frames)));
        }
    }

    /// Finds the frame that contains `lsn`, or is the last before it.
    pub(super) fn find_frame(&mut self, purpose: Purpose, lsn: Lsn, effects: &mut Vec<Effect<R>>) {
        if lsn > self.log.durable() {
            let mut sealed = self.log.sealed(self.log.durable()).map(|frame| frame.place);
            let mut last = None;
            let found = sealed.find(|place| {
                last = Some(*place);
                place.end.lsn >= lsn
            });
            if let Some(place) = found.or(last) {
                return self.tell_place(purpose, Some(place), effects);
            }
        }
        let step = self.log.locate(lsn);
        self.found(purpose, step, effects);
    }

    /// Takes what a search has read.
    ///
    /// # Errors
    /// A device that cannot read back the log, or damage there: the node must stop.
    pub(super) fn complete_search(
        &mut self,
        (purpose, search): (Purpose, Search),
        outcome: Result<Done, DiskError>,
        effects: &mut Vec<Effect<R>>,
    ) -> Result<(), Error> {
        let Done::Read(buffer) = outcome? else { unreachable!("a read ended as something else") };
        let step = self.log.found(search, buffer)?;
        if let (Purpose::Tail, Step::Frames { segment, offset, frames, .. }) = (purpose, &step) {
            self.tail.is_loading = false;
            let split = DurableFrame::split(*segment, *offset, frames)?;
            split.into_iter().for_each(|frame| self.tail.offer(frame));
            return self.show(effects);
        }
        self.found(purpose, step, effects);
        Ok(())
    }

    pub(super) fn found(&mut self, purpose: Purpose, step: Step, effects: &mut Vec<Effect<R>>) {
        match step {
            Step::Read(search, op) => {
                let token = self.reads.next_token();
                self.searches.insert(token, (purpose, search));
                effects.push(Effect::Disk(token, op));
            }
            Step::Frames { before, end, segment, offset, frames: bytes } => match purpose {
                Purpose::Listen { turn } => self.listeners_found(turn, Some(&bytes), effects),
                Purpose::Feed { ask } => {
                    let end = (offset as usize + bytes.len()) / SECTOR_BYTES;
                    self.ask_found(ask, Some((bytes, (segment, end as u32))), effects);
                }
                Purpose::Audit { ask } => self.audit_found(ask, Some(&bytes), effects),
                _ => effects.push(Effect::Report(Report::Read(Frames { before, end, bytes }))),
            },
            Step::Place(place) => self.tell_place(purpose, Some(place), effects),
            Step::Nothing => match purpose {
                Purpose::Tail => self.tail.is_loading = false,
                Purpose::Listen { turn } => self.listeners_found(turn, None, effects),
                Purpose::Feed { ask } => self.ask_found(ask, None, effects),
                Purpose::Audit { ask } => self.audit_found(ask, None, effects),
                // Nobody asks for frames that were never sealed.
                Purpose::Read => {}
                Purpose::Find { .. } | Purpose::Locate { .. } => {
                    self.tell_place(purpose, None, effects);
                }
            },
        }
    }

    fn tell_place(
        &self,
        purpose: Purpose,
        frame: Option<FramePlace>,
        effects: &mut Vec<Effect<R>>,
    ) {
        let report = match purpose {
            Purpose::Find { request } => Report::Found { request, frame },
            Purpose::Locate { request } => Report::Located { request, frame },
            _ => unreachable!("{purpose:?} wants frames"),
        };
        effects.push(Effect::Report(report));
    }
}
