//! A shard's log as a state machine without I/O.
//!
//! ```text
//! append_* ─► open frame ─pump─► in flight (≤ write_depth) ─complete─► durable, in log order
//!                 │                  └ sealed: the bytes, to disk and      │
//!                 │                    peer at the same time              ├ Progress.frames
//!                 └ fits? space is certain before a record is taken       └ checkpoint
//!   active segment ──full──► spare, made ahead, becomes active
//! ```
//! While frames are in flight the next one fills: group commit without a timer. A further frame
//! joins them only when it is worth a write of its own (as large as one of them, or
//! [`Settings::fill_bytes`]), so frames grow with the load. A completion seals nothing: its owner
//! pumps when everything that has arrived is appended. A record is only taken when there is a place
//! for it, so a full disk stops admission and loses nothing. A segment's first frame waits until
//! everything before it is durable; with [`IN_FLIGHT_BYTES_MAX`] that bounds where recovery finds
//! the remains of a crash. Every error but "no space for a further file" is fatal and sticky: after
//! a failed write nobody knows what the disk holds.
//!
//! Deliberately absent: I/O, clocks, what a record means (except legs: space is kept for their
//! decisions, and a checkpoint says which are open), reading.

mod durable;
mod ends;
mod follow;
mod landmarks;
mod legs;
mod notes;
mod read;
mod records;
mod source;
mod space;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use celeriant_schema::limits::FRAME_BYTES_SOFT;
use celeriant_schema::peer::FramePlace;
use celeriant_schema::{BootId, Epoch, Hash, Lsn, Stamp};

use crate::buffer::AlignedBuffer;
use crate::disk::{Completion, DiskError, Done, FileId, Op, Token};
use crate::error::Error;
use crate::frame::{Builder, Context, FRAME_HEADER_BYTES, FrameHeader, IN_FLIGHT_BYTES_MAX};
use crate::manifest::Position;
use crate::{Identity, Settings};
pub use durable::DurableFrame;
pub(crate) use ends::Commits;
pub use follow::Refused;
pub(crate) use landmarks::Landmarks;
pub(crate) use legs::{Legs, Placed};
pub(crate) use notes::Notes;
pub use read::{Search, Step};
pub use records::Appended;
pub use source::Fetch;
pub(crate) use source::Source;
pub(crate) use space::{Active, Segment, Space};

/// Tokens of a log have this bit set. A shard's own reads use tokens below it.
const LOG_BIT: Token = 1 << 63;
/// What a log's token is for, and the number within that.
const KIND_SHIFT: u32 = 56;
const KIND_FRAME: Token = 1;
const KIND_CREATE: Token = 2;
const KIND_NOTE: Token = 3;

/// Memory above this is not used again, in bytes: an idle shard would hold on to it.
const BUFFER_BYTES_KEPT: usize = 2 * FRAME_BYTES_SOFT;

fn token(kind: Token, number: u64) -> Token {
    LOG_BIT | kind << KIND_SHIFT | number & ((1 << KIND_SHIFT) - 1)
}

/// A frame that takes nothing more and is not durable yet: what goes to the disk goes to the peer.
#[derive(Clone, Debug)]
pub struct SealedFrame {
    /// Its epoch and its ends.
    pub place: FramePlace,
    /// The frame itself.
    pub bytes: Bytes,
}

/// What a completion brought.
#[derive(Debug, Default)]
pub struct Progress {
    /// Frames that became durable, in log order.
    pub frames: Vec<DurableFrame>,
}

#[derive(Debug)]
struct InFlight {
    /// Number of the write that it is part of.
    write: u64,
    header: FrameHeader,
    segment: u32,
    offset: u64,
    bytes: Bytes,
    is_written: bool,
}

