//! What shards are told of what could be read, and of what could not.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use celeriant_schema::system::{Policy, SystemEvent};
use celeriant_schema::{
    BatchHeader, BootId, ContentType, EncodedEvents, Event, Hash, Page, ReadBatch, ReadEvent,
    Response, ShardId, Stamp, Version,
};
use kameo::Actor;
use kameo::actor::{ActorRef, Spawn};
use kameo::error::Infallible;
use kameo::message::{Context, Message};
use tokio::sync::mpsc;

use super::{Registrar, SchemaMail, WantedMail};
use crate::admin::Admin;
use crate::admission::Admission;
use crate::clock::SystemClock;
use crate::coordinator::{BeginMail, ShardMail};
use crate::keys::KeyMail;
use crate::quotas::{Meter, Quotas};
use crate::router::{Router, Shared};
use crate::shard::Orgs;
use crate::standing::Standing;
use crate::trail::TrailMail;
use crate::watch::WatchMail;
use crate::work::{Step, Work};

/// Everything around a registrar: answers each read with the same page.
struct Surroundings {
    page: Page,
    steps: mpsc::UnboundedSender<Step>,
}

impl Actor for Surroundings {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(surroundings: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(surroundings)
    }
}

impl Message<ShardMail> for Surroundings {
    type Reply = ();

    async fn handle(&mut self, mail: ShardMail, _: &mut Context<Self, ()>) {
        for work in mail.0 {
            match work {
                Work::Task(task) => task.route.answer(Response::Page(self.page.clone())),
                Work::Step(step) => self.steps.send(step).expect("the test listens"),
            }
        }
    }
}

/// No order, write or feed comes of what is tested here.
macro_rules! gets_none {
    ($mail:ty) => {
        impl Message<$mail> for Surroundings {
            type Reply = ();

            async fn handle(&mut self, _: $mail, _: &mut Context<Self, ()>) {
                unreachable!("nobody sends that")
            }
        }
    };
}

gets_none!(BeginMail);
gets_none!(WatchMail);
gets_none!(SchemaMail);
gets_none!(KeyMail);
gets_none!(TrailMail);

/// Has the registrar catch up with `org` up to `wanted` from a page with these events. What it
/// tells the shard, and up to where shards know the org then.
async fn catch_up(events: &[Event], wanted: u64) -> (Result<(), String>, Version) {
    let encoded = EncodedEvents::encode(events).expect("valid");
    let body = |(at, body): (usize, celeriant_schema::event::EventBody<'_>)| ReadEvent {
        version: Version::new(at as u64 + 1),
        hash: Hash::ZERO,
        body: body.whole().to_vec().into(),
    };
    let events: Vec<ReadEvent> = encoded.iter().enumerate().map(body).collect();
    let newest = Version::new(events.len() as u64);
    let header = BatchHeader {
        first_version: Version::new(1),
        last_version: newest,
        client_id: Default::default(),
        sequence: None,
        server_time: 0,
        stamp: Stamp::new(1),
        write_id: Default::default(),
    };
    let batches = vec![ReadBatch { header, events }];
    let page = Page { version: newest, stamp: Stamp::new(1), batches, next: None };
    let (steps, mut told) = mpsc::unbounded_channel();
    let around = Surroundings::spawn(Surroundings { page, steps });
    let (clock, standing) = (Arc::new(SystemClock), Arc::new(Standing::alone(1)));
    let shards: Arc<[_]> = vec![around.clone().recipient()].into();
    let meter = Arc::new(Meter::new(Quotas::default()));
    let shared = Shared {
        admission: Admission::new(1 << 20),
        meter: Arc::clone(&meter),
        shards: Arc::clone(&shards),
        standing: Arc::clone(&standing),
        admin: Admin {
            node_id: "test".into(),
            boot: BootId::new(1),
            meter,
            rooms: Quotas::default().rooms(),
            standing,
            cluster: None,
            clock: clock.clone(),
            shards: Arc::clone(&shards),
            registrar: around.clone().recipient(),
            keys: around.clone().recipient(),
            trail: around.clone().recipient(),
        },
        boot: BootId::new(1),
        counter: AtomicU64::new(1),
    };
    let (begins, feeds) = (around.clone().recipient(), around.recipient());
    let router = Router::new(Arc::new(shared), clock.clone(), 0, begins, feeds);
    let orgs = Arc::new(Orgs::default());
    let registrar = Registrar::spawn(Registrar::new(Arc::clone(&orgs), router, shards, clock));
    let (shard, version) = (ShardId::new(0), Version::new(wanted));
    let mail = WantedMail { shard, org: "acme".into(), version };
    registrar.tell(mail).await.expect("it runs");
    let Some(Step::SchemasRead { outcome, .. }) = told.recv().await else { panic!("it answers") };
    let known = orgs.get("acme").map_or(Version::NONE, |org| org.version());
    (outcome, known)
}

fn policy() -> Event {
    let policy = Policy { closed: true, allow_encrypted: false };
    SystemEvent::PolicySet { org: "acme".into(), kind: None, policy }.to_event(0)
}

#[tokio::test]
async fn shards_know_what_was_read_before_something_could_not_be() {
    let strange = Event::plain("FromTheFuture", ContentType::Bytes, Vec::new());
    let (outcome, known) = catch_up(&[policy(), strange], 2).await;
    assert!(outcome.expect_err("half of it").contains("cannot read"));
    assert_eq!(known, Version::new(1));
}

#[tokio::test]
async fn a_shard_that_wants_more_than_there_is_is_told_so() {
    let (outcome, known) = catch_up(&[policy()], 2).await;
    assert_eq!(outcome, Err("known up to 1, wanted up to 2".to_owned()));
    assert_eq!(known, Version::new(1));
    assert_eq!(catch_up(&[policy()], 1).await, (Ok(()), Version::new(1)));
}
