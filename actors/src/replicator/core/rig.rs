//! Shards in memory, and a core around them: what a node is in the tests of the replicator.

use std::collections::{BTreeMap, VecDeque};

use celeriant_schema::peer::{FramePlace, Position, Tip};
use celeriant_schema::{BootId, Epoch, Hash, Lsn, ShardId, Stamp, StoreId};
use rand::Rng;
use rand::rngs::SmallRng;

use super::{Core, Identity, Settings};
use crate::replicator::activation::all;
use crate::replicator::orders::{Frames, Order, Report};

pub(in crate::replicator) const SHARDS: u16 = 3;
pub(in crate::replicator) const WINDOW_BYTES: usize = 8 * BYTES - 1;
/// Of a frame: one sector.
pub(in crate::replicator) const BYTES: usize = celeriant_schema::limits::SECTOR_BYTES;

/// A frame is its last lsn, its hash, and nothing.
#[derive(Clone, Debug, Default)]
pub(in crate::replicator) struct FakeLog {
    /// Ends of frames.
    pub(in crate::replicator) ends: Vec<Position>,
    /// So many of them are durable.
    pub(in crate::replicator) durable: usize,
    pub(in crate::replicator) commit: Lsn,
}

impl FakeLog {
    pub(in crate::replicator) fn end(&self) -> Position {
        self.ends.last().copied().unwrap_or_default()
    }

    pub(in crate::replicator) fn before(&self, at: usize) -> Position {
        at.checked_sub(1).map(|at| self.ends[at]).unwrap_or_default()
    }

    pub(in crate::replicator) fn durable_end(&self) -> Position {
        self.before(self.durable)
    }

    pub(in crate::replicator) fn settle(&mut self) {
        self.durable = self.ends.len();
    }

    pub(in crate::replicator) fn seal(&mut self, rng: &mut SmallRng) -> Frames {
        let before = self.end();
        let lsn = Lsn::new(before.lsn.value() + rng.random_range(1..4));
        let mut hash = [0; 32];
        rng.fill(&mut hash);
        self.ends.push(Position { lsn, hash: Hash(hash) });
        self.frames(before, 1)
    }

    /// Up to `count` frames behind `before`.
    fn frames(&self, before: Position, count: usize) -> Frames {
        let from = self.ends.iter().position(|end| end.lsn > before.lsn).expect("there are some");
        assert_eq!(self.before(from), before, "reads begin where a frame ends");
        let ends = &self.ends[from..self.ends.len().min(from + count)];
        let mut bytes = Vec::new();
        for end in ends {
            bytes.extend_from_slice(&end.lsn.value().to_le_bytes());
            bytes.extend_from_slice(&end.hash.0);
            bytes.resize(bytes.len().next_multiple_of(BYTES), 0);
        }
        Frames { before, end: *ends.last().expect("one"), bytes: bytes.into() }
    }

    fn find(&self, lsn: Lsn) -> Option<FramePlace> {
        let containing = self.ends.iter().position(|end| end.lsn >= lsn);
        let at = containing.or(self.ends.len().checked_sub(1))?;
        Some(FramePlace { epoch: Epoch::new(1), before: self.before(at), end: self.ends[at] })
    }

    fn accept(&mut self, before: Position, bytes: &[u8]) -> bool {
        if before != self.end() {
            return false;
        }
        for frame in bytes.chunks(BYTES) {
            let lsn = Lsn::new(u64::from_le_bytes(frame[..8].try_into().expect("8")));
            self.ends.push(Position { lsn, hash: Hash(frame[8..40].try_into().expect("32")) });
        }
        true
    }

    fn cut(&mut self, to: Position) {
        assert!(to.lsn >= self.commit, "a cut at {} below {}", to.lsn, self.commit);
        self.ends.retain(|end| end.lsn <= to.lsn);
        assert_eq!(self.end(), to, "a cut within a frame, or of another log");
        self.settle();
    }
}