/// A shard's log. Comes from [`crate::recovery::recover`], also for a new directory.
#[derive(Debug)]
pub struct Log {
    identity: Identity,
    settings: Settings,
    /// Who appends.
    leader: Option<(Epoch, BootId)>,
    open: Builder,
    /// Who appended what is open, when that is not `leader`: it takes nothing more.
    closing: Option<(Epoch, BootId)>,
    next_lsn: Lsn,
    last_stamp: Stamp,
    /// Hash of the last frame that was sealed.
    tip_hash: Hash,
    /// Epoch of it.
    tip_epoch: Epoch,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    writes_started: u64,
    durable: Lsn,
    /// Behind the last durable frame.
    durable_end: Position,
    commits: Commits,
    /// Bytes of frames that became durable, those that were replayed included.
    durable_bytes: u64,
    space: Space,
    legs: Legs,
    landmarks: Landmarks,
    notes: Notes,
    /// Somebody asked for more space than there is. Atomic only so that asking needs no `&mut` and
    /// a log can be shared.
    starved: AtomicBool,
    /// The last record that was asked for had no place on the disk.
    lacks_space: AtomicBool,
    poisoned: bool,
    buffers: Vec<AlignedBuffer>,
}

/// What recovery found, from which a log goes on.
#[derive(Debug)]
pub(crate) struct Resume {
    pub(crate) identity: Identity,
    pub(crate) settings: Settings,
    /// Its end: all of it is durable.
    pub(crate) tip: Position,
    pub(crate) commits: Commits,
    /// Bytes of frames that were replayed.
    pub(crate) replayed_bytes: u64,
    pub(crate) space: Space,
    pub(crate) legs: Legs,
    pub(crate) landmarks: Landmarks,
    pub(crate) notes: Notes,
}

impl Log {
    pub(crate) fn resume(from: Resume) -> Self {
        let log = Self {
            identity: from.identity,
            settings: from.settings,
            leader: None,
            open: Builder::new(),
            closing: None,
            next_lsn: from.tip.lsn.next(),
            last_stamp: from.tip.last_stamp,
            tip_hash: from.tip.hash,
            tip_epoch: from.tip.max_epoch,
            in_flight: VecDeque::with_capacity(from.settings.write_depth),
            in_flight_bytes: 0,
            writes_started: 0,
            durable: from.tip.lsn,
            durable_end: from.tip,
            commits: from.commits,
            durable_bytes: from.replayed_bytes,
            space: from.space,
            legs: from.legs,
            landmarks: from.landmarks,
            notes: from.notes,
            starved: AtomicBool::new(false),
            lacks_space: AtomicBool::new(false),
            poisoned: false,
            buffers: Vec::new(),
        };
        log.assert_invariants();
        log
    }

    /// Says who appends from here on: before a process's first append, and again whenever it leads
    /// a further epoch. What is open stays with who appended it: it is sealed first, and nothing
    /// fits until then.
    ///
    /// # Panics
    /// When the log has anything of that epoch or of a later one: nobody continues an epoch (R8).
    pub fn lead(&mut self, epoch: Epoch, boot: BootId) {
        let newest = self.leader.map_or(self.tip_epoch, |(led, _)| led.max(self.tip_epoch));
        assert!(epoch > newest, "epoch {epoch} after {newest}");
        self.resign();
        self.leader = Some((epoch, boot));
        self.commits.lead(epoch, &mut self.notes);
    }

    /// Nobody appends here any more. What is open is still sealed.
    pub fn resign(&mut self) {
        if !self.open.is_empty() && self.closing.is_none() {
            self.closing = self.leader;
        }
        self.leader = None;
    }

    /// The lsn that the next record gets.
    pub fn next_lsn(&self) -> Lsn {
        self.next_lsn
    }

    /// Every record up to here survives power loss on this disk.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// Hash of the last sealed frame.
    pub fn tip_hash(&self) -> Hash {
        self.tip_hash
    }

    /// Highest stamp that was appended or recovered.
    pub fn last_stamp(&self) -> Stamp {
        self.last_stamp
    }

    /// How it lays itself out.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whose log it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A record with more bytes than this, large payloads included, never fits.
    pub fn record_bytes_max(&self) -> usize {
        self.settings.frame_bytes_max() - FRAME_HEADER_BYTES
    }

