//! The registrar: reads and compiles the schemas of orgs, and registers new ones (semantics.md §8).
//!
//! ```text
//! shard ── wanted: org, up to version ──► reads $system/schemas/<org>, compiles ──► Orgs ──► shard
//! operator ── register, policy ──► decides on what is newest ──► one write over all shards ─► Orgs
//! ```
//! One actor a node, on a thread of its own: compiling takes milliseconds. It reads and writes like
//! any client, through a router; what it appends is guarded by the version that it decided on.
//! Deliberately absent: state that is not in the log.

pub mod order;

use std::sync::Arc;
use std::time::Duration;

use celeriant_schema::event::EventBody;
use celeriant_schema::registry::{Proposal, Registry, Validators};
use celeriant_schema::system::{SystemEvent, mark_event, mark_of, schemas_of};
use celeriant_schema::{AggregateKey, Event, Guard, Page, Refusal, ShardId, Version};
use kameo::Actor;
use kameo::actor::{ActorRef, Recipient};
use kameo::error::Infallible;
use kameo::message::{Context, Message};
use tokio::time::Instant;

use self::order::SchemaOrder;
use crate::clock::Clock;
use crate::coordinator::ShardMail;
use crate::insider::Insider;
use crate::route::Route;
use crate::router::Router;
use crate::shard::Orgs;
use crate::work::{Step, Work};

/// Registrations that race with others are decided anew so often.
const TRIES_MAX: usize = 16;
/// What one mail asks for is given up after this: shards wait behind it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Mail from a shard: it cannot check writes of an org before it is known up to `version`.
pub struct WantedMail {
    /// Who asks.
    pub shard: ShardId,
    /// Which org.
    pub org: String,
    /// Newest event of the org's aggregate that must be known.
    pub version: Version,
}

/// An operator's order, and the way back.
pub struct SchemaMail {
    /// What to do.
    pub order: SchemaOrder,
    /// Whom to answer.
    pub route: Route,
}

/// The actor.
pub struct Registrar {
    registry: Registry,
    validators: Validators,
    orgs: Arc<Orgs>,
    insider: Insider,
    shards: Arc<[Recipient<ShardMail>]>,
    clock: Arc<dyn Clock>,
}

impl Registrar {
    /// A registrar that knows nothing yet. What it reads goes to `orgs`.
    pub fn new(
        orgs: Arc<Orgs>,
        router: Router,
        shards: Arc<[Recipient<ShardMail>]>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (registry, validators) = (Registry::default(), Validators::default());
        Self { registry, validators, orgs, insider: Insider::new(router), shards, clock }
    }

    /// What the registry says, up to the newest event of an org that this node shows (`any`), or
    /// that there is.
    async fn read(&mut self, org: &str, any: bool, deadline: Instant) -> Result<(), Refusal> {
        let key = schemas_of(org).map_err(|error| Refusal::invalid("org", error))?;
        while let Some(page) =
            self.insider.page(key.clone(), self.registry.version(org).next(), any, deadline).await?
        {
            let applied = self.apply_page(org, &page);
            // Also half a page: what is known here and not there would be asked for without end.
            self.publish(org);
            applied?;
            if page.next.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn apply_page(&mut self, org: &str, page: &Page) -> Result<(), Refusal> {
        for event in page.batches.iter().flat_map(|batch| &batch.events) {
            let read = EventBody::new(&event.body);
            let read = read.and_then(|body| SystemEvent::from_event(org, &body));
            let read = read.map_err(|error| {
                // Written by a newer version of the store, which this node cannot obey.
                let what = format!("schemas of {org}, which this node cannot read: {error}");
                Refusal::Overloaded { what, retry_after_ms: PATIENCE.as_millis() as u32 }
            })?;
            self.registry.apply(read, event.version, &self.validators);
        }
        Ok(())
    }

    fn publish(&self, org: &str) {
        if let Some(known) = self.registry.org(org) {
            self.orgs.insert(org.to_owned(), known);
        }
    }

    /// Reads until an org is known up to `version`.
    async fn catch_up(&mut self, org: &str, version: Version) -> Result<(), String> {
        if self.registry.version(org) >= version {
            return Ok(());
        }
        let deadline = deadline();
        // What a shard shows of a mark, another shows of the aggregate.
        self.read(org, true, deadline).await.map_err(|refusal| refusal.to_string())?;
        match self.registry.version(org) {
            known if known < version => Err(format!("known up to {known}, wanted up to {version}")),
            _ => Ok(()),
        }
    }

    /// Decides on what is newest until nobody came first, and appends it.
    async fn append(
        &mut self,
        org: &str,
        decide: impl Fn(&Registry) -> Result<Proposal, Refusal>,
        is_dry: bool,
    ) -> Result<Outcome, Refusal> {
        let deadline = deadline();
        for _ in 0..TRIES_MAX {
            self.read(org, false, deadline).await?;
            let (event, version) = match decide(&self.registry)? {
                Proposal::Known => return Ok(Outcome::Known),
                Proposal::Append(event, version) => (event, version),
            };
            if is_dry {
                return Ok(Outcome::WouldLand);
            }
            let guarded = |(key, event)| (key, Guard::Exact(version), event);
            let events = self.events_of(org, &event)?.into_iter().map(guarded);
            match self.insider.append(events, deadline).await {
                Ok(_) => {
                    self.registry.apply(event, version.next(), &self.validators);
                    self.publish(org);
                    return Ok(Outcome::Landed);
                }
                Err(Refusal::Conflict { .. }) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        let what = format!("registrations of {org}");
        Err(Refusal::Overloaded { what, retry_after_ms: 100 })
    }

    /// The event, and a mark for every other shard.
    fn events_of(
        &self,
        org: &str,
        event: &SystemEvent,
    ) -> Result<Vec<(AggregateKey, Event)>, Refusal> {
        let shards = self.shards.len() as u16;
        let now = self.clock.wall();
        let own = schemas_of(org).map_err(|error| Refusal::invalid("org", error))?;
        let mut events = vec![(own.clone(), event.to_event(now))];
        for shard in (0..shards).map(ShardId::new) {
            let mark =
                mark_of(org, shard, shards).map_err(|error| Refusal::invalid("org", error))?;
            if mark != own {
                events.push((mark, mark_event(now)));
            }
        }
        Ok(events)
    }
}

/// When a mail that is begun now is given up.
fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

/// What became of an order.
enum Outcome {
    Landed,
    Known,
    WouldLand,
}

impl Actor for Registrar {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(registrar: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(registrar)
    }
}

impl Message<WantedMail> for Registrar {
    type Reply = ();

    async fn handle(&mut self, mail: WantedMail, _: &mut Context<Self, ()>) {
        let WantedMail { shard, org, version } = mail;
        let outcome = self.catch_up(&org, version).await;
        let step = Step::SchemasRead { org, outcome };
        let mail = ShardMail(vec![Work::Step(step)]);
        let _ = self.shards[usize::from(shard.value())].tell(mail).try_send();
    }
}

impl Message<SchemaMail> for Registrar {
    type Reply = ();

    async fn handle(&mut self, mail: SchemaMail, _: &mut Context<Self, ()>) {
        let SchemaMail { order, route } = mail;
        route.report(self.carry_out(order).await);
    }
}

#[cfg(test)]
mod registrar_test;
