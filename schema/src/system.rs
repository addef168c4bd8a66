//! What the store writes down about itself, as events in org `$system`: schemas and policies.
//!
//! ```text
//! $system/schemas/acme           everything that was said about schemas of org acme, in order:
//!   SchemaRegistered@1.0         a schema, its name and its text
//!   PolicySet@1.0                what an org, or one type of it, demands
//! $system/schema-marks-7/acme    the same number of events, in another shard:
//!   SchemasChanged@1.0           nothing but that there is a newer one above
//! ```
//! Both are appended by one write over all shards, so every shard knows by a look at its own mark
//! whether what it knows of an org's schemas is the newest, and none learns of it later than
//! others.
//! One aggregate per org: its version orders and guards registrations, so two that race cannot both
//! be checked against the same predecessor and then land. The bytes are listed in
//! `docs/schemas.md`. What these events add up to is the registry's business, not this page's.

use std::fmt;
use std::str::FromStr;

use bytes::{BufMut, Bytes};

use crate::codec::{DecodeError, Reader};
use crate::event::{ContentType, Event, EventBody, SchemaVersion, check_event_type};
use crate::ids::ShardId;
use crate::key::{AggregateKey, NamePart, SYSTEM_ORG, check_name};
use crate::limits::{
    EVENT_TYPE_BYTES_MAX, NAME_BYTES_MAX, SCHEMA_BYTES_MAX, SCHEMA_MESSAGE_BYTES_MAX,
};

/// Type of the aggregates that hold schemas: `$system/schemas/<org>`.
pub const SCHEMAS_KIND: &str = "schemas";
/// What the types of marks begin with; a number follows.
const MARKS_KIND: &str = "schema-marks-";

const SCHEMA_REGISTERED: &str = "SchemaRegistered";
const POLICY_SET: &str = "PolicySet";
const SCHEMAS_CHANGED: &str = "SchemasChanged";
const VERSION: SchemaVersion = SchemaVersion::FIRST;

/// What errors call a text in them.
const TEXT: &str = "text of a system event";

const FLAG_FORCED: u8 = 1;
const FLAG_CLOSED: u8 = 1;
const FLAG_ALLOW_ENCRYPTED: u8 = 2;

/// What a schema is written in.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Format {
    /// JSON Schema, 2020-12 unless `$schema` says otherwise.
    JsonSchema = 1,
    /// An Avro schema, as JSON.
    Avro = 2,
    /// One `.proto` file, as text.
    Protobuf = 3,
    /// An encoded `FileDescriptorSet` with everything it imports.
    ProtobufSet = 4,
}

impl Format {
    /// What payloads it is for.
    pub const fn content_type(self) -> ContentType {
        match self {
            Self::JsonSchema => ContentType::Json,
            Self::Avro => ContentType::Avro,
            Self::Protobuf | Self::ProtobufSet => ContentType::Protobuf,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::JsonSchema,
            2 => Self::Avro,
            3 => Self::Protobuf,
            4 => Self::ProtobufSet,
            _ => return None,
        })
    }
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "json" => Self::JsonSchema,
            "avro" => Self::Avro,
            "protobuf" => Self::Protobuf,
            "protobuf-set" => Self::ProtobufSet,
            _ => return Err("is none of json, avro, protobuf, protobuf-set"),
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::JsonSchema => "json",
            Self::Avro => "avro",
            Self::Protobuf => "protobuf",
            Self::ProtobufSet => "protobuf-set",
        })
    }
}

/// The text of a schema, as it was registered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SchemaSource {
    /// What it is written in.
    pub format: Format,
    /// Full name of the Protobuf message that payloads are; empty otherwise.
    pub message: String,
    /// At most [`SCHEMA_BYTES_MAX`] bytes.
    pub text: Bytes,
}

/// Names a schema: `acme/order/Placed@1.2`, or `acme/*/Placed@1.2` for every type of an org.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SchemaName {
    org: String,
    kind: Option<String>,
    event_type: String,
    version: SchemaVersion,
}

/// Why a text names no schema.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a schema is named org/type/event_type@major.minor, with type * for all: {reason}")]
pub struct SchemaNameError {
    reason: String,
}

