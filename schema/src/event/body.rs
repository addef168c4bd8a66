//! The canonical bytes of one event.
//!
//! ```text
//! | body_len u32 | content u8 | flags u8 | type_len u8 | meta_count u8 | major u16 | minor u16 |
//! | client_time i64 | payload_len u32 | [event_id 16] | type | metadata | [envelope] | payload |
//!   metadata: meta_count × | key_len u8 | value_len u16 | key | value |
//!   envelope: | key_id_len u8 | key_id | nonce 24 |
//! ```
//! Everything before the payload is the *head*; a log may keep the two apart.

use bytes::{Bytes, BytesMut};

use super::{ContentType, Event, SchemaVersion};
use crate::codec::{DecodeError, Reader};
use crate::ids::EventId;
use crate::limits::{
    ENVELOPE_KEY_ID_BYTES_MAX, EVENT_TYPE_BYTES_MAX, INLINE_PAYLOAD_BYTES_MAX,
    METADATA_ENTRIES_MAX, METADATA_KEY_BYTES_MAX, METADATA_VALUE_BYTES_MAX, PAYLOAD_BYTES_MAX,
};

/// Size of the fixed part of an event's canonical bytes.
pub const EVENT_HEADER_BYTES: usize = 24;

const FLAG_EVENT_ID: u8 = 1;
const FLAG_ENVELOPE: u8 = 2;
const EVENT_ID_BYTES: usize = 16;
const NONCE_BYTES: usize = 24;
const META_ENTRY_BYTES: usize = 3;

/// One event's canonical bytes before the payload: all its fields, looked up where they lie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EventHead<'a> {
    bytes: &'a [u8],
}

/// One event's canonical bytes, looked into where they lie. Making one checks the lengths in the
/// fixed part; names and metadata are checked when a batch is decoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EventBody<'a> {
    whole: &'a [u8],
    head_len: usize,
}

impl<'a> EventHead<'a> {
    /// Takes the head at the start of `bytes`, which may go on behind it.
    ///
    /// # Errors
    /// When the lengths do not add up.
    #[inline]
    pub fn first(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let Some(fixed) = bytes.first_chunk::<EVENT_HEADER_BYTES>() else {
            return Err(DecodeError::Truncated { what: "event" });
        };
        let [body_len, payload_len] = [number(fixed, 0), number(fixed, 20)];
        let wrong = DecodeError::Length { what: "event" };
        let Some(head_len) = body_len.checked_sub(payload_len) else { return Err(wrong) };
        let bytes = bytes.get(..head_len).ok_or(DecodeError::Truncated { what: "event" })?;
        let Some(fixed) = bytes.get(..EVENT_HEADER_BYTES) else { return Err(wrong) };
        let type_end = EVENT_HEADER_BYTES + id_len(fixed[5]) + usize::from(fixed[6]);
        if type_end > head_len { Err(wrong) } else { Ok(Self { bytes }) }
    }

    /// The bytes themselves.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Size of the whole body, in bytes.
    #[inline]
    pub fn body_len(&self) -> usize {
        number(self.bytes, 0)
    }

    /// Size of the payload, in bytes.
    #[inline]
    pub fn payload_len(&self) -> usize {
        number(self.bytes, 20)
    }

    /// The same event with an empty payload. Its hash is still that of the whole event.
    pub fn without_payload(&self) -> Bytes {
        let mut bytes = BytesMut::from(self.bytes);
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        bytes[20..24].fill(0);
        bytes.freeze()
    }

    /// A record stores the payload apart from its metadata.
    #[inline]
    pub fn is_large(&self) -> bool {
        self.payload_len() > INLINE_PAYLOAD_BYTES_MAX
    }

