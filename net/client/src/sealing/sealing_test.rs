//! Encrypted events through a whole client: what the store sees, what readers see, and what is left
//! when a key is destroyed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use celeriant_schema::{Request, SchemaVersion};

use crate::fake::{Fake, Fault};
use crate::keys::{Answer, DataKey, Found, KeyRing, NamedKey};
use crate::{Aggregate, AggregateKey, Batch, Client, Error, Event, Options, Payload};

const CANARY: &str = "canary-4111";

/// Keys in memory; `None` for those that were destroyed.
#[derive(Default)]
struct Keys(Mutex<BTreeMap<String, Option<DataKey>>>);

impl Keys {
    fn shred(&self, subject: &str) {
        self.0.lock().expect("not poisoned").insert(format!("id-{subject}"), None);
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

impl KeyRing for Keys {
    fn current<'a>(&'a self, subject: &'a str) -> Answer<'a, NamedKey> {
        let id = format!("id-{subject}");
        let mut keys = self.0.lock().expect("not poisoned");
        let number = keys.len() as u8;
        let key = keys.entry(id.clone()).or_insert_with(|| Some(DataKey::new([number; 32])));
        let key = key.clone().expect("not shredded");
        Box::pin(std::future::ready(Ok(NamedKey { id, key })))
    }

    fn find<'a>(&'a self, key_id: &'a str) -> Answer<'a, Found> {
        let found = match self.0.lock().expect("not poisoned").get(key_id) {
            Some(Some(key)) => Found::Key(key.clone()),
            Some(None) => Found::Shredded,
            None => Found::Unknown,
        };
        Box::pin(std::future::ready(Ok(found)))
    }
}

async fn client(fake: &Fake, keys: Option<Arc<Keys>>) -> Client {
    let keys = keys.map(|keys| keys as Arc<dyn KeyRing>);
    fake.client_with(Options { keys, ..Options::default() }).await
}

fn key(id: &str) -> AggregateKey {
    AggregateKey::new("acme", "user", id).expect("valid")
}

fn card(subject: &str) -> Event {
    let value = serde_json::json!({ "card": CANARY });
    Event::json("Paid", &value).expect("json").encrypt_for(subject)
}

async fn read(client: &Client, id: &str) -> Result<Vec<Batch>, Error> {
    client.read(&key(id)).collect().await
}

#[tokio::test(start_paused = true)]
async fn the_store_sees_ciphertext_and_readers_with_the_ring_the_payload() {
    let fake = Fake::start();
    let keys = Arc::new(Keys::default());
    let with_ring = client(&fake, Some(keys.clone())).await;
    let plain = Event::json("Seen", &1).expect("json");
    let events = [card("ann"), plain, card("ben"), card("ann")];
    with_ring.append(&key("1"), events).await.expect("lands");
    let stored = format!("{:?}", fake.lock().writes);
    assert!(!stored.contains(CANARY), "{stored}");

    let batches = read(&with_ring, "1").await.expect("readable");
    let events = &batches[0].events;
    for at in [0, 2, 3] {
        let value: serde_json::Value = events[at].to_json().expect("json");
        assert_eq!(value["card"], CANARY, "event {at}");
    }
    assert_eq!(events[1].to_json::<u8>().expect("json"), 1);
    let ids: Vec<_> = events.iter().map(|e| e.envelope.as_ref().map(|e| &*e.key_id)).collect();
    assert_eq!(ids, [Some("id-ann"), None, Some("id-ben"), Some("id-ann")]);

    let without = read(&client(&fake, None).await, "1").await.expect("readable");
    assert!(matches!(without[0].events[0].payload(), Payload::Sealed(_)));
    assert!(matches!(without[0].events[1].payload(), Payload::Clear(_)));
    assert!(without[0].events[0].to_json::<serde_json::Value>().is_err());
    let other = read(&client(&fake, Some(Arc::default())).await, "1").await.expect("readable");
    assert!(matches!(other[0].events[0].payload(), Payload::Sealed(_)));
}

#[tokio::test(start_paused = true)]
async fn what_was_read_of_a_secret_is_not_written_again_in_the_clear() {
    let fake = Fake::start();
    let keys = Arc::new(Keys::default());
    let client = client(&fake, Some(keys.clone())).await;
    client.append(&key("1"), [card("ann")]).await.expect("lands");
    let opened = read(&client, "1").await.expect("readable")[0].events[0].event.clone();
    let refused = client.append(&key("2"), [opened.clone()]).await;
    assert!(matches!(refused, Err(Error::Encode { .. })), "{refused:?}");
    client.append(&key("2"), [opened.encrypt_for("ann")]).await.expect("lands");
    let stored = format!("{:?}", fake.lock().writes);
    assert!(!stored.contains(CANARY), "{stored}");
    let copy = &read(&client, "2").await.expect("readable")[0].events[0];
    assert_eq!(copy.to_json::<serde_json::Value>().expect("json")["card"], CANARY);
    keys.shred("ann");
    let shredded = read(&client, "1").await.expect("readable")[0].events[0].event.clone();
    let refused = client.append(&key("3"), [shredded]).await;
    assert!(matches!(refused, Err(Error::Encode { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn destroying_a_key_shreds_what_it_encrypted_and_nothing_else() {
    let fake = Fake::start();
    let keys = Arc::new(Keys::default());
    let client = client(&fake, Some(keys.clone())).await;
    client.append(&key("1"), [card("ann"), card("ben")]).await.expect("lands");
    keys.shred("ann");
    let batches = read(&client, "1").await.expect("readable");
    let [ann, ben] = &batches[0].events[..] else { panic!("{batches:?}") };
    assert_eq!(ann.payload(), Payload::Shredded);
    assert!(matches!(ann.to_json::<serde_json::Value>(), Err(Error::Decode { .. })));
    assert!(matches!(ben.payload(), Payload::Clear(_)));
    assert_eq!(ann.event_type, "Paid", "what it was is still known");
}

#[tokio::test(start_paused = true)]
async fn a_retry_sends_the_identical_ciphertext() {
    let fake = Fake::start();
    let client = client(&fake, Some(Arc::default())).await;
    fake.lock().faults.push_back(Fault::DropAfter);
    let write = client.append(&key("1"), [card("ann")]).client(7_u128).sequence(1);
    let receipt = write.await.expect("lands once");
    assert!(receipt.already_applied);
    let writes = fake.lock().writes.clone();
    assert_eq!(writes.len(), 2);
    assert_eq!(writes[0], writes[1]);
}

#[tokio::test(start_paused = true)]
async fn ciphertext_that_was_moved_does_not_pass_for_another_event() {
    let fake = Fake::start();
    let keys = Arc::new(Keys::default());
    let with_ring = client(&fake, Some(keys)).await;
    with_ring.append(&key("1"), [card("ann")]).await.expect("lands");
    let stolen = read(&client(&fake, None).await, "1").await.expect("readable");
    let stolen = stolen[0].events[0].event.clone();
    with_ring.append(&key("2"), [stolen.clone()]).await.expect("the store cannot tell");
    assert!(matches!(read(&with_ring, "2").await, Err(Error::Decode { .. })));
    let renamed = Event::from(celeriant_schema::Event {
        schema: SchemaVersion { major: 9, minor: 0 },
        ..stolen.into_inner()
    });
    with_ring.append(&key("1"), [renamed]).await.expect("the store cannot tell");
    assert!(matches!(read(&with_ring, "1").await, Err(Error::Decode { .. })));
}

#[tokio::test(start_paused = true)]
async fn without_a_ring_nothing_that_is_to_be_encrypted_is_sent() {
    let fake = Fake::start();
    let client = client(&fake, None).await;
    let refused = client.append(&key("1"), [card("ann")]).await;
    assert!(matches!(refused, Err(Error::Encode { .. })), "{refused:?}");
    assert!(fake.lock().writes.is_empty());
    let others = fake.lock().others.clone();
    assert!(!others.iter().any(|request| matches!(request, Request::Write(_))));
}

#[tokio::test(start_paused = true)]
async fn no_debug_output_shows_a_secret_payload() {
    let fake = Fake::start();
    let client = client(&fake, Some(Arc::default())).await;
    let write = client.append(&key("1"), [card("ann")]);
    assert!(!format!("{write:?} {:?}", card("ann")).contains(CANARY));
    write.await.expect("lands");
    let batches = read(&client, "1").await.expect("readable");
    assert!(!format!("{batches:?} {client:?}").contains(CANARY));
}

/// Counts what it can read, and what it cannot.
#[derive(Default)]
struct Count {
    readable: u32,
    shredded: u32,
}

#[derive(serde::Serialize, serde::Deserialize)]
enum Counted {
    Paid { card: String },
}

impl Aggregate for Count {
    type Event = Counted;

    fn apply(&mut self, Counted::Paid { card }: Counted) {
        assert_eq!(card, CANARY);
        self.readable += 1;
    }

    fn apply_shredded(&mut self, event_type: &str) {
        assert_eq!(event_type, "Paid");
        self.shredded += 1;
    }

    fn encode(event: &Counted) -> Result<Event, Error> {
        Ok(Event::typed(event)?.encrypt_for("ben"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_writer_decides_on_what_is_left() {
    let fake = Fake::start();
    let keys = Arc::new(Keys::default());
    let client = client(&fake, Some(keys.clone())).await;
    client.append(&key("1"), [card("ann"), card("ben")]).await.expect("lands");
    keys.shred("ann");
    let pay = |count: &Count| match (count.readable, count.shredded) {
        (1, 1) => vec![Counted::Paid { card: CANARY.into() }],
        _ => Vec::new(),
    };
    let outcome = client.writer(7_u128).execute(&key("1"), pay).await.expect("decided");
    assert!(outcome.receipt.is_some());
    let outcome = client.writer(8_u128).execute(&key("1"), pay).await.expect("decided");
    assert!(outcome.receipt.is_none(), "two are readable now");
}
