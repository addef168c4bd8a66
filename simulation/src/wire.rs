//! The clients' network: connections to one node, with delays, cuts, and eyes on every answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use celeriant_net::{Incoming, ReplySender};
use celeriant_schema::{Request, Response};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::fault::Reached;
use crate::ledger::{Ledger, OperationId, Place};
use crate::rng::Rng;
use crate::sabotage::Submit;
use crate::timeline::{Micros, Timeline};
use crate::trace::{Trace, digest, fold};

/// Sees every answer at the moment when a node gives it.
pub trait Eyes: Send + Sync {
    /// A process gives an answer.
    fn answer(&self, place: Place, request: &Request, response: &Response);

    /// An answer to a request that nobody waits for: answered twice, or never asked.
    fn stray(&self, number: u64);
}

/// What is wrong with the network.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Answers take this much longer until then.
    pub slow_answers: (Micros, Micros),
    /// Requests take up to this much longer until then.
    pub slow_requests: (Micros, Micros),
    /// No client reaches the node.
    pub unreachable: bool,
}

/// The network. Cheap to clone: all clones are one network.
#[derive(Clone)]
pub struct Wire {
    inner: Arc<Mutex<Inner>>,
    timeline: Timeline,
    trace: Trace,
    ledger: Ledger,
    eyes: Arc<dyn Eyes>,
    reached: Reached,
}

struct Inner {
    rng: Rng,
    node: Option<Submit>,
    place: Place,
    /// The process takes nothing in: what reaches it waits here.
    held: Option<Vec<(Vec<Incoming>, ReplySender)>>,
    weather: Weather,
    connections: BTreeMap<usize, Connection>,
    next: u64,
}

struct Connection {
    replies: ReplySender,
    task: JoinHandle<()>,
    waiting: Waiting,
}

/// Who waits for the answer to a request id.
type Waiting = Arc<Mutex<BTreeMap<u64, (OperationId, usize, oneshot::Sender<Response>)>>>;

/// What came of sending a request once.
#[derive(Debug)]
pub enum Sending {
    /// It was answered.
    Answered(Response),
    /// No answer in time, or the connection was lost: anything may have happened.
    Lost,
    /// There is nobody to send it to.
    NoNode,
}

impl Wire {
    /// A network without its node, which is number `node`.
    pub fn new(
        node: usize,
        rng: Rng,
        timeline: Timeline,
        trace: Trace,
        ledger: Ledger,
        eyes: Arc<dyn Eyes>,
        reached: Reached,
    ) -> Self {
        let (weather, connections) = (Weather::default(), BTreeMap::new());
        let place = Place { node, life: 0 };
        let inner = Inner { rng, node: None, place, held: None, weather, connections, next: 0 };
        Self { inner: Arc::new(Mutex::new(inner)), timeline, trace, ledger, eyes, reached }
    }

    /// The node is there (again).
    pub fn plug(&self, node: Submit) {
        let mut inner = self.lock();
        inner.node = Some(node);
        inner.place.life += 1;
    }

    /// The process stands still: requests wait for it.
    pub fn hold(&self) {
        self.lock().held.get_or_insert_default();
    }

    /// The process goes on, with what has come in the meantime.
    pub fn release(&self) {
        let mut inner = self.lock();
        let (held, node) = (inner.held.take(), inner.node.clone());
        drop(inner);
        for (requests, replies) in held.into_iter().flatten() {
            node.iter().for_each(|node| node(requests.clone(), &replies));
        }
    }

    /// The node is gone, and every connection with it.
    pub fn unplug(&self) {
        let mut inner = self.lock();
        (inner.node, inner.held) = (None, None);
        drop(inner);
        self.cut_all();
    }

    /// All connections are lost.
    pub fn cut_all(&self) {
        let connections = std::mem::take(&mut self.lock().connections);
        connections.into_values().for_each(|connection| connection.task.abort());
    }

