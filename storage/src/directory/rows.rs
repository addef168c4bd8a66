//! What the directory keeps, as rows that sort by their bytes.
//!
//! ```text
//!   00 │ txn                                  outcome of a leg          before everything
//!   01 │ stamp                                what was deleted or trimmed then
//!   02 │ stamp                                the leg that was aborted then
//!   org 00 type 00 id 00 │ 1                  head
//!                        │ 2 client           its last sequences
//!                        │ 3 first version    places of up to 64 batches
//!                        │ 4                  where it was cut, if it ever was
//! ```
//! With `00` for `/` the order of bytes is the order of keys, part by part: no name has a byte
//! below a space. A row says what one run knows; what several say of one key is joined here, newest
//! first. Bytes in docs/format.md §3.
//!
//! Deliberately absent: where rows lie, and when they are joined.

use std::ops::Deref;

use bytes::Bytes;
use celeriant_schema::limits::{KEY_BYTES_MAX, SEQUENCES_REMEMBERED};
use celeriant_schema::{
    AggregateKey, BootId, ClientId, Epoch, Hash, Lsn, Sequence, Stamp, TxnId, Version,
};

use super::{AbortedLeg, BatchLocation, ClientSequences, Erasure, Remembered};
use crate::codec::Reader;
use crate::error::Flaw;
use crate::inspect::RunRows;

/// Kinds of an aggregate's rows, in their order.
pub(crate) const HEAD: u8 = 1;
pub(crate) const CLIENT: u8 = 2;
pub(crate) const PLACES: u8 = 3;
pub(crate) const CUT: u8 = 4;
/// First byte of an outcome's row.
const OUTCOME: u8 = 0;
/// First byte of an erasure's row.
const ERASURE: u8 = 1;
/// First byte of an aborted leg's row.
const ABORTED: u8 = 2;
/// Batches in one row of places.
pub(super) const PLACES_MAX: usize = 64;
const PLACE_BYTES: usize = 28;
const REMEMBERED_BYTES: usize = 96;
const HEAD_BYTES: usize = 74;
const CUT_BYTES: usize = 16;
const DELETED: u16 = 1;
const FINAL: u16 = 2;
/// A key, its kind and a client's id.
const ROW_KEY_BYTES_MAX: usize = KEY_BYTES_MAX + 1 + 1 + 16;
/// Longest value: a row of places.
const VALUE_BYTES_MAX: usize = 8 + PLACES_MAX * PLACE_BYTES;

const _: () = {
    assert!(ROW_KEY_BYTES_MAX <= crate::run::ROW_KEY_BYTES_MAX);
    assert!(VALUE_BYTES_MAX <= crate::run::ROW_VALUE_BYTES_MAX);
    assert!(SEQUENCES_REMEMBERED * REMEMBERED_BYTES <= VALUE_BYTES_MAX);
};

/// Key of a row, or of the front of one.
#[derive(Clone)]
pub(super) struct RowKey {
    bytes: [u8; ROW_KEY_BYTES_MAX],
    len: usize,
}

impl RowKey {
    /// What all rows of `key` start with.
    pub(super) fn aggregate(key: &AggregateKey) -> Self {
        let mut row = Self { bytes: [0; ROW_KEY_BYTES_MAX], len: 0 };
        row.push(key.as_bytes());
        row.push(&[0]);
        key.separators().into_iter().for_each(|at| row.bytes[at] = 0);
        row
    }

    /// The outcome of `txn`.
    pub(super) fn outcome(txn: TxnId) -> Self {
        let mut row = Self { bytes: [0; ROW_KEY_BYTES_MAX], len: 0 };
        row.push(&[OUTCOME]);
        for number in [txn.epoch.value(), txn.boot.value(), txn.counter] {
            row.push(&number.to_be_bytes());
        }
        row
    }

    /// What was erased at `stamp`.
    pub(super) fn erasure(stamp: Stamp) -> Self {
        Self::at(ERASURE, stamp)
    }

    /// The leg that was aborted at `stamp`.
    pub(super) fn aborted(stamp: Stamp) -> Self {
        Self::at(ABORTED, stamp)
    }

    fn at(first: u8, stamp: Stamp) -> Self {
        let mut row = Self { bytes: [0; ROW_KEY_BYTES_MAX], len: 0 };
        row.push(&[first]);
        row.push(&stamp.value().to_be_bytes());
        row
    }

