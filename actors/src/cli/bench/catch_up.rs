//! `bench catch-up`: the feed of everything there is, from its beginning to where it ends when the
//! bench begins, again and again by each connection. What it reads, `bench write` has written
//! before.
//!
//! Pages come as far ahead as a client's may. What is counted are events; latencies are how long
//! each page was waited for.

use std::time::Instant;

use celeriant_schema::{FeedQuery, Stamp};
use serde_json::Value;

use super::super::args::Bench;
use super::super::failure::Failure;
use super::Target;
use super::server::Usage;
use super::stats::{self, Reading};
use super::wire::{Feed, Wire};

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
    let (wire, _) = Wire::connect(target).await?;
    let mut feed = Feed::new(wire, FeedQuery { after: Some(Stamp::ZERO), ..<_>::default() });
    let (pages, mut events) = (stats::shared(), 0);
    let begun = Instant::now();
    while begun.elapsed() < bench.duration {
        let asked = Instant::now();
        let page = feed.page().await?;
        pages.record(asked.elapsed());
        let of_page = page.batches.iter().map(|batch| batch.batch.events.len());
        events += of_page.sum::<usize>() as u64;
        // A page may have nothing and not be the last: what was looked at is for nobody.
        if page.batches.is_empty() && page.upto >= page.head {
            if events == 0 {
                return Err(Failure::Load("there are no events: bench write first".into()));
            }
            feed.seek(Stamp::ZERO);
        }
    }
    Ok(Reading { pages: pages.take(), events, seconds: begun.elapsed().as_secs_f64() })
}
