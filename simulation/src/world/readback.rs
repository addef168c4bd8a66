//! Reads the whole store back, as any client would.

use celeriant_schema::{AggregateKey, ReadBatch, ReadQuery, Refusal, Request, Response};

use super::{READER, World};
use crate::history::Shown;
use crate::wire::Sending;

/// How often a page is asked for before the reader gives up.
const TRIES: u32 = 20;

impl World {
    /// Every aggregate that clients can have written, with all that it shows.
    pub(super) async fn read_back(&mut self) -> Shown {
        let mut shown = Shown::default();
        for key in self.scenario.workload.all_keys(self.scenario.shape.shards) {
            let batches = self.read_whole(&key).await;
            if !batches.is_empty() {
                shown.insert(key, batches);
            }
        }
        shown
    }

    async fn read_whole(&mut self, key: &AggregateKey) -> Vec<ReadBatch> {
        let mut query = ReadQuery::all(key.clone());
        let mut batches = Vec::new();
        let mut tries = 0;
        loop {
            let request = Request::Read(query.clone());
            let id = self.ledger.open(|_| request);
            match self.wire.send(READER, id, 5_000_000, None).await {
                Sending::Answered(Response::Page(page)) => {
                    batches.extend(page.batches);
                    match page.next {
                        Some(next) => query.from = next,
                        None => return batches,
                    }
                }
                Sending::Answered(Response::Refused(
                    Refusal::NotFound { .. } | Refusal::Deleted { .. },
                )) => return batches,
                other => {
                    tries += 1;
                    let until = self.timeline.now() + 100_000;
                    self.supervise(until).await;
                    if tries > TRIES {
                        self.violations
                            .add("liveness", format_args!("{key} cannot be read: {other:?}"));
                        return batches;
                    }
                }
            }
        }
    }
}
