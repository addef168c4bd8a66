//! From a shard's folder to a log that can go on: the start path, after a crash or not.
//!
//! ```text
//!   watermark, manifest ─► its runs intact? ──yes──► the directory as of the checkpoint
//!                                 └──no──► an empty directory, the log from its start
//!   read every frame from there, check it, replay its records; write the directory out as it grows
//!   tail found ─► covered by the watermark or a later durable_upto? ──► damage, nothing cut
//!              ─► zero what is behind it, write again what nobody vouches for, note it
//! ```
//! A node on its own takes everything that is durable for committed. One of a pair does not: what
//! lies behind the *floor*, what is surely committed, may still be cut, so it enters the log and
//! not the directory.
//!
//! *Unfinished* and *damaged* are told apart in scan.rs. What is read here may only sit in a cache
//! of a process that was killed: the frames that no later frame or note vouches for are written
//! again, durably, before anybody sees them. Every step can be cut by a crash and done again: the
//! log stays the same.
//!
//! Deliberately absent: repair from elsewhere, any decision over an
//! undecided leg (the node makes it, knowing all shards), compaction. What a crash left of that: of
//! a segment that is there in several generations, the oldest counts, and the others go.

mod cut;
mod files;
mod marks;
mod replay;
mod restore;
mod tail;

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_schema::peer;
use celeriant_schema::record::{EpochStart, Resolve};
use celeriant_schema::{Epoch, Lsn, Stamp, TxnId};

pub use crate::directory::PendingLeg;
use crate::directory::{Directory, Fault, Missing, Pins};
use crate::disk::{Disk, Op, Token};
use crate::error::{Damage, Error, Flaw};
use crate::frame::{FrameHeader, IN_FLIGHT_BYTES_MAX};
use crate::log::{
    Active, Commits, DurableFrame, Landmarks, Log, Notes, Placed, Resume, Segment, Source, Space,
};
use crate::manifest::{Checkpoint, Position};
use crate::scan::{Chain, Stop};
use crate::segment::{FIRST_FRAME_OFFSET, segment_name};
use crate::watermark::{NOWHERE, WATERMARK_NAME, Watermark};
use crate::{Identity, Settings};
use files::{Inventory, SegmentReader};
use marks::Marks;
use replay::Replay;
use tail::Tail;

/// Most bytes of frames in [`Recovered::tail`], unless the first alone is larger.
pub const TAIL_BYTES_MAX: usize = 4 << 20;

/// What recovery had to do. All zero and empty after a clean stop.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// The folder was empty: this is a new log.
    pub formatted: bool,
    /// Frames that were read and replayed.
    pub frames_read: u64,
    /// Runs that the directory was taken from.
    pub runs_opened: u32,
    /// The manifest or a run was missing or damaged: the directory was made anew from the log.
    pub rebuilt: bool,
    /// Bytes of unfinished frames that were overwritten with zeroes.
    pub cut_bytes: u64,
    /// Intact frames among them: written, but behind one that was not.
    pub cut_frames: u32,
    /// Bytes of frames that were written again because nobody vouched for them.
    pub secured_bytes: u64,
    /// Files that were removed: unfinished segments, runs that the manifest does not name.
    pub removed: Vec<String>,
    /// Files that do not belong here; left alone.
    pub strangers: Vec<String>,
    /// Slots of the watermark that were damaged; the other one ruled.
    pub watermark_slots_damaged: u32,
}

/// What the start of a node that is one of a pair knows of a shard's log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// So much is committed, as others say. What the shard itself has noted counts too.
    pub committed: Lsn,
    /// The log shall end there: what follows is not the leader's (R10).
    pub cut_after: Option<peer::Position>,
}

/// Which frames may enter the directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Floor {
    /// All: durable is committed.
    None,
    /// Those that end at or below.
    At(Lsn),
}

/// A log that can go on, and what it says.
#[derive(Debug)]
pub struct Recovered {
    /// Call [`Log::lead`] before the first append, or [`Log::follow`].
    pub log: Log,
    /// Everything up to [`Log::committed`].
    pub directory: Directory,
    /// Legs to decide, in log order, as of there.
    pub pending: Vec<PendingLeg>,
    /// Durable frames behind that, in log order, for an [`crate::directory::Applier`] when they
    /// commit. At most [`TAIL_BYTES_MAX`]: if they end below [`Log::durable`], the rest is to be
    /// read ([`Log::read_after`]). Empty for a node on its own.
    pub tail: Vec<DurableFrame>,
    /// Decisions that were met since the directory was last written out: whether to commit. For
    /// others see [`find_outcomes`].
    pub outcomes: BTreeMap<TxnId, bool>,
    /// Highest epoch of any frame.
    pub max_epoch: Epoch,
    /// Highest stamp of any frame.
    pub max_stamp: Stamp,
    /// What had to be done.
    pub report: Report,
}

