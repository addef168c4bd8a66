//! `write`: one atomic write over many aggregates, from JSON.
//!
//! ```json
//! {"client_id": "<uuid>", "writes": [
//!   {"key": "acme/account/alice", "expect": 4, "sequence": 7,
//!    "events": [{"type": "Withdrawn", "schema": "1.0", "data": {"amount": 10}}]},
//!   {"key": "acme/account/bob", "expect": "exists"}]}
//! ```
//! A member without events only guards. `data_base64` with `content_type` carries other payloads.

use std::collections::BTreeMap;

use celeriant_client::{AggregateKey, Client, ClientId, Event, EventId, Expect, Write};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::append::{print_receipt, read_file};
use super::args::{self, Global, WriteFile};
use super::failure::Failure;
use super::output::Output;
use super::{connect, shapes};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request<'a> {
    client_id: Option<String>,
    #[serde(borrow)]
    writes: Vec<Member<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Member<'a> {
    key: String,
    expect: Option<ExpectText>,
    sequence: Option<u64>,
    #[serde(default, borrow)]
    events: Vec<EventText<'a>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ExpectText {
    Version(u64),
    Word(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventText<'a> {
    #[serde(rename = "type")]
    event_type: String,
    schema: Option<String>,
    content_type: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
    event_id: Option<String>,
    #[serde(default)]
    meta: BTreeMap<String, String>,
}

/// Writes and prints the receipt.
pub(super) async fn run(write: WriteFile, global: &Global, output: &Output) -> Result<(), Failure> {
    let text = read_file(&write.file)?;
    let bad = |reason: String| Failure::usage(format!("{}: {reason}", write.file.display()));
    let request: Request<'_> =
        serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    let plan = plan(&request).map_err(bad)?;
    let client = connect(global).await?;
    print_receipt(&plan.into_write(&client).await?, output)
}

/// A request that was understood.
struct Plan {
    client_id: Option<ClientId>,
    members: Vec<(AggregateKey, Expect, Option<u64>, Vec<Event>)>,
}

impl Plan {
    fn into_write(self, client: &Client) -> Write {
        let mut write = client.write();
        if let Some(client_id) = self.client_id {
            write = write.client(client_id);
        }
        for (key, expect, sequence, events) in self.members {
            write = write.append(&key, events).expect(expect);
            if let Some(sequence) = sequence {
                write = write.sequence(sequence);
            }
        }
        write
    }
}

fn plan(request: &Request<'_>) -> Result<Plan, String> {
    let client_id = match &request.client_id {
        Some(text) => Some(text.parse().map_err(|error| format!("client_id: {error}"))?),
        None => None,
    };
    let mut members = Vec::new();
    for (index, member) in request.writes.iter().enumerate() {
        let at = |reason: String| format!("writes[{index}].{reason}");
        let key = member.key.parse().map_err(|error| at(format!("key: {error}")))?;
        let expect = match &member.expect {
            None => Expect::Any,
            Some(ExpectText::Version(version)) => Expect::from(*version),
            Some(ExpectText::Word(word)) => {
                args::expect(word).map_err(|reason| at(format!("expect: {reason}")))?
            }
        };
        let mut events = Vec::new();
        for (event_index, text) in member.events.iter().enumerate() {
            events.push(event(text).map_err(|r| at(format!("events[{event_index}].{r}")))?);
        }
        members.push((key, expect, member.sequence, events));
    }
    Ok(Plan { client_id, members })
}

fn event(text: &EventText<'_>) -> Result<Event, String> {
    let (default_type, payload) = match (&text.data, &text.data_base64) {
        (Some(json), None) => ("json", json.get().as_bytes().to_vec()),
        (None, Some(base64)) => {
            ("bytes", shapes::from_base64(base64).ok_or("data_base64: not base64")?)
        }
        (None, None) => return Err("data: missing; or data_base64".into()),
        (Some(_), Some(_)) => return Err("data: not together with data_base64".into()),
    };
    let content_type = text.content_type.as_deref().unwrap_or(default_type);
    let content_type = shapes::parse_content_type(content_type)
        .ok_or("content_type: must be json, avro, protobuf or bytes")?;
    let name = match &text.schema {
        Some(version) => format!("{}@{version}", text.event_type),
        None => text.event_type.clone(),
    };
    let mut event =
        Event::new(&name, content_type, payload).map_err(|error| format!("type: {error}"))?;
    if let Some(id) = &text.event_id {
        let id: EventId = id.parse().map_err(|error| format!("event_id: {error}"))?;
        event = event.with_id(id);
    }
    for (key, value) in &text.meta {
        event = event.with_metadata(key, value);
    }
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understand(text: &str) -> Result<Plan, String> {
        let request: Request<'_> = serde_json::from_str(text).map_err(|e| e.to_string())?;
        plan(&request)
    }

    #[test]
    fn a_file_says_who_writes_what_where_and_on_what_condition() {
        let text = r#"{"client_id": "00000000-0000-0000-0000-000000000007", "writes": [
            {"key": "acme/account/alice", "expect": 4, "sequence": 7,
             "events": [{"type": "Withdrawn", "schema": "2.1", "data": {"amount":  10}}]},
            {"key": "acme/account/bob", "expect": "exists"},
            {"key": "acme/raw/r", "events": [{"type": "R", "data_base64": "AAE="}]}]}"#;
        let plan = understand(text).expect("valid");
        assert_eq!(plan.client_id, Some(ClientId::new(7)));
        assert_eq!(plan.members.len(), 3);
        let (key, expect, sequence, events) = &plan.members[0];
        assert_eq!((key.as_str(), *expect, *sequence), ("acme/account/alice", 4.into(), Some(7)));
        assert_eq!(events[0].schema.major, 2);
        assert_eq!(&events[0].payload[..], br#"{"amount":  10}"#);
        assert_eq!(plan.members[1].1, Expect::Exists);
        assert!(plan.members[1].3.is_empty());
        assert_eq!(&plan.members[2].3[0].payload[..], [0, 1]);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_place() {
        let cases = [
            (r#"{"writes": [{"key": "nope"}]}"#, "writes[0].key: "),
            (r#"{"writes": [{"key": "a/b/c", "expect": "maybe"}]}"#, "writes[0].expect: "),
            (r#"{"writes": [{"key": "a/b/c", "events": [{"type": "T"}]}]}"#, "events[0].data: "),
            (r#"{"client_id": "x", "writes": []}"#, "client_id: "),
            (r#"{"writes": [], "wirtes": []}"#, "unknown field `wirtes`"),
        ];
        for (text, place) in cases {
            let reason = understand(text).err().expect("it is wrong");
            assert!(reason.contains(place), "{text}: {reason}");
        }
    }
}
