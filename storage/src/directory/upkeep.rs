//! Keeps the memtable small and the runs few: writing out, merging, the manifest.
//!
//! ```text
//!   memtable ─full, or much log since─► frozen ─► run in the making ┐
//!   runs of one size ──────────────────────────► run in the making ┴─► manifest ─► old files go
//! ```
//! Everything goes in steps, each the answer to a completion. A run counts from the manifest on
//! that names it; what it replaces is removed only then. Several runs can be in the making at a
//! time, so that writing out never waits for a large merge. A full disk undoes the run in the
//! making and nothing else.

use std::collections::BTreeMap;

use bytes::Bytes;
use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_schema::{Lsn, Stamp};

use super::build::{Build, Next};
use super::lookup::damage;
use super::{DIRECTORY_BIT, Directory, Frozen, Missing};
use crate::disk::{Completion, DiskError, Done, FileId, Op, Token};
use crate::error::{Damage, Error};
use crate::log::Log;
use crate::manifest::{Checkpoint, MANIFEST_NAME, Manifest, OpenLeg, Position};
use crate::run::{self, PagePlace, Run, run_name};

/// What a token is for, and the number within that.
const KIND_SHIFT: u32 = 56;
const NUMBER: Token = (1 << KIND_SHIFT) - 1;
const KIND_PAGE: Token = 1;
const KIND_BUILD: Token = 2;
const KIND_MANIFEST: Token = 3;
const KIND_REMOVE: Token = 4;
const KIND_CONDEMN: Token = 5;

/// Runs of one size before they are merged.
const RUNS_OF_A_SIZE: usize = 4;
/// Runs in all before the cheapest neighbours are merged.
const RUNS_WANTED: usize = 12;
/// Runs in all before nothing more is written out until a merge ends.
const RUNS_MAX: usize = 24;
/// Merges at a time: a small one need not wait for a large one.
const MERGES_MAX: usize = 3;
/// Entries of a table that are freed at a time.
const DISCARDED_STEP: usize = 512;
/// Runs below this are of one size, in pages.
const PAGES_OF_THE_SMALLEST: u32 = 16;

fn token(kind: Token, number: u64) -> Token {
    DIRECTORY_BIT | kind << KIND_SHIFT | number & NUMBER
}

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// Pages being read, by place and by token.
    loads: BTreeMap<PagePlace, u64>,
    loading: BTreeMap<u64, PagePlace>,
    loads_started: u64,
    /// The run that the frozen table goes to.
    flush: Option<Making>,
    merges: Vec<(Vec<u32>, Making)>,
    /// Looked for since runs or merges changed last, in vain.
    nothing_to_merge: bool,
    publishing: Option<Publishing>,
    /// Replaced runs whose file is still there.
    retired: Vec<Retired>,
    /// Files of runs that came to nothing.
    removing: usize,
    /// What the next manifest says of erasures.
    pub(super) erased: Stamp,
    pub(super) lacks_space: Option<DiskError>,
    condemned: Option<Damage>,
    is_condemning: bool,
    is_poisoned: bool,
}

#[derive(Debug)]
enum Making {
    Building(Box<Build>),
    /// `None`: there was nothing to write.
    Ready(Option<Run>),
}

/// A manifest on its way.
#[derive(Debug)]
struct Publishing {
    manifest: Manifest,
    /// It says that the frozen table is written out.
    is_flushed: bool,
}

#[derive(Debug)]
struct Retired {
    run: u32,
    file: FileId,
    is_removing: bool,
}

impl Directory {
    /// Whether a completion with this token belongs to a directory.
    pub fn owns(token: Token) -> bool {
        token & DIRECTORY_BIT != 0 && token >> 63 == 0
    }

    /// Starts what is due: writing rows out, merging. Cheap when nothing is. Call it after commits
    /// and completions, when everything up to `log.committed()` has been applied, and nothing else.
    pub fn maintain(&mut self, log: &Log, ops: &mut Vec<(Token, Op)>) {
        if self.must_freeze(log.committed(), log.durable_bytes()) {
            let (position, legs) = log.checkpoint();
            self.freeze(position, log.durable_bytes(), legs);
        }
        self.advance(ops);
    }

    /// There is no place for further rows: take no write until a completion of the directory.
    pub fn is_full(&self) -> bool {
        self.frozen.is_some() && self.memtable.bytes() >= self.memtable_bytes_max
    }

    /// The device has no room for what must be written out; see [`Self::retry_space`].
    pub fn lacks_space(&self) -> bool {
        self.upkeep.lacks_space.is_some()
    }