/// Opens the log of a node on its own in `disk`'s folder, or makes a new one in an empty folder. On
/// return everything that it says is durable, and committed.
///
/// # Errors
/// `Error::Damage` when something that was durable is not what was written: nothing has been cut
/// then.
/// `Error::Io` when the device fails; `Error::Settings`.
pub async fn recover<D: Disk>(
    disk: &mut D,
    identity: Identity,
    settings: &Settings,
) -> Result<Recovered, Error> {
    run(disk, identity, settings, Floor::None, None).await
}

/// The same for a node that is one of a pair: only what is `known` to be committed enters the
/// directory, and the log may be cut.
///
/// # Errors
/// As [`recover`]; `Error::Uncut` when the log cannot end where it should: it is as it was then.
pub async fn recover_member<D: Disk>(
    disk: &mut D,
    identity: Identity,
    settings: &Settings,
    known: Known,
) -> Result<Recovered, Error> {
    run(disk, identity, settings, Floor::At(known.committed), known.cut_after).await
}

async fn run<D: Disk>(
    disk: &mut D,
    identity: Identity,
    settings: &Settings,
    floor: Floor,
    cut_after: Option<peer::Position>,
) -> Result<Recovered, Error> {
    settings.validate()?;
    let inventory = Inventory::take(disk).await?;
    let mut report = Report { strangers: inventory.strangers.clone(), ..Report::default() };
    let marks = Marks::open(disk, &identity, &inventory, &mut report).await?;
    let mut recovery = Recovery {
        disk,
        identity,
        settings: *settings,
        end: cut_after.or(marks.cut()),
        marks,
        report,
        replay: Replay::new(Directory::open(identity, settings, 1, Checkpoint::default(), vec![])),
        claim: Position::default(),
        floor,
        position: Position::default(),
        committed: Position::default(),
        replayed_bytes: 0,
        chain: Chain::start(identity),
        sources: BTreeMap::new(),
        current: None,
        spares: VecDeque::new(),
        tail: Tail::default(),
        uncommitted: Uncommitted::default(),
        landmarks: Landmarks::default(),
    };
    recovery.remove_unfinished(&inventory).await?;
    recovery.restore(&inventory).await?;
    recovery.raise_floor()?;
    recovery.walk().await?;
    recovery.finish().await
}

/// What became of legs that were decided long ago: commit, abort, or not found. For the rare leg
/// that neither `pending` nor `outcomes` of [`Recovered`] knows. Nothing else may be in flight.
///
/// # Errors
/// `Error::Io`, and `Error::Damage` when the directory is damaged; the next start makes it anew.
pub async fn find_outcomes<D: Disk>(
    disk: &mut D,
    recovered: &mut Recovered,
    txns: &[TxnId],
) -> Result<Vec<Option<bool>>, Error> {
    let mut found = Vec::with_capacity(txns.len());
    for txn in txns {
        let mut pins = Pins::default();
        let mut ops = Vec::new();
        loop {
            match recovered.directory.outcome(*txn, &pins) {
                Ok(outcome) => break found.push(outcome),
                Err(Fault::Missing(page)) => recovered.directory.load(page, &mut ops),
                Err(Fault::Damaged(damage)) => recovered.directory.condemn(damage, &mut ops),
            }
            for (page, bytes) in drive(disk, &mut recovered.directory, &mut ops).await? {
                pins.add(page, bytes);
            }
        }
    }
    Ok(found)
}

/// Carries out `ops` of the directory and what follows from them. Returns pages that arrived.
async fn drive<D: Disk>(
    disk: &mut D,
    directory: &mut Directory,
    ops: &mut Vec<(Token, Op)>,
) -> Result<Vec<(Missing, Bytes)>, Error> {
    let mut pages = Vec::new();
    loop {
        ops.drain(..).for_each(|(token, op)| disk.start(token, op));
        if directory.idle() {
            return Ok(pages);
        }
        let completion = poll_fn(|cx| disk.poll_complete(cx)).await;
        pages.extend(directory.complete(completion, ops)?);
    }
}

