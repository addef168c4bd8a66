//! The production disk: Direct I/O through one io_uring ring per disk.
//!
//! ```text
//!   start ─> backlog ─ push ─> ring ── enter ──> device          Write, Read
//!        └─> workers (threads) ───────────────> file system      everything else
//!   poll_complete <─ completion queue <─ eventfd <─ device
//!                 <─ finished <─ waker <─ threads
//! ```
//! A durable write is one submission: `O_DIRECT` with `RWF_DSYNC`. The ring belongs to one thread
//! (`SINGLE_ISSUER`) and posts completions only when that thread enters the kernel
//! (`DEFER_TASKRUN`), so it is made at the first poll, and a registered eventfd says when entering
//! is worth it: an `AsyncFd` on the ring itself never wakes in this mode.
//!
//! Memory safety. From the push of an operation to its completion the kernel uses the buffer and
//! the file. Both live in the ring's slot for exactly that long; a ring that must go while the
//! kernel still uses slots waits for them, and gives their memory up for good if they don't come.
//!
//! Deliberately absent: registered files and buffers, polling of the device, cancellation (device
//! I/O can't be cancelled), a limit on what is started (the disk's owner has one).
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::{self, ThreadId};
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime;

use crate::buffer::{AlignedBuffer, BLOCK_BYTES};
use crate::disk::files::{FileTable, Folder, OpenFile};
use crate::disk::workers::{Work, Workers};
use crate::disk::{Completion, Disk, DiskError, Done, Op, Token};

/// Operations the kernel has at once; more wait in the backlog. The completion queue has twice the
/// room, so it cannot overflow.
const SLOTS: u32 = 128;
/// Threads for what isn't a transfer by the ring: one may zero a segment for a while and another
/// sync a run, a third opens a file meanwhile.
const THREADS_MAX: usize = 3;
/// How often a read that the kernel interrupted is started again. Writes never are.
const READ_RETRIES_MAX: u8 = 8;
/// How long a dropped disk waits for the device before it gives the memory in use up.
const DROP_WAIT: Duration = Duration::from_secs(30);

/// A disk on io_uring.
pub struct UringDisk {
    ring: Option<Box<Ring>>,
    workers: Workers,
    files: FileTable,
    /// Not yet in the ring, oldest first.
    backlog: VecDeque<Transfer>,
    /// Completed without the ring.
    ready: VecDeque<Completion>,
}

/// One write or read, possibly in several parts.
struct Transfer {
    token: Token,
    direction: Direction,
    file: Arc<OpenFile>,
    offset: u64,
    buffer: AlignedBuffer,
    /// Bytes asked for.
    wanted: usize,
    /// Bytes the device has confirmed.
    done: usize,
    retries: u8,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Direction {
    Write,
    Read,
}

impl UringDisk {
    /// Opens an existing directory.
    ///
    /// # Errors
    /// The directory is missing or not accessible, or the kernel refuses a ring of this kind
    /// (before Linux 6.1, or forbidden as in many containers).
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let of_folder = |source| DiskError::of_folder(path, source);
        let folder = Folder::open(path, true).map_err(of_folder)?;
        build_ring().map_err(of_folder)?;
        Ok(Self {
            ring: None,
            workers: Workers::new(folder, THREADS_MAX),
            files: FileTable::default(),
            backlog: VecDeque::new(),
            ready: VecDeque::new(),
        })
    }

    /// Moves the backlog into the ring and enters the kernel if there is something to hand over or
    /// to collect. False: try again soon, the kernel was short of something.
    fn flush(&mut self) -> bool {
        if self.backlog.is_empty() && self.ring.as_ref().is_none_or(|ring| ring.in_kernel == 0) {
            return true;
        }
        match self.own_ring().and_then(|()| self.enter()) {
            Ok(complete) => complete,
            Err(error) => {
                self.abandon(&error);
                true
            }
        }
    }

    /// Makes the ring on first use, and again when an idle disk has moved to another thread or
    /// runtime (start-up may recover it in one place and serve it in another).
    fn own_ring(&mut self) -> io::Result<()> {
        if let Some(ring) = &self.ring {
            if ring.is_at_home() {
                return Ok(());
            }
            if ring.in_kernel > 0 {
                return Err(io::Error::other("moved to another thread with operations in flight"));
            }
        }
        self.ring = Some(Box::new(Ring::new()?));
        Ok(())
    }

    fn enter(&mut self) -> io::Result<bool> {
        let Some(ring) = &mut self.ring else { return Ok(true) };
        while ring.in_kernel < SLOTS as usize
            && let Some(transfer) = self.backlog.pop_front()
        {
            ring.push(transfer);
        }
        ring.enter()
    }

