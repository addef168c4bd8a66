//! Answers in bytes.

use bytes::{BufMut, Bytes, BytesMut};

use super::feed::{feed_page, put_feed_page};
use super::refusal::{put_refusal, refusal};
use super::{Header, Input, Outbound, decode_welcome, kind, put_frame, put_key, put_text};
use crate::codec::DecodeError;
use crate::event::EventHead;
use crate::hash::sequence_number;
use crate::ids::{BootId, ClientId, Epoch, Sequence, Stamp, Version, WriteId};
use crate::limits::{NAME_BYTES_MAX, RESPONSE_BYTES_MAX};
use crate::refusal::Refusal;
use crate::response::{
    AggregateReceipt, BatchHeader, HeadInfo, ListPage, Page, ReadBatch, ReadEvent, Receipt,
    Response,
};

/// Smallest sizes of things that come in numbers, in bytes: bounds what is allocated for a claim.
const RECEIPT_ENTRY_BYTES: usize = 50;
pub(super) const BATCH_BYTES: usize = 84;
pub(super) const EVENT_BYTES: usize = 40 + crate::event::EVENT_HEADER_BYTES;

const FLAG_NEXT: u8 = 1;
const FLAG_ALREADY_APPLIED: u8 = 1;
const FLAG_DELETED: u8 = 1;
const FLAG_MORE: u8 = 1;

/// Appends an answer. One that no client would take (larger than `RESPONSE_BYTES_MAX`) becomes a
/// refusal.
pub fn encode_response(id: u64, response: &Response, out: &mut BytesMut) {
    let start = out.len();
    let bytes = match response {
        Response::Receipt(receipt) => {
            put_frame(out, kind::RECEIPT, id, |out| put_receipt(out, receipt))
        }
        Response::Page(page) => put_frame(out, kind::PAGE, id, |out| put_page(out, page)),
        Response::Head(head) => put_frame(out, kind::HEAD_INFO, id, |out| put_head(out, head)),
        Response::List(list) => put_frame(out, kind::NAMES, id, |out| put_list(out, list)),
        Response::Feed(page) => put_frame(out, kind::FEED_PAGE, id, |out| put_feed_page(out, page)),
        Response::Pong => put_frame(out, kind::PONG, id, |_| {}),
        Response::Admin(report) => {
            put_frame(out, kind::ADMIN_REPORT, id, |out| out.put_slice(report))
        }
        Response::Refused(refusal) => return encode_refused(id, refusal, out),
    };
    if bytes > RESPONSE_BYTES_MAX {
        out.truncate(start);
        let limit = RESPONSE_BYTES_MAX as u64;
        encode_refused(id, &Refusal::TooLarge { what: "response".into(), limit }, out);
    }
}

/// Appends a refusal of the request `id`, or, with 0, of the connection.
pub fn encode_refused(id: u64, refusal: &Refusal, out: &mut BytesMut) {
    put_frame(out, kind::REFUSED, id, |out| put_refusal(out, refusal));
}

/// Reads what a server sent: a frame as [`super::split_frame`] gives it. Event bodies share its
/// memory.
///
/// # Errors
/// What is wrong with the bytes. The connection is of no more use.
pub fn decode_outbound(frame: Bytes) -> Result<Outbound, DecodeError> {
    let header = Header::read(&frame)?;
    let mut input = Input::new(&frame, "response");
    let response = match (header.kind, header.id) {
        // Whatever a later version adds lies behind what is known.
        (kind::WELCOME, 0) => return Ok(Outbound::Welcome(decode_welcome(&mut input)?)),
        (kind::PONG, 0) => return input.finish().map(|()| Outbound::Pong),
        (kind::REFUSED, 0) => {
            let refusal = refusal(&mut input)?;
            return input.finish().map(|()| Outbound::Refused(refusal));
        }
        (_, 0) => return Err(DecodeError::invalid("id", "must not be 0 for a response")),
        (kind::RECEIPT, _) => Response::Receipt(receipt(&mut input)?),
        (kind::PAGE, _) => Response::Page(page(&mut input)?),
        (kind::HEAD_INFO, _) => Response::Head(head(&mut input)?),
        (kind::NAMES, _) => Response::List(list(&mut input)?),
        (kind::FEED_PAGE, _) => Response::Feed(feed_page(&mut input)?),
        (kind::PONG, _) => Response::Pong,
        (kind::ADMIN_REPORT, _) => Response::Admin(input.remainder()?),
        (kind::REFUSED, _) => Response::Refused(refusal(&mut input)?),
        _ => return Err(DecodeError::invalid("kind", "of response is not known")),
    };
    input.finish()?;
    Ok(Outbound::Response { id: header.id, response })
}

pub(super) fn put_receipt(out: &mut BytesMut, receipt: &Receipt) {
    out.put_u64_le(receipt.stamp.value());
    out.put_u8(if receipt.already_applied { FLAG_ALREADY_APPLIED } else { 0 });
    out.put_u16_le(receipt.writes.len() as u16);
    for write in &receipt.writes {
        out.put_u64_le(write.first_version.value());
        out.put_u64_le(write.last_version.value());
        out.put_slice(&write.hash.0);
        put_key(out, &write.key);
    }
}

