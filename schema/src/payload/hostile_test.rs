//! Schemas and payloads made to hurt: each is refused, or costs little, on a test's stack of 2 MiB
//! and without optimisation.

// How long something takes is what is tested here.
#![allow(clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{SchemaInvalid, Validator, Violation};
use crate::limits::SCHEMA_BYTES_MAX;
use crate::system::{Format, SchemaSource};

/// Unoptimised, on a machine that does other things, too. What explodes takes ages.
const PATIENCE: Duration = Duration::from_secs(30);

fn compile(format: Format, text: impl AsRef<[u8]>) -> Result<Validator, SchemaInvalid> {
    let message = if format.content_type() == crate::ContentType::Protobuf { "M" } else { "" };
    let text = Bytes::copy_from_slice(text.as_ref());
    within_patience(|| Validator::compile(&SchemaSource { format, message: message.into(), text }))
}

fn check(validator: &Validator, payload: impl AsRef<[u8]>) -> Result<(), Violation> {
    within_patience(|| validator.check(payload.as_ref()))
}

#[track_caller]
fn within_patience<T>(work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let outcome = work();
    assert!(start.elapsed() < PATIENCE, "took {:?}", start.elapsed());
    outcome
}

fn json_schema(schema: &Value) -> Validator {
    compile(Format::JsonSchema, schema.to_string()).expect("valid")
}

#[track_caller]
fn refused(schema: &Value, reason: &str) {
    let error = compile(Format::JsonSchema, schema.to_string()).expect_err(reason);
    assert!(error.reason.contains(reason), "{error}");
}

/// `depth` times `open`, then `middle`, then `depth` times `close`.
fn nested(open: &str, middle: &str, close: &str, depth: usize) -> String {
    open.repeat(depth) + middle + &close.repeat(depth)
}

/// n definitions, each made from the name of the next one.
fn chain(links: usize, link: impl Fn(Value) -> Value) -> Value {
    let reference = |at: usize| json!({"$ref": format!("#/$defs/d{at}")});
    let mut definitions = serde_json::Map::new();
    for at in 0..links {
        definitions.insert(format!("d{at}"), link(reference(at + 1)));
    }
    definitions.insert(format!("d{links}"), json!({"type": "string"}));
    let mut root = reference(0);
    root["$defs"] = Value::Object(definitions);
    root
}

#[test]
fn nothing_outside_the_text_is_referred_to() {
    for reference in [
        "http://127.0.0.1:9/x",
        "https://json-schema.org/draft/2020-12/schema",
        "file:///etc/passwd",
        "other.json",
        "//host/x",
        "#anchor",
        "#%2fa",
    ] {
        refused(&json!({"$ref": reference}), "inside the text");
        refused(&json!({"properties": {"a": {"items": {"$ref": reference}}}}), "inside the text");
    }
    refused(&json!({"$ref": "#/nowhere"}), "leads nowhere");
    refused(&json!({"$schema": "http://127.0.0.1:9/meta"}), "$schema");
    refused(&json!({"$defs": {"a": {"$id": "http://127.0.0.1:9/"}}}), "$id");
    refused(&json!({"$dynamicRef": "#a"}), "$dynamicRef");
    refused(&json!({"items": {"$anchor": "a"}}), "$anchor");
}

