//! JSON Schema: crate `jsonschema`, offline, with the regular expressions that run in linear time.
//!
//! The library checks; what it may be asked to do is decided here: [`work`] looks at a schema
//! before the library does, and says what checking a payload can cost at most, so that one that
//! would cost too much is refused instead of started.

mod compare;
#[cfg(test)]
#[path = "json/compare_test.rs"]
mod compare_test;
mod work;

use jsonschema::PatternOptions;
use serde_json::Value;

pub(super) use compare::compare;
use work::Work;

use super::{DEPTH_MAX, SchemaInvalid, Violation, invalid};

/// Largest payload that is checked, in bytes: parsed JSON takes up to a hundred times as much.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Most evaluations of a subschema that one payload may cost: about a second at 100 ns each.
const EVALUATIONS_MAX: u64 = 10_000_000;
/// Above this the exact place of a violation is not looked for: collecting them takes memory.
const EXPLAINED_EVALUATIONS_MAX: u64 = 100_000;
/// Largest compiled regular expression, in bytes, and largest cache of its states.
const PATTERN_BYTES_MAX: usize = 64 << 10;
const PATTERN_CACHE_BYTES_MAX: usize = 256 << 10;

/// A compiled JSON Schema.
#[derive(Debug)]
pub(super) struct Schema {
    root: Value,
    validator: jsonschema::Validator,
    work: Work,
}

impl Schema {
    pub(super) fn compile(text: &str) -> Result<Self, SchemaInvalid> {
        let root: Value =
            serde_json::from_str(text).map_err(|error| invalid(format!("is not JSON: {error}")))?;
        let work = Work::of(&root)?;
        let patterns = PatternOptions::regex()
            .size_limit(PATTERN_BYTES_MAX)
            .dfa_size_limit(PATTERN_CACHE_BYTES_MAX);
        let validator = jsonschema::options()
            .offline()
            .with_pattern_options(patterns)
            .should_validate_formats(false)
            .build(&root)
            .map_err(|error| {
                let place = error.instance_path().to_string();
                let place = if place.is_empty() { "schema" } else { &place };
                invalid(format!("{place}: {}", error.masked()))
            })?;
        Ok(Self { root, validator, work })
    }

    pub(super) fn check(&self, payload: &[u8]) -> Result<(), Violation> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Violation::new(format!(
                "a payload with a JSON Schema has at most {PAYLOAD_BYTES_MAX} bytes"
            )));
        }
        // The library's message has a line and a column, and says nothing of the content.
        let value: Value = serde_json::from_slice(payload)
            .map_err(|error| Violation::new(format!("is not JSON: {error}")))?;
        let evaluations = self.cost(&value, payload.len())?;
        if self.validator.is_valid(&value) {
            return Ok(());
        }
        if evaluations > EXPLAINED_EVALUATIONS_MAX {
            return Err(Violation::new("does not conform, and is too large to say where"));
        }
        match self.validator.validate(&value) {
            Ok(()) => Err(Violation::new("does not conform")),
            Err(error) => Err(Violation {
                path: error.instance_path().to_string(),
                reason: error.masked().to_string(),
            }),
        }
    }

    /// At most this many evaluations.
    fn cost(&self, value: &Value, bytes: usize) -> Result<u64, Violation> {
        let mut size = Size::default();
        size.add(value, 0);
        if size.depth > DEPTH_MAX {
            return Err(Violation::new(format!("is nested deeper than {DEPTH_MAX}")));
        }
        let evaluations = self.work.evaluations(size.values, size.depth, bytes);
        if evaluations > EVALUATIONS_MAX {
            return Err(Violation::new("would cost too much to check against this schema"));
        }
        Ok(evaluations)
    }
}

/// How many values there are, and how deep.
#[derive(Default)]
struct Size {
    values: u64,
    depth: usize,
}

impl Size {
    fn add(&mut self, value: &Value, depth: usize) {
        self.values += 1;
        self.depth = self.depth.max(depth);
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.add(item, depth + 1)),
            Value::Object(members) => members.values().for_each(|item| self.add(item, depth + 1)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: &str = r##"{
        "type": "object",
        "required": ["id", "lines"],
        "properties": {
            "id": {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"},
            "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}, "minItems": 1}
        },
        "$defs": {"line": {
            "type": "object",
            "required": ["price"],
            "properties": {"price": {"type": "integer", "minimum": 0}},
            "additionalProperties": false
        }}
    }"##;

    fn path_of(payload: &str) -> String {
        let schema = Schema::compile(ORDER).expect("valid");
        schema.check(payload.as_bytes()).expect_err(payload).path
    }

    #[test]
    fn what_conforms_passes_and_what_does_not_is_named_by_its_place() {
        let schema = Schema::compile(ORDER).expect("valid");
        assert_eq!(schema.check(br#"{"id":"AB1","lines":[{"price":3}],"more":1}"#), Ok(()));
        assert_eq!(path_of(r#"{"id":"AB1"}"#), "");
        assert_eq!(path_of(r#"{"id":"ab1","lines":[{"price":3}]}"#), "/id");
        assert_eq!(path_of(r#"{"id":"AB1","lines":[{"price":3},{"price":-1}]}"#), "/lines/1/price");
        assert_eq!(path_of(r#"{"id":"AB1","lines":[{"price":1,"x":0}]}"#), "/lines/0");
        for broken in ["", "{", "{}{}", "\u{feff}{}", "[1,]"] {
            assert_eq!(path_of(broken), "", "{broken}");
        }
    }

    #[test]
    fn reasons_never_quote_the_payload() {
        let schema = Schema::compile(ORDER).expect("valid");
        for payload in [
            r#"{"id":"canary","lines":[{"price":1}]}"#,
            r#"{"id":"AB1","lines":"canary"}"#,
            r#"{"id":"AB1","lines":[{"price":"canary"}]}"#,
            r#"{"id":"AB1" canary}"#,
        ] {
            let violation = schema.check(payload.as_bytes()).expect_err(payload);
            assert!(!violation.to_string().contains("canary"), "{violation}");
        }
    }

    #[test]
    fn older_drafts_are_taken_when_the_schema_says_so() {
        let draft = |uri: &str| format!(r#"{{"$schema":"{uri}","items":[{{"type":"string"}}]}}"#);
        let seven = Schema::compile(&draft("http://json-schema.org/draft-07/schema#"));
        assert!(seven.expect("valid").check(b"[1]").is_err());
        let unknown = Schema::compile(&draft("https://example.org/mine"));
        assert!(unknown.expect_err("unknown").reason.contains("$schema"));
    }
}