impl SchemaName {
    /// Puts a name together; no `kind` stands for every type of the org.
    ///
    /// # Errors
    /// When one of the parts is not a name.
    pub fn new(
        org: &str,
        kind: Option<&str>,
        event_type: &str,
        version: SchemaVersion,
    ) -> Result<Self, SchemaNameError> {
        check_scope(org, kind)?;
        check_event_type(event_type.as_bytes())
            .map_err(|error| SchemaNameError { reason: error.to_string() })?;
        let kind = kind.map(str::to_owned);
        Ok(Self { org: org.to_owned(), kind, event_type: event_type.to_owned(), version })
    }

    /// The organisation.
    pub fn org(&self) -> &str {
        &self.org
    }

    /// The aggregate type; `None` for every type of the org.
    pub fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// The event type.
    pub fn event_type(&self) -> &str {
        &self.event_type
    }

    /// The version.
    pub fn version(&self) -> SchemaVersion {
        self.version
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind().unwrap_or("*");
        write!(f, "{}/{kind}/{}@{}", self.org, self.event_type, self.version)
    }
}

impl FromStr for SchemaName {
    type Err = SchemaNameError;

    fn from_str(text: &str) -> Result<Self, SchemaNameError> {
        let parts = || {
            let (org, rest) = text.split_once('/')?;
            let (kind, rest) = rest.split_once('/')?;
            let (event_type, version) = rest.rsplit_once('@')?;
            Some((org, (kind != "*").then_some(kind), event_type, version.parse().ok()?))
        };
        let reason = || SchemaNameError { reason: format!("{text:?} is not written like that") };
        let (org, kind, event_type, version) = parts().ok_or_else(reason)?;
        Self::new(org, kind, event_type, version)
    }
}

/// What an org, or one type of it, demands of its events.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Policy {
    /// Event types without a schema are refused.
    pub closed: bool,
    /// Events whose type has a schema may be encrypted, and are then not checked.
    pub allow_encrypted: bool,
}

/// One thing that the store wrote down about an org's schemas.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SystemEvent {
    /// A schema, from now on and for ever.
    SchemaRegistered {
        /// Its name.
        name: SchemaName,
        /// Its text.
        source: SchemaSource,
        /// Compatibility that could not be decided was taken on the operator's word.
        forced: bool,
    },
    /// A policy, until the next one for the same place.
    PolicySet {
        /// Which org.
        org: String,
        /// Which type of it; `None` for all types that have no policy of their own.
        kind: Option<String>,
        /// What it demands.
        policy: Policy,
    },
}

impl SystemEvent {
    /// Which org this is about.
    pub fn org(&self) -> &str {
        match self {
            Self::SchemaRegistered { name, .. } => name.org(),
            Self::PolicySet { org, .. } => org,
        }
    }

    /// Whether it is about something that can have schemas.
    ///
    /// # Errors
    /// When org or type is no name.
    pub fn check(&self) -> Result<(), SchemaNameError> {
        match self {
            Self::SchemaRegistered { name, .. } => check_scope(name.org(), name.kind()),
            Self::PolicySet { org, kind, .. } => check_scope(org, kind.as_deref()),
        }
    }

    /// As an event to append to [`schemas_of`] its org.
    pub fn to_event(&self, client_time: i64) -> Event {
        let mut payload = Vec::new();
        let event_type = match self {
            Self::SchemaRegistered { name, source, forced } => {
                payload.push(source.format as u8);
                payload.push(if *forced { FLAG_FORCED } else { 0 });
                payload.put_u16_le(name.version.major);
                payload.put_u16_le(name.version.minor);
                put_text(&mut payload, name.kind().unwrap_or_default());
                put_text(&mut payload, name.event_type());
                put_text(&mut payload, &source.message);
                payload.put_u32_le(source.text.len() as u32);
                payload.put_slice(&source.text);
                SCHEMA_REGISTERED
            }
            Self::PolicySet { kind, policy, .. } => {
                let closed = if policy.closed { FLAG_CLOSED } else { 0 };
                payload
                    .push(closed | if policy.allow_encrypted { FLAG_ALLOW_ENCRYPTED } else { 0 });
                put_text(&mut payload, kind.as_deref().unwrap_or_default());
                POLICY_SET
            }
        };
        own_event(event_type, payload.into(), client_time)
    }

