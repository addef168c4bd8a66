//! Packing a sealed segment, and making erased events' bytes disappear with it.
//!
//! ```text
//!   make a file ─► per piece: read frames with something to erase, read the piece, pack, extend
//!     ─► table, sync ─► the log reads there ─► nobody reads the old file any more: it goes
//! ```
//! One operation at a time, and between two of them one piece of work (128 KiB, or one frame); its
//! owner says when the next begins, so that writers of the same thread are not held up. Until the
//! old file is removed a crash leaves everything as it was. A full disk undoes the file in the
//! making and nothing else; every other error is final.
//!
//! Deliberately absent: what is to be erased (the directory knows), and when.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use celeriant_schema::Lsn;
use celeriant_schema::limits::SECTOR_BYTES;

use crate::Identity;
use crate::disk::{Completion, DiskError, Done, FileId, Op, Token};
use crate::error::{Error, Flaw};
use crate::frame::{self, Erase};
use crate::log::{Fetch, Log, Source};
use crate::packed::{Table, packed_name};

/// Tokens of a compactor have this bit set, and neither of those above, which are the log's and the
/// directory's.
const COMPACTOR_BIT: Token = 1 << 61;

/// What packing a segment came to.
#[derive(Debug)]
pub enum Outcome {
    /// It is done, durably: nothing of what was to be erased is left in this segment.
    Packed {
        /// Which segment.
        segment: u32,
        /// Size of its file before, in bytes.
        bytes_before: u64,
        /// And now.
        bytes_after: u64,
        /// Bytes of events that were erased.
        bytes_erased: u64,
    },
    /// The device has no room for the packed file beside the old one. All is as it was.
    NoRoom {
        /// Which segment.
        segment: u32,
        /// What the device said.
        error: DiskError,
    },
}

/// Packs one segment at a time.
#[derive(Debug)]
pub struct Compactor {
    identity: Identity,
    work: Option<Work>,
    is_poisoned: bool,
}

/// A segment that is being packed.
#[derive(Debug)]
struct Work {
    identity: Identity,
    segment: u32,
    /// Where it is read; the old file once the log reads the new one.
    source: Arc<Source>,
    /// By frame, those that have not been looked at yet.
    erases: VecDeque<Erase>,
    /// Frames from which something was erased, and where they start.
    changed: VecDeque<(u64, Vec<u8>)>,
    /// The new one.
    file: Option<FileId>,
    table: Table,
    /// What was started, or else what comes next.
    doing: Option<Doing>,
    next: Option<(Doing, Op)>,
    is_replaced: bool,
    bytes_erased: u64,
    bytes_after: u64,
}

#[derive(Debug)]
enum Doing {
    Make,
    /// Reading the frame that starts there.
    Frame(u64, Fetch),
    /// Reading the piece that starts there.
    Piece(u64, Fetch),
    Extend,
    End,
    Sync,
    /// Removing the old file.
    Remove,
    /// Removing the new file: there was no room for it, or it brings nothing.
    Undo(Option<DiskError>),
}

impl Compactor {
    /// Of the log of `identity`.
    pub fn new(identity: Identity) -> Self {
        Self { identity, work: None, is_poisoned: false }
    }

    /// Whether a completion with this token belongs to a compactor.
    pub fn owns(token: Token) -> bool {
        token & COMPACTOR_BIT != 0 && token >> 62 == 0
    }

    /// No segment is being packed.
    pub fn is_idle(&self) -> bool {
        self.work.is_none()
    }

    /// An operation is in flight.
    pub fn is_busy(&self) -> bool {
        self.work.as_ref().is_some_and(|work| work.doing.is_some())
    }

    /// Begins to pack `segment` without the events of `erases`, which are all of this segment.
    /// [`Self::advance`] does the rest.
    ///
    /// # Panics
    /// When a segment is being packed, or this one is not sealed ([`Log::is_sealed`]).
    pub fn pack(&mut self, log: &Log, segment: u32, mut erases: Vec<Erase>) {
        assert!(self.is_idle(), "one segment at a time");
        assert!(log.is_sealed(segment), "segment {segment} is not sealed");
        let Some(source) = log.source(segment).cloned() else {
            unreachable!("sealed segments are there")
        };
        erases.sort_by_key(|erase| erase.location().frame_offset);
        let name = packed_name(segment, source.generation + 1);
        self.work = Some(Work {
            identity: self.identity,
            segment,
            table: Table::new(source.bytes()),
            source,
            erases: erases.into(),
            changed: VecDeque::new(),
            file: None,
            doing: None,
            next: Some((Doing::Make, Op::Make { name })),
            is_replaced: false,
            bytes_erased: 0,
            bytes_after: 0,
        });
    }

