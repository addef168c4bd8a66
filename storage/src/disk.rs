//! The `Disk` seam: everything a shard does to its storage is an [`Op`] that completes later.
//!
//! Operations and completions are values, so that a log can be a state machine without I/O and a
//! simulation can drop, tear, delay or fail any of them. One disk serves one shard and is rooted at
//! that shard's directory; names are plain file names in it.
//!
//! Contract. After a `Write`, `Create`, `Put` or `Remove` completed without error its effect survives a
//! crash. Before that, any subset of it may survive, torn at any 512-byte boundary; `Put` alone is all or
//! nothing. Operations may complete in any order. An error of a `Write` means that the content of the
//! range is unknown from here on: the caller must stop the node, never retry.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::buffer::AlignedBuffer;

/// An open file of a disk. Valid until `Remove` or `Close` of that file, never reused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FileId(pub u32);

/// Chosen by whoever starts an operation; comes back with its completion.
pub type Token = u64;

/// One operation.
#[derive(Debug)]
pub enum Op {
    /// Names and sizes of all files, sorted by name.
    List,
    /// Opens an existing file for reading and writing.
    Open {
        /// File name.
        name: String,
    },
    /// Makes a file of `len` bytes, every byte written (head first, then zeroes, not merely allocated),
    /// durable with its directory entry, and opens it. Replaces a file of that name.
    Create {
        /// File name.
        name: String,
        /// Size in bytes, a multiple of 4,096.
        len: u64,
        /// First bytes of the file.
        head: Bytes,
    },
    /// Replaces or makes a whole small file atomically and durably (write aside, sync, rename, sync).
    Put {
        /// File name.
        name: String,
        /// The whole content.
        content: Bytes,
    },
    /// One durable write inside the file's size. Offset and length are multiples of 4,096.
    Write {
        /// Where.
        file: FileId,
        /// Byte offset.
        offset: u64,
        /// What; all of `buffer.len()`.
        buffer: AlignedBuffer,
    },
    /// Reads `len` bytes (fewer only at the end of the file). Offset and length are multiples of 4,096.
    Read {
        /// Where.
        file: FileId,
        /// Byte offset.
        offset: u64,
        /// How much.
        len: u32,
    },
    /// Forgets an open file. Nothing of it may be in flight.
    Close {
        /// Which.
        file: FileId,
    },
    /// Deletes a file durably.
    Remove {
        /// File name.
        name: String,
    },
}

/// What an operation achieved.
#[derive(Debug)]
pub enum Done {
    /// Of `List`: name and size in bytes.
    Listed(Vec<(String, u64)>),
    /// Of `Open` and `Create`.
    Opened {
        /// Handle for reads and writes.
        file: FileId,
        /// Size in bytes.
        len: u64,
    },
    /// Of `Write`; gives the buffer back.
    Written(AlignedBuffer),
    /// Of `Read`.
    Read(AlignedBuffer),
    /// Of `Put`, `Close` and `Remove`.
    Ok,
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[error("{op} {name}: {source}")]
pub struct DiskError {
    /// Which kind of operation.
    pub op: &'static str,
    /// Which file (and offset).
    pub name: String,
    /// What the system said.
    pub source: std::io::Error,
}

impl DiskError {
    /// The device or quota has no space left.
    pub fn is_full(&self) -> bool {
        matches!(
            self.source.kind(),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
        )
    }

    /// There is no such file.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::NotFound
    }
}

/// End of an operation.
#[derive(Debug)]
pub struct Completion {
    /// As given to [`Disk::start`].
    pub token: Token,
    /// What came of it.
    pub outcome: Result<Done, DiskError>,
}

/// One shard's storage. Owned by one actor; used from one thread.
pub trait Disk: Send + 'static {
    /// Queues `op`; its completion comes from [`Disk::poll_complete`]. Never blocks on the device.
    fn start(&mut self, token: Token, op: Op);

    /// Hands everything queued to the device (at most one system call) and takes the next completion.
    /// `Pending` registers the waker. With nothing in flight it stays pending.
    fn poll_complete(&mut self, cx: &mut Context<'_>) -> Poll<Completion>;
}

/// Token that [`run`] uses; a log never does.
const RUN: Token = Token::MAX;

/// Starts one operation and waits for it: for start-up and tools, when nothing else is in flight.
///
/// # Errors
/// What the operation failed with.
pub async fn run<D: Disk>(disk: &mut D, op: Op) -> Result<Done, DiskError> {
    disk.start(RUN, op);
    let completion = poll_fn(|cx| disk.poll_complete(cx)).await;
    assert_eq!(completion.token, RUN, "run() while other operations are in flight");
    completion.outcome
}
