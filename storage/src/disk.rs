//! The `Disk` seam: everything a shard does to its storage is an [`Op`] that completes later.
//!
//! Operations and completions are values, so that a log can be a state machine without I/O and a
//! simulation can drop, tear, delay or fail any of them. One disk serves one shard and is rooted at
//! that shard's directory; names are plain file names in it.
//!
//! Contract. After a `Write`, `Create`, `Put` or `Remove` completed without error its effect
//! survives a crash. Before that, any subset of it may survive, torn at any 512-byte boundary;
//! `Put` alone is all or nothing. `Make` and `Extend` are the exception: what they did survives for
//! certain only after a `Sync` of that file completed; until then the file may be missing, short,
//! or hold anything in what is new. After an error of `Extend` or `Sync` it holds nothing certain
//! and takes no more. Operations may complete in any order. An error of a `Write` means that the
//! content of the range is unknown from here on: the caller must stop the node, never retry.
//!
//! Misuse (unaligned, outside the file, a file that isn't open) panics: it is never the disk's
//! doing.
//!
//! ```text
//!   uring    io_uring, Direct I/O                 production
//!   pool     threads, Direct I/O or page cache    where io_uring is refused
//!   files    blocking operations of a directory   under both
//!   workers  threads that carry them out          under both
//! ```

mod files;
pub mod pool;
pub mod uring;
mod workers;

#[cfg(test)]
mod disk_test;

use std::fmt;
use std::future::poll_fn;
use std::path::Path;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::buffer::AlignedBuffer;
pub(crate) use crate::disk::files::Folder;
use crate::disk::pool::PoolDisk;
use crate::disk::uring::UringDisk;

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
    /// Makes a file of `len` bytes, head first, then zeroes, durable with its directory entry, and
    /// opens it. Replaces a file of that name.
    Create {
        /// File name.
        name: String,
        /// Size in bytes, a multiple of 4,096.
        len: u64,
        /// So many of them are really written; the others are allocated and read as zeroes. A
        /// durable write to those makes the file system note it in its journal, too.
        written: u64,
        /// First bytes of the file.
        head: Bytes,
    },
    /// Makes an empty file, not durable, and opens it. Replaces a file of that name, which must not
    /// be open. For files that are written once, front to back.
    Make {
        /// File name.
        name: String,
    },
    /// Writes behind what the file has, or will have after those started before; not durable. The
    /// length is a multiple of 4,096. A part may be read once this has completed.
    Extend {
        /// Which.
        file: FileId,
        /// Byte offset: the file's size.
        offset: u64,
        /// What; all of `buffer.len()`.
        buffer: AlignedBuffer,
    },
    /// Makes a file durable with everything that completed before this started, its size and its
    /// directory entry.
    Sync {
        /// Which.
        file: FileId,
    },
    /// Replaces or makes a whole small file atomically and durably (write aside, sync, rename,
    /// sync).
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
    /// Reads `len` bytes (fewer only at the end of the file). Offset and length are multiples of
    /// 4,096.
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
    /// Of `Open`, `Create` and `Make`.
    Opened {
        /// Handle for reads and writes.
        file: FileId,
        /// Size in bytes.
        len: u64,
    },
    /// Of `Write` and `Extend`; gives the buffer back.
    Written(AlignedBuffer),
    /// Of `Read`.
    Read(AlignedBuffer),
    /// Of `Put`, `Sync`, `Close` and `Remove`.
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
    fn of_folder(path: &Path, source: std::io::Error) -> Self {
        Self { op: "open directory", name: path.display().to_string(), source }
    }

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

    /// Hands everything queued to the device (at most one system call) and takes the next
    /// completion. `Pending` registers the waker. With nothing in flight it stays pending.
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

/// Which way to the device.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Kind {
    /// io_uring with Direct I/O.
    #[default]
    Uring,
    /// Threads with Direct I/O.
    Pool,
    /// Threads through the page cache. Durable on file systems that mean their syncs.
    Buffered,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "io_uring, Direct I/O",
            Self::Pool => "threads, Direct I/O",
            Self::Buffered => "threads, page cache",
        })
    }
}

/// A disk on real files.
#[derive(Debug)]
pub enum FileDisk {
    /// `Kind::Uring`.
    Uring(UringDisk),
    /// `Kind::Pool` and `Kind::Buffered`.
    Pool(PoolDisk, Kind),
}

/// Opens the existing directory `path`, `prefer`red or else the next best way, which it logs.
///
/// # Errors
/// The directory is missing or not accessible.
pub fn open(path: &Path, prefer: Kind) -> Result<FileDisk, DiskError> {
    let of_folder = |source| DiskError::of_folder(path, source);
    let mut kind = prefer;
    if kind != Kind::Buffered && !Folder::probe_direct(path).map_err(of_folder)? {
        kind = Kind::Buffered;
        tracing::warn!(path = %path.display(), "no Direct I/O here: falling back to {kind}");
    }
    if kind == Kind::Uring {
        match UringDisk::open(path) {
            Ok(disk) => return Ok(FileDisk::Uring(disk)),
            Err(error) => {
                // A directory that can't be opened fails below again, with its own error.
                kind = Kind::Pool;
                tracing::warn!(%error, "no io_uring, writes take longer: falling back to {kind}");
            }
        }
    }
    Ok(FileDisk::Pool(PoolDisk::open(path, kind == Kind::Pool)?, kind))
}

impl FileDisk {
    /// Which way it goes.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Uring(_) => Kind::Uring,
            Self::Pool(_, kind) => *kind,
        }
    }
}

impl Disk for FileDisk {
    fn start(&mut self, token: Token, op: Op) {
        match self {
            Self::Uring(disk) => disk.start(token, op),
            Self::Pool(disk, _) => disk.start(token, op),
        }
    }

    fn poll_complete(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        match self {
            Self::Uring(disk) => disk.poll_complete(cx),
            Self::Pool(disk, _) => disk.poll_complete(cx),
        }
    }
}
