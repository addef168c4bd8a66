//! Protobuf payloads and next minor versions; prost-reflect's own messages serve as the oracle.

use proptest::prelude::*;
use prost_reflect::{DescriptorPool, DynamicMessage};

use super::{FILE, OneFile, Schema, compare};
use crate::payload::Compatibility;

const ORDER: &str = r#"
    syntax = "proto3";
    package shop;
    import "google/protobuf/timestamp.proto";
    message Order {
        string id = 1;
        repeated Line lines = 2;
        map<string, int64> totals = 3;
        repeated sint32 deltas = 4;
        oneof way { string mail = 5; bytes key = 6; }
        Order next = 7;
        google.protobuf.Timestamp at = 8;
        Kind kind = 9;
        optional fixed32 four = 10;
        double eight = 11;
    }
    message Line { int32 price = 1; }
    enum Kind { NONE = 0; SOME = 1; }
"#;

const OLD: &str = r#"
    syntax = "proto2";
    message Old {
        required string id = 1;
        optional Kind kind = 2;
        optional group Part = 3 { required int32 n = 4; }
    }
    enum Kind { A = 1; B = 2; }
"#;

fn compile(text: &str, message: &str) -> Schema {
    Schema::compile_text(text, message).expect("valid")
}

fn pool(text: &str) -> DescriptorPool {
    let mut compiler = protox::Compiler::with_file_resolver(OneFile(text.to_owned()));
    compiler.include_imports(true).open_file(FILE).expect("valid");
    compiler.descriptor_pool()
}

#[test]
fn what_conforms_passes_in_either_form_of_repeated_numbers() {
    let schema = compile(ORDER, "shop.Order");
    let payloads: [&[u8]; 8] = [
        b"",
        b"\x0a\x02ab",
        b"\x12\x02\x08\x05\x12\x00",
        b"\x1a\x05\x0a\x01k\x10\x07",
        b"\x22\x03\x01\x02\x03",
        b"\x20\x01\x20\x02",
        b"\x42\x02\x08\x01\x48\x63",
        b"\x55\0\0\0\0\x59\0\0\0\0\0\0\0\0",
    ];
    for payload in payloads {
        assert_eq!(schema.check(payload), Ok(()), "{payload:x?}");
    }
}

#[test]
fn what_does_not_conform_is_named_by_its_place() {
    let schema = compile(ORDER, "shop.Order");
    let cases: [(&[u8], &str, &str); 10] = [
        (b"\x60\x01", "", "a field 12 that shop.Order has not"),
        (b"\x12\x02\x10\x05", "/lines", "a field 2"),
        (b"\x08\x01", "/id", "not encoded"),
        (b"\x0a\x01\xff", "/id", "UTF-8"),
        (b"\x0a\x05ab", "/id", "ends early"),
        (b"\x3a\x02\x08\x01", "/next/id", "not encoded"),
        (b"\x22\x01\xff", "/deltas", "ends early"),
        (b"\x3b\x3c", "/next", "not encoded"),
        (b"\x00\x01", "", "not Protobuf"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "", "64 bits"),
    ];
    for (payload, path, reason) in cases {
        let violation = schema.check(payload).expect_err(reason);
        assert_eq!(violation.path, path, "{payload:x?}: {violation}");
        assert!(violation.reason.contains(reason), "{payload:x?}: {violation}");
    }
}

#[test]
fn proto2_has_required_fields_closed_enums_and_groups() {
    let schema = compile(OLD, "Old");
    assert_eq!(schema.check(b"\x0a\x01x\x10\x02\x1b\x20\x01\x1c"), Ok(()));
    assert_eq!(schema.check(b"\x10\x01").expect_err("no id").path, "/id");
    assert_eq!(schema.check(b"\x0a\x00\x10\x03").expect_err("no value").path, "/kind");
    assert_eq!(schema.check(b"\x0a\x00\x1b\x1c").expect_err("no n").path, "/part/n");
    for open in [&b"\x0a\x00\x1b"[..], b"\x0a\x00\x1b\x20\x01\x24", b"\x0a\x00\x1c"] {
        assert!(schema.check(open).is_err(), "{open:x?}");
    }
}

