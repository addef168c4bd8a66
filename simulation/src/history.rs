//! What is in the logs in the end: every batch of every aggregate, also those that were deleted or
//! trimmed since and that no reader sees any more.
//!
//! ```text
//! images ──► frames that continue each other ──► writes, and legs that were decided to commit
//!                 with what compaction erased from them put back
//!   batch batch tombstone batch …        one aggregate, in the order of its versions and stamps
//!  0     1     2         3     4         steps: each is where the aggregate once stood
//! ```
//! A step says more than a version: what takes away moves none.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use bytes::Bytes;
use celeriant_schema::event::EventBody;
use celeriant_schema::record::view::StoredEvent;
use celeriant_schema::record::{BatchView, Record, WriteRecord};
use celeriant_schema::{
    AggregateKey, AggregateReceipt, BatchHeader, ClientId, EventId, Guard, Hash, Member, ReadBatch,
    ReadEvent, Refusal, Retention, Sequence, Stamp, Version, WriteId,
};
use celeriant_storage::Identity;

use crate::disk::Files;
use crate::invariants::{Violations, erasure};
use crate::ledger::{OperationId, untag};
use crate::originals::Originals;
use crate::walk::{Walked, log};

/// How many batches of an aggregate count.
pub type Step = usize;

/// What a reader is shown of each aggregate that has anything to show.
pub type Shown = BTreeMap<AggregateKey, Vec<ReadBatch>>;

/// One batch of one aggregate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Batch {
    /// What a page says once for all of its events.
    pub header: BatchHeader,
    /// Its events, all of them.
    pub events: Vec<ReadEvent>,
    /// What it takes away; then it has no events.
    pub retention: Option<Retention>,
    /// Chain hash after it.
    pub hash: Hash,
    /// Operation that put it there.
    pub origin: Option<OperationId>,
    /// Where its aggregate stands after it.
    pub after: Standing,
}

impl Batch {
    fn of(record: &WriteRecord, view: &BatchView, blobs: &Bytes) -> Self {
        let header = BatchHeader {
            first_version: view.first_version,
            last_version: view.last_version,
            client_id: record.client_id,
            sequence: view.sequence,
            server_time: record.server_time,
            stamp: view.stamp,
            write_id: record.write_id,
        };
        let first = view.first_version.value();
        let events = view.events(blobs).map_while(Result::ok).enumerate().map(|(at, event)| {
            let version = Version::new(first + at as u64);
            ReadEvent { version, hash: event.hash, body: event.body() }
        });
        let events: Vec<ReadEvent> = events.collect();
        let id = events.first().and_then(|event| EventBody::new(&event.body).ok()?.event_id());
        // Where there are no events, the client's name may say it.
        let id = id.or_else(|| events.is_empty().then(|| EventId::new(record.client_id.value())));
        let origin = id.and_then(untag).map(|(operation, ..)| operation);
        let (retention, hash, after) = (view.retention, view.hash, Standing::default());
        Self { header, events, retention, hash, origin, after }
    }

    /// Stamp of its last event.
    pub fn last_stamp(&self) -> Stamp {
        Stamp::new(self.header.stamp.value() + (self.events.len() as u64).saturating_sub(1))
    }

    /// Its events' canonical bytes.
    pub fn bodies(&self) -> impl Iterator<Item = &Bytes> {
        self.events.iter().map(|event| &event.body)
    }

    /// Whether writers' sequences start at 1 again behind it.
    pub fn forgets(&self) -> bool {
        matches!(self.retention, Some(Retention::Delete { forget_sequences: true, .. }))
    }
}

/// Where an aggregate stands (semantics.md §2 and §9).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Standing {
    /// Newest version.
    pub version: Version,
    /// Deleted and not recreated.
    pub deleted: bool,
    /// Deleted, and not to be recreated.
    pub is_final: bool,
    /// Lowest version that can be read.
    pub first_available: Version,
}

impl Default for Standing {
    fn default() -> Self {
        let first_available = Version::NONE.next();
        Self { version: Version::NONE, deleted: false, is_final: false, first_available }
    }
}

impl Standing {
    /// Behind one more batch.
    fn behind(self, batch: &Batch) -> Self {
        let version = batch.header.last_version;
        let end = version.next();
        let (deleted, is_final, first) = match batch.retention {
            None => (false, false, Version::NONE),
            Some(Retention::Delete { recreate, .. }) => (true, !recreate, end),
            Some(Retention::Trim { keep_from }) => (false, false, keep_from.min(end)),
        };
        Self { version, deleted, is_final, first_available: self.first_available.max(first) }
    }

    /// Whether a guard passes.
    pub fn passes(&self, guard: Guard) -> bool {
        let exists = self.version > Version::NONE && !self.deleted;
        match guard {
            Guard::Any => true,
            Guard::NoStream => !exists,
            Guard::Exists => exists,
            Guard::Exact(expected) => self.version == expected,
        }
    }

