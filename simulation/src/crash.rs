//! Every I/O of a recorded workload is the last one before a crash, in every way a crash can end
//! it.
//!
//! ```text
//!   workload ──► operation n starts ──► power goes ──► each operation in flight:
//!                 dropped | kept | all torn | one dropped | one torn | one kept
//!            ──► recovery, to the end             → nothing that was reported durable is missing,
//!                                                   nothing that was reported erased is there
//!            ──► recovery, cut at its operation m → the same log after the next recovery
//! ```
//! One shard, straight on its log, without a node: what was reported durable is what the log
//! reported. Segments are packed meanwhile, without some of their events.

mod compaction;

use std::collections::BTreeMap;

use celeriant_schema::hash::chain_start;
use celeriant_schema::record::{BatchDraft, EncodedBatch, EpochStart, Resolve, WriteDraft};
use celeriant_schema::{
    AggregateKey, BootId, ClientId, ClusterId, ContentType, EncodedEvents, Epoch, Event, Guard,
    Hash, Lsn, Sequence, ShardId, Stamp, TxnId, Version,
};
use celeriant_storage::compact::Compactor;
use celeriant_storage::directory::{AppliedBatch, BatchLocation, Directory};
use celeriant_storage::disk::{Disk, Op, Token};
use celeriant_storage::log::DurableFrame;
use celeriant_storage::recovery::{Recovered, recover};
use celeriant_storage::{DirectoryBudget, Error, Identity, Settings};

use crate::disk::{Fate, Files, Flight, Media};
use crate::invariants::{Violations, i17_recovery_is_idempotent as i17};
use crate::mark;
use crate::reopen::{LogState, reopen, reopen_until, run_to_end};
use crate::rng::Rng;
use crate::walk::walk;
use compaction::{Erasing, Missing};

/// How far the harness goes.
#[derive(Clone, Copy, Debug)]
pub struct Thoroughness {
    /// Records of the workload.
    pub records: u64,
    /// Crash at every so many-th operation.
    pub every: u64,
    /// Crash inside the recovery of every so many-th image; 0 = never.
    pub recovery_every: u64,
}

/// What the harness did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Operations of the workload at which power went.
    pub operations: u64,
    /// Images recovered.
    pub images: u64,
    /// Recoveries cut by a crash of their own, and recovered again.
    pub recoveries_cut: u64,
    /// Images in which a segment was there twice.
    pub half_packed: u64,
    /// Events that were reported erased, in all images.
    pub erased: u64,
}

/// What a process of the workload was told before power went.
#[derive(Clone, Debug, Default)]
struct Told {
    durable: Lsn,
    batches: Vec<ToldBatch>,
    missing: Missing,
}

/// A batch that was reported durable.
#[derive(Clone, Debug)]
struct ToldBatch {
    key: AggregateKey,
    /// Which record of the workload it is: its events' payloads say so.
    number: u64,
    first_version: Version,
    last_version: Version,
    hash: Hash,
}

/// Whose log it is.
pub fn identity() -> Identity {
    Identity { cluster: ClusterId::new(77), shard: ShardId::new(3) }
}

/// Small segments and a small directory, so that a short workload rotates several, and flushes and
/// merges runs.
pub fn settings() -> Settings {
    Settings {
        write_depth: 3,
        segment_bytes_first: 32 << 10,
        segment_bytes_max: 32 << 10,
        frame_bytes_soft: 8 << 10,
        fill_bytes: 0,
        directory: DirectoryBudget { memtable_bytes: 8 << 10, cache_bytes: 32 << 10 },
        checkpoint_bytes: 16 << 10,
        compaction_bytes: 0,
    }
}

/// Crashes everywhere; what must not be goes to `violations`.
pub fn crash_everywhere(thoroughness: Thoroughness, violations: &Violations) -> Tally {
    let mut tally = Tally::default();
    let mut operation = 1;
    while violations.none() {
        let media = Media::alone(5, Files::default());
        media.power().trip_at(operation);
        let told = work(&media, thoroughness.records, violations);
        if !media.power().is_off() {
            break;
        }
        tally.operations += 1;
        try_every_end(&media, &told, thoroughness, &mut tally, violations);
        operation += thoroughness.every;
    }
    tally
}

/// The image of a whole workload, everything durable and the process gone.
pub fn finished(records: u64) -> Files {
    let media = Media::alone(5, Files::default());
    work(&media, records, &Violations::default());
    media.crash(&mut |_| Fate::Keep);
    media.image()
}

