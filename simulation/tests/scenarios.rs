//! Every scenario in `scenarios/` can be read; those that an unoptimised build can afford come to
//! what they expect. `.ci/run` replays all of them with an optimised one.

use std::fs;
use std::path::PathBuf;

use simulation::cli::load;
use simulation::scenario::Scenario;
use simulation::trace::Trace;
use simulation::world::{run, run_until_expected};

/// Of the pairs.
const REPLAYED: [&str; 2] = ["pair-leader-dies", "pair-planted-acks-ahead"];

fn scenarios() -> Vec<(String, Scenario)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("the folder is part of the source")
        .map(|entry| entry.expect("can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    let read = |file: PathBuf| {
        let name = file.file_stem().expect("has a name").to_string_lossy().into_owned();
        let scenario = load(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, scenario)
    };
    files.into_iter().map(read).collect()
}

#[test]
fn recorded_scenarios_come_to_what_they_expect() {
    let scenarios = scenarios();
    assert!(scenarios.len() >= 65, "only {} are left", scenarios.len());
    let affordable =
        |name: &str, scenario: &Scenario| scenario.pair.is_none() || REPLAYED.contains(&name);
    let mut pairs = 0;
    for (name, scenario) in scenarios.iter().filter(|(name, scenario)| affordable(name, scenario)) {
        pairs += usize::from(scenario.pair.is_some());
        let verdict = run_until_expected(scenario, |scenario| run(scenario, &Trace::default()));
        assert!(verdict.as_expected, "{name}: {:?}", verdict.outcome.violations);
    }
    assert_eq!(pairs, REPLAYED.len());
}
