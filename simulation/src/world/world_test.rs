//! Whole runs: they hold, they repeat, and they fail when something is broken on purpose.

use crate::scenario::{Profile, Scenario};

use super::*;

fn outcome_of(scenario: &Scenario) -> Outcome {
    run(scenario, &Trace::default())
}

/// A seed, cut to a length that an unoptimised build can afford.
fn short(seed: u64, profile: Profile, duration_ms: u64) -> Scenario {
    let mut scenario = Scenario::of_seed(seed, profile);
    scenario.duration_ms = duration_ms;
    scenario.workload.think_us = 10_000;
    scenario.faults.retain(|fault| fault.at < duration_ms * 1000);
    scenario
}

fn assert_holds(scenario: &Scenario) -> Outcome {
    let outcome = outcome_of(scenario);
    let list: Vec<String> = outcome.violations.iter().map(ToString::to_string).collect();
    assert!(list.is_empty(), "seed {}: {}", scenario.seed, list.join("\n"));
    outcome
}

#[test]
fn calm_seeds_hold() {
    for seed in 1..5 {
        let outcome = assert_holds(&short(seed, Profile::Calm, 2_000));
        assert!(outcome.events > 0);
    }
}

#[test]
fn swarm_seeds_hold() {
    for seed in 1..13 {
        let outcome = assert_holds(&short(seed, Profile::Swarm, 1_500));
        assert!(outcome.operations.0 > 0);
    }
}

#[test]
fn a_seed_gives_the_same_trace_every_time() {
    let scenario = short(17, Profile::Swarm, 2_000);
    let (first, second) = (outcome_of(&scenario), outcome_of(&scenario));
    assert_eq!(first.trace_hash, second.trace_hash);
    assert_eq!(first.trace_entries, second.trace_entries);
    let other = outcome_of(&short(18, Profile::Swarm, 2_000));
    assert_ne!(first.trace_hash, other.trace_hash);
}

#[test]
fn a_scenario_survives_its_file() {
    let scenario = Scenario::of_seed(9, Profile::Swarm);
    let text = toml::to_string(&scenario).expect("can be written");
    assert_eq!(toml::from_str::<Scenario>(&text).expect("can be read"), scenario);
}

/// Rules of which one must be broken by each planted bug.
fn betrayed_by(sabotage: Sabotage) -> &'static [&'static str] {
    match sabotage {
        Sabotage::LyingDisks => &["I6"],
        Sabotage::LoseWrites => &["I6", "I8"],
        Sabotage::DoubleWrites | Sabotage::FalseRefusals => &["I9"],
        Sabotage::IgnoreGuards => &["I10"],
        Sabotage::IgnoreSequences => &["I9", "I10"],
        Sabotage::SplitWrites => &["I8", "I10"],
        Sabotage::StaleReads | Sabotage::ShortReads => &["reads"],
        Sabotage::WrongConflicts | Sabotage::FirstConflictOnly => &["refusals"],
        Sabotage::WrongHashes => &["I6", "I7", "I8"],
        Sabotage::ShortLists => &["lists"],
        Sabotage::StaleHeads => &["I7", "heads"],
        Sabotage::LoseAnswers => &["answers"],
    }
}

#[test]
fn every_planted_bug_is_found() {
    for sabotage in Sabotage::ALL {
        let found = (1..20).any(|seed| {
            let mut scenario = short(seed, Profile::Calm, 1_500);
            scenario.sabotage = Some(sabotage);
            let violations = outcome_of(&scenario).violations;
            violations.iter().any(|violation| betrayed_by(sabotage).contains(&violation.rule))
        });
        assert!(found, "{sabotage:?} went unnoticed");
    }
}

#[test]
fn shrinking_keeps_what_fails_and_drops_the_rest() {
    let mut scenario = short(3, Profile::Swarm, 600);
    scenario.sabotage = Some(Sabotage::WrongConflicts);
    let small = crate::shrink::shrink(&scenario, &mut |_| {}).expect("it fails");
    assert!(small.faults.is_empty(), "no fault is needed for it: {:?}", small.faults);
    assert!(!outcome_of(&small).violations.is_empty());
}
