//! Rows that are not written out yet, in memory, in the order of a run.
//!
//! One entry an aggregate: what was applied since the table was begun, nothing older. Counts its
//! bytes, so that its owner can write it out before it grows too large.
//!
//! Deliberately absent: lookups in runs. A table never needs to know what was before it.

use std::collections::BTreeMap;
use std::ops::Bound;

use celeriant_schema::request::Retention;
use celeriant_schema::{AggregateKey, ClientId, Stamp, TxnId, Version};

use super::rows::{
    Chunk, CutRow, HeadRow, Outcome, PLACES_MAX, Place, RowKey, RowKind, encode_aborted,
    encode_client, encode_erasure,
};
use super::{AbortedLeg, AppliedBatch, ClientSequences, Erasure, Remembered};

/// What an entry costs beside its contents: its slot in the tree, and allocations' own needs.
const ENTRY_BYTES: usize = size_of::<Entry>() + 64;
const OUTCOME_BYTES: usize = size_of::<(TxnId, Outcome)>() + 16;
const ERASURE_BYTES: usize = size_of::<(Stamp, Erasure)>() + 64;
const ABORTED_BYTES: usize = size_of::<(Stamp, AbortedLeg)>() + 16;

#[derive(Debug, Default)]
pub(super) struct Memtable {
    entries: BTreeMap<Box<[u8]>, Entry>,
    outcomes: BTreeMap<TxnId, Outcome>,
    erasures: BTreeMap<Stamp, Erasure>,
    aborted: BTreeMap<Stamp, AbortedLeg>,
    bytes: usize,
}

/// What was applied to one aggregate.
#[derive(Debug)]
pub(super) struct Entry {
    head: HeadRow,
    places: Vec<Place>,
    /// Sorted by client.
    clients: Vec<(ClientId, ClientSequences)>,
    cut: Option<CutRow>,
}

/// Where writing out has got to.
#[derive(Clone, Debug)]
pub(super) enum Position {
    Outcomes(Option<TxnId>),
    Erasures(Option<Stamp>),
    Aborted(Option<Stamp>),
    Entry { after: Bound<Box<[u8]>>, row: usize },
    End,
}

impl Position {
    pub(super) fn start() -> Self {
        Self::Outcomes(None)
    }
}

