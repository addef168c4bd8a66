//! What is accepted but not yet visible: the newest state of aggregates with writes in flight, and
//! who holds or waits for them.
//!
//! An aggregate is busy while something of it is uncommitted, held or waited for; how many are is
//! bounded by what admission let in. Some that were busy lately are kept, up to a limit, since who
//! wrote is likely to write again. Everything else is read from the directory, which knows
//! committed state only.

use std::collections::VecDeque;

use celeriant_schema::hash::chain_start;
use celeriant_schema::request::Retention;
use celeriant_schema::{
    AggregateKey, AggregateReceipt, ClientId, Conflict, Guard, Hash, Lsn, Member, Refusal,
    Sequence, Stamp, TxnId, Version,
};
use celeriant_storage::directory::{Fault, Standing};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

use super::cold::{Obstacle, View};
use crate::verdict::{Findings, SequenceFinding};
use crate::work::Work;

/// For so many bytes of memtables one aggregate is kept though nothing of it is in flight. It takes
/// some 250 bytes itself: an eighth as much as they do.
const MEMTABLE_BYTES_PER_IDLE: usize = 2_048;

/// Newest accepted state of one aggregate.
#[derive(Debug)]
pub(super) struct Accepted<R> {
    /// Something of it is in flight.
    busy: bool,
    /// Busy since idle ones were last let go.
    recent: bool,
    pub(super) version: Version,
    pub(super) hash: Hash,
    /// Gone for readers, so `NoStream` passes.
    pub(super) deleted: bool,
    /// Deleted, and not to be recreated.
    pub(super) is_final: bool,
    /// Sequences of writes up to this stamp are forgotten.
    pub(super) forgotten: Stamp,
    /// Record that made this state; committed state below the shard's commit.
    pub(super) lsn: Lsn,
    /// Sequences used by records that are not committed, oldest first, and the newest before those.
    pub(super) sequences: VecDeque<UsedSequence>,
    /// The write over several shards that holds this aggregate.
    pub(super) hold: Option<TxnId>,
    /// What waits for the hold to end, in order of arrival.
    pub(super) waiting: VecDeque<Work<R>>,
}

/// A sequence that a record used.
#[derive(Debug)]
pub(super) struct UsedSequence {
    pub(super) lsn: Lsn,
    pub(super) client: ClientId,
    pub(super) sequence: Sequence,
    pub(super) first_version: Version,
    pub(super) last_version: Version,
    pub(super) hash: Hash,
    pub(super) write_hash: Hash,
    pub(super) stamp: Stamp,
}

/// All aggregates with something in flight, and some that had lately.
#[derive(Debug)]
pub(super) struct AcceptedStates<R> {
    states: HashMap<AggregateKey, Accepted<R>, FixedState>,
    busy: usize,
    idle_max: usize,
}

impl<R> AcceptedStates<R> {
    /// Keeps as much as suits a directory with memtables of so many bytes.
    pub(super) fn new(memtable_bytes: usize) -> Self {
        let states = HashMap::with_hasher(FixedState::default());
        Self { states, busy: 0, idle_max: memtable_bytes / MEMTABLE_BYTES_PER_IDLE }
    }

    /// Aggregates with something in flight.
    pub(super) fn busy(&self) -> usize {
        self.busy
    }

    pub(super) fn find(&self, key: &AggregateKey) -> Option<&Accepted<R>> {
        self.states.get(key)
    }

    pub(super) fn find_mut(&mut self, key: &AggregateKey) -> Option<&mut Accepted<R>> {
        self.states.get_mut(key)
    }

    /// The state of `key`, taken over from the directory if it is not known. Whoever opens it
    /// closes it.
    fn open(&mut self, view: View<'_>, key: &AggregateKey) -> Result<&Accepted<R>, Fault> {
        let state = match self.states.entry_ref(key) {
            EntryRef::Occupied(entry) => entry.into_mut(),
            EntryRef::Vacant(entry) => {
                let known = view.directory.standing(key, view.pins)?;
                let never = || Standing {
                    version: Version::NONE,
                    hash: chain_start(key),
                    deleted: false,
                    is_final: false,
                };
                let state = Accepted::at(known.unwrap_or_else(never));
                entry.insert_with_key(key.detached(), state)
            }
        };
        self.busy += usize::from(!state.busy);
        (state.busy, state.recent) = (true, true);
        Ok(state)
    }

