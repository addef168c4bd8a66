//! A client of the world: chooses what to do, sends it, sends it again, remembers what it was told.

use std::collections::BTreeMap;

use celeriant_schema::{
    AggregateKey, ClientId, EncodedEvents, Guard, Member, Refusal, Request, Response, Retention,
    Retry, Sequence, Version,
};
use tokio::task::JoinHandle;

use crate::fault::Reached;
use crate::ledger::{Ledger, OperationId};
use crate::rng::Rng;
use crate::timeline::{Micros, Timeline};
use crate::wire::{Sending, Wire};
use crate::workload::{self, Workload};
use crate::world::spawn;

/// Client index of one that only deletes.
pub const PURGER: usize = 3_000;

/// Everything a client needs of its world.
#[derive(Clone)]
pub struct Surroundings {
    /// Virtual time.
    pub timeline: Timeline,
    /// The ways to the nodes, one each.
    pub wires: Vec<Wire>,
    /// Where everything is written down.
    pub ledger: Ledger,
    /// Counters.
    pub reached: Reached,
    /// What clients do.
    pub workload: Workload,
    /// When clients begin nothing new.
    pub until: Micros,
}

/// One client.
pub struct Client {
    index: usize,
    world: Surroundings,
    rng: Rng,
    /// Which node it takes for the leader.
    at: usize,
    client_id: ClientId,
    /// Newest version it was told, by aggregate.
    versions: BTreeMap<AggregateKey, Version>,
    /// Highest sequence it believes to be used, by aggregate.
    sequences: BTreeMap<AggregateKey, u64>,
    /// Writes it has sent.
    past: Vec<OperationId>,
}

/// Requests of a thousand that go to any node of several.
const STRAYS_PER_MILLE: u64 = 70;
/// Watchers are numbered from here.
const WATCHERS: usize = 3_000;
/// Registrars are numbered from here.
const REGISTRARS: usize = 4_000;
/// Pages of a thousand after which a watcher begins anew.
const BEGINS_AGAIN_PER_MILLE: u64 = 30;
/// A sequenced write is sent this often before its client gives up.
const ATTEMPTS_MAX: u64 = 400;

/// Sets all clients of a world to work.
pub fn set_to_work(seed: u64, world: &Surroundings) -> Vec<JoinHandle<()>> {
    let client = |kind: &str, first: usize, index: usize| {
        let rng = Rng::new(seed).fork(&format!("{kind} {index}"));
        Client::new(first + index, world.clone(), rng)
    };
    let Workload { clients, watchers, registrars, .. } = world.workload;
    let clients = (0..clients).map(|index| spawn(client("client", 0, index).work()));
    let watchers = (0..watchers).map(|index| spawn(client("watcher", WATCHERS, index).watch()));
    let registrars =
        (0..registrars).map(|index| spawn(client("registrar", REGISTRARS, index).register()));
    clients.chain(watchers).chain(registrars).collect()
}

impl Client {
    /// Client number `index`.
    pub fn new(index: usize, world: Surroundings, mut rng: Rng) -> Self {
        let client_id = world.workload.client_id(index, &mut rng);
        Self {
            index,
            world,
            rng,
            at: 0,
            client_id,
            versions: BTreeMap::new(),
            sequences: BTreeMap::new(),
            past: Vec::new(),
        }
    }

    /// Works until its world says that it is enough.
    pub async fn work(mut self) {
        let weights = self.world.workload.weights.clone();
        let weights = [
            weights.append,
            weights.write,
            weights.resend,
            weights.wrong_sequence,
            weights.duplicate,
            weights.read,
            weights.head,
            weights.list,
            weights.ping,
            weights.take_away,
        ];
        while self.world.timeline.now() < self.world.until {
            let pause = self.rng.between(0, 2 * self.world.workload.think_us);
            self.world.timeline.sleep(pause).await;
            let action = self.rng.weighted(&weights);
            self.world.reached.note(format!("client {}", ACTIONS[action]));
            match action {
                0 => self.append().await,
                1 => self.write().await,
                2 => self.resend().await,
                3 => self.wrong_sequence().await,
                4 => self.duplicate().await,
                5 => self.read().await,
                6 => self.head().await,
                7 => self.list().await,
                8 => self.ping().await,
                _ => self.take_away().await,
            }
        }
    }

