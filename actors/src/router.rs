//! The door of a node: admits requests and sends each to the shard that owns its aggregate.
//!
//! Everything decoded from one read becomes at most one message per shard. A router is a function
//! with a few handles, not an actor: it serialises nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use celeriant_net::{Incoming, Reply, ReplySender, Service};
use celeriant_schema::{
    BootId, Refusal, Request, Response, ShardId, TxnId, Write, limits::LIST_PAGE_MAX,
};
use celeriant_storage::directory::Listing;
use kameo::actor::Recipient;
use kameo::error::SendError;
use tokio::time::Instant;

use crate::admin::Admin;
use crate::admission::Admission;
use crate::audit::AuditOrder;
use crate::clock::{Clock, Micros};
use crate::coordinator::core::Begin;
use crate::coordinator::{BeginMail, ShardMail};
use crate::quotas::Meter;
use crate::route::Route;
use crate::shard::read::key_of;
use crate::standing::Standing;
use crate::watch::WatchMail;
use crate::work::{Mode, Part, Step, Task, Work};

/// Attempts of writes over several shards are numbered apart from those of single shards.
const TXN_COUNTER: u64 = 0xffff << 48;
/// When the node is full: about as long as it takes to answer what is inside.
const OVERLOAD_RETRY_MS: u32 = 50;

/// What the routers of all threads share.
pub struct Shared {
    /// The node's budget for unanswered requests.
    pub admission: Admission,
    /// What the writers and readers of orgs take.
    pub meter: Arc<Meter>,
    /// All shards of the node, by number.
    pub shards: Arc<[Recipient<ShardMail>]>,
    /// The node's.
    pub standing: Arc<Standing>,
    /// Operators' orders.
    pub admin: Admin,
    /// Of this process start.
    pub boot: BootId,
    /// Numbers writes and listings over several shards.
    pub counter: AtomicU64,
}

/// One thread's router.
#[derive(Clone)]
pub struct Router {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    index: usize,
    coordinator: Recipient<BeginMail>,
    watch: Recipient<WatchMail>,
}

/// What goes out after one read.
#[derive(Default)]
struct Outgoing {
    mail: Vec<(ShardId, Vec<Work<Route>>)>,
    begins: Vec<Begin<Route>>,
    feeds: Vec<Task<Route>>,
    refused: Vec<Reply>,
}

impl Router {
    /// The router next to coordinator and watch number `index`.
    pub fn new(
        shared: Arc<Shared>,
        clock: Arc<dyn Clock>,
        index: usize,
        coordinator: Recipient<BeginMail>,
        watch: Recipient<WatchMail>,
    ) -> Self {
        Self { shared, clock, index, coordinator, watch }
    }

    /// Bytes of requests that the node has let in and not answered.
    pub fn unanswered_bytes(&self) -> usize {
        self.shared.admission.used()
    }

    fn route(
        &self,
        incoming: Incoming,
        deadline: Option<Micros>,
        to: &ReplySender,
        out: &mut Outgoing,
    ) {
        let bill = match self.shared.meter.admit(|| self.clock.now(), &incoming.request) {
            Ok(bill) => bill,
            Err(refusal) => {
                let response = Response::Refused(refusal);
                return out.refused.push(Reply { id: incoming.id, response });
            }
        };
        let Some(permit) = self.shared.admission.admit(incoming.bytes as usize) else {
            let what = "unanswered requests of the node".into();
            let refusal = Refusal::Overloaded { what, retry_after_ms: OVERLOAD_RETRY_MS };
            let response = Response::Refused(refusal);
            return out.refused.push(Reply { id: incoming.id, response });
        };
        let route = Route { replies: to.clone(), id: incoming.id, permit, bill };
        let shards = self.shared.shards.len() as u16;
        match incoming.request {
            Request::Ping => {
                out.refused.push(Reply { id: incoming.id, response: Response::Pong });
            }
            Request::Admin(order) => match AuditOrder::of(&order) {
                None => self.shared.admin.take(&order, incoming.by, route),
                Some(audit) => match audit.and_then(|audit| audit.shard(shards)) {
                    Ok(shard) => {
                        let request = Request::Admin(order);
                        out.work(shard, Work::Task(Task { route, deadline, request }));
                    }
                    Err(refusal) => {
                        let response = Response::Refused(refusal);
                        out.refused.push(Reply { id: incoming.id, response });
                    }
                },
            },
            Request::Write(write) => match home(&write, shards) {
                Some(shard) => {
                    let request = Request::Write(write);
                    out.work(shard, Work::Task(Task { route, deadline, request }));
                }
                None => self.begin_write(route, deadline, write, out),
            },
            Request::List(query) => {
                let gather = self.shared.counter.fetch_add(1, Ordering::Relaxed);
                for shard in (0..shards).map(ShardId::new) {
                    let (coordinator, query) = (self.index, query.clone());
                    let listing = Listing::default();
                    let step = Step::List { gather, coordinator, query, listing };
                    out.work(shard, Work::Step(step));
                }
                let limit = query.limit.clamp(1, LIST_PAGE_MAX) as usize;
                out.begins.push(Begin::List { gather, route, limit, shards: shards.into() });
            }
            request @ Request::Feed(_) => out.feeds.push(Task { route, deadline, request }),
            request => {
                let shard = key_of(&request).map_or(ShardId::new(0), |key| key.shard(shards));
                out.work(shard, Work::Task(Task { route, deadline, request }));
            }
        }
    }