    /// What was deleted, trimmed and aborted up to here has durably left this disk, as far as that
    /// is noted.
    pub fn erased(&self) -> Stamp {
        self.erased
    }

    /// Notes that it has, up to `upto`. Durable when [`Self::erased`] says so.
    pub fn note_erased(&mut self, upto: Stamp, ops: &mut Vec<(Token, Op)>) {
        self.upkeep.erased = self.upkeep.erased.max(upto);
        self.advance(ops);
    }

    /// Lets the next [`Self::maintain`] try again what did not fit on the device.
    pub fn retry_space(&mut self) {
        self.upkeep.lacks_space = None;
    }

    /// No operation of the directory is in flight.
    pub fn idle(&self) -> bool {
        let upkeep = &self.upkeep;
        let is_building = |making: &Making| matches!(making, Making::Building(_));
        let nothing_is_made = !upkeep.flush.iter().any(is_building)
            && !upkeep.merges.iter().any(|(_, making)| is_building(making));
        let nothing_goes =
            upkeep.removing == 0 && !upkeep.retired.iter().any(|retired| retired.is_removing);
        nothing_is_made
            && nothing_goes
            && upkeep.loads.is_empty()
            && upkeep.publishing.is_none()
            && !upkeep.is_condemning
    }

    /// A lookup found damage: sees to it that the next start makes the directory anew from the log.
    /// When that is durable, [`Self::complete`] fails with `damage`.
    pub fn condemn(&mut self, damage: Damage, ops: &mut Vec<(Token, Op)>) {
        self.upkeep.condemned.get_or_insert(damage);
        self.advance(ops);
    }

    /// Whether the memtable, which goes up to `upto`, should be written out. `log_bytes`: how much
    /// log there has been.
    pub(crate) fn must_freeze(&self, upto: Lsn, log_bytes: u64) -> bool {
        let is_much = self.memtable.bytes() >= self.memtable_bytes_max
            || log_bytes - self.frozen_at_bytes >= self.checkpoint_bytes;
        let is_new = upto > self.checkpoint.position.lsn;
        is_much && is_new && self.frozen.is_none() && self.upkeep.condemned.is_none()
    }

    /// The device has no room, and memory for `times` the budget is used.
    pub(crate) fn overdrawn(&self, times: usize) -> Option<DiskError> {
        let is_overdrawn =
            self.unwritten_bytes() > times * 2 * self.memtable_bytes_max.max(1 << 20);
        let error = self.upkeep.lacks_space.as_ref().filter(|_| is_overdrawn)?;
        let (op, name) = (error.op, error.name.clone());
        Some(DiskError { op, name, source: error.source.kind().into() })
    }

    /// Begins a new memtable. The present one holds what records up to `position` did, on top of
    /// the runs; `legs` are open there.
    ///
    /// # Panics
    /// When it holds more than that: what is not committed may still be cut.
    pub(crate) fn freeze(
        &mut self,
        position: Position,
        log_bytes: u64,
        legs: impl Iterator<Item = OpenLeg>,
    ) {
        assert!(
            self.newest <= position.last_stamp,
            "stamp {} is applied, the checkpoint is at {position:?}",
            self.newest
        );
        let is_applied = |leg: OpenLeg| self.applied_legs.contains(&leg.lsn);
        let legs: Vec<_> = legs.map(|leg| OpenLeg { is_applied: is_applied(leg), ..leg }).collect();
        self.applied_legs.retain(|lsn| legs.iter().any(|leg| leg.lsn == *lsn));
        let table = std::mem::take(&mut self.memtable);
        self.frozen = Some(Frozen { table, checkpoint: Checkpoint { position, legs } });
        self.frozen_at_bytes = log_bytes;
    }

    /// Starts to read a page that a lookup lacks, unless that is under way.
    pub fn load(&mut self, missing: Missing, ops: &mut Vec<(Token, Op)>) {
        let Missing(place) = missing;
        let upkeep = &mut self.upkeep;
        if upkeep.loads.contains_key(&place) {
            return;
        }
        let live = self.runs.iter().find(|run| run.number() == place.run).map(Run::file);
        let retired = upkeep.retired.iter().find(|it| it.run == place.run && !it.is_removing);
        let Some(file) = live.or(retired.map(|it| it.file)) else {
            panic!("{place:?} is of no run: load a page in the turn in which it was missed")
        };
        upkeep.loads_started += 1;
        upkeep.loads.insert(place, upkeep.loads_started);
        upkeep.loading.insert(upkeep.loads_started, place);
        let read = Op::Read { file, offset: place.offset(), len: place.bytes() };
        ops.push((token(KIND_PAGE, upkeep.loads_started), read));
    }

