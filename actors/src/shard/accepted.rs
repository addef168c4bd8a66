//! What is accepted but not yet visible: the newest state of aggregates with writes in flight, and
//! who holds or waits for them.
//!
//! An aggregate is in here only while something of it is uncommitted, held or waited for, so the
//! size is bounded by what admission let in. Everything else is read from the directory, which
//! knows committed state only.

use std::collections::VecDeque;

use celeriant_schema::hash::chain_start;
use celeriant_schema::{
    AggregateKey, AggregateReceipt, ClientId, Conflict, Guard, Hash, Lsn, Member, Sequence, Stamp,
    TxnId, Version,
};
use celeriant_storage::directory::Fault;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

use super::cold::{Obstacle, View};
use crate::verdict::{Findings, SequenceFinding};
use crate::work::Work;

/// Newest accepted state of one aggregate.
#[derive(Debug)]
pub(super) struct Accepted<R> {
    pub(super) version: Version,
    pub(super) hash: Hash,
    /// Gone for readers, so `NoStream` passes.
    pub(super) deleted: bool,
    /// Record that made this state; committed state below the shard's commit.
    pub(super) lsn: Lsn,
    /// Sequences used by records that are not committed, oldest first.
    pub(super) sequences: VecDeque<UsedSequence>,
    /// The write over several shards that holds this aggregate.
    pub(super) hold: Option<TxnId>,
    /// What waits for the hold to end, in order of arrival.
    pub(super) waiting: VecDeque<Work<R>>,
}

/// A sequence that an uncommitted record used.
#[derive(Debug)]
pub(super) struct UsedSequence {
    pub(super) lsn: Lsn,
    pub(super) client: ClientId,
    pub(super) sequence: Sequence,
    pub(super) write_hash: Hash,
    pub(super) receipt: AggregateReceipt,
    pub(super) stamp: Stamp,
}

/// All aggregates with something in flight.
#[derive(Debug)]
pub(super) struct AcceptedStates<R> {
    states: HashMap<AggregateKey, Accepted<R>, FixedState>,
}

impl<R> AcceptedStates<R> {
    pub(super) fn new() -> Self {
        Self { states: HashMap::with_hasher(FixedState::default()) }
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    pub(super) fn find(&self, key: &AggregateKey) -> Option<&Accepted<R>> {
        self.states.get(key)
    }

    pub(super) fn find_mut(&mut self, key: &AggregateKey) -> Option<&mut Accepted<R>> {
        self.states.get_mut(key)
    }

    /// The state of `key`, taken over from the directory if nothing was in flight. Whoever opens it
    /// closes it.
    fn open(&mut self, view: View<'_>, key: &AggregateKey) -> Result<&Accepted<R>, Fault> {
        match self.states.entry_ref(key) {
            EntryRef::Occupied(entry) => Ok(entry.into_mut()),
            EntryRef::Vacant(entry) => {
                let state = match view.directory.standing(key, view.pins)? {
                    Some(known) => Accepted::at(known.version, known.hash, known.deleted),
                    None => Accepted::at(Version::NONE, chain_start(key), false),
                };
                Ok(entry.insert(state))
            }
        }
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

    /// Forgets what `committed` made visible; keeps the aggregate while anything else is in flight.
    pub(super) fn close(&mut self, key: &AggregateKey, committed: Lsn) {
        let EntryRef::Occupied(mut entry) = self.states.entry_ref(key) else { return };
        let state = entry.get_mut();
        while state.sequences.front().is_some_and(|used| used.lsn <= committed) {
            state.sequences.pop_front();
        }
        let idle = state.lsn <= committed && state.hold.is_none() && state.waiting.is_empty();
        if idle {
            entry.remove();
        }
    }

    /// The first member whose aggregate another write holds.
    pub(super) fn held<'m>(&self, members: &'m [Member]) -> Option<&'m AggregateKey> {
        if self.states.is_empty() {
            return None;
        }
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
        findings.uncommitted |= state.lsn > committed;
        if let Some(sequence) = member.sequence {
            findings.sequenced += 1;
            let found = state.inspect_sequence(view, &member.key, client, sequence, write_hash)?;
            findings.sequences.extend(found);
        }
        Ok(())
    }
}

impl<R> Accepted<R> {
    fn at(version: Version, hash: Hash, deleted: bool) -> Self {
        let (sequences, waiting) = (VecDeque::new(), VecDeque::new());
        Self { version, hash, deleted, lsn: Lsn::ZERO, sequences, hold: None, waiting }
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
            None => view.directory.last_sequence(key, client, view.pins)?.unwrap_or_default(),
        };
        if sequence == highest.next() {
            return Ok(None);
        }
        if sequence > highest {
            return Ok(Some(SequenceFinding::Gap(key.clone(), highest.next())));
        }
        let landed = match used().find(|used| used.sequence == sequence) {
            Some(used) => Some((used.write_hash, used.receipt.clone(), used.stamp)),
            None => {
                let known = view.directory.sequences(key, client, view.pins)?;
                known.as_ref().and_then(|known| known.find(sequence)).map(|past| {
                    let receipt = AggregateReceipt {
                        key: key.clone(),
                        first_version: past.first_version,
                        last_version: past.last_version,
                        hash: past.hash,
                    };
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
