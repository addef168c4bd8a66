//! What is taken out of a node verifies without it, and is held against proofs of its log.

use std::fs;

use serde_json::json;

use crate::support::program::Called;
use crate::support::{Node, call};

fn append(node: &Node, key: &str, data: &str) {
    node.call(&["append", key, "--type", "T", "--data", data]).line();
}

/// Deleted and begun anew, trimmed, untouched, and of another org.
fn fill(node: &Node) {
    for n in ["1", "2", "3"] {
        for key in ["acme/account/alice", "acme/account/bob", "acme/order/1", "other/account/x"] {
            append(node, key, n);
        }
    }
    node.call(&["delete", "acme/account/alice"]).line();
    append(node, "acme/account/alice", "4");
    node.call(&["trim", "acme/account/bob", "--keep-from", "3"]).line();
}

#[test]
fn an_export_verifies_without_the_store_and_what_is_changed_in_it_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    let node = Node::dev(&dir.path().join("data"), &["--shards", "2"]);
    fill(&node);
    let out = file("all.export");
    let made = node.call(&["export", "*", "--out", &out]).line();
    // Alice's 4 leads on from her deletion; bob's 3 is all that is left, and leads on from nothing.
    assert_eq!((&made["aggregates"], &made["events"]), (&json!(4), &json!(1 + 1 + 3 + 3)));
    assert_eq!((&made["granted"], &made["notices"]), (&json!(1), &json!(2)));
    let again = node.call(&["export", "*", "--out", &out]);
    assert_eq!(again.code, 2, "nothing is written over: {}", again.stderr);
    for (selector, events) in [("acme", 5), ("acme/order", 3), ("acme/account/bob", 1)] {
        let out = file(&selector.replace('/', "-"));
        let made = node.call(&["export", selector, "--out", &out]).line();
        assert_eq!(made["events"], events, "{selector}");
        assert_eq!(call(&["verify", "--export", &out], "").line()["selector"], selector);
    }
    assert_eq!(node.terminate(), Some(0));

    let verified = call(&["verify", "--export", &out], "").line();
    for field in ["stamp", "aggregates", "granted", "notices"] {
        assert_eq!(verified[field], made[field], "{field}");
    }
    assert!(!fs::exists(format!("{out}.part")).expect("a directory"));
    let whole = fs::read(&out).expect("a file");
    fs::write(&out, &whole[..whole.len() - 1]).expect("written");
    let cut = call(&["verify", "--export", &out], "").error(1);
    assert!(cut["message"].as_str().expect("text").contains("was cut"), "{cut}");
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    fs::write(&out, changed).expect("written");
    assert_eq!(call(&["verify", "--export", &out], "").error(1)["error"], "Mismatch");
}

#[test]
fn with_proofs_an_export_is_held_against_an_audit_head() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    let node = Node::dev(&dir.path().join("data"), &["--shards", "2"]);
    fill(&node);
    let (before, after, head) = (file("before"), file("after"), file("head.json"));
    node.call(&["export", "acme", "--out", &before]).line();
    append(&node, "acme/order/1", "4");
    append(&node, "acme/account/alice", "5");
    node.call(&["export", "acme", "--out", &after]).line();
    fs::write(&head, node.call(&["audit", "head"]).line().to_string()).expect("written");
    let prove = |key: &str, version: &str| {
        let proof = node.call(&["audit", "prove", key, version, "--head", &head]).line();
        let path = file(&key.replace('/', "-"));
        fs::write(&path, proof.to_string()).expect("written");
        path
    };
    let (order, other) = (prove("acme/order/1", "4"), prove("other/account/x", "3"));
    let alice = prove("acme/account/alice", "5");
    assert_eq!(node.terminate(), Some(0));

    let held = |export: &str, proofs: &[&str]| -> Called {
        let mut arguments = vec!["verify", "--export", export, "--against", &head];
        arguments.extend(proofs.iter().flat_map(|proof| ["--proof", proof]));
        call(&arguments, "")
    };
    let nothing = json!({"aggregates": 0, "events": 0, "absent": 0});
    assert_eq!(held(&after, &[]).line()["in_the_log"], nothing, "a head alone proves no event");
    // A proof of the last event is one of all before it. What was not selected is not there.
    let proved = json!({"aggregates": 2, "events": 4 + 2, "absent": 1});
    assert_eq!(held(&after, &[&order, &alice, &other]).line()["in_the_log"], proved);
    // What came behind an export's end is not missing in it.
    let later = json!({"aggregates": 0, "events": 0, "absent": 1});
    assert_eq!(held(&before, &[&order]).line()["in_the_log"], later);

    let mut foreign: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&head).expect("a file")).expect("JSON");
    foreign["cluster"] = json!("00000000-0000-0000-0000-000000000001");
    fs::write(&head, foreign.to_string()).expect("written");
    assert_eq!(held(&after, &[]).error(1)["error"], "Mismatch");
}