    /// Takes the end of one of the directory's operations. Returns pages that arrived, for whoever
    /// waits for them.
    ///
    /// # Errors
    /// Every error but a full disk. It is final: stop the node and recover. After `Error::Damage`
    /// the next start makes the directory anew.
    pub fn complete(
        &mut self,
        completion: Completion,
        ops: &mut Vec<(Token, Op)>,
    ) -> Result<Vec<(Missing, Bytes)>, Error> {
        if self.upkeep.is_poisoned {
            return Err(Error::Poisoned);
        }
        let taken = self.take(completion, ops);
        if taken.is_err() {
            self.upkeep.is_poisoned = true;
        } else {
            self.advance(ops);
        }
        taken
    }

    fn take(
        &mut self,
        completion: Completion,
        ops: &mut Vec<(Token, Op)>,
    ) -> Result<Vec<(Missing, Bytes)>, Error> {
        let Completion { token, outcome } = completion;
        assert!(Self::owns(token), "token {token} is not the directory's");
        let number = token & NUMBER;
        match (token & !DIRECTORY_BIT) >> KIND_SHIFT {
            KIND_PAGE => return Ok(self.take_page(number, outcome?)),
            KIND_BUILD => self.take_built(number as u32, outcome, ops)?,
            KIND_MANIFEST => match outcome {
                Ok(_) => self.published(),
                Err(error) if error.is_full() => {
                    self.upkeep.publishing = None;
                    self.upkeep.lacks_space = Some(error);
                }
                Err(error) => return Err(error.into()),
            },
            KIND_REMOVE => {
                outcome?;
                let before = self.upkeep.retired.len();
                self.upkeep.retired.retain(|retired| u64::from(retired.run) != number);
                if self.upkeep.retired.len() == before {
                    self.upkeep.removing -= 1;
                }
            }
            KIND_CONDEMN => {
                outcome?;
                let damage = self.upkeep.condemned.clone();
                return Err(damage.map_or(Error::Poisoned, Error::Damage));
            }
            kind => panic!("token of unknown kind {kind}"),
        }
        Ok(Vec::new())
    }

    fn take_page(&mut self, number: u64, done: Done) -> Vec<(Missing, Bytes)> {
        let Done::Read(buffer) = done else { panic!("Read ended with {done:?}") };
        let Some(place) = self.upkeep.loading.remove(&number) else {
            panic!("page load {number} is not under way")
        };
        self.upkeep.loads.remove(&place);
        let bytes = buffer.into_bytes();
        match run::verify(&bytes, &self.identity, place) {
            Ok(()) => {
                self.pages.insert(place, bytes.clone());
                vec![(Missing(place), bytes)]
            }
            Err(flaw) => {
                self.upkeep.condemned.get_or_insert(damage(place, flaw));
                Vec::new()
            }
        }
    }