    pub(super) fn of_prefix(prefix: &[u8]) -> Self {
        let mut row = Self { bytes: [0; ROW_KEY_BYTES_MAX], len: 0 };
        row.push(prefix);
        row
    }

    pub(super) fn head(&self) -> Self {
        self.with(HEAD, &[])
    }

    pub(super) fn cut(&self) -> Self {
        self.with(CUT, &[])
    }

    pub(super) fn client(&self, client: ClientId) -> Self {
        self.with(CLIENT, &client.value().to_be_bytes())
    }

    pub(super) fn places(&self, first: Version) -> Self {
        self.with(PLACES, &first.value().to_be_bytes())
    }

    fn with(&self, kind: u8, discriminator: &[u8]) -> Self {
        let mut row = self.clone();
        row.push(&[kind]);
        row.push(discriminator);
        row
    }

    fn push(&mut self, piece: &[u8]) {
        self.bytes[self.len..self.len + piece.len()].copy_from_slice(piece);
        self.len += piece.len();
    }
}

impl Deref for RowKey {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What a row's key says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum RowKind {
    Outcome,
    Erasure,
    Aborted,
    Head,
    Client,
    Places,
    Cut,
}

impl RowKind {
    /// Length of the aggregate's part of `row`, and the kind.
    pub(super) fn of(row: &[u8]) -> Result<(usize, Self), Flaw> {
        if row.first() == Some(&OUTCOME) {
            return if row.len() == 25 { Ok((0, Self::Outcome)) } else { Err(Flaw::Lengths) };
        }
        if row.first() == Some(&ERASURE) {
            return if row.len() == 9 { Ok((0, Self::Erasure)) } else { Err(Flaw::Lengths) };
        }
        if row.first() == Some(&ABORTED) {
            return if row.len() == 9 { Ok((0, Self::Aborted)) } else { Err(Flaw::Lengths) };
        }
        let mut zeroes = row.iter().enumerate().filter(|(_, byte)| **byte == 0);
        let Some((end, _)) = zeroes.nth(2) else { return Err(Flaw::Lengths) };
        let prefix = end + 1;
        match (row.get(prefix), row.len() - prefix) {
            (Some(&HEAD), 1) => Ok((prefix, Self::Head)),
            (Some(&CLIENT), 17) => Ok((prefix, Self::Client)),
            (Some(&PLACES), 9) => Ok((prefix, Self::Places)),
            (Some(&CUT), 1) => Ok((prefix, Self::Cut)),
            _ => Err(Flaw::Decode("a row of an unknown kind".into())),
        }
    }

    /// Whether lookups ask for such rows by their whole key.
    pub(super) fn is_filtered(self) -> bool {
        !matches!(self, Self::Places | Self::Erasure | Self::Aborted)
    }
}

/// What one run knows of an aggregate as a whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct HeadRow {
    /// Lowest version whose batch the run knows.
    pub(super) first_version: Version,
    pub(super) version: Version,
    pub(super) hash: Hash,
    /// `None`: the aggregate began before this run.
    pub(super) created: Option<i64>,
    pub(super) updated: i64,
    pub(super) stamp: Stamp,
    pub(super) deleted: bool,
    /// Deleted, and not to be recreated.
    pub(super) is_final: bool,
}

impl HeadRow {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.first_version.value().to_le_bytes());
        out.extend_from_slice(&self.version.value().to_le_bytes());
        out.extend_from_slice(&self.hash.0);
        out.extend_from_slice(&self.created.unwrap_or(i64::MIN).to_le_bytes());
        out.extend_from_slice(&self.updated.to_le_bytes());
        out.extend_from_slice(&self.stamp.value().to_le_bytes());
        let deleted = if self.deleted { DELETED } else { 0 };
        let is_final = if self.is_final { FINAL } else { 0 };
        out.extend_from_slice(&(deleted | is_final).to_le_bytes());
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, Flaw> {
        if value.len() != HEAD_BYTES {
            return Err(Flaw::Lengths);
        }
        let mut reader = Reader::new(value);
        let mut row = Self {
            first_version: Version::new(reader.u64()?),
            version: Version::new(reader.u64()?),
            hash: reader.hash()?,
            created: Some(reader.i64()?).filter(|created| *created != i64::MIN),
            updated: reader.i64()?,
            stamp: Stamp::new(reader.u64()?),
            deleted: false,
            is_final: false,
        };
        let flags = reader.u16()?;
        (row.deleted, row.is_final) = (flags & DELETED != 0, flags & FINAL != 0);
        // What only deletes or trims has no version of its own.
        let in_order = row.first_version > Version::NONE && row.version.next() >= row.first_version;
        in_order.then_some(row).ok_or(Flaw::Chain("versions of an aggregate"))
    }

    /// Adds what an older run says of the same aggregate.
    pub(super) fn join(&mut self, older: &Self) -> Result<(), Flaw> {
        if self.first_version != older.version.next() {
            return Err(Flaw::Chain("versions of an aggregate"));
        }
        self.first_version = older.first_version;
        self.created = older.created;
        Ok(())
    }
}

