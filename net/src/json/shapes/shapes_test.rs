//! The shapes that scripts rely on, field by field.

use celeriant_schema::{AggregateReceipt, EventId, SchemaVersion};

use super::*;

const HASH: &str = "0101010101010101010101010101010101010101010101010101010101010101";

fn written(content_type: ContentType, payload: &'static str) -> Event {
    Event {
        event_type: "Withdrawn".into(),
        schema: SchemaVersion { major: 1, minor: 2 },
        content_type,
        payload: payload.as_bytes().into(),
        event_id: Some(EventId::new(3)),
        metadata: vec![("user".into(), "u1".into())],
        envelope: None,
        client_time: 1_735_689_600_000_000,
    }
}

fn line(written: &Event, raw: bool) -> String {
    let shape = EventShape {
        key: "acme/account/alice",
        version: Version::new(5),
        stamp: Stamp::new(1_234_567_890),
        hash: Hash([1; 32]),
        client_id: ClientId::new(7),
        sequence: Some(Sequence::new(7)),
        server_time: 1_735_689_600_000_001,
        event: written,
        raw,
    };
    event(&shape).expect("JSON")
}

#[test]
fn a_receipt_has_the_documented_shape() {
    let written = AggregateReceipt {
        key: "acme/account/alice".parse().expect("a key"),
        first_version: Version::new(5),
        last_version: Version::new(6),
        hash: Hash([1; 32]),
    };
    let shape =
        receipt(&Receipt { stamp: Stamp::new(9), already_applied: false, writes: vec![written] });
    let expected = json!({"stamp": 9, "already_applied": false, "writes": [
        {"key": "acme/account/alice", "first_version": 5, "last_version": 6, "hash": HASH}]});
    assert_eq!(shape, expected);
}

#[test]
fn a_json_event_has_the_documented_shape_and_its_payload_untouched() {
    let payload = "{\n \"z\": 1.0,\t\"a\": 12345678901234567890123, \"t\": \"a \\\" b\" }";
    let line = line(&written(ContentType::Json, payload), false);
    assert!(!line.contains('\n'));
    let data = r#""data":{"z":1.0,"a":12345678901234567890123,"t":"a \" b"}"#;
    assert!(line.contains(data), "{line}");
    let shape: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(shape["key"], "acme/account/alice");
    assert_eq!(shape["version"], 5);
    assert_eq!(shape["type"], "Withdrawn");
    assert_eq!(shape["schema"], "1.2");
    assert_eq!(shape["content_type"], "json");
    assert_eq!(shape["client_id"], "00000000-0000-0000-0000-000000000007");
    assert_eq!(shape["sequence"], 7);
    assert_eq!(shape["event_id"], "00000000-0000-0000-0000-000000000003");
    assert_eq!(shape["meta"], json!({"user": "u1"}));
    assert_eq!(shape["time"], "2025-01-01T00:00:00.000000Z");
    assert_eq!(shape["server_time"], "2025-01-01T00:00:00.000001Z");
    assert_eq!(shape["stamp"], 1_234_567_890);
    assert_eq!(shape["hash"], HASH);
}

#[test]
fn other_payloads_are_base64_also_json_that_is_none_or_is_wanted_raw() {
    let cases = [
        (ContentType::Bytes, "\0\u{1}x", false),
        (ContentType::Json, "{broken", false),
        (ContentType::Json, "{ }", true),
    ];
    for (kind, payload, raw) in cases {
        let shape: Value = serde_json::from_str(&line(&written(kind, payload), raw)).expect("JSON");
        assert_eq!(shape.get("data"), None);
        assert_eq!(shape["data_base64"], base64(payload.as_bytes()));
    }
}

#[test]
fn a_conflict_names_every_aggregate() {
    let failed = |key: &str, expected, actual| Conflict {
        key: key.parse().expect("a key"),
        expected,
        actual: Version::new(actual),
    };
    let conflicts = vec![
        failed("a/b/c", Guard::Exact(Version::new(4)), 5),
        failed("a/b/d", Guard::NoStream, 1),
    ];
    let shape = refusal(&Refusal::Conflict { conflicts, already_applied: AlreadyApplied::None });
    assert_eq!(shape["error"], "Conflict");
    assert_eq!(shape["code"], 2003);
    assert_eq!(shape["retry"], "after_reading");
    let expected = json!([
        {"key": "a/b/c", "expected": 4, "actual": 5, "already_applied": null},
        {"key": "a/b/d", "expected": "none", "actual": 1, "already_applied": null}]);
    assert_eq!(shape["conflicts"], expected);
}
