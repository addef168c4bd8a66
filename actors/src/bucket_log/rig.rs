//! For tests: logs of real frames in memory, and a bucket that does everything to its users that it
//! may.

use std::collections::BTreeMap;

use bytes::Bytes;
use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_schema::peer::{FramePlace, Position};
use celeriant_schema::{ClusterId, Epoch, Hash, Lsn, ShardId};
use celeriant_storage::bucket::{
    BucketError, Cause, Completion, Conflict, Done, ETag, Effect as Left, Op, Outcome, Request,
    Token,
};
use celeriant_storage::frame::{FRAME_HEADER_BYTES, FrameHeader};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::slot::FENCE_BYTES;
use crate::clock::Micros;
use crate::replicator::core::Frames;

pub(super) const CLUSTER: ClusterId = ClusterId::new(0xc1);

/// A frame with an intact header; its records are only bytes.
pub(super) fn frame(
    shard: ShardId,
    epoch: u64,
    before: Position,
    records: u32,
    sectors: usize,
    rng: &mut SmallRng,
) -> Frames {
    let mut hash = Hash::ZERO;
    rng.fill(&mut hash.0);
    let end = Position { lsn: before.lsn.plus(records.into()), hash };
    let mut bytes = vec![rng.random::<u8>(); sectors * SECTOR_BYTES];
    let mut at = 0;
    let mut put = |value: &[u8]| {
        bytes[at..at + value.len()].copy_from_slice(value);
        at += value.len();
    };
    put(b"CLRFRM\r\n");
    put(&celeriant_storage::FORMAT.to_le_bytes());
    put(&shard.value().to_le_bytes());
    put(&records.to_le_bytes());
    put(&CLUSTER.value().to_le_bytes());
    let numbers = [epoch, 1, before.lsn.value() + 1, before.lsn.value(), 1, 1];
    numbers.iter().for_each(|number| put(&number.to_le_bytes()));
    let content = sectors * SECTOR_BYTES - FRAME_HEADER_BYTES;
    put(&(content as u32).to_le_bytes());
    put(&0_u32.to_le_bytes());
    put(&before.hash.0);
    put(&hash.0);
    put(&[0; FRAME_HEADER_BYTES - 4 - 152]);
    let checksum = crc32c(&bytes[..FRAME_HEADER_BYTES - 4]);
    bytes[FRAME_HEADER_BYTES - 4..FRAME_HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    Frames { before, end, bytes: bytes.into() }
}

/// Bit by bit: few bytes need it.
fn crc32c(bytes: &[u8]) -> u32 {
    let bits = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bits))
}

/// One shard's log.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct FakeLog {
    pub(super) frames: Vec<Frames>,
}

impl FakeLog {
    pub(super) fn end(&self) -> Position {
        self.frames.last().map(|frame| frame.end).unwrap_or_default()
    }

    /// A new frame at the end.
    pub(super) fn seal(&mut self, shard: ShardId, epoch: u64, rng: &mut SmallRng) -> Frames {
        let sectors = if rng.random_bool(0.05) { 6 } else { rng.random_range(1..3) };
        let records = rng.random_range(1..4);
        let frame = frame(shard, epoch, self.end(), records, sectors, rng);
        self.frames.push(frame.clone());
        frame
    }

    /// Frames behind `after`: about `bytes_max` bytes, at least one.
    pub(super) fn read(&self, after: Lsn, bytes_max: usize) -> Frames {
        let from = self.frames.iter().position(|frame| frame.before.lsn == after);
        let from = from.expect("reads begin where a frame ends");
        let mut bytes = Vec::new();
        let mut end = None;
        for frame in &self.frames[from..] {
            if end.is_some() && bytes.len() + frame.bytes.len() > bytes_max {
                break;
            }
            bytes.extend_from_slice(&frame.bytes);
            end = Some(frame.end);
        }
        let before = self.frames[from].before;
        Frames { before, end: end.expect("one"), bytes: bytes.into() }
    }

    pub(super) fn find(&self, lsn: Lsn) -> Option<FramePlace> {
        let behind = self.frames.iter().find(|frame| frame.end.lsn >= lsn);
        let frame = behind.or(self.frames.last())?;
        let (before, end) = (frame.before, frame.end);
        Some(FramePlace { epoch: Epoch::new(1), before, end })
    }

    /// Whether a frame ends there, with that hash.
    pub(super) fn holds(&self, position: Position) -> bool {
        position == Position::default() || self.frames.iter().any(|frame| frame.end == position)
    }

    pub(super) fn cut(&mut self, to: Position) {
        assert!(self.holds(to), "no frame ends at {to:?}");
        self.frames.retain(|frame| frame.end.lsn <= to.lsn);
    }

    /// Takes whole frames that go on from here.
    pub(super) fn take(&mut self, frames: &Frames) {
        let mut at = 0;
        while at < frames.bytes.len() {
            let header = FrameHeader::decode(&frames.bytes[at..]).expect("a whole frame");
            let place = header.place();
            assert_eq!(place.before, self.end(), "frames go on where the log ends");
            let bytes = frames.bytes.slice(at..at + header.frame_bytes());
            self.frames.push(Frames { before: place.before, end: place.end, bytes });
            at += header.frame_bytes();
        }
        assert_eq!(self.end(), frames.end, "frames end where they say");
    }
}

