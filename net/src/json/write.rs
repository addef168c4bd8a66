//! Writes as JSON: the file of `celeriant write`, the bodies of HTTP.
//!
//! ```json
//! {"client_id": "<uuid>", "writes": [
//!   {"key": "acme/account/alice", "expect": 4, "sequence": 7,
//!    "events": [{"type": "Withdrawn", "schema": "1.0", "data": {"amount": 10}}]},
//!   {"key": "acme/account/bob", "expect": "exists"}]}
//! ```
//! A member without events only guards, or takes away: `"delete": {}`, with `"recreate": false` and
//! `"forget_sequences": true` if that is meant, or `"trim": {"keep_from": 5}`. `data_base64` with
//! `content_type` carries other payloads; `time` is the caller's clock, now if nothing is said.
//!
//! A text may be hostile: nothing is built beyond the limits of a write, whatever the text holds.
//! Lists are cut short as soon as they are too long, and what is inside of a member is looked at
//! only when it is that member's turn.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use celeriant_schema::limits::{
    BATCH_EVENTS_MAX, METADATA_ENTRIES_MAX, WRITE_EVENTS_MAX, WRITE_MEMBERS_MAX,
};
use celeriant_schema::{
    AggregateKey, ClientId, EncodedEvents, Event, EventId, Guard, Member, Refusal, Retention,
    SchemaVersion, Sequence, Version, Write,
};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{from_base64, parse_content_type, parse_guard};

/// One atomic write, as it was asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Writing {
    /// Whose sequences these are.
    pub client_id: Option<ClientId>,
    /// In the caller's order.
    pub parts: Vec<Part>,
}

/// One aggregate's part.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Part {
    /// Which aggregate.
    pub key: AggregateKey,
    /// What must hold.
    pub guard: Guard,
    /// For exactly-once.
    pub sequence: Option<Sequence>,
    /// None: the guard alone, or what is taken away.
    pub events: Vec<Event>,
    /// What to take away.
    pub retention: Option<Retention>,
}

impl Part {
    /// Whether it changes its aggregate, and does not only guard.
    pub fn changes(&self) -> bool {
        !self.events.is_empty() || self.retention.is_some()
    }
}

/// Events for one aggregate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Appended {
    /// What must hold, if it was said here.
    pub guard: Option<Guard>,
    /// At least one.
    pub events: Vec<Event>,
}

/// How far an aggregate is to be trimmed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trimming {
    /// What must hold, if it was said here.
    pub guard: Option<Guard>,
    /// Lowest version that stays.
    pub keep_from: Version,
}

impl Writing {
    /// In the vocabulary of the wire, checked.
    ///
    /// # Errors
    /// `InvalidArgument` or `TooLarge`, naming the place.
    pub fn into_write(self) -> Result<Write, Refusal> {
        let member = |(index, part): (usize, Part)| {
            let events = EncodedEvents::encode(&part.events)
                .map_err(|refusal| refusal.inside(&format!("writes[{index}].")))?;
            let Part { key, guard, sequence, retention, .. } = part;
            Ok(Member { key, guard, sequence, events, retention })
        };
        let members = self.parts.into_iter().enumerate().map(member);
        let members = members.collect::<Result<_, Refusal>>()?;
        let write = Write { client_id: self.client_id.unwrap_or(ClientId::NONE), members };
        write.check().map(|()| write)
    }
}

/// Reads a write. Payloads share memory with `text`. `now`: the time of events that have none, µs
/// since 1970.
///
/// # Errors
/// `InvalidArgument` or `TooLarge`, naming the place.
pub fn parse_write(text: &Bytes, now: i64) -> Result<Writing, Refusal> {
    let request: WriteText<'_> = parse(text)?;
    let client_id = match request.client_id {
        Some(text) => Some(text.parse().map_err(|error| Refusal::invalid("client_id", error))?),
        None => None,
    };
    let mut reader = Reader { source: text, now, events_left: WRITE_EVENTS_MAX };
    let mut parts = Vec::with_capacity(request.writes.0.len());
    for (index, member) in request.writes.0.into_iter().enumerate() {
        let part = reader.part(member);
        parts.push(part.map_err(|refusal| refusal.inside(&format!("writes[{index}].")))?);
    }
    Ok(Writing { client_id, parts })
}

/// Reads events for one aggregate: `{"events": […], "expect": …}`. As [`parse_write`].
///
/// # Errors
/// `InvalidArgument` or `TooLarge`, naming the place.
pub fn parse_append(text: &Bytes, now: i64) -> Result<Appended, Refusal> {
    let request: AppendText<'_> = parse(text)?;
    let guard = request.expect.map(ExpectText::guard).transpose()?;
    let mut reader = Reader { source: text, now, events_left: BATCH_EVENTS_MAX };
    let events = reader.events(request.events)?;
    if events.is_empty() {
        return Err(Refusal::invalid("events", "must not be empty"));
    }
    Ok(Appended { guard, events })
}

