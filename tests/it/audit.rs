//! Heads and proofs: made by a node, held against it and its files, checked without it.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Node, call};

#[test]
fn what_was_is_proved_and_what_was_changed_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, head, proof) =
        (dir.path().join("data"), dir.path().join("head.json"), dir.path().join("proof.json"));
    let [path, head_path, proof_path] =
        [&data, &head, &proof].map(|path| path.to_str().expect("text"));
    let node = Node::dev(&data, &["--shards", "2", "--http", "127.0.0.1:0"]);
    for n in ["1", "2", "3"] {
        for key in ["acme/account/alice", "acme/account/bob"] {
            node.call(&["append", key, "--type", "T", "--data", n]).line();
        }
    }
    let first = node.call(&["audit", "head"]).line();
    assert_eq!(first["shards"].as_array().expect("shards").len(), 2);
    fs::write(&head, first.to_string()).expect("a file");
    node.call(&["append", "acme/account/alice", "--type", "T", "--data", "4"]).line();

    // The log goes on, and still begins as it did.
    assert_eq!(node.call(&["audit", "check", head_path]).line()["verified"], true);
    let proved = node.call(&["audit", "prove", "acme/account/alice", "2", "--head", head_path]);
    fs::write(&proof, proved.line().to_string()).expect("a file");
    let later = node.call(&["audit", "prove", "acme/account/alice", "4", "--head", head_path]);
    assert_eq!(later.code, 2, "{}", later.stderr);
    let read = node.call(&["read", "acme/account/alice"]).lines();

    // Over HTTP: the same proof, for a head with as many frames.
    let shard = proved.line()["evidence"]["frame"]["shard"].as_u64().expect("a shard") as usize;
    let frames = &first["shards"][shard]["frames"];
    let url = format!("/v1/audit/proof/acme/account/alice/2?frames={frames}");
    let over_http = node.http().get(&url).json();
    assert_eq!(over_http["proof"], proved.line());
    assert_eq!(over_http["head"]["shards"], json!([first["shards"][shard]]));
    let now = node.http().get("/v1/audit/head").json();
    assert_eq!(now, node.call(&["audit", "head"]).line());
    assert_ne!(now["shards"], first["shards"]);
    assert_eq!(node.terminate(), Some(0));

    // Without the node.
    let checked = call(&["audit", "check-proof", proof_path, head_path], "").line();
    assert_eq!((&checked["verified"], &checked["hash"]), (&json!(true), &read[1]["hash"]));
    assert_eq!(call(&["verify", "--data", path, "--against", head_path], "").code, 0);
    assert_eq!(call(&["audit", "check", head_path, "--data", path], "").code, 0);

    let mut other: Value = first.clone();
    other["shards"][shard]["hash"] = json!("00".repeat(32));
    fs::write(&head, other.to_string()).expect("a file");
    for arguments in [
        &["audit", "check-proof", proof_path, head_path][..],
        &["audit", "check", head_path, "--data", path],
    ] {
        assert_eq!(call(arguments, "").error(1)["error"], "Mismatch", "{arguments:?}");
    }
    let node = Node::dev(&data, &[]);
    let changed = node.call(&["audit", "check", head_path]).error(1);
    assert_eq!(changed["error"], "Mismatch", "{changed}");
}

#[test]
fn a_proof_that_is_printed_with_its_head_is_checked_as_it_was_printed() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    let (alone, both, its_head, old_head) =
        (file("proof.json"), file("both.json"), file("its.json"), file("head.json"));
    let node = Node::dev(&dir.path().join("data"), &["--shards", "1"]);
    let append = || node.call(&["append", "acme/account/alice", "--type", "T", "--data", "1"]);
    append().line();
    fs::write(&old_head, node.call(&["audit", "head"]).line().to_string()).expect("a file");
    append().line();
    let hash = node.call(&["read", "acme/account/alice"]).lines()[1]["hash"].clone();
    let printed = node.call(&["audit", "prove", "acme/account/alice", "2"]).line();
    fs::write(&both, printed.to_string()).expect("a file");
    fs::write(&its_head, printed["head"].to_string()).expect("a file");
    fs::write(&alone, printed["proof"].to_string()).expect("a file");
    assert_eq!(node.terminate(), Some(0));

    for arguments in [&[&both][..], &[&both, &its_head], &[&alone, &its_head]] {
        let files = arguments.iter().map(|it| it.as_str());
        let checked = ["audit", "check-proof"].into_iter().chain(files).collect::<Vec<_>>();
        let checked = call(&checked, "").line();
        assert_eq!((&checked["version"], &checked["hash"]), (&json!(2), &hash), "{arguments:?}");
    }
    // The head that somebody kept counts, not the one that came with the proof.
    let kept = call(&["audit", "check-proof", &both, &old_head], "").error(1);
    assert_eq!(kept["error"], "Mismatch", "{kept}");
    assert_eq!(call(&["audit", "check-proof", &alone], "").code, 2, "there is no head");
}
