//! Events as an application writes and reads them.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use celeriant_schema::{
    BatchHeader, ClientId, ContentType, EventId, Hash, Page, ReadBatch, SchemaVersion, Sequence,
    Stamp, Version, WriteId,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, typed};

/// An immutable typed fact. Its fields are those of [`celeriant_schema::Event`], to which it
/// derefs.
#[derive(Clone, Eq, PartialEq)]
pub struct Event {
    inner: celeriant_schema::Event,
    secrecy: Secrecy,
}

/// Whether a payload is, was or will be encrypted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Secrecy {
    /// Never.
    None,
    /// It will be, for this subject.
    For(String),
    /// It was, and is readable now.
    Opened,
    /// Nobody can read it any more.
    Shredded,
    /// It is: this client has no key for it.
    Sealed,
}

/// A payload as far as this client can read it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Payload<'a> {
    /// It was not encrypted, or has been decrypted.
    Clear(&'a Bytes),
    /// The key was destroyed: nobody can read it any more.
    Shredded,
    /// It is encrypted, and the client has no key ring, or not with this key.
    Sealed(&'a Bytes),
}

impl Event {
    /// An event of type `name`, or `name@major.minor` (1.0 if not said), with `value` as JSON.
    ///
    /// # Errors
    /// `Error::Encode` when the value cannot be JSON, or the version is not one.
    pub fn json<T: Serialize + ?Sized>(name: &str, value: &T) -> Result<Self, Error> {
        let payload =
            serde_json::to_vec(value).map_err(|e| Error::Encode { reason: e.to_string() })?;
        Self::new(name, ContentType::Json, payload)
    }

    /// An event of type `name`, or `name@major.minor`, with an opaque payload.
    ///
    /// # Errors
    /// `Error::Encode` when the version is not one.
    pub fn bytes(name: &str, payload: impl Into<Bytes>) -> Result<Self, Error> {
        Self::new(name, ContentType::Bytes, payload)
    }

    /// An event of type `name`, or `name@major.minor`, with an encoded payload. Its client time is
    /// now. Lengths and characters are checked when it is appended.
    ///
    /// # Errors
    /// `Error::Encode` when the version is not one.
    pub fn new(
        name: &str,
        content_type: ContentType,
        payload: impl Into<Bytes>,
    ) -> Result<Self, Error> {
        let (event_type, schema) = split_name(name)?;
        Ok(Self::with_type(event_type, schema, content_type, payload.into()))
    }

    /// An enum's variant as an event: the variant's name is the type, its content the JSON payload;
    /// schema version 1.0. See [`crate::Aggregate`] for the forms.
    ///
    /// # Errors
    /// `Error::Encode` when the value is not an enum in serde's default form.
    pub fn typed<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        let (name, payload) =
            typed::to_event(value).map_err(|e| Error::Encode { reason: e.to_string() })?;
        let schema = SchemaVersion { major: 1, minor: 0 };
        Ok(Self::with_type(name.to_owned(), schema, ContentType::Json, payload.into()))
    }

    fn with_type(
        event_type: String,
        schema: SchemaVersion,
        content_type: ContentType,
        payload: Bytes,
    ) -> Self {
        let plain = celeriant_schema::Event::plain(event_type, content_type, payload);
        let client_time = celeriant_schema::event::unix_micros();
        Self::from(celeriant_schema::Event { schema, client_time, ..plain })
    }

    /// The same event with its payload encrypted on the way to the store, with the key that the
    /// client's key ring ([`crate::Options::keys`]) has for `subject`: whom or what it is about.
    #[must_use]
    pub fn encrypt_for(mut self, subject: impl Into<String>) -> Self {
        self.secrecy = Secrecy::For(subject.into());
        self
    }

    /// The same event with an identity of the caller's. It is part of what tells one write from
    /// another when a sequence is used twice.
    #[must_use]
    pub fn with_id(mut self, id: impl IntoId<EventId>) -> Self {
        self.inner.event_id = Some(id.into_id());
        self
    }

    /// The same event with another entry in its metadata.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.inner.metadata.push((key.into(), value.into()));
        self
    }

    /// The same event with another schema version.
    #[must_use]
    pub fn with_schema(mut self, major: u16, minor: u16) -> Self {
        self.inner.schema = SchemaVersion { major, minor };
        self
    }

    /// The same event with another client time, µs since 1970.
    #[must_use]
    pub fn with_client_time(mut self, unix_micros: i64) -> Self {
        self.inner.client_time = unix_micros;
        self
    }

    /// The payload, read as JSON.
    ///
    /// # Errors
    /// `Error::Decode` when it is not JSON of that shape.
    pub fn to_json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.payload).map_err(|error| self.undecodable(&error))
    }

    /// The whole event as a variant of an enum: the reverse of [`Event::typed`].
    ///
    /// # Errors
    /// `Error::Decode` when the enum has no such variant, or its content has another shape.
    pub fn to_typed<T: DeserializeOwned>(&self) -> Result<T, Error> {
        typed::from_event(&self.event_type, &self.payload).map_err(|error| self.undecodable(&error))
    }

    /// In the vocabulary of the wire. What was to be encrypted is not.
    pub fn into_inner(self) -> celeriant_schema::Event {
        self.inner
    }

    /// With what is to become of its payload.
    pub(crate) fn into_parts(self) -> (celeriant_schema::Event, Secrecy) {
        (self.inner, self.secrecy)
    }

    pub(crate) fn set_payload(&mut self, payload: Bytes, secrecy: Secrecy) {
        (self.inner.payload, self.secrecy) = (payload, secrecy);
    }

    fn undecodable(&self, error: &dyn std::fmt::Display) -> Error {
        Error::Decode { event_type: self.event_type.clone(), reason: error.to_string() }
    }
}

