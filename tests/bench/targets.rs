//! The targets, each with what was measured and whether that meets it.

use crate::machine::Machine;
use crate::plan::{Point, Work};
use crate::report::thousands;
use crate::summary::{Results, Summary};
use crate::{ALONE_TLS, CELERIANT, FUNCTION, INSERT, ONE_AGGREGATE, PAIR, STANDBY};

/// What an idle wake-up and the way through the server may add to the disk's own time.
const WAY_MS: f64 = 0.12;

/// One line.
pub(crate) struct Target {
    /// What is asked, where.
    pub(crate) work: &'static str,
    /// In words.
    pub(crate) asked: String,
    /// In words, and whether it is enough. `None`: not measured in this run.
    pub(crate) found: Option<(String, bool)>,
}

/// All that this benchmark can say something about.
pub(crate) fn all(results: &Results, machine: &Machine) -> Vec<Target> {
    let mut targets = writes(results, machine);
    targets.extend(pairs(results));
    targets.extend(others(results));
    targets
}

fn write_point(connections: usize, pipeline: usize) -> Point {
    Point { work: Work::Write, connections, pipeline }
}

fn writes(results: &Results, machine: &Machine) -> Vec<Target> {
    let ours = |n, depth| results.of(&write_point(n, depth), CELERIANT);
    let to_function = |n, least: f64| {
        let ratio = results.ratio(&write_point(n, 1), CELERIANT, FUNCTION);
        Target {
            work: match n {
                1 => "1 connection",
                16 => "16 connections",
                _ => "64 connections",
            },
            asked: format!("≥ {least} × PostgreSQL's function"),
            found: ratio.map(|ratio| (format!("{ratio:.2} ×"), ratio >= least)),
        }
    };
    let p50_max = machine.durable_write_ms + WAY_MS;
    let best = results.best(FUNCTION).into_iter().chain(results.best(INSERT)).reduce(f64::max);
    let times = |ours: Option<Summary>, of: Option<f64>, least: f64| {
        let ratio = ours?.median.per_second / of?;
        Some((format!("{ratio:.2} ×"), ratio >= least))
    };
    vec![
        to_function(1, 0.9),
        Target {
            work: "1 connection",
            asked: format!("p50 ≤ a raw durable write + 120 µs = {p50_max:.3} ms"),
            found: at_most(ours(1, 1).map(|summary| summary.median.p50_ms), p50_max, "ms"),
        },
        to_function(16, 2.5),
        to_function(64, 5.0),
        Target {
            work: "64 connections",
            asked: "p99 ≤ 3 ms".into(),
            found: at_most(ours(64, 1).map(|summary| summary.median.p99_ms), 3.0, "ms"),
        },
        Target {
            work: "1,024 connections",
            asked: "≥ 7 × the function's best".into(),
            found: times(ours(1024, 1), results.best(FUNCTION), 7.0),
        },
        Target {
            work: "1,024 connections",
            asked: "p99 ≤ 25 ms".into(),
            found: at_most(ours(1024, 1).map(|summary| summary.median.p99_ms), 25.0, "ms"),
        },
        Target {
            work: "4,096 connections",
            asked: "≥ 0.85 × 1,024 connections".into(),
            found: times(
                ours(4096, 1),
                ours(1024, 1).map(|summary| summary.median.per_second),
                0.85,
            ),
        },
        Target {
            work: "4,096 connections",
            asked: "no errors".into(),
            found: ours(4096, 1).map(|s| (format!("{} errors", s.errors), s.errors == 0)),
        },
        Target {
            work: "64 × 32 in flight",
            asked: "≥ 60 × PostgreSQL's best".into(),
            found: times(ours(64, 32), best, 60.0),
        },
    ]
}

