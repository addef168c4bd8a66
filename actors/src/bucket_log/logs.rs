//! The replicator's bucket logs: one uploader or one reader at a time, and whose completion it is.
//!
//! ```text
//!   Upload ─► Uploader ─┐                      token = which machine, and its own number
//!                       ├─ Start ─► bucket ─► Completed ─► the same machine, or nobody
//!   Recover ─► Reader ──┤
//!   CleanUp ─► Gc ──────┘
//! ```

use celeriant_schema::ClusterId;
use celeriant_storage::bucket::{Completion, Token};

use super::chain::{self, Reader};
use super::gc::{self, Gc};
use super::rounds::{self, Uploader};
use super::{Seal, Settings};
use crate::clock::Micros;
use crate::replicator::bucket::{BucketLog, LogNews, LogOrder};

/// Operations that one machine starts, at most: more than its life is long.
const NUMBER_BITS: u32 = 40;

/// Tells the nonces of uploads and fences from each other.
const NONCE_CONTEXT: &str = "celeriant 2026-11 bucket log v1 seeds of machines";

/// The bucket logs of one process.
#[derive(Debug)]
pub struct BucketLogs {
    cluster: ClusterId,
    seal: Seal,
    settings: Settings,
    seed: u128,
    /// How many machines there were.
    machines: u64,
    at_work: AtWork,
    uploads: Vec<rounds::Effect>,
    reads: Vec<chain::Effect>,
    deletions: Vec<gc::Effect>,
}

#[derive(Debug)]
enum AtWork {
    Nothing,
    Uploading(Uploader),
    Cleaning(Gc),
    Reading { epoch: celeriant_schema::Epoch, reader: Reader, is_begun: bool },
}

impl BucketLogs {
    /// Of this cluster. `seed` is random and never used before: two writers of one slot are told
    /// apart by what is made from it.
    pub fn new(cluster: ClusterId, seal: Seal, settings: Settings, seed: u128) -> Self {
        Self {
            cluster,
            seal,
            settings,
            seed,
            machines: 0,
            at_work: AtWork::Nothing,
            uploads: Vec::new(),
            reads: Vec::new(),
            deletions: Vec::new(),
        }
    }

    /// Another machine begins: a seed of its own.
    fn next_seed(&mut self) -> u128 {
        self.machines += 1;
        let mut hasher = blake3::Hasher::new_derive_key(NONCE_CONTEXT);
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(&self.machines.to_le_bytes());
        let mut seed = [0; 16];
        hasher.finalize_xof().fill(&mut seed);
        u128::from_le_bytes(seed)
    }

    fn complete(&mut self, now: Micros, completion: Completion) {
        let Completion { token, outcome } = completion;
        if token >> NUMBER_BITS != self.machines {
            return;
        }
        let completion = Completion { token: token & ((1 << NUMBER_BITS) - 1), outcome };
        match &mut self.at_work {
            AtWork::Nothing => {}
            AtWork::Uploading(uploader) => {
                uploader.handle(now, rounds::Event::Bucket(completion), &mut self.uploads);
            }
            AtWork::Reading { reader, .. } => {
                reader.handle(now, chain::Event::Bucket(completion), &mut self.reads);
            }
            AtWork::Cleaning(gc) => {
                gc.handle(now, gc::Event::Bucket(completion), &mut self.deletions);
            }
        }
    }

    /// Says in the replicator's words what the machines want.
    fn tell(&mut self, news: &mut Vec<LogNews>) {
        let machine = self.machines;
        let tagged = |token: Token| machine << NUMBER_BITS | token;
        news.extend(self.uploads.drain(..).filter_map(|effect| match effect {
            rounds::Effect::Bucket(token, request) => Some(LogNews::Start(tagged(token), request)),
            rounds::Effect::Read { shard, after, bytes_max } => {
                Some(LogNews::Read { shard, after, bytes_max })
            }
            rounds::Effect::Held { shard, upto } => Some(LogNews::Held(shard, upto)),
            // What is held says it.
            rounds::Effect::Complete => None,
            rounds::Effect::Fenced { slot } => {
                tracing::warn!(slot, "the bucket log is fenced: somebody takes over");
                Some(LogNews::Fenced)
            }
        }));
        for effect in self.deletions.drain(..) {
            match effect {
                gc::Effect::Bucket(token, request) => {
                    news.push(LogNews::Start(tagged(token), request));
                }
                gc::Effect::Done { deleted } => {
                    tracing::debug!(deleted, "rounds that both nodes hold are gone");
                    self.at_work = AtWork::Nothing;
                }
            }
        }
        let AtWork::Reading { epoch, .. } = self.at_work else { return self.reads.clear() };
        news.extend(self.reads.drain(..).map(|effect| match effect {
            chain::Effect::Bucket(token, request) => LogNews::Start(tagged(token), request),
            chain::Effect::Find { shard, lsn } => LogNews::Find { shard, lsn },
            chain::Effect::Cut { shard, to } => LogNews::Cut(shard, to),
            chain::Effect::Frames { shard, frames } => LogNews::Frames(shard, frames),
            chain::Effect::Done { ends } => LogNews::Recovered { epoch, ends },
            chain::Effect::Failed(error) => LogNews::Failed { epoch, why: error.to_string() },
        }));
    }
}

