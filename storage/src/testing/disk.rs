//! A disk in memory: operations wait until a test ends them, in the order it likes, or crashes.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{Error as IoError, ErrorKind};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::Dice;
use crate::buffer::AlignedBuffer;
use crate::disk::{Completion, Disk, DiskError, Done, FileId, Op, Token};
use crate::frame::TORN_BYTES;

/// What a crash does to an operation that has not ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    Drop,
    Keep,
    Tear,
}

/// Files and what is in flight.
#[derive(Debug, Default)]
pub(crate) struct MemoryDisk {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    open: BTreeMap<FileId, String>,
    /// Files that were made or extended and not synced since, with what they surely are.
    unsynced: BTreeMap<String, Option<Vec<u8>>>,
    next_file: u32,
    in_flight: Vec<(Token, Op)>,
    /// Space for further files, in bytes.
    pub(crate) room: Option<u64>,
    /// So many operations end well; the next is torn and everything from then on fails.
    pub(crate) crash_after: Option<u64>,
    /// Seeds what a crash leaves.
    pub(crate) dice: Option<Dice>,
    /// Writes fail with an I/O error.
    pub(crate) broken: bool,
    /// Operations that changed something.
    pub(crate) changes: u64,
}

/// Runs a future that never really waits.
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("waits for something that nobody will do"),
    }
}

impl MemoryDisk {
    pub(crate) fn with_files(files: BTreeMap<String, Vec<u8>>) -> Self {
        Self { files, ..Self::default() }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.in_flight.len()
    }

    /// Ends the `at`-th operation in flight.
    pub(crate) fn finish(&mut self, at: usize) -> Completion {
        let (token, op) = self.in_flight.remove(at);
        let outcome = self.perform(op);
        Completion { token, outcome }
    }

    /// Carries an operation out at once, whatever else is in flight.
    pub(crate) fn perform_now(&mut self, op: Op) -> Result<Done, DiskError> {
        self.perform(op)
    }

    /// Power loss: every operation in flight meets its fate, and what was not synced one of its
    /// own. What remains are the files.
    pub(crate) fn crash(
        mut self,
        mut fate: impl FnMut(&Op) -> Fate,
        dice: &mut Dice,
    ) -> BTreeMap<String, Vec<u8>> {
        for (_, op) in std::mem::take(&mut self.in_flight) {
            match fate(&op) {
                Fate::Drop => {}
                Fate::Keep => drop(self.apply(op)),
                Fate::Tear => self.tear(op, dice),
            }
        }
        self.lose_unsynced(dice);
        self.files
    }

    fn perform(&mut self, op: Op) -> Result<Done, DiskError> {
        let is_change =
            !matches!(op, Op::List | Op::Open { .. } | Op::Read { .. } | Op::Close { .. });
        if let Some(left) = self.crash_after {
            if left == 0 {
                self.crash_after = Some(0);
                if let Some(mut dice) = self.dice.take() {
                    self.tear(op, &mut dice);
                    self.lose_unsynced(&mut dice);
                }
                return Err(failed("crash", ErrorKind::Other));
            }
            self.crash_after = Some(left - u64::from(is_change));
        }
        if is_change {
            self.changes += 1;
        }
        if self.broken && matches!(op, Op::Write { .. }) {
            return Err(failed("Write", ErrorKind::Other));
        }
        self.apply(op)
    }

    fn apply(&mut self, op: Op) -> Result<Done, DiskError> {
        match op {
            Op::List => {
                let files = self.files.iter().map(|(name, it)| (name.clone(), it.len() as u64));
                Ok(Done::Listed(files.collect()))
            }
            Op::Open { name } => {
                let Some(content) = self.files.get(&name) else {
                    return Err(failed("Open", ErrorKind::NotFound));
                };
                let len = content.len() as u64;
                Ok(Done::Opened { file: self.handle(name), len })
            }
            Op::Create { name, len, head, .. } => {
                self.take_room(len)?;
                let mut content = head.to_vec();
                content.resize(len as usize, 0);
                self.unsynced.remove(&name);
                self.files.insert(name.clone(), content);
                Ok(Done::Opened { file: self.handle(name), len })
            }
            Op::Make { name } => {
                let before = self.files.insert(name.clone(), Vec::new());
                self.unsynced.entry(name.clone()).or_insert(before);
                Ok(Done::Opened { file: self.handle(name), len: 0 })
            }
            Op::Extend { file, offset, buffer } => {
                assert!(offset % 4096 == 0 && buffer.len() % 4096 == 0, "not aligned");
                self.take_room(buffer.len() as u64)?;
                self.extend(file, offset, &buffer, |_| true);
                Ok(Done::Written(buffer))
            }
            Op::Sync { file } => {
                let name = self.open.get(&file).expect("an open file");
                self.unsynced.remove(name);
                Ok(Done::Ok)
            }
            Op::Put { name, content } => {
                self.take_room(content.len() as u64)?;
                self.unsynced.remove(&name);
                self.files.insert(name, content.to_vec());
                Ok(Done::Ok)
            }
            Op::Write { file, offset, buffer } => {
                let content = self.content(file);
                let range = offset as usize..offset as usize + buffer.len();
                assert!(range.end <= content.len(), "a write behind the end of {file:?}");
                assert!(offset % 4096 == 0 && buffer.len() % 4096 == 0, "not aligned");
                content[range].copy_from_slice(&buffer);
                Ok(Done::Written(buffer))
            }
            Op::Read { file, offset, len } => {
                assert!(offset % 4096 == 0 && len % 4096 == 0, "not aligned: {offset} {len}");
                let content = self.content(file);
                let start = content.len().min(offset as usize);
                let end = content.len().min(offset as usize + len as usize);
                Ok(Done::Read(AlignedBuffer::copy_of(&content[start..end])))
            }
            Op::Close { file } => {
                self.open.remove(&file);
                Ok(Done::Ok)
            }
            Op::Remove { name } => {
                self.unsynced.remove(&name);
                self.files.remove(&name);
                Ok(Done::Ok)
            }
        }
    }

