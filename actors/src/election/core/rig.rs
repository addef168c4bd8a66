//! One core with everything around it played by the test: the bucket, the peer, the disk.
//!
//! What the core asks for waits in `out` until the test takes it. [`Rig::serve`] answers the bucket
//! honestly, [`Rig::obey`] the disk, too; a test that wants a fault answers by itself.

use bytes::Bytes;
use celeriant_schema::peer::{Features, Message, Position, Tip};
use celeriant_schema::{BootId, ClusterId, Epoch, Hash, Lsn, StoreId};
use celeriant_storage::bucket::{
    BucketError, Cause, Completion, Conflict, Done, ETag, Effect as Left, Op, Outcome, Token,
};

use super::Core;
use crate::clock::Micros;
use crate::election::register::{Active, Config, Lease, Link, Member, Phase, Process, Seal, Set};
use crate::election::settings::Settings;
use crate::election::vocabulary::*;

pub(in crate::election) const MS: Micros = 1_000;
/// The node under test, and its peer.
pub(in crate::election) const ME: StoreId = StoreId::new(1);
pub(in crate::election) const PEER: StoreId = StoreId::new(2);

/// In sync with each other.
pub(in crate::election) const PAIR: Set = Set::Pair(ME, PEER);

pub(in crate::election) fn process(store: StoreId, boot: u64) -> Process {
    Process { store, boot: BootId::new(boot) }
}

pub(in crate::election) fn me() -> Process {
    process(ME, 10)
}

pub(in crate::election) fn peer() -> Process {
    process(PEER, 20)
}

pub(in crate::election) fn member(store: StoreId) -> Member {
    let node = format!("node-{}", store.value());
    Member { store, node, features: Features { min: 1, max: 1 }, ..Member::default() }
}

pub(in crate::election) fn at(lsn: u64) -> Vec<Position> {
    let hash = if lsn == 0 { Hash::ZERO } else { Hash([lsn as u8; 32]) };
    vec![Position { lsn: Lsn::new(lsn), hash }]
}

pub(in crate::election) fn epoch(number: u64) -> Epoch {
    Epoch::new(number)
}

/// Epoch 3, version 5, active, both are members.
fn config(leader: Process, set: Set, chain: Vec<Link>) -> Config {
    let active = Active { epoch: epoch(3), leader, set, chain };
    Config {
        cluster: ClusterId::new(7),
        shards: 1,
        ver: 5,
        epoch: epoch(3),
        phase: Phase::Active,
        leader,
        lease: matches!(set, Set::Bucket(_)).then_some(Lease { seq: 1, ttl_ms: 3_000 }),
        active,
        members: vec![member(ME), member(PEER)],
        feature_level: 1,
        nonce: 0xabc,
    }
}

/// `leader` leads over the pair.
pub(in crate::election) fn pair(leader: Process) -> Config {
    config(leader, Set::pair(ME, PEER), Vec::new())
}

/// `leader` leads over itself and the bucket, since position 4.
pub(in crate::election) fn in_bucket(leader: Process) -> Config {
    let link = Link { epoch: epoch(3), base: at(4) };
    config(leader, Set::Bucket(leader.store), vec![link])
}

/// The other one claims epoch 4 over `ruling`.
pub(in crate::election) fn claimed(ruling: &Config, by: Process) -> Config {
    let (ver, nonce) = (ruling.ver + 1, ruling.nonce + 1);
    let epoch = Epoch::new(ruling.epoch.value() + 1);
    Config { ver, epoch, phase: Phase::Claimed, leader: by, nonce, ..ruling.clone() }
}

pub(in crate::election) struct Rig {
    pub(in crate::election) core: Core,
    pub(in crate::election) now: Micros,
    /// What the core asked for and nobody has taken.
    pub(in crate::election) out: Vec<Effect>,
    /// The object, and its version.
    pub(in crate::election) register: Option<(Bytes, ETag)>,
    etags: u64,
    /// What the shards say is committed.
    pub(in crate::election) commit: u64,
}

