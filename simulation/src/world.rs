//! One run: a node on a simulated machine, its clients, what goes wrong, and the verdict.
//!
//! ```text
//!   clients ──► wire ──► (saboteur) ──► node ──► disks        one thread, one seed, virtual time
//!      │          │                                │
//!      ▼          ▼                                ▼
//!    ledger    watcher  ◄──── durable writes ──────┘
//!      └──── at rest ────► oracle, invariants ────► verdict
//! ```
//! First clients work and faults happen; then everything is healed, every client must come to its
//! end, and the whole store is read back, stopped, started and read back again. What is in its logs
//! is what it is judged by.

mod inject;
mod readback;
mod supervise;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use celeriant_actors::node::Node;
use tokio::task::JoinHandle;

use crate::client::{Surroundings, set_to_work};
use crate::fault::Reached;
use crate::history::Shown;
use crate::invariants::{Violation, Violations, i22_caps};
use crate::ledger::Ledger;
use crate::machine::Machine;
use crate::operator::Holds;
use crate::oracle::{Evidence, Excuses, check_final};
use crate::pair;
use crate::rng::Rng;
use crate::sabotage::Sabotage;
use crate::scenario::{Expectation, Scenario};
use crate::timeline::{Micros, Timeline};
use crate::trace::Trace;
use crate::watcher::Watcher;
use crate::wire::Wire;
use inject::Heal;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Everything that must not be.
    pub violations: Vec<Violation>,
    /// Of everything that happened.
    pub trace_hash: u64,
    /// How many happenings that were.
    pub trace_entries: u64,
    /// Virtual time, in µs.
    pub simulated: Micros,
    /// Requests that clients made, and how often they sent them.
    pub operations: (u64, u64),
    /// Faults that were injected.
    pub faults: u64,
    /// Events in the store in the end.
    pub events: u64,
    /// Disk operations.
    pub disk_operations: u64,
    /// How often each thing was reached.
    pub reached: Reached,
}

/// The run of a scenario that decided whether it comes to what it is to come to.
#[derive(Debug)]
pub struct Verdict {
    /// With which seed.
    pub seed: u64,
    /// What it came to.
    pub outcome: Outcome,
    /// And that is what was expected.
    pub as_expected: bool,
}

/// Runs a scenario once; one that is to be violated, with as many seeds as it says until it is.
pub fn run_until_expected(
    scenario: &Scenario,
    mut run: impl FnMut(&Scenario) -> Outcome,
) -> Verdict {
    let mut scenario = scenario.clone();
    let is_to_fail = scenario.expect == Expectation::Violated;
    let tries = if is_to_fail { scenario.within.max(1) } else { 1 };
    let last = scenario.seed + tries - 1;
    loop {
        let outcome = run(&scenario);
        let as_expected = outcome.violations.is_empty() != is_to_fail;
        if as_expected || scenario.seed == last {
            return Verdict { seed: scenario.seed, outcome, as_expected };
        }
        scenario.seed += 1;
    }
}

/// Runs a scenario to its end.
pub fn run(scenario: &Scenario, trace: &Trace) -> Outcome {
    let timeline = Timeline::default();
    let runtime = timeline.runtime();
    runtime.block_on(async {
        let driver = spawn(timeline.clone().drive());
        tokio::task::yield_now().await;
        let outcome = match &scenario.pair {
            Some(shape) => pair::World::new(scenario, shape, &timeline, trace).run().await,
            None => World::new(scenario, &timeline, trace).run().await,
        };
        driver.abort();
        outcome
    })
}

/// Everything of one run.
struct World {
    scenario: Scenario,
    timeline: Timeline,
    trace: Trace,
    rng: Rng,
    machine: Machine,
    wire: Wire,
    ledger: Ledger,
    watcher: Watcher,
    violations: Violations,
    reached: Reached,
    node: Option<Node>,
    excuses: Excuses,
    /// What will be repaired, and when.
    heals: BTreeMap<(Micros, u64), Heal>,
    /// Shards whose damage was put right under the process that runs: it may have read some.
    mended: BTreeSet<usize>,
    faults_injected: u64,
    /// Disk errors that nobody has answered for yet: a node may stop for each.
    seen_ailments: u64,
    /// What clients and operators do at once, besides.
    bursts: Vec<JoinHandle<()>>,
    /// Something is on a disk that nobody wrote there.
    damaged: Arc<AtomicBool>,
}

/// How long clients may take to come to their end once nothing is wrong any more, in µs.
const QUIET_MAX: Micros = 120_000_000;
/// How long an order to compact may take then, in µs.
const COMPACTION_MAX: Micros = 60_000_000;
/// Client index of the one that reads everything back.
const READER: usize = 9_999;