    /// Whether a record can be appended now. If not: pump and ask again, else wait for a
    /// completion. Leaves room for the `Resolve`s of all unresolved legs.
    pub fn fits(&self, meta_len: usize, blob_len: usize) -> bool {
        self.fits_beside(meta_len, blob_len, 0)
    }

    /// The same, leaving `beside` more bytes of the log free: space promised to legs that are
    /// reserved but not appended. See [`Self::leg_bytes`].
    pub fn fits_beside(&self, meta_len: usize, blob_len: usize, beside: u64) -> bool {
        let reserve = self.legs.reserve_bytes() + beside;
        self.has_room(meta_len + blob_len, reserve, self.settings.frame_bytes_soft)
    }

    /// Space that a leg of this size takes at most, with its `Resolve`: each in a frame of its own.
    pub fn leg_bytes(meta_len: usize, blob_len: usize) -> u64 {
        let sector = crate::buffer::BLOCK_BYTES;
        let frame = (FRAME_HEADER_BYTES + meta_len + blob_len).next_multiple_of(sector);
        (frame + sector) as u64
    }

    /// Whether a `Resolve` or `EpochStart` can be appended now.
    pub fn fits_resolve(&self) -> bool {
        self.has_room(records::SMALL_RECORD_BYTES, 0, self.settings.frame_bytes_max())
    }

    fn has_room(&self, bytes: usize, reserve: u64, soft: usize) -> bool {
        self.lacks_space.store(false, Ordering::Relaxed);
        let is_led = self.leader.is_some() && self.closing.is_none();
        if self.poisoned || !is_led || !self.open.has_room_for_record() {
            return false;
        }
        let frame_bytes = self.open.frame_bytes_with(bytes);
        let is_grown = !self.open.is_empty() && frame_bytes > soft;
        if is_grown || frame_bytes > self.settings.frame_bytes_max() {
            return false;
        }
        let has_space = self.space.has_place(frame_bytes as u64, reserve);
        if !has_space {
            self.starved.store(true, Ordering::Relaxed);
        }
        self.lacks_space.store(!has_space, Ordering::Relaxed);
        has_space
    }

    /// The device has no room for a further segment. The present one may still take records.
    pub fn full(&self) -> bool {
        self.space.is_full()
    }

    /// What was last asked for did not fit for want of space, not of depth: when the log is also
    /// full, waiting for a completion does not help.
    pub fn lacks_space(&self) -> bool {
        self.lacks_space.load(Ordering::Relaxed)
    }

    /// Tries again to make files that did not fit on the device.
    pub fn retry_space(&mut self, ops: &mut Vec<(Token, Op)>) {
        self.space.retry();
        self.pump(ops);
    }

    /// Seals the open frame if the write depth allows, and starts whatever else is due.
    pub fn pump(&mut self, ops: &mut Vec<(Token, Op)>) {
        if self.poisoned {
            return;
        }
        if self.may_seal() {
            self.seal(ops);
        }
        self.prepare(ops);
    }

    /// Starts whatever is due besides frames.
    fn prepare(&mut self, ops: &mut Vec<(Token, Op)>) {
        if let Some((number, op)) = self.space.create_if_due(
            &self.identity,
            &self.settings,
            self.next_lsn,
            self.starved.swap(false, Ordering::Relaxed),
        ) {
            ops.push((token(KIND_CREATE, u64::from(number)), op));
        }
        self.start_note(ops);
        self.assert_invariants();
    }

    /// Notes durably how far the log is durable and committed. Does nothing when that is already
    /// noted.
    pub fn note_watermark(&mut self, ops: &mut Vec<(Token, Op)>) {
        self.notes.want();
        self.start_note(ops);
    }

    /// Nothing is open and no write is in flight: a clean stop may follow.
    pub fn idle(&self) -> bool {
        self.open.is_empty() && self.in_flight.is_empty() && self.notes.is_idle()
    }

    /// Whether a completion with this token belongs to a log.
    pub fn owns(token: Token) -> bool {
        token & LOG_BIT != 0
    }