#[test]
fn json_schemas_without_an_end_or_a_measure_are_refused() {
    refused(&json!({"allOf": [{"$ref": "#"}]}), "without an end");
    let many: Vec<Value> = (0..5000).map(|n| json!({"const": n})).collect();
    refused(&json!({"anyOf": many}), "subschemas");
    let twice = |next: Value| json!({"allOf": [next.clone(), next]});
    refused(&chain(30, twice), "too often");
    let both = |next: Value| json!({"properties": {"a": next.clone(), "b": next}});
    refused(&chain(30, both), "too often");
    refused(&chain(600, |next| json!({"allOf": [next]})), "nested too deeply");
    refused(&chain(4000, |next| json!({"items": next})), "nested too deeply");
    let deep = nested(r#"{"not":"#, "{}", "}", 100);
    assert!(compile(Format::JsonSchema, deep).is_ok());
    for (open, close) in [("[", "]"), (r#"{"not":"#, "}"), (r#"{"items":["#, "]}")] {
        let text = nested(open, "", close, 20_000);
        assert!(compile(Format::JsonSchema, text).is_err(), "{open}");
    }
    assert!(compile(Format::JsonSchema, " ".repeat(SCHEMA_BYTES_MAX + 1)).is_err());
}

/// As much as is let pass is compiled and evaluated on this stack.
#[test]
fn the_deepest_schemas_fit_the_stack() {
    let chain = json_schema(&chain(40, |next| json!({"items": next})));
    assert!(check(&chain, nested("[", "\"\"", "]", 40)).is_ok());
    let tree = json_schema(&json!({
        "anyOf": [{"$ref": "#/$defs/leaf"}, {"allOf": [{"$ref": "#/$defs/node"}]}],
        "$defs": {
            "leaf": {"type": "string"},
            "node": {"type": "array", "items": {"$ref": "#"}}
        }
    }));
    let within = nested("[", "\"\"", "]", 16);
    assert!(check(&tree, within).is_ok());
    assert!(check(&tree, nested("[", "1", "]", 63)).is_err());
}

#[test]
fn regular_expressions_run_in_linear_time_and_little_memory() {
    for pattern in ["(a{1000}){1000}", "(?=a)", r"(a)\1", "(", &"(a|b)*".repeat(20_000)] {
        assert!(compile(Format::JsonSchema, json!({"pattern": pattern}).to_string()).is_err());
    }
    let many: serde_json::Map<_, _> = (0..200).map(|n| (format!("^{n}"), json!(true))).collect();
    refused(&json!({"patternProperties": many}), "regular expressions");
    let text = format!("\"{}\"", "a".repeat(500_000));
    for pattern in ["^(a*)*b$", "^(a|a)*b$", "(a+)+$b", "^(.*a){20}b$"] {
        let validator = json_schema(&json!({"pattern": pattern}));
        assert!(check(&validator, &text).is_err(), "{pattern}");
    }
}

#[test]
fn json_payloads_cannot_make_checking_explode() {
    let doubling = json_schema(&json!({"anyOf": [
        {"properties": {"a": {"$ref": "#"}}, "required": ["b"]},
        {"properties": {"a": {"$ref": "#"}}, "required": ["b"]}
    ]}));
    let deep = nested(r#"{"a":"#, "1", "}", 60);
    assert!(check(&doubling, deep).expect_err("explodes").reason.contains("cost too much"));
    assert!(check(&doubling, nested(r#"{"a":"#, "1", "}", 3)).is_err());

    let many: Vec<Value> = (0..2000).map(|n| json!({"const": n})).collect();
    let alternatives = json_schema(&json!({"items": {"oneOf": many}}));
    assert!(check(&alternatives, format!("[{}1]", "1,".repeat(400_000))).is_err());
    assert_eq!(check(&alternatives, "[1,2,3]"), Ok(()));

    let unique = json_schema(&json!({"uniqueItems": true}));
    let numbers: Vec<u32> = (0..100_000).collect();
    assert_eq!(check(&unique, serde_json::to_vec(&numbers).expect("json")), Ok(()));
    let objects: Vec<Value> = (0..20_000).map(|n| json!({"a": [n]})).collect();
    assert_eq!(check(&unique, serde_json::to_vec(&objects).expect("json")), Ok(()));
}

#[test]
fn json_payloads_are_bounded_in_depth_and_size() {
    let anything = json_schema(&json!({}));
    for depth in [100, 100_000] {
        assert!(check(&anything, nested("[", "", "]", depth)).is_err(), "{depth}");
        assert!(check(&anything, nested(r#"{"a":"#, "1", "}", depth)).is_err(), "{depth}");
    }
    assert!(check(&anything, format!("[{}0]", "0,".repeat(1 << 20))).is_err());
    assert!(check(&anything, format!("[{}0]", r#"{"":0},"#.repeat(100_000))).is_ok());
    let multiple = json_schema(&json!({"multipleOf": 1e-300}));
    for number in ["1e308", "1e-308", "1e999", "-0.0", &"9".repeat(100_000)] {
        let _either = check(&multiple, number);
    }
}

#[test]
fn avro_schemas_without_an_end_or_a_measure_are_refused() {
    let record = |field: &str| {
        format!(r#"{{"type":"record","name":"R","fields":[{{"name":"a",{field}}}]}}"#)
    };
    let refused = [
        record(r#""type":"R""#),
        record(r#""type":"R","default":{}"#),
        record(r#""type":{"type":"record","name":"S","fields":[{"name":"b","type":"R"}]}"#),
        record(r#""type":"Unknown""#),
        nested(r#"{"type":"array","items":"#, r#""int""#, "}", 100),
        nested("[", "", "]", 10_000),
        r#"["int","int"]"#.to_owned(),
        String::new(),
    ];
    for text in refused {
        assert!(compile(Format::Avro, &text).is_err(), "{}", &text[..text.len().min(100)]);
    }
    let fields: Vec<Value> =
        (0..4000).map(|n| json!({"name": format!("f{n}"), "type": "int"})).collect();
    let wide = json!({"type": "record", "name": "R", "fields": fields}).to_string();
    assert!(compile(Format::Avro, wide).is_ok());
    let huge = format!(r#"{{"type":"fixed","name":"F","size":{}}}"#, u64::MAX >> 1);
    if let Ok(validator) = compile(Format::Avro, huge) {
        assert!(check(&validator, b"abc").is_err());
    }
}

#[test]
fn avro_payloads_cannot_claim_memory_time_or_stack() {
    let avro = |text: &str| compile(Format::Avro, text).expect("valid");
    // 2^62 and the smallest number there is, as Avro writes them.
    let lengths: [&[u8]; 3] = [
        b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ];
    for text in [
        r#""string""#,
        r#""bytes""#,
        r#"{"type":"array","items":"null"}"#,
        r#"{"type":"array","items":"int"}"#,
        r#"{"type":"map","values":"null"}"#,
        r#"{"type":"array","items":{"type":"fixed","name":"F","size":0}}"#,
        r#"{"type":"array","items":{"type":"array","items":"null"}}"#,
    ] {
        for length in lengths {
            assert!(check(&avro(text), length).is_err(), "{text}");
            assert!(check(&avro(text), [length, &[2; 64]].concat()).is_err(), "{text}");
        }
    }
    let list = r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#;
    assert!(check(&avro(list), vec![2; 1 << 20]).is_err());
    assert_eq!(check(&avro(list), b"\x02\x02\x00"), Ok(()));
    // Every record holds two of the next: 2^30 values in no bytes at all.
    let mut bomb =
        r#"{"type":"record","name":"R30","fields":[{"name":"a","type":"null"}]}"#.to_owned();
    for level in (0..30).rev() {
        bomb = format!(
            r#"{{"type":"record","name":"R{level}","fields":[{{"name":"a","type":{bomb}}},
                {{"name":"b","type":"R{}"}}]}}"#,
            level + 1
        );
    }
    if let Ok(validator) = compile(Format::Avro, bomb) {
        assert!(check(&validator, b"").is_err());
    }
    let nulls = avro(r#"{"type":"array","items":["null","int"]}"#);
    let many = [b"\x80\x89\x7a".as_slice(), &vec![0; 1_000_000], b"\0"].concat();
    assert_eq!(check(&nulls, many), Ok(()), "a million nulls that each take a byte");
}

#[test]
fn protobuf_schemas_without_a_measure_are_refused() {
    let message = |inside: &str| format!("syntax = \"proto3\"; message M {{ {inside} }}");
    let refused = [
        message(&nested("message N { ", "", " }", 10_000)),
        nested("message M {", "", "", 10_000),
        message("string a = 1; string b = 1;"),
        message("Unknown a = 1;"),
        message(&format!("string a = 1 [{}];", nested("(x) = {a: ", "1", "}", 10_000))),
        "syntax = \"proto3\"; import \"schema.proto\"; message M {}".to_owned(),
        String::new(),
    ];
    for text in refused {
        assert!(compile(Format::Protobuf, &text).is_err(), "{}", &text[..text.len().min(100)]);
    }
    let fields: String = (1..8000).map(|n| format!("bool f{n}={n};")).collect();
    assert!(compile(Format::Protobuf, message(&fields)).is_ok());
    let types: String = (0..5000).map(|n| format!("message N{n}{{}}")).collect();
    let uses: String = (1..5000).map(|n| format!("N{n} f{n}={n};")).collect();
    assert!(compile(Format::Protobuf, types + &message(&uses)).is_err());
}

#[test]
fn descriptor_sets_cannot_claim_memory_or_stack() {
    // A file with nothing but empty messages, two bytes each; and one nested in itself.
    let empty = b"\x22\x00".repeat(120_000);
    let mut file = vec![0x0a];
    put_varint(&mut file, empty.len());
    file.extend_from_slice(&empty);
    assert!(compile(Format::ProtobufSet, file).is_err());
    let mut inner = b"\x0a\x01M".to_vec();
    for _ in 0..20_000 {
        let mut outer = b"\x0a\x01M\x1a".to_vec();
        put_varint(&mut outer, inner.len());
        if outer.len() + inner.len() > SCHEMA_BYTES_MAX - 64 {
            break;
        }
        outer.extend_from_slice(&inner);
        inner = outer;
    }
    for tag in [0x22, 0x0a] {
        let mut outer = vec![tag];
        put_varint(&mut outer, inner.len());
        outer.extend_from_slice(&inner);
        inner = outer;
    }
    assert!(compile(Format::ProtobufSet, inner).is_err());
    assert!(compile(Format::ProtobufSet, b"\x0a\xff\xff\xff\xff\x0f").is_err());
}

#[test]
fn protobuf_payloads_cannot_claim_memory_time_or_stack() {
    let text = "syntax = \"proto2\"; message M { optional M next = 1; repeated int32 n = 2 \
                [packed = true]; optional group G = 3 { optional G g = 3; } \
                optional bytes b = 4; }";
    let validator = compile(Format::Protobuf, text).expect("valid");
    let mut deep = Vec::new();
    for _ in 0..2000 {
        let mut outer = vec![0x0a];
        put_varint(&mut outer, deep.len());
        outer.extend_from_slice(&deep);
        deep = outer;
    }
    assert!(check(&validator, deep).is_err());
    assert!(check(&validator, vec![0x1b; 1 << 20]).is_err());
    assert!(check(&validator, b"\x22\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").is_err());
    let mut packed = vec![0x12];
    put_varint(&mut packed, 4 << 20);
    packed.resize(packed.len() + (4 << 20), 0);
    assert_eq!(check(&validator, packed), Ok(()));
}

fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

const SAMPLES: [(Format, &str); 3] = [
    (
        Format::JsonSchema,
        r##"{"type":"object","properties":{"a":{"$ref":"#/$defs/x"},"b":{"pattern":"^[a-z]+$"}},
            "required":["a"],
            "$defs":{"x":{"anyOf":[{"type":"integer","minimum":0},{"enum":[1]}]}}}"##,
    ),
    (
        Format::Avro,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":["null","R"],"default":null},
            {"name":"b","type":{"type":"map","values":{"type":"fixed","name":"F","size":2}}},
            {"name":"c","type":{"type":"bytes","logicalType":"decimal",
                "precision":4,"scale":2}}]}"#,
    ),
    (
        Format::Protobuf,
        r#"syntax = "proto3"; import "google/protobuf/any.proto"; message M { string a = 1;
            repeated E e = 2 [packed = true]; map<int32, M> m = 3; oneof o { bytes x = 4; }
            reserved 5 to 7, 9; } enum E { A = 0; B = 1; } // end"#,
    ),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever becomes of a schema's text, compiling it, checking with it and comparing it end
    /// with an answer.
    #[test]
    fn damaged_schemas_and_any_payload_get_an_answer(
        sample in 0..3_usize,
        edits in proptest::collection::vec(
            (any::<proptest::sample::Index>(), any::<proptest::sample::Index>(), 0..12_usize,
             any::<u8>()),
            0..4,
        ),
        payload in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let (format, text) = SAMPLES[sample];
        let whole = compile(format, text).expect("valid");
        let mut bytes = text.as_bytes().to_vec();
        for (from, to, len, byte) in edits {
            let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
            let piece = bytes[from..(from + len).min(bytes.len())].to_vec();
            match byte {
                0..64 => bytes[to] = byte,
                64..160 => drop(bytes.splice(to..to, piece)),
                _ => drop(bytes.drain(to..(to + len).min(bytes.len() - 1).max(to))),
            }
        }
        let _either = check(&whole, &payload);
        if let Ok(validator) = compile(format, &bytes) {
            let _either = check(&validator, &payload);
            let _any = (validator.compare(&whole), whole.compare(&validator));
        }
    }
}
