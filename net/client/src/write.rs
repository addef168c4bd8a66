//! Writes: events for one or many aggregates, all or none.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use celeriant_schema::encryption::Place;
use celeriant_schema::{
    AggregateKey, EncodedEvents, Guard, Member, Receipt, Request, Response, Retention, Sequence,
    Version,
};

use crate::client::unexpected;
use crate::event::IntoId;
use crate::resend::Resend;
use crate::{Client, ClientId, Error, Event, sealing};

/// What must hold for an aggregate when the write is accepted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Expect {
    /// Nothing.
    #[default]
    Any,
    /// It never existed, or is deleted.
    NoStream,
    /// It has events.
    Exists,
    /// It is at this version: nobody has written since it was read.
    Exact(Version),
}

impl From<Version> for Expect {
    fn from(version: Version) -> Self {
        Self::Exact(version)
    }
}

impl From<u64> for Expect {
    fn from(version: u64) -> Self {
        Self::Exact(Version::new(version))
    }
}

impl From<Guard> for Expect {
    fn from(guard: Guard) -> Self {
        match guard {
            Guard::Any => Self::Any,
            Guard::NoStream => Self::NoStream,
            Guard::Exists => Self::Exists,
            Guard::Exact(version) => Self::Exact(version),
        }
    }
}

impl From<Expect> for Guard {
    fn from(expect: Expect) -> Self {
        match expect {
            Expect::Any => Self::Any,
            Expect::NoStream => Self::NoStream,
            Expect::Exists => Self::Exists,
            Expect::Exact(version) => Self::Exact(version),
        }
    }
}

