//! The models hold in small, every broken rule shows, and the explorer is what it says.

use clap::ValueEnum as _;

use super::explorer::{Broken, End, Limits, Model, Steps, explore};
use super::legs::scenarios::Scenario;
use super::shard::Bounds;
use super::shard::state::Set;
use super::{Mutation, Run, SHARD_RUNS};

const LIMITS: Limits =
    Limits { states_max: 300_000, waiting_bytes_max: 200_000_000, depth_max: u32::MAX, threads: 2 };

fn must_hold(run: Run) {
    let report = run.explore(None, LIMITS);
    assert_eq!(report.end, End::Complete, "{}: {:#?}", run.name(), report.counterexample);
}

#[test]
fn one_shard_holds_in_small() {
    for start in [Set::Pair, Set::Bucket] {
        must_hold(Run::Shard(Bounds { epochs: 2, crashes: 0, start, ..SHARD_RUNS[0] }));
    }
}

#[test]
fn writes_over_several_shards_hold_in_small() {
    for name in ["one", "beside", "guard", "compaction"] {
        let scenario = Scenario::named(name).expect(name);
        must_hold(Run::Legs(Scenario { crashes: 0, claims: 1, ..scenario }));
    }
}

#[test]
fn every_broken_rule_has_a_counterexample() {
    for mutation in Mutation::value_variants() {
        let report = mutation.nearest().explore(Some(*mutation), LIMITS);
        assert_eq!(report.end, End::Broken, "{mutation:?} is not noticed");
        let found = report.counterexample.expect("a way to it");
        assert!((2..=24).contains(&found.steps.len()), "{mutation:?}: {:#?}", found.steps);
    }
}

#[test]
fn what_is_found_does_not_depend_on_threads() {
    let run = Run::Shard(Bounds { epochs: 2, crashes: 0, wipes: 0, ..SHARD_RUNS[1] });
    let counts = [1, 3].map(|threads| {
        let report = run.explore(None, Limits { threads, ..LIMITS });
        (report.states, report.transitions, report.depth, report.end)
    });
    assert_eq!(counts[0], counts[1]);
}

/// A counter modulo a hundred that may also be doubled; ninety-seven is forbidden.
struct Counter {
    forbidden: u8,
}

impl Model for Counter {
    type State = u8;

    fn initial(&self) -> u8 {
        1
    }

    fn steps(&self, state: &u8, steps: &mut Steps<u8>) {
        steps.add((state + 1) % 100, || format!("{state} + 1"));
        steps.add(state * 2 % 100, || format!("{state} * 2"));
    }

    fn broken(&self, state: &u8) -> Option<Broken> {
        let forbidden = *state == self.forbidden;
        forbidden.then_some(Broken { invariant: "I0", what: "forbidden" })
    }
}

#[test]
fn a_counterexample_is_a_shortest_one() {
    let report = explore(&Counter { forbidden: 97 }, LIMITS);
    let found = report.counterexample.expect("97 is within reach");
    let expected = ["1 + 1", "2 + 1", "3 * 2", "6 * 2", "12 * 2", "24 * 2", "48 * 2", "96 + 1"];
    assert_eq!(found.steps, expected);
    assert_eq!(report.end, End::Broken);
}

#[test]
fn a_complete_search_sees_every_state_once() {
    let report = explore(&Counter { forbidden: 200 }, LIMITS);
    assert_eq!((report.states, report.transitions, report.end), (100, 200, End::Complete));
}

#[test]
fn a_search_that_needs_more_memory_says_so() {
    let report = explore(&Counter { forbidden: 200 }, Limits { states_max: 50, ..LIMITS });
    assert_eq!((report.states, report.end), (50, End::Memory));
    let report = explore(&Counter { forbidden: 200 }, Limits { depth_max: 3, ..LIMITS });
    assert_eq!((report.depth, report.end), (3, End::Depth));
}