struct Recovery<'d, D: Disk> {
    disk: &'d mut D,
    identity: Identity,
    settings: Settings,
    marks: Marks,
    report: Report,
    replay: Replay,
    /// Up to here the log is durable, as the manifest says.
    claim: Position,
    floor: Floor,
    /// Where the log shall end.
    end: Option<peer::Position>,
    /// Behind the last frame that was taken in, or that the runs know.
    position: Position,
    /// The same of those that are committed.
    committed: Position,
    replayed_bytes: u64,
    chain: Chain,
    /// The segments that are there, and where each is read.
    sources: BTreeMap<u32, Arc<Source>>,
    /// The last segment with frames.
    current: Option<Active>,
    /// Segments behind it.
    spares: VecDeque<Segment>,
    tail: Tail,
    uncommitted: Uncommitted,
    landmarks: Landmarks,
}

/// Frames behind the floor.
#[derive(Default)]
struct Uncommitted {
    ends: VecDeque<Position>,
    /// The first of them.
    frames: Vec<DurableFrame>,
    bytes: usize,
}

impl Uncommitted {
    fn push(&mut self, end: Position, header: &FrameHeader, frame: bytes::Bytes) {
        let is_next = self.frames.len() == self.ends.len();
        self.ends.push_back(end);
        self.bytes += frame.len();
        if is_next && (self.frames.is_empty() || self.bytes <= TAIL_BYTES_MAX) {
            let start = end.offset - u64::from(end.frame_bytes);
            self.frames.push(DurableFrame::of(header, end.segment, start, frame));
        }
    }
}

