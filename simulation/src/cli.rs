//! The program: `run`, `replay`, `crash`, `model`, `shrink`.

use std::fs;
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::crash::{Thoroughness, crash_everywhere};
use crate::fault::Reached;
use crate::invariants::{Violation, Violations};
use crate::model::command;
use crate::pair::betrayal::Betrayal;
use crate::sabotage::Sabotage;
use crate::scenario::{Profile, Scenario};
use crate::shrink::shrink;
use crate::stopwatch::Stopwatch;
use crate::trace::Trace;
use crate::world::{Outcome, Verdict, run, run_until_expected};

/// A whole node of Celeriant, simulated: one seed, one run, no real time.
#[derive(Debug, Parser)]
#[command(name = "simulation", version)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs seeds; a failing one writes scenarios/failed/<seed>.toml.
    Run(Run),
    /// Carries recorded scenarios out again and compares with what they expect.
    Replay {
        /// Scenario files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    /// Loses power at every operation of a recorded workload, in every way, and inside recoveries.
    Crash {
        /// Records of the workload.
        #[arg(long, default_value_t = 120)]
        records: u64,
        /// Cuts the recovery of every so many-th image.
        #[arg(long, default_value_t = 10)]
        recovery_every: u64,
    },
    /// Visits every state of the models of replication, within bounds.
    Model(command::Options),
    /// Leaves faults and work out as long as the scenario still fails; writes <FILE>.small.toml.
    Shrink {
        /// A scenario that fails.
        file: PathBuf,
    },
}