    /// Why it takes no such change, whatever the guard says.
    pub fn bars(&self, member: &Member) -> Option<Refusal> {
        let key = member.key.clone();
        match member.retention {
            Some(_) if self.version == Version::NONE => Some(Refusal::NotFound { key }),
            Some(Retention::Trim { .. }) if self.deleted => Some(Refusal::Deleted { key }),
            None if self.is_final && member.changes() => Some(Refusal::Deleted { key }),
            _ => None,
        }
    }
}

/// All aggregates with their batches in version order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// By key.
    pub aggregates: BTreeMap<AggregateKey, Vec<Batch>>,
    /// The store's own.
    pub own: BTreeMap<AggregateKey, Vec<Batch>>,
}

/// The batches of one attempt of a write.
pub type Landing<'a> = Vec<(&'a AggregateKey, &'a Batch)>;

impl History {
    /// What the logs of all shards of a node say, at rest, as they were written: what is missing in
    /// them since must be what was taken away.
    pub fn of_logs<'f>(
        images: impl Iterator<Item = (Identity, &'f Files)>,
        originals: &Originals,
        violations: &Violations,
    ) -> Self {
        let (mut frames, mut erased) = (Vec::new(), Vec::new());
        for (identity, files) in images {
            for frame in log(files, &identity) {
                let own = |(key, version, event): (&AggregateKey, _, StoredEvent)| {
                    event.is_erased().then(|| (key.detached(), version, event.hash))
                };
                if frame.is_compacted {
                    erased.extend(frame.stored().filter_map(own));
                }
                frames.push(originals.whole(identity.shard, frame, violations));
            }
        }
        let history = Self::of_frames(&frames);
        erasure::check_erased(&erased, &history, violations);
        history
    }

    /// What all logs of a node say, frame by frame.
    pub fn of_frames(frames: &[Walked]) -> Self {
        let decisions = Decisions::of(frames);
        let mut history = Self::default();
        for (frame, record) in
            frames.iter().flat_map(|frame| frame.writes().map(move |it| (frame, it)))
        {
            let is_leg = !record.participants.is_empty();
            if is_leg && !decisions.commits(record.write_id) {
                continue;
            }
            for view in &record.batches {
                history.push(&view.key, Batch::of(record, view, frame.blobs()));
            }
        }
        history.complete();
        history
    }

    fn push(&mut self, key: &AggregateKey, batch: Batch) {
        let of = if key.is_system() { &mut self.own } else { &mut self.aggregates };
        of.entry(key.detached()).or_default().push(batch);
    }

    /// What follows from everything before, or from the rest of the same write.
    fn complete(&mut self) {
        let all = self.aggregates.values().flatten();
        let origins: BTreeMap<WriteId, OperationId> =
            all.filter_map(|batch| Some((batch.header.write_id, batch.origin?))).collect();
        for batches in self.aggregates.values_mut().chain(self.own.values_mut()) {
            let mut standing = Standing::default();
            for batch in batches {
                standing = standing.behind(batch);
                batch.after = standing;
                batch.origin = batch.origin.or(origins.get(&batch.header.write_id).copied());
            }
        }
    }

    /// What a reader is shown in the end.
    pub fn shown(&self) -> Shown {
        let all = self.aggregates.iter().chain(&self.own);
        let shown = all.map(|(key, batches)| {
            let first = self.standing(key, batches.len()).first_available;
            let batches = batches.iter().filter_map(|batch| {
                let mut events = batch.events.clone();
                events.retain(|event| event.version >= first);
                (!events.is_empty()).then(|| ReadBatch { header: batch.header.clone(), events })
            });
            (key.clone(), batches.collect::<Vec<_>>())
        });
        shown.filter(|(_, batches)| !batches.is_empty()).collect()
    }

    /// Readers are shown what the logs say, without what was taken away.
    pub fn check_shown(&self, shown: &Shown, violations: &Violations) {
        let expected = self.shown();
        for key in expected.keys().chain(shown.keys()) {
            let (due, found) = (expected.get(key), shown.get(key));
            violations.check("reads", due == found, || {
                let count = |batches: Option<&Vec<ReadBatch>>| batches.map_or(0, Vec::len);
                format!("{key} shows {} batches, of {} in the logs", count(found), count(due))
            });
        }
    }

    /// The batches of an aggregate; none if it never existed.
    pub fn batches(&self, key: &AggregateKey) -> &[Batch] {
        let of = if key.is_system() { &self.own } else { &self.aggregates };
        of.get(key).map_or(&[], Vec::as_slice)
    }

    /// Newest version of an aggregate.
    pub fn version(&self, key: &AggregateKey) -> Version {
        self.batches(key).last().map_or(Version::NONE, |batch| batch.header.last_version)
    }

    /// Where an aggregate stood.
    pub fn standing(&self, key: &AggregateKey, step: Step) -> Standing {
        let last = step.checked_sub(1).and_then(|at| self.batches(key).get(at));
        last.map_or_else(Standing::default, |batch| batch.after)
    }