fn pairs(results: &Results) -> Vec<Target> {
    let point = |connections, pipeline| Point { work: Work::Pair, connections, pipeline };
    let ours = |connections, pipeline| results.of(&point(connections, pipeline), PAIR);
    let to_standby = |work, connections, least: f64| {
        let ratio = results.ratio(&point(connections, 1), PAIR, STANDBY);
        Target {
            work,
            asked: format!("≥ {least} × PostgreSQL with its standby"),
            found: ratio.map(|ratio| (format!("{ratio:.2} ×"), ratio >= least)),
        }
    };
    let tls = |work, connections, pipeline, least: f64| {
        let ratio = results.ratio(&point(connections, pipeline), ALONE_TLS, CELERIANT);
        Target {
            work,
            asked: format!("≥ {least} × plaintext"),
            found: ratio.map(|ratio| (format!("{ratio:.2} ×"), ratio >= least)),
        }
    };
    let best = ours(1024, 1).zip(results.best(STANDBY));
    vec![
        tls("TLS, one node, 64", 64, 1, 0.7),
        tls("TLS, one node, 1,024", 1024, 1, 0.7),
        tls("TLS, one node, 64 × 32", 64, 32, 0.8),
        to_standby("pair, 1 connection", 1, 1.1),
        Target {
            work: "pair, 1 connection",
            asked: "p50 ≤ 0.5 ms".into(),
            found: at_most(ours(1, 1).map(|summary| summary.median.p50_ms), 0.5, "ms"),
        },
        to_standby("pair, 64", 64, 2.3),
        Target {
            work: "pair, 1,024",
            asked: "≥ 4 × the best of PostgreSQL with its standby".into(),
            found: best.map(|(ours, best)| {
                let ratio = ours.median.per_second / best;
                (format!("{ratio:.2} ×"), ratio >= 4.0)
            }),
        },
        Target {
            work: "pair, 64 × 32 in flight",
            asked: "≥ 500,000 writes/s".into(),
            found: ours(64, 32).map(|summary| {
                let rate = summary.median.per_second;
                (format!("{}/s", thousands(rate)), rate >= 500e3)
            }),
        },
    ]
}

fn others(results: &Results) -> Vec<Target> {
    let ours =
        |work, connections, pipeline| results.of(&Point { work, connections, pipeline }, CELERIANT);
    let transfer = |work, pipeline| {
        let point = Point { work: Work::Transfer, connections: 64, pipeline };
        let ratio = results.ratio(&point, CELERIANT, ONE_AGGREGATE);
        Target {
            work,
            asked: "≥ 0.5 × writes to one aggregate".into(),
            found: ratio.map(|ratio| (format!("{ratio:.2} ×"), ratio >= 0.5)),
        }
    };
    let rate = |work, summary: Option<Summary>, least: f64, what: &str| Target {
        work,
        asked: format!("≥ {} {what}/s", thousands(least)),
        found: summary.map(|summary| {
            let rate = summary.median.per_second;
            (format!("{}/s", thousands(rate)), rate >= least)
        }),
    };
    let written = |work, summary: Option<Summary>, most: f64| Target {
        work,
        asked: format!("≤ {most} bytes to the device per byte of records"),
        found: at_most(summary.and_then(|s| s.median.written_per_byte), most, "bytes"),
    };
    let cpu = |work, summary: Option<Summary>, most: f64| Target {
        work,
        asked: format!("≤ {most} µs of server CPU per write"),
        found: at_most(summary.and_then(|s| s.median.server_cpu_us), most, "µs"),
    };
    vec![
        transfer("transfer between two shards, 64", 1),
        transfer("transfer between two shards, 64 × 32", 32),
        rate("hot read of 10 events, 64", ours(Work::Read, 64, 1), 100e3, "reads"),
        rate("streaming a long aggregate", ours(Work::Stream, 1, 1), 1e6, "events"),
        rate("streaming four at a time", ours(Work::Stream, 4, 1), 1e6, "events"),
        written("64 × 32 in flight", ours(Work::Write, 64, 32), 1.5),
        written("1,024 connections", ours(Work::Write, 1024, 1), 4.0),
        cpu("64 connections", ours(Work::Write, 64, 1), 7.0),
        cpu("1,024 connections", ours(Work::Write, 1024, 1), 7.0),
        cpu("64 × 32 in flight", ours(Work::Write, 64, 32), 0.6),
    ]
}

fn at_most(found: Option<f64>, most: f64, unit: &str) -> Option<(String, bool)> {
    found.map(|found| (format!("{found:.3} {unit}"), found <= most))
}