/// A shard: a log, and its role.
#[derive(Debug, Default)]
pub(in crate::replicator) struct FakeShard {
    pub(in crate::replicator) log: FakeLog,
    promised: Epoch,
    /// Told by a leader, and not reached yet.
    told: Lsn,
    pub(in crate::replicator) leads: Option<Epoch>,
    held: Lsn,
    /// Epochs whose first record is not committed.
    owed: Vec<(Lsn, Epoch)>,
    quiesce: Option<Epoch>,
    pub(in crate::replicator) is_quiet: bool,
    surveyed: bool,
}

impl FakeShard {
    /// One that has just started.
    pub(in crate::replicator) fn of(mut log: FakeLog) -> Self {
        log.settle();
        Self { log, ..Self::default() }
    }

    pub(in crate::replicator) fn tip(&self, shard: ShardId) -> Tip {
        let durable = self.log.durable_end();
        Tip { shard, epoch: Epoch::new(1), durable, floor: self.log.commit }
    }

    /// Seals a frame, as a leader.
    pub(in crate::replicator) fn seal(&mut self, rng: &mut SmallRng) -> Report {
        self.surveyed = false;
        Report::Sealed(self.log.seal(rng))
    }

    /// What was on its way to the disk is there.
    pub(in crate::replicator) fn flush(&mut self, shard: ShardId, reports: &mut Vec<Report>) {
        if self.log.durable == self.log.ends.len() {
            return;
        }
        self.log.settle();
        if self.leads.is_none() {
            let (epoch, tip) = (self.promised, self.tip(shard));
            reports.push(Report::Durable { epoch, tip });
        }
        self.commit(shard, reports);
    }

    pub(in crate::replicator) fn commit(&mut self, shard: ShardId, reports: &mut Vec<Report>) {
        let upto = if self.leads.is_some() { self.held } else { self.told };
        let commit = upto.min(self.log.durable_end().lsn).max(self.log.commit);
        if commit > self.log.commit && self.leads.is_some() {
            reports.push(Report::Committed { commit, closed: Stamp::ZERO });
        }
        self.log.commit = commit;
        let ready = self.owed.iter().filter(|(lsn, _)| *lsn <= commit);
        reports.extend(ready.map(|(_, epoch)| Report::Leading { epoch: *epoch }));
        self.owed.retain(|(lsn, _)| *lsn > commit);
        if commit == self.log.end().lsn
            && let Some(epoch) = self.quiesce.take()
        {
            reports.push(Report::Quiesced { epoch, tip: self.tip(shard) });
        }
    }

    /// Carries out an order.
    pub(in crate::replicator) fn work(
        &mut self,
        shard: ShardId,
        order: Order,
        rng: &mut SmallRng,
    ) -> Vec<Report> {
        let mut reports = Vec::new();
        match order {
            Order::Read { after, .. } => {
                let from = self.log.ends.iter().rposition(|end| end.lsn <= after);
                let before = from.map(|at| self.log.ends[at]).unwrap_or_default();
                reports.push(Report::Read(self.log.frames(before, 2)));
            }
            Order::Find { request, lsn } => {
                reports.push(Report::Found { request, frame: self.log.find(lsn) });
            }
            Order::Locate { request, lsn } => {
                reports.push(Report::Located { request, frame: self.log.find(lsn) });
            }
            Order::Confirm { number } => {
                let end = |end: &&Position| end.lsn <= self.log.commit;
                let commit = self.log.ends.iter().rfind(end).copied().unwrap_or_default();
                reports.push(Report::Confirmed { number, commit });
            }
            Order::Held(upto) => {
                assert!(self.leads.is_some(), "held before it leads");
                self.held = upto;
                self.commit(shard, &mut reports);
            }
            Order::Leased | Order::Trace { .. } => {}
            Order::StepDown => {
                (self.leads, self.held, self.is_quiet) = (None, Lsn::ZERO, false);
                (self.quiesce, self.surveyed) = (None, false);
                self.owed.clear();
            }
            order if self.leads.is_some() => self.work_leading(shard, order, rng, &mut reports),
            order => self.work_following(shard, order, rng, &mut reports),
        }
        reports
    }

