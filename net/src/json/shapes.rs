//! Receipts, events, heads and errors as JSON.

use celeriant_schema::{
    AlreadyApplied, BatchHeader, ClientId, Conflict, ContentType, Event, Guard, Hash, HeadInfo,
    Receipt, Refusal, Retention, Retry, Sequence, Stamp, Version,
};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::base64;

/// One event that was read, and what its batch says once for all of its events.
#[derive(Clone, Copy, Debug)]
pub struct EventShape<'a> {
    /// Whose event.
    pub key: &'a str,
    /// Its version.
    pub version: Version,
    /// Its stamp.
    pub stamp: Stamp,
    /// The aggregate's chain hash after it.
    pub hash: Hash,
    /// Who wrote it.
    pub client_id: ClientId,
    /// Its batch's sequence.
    pub sequence: Option<Sequence>,
    /// Server clock at acceptance, µs since 1970.
    pub server_time: i64,
    /// What was written.
    pub event: &'a Event,
    /// Its payload as the very bytes, also if they are JSON.
    pub raw: bool,
}

/// A write's receipt.
pub fn receipt(receipt: &Receipt) -> Value {
    let writes = receipt.writes.iter().map(|write| {
        json!({
            "key": write.key.as_str(),
            "first_version": write.first_version.value(),
            "last_version": write.last_version.value(),
            "hash": write.hash.to_string(),
        })
    });
    json!({
        "stamp": receipt.stamp.value(),
        "already_applied": receipt.already_applied,
        "writes": writes.collect::<Vec<_>>(),
    })
}

/// One event that was read, as one line of JSON without a line break at its end.
///
/// # Errors
/// Never for what the store holds; a text that cannot be JSON has no place in it.
pub fn event(shape: &EventShape<'_>) -> Result<String, serde_json::Error> {
    let event = shape.event;
    let mut fields = serde_json::to_string(&json!({
        "key": shape.key,
        "version": shape.version.value(),
        "type": event.event_type,
        "schema": format!("{}.{}", event.schema.major, event.schema.minor),
        "content_type": content_type(event.content_type),
    }))?;
    let rest = serde_json::to_string(&json!({
        "client_id": client_id(shape.client_id),
        "sequence": shape.sequence.map(|sequence| sequence.value()),
        "event_id": event.event_id.map(|id| id.to_string()),
        "meta": event.metadata.iter().map(|(k, v)| (k.clone(), json!(v))).collect::<Map<_, _>>(),
        "time": time(event.client_time),
        "server_time": time(shape.server_time),
        "stamp": shape.stamp.value(),
        "hash": shape.hash.to_string(),
    }))?;
    // The payload goes in between as it is: parsing it could round a number or lose an order.
    fields.pop();
    put_payload(&mut fields, event, shape.raw);
    fields.push(',');
    fields.push_str(&rest[1..]);
    Ok(fields)
}

/// `,"data":…` for JSON, `,"data_base64":…` for everything else.
fn put_payload(out: &mut String, event: &Event, raw: bool) {
    if event.content_type == ContentType::Json
        && event.envelope.is_none()
        && !raw
        && let Ok(json) = serde_json::from_slice::<&RawValue>(&event.payload)
    {
        out.push_str(",\"data\":");
        out.push_str(&one_line(json.get()));
        return;
    }
    out.push_str(",\"data_base64\":\"");
    // Nothing in it needs to be escaped.
    out.push_str(&base64(&event.payload));
    out.push('"');
}

