//! `bench watch`: many watchers of what is being written, each on a connection of its own.
//!
//! ```text
//! writer ── write i, when it is due ──► receipt: acked[i] = now
//! watcher ── feed, page after page ──► batch: key and version say which write it is
//!                                        └─► how long after its receipt was it here?
//! ```
//! What is counted are deliveries: one write that one watcher got. Their latencies begin with the
//! write's receipt; one that is here before its receipt took no time. Every watcher must get every
//! write of its topic, of each aggregate in the order of versions: what is missing, or comes in
//! another order, is an error.
//!
//! Open loop: writes come at `--rate`, so the load on watchers is what was asked for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use celeriant_client::Error;
use celeriant_schema::wire::{Outbound, decode_outbound};
use celeriant_schema::{FeedBatch, FeedQuery, Response, Selector};
use serde_json::Value;
use tokio::sync::Barrier;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout_at;

use super::super::args::Bench;
use super::super::failure::Failure;
use super::Target;
use super::pace::Pace;
use super::server::{Usage, park_until};
use super::stats::{self, Shared, Stats};
use super::template::{self, Template};
use super::wire::{Feed, Wire, protocol};

/// A page that would be empty waits so long.
const WAIT_MS: u32 = 5_000;
/// How long what was written last may take to be everywhere.
const DRAIN: Duration = Duration::from_secs(10);
/// Writes a second, if nothing is said.
const RATE: f64 = 100.0;

/// What everybody shares.
struct Scene {
    bench: Bench,
    target: Target,
    name: String,
    topics: usize,
    /// A multiple of the topics: write `i` is of topic `i % topics`, and goes to aggregate
    /// `i % aggregates`.
    aggregates: usize,
    writes: usize,
    rate: f64,
    /// Every watcher has its cursor, and the writer is connected.
    ready: Barrier,
    started: OnceLock<Instant>,
    /// Of each write: when its receipt came, in ns since the start; 0 = not yet.
    acked: Vec<AtomicU64>,
}

/// Watches; returns the result and what the server used.
pub(super) fn run(bench: &Bench, target: Target, name: &str) -> Result<(Value, Value), Failure> {
    let scene = Arc::new(Scene::new(bench, target, name));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| alone(write(&scene)));
        let watching = |thread| {
            let scene = Arc::clone(&scene);
            scope.spawn(move || alone(watch_some(scene, thread)))
        };
        let watching: Vec<_> = (0..bench.threads).map(watching).collect();
        let from = *scene.started.wait() + bench.warmup;
        park_until(from);
        let before = bench.server_pid.map(Usage::of).transpose()?;
        park_until(from + bench.duration);
        let after = bench.server_pid.map(Usage::of).transpose()?;
        let panicked = |_| Failure::Load("a thread panicked".into());
        let written = writer.join().map_err(panicked)??;
        let mut delivered = Stats::new();
        for thread in watching {
            delivered.add(thread.join().map_err(panicked)??);
        }
        let mut result = delivered.to_json(bench.duration.as_secs_f64());
        let written = written.to_json(bench.duration.as_secs_f64());
        for name in ["per_second", "p50_ms", "p99_ms"] {
            result[format!("write_{name}")] = written[name].clone();
        }
        let server = before.zip(after).map(|(before, after)| after.since(&before));
        match delivered.errors_text() {
            errors if errors.is_empty() => Ok((result, server.unwrap_or(Value::Null))),
            errors => Err(Failure::Load(format!("{errors:?}"))),
        }
    })
}

impl Scene {
    fn new(bench: &Bench, target: Target, name: &str) -> Self {
        let (topics, rate) = (bench.topics, bench.rate.unwrap_or(RATE));
        let seconds = (bench.warmup + bench.duration).as_secs_f64();
        let writes = (rate * seconds) as usize;
        let aggregates = super::aggregates(bench).next_multiple_of(topics);
        Self {
            bench: bench.clone(),
            target,
            name: name.to_owned(),
            topics,
            aggregates,
            writes,
            rate,
            ready: Barrier::new(bench.connections + 1),
            started: OnceLock::new(),
            acked: (0..writes).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn kind(&self, topic: usize) -> String {
        format!("{}-{topic}", self.name)
    }

    fn writes_of(&self, topic: usize) -> usize {
        (self.writes + self.topics - 1 - topic) / self.topics
    }

    /// Waits for everybody; returns when the first write is due.
    async fn start(&self) -> Instant {
        self.ready.wait().await;
        *self.started.get_or_init(Instant::now)
    }

    /// Those that count.
    fn window(&self, started: Instant) -> std::ops::Range<Instant> {
        let from = started + self.bench.warmup;
        from..from + self.bench.duration
    }
}

fn alone<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(work))
}