/// Who asked the bucket.
pub(super) type Asker = usize;

/// How many in a thousand operations go wrong, and everything that is under way.
pub(super) struct FakeBucket {
    pub(super) objects: BTreeMap<String, Bytes>,
    pub(super) trouble: u32,
    pub(super) rng: SmallRng,
    travelling: Vec<(Option<(Asker, Token)>, Op)>,
    answers: Vec<(Asker, Token, Outcome)>,
    /// Every object that was ever made, in order.
    pub(super) made: Vec<String>,
    /// How often a fence found a round in its place.
    pub(super) late_rounds: usize,
}

impl FakeBucket {
    pub(super) fn new(seed: u64, trouble: u32) -> Self {
        Self {
            objects: BTreeMap::new(),
            trouble,
            rng: SmallRng::seed_from_u64(seed),
            travelling: Vec::new(),
            answers: Vec::new(),
            made: Vec::new(),
            late_rounds: 0,
        }
    }

    pub(super) fn start(&mut self, asker: Asker, token: Token, request: Request) {
        self.travelling.push((Some((asker, token)), request.op));
    }

    /// Whether somebody waits for something.
    pub(super) fn is_busy(&self) -> bool {
        !self.travelling.is_empty() || !self.answers.is_empty()
    }

    /// One thing happens: an operation arrives, or an answer does.
    pub(super) fn step(&mut self) -> Option<(Asker, Completion)> {
        let (operations, answers) = (self.travelling.len(), self.answers.len());
        if operations + answers == 0 {
            return None;
        }
        let at = self.rng.random_range(0..operations + answers);
        if at < operations {
            self.arrive(at);
            return None;
        }
        let (asker, token, outcome) = self.answers.swap_remove(at - operations);
        if self.goes_wrong() {
            self.answers.push((asker, token, copy(&outcome)));
        }
        Some((asker, Completion { token, outcome }))
    }

    fn goes_wrong(&mut self) -> bool {
        self.rng.random_ratio(self.trouble, 1000)
    }

    fn arrive(&mut self, at: usize) {
        let (from, op) = self.travelling.swap_remove(at);
        let Some((asker, token)) = from else {
            // Given up long ago, and yet.
            self.execute(&op);
            return;
        };
        let outcome = if self.goes_wrong() { self.ail(&op) } else { Ok(self.execute(&op)) };
        self.answers.push((asker, token, outcome));
    }

    fn ail(&mut self, op: &Op) -> Outcome {
        let lost = |cause| Err(BucketError::lost(op, cause, ""));
        match self.rng.random_range(0..7) {
            0 => Err(BucketError::new(op, Cause::Unreachable, Left::None, "")),
            1 => lost(Cause::Unavailable),
            2 => {
                self.execute(op);
                lost(Cause::Lost)
            }
            3 if op.mutates() => {
                // Arrives when nobody thinks of it any more.
                self.travelling.push((None, op.clone()));
                lost(Cause::Deadline)
            }
            4 if op.mutates() => Ok(Done::Conflict(Conflict::Concurrent)),
            5 if op.mutates() => {
                self.execute(op);
                Ok(Done::Conflict(Conflict::Precondition))
            }
            _ => lost(Cause::Deadline),
        }
    }

    fn execute(&mut self, op: &Op) -> Done {
        let etag = ETag::new("\"1\"");
        match op {
            Op::Get { key } => match self.objects.get(key.as_str()) {
                Some(body) => Done::Found { etag, body: body.clone() },
                None => Done::Absent,
            },
            Op::PutIfAbsent { key, body } => {
                if let Some(found) = self.objects.get(key.as_str()) {
                    let is_late = body.len() == FENCE_BYTES && found.len() > FENCE_BYTES;
                    self.late_rounds += usize::from(is_late);
                    return Done::Conflict(Conflict::Precondition);
                }
                self.made.push(key.as_str().to_owned());
                self.objects.insert(key.as_str().to_owned(), body.clone());
                Done::Put { etag }
            }
            Op::PutIfMatch { .. } => panic!("slots are never changed"),
            Op::List { prefix, after } => self.list(prefix, after.as_deref()),
            Op::Delete { key } => {
                self.objects.remove(key.as_str());
                Done::Deleted
            }
        }
    }

    /// Three names a page.
    fn list(&self, prefix: &str, after: Option<&str>) -> Done {
        let names = self.objects.iter().filter(|(name, _)| name.starts_with(prefix));
        let mut rest = names.filter(|(name, _)| after.is_none_or(|after| name.as_str() > after));
        let objects: Vec<_> =
            rest.by_ref().take(3).map(|(name, body)| (name.clone(), body.len() as u64)).collect();
        Done::Listed { objects, more: rest.next().is_some() }
    }
}

/// Outcomes are not copied anywhere else.
fn copy(outcome: &Outcome) -> Outcome {
    match outcome {
        Ok(done) => Ok(done.clone()),
        Err(error) => Err(error.clone()),
    }
}

/// Short waits, small rounds.
pub(super) fn settings() -> super::Settings {
    const MS: Micros = 1_000;
    super::Settings { round_bytes: 16 << 10, retry: (MS, 20 * MS), ..super::Settings::default() }
}
