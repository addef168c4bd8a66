//! Reads a shard's log from an image, frame by frame, as an auditor does: no recovery, no index.
//! Where a frame lies is said of the segment as it was written, also where that is packed.

use std::borrow::Cow;

use bytes::Bytes;
use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_schema::record::view::StoredEvent;
use celeriant_schema::record::{Record, WriteRecord, decode_records};
use celeriant_schema::{AggregateKey, Hash, Lsn, Version};
use celeriant_storage::Identity;
use celeriant_storage::frame::{FrameHeader, verify};
use celeriant_storage::segment::FIRST_FRAME_OFFSET;

use crate::disk::Files;
use crate::packed;

/// One frame of an image.
#[derive(Clone, Debug)]
pub struct Walked {
    /// File that holds the segment.
    pub name: String,
    /// Byte offset in the segment.
    pub offset: u64,
    /// Its header.
    pub header: FrameHeader,
    /// Its records with their places and hashes.
    pub records: Vec<(Lsn, Record, Hash)>,
    /// Events of it are erased.
    pub is_compacted: bool,
    blobs: Bytes,
}

/// A segment of an image.
#[derive(Debug)]
pub struct Segment<'a> {
    /// Counted from 1.
    pub number: u32,
    /// The file that holds it.
    pub name: &'a str,
    /// Its bytes, unpacked.
    pub content: Cow<'a, [u8]>,
}

/// Bytes of a record before the one that says whether events of it are erased.
const FLAGS_AT: usize = 4;

impl Walked {
    /// The frame at the start of `bytes`, if there is an intact one.
    pub fn parse(name: &str, offset: u64, bytes: &[u8], identity: &Identity) -> Option<Self> {
        let len = FrameHeader::decode(bytes).ok()?.frame_bytes();
        let frame = Bytes::copy_from_slice(bytes.get(..len)?);
        let header = verify(&frame, identity).ok()?;
        let (meta, blobs) = (header.meta(&frame), header.blobs(&frame));
        let mut lsn = header.first_lsn;
        let mut records = Vec::new();
        let mut is_compacted = false;
        for decoded in decode_records(&meta, &blobs, header.count) {
            let (at, record, hash) = decoded.ok()?;
            is_compacted |= meta.get(at as usize + FLAGS_AT).is_some_and(|flags| *flags != 0);
            records.push((lsn, record, hash));
            lsn = lsn.next();
        }
        Some(Self { name: name.to_owned(), offset, header, records, is_compacted, blobs })
    }

    /// Number of its segment; 0: it is in none.
    pub fn segment(&self) -> u32 {
        packed::segment_of(&self.name).map_or(0, |(number, _)| number)
    }

    /// Whether its bytes lie in its file as they are, at its offset.
    pub fn is_plain(&self) -> bool {
        self.name.ends_with(".seg")
    }

    /// The frames that lie one behind the other from the start of `bytes`.
    pub fn parse_all(name: &str, offset: u64, bytes: &[u8], identity: &Identity) -> Vec<Self> {
        let mut frames: Vec<Self> = Vec::new();
        let mut at = 0;
        while let Some(rest) = bytes.get(at..)
            && let Some(frame) = Self::parse(name, offset + at as u64, rest, identity)
        {
            at += frame.header.frame_bytes();
            frames.push(frame);
        }
        frames
    }

    /// Every event of every write and leg in it: position and chain hash. And what takes away, by
    /// the version that follows it and the chain hash before: no event has both.
    pub fn events(&self) -> impl Iterator<Item = (&AggregateKey, Version, Hash)> {
        self.stored().map(|(key, version, event)| (key, version, event.hash)).chain(self.taken())
    }

    /// Every event of every write and leg in it, as it lies there.
    pub fn stored(&self) -> impl Iterator<Item = (&AggregateKey, Version, StoredEvent)> {
        self.writes().flat_map(|write| self.stored_of(write))
    }

