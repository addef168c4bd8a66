//! `bench catch-up`: the feed of everything there is, from its beginning to where it ends when the
//! bench begins, again and again by each connection. What it reads, `bench write` has written
//! before.
//!
//! A page is asked for when the one before has been decoded. What is counted are events; latencies
//! are those of pages.

use std::time::Instant;

use celeriant_schema::{FeedPage, FeedQuery, Stamp};
use serde_json::{Value, json};

use super::super::args::Bench;
use super::super::failure::Failure;
use super::Target;
use super::server::Usage;
use super::stats::{self, Stats};
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
    let (mut pages, mut events, mut seconds) = (Stats::new(), 0, 0.0_f64);
    for reading in readings? {
        pages.add(reading.pages);
        events += reading.events;
        seconds = seconds.max(reading.seconds);
    }
    let mut result = pages.to_json(seconds);
    result["operations"] = json!(events);
    result["per_second"] = json!((events as f64 / seconds).round());
    Ok((result, server.unwrap_or(Value::Null)))
}

/// What one connection read.
struct Reading {
    pages: Stats,
    events: u64,
    seconds: f64,
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
