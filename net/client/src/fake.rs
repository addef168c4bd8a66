//! Nodes in memory that can be told to fail, for tests of the client only.
//!
//! ```text
//! Net       addresses, and what is reached there; a connection is a pipe in memory, so that tests
//!           run in paused time, and fast
//! Fake      a node: a script of what is to go wrong, and a store that it may share with others
//! Store     keeps semantics.md §2 and §3 to the letter, because what is tested is what a client
//!           makes of them when connections break before or after a write has landed
//! ```
//! Deliberately absent: replication. Nodes that share a store stand for a pair that has it right.

mod net;
mod random;
mod serve;
mod store;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use celeriant_schema::{Credential, Refusal, Request, Response, Stamp, Write};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::{Client, Options};
pub(crate) use net::{Net, Reach};
pub(crate) use random::Random;
pub(crate) use store::Store;

/// What happens to one request instead of the usual.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The usual.
    None,
    /// The connection breaks; the request is not done.
    DropBefore,
    /// The request is done; the connection breaks instead of an answer.
    DropAfter,
    /// Refused, not done.
    Refuse(Refusal),
    /// Done, and refused all the same.
    DoneBut(Refusal),
    /// Done, never answered.
    Silence,
    /// Another writer gets in first with this write.
    Overtake(Box<Write>),
    /// Done, answered so much later.
    AnswerLate(Duration),
    /// Done so much later, if the node still leads then.
    DoLate(Duration),
}

/// What a node is to the store.
#[derive(Clone, Debug, Default)]
pub(crate) enum Role {
    #[default]
    Leads,
    /// Says who leads, rightly or wrongly.
    Follows(Option<String>),
    /// Knows of no leader.
    Nobody,
}

/// What a node has seen and what it is to do.
#[derive(Debug, Default)]
pub(crate) struct Script {
    store: Arc<Mutex<Store>>,
    pub(crate) role: Role,
    /// What a follower has of the store; `None` = everything.
    pub(crate) has: Option<Stamp>,
    /// For the next requests, in order of arrival.
    pub(crate) faults: VecDeque<Fault>,
    /// Every write that arrived.
    pub(crate) writes: Vec<Write>,
    /// Every other request that arrived, but for signs of life.
    pub(crate) others: Vec<Request>,
    pub(crate) hellos: usize,
    /// The one thing that counts when it is shown; `None`: nobody is asked.
    pub(crate) takes: Option<Credential>,
    /// Frames that ask for a sign of life.
    pub(crate) pings: usize,
    pub(crate) cluster: u128,
    pub(crate) deadlines: Vec<u32>,
    /// Decides a fault for a request that the script has none for.
    pub(crate) chance: Option<Random>,
    /// Between two looks at what has come.
    pub(crate) slow: Option<Duration>,
    /// The node reads nothing and says nothing, but accepts connections.
    hangs: bool,
    /// Tells connections that it goes on. (`watch` wakes them in an order that no seed decides.)
    goes_on: Arc<Notify>,
}

/// A node.
#[derive(Clone, Debug)]
pub(crate) struct Fake {
    pub(crate) address: String,
    pub(crate) net: Net,
    pub(crate) script: Arc<Mutex<Script>>,
}

impl Fake {
    /// One that leads, with a store and a net of its own.
    pub(crate) fn start() -> Self {
        Self::on(&Net::default(), "node-a:7440", Script::default())
    }

    /// Two on one net that share a store; the first one leads, and both know it.
    pub(crate) fn pair() -> [Self; 2] {
        let one = Self::start();
        let store = Arc::clone(&one.lock().store);
        let role = Role::Follows(Some(one.address.clone()));
        let two = Self::on(&one.net, "node-b:7440", Script { store, role, ..Script::default() });
        [one, two]
    }

    fn on(net: &Net, address: &str, script: Script) -> Self {
        let script = Arc::new(Mutex::new(script));
        net.add(address, Arc::clone(&script));
        Self { address: address.to_owned(), net: net.clone(), script }
    }

    /// Breaks all connections; whoever comes now meets this.
    pub(crate) fn break_off(&self, reach: Reach) {
        self.net.set(&self.address, reach);
    }

    /// The process is gone; what it held survives.
    pub(crate) fn stop(&self) {
        self.break_off(Reach::Refuses);
    }

    pub(crate) fn restart(&self) {
        self.hang(false);
        self.break_off(Reach::Accepts);
    }

    pub(crate) fn hang(&self, hangs: bool) {
        let mut script = self.lock();
        script.hangs = hangs;
        script.goes_on.notify_waiters();
    }