    /// The ring is of no use any more: fails everything that was started. Nothing is known about
    /// it.
    fn abandon(&mut self, error: &io::Error) {
        let kind = error.kind();
        let why = error.to_string();
        let in_kernel = self.ring.take().map(|ring| ring.give_up()).unwrap_or_default();
        let waiting = self.backlog.drain(..).map(|transfer| transfer.describe());
        for (token, op, name) in in_kernel.into_iter().chain(waiting) {
            let source = io::Error::new(kind, format!("io_uring: {why}"));
            self.ready
                .push_back(Completion { token, outcome: Err(DiskError { op, name, source }) });
        }
    }

    /// The next operation that is over, of those the kernel has reported.
    fn take(&mut self) -> Option<Completion> {
        if let Some(completion) = self.ready.pop_front() {
            return Some(completion);
        }
        let ring = self.ring.as_mut()?;
        while let Some((transfer, result)) = ring.pop() {
            match transfer.advance(result) {
                Ok(completion) => return Some(completion),
                // The rest of it goes first: it has waited longest.
                Err(unfinished) => self.backlog.push_front(unfinished),
            }
        }
        None
    }

    /// Waits for the kernel to say that there is something to collect.
    fn poll_signal(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(ring) = &self.ring else { return Poll::Pending };
        if ring.in_kernel == 0 {
            return Poll::Pending;
        }
        match ring.signal.poll_read_ready(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(mut guard)) => {
                // Never read: the next signal is a new edge for epoll all the same.
                guard.clear_ready();
                Poll::Ready(())
            }
            Poll::Ready(Err(error)) => {
                self.abandon(&error);
                Poll::Ready(())
            }
        }
    }
}

impl Disk for UringDisk {
    fn start(&mut self, token: Token, op: Op) {
        match op {
            Op::Write { file, offset, buffer } => {
                let file = self.files.file(file).clone();
                file.assert_writable(offset, &buffer);
                let transfer = Transfer::new(token, Direction::Write, file, offset, buffer);
                match transfer.file.check() {
                    Ok(()) => self.backlog.push_back(transfer),
                    Err(error) => self.ready.push_back(transfer.fail(error)),
                }
            }
            Op::Read { file, offset, len } => {
                let file = self.files.file(file).clone();
                let wanted = file.readable(offset, len);
                let buffer = AlignedBuffer::zeroed(wanted.next_multiple_of(BLOCK_BYTES));
                let mut transfer = Transfer::new(token, Direction::Read, file, offset, buffer);
                transfer.wanted = wanted;
                match wanted {
                    0 => self.ready.push_back(transfer.finish()),
                    _ => self.backlog.push_back(transfer),
                }
            }
            other => match Work::of(other, &mut self.files) {
                Some(work) => self.workers.submit(token, work),
                None => self.ready.push_back(Completion { token, outcome: Ok(Done::Ok) }),
            },
        }
    }

