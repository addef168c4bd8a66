//! Flags of `verify`, `audit` and `inspect`.

use std::path::PathBuf;

use celeriant_client::{AggregateKey, Selector};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Verify {
    /// org/type/id, org/type, org, or '*'
    #[arg(default_value = "*", conflicts_with = "files")]
    pub(in crate::cli) selector: Selector,
    /// Of this data directory, or of one shard's directory in it: offline, read-only. While a node
    /// has it, only of what was durable when this begins
    #[arg(long, value_name = "DIR", group = "files", conflicts_with = "cluster")]
    pub(in crate::cli) data: Option<PathBuf>,
    /// Of what `export` has made: offline
    #[arg(long, value_name = "FILE", group = "files", conflicts_with = "cluster")]
    pub(in crate::cli) export: Option<PathBuf>,
    /// Of the cluster; so it is without --data and --export, too
    #[arg(long)]
    pub(in crate::cli) cluster: bool,
    /// With --data: aggregates that are followed in one pass over a log, each in 100 bytes of
    /// memory; of more, it takes several passes
    #[arg(long, value_name = "N", requires = "data", default_value_t = 1 << 20)]
    pub(in crate::cli) aggregates_max: usize,
    /// Also hold the logs of --data, or the proofs of --proof, against what `audit head` printed
    /// before
    #[arg(long, value_name = "HEAD", requires = "files")]
    pub(in crate::cli) against: Option<PathBuf>,
    /// With --export and --against: what `audit prove` printed of an event. As often as there are
    /// some
    #[arg(long, value_name = "PROOF", requires = "export", requires = "against")]
    pub(in crate::cli) proof: Vec<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum AuditAction {
    /// Print a hash of everything that is committed, per shard: keep it where the store cannot
    /// reach it
    Head,
    /// Hold a head from before against every node that --url names, or a data directory
    Check {
        /// What `audit head` printed
        head: PathBuf,
        /// Against this data directory, offline
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
    /// Print a proof that an event is in the store that a head stands for
    Prove {
        /// org/type/id
        key: AggregateKey,
        /// The event
        version: u64,
        /// What `audit head` printed; without it, a new one is made, and printed with the proof
        #[arg(long, value_name = "FILE")]
        head: Option<PathBuf>,
    },
    /// Check a proof against a head: offline, without the store
    CheckProof {
        /// What `audit prove` printed
        proof: PathBuf,
        /// What `audit head` printed; without it, the head that was printed with the proof, which
        /// is as good as where that file comes from
        head: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Inspect {
    /// A data directory, or one shard's directory in it
    pub(in crate::cli) dir: PathBuf,
    /// Show the events of every record, too
    #[arg(long)]
    pub(in crate::cli) events: bool,
}