/// Where an aggregate was cut. Both only grow.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct CutRow {
    /// Lowest version that can be read; 0 if none was cut.
    pub(super) first_available: Version,
    /// Sequences of writes up to this stamp are forgotten.
    pub(super) forgotten: Stamp,
}

impl CutRow {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.first_available.value().to_le_bytes());
        out.extend_from_slice(&self.forgotten.value().to_le_bytes());
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, Flaw> {
        if value.len() != CUT_BYTES {
            return Err(Flaw::Lengths);
        }
        let mut reader = Reader::new(value);
        let first_available = Version::new(reader.u64()?);
        Ok(Self { first_available, forgotten: Stamp::new(reader.u64()?) })
    }

    /// Lowest version that can be read.
    pub(super) fn readable_from(&self) -> Version {
        self.first_available.max(Version::new(1))
    }

    /// Both cuts.
    pub(super) fn join(&mut self, other: Self) {
        self.first_available = self.first_available.max(other.first_available);
        self.forgotten = self.forgotten.max(other.forgotten);
    }
}

pub(super) fn encode_erasure(erasure: &Erasure, out: &mut Vec<u8>) {
    out.extend_from_slice(&erasure.upto.value().to_le_bytes());
    out.extend_from_slice(erasure.key.as_bytes());
}

pub(super) fn decode_erasure(row: &[u8], value: &Bytes) -> Result<Erasure, Flaw> {
    let stamp = stamp_of(row, ERASURE)?;
    let upto = Version::new(Reader::new(value).u64()?);
    let key = AggregateKey::from_bytes(value.slice(8..));
    let key = key.map_err(|error| Flaw::Decode(error.to_string()))?;
    Ok(Erasure { stamp, key, upto })
}

/// The stamp in the key of a row that begins with `first`.
fn stamp_of(row: &[u8], first: u8) -> Result<Stamp, Flaw> {
    let stamp = row.strip_prefix(&[first]).and_then(|stamp| stamp.try_into().ok());
    Ok(Stamp::new(u64::from_be_bytes(stamp.ok_or(Flaw::Lengths)?)))
}

pub(super) fn encode_aborted(leg: &AbortedLeg, out: &mut Vec<u8>) {
    for number in [leg.txn.epoch.value(), leg.txn.boot.value(), leg.txn.counter] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    encode_location(&leg.location, out);
}

pub(super) fn decode_aborted(row: &[u8], value: &Bytes) -> Result<AbortedLeg, Flaw> {
    let stamp = stamp_of(row, ABORTED)?;
    let mut reader = Reader::new(value);
    let (epoch, boot) = (Epoch::new(reader.u64()?), BootId::new(reader.u64()?));
    let txn = TxnId { epoch, boot, counter: reader.u64()? };
    let location = decode_location(&mut reader)?;
    let leg = AbortedLeg { stamp, txn, location };
    (reader.left() == 0).then_some(leg).ok_or(Flaw::Lengths)
}

fn encode_location(location: &BatchLocation, out: &mut Vec<u8>) {
    out.extend_from_slice(&location.segment.to_le_bytes());
    out.extend_from_slice(&location.frame_offset.to_le_bytes());
    out.extend_from_slice(&location.frame_bytes.to_le_bytes());
    out.extend_from_slice(&location.record_offset.to_le_bytes());
    out.extend_from_slice(&location.batch_offset.to_le_bytes());
}

fn decode_location(reader: &mut Reader<'_>) -> Result<BatchLocation, Flaw> {
    Ok(BatchLocation {
        segment: reader.u32()?,
        frame_offset: reader.u32()?,
        frame_bytes: reader.u32()?,
        record_offset: reader.u32()?,
        batch_offset: reader.u32()?,
    })
}

/// Where one batch is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) first_version: Version,
    pub(super) location: BatchLocation,
}

/// A batch's first and last version, and its place.
pub(super) type Located = (Version, Version, BatchLocation);

