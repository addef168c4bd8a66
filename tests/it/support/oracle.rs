//! Writers that want every write to land exactly once, and an oracle of what they were promised.
//!
//! ```text
//! Writer   makes operations over one to three aggregates, with sequences; repeats one identically
//!          until it has a receipt, over any number of failures
//! read     everything that a node holds of them              check   against every receipt
//! ```
//! Afterwards every receipt is readable at its version and hash, versions have no gaps, no (client,
//! aggregate, sequence) is there twice, and a write over several aggregates is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use celeriant_client::{AggregateKey, Client, ClientId, Error, Event, Receipt, Retry, Stamp};

/// Aggregates that all writers write to.
const SHARED: usize = 6;
/// A write to a node that may be gone for good takes at most this long,
const SHORT: Duration = Duration::from_millis(1500);
/// and one to nodes of which one is expected back: longer than any fail-over.
const LONG: Duration = Duration::from_secs(20);

/// One write that its writer wants to land exactly once.
#[derive(Clone)]
struct Operation {
    name: String,
    /// Each aggregate with the writer's sequence for it.
    members: Vec<(AggregateKey, u64)>,
}

/// One writer, over all that happens to the store.
pub(crate) struct Writer {
    id: ClientId,
    index: usize,
    count: usize,
    sequences: BTreeMap<String, u64>,
    /// Sent, outcome unknown: the next thing to send is the same again.
    pending: Option<Operation>,
    promised: Vec<(Operation, Receipt)>,
}

/// What writers tell while they run, and are told.
#[derive(Default)]
pub(crate) struct Progress {
    /// Finish what is pending, then end.
    pub(crate) stop: AtomicBool,
    /// When receipts came, by all writers.
    receipts: Mutex<Vec<Instant>>,
    /// What calls that were not answered in time, or refused for now, ended with.
    errors: Mutex<BTreeMap<&'static str, u64>>,
}

impl Progress {
    /// Receipts so far.
    pub(crate) fn receipts(&self) -> usize {
        self.receipts.lock().expect("no writer panicked").len()
    }

    /// The longest time without a receipt since the `first` ones.
    pub(crate) fn longest_pause(&self, first: usize) -> Duration {
        let receipts = self.receipts.lock().expect("no writer panicked");
        let since = &receipts[first.saturating_sub(1)..];
        let gaps = since.windows(2).map(|two| two[1].duration_since(two[0]));
        gaps.max().unwrap_or_default()
    }

    /// Calls that ended without a receipt, by the error's name.
    pub(crate) fn errors(&self) -> BTreeMap<&'static str, u64> {
        self.errors.lock().expect("no writer panicked").clone()
    }

    fn failed(&self, error: &Error) {
        *self.errors.lock().expect("no writer panicked").entry(error.name()).or_default() += 1;
    }
}

impl Writer {
    /// So many, each under a client id of its own.
    pub(crate) fn some(count: usize) -> Vec<Self> {
        let writer = |index: usize| Self {
            id: ClientId::new(0x1000 + index as u128),
            index,
            count: 0,
            sequences: BTreeMap::new(),
            pending: None,
            promised: Vec::new(),
        };
        (0..count).map(writer).collect()
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
    pub(crate) async fn run(mut self, client: Client) -> Self {
        while self.step(&client, SHORT).await.is_ok() {}
        self
    }

    /// Writes, whatever happens to the nodes, until it is told to stop; `pause` between writes.
    pub(crate) async fn ride_out(
        mut self,
        client: Client,
        progress: &Progress,
        pause: Duration,
    ) -> Self {
        while self.pending.is_some() || !progress.stop.load(Ordering::Relaxed) {
            match self.step(&client, LONG).await {
                Ok(()) => progress.receipts.lock().expect("sane").push(Instant::now()),
                Err(error) => progress.failed(&error),
            }
            tokio::time::sleep(pause).await;
        }
        self
    }

    /// What is pending, or one more.
    async fn step(&mut self, client: &Client, timeout: Duration) -> Result<(), Error> {
        let operation = self.pending.take().unwrap_or_else(|| self.next());
        match send(client, self.id, &operation, timeout).await {
            Ok(receipt) => {
                self.promised.push((operation, receipt));
                Ok(())
            }
            Err(error) => {
                // None of them has a guard, and sequences are dense: only what passes by itself.
                let passes = matches!(error.retry(), Retry::Same | Retry::OtherNode);
                assert!(passes && !matches!(error, Error::Conflict { .. }), "{error}");
                self.pending = Some(operation);
                Err(error)
            }
        }
    }

    /// Sends what is pending until it has landed.
    pub(crate) async fn finish(&mut self, client: &Client) {
        if self.pending.is_some() {
            self.step(client, SHORT).await.expect("it lands now");
        }
    }
}

async fn send(
    client: &Client,
    id: ClientId,
    operation: &Operation,
    timeout: Duration,
) -> Result<Receipt, Error> {
    let mut write = client.write().client(id).timeout(timeout);
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

/// Receipts of all writers.
pub(crate) fn promised(writers: &[Writer]) -> usize {
    writers.iter().map(|writer| writer.promised.len()).sum()
}

/// The newest stamp that any of them was told.
pub(crate) fn newest(writers: &[Writer]) -> Stamp {
    let all = writers.iter().flat_map(|writer| &writer.promised);
    all.map(|(_, receipt)| receipt.stamp).max().unwrap_or(Stamp::ZERO)
}

/// Where to read.
#[derive(Clone, Copy)]
pub(crate) enum From {
    /// The leader.
    Leader,
    /// The node that the client knows, once it has everything up to this stamp.
    Node(Stamp),
}

/// What there is: entries in order, by aggregate.
pub(crate) type Found = BTreeMap<String, Vec<Entry>>;

/// One event.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    hash: String,
    client: ClientId,
    sequence: u64,
    name: String,
    of: u64,
}

/// Names of all aggregates that writers wrote to, as the leader lists them.
pub(crate) async fn list(client: &Client) -> Vec<AggregateKey> {
    let mut keys = Vec::new();
    for kind in ["own", "shared"] {
        for id in client.list("kill", kind).collect().await.expect("a list") {
            keys.push(format!("kill/{kind}/{id}").parse().expect("a key"));
        }
    }
    keys
}

/// Reads all of these aggregates.
pub(crate) async fn read(client: &Client, keys: &[AggregateKey], from: From) -> Found {
    let mut found = Found::new();
    for key in keys {
        let read = match from {
            From::Leader => client.read(key),
            From::Node(stamp) => client.read(key).any().min_stamp(stamp),
        };
        let mut entries = Vec::new();
        for batch in read.collect().await.expect("a read") {
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
    found
}

/// Whether what was found is what was promised: all of it, once, whole, and nothing else.
pub(crate) fn check(writers: &[Writer], found: &Found) {
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
            let entry = entries.get(write.last_version.value() as usize - 1);
            let entry = entry.unwrap_or_else(|| {
                panic!("{} is lost: {} at {}", operation.name, write.key, write.last_version)
            });
            assert_eq!(entry.name, operation.name, "{} at {}", write.key, write.last_version);
            assert_eq!(entry.hash, write.hash.to_string(), "{}", operation.name);
        }
    }
    assert_eq!(promised, whole.len(), "every write there is was promised, and the reverse");
}