impl Deref for Event {
    type Target = celeriant_schema::Event;

    fn deref(&self) -> &celeriant_schema::Event {
        &self.inner
    }
}

impl From<celeriant_schema::Event> for Event {
    fn from(inner: celeriant_schema::Event) -> Self {
        let sealed = inner.envelope.is_some();
        Self { inner, secrecy: if sealed { Secrecy::Sealed } else { Secrecy::None } }
    }
}

/// Shows the payload only if it is no secret.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.secrecy {
            Secrecy::For(_) | Secrecy::Opened => {
                let payload = Bytes::from_static(b"(secret)");
                let inner = celeriant_schema::Event { payload, ..self.inner.clone() };
                fmt::Debug::fmt(&inner, f)
            }
            _ => fmt::Debug::fmt(&self.inner, f),
        }
    }
}

/// What identifies something with 128 bits: the id itself, a UUID, or the bare number.
pub trait IntoId<T> {
    /// The id.
    fn into_id(self) -> T;
}

macro_rules! into_id {
    ($($id:ty),*) => {$(
        impl IntoId<$id> for $id {
            fn into_id(self) -> $id {
                self
            }
        }
        impl IntoId<$id> for u128 {
            fn into_id(self) -> $id {
                <$id>::new(self)
            }
        }
        impl IntoId<$id> for uuid::Uuid {
            fn into_id(self) -> $id {
                <$id>::new(self.as_u128())
            }
        }
    )*};
}

into_id!(ClientId, EventId);

/// An event as it was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recorded {
    /// Its version in its aggregate.
    pub version: Version,
    /// Its place in the cluster's order.
    pub stamp: Stamp,
    /// The aggregate's chain hash after it.
    pub hash: Hash,
    /// What was written.
    pub event: Event,
    /// Its canonical bytes: what the hash covers.
    pub body: Bytes,
}

