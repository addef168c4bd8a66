//! Receipts, events, heads and errors as JSON: names and shapes that scripts rely on.

use celeriant_client::{Batch, Error, Recorded};
use celeriant_schema::{
    AlreadyApplied, ClientId, Conflict, ContentType, Guard, HeadInfo, Receipt, Refusal, Retry,
};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// A write's receipt.
pub(super) fn receipt(receipt: &Receipt) -> Value {
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
pub(super) fn event(
    key: &str,
    batch: &Batch,
    event: &Recorded,
) -> Result<String, serde_json::Error> {
    let mut fields = serde_json::to_string(&json!({
        "key": key,
        "version": event.version.value(),
        "type": event.event_type,
        "schema": format!("{}.{}", event.schema.major, event.schema.minor),
        "content_type": content_type(event.content_type),
    }))?;
    let rest = serde_json::to_string(&json!({
        "client_id": client_id(batch.client_id),
        "sequence": batch.sequence.map(|sequence| sequence.value()),
        "event_id": event.event_id.map(|id| id.to_string()),
        "meta": event.metadata.iter().map(|(k, v)| (k.clone(), json!(v))).collect::<Map<_, _>>(),
        "time": time(event.client_time),
        "server_time": time(batch.server_time),
        "stamp": event.stamp.value(),
        "hash": event.hash.to_string(),
    }))?;
    // The payload goes in between as it is: parsing it could round a number or lose an order.
    fields.pop();
    fields.push_str(&payload(event)?);
    fields.push(',');
    fields.push_str(&rest[1..]);
    Ok(fields)
}

/// `,"data":…` for JSON, `,"data_base64":…` for everything else.
fn payload(event: &Recorded) -> Result<String, serde_json::Error> {
    if event.content_type == ContentType::Json
        && event.envelope.is_none()
        && let Ok(raw) = serde_json::from_slice::<&RawValue>(&event.payload)
    {
        return Ok(format!(",\"data\":{}", one_line(raw.get())));
    }
    Ok(format!(",\"data_base64\":{}", serde_json::to_string(&base64(&event.payload))?))
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
pub(super) fn payload_text(event: &Recorded) -> String {
    match std::str::from_utf8(&event.payload) {
        Ok(text) if event.content_type == ContentType::Json => one_line(text),
        _ => format!("({} bytes of {})", event.payload.len(), content_type(event.content_type)),
    }
}

/// An aggregate's state.
pub(super) fn head(key: &str, head: &HeadInfo, asked: Option<ClientId>) -> Value {
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

/// An error of the client, with the fields of what the store refused.
pub(super) fn error(error: &Error) -> Value {
    let mut fields = Map::new();
    fields.insert("error".into(), json!(error.name()));
    let refusal = error.refusal();
    fields.insert("code".into(), json!(refusal.as_ref().map(Refusal::code)));
    fields.insert("retry".into(), json!(retry(error.retry())));
    fields.insert("definite".into(), json!(error.is_definite()));
    fields.insert("message".into(), json!(error.to_string()));
    if let Some(refusal) = &refusal {
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
        Refusal::SchemaExists { schema } => json!({"schema": schema}),
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

fn retry(retry: Retry) -> &'static str {
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
pub(super) fn content_type(content_type: ContentType) -> &'static str {
    match content_type {
        ContentType::Bytes => "bytes",
        ContentType::Json => "json",
        ContentType::Avro => "avro",
        ContentType::Protobuf => "protobuf",
    }
}

/// The content type of this name.
pub(super) fn parse_content_type(name: &str) -> Option<ContentType> {
    let all = [ContentType::Bytes, ContentType::Json, ContentType::Avro, ContentType::Protobuf];
    all.into_iter().find(|kind| content_type(*kind) == name)
}

/// RFC 3339 in UTC with µs; an impossible time is `null`.
pub(super) fn time(unix_micros: i64) -> Value {
    jiff::Timestamp::from_microsecond(unix_micros)
        .map_or(Value::Null, |time| json!(time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()))
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Bytes as base64 with padding (RFC 4648 §4).
pub(super) fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = (bits >> (18 - 6 * at) & 63) as usize;
            text.push(if at <= chunk.len() { BASE64[digit] as char } else { '=' });
        }
    }
    text
}

/// The bytes of a base64 text, with or without padding.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let (mut bits, mut held, mut bytes) = (0u32, 0, Vec::with_capacity(text.len() * 3 / 4));
    for c in text.bytes() {
        let digit = BASE64.iter().position(|known| *known == c)? as u32;
        bits = bits << 6 | digit;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    // Left-over bits must be what padding leaves: fewer than a digit's, all zero.
    (held < 6 && bits & ((1 << held) - 1) == 0).then_some(bytes)
}

#[cfg(test)]
#[path = "shapes/shapes_test.rs"]
mod tests;
