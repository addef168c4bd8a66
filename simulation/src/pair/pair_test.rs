//! Whole runs of a pair: they hold, and they repeat.

use celeriant_actors::chronicle::Chronicle;
use celeriant_actors::election::register::Process;
use celeriant_schema::{BootId, StoreId};

use crate::fault::Kind;
use crate::scenario::{Profile, Scenario};
use crate::trace::Trace;
use crate::world::{Outcome, run};

/// A seed, cut to a length that an unoptimised build can afford.
fn short(seed: u64, profile: Profile) -> Scenario {
    let mut scenario = Scenario::of_pair_seed(seed, profile);
    scenario.duration_ms = 1_500;
    scenario.workload.think_us = 20_000;
    scenario.faults.retain(|fault| fault.at < 1_500_000);
    scenario
}

fn assert_holds(scenario: &Scenario) -> Outcome {
    let outcome = run(scenario, &Trace::default());
    let list: Vec<String> = outcome.violations.iter().map(ToString::to_string).collect();
    assert!(list.is_empty(), "seed {}: {}", scenario.seed, list.join("\n"));
    outcome
}

#[test]
fn calm_pairs_hold() {
    for seed in 1..4 {
        assert!(assert_holds(&short(seed, Profile::Calm)).events > 0);
    }
}

#[test]
fn pairs_hold_with_quic_itself_between_them() {
    for seed in 1..4 {
        let mut scenario = short(seed, Profile::Swarm);
        scenario.pair.as_mut().expect("a pair").quic = true;
        let outcome = assert_holds(&scenario);
        assert!(outcome.reached.counts().contains_key("datagram sent") && outcome.events > 0);
    }
}

#[test]
fn what_a_node_records_is_a_scenario() {
    let peer = |boot| Process { store: StoreId::new(2), boot: BootId::new(boot) };
    let chronicle = Chronicle::default();
    chronicle.met(1_000, peer(1));
    chronicle.parted(2_000);
    chronicle.met(600_000, peer(1));
    chronicle.bucket(700_000, false);
    chronicle.bucket(800_000, true);
    chronicle.handed_over(900_000);
    chronicle.parted(950_000);
    chronicle.met(1_900_000, peer(2));
    let scenario: Scenario = toml::from_str(&chronicle.scenario(2_000_000)).expect("a scenario");
    let kinds: Vec<Kind> = scenario.faults.iter().map(|fault| fault.kind).collect();
    assert_eq!(kinds, [Kind::LinkPartition, Kind::BucketCutTo, Kind::HandOver, Kind::StayDown]);
    assert!(assert_holds(&scenario).events > 0);
}

#[test]
fn a_seed_of_a_pair_gives_the_same_trace_every_time() {
    let scenario = short(5, Profile::Swarm);
    let traces = [(); 2].map(|()| run(&scenario, &Trace::default()));
    assert_eq!(traces[0].trace_hash, traces[1].trace_hash);
    assert_eq!(traces[0].trace_entries, traces[1].trace_entries);
}
