//! `bench`: puts load on a store and measures, with as little of the machine as possible.
//!
//! ```text
//! main ── threads ── one task a connection ── connection: requests, answers, a buffer each
//!   │                        │                template: a request encoded once, then only patched
//!   ├── progress, a second   └── pace         open loop: when each request is due
//!   ├── server, its CPU      └── stats        histogram of a thread's latencies
//!   └── stream, catch_up: long aggregates and the feed, read page by page
//!       watch: what is written, delivered to many
//! ```
//! Speaks the wire protocol directly: client and server share the machine, and whatever the client
//! spends on decoding, the server cannot spend on serving. Answers are looked at by their kind; a
//! sample is decoded and checked in full.
//!
//! Closed loop: every slot of every connection sends its next request when the last one is
//! answered. Open loop: requests are due at fixed times whether or not earlier ones were answered,
//! and latency counts from when a request was due, so that a stall is charged to all that waited
//! for it.

mod catch_up;
mod connection;
mod pace;
mod server;
mod stats;
mod stream;
mod template;
mod watch;
mod wire;

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use celeriant_client::{Error, Pipe, Tls, Url};
use celeriant_schema::limits::{BATCH_EVENTS_MAX, CONNECTION_REQUESTS_MAX, PAYLOAD_BYTES_MAX};
use clap::ValueEnum;
use serde_json::json;
use tokio::sync::Barrier;
use tokio::task::LocalSet;

use self::server::Watch;
use self::stats::Stats;
use super::args::{Bench, Global, Work};
use super::failure::Failure;
use super::output::Output;

/// What all connections of a run share.
pub(super) struct Run {
    target: Target,
    bench: Bench,
    /// In the keys of this run, so that it meets no aggregates of another.
    name: String,
    aggregates: usize,
    /// Everybody is connected and has prepared what will be read.
    prepared: Barrier,
    started: OnceLock<Instant>,
    done: AtomicU64,
    errors: AtomicU64,
}

/// Where the load goes: the first node of a URL.
pub(super) struct Target {
    address: String,
    tls: Option<Tls>,
}

impl Target {
    fn new(global: &Global) -> Result<Self, Failure> {
        let url: Url = global.url.parse()?;
        let tls = url.tls(global.tls()?.as_ref())?;
        let address = url.addresses().first().cloned().unwrap_or_default();
        Ok(Self { address, tls })
    }

    async fn dial(&self) -> Result<Box<dyn Pipe>, Failure> {
        let dialed = celeriant_client::dial(&self.address, self.tls.as_ref()).await;
        dialed.map_err(|error| {
            let (address, reason) = (self.address.clone(), error.to_string());
            Error::Connect { address, reason }.into()
        })
    }
}

