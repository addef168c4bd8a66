//! Planted bugs: the store, broken on purpose, to show that the oracle sees it.
//!
//! A saboteur stands between clients and node, or makes disks lie. A run with one must end in a
//! violation, and of a run without one nothing of this file takes part.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use celeriant_net::{Incoming, Reply, ReplySender};
use celeriant_schema::{
    AggregateKey, AggregateReceipt, ClientId, Guard, Hash, Page, Receipt, Refusal, Request,
    Response, Stamp, Version, Write,
};
use serde::{Deserialize, Serialize};

/// The way into a node.
pub type Submit = Arc<dyn Fn(Vec<Incoming>, &ReplySender) + Send + Sync>;

/// What is deliberately broken.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sabotage {
    /// Disks report writes as durable that are not yet.
    LyingDisks,
    /// One write in some is acknowledged and not done.
    LoseWrites,
    /// One write without sequences in some is done twice.
    DoubleWrites,
    /// Guards are not looked at.
    IgnoreGuards,
    /// Sequences are not looked at.
    IgnoreSequences,
    /// A write over several aggregates becomes several writes.
    SplitWrites,
    /// One read in some returns an older page.
    StaleReads,
    /// One page in some lacks its last batch.
    ShortReads,
    /// Conflicts name a wrong version.
    WrongConflicts,
    /// Conflicts name only the first aggregate.
    FirstConflictOnly,
    /// Refusals for writes that were done.
    FalseRefusals,
    /// Receipts with another hash.
    WrongHashes,
    /// Listings lack a name.
    ShortLists,
    /// Heads are one version behind.
    StaleHeads,
    /// One answer in some never comes.
    LoseAnswers,
}

impl Sabotage {
    /// Every kind.
    pub const ALL: [Self; 15] = [
        Self::LyingDisks,
        Self::LoseWrites,
        Self::DoubleWrites,
        Self::IgnoreGuards,
        Self::IgnoreSequences,
        Self::SplitWrites,
        Self::StaleReads,
        Self::ShortReads,
        Self::WrongConflicts,
        Self::FirstConflictOnly,
        Self::FalseRefusals,
        Self::WrongHashes,
        Self::ShortLists,
        Self::StaleHeads,
        Self::LoseAnswers,
    ];
}

/// Stands before a node and breaks one promise.
pub struct Saboteur {
    kind: Sabotage,
    inner: Submit,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seen: u64,
    pages: BTreeMap<AggregateKey, Page>,
}

/// One in this many is broken.
const EVERY: u64 = 7;

impl Saboteur {
    /// `inner`, broken.
    pub fn before(kind: Sabotage, inner: Submit) -> Submit {
        let saboteur = Arc::new(Self { kind, inner, state: Mutex::default() });
        Arc::new(move |requests, replies| {
            for request in requests {
                saboteur.take(request, replies);
            }
        })
    }

    fn take(self: &Arc<Self>, mut incoming: Incoming, replies: &ReplySender) {
        match (self.kind, &mut incoming.request) {
            (Sabotage::LoseWrites, Request::Write(write)) if self.turn() => {
                let response = Response::Receipt(forged(write));
                return replies.send(vec![Reply { id: incoming.id, response }]);
            }
            (Sabotage::DoubleWrites, Request::Write(write))
                if write.members.iter().all(|member| member.sequence.is_none()) && self.turn() =>
            {
                (self.inner)(vec![incoming.clone()], &ReplySender::channel().0);
            }
            (Sabotage::IgnoreGuards, Request::Write(write)) => {
                write.members.iter_mut().for_each(|member| member.guard = Guard::Any);
            }
            (Sabotage::IgnoreSequences, Request::Write(write)) => {
                write.members.iter_mut().for_each(|member| member.sequence = None);
            }
            (Sabotage::SplitWrites, Request::Write(write)) if write.members.len() > 1 => {
                let write = write.clone();
                return self.split(&incoming, &write, replies);
            }
            _ => {}
        }
        let request = incoming.request.clone();
        let (sender, mut receiver) = ReplySender::channel();
        (self.inner)(vec![incoming], &sender);
        drop(sender);
        let (saboteur, replies) = (Arc::clone(self), replies.clone());
        tokio::spawn(async move {
            while let Some(batch) = receiver.recv().await {
                let spoiled = batch.into_iter().filter_map(|reply| saboteur.spoil(&request, reply));
                replies.send(spoiled.collect());
            }
        });
    }

    /// Each appending member becomes a write of its own; the first answer is the answer.
    fn split(&self, incoming: &Incoming, write: &Write, replies: &ReplySender) {
        let nobody = ReplySender::channel().0;
        let parts = write.members.iter().filter(|member| !member.events.is_empty());
        for (index, member) in parts.enumerate() {
            let (client_id, members) = (write.client_id, vec![member.clone()]);
            let request = Request::Write(Write { client_id, members });
            let part = Incoming { request, ..incoming.clone() };
            (self.inner)(vec![part], if index == 0 { replies } else { &nobody });
        }
    }

    fn spoil(&self, request: &Request, mut reply: Reply) -> Option<Reply> {
        match (self.kind, &mut reply.response) {
            (Sabotage::LoseAnswers, _) if self.turn() => return None,
            (Sabotage::WrongHashes, Response::Receipt(receipt)) if self.turn() => {
                receipt.writes.iter_mut().for_each(|write| write.hash = Hash([7; 32]));
            }
            (Sabotage::FalseRefusals, Response::Receipt(_)) if self.turn() => {
                let what = "nothing at all".into();
                let refusal = Refusal::Overloaded { what, retry_after_ms: 1 };
                reply.response = Response::Refused(refusal);
            }
            (Sabotage::StaleReads, Response::Page(page)) => {
                if let Request::Read(query) = request {
                    let mut state = self.lock();
                    let first =
                        state.pages.entry(query.key.clone()).or_insert_with(|| page.clone());
                    page.version = first.version;
                }
            }
            (Sabotage::ShortReads, Response::Page(page)) if self.turn() => {
                page.batches.pop();
            }
            (Sabotage::StaleHeads, Response::Head(head)) if head.version > Version::new(1) => {
                head.version = Version::new(head.version.value() - 1);
            }
            (Sabotage::ShortLists, Response::List(page)) => {
                page.names.pop();
            }
            (
                Sabotage::WrongConflicts | Sabotage::FirstConflictOnly,
                Response::Refused(Refusal::Conflict { conflicts, .. }),
            ) => match self.kind {
                Sabotage::FirstConflictOnly => conflicts.truncate(1),
                _ => conflicts.iter_mut().for_each(|conflict| {
                    conflict.actual = Version::new(conflict.actual.value() + 1_000);
                }),
            },
            _ => {}
        }
        Some(reply)
    }

    /// One in [`EVERY`].
    fn turn(&self) -> bool {
        let mut state = self.lock();
        state.seen += 1;
        state.seen.is_multiple_of(EVERY)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forged(write: &Write) -> Receipt {
    let appending = write.members.iter().filter(|member| !member.events.is_empty());
    let writes = appending.map(|member| AggregateReceipt {
        key: member.key.clone(),
        first_version: Version::new(1),
        last_version: Version::new(member.events.len() as u64),
        hash: Hash([9; 32]),
    });
    let already_applied = write.client_id == ClientId::NONE && write.members.is_empty();
    Receipt { stamp: Stamp::new(1), already_applied, writes: writes.collect() }
}