impl Memtable {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        let nothing_goes = self.erasures.is_empty() && self.aborted.is_empty();
        self.entries.is_empty() && self.outcomes.is_empty() && nothing_goes
    }

    pub(super) fn entry(&self, prefix: &[u8]) -> Option<&Entry> {
        self.entries.get(prefix)
    }

    /// The first aggregate at or above `from`.
    pub(super) fn seek(&self, from: &[u8]) -> Option<&[u8]> {
        let range = (Bound::Included(from), Bound::Unbounded);
        self.entries.range::<[u8], _>(range).next().map(|(prefix, _)| &**prefix)
    }

    pub(super) fn outcome(&self, txn: TxnId) -> Option<Outcome> {
        self.outcomes.get(&txn).copied()
    }

    pub(super) fn note_outcome(&mut self, txn: TxnId, outcome: Outcome) {
        if self.outcomes.insert(txn, outcome).is_none() {
            self.bytes += OUTCOME_BYTES;
        }
    }

    pub(super) fn note_aborted(&mut self, leg: AbortedLeg) {
        if self.aborted.insert(leg.stamp, leg).is_none() {
            self.bytes += ABORTED_BYTES;
        }
    }

    /// Whether some legs were aborted.
    pub(super) fn has_aborted(&self) -> bool {
        !self.aborted.is_empty()
    }

    /// Those that were aborted behind `after`, in the order of stamps.
    pub(super) fn aborted(&self, after: Stamp) -> impl Iterator<Item = &AbortedLeg> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        self.aborted.range(behind).map(|(_, leg)| leg)
    }

    /// Whether some of its aggregates were deleted or trimmed.
    pub(super) fn has_cuts(&self) -> bool {
        !self.erasures.is_empty()
    }

    /// What was deleted and trimmed behind `after`, in the order of stamps.
    pub(super) fn erasures(&self, after: Stamp) -> impl Iterator<Item = &Erasure> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        self.erasures.range(behind).map(|(_, erasure)| erasure)
    }

    /// Whether `batch` continues what the table knows of `key`.
    pub(super) fn continues(&self, key: &AggregateKey, batch: &AppliedBatch) -> bool {
        let known = self.entry(&RowKey::aggregate(key));
        known.is_none_or(|entry| batch.first_version == entry.head.version.next())
            && batch.is_possible()
    }

    /// Takes a batch in that [`Self::continues`].
    pub(super) fn apply(&mut self, key: &AggregateKey, batch: &AppliedBatch) {
        let prefix = RowKey::aggregate(key);
        let entry = match self.entries.get_mut(&*prefix) {
            Some(entry) => entry,
            None => {
                self.bytes += ENTRY_BYTES + prefix.len();
                self.entries.entry(Box::from(&*prefix)).or_insert_with(|| Entry::begin(batch))
            }
        };
        self.bytes += entry.apply(key, batch);
        if let Some(retention) = batch.retention {
            let upto = below(retention.first_available(batch.first_version));
            let erasure = Erasure { stamp: batch.stamp, key: key.detached(), upto };
            self.bytes += ERASURE_BYTES + key.as_bytes().len();
            self.erasures.insert(batch.stamp, erasure);
        }
    }

    /// Frees some of it, so that a large table does not hold its owner up when it goes.
    pub(super) fn discard(&mut self, entries: usize) {
        let is_gone = (0..entries).any(|_| self.entries.pop_first().is_none());
        if is_gone {
            *self = Self::default();
        }
    }

    /// Hands the next row at or behind `position` to `out`, and moves it on; false at the end.
    pub(super) fn next_row(
        &self,
        position: &mut Position,
        value: &mut Vec<u8>,
        out: impl FnOnce(&[u8], &[u8], RowKind),
    ) -> bool {
        value.clear();
        if let Position::Outcomes(after) = position {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            if let Some((txn, outcome)) = self.outcomes.range((from, Bound::Unbounded)).next() {
                outcome.encode(value);
                out(&RowKey::outcome(*txn), value, RowKind::Outcome);
                *position = Position::Outcomes(Some(*txn));
                return true;
            }
            *position = Position::Erasures(None);
        }
        if let Position::Erasures(after) = position {
            if let Some(erasure) = self.erasures(after.unwrap_or_default()).next() {
                encode_erasure(erasure, value);
                out(&RowKey::erasure(erasure.stamp), value, RowKind::Erasure);
                *position = Position::Erasures(Some(erasure.stamp));
                return true;
            }
            *position = Position::Aborted(None);
        }
        if let Position::Aborted(after) = position {
            if let Some(leg) = self.aborted(after.unwrap_or_default()).next() {
                encode_aborted(leg, value);
                out(&RowKey::aborted(leg.stamp), value, RowKind::Aborted);
                *position = Position::Aborted(Some(leg.stamp));
                return true;
            }
            *position = Position::Entry { after: Bound::Unbounded, row: 0 };
        }
        let Position::Entry { after, row } = position else { return false };
        let bound = match after {
            Bound::Unbounded => Bound::Unbounded,
            Bound::Included(prefix) => Bound::Included(&**prefix),
            Bound::Excluded(prefix) => Bound::Excluded(&**prefix),
        };
        let mut range = self.entries.range::<[u8], _>((bound, Bound::Unbounded));
        let Some((prefix, entry)) = range.next() else {
            *position = Position::End;
            return false;
        };
        let (key, kind) = entry.row(&RowKey::of_prefix(prefix), *row, value);
        out(&key, value, kind);
        *row += 1;
        if *row == entry.rows() {
            *position = Position::Entry { after: Bound::Excluded(prefix.clone()), row: 0 };
        } else if *row == 1 {
            *after = Bound::Included(prefix.clone());
        }
        true
    }
}

/// The version before `version`.
fn below(version: Version) -> Version {
    Version::new(version.value().saturating_sub(1))
}

impl Entry {
    fn begin(batch: &AppliedBatch) -> Self {
        let is_first = batch.first_version == Version::new(1);
        let head = HeadRow {
            first_version: batch.first_version,
            version: Version::new(batch.first_version.value() - 1),
            hash: batch.hash,
            created: is_first.then_some(batch.server_time),
            updated: batch.server_time,
            stamp: batch.last_stamp,
            deleted: false,
            is_final: false,
        };
        Self { head, places: Vec::with_capacity(1), clients: Vec::new(), cut: None }
    }