    /// Every event of a write or leg in it, as it lies there.
    pub fn stored_of<'a>(
        &'a self,
        write: &'a WriteRecord,
    ) -> impl Iterator<Item = (&'a AggregateKey, Version, StoredEvent)> {
        write.batches.iter().flat_map(|batch| {
            let first = batch.first_version.value();
            batch.events(&self.blobs).enumerate().filter_map(move |(index, event)| {
                Some((&batch.key, Version::new(first + index as u64), event.ok()?))
            })
        })
    }

    /// What takes away, alone. Two of an aggregate may look the same.
    pub fn taken(&self) -> impl Iterator<Item = (&AggregateKey, Version, Hash)> {
        let batches = self.writes().flat_map(|write| &write.batches);
        batches
            .filter(|batch| batch.retention.is_some())
            .map(|batch| (&batch.key, batch.first_version, batch.hash))
    }

    /// Its writes and legs.
    pub fn writes(&self) -> impl Iterator<Item = &WriteRecord> {
        self.records.iter().filter_map(|(_, record, _)| match record {
            Record::Write(write) | Record::Leg(write) => Some(write),
            Record::Resolve(_) | Record::EpochStart(_) => None,
        })
    }

    /// Where payloads lie that are not beside their events.
    pub fn blobs(&self) -> &Bytes {
        &self.blobs
    }
}

/// The log that an image holds: its frames that continue each other.
pub fn log(files: &Files, identity: &Identity) -> Vec<Walked> {
    let mut frames = walk(files, identity);
    let mut continues = continuing();
    frames.retain(&mut continues);
    frames
}

/// Whether a frame continues the last one of which that was said, if it is asked in their order.
pub fn continuing() -> impl FnMut(&Walked) -> bool {
    let (mut next, mut prev) = (Lsn::ZERO.next(), Hash::ZERO);
    move |Walked { header, .. }| {
        let continues = header.first_lsn == next && header.prev_hash == prev;
        if continues {
            (next, prev) = (header.last_lsn().next(), header.hash);
        }
        continues
    }
}

/// All frames of an image, in order. Each segment ends at the first page that is no intact frame.
pub fn walk(files: &Files, identity: &Identity) -> Vec<Walked> {
    walk_all(&segments(files).collect::<Vec<_>>(), identity)
}

/// The same, of its segments.
pub fn walk_all(segments: &[Segment<'_>], identity: &Identity) -> Vec<Walked> {
    let mut frames = Vec::new();
    for Segment { name, content, .. } in segments {
        let mut offset = FIRST_FRAME_OFFSET;
        while let Some(rest) = content.get(offset as usize..) {
            let Some(frame) = Walked::parse(name, offset, rest, identity) else { break };
            offset += frame.header.frame_bytes() as u64;
            frames.push(frame);
        }
    }
    frames
}

/// The frames of an image wherever they lie, also behind what is none.
pub fn anywhere(files: &Files, identity: &Identity) -> Vec<Walked> {
    let mut frames = Vec::new();
    for Segment { name, content, .. } in segments(files) {
        let mut offset = FIRST_FRAME_OFFSET;
        while let Some(rest) = content.get(offset as usize..) {
            let frame = Walked::parse(name, offset, rest, identity);
            offset += frame.as_ref().map_or(SECTOR_BYTES, |it| it.header.frame_bytes()) as u64;
            frames.extend(frame);
        }
    }
    frames
}

/// The segments of an image, in order. Of several files of one the oldest counts; what cannot be
/// unpacked is empty.
pub fn segments(files: &Files) -> impl Iterator<Item = Segment<'_>> {
    let mut found: Vec<_> = files
        .iter()
        .filter_map(|(name, content)| Some((packed::segment_of(name)?, name, content)))
        .collect();
    found.sort_by_key(|(which, ..)| *which);
    found.dedup_by_key(|((number, _), ..)| *number);
    found.into_iter().map(|((number, generation), name, content)| {
        let content = match generation {
            0 => Cow::Borrowed(content),
            _ => Cow::Owned(packed::unpack(content).unwrap_or_default()),
        };
        Segment { number, name, content }
    })
}
