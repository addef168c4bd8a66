//! What is measured of the codecs: one small guarded event, its receipt, a page of ten events.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use celeriant_schema::wire::{
    decode_inbound, decode_outbound, encode_request, encode_response, split_frame,
};
use celeriant_schema::{
    AggregateKey, AggregateReceipt, BatchHeader, ClientId, EncodedEvents, Guard, Hash, Member,
    Page, ReadBatch, ReadEvent, Receipt, Request, Response, Stamp, Version, Write, WriteId,
};

use super::measured::{Work, event};

/// Everything that is measured of this crate.
pub(crate) fn all() -> Vec<Work> {
    let (write, receipt, page) = (write(), Response::Receipt(receipt()), Response::Page(page(10)));
    let (ours, others) = (key(1), key(2));
    let request_frame = frame(|out| encode_request(7, 0, &write, out).expect("it fits"));
    let receipt_frame = frame(|out| encode_response(7, &receipt, out));
    let page_frame = frame(|out| encode_response(7, &page, out));
    let mut out = BytesMut::with_capacity(64 << 10);
    vec![
        Work::new("request encode", 1, move || {
            let mut out = BytesMut::with_capacity(1 << 10);
            encode_request(7, 0, black_box(&write), &mut out).expect("it fits");
            black_box(out);
        }),
        Work::new("request decode", 1, move || {
            black_box(decode_inbound(black_box(&request_frame).clone()).expect("valid"));
        }),
        Work::new("receipt encode", 1, move || {
            out.clear();
            encode_response(7, black_box(&receipt), &mut out);
        }),
        Work::new("receipt decode", 1, move || {
            black_box(decode_outbound(black_box(&receipt_frame).clone()).expect("valid"));
        }),
        Work::new("page of 10 encode", 1, move || {
            let mut out = BytesMut::with_capacity(8 << 10);
            encode_response(7, black_box(&page), &mut out);
            black_box(out);
        }),
        Work::new("page of 10 decode", 1, move || {
            black_box(decode_outbound(black_box(&page_frame).clone()).expect("valid"));
        }),
        Work::new("key to shard", 1, {
            let key = ours.clone();
            move || {
                black_box(black_box(&key).shard(2));
            }
        }),
        Work::new("key compare", 1, move || {
            black_box(black_box(&ours).cmp(black_box(&others)));
        }),
    ]
}

/// A frame as the other side gets it: without its length.
fn frame(encode: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    encode(&mut out);
    split_frame(&mut out, 1 << 20).expect("small").expect("whole")
}

fn key(number: u32) -> AggregateKey {
    AggregateKey::new("acme", "account", &format!("customer-{number:09}")).expect("valid")
}

fn write() -> Request {
    let events = EncodedEvents::encode(&[event()]).expect("valid");
    let guard = Guard::Exact(Version::new(41));
    let members = vec![Member { key: key(1), guard, sequence: None, events, retention: None }];
    Request::Write(Write { client_id: ClientId::NONE, members })
}

fn receipt() -> Receipt {
    let version = Version::new(42);
    let hash = Hash([7; 32]);
    let write =
        AggregateReceipt { key: key(1), first_version: version, last_version: version, hash };
    Receipt { stamp: Stamp::new(1 << 40), already_applied: false, writes: vec![write] }
}

/// Events that were appended one by one.
fn page(events: u64) -> Page {
    let mut body = Vec::new();
    event().encode_into(&mut body).expect("valid");
    let body = Bytes::from(body);
    let batch = |version: u64| {
        let (version, stamp) = (Version::new(version), Stamp::new((1 << 40) + version));
        ReadBatch {
            header: BatchHeader {
                first_version: version,
                last_version: version,
                client_id: ClientId::NONE,
                sequence: None,
                server_time: 1_700_000_000_000_000,
                stamp,
                write_id: WriteId::default(),
            },
            events: vec![ReadEvent { version, hash: Hash([7; 32]), body: body.clone() }],
        }
    };
    let (version, stamp) = (Version::new(events), Stamp::new(1 << 41));
    Page { version, stamp, batches: (1..=events).map(batch).collect(), next: None }
}
