//! State that is made of events: exactly once, whatever happens in between.

use celeriant_client::{AggregateKey, Batch, Client, Error, Event, Projection, Selector, Stamp};

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

#[derive(Debug)]
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

    async fn apply(
        &mut self,
        changes: Vec<(AggregateKey, Batch)>,
        cursor: Stamp,
    ) -> Result<(), Failed> {
        self.applied += 1;
        let mut sums = self.stored.clone();
        for event in changes.iter().flat_map(|(_, batch)| &batch.events) {
            sums.events += 1;
            sums.sum += event.to_json::<u64>()?;
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
        assert!(matches!(failed, Failed::OnPurpose), "{failed:?}");
        failures += 1;
        assert!(failures < 1_000, "it makes no progress");
    }
    assert!(failures > 2, "{failures} failures in {} transactions", projection.applied);
    let Sums { events, sum, .. } = projection.stored;
    assert_eq!((events, sum), (EVENTS, (0..EVENTS).sum()));
}
