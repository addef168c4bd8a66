//! A second node: it gets a leader's frames, is told what is committed, crashes, is cut.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use celeriant_schema::peer::Position;

use super::check::ask;
use super::*;
use crate::directory::Applier;
use crate::log::{Refused, SealedFrame};
use crate::recovery::{Known, recover_member};

/// Every frame that a leader sealed, as it would be sent.
#[derive(Clone, Default)]
pub(crate) struct Feed {
    pub(crate) frames: Vec<SealedFrame>,
}

impl Feed {
    /// Takes what was sealed since. After every pump.
    pub(crate) fn collect(&mut self, leader: &Rig) {
        let after = self.end().lsn;
        self.frames.extend(leader.log.sealed(after));
        let end = leader.log.sealed_end();
        assert_eq!(self.end(), end, "nothing was missed");
    }

    /// The leader restarted: what it lost was never in its log.
    pub(crate) fn cut(&mut self, leader: &Rig) {
        self.frames.retain(|frame| frame.place.end.lsn <= leader.recovered_tip);
        assert_eq!(self.end(), Position { lsn: leader.recovered_tip, hash: leader.recovered_hash });
    }

    pub(crate) fn end(&self) -> Position {
        self.frames.last().map_or(Position::default(), |frame| frame.place.end)
    }

    /// The next `count` frames behind `after`, in one piece.
    pub(crate) fn behind(&self, after: Position, count: usize) -> Bytes {
        let at = self.frames.partition_point(|frame| frame.place.end.lsn <= after.lsn);
        let mut joined = BytesMut::new();
        for frame in self.frames[at..].iter().take(count) {
            joined.extend_from_slice(&frame.bytes);
        }
        joined.freeze()
    }
}

/// A follower's shard.
pub(crate) struct Follower {
    pub(crate) disk: MemoryDisk,
    pub(crate) log: Log,
    pub(crate) directory: Directory,
    pub(crate) report: Report,
    pub(crate) applier: Applier,
    /// Durable and not committed.
    pub(crate) tail: VecDeque<DurableFrame>,
    settings: Settings,
    /// What it was told to be committed.
    told: Lsn,
    /// What its restarts met: frames that were cut, bytes, frames in the tail, runs.
    pub(crate) met: [usize; 4],
}

impl Follower {
    pub(crate) fn new(settings: Settings) -> Self {
        Self::open(MemoryDisk::default(), settings, Known::default()).expect("an empty folder")
    }

    pub(crate) fn open(
        mut disk: MemoryDisk,
        settings: Settings,
        known: Known,
    ) -> Result<Self, Error> {
        let recovered = now(recover_member(&mut disk, identity(), &settings, known))?;
        let Recovered { log, directory, pending, tail, report, .. } = recovered;
        let ends = tail.iter().map(|frame| (frame.first_lsn, frame.last_lsn));
        let last = ends.fold(log.committed(), |before, (first, last)| {
            assert_eq!(first, before.next(), "the tail follows what is committed");
            last
        });
        assert_eq!(last, log.durable(), "the tail is all that follows");
        let (applier, told) = (Applier::new(pending), log.committed());
        let (cut, runs) = (report.cut_frames as usize, report.runs_opened as usize);
        let met = [cut, report.cut_bytes as usize, tail.len(), runs];
        let tail = tail.into();
        Ok(Self { disk, log, directory, report, applier, tail, settings, told, met })
    }

    /// Recovers from what its disk holds after a crash.
    pub(crate) fn restart(
        self,
        fate: impl FnMut(&crate::disk::Op) -> Fate,
        dice: &mut Dice,
        known: Known,
    ) -> Self {
        let (durable, told, settings) = (self.log.durable(), self.told, self.settings);
        let disk = MemoryDisk::with_files(self.disk.crash(fate, dice));
        let mut again = Self::open(disk, settings, known).expect("a crash is no damage");
        again.met.iter_mut().zip(self.met).for_each(|(met, before)| *met += before);
        let least = known.cut_after.map_or(durable, |end| end.lsn.min(durable));
        let tip = again.log.durable();
        assert!(tip >= least, "acknowledged up to {least}, recovered up to {tip}");
        let committed = again.log.committed();
        assert!(committed <= told, "{committed} is shown, {told} was ever committed");
        assert!(committed >= known.committed.min(tip), "{committed} below {known:?}");
        again
    }

    /// Gives it `count` frames of the feed.
    pub(crate) fn offer(&mut self, feed: &Feed, count: usize) -> Result<(), Refused> {
        let mut frames = feed.behind(self.log.sealed_end(), count);
        if frames.is_empty() {
            return Ok(());
        }
        let mut ops = Vec::new();
        let outcome = self.log.follow(&mut frames, &mut ops);
        assert_eq!(outcome.is_ok(), frames.is_empty(), "what is not taken stays");
        self.start(ops);
        outcome
    }

