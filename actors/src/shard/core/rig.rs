//! A core on a disk in memory, driven step by step: nothing completes until the test says so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use celeriant_schema::{
    AggregateKey, BootId, ClientId, ClusterId, ContentType, EncodedEvents, Epoch, Event, Guard,
    Lsn, Member, Request, Response, Sequence, ShardId, Stamp, Version, Write,
};
use celeriant_storage::buffer::AlignedBuffer;
use celeriant_storage::cache::FrameCache;
use celeriant_storage::disk::{Completion, Disk, DiskError, Done, FileId, Op, Token};
use celeriant_storage::recovery::{Known, recover, recover_member};
use celeriant_storage::{DirectoryBudget, Identity};

use super::{Core, Effect, Elsewhere, Parts};
use crate::clock::{Clock, Micros, StampClock};
use crate::replicator::orders::{Lead, Order, Report};
use crate::shard::{Joints, Orgs, Reopen};
use crate::standing::Standing;
use crate::work::{Answer, FeedNews, Step, Task, Work};

/// Files in memory; operations complete in order when polled.
#[derive(Debug, Default)]
pub(crate) struct MemoryDisk {
    files: BTreeMap<String, Vec<u8>>,
    open: Vec<String>,
    done: VecDeque<Completion>,
}

impl MemoryDisk {
    fn run(&mut self, op: Op) -> Result<Done, DiskError> {
        match op {
            Op::List => {
                let size = |(name, file): (&String, &Vec<u8>)| (name.clone(), file.len() as u64);
                Ok(Done::Listed(self.files.iter().map(size).collect()))
            }
            Op::Open { name } if !self.files.contains_key(&name) => {
                let source = std::io::ErrorKind::NotFound.into();
                Err(DiskError { op: "open", name, source })
            }
            Op::Open { name } => Ok(self.opened(name)),
            Op::Create { name, len, head, .. } => {
                let mut file = vec![0; len as usize];
                file[..head.len()].copy_from_slice(&head);
                self.files.insert(name.clone(), file);
                Ok(self.opened(name))
            }
            Op::Make { name } => {
                self.files.insert(name.clone(), Vec::new());
                Ok(self.opened(name))
            }
            Op::Extend { file, offset, buffer } => {
                let bytes = self.file(file);
                bytes.resize(offset as usize, 0);
                bytes.extend_from_slice(&buffer);
                Ok(Done::Written(buffer))
            }
            Op::Sync { .. } => Ok(Done::Ok),
            Op::Put { name, content } => {
                self.files.insert(name, content.to_vec());
                Ok(Done::Ok)
            }
            Op::Write { file, offset, buffer } => {
                let bytes = buffer.as_slice();
                self.file(file)[offset as usize..][..bytes.len()].copy_from_slice(bytes);
                Ok(Done::Written(buffer))
            }
            Op::Read { file, offset, len } => {
                let file = self.file(file);
                let (from, to) =
                    (offset as usize, (offset as usize + len as usize).min(file.len()));
                let mut buffer = AlignedBuffer::with_capacity(len as usize);
                buffer.extend_from_slice(&file[from..to]);
                Ok(Done::Read(buffer))
            }
            Op::Close { .. } => Ok(Done::Ok),
            Op::Remove { name } => {
                self.files.remove(&name);
                Ok(Done::Ok)
            }
        }
    }

    fn opened(&mut self, name: String) -> Done {
        let len = self.files[&name].len() as u64;
        self.open.push(name);
        Done::Opened { file: FileId(self.open.len() as u32 - 1), len }
    }

    fn file(&mut self, file: FileId) -> &mut Vec<u8> {
        let name = &self.open[file.0 as usize];
        self.files.get_mut(name).expect("the file is there")
    }
}

impl Disk for MemoryDisk {
    fn start(&mut self, token: Token, op: Op) {
        let outcome = self.run(op);
        self.done.push_back(Completion { token, outcome });
    }

