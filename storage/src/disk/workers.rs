//! Threads that carry out blocking operations for one disk.
//!
//! ```text
//!   disk ── submit ──> queue ──> thread … thread ──> finished ── poll ──> disk
//!                                                        └─ wakes the task that polled last
//! ```
//! Threads start with the first work and park in between. Bounded by what the disk's owner has in
//! flight. Dropping waits for what runs (a `Create` stops at its next chunk) and forgets the rest.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};

use bytes::Bytes;

use crate::buffer::AlignedBuffer;
use crate::disk::files::{Achieved, FileTable, Folder, OpenFile};
use crate::disk::{DiskError, Done, Op, Token};

/// A blocking operation.
#[derive(Debug)]
pub(crate) enum Work {
    List,
    Open { name: String },
    Create { name: String, len: u64, written: u64, head: Bytes },
    Make { name: String },
    Extend { file: Arc<OpenFile>, offset: u64, buffer: AlignedBuffer },
    Sync { file: Arc<OpenFile> },
    Put { name: String, content: Bytes },
    Remove { name: String },
    Write { file: Arc<OpenFile>, offset: u64, buffer: AlignedBuffer },
    Read { file: Arc<OpenFile>, offset: u64, len: u32 },
}

impl Work {
    /// What `op` takes; `None` when it is done already. Misuse panics.
    pub(crate) fn of(op: Op, files: &mut FileTable) -> Option<Self> {
        Some(match op {
            Op::List => Self::List,
            Op::Open { name } => Self::Open { name },
            Op::Create { name, len, written, head } => Self::Create { name, len, written, head },
            Op::Make { name } => Self::Make { name },
            Op::Extend { file, offset, buffer } => {
                let file = files.file(file).clone();
                file.lengthen(offset, &buffer);
                Self::Extend { file, offset, buffer }
            }
            Op::Sync { file } => Self::Sync { file: files.file(file).clone() },
            Op::Put { name, content } => Self::Put { name, content },
            Op::Remove { name } => Self::Remove { name },
            Op::Write { file, offset, buffer } => {
                let file = files.file(file).clone();
                file.assert_writable(offset, &buffer);
                Self::Write { file, offset, buffer }
            }
            Op::Read { file, offset, len } => {
                let file = files.file(file).clone();
                file.readable(offset, len);
                Self::Read { file, offset, len }
            }
            Op::Close { file } => {
                files.close(file);
                return None;
            }
        })
    }
}

/// End of one.
pub(crate) type Finished = (Token, Result<Achieved, DiskError>);

/// The threads of one disk.
#[derive(Debug)]
pub(crate) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    threads_max: usize,
    /// Submitted and not yet polled: without any, polling takes no lock.
    outstanding: usize,
}

#[derive(Debug)]
struct Shared {
    folder: Folder,
    state: Mutex<State>,
    work: Condvar,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<(Token, Work)>,
    finished: VecDeque<Finished>,
    idle: usize,
    waker: Option<Waker>,
}

impl Workers {
    pub(crate) fn new(folder: Folder, threads_max: usize) -> Self {
        let shared = Shared {
            folder,
            state: Mutex::default(),
            work: Condvar::new(),
            stop: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared), threads: Vec::new(), threads_max, outstanding: 0 }
    }

    /// Queues `work`; never blocks on the device.
    pub(crate) fn submit(&mut self, token: Token, work: Work) {
        self.outstanding += 1;
        let mut state = self.shared.lock();
        state.queue.push_back((token, work));
        let short = state.queue.len() > state.idle && self.threads.len() < self.threads_max;
        drop(state);
        self.shared.work.notify_one();
        if short {
            self.add_thread();
        }
    }

    /// Takes what finished next. `Pending` with nothing submitted registers no waker.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Finished> {
        if self.outstanding == 0 {
            return Poll::Pending;
        }
        let mut state = self.shared.lock();
        match state.finished.pop_front() {
            Some(finished) => {
                self.outstanding -= 1;
                Poll::Ready(finished)
            }
            None => {
                let known = state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
                if !known {
                    state.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    fn add_thread(&mut self) {
        let shared = self.shared.clone();
        let name = "celeriant-disk".to_owned();
        match thread::Builder::new().name(name).spawn(move || shared.work_until_stopped()) {
            Ok(thread) => self.threads.push(thread),
            // Those that run will get to it.
            Err(_) if !self.threads.is_empty() => {}
            Err(error) => self.shared.refuse_all(&error),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Under the lock, so that no thread is between its look at `stop` and its wait.
        drop(self.shared.lock());
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // It catches panics; there is nothing to report.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work_until_stopped(&self) {
        while let Some((token, work)) = self.next_work() {
            let (op, name) = describe(&work);
            let outcome = catch_unwind(AssertUnwindSafe(|| self.carry_out(work)))
                .unwrap_or_else(|_| Err(io::Error::other("the disk's thread panicked")))
                .map_err(|source| DiskError { op, name, source });
            self.finish((token, outcome));
        }
    }

    fn next_work(&self) -> Option<(Token, Work)> {
        let mut state = self.lock();
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(work) = state.queue.pop_front() {
                return Some(work);
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn carry_out(&self, work: Work) -> io::Result<Achieved> {
        let folder = &self.folder;
        Ok(match work {
            Work::List => Achieved::Done(Done::Listed(folder.list()?)),
            Work::Open { name } => Achieved::Opened(folder.open_file(&name)?),
            Work::Create { name, len, written, head } => {
                Achieved::Opened(folder.create(&name, len, written, &head, &self.stop)?)
            }
            Work::Make { name } => Achieved::Opened(folder.make(&name)?),
            Work::Extend { file, offset, buffer } => {
                file.extend(offset, &buffer)?;
                Achieved::Done(Done::Written(buffer))
            }
            Work::Sync { file } => {
                folder.sync(&file)?;
                Achieved::Done(Done::Ok)
            }
            Work::Put { name, content } => {
                folder.put(&name, &content)?;
                Achieved::Done(Done::Ok)
            }
            Work::Remove { name } => {
                folder.remove(&name)?;
                Achieved::Removed(name)
            }
            Work::Write { file, offset, buffer } => {
                file.write(offset, &buffer)?;
                Achieved::Done(Done::Written(buffer))
            }
            Work::Read { file, offset, len } => Achieved::Done(Done::Read(file.read(offset, len)?)),
        })
    }

    fn finish(&self, finished: Finished) {
        let mut state = self.lock();
        state.finished.push_back(finished);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The system gives no thread: nothing queued will ever be carried out.
    fn refuse_all(&self, error: &io::Error) {
        let queue = std::mem::take(&mut self.lock().queue);
        for (token, work) in queue {
            let (op, name) = describe(&work);
            let source = io::Error::new(error.kind(), format!("no thread to do it: {error}"));
            self.finish((token, Err(DiskError { op, name, source })));
        }
    }
}

/// Kind and file of an operation, for its error.
fn describe(work: &Work) -> (&'static str, String) {
    match work {
        Work::List => ("list", String::new()),
        Work::Open { name } => ("open", name.clone()),
        Work::Create { name, .. } => ("create", name.clone()),
        Work::Make { name } => ("make", name.clone()),
        Work::Extend { file, offset, .. } => ("extend", format!("{} at {offset}", file.name)),
        Work::Sync { file } => ("sync", file.name.clone()),
        Work::Put { name, .. } => ("put", name.clone()),
        Work::Remove { name } => ("remove", name.clone()),
        Work::Write { file, offset, .. } => ("write", format!("{} at {offset}", file.name)),
        Work::Read { file, offset, .. } => ("read", format!("{} at {offset}", file.name)),
    }
}
