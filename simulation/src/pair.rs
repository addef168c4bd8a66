//! One run of a pair: two whole nodes, the cable between them, the bucket, clients, what goes
//! wrong, and the verdict.
//!
//! ```text
//!   clients ──► wire of a ──► node a ──► disks of a ┐
//!      │   └──► wire of b ──► node b ──► disks of b ┼──► overseer
//!      │                       │ └── cable ── │     │
//!      ▼                       └──── cloud ───┘ ────┘
//!    ledger ──── at rest ────► oracle, invariants ────► verdict
//! ```
//! The pair is founded in peace; then clients work and faults happen; then everything is healed,
//! writes must resume, every client must come to its end, and everything must be in two places;
//! last, it is read back from both nodes, after a restart of each and a hand-over.

pub mod betrayal;
mod compaction;
mod disks;
mod inject;
mod network;
mod rest;
pub mod safe;
pub mod seams;
mod site;
mod supervise;

use std::collections::BTreeMap;
use std::sync::Arc;

use celeriant_actors::election;
use celeriant_actors::election::register::Set;
use celeriant_actors::election::vocabulary::May;
use celeriant_schema::ClusterId;
use tokio::task::JoinHandle;

use self::betrayal::Betrayal;
use self::inject::Heal;
use self::network::Network;
use self::safe::Safe;
use self::site::{FEATURES, Grounds, Site, Stage};
use crate::air::Air;
use crate::bucket::Cloud;
use crate::client::{Surroundings, set_to_work};
use crate::disk::Observer;
use crate::fault::Reached;
use crate::invariants::{Violations, i13_resumes};
use crate::ledger::Ledger;
use crate::link::{Behaviour, Cable};
use crate::machine::{Machine, identity};
use crate::oracle::Excuses;
use crate::overseer::Overseer;
use crate::rng::Rng;
use crate::scenario::{PairShape, Scenario};
use crate::timeline::{Micros, Timeline};
use crate::trace::Trace;
use crate::wire::Wire;
use crate::world::Outcome;

/// How long the founding may take, in µs.
const FOUNDING_MAX: Micros = 60_000_000;

/// Everything of one run.
pub(crate) struct World {
    scenario: Scenario,
    shape: PairShape,
    timeline: Timeline,
    trace: Trace,
    rng: Rng,
    sites: Vec<Site>,
    grounds: Grounds,
    ledger: Ledger,
    overseer: Overseer,
    violations: Violations,
    reached: Reached,
    excuses: Excuses,
    /// What will be repaired, and when.
    heals: BTreeMap<(Micros, u64), Heal>,
    faults_injected: u64,
    bursts: Vec<JoinHandle<()>>,
}

impl World {
    pub(crate) fn new(
        scenario: &Scenario,
        shape: &PairShape,
        timeline: &Timeline,
        trace: &Trace,
    ) -> Self {
        let rng = Rng::new(scenario.seed).fork("pair");
        let (violations, reached) = (Violations::default(), Reached::default());
        let cluster = ClusterId::new(u128::from(rng.fork("cluster").number()));
        let frame_bytes_max = crate::machine::log_settings(&scenario.shape).frame_bytes_max();
        let overseer = Overseer::new(cluster, frame_bytes_max, timeline, &violations, &reached);
        let ledger = Ledger::default();
        let network = match shape.quic {
            true => quic(&rng, timeline, &reached),
            false => Network::Cable(Cable::new(
                Behaviour::default(),
                rng.fork("cable"),
                timeline.clone(),
                trace.clone(),
                reached.clone(),
            )),
        };
        let cloud =
            Cloud::new(rng.fork("cloud"), Some(timeline.clone()), trace.clone(), reached.clone());
        let eyes = overseer.clone();
        cloud.observe(Arc::new(move |change| eyes.changed(change)));
        let rejoin = (shape.rejoin_ms.0 * 1_000, shape.rejoin_ms.1 * 1_000);
        let election = election::Settings { rejoin, ..shape.timing.settings() };
        let replicator = Default::default();
        let mut world = Self {
            scenario: scenario.clone(),
            shape: shape.clone(),
            timeline: timeline.clone(),
            trace: trace.clone(),
            rng: rng.fork("world"),
            sites: Vec::new(),
            grounds: Grounds {
                network,
                cloud,
                overseer: overseer.clone(),
                election,
                replicator,
                betrayal: shape.betrayal,
            },
            ledger,
            overseer,
            violations,
            reached,
            excuses: Excuses {
                // While nothing can be committed, what is unanswered grows to the budget.
                overload: scenario.shape.admission_bytes < 4 << 20,
                outage: true,
                rot: false,
                clock: false,
            },
            heals: BTreeMap::new(),
            faults_injected: 0,
            bursts: Vec::new(),
        };
        if shape.betrayal == Some(Betrayal::ConditionsIgnored) {
            world.grounds.cloud.ail(|ailments| ailments.heedless = true);
        }
        world.sites = (0..2).map(|index| world.site(index, cluster, &rng)).collect();
        world
    }