    /// Follows a feed until its world says that it is enough, page after page on whatever node; now
    /// and then it begins again, or elsewhere.
    pub async fn watch(mut self) {
        let mut query = workload::feed(self.world.ledger.newest_stamp(), &mut self.rng);
        while self.world.timeline.now() < self.world.until {
            let pause = self.rng.below(2 * self.world.workload.think_us);
            self.world.timeline.sleep(pause).await;
            let request = Request::Feed(query.clone());
            let id = self.world.ledger.open(|_| request);
            self.world.reached.note("client feed");
            if let Sending::Answered(Response::Feed(page)) = self.once(id).await {
                query.after = Some(page.upto);
            }
            if self.rng.chance(BEGINS_AGAIN_PER_MILLE) {
                query = workload::feed(self.world.ledger.newest_stamp(), &mut self.rng);
            }
        }
    }

    /// Gives orders about schemas until its world says that it is enough.
    pub async fn register(mut self) {
        while self.world.timeline.now() < self.world.until {
            let pause = self.rng.below(20 * self.world.workload.think_us);
            self.world.timeline.sleep(pause).await;
            let request = workload::schema_order(&mut self.rng);
            let id = self.world.ledger.open(|_| request);
            if let Sending::Answered(Response::Admin(_)) = self.once(id).await {
                self.world.reached.note("order about schemas done");
            }
        }
    }

    /// Sends `count` appends at once, as a client that has gone wild does.
    pub async fn burst(mut self, count: u64) {
        let ids: Vec<OperationId> = (0..count).map(|_| self.new_append(false)).collect();
        let timeout = self.timeout();
        let wire = self.world.wires[self.at].clone();
        let sendings = ids.iter().map(|id| wire.send(self.index, *id, timeout, None));
        join(sendings.collect()).await;
    }

    /// Deletes `count` times at once, every second time several aggregates together.
    pub async fn purge(mut self, count: u64) {
        let ids: Vec<OperationId> = (0..count).map(|at| self.new_purge(1 + at % 2 * 3)).collect();
        let timeout = self.timeout();
        let wire = self.world.wires[self.at].clone();
        let sendings = ids.iter().map(|id| wire.send(self.index, *id, timeout, None));
        join(sendings.collect()).await;
    }

    /// Appends once, and does not give up.
    pub async fn probe(mut self) {
        let (key, client) = (Workload::key(0), ClientId::new(u128::MAX));
        // Nothing that a schema may refuse.
        let workload = Workload { registrars: 0, ..self.world.workload.clone() };
        let rng = &mut self.rng;
        let id = self.world.ledger.open(|id| {
            let events = workload.events(id, 0, rng);
            let sequence = Some(Sequence::new(1));
            workload::write(client, vec![workload::member(key, Guard::Any, sequence, events)])
        });
        self.persist(id).await;
    }

    async fn append(&mut self) {
        let sequenced = self.rng.chance(self.world.workload.sequenced_per_mille);
        let id = self.new_append(sequenced);
        self.persist(id).await;
    }

    async fn write(&mut self) {
        let id = self.new_write();
        self.persist(id).await;
    }

    async fn take_away(&mut self) {
        let id = self.new_taking();
        self.persist(id).await;
    }

    async fn resend(&mut self) {
        if self.past.is_empty() {
            return;
        }
        let id = *self.rng.pick(&self.past);
        self.persist(id).await;
    }

    async fn wrong_sequence(&mut self) {
        let key = Workload::key(self.rng.below(self.world.workload.aggregates));
        let highest = self.sequences.get(&key).copied().unwrap_or(0);
        let sequence = match self.rng.below(3) {
            0 => highest + self.rng.between(2, 5),
            1 => 1,
            _ => highest.max(1),
        };
        let client_id = self.client_id;
        let (workload, rng) = (&self.world.workload, &mut self.rng);
        let id = self.world.ledger.open(|id| {
            let events = workload.events(id, 0, rng);
            let sequence = Some(Sequence::new(sequence));
            workload::write(client_id, vec![workload::member(key, Guard::Any, sequence, events)])
        });
        self.persist(id).await;
    }

