//! Who leads: the cluster's register in the bucket and each node's part in it (replication.md).
//!
//! ```text
//!                      register (one object, CAS)
//!                        ▲ read, swap
//!   peer ◀── messages ── core ── effects ──▶ node: promise, recover, place, lead, follow
//!                        ▲ events                  replicator: ack rule, lease
//! ```
//! Everything here is a state machine without I/O: see [`core`] for its states, [`register`] for
//! the object, [`vocabulary`] for events and effects. A shell delivers: [`Elector`].

mod claim;
pub mod core;
mod elector;
mod follow;
mod hand_over;
mod lease;
mod reconfigure;
pub mod register;
pub mod settings;
mod swap;
pub mod vocabulary;
#[cfg(test)]
mod world;

pub use self::core::Core;
pub use self::elector::{Args, Board, CommandMail, ElectionMail, Elector, Keeper, Reply};
pub use self::settings::Settings;
