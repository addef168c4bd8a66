//! Requests in bytes.

use bytes::{BufMut, BytesMut};

use super::feed::{feed, put_feed};
use super::{Input, kind, put_frame, put_key, put_text};
use crate::codec::DecodeError;
use crate::event::EncodedEvents;
use crate::hash::sequence_number;
use crate::ids::{ClientId, Sequence, Stamp, Version};
use crate::limits::{FILTER_TYPES_MAX, NAME_BYTES_MAX, WRITE_EVENTS_MAX, WRITE_MEMBERS_MAX};
use crate::refusal::Refusal;
use crate::request::{
    Guard, HeadQuery, ListQuery, MEMBER_BYTES, Member, ReadQuery, Request, Retention, Write,
};

/// Of a member: behind its key is what it takes away.
const FLAG_RETENTION: u8 = 1;

/// Bits of a read's and a head's flags.
mod flag {
    pub(super) const ANY: u8 = 1;
    pub(super) const CLIENT: u8 = 1 << 1;
    pub(super) const MIN_STAMP: u8 = 1 << 2;
    pub(super) const BACKWARDS: u8 = 1 << 3;
    pub(super) const TO: u8 = 1 << 4;
    pub(super) const LIMIT: u8 = 1 << 5;
    pub(super) const SINCE: u8 = 1 << 6;
    pub(super) const UNTIL: u8 = 1 << 7;
    pub(super) const ORG: u8 = 1;
    pub(super) const KIND: u8 = 1 << 1;
    pub(super) const AFTER: u8 = 1 << 2;
}

/// Appends a request. On error `out` is as it was.
///
/// # Errors
/// `InvalidArgument` or `TooLarge`: what the server would refuse without looking at any state.
pub fn encode_request(
    id: u64,
    deadline_ms: u32,
    request: &Request,
    out: &mut BytesMut,
) -> Result<(), Refusal> {
    if id == 0 {
        return Err(DecodeError::invalid("id", "must not be 0 for a request").into());
    }
    request.check()?;
    match request {
        Request::Write(write) => {
            // Nothing is copied twice.
            out.reserve(write.encoded_len());
            put_request(out, kind::WRITE, id, deadline_ms, |out| put_write(out, write));
        }
        Request::Read(query) => {
            put_request(out, kind::READ, id, deadline_ms, |out| put_read(out, query));
        }
        Request::Head(query) => {
            put_request(out, kind::HEAD, id, deadline_ms, |out| put_head(out, query));
        }
        Request::List(query) => {
            put_request(out, kind::LIST, id, deadline_ms, |out| put_list(out, query));
        }
        Request::Feed(query) => {
            put_request(out, kind::FEED, id, deadline_ms, |out| put_feed(out, query));
        }
        Request::Ping => put_request(out, kind::PING, id, deadline_ms, |_| {}),
        Request::Admin(order) => {
            put_request(out, kind::ADMIN, id, deadline_ms, |out| out.put_slice(order));
        }
    }
    Ok(())
}

/// Reads the body of a request behind its deadline.
pub(super) fn decode(kind: u8, input: &mut Input<'_>) -> Result<Request, Refusal> {
    let request = match kind {
        kind::WRITE => Request::Write(write(input)?),
        kind::READ => Request::Read(read(input)?),
        kind::HEAD => Request::Head(head(input)?),
        kind::LIST => Request::List(list(input)?),
        kind::FEED => Request::Feed(feed(input)?),
        kind::PING => Request::Ping,
        kind::ADMIN => Request::Admin(input.remainder()?),
        _ => return Err(DecodeError::invalid("kind", "of request is not known").into()),
    };
    input.finish()?;
    request.check()?;
    Ok(request)
}

fn put_request(
    out: &mut BytesMut,
    kind: u8,
    id: u64,
    deadline_ms: u32,
    body: impl FnOnce(&mut BytesMut),
) {
    put_frame(out, kind, id, |out| {
        out.put_u32_le(deadline_ms);
        body(out);
    });
}

