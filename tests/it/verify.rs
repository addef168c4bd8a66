//! `verify --data` on what a node left, and beside one that runs.

use serde_json::{Value, json};

use crate::support::program::Called;
use crate::support::{Node, call};

fn lines(called: &Called) -> Vec<Value> {
    called.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[test]
fn a_stopped_nodes_files_verify_and_a_changed_byte_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let path = data.to_str().expect("text");
    let node = Node::dev(&data, &["--shards", "2"]);
    for n in ["1", "2", "3"] {
        node.call(&["append", "acme/account/alice", "--type", "T", "--data", n]).line();
        node.call(&["append", "acme/account/bob", "--type", "T", "--data", n]).line();
    }
    let called = call(&["verify", "--data", path], "");
    assert_eq!(called.code, 0, "{}", called.stderr);
    assert_eq!(lines(&called)[0]["running"], true, "{}", called.stdout);
    assert_eq!(node.terminate(), Some(0));

    let called = call(&["verify", "--data", path], "");
    assert_eq!(called.code, 0, "{}\n{}", called.stdout, called.stderr);
    let summary = &lines(&called)[0];
    assert_eq!(summary["verified"], true);
    assert_eq!((&summary["shards"], &summary["running"]), (&json!(2), &json!(false)));
    assert!(summary["events"].as_u64() >= Some(6), "{summary}");

    let segment = data.join("shard-0001/00000001.seg");
    let mut bytes = std::fs::read(&segment).expect("the segment");
    bytes[4096 + 300] ^= 1;
    std::fs::write(&segment, bytes).expect("a file");
    let called = call(&["verify", "--data", path], "");
    let error = called.error(1);
    assert_eq!(error["error"], "Mismatch", "{error}");
    let first = &lines(&called)[0];
    assert_eq!(first["file"], "shard-0001/00000001.seg", "{first}");
    assert_eq!(
        (&first["offset"], &first["shard"], &first["lsn"]),
        (&json!(4096), &json!(1), &json!(1))
    );
}
