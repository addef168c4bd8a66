//! Feeds in bytes.

use bytes::{BufMut, Bytes, BytesMut};

use super::request::retention;
use super::response::{BATCH_BYTES, EVENT_BYTES, batch, put_batch};
use super::{Input, put_key, put_text};
use crate::codec::{DecodeError, Reader};
use crate::feed::{FeedBatch, FeedPage, FeedQuery, Notice, Selector};
use crate::ids::Stamp;
use crate::limits::{FEED_SELECTORS_MAX, FILTER_TYPES_MAX, KEY_BYTES_MAX};

const FLAG_AFTER: u8 = 1;
const FLAG_HEADERS_ONLY: u8 = 1 << 1;
const FLAG_MORE: u8 = 1 << 2;
/// Of a batch: it is a notice.
const FLAG_NOTICE: u8 = 1;
/// Of several, with a line break behind each.
const SELECTOR_BYTES_MAX: usize = FEED_SELECTORS_MAX * (KEY_BYTES_MAX + 1);

pub(super) fn put_feed(out: &mut BytesMut, query: &FeedQuery) {
    let bit = |flag, set| if set { flag } else { 0 };
    let follows = bit(FLAG_AFTER, query.after.is_some());
    let more = bit(FLAG_MORE, query.more > 0);
    out.put_u8(follows | bit(FLAG_HEADERS_ONLY, query.headers_only) | more);
    out.put_u32_le(query.wait_ms);
    out.put_u64_le(query.after.map_or(0, Stamp::value));
    if query.more > 0 {
        out.put_u16_le(query.more);
    }
    put_text(out, &query.selector.to_string(), SELECTOR_BYTES_MAX);
    out.put_u8(query.types.len() as u8);
    for name in &query.types {
        out.put_u8(name.len() as u8);
        out.put_slice(name);
    }
}

pub(super) fn feed(input: &mut Input<'_>) -> Result<FeedQuery, DecodeError> {
    let flags = input.flags(FLAG_AFTER | FLAG_HEADERS_ONLY | FLAG_MORE)?;
    let (follows, headers_only) = (flags & FLAG_AFTER != 0, flags & FLAG_HEADERS_ONLY != 0);
    let wait_ms = input.u32()?;
    let after = match (follows, input.u64()?) {
        (true, stamp) => Some(Stamp::new(stamp)),
        (false, 0) => None,
        (false, _) => return Err(DecodeError::invalid("after", "is there without its flag")),
    };
    let more = match flags & FLAG_MORE != 0 {
        true => input.u16()?,
        false => 0,
    };
    if more == 0 && flags & FLAG_MORE != 0 {
        return Err(DecodeError::invalid("more", "is none, with its flag"));
    }
    let selector: Selector = input.text("selector", SELECTOR_BYTES_MAX)?.parse()?;
    let count = usize::from(input.u8()?);
    if count > FILTER_TYPES_MAX {
        return Err(DecodeError::Limit { what: "types", limit: FILTER_TYPES_MAX as u64 });
    }
    let mut types = Vec::with_capacity(input.capacity(count, 2));
    for _ in 0..count {
        let len = input.u8()?;
        types.push(input.bytes(len.into())?);
    }
    Ok(FeedQuery { selector, types, after, wait_ms, headers_only, more })
}

/// A page's bytes without a frame around them, for whoever keeps it.
pub fn encode_feed_page(page: &FeedPage) -> Bytes {
    let mut out = BytesMut::new();
    put_feed_page(&mut out, page);
    out.freeze()
}

/// Reads what [`encode_feed_page`] wrote. Bodies and keys share memory with `bytes`.
///
/// # Errors
/// What is wrong with the bytes.
pub fn decode_feed_page(bytes: &Bytes) -> Result<FeedPage, DecodeError> {
    let mut input = Input { frame: bytes, reader: Reader::new(bytes, "feed page") };
    let page = feed_page(&mut input)?;
    input.finish()?;
    Ok(page)
}

pub(super) fn put_feed_page(out: &mut BytesMut, page: &FeedPage) {
    let events = page.batches.iter().flat_map(|batch| &batch.batch.events);
    let bytes: usize = events.map(|event| EVENT_BYTES + event.body.len()).sum();
    let keys: usize = page.batches.iter().map(|batch| batch.key.as_bytes().len()).sum();
    out.reserve(20 + keys + page.batches.len() * (BATCH_BYTES + 3) + bytes);
    out.put_u64_le(page.upto.value());
    out.put_u64_le(page.head.value());
    out.put_u32_le(page.batches.len() as u32);
    for FeedBatch { key, batch, notice } in &page.batches {
        put_key(out, key);
        put_batch(out, batch);
        out.put_u8(if notice.is_some() { FLAG_NOTICE } else { 0 });
        if let Some(Notice { what, hash }) = notice {
            out.put_slice(&what.to_bytes());
            out.put_slice(&hash.0);
        }
    }
}

pub(super) fn feed_page(input: &mut Input<'_>) -> Result<FeedPage, DecodeError> {
    let (upto, head) = (Stamp::new(input.u64()?), Stamp::new(input.u64()?));
    let count = input.u32()? as usize;
    let mut batches = Vec::with_capacity(input.capacity(count, BATCH_BYTES));
    for _ in 0..count {
        let key = input.key()?;
        let batch = batch(input)?;
        let is_notice = input.flags(FLAG_NOTICE)? != 0;
        let notice = match is_notice {
            true => Some(Notice { what: retention(input)?, hash: input.hash()? }),
            false => None,
        };
        batches.push(FeedBatch { key, batch, notice });
    }
    Ok(FeedPage { batches, upto, head })
}