/// JSON without line breaks and blanks between its tokens; everything else untouched.
fn one_line(json: &str) -> String {
    let mut compact = String::with_capacity(json.len());
    let (mut in_text, mut escaped) = (false, false);
    for c in json.chars() {
        if in_text {
            in_text = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if c.is_ascii_whitespace() {
            continue;
        } else {
            in_text = c == '"';
        }
        compact.push(c);
    }
    compact
}

/// The payload for people: JSON as it is, other bytes by their number.
pub fn payload_text(event: &Event) -> String {
    match std::str::from_utf8(&event.payload) {
        Ok(text) if event.content_type == ContentType::Json => one_line(text),
        _ => format!("({} bytes of {})", event.payload.len(), content_type(event.content_type)),
    }
}

/// The notice that an aggregate was deleted or trimmed.
pub fn notice(key: &str, header: &BatchHeader, retention: Retention) -> Value {
    let (version, stamp) = (header.last_version, header.stamp);
    let mut shape = json!({
        "key": key,
        "version": version.value(),
        "client_id": client_id(header.client_id),
        "sequence": header.sequence.map(|sequence| sequence.value()),
        "server_time": time(header.server_time),
        "stamp": stamp.value(),
    });
    match retention {
        Retention::Delete { recreate, .. } => {
            (shape["notice"], shape["recreate"]) = (json!("deleted"), json!(recreate));
        }
        Retention::Trim { .. } => {
            let first_available = retention.first_available(version.next());
            shape["notice"] = json!("trimmed");
            shape["first_available"] = json!(first_available.value());
        }
    }
    shape
}

/// An aggregate's state.
pub fn head(key: &str, head: &HeadInfo, asked: Option<ClientId>) -> Value {
    let mut shape = json!({
        "key": key,
        "version": head.version.value(),
        "hash": head.hash.to_string(),
        "created": time(head.created),
        "updated": time(head.updated),
        "stamp": head.stamp.value(),
        "deleted": head.deleted,
        "first_available": head.first_available.value(),
    });
    if let (Some(client), Some(fields)) = (asked, shape.as_object_mut()) {
        fields.insert("client_id".into(), client_id(client));
        let sequence = head.last_sequence.map(|sequence| sequence.value());
        fields.insert("last_sequence".into(), json!(sequence));
    }
    shape
}

/// What was refused, with its fields.
pub fn refusal(refusal: &Refusal) -> Value {
    let (name, message) = (refusal.name(), refusal.to_string());
    error(name, Some(refusal), refusal.retry(), refusal.definite(), &message)
}

/// An error, with the fields of what the store refused, if it did.
pub fn error(
    name: &str,
    refusal: Option<&Refusal>,
    retry: Retry,
    definite: bool,
    message: &str,
) -> Value {
    let mut fields = Map::new();
    fields.insert("error".into(), json!(name));
    fields.insert("code".into(), json!(refusal.map(Refusal::code)));
    fields.insert("retry".into(), json!(retry_name(retry)));
    fields.insert("definite".into(), json!(definite));
    fields.insert("message".into(), json!(message));
    if let Some(refusal) = refusal {
        fields.extend(refusal_fields(refusal));
    }
    Value::Object(fields)
}

fn refusal_fields(refusal: &Refusal) -> Map<String, Value> {
    let fields = match refusal {
        Refusal::Conflict { conflicts, already_applied } => {
            let applied = already(already_applied);
            let conflicts = conflicts.iter().map(|failed| conflict(failed, &applied));
            json!({"conflicts": conflicts.collect::<Vec<_>>()})
        }
        Refusal::SequenceReused { key, sequence } | Refusal::SequenceStale { key, sequence } => {
            json!({"key": key.as_str(), "sequence": sequence.value()})
        }
        Refusal::SequenceGap { key, expected } => {
            json!({"key": key.as_str(), "expected": expected.value()})
        }
        Refusal::NotFound { key } | Refusal::Deleted { key } => json!({"key": key.as_str()}),
        Refusal::Trimmed { key, first_available } => {
            json!({"key": key.as_str(), "first_available": first_available.value()})
        }
        Refusal::SchemaViolation { key, event, path, reason } => {
            json!({"key": key.as_str(), "event": event, "path": path, "reason": reason})
        }
        Refusal::SchemaExists { schema } | Refusal::SchemaUnknown { schema } => {
            json!({"schema": schema})
        }
        Refusal::SchemaInvalid { schema, reason } => json!({"schema": schema, "reason": reason}),
        Refusal::SchemaIncompatible { schema, reasons } => {
            json!({"schema": schema, "reasons": reasons})
        }
        Refusal::NotLeader { leader } => json!({"leader": leader}),
        Refusal::NotYet { wanted, reached } => {
            json!({"wanted": wanted.value(), "reached": reached.value()})
        }
        Refusal::Overloaded { what, retry_after_ms } => {
            json!({"what": what, "retry_after_ms": retry_after_ms})
        }
        Refusal::TooLarge { what, limit } => json!({"what": what, "limit": limit}),
        Refusal::InvalidArgument { field, reason } => json!({"field": field, "reason": reason}),
        Refusal::UnsupportedProtocol { min, max } => json!({"supported": [min, max]}),
        Refusal::Unauthenticated { reason } => json!({"reason": reason}),
        Refusal::PermissionDenied { action, resource } => {
            json!({"action": action, "resource": resource})
        }
        Refusal::Internal { id } => json!({"id": id}),
        _ => json!({}),
    };
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn conflict(conflict: &Conflict, already_applied: &Value) -> Value {
    let expected = match conflict.expected {
        Guard::Any => json!("any"),
        Guard::NoStream => json!("none"),
        Guard::Exists => json!("exists"),
        Guard::Exact(version) => json!(version.value()),
    };
    json!({
        "key": conflict.key.as_str(),
        "expected": expected,
        "actual": conflict.actual.value(),
        "already_applied": already_applied,
    })
}

fn already(applied: &AlreadyApplied) -> Value {
    match applied {
        AlreadyApplied::None => Value::Null,
        AlreadyApplied::Receipt(original) => receipt(original),
        AlreadyApplied::Unknown => json!("unknown"),
    }
}

fn retry_name(retry: Retry) -> &'static str {
    match retry {
        Retry::Never => "never",
        Retry::Same => "same",
        Retry::AfterReading => "after_reading",
        Retry::OtherNode => "other_node",
    }
}

fn client_id(client: ClientId) -> Value {
    if client == ClientId::NONE { Value::Null } else { json!(client.to_string()) }
}

/// Name of a content type, as in files and answers.
pub fn content_type(content_type: ContentType) -> &'static str {
    match content_type {
        ContentType::Bytes => "bytes",
        ContentType::Json => "json",
        ContentType::Avro => "avro",
        ContentType::Protobuf => "protobuf",
    }
}

/// RFC 3339 in UTC with µs; an impossible time is `null`.
pub fn time(unix_micros: i64) -> Value {
    jiff::Timestamp::from_microsecond(unix_micros)
        .map_or(Value::Null, |time| json!(time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()))
}

#[cfg(test)]
#[path = "shapes/shapes_test.rs"]
mod tests;
