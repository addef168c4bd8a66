//! The bucket of the random world: the register, and the slots of each epoch's log.

use std::collections::BTreeMap;

use bytes::Bytes;
use celeriant_storage::bucket::{
    BucketError, Cause, Conflict, Done, ETag, Effect as Left, Op, Outcome,
};

use super::Entry;
use crate::clock::Micros;
use crate::election::register::{Config, Phase, Seal};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    Honest,
    /// Never sent, and known so.
    Unreachable,
    /// Never carried out, but nobody knows.
    NoAnswer,
    /// Carried out, but nobody knows.
    AnswerLost,
    /// Carried out when its sender has long given up.
    Late,
    /// Carried out, then once more: the second one's answer comes.
    SentTwice,
}

/// A request under way.
#[derive(Debug)]
struct Pending {
    op: Op,
    outcome: Option<Outcome>,
}

/// The bucket log of one epoch.
#[derive(Debug, Default)]
pub(super) struct Wal {
    pub(super) slots: Vec<Entry>,
    pub(super) fenced: bool,
}

#[derive(Debug, Default)]
pub(super) struct Bucket {
    register: Option<(Bytes, ETag, Config)>,
    etags: u64,
    pending: BTreeMap<u64, Pending>,
    ids: u64,
    pub(super) wals: BTreeMap<u64, Wal>,
    /// Claims that ever were in the register.
    pub(super) claims: u64,
    pub(super) down_until: Micros,
    /// Of a hundred changes so many don't end honestly.
    pub(super) lies: u32,
}

impl Bucket {
    pub(super) fn config(&self) -> Option<&Config> {
        self.register.as_ref().map(|(.., config)| config)
    }

    pub(super) fn start(&mut self, op: Op) -> u64 {
        self.ids += 1;
        self.pending.insert(self.ids, Pending { op, outcome: None });
        self.ids
    }

    /// The moment at which it takes effect.
    pub(super) fn apply(&mut self, id: u64, seed: u64) {
        let Some(op) = self.pending.get(&id).map(|pending| pending.op.clone()) else { return };
        let done = self.carry_out(op, seed);
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.outcome = Some(Ok(done));
        }
    }

    /// What the sender hears.
    pub(super) fn answer(&mut self, id: u64, fate: Fate) -> Outcome {
        let late = fate == Fate::Late;
        let pending = if late { None } else { self.pending.remove(&id) };
        let op = match &pending {
            Some(pending) => pending.op.clone(),
            None => self.pending[&id].op.clone(),
        };
        let lost = Err(BucketError::lost(&op, Cause::Deadline, ""));
        match (fate, pending.and_then(|pending| pending.outcome)) {
            (Fate::Honest, Some(outcome)) => outcome,
            (Fate::SentTwice, Some(_)) => Ok(Done::Conflict(Conflict::Precondition)),
            (Fate::Unreachable, _) => {
                Err(BucketError::new(&op, Cause::Unreachable, Left::None, ""))
            }
            _ => lost,
        }
    }

    fn carry_out(&mut self, op: Op, seed: u64) -> Done {
        match (op, &self.register) {
            (Op::Get { .. }, None) => Done::Absent,
            (Op::Get { .. }, Some((body, etag, _))) => {
                Done::Found { etag: etag.clone(), body: body.clone() }
            }
            (Op::PutIfAbsent { body, .. }, None) => Done::Put { etag: self.put(body, seed) },
            (Op::PutIfMatch { etag, body, .. }, Some((_, now, _))) if etag == *now => {
                Done::Put { etag: self.put(body, seed) }
            }
            _ => Done::Conflict(Conflict::Precondition),
        }
    }

    /// I1: ver and epoch grow, whoever writes.
    fn put(&mut self, body: Bytes, seed: u64) -> ETag {
        let config = Config::decode(&body, &Seal::new(None)).expect("a register");
        if let Some(known) = self.config() {
            assert_eq!(config.ver, known.ver + 1, "seed {seed}: I1");
            let step = config.epoch.value() - known.epoch.value();
            let same = config.rules_as(known);
            let active = config.phase == Phase::Active && known.phase == Phase::Claimed;
            assert!(step == 1 || step == 0 && (same || active), "seed {seed}: I1: {config:?}");
        }
        self.claims += u64::from(config.phase == Phase::Claimed);
        self.etags += 1;
        let etag = ETag::new(self.etags.to_string());
        self.register = Some((body, etag.clone(), config));
        etag
    }

    pub(super) fn wal(&mut self, epoch: u64) -> &mut Wal {
        self.wals.entry(epoch).or_default()
    }
}
