//! Read, decide, append, and on conflict again: exactly once, as one call.
//!
//! ```text
//! execute(key, decide):   lock key in this writer
//!    ┌▶ state of the aggregate: remembered, or read (only what is new)
//!    │  decide(&state) ─▶ no, or nothing to do ─▶ again on fresh state, then that is it
//!    │     ▼ events
//!    │  append, if the version is still the one that was read, with the next sequence
//!    │     ├▶ receipt: remember the new state, done
//!    │     ├▶ lost:    the client sends the identical write again; the store recognises it
//!    └─────┴▶ conflict: somebody else wrote; read what is new
//! ```
//!
//! Why exactly once: a write of an attempt can land at most once (its sequences), and a new attempt
//! begins only when the earlier one certainly did not land (its guard or its sequence was refused).
//! Writers with the same client id, such as replicas of a service, may decide the same thing at the
//! same time, with the same sequence. The store must tell their writes apart, or one would be taken
//! for the retry of the other and be lost. So every event gets a random id of its own, which is
//! part of what the store compares.

mod attempt;
mod memory;

#[cfg(test)]
mod writer_test;

use std::sync::Arc;
use std::time::Duration;

use celeriant_schema::AggregateKey;

use crate::aggregate::{Aggregate, Decision, DecisionMany, ExecuteError, Outcome};
use crate::{Client, ClientId};
use attempt::Execution;
use memory::Memory;

/// Writes under a client id that is stable for a service and shared by its replicas. Cheap to
/// clone; clones share what they remember.
#[derive(Clone, Debug)]
pub struct Writer {
    client: Client,
    client_id: ClientId,
    timeout: Duration,
    memory: Arc<Memory>,
}

impl Writer {
    pub(crate) fn new(client: Client, client_id: ClientId) -> Self {
        let timeout = client.timeout();
        Self { client, client_id, timeout, memory: Arc::new(Memory::default()) }
    }

    /// The same writer with another limit for one execution, with everything that is tried again.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Under whose name it writes.
    pub fn client_id(&self) -> ClientId {
        self.client_id
    }

    /// Decides over one aggregate and appends what was decided, exactly once. `decide` may be
    /// called several times, on newer state each time; it must only look and answer. Executions for
    /// one aggregate run one after the other.
    ///
    /// # Errors
    /// `Refused` when the decision is no; `Store` when the store cannot do it or time is up.
    pub async fn execute<A, F, D>(
        &self,
        key: &AggregateKey,
        decide: F,
    ) -> Result<Outcome, ExecuteError<D::Refusal>>
    where
        A: Aggregate,
        F: Fn(&A) -> D,
        D: Decision<A::Event>,
    {
        self.execution(false)
            .run(&[key], move |states: &[&A]| Ok(vec![decide(states[0]).into_events()?]))
            .await
    }

    /// Decides over several aggregates and appends to all of them atomically, exactly once. An
    /// aggregate that gets no events must still be what was read for the write to be accepted.
    ///
    /// # Errors
    /// As [`Writer::execute`].
    pub async fn execute_many<A, F, D, const N: usize>(
        &self,
        keys: [&AggregateKey; N],
        decide: F,
    ) -> Result<Outcome, ExecuteError<D::Refusal>>
    where
        A: Aggregate,
        F: for<'a> Fn([&'a A; N]) -> D,
        D: DecisionMany<A::Event, N>,
    {
        self.execution(false).run(&keys, spread(decide)).await
    }

    fn execution(&self, once: bool) -> Execution<'_> {
        Execution {
            client: &self.client,
            client_id: self.client_id,
            timeout: self.timeout,
            memory: &self.memory,
            once,
        }
    }
}

/// Writes at most once per request id, across calls, processes and restarts: the id is the client
/// id and every aggregate's sequence is 1, so whoever comes second finds what the first one wrote.
#[derive(Clone, Debug)]
pub struct Once {
    writer: Writer,
}

impl Once {
    pub(crate) fn new(client: Client, request_id: ClientId) -> Self {
        Self { writer: Writer::new(client, request_id) }
    }

    /// The same with another limit for one execution.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { writer: self.writer.with_timeout(timeout) }
    }

    /// Like [`Writer::execute`], but if this request has been executed before, says so and what was
    /// appended then. A request that decided to append nothing leaves no trace and decides again.
    ///
    /// # Errors
    /// As [`Writer::execute`].
    pub async fn execute<A, F, D>(
        &self,
        key: &AggregateKey,
        decide: F,
    ) -> Result<Outcome, ExecuteError<D::Refusal>>
    where
        A: Aggregate,
        F: Fn(&A) -> D,
        D: Decision<A::Event>,
    {
        self.writer
            .execution(true)
            .run(&[key], move |states: &[&A]| Ok(vec![decide(states[0]).into_events()?]))
            .await
    }

    /// Like [`Writer::execute_many`], at most once per request id.
    ///
    /// # Errors
    /// As [`Writer::execute`].
    pub async fn execute_many<A, F, D, const N: usize>(
        &self,
        keys: [&AggregateKey; N],
        decide: F,
    ) -> Result<Outcome, ExecuteError<D::Refusal>>
    where
        A: Aggregate,
        F: for<'a> Fn([&'a A; N]) -> D,
        D: DecisionMany<A::Event, N>,
    {
        self.writer.execution(true).run(&keys, spread(decide)).await
    }
}

/// Events for every aggregate, or a reason why not.
type Decided<E, R> = Result<Vec<Vec<E>>, R>;

/// A decision over an array as a decision over a slice of the same length.
fn spread<A, F, D, const N: usize>(decide: F) -> impl Fn(&[&A]) -> Decided<A::Event, D::Refusal>
where
    A: Aggregate,
    F: for<'a> Fn([&'a A; N]) -> D,
    D: DecisionMany<A::Event, N>,
{
    move |states| {
        let states: [&A; N] = std::array::from_fn(|at| states[at]);
        Ok(decide(states).into_events()?.into())
    }
}
