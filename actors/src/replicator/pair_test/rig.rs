//! Two places in a network: a cable, a bucket, disks, and the process that runs at each place.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as Waking, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use celeriant_net::link::{Event as LinkEvent, Lane, Link, Reason, Sent, SessionId, Target};
use celeriant_schema::peer::Hello;
use celeriant_schema::{Epoch, StoreId};
use celeriant_storage::bucket::{
    Bucket, Completion, Conflict, Done, ETag, Op, Outcome, Request, Token,
};
use celeriant_storage::store::Error;
use tokio::time::{Instant, Sleep, sleep_until};

use super::super::bucket::{BucketLog, LogNews, LogOrder};
use crate::clock::{Clock, Micros};
use crate::election::Keeper;
use crate::replicator::activation::all;

/// How long the bucket takes.
const BUCKET_DELAY: Duration = Duration::from_millis(20);

/// A node's clock: thousandths of true time.
pub(super) struct RatedClock {
    pub(super) start: Instant,
    pub(super) rate: u64,
}

impl Clock for RatedClock {
    fn now(&self) -> Micros {
        self.start.elapsed().as_micros() as u64 * self.rate / 1_000
    }

    fn wall(&self) -> i64 {
        0
    }
}

/// Promised, and seen.
pub(super) type Epochs = Arc<Mutex<(Epoch, Epoch)>>;

pub(super) struct Superblock {
    pub(super) epochs: Epochs,
    pub(super) is_broken: bool,
}

impl Keeper for Superblock {
    fn raise(&mut self, promised: Epoch, seen: Epoch) -> Result<(), Error> {
        if self.is_broken && promised > Epoch::default() {
            return Err(Error::Poisoned);
        }
        let mut epochs = self.epochs.lock().expect("no panic");
        *epochs = (epochs.0.max(promised), epochs.1.max(seen).max(promised));
        Ok(())
    }
}

// ---- the bucket ------------------------------------------------------------------------------

/// Bodies and versions.
pub(super) type Objects = Arc<Mutex<BTreeMap<String, (Bytes, u64)>>>;

/// One process' handle.
#[derive(Default)]
pub(super) struct MemoryBucket {
    objects: Objects,
    ready: VecDeque<(Instant, Completion)>,
    timer: Option<Pin<Box<Sleep>>>,
    waker: Option<Waker>,
}

impl MemoryBucket {
    pub(super) fn new(objects: &Objects) -> Self {
        Self { objects: Arc::clone(objects), ..Self::default() }
    }

    fn carry_out(&self, op: Op) -> Outcome {
        let mut objects = self.objects.lock().expect("no panic");
        let subject = op.subject().to_owned();
        let (found, version) = objects.get(&subject).cloned().unzip();
        let version = version.unwrap_or(0);
        let body = match (op, found) {
            (Op::Get { .. }, None) => return Ok(Done::Absent),
            (Op::Get { .. }, Some(body)) => {
                return Ok(Done::Found { etag: ETag::new(version.to_string()), body });
            }
            (Op::PutIfAbsent { body, .. }, None) => body,
            (Op::PutIfMatch { etag, body, .. }, Some(_))
                if etag.as_str() == version.to_string() =>
            {
                body
            }
            _ => return Ok(Done::Conflict(Conflict::Precondition)),
        };
        objects.insert(subject, (body, version + 1));
        Ok(Done::Put { etag: ETag::new((version + 1).to_string()) })
    }
}

impl Bucket for MemoryBucket {
    fn start(&mut self, token: Token, request: Request) {
        let outcome = self.carry_out(request.op);
        self.ready.push_back((Instant::now() + BUCKET_DELAY, Completion { token, outcome }));
        self.waker.take().into_iter().for_each(Waker::wake);
    }

    fn poll_complete(&mut self, cx: &mut Waking<'_>) -> Poll<Completion> {
        self.waker = Some(cx.waker().clone());
        loop {
            let Some((at, _)) = self.ready.front() else { return Poll::Pending };
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(*at)));
            if timer.as_mut().poll(cx) == Poll::Pending {
                return Poll::Pending;
            }
            self.timer = None;
            if let Some((_, completion)) = self.ready.pop_front() {
                return Poll::Ready(completion);
            }
        }
    }
}

/// A bucket log that has everything at once, as if uploads took no time.
pub(super) struct InstantLog;

