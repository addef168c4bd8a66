//! What clients asked, when, and what they were told: the only evidence that the oracle accepts.
//!
//! Order is counted, not timed: everything happens on one thread, so "answered before it was sent"
//! is a comparison of two numbers. Every event that a client writes carries the number of its
//! operation as event id, so that whatever is found in a log can be traced to the request that put
//! it there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use celeriant_schema::{
    AggregateReceipt, EventId, Hash, Receipt, Refusal, Request, Response, Stamp, Version, Write,
};

use crate::invariants::erasure::{Taken, taken_by};

/// Place of a happening among all that clients saw.
pub type Order = u64;

/// Number of an operation: a request, however often it is sent.
pub type OperationId = usize;

/// A request and everything that came of it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What was asked.
    pub request: Arc<Request>,
    /// Each time it was sent.
    pub attempts: Vec<Attempt>,
}

/// One process of one node.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// Which node.
    pub node: usize,
    /// Which of its processes, counted from its first.
    pub life: u64,
}

/// One sending of a request.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it was sent.
    pub sent: Order,
    /// To whom.
    pub place: Place,
    /// When it was answered, and what; `None` when the answer never came.
    pub answer: Option<(Order, Response)>,
    /// It had a deadline.
    pub deadline: bool,
}

impl Operation {
    /// When it was first sent.
    pub fn first_sent(&self) -> Order {
        self.attempts.first().map_or(Order::MAX, |attempt| attempt.sent)
    }

    /// The write, if it is one.
    pub fn write(&self) -> Option<&Write> {
        match &*self.request {
            Request::Write(write) => Some(write),
            _ => None,
        }
    }

    /// Receipts that were given for it, also inside of conflicts.
    pub fn receipts(&self) -> impl Iterator<Item = (&Attempt, &Receipt)> {
        self.attempts.iter().filter_map(|attempt| {
            let (_, response) = attempt.answer.as_ref()?;
            receipt_of(response).map(|receipt| (attempt, receipt))
        })
    }

    /// Attempts that may have put something into a log, as far as their client knows.
    pub fn may_have_landed(&self) -> usize {
        let open = |attempt: &&Attempt| match &attempt.answer {
            None => true,
            Some((_, Response::Receipt(receipt))) => !receipt.already_applied,
            Some((_, Response::Refused(refusal))) => !refusal.definite(),
            Some(_) => false,
        };
        self.attempts.iter().filter(open).count()
    }
}

/// The receipt that a response holds, if any.
pub fn receipt_of(response: &Response) -> Option<&Receipt> {
    use celeriant_schema::AlreadyApplied;
    match response {
        Response::Receipt(receipt) => Some(receipt),
        Response::Refused(Refusal::Conflict {
            already_applied: AlreadyApplied::Receipt(receipt),
            ..
        }) => Some(receipt),
        _ => None,
    }
}

/// How a part of a receipt is found on a disk, as [`crate::walk::Walked::events`] says it: by its
/// last event; what takes away, by the version behind it.
pub fn end_of(part: &AggregateReceipt) -> (Version, Hash) {
    (part.first_version.max(part.last_version), part.hash)
}

/// Event id of event `event` of member `member` of an operation.
pub fn tag(operation: OperationId, member: usize, event: usize) -> EventId {
    EventId::new((operation as u128 + 1) << 64 | (member as u128) << 32 | event as u128)
}

/// Operation and member that an event id names.
pub fn untag(id: EventId) -> Option<(OperationId, usize, usize)> {
    let operation = (id.value() >> 64) as usize;
    let (member, event) = ((id.value() >> 32) as u32, id.value() as u32);
    operation.checked_sub(1).map(|operation| (operation, member as usize, event as usize))
}

/// Everything that all clients asked and were told. Cheap to clone: all clones are one ledger.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    order: Order,
    operations: Vec<Operation>,
    newest_stamp: Stamp,
}

impl Ledger {
    /// Opens the next operation; `request` is made with its number.
    pub fn open(&self, request: impl FnOnce(OperationId) -> Request) -> OperationId {
        let id = self.lock().operations.len();
        let request = request(id);
        self.lock().operations.push(Operation { request: Arc::new(request), attempts: Vec::new() });
        id
    }

    /// The request is being sent (again). Returns the attempt's number.
    pub fn sent(&self, id: OperationId, place: Place, deadline: bool) -> usize {
        let mut inner = self.lock();
        let sent = inner.tick();
        let attempts = &mut inner.operations[id].attempts;
        attempts.push(Attempt { sent, place, answer: None, deadline });
        attempts.len() - 1
    }

    /// An answer has come.
    pub fn answered(&self, id: OperationId, attempt: usize, response: Response) {
        let mut inner = self.lock();
        let order = inner.tick();
        if let Some(receipt) = receipt_of(&response) {
            inner.newest_stamp = inner.newest_stamp.max(receipt.stamp);
        }
        let slot = &mut inner.operations[id].attempts[attempt].answer;
        assert!(slot.is_none(), "operation {id} attempt {attempt} is answered twice");
        *slot = Some((order, response));
    }

    /// All operations so far.
    pub fn operations(&self) -> Vec<Operation> {
        self.lock().operations.clone()
    }

    /// How many operations, and how many sendings.
    pub fn counts(&self) -> (u64, u64) {
        let inner = self.lock();
        let sendings = inner.operations.iter().map(|operation| operation.attempts.len() as u64);
        (inner.operations.len() as u64, sendings.sum())
    }

    /// What clients know to be taken away.
    pub fn taken(&self) -> Taken {
        let mut taken = Taken::new();
        for operation in &self.lock().operations {
            let members = operation.write().into_iter().flat_map(|write| &write.members);
            for (member, retention) in members.filter_map(|it| Some((it, it.retention?))) {
                let receipts = operation.receipts().flat_map(|(_, receipt)| &receipt.writes);
                for part in receipts.filter(|part| part.key == member.key) {
                    let upto = taken.entry(member.key.clone()).or_default();
                    *upto = taken_by(retention, part.last_version).max(*upto);
                }
            }
        }
        taken
    }

    /// The request of an operation.
    pub fn request(&self, id: OperationId) -> Arc<Request> {
        Arc::clone(&self.lock().operations[id].request)
    }

    /// The largest stamp that any client was told.
    pub fn newest_stamp(&self) -> Stamp {
        self.lock().newest_stamp
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn tick(&mut self) -> Order {
        self.order += 1;
        self.order
    }
}
