//! Behaviour: what a node of Celeriant does with durable bytes and bytes in motion.
//!
//! ```text
//! net ── requests of one read ──► router ── one message a shard ──► shard ──► disk
//!  ▲                                │                                 │ ▲
//!  │                                └──► coordinator ◄── answers ─────┘ │
//!  └──────────── answers of one commit, one message a connection ──────┘
//! ```
//!
//! [`watch`]: live subscriptions, one actor a thread, fed by the shards.
//!
//! Read a write forwards: [`router`] (admit, send to its shard), `shard/write.rs` (guards,
//! sequences, append), `shard/commit.rs` (make visible, release the receipt), [`route`] (back to
//! the connection). Over several shards: [`coordinator`] and `shard/leg.rs`. Reads:
//! `shard/read.rs`.
//!
//! ```text
//!            orders, reports                    commands, facts
//! shards ◄─────────────────────► replicator ◄─────────────────► election ◄──► register (bucket)
//!                                 ▲       ▲
//!                    peer (link) ─┘       └─ bucket_log ◄──► bucket
//! ```
//! A shard follows until it is told to lead (`shard/follower.rs`, `shard/orders.rs`). Of a pair,
//! [`replicator`] carries frames to the other node and into the bucket and says what each holds;
//! [`election`] holds the register and says who leads and what an acknowledgement needs. A node on
//! its own leads at once.
//!
//! Actors are thin shells (`shard.rs`, `coordinator.rs`, `replicator.rs`, `election/elector.rs`)
//! around cores without I/O, clock or randomness; [`node`] is the only place that joins settings,
//! components, threads and spawns.
//!
//! Deliberately absent: locks on the write path, timers that delay a commit, retries of disk
//! errors, restarts in place, state that is keyed by connection.

pub mod admin;
pub mod admission;
mod alarm;
pub mod audit;
pub mod bucket_log;
pub mod chronicle;
pub mod clock;
pub mod coordinator;
pub mod election;
pub mod fuzzing;
pub mod insider;
pub mod keys;
#[cfg(feature = "server")]
pub mod launch;
pub mod node;
pub mod quotas;
pub mod replicator;
pub mod route;
pub mod router;
pub mod schemas;
pub mod settings;
pub mod settlement;
pub mod shard;
pub mod standing;
pub mod trail;
pub mod verdict;
pub mod watch;
pub mod work;