#[derive(Args, Debug)]
struct Run {
    /// One seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Seeds from A up to but not including B.
    #[arg(long, value_parser = parse_range)]
    seeds: Option<Range<u64>>,
    /// How hard.
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// Goes on with further seeds for so many minutes of real time.
    #[arg(long)]
    minutes: Option<f64>,
    /// Runs each seed twice and compares the traces.
    #[arg(long)]
    twice: bool,
    /// Stops at the first seed that fails, which is what is expected, and writes no scenario.
    #[arg(long)]
    until_violated: bool,
    /// Two nodes and a bucket instead of one node.
    #[arg(long)]
    pair: bool,
    /// The real link between the nodes of a pair, over simulated datagrams. Faults are the seed's,
    /// the trace is not.
    #[arg(long, requires = "pair", conflicts_with = "twice")]
    quic: bool,
    /// Breaks the store on purpose: every seed is expected to fail.
    #[arg(long, value_parser = parse_sabotage)]
    sabotage: Option<Sabotage>,
    /// Breaks a promise between the nodes of a pair on purpose: every seed is expected to fail.
    #[arg(long, value_parser = parse_betrayal, requires = "pair")]
    betrayal: Option<Betrayal>,
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Clone, Copy, Debug)]
struct Output {
    /// `json`: one object at the end.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Prints everything that happens to stderr.
    #[arg(long, short)]
    verbose: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Everything of several runs.
#[derive(Default)]
struct Totals {
    seeds: u64,
    failed: Vec<u64>,
    violations: u64,
    simulated_us: u64,
    operations: u64,
    sendings: u64,
    faults: u64,
    events: u64,
    disk_operations: u64,
    trace_hash: u64,
    reached: Reached,
}

/// Seeds that are run when none is named.
const SEEDS_DEFAULT: Range<u64> = 1..21;
/// Where failing seeds are written.
const FAILED_FOLDER: &str = "scenarios/failed";

/// Runs the program.
pub fn main() -> ExitCode {
    match Program::parse().command {
        Command::Run(run) => run_seeds(&run),
        Command::Replay { files, output } => replay(&files, output),
        Command::Model(options) => command::main(&options),
        Command::Shrink { file } => shrink_file(&file),
        Command::Crash { records, recovery_every } => crash(records, recovery_every),
    }
}

fn crash(records: u64, recovery_every: u64) -> ExitCode {
    let violations = Violations::default();
    let thoroughness = Thoroughness { records, every: 1, recovery_every };
    let tally = crash_everywhere(thoroughness, &violations);
    say(format_args!(
        "power lost at {} operations, {} images recovered, {} with a segment half packed, \
         {} recoveries cut",
        tally.operations, tally.images, tally.half_packed, tally.recoveries_cut
    ));
    violations.list().iter().for_each(|violation| complain(format_args!("  {violation}")));
    if violations.none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_seeds(options: &Run) -> ExitCode {
    let watch = Stopwatch::start();
    let mut totals = Totals::default();
    let seeds = match (options.seed, options.seeds.clone()) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) => seeds,
        (None, None) if options.minutes.is_some() => 1..u64::MAX,
        (None, None) => SEEDS_DEFAULT,
    };
    let limit = options.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    for seed in seeds {
        if limit.is_some_and(|limit| watch.elapsed() >= limit) {
            break;
        }
        let mut scenario = match options.pair {
            true => Scenario::of_pair_seed(seed, options.profile),
            false => Scenario::of_seed(seed, options.profile),
        };
        scenario.sabotage = options.sabotage;
        if let Some(shape) = &mut scenario.pair {
            shape.betrayal = options.betrayal;
            shape.quic = options.quic;
        }
        let (mut outcome, hash) = carry_out(&scenario, options.output);
        if options.twice {
            let (again, second) = carry_out(&scenario, options.output);
            if second != hash || again.trace_entries != outcome.trace_entries {
                outcome.violations.push(Violation {
                    rule: "determinism",
                    what: format!("traces {hash:016x} and {second:016x} of one seed"),
                });
            }
        }
        totals.add(seed, &outcome);
        if options.until_violated {
            let Some(first) = outcome.violations.first() else { continue };
            say(format_args!("{}\t{}\t{}", first.rule, totals.seeds, clipped(&first.what)));
            return ExitCode::SUCCESS;
        }
        report_seed(seed, &scenario, &outcome, options.output);
    }
    if options.until_violated {
        complain(format_args!("no violation in {} seeds", totals.seeds));
        return ExitCode::FAILURE;
    }
    totals.print(options.output, watch.elapsed());
    match totals.failed.is_empty() == (options.sabotage.is_none() && options.betrayal.is_none()) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn carry_out(scenario: &Scenario, output: Output) -> (Outcome, u64) {
    let trace = Trace::default();
    if output.verbose {
        // What the nodes themselves say, between what happens to them.
        let format = tracing_subscriber::fmt().without_time().with_ansi(false);
        let _ = format.with_writer(io::stderr).try_init();
        trace.echo();
    }
    let outcome = run(scenario, &trace);
    let hash = outcome.trace_hash;
    (outcome, hash)
}

fn report_seed(seed: u64, scenario: &Scenario, outcome: &Outcome, output: Output) {
    let failed = !outcome.violations.is_empty();
    if output.format == Format::Table {
        let verdict = if failed { "VIOLATED" } else { "holds" };
        let (operations, faults) = (outcome.operations.0, outcome.faults);
        say(format_args!(
            "seed {seed:>6}  trace {:016x}  {operations:>6} operations  {faults:>4} faults  \
             {:>6.1} s  {verdict}",
            outcome.trace_hash,
            outcome.simulated as f64 / 1e6,
        ));
    }
    if failed {
        for violation in outcome.violations.iter().take(3) {
            complain(format_args!("  {}", clipped(&violation.to_string())));
        }
        let is_planted = scenario.pair.as_ref().is_some_and(|shape| shape.betrayal.is_some());
        if scenario.sabotage.is_none() && !is_planted {
            record(seed, scenario, outcome);
        }
    }
}

/// Writes a scenario that failed to where it can be replayed from.
fn record(seed: u64, scenario: &Scenario, outcome: &Outcome) {
    let mut scenario = scenario.clone();
    scenario.found = outcome.violations.iter().map(|v| clipped(&v.to_string())).collect();
    let kind = if scenario.pair.is_some() { "pair-" } else { "" };
    let path = Path::new(FAILED_FOLDER).join(format!("{kind}{seed}.toml"));
    let written = toml::to_string(&scenario)
        .map_err(io::Error::other)
        .and_then(|text| fs::create_dir_all(FAILED_FOLDER).and_then(|()| fs::write(&path, text)));
    match written {
        Ok(()) => complain(format_args!("  replay with: simulation replay {}", path.display())),
        Err(error) => complain(format_args!("  {} cannot be written: {error}", path.display())),
    }
}

fn replay(files: &[PathBuf], output: Output) -> ExitCode {
    let watch = Stopwatch::start();
    let mut totals = Totals::default();
    let mut right = true;
    for file in files {
        let scenario = match load(file) {
            Ok(scenario) => scenario,
            Err(error) => {
                complain(format_args!("{}: {error}", file.display()));
                return ExitCode::from(2);
            }
        };
        let verdict = run_until_expected(&scenario, |scenario| carry_out(scenario, output).0);
        let Verdict { seed, outcome, as_expected } = verdict;
        right &= as_expected;
        totals.add(seed, &outcome);
        if output.format == Format::Table {
            let verdict = if as_expected { "as expected" } else { "NOT as expected" };
            let hash = outcome.trace_hash;
            say(format_args!("{}  seed {seed}  trace {hash:016x}  {verdict}", file.display()));
        }
        for violation in outcome.violations.iter().take(5) {
            complain(format_args!("  {}", clipped(&violation.to_string())));
        }
    }
    totals.print(output, watch.elapsed());
    if right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn shrink_file(file: &Path) -> ExitCode {
    let scenario = match load(file) {
        Ok(scenario) => scenario,
        Err(error) => {
            complain(format_args!("{}: {error}", file.display()));
            return ExitCode::from(2);
        }
    };
    let Some(small) = shrink(&scenario, &mut |text| say(format_args!("{text}"))) else {
        complain(format_args!("{} does not fail", file.display()));
        return ExitCode::FAILURE;
    };
    let path = file.with_extension("small.toml");
    let written =
        toml::to_string(&small).map_err(io::Error::other).and_then(|text| fs::write(&path, text));
    match written {
        Ok(()) => {
            say(format_args!("{} faults left, in {}", small.faults.len(), path.display()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(format_args!("{}: {error}", path.display()));
            ExitCode::FAILURE
        }
    }
}

/// Reads a scenario file.
///
/// # Errors
/// What is wrong with it.
pub fn load(file: &Path) -> Result<Scenario, String> {
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    toml::from_str(&text).map_err(|error| error.to_string())
}

impl Totals {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.seeds += 1;
        if !outcome.violations.is_empty() {
            self.failed.push(seed);
        }
        self.violations += outcome.violations.len() as u64;
        self.simulated_us += outcome.simulated;
        self.operations += outcome.operations.0;
        self.sendings += outcome.operations.1;
        self.faults += outcome.faults;
        self.events += outcome.events;
        self.disk_operations += outcome.disk_operations;
        self.trace_hash = self.trace_hash.rotate_left(7) ^ outcome.trace_hash;
        self.reached.merge(&outcome.reached);
    }

    fn print(&self, output: Output, took: Duration) {
        let (simulated, seconds) = (self.simulated_us as f64 / 1e6, took.as_secs_f64());
        if output.format == Format::Json {
            return say(format_args!(
                "{{\"seeds\":{},\"violations\":{},\"simulated_seconds\":{simulated:.3},\
                 \"seconds\":{seconds:.3},\
                 \"trace_hash\":\"{:016x}\",\"operations\":{},\"faults\":{},\"failed\":{:?}}}",
                self.seeds,
                self.violations,
                self.trace_hash,
                self.operations,
                self.faults,
                self.failed,
            ));
        }
        for (what, count) in self.reached.counts() {
            say(format_args!("{count:>12}  {what}"));
        }
        say(format_args!(
            "{} seeds, {} operations sent {} times, {} faults, {} events, {} disk operations",
            self.seeds,
            self.operations,
            self.sendings,
            self.faults,
            self.events,
            self.disk_operations
        ));
        say(format_args!(
            "{simulated:.0} simulated seconds in {seconds:.1} s: {:.0} per second; \
             {} violations in seeds {:?}",
            simulated / seconds.max(0.001),
            self.violations,
            self.failed
        ));
    }
}

/// Longest text of a violation that is shown, in characters.
const SHOWN_MAX: usize = 1_500;

fn clipped(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}

fn say(text: std::fmt::Arguments<'_>) {
    // Nobody reads any more: nothing to be done about it.
    let _ = writeln!(io::stdout().lock(), "{text}");
}

fn complain(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("a range is written A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    Ok(number(from)?..number(to)?)
}

fn parse_sabotage(text: &str) -> Result<Sabotage, String> {
    parse_kind(text)
}

fn parse_betrayal(text: &str) -> Result<Betrayal, String> {
    parse_kind(text)
}

/// A kind by the name that it has in a scenario.
fn parse_kind<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    let mut holder: std::collections::BTreeMap<String, T> =
        toml::from_str(&format!("kind = \"{text}\"")).map_err(|error| error.to_string())?;
    holder.remove("kind").ok_or_else(|| "no kind".into())
}
