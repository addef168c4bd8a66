//! A shard reduced to what its log needs, and a model of what the log must say after a crash.

mod check;
mod compaction;
mod follower;

use std::collections::{BTreeMap, BTreeSet};

use celeriant_schema::hash::chain_start;
use celeriant_schema::record::{BatchDraft, EncodedBatch, EpochStart, Resolve, WriteDraft};
use celeriant_schema::{
    AggregateKey, BootId, ClientId, ClusterId, EncodedEvents, Epoch, Event, Guard, Hash, Lsn,
    SchemaVersion, Sequence, ShardId, Stamp, TxnId, Version, WriteId,
};

use super::{Dice, Fate, MemoryDisk, now};
pub(crate) use compaction::Erasures;
pub(crate) use follower::{Feed, Follower};

use crate::compact::Compactor;
use crate::directory::{
    AppliedBatch, BatchLocation, ClientSequences, Directory, Fault, Head, Missing, Pins,
};
use crate::disk::{Completion, Disk};
use crate::error::Error;
use crate::frame;
use crate::log::{DurableFrame, Log};
use crate::recovery::{Recovered, Report, recover};
use crate::{DirectoryBudget, Identity, Settings};

pub(crate) fn identity() -> Identity {
    Identity { cluster: ClusterId::new(0xc0ffee << 64 | 0xce11), shard: ShardId::new(3) }
}

/// Segments of 64 to 256 KiB, and a directory that is written out every hundred batches.
pub(crate) fn small_settings() -> Settings {
    Settings {
        write_depth: 4,
        segment_bytes_first: 64 << 10,
        segment_bytes_max: 256 << 10,
        frame_bytes_soft: 16 << 10,
        fill_bytes: 0,
        directory: DirectoryBudget { memtable_bytes: 48 << 10, cache_bytes: 64 << 10 },
        checkpoint_bytes: 96 << 10,
        compaction_bytes: 1 << 20,
    }
}

pub(crate) fn key(number: u64) -> AggregateKey {
    AggregateKey::new("acme", "order", &format!("o-{number}")).expect("a valid key")
}

/// One record as it was appended.
#[derive(Clone, Debug)]
enum Action {
    Write(Vec<(AggregateKey, AppliedBatch)>),
    Leg(TxnId, Vec<(AggregateKey, AppliedBatch)>),
    Resolve { leg_lsn: Lsn, commit: bool, stamp: Stamp },
    Start,
}

/// What the log must say of one aggregate.
#[derive(Clone, Debug, Default, PartialEq)]
struct Standing {
    version: Version,
    hash: Option<Hash>,
    last: Option<AppliedBatch>,
    held_by: Option<Lsn>,
}

/// A folder and what was appended to it.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    actions: Vec<Action>,
    erasures: Erasures,
    settings: Settings,
}

impl Snapshot {
    pub(crate) fn open(&self) -> Result<Rig, Error> {
        self.open_with(self.files.clone())
    }

    /// Recovers from `files` instead of its own.
    pub(crate) fn open_with(&self, files: BTreeMap<String, Vec<u8>>) -> Result<Rig, Error> {
        let past = (self.actions.clone(), self.erasures.clone());
        Rig::open(MemoryDisk::with_files(files), self.settings, past)
    }

    /// Recovers from its files with one byte of one changed.
    pub(crate) fn open_flipped(&self, name: &str, at: usize) -> Result<Rig, Error> {
        let mut files = self.files.clone();
        files.get_mut(name).expect("a file")[at] ^= 0x10;
        self.open_with(files)
    }
}

/// A log, its disk and its model.
pub(crate) struct Rig {
    pub(crate) disk: MemoryDisk,
    pub(crate) log: Log,
    pub(crate) directory: Directory,
    pub(crate) compactor: Compactor,
    pub(crate) erasures: Erasures,
    pub(crate) report: Report,
    pub(crate) recovered_tip: Lsn,
    pub(crate) recovered_hash: Hash,
    pub(crate) settings: Settings,
    actions: Vec<Action>,
    accepted: BTreeMap<AggregateKey, Standing>,
    undecided: Vec<(Lsn, TxnId)>,
    /// Legs whose batches the directory has although their `Resolve` is not durable.
    shown: BTreeSet<Lsn>,
    epoch: u64,
    attempts: u64,
}

