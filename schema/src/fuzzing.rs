//! What must hold for any bytes whatever, as plain functions: tests call them with random and with
//! damaged input, a fuzzer with what it finds.
//!
//! Each takes arbitrary bytes, panics when a rule is broken and otherwise says nothing. The rules:
//! no decoder panics; what decodes encodes to the same bytes again, so that every value has one
//! form.

use bytes::{Bytes, BytesMut};

use crate::event::{EncodedEvents, Event, EventBody};
use crate::hash::Hash;
use crate::limits::{BATCH_EVENTS_MAX, REQUEST_BYTES_MAX};
use crate::peer;
use crate::record::{BatchDraft, Record, WriteDraft, WriteRecord, batch_at, decode_records};
use crate::wire::{self, Inbound, Malformed, Outbound};

/// One event, or a batch of them.
pub fn event(data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    if let Ok(event) = Event::decode(&data) {
        let mut again = Vec::new();
        let encoded = event.encode_into(&mut again);
        assert_eq!(encoded, Ok(()), "a decoded event cannot be encoded: {event:?}");
        assert_eq!(again, data, "an event has two forms: {event:?}");
    }
    let count = count_events(&data);
    let Ok(events) = EncodedEvents::decode(data.clone(), count) else { return };
    assert_eq!(events.iter().count(), events.len());
    let bodies = events.iter().map(|body| Bytes::copy_from_slice(body.whole()));
    let decoded: Vec<Event> = bodies.filter_map(|body| Event::decode(&body).ok()).collect();
    assert_eq!(EncodedEvents::encode(&decoded), Ok(events), "a batch has two forms");
}

/// A stream of frames, taken once as a client's and once as a server's.
pub fn wire(data: &[u8]) {
    let mut input = BytesMut::from(data);
    while let Ok(Some(frame)) = wire::split_frame(&mut input, REQUEST_BYTES_MAX) {
        inbound(&frame);
        outbound(&frame);
    }
    // Bytes that are no stream may still be one frame.
    inbound(&Bytes::copy_from_slice(data));
    outbound(&Bytes::copy_from_slice(data));
}

/// A message between nodes, or a hello.
pub fn peer(data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    if let Ok(message) = peer::Message::decode(&data) {
        assert_eq!(message.encode().as_ref(), Ok(&data), "{message:?} has two forms");
    }
    if let Ok(hello) = peer::Hello::decode(&data) {
        let mut again = BytesMut::new();
        assert_eq!(hello.encode(&mut again), Ok(()), "a decoded hello cannot be encoded");
        assert_eq!(peer::Hello::decode(&again), Ok(hello));
    }
}

/// A frame's metadata area and blob area: the first two bytes say how long the latter is.
pub fn record(data: &[u8]) {
    let Some((length, rest)) = data.split_first_chunk::<2>() else { return };
    let blob_len = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (meta, blobs) = rest.split_at(rest.len() - blob_len);
    let (meta, blobs) = (Bytes::copy_from_slice(meta), Bytes::copy_from_slice(blobs));
    let mut whole = 0;
    for decoded in decode_records(&meta, &blobs, u32::MAX) {
        let Ok((offset, record, hash)) = decoded else { break };
        let len = u32::from_le_bytes([
            meta[offset as usize],
            meta[offset as usize + 1],
            meta[offset as usize + 2],
            meta[offset as usize + 3],
        ]);
        let bytes = meta.slice(offset as usize..(offset + len) as usize);
        one_record(&bytes, &blobs, &record, hash);
        whole += 1;
    }
    let again = decode_records(&meta, &blobs, whole).filter(Result::is_ok).count();
    assert_eq!(again, whole as usize, "decoding depends on the count");
}

fn inbound(frame: &Bytes) {
    let mut again = BytesMut::new();
    match wire::decode_inbound(frame.clone()) {
        Ok(Inbound::Request { id, deadline_ms, request }) => {
            let encoded = wire::encode_request(id, deadline_ms, &request, &mut again);
            assert_eq!(encoded, Ok(()), "a decoded request cannot be encoded: {request:?}");
            assert_eq!(again[wire::FRAME_LENGTH_BYTES..], *frame, "{request:?} has two forms");
        }
        Ok(Inbound::Hello(hello)) => {
            wire::encode_hello(&hello, &mut again);
            let frame = again.split_off(wire::FRAME_LENGTH_BYTES).freeze();
            assert_eq!(wire::decode_inbound(frame), Ok(Inbound::Hello(hello)));
        }
        Ok(Inbound::Ping | Inbound::Goodbye) => {}
        Err(Malformed::Request { id, refusal }) => {
            assert_ne!(id, 0, "a refusal without id ends the connection");
            assert_refusal_travels(id, &refusal);
        }
        Err(Malformed::Frame(refusal)) => assert_refusal_travels(0, &refusal),
    }
}

fn assert_refusal_travels(id: u64, refusal: &crate::Refusal) {
    let mut out = BytesMut::new();
    wire::encode_refused(id, refusal, &mut out);
    let frame = out.split_off(wire::FRAME_LENGTH_BYTES).freeze();
    let refused = match id {
        0 => Outbound::Refused(refusal.clone()),
        id => Outbound::Response { id, response: crate::Response::Refused(refusal.clone()) },
    };
    assert_eq!(wire::decode_outbound(frame), Ok(refused));
}

