//! Bytes in motion: clients connect here, requests become values, answers become bytes.
//!
//! ```text
//! listener    accepts (one per thread, SO_REUSEPORT), caps the number of connections
//! connection  one task per client: socket ⇄ frames ⇄ Service, with every limit that protects the node
//! service     what stands behind: submit a batch of requests, answers come back in batches
//! ```
//!
//! Deliberately absent: actors, shards, disks. Whatever implements [`Service`] is a node; tests and
//! simulation use it without sockets.

pub mod service;

pub use service::{Incoming, Reply, ReplyReceiver, ReplySender, Service};