/// Nobody knows what became of `op`.
pub(in crate::election) fn lost(op: &Op) -> Outcome {
    Err(BucketError::lost(op, Cause::Deadline, ""))
}

impl Rig {
    /// A node with ordinary settings that has promised epoch 2.
    pub(in crate::election) fn new(register: Option<&Config>) -> Self {
        Self::with(register, |_, _| {})
    }

    pub(in crate::election) fn with(
        register: Option<&Config>,
        change: impl FnOnce(&mut Settings, &mut Local),
    ) -> Self {
        let promised = epoch(if register.is_some() { 2 } else { 0 });
        let mut local = Local {
            promised,
            max_epoch_seen: promised,
            tips: vec![Tip::default()],
            may: May { create: Some(1), join: true },
        };
        let mut settings = Settings::default();
        change(&mut settings, &mut local);
        let cluster = ClusterId::new(7);
        let me = Identity { cluster, boot: me().boot, member: member(ME) };
        let core = Core::new(settings, Seal::new(None), me, local, 1, 0);
        let (now, out, etags, commit) = (0, Vec::new(), 0, 0);
        let mut rig = Self { core, now, out, register: None, etags, commit };
        if let Some(config) = register {
            rig.write(config);
        }
        rig.event(Event::Tick);
        rig
    }

    /// A leader of epoch 3 with a follower on the link, everything settled.
    pub(in crate::election) fn leading(config: &Config) -> Self {
        let mut rig = Self::new(Some(config));
        rig.commit = 4;
        rig.obey();
        rig.event(Event::PeerUp(peer()));
        rig.event(Event::Message(Message::Promised { epoch: epoch(3), tips: Vec::new() }));
        rig.obey();
        assert_eq!(rig.role(), RoleName::Leading);
        rig.out.clear();
        rig
    }

    /// A follower of epoch 3 that has just heard its leader, everything settled.
    pub(in crate::election) fn following(config: &Config) -> Self {
        let mut rig = Self::new(Some(config));
        rig.obey();
        rig.event(Event::PeerUp(peer()));
        rig.event(Event::Message(Message::Promise { epoch: epoch(3), ver: 5 }));
        rig.obey();
        rig.heartbeat(1);
        rig.out.clear();
        rig
    }

    pub(in crate::election) fn event(&mut self, event: Event) {
        self.core.handle(self.now, event, &mut self.out);
    }

    pub(in crate::election) fn message(&mut self, message: Message) {
        self.event(Event::Message(message));
    }

    pub(in crate::election) fn heartbeat(&mut self, number: u64) {
        self.message(Message::Heartbeat { number, epoch: epoch(3), ver: 5, shards: Vec::new() });
    }

    /// Time passes; the core is woken when it wants to be, and nothing is answered.
    pub(in crate::election) fn wait(&mut self, ms: u64) {
        let until = self.now + ms * MS;
        while let Some(deadline) = self.core.next_deadline().filter(|at| *at <= until) {
            assert!(deadline > self.now, "due at {deadline}, but not done at {}", self.now);
            self.now = deadline;
            self.event(Event::Tick);
        }
        self.now = until;
    }

    /// Time passes and everything is answered at once.
    pub(in crate::election) fn run(&mut self, ms: u64) {
        let until = self.now + ms * MS;
        self.obey();
        while let Some(deadline) = self.core.next_deadline().filter(|at| *at <= until) {
            self.now = deadline.max(self.now);
            self.event(Event::Tick);
            self.obey();
        }
        self.now = until;
    }