    /// Name of the event's type.
    #[inline]
    pub fn event_type(&self) -> &'a str {
        // Checked when the batch was decoded; an empty name never passes there.
        std::str::from_utf8(self.type_bytes()).unwrap_or_default()
    }

    /// How the payload is to be understood.
    ///
    /// # Errors
    /// When the number is not known.
    pub fn content_type(&self) -> Result<ContentType, DecodeError> {
        match self.bytes[4] {
            0 => Ok(ContentType::Bytes),
            1 => Ok(ContentType::Json),
            2 => Ok(ContentType::Avro),
            3 => Ok(ContentType::Protobuf),
            _ => Err(DecodeError::invalid("content_type", "is not known")),
        }
    }

    /// Version of the type's schema.
    pub fn schema(&self) -> SchemaVersion {
        let half = |at: usize| u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]);
        SchemaVersion { major: half(8), minor: half(10) }
    }

    /// The caller's clock, µs since 1970.
    pub fn client_time(&self) -> i64 {
        let mut time = [0; 8];
        time.copy_from_slice(&self.bytes[12..20]);
        i64::from_le_bytes(time)
    }

    /// The caller's identity for this event.
    #[inline]
    pub fn event_id(&self) -> Option<EventId> {
        if self.flags() & FLAG_EVENT_ID == 0 {
            return None;
        }
        let mut id = [0; EVENT_ID_BYTES];
        id.copy_from_slice(&self.bytes[EVENT_HEADER_BYTES..EVENT_HEADER_BYTES + EVENT_ID_BYTES]);
        Some(EventId::new(u128::from_le_bytes(id)))
    }

    /// Keys and values, in the caller's order. UTF-8 if the batch was checked.
    pub fn metadata(&self) -> Metadata<'a> {
        let rest = &self.bytes[self.type_at() + usize::from(self.bytes[6])..];
        Metadata { rest, left: self.bytes[7] }
    }

    /// Key id and nonce of the encryption envelope.
    pub fn envelope(&self) -> Option<(&'a [u8], &'a [u8; NONCE_BYTES])> {
        if self.flags() & FLAG_ENVELOPE == 0 {
            return None;
        }
        let mut metadata = self.metadata();
        metadata.by_ref().for_each(drop);
        let (key_len, rest) = metadata.rest.split_first()?;
        let (key_id, nonce) = rest.split_at_checked(usize::from(*key_len))?;
        Some((key_id, nonce.first_chunk()?))
    }

    /// Checks every rule of semantics.md §1 for one event.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        if self.flags() & !(FLAG_EVENT_ID | FLAG_ENVELOPE) != 0 {
            return Err(DecodeError::invalid("flags", "are not known"));
        }
        self.content_type()?;
        if self.payload_len() > PAYLOAD_BYTES_MAX {
            return Err(limit("payload", PAYLOAD_BYTES_MAX));
        }
        check_event_type(self.type_bytes())?;
        let behind_type = &self.bytes[self.type_at() + usize::from(self.bytes[6])..];
        let mut reader = Reader::new(behind_type, "metadata");
        check_metadata(&mut reader, self.bytes[7])?;
        if self.flags() & FLAG_ENVELOPE != 0 {
            check_envelope(&mut reader)?;
        }
        if reader.left() == 0 { Ok(()) } else { Err(DecodeError::Length { what: "event" }) }
    }

    #[inline]
    fn flags(&self) -> u8 {
        self.bytes[5]
    }

    #[inline]
    fn type_at(&self) -> usize {
        EVENT_HEADER_BYTES + id_len(self.flags())
    }

    #[inline]
    fn type_bytes(&self) -> &'a [u8] {
        &self.bytes[self.type_at()..self.type_at() + usize::from(self.bytes[6])]
    }
}

