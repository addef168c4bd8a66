//! Avro payloads and next minor versions; the library itself serves as the oracle for both.

use apache_avro::types::Value;
use apache_avro::{reader::datum::GenericDatumReader, writer::datum::GenericDatumWriter};
use proptest::prelude::*;

use super::{Parsed, Schema, compare};
use crate::payload::Compatibility;

const ORDER: &str = r#"{
    "type": "record", "name": "shop.Order", "fields": [
        {"name": "id", "type": "string"},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
        {"name": "lines", "type": {"type": "array", "items": {
            "type": "record", "name": "Line", "fields": [
                {"name": "price", "type": {"type": "bytes", "logicalType": "decimal",
                    "precision": 9, "scale": 2}},
                {"name": "note", "type": ["null", "string"]}
            ]}}},
        {"name": "next", "type": ["null", "Order"]},
        {"name": "flags", "type": {"type": "map", "values": "boolean"}}
    ]}"#;

/// `id` "x", `kind` B, one line of price 5 without a note, no next, one flag.
const PAYLOAD: &[u8] = b"\x02x\x02\x02\x02\x05\x00\x00\x00\x02\x02f\x01\x00";

fn compile(text: &str) -> Schema {
    Schema::compile(text).expect("valid")
}

#[test]
fn what_conforms_passes_and_what_does_not_is_named_by_its_place() {
    let schema = compile(ORDER);
    assert_eq!(schema.check(PAYLOAD), Ok(()));
    let places = [
        (0, 0x7f, "/id"),
        (2, 4, "/kind"),
        (4, 0x7e, "/lines/0/price"),
        (6, 9, "/lines/0/note"),
        (12, 2, "/flags/0"),
    ];
    for (at, byte, path) in places {
        let mut bytes = PAYLOAD.to_vec();
        bytes[at] = byte;
        assert_eq!(schema.check(&bytes).expect_err("damaged").path, path, "byte {at}");
    }
    let longer = [PAYLOAD, b"\0"].concat();
    assert_eq!(schema.check(&longer).expect_err("longer").path, "");
}

#[test]
fn a_payload_that_ends_early_never_conforms() {
    let schema = compile(ORDER);
    for end in 0..PAYLOAD.len() {
        assert!(schema.check(&PAYLOAD[..end]).is_err(), "{end} bytes");
    }
    for text in [r#""boolean""#, r#""string""#, r#"["null", "string"]"#] {
        assert!(compile(text).check(b"").is_err(), "{text}");
    }
}