    /// Time passes, everything is answered, and the follower is heard.
    pub(in crate::election) fn run_with_follower(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.run(100);
            self.alive();
            self.messages();
            self.out.retain(|effect| !matches!(effect, Effect::Announce(_)));
        }
    }

    pub(in crate::election) fn alive(&mut self) {
        let promised = self.core.access.config().map_or(epoch(0), |config| config.epoch);
        self.message(Message::Alive { number: 0, promised, leading: false });
    }

    pub(in crate::election) fn role(&self) -> RoleName {
        self.core.status().role
    }

    /// Somebody writes the register.
    pub(in crate::election) fn write(&mut self, config: &Config) {
        self.put(config.encode(&Seal::new(None)));
    }

    fn put(&mut self, body: Bytes) -> ETag {
        self.etags += 1;
        let etag = ETag::new(format!("\"{}\"", self.etags));
        self.register = Some((body, etag.clone()));
        etag
    }

    pub(in crate::election) fn config(&self) -> Config {
        let (body, _) = self.register.as_ref().expect("a register");
        Config::decode(body, &Seal::new(None)).expect("valid")
    }

    /// Takes the first effect that `wanted` makes something of.
    pub(in crate::election) fn take<T>(
        &mut self,
        wanted: impl Fn(&Effect) -> Option<T>,
    ) -> Option<T> {
        let found = self.out.iter().enumerate().find_map(|(at, e)| wanted(e).map(|t| (at, t)));
        found.map(|(at, value)| {
            self.out.remove(at);
            value
        })
    }

    /// Takes the request that waits for the bucket.
    pub(in crate::election) fn request(&mut self) -> Option<(Token, Op)> {
        self.take(|effect| match effect {
            Effect::Bucket(token, request) => Some((*token, request.op.clone())),
            _ => None,
        })
    }

    /// Answers the read that waits.
    pub(in crate::election) fn get(&mut self) {
        let (token, op) = self.request().expect("a request");
        assert!(matches!(op, Op::Get { .. }), "{op:?} instead of a get");
        let done = self.apply(op);
        self.complete(token, Ok(done));
    }

    /// Time passes and everything is answered, until a put waits.
    pub(in crate::election) fn until_put(&mut self) -> (Token, Op) {
        for _ in 0..1_000 {
            if let Some((token, op)) = self.request() {
                if op.mutates() {
                    return (token, op);
                }
                let done = self.apply(op);
                self.complete(token, Ok(done));
            } else if !self.answer_node() {
                self.wait(10);
            }
        }
        panic!("no put: {:?}", self.out);
    }

    /// Takes the put that waits, and what it would write.
    pub(in crate::election) fn swap(&mut self) -> (Token, Op, Config) {
        let (token, op) = self.request().expect("a request");
        let (Op::PutIfMatch { body, .. } | Op::PutIfAbsent { body, .. }) = &op else {
            panic!("{op:?} instead of a put");
        };
        let config = Config::decode(body, &Seal::new(None)).expect("valid");
        (token, op, config)
    }

    pub(in crate::election) fn complete(&mut self, token: Token, outcome: Outcome) {
        self.event(Event::Bucket(Completion { token, outcome }));
    }

    /// Carries out an operation as a bucket does.
    pub(in crate::election) fn apply(&mut self, op: Op) -> Done {
        match (op, self.register.clone()) {
            (Op::Get { .. }, Some((body, etag))) => Done::Found { etag, body },
            (Op::Get { .. }, None) => Done::Absent,
            (Op::PutIfAbsent { body, .. }, None) => Done::Put { etag: self.put(body) },
            (Op::PutIfMatch { .. }, None) => Done::Conflict(Conflict::Missing),
            (Op::PutIfMatch { etag, body, .. }, Some((_, now))) if etag == now => {
                Done::Put { etag: self.put(body) }
            }
            (Op::PutIfAbsent { .. } | Op::PutIfMatch { .. }, _) => {
                Done::Conflict(Conflict::Precondition)
            }
            (op, _) => panic!("{op:?}"),
        }
    }

    /// Answers the request that waits, honestly.
    pub(in crate::election) fn serve(&mut self) {
        let (token, op) = self.request().expect("a request");
        let done = self.apply(op);
        self.complete(token, Ok(done));
    }

    /// Answers the request that waits: nobody knows, or it never left.
    pub(in crate::election) fn fail(&mut self, left: Left) {
        let (token, op) = self.request().expect("a request");
        self.complete(token, Err(BucketError::new(&op, Cause::Deadline, left, "")));
    }

    /// Answers everything that waits, honestly and at once, but a placement.
    pub(in crate::election) fn obey(&mut self) {
        while self.obey_once() {}
    }

    fn obey_once(&mut self) -> bool {
        if let Some((token, op)) = self.request() {
            let done = self.apply(op);
            self.complete(token, Ok(done));
            return true;
        }
        self.answer_node()
    }

    /// Answers for the disk and the shards.
    fn answer_node(&mut self) -> bool {
        let commit = self.commit;
        let answer = self.take(|effect| match effect {
            Effect::Promise(epoch) => {
                Some(Event::PromiseDurable { epoch: *epoch, tips: vec![Tip::default()] })
            }
            Effect::Check { chain, .. } => Some(Event::Checked { chain: *chain, held: true }),
            Effect::Recover { epoch, .. } => {
                Some(Event::Recovered { epoch: *epoch, base: at(commit) })
            }
            Effect::AckRule { number, .. } => {
                Some(Event::Ruled { number: *number, commit: at(commit) })
            }
            _ => None,
        });
        let answered = answer.is_some();
        answer.into_iter().for_each(|event| self.event(event));
        answered
    }

    /// Takes every message.
    pub(in crate::election) fn messages(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.take(|effect| match effect {
            Effect::Send(message) => Some(message.clone()),
            _ => None,
        }) {
            messages.push(message);
        }
        messages
    }

    /// Takes the orders about acknowledging; the last one.
    pub(in crate::election) fn rule(&mut self) -> Option<(u64, AckRule)> {
        let mut last = None;
        while let Some(rule) = self.take(|effect| match effect {
            Effect::AckRule { number, rule } => Some((*number, *rule)),
            _ => None,
        }) {
            last = Some(rule);
        }
        last
    }

    /// Every shard says that it goes by the last rule.
    pub(in crate::election) fn ruled(&mut self, (number, _): (u64, AckRule)) {
        self.event(Event::Ruled { number, commit: at(self.commit) });
    }

    /// Takes the order to lead.
    pub(in crate::election) fn lead(&mut self) -> Option<Config> {
        self.take(|effect| match effect {
            Effect::Lead { config } => Some((**config).clone()),
            _ => None,
        })
    }

    /// Takes the word that it led until now.
    pub(in crate::election) fn step_down(&mut self) -> Option<Reason> {
        self.take(|effect| match effect {
            Effect::StepDown(reason) => Some(reason.clone()),
            _ => None,
        })
    }

    /// Takes the last word about the lease.
    pub(in crate::election) fn lease(&mut self) -> Option<Micros> {
        let mut last = None;
        while let Some(until) = self.take(|effect| match effect {
            Effect::Lease { until } => Some(*until),
            _ => None,
        }) {
            last = Some(until);
        }
        last
    }

    pub(in crate::election) fn answer(&mut self) -> Option<Result<(), Refused>> {
        self.take(|effect| match effect {
            Effect::Answer { result, .. } => Some(result.clone()),
            _ => None,
        })
    }

    pub(in crate::election) fn has(&self, wanted: impl Fn(&Effect) -> bool) -> bool {
        self.out.iter().any(wanted)
    }
}

/// A leader of the pair that has just frozen: the register was read, the CAS not sent.
pub(in crate::election) fn frozen() -> (Rig, (u64, AckRule)) {
    let mut rig = Rig::leading(&pair(me()));
    rig.event(Event::FollowerSilent { store: PEER });
    while rig.has(|effect| matches!(effect, Effect::Bucket(..))) {
        rig.get();
    }
    let rule = rig.rule().expect("a rule");
    (rig, rule)
}

/// The number of the next heartbeat that goes out.
pub(in crate::election) fn beat(rig: &mut Rig) -> u64 {
    rig.messages();
    rig.wait(100);
    let beat = rig.messages().into_iter().find_map(|message| match message {
        Message::Heartbeat { number, .. } => Some(number),
        _ => None,
    });
    beat.expect("a heartbeat")
}

/// Whether a lease was granted.
pub(in crate::election) fn granted(messages: &[Message]) -> bool {
    messages.iter().any(|message| matches!(message, Message::LeaseGrant { .. }))
}
