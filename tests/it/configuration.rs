//! What a node refuses to start on, with exit code 2 and the reason; and what it says about itself.

use std::fs;
use std::path::Path;

use crate::support::program::{Called, program};
use crate::support::{Node, call};

fn server(data: &Path, flags: &[&str]) -> Called {
    let data = data.to_str().expect("text");
    let mut arguments = vec!["server", "--data-dir", data, "--listen", "127.0.0.1:0"];
    arguments.extend(flags);
    call(&arguments, "")
}

#[track_caller]
fn refused(called: &Called, reason: &str) {
    let error = called.error(2);
    let message = error["message"].as_str().expect("text");
    assert!(message.contains(reason), "{reason:?} is not in {message:?}");
}

#[test]
fn a_wrong_configuration_names_every_key_and_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("node.toml");
    let config = |text: &str, reasons: &[&str]| {
        fs::write(&file, text).expect("a file");
        let path = file.to_str().expect("text");
        let called = call(&["server", "--config", path], "");
        reasons.iter().for_each(|reason| refused(&called, reason));
    };
    config("data_dir = \"d\"\nthread = 2\nmemory = \"much\"", &["did you mean threads?", "memory"]);
    config("listen = \"0.0.0.0:7440\"", &["data_dir: missing", "is not loopback"]);
    config("data_dir = \"d\"\nbucket = \"s3://b\"", &["tls_ca: missing", "celeriant cert"]);
    config("data_dir = \"d\"\nhttp = \"0.0.0.0:7442\"", &["http = ", "is not loopback"]);
    config("data_dir = ", &["not valid TOML"]);
    refused(&call(&["server", "--config", "/no/such/file"], ""), "/no/such/file");
    refused(&server(dir.path(), &["--log", "a=b=c"]), "log");
}

#[test]
fn the_resulting_configuration_is_shown_with_where_it_came_from() {
    let called = server(Path::new("/somewhere"), &["--print-config", "--threads", "3"]);
    let lines = called.lines();
    let shown = |key: &str| lines.iter().find(|line| line["key"] == key).expect("shown");
    assert_eq!(
        (&shown("threads")["value"], &shown("threads")["source"]),
        (&"3".into(), &"flag".into())
    );
    assert_eq!(shown("node_id")["source"], "default");
}

#[test]
fn a_directory_in_use_a_foreign_one_and_another_shard_count_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let node = Node::dev(&data, &["--shards", "2"]);
    refused(&server(&data, &[]), "is in use by process");
    assert_eq!(node.terminate(), Some(0));
    refused(&server(&data, &["--shards", "5"]), "has 2 shards");
    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).expect("a directory");
    fs::write(foreign.join("thesis.tex"), "years of work").expect("a file");
    refused(&server(&foreign, &[]), "thesis.tex");
    assert_eq!(fs::read_dir(&foreign).expect("a list").count(), 1, "it is as it was");
}

#[test]
fn a_newer_format_and_a_damaged_superblock_are_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    assert_eq!(Node::dev(&data, &["--shards", "1"]).terminate(), Some(0));
    let name = data.join("node");
    let good = fs::read(&name).expect("the superblock");
    let mut newer = good.clone();
    for slot in newer.chunks_mut(4096) {
        slot[8..10].copy_from_slice(&9u16.to_le_bytes());
        let checksum = crc32c(&slot[..4092]);
        slot[4092..].copy_from_slice(&checksum.to_le_bytes());
    }
    let mut damaged = good.clone();
    damaged[30] ^= 1;
    damaged[4096 + 30] ^= 1;
    for (content, reason) in [(newer, "has format 9"), (damaged, "damaged")] {
        fs::write(&name, &content).expect("a file");
        refused(&server(&data, &[]), reason);
        assert_eq!(fs::read(&name).expect("a file"), content);
    }
    fs::write(&name, good).expect("a file");
    assert_eq!(Node::dev(&data, &[]).terminate(), Some(0));
}

#[test]
fn a_file_system_in_memory_is_refused_for_a_server() {
    // Only where there is one.
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
    refused(&server(&dir.path().join("data"), &[]), "tmpfs");
    let data = dir.path().join("data");
    let check = ["server", "check", "--data-dir", data.to_str().expect("text")];
    assert!(call(&check, "").stdout.contains("\"ok\":false"));
    assert_eq!(call(&check, "").code, 2);
}

#[test]
fn an_address_in_use_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let data = dir.path().join("data");
    let arguments = ["server", "--data-dir", data.to_str().expect("text"), "--listen", &address];
    refused(&call(&arguments, ""), &address);
}

#[test]
fn a_check_finds_a_good_directory_good_and_leaves_it_empty() {
    // Beside the program, on a real disk: the system's place for temporary files may be in memory.
    let beside = program().parent().expect("target/PROFILE");
    let dir = tempfile::tempdir_in(beside).expect("a directory");
    let called = call(&["server", "check", "--data-dir", dir.path().to_str().expect("text")], "");
    let lines = called.lines();
    assert!(lines.iter().all(|line| line["ok"] == true), "{}", called.stdout);
    assert!(lines.iter().any(|line| line["check"] == "disk"));
    assert_eq!(fs::read_dir(dir.path()).expect("a list").count(), 0);
}

/// CRC-32C, bit by bit: what the superblock is sealed with.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
        })
    })
}
