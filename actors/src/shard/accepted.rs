//! What is accepted but not yet visible: the newest state of aggregates with writes in flight, and
//! who holds or waits for them.
//!
//! An aggregate is in here only while something of it is uncommitted, held or waited for, so the
//! size is bounded by what admission let in. Everything else is read from the directory, which
//! knows committed state only.

use std::collections::VecDeque;

use celeriant_schema::{
    AggregateKey, AggregateReceipt, ClientId, Conflict, Guard, Hash, Lsn, Member, Sequence, Stamp,
    TxnId, Version,
};
use celeriant_storage::directory::Directory;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

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

/// Where an aggregate stands for the next write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) version: Version,
    pub(super) hash: Hash,
    deleted: bool,
    lsn: Lsn,
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

    /// The state of `key`, taken over from the directory if nothing was in flight.
    pub(super) fn open(&mut self, directory: &Directory, key: &AggregateKey) -> &mut Accepted<R> {
        let standing = || committed_standing(directory, key);
        self.states.entry(key.clone()).or_insert_with(|| {
            let standing = standing();
            Accepted {
                version: standing.version,
                hash: standing.hash,
                deleted: standing.deleted,
                lsn: Lsn::ZERO,
                sequences: VecDeque::new(),
                hold: None,
                waiting: VecDeque::new(),
            }
        })
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

    /// Newest accepted version and hash of an aggregate.
    pub(super) fn standing(&self, directory: &Directory, key: &AggregateKey) -> Standing {
        match self.states.get(key) {
            Some(state) => Standing {
                version: state.version,
                hash: state.hash,
                deleted: state.deleted,
                lsn: state.lsn,
            },
            None => committed_standing(directory, key),
        }
    }

    /// Checks guards and sequences of this shard's members against the newest accepted state.
    pub(super) fn inspect(
        &self,
        directory: &Directory,
        committed: Lsn,
        client: ClientId,
        write_hash: Hash,
        members: &[Member],
    ) -> Findings {
        let mut findings = Findings::default();
        for member in members {
            let standing = self.standing(directory, &member.key);
            if !guard_passes(member.guard, &standing) {
                findings.conflicts.push(Conflict {
                    key: member.key.clone(),
                    expected: member.guard,
                    actual: standing.version,
                });
            }
            if let Some(sequence) = member.sequence {
                findings.sequenced += 1;
                let key = &member.key;
                let found = self.inspect_sequence(directory, key, client, sequence, write_hash);
                findings.sequences.extend(found);
            }
            findings.uncommitted |= standing.lsn > committed;
        }
        findings
    }

    /// `None` when `sequence` is the next one for (client, aggregate).
    fn inspect_sequence(
        &self,
        directory: &Directory,
        key: &AggregateKey,
        client: ClientId,
        sequence: Sequence,
        write_hash: Hash,
    ) -> Option<SequenceFinding> {
        let in_flight = self.states.get(key);
        let used = || {
            let sequences = in_flight.map(|state| state.sequences.iter().rev());
            sequences.into_iter().flatten().filter(|used| used.client == client)
        };
        let known = directory.sequences(key, client);
        let highest = used()
            .next()
            .map(|used| used.sequence)
            .or_else(|| known.map(|sequences| sequences.highest()))
            .unwrap_or_default();
        if sequence == highest.next() {
            return None;
        }
        if sequence > highest {
            return Some(SequenceFinding::Gap(key.clone(), highest.next()));
        }
        let landed = match used().find(|used| used.sequence == sequence) {
            Some(used) => Some((used.write_hash, used.receipt.clone(), used.stamp)),
            None => known.and_then(|sequences| sequences.find(sequence)).map(|past| {
                let receipt = AggregateReceipt {
                    key: key.clone(),
                    first_version: past.first_version,
                    last_version: past.last_version,
                    hash: past.hash,
                };
                (past.write_hash, receipt, past.stamp)
            }),
        };
        Some(match landed {
            None => SequenceFinding::Stale(key.clone(), sequence),
            Some((hash, receipt, stamp)) if hash == write_hash => {
                SequenceFinding::Landed { sequence, receipt, stamp }
            }
            Some(_) => SequenceFinding::Reused(key.clone(), sequence),
        })
    }
}

fn committed_standing(directory: &Directory, key: &AggregateKey) -> Standing {
    match directory.head(key) {
        Some(head) => Standing {
            version: head.version,
            hash: head.hash,
            deleted: head.deleted,
            lsn: Lsn::ZERO,
        },
        None => Standing {
            version: Version::NONE,
            hash: celeriant_schema::hash::chain_start(key),
            deleted: false,
            lsn: Lsn::ZERO,
        },
    }
}

/// semantics.md §2 and, for deleted aggregates, §9.
fn guard_passes(guard: Guard, standing: &Standing) -> bool {
    let exists = standing.version > Version::NONE && !standing.deleted;
    match guard {
        Guard::Any => true,
        Guard::NoStream => !exists,
        Guard::Exists => exists,
        Guard::Exact(version) => standing.version == version,
    }
}