/// Reads how far an aggregate is to be trimmed: `{"keep_from": 5, "expect": …}`.
///
/// # Errors
/// `InvalidArgument`, naming the place.
pub fn parse_trim(text: &Bytes) -> Result<Trimming, Refusal> {
    let request: TrimText = parse(text)?;
    let guard = request.expect.map(ExpectText::guard).transpose()?;
    Ok(Trimming { guard, keep_from: Version::new(request.keep_from) })
}

fn parse<'a, T: Deserialize<'a>>(text: &'a Bytes) -> Result<T, Refusal> {
    let text = std::str::from_utf8(text).map_err(|error| Refusal::invalid("body", error))?;
    serde_json::from_str(text).map_err(|error| Refusal::invalid("body", error))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with writes")]
struct WriteText<'a> {
    client_id: Option<String>,
    #[serde(borrow)]
    writes: AtMost<MemberText<'a>, WRITE_MEMBERS_MAX>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with key")]
struct MemberText<'a> {
    key: String,
    expect: Option<ExpectText>,
    sequence: Option<u64>,
    #[serde(borrow)]
    events: Option<&'a RawValue>,
    delete: Option<DeleteText>,
    trim: Option<TrimText>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object, perhaps with recreate and forget_sequences")]
struct DeleteText {
    recreate: Option<bool>,
    #[serde(default)]
    forget_sequences: bool,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with keep_from")]
struct TrimText {
    keep_from: u64,
    expect: Option<ExpectText>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with events")]
struct AppendText<'a> {
    expect: Option<ExpectText>,
    #[serde(borrow)]
    events: &'a RawValue,
}

#[derive(serde::Deserialize)]
#[serde(untagged, expecting = "expect must be a version, none, exists or any")]
enum ExpectText {
    Version(u64),
    Word(String),
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with type")]
struct EventText<'a> {
    #[serde(rename = "type")]
    event_type: String,
    schema: Option<String>,
    content_type: Option<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
    event_id: Option<String>,
    #[serde(default)]
    meta: Pairs,
    time: Option<String>,
}

/// `null` is a payload, too.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

impl ExpectText {
    fn guard(self) -> Result<Guard, Refusal> {
        match self {
            Self::Version(version) => parse_guard(&version.to_string()),
            Self::Word(word) => parse_guard(&word),
        }
    }
}

/// Turns texts into values, within the limits of a write.
struct Reader<'a> {
    source: &'a Bytes,
    now: i64,
    events_left: usize,
}

impl Reader<'_> {
    fn part(&mut self, member: MemberText<'_>) -> Result<Part, Refusal> {
        let key = member.key.parse().map_err(|error| Refusal::invalid("key", error))?;
        let guard = member.expect.map(ExpectText::guard).transpose()?.unwrap_or_default();
        let events = match member.events {
            Some(events) => self.events(events)?,
            None => Vec::new(),
        };
        let retention = match (member.delete, member.trim) {
            (None, None) => None,
            (Some(DeleteText { recreate, forget_sequences }), None) => {
                let recreate = recreate.unwrap_or(true);
                Some(Retention::Delete { recreate, forget_sequences })
            }
            (None, Some(TrimText { keep_from, expect: None })) => {
                Some(Retention::Trim { keep_from: Version::new(keep_from) })
            }
            (None, Some(_)) => return Err(Refusal::invalid("trim", "expect goes beside it")),
            (Some(_), Some(_)) => return Err(Refusal::invalid("trim", "not together with delete")),
        };
        let sequence = member.sequence.map(Sequence::new);
        Ok(Part { key, guard, sequence, events, retention })
    }

    fn events(&mut self, text: &RawValue) -> Result<Vec<Event>, Refusal> {
        let texts: AtMost<EventText<'_>, BATCH_EVENTS_MAX> =
            serde_json::from_str(text.get()).map_err(|error| Refusal::invalid("events", error))?;
        let limit = WRITE_EVENTS_MAX as u64;
        let left = self.events_left.checked_sub(texts.0.len());
        self.events_left = left.ok_or(Refusal::TooLarge { what: "events".into(), limit })?;
        let mut events = Vec::with_capacity(texts.0.len());
        for (index, text) in texts.0.into_iter().enumerate() {
            let event = self.event(text);
            events.push(event.map_err(|refusal| refusal.inside(&format!("events[{index}].")))?);
        }
        Ok(events)
    }

    fn event(&self, text: EventText<'_>) -> Result<Event, Refusal> {
        let (default_type, payload) = match (text.data, text.data_base64) {
            (Some(json), None) => ("json", self.source.slice_ref(json.get().as_bytes())),
            (None, Some(text)) => match from_base64(&text) {
                Some(bytes) => ("bytes", Bytes::from(bytes)),
                None => return Err(Refusal::invalid("data_base64", "not base64")),
            },
            (None, None) => return Err(Refusal::invalid("data", "missing; or data_base64")),
            (Some(_), Some(_)) => {
                return Err(Refusal::invalid("data", "not together with data_base64"));
            }
        };
        let content_type = parse_content_type(text.content_type.as_deref().unwrap_or(default_type))
            .ok_or_else(|| {
                Refusal::invalid("content_type", "must be json, avro, protobuf or bytes")
            })?;
        let (event_type, schema) = event_type(text.event_type, text.schema.as_deref())?;
        let event_id: Option<Result<EventId, _>> = text.event_id.map(|id| id.parse());
        Ok(Event {
            event_type,
            schema,
            content_type,
            payload,
            event_id: event_id.transpose().map_err(|error| Refusal::invalid("event_id", error))?,
            metadata: text.meta.0,
            envelope: None,
            client_time: match text.time {
                Some(time) => micros(&time)?,
                None => self.now,
            },
        })
    }
}

