//! Everything that takes bytes from outside, each as a function of any bytes that panics when a
//! rule is broken. `fuzz.rs` calls them with the corpus, `tests/fuzz` with what a fuzzer finds.

use bytes::Bytes;
use celeriant_client::{AggregateKey, Credential, Selector, Url};
use celeriant_net::tls::{Grant, Name};
use celeriant_net::{Token, json};
use celeriant_schema::payload::Validator;
use celeriant_schema::system::{Format, SchemaName, SchemaSource};
use celeriant_schema::{SchemaVersion, fuzzing as schema};
use celeriant_storage::fuzzing as storage;
use simulation::scenario::Scenario;

type Target = fn(&[u8]);

/// Name, as that of a folder of the corpus, and what is called.
pub(crate) const TARGETS: &[(&str, Target)] = &[
    // What clients and nodes send.
    ("event", schema::event),
    ("wire", schema::wire),
    ("peer", schema::peer),
    ("write-json", write_json),
    ("texts", texts),
    ("token", token),
    // What is in files.
    ("record", schema::record),
    ("segment", |data| _ = storage::segment(data)),
    ("frame", storage::frame_content),
    ("frame-header", storage::frame_header),
    ("manifest", storage::manifest),
    ("run", |data| _ = storage::run(data)),
    ("row", storage::row),
    ("watermark", storage::watermark),
    ("superblock", storage::superblock),
    ("scenario", scenario),
    // What is in the bucket.
    ("register", celeriant_actors::fuzzing::register),
    ("slot", celeriant_actors::fuzzing::slot),
    // Schemas that users register, and payloads that others write.
    ("json-schema", |data| of_schema(Format::JsonSchema, "", data)),
    ("avro", |data| of_schema(Format::Avro, "", data)),
    ("protobuf", |data| of_schema(Format::Protobuf, "a.M", data)),
    ("protobuf-set", |data| of_schema(Format::ProtobufSet, "a.M", data)),
];

/// Bodies of HTTP, files of the command line.
fn write_json(data: &[u8]) {
    let text = Bytes::copy_from_slice(data);
    if let Ok(writing) = json::parse_write(&text, 0) {
        let _ = writing.into_write();
    }
    let _ = json::parse_append(&text, 0);
    let _ = json::parse_trim(&text);
    let _ = std::str::from_utf8(data).map(json::from_base64);
}

/// Names, selectors, cursors, addresses, what a certificate says: what is accepted says the same
/// when it is written and read again.
fn texts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(key) = text.parse::<AggregateKey>() {
        assert_eq!(key.as_str(), text);
    }
    if let Ok(selector) = text.parse::<Selector>() {
        assert_eq!(selector.to_string().parse(), Ok(selector));
    }
    if let Ok(version) = text.parse::<SchemaVersion>() {
        assert_eq!(version.to_string().parse(), Ok(version));
    }
    if let Ok(name) = text.parse::<SchemaName>() {
        assert_eq!(name.to_string().parse(), Ok(name));
    }
    if let Ok(url) = text.parse::<Url>() {
        assert!(!url.addresses().is_empty() && url.to_string().parse::<Url>().is_ok());
    }
    let _ = (json::parse_begin(text), json::parse_guard(text), json::parse_content_type(text));
    let _ = (Grant::from_uri(text), text.parse::<Grant>(), text.parse::<Name>());
}

/// What is shown, as it comes, and as a token that says any bytes.
fn token(data: &[u8]) {
    let said = json::base64(data).replace('+', "-").replace('/', "_");
    let signature = "5".repeat(128);
    let says = format!("celeriant_token_{:016x}.{}.{signature}", 7, said.trim_end_matches('='));
    for text in std::str::from_utf8(data).into_iter().chain([says.as_str()]) {
        if let Ok(shown) = text.parse::<Credential>() {
            assert_eq!(shown.reveal().parse(), Ok(shown));
        }
        if let Ok(token) = text.parse::<Token>() {
            let again: Token = token.reveal().parse().expect("it was one");
            assert_eq!((again.key(), again.scope()), (token.key(), token.scope()));
        }
    }
}

/// A scenario file.
fn scenario(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(scenario) = toml::from_str::<Scenario>(text) else { return };
    let again = toml::to_string(&scenario).expect("a scenario can be written");
    assert_eq!(toml::from_str::<Scenario>(&again).as_ref(), Ok(&scenario));
}

/// A schema's text up to the first zero, then payloads with zeroes between them.
fn of_schema(format: Format, message: &str, data: &[u8]) {
    let mut parts = data.split(|byte| *byte == 0);
    let text = Bytes::copy_from_slice(parts.next().unwrap_or_default());
    let source = SchemaSource { format, message: message.to_owned(), text };
    let Ok(validator) = Validator::compile(&source) else { return };
    assert!(validator.compare(&validator).violations().is_empty(), "it does not follow itself");
    for payload in parts {
        let _ = validator.check(payload);
    }
}
