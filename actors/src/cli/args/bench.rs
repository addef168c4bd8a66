//! Flags of `bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use super::seconds;

#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct Bench {
    /// What the load is made of
    #[arg(value_enum)]
    pub(in crate::cli) work: Work,
    /// Connections to the store
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub(in crate::cli) connections: usize,
    /// Requests in flight on each connection
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(in crate::cli) pipeline: usize,
    /// Aggregates that the load is spread over [default: enough for every request in flight]
    #[arg(long, value_name = "N")]
    pub(in crate::cli) aggregates: Option<usize>,
    /// Payload of each event, in bytes
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    pub(in crate::cli) payload: usize,
    /// How long to measure: seconds, or a duration like 2s
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    pub(in crate::cli) duration: Duration,
    /// How long to run before measuring
    #[arg(long, default_value = "1", value_parser = seconds, value_name = "SECONDS")]
    pub(in crate::cli) warmup: Duration,
    /// Open loop: this many requests a second, each measured from when it was due
    #[arg(long, value_name = "PER_SECOND")]
    pub(in crate::cli) rate: Option<f64>,
    /// Topics that watched writes are spread over; each watcher watches one of them
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(in crate::cli) topics: usize,
    /// Threads that make the load
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(in crate::cli) threads: usize,
    /// The server's process on this machine: what it uses goes into the file of --out
    #[arg(long, value_name = "PID")]
    pub(in crate::cli) server_pid: Option<u32>,
    /// Events in each aggregate that is read
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub(in crate::cli) events: usize,
    /// Also write the result to this file
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(in crate::cli) enum Work {
    /// One event to one aggregate, guarded by its version
    Write,
    /// All events of one aggregate
    Read,
    /// One event to each of two aggregates, both guarded, all or none
    Transfer,
    /// One long aggregate a connection, page after page; counts events
    Stream,
    /// Writes at --rate, and a watcher on each connection; counts deliveries
    Watch,
    /// The feed of all that was written before, from its beginning; counts events
    CatchUp,
}
