//! `bench catch-up`: the feed of everything there is, from its beginning to where it ends when the
//! bench begins, again and again by each connection. What it reads, `bench write` has written
//! before.
//!
//! A page is asked for when the one before has been decoded. What is counted are events; latencies
//! are those of pages.

use std::time::Instant;

use celeriant_schema::{FeedPage, FeedQuery, Stamp};
use serde_json::Value;

use super::super::args::Bench;
use super::super::failure::Failure;
use super::Target;
use super::server::Usage;
use super::stats::{self, Reading};
use super::wire::Wire;

/// Reads; returns the result and what the server used.
pub(super) fn run(bench: &Bench, target: &Target) -> Result<(Value, Value), Failure> {
    let before = bench.server_pid.map(Usage::of).transpose()?;
    let readings: Result<Vec<Reading>, Failure> = std::thread::scope(|scope| {
        let reading = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(read(bench, target))
        };
        let readers: Vec<_> = (0..bench.connections).map(|_| scope.spawn(reading)).collect();
        let panicked = |_| Failure::Load("a reader panicked".into());
        readers.into_iter().map(|reader| reader.join().map_err(panicked)?).collect()
    });
    let after = bench.server_pid.map(Usage::of).transpose()?;
    let server = before.zip(after).map(|(before, after)| after.since(&before));
    Ok((Reading::result(readings?), server.unwrap_or(Value::Null)))
}

async fn read(bench: &Bench, target: &Target) -> Result<Reading, Failure> {
    let (mut wire, _) = Wire::connect(target).await?;
    let (pages, mut events, mut after) = (stats::shared(), 0, Stamp::ZERO);
    let begun = Instant::now();
    while begun.elapsed() < bench.duration {
        let asked = Instant::now();
        let page = page(&mut wire, after).await?;
        pages.record(asked.elapsed());
        let of_page = page.batches.iter().map(|batch| batch.batch.events.len());
        events += of_page.sum::<usize>() as u64;
        after = page.upto;
        if after >= page.head {
            if events == 0 {
                return Err(Failure::Load("there are no events: bench write first".into()));
            }
            after = Stamp::ZERO;
        }
    }
    Ok(Reading { pages: pages.take(), events, seconds: begun.elapsed().as_secs_f64() })
}

async fn page(wire: &mut Wire, after: Stamp) -> Result<FeedPage, Failure> {
    wire.feed(&FeedQuery { after: Some(after), ..FeedQuery::default() }).await
}
