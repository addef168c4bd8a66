//! What is to be run: read from the environment, so that a smoke run takes a minute.

use std::env;
use std::path::PathBuf;

use crate::Failure;

/// Everything that targets.md asks for and that a closed loop can measure.
const POINTS: &str = "1 16 64 256 1024 4096 64x32 pair:1 pair:64 pair:1024 pair:64x32 \
    transfer transfer:64x32 read stream stream:4";
/// Fewer repetitions or seconds are for trying the script, not for quoting.
const REPEAT_MIN: usize = 3;
const DURATION_MIN: f64 = 5.0;

/// What is done to the store.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Work {
    /// One small guarded event per request.
    Write,
    /// One to each of two aggregates on two shards.
    Transfer,
    /// The same to two nodes, both durable.
    Pair,
    /// An aggregate of ten events from memory.
    Read,
    /// A long aggregate, page after page.
    Stream,
}

/// One row of the report.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Point {
    /// What is done.
    pub(crate) work: Work,
    /// On how many connections.
    pub(crate) connections: usize,
    /// Requests in flight on each.
    pub(crate) pipeline: usize,
}

/// The run as a whole.
pub(crate) struct Plan {
    /// In this order, in each repetition.
    pub(crate) points: Vec<Point>,
    peers: Vec<String>,
    /// Repetitions.
    pub(crate) repeat: usize,
    /// Seconds that count.
    pub(crate) duration: f64,
    /// Seconds before them.
    pub(crate) warmup: f64,
    /// Of our server.
    pub(crate) threads: u16,
    /// Of our server; transfers have at least two.
    pub(crate) shards: u16,
    /// For data directories; on the disk that is measured.
    pub(crate) work_dir: PathBuf,
    /// Where the report goes.
    pub(crate) report_dir: PathBuf,
    /// The program that is measured.
    pub(crate) celeriant: PathBuf,
    /// Where `run` puts what it installs.
    pub(crate) tools_dir: PathBuf,
    /// What `run` could not provide, with reasons.
    pub(crate) skipped: Vec<String>,
    /// The commit, as `run` was told by git.
    pub(crate) commit: String,
}

impl Plan {
    /// See `run` for the variables.
    pub(crate) fn from_environment() -> Result<Self, Failure> {
        let list = |name: &str, default: &str| -> Vec<String> {
            let text = env::var(name).unwrap_or_else(|_| default.to_owned());
            text.split_whitespace().map(str::to_owned).collect()
        };
        let needed = |name: &str| {
            env::var(name).map_err(|_| format!("{name} is not set: start tests/bench/run"))
        };
        let points = list("POINTS", POINTS);
        let points = points.iter().map(|text| Point::parse(text)).collect::<Result<_, _>>()?;
        let skipped = env::var("BENCH_SKIPPED").unwrap_or_default();
        Ok(Self {
            points,
            peers: list("PEERS", "postgres umadb"),
            repeat: number("REPEAT", REPEAT_MIN)?,
            duration: number("DURATION", DURATION_MIN)?,
            warmup: number("WARMUP", 1.0)?,
            threads: number("THREADS", 1)?,
            shards: number("SHARDS", 1)?,
            work_dir: needed("BENCH_WORK")?.into(),
            report_dir: needed("BENCH_REPORT")?.into(),
            celeriant: needed("BENCH_CELERIANT")?.into(),
            tools_dir: needed("BENCH_TOOLS")?.into(),
            skipped: skipped.lines().map(str::to_owned).collect(),
            commit: env::var("BENCH_COMMIT").unwrap_or_else(|_| "unknown".into()),
        })
    }

    /// Whether a peer takes part.
    pub(crate) fn wants(&self, peer: &str) -> bool {
        self.peers.iter().any(|known| known == peer)
    }

    /// Long and often enough to be quoted.
    pub(crate) fn is_serious(&self) -> bool {
        self.repeat >= REPEAT_MIN && self.duration >= DURATION_MIN
    }

    /// Most connections of any point.
    pub(crate) fn connections_max(&self) -> usize {
        self.points.iter().map(|point| point.connections).max().unwrap_or(1)
    }
}

fn number<T: std::str::FromStr>(name: &str, default: T) -> Result<T, Failure> {
    match env::var(name) {
        Ok(text) => text.parse().map_err(|_| format!("{name}={text}: not a number").into()),
        Err(_) => Ok(default),
    }
}

impl Point {
    /// `64`, `64x32`, `transfer`, `read:256`, `stream:4`.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let unknown = || format!("POINTS: {text:?} is no point");
        let (word, size) = match text.split_once(':') {
            Some((word, size)) => (word, size),
            None if text.starts_with(|c: char| c.is_ascii_digit()) => ("write", text),
            None => (text, ""),
        };
        let (work, default) = match word {
            "write" => (Work::Write, 64),
            "pair" => (Work::Pair, 64),
            "transfer" => (Work::Transfer, 64),
            "read" => (Work::Read, 64),
            "stream" => (Work::Stream, 1),
            _ => return Err(unknown().into()),
        };
        let (connections, pipeline) = size.split_once('x').unwrap_or((size, "1"));
        let connections =
            if size.is_empty() { default } else { connections.parse().map_err(|_| unknown())? };
        Ok(Self { work, connections, pipeline: pipeline.parse().map_err(|_| unknown())? })
    }

    /// As people read it.
    pub(crate) fn title(&self) -> String {
        let size = self.size();
        match self.work {
            Work::Write => size,
            Work::Pair => format!("pair, {size}"),
            Work::Transfer => format!("transfer, {size}"),
            Work::Read => format!("read 10 events, {size}"),
            Work::Stream => format!("stream, {size}"),
        }
    }

    /// Connections, and requests in flight on each if more than one.
    pub(crate) fn size(&self) -> String {
        match self.pipeline {
            1 => crate::report::thousands(self.connections as f64),
            depth => format!("{} × {depth}", self.connections),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_written_as_in_the_report() {
        let parse = |text| Point::parse(text).expect("a point");
        let point = |work, connections, pipeline| Point { work, connections, pipeline };
        assert_eq!(parse("1024"), point(Work::Write, 1024, 1));
        assert_eq!(parse("64x32"), point(Work::Write, 64, 32));
        assert_eq!(parse("transfer"), point(Work::Transfer, 64, 1));
        assert_eq!(parse("read:256x2"), point(Work::Read, 256, 2));
        assert_eq!(parse("stream:4"), point(Work::Stream, 4, 1));
        assert_eq!(parse("64x32").title(), "64 × 32");
        for wrong in ["", "x", "reed", "64x", "64y2", "read:x2"] {
            assert!(Point::parse(wrong).is_err(), "{wrong}");
        }
        for text in POINTS.split(' ') {
            assert!(parse(text).connections > 0, "{text}");
        }
    }
}