fn outbound(frame: &Bytes) {
    let mut again = BytesMut::new();
    match wire::decode_outbound(frame.clone()) {
        Ok(Outbound::Response { id, response }) => {
            wire::encode_response(id, &response, &mut again);
            assert_eq!(again[wire::FRAME_LENGTH_BYTES..], *frame, "{response:?} has two forms");
        }
        Ok(Outbound::Refused(refusal)) => {
            wire::encode_refused(0, &refusal, &mut again);
            assert_eq!(again[wire::FRAME_LENGTH_BYTES..], *frame, "{refusal:?} has two forms");
        }
        Ok(Outbound::Welcome(_) | Outbound::Pong) | Err(_) => {}
    }
}

fn one_record(bytes: &Bytes, blobs: &Bytes, record: &Record, hash: Hash) {
    let mut again = vec![0xa5; bytes.len()];
    match record {
        Record::Resolve(resolve) => {
            assert_eq!(resolve.encode(&mut again), hash);
            assert_eq!(again, *bytes, "{resolve:?} has two forms");
        }
        Record::EpochStart(start) => {
            assert_eq!(start.encode(&mut again), hash);
            assert_eq!(again, *bytes, "{start:?} has two forms");
        }
        Record::Write(write) => one_write(bytes, blobs, write, None),
        Record::Leg(leg) => one_write(bytes, blobs, leg, Some(&leg.participants)),
    }
}

/// Encodes a decoded write anew. Chain hashes are made anew too, from a wrong start, so everything
/// else is compared.
fn one_write(bytes: &Bytes, blobs: &Bytes, write: &WriteRecord, leg: Option<&[crate::ShardId]>) {
    let mut batches = Vec::new();
    for batch in &write.batches {
        let found = batch_at(bytes, blobs, 0, batch.offset);
        let Ok((header, key, events)) = found else { panic!("{batch:?} is not found: {found:?}") };
        assert_eq!((&key, header.stamp), (&batch.key, batch.stamp));
        if batch.events(blobs).any(|event| event.is_ok_and(|event| event.is_erased())) {
            return;
        }
        assert_eq!(events.len(), batch.len());
        if batch.retention.is_none() {
            assert_eq!(events.last().map(|event| event.hash), Some(batch.hash));
        }
        let joined: Vec<u8> = events.iter().flat_map(|event| event.body.to_vec()).collect();
        // A log trusts what it validated before writing; arbitrary bytes may hold what no writer
        // may send, more of it than any writer may send, or stamps that are not in a row.
        let Ok(encoded) = EncodedEvents::decode(joined.into(), batch.len() as u32) else { return };
        batches.push(encoded);
    }
    let drafts: Vec<BatchDraft<'_>> = write
        .batches
        .iter()
        .zip(&batches)
        .map(|(batch, events)| BatchDraft {
            key: &batch.key,
            guard: batch.guard,
            sequence: batch.sequence,
            first_version: batch.first_version,
            // Of what takes away it is all that there is of the chain.
            prev_hash: if events.is_empty() { batch.hash } else { Hash::ZERO },
            events,
            retention: batch.retention,
        })
        .collect();
    let draft = WriteDraft {
        client_id: write.client_id,
        write_id: write.write_id,
        write_hash: write.write_hash,
        server_time: write.server_time,
        stamp: write.stamp,
        leg,
        batches: &drafts,
    };
    let (mut meta, mut payloads) = (vec![0xa5; draft.meta_len()], Vec::new());
    let mut encoded = Vec::new();
    let hash = draft.encode(&mut meta, 0, &mut payloads, &mut encoded);
    let (meta, payloads) = (Bytes::from(meta), Bytes::from(payloads.concat()));
    assert_eq!(payloads.len(), draft.blob_len());
    let mut records = decode_records(&meta, &payloads, 1);
    let Some(Ok((0, Record::Write(second) | Record::Leg(second), second_hash))) = records.next()
    else {
        panic!("what was encoded does not decode: {write:?}");
    };
    assert_eq!(second_hash, hash);
    assert_same_write(write, &second);
}

fn assert_same_write(a: &WriteRecord, b: &WriteRecord) {
    assert_eq!(
        (a.client_id, a.write_id, a.write_hash, a.server_time, a.stamp, &a.participants),
        (b.client_id, b.write_id, b.write_hash, b.server_time, b.stamp, &b.participants),
    );
    assert_eq!(a.batches.len(), b.batches.len());
    for (a, b) in a.batches.iter().zip(&b.batches) {
        assert_eq!(
            (&a.key, a.guard, a.sequence, a.first_version, a.last_version, a.retention),
            (&b.key, b.guard, b.sequence, b.first_version, b.last_version, b.retention),
        );
    }
}

fn count_events(data: &[u8]) -> u32 {
    let mut rest = data;
    let mut count = 0;
    while let Ok(event) = EventBody::first(rest) {
        rest = &rest[event.whole().len()..];
        count += 1;
        if count as usize > BATCH_EVENTS_MAX {
            break;
        }
    }
    count
}