impl Recorded {
    /// The payload, as far as this client can read it.
    pub fn payload(&self) -> Payload<'_> {
        match self.event.secrecy {
            Secrecy::Shredded => Payload::Shredded,
            Secrecy::Sealed => Payload::Sealed(&self.event.inner.payload),
            _ => Payload::Clear(&self.event.inner.payload),
        }
    }

    /// The payload, read as JSON.
    ///
    /// # Errors
    /// `Error::Decode` when it is not JSON of that shape, or cannot be decrypted.
    pub fn to_json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.readable()?.to_json()
    }

    /// The whole event as a variant of an enum: the reverse of [`Event::typed`].
    ///
    /// # Errors
    /// `Error::Decode` when the enum has no such variant, its content has another shape, or it
    /// cannot be decrypted.
    pub fn to_typed<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.readable()?.to_typed()
    }

    fn readable(&self) -> Result<&Event, Error> {
        match self.payload() {
            Payload::Clear(_) => Ok(&self.event),
            Payload::Shredded => Err(self.event.undecodable(&"its key was destroyed")),
            Payload::Sealed(_) => Err(self.event.undecodable(&"there is no key for it")),
        }
    }
}

impl Deref for Recorded {
    type Target = Event;

    fn deref(&self) -> &Event {
        &self.event
    }
}

/// The events that one write appended to one aggregate, or those of them that were asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Batch {
    /// Version of its first event, also when a filter left it out.
    pub first_version: Version,
    /// Version of its last event, likewise.
    pub last_version: Version,
    /// Who wrote it; `ClientId::NONE` if nobody said.
    pub client_id: ClientId,
    /// Its number under that client, if the writer used them.
    pub sequence: Option<Sequence>,
    /// Server clock when it was accepted, µs since 1970.
    pub server_time: i64,
    /// The write it was part of.
    pub write_id: WriteId,
    /// In version order.
    pub events: Vec<Recorded>,
}

impl Batch {
    pub(crate) fn from_read(read: ReadBatch) -> Result<Self, Error> {
        let BatchHeader { first_version, last_version, client_id, sequence, server_time, .. } =
            read.header;
        let first = read.header;
        let recorded = |event: celeriant_schema::ReadEvent| {
            let inner = celeriant_schema::Event::decode(&event.body)
                .map_err(|error| Error::Protocol { reason: error.to_string() })?;
            let ahead = event.version.value().saturating_sub(first_version.value());
            Ok(Recorded {
                version: event.version,
                stamp: Stamp::new(first.stamp.value().saturating_add(ahead)),
                hash: event.hash,
                event: Event::from(inner),
                body: event.body,
            })
        };
        let events = read.events.into_iter().map(recorded).collect::<Result<_, Error>>()?;
        let write_id = first.write_id;
        Ok(Self { first_version, last_version, client_id, sequence, server_time, write_id, events })
    }
}

/// Batches of one page, decoded.
pub(crate) fn batches(page: &mut Page) -> Result<Vec<Batch>, Error> {
    std::mem::take(&mut page.batches).into_iter().map(Batch::from_read).collect()
}

/// `Name` or `Name@major.minor`.
fn split_name(name: &str) -> Result<(String, SchemaVersion), Error> {
    let Some((event_type, version)) = name.rsplit_once('@') else {
        return Ok((name.to_owned(), SchemaVersion::FIRST));
    };
    let schema = version.parse().map_err(|reason| Error::Encode {
        reason: format!("{name:?}: the schema version after '@' {reason}"),
    })?;
    Ok((event_type.to_owned(), schema))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_carry_its_schema_version() {
        let event = Event::json("Withdrawn@2.1", &serde_json::json!({"amount": 10})).expect("json");
        assert_eq!(event.event_type, "Withdrawn");
        assert_eq!(event.schema, SchemaVersion { major: 2, minor: 1 });
        assert_eq!(&event.payload[..], br#"{"amount":10}"#);
        let plain = Event::bytes("Raw", Bytes::from_static(b"\0")).expect("bytes");
        assert_eq!(plain.schema, SchemaVersion { major: 1, minor: 0 });
        for bad in ["A@", "A@1", "A@1.x", "A@1.2.3", "A@-1.0", "A@70000.0"] {
            assert!(matches!(Event::json(bad, &0), Err(Error::Encode { .. })), "{bad}");
        }
    }
}