/// Writes all of it, each when it is due or its aggregate's last write has its receipt.
async fn write(scene: &Scene) -> Result<Stats, Failure> {
    let (bench, stats) = (&scene.bench, stats::shared());
    let connected = Wire::connect(&scene.target).await;
    let appending =
        |topic| Template::appending_to_type(&scene.kind(topic), &scene.name, bench.payload);
    let templates: Result<Vec<_>, _> = (0..scene.topics).map(appending).collect();
    let started = scene.start().await;
    let ((mut wire, _), mut templates) = (connected?, templates.map_err(Error::from)?);
    let window = scene.window(started);
    let mut pace = Pace::new(started, scene.rate, 0, 1)?;
    let mut due_at = VecDeque::new();
    let (mut sent, mut answered) = (0, vec![0_u64; scene.aggregates]);
    let mut sent_at = vec![started; scene.writes];
    let mut receipts = 0;
    while receipts < scene.writes {
        while let Some(due) = pace.take_due(Instant::now()) {
            due_at.push_back(due);
        }
        while sent < scene.writes && !due_at.is_empty() {
            let (number, round) = (sent % scene.aggregates, (sent / scene.aggregates) as u64);
            if answered[number] < round {
                break;
            }
            sent_at[sent] = due_at.pop_front().unwrap_or(started);
            let template = &mut templates[number % scene.topics];
            template.put(sent as u64 + 1, &[(number, round)], &mut wire.output);
            sent += 1;
        }
        tokio::select! {
            biased;
            moved = wire.exchange() => moved?,
            due = pace.wait(), if sent < scene.writes => due?,
            () = tokio::time::sleep_until((window.end + DRAIN).into()) => break,
        }
        while let Some(frame) = wire.next_frame()? {
            let id = match decode_outbound(wire.copy(&frame)) {
                Ok(Outbound::Response { id, response: Response::Receipt(_) }) => id,
                Ok(other) => return Err(Failure::Load(format!("writing: {other:?}"))),
                Err(error) => return Err(protocol(&error.to_string())),
            };
            let (now, at) = (Instant::now(), id as usize - 1);
            scene.acked[at].store((now - started).as_nanos() as u64, Ordering::Release);
            answered[at % scene.aggregates] += 1;
            receipts += 1;
            if window.contains(&sent_at[at]) {
                stats.record(now - sent_at[at]);
            }
        }
    }
    (receipts..scene.writes).for_each(|_| stats.error("NoAnswer"));
    Ok(stats.take())
}

/// The watchers of one thread.
async fn watch_some(scene: Arc<Scene>, thread: usize) -> Result<Stats, Failure> {
    let stats = stats::shared();
    let mut watchers = JoinSet::new();
    for number in (thread..scene.bench.connections).step_by(scene.bench.threads) {
        watchers.spawn_local(watch(Arc::clone(&scene), number, stats.clone()));
    }
    while let Some(ended) = watchers.join_next().await {
        ended.map_err(std::io::Error::other)??;
    }
    Ok(stats.take())
}

async fn watch(scene: Arc<Scene>, number: usize, stats: Shared) -> Result<(), Failure> {
    let watcher = Watcher::begin(&scene, number, stats).await;
    // Also when it failed: the others wait for everybody.
    let started = scene.start().await;
    let mut watcher = watcher?;
    let end = scene.window(started).end + DRAIN;
    let mut missing = scene.writes_of(watcher.topic);
    while missing > 0 {
        let Ok(page) = timeout_at(end.into(), watcher.feed.page()).await else { break };
        for batch in page?.batches {
            watcher.take(&batch, started)?;
            missing -= 1;
        }
    }
    (0..missing).for_each(|_| watcher.stats.error("NotDelivered"));
    Ok(())
}

struct Watcher<'a> {
    scene: &'a Scene,
    topic: usize,
    feed: Feed,
    /// Of each aggregate of the topic: the version that came last.
    versions: Vec<u32>,
    stats: Shared,
}

impl<'a> Watcher<'a> {
    async fn begin(scene: &'a Scene, number: usize, stats: Shared) -> Result<Self, Failure> {
        let (wire, _) = Wire::connect(&scene.target).await?;
        let topic = number % scene.topics;
        let selector = Selector::of_type(template::ORG, scene.kind(topic));
        let query = FeedQuery { selector, wait_ms: WAIT_MS, ..FeedQuery::default() };
        let versions = vec![0; scene.aggregates / scene.topics];
        let mut feed = Feed::new(wire, query);
        feed.page().await?;
        Ok(Self { scene, topic, feed, versions, stats })
    }

    /// Which write is it, and how long did it take?
    fn take(&mut self, batch: &FeedBatch, started: Instant) -> Result<(), Failure> {
        let (scene, header) = (self.scene, &batch.batch.header);
        let number = template::number(&batch.key).filter(|number| *number < scene.aggregates);
        let number = number.ok_or_else(|| Failure::Load(format!("{} came", batch.key)))?;
        let version = header.first_version.value();
        let last = &mut self.versions[number / scene.topics];
        if version != u64::from(*last) + 1 {
            self.stats.error("OutOfOrder");
        }
        *last = version as u32;
        let write = (version as usize - 1) * scene.aggregates + number;
        let now = Instant::now();
        let acked = scene.acked.get(write).map_or(0, |acked| acked.load(Ordering::Acquire));
        if scene.window(started).contains(&now) {
            let taken = ((now - started).as_nanos() as u64).saturating_sub(acked);
            self.stats.record(Duration::from_nanos(if acked == 0 { 1 } else { taken }));
        }
        Ok(())
    }
}
