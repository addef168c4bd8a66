//! State that is made of events: exactly once, whatever happens in between. Several selectors as
//! one feed.

use celeriant_client::{AggregateKey, Client, Error, Event, Projection, Selector, Stamp, Watched};

use crate::support::Node;

/// Counts and sums, in memory; the transaction is an assignment. Fails when it is told to, before
/// or after that.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Sums {
    cursor: Option<Stamp>,
    events: u64,
    sum: u64,
}

struct Fickle {
    stored: Sums,
    applied: usize,
}

enum Failed {
    Store(Error),
    OnPurpose,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl Projection for Fickle {
    type Error = Failed;

    async fn cursor(&mut self) -> Result<Option<Stamp>, Failed> {
        Ok(self.stored.cursor)
    }

    async fn apply(&mut self, changes: Vec<Watched>, cursor: Stamp) -> Result<(), Failed> {
        self.applied += 1;
        let mut sums = self.stored.clone();
        for told in &changes {
            let Watched::Batch { batch, .. } = told else { panic!("nothing else: {told:?}") };
            for event in &batch.events {
                sums.events += 1;
                sums.sum += event.to_json::<u64>()?;
            }
        }
        sums.cursor = Some(cursor);
        match self.applied % 3 {
            // Lost with the transaction.
            0 => return Err(Failed::OnPurpose),
            // Killed behind the commit.
            1 => {
                self.stored = sums;
                return Err(Failed::OnPurpose);
            }
            _ => self.stored = sums,
        }
        Ok(())
    }
}

/// Large enough for several pages.
const EVENTS: u64 = 3_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_projection_has_every_event_once_however_often_it_fails() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::dev(&dir.path().join("data"), &["--shards", "3"]);
    let client = Client::connect(&node.url).await.expect("it serves");
    let append = async |key: String, numbers: std::ops::Range<u64>| {
        let event = |number| Event::json("Added", &number).expect("JSON");
        let padded = numbers.map(|number| event(number).with_metadata("pad", "x".repeat(500)));
        client.append(&key.parse().expect("a key"), padded).await.expect("appended");
    };
    for at in 0..EVENTS / 50 {
        append(format!("acme/kind{}/{}", at % 2, at % 7), 50 * at..50 * (at + 1)).await;
        append(format!("other/kind0/{at}"), 0..1).await;
    }
    let kinds = [Selector::of_type("acme", "kind0"), Selector::of_type("acme", "kind1")];
    let mut projection = Fickle { stored: Sums::default(), applied: 0 };
    let mut failures = 0;
    while let Err(failed) =
        client.watch_each(kinds.clone()).until_now().project(&mut projection).await
    {
        if let Failed::Store(error) = failed {
            panic!("{error}");
        }
        failures += 1;
        assert!(failures < 1_000, "it makes no progress");
    }
    assert!(failures > 2, "{failures} failures in {} transactions", projection.applied);
    let Sums { events, sum, .. } = projection.stored;
    assert_eq!((events, sum), (EVENTS, (0..EVENTS).sum()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn events_come_without_payloads_when_that_is_asked_for_from_the_log_and_live() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::dev(&dir.path().join("data"), &["--shards", "1"]);
    let client = Client::connect(&node.url).await.expect("it serves");
    let key: AggregateKey = "acme/account/a".parse().expect("a key");
    let append = async |payload: &str| {
        let event = Event::json("T", &payload).expect("JSON").with_metadata("of", "x");
        client.append(&key, [event]).await.expect("appended");
    };
    // One is stored with its event, one apart.
    append("small").await;
    append(&"large".repeat(1_000)).await;
    let mut whole = client.watch(Selector::All).stream();
    let mut bare = client.watch(Selector::All).headers_only().stream();
    let next = async |feed: &mut celeriant_client::Feed| loop {
        if let Watched::Batch { batch, .. } = feed.next().await.expect("it goes on").expect("told")
        {
            break batch.events.into_iter().next().expect("an event");
        }
    };
    for at in 0..4 {
        if at == 2 {
            append("live").await;
            append(&"live".repeat(1_000)).await;
        }
        let (whole, bare) = (next(&mut whole).await, next(&mut bare).await);
        assert!(bare.payload.is_empty() && !whole.payload.is_empty());
        assert_eq!((bare.hash, bare.stamp), (whole.hash, whole.stamp));
        assert_eq!((&bare.event_type, &bare.metadata), (&whole.event_type, &whole.metadata));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn several_selectors_are_one_live_feed_that_tells_everything_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::dev(&dir.path().join("data"), &["--shards", "3"]);
    let client = Client::connect(&node.url).await.expect("it serves");
    let one: AggregateKey = "acme/account/a".parse().expect("a key");
    let selectors = [
        Selector::of_type("acme", "order"),
        Selector::Aggregate(one.clone()),
        // Covers the one before, too.
        Selector::of_type("acme", "account"),
    ];
    let mut feed = client.watch_each(selectors).now().stream();
    let begin = feed.next().await.expect("it goes on").expect("a checkpoint");
    assert!(matches!(begin, Watched::Checkpoint { .. }), "{begin:?}");
    let keys =
        ["acme/account/a", "acme/other/x", "acme/order/1", "rival/order/1", "acme/account/b"];
    for key in keys {
        let event = Event::json("T", &key).expect("JSON");
        client.append(&key.parse().expect("a key"), [event]).await.expect("appended");
    }
    let mut told = Vec::new();
    while told.len() < 3 {
        if let Watched::Batch { key, .. } = feed.next().await.expect("it goes on").expect("told") {
            told.push(key.as_str().to_owned());
        }
    }
    assert_eq!(told, ["acme/account/a", "acme/order/1", "acme/account/b"]);
    let nested = Selector::Several(vec![Selector::All, Selector::Several(Vec::new())]);
    let refused = client.watch(nested).page().await;
    assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
}