    /// Everything up to `upto` is committed, as far as it is durable here.
    pub(crate) fn commit(&mut self, upto: Lsn) {
        let upto = upto.min(self.log.durable());
        self.told = self.told.max(upto);
        while let Some(frame) = self.tail.pop_front_if(|frame| frame.last_lsn <= upto) {
            self.applier.frame(&mut self.directory, &frame).expect("the leader made it");
        }
        self.log.commit(upto);
        let mut ops = Vec::new();
        self.directory.maintain(&self.log, &mut ops);
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
        self.start(ops);
    }

    fn start(&mut self, ops: Vec<(u64, crate::disk::Op)>) {
        ops.into_iter().for_each(|(token, op)| self.disk.start(token, op));
    }

    /// Ends the `at`-th operation in flight.
    pub(crate) fn finish(&mut self, at: usize) -> Vec<DurableFrame> {
        let completion = self.disk.finish(at);
        let mut ops = Vec::new();
        let mut frames = Vec::new();
        if Directory::owns(completion.token) {
            self.directory.complete(completion, &mut ops).expect("a healthy disk");
        } else {
            frames = self.log.complete(completion, &mut ops).expect("a healthy disk").frames;
        }
        self.tail.extend(frames.iter().cloned());
        self.directory.maintain(&self.log, &mut ops);
        self.start(ops);
        frames
    }

    pub(crate) fn settle(&mut self) {
        while self.disk.waiting() > 0 {
            self.finish(0);
        }
    }

    /// Takes everything and makes it durable.
    pub(crate) fn catch_up(&mut self, feed: &Feed) {
        while self.log.sealed_end() != feed.end() {
            match self.offer(feed, 7) {
                Ok(()) | Err(Refused::Busy) => self.settle(),
                Err(refused) => panic!("{refused}"),
            }
        }
        self.settle();
    }

    /// One random step; `committed` is durable at the leader.
    pub(crate) fn step(&mut self, feed: &Feed, committed: Lsn, leader: &Rig, dice: &mut Dice) {
        match dice.roll(12) {
            0..=5 => match self.offer(feed, 1 + dice.roll(3) as usize) {
                Ok(()) | Err(Refused::Busy) => {}
                Err(refused) => panic!("{refused}"),
            },
            6..=8 if self.disk.waiting() > 0 => {
                let at = dice.roll(self.disk.waiting() as u64) as usize;
                self.finish(at);
            }
            9 => self.commit(committed),
            10 if dice.roll(4) == 0 => self.note_watermark(),
            _ => self.show(leader),
        }
    }

    /// Shows a leg that the leader has decided to commit, whether that is known here or not. Not
    /// one whose decision the leader may lose: it could decide otherwise then.
    fn show(&mut self, leader: &Rig) {
        let decides = |action: &Action, lsn: Lsn| match action {
            Action::Resolve { leg_lsn, commit, .. } => *commit && *leg_lsn == lsn,
            _ => false,
        };
        let durable = &leader.actions[..leader.log.durable().value() as usize];
        let is_commit = |lsn: Lsn| durable.iter().any(|action| decides(action, lsn));
        let lsn = self.applier.pending().map(|leg| leg.lsn).find(|lsn| is_commit(*lsn));
        if let Some(lsn) = lsn {
            self.applier.show(&mut self.directory, lsn).expect("it was not shown before");
        }
    }

    /// The directory says what the leader's log says up to what is committed here, and legs that
    /// were shown; nothing else.
    pub(crate) fn check(&self, leader: &Rig) {
        let shown: Vec<Lsn> =
            self.applier.pending().filter(|leg| leg.is_shown).map(|leg| leg.lsn).collect();
        let mut heads: BTreeMap<&AggregateKey, (Version, Hash)> = BTreeMap::new();
        let committed = self.log.committed().value() as usize;
        for (at, action) in leader.actions[..committed].iter().enumerate() {
            let batches = match action {
                Action::Write(batches) => batches,
                Action::Leg(_, batches) if shown.contains(&Lsn::new(at as u64 + 1)) => batches,
                Action::Resolve { leg_lsn, commit: true, .. } => {
                    match &leader.actions[leg_lsn.value() as usize - 1] {
                        Action::Leg(_, batches) => batches,
                        other => panic!("{other:?} is no leg"),
                    }
                }
                _ => continue,
            };
            heads.extend(batches.iter().map(|(key, it)| (key, (it.last_version, it.hash))));
        }
        for number in 0..40 {
            let key = key(number);
            let head = ask(&self.directory, &self.disk, |it, pins| it.head(&key, pins));
            let found = head.map(|head| (head.version, head.hash));
            assert_eq!(found, heads.get(&key).copied(), "{key} at {committed}");
        }
    }

    /// Its files, and that they must say what the leader says.
    pub(crate) fn snapshot(&self, leader: &Rig) -> Snapshot {
        let actions = leader.actions.clone();
        let erasures = Erasures::default();
        Snapshot { files: self.disk.files.clone(), actions, erasures, settings: self.settings }
    }
}
