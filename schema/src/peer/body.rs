//! Messages as bytes: a kind, three bytes of zero, then the fields in the order of the table.

use super::*;

/// First byte of a message.
mod kind {
    pub(super) const PROMISE: u8 = 0x10;
    pub(super) const PROMISED: u8 = 0x11;
    pub(super) const DEPOSED: u8 = 0x12;
    pub(super) const HAND_OVER: u8 = 0x13;
    pub(super) const ACK: u8 = 0x20;
    pub(super) const HEARTBEAT: u8 = 0x21;
    pub(super) const ALIVE: u8 = 0x22;
    pub(super) const LEASE_GRANT: u8 = 0x23;
    pub(super) const LEASE_RETURN: u8 = 0x24;
    pub(super) const LOCATE: u8 = 0x30;
    pub(super) const LOCATED: u8 = 0x31;
    pub(super) const CUT: u8 = 0x32;
    pub(super) const CUT_DONE: u8 = 0x33;
    pub(super) const QUARANTINED: u8 = 0x34;
    pub(super) const FETCH: u8 = 0x40;
    pub(super) const NO_FRAMES: u8 = 0x41;
    pub(super) const APPEND: u8 = 0x80;
    pub(super) const FRAMES: u8 = 0x81;
}

/// Something of a fixed size that lists and messages are made of.
trait Field: Sized {
    const BYTES: usize;
    fn put(&self, out: &mut BytesMut);
    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

/// A field that is listed by shard.
trait ByShard: Field {
    fn shard(&self) -> ShardId;
}

pub(super) fn encode(message: &Message) -> Result<Bytes, DecodeError> {
    check(message)?;
    let mut out = BytesMut::with_capacity(size_hint(message));
    let start = |out: &mut BytesMut, kind: u8| out.put_slice(&[kind, 0, 0, 0]);
    match message {
        Message::Promise { epoch, ver } => {
            start(&mut out, kind::PROMISE);
            put_all(&mut out, &[epoch.value(), *ver]);
        }
        Message::Promised { epoch, tips } => {
            start(&mut out, kind::PROMISED);
            out.put_u64_le(epoch.value());
            put_list(&mut out, tips);
        }
        Message::Deposed { epoch, ver } => {
            start(&mut out, kind::DEPOSED);
            put_all(&mut out, &[epoch.value(), *ver]);
        }
        Message::HandOver { epoch, register, etag } => {
            start(&mut out, kind::HAND_OVER);
            out.put_u64_le(epoch.value());
            out.put_u16_le(etag.len() as u16);
            out.put_slice(etag.as_bytes());
            out.put_slice(register);
        }
        Message::Ack { epoch, durable } => {
            start(&mut out, kind::ACK);
            out.put_u64_le(epoch.value());
            put_list(&mut out, durable);
        }
        Message::Heartbeat { number, epoch, ver, shards } => {
            start(&mut out, kind::HEARTBEAT);
            put_all(&mut out, &[*number, epoch.value(), *ver]);
            put_list(&mut out, shards);
        }
        Message::Alive { number, promised, leading } => {
            start(&mut out, kind::ALIVE);
            put_all(&mut out, &[*number, promised.value()]);
            out.put_u8(u8::from(*leading));
        }
        Message::LeaseGrant { number, epoch, lasts_ms } => {
            start(&mut out, kind::LEASE_GRANT);
            put_all(&mut out, &[*number, epoch.value()]);
            out.put_u32_le(*lasts_ms);
        }
        Message::LeaseReturn { epoch } => {
            start(&mut out, kind::LEASE_RETURN);
            out.put_u64_le(epoch.value());
        }
        other => encode_log(other, &mut out, start),
    }
    Ok(out.freeze())
}

/// Messages about the content of logs.
fn encode_log(message: &Message, out: &mut BytesMut, start: fn(&mut BytesMut, u8)) {
    match message {
        Message::Locate { request, shard, lsn } => {
            start(out, kind::LOCATE);
            put_request(out, *request, *shard);
            out.put_u64_le(lsn.value());
        }
        Message::Located { request, shard, frame } => {
            start(out, kind::LOCATED);
            put_request(out, *request, *shard);
            out.put_u8(u8::from(frame.is_some()));
            frame.iter().for_each(|frame| frame.put(out));
        }
        Message::Cut { request, shard, epoch, to } => {
            start(out, kind::CUT);
            put_request(out, *request, *shard);
            out.put_u64_le(epoch.value());
            to.put(out);
        }
        Message::CutDone { request, tip } => {
            start(out, kind::CUT_DONE);
            out.put_u64_le(*request);
            tip.put(out);
        }
        Message::Quarantined { shard, reason } => {
            start(out, kind::QUARANTINED);
            let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
            out.put_u16_le(shard.value());
            out.put_u16_le(reason.len() as u16);
            out.put_slice(reason.as_bytes());
        }
        Message::Fetch { request, shard, after, upto, bytes_max } => {
            start(out, kind::FETCH);
            put_request(out, *request, *shard);
            put_all(out, &[after.value(), upto.value()]);
            out.put_u32_le(*bytes_max);
        }
        Message::NoFrames { request, why } => {
            start(out, kind::NO_FRAMES);
            out.put_u64_le(*request);
            out.put_u8(why.number());
        }
        Message::Append { shard, epoch, before, commit, closed, frames } => {
            start(out, kind::APPEND);
            put_request(out, epoch.value(), *shard);
            before.put(out);
            put_all(out, &[commit.value(), closed.value()]);
            out.put_slice(frames);
        }
        Message::Frames { request, shard, before, last, frames } => {
            start(out, kind::FRAMES);
            put_request(out, *request, *shard);
            before.put(out);
            out.put_u8(u8::from(*last));
            out.put_slice(frames);
        }
        _ => unreachable!("encode() knows the others"),
    }
}

pub(super) fn decode(bytes: &Bytes) -> Result<Message, DecodeError> {
    let mut input = Reader::new(bytes, "message");
    let kind = input.u8()?;
    input.zeroes(3)?;
    let limit = if kind >= kind::APPEND { BULK_BYTES_MAX } else { CONTROL_BYTES_MAX };
    if bytes.len() > limit {
        return Err(DecodeError::Limit { what: "message", limit: limit as u64 });
    }
    let message = match kind {
        kind::PROMISE => Message::Promise { epoch: epoch(&mut input)?, ver: input.u64()? },
        kind::PROMISED => Message::Promised { epoch: epoch(&mut input)?, tips: list(&mut input)? },
        kind::DEPOSED => Message::Deposed { epoch: epoch(&mut input)?, ver: input.u64()? },
        kind::HAND_OVER => {
            let (epoch, len) = (epoch(&mut input)?, input.u16()?.into());
            let Ok(etag) = std::str::from_utf8(input.take(len)?) else {
                return Err(DecodeError::invalid("etag", "is not UTF-8"));
            };
            let etag = etag.to_owned();
            Message::HandOver { epoch, register: rest(bytes, &mut input)?, etag }
        }
        kind::ACK => Message::Ack { epoch: epoch(&mut input)?, durable: list(&mut input)? },
        kind::HEARTBEAT => {
            let (number, epoch, ver) = (input.u64()?, epoch(&mut input)?, input.u64()?);
            Message::Heartbeat { number, epoch, ver, shards: list(&mut input)? }
        }
        kind::ALIVE => {
            let (number, promised) = (input.u64()?, epoch(&mut input)?);
            Message::Alive { number, promised, leading: flag(&mut input)? }
        }
        kind::LEASE_GRANT => {
            let (number, epoch) = (input.u64()?, epoch(&mut input)?);
            Message::LeaseGrant { number, epoch, lasts_ms: input.u32()? }
        }
        kind::LEASE_RETURN => Message::LeaseReturn { epoch: epoch(&mut input)? },
        kind => decode_log(kind, bytes, &mut input)?,
    };
    input.finish()?;
    check(&message)?;
    Ok(message)
}

fn decode_log(kind: u8, bytes: &Bytes, input: &mut Reader<'_>) -> Result<Message, DecodeError> {
    Ok(match kind {
        kind::LOCATE => {
            let (request, shard) = (input.u64()?, shard(input)?);
            Message::Locate { request, shard, lsn: lsn(input)? }
        }
        kind::LOCATED => {
            let (request, shard) = (input.u64()?, shard(input)?);
            let frame = flag(input)?.then(|| FramePlace::take(input)).transpose()?;
            Message::Located { request, shard, frame }
        }
        kind::CUT => {
            let (request, shard) = (input.u64()?, shard(input)?);
            let (epoch, to) = (epoch(input)?, Position::take(input)?);
            Message::Cut { request, shard, epoch, to }
        }
        kind::CUT_DONE => Message::CutDone { request: input.u64()?, tip: Tip::take(input)? },
        kind::QUARANTINED => {
            let (shard, len) = (shard(input)?, input.u16()?.into());
            let Ok(reason) = std::str::from_utf8(input.take(len)?) else {
                return Err(DecodeError::invalid("reason", "is not UTF-8"));
            };
            if len > REASON_BYTES_MAX {
                return Err(DecodeError::Limit { what: "reason", limit: REASON_BYTES_MAX as u64 });
            }
            Message::Quarantined { shard, reason: reason.to_owned() }
        }
        kind::FETCH => {
            let (request, shard) = (input.u64()?, shard(input)?);
            let (after, upto, bytes_max) = (lsn(input)?, lsn(input)?, input.u32()?);
            Message::Fetch { request, shard, after, upto, bytes_max }
        }
        kind::NO_FRAMES => {
            let request = input.u64()?;
            let Some(why) = NoFrames::of_number(input.u8()?) else {
                return Err(DecodeError::invalid("reason", "is not known"));
            };
            Message::NoFrames { request, why }
        }
        kind::APPEND => {
            let (epoch, shard) = (epoch(input)?, shard(input)?);
            let (before, commit) = (Position::take(input)?, lsn(input)?);
            let closed = Stamp::new(input.u64()?);
            let frames = rest(bytes, input)?;
            Message::Append { shard, epoch, before, commit, closed, frames }
        }
        kind::FRAMES => {
            let (request, shard) = (input.u64()?, shard(input)?);
            let (before, last) = (Position::take(input)?, flag(input)?);
            let frames = rest(bytes, input)?;
            Message::Frames { request, shard, before, last, frames }
        }
        _ => return Err(DecodeError::invalid("kind", "of message is not known")),
    })
}

/// What holds for both directions.
fn check(message: &Message) -> Result<(), DecodeError> {
    match message {
        Message::Promised { tips, .. } => check_list(tips),
        Message::HandOver { register, etag, .. } => check_register(register, etag),
        Message::Ack { durable, .. } => check_list(durable),
        Message::Heartbeat { shards, .. } => check_list(shards),
        Message::Append { frames, .. } | Message::Frames { frames, .. } => check_frames(frames),
        _ => Ok(()),
    }
}

/// Each shard once, in ascending order.
fn check_list<T: ByShard>(list: &[T]) -> Result<(), DecodeError> {
    if list.len() > SHARDS_MAX.into() {
        return Err(DecodeError::Limit { what: "shards", limit: SHARDS_MAX.into() });
    }
    if list.windows(2).any(|pair| pair[0].shard() >= pair[1].shard()) {
        return Err(DecodeError::invalid("shards", "are not in ascending order"));
    }
    Ok(())
}

fn check_register(register: &Bytes, etag: &str) -> Result<(), DecodeError> {
    let limits =
        [("register", register.len(), REGISTER_BYTES_MAX), ("etag", etag.len(), ETAG_BYTES_MAX)];
    match limits.into_iter().find(|(_, bytes, limit)| bytes > limit) {
        Some((what, _, limit)) => Err(DecodeError::Limit { what, limit: limit as u64 }),
        None => Ok(()),
    }
}

fn check_frames(frames: &Bytes) -> Result<(), DecodeError> {
    if frames.len() > FRAMES_BYTES_MAX {
        return Err(DecodeError::Limit { what: "frames", limit: FRAMES_BYTES_MAX as u64 });
    }
    if frames.is_empty() || !frames.len().is_multiple_of(crate::limits::SECTOR_BYTES) {
        return Err(DecodeError::invalid("frames", "must be whole sectors"));
    }
    Ok(())
}

fn size_hint(message: &Message) -> usize {
    let more = match message {
        Message::Promised { tips, .. } => tips.len() * TIP_BYTES,
        Message::HandOver { register, etag, .. } => register.len() + etag.len(),
        Message::Ack { durable, .. } => durable.len() * Durable::BYTES,
        Message::Heartbeat { shards, .. } => shards.len() * Committed::BYTES,
        Message::Append { frames, .. } | Message::Frames { frames, .. } => frames.len(),
        Message::Quarantined { reason, .. } => reason.len(),
        _ => 64,
    };
    80 + more
}

fn put_all(out: &mut BytesMut, numbers: &[u64]) {
    numbers.iter().for_each(|number| out.put_u64_le(*number));
}

fn put_request(out: &mut BytesMut, request: u64, shard: ShardId) {
    out.put_u64_le(request);
    out.put_u16_le(shard.value());
}

fn put_list<T: Field>(out: &mut BytesMut, list: &[T]) {
    out.put_u16_le(list.len() as u16);
    list.iter().for_each(|field| field.put(out));
}

/// A list claims its length; only bytes that are there make room for it.
fn list<T: Field>(input: &mut Reader<'_>) -> Result<Vec<T>, DecodeError> {
    let count = usize::from(input.u16()?);
    let mut list = Vec::with_capacity(count.min(input.left() / T::BYTES));
    for _ in 0..count {
        list.push(T::take(input)?);
    }
    Ok(list)
}

/// Everything that is left, without a copy.
fn rest(bytes: &Bytes, input: &mut Reader<'_>) -> Result<Bytes, DecodeError> {
    let left = input.left();
    input.take(left)?;
    Ok(bytes.slice(bytes.len() - left..))
}

fn epoch(input: &mut Reader<'_>) -> Result<Epoch, DecodeError> {
    input.u64().map(Epoch::new)
}

fn lsn(input: &mut Reader<'_>) -> Result<Lsn, DecodeError> {
    input.u64().map(Lsn::new)
}

fn shard(input: &mut Reader<'_>) -> Result<ShardId, DecodeError> {
    input.u16().map(ShardId::new)
}

fn flag(input: &mut Reader<'_>) -> Result<bool, DecodeError> {
    input.flags(1).map(|flag| flag == 1)
}

impl NoFrames {
    fn number(self) -> u8 {
        match self {
            Self::NotThere => 1,
            Self::Damaged => 2,
            Self::Busy => 3,
        }
    }