    async fn duplicate(&mut self) {
        let sequenced = self.rng.chance(700);
        let takes = self.world.workload.weights.take_away > 0 && self.rng.chance(200);
        let id = match takes {
            true => self.new_taking(),
            false if self.rng.chance(500) => self.new_append(sequenced),
            false => self.new_write(),
        };
        let timeout = self.timeout();
        let wire = self.world.wires[self.at].clone();
        let times = self.rng.between(2, 4);
        // Through a second connection now and then: the order of arrival is anybody's.
        let other = self.index + if self.rng.chance(300) { 1_000 } else { 0 };
        let sendings = (0..times).map(|time| {
            let connection = if time == 0 { self.index } else { other };
            wire.send(connection, id, timeout, None)
        });
        for sending in join(sendings.collect()).await {
            if let Sending::Answered(response) = sending {
                self.learn(id, &response);
            }
        }
    }

    async fn read(&mut self) {
        let key = Workload::key(self.rng.below(self.world.workload.aggregates));
        let version = self.versions.get(&key).copied().unwrap_or_default();
        let newest = self.world.ledger.newest_stamp();
        let mut query = workload::read(key, version, newest, &mut self.rng);
        // Pages end somewhere; a reader that never ends would be a bug of the store.
        for _ in 0..200 {
            let request = Request::Read(query.clone());
            let id = self.world.ledger.open(|_| request);
            let Sending::Answered(Response::Page(page)) = self.once(id).await else { return };
            let seen = page.batches.iter().map(|batch| batch.events.len() as u64).sum::<u64>();
            let limit = query.limit.map(|limit| limit.saturating_sub(seen));
            let (Some(next), true) = (page.next, limit != Some(0)) else { return };
            query.limit = limit;
            match query.backwards {
                true => query.to = Some(next),
                false => query.from = next,
            }
        }
        self.world.reached.note("read without end");
    }

    async fn head(&mut self) {
        let key = Workload::key(self.rng.below(self.world.workload.aggregates + 1));
        let newest = self.world.ledger.newest_stamp();
        let request = Request::Head(workload::head(key, newest, &mut self.rng));
        let id = self.world.ledger.open(|_| request);
        self.once(id).await;
    }

    async fn list(&mut self) {
        let mut query = workload::list(&mut self.rng);
        for _ in 0..50 {
            let request = Request::List(query.clone());
            let id = self.world.ledger.open(|_| request);
            let Sending::Answered(Response::List(page)) = self.once(id).await else { return };
            if !page.more {
                return;
            }
            query.after = page.names.last().cloned();
        }
    }

    async fn ping(&mut self) {
        let id = self.world.ledger.open(|_| Request::Ping);
        self.once(id).await;
    }

    /// Sends an operation once, to the leader unless anybody will do, and takes what comes.
    async fn once(&mut self, id: OperationId) -> Sending {
        let timeout = self.timeout();
        let deadline = self.deadline();
        let nodes = self.world.wires.len();
        // Now and then it asks one that it has long left: that may lead no more and not know it.
        let anywhere = nodes > 1
            && (may_go_anywhere(&self.world.ledger.request(id))
                || self.rng.chance(STRAYS_PER_MILLE));
        let to = if anywhere { self.rng.below(nodes as u64) as usize } else { self.at };
        let sending = self.world.wires[to].send(self.index, id, timeout, deadline).await;
        match &sending {
            Sending::Answered(response) => self.learn(id, response),
            Sending::NoNode => self.world.timeline.sleep(5_000).await,
            Sending::Lost => {}
        }
        if nodes > 1 && !anywhere {
            self.follow(&sending);
        }
        sending
    }

    /// Goes where the leader is said to be; when nobody says, somewhere else now and then.
    fn follow(&mut self, sending: &Sending) {
        let other = (self.at + 1) % self.world.wires.len();
        match sending {
            Sending::Answered(Response::Refused(Refusal::NotLeader { leader })) => {
                self.world.reached.note("client was sent to the leader");
                let named = leader.as_deref().and_then(node_at);
                self.at = named.filter(|node| *node < self.world.wires.len()).unwrap_or(other);
            }
            Sending::Answered(Response::Refused(Refusal::NoLeader | Refusal::UnknownOutcome))
            | Sending::Lost
            | Sending::NoNode
                if self.rng.chance(500) =>
            {
                self.at = other;
            }
            _ => {}
        }
    }