/// `Name` or `Name@major.minor`, or the version by itself; 1.0 if nothing is said.
fn event_type(name: String, schema: Option<&str>) -> Result<(String, SchemaVersion), Refusal> {
    let (name, version) = match (schema, name.rsplit_once('@')) {
        (Some(version), _) => (name.clone(), version),
        (None, Some((plain, version))) => (plain.to_owned(), version),
        (None, None) => return Ok((name, SchemaVersion::FIRST)),
    };
    let version = version.parse().map_err(|reason| Refusal::invalid("schema", reason))?;
    Ok((name, version))
}

fn micros(text: &str) -> Result<i64, Refusal> {
    let time: Result<jiff::Timestamp, _> = text.parse();
    time.map(jiff::Timestamp::as_microsecond).map_err(|error| Refusal::invalid("time", error))
}

/// A list that ends with an error as soon as it is too long.
struct AtMost<T, const MAX: usize>(Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for AtMost<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
    type Value = AtMost<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            if values.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            values.push(value);
        }
        Ok(AtMost(values))
    }
}

/// Metadata, in the caller's order.
#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with at most {METADATA_ENTRIES_MAX} texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        while let Some((key, value)) = map.next_entry()? {
            if pairs.len() == METADATA_ENTRIES_MAX {
                return Err(A::Error::invalid_length(METADATA_ENTRIES_MAX + 1, &self));
            }
            if pairs.iter().any(|(known, _)| *known == key) {
                return Err(A::Error::custom(format!("{key:?} is there twice")));
            }
            pairs.push((key, value));
        }
        Ok(Pairs(pairs))
    }
}

#[cfg(test)]
mod tests {
    use celeriant_schema::Version;

    use super::*;

    const NOW: i64 = 1_735_689_600_000_000;

    fn understand(text: &str) -> Result<Writing, String> {
        let parsed = parse_write(&Bytes::copy_from_slice(text.as_bytes()), NOW);
        parsed.map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn a_file_says_who_writes_what_where_and_on_what_condition() {
        let text = r#"{"client_id": "00000000-0000-0000-0000-000000000007", "writes": [
            {"key": "acme/account/alice", "expect": 4, "sequence": 7, "events": [
              {"type": "Withdrawn", "schema": "2.1", "data": {"amount":  10},
               "meta": {"z": "1", "a": "2"}, "time": "2025-01-01T00:00:00.000001Z"}]},
            {"key": "acme/account/bob", "expect": "exists"},
            {"key": "acme/raw/r", "events": [{"type": "R@3.4", "data_base64": "AAE="}]}]}"#;
        let writing = understand(text).expect("valid");
        assert_eq!(writing.client_id, Some(ClientId::new(7)));
        let [alice, bob, raw] = &writing.parts[..] else { panic!("three parts") };
        assert_eq!(alice.key.as_str(), "acme/account/alice");
        assert_eq!(alice.guard, Guard::Exact(Version::new(4)));
        assert_eq!(alice.sequence, Some(Sequence::new(7)));
        let event = &alice.events[0];
        assert_eq!(event.schema, SchemaVersion { major: 2, minor: 1 });
        assert_eq!(&event.payload[..], br#"{"amount":  10}"#, "verbatim");
        assert_eq!(event.metadata[0].0, "z", "in the caller's order");
        assert_eq!(event.client_time, NOW + 1);
        assert_eq!((bob.guard, bob.events.len()), (Guard::Exists, 0));
        assert_eq!(&raw.events[0].payload[..], [0, 1]);
        assert_eq!(raw.events[0].schema, SchemaVersion { major: 3, minor: 4 });
        assert_eq!(raw.events[0].client_time, NOW);
        assert!(writing.clone().into_write().is_err(), "a sequence on one of two");
    }

