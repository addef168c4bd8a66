//! One execution: from the locks to the receipt.

use std::time::Duration;

use celeriant_schema::{
    AggregateKey, AggregateReceipt, AlreadyApplied, EventId, HeadInfo, Receipt, Sequence, Stamp,
    Version,
};
use tokio::time::{Instant, sleep};

use super::Decided;
use super::memory::{Guard, Known, Memory, recall, remember};
use crate::aggregate::{Aggregate, ExecuteError, Outcome};
use crate::{Batch, Client, ClientId, Error, Event, Expect, Payload, Write};

/// The parts of a writer that an execution needs.
pub(super) struct Execution<'a> {
    pub(super) client: &'a Client,
    pub(super) client_id: ClientId,
    pub(super) timeout: Duration,
    pub(super) memory: &'a Memory,
    /// The client id stands for one request: at most one batch per aggregate, with sequence 1.
    pub(super) once: bool,
}

/// What one try to append brought.
enum Tried {
    Landed(Receipt),
    /// Certainly not appended: others wrote. Also the error, should time be up.
    Beaten(Error),
}

impl Execution<'_> {
    /// Decides and appends until it is done or time is up.
    pub(super) async fn run<A, R>(
        &self,
        keys: &[&AggregateKey],
        decide: impl Fn(&[&A]) -> Decided<A::Event, R>,
    ) -> Result<Outcome, ExecuteError<R>>
    where
        A: Aggregate,
    {
        let deadline = Instant::now() + self.timeout;
        let mut guards = self.lock(keys).await?;
        let mut known: Vec<Known<A>> = guards.iter_mut().map(recall).collect();
        let mut fresh = self.once || known.iter().any(|known| !known.loaded);
        if fresh {
            self.read_news(keys, &mut known, deadline, false).await?;
        }
        let mut backoff = self.client.backoff(Duration::from_millis(2), Duration::from_millis(200));
        let mut decisions = 0;
        loop {
            if self.once && known.iter().any(|known| known.sequence.is_some()) {
                return Ok(self.done_before(keys, known, deadline, decisions).await?);
            }
            decisions += 1;
            let states: Vec<&A> = known.iter().map(|known| &known.state).collect();
            let decided = decide(&states);
            let nothing = decided.as_ref().map_or(true, |all| all.iter().all(Vec::is_empty));
            if nothing && !fresh {
                // Nobody checks a "no" against the store: it must come from current state.
                self.read_news(keys, &mut known, deadline, false).await?;
                fresh = true;
                continue;
            }
            let events = match decided {
                Ok(events) if !nothing => events,
                other => {
                    keep(&mut guards, known);
                    other.map_err(ExecuteError::Refused)?;
                    return Ok(Outcome { receipt: None, already_applied: false, decisions });
                }
            };
            match self.append(keys, &known, &events, deadline).await? {
                Tried::Landed(receipt) => {
                    take_in(&mut known, events, &receipt);
                    keep(&mut guards, known);
                    let already_applied = receipt.already_applied;
                    return Ok(Outcome { receipt: Some(receipt), already_applied, decisions });
                }
                Tried::Beaten(error) => {
                    let pause = if decisions > 1 { backoff.wait() } else { Duration::ZERO };
                    if Instant::now() + pause >= deadline {
                        return Err(error.into());
                    }
                    sleep(pause).await;
                    let sequences = !error.is_conflict();
                    self.read_news(keys, &mut known, deadline, sequences).await?;
                    fresh = true;
                }
            }
        }
    }

    /// Takes the locks of all keys, in the order of keys, so that two executions never wait for
    /// each other; gives them back in the order of `keys`.
    async fn lock(&self, keys: &[&AggregateKey]) -> Result<Vec<Guard>, Error> {
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_by_key(|at| keys[*at]);
        if order.windows(2).any(|two| keys[two[0]] == keys[two[1]]) {
            return Err(Error::InvalidArgument {
                field: String::from("keys"),
                reason: String::from("names an aggregate twice"),
            });
        }
        let mut guards: Vec<Option<Guard>> = keys.iter().map(|_| None).collect();
        for at in order {
            guards[at] = Some(self.memory.lock(keys[at]).await);
        }
        Ok(guards.into_iter().flatten().collect())
    }

    async fn read_news<A: Aggregate>(
        &self,
        keys: &[&AggregateKey],
        known: &mut [Known<A>],
        deadline: Instant,
        sequences: bool,
    ) -> Result<(), Error> {
        for (key, known) in keys.iter().zip(known) {
            self.read_one(key, known, deadline).await?;
            if sequences {
                // The events no longer tell: they were deleted, or trimmed.
                let head = self.head(key, deadline).await?;
                known.sequence = head.last_sequence.max(known.sequence);
            }
        }
        Ok(())
    }

    /// Brings what is known of one aggregate up to date.
    async fn read_one<A: Aggregate>(
        &self,
        key: &AggregateKey,
        known: &mut Known<A>,
        deadline: Instant,
    ) -> Result<(), Error> {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut batches = self.client.read(key).from(known.version + 1).timeout(left).stream();
        while let Some(batch) = batches.next().await {
            match batch {
                Ok(batch) => self.take_batch(key, known, batch)?,
                Err(Error::NotFound { .. } | Error::Deleted { .. }) => {
                    return self.start_over(key, known, deadline).await;
                }
                Err(error) => return Err(error),
            }
        }
        // Ahead of the newest event when that is deleted or trimmed; writes expect this one.
        known.version = known.version.max(batches.version());
        known.loaded = true;
        Ok(())
    }

    fn take_batch<A: Aggregate>(
        &self,
        key: &AggregateKey,
        known: &mut Known<A>,
        batch: Batch,
    ) -> Result<(), Error> {
        if batch.first_version > known.version.next() {
            // It was deleted and made anew since: what was folded before is no longer part of it.
            known.state = A::default();
        }
        if batch.client_id == self.client_id {
            known.sequence = known.sequence.max(batch.sequence);
            known.own = Some(receipt_of(key, &batch));
        }
        for recorded in &batch.events {
            match recorded.payload() {
                Payload::Shredded => known.state.apply_shredded(&recorded.event_type),
                _ => known.state.apply(A::decode(recorded)?),
            }
            known.version = recorded.version;
        }
        Ok(())
    }

    /// There is nothing to read: it never existed, or is deleted. The former is believed until a
    /// write that rests on it is refused.
    async fn start_over<A: Aggregate>(
        &self,
        key: &AggregateKey,
        known: &mut Known<A>,
        deadline: Instant,
    ) -> Result<(), Error> {
        let before = std::mem::take(known);
        known.loaded = true;
        if !before.loaded {
            return Ok(());
        }
        let head = match self.head(key, deadline).await {
            Err(Error::NotFound { .. }) => return Ok(()),
            other => other?,
        };
        known.version = head.version;
        known.sequence = head.last_sequence.max(before.sequence);
        Ok(())
    }

    async fn head(&self, key: &AggregateKey, deadline: Instant) -> Result<HeadInfo, Error> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.client.head(key).client(self.client_id).timeout(left).await
    }

    async fn append<A: Aggregate>(
        &self,
        keys: &[&AggregateKey],
        known: &[Known<A>],
        events: &[Vec<A::Event>],
        deadline: Instant,
    ) -> Result<Tried, Error> {
        let mut write = Write::new(self.client.clone()).client(self.client_id);
        let mut ids = Vec::with_capacity(keys.len());
        for ((key, known), events) in keys.iter().zip(known).zip(events) {
            let events = events.iter().map(identified::<A>).collect::<Result<Vec<_>, Error>>()?;
            ids.push(events.first().and_then(|event| event.event_id));
            write = match events.is_empty() {
                true => write.guard(key),
                false => write.append(key, events).sequence(next(known.sequence)),
            };
            write = write.expect(Expect::Exact(known.version));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match write.timeout(left).await {
            Ok(receipt) => Ok(Tried::Landed(receipt)),
            Err(
                error @ (Error::SequenceStale { .. }
                | Error::Conflict { already_applied: AlreadyApplied::Unknown, .. }),
            ) => match self.find(keys, known, &ids, deadline).await? {
                Some(receipt) => Ok(Tried::Landed(receipt)),
                None => Ok(Tried::Beaten(error)),
            },
            Err(
                error @ (Error::Conflict { .. }
                | Error::SequenceReused { .. }
                | Error::SequenceGap { .. }),
            ) => Ok(Tried::Beaten(error)),
            Err(error) => Err(error),
        }
    }

    /// The store no longer remembers who used a sequence: looks in the log for a write by the ids
    /// of its events.
    async fn find<A: Aggregate>(
        &self,
        keys: &[&AggregateKey],
        known: &[Known<A>],
        ids: &[Option<EventId>],
        deadline: Instant,
    ) -> Result<Option<Receipt>, Error> {
        let mut found = Vec::new();
        for ((key, known), id) in keys.iter().zip(known).zip(ids) {
            let Some(id) = id else { continue };
            let left = deadline.saturating_duration_since(Instant::now());
            let read = self.client.read(key).from(known.version + 1).client(self.client_id);
            let mut batches = read.timeout(left).stream();
            let mut landed = None;
            while let Some(batch) = batches.next().await {
                let batch = batch?;
                if batch.events.first().and_then(|event| event.event_id) == Some(*id) {
                    landed = Some(receipt_of(key, &batch));
                    break;
                }
            }
            let Some(landed) = landed else { return Ok(None) };
            found.push(landed);
        }
        Ok(Some(joined(found)))
    }

    /// This request was executed before: what it appended then.
    async fn done_before<A: Aggregate>(
        &self,
        keys: &[&AggregateKey],
        mut known: Vec<Known<A>>,
        deadline: Instant,
        decisions: u32,
    ) -> Result<Outcome, Error> {
        // Some may have been read just before it landed, others just after.
        self.read_news(keys, &mut known, deadline, false).await?;
        let own: Vec<_> = known.into_iter().filter_map(|known| known.own).collect();
        let receipt = (!own.is_empty()).then(|| joined(own));
        Ok(Outcome { receipt, already_applied: true, decisions })
    }
}

