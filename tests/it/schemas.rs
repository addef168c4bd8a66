//! Schemas as an operator meets them: registered, checked, kept over restarts and fail-overs.

use std::path::Path;

use serde_json::json;

use crate::support::{Node, Pair, call, wait};

const V1: &str = r#"{"type": "object", "required": ["amount"],
    "properties": {"amount": {"type": "integer", "minimum": 1}}, "additionalProperties": false}"#;
/// A property more: what was accepted still is.
const V1_1: &str = r#"{"type": "object", "required": ["amount"],
    "properties": {"amount": {"type": "integer", "minimum": 1}, "note": {"type": "string"}},
    "additionalProperties": false}"#;
/// A property that is required now: what was accepted is not any more.
const NARROWER: &str = r#"{"type": "object", "required": ["amount", "note"],
    "properties": {"amount": {"type": "integer", "minimum": 1}, "note": {"type": "string"}},
    "additionalProperties": false}"#;
const AVRO: &str = r#"{"type": "record", "name": "Opened", "fields": [
    {"name": "owner", "type": "string"}]}"#;
const PROTO: &str = "syntax = \"proto3\"; package shop; message Closed { string why = 1; }";

fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

fn register<'a>(name: &'a str, kind: &'a str, file: &'a str) -> Vec<&'a str> {
    vec!["schema", "register", "acme/account", "--type", name, "--kind", kind, "--file", file]
}

fn deposit<'a>(version: &'a str, data: &'a str) -> Vec<&'a str> {
    vec!["append", "acme/account/alice", "--type", version, "--data", data]
}