    pub(crate) fn role(&self, role: Role) {
        self.lock().role = role;
    }

    pub(crate) fn follows(&self, leader: &Self) {
        self.role(Role::Follows(Some(leader.address.clone())));
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("not poisoned")
    }

    pub(crate) fn with_store<T>(&self, with: impl FnOnce(&mut Store) -> T) -> T {
        self.lock().with_store(with)
    }

    pub(crate) fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().faults.extend(faults);
    }

    pub(crate) fn url(&self) -> String {
        format!("celeriant://{}", self.address)
    }

    pub(crate) async fn client(&self) -> Client {
        self.client_with(Options::default()).await
    }

    pub(crate) async fn client_with(&self, options: Options) -> Client {
        self.net.connect(&self.url(), options).await.expect("listening")
    }

    /// Also listens on a real socket; returns the URL.
    pub(crate) async fn listen(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let script = Arc::clone(&self.script);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve::serve(stream, Arc::clone(&script)));
            }
        });
        format!("celeriant://{address}")
    }
}

enum Verdict {
    Answer(Response),
    AnswerLate(Response, Duration),
    DoLate(Request, Duration),
    Silence,
    Drop,
}

impl Script {
    fn takes(&self, shown: Option<&Credential>) -> bool {
        self.takes.is_none() || self.takes.as_ref() == shown
    }

    fn with_store<T>(&self, with: impl FnOnce(&mut Store) -> T) -> T {
        with(&mut self.store.lock().expect("not poisoned"))
    }

    /// Takes a request as it arrives.
    fn take(&mut self, request: Request) -> Verdict {
        if matches!(request, Request::Ping) {
            return Verdict::Answer(Response::Pong);
        }
        match &request {
            Request::Write(write) => self.writes.push(write.clone()),
            other => self.others.push(other.clone()),
        }
        match self.fault() {
            Fault::None => Verdict::Answer(self.perform(request)),
            Fault::DropBefore => Verdict::Drop,
            Fault::DropAfter => {
                self.perform(request);
                Verdict::Drop
            }
            Fault::Refuse(refusal) => Verdict::Answer(Response::Refused(refusal)),
            Fault::DoneBut(refusal) => {
                self.perform(request);
                Verdict::Answer(Response::Refused(refusal))
            }
            Fault::Silence => {
                self.perform(request);
                Verdict::Silence
            }
            Fault::Overtake(write) => {
                self.perform(Request::Write(*write));
                Verdict::Answer(self.perform(request))
            }
            Fault::AnswerLate(late) => Verdict::AnswerLate(self.perform(request), late),
            Fault::DoLate(late) => Verdict::DoLate(request, late),
        }
    }

    /// Does what was taken when the node still led, and by now maybe does not.
    fn perform_late(&mut self, request: Request) -> Response {
        match (&self.role, &request) {
            (Role::Leads, _) => self.perform(request),
            (_, Request::Write(_)) => Response::Refused(Refusal::UnknownOutcome),
            _ => self.perform(request),
        }
    }

    fn perform(&mut self, request: Request) -> Response {
        let (any, min_stamp) = match &request {
            Request::Read(query) => (query.any, query.min_stamp),
            Request::Head(query) => (query.any, query.min_stamp),
            _ => (false, None),
        };
        let has = match &self.role {
            Role::Leads => None,
            _ if any => self.has,
            Role::Follows(leader) => {
                return Response::Refused(Refusal::NotLeader { leader: leader.clone() });
            }
            Role::Nobody => return Response::Refused(Refusal::NoLeader),
        };
        let reached = self.with_store(|store| has.unwrap_or(store.stamp()).min(store.stamp()));
        match min_stamp.filter(|wanted| *wanted > reached) {
            Some(wanted) => Response::Refused(Refusal::NotYet { wanted, reached }),
            None => self.with_store(|store| store.handle(request, reached)),
        }
    }

    fn fault(&mut self) -> Fault {
        if let Some(fault) = self.faults.pop_front() {
            return fault;
        }
        let Some(random) = &mut self.chance else { return Fault::None };
        match random.below(18) {
            0 => Fault::DropBefore,
            1 | 2 => Fault::DropAfter,
            3 => Fault::Refuse(Refusal::Overloaded { what: "test".into(), retry_after_ms: 1 }),
            4 => Fault::DoneBut(Refusal::UnknownOutcome),
            5 => Fault::Refuse(Refusal::UnknownOutcome),
            6 => Fault::AnswerLate(Duration::from_millis(random.below(300))),
            7 => Fault::DoLate(Duration::from_millis(random.below(300))),
            _ => Fault::None,
        }
    }
}