fn next(sequence: Option<Sequence>) -> Sequence {
    sequence.map_or(Sequence::new(1), Sequence::next)
}

/// An event with an id of its own: see the head of `writer.rs` for why.
fn identified<A: Aggregate>(event: &A::Event) -> Result<Event, Error> {
    let event = A::encode(event)?;
    Ok(match event.event_id {
        Some(_) => event,
        None => event.with_id(uuid::Uuid::new_v4()),
    })
}

fn receipt_of(key: &AggregateKey, batch: &Batch) -> (AggregateReceipt, Stamp) {
    let last = batch.events.last();
    let receipt = AggregateReceipt {
        key: key.clone(),
        first_version: batch.first_version,
        last_version: batch.last_version,
        hash: last.map(|event| event.hash).unwrap_or_default(),
    };
    (receipt, last.map(|event| event.stamp).unwrap_or_default())
}

fn joined(parts: Vec<(AggregateReceipt, Stamp)>) -> Receipt {
    let stamp = parts.iter().map(|(_, stamp)| *stamp).max().unwrap_or_default();
    let writes = parts.into_iter().map(|(receipt, _)| receipt).collect();
    Receipt { stamp, already_applied: true, writes }
}

/// The state after our own events, without reading them back.
fn take_in<A: Aggregate>(known: &mut [Known<A>], events: Vec<Vec<A::Event>>, receipt: &Receipt) {
    let mut receipts = receipt.writes.iter();
    for (known, events) in known.iter_mut().zip(events) {
        if events.is_empty() {
            continue;
        }
        let expected = known.version + events.len() as u64;
        known.sequence = Some(next(known.sequence));
        known.version = expected;
        events.into_iter().for_each(|event| known.state.apply(event));
        let landed = receipts.next().map_or(Version::NONE, |receipt| receipt.last_version);
        // Versions that are not what the guard promised would mean that the state is wrong: read
        // anew.
        known.loaded = landed == expected;
    }
}

fn keep<A: Aggregate>(guards: &mut [Guard], known: Vec<Known<A>>) {
    for (guard, known) in guards.iter_mut().zip(known) {
        if known.loaded {
            remember(guard, known);
        }
    }
}