    /// Sends a write until its outcome is known, as a careful client does; without sequences it
    /// gives up now and then, and never knows.
    async fn persist(&mut self, id: OperationId) {
        let request = self.world.ledger.request(id);
        let Request::Write(write) = &*request else { return };
        let sequenced = write.members.iter().any(|member| member.sequence.is_some());
        if !self.past.contains(&id) {
            self.past.push(id);
        }
        for attempt in 0..ATTEMPTS_MAX {
            match self.once(id).await {
                Sending::Answered(Response::Refused(refusal))
                    if matches!(refusal.retry(), Retry::Same | Retry::OtherNode) => {}
                Sending::Answered(_) => return,
                Sending::Lost if !sequenced && self.rng.chance(700) => return,
                Sending::Lost => self.world.reached.note("client sends again"),
                Sending::NoNode => {}
            }
            let pause = self.rng.between(100, 2_000 * (1 + attempt.min(20)));
            self.world.timeline.sleep(pause).await;
        }
        self.world.reached.note("client gave up");
    }

    fn new_append(&mut self, sequenced: bool) -> OperationId {
        let key = Workload::key(self.rng.below(self.world.workload.aggregates));
        let version = self.versions.get(&key).copied().unwrap_or_default();
        let guard = workload::guard(version, &mut self.rng);
        let sequence = sequenced.then(|| self.next_sequence(&key));
        let client_id = self.client_id;
        let (workload, rng) = (&self.world.workload, &mut self.rng);
        self.world.ledger.open(|id| {
            let events = workload.events(id, 0, rng);
            workload::write(client_id, vec![workload::member(key, guard, sequence, events)])
        })
    }

    fn new_taking(&mut self) -> OperationId {
        let key = Workload::key(self.rng.below(self.world.workload.aggregates));
        let version = self.versions.get(&key).copied().unwrap_or_default();
        let calm = self.rng.chance(500);
        let guard = if calm { Guard::Any } else { workload::guard(version, &mut self.rng) };
        let retention = workload::retention(&key, version, &mut self.rng);
        let is_sequenced = self.rng.chance(self.world.workload.sequenced_per_mille);
        let target = (key, guard);
        self.world.ledger.open(|id| workload::taking(id, target, retention, is_sequenced))
    }

    /// A delete of `count` aggregates; of several, the first gets events instead.
    fn new_purge(&mut self, count: u64) -> OperationId {
        let keys = self.world.workload.keys(count, &mut self.rng);
        let is_alone = keys.len() == 1;
        let client_id = self.client_id;
        let (workload, rng) = (&self.world.workload, &mut self.rng);
        let retention = Retention::Delete { recreate: true, forget_sequences: false };
        self.world.ledger.open(|id| {
            let member = |(index, key): (usize, AggregateKey)| match index {
                0 => workload::member(key, Guard::Any, None, workload.events(id, 0, rng)),
                _ => Member {
                    retention: Some(retention),
                    ..workload::member(key, Guard::Any, None, EncodedEvents::default())
                },
            };
            match keys.first() {
                Some(key) if is_alone => {
                    workload::taking(id, (key.clone(), Guard::Any), retention, false)
                }
                _ => workload::write(client_id, keys.into_iter().enumerate().map(member).collect()),
            }
        })
    }