pub(super) fn put_write(out: &mut BytesMut, write: &Write) {
    out.put_u128_le(write.client_id.value());
    out.put_u16_le(write.members.len() as u16);
    for member in &write.members {
        let mut fixed = [0; MEMBER_BYTES];
        let (guard, version) = member.guard.to_numbers();
        fixed[..2].copy_from_slice(&(member.key.as_bytes().len() as u16).to_le_bytes());
        (fixed[2], fixed[3]) = (guard, if member.retention.is_some() { FLAG_RETENTION } else { 0 });
        fixed[4..12].copy_from_slice(&version.to_le_bytes());
        fixed[12..20].copy_from_slice(&sequence_number(member.sequence).to_le_bytes());
        fixed[20..24].copy_from_slice(&(member.events.len() as u32).to_le_bytes());
        fixed[24..].copy_from_slice(&(member.events.as_bytes().len() as u32).to_le_bytes());
        out.put_slice(&fixed);
        out.put_slice(member.key.as_bytes());
        out.put_slice(member.events.as_bytes());
        if let Some(retention) = member.retention {
            out.put_slice(&retention.to_bytes());
        }
    }
}

fn write(input: &mut Input<'_>) -> Result<Write, Refusal> {
    let client_id = ClientId::new(input.u128()?);
    let count = usize::from(input.u16()?);
    if count > WRITE_MEMBERS_MAX {
        let limit = WRITE_MEMBERS_MAX as u64;
        return Err(DecodeError::Limit { what: "members", limit }.into());
    }
    let mut members = Vec::with_capacity(input.capacity(count, MEMBER_BYTES));
    let mut events_left = WRITE_EVENTS_MAX;
    for index in 0..count {
        let member = member(input, &mut events_left);
        members.push(member.map_err(|refusal| refusal.inside(&format!("members[{index}].")))?);
    }
    Ok(Write { client_id, members })
}

fn member(input: &mut Input<'_>, events_left: &mut usize) -> Result<Member, Refusal> {
    let key_len = input.u16()?;
    let (number, flags) = (input.u8()?, input.u8()?);
    let guard = Guard::from_numbers(number, input.u64()?);
    let Some(guard) = guard.filter(|_| flags & !FLAG_RETENTION == 0) else {
        return Err(DecodeError::invalid("guard", "is not known").into());
    };
    let sequence = Some(input.u64()?).filter(|n| *n > 0).map(Sequence::new);
    let (count, bytes) = (input.u32()?, input.u32()?);
    // Checked before the events are looked at, let alone hashed.
    let left = events_left.checked_sub(count as usize);
    let limit = WRITE_EVENTS_MAX as u64;
    *events_left = left.ok_or(DecodeError::Limit { what: "events", limit })?;
    let key = crate::AggregateKey::from_bytes(input.bytes(key_len.into())?);
    let key = key.map_err(DecodeError::Key)?;
    let events = EncodedEvents::decode(input.bytes(bytes as usize)?, count)?;
    let retention = some(flags != 0, || retention(input))?;
    Ok(Member { key, guard, sequence, events, retention })
}

pub(super) fn retention(input: &mut Input<'_>) -> Result<Retention, DecodeError> {
    let retention = Retention::from_bytes(input.array()?);
    retention.ok_or(DecodeError::invalid("retention", "is not known"))
}

fn put_read(out: &mut BytesMut, query: &ReadQuery) {
    let bit = |flag, set| if set { flag } else { 0 };
    out.put_u8(
        bit(flag::ANY, query.any)
            | bit(flag::CLIENT, query.client.is_some())
            | bit(flag::MIN_STAMP, query.min_stamp.is_some())
            | bit(flag::BACKWARDS, query.backwards)
            | bit(flag::TO, query.to.is_some())
            | bit(flag::LIMIT, query.limit.is_some())
            | bit(flag::SINCE, query.since.is_some())
            | bit(flag::UNTIL, query.until.is_some()),
    );
    put_key(out, &query.key);
    put_some(out, query.client.map(ClientId::value), BytesMut::put_u128_le);
    put_some(out, query.min_stamp.map(Stamp::value), BytesMut::put_u64_le);
    out.put_u64_le(query.from.value());
    put_some(out, query.to.map(Version::value), BytesMut::put_u64_le);
    put_some(out, query.limit, BytesMut::put_u64_le);
    put_some(out, query.since, BytesMut::put_i64_le);
    put_some(out, query.until, BytesMut::put_i64_le);
    out.put_u8(query.types.len() as u8);
    for name in &query.types {
        out.put_u8(name.len() as u8);
        out.put_slice(name);
    }
}

