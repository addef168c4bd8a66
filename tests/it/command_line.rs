//! The command line against a real node: shapes, exit codes, what the documentation shows.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::program::{output_of, program};
use crate::support::{Node, call};

fn node() -> (tempfile::TempDir, Node) {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::dev(&dir.path().join("data"), &["--shards", "3"]);
    (dir, node)
}

/// What people are shown.
fn table(node: &Node, arguments: &[&str]) -> String {
    let mut command = Command::new(program());
    command.args(["--format", "table", "--url", &node.url]).args(arguments);
    output_of(&mut command).expect("it succeeds")
}

const ALICE: &str = "acme/account/alice";
const BOB: &str = "acme/account/bob";

fn append<'a>(key: &'a str, expect: &'a str, data: &'a str) -> Vec<&'a str> {
    vec!["append", key, "--type", "Deposited", "--data", data, "--expect", expect]
}

#[test]
fn what_is_appended_is_read_with_the_documented_shape() {
    let (_dir, node) = node();
    let client = "00000000-0000-0000-0000-000000000007";
    let event_id = "11111111-2222-3333-4444-555555555555";
    let mut arguments = append(ALICE, "none", r#"{"amount": 10.50}"#);
    arguments.extend(["--client-id", client, "--sequence", "1", "--meta", "user=u1"]);
    arguments.extend(["--event-id", event_id]);
    let receipt = node.call(&arguments).line();
    assert_eq!(receipt["already_applied"], false);
    assert_eq!(receipt["writes"][0]["key"], ALICE);
    assert_eq!(receipt["writes"][0]["first_version"], 1);
    assert_eq!(receipt["writes"][0]["last_version"], 1);
    assert_eq!(receipt["writes"][0]["hash"].as_str().expect("text").len(), 64);

    let read = node.call(&["read", ALICE]);
    let event = read.line();
    assert!(read.stdout.contains(r#""data":{"amount":10.50}"#), "verbatim: {}", read.stdout);
    for (field, value) in [
        ("key", json!(ALICE)),
        ("version", json!(1)),
        ("type", json!("Deposited")),
        ("schema", json!("1.0")),
        ("content_type", json!("json")),
        ("client_id", json!(client)),
        ("sequence", json!(1)),
        ("event_id", json!(event_id)),
        ("meta", json!({"user": "u1"})),
        ("stamp", receipt["stamp"].clone()),
        ("hash", receipt["writes"][0]["hash"].clone()),
    ] {
        assert_eq!(event[field], value, "{field}");
    }
    let time = event["server_time"].as_str().expect("text");
    assert!(time.len() == 27 && time.ends_with('Z'), "RFC 3339 with µs: {time}");

    let head = node.call(&["head", ALICE, "--client-id", client]).line();
    assert_eq!(head["version"], 1);
    assert_eq!(head["last_sequence"], 1);

    // The same again: the original receipt. Another payload under the same sequence: refused.
    let again = node.call(&arguments).line();
    assert_eq!(again["already_applied"], true);
    assert_eq!(again["writes"], receipt["writes"]);
    assert_eq!(again["stamp"], receipt["stamp"]);
    let mut other = append(ALICE, "any", "11");
    other.extend(["--client-id", client, "--sequence", "1"]);
    assert_eq!(node.call(&other).error(1)["error"], "SequenceReused");
    let mut gap = append(ALICE, "any", "11");
    gap.extend(["--client-id", client, "--sequence", "3"]);
    let error = node.call(&gap).error(1);
    assert_eq!((&error["error"], &error["expected"]), (&json!("SequenceGap"), &json!(2)));
}

#[test]
fn a_failed_guard_is_exit_code_1_and_names_the_versions() {
    let (_dir, node) = node();
    node.call(&append(ALICE, "none", "1")).line();
    let error = node.call(&append(ALICE, "none", "1")).error(1);
    assert_eq!(error["error"], "Conflict");
    assert_eq!(error["code"], 2003);
    assert_eq!(error["retry"], "after_reading");
    let conflict =
        json!([{"key": ALICE, "expected": "none", "actual": 1, "already_applied": null}]);
    assert_eq!(error["conflicts"], conflict);
    assert_eq!(node.call(&append(ALICE, "7", "1")).error(1)["conflicts"][0]["expected"], 7);
    assert_eq!(node.call(&append(BOB, "exists", "1")).error(1)["conflicts"][0]["actual"], 0);
}

#[test]
fn a_write_over_several_shards_is_all_or_nothing() {
    let (_dir, node) = node();
    let keys: Vec<String> = (0..12).map(|n| format!("acme/account/a{n}")).collect();
    let write = |expect: Value| {
        let members: Vec<Value> = keys
            .iter()
            .map(|key| json!({"key": key, "expect": expect, "events": [{"type": "T", "data": 1}]}))
            .collect();
        json!({"writes": members}).to_string()
    };
    let receipt = node.call_with(&["write", "-"], &write(json!("none"))).line();
    assert_eq!(receipt["writes"].as_array().expect("a list").len(), keys.len());
    // One of them is ahead now: nothing of the next write may land.
    node.call(&append(&keys[5], "1", "1")).line();
    let error = node.call_with(&["write", "-"], &write(json!(1))).error(1);
    assert_eq!(error["conflicts"].as_array().expect("a list").len(), 1, "{error}");
    for (at, key) in keys.iter().enumerate() {
        let version = node.call(&["head", key]).line()["version"].clone();
        assert_eq!(version, if at == 5 { 2 } else { 1 }, "{key}");
    }
}

#[test]
fn reads_are_bounded_turned_and_filtered() {
    let (_dir, node) = node();
    for (kind, n) in [("A", 1), ("B", 2), ("A", 3), ("B", 4), ("A", 5)] {
        let data = n.to_string();
        node.call(&["append", ALICE, "--type", kind, "--data", &data]).line();
    }
    let versions = |flags: &[&str]| -> Vec<u64> {
        let mut arguments = vec!["read", ALICE];
        arguments.extend(flags);
        let lines = node.call(&arguments).lines();
        lines.iter().map(|event| event["version"].as_u64().expect("a number")).collect()
    };
    assert_eq!(versions(&[]), [1, 2, 3, 4, 5]);
    assert_eq!(versions(&["--from", "2", "--to", "4"]), [2, 3, 4]);
    assert_eq!(versions(&["--backwards", "--limit", "2"]), [5, 4]);
    assert_eq!(versions(&["--types", "A"]), [1, 3, 5]);
    assert_eq!(versions(&["--types", "A,B", "--limit", "3"]), [1, 2, 3]);
    assert_eq!(versions(&["--types", "C"]), [0u64; 0]);
    assert_eq!(node.call(&["read", BOB]).error(1)["error"], "NotFound");
    assert_eq!(node.call(&["head", BOB]).error(1)["error"], "NotFound");
}

#[test]
fn what_is_deleted_or_trimmed_is_gone_and_feeds_tell() {
    let (_dir, node) = node();
    for arguments in [&["delete", ALICE][..], &["trim", ALICE, "--keep-from", "1"]] {
        assert_eq!(node.call(arguments).error(1)["error"], "NotFound");
    }
    for n in ["1", "2", "3"] {
        node.call(&append(ALICE, "any", n)).line();
    }
    let conflict = node.call(&["trim", ALICE, "--keep-from", "2", "--expect", "7"]).error(1);
    assert_eq!(
        (&conflict["error"], &conflict["conflicts"][0]["actual"]),
        (&json!("Conflict"), &json!(3))
    );
    let trimmed = node.call(&["trim", ALICE, "--keep-from", "3", "--expect", "3"]).line();
    assert_eq!(trimmed["writes"][0]["last_version"], 3);
    let left = node.call(&["read", ALICE]).lines();
    assert_eq!((left.len(), &left[0]["version"]), (1, &json!(3)));
    let gone = node.call(&["read", ALICE, "--from", "2"]).error(1);
    assert_eq!((&gone["error"], &gone["first_available"]), (&json!("Trimmed"), &json!(3)));

    let client = ["--client-id", "00000000-0000-0000-0000-000000000007", "--sequence", "1"];
    let delete = [&["delete", ALICE, "--expect", "3"][..], &client].concat();
    let deleted = node.call(&delete).line();
    let again = node.call(&delete).line();
    assert_eq!((&again["already_applied"], &again["stamp"]), (&json!(true), &deleted["stamp"]));
    assert_eq!(node.call(&["read", ALICE]).error(1)["error"], "Deleted");
    assert_eq!(node.call(&["head", ALICE]).line()["deleted"], true);
    let anew = node.call(&append(ALICE, "none", "4")).line();
    assert_eq!(anew["writes"][0]["first_version"], 4);
    node.call(&["delete", ALICE, "--never-recreate", "--forget-sequences"]).line();
    assert_eq!(node.call(&append(ALICE, "any", "5")).error(1)["error"], "Deleted");

    let told = node.call(&["watch", "acme", "--from", "start", "--until", "now"]).lines();
    let told: Vec<Value> = told
        .iter()
        .map(|one| json!([one["notice"], one["key"], one["first_available"], one["recreate"]]))
        .collect();
    assert_eq!(
        told,
        [
            json!(["trimmed", ALICE, 3, null]),
            json!(["deleted", ALICE, null, true]),
            json!(["deleted", ALICE, null, false]),
        ]
    );
    let text = table(&node, &["watch", "acme", "--from", "start", "--until", "now"]);
    for part in ["trimmed below version 3", "deleted at version 3", "deleted at version 4"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_is_left_of_a_history_is_verified() {
    let (_dir, node) = node();
    let verify = |key: &str| {
        let found = node.call(&["verify", key]).line();
        ["aggregates", "events", "cut", "gone"].map(|name| found[name].as_u64().expect("a number"))
    };
    for key in [ALICE, BOB, "acme/account/carol", "acme/account/dave"] {
        for n in ["1", "2", "3", "4"] {
            node.call(&append(key, "any", n)).line();
        }
    }
    assert_eq!(verify("acme"), [4, 16, 0, 0]);
    node.call(&["trim", ALICE, "--keep-from", "3"]).line();
    assert_eq!(verify(ALICE), [1, 1, 1, 0], "the third is taken for granted");
    node.call(&["trim", BOB, "--keep-from", "9"]).line();
    assert_eq!(verify(BOB), [1, 0, 0, 1]);
    node.call(&["delete", "acme/account/carol"]).line();
    assert_eq!(verify("acme/account/carol"), [1, 0, 0, 1]);
    node.call(&["delete", "acme/account/dave"]).line();
    node.call(&append("acme/account/dave", "none", "5")).line();
    node.call(&append("acme/account/dave", "5", "6")).line();
    assert_eq!(verify("acme/account/dave"), [1, 1, 1, 0]);
    let all = table(&node, &["verify", "acme"]);
    assert!(all.contains("2 of them had events taken away"), "{all}");
}

#[test]
fn names_are_listed_in_order_and_by_prefix() {
    let (_dir, node) = node();
    for key in ["b/order/2", "b/order/10", "b/item/1", "a/order/1", "c/order/1"] {
        node.call(&append(key, "any", "1")).line();
    }
    let names = |arguments: &[&str], field: &str| -> Vec<String> {
        let lines = node.call(arguments).lines();
        lines.iter().map(|line| line[field].as_str().expect("text").to_owned()).collect()
    };
    assert_eq!(names(&["ls"], "org"), ["a", "b", "c"]);
    assert_eq!(names(&["ls", "b"], "type"), ["item", "order"]);
    assert_eq!(names(&["ls", "b/order"], "key"), ["b/order/10", "b/order/2"]);
    assert_eq!(names(&["ls", "b/order", "--prefix", "2"], "key"), ["b/order/2"]);
    assert_eq!(names(&["ls", "nobody"], "type"), [""; 0]);

    // What is deleted is not listed; once it is begun anew, it is.
    node.call(&["delete", "b/order/10"]).line();
    node.call(&["delete", "b/item/1", "--never-recreate"]).line();
    assert_eq!(names(&["ls", "b/order"], "key"), ["b/order/2"]);
    assert_eq!(names(&["ls", "b/item"], "key"), [""; 0]);
    assert_eq!(names(&["ls", "b"], "type"), ["item", "order"], "types stay");
    node.call(&append("b/order/10", "none", "1")).line();
    node.call(&["trim", "b/order/2", "--keep-from", "9"]).line();
    assert_eq!(names(&["ls", "b/order"], "key"), ["b/order/10", "b/order/2"]);
}

#[test]
fn payloads_come_from_files_and_need_not_be_json() {
    let (dir, node) = node();
    let file = dir.path().join("payload.json");
    std::fs::write(&file, "{\n  \"a\": 1\n}\n").expect("a file");
    node.call(&append(ALICE, "0", &format!("@{}", file.display()))).line();
    node.call_with(&append(ALICE, "1", "-"), "[1,2]").line();
    let mut raw = append(ALICE, "2", "not json");
    raw.extend(["--content-type", "bytes"]);
    node.call(&raw).line();
    let events = node.call(&["read", ALICE]).lines();
    assert_eq!(events[0]["data"], json!({"a": 1}));
    assert_eq!(events[1]["data"], json!([1, 2]));
    assert_eq!(events[2]["data_base64"], "bm90IGpzb24=");
    assert_eq!(events[2].get("data"), None);
    assert_eq!(node.call(&append(ALICE, "any", "{broken")).error(2)["error"], "Usage");
}

#[test]
fn wrong_usage_is_2_and_an_absent_store_is_3() {
    for arguments in [
        vec!["append", "not-a-key", "--type", "T", "--data", "1"],
        vec!["append", ALICE, "--type", "T"],
        vec!["read", ALICE, "--from", "minus"],
        vec!["nonsense"],
        vec!["head", ALICE, "--url", "http://localhost"],
        vec!["head", ALICE, "--ca", "/no/such/ca.crt"],
        vec!["head", ALICE, "--cert", "c.crt"],
        vec!["head", ALICE, "--api-key", "k"],
        vec!["delete", "not-a-key"],
        vec!["delete", ALICE, "--sequence", "1"],
        vec!["trim", ALICE],
        vec!["trim", ALICE, "--keep-from", "-1"],
        vec!["write", "/no/such/file"],
        vec!["bench", "write", "--connections", "0"],
    ] {
        let called = call(&arguments, "");
        assert_eq!(called.code, 2, "{arguments:?}: {}{}", called.stdout, called.stderr);
        assert!(!called.stderr.is_empty(), "{arguments:?}");
    }
    let nobody = ["head", ALICE, "--url", "celeriant://127.0.0.1:9", "--timeout", "300ms"];
    let error = call(&nobody, "").error(3);
    assert_eq!(error["retry"], "same");
}

#[test]
fn bench_ends_with_the_fixed_object() {
    let (dir, node) = node();
    let out = dir.path().join("report.json");
    for work in ["write", "read", "transfer"] {
        let called = node.call(&[
            "bench",
            work,
            "--connections",
            "4",
            "--duration",
            "0.3",
            "--warmup",
            "0.1",
            "--pipeline",
            "2",
            "--out",
            out.to_str().expect("text"),
        ]);
        let result = called.line();
        let names: Vec<&String> = result.as_object().expect("an object").keys().collect();
        let mut expected = [
            "errors",
            "max_ms",
            "operations",
            "p50_ms",
            "p95_ms",
            "p999_ms",
            "p99_ms",
            "per_second",
            "seconds",
        ];
        expected.sort_unstable();
        let mut names: Vec<&str> = names.into_iter().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, expected, "{work}");
        assert_eq!(result["errors"], 0, "{work}");
        assert!(result["operations"].as_u64() > Some(0), "{work}");
        assert!(out.exists());
    }
    let paced = ["bench", "write", "--rate", "50", "--duration", "1", "--connections", "2"];
    let operations = node.call(&paced).line()["operations"].as_u64().expect("a number");
    assert!((45..=50).contains(&operations), "{operations} of 50 that were due");
}

#[test]
fn completions_are_printed_for_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let called = call(&["completions", shell], "");
        assert_eq!(called.code, 0);
        assert!(called.stdout.contains("celeriant"), "{shell}");
    }
}