fn try_every_end(
    media: &Media,
    told: &Told,
    thoroughness: Thoroughness,
    tally: &mut Tally,
    violations: &Violations,
) {
    for end in ends(media.in_flight().len()) {
        let (files, what) = end.of(media);
        tally.images += 1;
        tally.half_packed += u64::from(files.being_packed() > 0);
        tally.erased += told.missing.erased();
        let when = format!("operation {}, {what}", tally.operations);
        let Some(state) = check_image(&files, told, &when, violations) else { return };
        let cut = thoroughness.recovery_every;
        if cut > 0 && tally.images.is_multiple_of(cut) {
            tally.recoveries_cut += cut_recovery(&files, &state, &when, violations);
        }
    }
}

/// The image opens, and everything that was reported durable is there.
fn check_image(
    files: &Files,
    told: &Told,
    when: &str,
    violations: &Violations,
) -> Option<LogState> {
    let (left, recovered, state) = match reopen(files, identity(), &settings()) {
        Ok(recovered) => recovered,
        Err(error) => {
            violations.add("crash", format_args!("{when}: does not open: {error}"));
            return None;
        }
    };
    violations.check("crash", recovered.log.durable() >= told.durable, || {
        let durable = recovered.log.durable();
        format!("{when}: {} was reported durable, {durable} is there", told.durable)
    });
    let frames = walk(&left, &identity());
    let there: BTreeMap<(AggregateKey, Version), Hash> = frames
        .iter()
        .flat_map(|frame| frame.events().map(|(k, v, h)| ((k.clone(), v), h)).collect::<Vec<_>>())
        .collect();
    for ToldBatch { key, last_version: version, hash, .. } in &told.batches {
        let found = there.get(&(key.clone(), *version));
        violations.check("crash", found == Some(hash), || {
            format!("{when}: {key} version {version} was reported durable, there is {found:?}")
        });
    }
    told.missing.check_frames(&frames, &told.batches, when, violations);
    told.missing.check_files(files, when, violations);
    i17::expect(&left, identity(), &settings(), &state, when, violations);
    Some(state)
}

/// Cuts the recovery of an image at each of its operations.
fn cut_recovery(files: &Files, state: &LogState, when: &str, violations: &Violations) -> u64 {
    let mut cuts = 0;
    let mut rng = Rng::new(11);
    for operation in 1.. {
        for end in [Fate::Drop, Fate::Keep, Fate::Tear(rng.number())] {
            let fate = &mut |_: &Flight| end.clone();
            let Some(left) = reopen_until(files, identity(), &settings(), operation, fate) else {
                return cuts;
            };
            cuts += 1;
            let when = format!("{when}, recovery cut at its operation {operation} with {end:?}");
            i17::expect(&left, identity(), &settings(), state, &when, violations);
        }
    }
    cuts
}

/// How a crash ends what is in flight.
#[derive(Clone, Copy, Debug)]
enum End {
    Drop,
    Keep,
    Tear,
    DropOnly(usize),
    TearOnly(usize, u64),
    KeepOnly(usize),
}

fn ends(in_flight: usize) -> Vec<End> {
    let mut ends = vec![End::Drop, End::Keep, End::Tear];
    if in_flight > 1 {
        ends.extend((0..in_flight).map(End::DropOnly));
        ends.extend((0..in_flight).map(End::KeepOnly));
    }
    for index in 0..in_flight {
        ends.extend([1, 0b10, 0xaaaa_aaaa_aaaa_aaaa, !1].map(|mask| End::TearOnly(index, mask)));
    }
    ends
}

impl End {
    /// The image that it leaves of `media`, which stays as it is.
    fn of(self, media: &Media) -> (Files, String) {
        let mut rng = Rng::new(3);
        let mut index = 0;
        let files = media.image_after(&mut |_| {
            let this = index;
            index += 1;
            match self {
                Self::Drop => Fate::Drop,
                Self::Keep => Fate::Keep,
                Self::Tear => Fate::Tear(rng.number()),
                Self::DropOnly(one) if one == this => Fate::Drop,
                Self::TearOnly(one, mask) if one == this => Fate::Tear(mask),
                Self::KeepOnly(one) if one != this => Fate::Drop,
                Self::DropOnly(_) | Self::TearOnly(..) | Self::KeepOnly(_) => Fate::Keep,
            }
        });
        (files, format!("{self:?} of {:?}", media.in_flight()))
    }
}

