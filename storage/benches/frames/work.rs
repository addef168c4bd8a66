//! What is measured of the log: a frame of 64 small records, made, checked and read.

use std::hint::black_box;

use bytes::Bytes;
use celeriant_schema::hash::chain_start;
use celeriant_schema::record::{BatchDraft, EncodedBatch, WriteDraft};
use celeriant_schema::{
    AggregateKey, BootId, ClientId, ClusterId, EncodedEvents, Epoch, Guard, Hash, ShardId, Stamp,
    Version, WriteId,
};
use celeriant_storage::directory::BatchLocation;
use celeriant_storage::disk::{Disk, Op, Token};
use celeriant_storage::frame::{read_batch, verify};
use celeriant_storage::log::{Appended, DurableFrame, Log};
use celeriant_storage::recovery::recover;
use celeriant_storage::{Identity, Settings};

use super::measured::{Work, event};
use super::nowhere::Nowhere;

/// Records of a frame that is measured.
const RECORDS: usize = 64;

/// Everything that is measured of this crate.
pub(crate) fn all() -> Vec<Work> {
    let (mut lone, mut full) = (Writer::new(), Writer::new());
    let (frame, location) = Writer::new().frame();
    let (whole, identity) = (frame.clone(), identity());
    vec![
        Work::new("append 1, seal, durable", 1, move || {
            black_box(lone.commit(1));
        }),
        Work::new("append 64, seal, durable", RECORDS, move || {
            black_box(full.commit(RECORDS));
        }),
        Work::new("verify a frame of 64", RECORDS, move || {
            black_box(verify(black_box(&whole), &identity).expect("intact"));
        }),
        Work::new("read a batch", 1, move || {
            black_box(read_batch(black_box(&frame), &identity, &location).expect("there"));
        }),
    ]
}

fn identity() -> Identity {
    Identity { cluster: ClusterId::new(1), shard: ShardId::new(0) }
}

/// A log and what is appended to it.
struct Writer {
    log: Log,
    disk: Nowhere,
    key: AggregateKey,
    events: EncodedEvents,
    stamp: u64,
    ops: Vec<(Token, Op)>,
    encoded: Vec<EncodedBatch>,
}

impl Writer {
    fn new() -> Self {
        let event = event();
        let mut disk = Nowhere::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let recovered = runtime.block_on(recover(&mut disk, identity(), &Settings::default()));
        let mut log = recovered.expect("an empty folder").log;
        log.lead(Epoch::new(1), BootId::new(1));
        Self {
            log,
            disk,
            key: AggregateKey::new("acme", "account", "customer-000000001").expect("valid"),
            events: EncodedEvents::encode(&[event]).expect("valid"),
            stamp: 0,
            ops: Vec::new(),
            encoded: Vec::new(),
        }
    }

    /// Appends `records` records as one frame and takes it through the disk.
    fn commit(&mut self, records: usize) -> Vec<DurableFrame> {
        self.encoded.clear();
        for _ in 0..records {
            self.append();
        }
        self.flush()
    }

    /// Seals what is open and takes it through the disk.
    fn flush(&mut self) -> Vec<DurableFrame> {
        let mut frames = Vec::new();
        self.log.pump(&mut self.ops);
        loop {
            self.ops.drain(..).for_each(|(token, op)| self.disk.start(token, op));
            let Some(completion) = self.disk.take() else { return frames };
            let progress = self.log.complete(completion, &mut self.ops).expect("a disk that works");
            frames.extend(progress.frames);
        }
    }

    fn append(&mut self) -> Appended {
        self.stamp += 1;
        let batch = BatchDraft {
            key: &self.key,
            guard: Guard::Exact(Version::new(self.stamp - 1)),
            sequence: None,
            first_version: Version::new(self.stamp),
            prev_hash: chain_start(&self.key),
            events: &self.events,
            retention: None,
        };
        let draft = WriteDraft {
            client_id: ClientId::NONE,
            write_id: WriteId::default(),
            write_hash: Hash::default(),
            server_time: 1_700_000_000_000_000,
            stamp: Stamp::new(self.stamp),
            leg: None,
            batches: &[batch],
        };
        self.log.append_write(&draft, &mut self.encoded)
    }

    /// A durable frame, and where its last batch lies.
    fn frame(mut self) -> (Bytes, BatchLocation) {
        let record_offset = (0..RECORDS).map(|_| self.append()).last().expect("some").record_offset;
        let batch_offset = self.encoded.last().expect("some").offset;
        let frame = self.flush().pop().expect("one frame");
        let location = BatchLocation {
            segment: frame.segment,
            frame_offset: frame.frame_offset,
            frame_bytes: frame.frame_bytes,
            record_offset,
            batch_offset,
        };
        (frame.bytes, location)
    }
}