    fn poll_complete(&mut self, _: &mut Context<'_>) -> Poll<Completion> {
        self.done.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

struct Still;

impl Clock for Still {
    fn now(&self) -> Micros {
        0
    }
    fn wall(&self) -> i64 {
        Stamp::ORIGIN_UNIX_MICROS + 1_000_000
    }
}

/// One shard whose disk answers when asked.
pub(crate) struct Rig {
    pub(crate) core: Core<u32>,
    disk: MemoryDisk,
    /// What was answered, by route, since last asked.
    replies: Vec<(u32, Response)>,
    /// What the node knows of schemas.
    pub(crate) orgs: Arc<Orgs>,
    /// Orgs whose schemas were asked for.
    pub(crate) wanted: Vec<(String, Version)>,
    /// Routes of answers that need the proof of a read.
    pub(crate) reads: Vec<u32>,
    answers: Vec<Answer>,
    /// What watches were told since last asked.
    pub(crate) news: Vec<FeedNews>,
    reports: Vec<Report>,
    /// What other shards of the node were told since last asked.
    pub(crate) told: Vec<(ShardId, Step)>,
    pub(crate) reopen: Option<Reopen>,
    pub(crate) now: Micros,
}

impl Rig {
    /// A fresh shard, ready to serve.
    pub(crate) fn new() -> Self {
        Self::open(MemoryDisk::default(), DirectoryBudget::default(), Elsewhere::Alone).lead(1)
    }

    /// A fresh shard of a pair; the other place holds the epoch's first record and nothing more.
    pub(crate) fn paired() -> Self {
        let elsewhere = Elsewhere::Upto(Lsn::new(1));
        Self::open(MemoryDisk::default(), DirectoryBudget::default(), elsewhere).lead(1)
    }

    /// The other place holds everything up to `lsn`.
    pub(crate) fn hold_elsewhere(&mut self, lsn: u64) {
        let mut effects = Vec::new();
        let held = vec![Order::Held(Lsn::new(lsn))];
        self.core.order(self.now, held, &mut effects).expect("the disk works");
        self.deliver(effects);
    }

    /// A fresh shard whose directory holds next to nothing in memory.
    pub(crate) fn scarce() -> Self {
        let budget = DirectoryBudget { memtable_bytes: 16 << 10, cache_bytes: 8 << 10 };
        Self::open(MemoryDisk::default(), budget, Elsewhere::Alone).lead(1)
    }

    /// The same disk after a crash that lost nothing.
    pub(crate) fn restarted(self) -> Self {
        self.restarted_in(2)
    }

    /// The same, in an epoch of which the disk has heard nothing.
    pub(crate) fn restarted_in(self, epoch: u64) -> Self {
        Self::open(self.disk, DirectoryBudget::default(), Elsewhere::Alone).lead(epoch)
    }

    fn open(disk: MemoryDisk, budget: DirectoryBudget, elsewhere: Elsewhere) -> Self {
        Self::of_shard(0, disk, Known::default(), budget, elsewhere, Joints::default())
    }

    /// A fresh shard of a pair, which follows; with the same joints as its siblings.
    pub(crate) fn follower(shard: u16, joints: &Joints) -> Self {
        let (disk, known) = (MemoryDisk::default(), Known::default());
        let (budget, elsewhere) = (DirectoryBudget::default(), Elsewhere::Upto(Lsn::ZERO));
        Self::of_shard(shard, disk, known, budget, elsewhere, joints.clone())
    }

    /// What the shell does when the core wants its log opened anew.
    pub(crate) fn reopened(mut self, joints: &Joints) -> Self {
        let reopen = self.reopen.take().expect("it wants that");
        let known =
            Known { committed: self.core.committed(), cut_after: reopen.cut.map(|(_, _, to)| to) };
        let orders = self.core.take_orders();
        let shard = self.core.shard.value();
        let (budget, elsewhere) = (DirectoryBudget::default(), Elsewhere::Upto(Lsn::ZERO));
        let mut rig = Self::of_shard(shard, self.disk, known, budget, elsewhere, joints.clone());
        let mut effects = Vec::new();
        rig.core.keep_shown(self.core.shown());
        rig.core.follow(reopen, None, &mut effects);
        rig.core.order(0, orders, &mut effects).expect("the disk works");
        rig.deliver(effects);
        rig.flush();
        rig
    }

    fn of_shard(
        shard: u16,
        mut disk: MemoryDisk,
        known: Known,
        budget: DirectoryBudget,
        elsewhere: Elsewhere,
        joints: Joints,
    ) -> Self {
        disk.done.clear();
        let identity = Identity { cluster: ClusterId::new(1), shard: ShardId::new(shard) };
        let settings = celeriant_storage::Settings {
            segment_bytes_first: 256 << 10,
            segment_bytes_max: 256 << 10,
            directory: budget,
            ..celeriant_storage::Settings::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let recovered = match elsewhere {
            Elsewhere::Alone => runtime.block_on(recover(&mut disk, identity, &settings)),
            Elsewhere::Upto(_) => {
                runtime.block_on(recover_member(&mut disk, identity, &settings, known))
            }
        };
        let recovered = recovered.expect("recovers");
        let orgs = Arc::new(Orgs::new());
        let parts = Parts {
            orgs: Arc::clone(&orgs),
            shards: identity.shard.value() + 1,
            identity,
            stamps: StampClock::new(&Still, recovered.max_stamp),
            elsewhere,
            log: recovered.log,
            directory: recovered.directory,
            tail: recovered.tail,
            pending: recovered.pending,
            cache: FrameCache::new(1 << 20),
            joints,
            standing: Arc::new(Standing::alone(1)),
        };
        let mut effects = Vec::new();
        let core = Core::new(parts, &mut effects);
        let (replies, answers, reports) = (Vec::new(), Vec::new(), Vec::new());
        let (told, reopen) = (Vec::new(), None);
        let (reads, news) = (Vec::new(), Vec::new());
        let wanted = Vec::new();
        let mut rig = Self {
            core,
            disk,
            replies,
            orgs,
            wanted,
            reads,
            answers,
            news,
            reports,
            told,
            reopen,
            now: 0,
        };
        rig.deliver(effects);
        rig
    }

    /// Leads, in good order; every leg that is open is decided against.
    pub(crate) fn lead(mut self, epoch: u64) -> Self {
        let epoch = Epoch::new(epoch);
        let surveyed = self.order(Order::Survey { epoch });
        let pending = surveyed.iter().find_map(|report| match report {
            Report::Surveyed { pending, .. } => Some(pending),
            _ => None,
        });
        let pending = pending.unwrap_or_else(|| panic!("{surveyed:?}"));
        let decisions = Arc::new(pending.iter().map(|(txn, _)| (*txn, false)).collect());
        let boot = BootId::new(epoch.value());
        let leading = self.order(Order::Lead(Lead { epoch, boot, decisions }));
        let leads = |report: &Report| matches!(report, Report::Leading { .. });
        let is_alone = self.core.elsewhere == Elsewhere::Alone;
        assert!(!is_alone || leading.iter().any(leads), "{leading:?}");
        self.reports.extend(leading);
        self
    }

    /// Gives an order, completes everything and returns what is reported.
    pub(crate) fn order(&mut self, order: Order) -> Vec<Report> {
        let mut effects = Vec::new();
        self.core.order(self.now, vec![order], &mut effects).expect("the disk works");
        self.deliver(effects);
        self.flush();
        std::mem::take(&mut self.reports)
    }

    /// Hands work over; it is accepted or refused, nothing is durable yet.
    pub(crate) fn send(&mut self, work: Vec<Work<u32>>) {
        let mut effects = Vec::new();
        self.core.handle(self.now, work, &mut effects).expect("the disk works");
        self.deliver(effects);
    }

    /// Sends one request.
    pub(crate) fn request(&mut self, route: u32, request: Request) {
        self.send(vec![Work::Task(Task { route, deadline: None, request })]);
    }

    /// Takes what was reported so far.
    pub(crate) fn reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    /// Seals and completes everything until nothing is in flight.
    pub(crate) fn flush(&mut self) {
        loop {
            let mut effects = Vec::new();
            self.core.pump(&mut effects);
            self.core.report(&mut effects);
            self.deliver(effects);
            let Some(completion) = self.disk.done.pop_front() else { return };
            let mut effects = Vec::new();
            self.core.complete(self.now, completion, &mut effects).expect("the disk works");
            self.deliver(effects);
        }
    }

    /// A second passes.
    pub(crate) fn tick(&mut self) {
        self.now += 1_000_000;
        let mut effects = Vec::new();
        self.core.tick(self.now, &mut effects).expect("the disk works");
        self.deliver(effects);
    }

    /// All bytes of a segment, packed or not.
    pub(crate) fn segment(&mut self, number: u32) -> Option<Bytes> {
        let (fetch, op) = self.core.log.fetch(number, 0, 256 << 10)?;
        match self.disk.run(op) {
            Ok(Done::Read(read)) => Some(fetch.take(read).expect("as it was written")),
            other => panic!("{other:?}"),
        }
    }

    /// Names of files that hold these bytes as they are.
    pub(crate) fn files_with(&self, bytes: &[u8]) -> Vec<String> {
        let holds = |content: &[u8]| content.windows(bytes.len()).any(|it| it == bytes);
        let files = self.disk.files.iter().filter(|(_, content)| holds(content));
        files.map(|(name, _)| name.clone()).collect()
    }

    /// Takes the replies so far.
    pub(crate) fn replies(&mut self) -> Vec<(u32, Response)> {
        std::mem::take(&mut self.replies)
    }

    /// Takes what coordinators were told so far.
    pub(crate) fn answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    /// Sends a request, completes everything and returns its answer.
    pub(crate) fn ask(&mut self, request: Request) -> Response {
        self.request(0, request);
        self.flush();
        let mut replies = self.replies();
        assert_eq!(replies.len(), 1, "{replies:?}");
        replies.remove(0).1
    }

    fn deliver(&mut self, effects: Vec<Effect<u32>>) {
        for effect in effects {
            match effect {
                Effect::Disk(token, op) => self.disk.start(token, op),
                Effect::Reply(route, response) => self.replies.push((route, response)),
                Effect::Read(route, response) => {
                    self.reads.push(route);
                    self.replies.push((route, response));
                }
                Effect::Answer(_, answer) => self.answers.push(answer),
                Effect::Feed(_, news) => self.news.push(news),
                Effect::Report(report) => self.reports.push(report),
                Effect::Tell(shard, step) => self.told.push((shard, step)),
                Effect::Reopen(reopen) => self.reopen = Some(reopen),
                Effect::Schemas { org, version } => self.wanted.push((org, version)),
                Effect::StoppedLeading => {}
            }
        }
    }
}

pub(crate) fn key(id: &str) -> AggregateKey {
    AggregateKey::new("acme", "account", id).expect("valid")
}

pub(crate) fn events(count: usize, payload: &str) -> EncodedEvents {
    let event =
        Event::plain("Happened", ContentType::Bytes, Bytes::copy_from_slice(payload.as_bytes()));
    EncodedEvents::encode(&vec![event; count]).expect("valid")
}

pub(crate) fn member(id: &str, guard: Guard, count: usize) -> Member {
    Member { key: key(id), guard, sequence: None, events: events(count, id), retention: None }
}

pub(crate) fn write(members: Vec<Member>) -> Request {
    Request::Write(Write { client_id: ClientId::NONE, members })
}

/// One event for `id` with a sequence of client 7.
pub(crate) fn sequenced(id: &str, guard: Guard, sequence: u64, payload: &str) -> Request {
    let (key, events) = (key(id), events(1, payload));
    let sequence = Some(Sequence::new(sequence));
    let members = vec![Member { key, guard, sequence, events, retention: None }];
    Request::Write(Write { client_id: ClientId::new(7), members })
}

pub(crate) fn exact(version: u64) -> Guard {
    Guard::Exact(Version::new(version))
}