#[test]
fn what_does_not_conform_is_refused_with_its_place_and_nothing_is_appended() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::dev(&dir.path().join("data"), &["--shards", "3"]);
    let (v1, v1_1) = (file(dir.path(), "v1", V1), file(dir.path(), "v1_1", V1_1));
    let narrower = file(dir.path(), "narrower", NARROWER);
    // Before anything is registered, anything goes.
    node.call(&deposit("Deposited@1.0", r#"{"amount": "ten"}"#)).line();

    let registered = node.call(&register("Deposited@1.0", "json-schema", &v1)).line();
    assert_eq!(registered["outcome"], "registered");
    let again = node.call(&register("Deposited@1.0", "json-schema", &v1)).line();
    assert_eq!(again["outcome"], "known");
    let other = node.call(&register("Deposited@1.0", "json-schema", &v1_1)).error(1);
    assert_eq!(other["error"], "SchemaExists");

    let refused = node.call(&deposit("Deposited@1.0", r#"{"amount": 0}"#)).error(1);
    assert_eq!(refused["error"], "SchemaViolation");
    assert_eq!((&refused["path"], &refused["event"]), (&json!("/amount"), &json!(0)));
    let receipt = node.call(&deposit("Deposited@1.0", r#"{"amount": 10}"#)).line();
    assert_eq!(receipt["writes"][0]["last_version"], 2, "what was refused left nothing");
    let refused = node.call(&deposit("Deposited@1.1", r#"{"amount": 10}"#)).error(1);
    assert!(refused["reason"].as_str().expect("text").contains("1.1"), "{refused}");

    // Minor versions are compared, also without registering them.
    let check = |file| {
        let arguments = ["schema", "check", "acme/account", "--type", "Deposited@1.1"];
        node.call(&[&arguments[..], &["--kind", "json-schema", "--file", file]].concat())
    };
    assert_eq!(check(&narrower).error(1)["error"], "SchemaIncompatible");
    assert_eq!(check(&v1_1).line()["outcome"], "acceptable");
    node.call(&register("Deposited@1.1", "json-schema", &v1_1)).line();
    node.call(&deposit("Deposited@1.1", r#"{"amount": 10, "note": "x"}"#)).line();

    // A type without schema, and what the org demands of it.
    node.call(&deposit("Withdrawn@1.0", "{}")).line();
    node.call(&["schema", "policy", "acme", "--closed"]).line();
    let refused = node.call(&deposit("Withdrawn@1.0", "{}")).error(1);
    assert_eq!(refused["error"], "SchemaViolation");
    let other_org = ["append", "other/account/a", "--type", "X", "--data", "1"];
    node.call(&other_org).line();

    // The other formats, and what is listed.
    let (avro, proto) = (file(dir.path(), "a", AVRO), file(dir.path(), "p", PROTO));
    node.call(&register("Opened@1.0", "avro", &avro)).line();
    let mut closed = register("Closed@1.0", "protobuf", &proto);
    closed.extend(["--message", "shop.Closed"]);
    node.call(&closed).line();
    let listed = node.call(&["schema", "list", "acme"]).lines();
    let names: Vec<&str> = listed.iter().filter_map(|entry| entry["schema"].as_str()).collect();
    let all = ["Closed@1.0", "Deposited@1.0", "Deposited@1.1", "Opened@1.0"];
    assert_eq!(names, all.map(|name| format!("acme/account/{name}")));
    assert_eq!(listed[4], json!({"type": null, "closed": true, "allow_encrypted": false}));
    let show = ["schema", "show", "acme/account", "--type", "Closed@1.0"];
    assert_eq!(node.call(&show).line()["text"], PROTO);
    let avro_text = ["append", "acme/account/b", "--type", "Opened@1.0", "--data", "{}"];
    let refused = node.call(&avro_text).error(1);
    assert!(refused["reason"].as_str().expect("text").contains("content type"), "{refused}");

    // A new process knows the same.
    node.kill();
    let node = Node::dev(&dir.path().join("data"), &[]);
    let refused = node.call(&deposit("Deposited@1.0", r#"{"amount": 0}"#)).error(1);
    assert_eq!(refused["error"], "SchemaViolation");
    node.call(&deposit("Deposited@1.0", r#"{"amount": 1}"#)).line();
    assert_eq!(node.call(&["schema", "list", "acme"]).lines().len(), 5);
}

#[test]
fn a_write_over_all_shards_is_refused_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::dev(&dir.path().join("data"), &["--shards", "4"]);
    let v1 = file(dir.path(), "v1", V1);
    node.call(&register("Deposited@1.0", "json-schema", &v1)).line();
    let write = |last: u64| {
        let member = |id: u64| {
            let amount = if id == 19 { last } else { 1 };
            json!({"key": format!("acme/account/{id}"), "expect": "none",
                "events": [{"type": "Deposited", "data": {"amount": amount}}]})
        };
        let writes: Vec<_> = (0..20).map(member).collect();
        node.call_with(&["write", "-"], &json!({"writes": writes}).to_string())
    };
    let refused = write(0).error(1);
    assert_eq!(
        (&refused["error"], &refused["key"]),
        (&json!("SchemaViolation"), &json!("acme/account/19"))
    );
    assert_eq!(write(1).line()["writes"].as_array().expect("receipts").len(), 20);
}

#[test]
fn the_next_leader_demands_what_the_last_one_did() {
    let mut pair = Pair::new(3);
    (0..2).for_each(|at| pair.start(at));
    let leader = wait::until("a whole pair", || pair.whole());
    let dir = tempfile::tempdir().expect("a directory");
    let v1 = file(dir.path(), "v1", V1);
    let url = pair.url();
    let ask = |arguments: &[&str]| call(&[&["--url", &url], arguments].concat(), "");
    ask(&register("Deposited@1.0", "json-schema", &v1)).line();
    pair.kill(leader);
    let refused = ask(&deposit("Deposited@1.0", r#"{"amount": 0}"#)).error(1);
    assert_eq!(refused["error"], "SchemaViolation");
    ask(&deposit("Deposited@1.0", r#"{"amount": 3}"#)).line();
    assert_eq!(ask(&["schema", "list", "acme"]).lines().len(), 1);
}