impl<D: Disk> Recovery<'_, D> {
    /// A segment that the watermark does not count was not completely made, and no frame went
    /// there.
    async fn remove_unfinished(&mut self, inventory: &Inventory) -> Result<(), Error> {
        let made = self.marks.newest.segments_made;
        let mut is_noted = false;
        for (number, bytes) in inventory.segments.range(made + 1..) {
            let name = segment_name(*number);
            if self.report.watermark_slots_damaged > 0 && *bytes > FIRST_FRAME_OFFSET {
                // The note that counted it may be the damaged one.
                let (file, _) = files::open(self.disk, &name).await?;
                let page = files::read(self.disk, file, FIRST_FRAME_OFFSET, SECTOR_BYTES).await?;
                if !crate::scan::is_zero(&page) {
                    let flaw = Flaw::Durable("a frame in it");
                    return Err(flaw.at(WATERMARK_NAME, *number, 0, Lsn::ZERO).into());
                }
            }
            if self.report.watermark_slots_damaged > 0 && !is_noted {
                // A slot that reads again later must not count what is removed now.
                let note = self.marks.newest;
                self.marks.note(self.disk, &self.identity, note).await?;
                is_noted = true;
            }
            files::remove(self.disk, name.clone()).await?;
            self.report.removed.push(name);
        }
        Ok(())
    }

    async fn walk(&mut self) -> Result<(), Error> {
        let sources = self.sources.range(self.position.segment..);
        let segments: Vec<_> =
            sources.map(|(number, source)| Segment::of(*number, source)).collect();
        for segment in segments {
            let source = self.source(segment).clone();
            files::check_segment(self.disk, &self.identity, segment.number, &source).await?;
            self.scan(segment).await?;
            if self.has_ended() {
                break;
            }
        }
        match self.end {
            Some(end) => self.cut(end).await,
            None => self.check_watermark(),
        }
    }

    /// Reads and replays the segment's frames up to the first that is not there.
    async fn scan(&mut self, segment: Segment) -> Result<(), Error> {
        let mut reader = SegmentReader::new(segment.number, self.source(segment).clone());
        let is_begun = segment.number == self.position.segment;
        let mut offset = if is_begun { self.position.offset } else { FIRST_FRAME_OFFSET };
        while !self.has_ended() {
            let step = self.step(&mut reader, segment, offset).await?;
            match step {
                Ok(next_offset) => offset = next_offset,
                Err(Stop::Unfinished) => break,
                Err(Stop::Damaged(flaw)) => {
                    return Err(self.damage(segment, offset, flaw).into());
                }
            }
        }
        if offset == FIRST_FRAME_OFFSET {
            self.spares.push_back(segment);
            return Ok(());
        }
        let page = reader.slice(self.disk, offset, SECTOR_BYTES).await?;
        self.tail.stopped_at(segment, offset, crate::scan::is_zero(&page));
        Ok(())
    }

    /// Takes in the frame at `offset`; `Ok` is where the next one starts.
    async fn step(
        &mut self,
        reader: &mut SegmentReader,
        segment: Segment,
        offset: u64,
    ) -> Result<Result<u64, Stop>, Error> {
        let page = reader.slice(self.disk, offset, SECTOR_BYTES).await?;
        if page.is_empty() {
            return Ok(Err(Stop::Unfinished));
        }
        let header = match self.chain.header(&page, segment.bytes - offset) {
            Ok(header) => header,
            Err(stop) => return Ok(Err(stop)),
        };
        let frame = reader.slice(self.disk, offset, header.frame_bytes()).await?;
        let records = match self.chain.records(&header, &frame) {
            Ok(records) => records,
            Err(stop) => return Ok(Err(stop)),
        };
        if offset == FIRST_FRAME_OFFSET {
            self.enter(segment)?;
        }
        let is_committed = match self.floor {
            Floor::None => true,
            Floor::At(floor) => header.last_lsn() <= floor,
        };
        let place = Placed::of(&header, segment.number, offset);
        self.replay.frame(&header, place, records, is_committed).map_err(|(lsn, flaw)| {
            let name = self.source(segment).name(segment.number);
            flaw.at(name, segment.number, offset, lsn)
        })?;
        self.chain.advance(&header);
        self.position = Position::behind(&header, segment.number, offset);
        match is_committed {
            true => self.committed = self.position,
            false => self.uncommitted.push(self.position, &header, frame.clone()),
        }
        let (lsn, first) = (header.first_lsn, header.first_stamp);
        self.landmarks.pass(lsn, first, segment.number, offset);
        self.replayed_bytes += header.frame_bytes() as u64;
        if let Some(current) = &mut self.current {
            current.extend(&header);
        }
        self.vouch(header.last_lsn(), header.hash, segment, offset)?;
        let vouched = self.marks.newest.vouches(header.epoch).then_some(header.durable_upto);
        if self.source(segment).is_packed() {
            // Synced with its file, after it had been durable before.
            self.tail.secured(header.last_lsn());
        } else {
            self.tail.read(segment, offset, header.last_lsn(), frame, vouched);
        }
        self.report.frames_read += 1;
        if self.tail.unsecured_bytes() > IN_FLIGHT_BYTES_MAX {
            self.secure().await?;
        }
        self.relieve().await?;
        Ok(Ok(offset + header.frame_bytes() as u64))
    }

    /// The first frame of a segment is there: everything before must be complete.
    fn enter(&mut self, segment: Segment) -> Result<(), Error> {
        if let Some(skipped) = self.spares.front() {
            return Err(self.damage(*skipped, FIRST_FRAME_OFFSET, Flaw::Missing).into());
        }
        if let Some((before, offset)) = self.tail.unclean_end() {
            let flaw = Flaw::Durable("the next segment");
            return Err(self.damage(before, offset, flaw).into());
        }
        self.current = Some(Active::fresh(segment));
        Ok(())
    }

    /// Holds a frame's end against the watermark and the manifest.
    fn vouch(
        &self,
        last_lsn: Lsn,
        hash: celeriant_schema::Hash,
        segment: Segment,
        offset: u64,
    ) -> Result<(), Damage> {
        let noted = (self.marks.newest.durable, self.marks.newest.hash);
        let is_other = |(lsn, noted)| last_lsn == lsn && hash != noted;
        if is_other(noted) || is_other((self.claim.lsn, self.claim.hash)) {
            let name = self.source(segment).name(segment.number);
            return Err(Flaw::Hash.at(name, segment.number, offset, last_lsn));
        }
        Ok(())
    }

    /// The tail may not lie below what was noted as durable.
    fn check_watermark(&self) -> Result<(), Error> {
        let flaw = match self.chain.tip() {
            tip if self.marks.newest.durable > tip => Flaw::Durable("the watermark"),
            tip if self.claim.lsn > tip => Flaw::Durable("the manifest"),
            _ => return Ok(()),
        };
        match self.tail.end() {
            Some((segment, offset)) => Err(self.damage(segment, offset, flaw).into()),
            None => {
                Err(flaw.at(segment_name(1), 1, FIRST_FRAME_OFFSET, self.chain.next_lsn).into())
            }
        }
    }

    fn segment(&self, number: u32) -> Option<Segment> {
        self.sources.get(&number).map(|source| Segment::of(number, source))
    }

    fn source(&self, segment: Segment) -> &Arc<Source> {
        let Some(source) = self.sources.get(&segment.number) else {
            unreachable!("every segment was opened")
        };
        source
    }

    fn damage(&self, segment: Segment, offset: u64, flaw: Flaw) -> Damage {
        let name = self.source(segment).name(segment.number);
        flaw.at(name, segment.number, offset, self.chain.next_lsn)
    }

    async fn finish(mut self) -> Result<Recovered, Error> {
        self.settle_tail().await?;
        let active = self.choose_active().await?;
        self.ensure_room(&active).await?;
        self.note_end().await?;
        let committed = self.committed.lsn;
        self.replay.legs.settle(committed);
        let commits = match self.floor {
            Floor::None => Commits::Durable,
            Floor::At(_) => Commits::Told { end: self.committed, tail: self.uncommitted.ends },
        };
        let log = Log::resume(Resume {
            identity: self.identity,
            settings: self.settings,
            tip: self.position,
            commits,
            replayed_bytes: self.replayed_bytes,
            space: Space::new(active, self.spares, self.sources),
            legs: self.replay.legs,
            landmarks: self.landmarks,
            notes: Notes::new(self.marks.file, self.marks.newest),
        });
        Ok(Recovered {
            log,
            directory: self.replay.directory,
            pending: self.replay.applier.into_pending(),
            tail: self.uncommitted.frames,
            outcomes: self.replay.outcomes,
            max_epoch: self.chain.max_epoch,
            max_stamp: self.chain.last_stamp,
            report: self.report,
        })
    }

    /// Notes what the log is now.
    async fn note_end(&mut self) -> Result<(), Error> {
        let noted = self.marks.newest;
        let note = Watermark {
            durable: self.chain.tip(),
            hash: self.chain.prev_hash,
            committed: self.committed.lsn,
            // From here on frames come that were made elsewhere, of epochs that were led here too.
            made_in: if self.floor == Floor::None { Epoch::default() } else { NOWHERE },
            is_cut: false,
            ..noted
        };
        if note != noted {
            self.marks.note(self.disk, &self.identity, note).await?;
        }
        if noted.is_cut {
            // Into both slots: the cut must never be found again, behind which the log goes on.
            self.marks.note(self.disk, &self.identity, note).await?;
        }
        Ok(())
    }

    /// The segment that takes the next frame: the last with frames, unless that is packed.
    async fn choose_active(&mut self) -> Result<Active, Error> {
        if let Some(active) = self.current.take()
            && !self.source(active.segment).is_packed()
        {
            return Ok(active);
        }
        if self.spares.is_empty() {
            let number = self.position.segment + 1;
            self.report.formatted = number == 1;
            self.make_segment(number).await?;
        }
        let Some(first) = self.spares.pop_front() else { unreachable!("one was just made") };
        Ok(Active::fresh(first))
    }

    /// What a start appends, an `EpochStart` and a `Resolve` for every pending leg, must have a
    /// place.
    async fn ensure_room(&mut self, active: &Active) -> Result<(), Error> {
        let records = EpochStart::LEN + self.replay.legs.unresolved() * Resolve::LEN;
        let needed = (records + 2 * SECTOR_BYTES) as u64;
        let rest = active.segment.bytes - active.next_offset;
        if rest < needed && self.spares.is_empty() {
            self.make_segment(active.segment.number + 1).await?;
        }
        Ok(())
    }

    async fn make_segment(&mut self, number: u32) -> Result<(), Error> {
        let bytes = self.settings.segment_bytes(number);
        let hint = self.chain.next_lsn;
        let segment = files::create_segment(self.disk, &self.identity, number, bytes, hint).await?;
        let note = Watermark {
            segments_made: number,
            durable: self.chain.tip(),
            hash: self.chain.prev_hash,
            ..self.marks.newest
        };
        self.marks.note(self.disk, &self.identity, note).await?;
        self.sources.insert(number, Source::plain(segment.file, bytes));
        self.spares.push_back(segment);
        Ok(())
    }
}

#[cfg(test)]
#[path = "recovery/recovery_test.rs"]
mod tests;

#[cfg(test)]
#[path = "recovery/floor_test.rs"]
mod floor_tests;
