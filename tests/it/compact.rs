//! Deleting for good: after `compact --wait` nothing of the payload is left in the data directory.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::program::{Called, program};
use crate::support::{Node, call, wait};

const SUBJECT: &str = "acme/person/subject";
const OTHER: &str = "acme/person/other";
const SECRET: &str = "kV93-lives-in-Xq7Wz-street";

/// Files that hold the secret, wherever they are.
fn files_with_secret(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_with_secret(&path));
            continue;
        }
        let content = fs::read(&path).expect("a file");
        if content.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    found
}

fn append(node: &Node, key: &str, data: &Value) {
    node.call(&["append", key, "--type", "Moved", "--data", &data.to_string()]).line();
}

#[test]
fn nothing_of_a_deleted_payload_is_left_and_everything_else_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let node = Node::dev(&data, &["--shards", "1"]);
    append(&node, SUBJECT, &json!({"address": SECRET}));
    append(&node, SUBJECT, &json!({"address": SECRET, "long": "x".repeat(5000)}));
    append(&node, OTHER, &json!({"address": "known"}));
    let before = node.call(&["head", SUBJECT]).line();
    node.call(&["delete", SUBJECT]).line();
    assert_eq!(files_with_secret(&data).len(), 1, "a delete alone hides");

    let report = node.call(&["compact", "--wait"]).line();
    assert_eq!((&report["done"], report.get("bucket")), (&json!(true), None));
    assert!(report["erased_bytes"].as_u64() > Some(5000), "{report}");
    assert!(report["reclaimed_bytes"].as_u64() > Some(1 << 20), "{report}");
    assert_eq!(files_with_secret(&data), Vec::<String>::new());

    append(&node, SUBJECT, &json!({"address": "new"}));
    let events = node.call(&["read", SUBJECT]).lines();
    assert_eq!(events.len(), 1);
    assert_eq!((&events[0]["version"], &events[0]["data"]["address"]), (&json!(3), &json!("new")));
    assert_eq!(node.call(&["read", OTHER]).line()["data"]["address"], "known");
    assert_eq!(node.terminate(), Some(0));

    let path = data.to_str().expect("text");
    let called = call(&["inspect", path, "--events"], "");
    assert_eq!(called.code, 0, "{}{}", called.stdout, called.stderr);
    let items: Vec<Value> =
        called.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let erased: Vec<&Value> = items.iter().filter(|item| item["erased"] == true).collect();
    assert_eq!(erased.len(), 2);
    assert_eq!(erased[1]["hash"], before["hash"], "the chain's link is still there");

    let node = Node::dev(&data, &[]);
    assert_eq!(node.call(&["read", SUBJECT]).line()["version"], 3);
    assert_eq!(node.call(&["read", OTHER]).line()["data"]["address"], "known");
    assert_eq!(node.call(&["compact", "--wait"]).line()["done"], true, "there is little to do");
}

#[test]
fn whoever_waits_for_a_compaction_is_told_of_it_by_a_node_that_was_started_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let node = Node::dev(&data, &["--shards", "1"]);
    append(&node, SUBJECT, &json!({"address": SECRET}));
    node.call(&["delete", SUBJECT]).line();

    // To pack a segment takes longer than to see that it is ordered, and to kill.
    let address = node.address().to_owned();
    let mut command = Command::new(program());
    command.args(["--format", "json", "--url", &node.url, "compact", "--wait"]);
    let mut waits = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let status = || node.call(&["cluster", "status"]).line();
    wait::until("the order", || (status()["compaction"] == 1).then_some(()));
    node.kill();
    let node = Node::start(&["dev", "--listen", &address], &data);

    wait::until("an outcome", || waits.try_wait().expect("a child"));
    let told = Called::from_output(&waits.wait_with_output().expect("it ends")).line();
    assert_eq!((&told["done"], &told["address"]), (&json!(true), &json!(address)));
    assert_eq!(files_with_secret(&data), Vec::<String>::new());
    assert_eq!(node.terminate(), Some(0));
}