#[test]
fn blocks_may_say_their_size_and_it_must_be_true() {
    let schema = compile(r#"{"type": "array", "items": "int"}"#);
    assert_eq!(schema.check(b"\x03\x04\x02\x02\x00"), Ok(()));
    assert!(schema.check(b"\x03\x06\x02\x02\x00").is_err());
}

fn found(old: &str, new: &str) -> Compatibility {
    compare(&compile(old), &compile(new))
}

fn record(fields: &str) -> String {
    format!(r#"{{"type": "record", "name": "R", "fields": [{fields}]}}"#)
}

#[track_caller]
fn violates(old: &str, new: &str, text: &str) {
    let found = found(old, new);
    let named = found.violations().iter().any(|violation| violation.contains(text));
    assert!(named, "{old} -> {new}: {found:?}");
}

#[test]
fn fields_come_and_go_with_a_default_only() {
    let one = record(r#"{"name": "a", "type": "int"}"#);
    let with = |field: &str| record(&format!(r#"{{"name": "a", "type": "int"}}, {field}"#));
    let default = with(r#"{"name": "b", "type": "int", "default": 0}"#);
    assert!(found(&one, &default).is_clean());
    assert!(found(&default, &one).is_clean());
    let bare = with(r#"{"name": "b", "type": "int"}"#);
    violates(&one, &bare, "/b: cannot be read with this version");
    violates(&bare, &one, "/b: cannot be read with the version before");
}

#[test]
fn types_symbols_and_meanings_stay_readable_both_ways() {
    violates(r#""int""#, r#""long""#, "with the version before when this one wrote it: long");
    violates(r#""long""#, r#""int""#, "with this version");
    assert!(found(r#""string""#, r#""bytes""#).is_clean());
    violates(r#""string""#, r#"["null", "string"]"#, "null is not string");
    violates(r#""int""#, r#"{"type": "int", "logicalType": "date"}"#, "int is not int (date)");
    let of = |symbols: &str, rest: &str| {
        format!(r#"{{"type": "enum", "name": "E", "symbols": [{symbols}]{rest}}}"#)
    };
    violates(&of(r#""A""#, ""), &of(r#""A", "B""#, ""), "symbol B");
    let default = r#", "default": "A""#;
    assert!(found(&of(r#""A""#, default), &of(r#""A", "B""#, default)).is_clean());
    let fixed = |size| format!(r#"{{"type": "fixed", "name": "F", "size": {size}}}"#);
    violates(&fixed(4), &fixed(8), "fixed(4) F is not fixed(8) F");
}

#[test]
fn recursion_and_aliases_are_followed() {
    assert!(found(ORDER, ORDER).is_clean());
    let other = ORDER.replace("\"boolean\"", "\"int\"");
    violates(ORDER, &other, "/flags/values");
    let renamed = r#"{"type": "record", "name": "S", "aliases": ["R"], "fields": []}"#;
    violates(&record(""), renamed, "with the version before");
}

/// Schemas whose values are easy to make.
fn schema() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::json;
    let plain = prop_oneof![
        Just(json!("null")),
        Just(json!("boolean")),
        Just(json!("int")),
        Just(json!("long")),
        Just(json!("double")),
        Just(json!("string")),
        Just(json!("bytes")),
    ];
    plain.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|items| json!({"type": "array", "items": items})),
            inner.clone().prop_map(|values| json!({"type": "map", "values": values})),
            inner.prop_map(|of| json!({"type": "record", "name": "R", "fields": [
                {"name": "a", "type": of}]})),
        ]
    })
}

fn value(schema: &Parsed, seed: u64) -> Value {
    let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7;
    match schema {
        Parsed::Boolean => Value::Boolean(seed & 1 == 1),
        Parsed::Int => Value::Int(seed as i32),
        Parsed::Long => Value::Long(seed as i64),
        Parsed::Double => Value::Double(seed as f64),
        Parsed::String => Value::String("é".repeat((seed % 3) as usize)),
        Parsed::Bytes => Value::Bytes(vec![7; (seed % 3) as usize]),
        Parsed::Array(array) => {
            Value::Array((0..seed % 3).map(|at| value(&array.items, seed + at)).collect())
        }
        Parsed::Map(map) => {
            Value::Map((0..seed % 3).map(|at| (at.to_string(), value(&map.types, at))).collect())
        }
        Parsed::Record(record) => {
            let field = |field: &apache_avro::schema::RecordField| {
                (field.name.clone(), value(&field.schema, seed + 1))
            };
            Value::Record(record.fields.iter().map(field).collect())
        }
        _ => Value::Null,
    }
}

/// Parsed by the library, and by us. Records nested in others of their name are no schema.
fn both(json: &serde_json::Value) -> Option<(Parsed, Schema)> {
    let schema = Schema::compile(&json.to_string()).ok()?;
    Some((Parsed::parse(json).expect("valid"), schema))
}

proptest! {
    #[test]
    fn what_the_library_writes_conforms_and_cut_short_does_not(
        json in schema(), seed in any::<u64>(), cut in any::<proptest::sample::Index>(),
    ) {
        let Some((parsed, schema)) = both(&json) else { return Ok(()) };
        let writer = GenericDatumWriter::builder(&parsed).build().expect("a writer");
        let mut bytes = Vec::new();
        writer.write_value(&mut bytes, value(&parsed, seed)).expect("a value");
        prop_assert_eq!(schema.check(&bytes), Ok(()));
        if !bytes.is_empty() {
            let end = cut.index(bytes.len());
            prop_assert!(schema.check(&bytes[..end]).is_err(), "{} of {}", end, bytes.len());
        }
    }

    /// Not the other way round: the library reads on past the end.
    #[test]
    fn whatever_passes_is_read_by_the_library_to_the_end(
        json in schema(), bytes in proptest::collection::vec(any::<u8>(), 0..12),
    ) {
        let Some((parsed, schema)) = both(&json) else { return Ok(()) };
        if schema.check(&bytes).is_ok() {
            let reader = GenericDatumReader::builder(&parsed).build().expect("a reader");
            let mut rest = bytes.as_slice();
            prop_assert!(reader.read_value(&mut rest).is_ok());
            prop_assert!(rest.is_empty());
        }
    }

    /// What a clean comparison promises, tried: each version reads what the other one wrote.
    #[test]
    fn a_clean_comparison_can_be_read_both_ways(
        old in schema(), new in schema(), seed in any::<u64>(),
    ) {
        let (Some((a, old)), Some((b, new))) = (both(&old), both(&new)) else { return Ok(()) };
        if !compare(&old, &new).is_clean() {
            return Ok(());
        }
        for (writes, reads) in [(&a, &b), (&b, &a)] {
            let mut bytes = Vec::new();
            let writer = GenericDatumWriter::builder(writes).build().expect("a writer");
            writer.write_value(&mut bytes, value(writes, seed)).expect("a value");
            let reader = GenericDatumReader::builder(writes).reader_schema(reads).build();
            let read = reader.expect("a reader").read_value(&mut bytes.as_slice());
            // Not every string is UTF-8 when bytes wrote it.
            prop_assert!(read.is_ok() || bytes.contains(&7), "{read:?}");
        }
    }
}