pub(super) fn receipt(input: &mut Input<'_>) -> Result<Receipt, DecodeError> {
    let stamp = Stamp::new(input.u64()?);
    let already_applied = input.flags(FLAG_ALREADY_APPLIED)? != 0;
    let count = usize::from(input.u16()?);
    let mut writes = Vec::with_capacity(input.capacity(count, RECEIPT_ENTRY_BYTES));
    for _ in 0..count {
        let (first, last, hash) = (input.u64()?, input.u64()?, input.hash()?);
        writes.push(AggregateReceipt {
            key: input.key()?,
            first_version: Version::new(first),
            last_version: Version::new(last),
            hash,
        });
    }
    Ok(Receipt { stamp, already_applied, writes })
}

fn put_page(out: &mut BytesMut, page: &Page) {
    let events = page.batches.iter().flat_map(|batch| &batch.events);
    let bytes: usize = events.map(|event| EVENT_BYTES + event.body.len()).sum();
    out.reserve(29 + page.batches.len() * BATCH_BYTES + bytes);
    out.put_u64_le(page.version.value());
    out.put_u64_le(page.stamp.value());
    out.put_u8(if page.next.is_some() { FLAG_NEXT } else { 0 });
    out.put_u64_le(page.next.map_or(0, Version::value));
    out.put_u32_le(page.batches.len() as u32);
    for batch in &page.batches {
        put_batch(out, batch);
    }
}

pub(super) fn put_batch(out: &mut BytesMut, batch: &ReadBatch) {
    let header = &batch.header;
    out.put_u64_le(header.first_version.value());
    out.put_u64_le(header.last_version.value());
    out.put_u128_le(header.client_id.value());
    out.put_u64_le(sequence_number(header.sequence));
    out.put_i64_le(header.server_time);
    out.put_u64_le(header.stamp.value());
    out.put_u64_le(header.write_id.epoch.value());
    out.put_u64_le(header.write_id.boot.value());
    out.put_u64_le(header.write_id.counter);
    out.put_u32_le(batch.events.len() as u32);
    for event in &batch.events {
        out.put_u64_le(event.version.value());
        out.put_slice(&event.hash.0);
        out.put_slice(&event.body);
    }
}

fn page(input: &mut Input<'_>) -> Result<Page, DecodeError> {
    let version = Version::new(input.u64()?);
    let stamp = Stamp::new(input.u64()?);
    let more = input.flags(FLAG_NEXT)? != 0;
    let next = match (more, input.u64()?) {
        (true, version) => Some(Version::new(version)),
        (false, 0) => None,
        (false, _) => return Err(DecodeError::invalid("next", "is there without its flag")),
    };
    let count = input.u32()? as usize;
    let mut batches = Vec::with_capacity(input.capacity(count, BATCH_BYTES));
    for _ in 0..count {
        batches.push(batch(input)?);
    }
    Ok(Page { version, stamp, batches, next })
}

pub(super) fn batch(input: &mut Input<'_>) -> Result<ReadBatch, DecodeError> {
    let header = BatchHeader {
        first_version: Version::new(input.u64()?),
        last_version: Version::new(input.u64()?),
        client_id: ClientId::new(input.u128()?),
        sequence: Some(input.u64()?).filter(|n| *n > 0).map(Sequence::new),
        server_time: input.i64()?,
        stamp: Stamp::new(input.u64()?),
        write_id: WriteId {
            epoch: Epoch::new(input.u64()?),
            boot: BootId::new(input.u64()?),
            counter: input.u64()?,
        },
    };
    let count = input.u32()? as usize;
    let mut events = Vec::with_capacity(input.capacity(count, EVENT_BYTES));
    for _ in 0..count {
        let (version, hash) = (Version::new(input.u64()?), input.hash()?);
        let body_len = EventHead::first(input.rest())?.body_len();
        events.push(ReadEvent { version, hash, body: input.bytes(body_len)? });
    }
    Ok(ReadBatch { header, events })
}

fn put_head(out: &mut BytesMut, head: &HeadInfo) {
    out.put_u64_le(head.version.value());
    out.put_slice(&head.hash.0);
    out.put_i64_le(head.created);
    out.put_i64_le(head.updated);
    out.put_u64_le(head.stamp.value());
    out.put_u8(if head.deleted { FLAG_DELETED } else { 0 });
    out.put_u64_le(head.first_available.value());
    out.put_u64_le(sequence_number(head.last_sequence));
    out.put_u64_le(head.read_stamp.value());
}

fn head(input: &mut Input<'_>) -> Result<HeadInfo, DecodeError> {
    Ok(HeadInfo {
        version: Version::new(input.u64()?),
        hash: input.hash()?,
        created: input.i64()?,
        updated: input.i64()?,
        stamp: Stamp::new(input.u64()?),
        deleted: input.flags(FLAG_DELETED)? != 0,
        first_available: Version::new(input.u64()?),
        last_sequence: Some(input.u64()?).filter(|n| *n > 0).map(Sequence::new),
        read_stamp: Stamp::new(input.u64()?),
    })
}

fn put_list(out: &mut BytesMut, list: &ListPage) {
    out.put_u8(if list.more { FLAG_MORE } else { 0 });
    out.put_u32_le(list.names.len() as u32);
    for name in &list.names {
        put_text(out, name, NAME_BYTES_MAX);
    }
}

fn list(input: &mut Input<'_>) -> Result<ListPage, DecodeError> {
    let more = input.flags(FLAG_MORE)? != 0;
    let count = input.u32()? as usize;
    let mut names = Vec::with_capacity(input.capacity(count, 2));
    for _ in 0..count {
        names.push(input.text("name", NAME_BYTES_MAX)?);
    }
    Ok(ListPage { names, more })
}