/// One atomic write, being put together; await it to send it.
///
/// ```no_run
/// # async fn example(client: celeriant_client::Client, from: celeriant_client::AggregateKey,
/// #     to: celeriant_client::AggregateKey, limit: celeriant_client::AggregateKey,
/// #     withdrawn: celeriant_client::Event, deposited: celeriant_client::Event)
/// #     -> Result<(), celeriant_client::Error> {
/// let receipt = client
///     .write()
///     .append(&from, [withdrawn]).expect(4)
///     .append(&to, [deposited]).expect(7)
///     .guard(&limit).expect(2)        // only if it is still what was read
///     .await?;
/// # Ok(()) }
/// ```
///
/// With [`Write::client`] and a [`Write::sequence`] for every aggregate that gets events, the write
/// lands once however often it is sent, and the client sends it again by itself until its timeout.
/// Two different writes must then never share client id, sequences and content: give events of
/// their own ids ([`Event::with_id`]) where that could happen, or use [`Client::writer`].
#[derive(Clone, Debug)]
#[must_use = "a write is sent when it is awaited"]
pub struct Write {
    client: Client,
    client_id: ClientId,
    members: Vec<Draft>,
    timeout: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Draft {
    key: AggregateKey,
    expect: Expect,
    sequence: Option<Sequence>,
    events: Vec<Event>,
    retention: Option<Retention>,
}

impl Write {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, client_id: ClientId::NONE, members: Vec::new(), timeout: None }
    }

    /// Adds an aggregate with events to append. What follows concerns this aggregate.
    pub fn append(self, key: &AggregateKey, events: impl IntoIterator<Item = Event>) -> Self {
        self.member(key, events.into_iter().collect(), None)
    }

    /// Deletes an aggregate: it reads as deleted, and its events never show again. Its version
    /// stays, so what is appended later goes on from there. See [`Write::never_recreate`] and
    /// [`Write::forget_sequences`]. The bytes go when the store compacts.
    pub fn delete(self, key: &AggregateKey) -> Self {
        self.take_away(key, Retention::Delete { recreate: true, forget_sequences: false })
    }

    /// Takes away an aggregate's events below a version.
    pub fn trim(self, key: &AggregateKey, keep_from: impl Into<Version>) -> Self {
        self.take_away(key, Retention::Trim { keep_from: keep_from.into() })
    }

    /// Adds an aggregate of which something is taken away: [`Write::delete`] and [`Write::trim`] in
    /// one.
    pub fn take_away(self, key: &AggregateKey, what: Retention) -> Self {
        self.member(key, Vec::new(), Some(what))
    }

    /// The aggregate deleted last takes no events ever again.
    pub fn never_recreate(mut self) -> Self {
        if let Some(Retention::Delete { recreate, .. }) = self.last_retention() {
            *recreate = false;
        }
        self
    }

    /// With the aggregate deleted last goes what is remembered of its writers' sequences: they
    /// start at 1 again, but for that of this write.
    pub fn forget_sequences(mut self) -> Self {
        if let Some(Retention::Delete { forget_sequences, .. }) = self.last_retention() {
            *forget_sequences = true;
        }
        self
    }

    fn last_retention(&mut self) -> Option<&mut Retention> {
        self.members.last_mut()?.retention.as_mut()
    }

    /// Adds an aggregate that gets no events: say with [`Write::expect`] what must hold for it.
    pub fn guard(self, key: &AggregateKey) -> Self {
        self.member(key, Vec::new(), None)
    }

    fn member(
        mut self,
        key: &AggregateKey,
        events: Vec<Event>,
        retention: Option<Retention>,
    ) -> Self {
        let key = key.clone();
        self.members.push(Draft { key, expect: Expect::Any, sequence: None, events, retention });
        self
    }

    /// What must hold for the aggregate named last.
    pub fn expect(mut self, expect: impl Into<Expect>) -> Self {
        if let Some(member) = self.members.last_mut() {
            member.expect = expect.into();
        }
        self
    }

    /// The number of this batch under the client id, for the aggregate named last: the highest used
    /// so far, plus 1. All aggregates that the write changes need one, or none.
    pub fn sequence(mut self, sequence: impl Into<Sequence>) -> Self {
        if let Some(member) = self.members.last_mut() {
            member.sequence = Some(sequence.into());
        }
        self
    }

    /// Under whose name the sequences count.
    pub fn client(mut self, client_id: impl IntoId<ClientId>) -> Self {
        self.client_id = client_id.into_id();
        self
    }

    /// How long this write may take, with everything that is sent again.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends the write; returns when it is committed. Awaiting the builder does the same.
    ///
    /// # Errors
    /// `Error::Conflict` when a guard failed; `Error::UnknownOutcome` or an indefinite
    /// `Error::Timeout` when it may or may not be committed; see [`Error`] for others.
    pub async fn send(self) -> Result<Receipt, Error> {
        let timeout = self.timeout.unwrap_or(self.client.timeout());
        let client = self.client.clone();
        let write = self.encode().await?;
        let resend = resend(&write);
        match client.call(&Request::Write(write), resend, timeout).await? {
            Response::Receipt(receipt) => Ok(receipt),
            other => Err(unexpected(&other)),
        }
    }

    async fn encode(self) -> Result<celeriant_schema::Write, Error> {
        let sequenced = self.members.iter().any(|member| member.sequence.is_some());
        if sequenced && self.client_id == ClientId::NONE {
            return Err(Error::InvalidArgument {
                field: String::from("client"),
                reason: String::from("a sequence counts under a client id: say whose it is"),
            });
        }
        let keys = self.client.options().keys.clone();
        let mut members = Vec::with_capacity(self.members.len());
        for Draft { key, expect, sequence, events, retention } in self.members {
            let place = Place { key: &key, client_id: self.client_id, sequence };
            let events = sealing::seal(keys.as_deref(), &place, events).await?;
            let events = EncodedEvents::encode(&events)?;
            members.push(Member { key, guard: expect.into(), sequence, events, retention });
        }
        Ok(celeriant_schema::Write { client_id: self.client_id, members })
    }
}

/// Only what the store can recognise may be sent twice.
pub(crate) fn resend(write: &celeriant_schema::Write) -> Resend {
    let mut changes = write.members.iter().filter(|member| member.changes());
    match changes.all(|member| member.sequence.is_some()) {
        true => Resend::Sequenced,
        false => Resend::Unsequenced,
    }
}

impl IntoFuture for Write {
    type Output = Result<Receipt, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