    fn new_write(&mut self) -> OperationId {
        let count = self.rng.between(2, 5);
        let keys = self.world.workload.keys(count, &mut self.rng);
        let sequenced = self.rng.chance(self.world.workload.sequenced_per_mille);
        let takes = self.world.workload.weights.take_away > 0;
        let plans: Vec<_> = keys
            .into_iter()
            .enumerate()
            .map(|(index, key)| {
                let version = self.versions.get(&key).copied().unwrap_or_default();
                let calm = self.rng.chance(600);
                let guard = if calm { Guard::Any } else { workload::guard(version, &mut self.rng) };
                let only_guard = index > 0 && self.rng.chance(250);
                let sequence = (sequenced && !only_guard).then(|| self.next_sequence(&key));
                let takes = index > 0 && !only_guard && takes && self.rng.chance(200);
                let retention = takes.then(|| workload::retention(&key, version, &mut self.rng));
                let member = workload::member(key, guard, sequence, EncodedEvents::default());
                (Member { retention, ..member }, only_guard)
            })
            .collect();
        let client_id = self.client_id;
        let (workload, rng) = (&self.world.workload, &mut self.rng);
        self.world.ledger.open(|id| {
            let member = |(index, (mut member, only_guard)): (usize, (Member, bool))| {
                if !only_guard && member.retention.is_none() {
                    member.events = workload.events(id, index, rng);
                }
                member
            };
            let members: Vec<Member> = plans.into_iter().enumerate().map(member).collect();
            workload::write(client_id, members)
        })
    }

    fn next_sequence(&self, key: &AggregateKey) -> Sequence {
        Sequence::new(self.sequences.get(key).copied().unwrap_or(0) + 1)
    }

    fn timeout(&mut self) -> Micros {
        self.world.workload.timeout_ms * 1000 + self.rng.below(50_000)
    }

    fn deadline(&mut self) -> Option<Micros> {
        let wanted = self.rng.chance(self.world.workload.deadline_per_mille);
        wanted.then(|| self.rng.between(1_000, 200_000))
    }

    /// Remembers what an answer says about versions and sequences.
    fn learn(&mut self, id: OperationId, response: &Response) {
        let request = self.world.ledger.request(id);
        if let (Some(receipt), Request::Write(write)) =
            (crate::ledger::receipt_of(response), &*request)
        {
            for part in &receipt.writes {
                self.versions.insert(part.key.clone(), part.last_version);
            }
            for member in &write.members {
                if let Some(sequence) = member.sequence {
                    self.used(&member.key, sequence);
                }
            }
        }
        match (response, &*request) {
            (Response::Page(page), Request::Read(query)) => {
                self.versions.insert(query.key.clone(), page.version);
            }
            (Response::Head(head), Request::Head(query)) => {
                self.versions.insert(query.key.clone(), head.version);
            }
            (Response::Refused(refusal), _) => self.learn_refusal(refusal),
            _ => {}
        }
    }

    fn learn_refusal(&mut self, refusal: &Refusal) {
        match refusal {
            Refusal::Conflict { conflicts, .. } => {
                for conflict in conflicts {
                    self.versions.insert(conflict.key.clone(), conflict.actual);
                }
            }
            Refusal::SequenceGap { key, expected } => {
                self.sequences.insert(key.clone(), expected.value() - 1);
            }
            Refusal::SequenceReused { key, sequence }
            | Refusal::SequenceStale { key, sequence } => {
                self.used(&key.clone(), *sequence);
            }
            _ => {}
        }
    }

    fn used(&mut self, key: &AggregateKey, sequence: Sequence) {
        let highest = self.sequences.entry(key.clone()).or_default();
        *highest = sequence.value().max(*highest);
    }
}

/// Where clients find node `node`.
pub fn address_of(node: usize) -> String {
    format!("node{node}")
}

/// Which node is found there.
fn node_at(address: &str) -> Option<usize> {
    address.strip_prefix("node")?.parse().ok()
}

/// Whether any node may answer.
fn may_go_anywhere(request: &Request) -> bool {
    match request {
        Request::Read(query) => query.any,
        Request::Head(query) => query.any,
        Request::List(_) | Request::Feed(_) | Request::Ping => true,
        Request::Write(_) | Request::Admin(_) => false,
    }
}

const ACTIONS: [&str; 10] = [
    "append",
    "write",
    "resend",
    "wrong sequence",
    "duplicate",
    "read",
    "head",
    "list",
    "ping",
    "take away",
];

/// Waits for all, polled in order.
pub async fn join<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(move |cx| {
        let mut done = true;
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => done = false,
                }
            }
        }
        match done {
            true => std::task::Poll::Ready(outputs.iter_mut().filter_map(Option::take).collect()),
            false => std::task::Poll::Pending,
        }
    })
    .await
}