    /// Bytes of frames that became durable since the last checkpoint before the start.
    pub(crate) fn durable_bytes(&self) -> u64 {
        self.durable_bytes
    }

    /// Takes the end of one of the log's operations.
    ///
    /// # Errors
    /// Every error but a full disk while a file is made. It is final: the log takes nothing any
    /// more, and what was in flight has an unknown outcome.
    pub fn complete(
        &mut self,
        completion: Completion,
        ops: &mut Vec<(Token, Op)>,
    ) -> Result<Progress, Error> {
        if self.poisoned {
            return Err(Error::Poisoned);
        }
        let mut progress = Progress::default();
        match self.take(completion, &mut progress) {
            Ok(()) => {
                self.prepare(ops);
                Ok(progress)
            }
            Err(error) => {
                self.poisoned = true;
                Err(error.into())
            }
        }
    }

    fn take(&mut self, completion: Completion, progress: &mut Progress) -> Result<(), DiskError> {
        let Completion { token, outcome } = completion;
        assert!(Self::owns(token), "token {token} is not the log's");
        let number = token & ((1 << KIND_SHIFT) - 1);
        match (token & !LOG_BIT) >> KIND_SHIFT {
            KIND_FRAME => self.take_written(number, outcome?, progress),
            KIND_CREATE => match outcome {
                Ok(Done::Opened { file, len }) => {
                    self.space.created(number as u32, file, len);
                    self.notes.want_segments(number as u32);
                }
                Ok(other) => panic!("Create ended with {other:?}"),
                Err(error) if error.is_full() => self.space.create_failed(),
                Err(error) => return Err(error),
            },
            KIND_NOTE => {
                let noted = self.notes.written(outcome?);
                self.space.noted(noted.segments_made);
            }
            kind => panic!("token of unknown kind {kind}"),
        }
        Ok(())
    }

    fn take_written(&mut self, number: u64, done: Done, progress: &mut Progress) {
        let Done::Written(buffer) = done else { panic!("Write ended with {done:?}") };
        let of_it = self.in_flight.iter_mut().filter(|frame| frame.write == number);
        let mut is_known = false;
        for frame in of_it {
            assert!(!frame.is_written, "frames of write {number} were written twice");
            frame.is_written = true;
            is_known = true;
        }
        assert!(is_known, "write {number} is not in flight");
        self.keep(buffer);
        while let Some(frame) = self.in_flight.pop_front_if(|frame| frame.is_written) {
            progress.frames.push(self.frame_is_durable(frame));
        }
        self.settle_committed();
    }

    fn frame_is_durable(&mut self, frame: InFlight) -> DurableFrame {
        let InFlight { header, segment, offset, bytes, .. } = frame;
        assert_eq!(header.first_lsn, self.durable.next(), "frames become durable in log order");
        self.in_flight_bytes -= header.frame_bytes();
        self.durable = header.last_lsn();
        self.durable_end = Position::behind(&header, segment, offset);
        self.durable_bytes += header.frame_bytes() as u64;
        self.commits.durable(self.durable_end);
        self.notes.durable(self.durable, header.hash);
        self.legs.placed(&header, segment, offset);
        self.landmarks.pass(header.first_lsn, header.first_stamp, segment, offset);
        DurableFrame::of(&header, segment, offset, bytes)
    }

    /// Keeps memory for a further frame: what is at hand, in the processor's caches even, takes
    /// records faster than fresh memory.
    fn keep(&mut self, buffer: AlignedBuffer) {
        let is_small = buffer.capacity() <= BUFFER_BYTES_KEPT;
        if is_small && self.buffers.len() <= self.settings.write_depth {
            self.buffers.push(buffer);
        }
    }

    /// Writes whose frames are not all durable.
    fn writes_in_flight(&self) -> usize {
        let ends = self.in_flight.front().zip(self.in_flight.back());
        ends.map_or(0, |(first, last)| (last.write - first.write + 1) as usize)
    }