    /// The state of an aggregate that [`Self::inspect`] opened.
    pub(super) fn opened(&self, key: &AggregateKey) -> &Accepted<R> {
        match self.states.get(key) {
            Some(state) => state,
            None => unreachable!("{key} was inspected, so its state is open"),
        }
    }

    /// The same, to change it.
    pub(super) fn opened_mut(&mut self, key: &AggregateKey) -> &mut Accepted<R> {
        match self.states.get_mut(key) {
            Some(state) => state,
            None => unreachable!("{key} was inspected, so its state is open"),
        }
    }

    /// Closes what inspecting opened, as far as nothing of it is in flight.
    pub(super) fn close_all(&mut self, members: &[Member], committed: Lsn) {
        for member in members {
            self.close(&member.key, committed);
        }
    }

    /// Takes note of what `committed` made visible.
    pub(super) fn close(&mut self, key: &AggregateKey, committed: Lsn) {
        let Some(state) = self.states.get_mut(key) else { return };
        while state.sequences.get(1).is_some_and(|used| used.lsn <= committed) {
            state.sequences.pop_front();
        }
        let idle = state.lsn <= committed && state.hold.is_none() && state.waiting.is_empty();
        if idle && state.busy {
            state.busy = false;
            self.busy -= 1;
            if self.states.len() - self.busy > self.idle_max {
                self.let_go();
            }
        }
    }

    /// Forgets half of the idle ones, first those that were not busy since the last time.
    fn let_go(&mut self) {
        let mut excess = self.idle_max.div_ceil(2);
        for _ in 0..2 {
            self.states.retain(|_, state| {
                let keep = state.busy || std::mem::take(&mut state.recent) || excess == 0;
                excess -= usize::from(!keep);
                keep
            });
        }
    }

    /// Forgets everything; returns what waited.
    pub(super) fn take_waiting(&mut self) -> Vec<Work<R>> {
        self.busy = 0;
        // All are refused, in an order that is the same in every run.
        let mut states: Vec<_> = self.states.drain().collect();
        states.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        states.into_iter().flat_map(|(_, state)| state.waiting).collect()
    }

    /// The first member whose aggregate another write holds.
    pub(super) fn held<'m>(&self, members: &'m [Member]) -> Option<&'m AggregateKey> {
        let held = |key: &AggregateKey| self.states.get(key).is_some_and(|s| s.hold.is_some());
        members.iter().map(|member| &member.key).find(|key| held(key))
    }

    /// Checks guards and sequences of this shard's members against the newest accepted state.
    /// Leaves that of every member open; call [`Self::close`] for those that stay as they are.
    ///
    /// # Errors
    /// Pages of the directory are missing; nothing is left open.
    pub(super) fn inspect(
        &mut self,
        view: View<'_>,
        committed: Lsn,
        client: ClientId,
        write_hash: Hash,
        members: &[Member],
    ) -> Result<Findings, Obstacle> {
        let mut findings = Findings::default();
        let mut obstacle: Option<Obstacle> = None;
        for member in members {
            let inspected =
                self.inspect_member(view, committed, client, write_hash, member, &mut findings);
            if let Err(fault) = inspected {
                obstacle = Some(Obstacle::from(fault).and(obstacle));
            }
        }
        match obstacle {
            None => Ok(findings),
            Some(obstacle) => {
                self.close_all(members, committed);
                Err(obstacle)
            }
        }
    }

    fn inspect_member(
        &mut self,
        view: View<'_>,
        committed: Lsn,
        client: ClientId,
        write_hash: Hash,
        member: &Member,
        findings: &mut Findings,
    ) -> Result<(), Fault> {
        let state = self.open(view, &member.key)?;
        if !state.passes(member.guard) {
            findings.conflicts.push(Conflict {
                key: member.key.clone(),
                expected: member.guard,
                actual: state.version,
            });
        }
        if findings.barred.is_none() {
            findings.barred = state.bars(member);
        }
        findings.uncommitted |= state.lsn > committed;
        if let Some(sequence) = member.sequence {
            let found = state.inspect_sequence(view, &member.key, client, sequence, write_hash)?;
            findings.sequences.extend(found);
        }
        Ok(())
    }
}