    /// Returns by how many bytes it grew.
    fn apply(&mut self, key: &AggregateKey, batch: &AppliedBatch) -> usize {
        let head = &mut self.head;
        assert!(
            batch.first_version == head.version.next() && batch.is_possible(),
            "{key}: batch {}..={} on version {}",
            batch.first_version,
            batch.last_version,
            head.version
        );
        head.version = batch.last_version;
        head.hash = batch.hash;
        head.updated = batch.server_time;
        head.stamp = batch.last_stamp;
        let before = self.places.capacity();
        match batch.retention {
            Some(retention) => self.take_away(retention, batch),
            None => {
                (head.deleted, head.is_final) = (false, false);
                let (first_version, location) = (batch.first_version, batch.location);
                self.places.push(Place { first_version, location });
            }
        }
        let mut grown = (self.places.capacity() - before) * size_of::<Place>();
        if let Some(sequence) = batch.sequence {
            let remembered = Remembered {
                sequence,
                first_version: batch.first_version,
                last_version: batch.last_version,
                hash: batch.hash,
                stamp: batch.write_stamp,
                write_hash: batch.write_hash,
            };
            let before = self.clients.capacity();
            let sequences = self.client_mut(batch.client_id);
            let bytes = sequences.bytes();
            sequences.remember(remembered);
            grown += sequences.bytes() - bytes;
            let slots = self.clients.capacity() - before;
            grown += slots * size_of::<(ClientId, ClientSequences)>();
        }
        grown
    }

    fn take_away(&mut self, retention: Retention, batch: &AppliedBatch) {
        let first_available = retention.first_available(batch.first_version);
        let mut cut = CutRow { first_available, ..CutRow::default() };
        if let Retention::Delete { recreate, forget_sequences } = retention {
            (self.head.deleted, self.head.is_final) = (true, !recreate);
            if forget_sequences {
                cut.forgotten = Stamp::new(batch.stamp.value() - 1);
                self.clients.clear();
            }
        }
        self.cut.get_or_insert_default().join(cut);
    }

    fn client_mut(&mut self, id: ClientId) -> &mut ClientSequences {
        let at = match self.clients.binary_search_by_key(&id, |(known, _)| *known) {
            Ok(at) => at,
            Err(at) => {
                if self.clients.is_empty() {
                    self.clients.reserve_exact(1);
                }
                self.clients.insert(at, (id, ClientSequences::default()));
                at
            }
        };
        &mut self.clients[at].1
    }

    pub(super) fn head(&self) -> HeadRow {
        self.head
    }

    pub(super) fn cut(&self) -> Option<CutRow> {
        self.cut
    }

    pub(super) fn client(&self, id: ClientId) -> Option<&ClientSequences> {
        let at = self.clients.binary_search_by_key(&id, |(known, _)| *known).ok()?;
        Some(&self.clients[at].1)
    }

    /// Some batches around the one with `version`: that one first, or last.
    pub(super) fn chunk(&self, version: Version, backwards: bool) -> Option<Chunk> {
        let end = self.places.partition_point(|place| place.first_version <= version);
        let at = end.checked_sub(1)?;
        let (from, to) = if backwards {
            (end.saturating_sub(PLACES_MAX), end)
        } else {
            (at, self.places.len().min(at + PLACES_MAX))
        };
        Some(self.chunk_of(from, to))
    }

    fn chunk_of(&self, from: usize, to: usize) -> Chunk {
        let places = self.places[from..to].to_vec();
        Chunk { last_version: self.last_before(to), places }
    }

    /// Last version of the batch before the one at `at`.
    fn last_before(&self, at: usize) -> Version {
        let next = self.places.get(at).map(|next| Version::new(next.first_version.value() - 1));
        next.unwrap_or(self.head.version)
    }

    fn rows(&self) -> usize {
        let places = self.places.len().div_ceil(PLACES_MAX);
        1 + self.clients.len() + places + usize::from(self.cut.is_some())
    }

    fn row(&self, prefix: &RowKey, at: usize, value: &mut Vec<u8>) -> (RowKey, RowKind) {
        if at == 0 {
            self.head.encode(value);
            return (prefix.head(), RowKind::Head);
        }
        if let Some((id, sequences)) = self.clients.get(at - 1) {
            encode_client(sequences, value);
            return (prefix.client(*id), RowKind::Client);
        }
        let from = (at - 1 - self.clients.len()) * PLACES_MAX;
        if let Some(cut) = self.cut.filter(|_| from >= self.places.len()) {
            cut.encode(value);
            return (prefix.cut(), RowKind::Cut);
        }
        let to = self.places.len().min(from + PLACES_MAX);
        Chunk::encode(&self.places[from..to], self.last_before(to), value);
        (prefix.places(self.places[from].first_version), RowKind::Places)
    }
}
