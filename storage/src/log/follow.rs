//! Following: whole frames of the leader's log, taken in byte for byte.
//!
//! ```text
//! frames ─► continues the log? ─► room in flight? ─► checksums, hash, legs ─► space? ─► in flight
//!    ▲                                                                                     │
//!    └── what is not taken stays: Busy, NoRoom, Apart, Flawed                one write ◄───┘
//! ```
//! Nothing is believed that a restart would not believe: a frame that is taken is one that recovery
//! finds intact. Frames that came together go to the disk together, so that catching up costs no
//! write for each of them. They become durable, and are reported, like frames of one's own.
//!
//! A frame's `durable_upto` speaks of its maker's disk, never of this one: see
//! [`crate::watermark::Watermark::vouches`]. Deliberately absent: frames that the log has already,
//! order among messages, what is committed.

use bytes::Bytes;
use celeriant_schema::limits::SECTOR_BYTES;

use super::{KIND_FRAME, Log, token};
use crate::disk::{Op, Token};
use crate::error::Flaw;
use crate::scan::{Chain, Stop};

/// Why a frame was not taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// Not now: offer it again after a completion.
    #[error("as much is in flight as may be")]
    Busy,
    /// The device has no room for it: offer it again after [`Log::retry_space`].
    #[error("the device is full")]
    NoRoom,
    /// It does not continue this log, and this says what of it does not.
    #[error("does not continue the log: {0}")]
    Apart(&'static str),
    /// It is no intact frame of this log.
    #[error("not an intact frame: {0}")]
    Flawed(Flaw),
    /// An earlier error ended this log.
    #[error("the log has failed earlier")]
    Poisoned,
}

impl Log {
    /// Takes frames that another node made from the front of `frames`, as many as it can; the rest
    /// stays there. Each must be whole, intact and of this log, and continue it in an epoch that is
    /// not below its last. Copies them once, for the disk.
    ///
    /// # Errors
    /// Why the frame that is in front now was not taken. Those before it were.
    ///
    /// # Panics
    /// When this log is led, or something that was appended to it is not sealed.
    pub fn follow(
        &mut self,
        frames: &mut Bytes,
        ops: &mut Vec<(Token, Op)>,
    ) -> Result<(), Refused> {
        assert!(self.leader.is_none() && self.open.is_empty(), "who leads follows nobody");
        if self.poisoned {
            return Err(Refused::Poisoned);
        }
        if self.writes_in_flight() >= self.settings.write_depth {
            return Err(Refused::Busy);
        }
        self.writes_started += 1;
        let first = self.in_flight.len();
        let mut taken = 0;
        let outcome = loop {
            match self.take_in(&frames.slice(taken..)) {
                Ok(0) => break Ok(()),
                Ok(bytes) => taken += bytes,
                Err(refused) => break Err(refused),
            }
        };
        match self.in_flight.get(first).map(|frame| (frame.segment, frame.offset)) {
            Some((segment, offset)) => self.write(&frames.split_to(taken), segment, offset, ops),
            None => self.writes_started -= 1,
        }
        self.prepare(ops);
        outcome
    }

    /// One write for frames that lie together.
    fn write(&mut self, frames: &[u8], segment: u32, offset: u64, ops: &mut Vec<(Token, Op)>) {
        let Some(source) = self.space.source(segment) else { unreachable!("it takes frames") };
        let file = source.file;
        let mut buffer = self.buffers.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(frames);
        ops.push((token(KIND_FRAME, self.writes_started), Op::Write { file, offset, buffer }));
    }

    /// Takes the first frame of `frames` in, as part of the write that was started last. Returns
    /// its size, in bytes.
    fn take_in(&mut self, frames: &Bytes) -> Result<usize, Refused> {
        if frames.is_empty() {
            return Ok(0);
        }
        let chain = self.chain();
        let page = &frames[..SECTOR_BYTES.min(frames.len())];
        let header = chain.header(page, frames.len() as u64).map_err(refused)?;
        let bytes = header.frame_bytes();
        if bytes > self.settings.frame_bytes_max() {
            return Err(Refused::Flawed(Flaw::Lengths));
        }
        if !self.may_place(bytes) {
            return Err(Refused::Busy);
        }
        let frame = frames.slice(..bytes);
        let records = chain.records(&header, &frame).map_err(refused)?;
        self.legs.check(header.first_lsn, &records).map_err(|(_, flaw)| Refused::Flawed(flaw))?;
        // Whoever leads this log later must be able to decide its legs.
        if !self.space.has_place(bytes as u64, self.legs.reserve_bytes_with(&records)) {
            *self.starved.get_mut() = true;
            return Err(if self.full() { Refused::NoRoom } else { Refused::Busy });
        }
        self.legs.take(header.first_lsn, &records, None);
        self.next_lsn = header.last_lsn().next();
        self.last_stamp = header.last_stamp;
        self.place(header, frame);
        Ok(bytes)
    }

    /// What the next frame must continue.
    fn chain(&self) -> Chain {
        Chain {
            identity: self.identity,
            next_lsn: self.next_lsn,
            prev_hash: self.tip_hash,
            last_stamp: self.last_stamp,
            max_epoch: self.tip_epoch,
        }
    }
}

fn refused(stop: Stop) -> Refused {
    match stop {
        Stop::Unfinished => Refused::Flawed(Flaw::BodyChecksum),
        Stop::Damaged(Flaw::Chain(what)) => Refused::Apart(what),
        Stop::Damaged(flaw) => Refused::Flawed(flaw),
    }
}

#[cfg(test)]
#[path = "follow_test.rs"]
mod tests;