impl<R> Accepted<R> {
    fn at(standing: Standing) -> Self {
        let Standing { version, hash, deleted, is_final } = standing;
        let (sequences, waiting) = (VecDeque::new(), VecDeque::new());
        let lsn = Lsn::ZERO;
        Self {
            busy: false,
            recent: false,
            version,
            hash,
            deleted,
            is_final,
            forgotten: Stamp::ZERO,
            lsn,
            sequences,
            hold: None,
            waiting,
        }
    }

    /// semantics.md §2 and, for deleted aggregates, §9.
    fn passes(&self, guard: Guard) -> bool {
        let exists = self.version > Version::NONE && !self.deleted;
        match guard {
            Guard::Any => true,
            Guard::NoStream => !exists,
            Guard::Exists => exists,
            Guard::Exact(version) => self.version == version,
        }
    }

    /// Why it takes no such change, whatever the guard says (semantics.md §9).
    fn bars(&self, member: &Member) -> Option<Refusal> {
        let key = || member.key.detached();
        match member.retention {
            Some(_) if self.version == Version::NONE => Some(Refusal::NotFound { key: key() }),
            Some(Retention::Trim { .. }) if self.deleted => Some(Refusal::Deleted { key: key() }),
            None if self.is_final && member.changes() => Some(Refusal::Deleted { key: key() }),
            _ => None,
        }
    }

    /// `None` when `sequence` is the next one for (client, aggregate).
    fn inspect_sequence(
        &self,
        view: View<'_>,
        key: &AggregateKey,
        client: ClientId,
        sequence: Sequence,
        write_hash: Hash,
    ) -> Result<Option<SequenceFinding>, Fault> {
        let used = || self.sequences.iter().rev().filter(|used| used.client == client);
        let highest = match used().next() {
            Some(newest) => newest.sequence,
            // Nobody has written to an aggregate that never was.
            None if self.version == Version::NONE => Sequence::default(),
            None => {
                let newest = view.directory.last_sequence(key, client, view.pins)?;
                let newest = newest.filter(|newest| newest.stamp > self.forgotten);
                newest.map_or(Sequence::default(), |newest| newest.sequence)
            }
        };
        if sequence == highest.next() {
            return Ok(None);
        }
        if sequence > highest {
            return Ok(Some(SequenceFinding::Gap(key.clone(), highest.next())));
        }
        let receipt = |first_version, last_version, hash| AggregateReceipt {
            key: key.clone(),
            first_version,
            last_version,
            hash,
        };
        let landed = match used().find(|used| used.sequence == sequence) {
            Some(used) => {
                let receipt = receipt(used.first_version, used.last_version, used.hash);
                Some((used.write_hash, receipt, used.stamp))
            }
            None => {
                let known = view.directory.sequences(key, client, view.pins)?;
                let known = known.as_ref().and_then(|known| known.find(sequence));
                known.filter(|past| past.stamp > self.forgotten).map(|past| {
                    let receipt = receipt(past.first_version, past.last_version, past.hash);
                    (past.write_hash, receipt, past.stamp)
                })
            }
        };
        Ok(Some(match landed {
            None => SequenceFinding::Stale(key.clone(), sequence),
            Some((hash, receipt, stamp)) if hash == write_hash => {
                SequenceFinding::Landed { sequence, receipt, stamp }
            }
            Some(_) => SequenceFinding::Reused(key.clone(), sequence),
        }))
    }
}