    /// Starts the next step, unless one is under way.
    pub fn advance(&mut self, ops: &mut Vec<(Token, Op)>) {
        let work = self.work.as_mut().filter(|work| work.doing.is_none() && !self.is_poisoned);
        let Some(work) = work else { return };
        if work.is_replaced && Arc::strong_count(&work.source) == 1 {
            let name = work.source.name(work.segment);
            work.next = Some((Doing::Remove, Op::Remove { name }));
        }
        if let Some((doing, op)) = work.next.take() {
            work.doing = Some(doing);
            ops.push((COMPACTOR_BIT, op));
        }
    }

    /// Takes the end of its operation. With an outcome it is idle again. Let go of the frames of
    /// that segment that are in memory: they still hold what was erased.
    ///
    /// # Errors
    /// Every error but a full disk. It is final: stop the node and recover.
    pub fn complete(
        &mut self,
        completion: Completion,
        log: &mut Log,
    ) -> Result<Option<Outcome>, Error> {
        if self.is_poisoned {
            return Err(Error::Poisoned);
        }
        assert!(Self::owns(completion.token), "token {} is another's", completion.token);
        let Some(work) = &mut self.work else { panic!("nothing is being packed") };
        let Some(doing) = work.doing.take() else { panic!("nothing is under way") };
        let taken = work.take(doing, completion.outcome, log);
        match &taken {
            Ok(Some(_)) => self.work = None,
            Ok(None) => {}
            Err(_) => self.is_poisoned = true,
        }
        taken
    }
}

impl Work {
    fn take(
        &mut self,
        doing: Doing,
        outcome: Result<Done, DiskError>,
        log: &mut Log,
    ) -> Result<Option<Outcome>, Error> {
        let done = match outcome {
            Ok(done) => done,
            Err(error) if error.is_full() => return Ok(self.give_up(error)),
            Err(error) => return Err(error.into()),
        };
        self.next = match (doing, done) {
            (Doing::Make, Done::Opened { file, .. }) => {
                self.file = Some(file);
                Some(self.read_on(file))
            }
            (Doing::Frame(at, fetch), Done::Read(read)) => {
                self.erase(at, fetch.take(read)).map_err(|flaw| self.damage(flaw, at))?;
                self.file.map(|file| self.read_on(file))
            }
            (Doing::Piece(at, fetch), Done::Read(read)) => {
                let original = fetch.take(read).map_err(|flaw| self.damage(flaw, at))?;
                self.file.map(|file| self.pack(file, at, original))
            }
            (Doing::Extend, Done::Written(_)) => self.file.map(|file| self.read_on(file)),
            (Doing::End, Done::Written(_)) => {
                self.file.map(|file| (Doing::Sync, Op::Sync { file }))
            }
            (Doing::Sync, Done::Ok) => {
                self.replace(log);
                None
            }
            (Doing::Remove, Done::Ok) => return Ok(Some(self.packed(self.bytes_after))),
            (Doing::Undo(None), Done::Ok) => {
                return Ok(Some(self.packed(self.source.file_bytes)));
            }
            (Doing::Undo(Some(error)), Done::Ok) => {
                return Ok(Some(Outcome::NoRoom { segment: self.segment, error }));
            }
            (doing, done) => panic!("{doing:?} ended with {done:?}"),
        };
        Ok(None)
    }

    /// What is to be read next, or, when there is nothing more, what ends the new file.
    fn read_on(&mut self, file: FileId) -> (Doing, Op) {
        let Some(piece) = self.table.next_piece() else { return self.end(file) };
        if let Some((at, len)) = self.erases.front().map(place_of)
            && at < piece.end
        {
            let (fetch, op) = self.source.fetch(at, len);
            return (Doing::Frame(at, fetch), op);
        }
        let (fetch, op) = self.source.fetch(piece.start, (piece.end - piece.start) as u32);
        (Doing::Piece(piece.start, fetch), op)
    }

