//! A disk that keeps nothing: every write succeeds at once, so that only our own work is measured.
//!
//! Good enough for a new log whose reads are all served from memory; a read from it is a mistake of
//! the measurement.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use celeriant_storage::disk::{Completion, Disk, DiskError, Done, FileId, Op, Token};

/// The disk.
#[derive(Debug, Default)]
pub(crate) struct Nowhere {
    files: u32,
    done: VecDeque<Completion>,
}

impl Nowhere {
    /// The next operation that ended, in order.
    pub(crate) fn take(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }

    fn run(&mut self, op: Op) -> Result<Done, DiskError> {
        match op {
            Op::List => Ok(Done::Listed(Vec::new())),
            Op::Create { len, .. } => {
                self.files += 1;
                Ok(Done::Opened { file: FileId(self.files), len })
            }
            Op::Write { buffer, .. } => Ok(Done::Written(buffer)),
            Op::Put { .. } | Op::Close { .. } | Op::Remove { .. } => Ok(Done::Ok),
            Op::Open { name } => {
                let source = std::io::ErrorKind::NotFound.into();
                Err(DiskError { op: "open", name, source })
            }
            other => panic!("{other:?}: nothing was kept"),
        }
    }
}

impl Disk for Nowhere {
    fn start(&mut self, token: Token, op: Op) {
        let outcome = self.run(op);
        self.done.push_back(Completion { token, outcome });
    }

    fn poll_complete(&mut self, _: &mut Context<'_>) -> Poll<Completion> {
        self.take().map_or(Poll::Pending, Poll::Ready)
    }
}