    fn may_seal(&self) -> bool {
        let bytes = self.open.frame_bytes_with(0);
        let largest = self.in_flight.iter().map(|frame| frame.header.frame_bytes()).max();
        let enough = largest.map_or(0, |bytes| bytes.min(self.settings.fill_bytes));
        let waits_for_more = self.closing.is_none() && self.open.content_bytes() < enough;
        let may_write = self.writes_in_flight() < self.settings.write_depth;
        !self.open.is_empty() && !waits_for_more && may_write && self.may_place(bytes)
    }

    /// Whether a frame may go out beside those in flight.
    fn may_place(&self, bytes: usize) -> bool {
        // Everything before a segment's first frame must be durable when that is written. A frame
        // alone may have any size; together they stay where recovery looks.
        self.in_flight.is_empty()
            || self.space.active_has_place(bytes as u64)
                && self.in_flight_bytes + bytes <= IN_FLIGHT_BYTES_MAX
    }

    fn seal(&mut self, ops: &mut Vec<(Token, Op)>) {
        let Some((epoch, boot)) = self.closing.take().or(self.leader) else {
            panic!("an append without a leader")
        };
        let count = self.open.count() as u64;
        let first_lsn = Lsn::new(self.next_lsn.value() - count);
        let context = Context {
            identity: self.identity,
            epoch,
            boot,
            first_lsn,
            durable_upto: self.durable,
            prev_hash: self.tip_hash,
        };
        let next = self.buffers.pop();
        let (header, buffer) = self.open.seal(&context, next);
        // The disk keeps the buffer to itself; this copy is everybody else's.
        let bytes = Bytes::copy_from_slice(&buffer);
        self.writes_started += 1;
        let (file, offset) = self.place(header, bytes);
        ops.push((token(KIND_FRAME, self.writes_started), Op::Write { file, offset, buffer }));
    }

    /// Gives a frame that is complete its place, as part of the write that was started last.
    fn place(&mut self, header: FrameHeader, bytes: Bytes) -> (FileId, u64) {
        if !self.space.active_has_place(bytes.len() as u64) {
            self.space.rotate();
            self.notes.want();
        }
        let (segment, file, offset) = self.space.place(&header);
        self.tip_hash = header.hash;
        self.tip_epoch = header.epoch;
        self.in_flight_bytes += bytes.len();
        let write = self.writes_started;
        self.in_flight.push_back(InFlight {
            write,
            header,
            segment,
            offset,
            bytes,
            is_written: false,
        });
        (file, offset)
    }

    fn start_note(&mut self, ops: &mut Vec<(Token, Op)>) {
        if self.poisoned {
            return;
        }
        if let Some((turn, op)) = self.notes.start_if_due(&self.identity) {
            ops.push((token(KIND_NOTE, turn), op));
        }
    }

    /// What must hold between any two calls.
    pub fn assert_invariants(&self) {
        let depth = self.settings.write_depth;
        let writes = self.writes_in_flight();
        assert!(writes <= depth, "{writes} writes in flight");
        let mut next = self.durable.next();
        let mut bytes = 0;
        for frame in &self.in_flight {
            assert_eq!(frame.header.first_lsn, next, "frames in flight are contiguous");
            next = frame.header.last_lsn().next();
            bytes += frame.header.frame_bytes();
        }
        assert_eq!(bytes, self.in_flight_bytes, "bytes in flight are counted");
        assert!(
            self.in_flight.len() <= 1 || bytes <= IN_FLIGHT_BYTES_MAX,
            "{bytes} bytes in flight"
        );
        assert_eq!(next.plus(self.open.count() as u64), self.next_lsn, "lsns are dense");
        assert!(self.closing.is_none() || !self.open.is_empty(), "only what is open closes");
        assert!(self.notes.watermark().durable <= self.durable, "the watermark is durable");
        assert!(self.committed() <= self.durable, "what is committed is durable");
        let open = if self.open.is_empty() { 0 } else { self.open.frame_bytes_with(0) as u64 };
        assert!(self.space.has_place(open, 0), "there is a place for what was taken");
        self.space.assert_invariants();
    }
}

#[cfg(test)]
#[path = "log/log_test.rs"]
mod tests;
