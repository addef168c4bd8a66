//! What an application says about its aggregates: how events make state, and what to do next.

use std::convert::Infallible;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Event, Receipt, Recorded};

/// State that is made from an aggregate's events, and nothing else.
///
/// ```
/// use celeriant_client::Aggregate;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// enum AccountEvent {
///     Deposited { amount: u64 },
///     Withdrawn { amount: u64 },
/// }
///
/// #[derive(Default)]
/// struct Account {
///     balance: u64,
/// }
///
/// impl Aggregate for Account {
///     type Event = AccountEvent;
///
///     fn apply(&mut self, event: AccountEvent) {
///         match event {
///             AccountEvent::Deposited { amount } => self.balance += amount,
///             AccountEvent::Withdrawn { amount } => self.balance -= amount,
///         }
///     }
/// }
///
/// impl Account {
///     fn withdraw(&self, amount: u64) -> Result<Vec<AccountEvent>, &'static str> {
///         if amount > self.balance {
///             return Err("not enough money");
///         }
///         Ok(vec![AccountEvent::Withdrawn { amount }])
///     }
/// }
/// ```
///
/// **Names.** Events are an enum in serde's default form: the variant's name is the event type
/// (`Withdrawn`), its content the JSON payload (`{"amount":10}`; `null` for a variant without
/// content), the schema version 1.0. `#[serde(rename = "…")]` fixes a name while the code changes;
/// a unit variant with `#[serde(other)]` takes types that are not known. Override
/// [`Aggregate::encode`] and [`Aggregate::decode`] for other payloads or for several schema
/// versions.
pub trait Aggregate: Default + Send + 'static {
    /// What can have happened to it.
    type Event: Serialize + DeserializeOwned + Send;

    /// Takes in one event. Must not fail, ask a clock, or depend on anything but state and event.
    fn apply(&mut self, event: Self::Event);

    /// Takes in that there was an event of this type that nobody can read any more, because its key
    /// was destroyed. Nothing, unless this says otherwise.
    fn apply_shredded(&mut self, _event_type: &str) {}

    /// An event as it is written.
    ///
    /// # Errors
    /// `Error::Encode` when the value cannot be written.
    fn encode(event: &Self::Event) -> Result<Event, Error> {
        Event::typed(event)
    }

    /// An event as it was read. The place to turn old schema versions into new ones.
    ///
    /// # Errors
    /// `Error::Decode` when it cannot be understood.
    fn decode(recorded: &Recorded) -> Result<Self::Event, Error> {
        recorded.to_typed()
    }
}

/// What a decision over one aggregate may return: events, or a reason why not.
pub trait Decision<E> {
    /// The application's reason.
    type Refusal;

    /// The events to append; none = nothing is to happen.
    ///
    /// # Errors
    /// The application's reason.
    fn into_events(self) -> Result<Vec<E>, Self::Refusal>;
}

impl<E> Decision<E> for Vec<E> {
    type Refusal = Infallible;

    fn into_events(self) -> Result<Vec<E>, Infallible> {
        Ok(self)
    }
}

impl<E, const N: usize> Decision<E> for [E; N] {
    type Refusal = Infallible;

    fn into_events(self) -> Result<Vec<E>, Infallible> {
        Ok(self.into())
    }
}

impl<E, R> Decision<E> for Result<Vec<E>, R> {
    type Refusal = R;

    fn into_events(self) -> Self {
        self
    }
}

impl<E, R, const N: usize> Decision<E> for Result<[E; N], R> {
    type Refusal = R;

    fn into_events(self) -> Result<Vec<E>, R> {
        self.map(Into::into)
    }
}

/// What a decision over several aggregates may return: events for each, in the same order (none:
/// that aggregate must only still be what was read), or a reason why not.
pub trait DecisionMany<E, const N: usize> {
    /// The application's reason.
    type Refusal;

    /// The events to append to each; none at all = nothing is to happen.
    ///
    /// # Errors
    /// The application's reason.
    fn into_events(self) -> Result<[Vec<E>; N], Self::Refusal>;
}

impl<E, const N: usize> DecisionMany<E, N> for [Vec<E>; N] {
    type Refusal = Infallible;

    fn into_events(self) -> Result<Self, Infallible> {
        Ok(self)
    }
}

impl<E, R, const N: usize> DecisionMany<E, N> for Result<[Vec<E>; N], R> {
    type Refusal = R;

    fn into_events(self) -> Self {
        self
    }
}

/// What came of an execution.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Outcome {
    /// Proof of what was appended; `None`: the decision was that nothing is to happen.
    pub receipt: Option<Receipt>,
    /// It had been done before: by this call whose first answer was lost, or, with
    /// [`crate::Once`], by an earlier call for the same request.
    pub already_applied: bool,
    /// How often the decision was taken: more than once when others wrote in between.
    pub decisions: u32,
}

/// Why an execution did not append.
#[derive(Debug)]
pub enum ExecuteError<R> {
    /// The decision, taken on current state, was no.
    Refused(R),
    /// The store could not do it, or nobody can tell: see [`Error::is_definite`].
    Store(Error),
}

impl<R> From<Error> for ExecuteError<R> {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl<R: fmt::Display> fmt::Display for ExecuteError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(reason) => fmt::Display::fmt(reason, f),
            Self::Store(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl<R: fmt::Display + fmt::Debug> std::error::Error for ExecuteError<R> {}
