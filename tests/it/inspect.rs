//! `inspect` on what a node left: every record is shown, and every damage is named.

use serde_json::{Value, json};

use crate::support::program::Called;
use crate::support::{Node, call};

fn items(called: &Called, name: &str) -> Vec<Value> {
    let lines = called.stdout.lines().map(|line| serde_json::from_str(line).expect(line));
    lines.filter(|item: &Value| item["item"] == name).collect()
}

#[test]
fn everything_written_is_shown_and_a_flipped_byte_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let node = Node::dev(&data, &["--shards", "1"]);
    for n in ["1", "2", "3"] {
        node.call(&["append", "acme/account/alice", "--type", "T", "--data", n]).line();
    }
    let head = node.call(&["head", "acme/account/alice"]).line();
    assert_eq!(node.terminate(), Some(0));

    let path = data.to_str().expect("text");
    let called = call(&["inspect", path, "--events"], "");
    assert_eq!(called.code, 0, "{}", called.stderr);
    assert_eq!(items(&called, "node")[0]["shards"], 1);
    let batches = items(&called, "batch");
    let versions: Vec<&Value> = batches.iter().map(|batch| &batch["last_version"]).collect();
    assert_eq!(versions, [&json!(1), &json!(2), &json!(3)]);
    assert_eq!(batches[2]["hash"], head["hash"]);
    assert_eq!(items(&called, "event").len(), 3);
    assert_eq!(items(&called, "DAMAGE").len(), 0);

    let batch_frame = &items(&called, "frame")[1];
    let offset = batch_frame["offset"].as_u64().expect("a number") as usize;
    let segment = data.join("shard-0000/00000001.seg");
    let mut bytes = std::fs::read(&segment).expect("the segment");
    bytes[offset + 300] ^= 1;
    std::fs::write(&segment, bytes).expect("a file");
    let called = call(&["inspect", path], "");
    assert_eq!(called.code, 1, "{}", called.stdout);
    let damage = items(&called, "DAMAGE");
    assert_eq!(damage[0]["offset"], offset, "{damage:?}");
    assert_eq!(items(&called, "batch").len(), 2, "what lies behind the damage is still shown");
}

#[test]
fn a_directory_without_shards_is_wrong_usage() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("text");
    assert_eq!(call(&["inspect", path], "").error(2)["error"], "Usage");
    assert_eq!(call(&["inspect", "/no/such/directory"], "").error(2)["error"], "Usage");
}