impl<'a> EventBody<'a> {
    /// Takes bytes that are exactly one event.
    ///
    /// # Errors
    /// When the lengths do not add up.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let body = Self::first(bytes)?;
        if body.whole.len() == bytes.len() {
            Ok(body)
        } else {
            Err(DecodeError::Length { what: "event" })
        }
    }

    /// Takes the event at the start of `bytes`, which may go on behind it.
    ///
    /// # Errors
    /// When the lengths do not add up.
    #[inline]
    pub fn first(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let head = EventHead::first(bytes)?;
        let whole = bytes.get(..head.body_len()).ok_or(DecodeError::Truncated { what: "event" })?;
        Ok(Self { whole, head_len: head.bytes.len() })
    }

    /// All bytes.
    #[inline]
    pub fn whole(&self) -> &'a [u8] {
        self.whole
    }

    /// The bytes before the payload.
    #[inline]
    pub fn head(&self) -> &'a [u8] {
        &self.whole[..self.head_len]
    }

    /// The payload.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.whole[self.head_len..]
    }

    /// The fields before the payload.
    #[inline]
    pub fn fields(&self) -> EventHead<'a> {
        EventHead { bytes: self.head() }
    }

    /// A record stores the payload apart from its metadata.
    #[inline]
    pub fn is_large(&self) -> bool {
        self.payload().len() > INLINE_PAYLOAD_BYTES_MAX
    }

    /// Name of the event's type.
    #[inline]
    pub fn event_type(&self) -> &'a str {
        self.fields().event_type()
    }

    /// Name of the event's type, as bytes.
    #[inline]
    pub fn event_type_bytes(&self) -> &'a [u8] {
        self.fields().type_bytes()
    }

    /// The caller's identity for this event.
    #[inline]
    pub fn event_id(&self) -> Option<EventId> {
        self.fields().event_id()
    }
}

/// Iterator over an event's metadata.
#[derive(Clone, Debug)]
pub struct Metadata<'a> {
    rest: &'a [u8],
    left: u8,
}

impl<'a> Iterator for Metadata<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let ([key_len, low, high], rest) = self.rest.split_first_chunk::<META_ENTRY_BYTES>()?;
        let (key, rest) = rest.split_at_checked(usize::from(*key_len))?;
        let value_len = u16::from_le_bytes([*low, *high]);
        let (value, rest) = rest.split_at_checked(usize::from(value_len))?;
        self.rest = rest;
        Some((key, value))
    }
}

pub(super) fn encoded_len(event: &Event) -> usize {
    let metadata: usize =
        event.metadata.iter().map(|(k, v)| META_ENTRY_BYTES + k.len() + v.len()).sum();
    let id = if event.event_id.is_some() { EVENT_ID_BYTES } else { 0 };
    let envelope = event.envelope.as_ref().map_or(0, |e| 1 + e.key_id.len() + NONCE_BYTES);
    EVENT_HEADER_BYTES + id + event.event_type.len() + metadata + envelope + event.payload.len()
}

/// Sizes that their field could not even hold; everything else is checked on the bytes.
pub(super) fn check_sizes(event: &Event) -> Result<(), DecodeError> {
    if event.payload.len() > PAYLOAD_BYTES_MAX {
        return Err(limit("payload", PAYLOAD_BYTES_MAX));
    }
    if event.event_type.len() > EVENT_TYPE_BYTES_MAX {
        return Err(limit("event_type", EVENT_TYPE_BYTES_MAX));
    }
    if event.metadata.len() > METADATA_ENTRIES_MAX {
        return Err(limit("metadata", METADATA_ENTRIES_MAX));
    }
    if event.metadata.iter().any(|(key, _)| key.len() > METADATA_KEY_BYTES_MAX) {
        return Err(limit("metadata key", METADATA_KEY_BYTES_MAX));
    }
    if event.metadata.iter().any(|(_, value)| value.len() > METADATA_VALUE_BYTES_MAX) {
        return Err(limit("metadata value", METADATA_VALUE_BYTES_MAX));
    }
    if event.envelope.as_ref().is_some_and(|e| e.key_id.len() > ENVELOPE_KEY_ID_BYTES_MAX) {
        return Err(limit("envelope", ENVELOPE_KEY_ID_BYTES_MAX));
    }
    Ok(())
}