    fn take_room(&mut self, bytes: u64) -> Result<(), DiskError> {
        match &mut self.room {
            Some(room) if *room < bytes => Err(failed("Create", ErrorKind::StorageFull)),
            Some(room) => {
                *room -= bytes;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Leaves a random part of an operation's effect.
    fn tear(&mut self, op: Op, dice: &mut Dice) {
        match op {
            Op::Write { file, offset, buffer } => {
                let content = self.content(file);
                for (at, piece) in buffer.chunks(TORN_BYTES).enumerate() {
                    if dice.roll(2) == 0 {
                        let start = offset as usize + at * TORN_BYTES;
                        content[start..start + piece.len()].copy_from_slice(piece);
                    }
                }
            }
            Op::Extend { file, offset, buffer } => {
                self.extend(file, offset, &buffer, |_| dice.roll(2) == 0);
            }
            Op::Create { name, len, head, .. } => {
                let mut content = head.to_vec();
                content.truncate(dice.roll(head.len() as u64 + 1) as usize);
                content.resize(dice.roll(len + 1) as usize, 0);
                self.files.insert(name, content);
            }
            whole if dice.roll(2) == 0 => drop(self.apply(whole)),
            _ => {}
        }
    }

    fn extend(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: &[u8],
        mut survives: impl FnMut(usize) -> bool,
    ) {
        let Some(name) = self.open.get(&file) else { panic!("{file:?} is not open") };
        let content = self.files.entry(name.clone()).or_default();
        self.unsynced.entry(name.clone()).or_insert_with(|| Some(content.clone()));
        let at = offset as usize;
        content.resize(content.len().max(at + buffer.len()), 0);
        for (index, piece) in buffer.chunks(TORN_BYTES).enumerate() {
            if survives(index) {
                content[at + index * TORN_BYTES..][..piece.len()].copy_from_slice(piece);
            }
        }
    }

    /// Power loss: what was not synced is there, or not, or in part.
    fn lose_unsynced(&mut self, dice: &mut Dice) {
        for (name, before) in std::mem::take(&mut self.unsynced) {
            let roll = dice.roll(4);
            match (roll, before) {
                (0, None) => drop(self.files.remove(&name)),
                (0, Some(before)) => drop(self.files.insert(name, before)),
                (1, _) => {}
                (_, before) => {
                    let content = self.files.entry(name).or_default();
                    let sure = before.unwrap_or_default();
                    for (index, piece) in content.chunks_mut(TORN_BYTES).enumerate() {
                        if dice.roll(2) == 0 {
                            let was = sure.chunks(TORN_BYTES).nth(index).unwrap_or_default();
                            piece.fill(0);
                            piece[..was.len()].copy_from_slice(was);
                        }
                    }
                    let least = sure.len().min(content.len());
                    content
                        .truncate(least + dice.roll((content.len() - least) as u64 + 1) as usize);
                }
            }
        }
    }

    fn handle(&mut self, name: String) -> FileId {
        let file = FileId(self.next_file);
        self.next_file += 1;
        self.open.insert(file, name);
        file
    }

    fn content(&mut self, file: FileId) -> &mut Vec<u8> {
        let Some(name) = self.open.get(&file) else { panic!("{file:?} is not open") };
        self.files.entry(name.clone()).or_default()
    }
}

impl Disk for MemoryDisk {
    fn start(&mut self, token: Token, op: Op) {
        self.in_flight.push((token, op));
    }

    fn poll_complete(&mut self, _: &mut Context<'_>) -> Poll<Completion> {
        if self.in_flight.is_empty() { Poll::Pending } else { Poll::Ready(self.finish(0)) }
    }
}

fn failed(op: &'static str, kind: ErrorKind) -> DiskError {
    DiskError { op, name: "a file in memory".into(), source: IoError::from(kind) }
}
