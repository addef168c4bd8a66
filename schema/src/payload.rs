//! Payload schemas: what a text must be to be one, what conforms to it, what may follow it.
//!
//! ```text
//! SchemaSource ── compile ──> Validator ── check(payload) ──> conforms, or where it does not
//!                                 └────── compare(previous) ──> reasons, and what is undecided
//! json       JSON Schema: crate jsonschema; json/work.rs bounds what checking can cost
//! avro       crate apache-avro parses; checking walks the bytes and allocates nothing
//! protobuf   protox and prost-reflect compile; checking walks the bytes and allocates nothing
//! ```
//! Schemas and payloads come from strangers. So every text is bounded before a library sees it,
//! regular expressions run in linear time, and a check whose cost could explode is refused before
//! it starts. Reasons name places and rules, never what a payload says: they end up in logs.
//!
//! Deliberately absent: fetching anything. A schema is one text, complete in itself. The rules of
//! compatibility are for people in `docs/schemas.md`.

mod avro;
mod compatibility;
mod cursor;
#[cfg(test)]
#[path = "payload/hostile_test.rs"]
mod hostile;
mod json;
mod order;
mod protobuf;

use crate::limits::{SCHEMA_BYTES_MAX, SCHEMA_MESSAGE_BYTES_MAX};
use crate::system::{Format, SchemaSource};

pub use compatibility::Compatibility;

/// Deepest nesting of a payload that has a schema, and of a schema.
pub const DEPTH_MAX: usize = 64;

/// Why a text is not a usable schema.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct SchemaInvalid {
    /// What is wrong, with its place if there is one.
    pub reason: String,
}

/// Where and why a payload does not conform.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct Violation {
    /// JSON pointer to the value; fields by name also where the bytes know only their number.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A compiled schema. Compiling may take milliseconds: keep it off the data path.
#[derive(Debug)]
pub struct Validator {
    format: Format,
    compiled: Compiled,
}

#[derive(Debug)]
enum Compiled {
    Json(Box<json::Schema>),
    Avro(avro::Schema),
    Protobuf(protobuf::Schema),
}

impl Validator {
    /// Compiles a schema.
    ///
    /// # Errors
    /// What is wrong with it, or which bound it exceeds.
    pub fn compile(source: &SchemaSource) -> Result<Self, SchemaInvalid> {
        let SchemaSource { format, message, text } = source;
        if text.len() > SCHEMA_BYTES_MAX {
            return Err(invalid(format!("is larger than {SCHEMA_BYTES_MAX} bytes")));
        }
        if message.len() > SCHEMA_MESSAGE_BYTES_MAX {
            return Err(invalid("has a message name that is too long"));
        }
        let protobuf = format.content_type() == crate::ContentType::Protobuf;
        if protobuf == message.is_empty() {
            return Err(invalid("names a message, if it is Protobuf, and otherwise none"));
        }
        let compiled = match format {
            Format::JsonSchema => Compiled::Json(Box::new(json::Schema::compile(utf8(text)?)?)),
            Format::Avro => Compiled::Avro(avro::Schema::compile(utf8(text)?)?),
            Format::Protobuf => {
                Compiled::Protobuf(protobuf::Schema::compile_text(utf8(text)?, message)?)
            }
            Format::ProtobufSet => {
                Compiled::Protobuf(protobuf::Schema::compile_set(text, message)?)
            }
        };
        Ok(Self { format: *format, compiled })
    }

    /// What the schema was written in.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether a payload conforms. Time and memory are bounded by the payload's size times a bound
    /// that the schema was compiled with.
    ///
    /// # Errors
    /// The first place where it does not.
    pub fn check(&self, payload: &[u8]) -> Result<(), Violation> {
        match &self.compiled {
            Compiled::Json(schema) => schema.check(payload),
            Compiled::Avro(schema) => schema.check(payload),
            Compiled::Protobuf(schema) => schema.check(payload),
        }
    }

    /// What stands against this schema following `previous` as the next minor version.
    pub fn compare(&self, previous: &Self) -> Compatibility {
        match (&previous.compiled, &self.compiled) {
            (Compiled::Json(old), Compiled::Json(new)) => json::compare(old, new),
            (Compiled::Avro(old), Compiled::Avro(new)) => avro::compare(old, new),
            (Compiled::Protobuf(old), Compiled::Protobuf(new)) => protobuf::compare(old, new),
            _ => {
                let mut found = Compatibility::default();
                let (old, new) = (previous.format, self.format);
                found.violation("", format!("was written in {old} and is now in {new}"));
                found
            }
        }
    }
}

impl Violation {
    fn new(reason: impl Into<String>) -> Self {
        Self { path: String::new(), reason: reason.into() }
    }

    /// The same, found below `segment`. Called on the way out, so that a payload that conforms
    /// costs no path.
    fn below(mut self, segment: &dyn std::fmt::Display) -> Self {
        self.path = pointer(&[segment]) + &self.path;
        self
    }
}

/// `/a/b` for the segments `a` and `b`, escaped as JSON pointers are.
fn pointer(segments: &[&dyn std::fmt::Display]) -> String {
    segments.iter().fold(String::new(), |path, segment| {
        path + "/" + &segment.to_string().replace('~', "~0").replace('/', "~1")
    })
}

fn invalid(reason: impl Into<String>) -> SchemaInvalid {
    SchemaInvalid { reason: reason.into() }
}

fn utf8(text: &[u8]) -> Result<&str, SchemaInvalid> {
    std::str::from_utf8(text).map_err(|_| invalid("is not valid UTF-8"))
}
