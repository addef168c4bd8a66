//! An event as its writer gives it, and its canonical bytes.
//!
//! [`Event`] is the convenient form. [`EncodedEvents`] is a batch of them in canonical bytes: the
//! client encodes once; wire, log and event hash all use the same bytes, so the server only ever
//! copies them. [`EventBody`] looks into one event's bytes without copying. The bytes are listed in
//! `docs/record.md`; the payload comes last, so that a body splits into head and payload.

mod body;

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::ids::EventId;
use crate::limits::{BATCH_EVENTS_MAX, REQUEST_BYTES_MAX};
use crate::refusal::Refusal;

pub use crate::codec::DecodeError;
pub(crate) use body::check_event_type;
pub use body::{EVENT_HEADER_BYTES, EventBody, EventHead, Metadata};

/// How a payload is to be understood.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum ContentType {
    /// Opaque.
    #[default]
    Bytes = 0,
    /// JSON text.
    Json = 1,
    /// Avro binary.
    Avro = 2,
    /// Protobuf binary.
    Protobuf = 3,
}

/// Version of an event type's schema, written `major.minor`.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SchemaVersion {
    /// Changes when old readers cannot read it.
    pub major: u16,
    /// Changes compatibly.
    pub minor: u16,
}

impl SchemaVersion {
    /// 1.0: where versions begin.
    pub const FIRST: Self = Self { major: 1, minor: 0 };
}

impl fmt::Display for SchemaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for SchemaVersion {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('.').and_then(|(major, minor)| {
            Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
        });
        parts.ok_or("must be written major.minor")
    }
}

/// The client-side encryption envelope of a payload (semantics.md §7).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Envelope {
    /// Names the data key in the client's key ring, 1–128 bytes.
    pub key_id: String,
    /// The batch's 192 random bits.
    pub nonce: [u8; 24],
}

/// An immutable typed fact, before it is appended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// Name of the type, 1–64 bytes.
    pub event_type: String,
    /// Version of its schema.
    pub schema: SchemaVersion,
    /// How the payload is to be understood.
    pub content_type: ContentType,
    /// Opaque to the store; may be empty.
    pub payload: Bytes,
    /// The caller's identity for this event.
    pub event_id: Option<EventId>,
    /// Small map: correlation id, causation id, user … in the caller's order.
    pub metadata: Vec<(String, String)>,
    /// Set when the payload is encrypted.
    pub envelope: Option<Envelope>,
    /// The caller's clock, µs since 1970, kept untouched.
    pub client_time: i64,
}

/// The wall clock in µs since 1970, for whoever makes events outside of a node: what it says is for
/// people. A node's actors ask their own clock.
#[allow(clippy::disallowed_methods)]
pub fn unix_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

impl Event {
    /// An event of version 1.0 with nothing but its payload.
    pub fn plain(
        event_type: impl Into<String>,
        content_type: ContentType,
        payload: impl Into<Bytes>,
    ) -> Self {
        Self {
            event_type: event_type.into(),
            schema: SchemaVersion::FIRST,
            content_type,
            payload: payload.into(),
            event_id: None,
            metadata: Vec::new(),
            envelope: None,
            client_time: 0,
        }
    }

    /// Size of the canonical bytes, in bytes.
    pub fn encoded_len(&self) -> usize {
        body::encoded_len(self)
    }

    /// Appends the canonical bytes to `out`. On error `out` is as it was.
    ///
    /// # Errors
    /// `InvalidArgument` or `TooLarge` when a name or a size is not allowed (semantics.md §1).
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), Refusal> {
        self.write(out).map_err(Refusal::from)
    }

    /// Reads canonical bytes, all of them, and checks everything. The payload shares memory with
    /// `body`.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(body: &Bytes) -> Result<Self, DecodeError> {
        let whole = EventBody::new(body)?;
        let view = whole.fields();
        view.check()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Self {
            event_type: view.event_type().to_owned(),
            schema: view.schema(),
            content_type: view.content_type()?,
            payload: slice_of(body, whole.payload()),
            event_id: view.event_id(),
            metadata: view.metadata().map(|(key, value)| (text(key), text(value))).collect(),
            envelope: view
                .envelope()
                .map(|(key_id, nonce)| Envelope { key_id: text(key_id), nonce: *nonce }),
            client_time: view.client_time(),
        })
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        body::check_sizes(self)?;
        let start = out.len();
        body::write(self, out);
        let checked = EventHead::first(&out[start..]).and_then(|head| head.check());
        if checked.is_err() {
            out.truncate(start);
        }
        checked
    }
}