    /// One connection is lost. `false` when there is none.
    pub fn cut_one(&self, which: u64) -> bool {
        let mut inner = self.lock();
        let count = inner.connections.len() as u64;
        let Some(client) = inner.connections.keys().nth((which % count.max(1)) as usize).copied()
        else {
            return false;
        };
        if let Some(connection) = inner.connections.remove(&client) {
            connection.task.abort();
        }
        true
    }

    /// Requests that have no answer although their connection stands.
    pub fn unanswered(&self) -> Vec<u64> {
        let inner = self.lock();
        let waiting = inner.connections.values().map(|connection| &connection.waiting);
        waiting.flat_map(|waiting| lock(waiting).keys().copied().collect::<Vec<_>>()).collect()
    }

    /// Changes the weather.
    pub fn weather(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut self.lock().weather);
    }

    /// Sends an operation's request once, and waits for its answer or `timeout`.
    pub async fn send(
        &self,
        client: usize,
        id: OperationId,
        timeout: Micros,
        deadline: Option<Micros>,
    ) -> Sending {
        let delay = self.request_delay();
        self.timeline.sleep(delay).await;
        let Some(answer) = self.submit(client, id, deadline) else { return Sending::NoNode };
        tokio::select! {
            biased;
            answer = answer => match answer {
                Ok(response) => Sending::Answered(response),
                Err(_) => Sending::Lost,
            },
            () = self.timeline.sleep(timeout) => Sending::Lost,
        }
    }

    fn submit(
        &self,
        client: usize,
        id: OperationId,
        deadline: Option<Micros>,
    ) -> Option<oneshot::Receiver<Response>> {
        let mut inner = self.lock();
        if inner.weather.unreachable {
            return None;
        }
        let (node, place) = (inner.node.clone()?, inner.place);
        let number = inner.next;
        inner.next += 1;
        let connection = inner.connections.entry(client).or_insert_with(|| self.connect(place));
        let (replies, waiting) = (connection.replies.clone(), Arc::clone(&connection.waiting));
        drop(inner);
        let attempt = self.ledger.sent(id, place, deadline.is_some());
        let (sender, receiver) = oneshot::channel();
        lock(&waiting).insert(number, (id, attempt, sender));
        let request = self.ledger.request(id);
        self.trace.note(
            &[number, id as u64, client as u64],
            format_args!(
                "{} client {client} sends operation {id} as {number}: {}",
                self.timeline.now(),
                brief(&request)
            ),
        );
        let deadline =
            deadline.map(|micros| tokio::time::Instant::now() + Duration::from_micros(micros));
        let bytes = bytes_of(&request);
        let request = Request::clone(&request);
        let requests = vec![Incoming { id: number, deadline, bytes, request, by: None }];
        if let Some(held) = &mut self.lock().held {
            held.push((requests, replies));
            return Some(receiver);
        }
        node(requests, &replies);
        Some(receiver)
    }

    /// A connection with its task: answers are looked at when the node gives them, and delivered
    /// later.
    #[allow(clippy::disallowed_methods)]
    fn connect(&self, place: Place) -> Connection {
        let (replies, mut receiver) = ReplySender::channel();
        let waiting = Waiting::default();
        let (wire, waiters, place) = (self.clone(), Arc::clone(&waiting), place);
        let task = tokio::spawn(async move {
            while let Some(answers) = receiver.recv().await {
                for reply in &answers {
                    let asked = lock(&waiters).get(&reply.id).map(|(id, ..)| *id);
                    if let Some(id) = asked {
                        wire.eyes.answer(place, &wire.ledger.request(id), &reply.response);
                    }
                }
                wire.timeline.sleep(wire.answer_delay()).await;
                for reply in answers {
                    wire.deliver(&waiters, reply.id, reply.response);
                }
            }
        });
        Connection { replies, task, waiting }
    }

    fn deliver(&self, waiting: &Waiting, number: u64, response: Response) {
        let Some((id, attempt, sender)) = lock(waiting).remove(&number) else {
            return self.eyes.stray(number);
        };
        let now = self.timeline.now();
        self.trace.note(
            &[number, now, summary(&response)],
            format_args!("{now} answer to {number}: {response:?}"),
        );
        self.reached.note(format!("answer {}", name_of(&response)));
        self.ledger.answered(id, attempt, response.clone());
        // Its client may have given up: the answer counts all the same.
        let _ = sender.send(response);
    }

    fn request_delay(&self) -> Micros {
        let now = self.timeline.now();
        let mut inner = self.lock();
        let (extra, until) = inner.weather.slow_requests;
        let extra = if now < until { inner.rng.below(extra) } else { 0 };
        inner.rng.between(20, 200) + extra
    }

    fn answer_delay(&self) -> Micros {
        let now = self.timeline.now();
        let mut inner = self.lock();
        let (extra, until) = inner.weather.slow_answers;
        inner.rng.between(20, 200) + if now < until { extra } else { 0 }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bytes_of(request: &Request) -> u32 {
    match request {
        Request::Write(write) => {
            let member = |member: &celeriant_schema::Member| {
                member.events.as_bytes().len() + member.key.as_bytes().len() + 32
            };
            write.members.iter().map(member).sum::<usize>() as u32 + 64
        }
        _ => 128,
    }
}

/// A number that stands for a response, for the trace.
fn summary(response: &Response) -> u64 {
    match response {
        Response::Receipt(receipt) => {
            receipt.writes.iter().fold(
                fold(receipt.stamp.value(), u64::from(receipt.already_applied)),
                |sum, write| fold(fold(sum, write.last_version.value()), digest(&write.hash.0)),
            )
        }
        Response::Page(page) => {
            let events = page.batches.iter().flat_map(|batch| &batch.events);
            let start = fold(page.version.value(), page.stamp.value());
            events.fold(start, |sum, event| fold(sum, digest(&event.hash.0)))
        }
        Response::Head(head) => {
            fold(fold(head.version.value(), head.read_stamp.value()), digest(&head.hash.0))
        }
        Response::List(page) => {
            page.names.iter().fold(u64::from(page.more), |sum, n| fold(sum, digest(n.as_bytes())))
        }
        Response::Feed(page) => {
            let events = page.batches.iter().flat_map(|batch| &batch.batch.events);
            events.fold(page.upto.value(), |sum, event| fold(sum, digest(&event.hash.0)))
        }
        Response::Pong | Response::Admin(_) => 1,
        Response::Refused(refusal) => digest(refusal.to_string().as_bytes()),
    }
}

/// Kind of a response, for counters.
pub fn name_of(response: &Response) -> String {
    match response {
        Response::Receipt(receipt) if receipt.already_applied => "receipt again".into(),
        Response::Receipt(_) => "receipt".into(),
        Response::Page(_) => "page".into(),
        Response::Head(_) => "head".into(),
        Response::List(_) => "list".into(),
        Response::Feed(page) if page.batches.is_empty() => "checkpoint".into(),
        Response::Feed(_) => "feed".into(),
        Response::Pong | Response::Admin(_) => "pong".into(),
        Response::Refused(celeriant_schema::Refusal::Conflict { already_applied, .. }) => {
            use celeriant_schema::AlreadyApplied::{None, Receipt, Unknown};
            match already_applied {
                None => "conflict".into(),
                Receipt(_) => "conflict of a landed write".into(),
                Unknown => "conflict of a forgotten write".into(),
            }
        }
        Response::Refused(refusal) => refusal.name().into(),
    }
}

fn brief(request: &Request) -> String {
    match request {
        Request::Write(write) => {
            let members = write.members.iter().map(|member| {
                let sequence = member.sequence.map_or(0, |sequence| sequence.value());
                format!("{} {:?} #{sequence} +{}", member.key, member.guard, member.events.len())
            });
            members.collect::<Vec<_>>().join(", ")
        }
        other => format!("{other:?}"),
    }
}