impl World {
    fn new(scenario: &Scenario, timeline: &Timeline, trace: &Trace) -> Self {
        let rng = Rng::new(scenario.seed);
        let violations = Violations::default();
        let frame_bytes_max = crate::machine::log_settings(&scenario.shape).frame_bytes_max();
        let watcher = Watcher::new(violations.clone(), frame_bytes_max);
        let machine = Machine::new(&scenario.shape, &rng, timeline, trace, &watcher);
        let (ledger, reached) = (Ledger::default(), Reached::default());
        let wire = Wire::new(
            0,
            rng.fork("wire"),
            timeline.clone(),
            trace.clone(),
            ledger.clone(),
            Arc::new(watcher.clone()),
            reached.clone(),
        );
        if scenario.sabotage == Some(Sabotage::LyingDisks) {
            machine.medias.iter().for_each(|media| media.ail(|ailments| ailments.lies = true));
        }
        // Small budgets are part of the shape: clients may fill them.
        let overload = scenario.shape.admission_bytes < 1 << 20;
        Self {
            scenario: scenario.clone(),
            timeline: timeline.clone(),
            trace: trace.clone(),
            rng: rng.fork("world"),
            machine,
            wire,
            ledger,
            watcher,
            violations,
            reached,
            node: None,
            excuses: Excuses { overload, ..Excuses::default() },
            heals: BTreeMap::new(),
            mended: BTreeSet::new(),
            faults_injected: 0,
            seen_ailments: 0,
            bursts: Vec::new(),
            damaged: Arc::default(),
        }
    }

    async fn run(mut self) -> Outcome {
        let until = self.scenario.duration_ms * 1000;
        self.start_node().await;
        let clients = set_to_work(self.scenario.seed, &self.surroundings(until));
        self.work(until).await;
        self.heal_all();
        self.trace.note(&[0], format_args!("{} quiet", self.timeline.now()));
        self.come_to_rest(clients).await;
        self.compact_at_rest().await;
        let shown = self.read_back().await;
        self.restart_cleanly().await;
        let again = self.read_back().await;
        self.judge(&shown, &again)
    }

    fn surroundings(&self, until: Micros) -> Surroundings {
        Surroundings {
            timeline: self.timeline.clone(),
            wires: vec![self.wire.clone()],
            ledger: self.ledger.clone(),
            reached: self.reached.clone(),
            workload: self.scenario.workload.clone(),
            until,
        }
    }

    /// All clients end, however long it takes within reason.
    async fn come_to_rest(&mut self, clients: Vec<JoinHandle<()>>) {
        let deadline = self.timeline.now() + QUIET_MAX;
        let bursts = std::mem::take(&mut self.bursts);
        let mut all = std::pin::pin!(async {
            for client in clients.into_iter().chain(bursts) {
                if client.await.is_err_and(|error| error.is_panic()) {
                    panic!("a client panicked");
                }
            }
        });
        tokio::select! {
            biased;
            () = &mut all => {}
            () = self.supervise(deadline) => {
                self.violations.add("liveness", "clients do not come to their end");
            }
        }
        // Answers that are under way arrive; then nothing may be owed.
        self.timeline.sleep(self.scenario.workload.patience()).await;
        let owed = self.wire.unanswered();
        self.violations.check("answers", owed.is_empty(), || {
            format!("{} requests were never answered: {owed:?}", owed.len())
        });
    }

    /// Nothing of what was taken away stays on the disks of a node that is told so.
    async fn compact_at_rest(&mut self) {
        if !self.scenario.compacts_at_rest {
            return;
        }
        let deadline = self.timeline.now() + COMPACTION_MAX;
        let compaction = spawn(self.compact(Holds::Everything, deadline));
        let done = tokio::select! {
            biased;
            done = compaction => done.unwrap_or(false),
            () = self.supervise(deadline) => false,
        };
        self.violations
            .check("liveness", done, || "an order to compact is never carried out".into());
    }

    fn judge(self, shown: &Shown, again: &Shown) -> Outcome {
        self.violations
            .check("I7", shown == again, || "a clean stop and start changed what is there".into());
        let history = self.machine.history(&self.watcher.originals(), &self.violations);
        history.check_shown(again, &self.violations);
        self.watcher.check_final(&history);
        let events = history.events();
        let shards = self.scenario.shape.shards;
        let evidence = Evidence::new(&self.ledger, history, self.excuses, shards);
        check_final(&evidence, &self.violations);
        self.check_caps();
        for media in &self.machine.medias {
            media.ail(|ailments| {
                self.reached.add("disk refused for lack of space", ailments.refused);
                self.reached.add("disk failed", ailments.reached);
            });
            self.reached.add("packed segments", media.packed());
        }
        Outcome {
            violations: self.violations.list(),
            trace_hash: self.trace.hash(),
            trace_entries: self.trace.entries(),
            simulated: self.timeline.now(),
            operations: self.ledger.counts(),
            faults: self.faults_injected,
            events,
            disk_operations: self.machine.power.operations(),
            reached: self.reached,
        }
    }

    fn check_caps(&self) {
        // Writes, a segment and an index in the making, the watermark; and reads: each request at
        // most one frame and eight ahead.
        let requests = self.scenario.workload.clients * 5 + 400;
        let cap = self.scenario.shape.write_depth + 8 + 9 * requests;
        for (shard, media) in self.machine.medias.iter().enumerate() {
            i22_caps::check_in_flight(shard, media.in_flight_max(), cap, &self.violations);
        }
    }
}

/// Spawns onto the world's runtime.
#[allow(clippy::disallowed_methods)]
pub(crate) fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future)
}

#[cfg(test)]
mod world_test;
