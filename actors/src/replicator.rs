//! Replication: the leader's frames to the follower, and what the follower holds back to the
//! leader's shards.
//!
//! ```text
//!            leader                                                follower
//! shard ── Sealed ──► stream ── Append ──────────────► following ── Accept ──► shard
//! shard ◄─── Held ─── stream ◄───────────────── Ack ── following ◄── Durable ── shard
//!                       │ compare: Locate, Cut (R10)
//!                       └ behind: reads its own log; level: sends what is sealed at once
//! ```
//! One actor a node. [`core`] decides; nothing in it waits, reads a clock or touches a network. A
//! frame that cannot be sent now is dropped here and read from the log later, so memory is bounded
//! by the window however far the follower is behind.
//!
//! Deliberately absent, so far: rounds into the bucket, and the actor that drives the core.

pub mod activation;
pub mod core;
mod following;
pub mod orders;
mod reconcile;
mod stream;