impl BucketLog for BucketLogs {
    fn handle(&mut self, now: Micros, order: LogOrder, news: &mut Vec<LogNews>) {
        match (order, &mut self.at_work) {
            (LogOrder::Upload { link, sealed }, _) => {
                let seed = self.next_seed();
                let (epoch, base) = (link.epoch, link.base);
                let start = rounds::Start { cluster: self.cluster, epoch, base, sealed, seed };
                let uploader = Uploader::new(start, self.seal.clone(), self.settings);
                self.at_work = AtWork::Uploading(uploader);
            }
            (LogOrder::Recover { epoch, chain, own }, _) => {
                let nonce = self.next_seed();
                let start = chain::Start { cluster: self.cluster, links: chain, own, nonce };
                match Reader::new(start, self.seal.clone(), self.settings) {
                    Ok(reader) => {
                        self.at_work = AtWork::Reading { epoch, reader, is_begun: false };
                    }
                    Err(error) => {
                        self.at_work = AtWork::Nothing;
                        news.push(LogNews::Failed { epoch, why: error.to_string() });
                    }
                }
            }
            (LogOrder::CleanUp(facts), AtWork::Nothing) => {
                self.machines += 1;
                self.at_work = AtWork::Cleaning(Gc::new(facts, None, self.settings));
            }
            (LogOrder::Stop, at_work) => *at_work = AtWork::Nothing,
            (LogOrder::Completed(completion), _) => self.complete(now, completion),
            (LogOrder::Sealed(shard, frames), AtWork::Uploading(uploader)) => {
                uploader.handle(now, rounds::Event::Sealed(shard, frames), &mut self.uploads);
            }
            (LogOrder::Read(shard, frames), AtWork::Uploading(uploader)) => {
                uploader.handle(now, rounds::Event::Read(shard, frames), &mut self.uploads);
            }
            (LogOrder::Found { shard, lsn, frame }, AtWork::Reading { reader, .. }) => {
                reader.handle(now, chain::Event::Found { shard, lsn, frame }, &mut self.reads);
            }
            (LogOrder::Taken(shard), AtWork::Reading { reader, .. }) => {
                reader.handle(now, chain::Event::Taken(shard), &mut self.reads);
            }
            // Of a machine that is gone.
            _ => {}
        }
        self.tell(news);
    }

    fn flush(&mut self, now: Micros, news: &mut Vec<LogNews>) {
        match &mut self.at_work {
            AtWork::Nothing => {}
            AtWork::Uploading(uploader) => uploader.flush(now, &mut self.uploads),
            AtWork::Cleaning(gc) => {
                if gc.next_deadline().is_some_and(|deadline| now >= deadline) {
                    gc.handle(now, gc::Event::Tick, &mut self.deletions);
                }
            }
            AtWork::Reading { reader, is_begun, .. } => {
                let is_due = reader.next_deadline().is_some_and(|deadline| now >= deadline);
                if is_due || !std::mem::replace(is_begun, true) {
                    reader.handle(now, chain::Event::Tick, &mut self.reads);
                }
            }
        }
        self.tell(news);
    }

    fn next_deadline(&self) -> Option<Micros> {
        match &self.at_work {
            AtWork::Nothing => None,
            AtWork::Uploading(uploader) => uploader.next_deadline(),
            AtWork::Cleaning(gc) => gc.next_deadline(),
            AtWork::Reading { reader, .. } => reader.next_deadline(),
        }
    }
}
