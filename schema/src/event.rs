//! An event as its writer gives it, and its canonical bytes.
//!
//! [`Event`] is the convenient form. [`EncodedEvents`] is a batch of them in canonical bytes: the client
//! encodes once; wire, log and event hash all use the same bytes, so the server only ever copies them.

use bytes::Bytes;

use crate::ids::EventId;

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
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SchemaVersion {
    /// Changes when old readers cannot read it.
    pub major: u16,
    /// Changes compatibly.
    pub minor: u16,
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

/// The events of one batch in canonical bytes, validated: every length lies inside, every name is legal.
/// May be empty (a member of a write that only guards).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct EncodedEvents {
    bytes: Bytes,
    count: u32,
}