    /// Reads an event of [`schemas_of`]`(org)`. The text is copied: it keeps no buffer alive.
    ///
    /// # Errors
    /// When it is none of the events above.
    pub fn from_event(org: &str, event: &EventBody<'_>) -> Result<Self, DecodeError> {
        if event.fields().schema() != VERSION {
            return Err(DecodeError::invalid("version of a system event", "is not known"));
        }
        let mut input = Reader::new(event.payload(), "system event");
        let read = match event.event_type() {
            SCHEMA_REGISTERED => Self::schema_registered(org, &mut input)?,
            POLICY_SET => Self::policy_set(org, &mut input)?,
            _ => return Err(DecodeError::invalid("type of a system event", "is not known")),
        };
        input.finish()?;
        Ok(read)
    }

    fn schema_registered(org: &str, input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let format = Format::from_number(input.u8()?)
            .ok_or(DecodeError::invalid("format of a schema", "is not known"))?;
        let forced = input.flags(FLAG_FORCED)? != 0;
        let version = SchemaVersion { major: input.u16()?, minor: input.u16()? };
        let kind = input.text(TEXT, NAME_BYTES_MAX)?;
        let event_type = input.text(TEXT, EVENT_TYPE_BYTES_MAX)?;
        let message = input.text(TEXT, SCHEMA_MESSAGE_BYTES_MAX)?.to_owned();
        let len = input.u32()? as usize;
        if len > SCHEMA_BYTES_MAX {
            return Err(DecodeError::Limit { what: "schema", limit: SCHEMA_BYTES_MAX as u64 });
        }
        let text = Bytes::copy_from_slice(input.take(len)?);
        let name = SchemaName::new(org, (!kind.is_empty()).then_some(kind), event_type, version)
            .map_err(|_| DecodeError::invalid("name of a schema", "is not one"))?;
        let source = SchemaSource { format, message, text };
        Ok(Self::SchemaRegistered { name, source, forced })
    }

    fn policy_set(org: &str, input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let flags = input.flags(FLAG_CLOSED | FLAG_ALLOW_ENCRYPTED)?;
        let kind = input.text(TEXT, NAME_BYTES_MAX)?;
        let kind = (!kind.is_empty()).then(|| kind.to_owned());
        check_scope(org, kind.as_deref())
            .map_err(|_| DecodeError::invalid("place of a policy", "is not one"))?;
        let policy = Policy {
            closed: flags & FLAG_CLOSED != 0,
            allow_encrypted: flags & FLAG_ALLOW_ENCRYPTED != 0,
        };
        Ok(Self::PolicySet { org: org.to_owned(), kind, policy })
    }
}

/// The aggregate that holds everything about an org's schemas.
///
/// # Errors
/// When `org` is not a name.
pub fn schemas_of(org: &str) -> Result<AggregateKey, crate::key::KeyError> {
    AggregateKey::new(SYSTEM_ORG, SCHEMAS_KIND, org)
}

/// The aggregate of `shard`, of so many, that counts what was said about an org's schemas: in one
/// shard that is [`schemas_of`] the org itself.
///
/// # Errors
/// When `org` is not a name.
///
/// # Panics
/// When there is no such shard.
pub fn mark_of(
    org: &str,
    shard: ShardId,
    shards: u16,
) -> Result<AggregateKey, crate::key::KeyError> {
    assert!(shard.value() < shards, "shard {shard} of {shards} would be sought for ever");
    let key = schemas_of(org)?;
    if key.shard(shards) == shard {
        return Ok(key);
    }
    let mut number = 0_u64;
    loop {
        let key = AggregateKey::new(SYSTEM_ORG, &format!("{MARKS_KIND}{number}"), org)?;
        if key.shard(shards) == shard {
            return Ok(key);
        }
        number += 1;
    }
}

/// What is appended to a mark.
pub fn mark_event(client_time: i64) -> Event {
    own_event(SCHEMAS_CHANGED, Bytes::new(), client_time)
}

fn own_event(event_type: &str, payload: Bytes, client_time: i64) -> Event {
    Event { client_time, ..Event::plain(event_type, ContentType::Bytes, payload) }
}

