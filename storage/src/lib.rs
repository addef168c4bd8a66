//! Durable bytes: disks, segments, frames, the group-commit log, recovery.
//!
//! ```text
//!                  log            pure: records → frames → Op::Write; completions → durable lsn;
//!                                 frames of another leader, byte for byte, the same way
//!   recovery ──►   directory      key → head, sequences, batch locations; in bounded memory
//!   (start path)   cache          frames that were read or written lately
//!      │
//!      ▼           frame · segment · watermark · run · manifest    byte formats (docs/format.md)
//!     disk         the seam: operations and completions as values; ring, thread pool, or simulated
//!
//!     bucket       the seam to the third place, in the same manner; S3, embedded, or simulated
//! ```
//! The log and the directory never do I/O: they hand out [`disk::Op`]s and take
//! [`disk::Completion`]s, so that a test or a simulation can drop, tear, delay and reorder every
//! one of them. `recovery::recover` is the only way to a log, also for an empty directory: start
//! and crash are one path.
//!
//! Deliberately absent: locks, timers, threads (other than those inside a disk), background tasks,
//! knowledge of actors or sockets, in-place changes of anything that was acknowledged.
//!
//! To change a byte format: docs/format.md, the codec, the golden bytes in its tests and
//! [`FORMAT`], in one commit. To change when something is durable: `log.rs`, and the crash harness
//! of the simulation must pass.

pub mod bucket;
pub mod buffer;
pub mod cache;
pub(crate) mod codec;
pub mod compact;
pub mod directory;
pub mod disk;
pub mod error;
pub mod frame;
pub mod fuzzing;
pub mod inspect;
pub mod log;
pub mod manifest;
pub(crate) mod packed;
pub mod recovery;
pub(crate) mod run;
pub(crate) mod scan;
pub mod segment;
pub mod settings;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;
pub mod verify;
pub mod watermark;

use celeriant_schema::{ClusterId, ShardId};

pub use error::{Damage, Error, Flaw, Uncut};
pub use settings::{DirectoryBudget, Settings};

/// Version of every file format of this crate, raised with any change of bytes.
pub const FORMAT: u16 = 1;

/// Whose log it is. Written into every file and frame, so that foreign bytes are never taken for
/// data.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The shard of it.
    pub shard: ShardId,
}
