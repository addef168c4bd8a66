//! Deleting for good: after `compact --wait` nothing of the payload is left in the data directory.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use celeriant_schema::hash::chain_start;
use celeriant_schema::record::{BatchDraft, WriteDraft};
use celeriant_schema::{
    AggregateKey, BootId, ClientId, ContentType, EncodedEvents, Epoch, Event, Guard, Hash, ShardId,
    Stamp, Version, WriteId,
};
use celeriant_storage::Settings;
use celeriant_storage::disk::{self, Disk, Kind};
use celeriant_storage::inspect::Folder;
use celeriant_storage::recovery::recover;
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

/// The part of a write over two shards that reached its disk before the power went; the other part
/// did not. It says the secret to an aggregate that has no event yet.
async fn leave_half_of_a_write(data: &Path, key: &AggregateKey) {
    let path = data.join(format!("shard-{:04}", key.shard(2).value()));
    let identity = Folder::open(&path).expect("readable").identity.expect("a shard");
    let mut disk = disk::open(&path, Kind::Buffered).expect("a folder");
    let recovered = recover(&mut disk, identity, &Settings::default()).await.expect("whole");
    let (mut log, mut directory) = (recovered.log, recovered.directory);
    let (epoch, boot) = (Epoch::new(recovered.max_epoch.value() + 1), BootId::new(7));
    log.lead(epoch, boot);
    let event = Event::plain("Moved", ContentType::Bytes, SECRET.as_bytes());
    let events = EncodedEvents::encode(&[event]).expect("valid");
    let batch = BatchDraft {
        key,
        guard: Guard::NoStream,
        sequence: None,
        first_version: Version::new(1),
        prev_hash: chain_start(key),
        events: &events,
        retention: None,
    };
    let leg = WriteDraft {
        client_id: ClientId::NONE,
        write_id: WriteId { epoch, boot, counter: 1 },
        write_hash: Hash::ZERO,
        server_time: 0,
        stamp: Stamp::new(log.last_stamp().value() + 8),
        leg: Some(&[ShardId::new(0), ShardId::new(1)]),
        batches: &[batch],
    };
    let lsn = log.append_write(&leg, &mut Vec::new()).lsn;
    let mut ops = Vec::new();
    log.pump(&mut ops);
    while log.durable() < lsn {
        ops.drain(..).for_each(|(token, op)| disk.start(token, op));
        let completion = std::future::poll_fn(|cx| disk.poll_complete(cx)).await;
        if celeriant_storage::log::Log::owns(completion.token) {
            log.complete(completion, &mut ops).expect("a healthy disk");
        } else {
            directory.complete(completion, &mut ops).expect("a healthy disk");
        }
    }
}

#[test]
fn nothing_is_left_of_a_write_that_was_aborted_because_half_of_it_was_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let node = Node::dev(&data, &["--shards", "2"]);
    append(&node, OTHER, &json!({"address": "known"}));
    node.kill();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(leave_half_of_a_write(&data, &SUBJECT.parse().expect("a key")));

    let node = Node::dev(&data, &[]);
    assert_eq!(node.call(&["head", SUBJECT]).error(1)["error"], "NotFound");
    assert_eq!(files_with_secret(&data).len(), 1, "an abort alone hides");
    append(&node, SUBJECT, &json!({"address": "new"}));
    let report = node.call(&["compact", "--wait"]).line();
    assert_eq!(report["done"], true);
    assert!(report["erased_bytes"].as_u64() > Some(SECRET.len() as u64), "{report}");
    assert_eq!(files_with_secret(&data), Vec::<String>::new());
    assert_eq!(node.call(&["read", SUBJECT]).line()["data"]["address"], "new");
    assert_eq!(node.terminate(), Some(0));

    let path = data.to_str().expect("text");
    assert_eq!(call(&["verify", "--data", path], "").code, 0, "every chain is whole");
    let called = call(&["inspect", path, "--events"], "");
    assert_eq!(called.code, 0, "{}{}", called.stdout, called.stderr);
    let items = called.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
    assert_eq!(items.filter(|item| item["erased"] == true).count(), 1, "its hash is there");
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
