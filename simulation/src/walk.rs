//! Reads a shard's log from an image, frame by frame, as an auditor does: no recovery, no index.

use bytes::Bytes;
use celeriant_schema::record::{Record, WriteRecord, decode_records};
use celeriant_schema::{AggregateKey, Hash, Lsn, Version};
use celeriant_storage::Identity;
use celeriant_storage::frame::{FrameHeader, verify};
use celeriant_storage::segment::FIRST_FRAME_OFFSET;

use crate::disk::Files;

/// One frame of an image.
#[derive(Clone, Debug)]
pub struct Walked {
    /// Segment file.
    pub name: String,
    /// Byte offset in it.
    pub offset: u64,
    /// Its header.
    pub header: FrameHeader,
    /// Its records with their places and hashes.
    pub records: Vec<(Lsn, Record, Hash)>,
    blobs: Bytes,
}

impl Walked {
    /// The frame at the start of `bytes`, if there is an intact one.
    pub fn parse(name: &str, offset: u64, bytes: &[u8], identity: &Identity) -> Option<Self> {
        let len = FrameHeader::decode(bytes).ok()?.frame_bytes();
        let frame = Bytes::copy_from_slice(bytes.get(..len)?);
        let header = verify(&frame, identity).ok()?;
        let (meta, blobs) = (header.meta(&frame), header.blobs(&frame));
        let mut lsn = header.first_lsn;
        let mut records = Vec::new();
        for decoded in decode_records(&meta, &blobs, header.count) {
            let (_, record, hash) = decoded.ok()?;
            records.push((lsn, record, hash));
            lsn = lsn.next();
        }
        Some(Self { name: name.to_owned(), offset, header, records, blobs })
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
        let batches = self.writes().flat_map(|write| &write.batches);
        let events = batches.flat_map(|batch| {
            let first = batch.first_version.value();
            batch.events(&self.blobs).enumerate().filter_map(move |(index, event)| {
                Some((&batch.key, Version::new(first + index as u64), event.ok()?.hash))
            })
        });
        events.chain(self.taken())
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
    let (mut next, mut prev) = (Lsn::ZERO.next(), Hash::ZERO);
    let mut frames = walk(files, identity);
    frames.retain(|Walked { header, .. }| {
        let continues = header.first_lsn == next && header.prev_hash == prev;
        if continues {
            (next, prev) = (header.last_lsn().next(), header.hash);
        }
        continues
    });
    frames
}

/// All frames of an image, in order. Each segment ends at the first page that is no intact frame.
pub fn walk(files: &Files, identity: &Identity) -> Vec<Walked> {
    let mut frames = Vec::new();
    for (name, content) in files.iter().filter(|(name, _)| name.ends_with(".seg")) {
        let mut offset = FIRST_FRAME_OFFSET;
        while let Some(rest) = content.get(offset as usize..) {
            let Some(frame) = Walked::parse(name, offset, rest, identity) else { break };
            offset += frame.header.frame_bytes() as u64;
            frames.push(frame);
        }
    }
    frames
}