/// The events of one batch in canonical bytes, validated: every length lies inside, every name is
/// legal. May be empty (a member of a write that only guards).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct EncodedEvents {
    bytes: Bytes,
    count: u32,
    /// Bytes of payloads above `INLINE_PAYLOAD_BYTES_MAX`: what a record stores apart.
    large: u32,
}

impl EncodedEvents {
    /// Encodes a batch. No events give an empty one.
    ///
    /// # Errors
    /// `InvalidArgument` or `TooLarge`, naming the event by its index.
    pub fn encode(events: &[Event]) -> Result<Self, Refusal> {
        let mut out = Vec::with_capacity(events.iter().map(Event::encoded_len).sum());
        for (index, event) in events.iter().enumerate() {
            event.write(&mut out).map_err(|error| at_event(&error, index))?;
        }
        let count = events.len().min(u32::MAX as usize) as u32;
        Self::check(Bytes::from(out), count)
    }

    /// Takes canonical bytes of `count` events without copying them, and checks everything.
    ///
    /// # Errors
    /// `InvalidArgument` or `TooLarge`, naming the event by its index.
    pub fn decode(bytes: Bytes, count: u32) -> Result<Self, Refusal> {
        Self::check(bytes, count)
    }

    /// How many events.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// No events: a member that only guards.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The canonical bytes of all events, one after the other.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Bytes of payloads that a record stores apart from its metadata.
    pub fn large_bytes(&self) -> usize {
        self.large as usize
    }

    /// The events, in order.
    pub fn iter(&self) -> Events<'_> {
        Events { rest: &self.bytes }
    }

    fn check(bytes: Bytes, count: u32) -> Result<Self, Refusal> {
        for (size, limit) in [(count as usize, BATCH_EVENTS_MAX), (bytes.len(), REQUEST_BYTES_MAX)]
        {
            if size > limit {
                return Err(DecodeError::Limit { what: "events", limit: limit as u64 }.into());
            }
        }
        let mut large = 0;
        let mut rest: &[u8] = &bytes;
        for index in 0..count as usize {
            let event =
                EventBody::first(rest).and_then(|event| event.fields().check().map(|()| event));
            let event = event.map_err(|error| at_event(&error, index))?;
            if event.is_large() {
                large += event.payload().len() as u32;
            }
            rest = &rest[event.whole().len()..];
        }
        if !rest.is_empty() {
            return Err(DecodeError::Length { what: "events" }.into());
        }
        Ok(Self { bytes, count, large })
    }
}

impl<'a> IntoIterator for &'a EncodedEvents {
    type Item = EventBody<'a>;
    type IntoIter = Events<'a>;

    fn into_iter(self) -> Events<'a> {
        self.iter()
    }
}

/// Iterator over the events of [`EncodedEvents`].
#[derive(Clone, Debug)]
pub struct Events<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Events<'a> {
    type Item = EventBody<'a>;

    #[inline]
    fn next(&mut self) -> Option<EventBody<'a>> {
        // Everything was checked when the bytes were taken, so an error is only the end.
        let event = EventBody::first(self.rest).ok()?;
        self.rest = &self.rest[event.whole().len()..];
        Some(event)
    }
}

/// The part of `source` that `slice` borrows from it, without copying.
pub(crate) fn slice_of(source: &Bytes, slice: &[u8]) -> Bytes {
    if slice.is_empty() { Bytes::new() } else { source.slice_ref(slice) }
}

fn at_event(error: &DecodeError, index: usize) -> Refusal {
    error.refusal_at(&format!("events[{index}]."))
}

#[cfg(test)]
#[path = "event/event_test.rs"]
mod tests;