    fn work_leading(
        &mut self,
        shard: ShardId,
        order: Order,
        rng: &mut SmallRng,
        reports: &mut Vec<Report>,
    ) {
        match order {
            Order::Renew { epoch } => {
                self.leads = Some(epoch);
                reports.push(self.seal(rng));
                self.owed.push((self.log.end().lsn, epoch));
            }
            Order::Quiesce { epoch } => {
                (self.quiesce, self.is_quiet) = (Some(epoch), true);
                self.commit(shard, reports);
            }
            Order::Resume => (self.quiesce, self.is_quiet) = (None, false),
            order => panic!("{order:?} for a leader"),
        }
    }

    fn work_following(
        &mut self,
        shard: ShardId,
        order: Order,
        rng: &mut SmallRng,
        reports: &mut Vec<Report>,
    ) {
        match order {
            Order::Promise { epoch } => {
                assert!(epoch >= self.promised, "{} and then {epoch}", self.promised);
                (self.promised, self.told) = (epoch, Lsn::ZERO);
                self.log.settle();
                reports.push(Report::Promised { epoch, tip: self.tip(shard) });
            }
            Order::Accept { epoch, before, bytes }
                if epoch == self.promised && !self.log.accept(before, &bytes) =>
            {
                reports.push(Report::Refused { epoch, tip: self.tip(shard) });
            }
            Order::Commit { commit, .. } => {
                self.told = self.told.max(commit);
                self.commit(shard, reports);
            }
            Order::Cut { request, epoch, to } if epoch == self.promised => {
                self.log.cut(to);
                reports.push(Report::Cut { request, epoch, tip: self.tip(shard) });
            }
            Order::Survey { epoch } => {
                self.log.settle();
                (self.log.commit, self.surveyed) = (self.log.end().lsn, true);
                let tip = self.tip(shard);
                reports.push(Report::Surveyed { epoch, tip, pending: Vec::new() });
            }
            Order::Lead(lead) => {
                assert!(self.surveyed, "leads without a survey");
                self.leads = Some(lead.epoch);
                reports.push(self.seal(rng));
                self.owed.push((self.log.end().lsn, lead.epoch));
            }
            // Of a leadership or an epoch that is over.
            _ => {}
        }
    }
}

/// A core and its shards.
pub(in crate::replicator) struct FakeNode {
    pub(in crate::replicator) core: Core,
    pub(in crate::replicator) store: StoreId,
    /// By its election.
    pub(in crate::replicator) promised: Epoch,
    pub(in crate::replicator) shards: BTreeMap<ShardId, FakeShard>,
    pub(in crate::replicator) orders: VecDeque<(ShardId, Order)>,
}

impl FakeNode {
    pub(in crate::replicator) fn new(store: StoreId, logs: Vec<FakeLog>) -> Self {
        let settings = Settings {
            window_bytes: WINDOW_BYTES,
            suspect_after: 1_000,
            report_every: 10,
            pace_over: 10_000,
        };
        let me = Identity { store, boot: BootId::new(1), shards: SHARDS };
        Self {
            core: Core::new(me, settings, Epoch::new(1)),
            store,
            promised: Epoch::new(1),
            shards: all(SHARDS).zip(logs.into_iter().map(FakeShard::of)).collect(),
            orders: VecDeque::new(),
        }
    }

    pub(in crate::replicator) fn logs(&self) -> impl Iterator<Item = &FakeLog> {
        self.shards.values().map(|shard| &shard.log)
    }

    /// The end of the last frame that is committed.
    pub(in crate::replicator) fn commits(&self) -> Vec<Position> {
        let commit = |log: &FakeLog| {
            log.ends.iter().rfind(|end| end.lsn <= log.commit).copied().unwrap_or_default()
        };
        self.logs().map(commit).collect()
    }
}
