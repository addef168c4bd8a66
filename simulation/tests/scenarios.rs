//! Every scenario in `scenarios/` comes to what it expects.

use std::fs;
use std::path::PathBuf;

use simulation::cli::load;
use simulation::scenario::Expectation;
use simulation::trace::Trace;
use simulation::world::run;

#[test]
fn recorded_scenarios_come_to_what_they_expect() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("the folder is part of the source")
        .map(|entry| entry.expect("can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let scenario = load(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let outcome = run(&scenario, &Trace::default());
        let violated = !outcome.violations.is_empty();
        let expected = scenario.expect == Expectation::Violated;
        assert_eq!(violated, expected, "{}: {:?}", file.display(), outcome.violations);
    }
}
