//! Measures what one append of one 200-byte event costs in this crate, in ns: on the wire, in the
//! log, and in hashes. Run with `cargo run --release -p celeriant-schema --example codec_speed`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
// It measures, so it looks at a clock.

use std::hint::black_box;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use celeriant_schema::record::{BatchDraft, WriteDraft, decode_records};
use celeriant_schema::{
    AggregateReceipt, ClientId, ContentType, EncodedEvents, Event, EventId, Guard, Hash, Member,
    Receipt, Request, Response, SchemaVersion, Sequence, Stamp, Version, Write, WriteId, hash,
    wire,
};

const RUNS: u32 = 500;
const ROUNDS: u32 = 2_000;

fn main() {
    let event = Event {
        event_type: "OrderPlaced".into(),
        schema: SchemaVersion { major: 1, minor: 0 },
        content_type: ContentType::Json,
        payload: Bytes::from(vec![b'x'; 200]),
        event_id: Some(EventId::new(7)),
        metadata: vec![("correlation".into(), "0123456789abcdef".into())],
        envelope: None,
        client_time: 1,
    };
    let Ok(events) = EncodedEvents::encode(std::slice::from_ref(&event)) else { return };
    let Ok(key) = "acme/order/4821".parse() else { return };
    let member = Member {
        key,
        guard: Guard::Any,
        sequence: Some(Sequence::new(1)),
        events,
        retention: None,
    };
    let write = Write { client_id: ClientId::new(1), members: vec![member] };
    measure_wire(&event, &write);
    measure_record(&write);
}

fn measure_wire(event: &Event, write: &Write) {
    let request = Request::Write(write.clone());
    let mut out = BytesMut::with_capacity(1 << 16);
    let mut body = Vec::with_capacity(1 << 10);
    measure("event encode", || {
        body.clear();
        black_box(event).encode_into(&mut body).is_ok()
    });
    measure("request encode", || {
        out.clear();
        wire::encode_request(1, 0, black_box(&request), &mut out).is_ok()
    });
    let frame = out.split().freeze().slice(wire::FRAME_LENGTH_BYTES..);
    measure("request decode", || wire::decode_inbound(black_box(frame.clone())).is_ok());
    let member = &write.members[0];
    let receipt = AggregateReceipt {
        key: member.key.clone(),
        first_version: Version::new(1),
        last_version: Version::new(1),
        hash: Hash::ZERO,
    };
    let receipt = Receipt { stamp: Stamp::new(1), already_applied: false, writes: vec![receipt] };
    let response = Response::Receipt(receipt);
    out.reserve(1 << 10);
    measure("receipt encode", || {
        out.clear();
        wire::encode_response(1, black_box(&response), &mut out);
        true
    });
    let frame = out.split().freeze().slice(wire::FRAME_LENGTH_BYTES..);
    measure("receipt decode", || wire::decode_outbound(black_box(frame.clone())).is_ok());
}

fn measure_record(write: &Write) {
    let member = &write.members[0];
    let batch = BatchDraft {
        key: &member.key,
        guard: member.guard,
        sequence: member.sequence,
        first_version: Version::new(1),
        prev_hash: hash::chain_start(&member.key),
        events: &member.events,
        retention: None,
    };
    let draft = WriteDraft {
        client_id: write.client_id,
        write_id: WriteId::default(),
        write_hash: Hash::ZERO,
        server_time: 1,
        stamp: Stamp::new(1),
        leg: None,
        batches: &[batch],
    };
    let (mut meta, mut blobs, mut out) = (vec![0; draft.meta_len()], Vec::new(), Vec::new());
    measure("record encode, hashed", || {
        out.clear();
        black_box(&draft).encode(&mut meta, 0, &mut blobs, &mut out) != Hash::ZERO
    });
    let (meta, blobs) = (Bytes::from(meta), Bytes::new());
    measure("record decode, hashed", || {
        decode_records(black_box(&meta), &blobs, 1).all(|r| r.is_ok())
    });
    let context = hash::EventContext {
        prev: Hash::ZERO,
        version: Version::new(1),
        stamp: Stamp::new(1),
        server_time: 1,
        client_id: write.client_id,
        sequence: member.sequence,
    };
    let body = member.events.as_bytes();
    measure("  event hash", || hash::event_hash(black_box(&context), body, b"") != Hash::ZERO);
    measure("  write hash", || hash::write_hash(black_box(write)) != Hash::ZERO);
    measure("  key hash", || hash::chain_start(black_box(&member.key)) != Hash::ZERO);
}

/// The fastest of many short runs: what it costs when nothing else wants the core.
fn measure(what: &str, mut once: impl FnMut() -> bool) {
    let mut best = u128::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        let done = (0..ROUNDS).filter(|_| once()).count();
        best = best.min(start.elapsed().as_nanos() / u128::from(ROUNDS));
        assert_eq!(done, ROUNDS as usize, "{what} failed");
    }
    println!("{what:24} {best:5} ns");
}