/// Runs the load and prints the result; fails when some of it failed.
pub(super) fn run(bench: Bench, global: &Global, output: &Output) -> Result<(), Failure> {
    check(&bench)?;
    if let Some(measured) = run_pages(&bench, global) {
        return report_pages(&bench, measured?, output);
    }
    let run = Arc::new(Run::new(bench, global)?);
    let watch = run.bench.server_pid.map(|pid| Watch::start(pid, Arc::clone(&run))).transpose()?;
    let (sender, results) = mpsc::channel();
    for index in 0..run.bench.threads {
        let (run, sender) = (Arc::clone(&run), sender.clone());
        std::thread::Builder::new()
            .name(format!("bench-{index}"))
            .spawn(move || sender.send(run_thread(&run, index)))?;
    }
    drop(sender);
    let mut progress = Progress::new(Arc::clone(&run));
    let mut stats = Stats::new();
    loop {
        match results.recv_timeout(Duration::from_secs(1)) {
            Ok(result) => stats.add(result?),
            Err(mpsc::RecvTimeoutError::Timeout) => progress.show(),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    progress.end();
    let server = watch.map_or(Ok(serde_json::Value::Null), Watch::result)?;
    report(&run, &stats, &server, output)
}

/// Result, and what the server used.
type Measured = (serde_json::Value, serde_json::Value);

/// Work that reads pages of many batches; `None`: it is of another kind.
fn run_pages(bench: &Bench, global: &Global) -> Option<Result<Measured, Failure>> {
    let target = Target::new(global);
    match bench.work {
        Work::Stream => Some(target.and_then(|at| stream::run(bench, &at, &run_name()))),
        Work::Watch => Some(target.and_then(|at| watch::run(bench, at, &run_name()))),
        Work::CatchUp => Some(target.and_then(|at| catch_up::run(bench, &at))),
        Work::Write | Work::Read | Work::Transfer => None,
    }
}

fn report_pages(bench: &Bench, measured: Measured, output: &Output) -> Result<(), Failure> {
    let (result, server) = measured;
    let report = json!({
        "work": name_of(bench.work), "connections": bench.connections, "events": bench.events,
        "payload": bench.payload, "rate": bench.rate, "topics": bench.topics,
        "client_cpu_seconds": stats::cpu_seconds(), "server": server, "result": result,
    });
    if let Some(path) = &bench.out {
        std::fs::write(path, format!("{report:#}\n"))?;
    }
    print(&result, output)
}

/// As on the command line.
fn name_of(work: Work) -> String {
    work.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// In the keys of a run, so that it meets no aggregates of another.
fn run_name() -> String {
    format!("{:08x}", uuid::Uuid::new_v4().as_fields().0)
}

/// Every flag within its bounds, whatever the work.
fn check(bench: &Bench) -> Result<(), Failure> {
    // A stream appends its events batch by batch.
    let events_max = if bench.work == Work::Stream { usize::MAX } else { BATCH_EVENTS_MAX };
    let bounds = [
        ("--connections", bench.connections, 1, 60_000),
        ("--pipeline", bench.pipeline, 1, CONNECTION_REQUESTS_MAX),
        ("--threads", bench.threads, 1, bench.connections.max(1)),
        ("--payload", bench.payload, 2, PAYLOAD_BYTES_MAX),
        ("--events", bench.events, 1, events_max),
        ("--aggregates", aggregates(bench), aggregates_min(bench), template::NUMBER_MAX),
        ("--topics", bench.topics, 1, 10_000),
    ];
    let outside = bounds.iter().find(|(_, value, min, max)| value < min || value > max);
    if let Some((flag, value, min, max)) = outside {
        let why = format!("{flag} {value}: must be {min} to {max} with the other flags given");
        return Err(Failure::usage(why));
    }
    if bench.work == Work::Watch && bench.rate.is_some_and(|rate| rate > 1e6) {
        return Err(Failure::usage("--rate: at most 1,000,000 writes a second are watched"));
    }
    if bench.duration.is_zero() {
        return Err(Failure::usage("--duration: must be longer than nothing"));
    }
    if bench.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        return Err(Failure::usage("--rate: must be above 0"));
    }
    Ok(())
}

/// Enough for every request in flight.
fn aggregates_min(bench: &Bench) -> usize {
    let per_request = match bench.work {
        Work::Transfer => 2,
        // These do not write, or one connection does for all.
        Work::Watch | Work::CatchUp => return 1,
        Work::Write | Work::Read | Work::Stream => 1,
    };
    bench.connections.saturating_mul(bench.pipeline).saturating_mul(per_request)
}

fn aggregates(bench: &Bench) -> usize {
    let needed = aggregates_min(bench);
    let default = match bench.work {
        Work::Read | Work::Watch => needed.max(1_000),
        _ => needed,
    };
    bench.aggregates.unwrap_or(default)
}

impl Run {
    /// Of a bench that has been checked.
    fn new(bench: Bench, global: &Global) -> Result<Self, Failure> {
        Ok(Self {
            target: Target::new(global)?,
            prepared: Barrier::new(bench.connections),
            name: run_name(),
            aggregates: aggregates(&bench),
            bench,
            started: OnceLock::new(),
            done: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        })
    }

    /// The numbers of the aggregates that belong to a connection.
    fn share(&self, connection: usize) -> std::ops::Range<usize> {
        let at = |connection| connection * self.aggregates / self.bench.connections;
        at(connection)..at(connection + 1)
    }
}

fn run_thread(run: &Arc<Run>, thread: usize) -> Result<Stats, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stats = stats::shared();
    let tasks = LocalSet::new();
    let mine = (0..run.bench.connections).filter(|n| n % run.bench.threads == thread);
    let handles: Vec<_> = mine
        .map(|n| tasks.spawn_local(connection::run(Arc::clone(run), n, stats.clone())))
        .collect();
    let first_failure = runtime.block_on(tasks.run_until(async {
        let mut first = None;
        for handle in handles {
            let result = handle.await.map_err(std::io::Error::other);
            if let Err(failure) = result.map_err(Failure::from).and_then(|result| result) {
                run.errors.fetch_add(1, Ordering::Relaxed);
                first.get_or_insert(failure);
            }
        }
        first
    }));
    let stats = stats.take();
    match first_failure {
        // A connection that broke half-way is an error among results; none at all is a failure.
        Some(failure) if stats.operations() == 0 => Err(failure),
        Some(failure) => {
            tracing::debug!(%failure, "a connection failed");
            Ok(stats.with_error(&failure.to_string()))
        }
        None => Ok(stats),
    }
}

/// A line a second on stderr.
struct Progress {
    run: Arc<Run>,
    shown: u64,
    at: Instant,
    in_place: bool,
}

impl Progress {
    fn new(run: Arc<Run>) -> Self {
        Self { run, shown: 0, at: Instant::now(), in_place: std::io::stderr().is_terminal() }
    }

    fn show(&mut self) {
        let Some(started) = self.run.started.get() else { return };
        let done = self.run.done.load(Ordering::Relaxed);
        let rate = (done - self.shown) as f64 / self.at.elapsed().as_secs_f64();
        (self.shown, self.at) = (done, Instant::now());
        let errors = self.run.errors.load(Ordering::Relaxed);
        let seconds = started.elapsed().as_secs();
        let end = if self.in_place { "\r" } else { "\n" };
        let line = format!("{seconds:>4} s  {rate:>10.0}/s  {errors} errors   {end}");
        // Without a stderr there is nobody to show progress to.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn end(&self) {
        if self.in_place {
            let _ = std::io::stderr().write_all(b"\n");
        }
    }
}

fn report(
    run: &Run,
    stats: &Stats,
    server: &serde_json::Value,
    output: &Output,
) -> Result<(), Failure> {
    let seconds = run.bench.duration.as_secs_f64();
    let result = stats.to_json(seconds);
    let errors = stats.errors_text();
    if let Some(path) = &run.bench.out {
        let bench = &run.bench;
        let report = json!({
            "work": name_of(bench.work),
            "connections": bench.connections, "pipeline": bench.pipeline,
            "aggregates": run.aggregates, "payload": bench.payload, "threads": bench.threads,
            "rate": bench.rate, "client_cpu_seconds": stats::cpu_seconds(),
            "record_bytes": template::record_bytes(bench.work, &run.name, bench.payload),
            "server": server, "errors_by_name": errors, "result": result,
        });
        std::fs::write(path, format!("{report:#}\n"))?;
    }
    print(&result, output)?;
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Failure::Load(format!("{errors:?}"))),
    }
}

fn print(result: &serde_json::Value, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        output.json(result)?;
    } else {
        let fields = result.as_object().into_iter().flatten();
        let text = |value: &serde_json::Value| match value.as_f64() {
            Some(number) if value.is_f64() => format!("{number:.3}"),
            _ => value.to_string(),
        };
        let fields: Vec<(&str, String)> = fields.map(|(k, v)| (k.as_str(), text(v))).collect();
        output.fields(&fields)?;
        output.line(&format!("client CPU  {:.1} s, warm-up included", stats::cpu_seconds()))?;
    }
    Ok(())
}