/// Appends the bytes of an event whose sizes were checked.
pub(super) fn write(event: &Event, out: &mut Vec<u8>) {
    let body_len = encoded_len(event);
    out.reserve(body_len);
    let mut fixed = [0; EVENT_HEADER_BYTES];
    fixed[..4].copy_from_slice(&(body_len as u32).to_le_bytes());
    fixed[4] = event.content_type as u8;
    fixed[5] = if event.event_id.is_some() { FLAG_EVENT_ID } else { 0 }
        | if event.envelope.is_some() { FLAG_ENVELOPE } else { 0 };
    fixed[6] = event.event_type.len() as u8;
    fixed[7] = event.metadata.len() as u8;
    fixed[8..10].copy_from_slice(&event.schema.major.to_le_bytes());
    fixed[10..12].copy_from_slice(&event.schema.minor.to_le_bytes());
    fixed[12..20].copy_from_slice(&event.client_time.to_le_bytes());
    fixed[20..].copy_from_slice(&(event.payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&fixed);
    if let Some(id) = event.event_id {
        out.extend_from_slice(&id.value().to_le_bytes());
    }
    out.extend_from_slice(event.event_type.as_bytes());
    for (key, value) in &event.metadata {
        out.push(key.len() as u8);
        out.extend_from_slice(&(value.len() as u16).to_le_bytes());
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(value.as_bytes());
    }
    if let Some(envelope) = &event.envelope {
        out.push(envelope.key_id.len() as u8);
        out.extend_from_slice(envelope.key_id.as_bytes());
        out.extend_from_slice(&envelope.nonce);
    }
    out.extend_from_slice(&event.payload);
}

/// A type's name: 1–64 bytes of UTF-8 without control characters.
pub(crate) fn check_event_type(name: &[u8]) -> Result<(), DecodeError> {
    check_name(name, "event_type", EVENT_TYPE_BYTES_MAX)
}

fn check_metadata(reader: &mut Reader<'_>, count: u8) -> Result<(), DecodeError> {
    if usize::from(count) > METADATA_ENTRIES_MAX {
        return Err(limit("metadata", METADATA_ENTRIES_MAX));
    }
    let mut keys = [&[] as &[u8]; METADATA_ENTRIES_MAX];
    for index in 0..usize::from(count) {
        let (key_len, value_len) = (reader.u8()?, reader.u16()?);
        let (key, value) = (reader.take(key_len.into())?, reader.take(value_len.into())?);
        check_name(key, "metadata key", METADATA_KEY_BYTES_MAX)?;
        if keys[..index].contains(&key) {
            return Err(DecodeError::invalid("metadata key", "is there twice"));
        }
        keys[index] = key;
        if value.len() > METADATA_VALUE_BYTES_MAX {
            return Err(limit("metadata value", METADATA_VALUE_BYTES_MAX));
        }
        if !value.is_ascii() && std::str::from_utf8(value).is_err() {
            return Err(DecodeError::invalid("metadata value", "is not valid UTF-8"));
        }
    }
    Ok(())
}

fn check_envelope(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    let key_len = reader.u8()?;
    check_name(reader.take(key_len.into())?, "envelope", ENVELOPE_KEY_ID_BYTES_MAX)?;
    reader.take(NONCE_BYTES).map(drop)
}

fn check_name(name: &[u8], what: &'static str, bytes_max: usize) -> Result<(), DecodeError> {
    if name.is_empty() {
        return Err(DecodeError::invalid(what, "is empty"));
    }
    if name.len() > bytes_max {
        return Err(limit(what, bytes_max));
    }
    if name.iter().all(|byte| (b' '..0x7f).contains(byte)) {
        return Ok(());
    }
    let Ok(text) = std::str::from_utf8(name) else {
        return Err(DecodeError::invalid(what, "is not valid UTF-8"));
    };
    if text.chars().any(char::is_control) {
        return Err(DecodeError::invalid(what, "has a control character"));
    }
    Ok(())
}

fn limit(what: &'static str, limit: usize) -> DecodeError {
    DecodeError::Limit { what, limit: limit as u64 }
}

#[inline]
fn id_len(flags: u8) -> usize {
    if flags & FLAG_EVENT_ID != 0 { EVENT_ID_BYTES } else { 0 }
}

#[inline]
fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
}