impl BucketLog for InstantLog {
    fn handle(&mut self, _: Micros, order: LogOrder, news: &mut Vec<LogNews>) {
        match order {
            LogOrder::Upload { sealed, .. } => {
                let held = all(sealed.len() as u16).zip(sealed);
                news.extend(held.map(|(shard, end)| LogNews::Held(shard, end)));
            }
            LogOrder::Sealed(shard, frames) => news.push(LogNews::Held(shard, frames.end)),
            LogOrder::Recover { .. } => panic!("nobody claims over a chain here"),
            _ => {}
        }
    }

    fn flush(&mut self, _: Micros, _: &mut Vec<LogNews>) {}

    fn next_deadline(&self) -> Option<Micros> {
        None
    }
}

// ---- the cable -------------------------------------------------------------------------------

/// Connects whoever is at its ends.
#[derive(Default)]
pub(super) struct Cable {
    session: SessionId,
    ends: [End; 2],
}

#[derive(Default)]
struct End {
    hello: Option<Hello>,
    generation: u64,
    events: VecDeque<LinkEvent>,
    waker: Option<Waker>,
}

impl End {
    fn tell(&mut self, event: LinkEvent) {
        self.events.push_back(event);
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}

pub(super) struct CableEnd {
    cable: Arc<Mutex<Cable>>,
    at: usize,
    generation: u64,
}

impl Cable {
    /// A process is at an end.
    pub(super) fn attach(cable: &Arc<Mutex<Self>>, at: usize, hello: Hello) -> CableEnd {
        let mut state = cable.lock().expect("no panic");
        let end = &mut state.ends[at];
        end.generation += 1;
        let generation = end.generation;
        (end.hello, end.events) = (Some(hello), VecDeque::new());
        state.connect();
        CableEnd { cable: Arc::clone(cable), at, generation }
    }

    /// A session, if there is somebody at both ends.
    fn connect(&mut self) {
        let hellos = [0, 1].map(|at| self.ends[at].hello.clone());
        if let [Some(one), Some(other)] = hellos {
            self.session = self.session.next();
            let session = self.session;
            self.ends[0].tell(LinkEvent::Up { session, peer: other });
            self.ends[1].tell(LinkEvent::Up { session, peer: one });
        }
    }

    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    /// Something arrives there that is no message.
    pub(super) fn garble(&mut self, at: usize) {
        let (session, lane, message) = (self.session, Lane::Control, Bytes::from_static(b"?"));
        self.ends[at].tell(LinkEvent::Received { session, lane, message });
    }

    /// The process at that end is gone.
    pub(super) fn detach(&mut self, at: usize) {
        let session = self.session;
        self.ends[at].hello = None;
        self.ends[at ^ 1].tell(LinkEvent::Down { session, reason: Reason::TimedOut });
    }
}

impl Link for CableEnd {
    fn aim(&mut self, _: Target) {}

    fn send(&mut self, session: SessionId, lane: Lane, message: Bytes) -> Sent {
        let mut cable = self.cable.lock().expect("no panic");
        let both = cable.ends.iter().all(|end| end.hello.is_some());
        if session != cable.session || !both {
            return Sent::Gone;
        }
        cable.ends[self.at ^ 1].tell(LinkEvent::Received { session, lane, message });
        Sent::Taken
    }

    fn drop_session(&mut self, session: SessionId) {
        let mut cable = self.cable.lock().expect("no panic");
        if session == cable.session {
            let down = LinkEvent::Down { session, reason: Reason::Dropped };
            cable.ends.iter_mut().for_each(|end| end.tell(down.clone()));
            cable.connect();
        }
    }

    fn close(&mut self) {
        let mut cable = self.cable.lock().expect("no panic");
        let session = cable.session;
        cable.ends[self.at].hello = None;
        cable.ends[self.at ^ 1].tell(LinkEvent::Down { session, reason: Reason::Closed });
    }

    fn poll_event(&mut self, cx: &mut Waking<'_>) -> Poll<LinkEvent> {
        let mut cable = self.cable.lock().expect("no panic");
        let end = &mut cable.ends[self.at];
        if end.generation != self.generation {
            return Poll::Pending;
        }
        match end.events.pop_front() {
            Some(event) => Poll::Ready(event),
            None => {
                end.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

pub(super) fn hello(store: StoreId, boot: u64) -> Hello {
    Hello { store, boot: boot.into(), ..Hello::default() }
}