    fn take_built(
        &mut self,
        number: u32,
        outcome: Result<Done, DiskError>,
        ops: &mut Vec<(Token, Op)>,
    ) -> Result<(), Error> {
        let upkeep = &mut self.upkeep;
        let is_condemned = upkeep.condemned.is_some();
        let Some(making) = upkeep.making_mut(number) else {
            panic!("run {number} is not in the making")
        };
        let Making::Building(build) = making else { unreachable!("it was just found to be") };
        let next = match outcome {
            Ok(done) => build.taken(done, self.frozen.as_ref().map(|frozen| &frozen.table)),
            Err(error) if error.is_full() => {
                upkeep.lacks_space = Some(error);
                upkeep.abandon(number, ops);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        match next {
            // Nothing more is published: the run stays unfinished, and a start removes it.
            _ if is_condemned => drop(upkeep.forget(number)),
            Next::Start(op) => ops.push((token(KIND_BUILD, number.into()), op)),
            Next::Ready(run) => *making = Making::Ready(Some(run)),
            Next::Damaged(damage) => {
                upkeep.condemned.get_or_insert(damage);
                upkeep.forget(number);
            }
        }
        Ok(())
    }

    /// Starts what can be started.
    pub(crate) fn advance(&mut self, ops: &mut Vec<(Token, Op)>) {
        if self.upkeep.is_poisoned {
            return;
        }
        self.discarded.discard(DISCARDED_STEP);
        if self.upkeep.condemned.is_some() {
            // A manifest on its way must not come after its removal.
            if self.upkeep.publishing.is_none() && !self.upkeep.is_condemning {
                self.upkeep.is_condemning = true;
                let name = MANIFEST_NAME.to_owned();
                ops.push((token(KIND_CONDEMN, 0), Op::Remove { name }));
            }
            return;
        }
        if self.upkeep.lacks_space.is_none() {
            self.start_flush(ops);
            self.start_merges(ops);
            self.publish(ops);
        }
        let upkeep = &mut self.upkeep;
        for retired in &mut upkeep.retired {
            let is_read = upkeep.loads.keys().any(|place| place.run == retired.run);
            if !retired.is_removing && !is_read {
                retired.is_removing = true;
                let name = run_name(retired.run);
                ops.push((token(KIND_REMOVE, retired.run.into()), Op::Remove { name }));
            }
        }
    }

    fn start_flush(&mut self, ops: &mut Vec<(Token, Op)>) {
        let Some(frozen) = &self.frozen else { return };
        if self.upkeep.flush.is_some() || self.runs.len() >= RUNS_MAX {
            return;
        }
        if frozen.table.is_empty() {
            self.upkeep.flush = Some(Making::Ready(None));
            return;
        }
        self.upkeep.flush = Some(self.begin(&[], ops));
    }

    fn begin(&mut self, runs: &[Run], ops: &mut Vec<(Token, Op)>) -> Making {
        let number = self.next_run;
        self.next_run += 1;
        let (build, op) = Build::begin(self.identity, number, runs);
        ops.push((token(KIND_BUILD, number.into()), op));
        Making::Building(Box::new(build))
    }

    fn start_merges(&mut self, ops: &mut Vec<(Token, Op)>) {
        while !self.upkeep.nothing_to_merge && self.upkeep.merges.len() < MERGES_MAX {
            let merges = &self.upkeep.merges;
            let is_busy = |run: &Run| merges.iter().any(|(old, _)| old.contains(&run.number()));
            let sizes: Vec<_> =
                self.runs.iter().map(|run| (!is_busy(run)).then_some(run.pages())).collect();
            let Some((from, to)) = choose(&sizes) else {
                self.upkeep.nothing_to_merge = true;
                return;
            };
            let inputs = self.runs[from..to].to_vec();
            let making = self.begin(&inputs, ops);
            let numbers = inputs.iter().map(Run::number).collect();
            self.upkeep.merges.push((numbers, making));
        }
    }

    /// Writes the manifest that names every run which is ready.
    fn publish(&mut self, ops: &mut Vec<(Token, Op)>) {
        if self.upkeep.publishing.is_some() {
            return;
        }
        let is_flushed = matches!(self.upkeep.flush, Some(Making::Ready(_)));
        let merged = self.upkeep.merges.iter().any(|(_, it)| matches!(it, Making::Ready(_)));
        let is_noted = self.erased >= self.upkeep.erased;
        if !is_flushed && !merged && is_noted {
            return;
        }
        let checkpoint = match &self.frozen {
            Some(frozen) if is_flushed => frozen.checkpoint.clone(),
            _ => self.checkpoint.clone(),
        };
        let runs = self.runs_next().iter().map(|run| (run.number(), run.pages())).collect();
        let (next_run, erased) = (self.next_run, self.upkeep.erased);
        let manifest = Manifest { next_run, checkpoint, erased, knows_aborted: true, runs };
        let content = manifest.encode(&self.identity);
        self.upkeep.publishing = Some(Publishing { manifest, is_flushed });
        let name = MANIFEST_NAME.to_owned();
        ops.push((token(KIND_MANIFEST, 0), Op::Put { name, content }));
    }

    /// The runs when those that are ready take their places.
    fn runs_next(&self) -> Vec<Run> {
        let mut runs = self.runs.clone();
        for (old, making) in &self.upkeep.merges {
            let Making::Ready(Some(run)) = making else { continue };
            if let Some(at) = runs.iter().position(|run| Some(&run.number()) == old.first()) {
                runs.splice(at..at + old.len(), [run.clone()]);
            }
        }
        if let Some(Making::Ready(Some(run))) = &self.upkeep.flush {
            runs.insert(0, run.clone());
        }
        runs
    }

    /// The manifest is durable: what it says holds from here on.
    fn published(&mut self) {
        let Some(Publishing { manifest, is_flushed }) = self.upkeep.publishing.take() else {
            panic!("a manifest that nobody wrote")
        };
        let numbers = manifest.runs.iter().map(|(number, _)| *number);
        let is_named = |run: &Run| numbers.clone().any(|number| number == run.number());
        let runs: Vec<Run> = numbers.clone().filter_map(|number| self.known_run(number)).collect();
        assert_eq!(runs.len(), manifest.runs.len(), "the manifest names runs that are there");
        for run in std::mem::replace(&mut self.runs, runs) {
            if !is_named(&run) {
                self.pages.forget(run.number());
                let (run, file) = (run.number(), run.file());
                self.upkeep.retired.push(Retired { run, file, is_removing: false });
            }
        }
        self.upkeep.nothing_to_merge = false;
        // Others may have become ready meanwhile: they are of the next manifest.
        self.upkeep.merges.retain(|(_, making)| match making {
            Making::Ready(Some(run)) => !is_named(run),
            _ => true,
        });
        if is_flushed {
            self.discarded = self.frozen.take().map(|frozen| frozen.table).unwrap_or_default();
            self.upkeep.flush = None;
        }
        self.checkpoint = manifest.checkpoint;
        self.erased = manifest.erased;
        self.divide_cache();
    }

    pub(super) fn divide_cache(&mut self) {
        // A node is two pages for some seventy leaves, and one more for what is left over. They
        // get a little more room than they fill.
        let of_run = |run: &Run| (u64::from(run.pages()) / 32 + 2) * (SECTOR_BYTES as u64 + 256);
        self.pages.divide(self.runs.iter().map(of_run).sum());
    }

    fn known_run(&self, number: u32) -> Option<Run> {
        let makings = self.upkeep.flush.iter().chain(self.upkeep.merges.iter().map(|(_, it)| it));
        let made = makings.filter_map(|making| match making {
            Making::Ready(Some(run)) => Some(run),
            _ => None,
        });
        self.runs.iter().chain(made).find(|run| run.number() == number).cloned()
    }
}

impl Upkeep {
    /// Gives up a run in the making.
    fn forget(&mut self, number: u32) -> Option<Box<Build>> {
        let is_it =
            |making: &Making| matches!(making, Making::Building(build) if build.number == number);
        let gone = if self.flush.as_ref().is_some_and(is_it) {
            self.flush.take()
        } else {
            let at = self.merges.iter().position(|(_, making)| is_it(making))?;
            self.nothing_to_merge = false;
            Some(self.merges.remove(at).1)
        };
        match gone {
            Some(Making::Building(build)) => Some(build),
            _ => None,
        }
    }

    /// Gives up a run in the making, and the space that it has taken.
    fn abandon(&mut self, number: u32, ops: &mut Vec<(Token, Op)>) {
        if self.forget(number).is_some_and(|build| build.is_made()) {
            self.removing += 1;
            let name = run_name(number);
            ops.push((token(KIND_REMOVE, number.into()), Op::Remove { name }));
        }
    }

    fn making_mut(&mut self, number: u32) -> Option<&mut Making> {
        let makings = self.flush.iter_mut().chain(self.merges.iter_mut().map(|(_, it)| it));
        let mut makings = makings
            .filter(|making| matches!(making, Making::Building(build) if build.number == number));
        makings.next()
    }
}

/// Which neighbours to merge. `sizes` are in pages, newest first, `None` if a run is being merged.
///
/// Each row is merged about once for every fourfold of its run's size: four runs of a size become
/// one of the next.
fn choose(sizes: &[Option<u32>]) -> Option<(usize, usize)> {
    let mut cheapest: Option<(u64, usize)> = None;
    let mut at = 0;
    for free in sizes.split(|size| size.is_none()) {
        let free: Vec<u32> = free.iter().flatten().copied().collect();
        if let Some((from, to)) = of_a_size(&free) {
            return Some((at + from, at + to));
        }
        for (from, window) in free.windows(RUNS_OF_A_SIZE).enumerate() {
            let cost = window.iter().map(|pages| u64::from(*pages)).sum();
            if cheapest.is_none_or(|(least, _)| cost < least) {
                cheapest = Some((cost, at + from));
            }
        }
        at += free.len() + 1;
    }
    let (_, from) = cheapest.filter(|_| sizes.len() > RUNS_WANTED)?;
    Some((from, from + RUNS_OF_A_SIZE))
}

/// The smallest size of which there are enough, with what lies between them.
fn of_a_size(pages: &[u32]) -> Option<(usize, usize)> {
    let sizes: Vec<u32> =
        pages.iter().map(|pages| (pages / PAGES_OF_THE_SMALLEST).max(1).ilog2() / 2).collect();
    for size in 0..=sizes.iter().copied().max()? {
        let mut at = 0;
        for block in sizes.split(|other| *other > size) {
            let mut same = (0..block.len()).filter(|at| block[*at] == size);
            if let (Some(first), Some(last)) = (same.next(), same.next_back())
                && same.count() + 2 >= RUNS_OF_A_SIZE
            {
                return Some((at + first, at + last + 1));
            }
            at += block.len() + 1;
        }
    }
    None
}

#[cfg(test)]
#[path = "upkeep_test.rs"]
mod tests;