    /// Erases from the frame that starts `at` all that is to be erased there.
    fn erase(&mut self, at: u64, frame: Result<Bytes, Flaw>) -> Result<(), Flaw> {
        let mut frame = frame?.to_vec();
        let of_it = self.erases.partition_point(|erase| place_of(erase).0 <= at);
        let erases: Vec<_> = self.erases.drain(..of_it).collect();
        let erased = frame::erase(&mut frame, &self.identity, &erases)?;
        if erased > 0 {
            self.bytes_erased += erased;
            self.changed.push_back((at, frame));
        }
        Ok(())
    }

    /// Packs the piece of the original that starts `at`, with what was changed in it.
    fn pack(&mut self, file: FileId, at: u64, original: Bytes) -> (Doing, Op) {
        let mut piece = Vec::from(original);
        for (frame_at, frame) in &self.changed {
            overlay(&mut piece, at, *frame_at, frame);
        }
        let end = at + piece.len() as u64;
        self.changed.retain(|(frame_at, frame)| frame_at + frame.len() as u64 > end);
        let offset = self.table.end();
        match self.table.pack(&piece) {
            Some(buffer) => (Doing::Extend, Op::Extend { file, offset, buffer }),
            None => self.read_on(file),
        }
    }

    fn end(&mut self, file: FileId) -> (Doing, Op) {
        if self.source.is_packed() && self.bytes_erased == 0 {
            let name = self.new_name();
            return (Doing::Undo(None), Op::Remove { name });
        }
        let offset = self.table.end();
        let buffer = self.table.encode(&self.identity, self.segment);
        self.bytes_after = offset + buffer.len() as u64;
        (Doing::End, Op::Extend { file, offset, buffer })
    }

    /// The new file is durable: the log reads there from here on.
    fn replace(&mut self, log: &mut Log) {
        let Some(file) = self.file else { unreachable!("it was synced") };
        let table = std::mem::replace(&mut self.table, Table::new(0));
        let generation = self.source.generation + 1;
        let source = Source::packed(file, self.bytes_after, generation, table);
        log.replace_source(self.segment, source);
        self.is_replaced = true;
    }

    /// There is no room. What was made of the new file goes.
    fn give_up(&mut self, error: DiskError) -> Option<Outcome> {
        if self.file.is_none() {
            return Some(Outcome::NoRoom { segment: self.segment, error });
        }
        let name = self.new_name();
        self.next = Some((Doing::Undo(Some(error)), Op::Remove { name }));
        None
    }

    fn packed(&self, bytes_after: u64) -> Outcome {
        Outcome::Packed {
            segment: self.segment,
            bytes_before: self.source.file_bytes,
            bytes_after,
            bytes_erased: self.bytes_erased,
        }
    }

    fn new_name(&self) -> String {
        packed_name(self.segment, self.source.generation + 1)
    }

    fn damage(&self, flaw: Flaw, at: u64) -> Error {
        flaw.at(self.source.name(self.segment), self.segment, at, Lsn::ZERO).into()
    }
}

/// Where the frame of an erasure starts, and its length, in bytes.
fn place_of(erase: &Erase) -> (u64, u32) {
    let location = erase.location();
    (u64::from(location.frame_offset) * SECTOR_BYTES as u64, location.frame_bytes)
}

/// Copies what of `frame`, at `frame_at`, lies in `piece`, at `piece_at`, over it.
fn overlay(piece: &mut [u8], piece_at: u64, frame_at: u64, frame: &[u8]) {
    let start = frame_at.max(piece_at);
    let end = (frame_at + frame.len() as u64).min(piece_at + piece.len() as u64);
    if start < end {
        let (to, from) = ((start - piece_at) as usize, (start - frame_at) as usize);
        let len = (end - start) as usize;
        piece[to..to + len].copy_from_slice(&frame[from..from + len]);
    }
}

#[cfg(test)]
#[path = "compact/compact_test.rs"]
mod tests;