    /// Splits a write by shard and starts its first round of reservations in place, so that it
    /// keeps its order among the requests of its connection.
    fn begin_write(
        &self,
        route: Route,
        deadline: Option<Micros>,
        write: Write,
        out: &mut Outgoing,
    ) {
        let counter = TXN_COUNTER | self.shared.counter.fetch_add(1, Ordering::Relaxed);
        let txn = TxnId { epoch: self.shared.standing.epoch(), boot: self.shared.boot, counter };
        let shards = self.shared.shards.len() as u16;
        let write_hash = crate::shard::hash_if_sequenced(&write);
        let client_id = write.client_id;
        let keys = write.members.iter().map(|member| member.key.clone());
        let order = keys.collect();
        let mut parts: Vec<(ShardId, Part)> = Vec::new();
        for member in write.members {
            let shard = member.key.shard(shards);
            let place = parts.binary_search_by_key(&shard, |(shard, _)| *shard);
            let place = place.unwrap_or_else(|place| {
                let members = Vec::new();
                parts.insert(place, (shard, Part { client_id, write_hash, members }));
                place
            });
            parts[place].1.members.push(member);
        }
        let parts: Vec<(ShardId, Arc<Part>)> =
            parts.into_iter().map(|(shard, part)| (shard, Arc::new(part))).collect();
        for (shard, part) in &parts {
            let (coordinator, part) = (self.index, Arc::clone(part));
            let reserve = Step::Reserve { txn, coordinator, mode: Mode::Try, part };
            out.work(*shard, Work::Step(reserve));
        }
        out.begins.push(Begin::Write { txn, route, deadline, order, parts });
    }

    fn send(&self, out: Outgoing, replies: &ReplySender) {
        if !out.begins.is_empty() {
            // Before the shards can answer, the coordinator must know what they answer.
            let _ = self.coordinator.tell(BeginMail(out.begins)).try_send();
        }
        if !out.feeds.is_empty() {
            let _ = self.watch.tell(WatchMail(out.feeds)).try_send();
        }
        let mut answered = out.refused;
        for (shard, work) in out.mail {
            let sent =
                self.shared.shards[usize::from(shard.value())].tell(ShardMail(work)).try_send();
            if let Err(SendError::ActorNotRunning(ShardMail(work))) = sent {
                answered.extend(work.into_iter().filter_map(refuse_stopped));
            }
        }
        if !answered.is_empty() {
            replies.send(answered);
        }
    }
}

impl Service for Router {
    fn submit(&self, requests: Vec<Incoming>, replies: &ReplySender) {
        let mut out = Outgoing::default();
        let mut clocks = None;
        for incoming in requests {
            let deadline = incoming.deadline.map(|deadline| {
                let (now, instant) =
                    *clocks.get_or_insert_with(|| (self.clock.now(), Instant::now()));
                now + deadline.saturating_duration_since(instant).as_micros() as Micros
            });
            self.route(incoming, deadline, replies, &mut out);
        }
        self.send(out, replies);
    }
}

impl Outgoing {
    fn work(&mut self, shard: ShardId, work: Work<Route>) {
        match self.mail.iter_mut().find(|(to, _)| *to == shard) {
            Some((_, mail)) => mail.push(work),
            None => self.mail.push((shard, vec![work])),
        }
    }
}

/// The one shard of a write, or `None` if it spans several.
fn home(write: &Write, shards: u16) -> Option<ShardId> {
    let mut members = write.members.iter();
    let first = members.next().map_or(ShardId::new(0), |member| member.key.shard(shards));
    members.all(|member| member.key.shard(shards) == first).then_some(first)
}

/// The shard has stopped, so nothing of this was appended.
fn refuse_stopped(work: Work<Route>) -> Option<Reply> {
    let Work::Task(task) = work else { return None };
    Some(Reply { id: task.route.id, response: Response::Refused(Refusal::NoLeader) })
}