    fn poll_complete(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        loop {
            let complete = self.flush();
            if let Some(completion) = self.take() {
                return Poll::Ready(completion);
            }
            if let Poll::Ready((token, outcome)) = self.workers.poll(cx) {
                return Poll::Ready(self.files.settle(token, outcome));
            }
            if !complete {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // An unfinished transfer has come back, or there is room again: hand it over.
            let room = self.ring.as_ref().is_none_or(|ring| ring.in_kernel < SLOTS as usize);
            if room && !self.backlog.is_empty() {
                continue;
            }
            if self.poll_signal(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl std::fmt::Debug for UringDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let in_kernel = self.ring.as_ref().map_or(0, |ring| ring.in_kernel);
        let waiting = self.backlog.len();
        write!(f, "UringDisk({in_kernel} in the kernel, {waiting} waiting, {:?})", self.workers)
    }
}

impl Transfer {
    fn new(
        token: Token,
        direction: Direction,
        file: Arc<OpenFile>,
        offset: u64,
        buffer: AlignedBuffer,
    ) -> Self {
        let wanted = buffer.len();
        Self { token, direction, file, offset, buffer, wanted, done: 0, retries: 0 }
    }

    /// The submission of what is not done yet. A read may run past `wanted` up to the block's end.
    fn entry(&mut self) -> squeue::Entry {
        let fd = types::Fd(self.file.file.as_raw_fd());
        let offset = self.offset + self.done as u64;
        let rest = self.buffer.len() - self.done;
        let len = u32::try_from(rest).unwrap_or(1 << 30);
        match self.direction {
            Direction::Write => {
                let from = self.buffer.as_ptr().wrapping_add(self.done);
                opcode::Write::new(fd, from, len).offset(offset).rw_flags(libc::RWF_DSYNC).build()
            }
            Direction::Read => {
                let to = self.buffer.as_mut_ptr().wrapping_add(self.done);
                opcode::Read::new(fd, to, len).offset(offset).build()
            }
        }
    }

    /// Takes the kernel's result of one part: the end of the transfer, or the transfer with a rest.
    fn advance(mut self, result: i32) -> Result<Completion, Self> {
        match usize::try_from(result) {
            Ok(count) => self.done += count,
            Err(_) => {
                let error = io::Error::from_raw_os_error(-result);
                let again = matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock);
                let read = self.direction == Direction::Read;
                if read && again && self.retries < READ_RETRIES_MAX {
                    self.retries += 1;
                    return Err(self);
                }
                return Ok(self.fail(error));
            }
        }
        if self.done >= self.wanted {
            return Ok(self.finish());
        }
        if result == 0 || !self.done.is_multiple_of(BLOCK_BYTES) {
            let error = match self.direction {
                Direction::Write => ErrorKind::WriteZero,
                Direction::Read => ErrorKind::UnexpectedEof,
            };
            return Ok(self.fail(error.into()));
        }
        Err(self)
    }

    fn finish(mut self) -> Completion {
        let outcome = match self.direction {
            // Parts of a log are acknowledged in order, but a file that failed holds nothing
            // certain.
            Direction::Write => match self.file.check() {
                Ok(()) => Ok(Done::Written(self.buffer)),
                Err(error) => return self.fail(error),
            },
            Direction::Read => {
                self.buffer.truncate(self.wanted);
                Ok(Done::Read(self.buffer))
            }
        };
        Completion { token: self.token, outcome }
    }

    fn fail(self, source: io::Error) -> Completion {
        if self.direction == Direction::Write {
            self.file.fail();
        }
        let (token, op, name) = self.describe();
        Completion { token, outcome: Err(DiskError { op, name, source }) }
    }

    fn describe(&self) -> (Token, &'static str, String) {
        let op = match self.direction {
            Direction::Write => "write",
            Direction::Read => "read",
        };
        (self.token, op, format!("{} at {}", self.file.name, self.offset))
    }
}

/// The ring, bound to the thread and the runtime that made it.
struct Ring {
    ring: IoUring,
    signal: AsyncFd<OwnedFd>,
    thread: ThreadId,
    runtime: runtime::Id,
    /// What the kernel uses; the index is the submission's user data.
    slots: Vec<Option<Transfer>>,
    free: Vec<usize>,
    in_kernel: usize,
}

impl Ring {
    /// Must be called inside a tokio runtime with I/O enabled.
    fn new() -> io::Result<Self> {
        let ring = build_ring()?;
        let signal = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        ring.submitter().register_eventfd(signal.as_raw_fd())?;
        // SAFETY: an `OwnedFd` is open, and the same descriptor, until the `AsyncFd` drops it.
        let signal = unsafe { AsyncFd::register_with_interest(signal, Interest::READABLE)? };
        Ok(Self {
            ring,
            signal,
            thread: thread::current().id(),
            runtime: runtime::Handle::current().id(),
            slots: (0..SLOTS).map(|_| None).collect(),
            free: (0..SLOTS as usize).rev().collect(),
            in_kernel: 0,
        })
    }

    fn is_at_home(&self) -> bool {
        self.thread == thread::current().id() && self.runtime == runtime::Handle::current().id()
    }

    /// Puts a transfer into the submission queue. There must be a free slot.
    fn push(&mut self, mut transfer: Transfer) {
        let Some(slot) = self.free.pop() else { panic!("{} transfers in a ring", self.in_kernel) };
        let entry = transfer.entry().user_data(slot as u64);
        self.slots[slot] = Some(transfer);
        self.in_kernel += 1;
        // SAFETY: the entry's buffer is heap memory of the transfer and its file descriptor belongs
        // to the transfer's file; both stay in the slot, untouched, until `pop` has the completion,
        // or are leaked by `give_up`. Moving the transfer doesn't move the heap memory.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        // The queue has as many entries as there are slots.
        assert!(pushed.is_ok(), "submission queue is full with {} in the kernel", self.in_kernel);
    }

    /// One system call, if there is something to submit or to collect. False if the kernel could
    /// not take everything now.
    fn enter(&mut self) -> io::Result<bool> {
        let queue = self.ring.submission();
        if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
            return Ok(true);
        }
        drop(queue);
        match self.ring.submit() {
            Ok(_) => Ok(self.ring.submission().is_empty()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Takes one completion and with it the transfer back from the kernel.
    fn pop(&mut self) -> Option<(Transfer, i32)> {
        let entry: cqueue::Entry = self.ring.completion().next()?;
        let slot = entry.user_data() as usize;
        let Some(transfer) = self.slots[slot].take() else { panic!("slot {slot} completed twice") };
        self.free.push(slot);
        self.in_kernel -= 1;
        Some((transfer, entry.result()))
    }

    /// Waits until the kernel uses nothing any more. False if that can't be had.
    fn drain(&mut self) -> bool {
        let timeout = types::Timespec::from(DROP_WAIT);
        while self.in_kernel > 0 {
            if self.pop().is_some() {
                continue;
            }
            let wait = types::SubmitArgs::new().timespec(&timeout);
            match self.ring.submitter().submit_with_args(1, &wait) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Drops the ring without waiting. Says what was in the kernel; the memory of that is leaked.
    fn give_up(mut self) -> Vec<(Token, &'static str, String)> {
        let mut lost = Vec::new();
        for transfer in self.slots.iter_mut().filter_map(Option::take) {
            lost.push(transfer.describe());
            std::mem::forget(transfer);
        }
        self.in_kernel = 0;
        lost
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.drain() {
            // On another thread, or the device is stuck: the kernel may still write into this
            // memory.
            tracing::warn!(operations = self.in_kernel, "disk dropped with operations in flight");
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}

fn build_ring() -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .build(SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(direction: Direction, bytes: usize) -> (tempfile::TempDir, Transfer) {
        let dir = tempfile::tempdir().expect("a directory");
        let folder = Folder::open(dir.path(), false).expect("it opens");
        folder.put("a", &vec![0; bytes]).expect("a file");
        let file = Arc::new(folder.open_file("a").expect("it opens"));
        let buffer = AlignedBuffer::zeroed(bytes.next_multiple_of(BLOCK_BYTES));
        let mut transfer = Transfer::new(7, direction, file, 0, buffer);
        transfer.wanted = bytes;
        (dir, transfer)
    }

    fn error_of(completion: Completion) -> DiskError {
        assert_eq!(completion.token, 7);
        completion.outcome.expect_err("it failed")
    }

    #[test]
    fn a_short_write_goes_on_where_the_device_stopped() {
        let (_dir, transfer) = transfer(Direction::Write, 3 * BLOCK_BYTES);
        let rest = transfer.advance(BLOCK_BYTES as i32).expect_err("not over");
        assert_eq!(rest.done, BLOCK_BYTES);
        let completion = rest.advance(2 * BLOCK_BYTES as i32).ok().expect("over");
        assert!(matches!(completion.outcome, Ok(Done::Written(buffer)) if buffer.len() == 12_288));
    }

    #[test]
    fn a_write_that_stops_inside_a_block_or_writes_nothing_fails() {
        for result in [0, 512] {
            let (_dir, transfer) = transfer(Direction::Write, 2 * BLOCK_BYTES);
            let file = transfer.file.clone();
            let error = error_of(transfer.advance(result).ok().expect("over"));
            assert_eq!(error.source.kind(), ErrorKind::WriteZero);
            assert!(file.check().is_err(), "the file takes no more writes");
        }
    }

    #[test]
    fn a_failed_write_is_never_started_again_and_fails_those_that_follow() {
        for errno in [libc::EIO, libc::EINTR, libc::EAGAIN, libc::ENOSPC] {
            let (_dir, first) = transfer(Direction::Write, BLOCK_BYTES);
            let file = first.file.clone();
            let error = error_of(first.advance(-errno).ok().expect("over"));
            assert_eq!(error.source.raw_os_error(), Some(errno));
            let second = Transfer::new(7, Direction::Write, file, 0, AlignedBuffer::zeroed(4096));
            error_of(second.advance(4096).ok().expect("over"));
        }
    }

    #[test]
    fn a_read_ends_at_the_end_of_the_file_and_nowhere_before() {
        let bytes = BLOCK_BYTES + 100;
        let (_dir, at_end) = transfer(Direction::Read, bytes);
        let rest = at_end.advance(BLOCK_BYTES as i32).expect_err("not over");
        let completion = rest.advance(100).ok().expect("over");
        assert!(matches!(completion.outcome, Ok(Done::Read(buffer)) if buffer.len() == bytes));

        for result in [0, 50] {
            let (_dir, before) = transfer(Direction::Read, bytes);
            let error = error_of(before.advance(result).ok().expect("over"));
            assert_eq!(error.source.kind(), ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn an_interrupted_read_is_started_again_a_few_times() {
        let (_dir, mut read) = transfer(Direction::Read, BLOCK_BYTES);
        for _ in 0..READ_RETRIES_MAX {
            read = read.advance(-libc::EINTR).expect_err("not over");
        }
        let error = error_of(read.advance(-libc::EINTR).ok().expect("over"));
        assert_eq!(error.source.kind(), ErrorKind::Interrupted);
    }
}