    fn site(&self, index: usize, cluster: ClusterId, rng: &Rng) -> Site {
        let rng = rng.fork(&format!("node {index}"));
        let overseer = &self.overseer;
        let observer = |shard: usize| -> Observer {
            let (overseer, identity) = (overseer.clone(), identity(cluster, shard));
            Arc::new(move |name, offset, bytes| {
                overseer.durable(index, &identity, (name, offset, bytes));
            })
        };
        let shape = &self.scenario.shape;
        let node = (index, &rng);
        let machine =
            Machine::of_node(shape, cluster, node, &self.timeline, &self.trace, &observer);
        if self.shape.betrayal == Some(Betrayal::LyingDisks) {
            machine.medias.iter().for_each(|media| media.ail(|ailments| ailments.lies = true));
        }
        let safe = Safe::new(index, rng.fork("safe"), Arc::clone(&machine.power), overseer);
        let wire = Wire::new(
            index,
            rng.fork("wire"),
            self.timeline.clone(),
            self.trace.clone(),
            self.ledger.clone(),
            Arc::new(overseer.clone()),
            self.reached.clone(),
        );
        Site {
            index,
            machine,
            certified: safe.store(),
            copied: None,
            scars: Vec::new(),
            damaged: Arc::default(),
            address: self.grounds.network.address_of(index),
            safe,
            wire,
            stage: Stage::Down { until: Micros::MAX },
            may: May::default(),
            seen_ailments: 0,
            starts_failed: 0,
            stays_down: false,
            trips: Vec::new(),
            rng: rng.fork("site"),
        }
    }

    pub(crate) async fn run(mut self) -> Outcome {
        self.found().await;
        let begun = self.timeline.now();
        let until = begun + self.scenario.duration_ms * 1000;
        let clients = set_to_work(self.scenario.seed, &self.surroundings(until));
        self.overseer.measure_pauses();
        self.work(begun, until).await;
        if let Some(pause) = self.shape.pause_ms_max {
            i13_resumes::check_pause(
                self.overseer.longest_pause(),
                pause * 1_000,
                &self.violations,
            );
        }
        self.heal_all();
        self.trace.note(&[0], format_args!("{} quiet", self.timeline.now()));
        self.come_to_rest(clients).await;
        self.compact_at_rest().await;
        let history = self.prove_what_is_there().await;
        self.judge(history)
    }

    /// The first node makes the cluster, the second joins it, and both are in sync.
    async fn found(&mut self) {
        self.sites[0].may = May { create: Some(FEATURES.max), join: false };
        self.sites[1].may = May { create: None, join: true };
        for site in &mut self.sites {
            site.begin(&self.grounds);
        }
        let deadline = self.timeline.now() + FOUNDING_MAX;
        while !self.is_in_sync() {
            let now = self.timeline.now();
            if now >= deadline {
                let register = self.overseer.register();
                return self.violations.add("founding", format_args!("no pair: {register:?}"));
            }
            self.supervise(now + 50_000).await;
        }
        self.sites.iter_mut().for_each(|site| site.may = May::default());
        self.trace.note(&[10], format_args!("{} a pair", self.timeline.now()));
    }

    /// Both nodes are there, and the register says that both hold everything.
    fn is_in_sync(&self) -> bool {
        let paired = |config: celeriant_actors::election::register::Config| {
            matches!(config.active.set, Set::Pair(..)) && config.epoch == config.active.epoch
        };
        self.overseer.register().is_some_and(paired) && self.sites.iter().all(Site::is_up)
    }

    fn surroundings(&self, until: Micros) -> Surroundings {
        Surroundings {
            timeline: self.timeline.clone(),
            wires: self.sites.iter().map(|site| site.wire.clone()).collect(),
            ledger: self.ledger.clone(),
            reached: self.reached.clone(),
            workload: self.scenario.workload.clone(),
            until,
        }
    }
}

/// The real link, over datagrams.
fn quic(rng: &Rng, timeline: &Timeline, reached: &Reached) -> Network {
    let air = Air::new(rng.fork("air"), timeline.clone(), reached.clone());
    match Network::of_datagrams(air) {
        Ok(network) => network,
        Err(error) => panic!("no certificates: {error}"),
    }
}

#[cfg(test)]
mod pair_test;