    /// Where an aggregate was when everything up to `stamp` was in.
    pub fn step_at(&self, key: &AggregateKey, stamp: Stamp) -> Step {
        self.batches(key).partition_point(|batch| batch.header.stamp <= stamp)
    }

    /// The first step at which an aggregate stood like that.
    pub fn first_step(&self, key: &AggregateKey, fits: impl Fn(&Standing) -> bool) -> Option<Step> {
        (0..=self.batches(key).len()).find(|step| fits(&self.standing(key, *step)))
    }

    /// The batch that ends with the event at `version`.
    pub fn ending_at(&self, key: &AggregateKey, version: Version) -> Option<&Batch> {
        let batches = self.batches(key);
        let at = batches.partition_point(|batch| batch.header.last_version < version);
        batches.get(at).filter(|batch| batch.header.last_version == version)
    }

    /// An event, also one that was taken away.
    pub fn event(&self, key: &AggregateKey, version: Version) -> Option<&ReadEvent> {
        let batches = self.batches(key);
        let at = batches.partition_point(|batch| batch.header.last_version < version);
        // Behind it there may be what only takes away, at the same version.
        let batch = batches.get(at)?;
        batch.events.iter().find(|event| event.version == version)
    }

    /// What a part of a receipt, of a write with that largest stamp, speaks of: the step behind it,
    /// and the batch.
    pub fn landed(&self, part: &AggregateReceipt, stamp: Stamp) -> Option<(Step, &Batch)> {
        let batches = self.batches(&part.key);
        let at = match part.first_version <= part.last_version {
            true => batches.partition_point(|it| it.header.last_version < part.last_version),
            // Of several at one version, the last that the write can be.
            false => batches.iter().rposition(|it| {
                it.header.first_version == part.first_version
                    && it.retention.is_some()
                    && it.header.stamp <= stamp
            })?,
        };
        let found = batches.get(at).filter(|it| it.header.last_version == part.last_version);
        found.map(|batch| (at + 1, batch))
    }

    /// The step at which the event with `version`, there since `step`, was taken away.
    pub fn gone_at(&self, key: &AggregateKey, step: Step, version: Version) -> Option<Step> {
        let later = self.batches(key).iter().enumerate().skip(step);
        let mut taken = later.filter(|(_, batch)| batch.after.first_available > version);
        taken.next().map(|(at, _)| at + 1)
    }

    /// The highest sequence of a client at each of `steps`; 0 = none.
    pub fn sequences(
        &self,
        key: &AggregateKey,
        client: ClientId,
        steps: RangeInclusive<Step>,
    ) -> impl Iterator<Item = Sequence> {
        let mut highest = Sequence::default();
        let later = self.batches(key).iter().map(move |batch| {
            if batch.forgets() {
                highest = Sequence::default();
            }
            let own = batch.header.sequence.filter(|_| batch.header.client_id == client);
            highest = own.map_or(highest, |sequence| sequence.max(highest));
            highest
        });
        let each = std::iter::once(Sequence::default()).chain(later);
        each.skip(*steps.start()).take((steps.end() + 1).saturating_sub(*steps.start()))
    }

    /// How often the sequences of an aggregate's writers were forgotten.
    pub fn times_forgotten(&self, key: &AggregateKey) -> usize {
        self.batches(key).iter().filter(|batch| batch.forgets()).count()
    }

    /// All batches by the attempt that wrote them.
    pub fn landings(&self) -> BTreeMap<WriteId, Landing<'_>> {
        let mut landings: BTreeMap<WriteId, Landing<'_>> = BTreeMap::new();
        for (key, batches) in &self.aggregates {
            for batch in batches {
                landings.entry(batch.header.write_id).or_default().push((key, batch));
            }
        }
        landings
    }

    /// How many events there are.
    pub fn events(&self) -> u64 {
        let batches = self.aggregates.values().flatten();
        batches.map(|batch| batch.events.len() as u64).sum()
    }
}

/// Which writes over several shards count. Some have no decision in the log yet: those of which
/// every leg is there.
#[derive(Default)]
struct Decisions {
    decided: BTreeMap<WriteId, bool>,
    /// Legs that are not there.
    missing: BTreeMap<WriteId, usize>,
}

impl Decisions {
    fn of(frames: &[Walked]) -> Self {
        let mut decisions = Self::default();
        for (_, record, _) in frames.iter().flat_map(|frame| &frame.records) {
            match record {
                Record::Resolve(resolve) => {
                    decisions.decided.insert(resolve.txn, resolve.commit);
                }
                Record::Leg(leg) => {
                    let missing = decisions.missing.entry(leg.write_id);
                    *missing.or_insert(leg.participants.len()) -= 1;
                }
                Record::Write(_) | Record::EpochStart(_) => {}
            }
        }
        decisions
    }

    fn commits(&self, write: WriteId) -> bool {
        let is_whole = || self.missing.get(&write) == Some(&0);
        self.decided.get(&write).copied().unwrap_or_else(is_whole)
    }
}
