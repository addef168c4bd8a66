//! The benchmark: Celeriant next to PostgreSQL and UmaDB, one node and two, alternating in one run.
//!
//! ```text
//! plan ──► for each repetition, point and system: celeriant · postgres · umadb ──► Sample
//!                                                     └ process: start, stop, usage
//! samples ──► summary: median, min, max ──► targets ──► report.md   chart ──► *.svg
//! ```
//! Started by `tests/bench/run`, which builds and installs what is needed. Every sample starts from
//! an empty store. The report is written anew after each repetition, so that a run that is cut
//! short has one too. What is not run stands in the report, with the reason.
//!
//! Deliberately absent: absolute verdicts. Machines drift; ratios of the same run are what counts.

mod celeriant;
mod chart;
mod machine;
mod pair;
mod plan;
mod postgres;
mod process;
mod report;
mod summary;
mod targets;
mod umadb;

use std::process::ExitCode;

use plan::{Plan, Point, Work};
use postgres::Script;
use summary::{Results, Sample};

/// Nobody handles these but a person.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// Two nodes with TLS throughout, and one node with it.
pub(crate) const PAIR: &str = "Celeriant, two nodes, TLS";
pub(crate) const ALONE_TLS: &str = "Celeriant, one node, TLS";
/// With one synchronous standby.
pub(crate) const STANDBY: &str = "PostgreSQL INSERT, synchronous standby";

/// What is compared; the names are those of the report.
pub(crate) const CELERIANT: &str = "Celeriant";
pub(crate) const FUNCTION: &str = "PostgreSQL function";
pub(crate) const INSERT: &str = "PostgreSQL INSERT";
pub(crate) const UMADB: &str = "UmaDB";
/// Writes to one aggregate under the same settings as transfers over two.
pub(crate) const ONE_AGGREGATE: &str = "Celeriant, one aggregate";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let plan = Plan::from_environment()?;
    let mut results = Results::new(plan.skipped.clone());
    let machine = machine::Machine::look(&plan.work_dir)?;
    let mut peers = Peers::start(&plan, &mut results);
    for repetition in 1..=plan.repeat {
        for point in &plan.points {
            eprintln!("repetition {repetition} of {}: {}", plan.repeat, point.title());
            measure(&plan, point, &mut peers, &mut results);
        }
        report::write(&plan, &machine, &peers.versions, &results)?;
    }
    eprintln!("written: {}", plan.report_dir.join("report.md").display());
    if results.has_any() { Ok(()) } else { Err("nothing could be measured".into()) }
}

/// Others than Celeriant, as far as they are there.
struct Peers {
    postgres: Option<postgres::Server>,
    umadb: Option<umadb::Tools>,
    versions: Vec<String>,
}

impl Peers {
    fn start(plan: &Plan, results: &mut Results) -> Self {
        let mut versions = vec![celeriant::version(plan)];
        let mut postgres = None;
        if plan.wants("postgres") {
            match postgres::Server::start(plan) {
                Ok(server) => {
                    versions.push(server.version.clone());
                    postgres = Some(server);
                }
                Err(failure) => results.skip(format!("PostgreSQL: {failure}")),
            }
        } else {
            results.skip("PostgreSQL: not among PEERS".to_owned());
        }
        let mut umadb = None;
        if plan.wants("umadb") {
            match umadb::Tools::find(plan) {
                Ok(tools) => {
                    versions.push(tools.version.clone());
                    umadb = Some(tools);
                }
                Err(failure) => results.skip(format!("UmaDB: {failure}")),
            }
        } else {
            results.skip("UmaDB: not among PEERS".to_owned());
        }
        Self { postgres, umadb, versions }
    }
}

/// One repetition of a point with everybody who takes part in it.
fn measure(plan: &Plan, point: &Point, peers: &mut Peers, results: &mut Results) {
    let mut take = |system: &'static str, sample: Result<Sample, Failure>| match sample {
        Ok(sample) => {
            eprintln!("    {system:<28} {}", sample.line());
            results.add(point, system, sample);
        }
        Err(failure) => {
            eprintln!("    {system:<28} FAILED: {failure}");
            results.skip(format!("{system}, {}: {failure}", point.title()));
        }
    };
    take(CELERIANT, celeriant::sample(plan, point, point.work));
    match point.work {
        Work::Pair => {
            take(PAIR, pair::sample(plan, point));
            take(ALONE_TLS, pair::sample_alone(plan, point));
            if plan.wants("postgres") && point.pipeline == 1 {
                take(STANDBY, postgres::sample_with_standby(plan, point));
            }
        }
        Work::Transfer => take(ONE_AGGREGATE, celeriant::sample(plan, point, Work::Write)),
        Work::Write if point.pipeline == 1 => {
            if let Some(server) = &mut peers.postgres {
                take(FUNCTION, server.sample(plan, point, Script::Function));
                take(INSERT, server.sample(plan, point, Script::Insert));
            }
            if let Some(tools) = &peers.umadb {
                take(UMADB, tools.sample(plan, point));
            }
        }
        Work::Write | Work::Read | Work::Stream => {}
    }
}