fn read(input: &mut Input<'_>) -> Result<ReadQuery, DecodeError> {
    let flags = input.u8()?;
    let set = |flag: u8| flags & flag != 0;
    let key = input.key()?;
    let client = some(set(flag::CLIENT), || input.u128())?.map(ClientId::new);
    let min_stamp = some(set(flag::MIN_STAMP), || input.u64())?.map(Stamp::new);
    let from = Version::new(input.u64()?);
    let to = some(set(flag::TO), || input.u64())?.map(Version::new);
    let limit = some(set(flag::LIMIT), || input.u64())?;
    let since = some(set(flag::SINCE), || input.i64())?;
    let until = some(set(flag::UNTIL), || input.i64())?;
    let count = usize::from(input.u8()?);
    if count > FILTER_TYPES_MAX {
        return Err(DecodeError::Limit { what: "types", limit: FILTER_TYPES_MAX as u64 });
    }
    let mut types = Vec::with_capacity(input.capacity(count, 2));
    for _ in 0..count {
        let len = input.u8()?;
        types.push(input.bytes(len.into())?);
    }
    let (backwards, any) = (set(flag::BACKWARDS), set(flag::ANY));
    Ok(ReadQuery { key, from, to, backwards, limit, types, client, since, until, min_stamp, any })
}

fn put_head(out: &mut BytesMut, query: &HeadQuery) {
    let bit = |flag, set| if set { flag } else { 0 };
    out.put_u8(
        bit(flag::ANY, query.any)
            | bit(flag::CLIENT, query.client.is_some())
            | bit(flag::MIN_STAMP, query.min_stamp.is_some()),
    );
    put_key(out, &query.key);
    put_some(out, query.client.map(ClientId::value), BytesMut::put_u128_le);
    put_some(out, query.min_stamp.map(Stamp::value), BytesMut::put_u64_le);
}

fn head(input: &mut Input<'_>) -> Result<HeadQuery, DecodeError> {
    let flags = input.flags(flag::ANY | flag::CLIENT | flag::MIN_STAMP)?;
    let key = input.key()?;
    let client = some(flags & flag::CLIENT != 0, || input.u128())?.map(ClientId::new);
    let min_stamp = some(flags & flag::MIN_STAMP != 0, || input.u64())?.map(Stamp::new);
    Ok(HeadQuery { key, client, min_stamp, any: flags & flag::ANY != 0 })
}

fn put_list(out: &mut BytesMut, query: &ListQuery) {
    let bit = |flag, set| if set { flag } else { 0 };
    out.put_u8(
        bit(flag::ORG, query.org.is_some())
            | bit(flag::KIND, query.kind.is_some())
            | bit(flag::AFTER, query.after.is_some()),
    );
    out.put_u32_le(query.limit);
    let name = |out: &mut BytesMut, name: &str| put_text(out, name, NAME_BYTES_MAX);
    put_some(out, query.org.as_deref(), name);
    put_some(out, query.kind.as_deref(), name);
    put_some(out, query.after.as_deref(), name);
    name(out, &query.prefix);
}

fn list(input: &mut Input<'_>) -> Result<ListQuery, DecodeError> {
    let flags = input.flags(flag::ORG | flag::KIND | flag::AFTER)?;
    let limit = input.u32()?;
    let org = some(flags & flag::ORG != 0, || input.text("org", NAME_BYTES_MAX))?;
    let kind = some(flags & flag::KIND != 0, || input.text("type", NAME_BYTES_MAX))?;
    let after = some(flags & flag::AFTER != 0, || input.text("after", NAME_BYTES_MAX))?;
    let prefix = input.text("prefix", NAME_BYTES_MAX)?;
    Ok(ListQuery { org, kind, prefix, after, limit })
}

fn put_some<T>(out: &mut BytesMut, value: Option<T>, put: impl FnOnce(&mut BytesMut, T)) {
    if let Some(value) = value {
        put(out, value);
    }
}

fn some<T>(
    there: bool,
    read: impl FnOnce() -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    there.then(read).transpose()
}
