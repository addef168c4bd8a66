//! API keys: which there are is in the log, like everything that must not be lost.
//!
//! ```text
//! $system/keys/keys   KeyCreated, KeyRevoked, in order
//!    │ read every quarter of a second, on leader and follower
//!    ▼
//! Keys ── publish ──▶ Keyring ◀── every connection, at each request
//!    ▲
//! operator ── create, list, revoke: decided on what is newest, one guarded write
//! ```
//! On the node that carries out an order it counts on all threads before the order is answered; on
//! the other one as soon as that has read what was committed. It is looked up, not waited for: a
//! feed that always waits would have every shard tell a watch of every commit, also where nobody
//! else watches, to be earlier by some 100 ms at what happens a few times a day. Four reads a
//! second of one aggregate, which mostly find nothing, are less.
//! Deliberately absent: the secrets. They are told once, to whoever orders a key.

pub mod event;
pub mod order;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use celeriant_net::Keyring;
use celeriant_net::keyring::Holder;
use celeriant_schema::event::EventBody;
use celeriant_schema::{AggregateKey, ApiKeyId, Guard, Page, Refusal, Version};
use kameo::Actor;
use kameo::actor::{ActorRef, WeakActorRef};
use kameo::error::Infallible;
use kameo::mailbox::{MailboxReceiver, Signal};
use kameo::message::{Context, Message};
use tokio::time::{Instant, sleep_until};

use self::event::KeyEvent;
use self::order::KeyOrder;
use crate::clock::Clock;
use crate::insider::Insider;
use crate::route::Route;

/// Between looks at what the other node may have been told.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What one mail asks for is given up after this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Orders that race with others are decided anew so often.
const TRIES_MAX: usize = 16;
/// Keys that are not revoked.
const KEYS_MAX: usize = 4_096;

/// Fills bytes with random bits that nobody can guess: the seam, as the clock is one.
pub type Random = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// An operator's order, and the way back.
pub struct KeyMail {
    /// What to do.
    pub order: KeyOrder,
    /// Whom to answer.
    pub route: Route,
}

/// The actor. One a node, beside the cores.
pub struct Keys {
    holders: BTreeMap<ApiKeyId, Arc<Holder>>,
    /// Newest event that is known.
    version: Version,
    /// Up to where the keyring knows.
    published: Option<Version>,
    keyring: Arc<Keyring>,
    insider: Insider,
    clock: Arc<dyn Clock>,
    random: Random,
    next_look: Instant,
}

impl Keys {
    /// One that knows nothing yet. What it reads goes to `keyring`.
    pub fn new(
        keyring: Arc<Keyring>,
        insider: Insider,
        clock: Arc<dyn Clock>,
        random: Random,
    ) -> Self {
        let (holders, version) = (BTreeMap::new(), Version::NONE);
        let (published, next_look) = (None, Instant::now());
        Self { holders, version, published, keyring, insider, clock, random, next_look }
    }

    /// Reads up to the newest event that this node shows (`any`), or that there is.
    async fn read(&mut self, any: bool, deadline: Instant) -> Result<(), Refusal> {
        while let Some(page) =
            self.insider.page(place(), self.version.next(), any, deadline).await?
        {
            self.apply_page(&page)?;
            if page.next.is_none() {
                break;
            }
        }
        if self.published != Some(self.version) {
            self.keyring.publish(self.holders.clone());
            self.published = Some(self.version);
        }
        Ok(())
    }

    fn apply_page(&mut self, page: &Page) -> Result<(), Refusal> {
        for batch in &page.batches {
            for event in &batch.events {
                let read = EventBody::new(&event.body).map_err(|error| error.to_string());
                let read = read.and_then(|body| KeyEvent::from_event(&body));
                let read = read.map_err(|error| {
                    // Written by a newer version of the store, which this node cannot obey.
                    let what = format!("API keys, which this node cannot read: {error}");
                    Refusal::Overloaded { what, retry_after_ms: PATIENCE.as_millis() as u32 }
                })?;
                self.apply(read, event.version, batch.header.server_time);
            }
        }
        Ok(())
    }

    fn apply(&mut self, event: KeyEvent, version: Version, server_time: i64) {
        match event {
            KeyEvent::Created { id, holder } => {
                let holder = Holder { created_at: server_time, ..*holder };
                self.holders.insert(id, Arc::new(holder));
            }
            KeyEvent::Revoked { id } => drop(self.holders.remove(&id)),
        }
        self.version = version;
    }

    /// Decides on what is newest until nobody came first, and appends it. `decide` says no more
    /// than what there is to append, if anything.
    async fn append(
        &mut self,
        decide: impl Fn(&Self) -> Result<Option<KeyEvent>, Refusal>,
    ) -> Result<(), Refusal> {
        let deadline = Instant::now() + PATIENCE;
        for _ in 0..TRIES_MAX {
            self.read(false, deadline).await?;
            let Some(event) = decide(self)? else { return Ok(()) };
            let event = event.to_event(self.clock.wall());
            let appended = (place(), Guard::Exact(self.version), event);
            match self.insider.append([appended], deadline).await {
                // What was appended is read back: what counts is what the log says.
                Ok(_) => return self.read(true, deadline).await,
                Err(Refusal::Conflict { .. }) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Err(Refusal::Overloaded { what: "orders about API keys".into(), retry_after_ms: 100 })
    }

    /// Looks what there is now. What cannot be read now is read next time.
    async fn look(&mut self) {
        if let Err(refusal) = self.read(true, Instant::now() + PATIENCE).await {
            tracing::debug!(%refusal, "API keys are not read");
        }
        self.next_look = Instant::now() + LOOK_EVERY;
    }
}

/// The aggregate that says everything about keys.
fn place() -> AggregateKey {
    match AggregateKey::new(celeriant_schema::key::SYSTEM_ORG, "keys", "keys") {
        Ok(key) => key,
        Err(error) => unreachable!("{error}"),
    }
}

impl Actor for Keys {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(keys: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(keys)
    }

    async fn next(
        &mut self,
        _: WeakActorRef<Self>,
        mailbox: &mut MailboxReceiver<Self>,
    ) -> Result<Option<Signal<Self>>, Infallible> {
        loop {
            tokio::select! {
                biased;
                signal = mailbox.recv() => return Ok(signal),
                () = sleep_until(self.next_look) => {}
            }
            self.look().await;
        }
    }
}

impl Message<KeyMail> for Keys {
    type Reply = ();

    async fn handle(&mut self, mail: KeyMail, _: &mut Context<Self, ()>) {
        let KeyMail { order, route } = mail;
        route.report(self.carry_out(order).await);
    }
}