/// Batches in version order, without gaps, up to `last_version`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Chunk {
    pub(super) last_version: Version,
    pub(super) places: Vec<Place>,
}

impl Chunk {
    pub(super) fn first_version(&self) -> Version {
        self.places.first().map_or(Version::NONE, |place| place.first_version)
    }

    /// Batches that hold versions `from..=to`.
    pub(super) fn within(
        &self,
        from: Version,
        to: Version,
    ) -> impl DoubleEndedIterator<Item = Located> {
        let located = self.places.iter().enumerate();
        located
            .map(|(at, place)| (place.first_version, self.last_of(at), place.location))
            .filter(move |(first, last, _)| *last >= from && *first <= to)
    }

    /// Last version of the batch at `at`.
    fn last_of(&self, at: usize) -> Version {
        let next = self.places.get(at + 1);
        next.map_or(self.last_version, |next| Version::new(next.first_version.value() - 1))
    }

    pub(super) fn encode(places: &[Place], last_version: Version, out: &mut Vec<u8>) {
        out.extend_from_slice(&last_version.value().to_le_bytes());
        for Place { first_version, location } in places {
            out.extend_from_slice(&first_version.value().to_le_bytes());
            encode_location(location, out);
        }
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, Flaw> {
        let mut reader = Reader::new(value);
        let last_version = Version::new(reader.u64()?);
        let mut places = Vec::with_capacity(reader.left() / PLACE_BYTES);
        while reader.left() > 0 {
            let first_version = Version::new(reader.u64()?);
            let location = decode_location(&mut reader)?;
            places.push(Place { first_version, location });
        }
        let in_order = places.is_sorted_by(|a, b| a.first_version < b.first_version);
        let ends = places.last().is_some_and(|place| place.first_version <= last_version);
        let chunk = Self { last_version, places };
        (in_order && ends).then_some(chunk).ok_or(Flaw::Chain("places of an aggregate"))
    }
}

pub(super) fn encode_client(sequences: &ClientSequences, out: &mut Vec<u8>) {
    for it in sequences.iter() {
        out.extend_from_slice(&it.sequence.value().to_le_bytes());
        out.extend_from_slice(&it.first_version.value().to_le_bytes());
        out.extend_from_slice(&it.last_version.value().to_le_bytes());
        out.extend_from_slice(&it.hash.0);
        out.extend_from_slice(&it.stamp.value().to_le_bytes());
        out.extend_from_slice(&it.write_hash.0);
    }
}

/// One run's part of a client's memory, oldest first.
pub(super) fn decode_client(value: &[u8]) -> Result<Vec<Remembered>, Flaw> {
    let count = value.len() / REMEMBERED_BYTES;
    let is_whole = value.len().is_multiple_of(REMEMBERED_BYTES);
    if !is_whole || !(1..=SEQUENCES_REMEMBERED).contains(&count) {
        return Err(Flaw::Lengths);
    }
    let mut reader = Reader::new(value);
    let mut remembered = Vec::with_capacity(count);
    for _ in 0..count {
        remembered.push(Remembered {
            sequence: Sequence::new(reader.u64()?),
            first_version: Version::new(reader.u64()?),
            last_version: Version::new(reader.u64()?),
            hash: reader.hash()?,
            stamp: Stamp::new(reader.u64()?),
            write_hash: reader.hash()?,
        });
    }
    let in_order = remembered.is_sorted_by(|a, b| a.sequence < b.sequence);
    in_order.then_some(remembered).ok_or(Flaw::Chain("sequences of a client"))
}

/// What became of a leg.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Outcome {
    pub(super) leg_lsn: Lsn,
    pub(super) commit: bool,
}

impl Outcome {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.leg_lsn.value().to_le_bytes());
        out.push(u8::from(self.commit));
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, Flaw> {
        let mut reader = Reader::new(value);
        let leg_lsn = Lsn::new(reader.u64()?);
        match reader.take(reader.left())? {
            [commit @ 0..=1] => Ok(Self { leg_lsn, commit: *commit == 1 }),
            _ => Err(Flaw::Lengths),
        }
    }
}