/// The workload: a process that writes, legs and their decisions among it, and ends early when
/// power goes.
fn work(media: &Media, records: u64, violations: &Violations) -> Told {
    let mut disk = media.attach();
    match run_to_end(recover(&mut disk, identity(), &settings())) {
        Some(Ok(recovered)) => Process::new(recovered, disk).run(records, violations),
        Some(Err(error)) => {
            violations.add("crash", format_args!("an empty folder does not open: {error}"));
            Told::default()
        }
        None => Told::default(),
    }
}

struct Process<D> {
    recovered: Recovered,
    disk: D,
    ops: Vec<(Token, Op)>,
    stamp: u64,
    told: Told,
    heads: BTreeMap<AggregateKey, (Version, Hash)>,
    /// Batches by lsn, to be applied when their frame is durable.
    pending: BTreeMap<Lsn, Applied>,
    /// In the log, not decided; applied when they are.
    legs: Vec<Leg>,
    compactor: Compactor,
    erasing: Erasing,
}

struct Leg {
    txn: TxnId,
    lsn: Lsn,
    key: AggregateKey,
    /// Once it is durable.
    batch: Option<AppliedBatch>,
}

struct Applied {
    record_offset: u32,
    batch: EncodedBatch,
    key: AggregateKey,
    number: u64,
    draft: AppliedBatch,
}

impl<D: Disk> Process<D> {
    fn new(recovered: Recovered, disk: D) -> Self {
        let (heads, pending) = (BTreeMap::new(), BTreeMap::new());
        let told = Told { durable: recovered.log.durable(), ..Told::default() };
        Self {
            recovered,
            disk,
            ops: Vec::new(),
            stamp: 0,
            told,
            heads,
            pending,
            legs: Vec::new(),
            compactor: Compactor::new(identity()),
            erasing: Erasing::default(),
        }
    }

    fn run(mut self, records: u64, violations: &Violations) -> Told {
        let mut rng = Rng::new(21);
        self.recovered.log.lead(Epoch::new(1), BootId::new(1));
        let stamp = self.stamps(1);
        let start =
            EpochStart { epoch: Epoch::new(1), boot: BootId::new(1), server_time: 0, stamp };
        self.recovered.log.append_epoch_start(&start);
        for number in 0..records {
            self.append(number, &mut rng);
            self.perhaps_pack(&mut rng);
            self.recovered.log.pump(&mut self.ops);
            self.start();
            // Now and then everything comes home, else several frames stay in flight.
            let wanted = if rng.chance(200) { usize::MAX } else { rng.below(3) as usize };
            if let Err(error) = self.complete(wanted) {
                violations.add("crash", format_args!("the workload failed: {error}"));
                return self.told;
            }
            if rng.chance(100) {
                self.recovered.log.note_watermark(&mut self.ops);
                self.start();
            }
        }
        self.resolve();
        if let Err(error) = self.complete(usize::MAX) {
            violations.add("crash", format_args!("the workload failed: {error}"));
        }
        self.told
    }

    fn stamps(&mut self, count: u64) -> Stamp {
        self.stamp += count;
        Stamp::new(self.stamp + 1 - count)
    }

    fn append(&mut self, number: u64, rng: &mut Rng) {
        if rng.chance(150) {
            self.resolve();
        }
        let key = crate::workload::Workload::key(rng.below(5));
        if self.legs.iter().any(|leg| leg.key == key) {
            return;
        }
        let (version, hash) =
            self.heads.get(&key).copied().unwrap_or((Version::NONE, chain_start(&key)));
        let (events, leg) = (events(number, rng), rng.chance(200));
        let counter = if leg { key_number(&key) } else { 1_000 + number };
        let write_id =
            TxnId { epoch: Epoch::new(1 + u64::from(leg) * number), boot: BootId::new(1), counter };
        let stamp = self.stamps(events.len() as u64);
        let batches = [BatchDraft {
            key: &key,
            guard: Guard::Any,
            sequence: Some(Sequence::new(number + 1)),
            first_version: version.next(),
            prev_hash: hash,
            events: &events,
            retention: None,
        }];
        let participants = [ShardId::new(3), ShardId::new(4)];
        let draft = WriteDraft {
            client_id: ClientId::new(5),
            write_id,
            write_hash: Hash([1; 32]),
            server_time: 9,
            stamp,
            leg: leg.then_some(&participants[..]),
            batches: &batches,
        };
        let log = &self.recovered.log;
        if self.recovered.directory.is_full() || !log.fits(draft.meta_len(), draft.blob_len()) {
            return;
        }
        let mut encoded = Vec::new();
        let appended = self.recovered.log.append_write(&draft, &mut encoded);
        let batch = encoded.remove(0);
        self.heads.insert(key.clone(), (batch.last_version, batch.hash));
        let last_stamp = Stamp::new(self.stamp);
        let applied = AppliedBatch {
            first_version: batch.first_version,
            last_version: batch.last_version,
            hash: batch.hash,
            server_time: 9,
            stamp,
            last_stamp,
            write_stamp: last_stamp,
            client_id: ClientId::new(5),
            sequence: Some(Sequence::new(number + 1)),
            write_hash: Hash([1; 32]),
            retention: None,
            location: BatchLocation {
                segment: 0,
                frame_offset: 0,
                frame_bytes: 0,
                record_offset: 0,
                batch_offset: 0,
            },
        };
        let (record_offset, lsn) = (appended.record_offset, appended.lsn);
        if leg {
            self.legs.push(Leg { txn: write_id, lsn, key: key.clone(), batch: None });
        }
        let applied = Applied { record_offset, batch, key, number, draft: applied };
        self.pending.insert(lsn, applied);
    }