fn check_scope(org: &str, kind: Option<&str>) -> Result<(), SchemaNameError> {
    let reason = |part: &str, error| SchemaNameError { reason: format!("{part} {error}") };
    if org == SYSTEM_ORG {
        return Err(SchemaNameError { reason: "org $system has no schemas".into() });
    }
    check_name(NamePart::Org, org.as_bytes()).map_err(|error| reason("org", error))?;
    match kind {
        Some(kind) => {
            check_name(NamePart::Type, kind.as_bytes()).map_err(|error| reason("type", error))
        }
        None => Ok(()),
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_u16_le(text.len() as u16);
    out.put_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{damage, hex};

    fn registered() -> SystemEvent {
        SystemEvent::SchemaRegistered {
            name: "acme/order/Placed@1.2".parse().expect("valid"),
            source: SchemaSource {
                format: Format::Protobuf,
                message: "shop.Placed".into(),
                text: Bytes::from_static(b"message"),
            },
            forced: true,
        }
    }

    fn policy_set() -> SystemEvent {
        let policy = Policy { closed: true, allow_encrypted: false };
        SystemEvent::PolicySet { org: "acme".into(), kind: None, policy }
    }

    fn read_back(event: &Event) -> Result<SystemEvent, DecodeError> {
        let mut body = Vec::new();
        event.encode_into(&mut body).expect("valid");
        SystemEvent::from_event("acme", &EventBody::new(&body)?)
    }

    #[test]
    fn system_events_never_change() {
        let [schema, policy] = [registered().to_event(7), policy_set().to_event(7)];
        assert_eq!((schema.event_type.as_str(), schema.schema), ("SchemaRegistered", VERSION));
        assert_eq!(hex(&schema.payload), GOLDEN_SCHEMA);
        assert_eq!((policy.event_type.as_str(), policy.schema), ("PolicySet", VERSION));
        assert_eq!(hex(&policy.payload), "010000");
    }

    const GOLDEN_SCHEMA: &str = "03010100020005006f726465720600506c616365640b0073686f702e506c61\
                                 636564070000006d657373616765";

    #[test]
    fn what_was_written_is_read_back() {
        for event in [registered(), policy_set()] {
            assert_eq!(read_back(&event.to_event(1)), Ok(event));
        }
    }

    #[test]
    fn damaged_system_events_are_refused_or_other_ones_but_never_a_panic() {
        for whole in [registered().to_event(1), policy_set().to_event(1)] {
            damage(&whole.payload, |bytes| {
                let event = Event { payload: Bytes::copy_from_slice(bytes), ..whole.clone() };
                if let Ok(read) = read_back(&event) {
                    assert_eq!(read.to_event(1).payload, event.payload, "one form only");
                }
            });
        }
    }

    #[test]
    fn a_schema_is_named_as_it_is_written() {
        for text in ["acme/order/Placed@1.2", "acme/*/a/b@c@0.65535"] {
            let name: SchemaName = text.parse().expect("valid");
            assert_eq!(name.to_string(), text);
        }
        let bad = ["acme/order/Placed", "acme/Placed@1.0", "acme/order/P@1", "$system/a/b@1.0", ""];
        for text in bad.into_iter().chain(["a/t/@1.0", "a/t/E@70000.0", "*/t/E@1.0", "a//E@1.0"]) {
            assert!(text.parse::<SchemaName>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_longest_names_fit_into_the_key_of_their_aggregate() {
        let org = "o".repeat(NAME_BYTES_MAX);
        assert_eq!(schemas_of(&org).expect("valid").id(), org);
        assert!(schemas_of("$system").is_err());
    }

    #[test]
    fn every_shard_has_one_mark_and_one_of_them_is_the_aggregate_itself() {
        for shards in [1, 2, 7, 64] {
            let marks: Vec<AggregateKey> = (0..shards)
                .map(|shard| mark_of("acme", ShardId::new(shard), shards).expect("valid"))
                .collect();
            let own = schemas_of("acme").expect("valid");
            assert_eq!(marks.iter().filter(|mark| **mark == own).count(), 1);
            for (shard, mark) in marks.iter().enumerate() {
                assert_eq!((mark.shard(shards).value(), mark.id()), (shard as u16, "acme"));
            }
        }
    }
}
