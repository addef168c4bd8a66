//! What is measured of a shard: small guarded writes from arrival to receipt, alone, together and
//! with sequences; a page of ten events from memory.

use std::hint::black_box;
use std::sync::Arc;

use celeriant_actors::clock::{Clock, Micros, StampClock};
use celeriant_actors::replicator::orders::{Lead, Order, Report};
use celeriant_actors::shard::core::{Core, Effect, Parts};
use celeriant_actors::shard::{Elsewhere, Joints};
use celeriant_actors::standing::Standing;
use celeriant_actors::work::{Task, Work as Mail};
use celeriant_schema::{
    AggregateKey, BootId, ClientId, ClusterId, EncodedEvents, Epoch, Guard, Member, ReadQuery,
    Request, Response, Sequence, ShardId, Stamp, Version, Write,
};
use celeriant_storage::cache::FrameCache;
use celeriant_storage::disk::Disk;
use celeriant_storage::recovery::recover;
use celeriant_storage::{Identity, Settings};

use super::measured::{Work, event};
use super::nowhere::Nowhere;

/// Aggregates that writes go round.
const AGGREGATES: usize = 1_024;
/// Writes that arrive together.
const TOGETHER: usize = 64;
/// Events of the aggregate that is read.
const READ_EVENTS: usize = 10;

/// Everything that is measured of this crate.
pub(crate) fn all() -> Vec<Work> {
    let (mut lone, mut together, mut sequenced) = (Shard::new(), Shard::new(), Shard::new());
    let mut read = Shard::with_one_aggregate();
    vec![
        Work::new("write, commit, receipt", 1, move || lone.write(1, None)),
        Work::new("64 writes, commit, receipts", TOGETHER, move || together.write(TOGETHER, None)),
        Work::new("64 writes with sequences", TOGETHER, move || {
            sequenced.write(TOGETHER, Some(ClientId::new(7)))
        }),
        Work::new("read 10 events", 1, move || read.read()),
    ]
}

/// Time that stands still: only our own work is measured.
struct Still;

impl Clock for Still {
    fn now(&self) -> Micros {
        0
    }
    fn wall(&self) -> i64 {
        Stamp::ORIGIN_UNIX_MICROS + 1_000_000
    }
}

/// A shard on a disk that keeps nothing, and what its clients know.
struct Shard {
    core: Core<usize>,
    disk: Nowhere,
    keys: Vec<AggregateKey>,
    versions: Vec<u64>,
    events: EncodedEvents,
    next: usize,
    effects: Vec<Effect<usize>>,
    answered: usize,
    leads: bool,
}

impl Shard {
    fn new() -> Self {
        let identity = Identity { cluster: ClusterId::new(1), shard: ShardId::new(0) };
        let mut disk = Nowhere::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let recovered = runtime.block_on(recover(&mut disk, identity, &Settings::default()));
        let recovered = recovered.expect("an empty folder");
        let parts = Parts {
            orgs: Arc::default(),
            shards: 1,
            identity,
            stamps: StampClock::new(&Still, recovered.max_stamp),
            elsewhere: Elsewhere::Alone,
            log: recovered.log,
            directory: recovered.directory,
            pending: recovered.pending,
            tail: recovered.tail,
            joints: Joints::default(),
            standing: Arc::new(Standing::alone(1)),
            cache: FrameCache::new(16 << 20),
        };
        let mut effects = Vec::new();
        let core = Core::new(parts, &mut effects);
        let key = |number| AggregateKey::new("acme", "account", &format!("customer-{number:09}"));
        let mut shard = Self {
            core,
            disk,
            keys: (0..AGGREGATES).map(|number| key(number).expect("valid")).collect(),
            versions: vec![0; AGGREGATES],
            events: EncodedEvents::encode(&[event()]).expect("valid"),
            next: 0,
            effects,
            answered: 0,
            leads: false,
        };
        let lead = Lead { epoch: Epoch::new(1), boot: BootId::new(1), decisions: Arc::default() };
        shard
            .core
            .order(0, vec![Order::Lead(lead)], &mut shard.effects)
            .expect("a disk that works");
        shard.flush();
        assert!(shard.leads);
        shard
    }

    /// Its first aggregate has ten events, appended one by one.
    fn with_one_aggregate() -> Self {
        let mut shard = Self::new();
        for _ in 0..READ_EVENTS {
            shard.next = 0;
            shard.write(1, None);
        }
        shard
    }

    /// Takes `count` writes that arrive together to their receipts.
    fn write(&mut self, count: usize, client: Option<ClientId>) {
        let mail = (0..count).map(|_| self.next_write(client)).collect();
        self.handle(mail);
        self.flush();
        assert_eq!(std::mem::take(&mut self.answered), count, "every write has its receipt");
    }

    /// The next aggregate in turn gets an event.
    fn next_write(&mut self, client: Option<ClientId>) -> Mail<usize> {
        let at = self.next % AGGREGATES;
        self.next += 1;
        let version = self.versions[at];
        self.versions[at] += 1;
        let member = Member {
            key: self.keys[at].clone(),
            guard: Guard::Exact(Version::new(version)),
            sequence: client.map(|_| Sequence::new(version + 1)),
            events: self.events.clone(),
            retention: None,
        };
        let client_id = client.unwrap_or(ClientId::NONE);
        let request = Request::Write(Write { client_id, members: vec![member] });
        Mail::Task(Task { route: at, deadline: None, request })
    }

    /// Reads the first aggregate from the cache.
    fn read(&mut self) {
        let query = ReadQuery::all(self.keys[0].clone());
        let request = Request::Read(query);
        self.handle(vec![Mail::Task(Task { route: 0, deadline: None, request })]);
        assert_eq!(std::mem::take(&mut self.answered), 1, "the page came from memory");
    }

    fn handle(&mut self, mail: Vec<Mail<usize>>) {
        self.core.handle(0, mail, &mut self.effects).expect("a disk that works");
        self.deliver();
    }

    /// Seals and completes until nothing is in flight.
    fn flush(&mut self) {
        loop {
            self.core.pump(&mut self.effects);
            self.deliver();
            let Some(completion) = self.disk.take() else { return };
            self.core.complete(0, completion, &mut self.effects).expect("a disk that works");
            self.deliver();
        }
    }

    fn deliver(&mut self) {
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Disk(token, op) => self.disk.start(token, op),
                Effect::Reply(_, Response::Receipt(receipt)) => {
                    self.answered += 1;
                    black_box(receipt);
                }
                Effect::Read(_, Response::Page(page)) => {
                    assert_eq!(page.batches.len(), READ_EVENTS, "the whole aggregate");
                    self.answered += 1;
                    black_box(page);
                }
                Effect::Report(Report::Leading { .. }) => self.leads = true,
                other => panic!("answered {other:?}"),
            }
        }
    }
}