    /// Decides every leg that is durable: commit.
    fn resolve(&mut self) {
        while let Some(batch) = self.legs.first().and_then(|leg| leg.batch) {
            if !self.recovered.log.fits_resolve() {
                return;
            }
            let Leg { txn, lsn: leg_lsn, key, .. } = self.legs.remove(0);
            self.recovered.directory.apply(&key, &batch);
            self.recovered.directory.note_outcome(txn, leg_lsn, true);
            let stamp = self.stamps(1);
            self.recovered.log.append_resolve(&Resolve { txn, commit: true, leg_lsn, stamp });
        }
        self.recovered.log.pump(&mut self.ops);
        self.start();
    }

    fn start(&mut self) {
        for (token, op) in self.ops.drain(..) {
            self.disk.start(token, op);
        }
    }

    /// Takes up to `wanted` completions, or all there are.
    fn complete(&mut self, wanted: usize) -> Result<(), Error> {
        for _ in 0..wanted {
            let next = run_to_end(std::future::poll_fn(|cx| self.disk.poll_complete(cx)));
            let Some(completion) = next else { return Ok(()) };
            let Recovered { log, directory, .. } = &mut self.recovered;
            if Directory::owns(completion.token) {
                directory.complete(completion, &mut self.ops)?;
            } else if Compactor::owns(completion.token) {
                if let Some(outcome) = self.compactor.complete(completion, log)? {
                    self.erasing.done(outcome, &mut self.told.missing);
                }
            } else {
                for frame in log.complete(completion, &mut self.ops)?.frames {
                    self.durable(&frame);
                }
            }
            let Recovered { log, directory, .. } = &mut self.recovered;
            directory.maintain(log, &mut self.ops);
            log.pump(&mut self.ops);
            self.compactor.advance(&mut self.ops);
            self.start();
        }
        Ok(())
    }

    /// A frame is reported durable: from here on it must never be missing.
    fn durable(&mut self, frame: &DurableFrame) {
        self.told.durable = frame.last_lsn;
        let rest = self.pending.split_off(&frame.last_lsn.next());
        for (lsn, applied) in std::mem::replace(&mut self.pending, rest) {
            let Applied { record_offset, batch, key, number, mut draft } = applied;
            draft.location = BatchLocation {
                segment: frame.segment,
                frame_offset: frame.frame_offset,
                frame_bytes: frame.frame_bytes,
                record_offset,
                batch_offset: batch.offset,
            };
            match self.legs.iter_mut().find(|leg| leg.lsn == lsn) {
                Some(leg) => leg.batch = Some(draft),
                None => self.recovered.directory.apply(&key, &draft),
            }
            let EncodedBatch { first_version, last_version, hash, .. } = batch;
            let told = ToldBatch { key, number, first_version, last_version, hash };
            self.erasing.note(&told, draft.location);
            self.told.batches.push(told);
        }
    }
}

fn key_number(key: &AggregateKey) -> u64 {
    key.id().bytes().map(u64::from).sum()
}

fn events(number: u64, rng: &mut Rng) -> EncodedEvents {
    let large = rng.chance(100);
    let events: Vec<Event> = (0..rng.between(1, 3) as usize)
        .map(|index| {
            let len = rng.below(if large { 4_000 } else { 200 }) as usize;
            let payload = mark::payload((number as usize, 0, index), len);
            Event::plain("T", ContentType::Bytes, payload)
        })
        .collect();
    match EncodedEvents::encode(&events) {
        Ok(encoded) => encoded,
        Err(refusal) => panic!("legal events are refused: {refusal}"),
    }
}

#[cfg(test)]
mod crash_test;
