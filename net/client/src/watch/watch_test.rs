//! A feed goes on whatever happens to its answers.

use std::time::Duration;

use celeriant_schema::{Refusal, Request};

use super::*;
use crate::Event;
use crate::fake::{Fake, Fault};

/// A fake page has two batches.
const EVENTS: u64 = 11;

async fn filled() -> (Fake, Client) {
    let fake = Fake::start();
    let client = fake.client().await;
    let key = AggregateKey::new("acme", "account", "a").expect("valid");
    for _ in 0..EVENTS {
        let event = Event::json("Deposited", &serde_json::json!({})).expect("json");
        client.append(&key, [event]).await.expect("lands");
    }
    (fake, client)
}

/// The versions that a finite feed tells, and how often the fake was asked, or went on by itself.
async fn told(fake: &Fake, client: &Client) -> (Vec<u64>, usize) {
    let mut feed = client.watch(Selector::org("acme")).until_now().stream();
    let mut versions = Vec::new();
    while let Some(told) = feed.next().await {
        if let Watched::Batch { batch, .. } = told.expect("goes on") {
            versions.push(batch.first_version.value());
        }
    }
    let is_feed = |request: &&Request| matches!(request, Request::Feed(_));
    (versions, fake.lock().others.iter().filter(is_feed).count())
}

#[tokio::test(start_paused = true)]
async fn every_batch_is_told_once_wherever_an_answer_breaks() {
    let whole: Vec<u64> = (1..=EVENTS).collect();
    let (fake, client) = filled().await;
    let (versions, pages) = told(&fake, &client).await;
    assert_eq!(versions, whole);
    let begun = tokio::time::Instant::now();
    for lost in 0..pages {
        let (fake, client) = filled().await;
        let overloaded = Refusal::Overloaded { what: "test".into(), retry_after_ms: 1 };
        let none = std::iter::repeat_n(Fault::None, lost);
        fake.faults(none.chain([Fault::DropBefore, Fault::Refuse(overloaded)]));
        assert_eq!(told(&fake, &client).await.0, whole, "page {lost} lost");
    }
    let patience = Duration::from_secs(1);
    assert!(begun.elapsed() < patience, "nobody waits for pages of a connection that is gone");
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_is_dropped_is_forgotten_with_its_next_page() {
    let (fake, client) = filled().await;
    let mut feed = client.watch(Selector::org("acme")).stream();
    assert!(matches!(feed.next().await, Some(Ok(Watched::Batch { .. }))));
    drop(feed);
    let (versions, _) = told(&fake, &client).await;
    assert_eq!(versions.len() as u64, EVENTS, "the connection is as good as before");
}