    fn of_number(number: u8) -> Option<Self> {
        [Self::NotThere, Self::Damaged, Self::Busy].into_iter().find(|why| why.number() == number)
    }
}

impl Field for Position {
    const BYTES: usize = 40;

    fn put(&self, out: &mut BytesMut) {
        out.put_u64_le(self.lsn.value());
        out.put_slice(&self.hash.0);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { lsn: lsn(input)?, hash: input.hash()? })
    }
}

impl Field for Tip {
    const BYTES: usize = TIP_BYTES;

    fn put(&self, out: &mut BytesMut) {
        out.put_u16_le(self.shard.value());
        out.put_u64_le(self.epoch.value());
        self.durable.put(out);
        out.put_u64_le(self.floor.value());
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (shard, epoch) = (shard(input)?, epoch(input)?);
        Ok(Self { shard, epoch, durable: Position::take(input)?, floor: lsn(input)? })
    }
}

impl Field for Durable {
    const BYTES: usize = 42;

    fn put(&self, out: &mut BytesMut) {
        out.put_u16_le(self.shard.value());
        self.position.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { shard: shard(input)?, position: Position::take(input)? })
    }
}

impl Field for Committed {
    const BYTES: usize = 18;

    fn put(&self, out: &mut BytesMut) {
        out.put_u16_le(self.shard.value());
        put_all(out, &[self.commit.value(), self.closed.value()]);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (shard, commit) = (shard(input)?, lsn(input)?);
        Ok(Self { shard, commit, closed: Stamp::new(input.u64()?) })
    }
}

impl Field for FramePlace {
    const BYTES: usize = 88;

    fn put(&self, out: &mut BytesMut) {
        out.put_u64_le(self.epoch.value());
        self.before.put(out);
        self.end.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (epoch, before) = (epoch(input)?, Position::take(input)?);
        Ok(Self { epoch, before, end: Position::take(input)? })
    }
}

impl ByShard for Tip {
    fn shard(&self) -> ShardId {
        self.shard
    }
}

impl ByShard for Durable {
    fn shard(&self) -> ShardId {
        self.shard
    }
}

impl ByShard for Committed {
    fn shard(&self) -> ShardId {
        self.shard
    }
}