impl Rig {
    pub(crate) fn new(settings: Settings) -> Self {
        Self::open(MemoryDisk::default(), settings, Default::default()).expect("an empty folder")
    }

    /// Recovers from what `self`'s disk holds after a crash.
    pub(crate) fn restart(
        self,
        fate: impl FnMut(&crate::disk::Op) -> Fate,
        dice: &mut Dice,
    ) -> Self {
        let acknowledged = self.log.durable();
        let files = self.disk.crash(fate, dice);
        let disk = MemoryDisk::with_files(files);
        let past = (self.actions, self.erasures);
        let rig = Self::open(disk, self.settings, past).expect("a crash is no damage");
        let tip = rig.recovered_tip;
        assert!(tip >= acknowledged, "acknowledged up to {acknowledged}, recovered up to {tip}");
        rig
    }

    /// The files as they are, and what they must say.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            files: self.disk.files.clone(),
            actions: self.actions.clone(),
            erasures: self.erasures.clone(),
            settings: self.settings,
        }
    }

    fn open(
        mut disk: MemoryDisk,
        settings: Settings,
        (mut actions, erasures): (Vec<Action>, Erasures),
    ) -> Result<Self, Error> {
        let recovered = now(recover(&mut disk, identity(), &settings))?;
        let Recovered { mut log, directory, pending, max_epoch, report, .. } = recovered;
        let tip = log.next_lsn().value() - 1;
        assert!(tip <= actions.len() as u64, "recovered more than was appended");
        assert_eq!(log.durable().value(), tip);
        actions.truncate(tip as usize);
        let epoch = max_epoch.value() + 1;
        log.lead(Epoch::new(epoch), BootId::new(epoch * 31));
        let undecided = pending.iter().map(|leg| (leg.lsn, leg.txn)).collect();
        let mut rig = Self {
            recovered_tip: log.durable(),
            recovered_hash: log.tip_hash(),
            disk,
            log,
            directory,
            compactor: Compactor::new(identity()),
            erasures,
            report,
            settings,
            actions,
            accepted: BTreeMap::new(),
            undecided,
            shown: BTreeSet::new(),
            epoch,
            attempts: 0,
        };
        rig.relocate(&pending);
        rig.replay_model();
        rig.check();
        rig.start_epoch();
        Ok(rig)
    }

    /// The recovered places of pending legs are those that count.
    fn relocate(&mut self, pending: &[crate::recovery::PendingLeg]) {
        for leg in pending {
            let action = &mut self.actions[leg.lsn.value() as usize - 1];
            let Action::Leg(txn, batches) = action else { panic!("{leg:?} is no leg") };
            assert_eq!(*txn, leg.txn);
            assert_eq!(batches.len(), leg.keys.len());
            if leg.batches.is_empty() {
                self.shown.insert(leg.lsn);
            } else {
                *batches = leg.batches.clone();
            }
        }
    }

    /// Computes from the actions what is accepted.
    fn replay_model(&mut self) {
        self.accepted.clear();
        let mut undecided = Vec::new();
        for (at, action) in self.actions.clone().into_iter().enumerate() {
            let lsn = Lsn::new(at as u64 + 1);
            match action {
                Action::Write(batches) => self.accept(&batches, None),
                Action::Leg(txn, batches) => {
                    undecided.push((lsn, txn));
                    if self.shown.contains(&lsn) {
                        self.accept(&batches, None);
                    }
                    for (key, _) in &batches {
                        self.accepted.entry(key.clone()).or_default().held_by = Some(lsn);
                    }
                }
                Action::Resolve { leg_lsn, commit, .. } => {
                    undecided.retain(|(lsn, _)| *lsn != leg_lsn);
                    let Action::Leg(_, batches) = &self.actions[leg_lsn.value() as usize - 1]
                    else {
                        panic!("no leg at {leg_lsn}")
                    };
                    let batches = batches.clone();
                    if commit {
                        self.accept(&batches, None);
                    }
                    for (key, _) in &batches {
                        self.accepted.entry(key.clone()).or_default().held_by = None;
                    }
                }
                Action::Start => {}
            }
        }
        assert_eq!(undecided, self.undecided, "the legs to decide");
    }

    fn accept(&mut self, batches: &[(AggregateKey, AppliedBatch)], held_by: Option<Lsn>) {
        for (key, batch) in batches {
            let standing = self.accepted.entry(key.clone()).or_default();
            standing.version = batch.last_version;
            standing.hash = Some(batch.hash);
            standing.last = Some(*batch);
            standing.held_by = held_by;
        }
    }

    fn next_stamp(&self) -> Stamp {
        Stamp::new(self.log.last_stamp().value() + 8)
    }

    fn start_epoch(&mut self) {
        let (epoch, boot) = (Epoch::new(self.epoch), BootId::new(self.epoch * 31));
        let stamp = self.next_stamp();
        self.log.append_epoch_start(&EpochStart { epoch, boot, server_time: 5, stamp });
        self.actions.push(Action::Start);
    }

    /// Appends batches of `sizes.len()` events each to `keys`; false if that does not fit now.
    pub(crate) fn append(&mut self, keys: &[u64], sizes: &[usize], is_leg: bool) -> bool {
        let keys: Vec<AggregateKey> = keys.iter().map(|number| key(*number)).collect();
        if keys.iter().any(|key| self.accepted.get(key).is_some_and(|it| it.held_by.is_some())) {
            return false;
        }
        let standings: Vec<(Version, Hash)> = keys.iter().map(|key| self.standing(key)).collect();
        let events: Vec<EncodedEvents> = keys
            .iter()
            .zip(&standings)
            .map(|(key, (version, _))| events(key, *version, sizes))
            .collect();
        self.attempts += 1;
        let batches: Vec<BatchDraft<'_>> = keys
            .iter()
            .zip(&standings)
            .zip(&events)
            .map(|((key, (version, hash)), events)| BatchDraft {
                key,
                guard: Guard::Exact(*version),
                sequence: Some(Sequence::new(version.value() + 1)),
                first_version: version.next(),
                prev_hash: *hash,
                events,
                retention: None,
            })
            .collect();
        let shards = [ShardId::new(1), ShardId::new(3)];
        let draft = WriteDraft {
            client_id: ClientId::new(77),
            write_id: WriteId {
                epoch: Epoch::new(self.epoch),
                boot: BootId::new(self.epoch * 31),
                counter: self.attempts,
            },
            write_hash: Hash([self.attempts as u8; 32]),
            server_time: self.attempts as i64,
            stamp: self.next_stamp(),
            leg: is_leg.then_some(&shards[..]),
            batches: &batches,
        };
        self.append_draft(&draft, is_leg)
    }

    fn append_draft(&mut self, draft: &WriteDraft<'_>, is_leg: bool) -> bool {
        if !self.log.fits(draft.meta_len(), draft.blob_len()) {
            return false;
        }
        let mut encoded: Vec<EncodedBatch> = Vec::new();
        let appended = self.log.append_write(draft, &mut encoded);
        assert_eq!(appended.lsn.value(), self.actions.len() as u64 + 1);
        let write_stamp = self.log.last_stamp();
        let mut stamp = draft.stamp.value();
        let mut applied = Vec::new();
        for (batch, encoded) in draft.batches.iter().zip(&encoded) {
            let last_stamp = stamp + batch.events.len() as u64 - 1;
            let location = BatchLocation {
                segment: 0,
                frame_offset: 0,
                frame_bytes: 0,
                record_offset: appended.record_offset,
                batch_offset: encoded.offset,
            };
            applied.push((
                batch.key.clone(),
                AppliedBatch {
                    first_version: encoded.first_version,
                    last_version: encoded.last_version,
                    hash: encoded.hash,
                    server_time: draft.server_time,
                    stamp: Stamp::new(stamp),
                    last_stamp: Stamp::new(last_stamp),
                    write_stamp,
                    client_id: draft.client_id,
                    sequence: batch.sequence,
                    write_hash: draft.write_hash,
                    retention: None,
                    location,
                },
            ));
            stamp = last_stamp + 1;
        }
        if is_leg {
            self.undecided.push((appended.lsn, draft.write_id));
            for (key, _) in &applied {
                self.accepted.entry(key.clone()).or_default().held_by = Some(appended.lsn);
            }
            self.actions.push(Action::Leg(draft.write_id, applied));
        } else {
            self.accept(&applied, None);
            self.actions.push(Action::Write(applied));
        }
        true
    }

    /// Decides an undecided leg; false if there is none or the log has no room.
    pub(crate) fn resolve(&mut self, at: usize, commit: bool) -> bool {
        if self.undecided.is_empty() || !self.log.fits_resolve() {
            return false;
        }
        let (leg_lsn, txn) = self.undecided.remove(at % self.undecided.len());
        // What was shown is decided.
        let commit = commit || self.shown.contains(&leg_lsn);
        let stamp = self.next_stamp();
        self.log.append_resolve(&Resolve { txn, commit, leg_lsn, stamp });
        let Action::Leg(_, batches) = self.actions[leg_lsn.value() as usize - 1].clone() else {
            panic!("no leg at {leg_lsn}")
        };
        if commit {
            self.accept(&batches, None);
            // As a shard does: readers see it before its Resolve is durable.
            if leg_lsn <= self.log.durable() && self.shown.insert(leg_lsn) {
                batches.iter().for_each(|(key, batch)| self.directory.apply(key, batch));
                self.directory.note_outcome(txn, leg_lsn, true);
            }
        }
        for (key, _) in &batches {
            self.accepted.entry(key.clone()).or_default().held_by = None;
        }
        self.actions.push(Action::Resolve { leg_lsn, commit, stamp });
        true
    }

    /// Every leg that was appended.
    pub(crate) fn legs(&self) -> Vec<TxnId> {
        let txn = |action: &Action| match action {
            Action::Leg(txn, _) => Some(*txn),
            _ => None,
        };
        self.actions.iter().filter_map(txn).collect()
    }

    pub(crate) fn undecided(&self) -> usize {
        self.undecided.len()
    }

    /// Decides an undecided leg to commit and shows it, before its `Resolve` is even appended.
    pub(crate) fn show(&mut self, at: usize) {
        if self.undecided.is_empty() {
            return;
        }
        let (leg_lsn, txn) = self.undecided[at % self.undecided.len()];
        if leg_lsn > self.log.durable() || !self.shown.insert(leg_lsn) {
            return;
        }
        let Action::Leg(_, batches) = self.actions[leg_lsn.value() as usize - 1].clone() else {
            panic!("no leg at {leg_lsn}")
        };
        self.accept(&batches, Some(leg_lsn));
        batches.iter().for_each(|(key, batch)| self.directory.apply(key, batch));
        self.directory.note_outcome(txn, leg_lsn, true);
    }

    /// Undecided legs that the directory has already.
    pub(crate) fn shown(&self) -> usize {
        self.undecided.iter().filter(|(lsn, _)| self.shown.contains(lsn)).count()
    }

    pub(crate) fn pump(&mut self) {
        let mut ops = Vec::new();
        self.log.pump(&mut ops);
        self.start(ops);
    }

    pub(crate) fn note_watermark(&mut self) {
        let mut ops = Vec::new();
        self.log.note_watermark(&mut ops);
        self.start(ops);
    }

    pub(crate) fn retry_space(&mut self) {
        let mut ops = Vec::new();
        self.log.retry_space(&mut ops);
        self.directory.retry_space();
        self.directory.maintain(&self.log, &mut ops);
        self.start(ops);
    }

    fn start(&mut self, ops: Vec<(u64, crate::disk::Op)>) {
        ops.into_iter().for_each(|(token, op)| self.disk.start(token, op));
    }

    /// Ends the `at`-th operation in flight.
    pub(crate) fn finish(&mut self, at: usize) -> Result<(), Error> {
        let completion = self.disk.finish(at);
        self.complete(completion)
    }

    pub(crate) fn complete(&mut self, completion: Completion) -> Result<(), Error> {
        let mut ops = Vec::new();
        if Compactor::owns(completion.token) {
            let outcome = self.compactor.complete(completion, &mut self.log)?;
            self.erasures.compacted(outcome);
        } else if Directory::owns(completion.token) {
            let pages = self.directory.complete(completion, &mut ops)?;
            assert!(pages.is_empty(), "nobody waits for pages");
        } else {
            let progress = self.log.complete(completion, &mut ops)?;
            progress.frames.iter().for_each(|frame| self.commit(frame));
        }
        self.directory.maintain(&self.log, &mut ops);
        self.compactor.advance(&mut ops);
        self.start(ops);
        Ok(())
    }

    fn commit(&mut self, frame: &DurableFrame) {
        for lsn in frame.first_lsn.value()..=frame.last_lsn.value() {
            let at = lsn as usize - 1;
            match &mut self.actions[at] {
                Action::Write(batches) | Action::Leg(_, batches) => {
                    for (_, batch) in batches {
                        batch.location.segment = frame.segment;
                        batch.location.frame_offset = frame.frame_offset;
                        batch.location.frame_bytes = frame.frame_bytes;
                    }
                }
                _ => {}
            }
            match &self.actions[at] {
                Action::Write(batches) => {
                    batches.iter().for_each(|(key, batch)| self.directory.apply(key, batch));
                }
                Action::Resolve { leg_lsn, commit, stamp } => {
                    let Action::Leg(txn, batches) = &self.actions[leg_lsn.value() as usize - 1]
                    else {
                        panic!("no leg at {leg_lsn}")
                    };
                    if !self.shown.remove(leg_lsn) {
                        let applied = batches.iter().filter(|_| *commit);
                        applied.for_each(|(key, batch)| self.directory.apply(key, batch));
                        self.directory.note_outcome(*txn, *leg_lsn, *commit);
                    }
                    if !commit {
                        self.directory.note_aborted(*stamp, *txn, batches);
                    }
                }
                _ => {}
            }
        }
    }

    /// Ends everything in flight until nothing is left to do.
    pub(crate) fn settle(&mut self) {
        self.pump();
        while self.disk.waiting() > 0 {
            self.finish(0).expect("a healthy disk");
            self.pump();
        }
        assert!(self.log.idle() && self.directory.idle());
    }

    /// One random step of a busy shard.
    pub(crate) fn step(&mut self, dice: &mut Dice) {
        self.try_step(dice).expect("a healthy disk");
    }

    /// The same on a disk that may fail.
    pub(crate) fn try_step(&mut self, dice: &mut Dice) -> Result<(), Error> {
        match dice.roll(12) {
            0..=4 => {
                let keys: Vec<u64> = match dice.roll(3) {
                    0 => vec![dice.roll(20), 20 + dice.roll(20)],
                    _ => vec![dice.roll(40)],
                };
                let events = 1 + dice.roll(3);
                let sizes: Vec<usize> = (0..events)
                    .map(|_| match dice.roll(8) {
                        0 => 2048 + dice.roll(3000),
                        _ => dice.roll(300),
                    } as usize)
                    .collect();
                let is_leg = dice.roll(4) == 0;
                if !self.append(&keys, &sizes, is_leg) {
                    self.pump();
                }
            }
            5..=6 => {
                let (at, commit) = (dice.roll(64) as usize, dice.roll(3) > 0);
                if dice.roll(3) == 0 {
                    self.show(at);
                } else {
                    self.resolve(at, commit);
                }
            }
            7..=8 => self.pump(),
            9 if dice.roll(4) == 0 => self.note_watermark(),
            _ if self.disk.waiting() > 0 => {
                let at = dice.roll(self.disk.waiting() as u64) as usize;
                self.finish(at)?;
            }
            _ => self.pump(),
        }
        Ok(())
    }

    fn standing(&self, key: &AggregateKey) -> (Version, Hash) {
        let known = self.accepted.get(key).filter(|it| it.version > Version::NONE);
        known.map_or((Version::NONE, chain_start(key)), |it| {
            (it.version, it.hash.unwrap_or_default())
        })
    }
}

/// Bytes without a zero, so that no 512 of them look like a piece that was never written.
fn payload(key: &AggregateKey, version: Version, len: usize) -> Vec<u8> {
    let mix = |sum: u64, byte: &u8| (sum * 31 + u64::from(*byte)) % 255;
    let seed = key.as_bytes().iter().fold(version.value(), mix);
    (0..len as u64).map(|at| ((seed + at) % 255 + 1) as u8).collect()
}

fn events(key: &AggregateKey, after: Version, sizes: &[usize]) -> EncodedEvents {
    let event = |(at, len): (usize, &usize)| Event {
        event_type: "happened".into(),
        schema: SchemaVersion { major: 1, minor: 0 },
        content_type: Default::default(),
        payload: payload(key, after.plus(at as u64 + 1), *len).into(),
        event_id: None,
        metadata: Vec::new(),
        envelope: None,
        client_time: 1,
    };
    let events: Vec<Event> = sizes.iter().enumerate().map(event).collect();
    EncodedEvents::encode(&events).expect("valid events")
}
