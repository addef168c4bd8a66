//! A node as a process: killed, asked to stop, shouted at.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::{Node, call, wait};

fn append(node: &Node, id: u32) -> String {
    let key = format!("acme/order/{id}");
    let arguments = ["append", &key, "--type", "Placed", "--data", "{}", "--expect", "none"];
    let receipt = node.call(&arguments).line();
    receipt["writes"][0]["hash"].as_str().expect("a hash").to_owned()
}

#[test]
fn what_was_acknowledged_survives_kill_9_and_a_node_stops_cleanly_when_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let node = Node::dev(&data, &["--shards", "2"]);
    let hashes: Vec<String> = (0..4).map(|id| append(&node, id)).collect();
    node.kill();
    let node = Node::dev(&data, &[]);
    for (id, hash) in hashes.iter().enumerate() {
        let head = node.call(&["head", &format!("acme/order/{id}")]).line();
        assert_eq!((&head["version"], &head["hash"]), (&1.into(), &hash.as_str().into()));
    }
    assert_eq!(node.terminate(), Some(0));
}

#[test]
fn random_bytes_on_the_port_disturb_nobody_and_cost_no_memory() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::dev(&dir.path().join("data"), &[]);
    append(&node, 1);
    let before = node.resident_bytes();
    let mut noise = 1_u64;
    for round in 0..200 {
        let mut stream = TcpStream::connect(node.address()).expect("it listens");
        let mut bytes = vec![0; 1000];
        for byte in &mut bytes {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (noise >> 56) as u8;
        }
        if round % 2 == 0 {
            // A length that promises four gigabytes.
            bytes[..4].fill(0xff);
        }
        // The node may have hung up already: that is an answer, too.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    append(&node, 2);
    let grown = || node.resident_bytes().saturating_sub(before);
    wait::until("memory to come back", || (grown() < 32 << 20).then_some(()));
    let gone = call(&["--url", "celeriant://127.0.0.1:1", "--timeout", "1s", "head", "a/b/c"], "");
    assert_eq!(gone.code, 3, "nobody there: {}", gone.stderr);
}