    #[test]
    fn a_member_may_take_away_instead() {
        let text = r#"{"writes": [{"key": "a/b/1", "delete": {}},
            {"key": "a/b/2", "delete": {"recreate": false, "forget_sequences": true}},
            {"key": "a/b/3", "trim": {"keep_from": 5}}]}"#;
        let writing = understand(text).expect("valid");
        let taken: Vec<_> = writing.parts.iter().map(|part| part.retention).collect();
        let delete = |recreate, forget_sequences| Retention::Delete { recreate, forget_sequences };
        let trim = Retention::Trim { keep_from: Version::new(5) };
        assert_eq!(taken, [Some(delete(true, false)), Some(delete(false, true)), Some(trim)]);
        assert!(writing.into_write().is_ok());
    }

    #[test]
    fn what_is_wrong_is_named_by_its_place() {
        let cases = [
            (r#"{"writes": [{"key": "nope"}]}"#, "writes[0].key: "),
            (r#"{"writes": [{"key": "a/b/c", "expect": "maybe"}]}"#, "writes[0].expect: "),
            (r#"{"writes": [{"key": "a/b/c", "expect": 9007199254740992}]}"#, "[0].expect: "),
            (r#"{"writes": [{"key": "a/b/c", "events": [{"type": "T"}]}]}"#, "events[0].data: "),
            (
                r#"{"writes": [{"key": "a/b/c",
                    "events": [{"type": "T", "data": 1, "time": ""}]}]}"#,
                "writes[0].events[0].time: ",
            ),
            (r#"{"writes": [{"key": "a/b/c", "delete": true}]}"#, "an object, perhaps with"),
            (
                r#"{"writes": [{"key": "a/b/c", "delete": {}, "trim": {"keep_from": 1}}]}"#,
                "writes[0].trim: ",
            ),
            (r#"{"client_id": "x", "writes": []}"#, "client_id: "),
            (r#"{"writes": [], "wirtes": []}"#, "unknown field `wirtes`"),
            (
                r#"{"writes": [{"key": "a/b/c", "events": [{"type": "T", "data": 1, "x": 1}]}]}"#,
                "unknown field `x`",
            ),
        ];
        for (text, place) in cases {
            let reason = understand(text).expect_err("it is wrong");
            assert!(reason.contains(place), "{text}: {reason}");
        }
    }

    #[test]
    fn a_list_that_is_too_long_ends_where_it_is() {
        let many = |one: &str, count: usize| vec![one; count].join(",");
        let members = format!("{{\"writes\":[{}]}}", many(r#"{"key":"a/b/c"}"#, 1025));
        assert!(understand(&members).expect_err("too many").contains("at most 1024"));
        let events = many(r#"{"type":"T","data":1}"#, 4097);
        let batch = format!("{{\"writes\":[{{\"key\":\"a/b/c\",\"events\":[{events}]}}]}}");
        assert!(understand(&batch).expect_err("too many").contains("at most 4096"));
        let events = many(r#"{"type":"T","data":1}"#, 4096);
        let member = format!("{{\"key\":\"a/b/c\",\"events\":[{events}]}}");
        let whole = format!("{{\"writes\":[{}]}}", many(&member, 5));
        assert!(understand(&whole).expect_err("too many").contains("larger than 16384"));
        let meta: Vec<String> = (0..33).map(|n| format!("\"{n}\":\"\"")).collect();
        let event = format!("{{\"type\":\"T\",\"data\":1,\"meta\":{{{}}}}}", meta.join(","));
        let batch = format!("{{\"writes\":[{{\"key\":\"a/b/c\",\"events\":[{event}]}}]}}");
        assert!(understand(&batch).expect_err("too many").contains("at most 32"));
    }

    #[test]
    fn an_append_is_events_and_perhaps_a_guard() {
        let parse = |text: &'static str| parse_append(&Bytes::from_static(text.as_bytes()), NOW);
        let text = r#"{"events": [{"type": "T", "data": null}], "expect": "none"}"#;
        let appended = parse(text).expect("valid");
        assert_eq!(appended.guard, Some(Guard::NoStream));
        assert_eq!(&appended.events[0].payload[..], b"null");
        assert!(parse(r#"{"events": []}"#).is_err());
        assert!(parse_append(&Bytes::from_static(b"{\"events\":[\"\xff\"]}"), NOW).is_err());
    }
}
