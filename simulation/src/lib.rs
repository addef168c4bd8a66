//! A whole node in one thread, one seed and no real time: everything that can go wrong, many times
//! a second.
//!
//! ```text
//! scenario   a run as data: shape, workload, faults          cli     run, replay, shrink
//! world      carries a scenario out ── machine (disks, power, clock) ── wire (network) ── client
//! watcher    checks while it runs; oracle, invariants/ at rest; sabotage shows that they do, and
//!            ../planted/run with bugs in cores and storage, each a patch
//! operator   orders to compact; then nothing of what was deleted is in any file ── originals: what
//!            was there before that, for all other checks ── packed, mark
//! pair       two such nodes, their link and their bucket ── overseer checks while it runs
//! air        datagrams between them, for QUIC itself in the place of the simulated link
//! model      the rules of replication, every state of them
//! crash      every I/O of a recorded workload is the last one, in every way; bytes flip one by one
//! ```
//! Determinism: everything random comes from [`rng`], everything timed from [`timeline`]; maps are
//! ordered;
//! `select!` is biased. The same scenario gives the same [`trace`] hash in any process on any
//! machine. (QUIC draws its keys from the system: with it between two nodes the faults are the
//! seed's, and the trace is not.)
//!
//! Deliberately absent: sockets, files, real clocks, threads, any `cfg` in the code that is tested.

// The world owns every task that it spawns; the ban is for what runs inside it.
#![allow(clippy::disallowed_methods)]

pub mod air;
pub mod bucket;
pub mod cli;
pub mod client;
pub mod crash;
pub mod damage;
pub mod disk;
pub mod fault;
pub mod gate;
pub mod history;
pub mod incident;
pub mod invariants;
pub mod ledger;
pub mod link;
pub mod machine;
pub mod mark;
pub mod model;
pub mod operator;
pub mod oracle;
pub mod originals;
pub mod overseer;
pub mod packed;
pub mod pair;
pub mod power_cut;
pub mod reopen;
pub mod rng;
pub mod sabotage;
pub mod scenario;
pub mod shrink;
pub mod stopwatch;
pub mod timeline;
pub mod trace;
pub mod walk;
pub mod watcher;
pub mod wire;
pub mod workload;
pub mod world;