#[test]
fn a_descriptor_set_is_as_good_as_the_text() {
    let bytes = pool(ORDER).encode_to_vec();
    let schema = Schema::compile_set(&bytes, "shop.Order").expect("valid");
    assert!(compare(&compile(ORDER, "shop.Order"), &schema).is_clean());
    assert!(Schema::compile_set(&bytes, "shop.None").is_err());
    assert!(Schema::compile_text(ORDER, "Order").is_err());
    assert!(Schema::compile_set(&bytes[..bytes.len() / 2], "shop.Order").is_err());
}

#[test]
fn nothing_is_imported_but_what_google_defined() {
    for file in ["other.proto", "/etc/passwd", "../schema.proto", "schema.proto"] {
        let text = format!("syntax = \"proto3\"; import \"{file}\"; message M {{}}");
        assert!(Schema::compile_text(&text, "M").is_err(), "{file}");
    }
}

fn found(old: &str, new: &str) -> Compatibility {
    let text = |fields: &str| {
        format!(
            "syntax = \"proto2\"; message M {{ {fields} }} enum E {{ A = 0; }} \
                 enum F {{ X = 0; Y = 1; }} message P {{ optional int32 n = 1; }} \
                 message Q {{ optional int64 n = 1; }}"
        )
    };
    compare(&compile(&text(old), "M"), &compile(&text(new), "M"))
}

#[track_caller]
fn violates(old: &str, new: &str, expected: &str) {
    let found = found(old, new);
    let named = found.violations().iter().any(|violation| violation.contains(expected));
    assert!(named, "{old} -> {new}: {found:?}");
}

#[test]
fn optional_fields_may_come_and_names_may_change() {
    assert!(
        found("optional int32 a = 1;", "optional int32 b = 1; repeated string c = 2;").is_clean()
    );
    violates("optional int32 a = 1;", "", "/a: field 1 was there");
    violates("", "required int32 a = 1;", "/a: field 1 is new and required");
}

#[test]
fn types_labels_and_choices_stay() {
    violates("optional int32 a = 1;", "optional int64 a = 1;", "/a: was int32 and is now int64");
    violates("optional string a = 1;", "optional bytes a = 1;", "was string");
    violates("optional int32 a = 1;", "repeated int32 a = 1;", "was optional and is now repeated");
    violates("optional int32 a = 1;", "required int32 a = 1;", "is now required");
    violates("optional int32 a = 1;", "oneof x { int32 a = 1; }", "oneof");
    violates(
        "oneof x { int32 a = 1; }",
        "oneof x { int32 a = 1; int32 b = 2; }",
        "/b: is new in a",
    );
    violates("optional E a = 1;", "optional F a = 1;", "value Y (1) is new");
    violates("optional F a = 1;", "optional E a = 1;", "value Y (1) was there");
    violates("optional P a = 1;", "optional Q a = 1;", "/a/n: was int32");
    assert!(found("optional M a = 1;", "optional M a = 1;").is_clean());
}

proptest! {
    /// What we take, prost takes, and it finds no field that it does not know.
    #[test]
    fn whatever_passes_is_understood_by_another_decoder(
        bytes in proptest::collection::vec(
            prop_oneof![Just(0x0a_u8), Just(0x12), Just(0x22), Just(0x48), 0..6_u8, any::<u8>()],
            0..16,
        ),
    ) {
        let descriptor = pool_once().get_message_by_name("shop.Order").expect("there");
        let decoded = DynamicMessage::decode(descriptor, bytes.as_slice());
        match schema_once().check(&bytes) {
            Ok(()) => prop_assert!(decoded.is_ok_and(|message| !has_unknown(&message))),
            Err(_) => prop_assert!(decoded.map_or(true, |message| has_unknown(&message))),
        }
    }
}

fn pool_once() -> &'static DescriptorPool {
    static POOL: std::sync::OnceLock<DescriptorPool> = std::sync::OnceLock::new();
    POOL.get_or_init(|| pool(ORDER))
}

fn schema_once() -> &'static Schema {
    static SCHEMA: std::sync::OnceLock<Schema> = std::sync::OnceLock::new();
    SCHEMA.get_or_init(|| compile(ORDER, "shop.Order"))
}

/// Anywhere in it.
fn has_unknown(message: &DynamicMessage) -> bool {
    fn inside(value: &prost_reflect::Value) -> bool {
        match value {
            prost_reflect::Value::Message(message) => has_unknown(message),
            prost_reflect::Value::List(items) => items.iter().any(inside),
            prost_reflect::Value::Map(items) => items.values().any(inside),
            _ => false,
        }
    }
    message.unknown_fields().next().is_some() || message.fields().any(|(_, value)| inside(value))
}
