//! `simulation model`: visits every state within bounds and prints how many there were, or how a
//! rule is broken, step by step.

use std::fmt::Arguments;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::explorer::{End, Limits, Report};
use super::{Mutation, Run, SHARD_RUNS, SHARD_RUNS_LONG, legs_runs};

/// Options of `simulation model`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// One of the models; both when absent.
    #[arg(long, value_enum)]
    model: Option<Which>,
    /// Steps from the start; without it until every state was seen.
    #[arg(long)]
    depth: Option<u32>,
    /// Breaks a rule: prints the shortest way to where that shows.
    #[arg(long, value_enum)]
    mutation: Option<Mutation>,
    /// Threads that search.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// States that there is room for, at 15 bytes each.
    #[arg(long, default_value_t = STATES_MAX)]
    states: usize,
    /// Visits what takes hours too, level by level, as far as there is room for states.
    #[arg(long, conflicts_with_all = ["mutation", "mutations"])]
    long: bool,
    /// Breaks every rule, one after the other: each must show.
    #[arg(long, conflicts_with_all = ["mutation", "depth"])]
    mutations: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Which {
    /// One shard.
    Shard,
    /// Writes over several shards.
    Legs,
}

/// 50 M states are 750 MB.
const STATES_MAX: usize = 50_000_000;
/// With the table less than 2 GiB.
const WAITING_BYTES_MAX: usize = 1_200_000_000;
/// Counterexamples are among the first.
const BROKEN_STATES_MAX: usize = 2_000_000;

/// Runs it.
pub fn main(options: &Options) -> ExitCode {
    let limits = Limits {
        states_max: options.states,
        waiting_bytes_max: WAITING_BYTES_MAX,
        depth_max: options.depth.unwrap_or(u32::MAX),
        threads: options.threads,
    };
    let right = match options.mutation {
        _ if options.mutations => every_mutation(limits),
        Some(mutation) => broken(mutation, limits),
        None => intact(options, limits),
    };
    if right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Visits all runs; none may show anything.
fn intact(options: &Options, limits: Limits) -> bool {
    let mut runs = Vec::new();
    if options.model != Some(Which::Legs) {
        runs.extend(SHARD_RUNS.iter().map(|bounds| Run::Shard(*bounds)));
        let long = SHARD_RUNS_LONG.iter().filter(|_| options.long);
        runs.extend(long.map(|bounds| Run::Shard(*bounds)));
    }
    if options.model != Some(Which::Shard) {
        runs.extend(legs_runs().into_iter().map(Run::Legs));
    }
    let (mut states, mut took, mut right) = (0, Duration::ZERO, true);
    for run in runs {
        let report = run.explore(None, limits);
        print(&run.name(), &report);
        print_counterexample(&report);
        states += report.states;
        took += report.took;
        right &= matches!(report.end, End::Complete | End::Depth)
            || options.long && report.end == End::Memory;
    }
    say(format_args!("{states} states in {:.0} s: {}", took.as_secs_f64(), verdict(right)));
    right
}

fn verdict(right: bool) -> &'static str {
    if right { "every invariant holds" } else { "NOT proven" }
}

fn broken(mutation: Mutation, limits: Limits) -> bool {
    let run = mutation.nearest();
    let report = run.explore(Some(mutation), narrow(limits));
    print(&run.name(), &report);
    print_counterexample(&report);
    report.end == End::Broken
}

fn every_mutation(limits: Limits) -> bool {
    let mut right = true;
    for mutation in Mutation::value_variants() {
        let report = mutation.nearest().explore(Some(*mutation), narrow(limits));
        let found = match &report.counterexample {
            Some(found) => format!("{} after {} steps", found.broken.invariant, found.steps.len()),
            None => "NOT NOTICED".into(),
        };
        say(format_args!("{:<28} {:>9} states  {found}", format!("{mutation:?}"), report.states));
        right &= report.end == End::Broken;
    }
    right
}

fn narrow(limits: Limits) -> Limits {
    Limits { states_max: limits.states_max.min(BROKEN_STATES_MAX), ..limits }
}

fn print(name: &str, report: &Report) {
    let end = match report.end {
        End::Complete => "complete",
        End::Depth => "holds within the depth",
        End::Memory => "TOO LARGE for the memory",
        End::Broken => "BROKEN",
    };
    say(format_args!(
        "{name}\n  {} states, {} steps, depth {}, {} MB, {:.1} s: {end}",
        report.states,
        report.transitions,
        report.depth,
        report.bytes / 1_000_000,
        report.took.as_secs_f64(),
    ));
}

fn print_counterexample(report: &Report) {
    let Some(found) = &report.counterexample else { return };
    for (at, step) in found.steps.iter().enumerate() {
        say(format_args!("  {:>3}  {step}", at + 1));
    }
    say(format_args!("  {}: {}\n{}", found.broken.invariant, found.broken.what, found.state));
}

fn say(text: Arguments<'_>) {
    // Nobody reads any more: nothing to be done about it.
    let _ = writeln!(io::stdout().lock(), "{text}");
}
