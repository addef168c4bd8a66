//! Work that needs pages of the directory which are not in memory.
//!
//! ```text
//!   lookup ──missing──► park: its aggregates are held, the pages are read
//!   page ─────────────► pinned for whoever waits for it; the last one ─► let go, run it again
//! ```
//! The work runs again from its start with its pages pinned, so it makes progress however small the
//! page cache is. While a write is parked, what arrives later for its aggregates queues behind it:
//! requests for one aggregate stay in order, and nothing that was looked at changes meanwhile. A
//! parked write holds nothing but waits for the device alone, so nobody can wait in a circle.
//!
//! Bounded by admission: everything parked or queued here holds a permit, or belongs to something
//! that does.

use std::collections::VecDeque;

use bytes::Bytes;
use celeriant_schema::{AggregateKey, Member, Request};
use celeriant_storage::directory::{Directory, Fault, Missing, Pins};
use celeriant_storage::error::Damage;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::core::{Core, Effect};
use crate::clock::Micros;
use crate::work::{Step, Work};

/// The directory, and the pages that the work at hand has loaded.
#[derive(Clone, Copy)]
pub(super) struct View<'d> {
    pub(super) directory: &'d Directory,
    pub(super) pins: &'d Pins,
}

/// Why a lookup has no answer now.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// These pages first.
    Missing(Vec<Missing>),
    /// There will be none: the directory must be made anew from the log.
    Damaged(Damage),
}

impl From<Fault> for Obstacle {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Missing(missing) => Self::Missing(vec![missing]),
            Fault::Damaged(damage) => Self::Damaged(damage),
        }
    }
}

impl Obstacle {
    /// Both: all missing pages can be read at once.
    pub(super) fn and(self, other: Option<Self>) -> Self {
        match (self, other) {
            (Self::Missing(mut these), Some(Self::Missing(more))) => {
                these.extend(more);
                Self::Missing(these)
            }
            (damaged @ Self::Damaged(_), _) | (_, Some(damaged @ Self::Damaged(_))) => damaged,
            (these, None) => these,
        }
    }
}

/// Everything that waits for pages.
#[derive(Debug)]
pub(super) struct Cold<R> {
    next: u64,
    parked: HashMap<u64, Parked<R>, FixedState>,
    waiters: HashMap<Missing, Vec<u64>, FixedState>,
    /// Aggregates of parked writes, and the number of the write that holds each.
    holds: HashMap<AggregateKey, u64, FixedState>,
}

#[derive(Debug)]
struct Parked<R> {
    work: Work<R>,
    pins: Pins,
    missing: usize,
    /// What arrived since for its aggregates, in order.
    waiting: VecDeque<Work<R>>,
}

impl<R> Default for Cold<R> {
    fn default() -> Self {
        Self {
            next: 0,
            parked: HashMap::with_hasher(FixedState::default()),
            waiters: HashMap::with_hasher(FixedState::default()),
            holds: HashMap::with_hasher(FixedState::default()),
        }
    }
}

impl<R> Cold<R> {
    pub(super) fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    /// Forgets everything; returns what was parked, and what waited behind it.
    pub(super) fn take_all(&mut self) -> Vec<Work<R>> {
        self.waiters.clear();
        self.holds.clear();
        let mut parked: Vec<_> = self.parked.drain().collect();
        parked.sort_unstable_by_key(|(number, _)| *number);
        let all = parked
            .into_iter()
            .flat_map(|(_, parked)| std::iter::once(parked.work).chain(parked.waiting));
        all.collect()
    }

    /// The first member whose aggregate a parked write holds.
    pub(super) fn held<'m>(&self, members: &'m [Member]) -> Option<&'m AggregateKey> {
        if self.holds.is_empty() {
            return None;
        }
        members.iter().map(|member| &member.key).find(|key| self.holds.contains_key(*key))
    }

    /// What waits behind the parked write that holds `key`.
    pub(super) fn waiting_mut(&mut self, key: &AggregateKey) -> Option<&mut VecDeque<Work<R>>> {
        let holder = self.holds.get(key)?;
        self.parked.get_mut(holder).map(|parked| &mut parked.waiting)
    }
}

impl<R> Core<R> {
    /// Puts `work` aside until the pages that it lacks have been read.
    pub(super) fn park(&mut self, work: Work<R>, obstacle: Obstacle, effects: &mut Vec<Effect<R>>) {
        let mut missing = match obstacle {
            Obstacle::Missing(missing) => missing,
            Obstacle::Damaged(damage) => return self.condemn(damage, effects),
        };
        missing.sort_unstable();
        missing.dedup();
        let number = self.cold.next;
        self.cold.next += 1;
        for member in members_of(&work) {
            self.cold.holds.insert(member.key.clone(), number);
        }
        let mut ops = std::mem::take(&mut self.ops);
        for page in &missing {
            self.cold.waiters.entry(*page).or_default().push(number);
            self.directory.load(*page, &mut ops);
        }
        self.start(ops, effects);
        let pins = std::mem::take(&mut self.pins);
        let (missing, waiting) = (missing.len(), VecDeque::new());
        self.cold.parked.insert(number, Parked { work, pins, missing, waiting });
    }

    /// A page has been read: runs what waited for it and lacks nothing more.
    pub(super) fn arrived(
        &mut self,
        now: Micros,
        page: Missing,
        bytes: &Bytes,
        effects: &mut Vec<Effect<R>>,
    ) {
        for number in self.cold.waiters.remove(&page).unwrap_or_default() {
            let Some(parked) = self.cold.parked.get_mut(&number) else { continue };
            parked.pins.add(page, bytes.clone());
            parked.missing -= 1;
            if parked.missing == 0 {
                self.unpark(now, number, effects);
            }
        }
    }

    /// The directory is damaged: it is given up durably, which ends this shard, and the next start
    /// makes it anew from the log.
    fn condemn(&mut self, damage: Damage, effects: &mut Vec<Effect<R>>) {
        let mut ops = std::mem::take(&mut self.ops);
        self.directory.condemn(damage, &mut ops);
        self.start(ops, effects);
    }

    fn unpark(&mut self, now: Micros, number: u64, effects: &mut Vec<Effect<R>>) {
        let Some(parked) = self.cold.parked.remove(&number) else { return };
        for member in members_of(&parked.work) {
            self.cold.holds.remove(&member.key);
        }
        self.pins = parked.pins;
        self.take(now, parked.work, effects);
        self.pins = Pins::default();
        // What runs first may hold the aggregate again: the rest then queues there, in order.
        for waiting in parked.waiting {
            self.take(now, waiting, effects);
        }
    }
}

/// The members whose aggregates `work` holds while it is parked.
fn members_of<R>(work: &Work<R>) -> &[Member] {
    match work {
        Work::Task(task) => match &task.request {
            Request::Write(write) => &write.members,
            _ => &[],
        },
        Work::Step(Step::Reserve { part, .. }) => &part.members,
        Work::Step(_) => &[],
    }
}
