//! `kill -9` of a node on its own under load, again and again: what clients were promised holds.
//!
//! `CELERIANT_KILL_ROUNDS=50` for the long run; few rounds otherwise. Two nodes: `pair.rs`.

use std::time::Duration;

use celeriant_client::Client;

use crate::support::Node;
use crate::support::oracle::{From, Writer, check, list, promised, read};

const WRITERS: usize = 24;
const SHARDS: &str = "3";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_receipt_survives_kill_9_under_load() {
    let rounds = std::env::var("CELERIANT_KILL_ROUNDS");
    let rounds: usize = rounds.ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let mut writers = Writer::some(WRITERS);
    for round in 0..rounds {
        let node = Node::dev(&data, &["--shards", SHARDS, "--threads", "2"]);
        let client = Client::connect(&node.url).await.expect("it serves");
        let running: Vec<_> = std::mem::take(&mut writers)
            .into_iter()
            .map(|writer| tokio::spawn(writer.run(client.clone())))
            .collect();
        tokio::time::sleep(Duration::from_millis(300 + 97 * (round as u64 % 7))).await;
        node.kill();
        for writer in running {
            writers.push(writer.await.expect("a writer"));
        }
    }
    let node = Node::dev(&data, &[]);
    let client = Client::connect(&node.url).await.expect("it serves");
    for writer in &mut writers {
        writer.finish(&client).await;
    }
    let promised = promised(&writers);
    println!("{rounds} kills, {promised} writes promised");
    assert!(promised > rounds * WRITERS, "hardly any load: {promised} writes");
    let keys = list(&client).await;
    check(&writers, &read(&client, &keys, From::Leader).await);
}