/// Checks a row and counts it in.
pub(crate) fn count_row(key: &[u8], value: &[u8], counts: &mut RunRows) -> Result<(), Flaw> {
    match RowKind::of(key)?.1 {
        RowKind::Outcome => {
            Outcome::decode(value)?;
            counts.outcomes += 1;
        }
        RowKind::Erasure => {
            decode_erasure(key, &Bytes::copy_from_slice(value))?;
            counts.erasures += 1;
        }
        RowKind::Aborted => {
            decode_aborted(key, &Bytes::copy_from_slice(value))?;
            counts.aborted += 1;
        }
        RowKind::Cut => {
            CutRow::decode(value)?;
            counts.cuts += 1;
        }
        RowKind::Head => {
            HeadRow::decode(value)?;
            counts.heads += 1;
        }
        RowKind::Client => {
            decode_client(value)?;
            counts.clients += 1;
        }
        RowKind::Places => {
            counts.batches += Chunk::decode(value)?.places.len() as u64;
            counts.places += 1;
        }
    }
    Ok(())
}

/// The aggregate, version and chain hash that a head's row gives, from the values that several runs
/// have for it, newest first; `None`: it is another row.
pub(crate) fn head_in(
    key: &[u8],
    values: &[Bytes],
) -> Result<Option<(AggregateKey, Version, Hash)>, Flaw> {
    let (prefix, kind) = RowKind::of(key)?;
    if kind != RowKind::Head {
        return Ok(None);
    }
    let head = HeadRow::decode(&combine(key, values)?)?;
    let name = key[..prefix - 1].iter().map(|byte| if *byte == 0 { b'/' } else { *byte });
    let name = AggregateKey::from_bytes(name.collect::<Vec<u8>>().into());
    let name = name.map_err(|error| Flaw::Decode(error.to_string()))?;
    Ok(Some((name, head.version, head.hash)))
}

/// Makes one value of what several runs say under one key, newest first.
pub(super) fn combine(key: &[u8], values: &[Bytes]) -> Result<Bytes, Flaw> {
    let Some((newest, older)) = values.split_first() else { return Err(Flaw::Missing) };
    if older.is_empty() {
        return Ok(newest.clone());
    }
    let mut out = Vec::new();
    match RowKind::of(key)?.1 {
        RowKind::Head => {
            let mut head = HeadRow::decode(newest)?;
            older.iter().try_for_each(|value| head.join(&HeadRow::decode(value)?))?;
            head.encode(&mut out);
        }
        RowKind::Client => {
            let mut sequences = ClientSequences::default();
            for value in values {
                sequences.prepend(&decode_client(value)?);
            }
            encode_client(&sequences, &mut out);
        }
        RowKind::Cut => {
            let mut cut = CutRow::decode(newest)?;
            older.iter().try_for_each(|value| CutRow::decode(value).map(|it| cut.join(it)))?;
            cut.encode(&mut out);
        }
        // The same is noted twice when a decision is applied before its record is durable.
        RowKind::Outcome | RowKind::Erasure | RowKind::Aborted => return Ok(newest.clone()),
        RowKind::Places => return Err(Flaw::Chain("places of an aggregate")),
    }
    Ok(out.into())
}

/// Joins neighbouring rows of places that are not full, so that a run of them is read in one.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    held: Option<(Vec<u8>, Chunk)>,
    joined: Vec<u8>,
}

impl Joiner {
    /// Takes the next row; hands on what can grow no more.
    pub(super) fn push(
        &mut self,
        key: &[u8],
        value: &[u8],
        mut out: impl FnMut(&[u8], &[u8], RowKind),
    ) -> Result<(), Flaw> {
        let (prefix, kind) = RowKind::of(key)?;
        if kind != RowKind::Places {
            self.flush(&mut out);
            out(key, value, kind);
            return Ok(());
        }
        let chunk = Chunk::decode(value)?;
        match &mut self.held {
            Some((before, held))
                if !before.starts_with(&key[..=prefix])
                    || held.last_version.next() != chunk.first_version() =>
            {
                return Err(Flaw::Chain("places of an aggregate"));
            }
            Some((_, held)) if held.places.len() + chunk.places.len() <= PLACES_MAX => {
                held.places.extend(chunk.places);
                held.last_version = chunk.last_version;
            }
            _ => {
                self.flush(&mut out);
                self.held = Some((key.to_vec(), chunk));
            }
        }
        Ok(())
    }

    /// Hands on what is held.
    pub(super) fn flush(&mut self, mut out: impl FnMut(&[u8], &[u8], RowKind)) {
        if let Some((key, chunk)) = self.held.take() {
            self.joined.clear();
            Chunk::encode(&chunk.places, chunk.last_version, &mut self.joined);
            out(&key, &self.joined, RowKind::Places);
        }
    }
}

#[cfg(test)]
#[path = "rows_test.rs"]
mod tests;
