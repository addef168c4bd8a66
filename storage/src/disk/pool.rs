//! The fallback disk: a few threads with blocking writes and syncs, where io_uring is refused.
//!
//! Same contract, several times the latency: a write is `pwrite` and `fdatasync` on another thread.
//! Without Direct I/O it goes through the page cache; it is durable all the same, on file systems
//! that mean it.

use std::collections::VecDeque;
use std::path::Path;
use std::task::{Context, Poll};

use crate::disk::files::{FileTable, Folder};
use crate::disk::workers::{Work, Workers};
use crate::disk::{Completion, Disk, DiskError, Done, Op, Token};

/// Writes of a log overlap up to four deep; one more thread for what is slow.
const THREADS_MAX: usize = 5;

/// A disk on threads.
#[derive(Debug)]
pub struct PoolDisk {
    workers: Workers,
    files: FileTable,
    /// Completed without a thread.
    ready: VecDeque<Completion>,
}

impl PoolDisk {
    /// Opens an existing directory, with Direct I/O or through the page cache.
    ///
    /// # Errors
    /// The directory is missing or not accessible. Whether `direct` works shows at the first
    /// operation.
    pub fn open(path: &Path, direct: bool) -> Result<Self, DiskError> {
        let folder =
            Folder::open(path, direct).map_err(|source| DiskError::of_folder(path, source))?;
        Ok(Self {
            workers: Workers::new(folder, THREADS_MAX),
            files: FileTable::default(),
            ready: VecDeque::new(),
        })
    }
}

impl Disk for PoolDisk {
    fn start(&mut self, token: Token, op: Op) {
        match Work::of(op, &mut self.files) {
            Some(work) => self.workers.submit(token, work),
            None => self.ready.push_back(Completion { token, outcome: Ok(Done::Ok) }),
        }
    }

    fn poll_complete(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        if let Some(completion) = self.ready.pop_front() {
            return Poll::Ready(completion);
        }
        self.workers.poll(cx).map(|(token, outcome)| self.files.settle(token, outcome))
    }
}
