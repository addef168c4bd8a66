//! `kill -9` under load, again and again, and an oracle of what clients were promised.
//!
//! Writers retry identically until they get a receipt, over any number of kills. Afterwards every
//! receipt must be readable at its version and hash, versions must have no gaps, no (client,
//! aggregate, sequence) may appear twice, and a write over several aggregates must be whole.
//!
//! `CELERIANT_KILL_ROUNDS=50` for the long run; few rounds otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use celeriant_client::{AggregateKey, Client, ClientId, Error, Event, Receipt};

use crate::support::Node;

const WRITERS: usize = 24;
const SHARED: usize = 6;
const SHARDS: &str = "3";

/// One write that its writer wants to land exactly once.
#[derive(Clone)]
struct Operation {
    name: String,
    /// Each aggregate with the writer's sequence for it.
    members: Vec<(AggregateKey, u64)>,
}

/// One writer over all rounds.
struct Writer {
    id: ClientId,
    index: usize,
    count: usize,
    sequences: BTreeMap<String, u64>,
    /// Sent, outcome unknown: the next thing to send is the same again.
    pending: Option<Operation>,
    promised: Vec<(Operation, Receipt)>,
}

impl Writer {
    fn new(index: usize) -> Self {
        Self {
            id: ClientId::new(0x1000 + index as u128),
            index,
            count: 0,
            sequences: BTreeMap::new(),
            pending: None,
            promised: Vec::new(),
        }
    }

    fn next(&mut self) -> Operation {
        self.count += 1;
        let own = format!("kill/own/{}", self.index);
        let shared = |step: usize| format!("kill/shared/{}", (self.count * 7 + step) % SHARED);
        let mut names = vec![own];
        // Every third write touches one aggregate, the others two or three, on whatever shards.
        names.extend((0..self.count % 3).map(shared));
        names.dedup();
        let members = names.into_iter().map(|name| {
            let sequence = self.sequences.entry(name.clone()).or_default();
            *sequence += 1;
            (name.parse().expect("a key"), *sequence)
        });
        Operation { members: members.collect(), name: format!("{}-{}", self.index, self.count) }
    }

    /// Writes until the node is gone for good.
    async fn run(mut self, client: Client) -> Self {
        loop {
            let operation = self.pending.take().unwrap_or_else(|| self.next());
            match send(&client, self.id, &operation).await {
                Ok(receipt) => self.promised.push((operation, receipt)),
                Err(error) => {
                    let lost = !matches!(error, Error::Conflict { .. });
                    assert!(lost && error.retry() == celeriant_client::Retry::Same, "{error}");
                    self.pending = Some(operation);
                    return self;
                }
            }
        }
    }
}

async fn send(client: &Client, id: ClientId, operation: &Operation) -> Result<Receipt, Error> {
    let mut write = client.write().client(id).timeout(Duration::from_millis(1500));
    for (key, sequence) in &operation.members {
        let content = serde_json::json!({
            "name": operation.name,
            "of": operation.members.len(),
        });
        let event = Event::json("Happened", &content)?;
        write = write.append(key, [event]).sequence(*sequence);
    }
    write.await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_receipt_survives_kill_9_under_load() {
    let rounds = std::env::var("CELERIANT_KILL_ROUNDS");
    let rounds: usize = rounds.ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let mut writers: Vec<Writer> = (0..WRITERS).map(Writer::new).collect();
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
        if let Some(operation) = writer.pending.take() {
            let receipt = send(&client, writer.id, &operation).await.expect("it lands now");
            writer.promised.push((operation, receipt));
        }
    }
    let promised: usize = writers.iter().map(|writer| writer.promised.len()).sum();
    println!("{rounds} kills, {promised} writes promised");
    assert!(promised > rounds * WRITERS, "hardly any load: {promised} writes");
    let found = read_everything(&client).await;
    check(&writers, &found);
}

/// What an aggregate holds: (version, hash, client, sequence, operation, aggregates of it).
type Found = BTreeMap<String, Vec<Entry>>;

struct Entry {
    hash: String,
    client: ClientId,
    sequence: u64,
    name: String,
    of: u64,
}

async fn read_everything(client: &Client) -> Found {
    let mut found = Found::new();
    for kind in ["own", "shared"] {
        for id in client.list("kill", kind).collect().await.expect("a list") {
            let key: AggregateKey = format!("kill/{kind}/{id}").parse().expect("a key");
            let mut entries = Vec::new();
            for batch in client.read(&key).collect().await.expect("a read") {
                for event in &batch.events {
                    assert_eq!(event.version.value(), entries.len() as u64 + 1, "a gap in {key}");
                    let content: serde_json::Value = event.to_json().expect("JSON");
                    entries.push(Entry {
                        hash: event.hash.to_string(),
                        client: batch.client_id,
                        sequence: batch.sequence.expect("all have one").value(),
                        name: content["name"].as_str().expect("text").to_owned(),
                        of: content["of"].as_u64().expect("a number"),
                    });
                }
            }
            found.insert(key.to_string(), entries);
        }
    }
    found
}

fn check(writers: &[Writer], found: &Found) {
    let mut whole: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (key, entries) in found {
        let mut once = BTreeSet::new();
        for entry in entries {
            let fresh = once.insert((entry.client, entry.sequence));
            assert!(fresh, "{key}: {} landed twice", entry.name);
            let count = whole.entry(&entry.name).or_insert((0, entry.of));
            count.0 += 1;
        }
    }
    for (name, (there, of)) in &whole {
        assert_eq!(there, of, "{name} is not whole");
    }
    let mut promised = 0;
    for (operation, receipt) in writers.iter().flat_map(|writer| &writer.promised) {
        promised += 1;
        assert_eq!(receipt.writes.len(), operation.members.len());
        for write in &receipt.writes {
            let entries = &found[write.key.as_str()];
            let entry = &entries[write.last_version.value() as usize - 1];
            assert_eq!(entry.name, operation.name, "{} at {}", write.key, write.last_version);
            assert_eq!(entry.hash, write.hash.to_string(), "{}", operation.name);
        }
    }
    assert_eq!(promised, whole.len(), "every write there is was promised, and the reverse");
}
