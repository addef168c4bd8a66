//! One node of the random world: its disk, its shards, and its replicator around the core.

use celeriant_schema::peer::{Features, Message, Position, Tip};
use celeriant_schema::{BootId, ClusterId, Epoch, Hash, Lsn, ShardId, StoreId};
use celeriant_storage::bucket::{Completion, Token};
use rand::Rng;
use rand::rngs::SmallRng;

use super::bucket::Fate;
use super::{Entry, MS, Packet, What, World, fate};
use crate::clock::Micros;
use crate::election::core::Core;
use crate::election::register::{Link, Member, Process, Seal};
use crate::election::settings::Settings;
use crate::election::vocabulary::*;

/// What survives a crash.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) promised: Epoch,
    max_epoch_seen: Epoch,
    /// Highest epoch in which its log was made its leader's.
    pub(super) reconciled: Epoch,
    pub(super) log: Vec<Entry>,
    /// Whatever it ever showed; nothing in the protocol reads it.
    pub(super) exposed: usize,
}

/// What happens later in a node.
#[derive(Debug)]
pub(super) enum Later {
    Event(Event),
    /// Every shard has got the rule.
    Rule(u64, AckRule),
    /// The disk has the promise.
    Promise(Epoch),
    Recover(Epoch, Vec<Link>),
    Answer(u64, Token, Fate),
    Crash,
}

/// A place in the network, whichever process and store is there.
pub(super) struct Node {
    at: usize,
    pub(super) store: StoreId,
    pub(super) boot: u64,
    pub(super) disk: Disk,
    pub(super) shell: Option<Shell>,
    pub(super) reaches_bucket: bool,
    pub(super) paused_until: Micros,
    /// Its clock: thousandths of true time, and where it began.
    rate: u64,
    offset: Micros,
    /// Its replicator's steps have begun.
    steps: bool,
}

/// A process.
pub(super) struct Shell {
    pub(super) core: Core,
    pub(super) rule: AckRule,
    pub(super) commit: usize,
    /// Epoch that it leads or takes over, the first one of its leadership, and whether it leads.
    pub(super) own: Option<(Epoch, Epoch, bool)>,
    /// Where uploads go.
    pub(super) link: Option<Link>,
    pub(super) bucket_holds: usize,
    pub(super) peer_holds: Option<(StoreId, usize)>,
    pub(super) quiesced: Option<Epoch>,
    pub(super) lease_until: Micros,
    pub(super) rule_at: Micros,
    pub(super) wake_at: Option<Micros>,
}

impl Shell {
    pub(super) fn is_stopped(&self) -> bool {
        self.core.status().role == RoleName::Stopped
    }

    pub(super) fn answers_by_lease(&self, clock: Micros) -> bool {
        let leads = self.own.is_some_and(|(.., leads)| leads);
        leads && self.quiesced.is_none() && clock < self.lease_until
    }
}

pub(super) fn position(log: &[Entry], lsn: usize) -> Position {
    let Some(entry) = lsn.checked_sub(1).map(|at| log[at]) else { return Position::default() };
    let mut hash = Hash::ZERO;
    hash.0[..8].copy_from_slice(&entry.to_be_bytes());
    Position { lsn: Lsn::new(lsn as u64), hash }
}

pub(super) fn common(one: &[Entry], other: &[Entry]) -> usize {
    if other.starts_with(one) {
        return one.len();
    }
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

impl Node {
    pub(super) fn new(at: usize, random: &mut SmallRng) -> Self {
        Self {
            at,
            store: StoreId::new(at as u128 + 1),
            boot: at as u64,
            disk: Disk::default(),
            shell: None,
            reaches_bucket: true,
            paused_until: 0,
            rate: random.random_range(970..=1_030),
            offset: random.random_range(0..1_000_000_000),
            steps: false,
        }
    }

    pub(super) fn process(&self) -> Process {
        Process { store: self.store, boot: BootId::new(self.boot) }
    }

    /// Whether that process is alive.
    pub(super) fn is(&self, process: Process) -> bool {
        self.shell.is_some() && self.process() == process
    }

    pub(super) fn wipe(&mut self) {
        self.store = StoreId::new(self.store.value() + 2);
        self.disk = Disk::default();
    }

    /// Its own clock.
    pub(super) fn clock(&self, now: Micros) -> Micros {
        self.offset + now * self.rate / 1_000
    }

    fn true_time(&self, clock: Micros) -> Micros {
        clock.saturating_sub(self.offset).saturating_mul(1_000) / self.rate + 1
    }

    pub(super) fn member(&self) -> Member {
        let node = format!("node-{}", self.at);
        Member {
            store: self.store,
            node,
            features: Features { min: 1, max: 1 },
            ..Member::default()
        }
    }

    pub(super) fn tips(&self) -> Vec<Tip> {
        let log = &self.disk.log;
        vec![Tip {
            shard: ShardId::new(0),
            epoch: Epoch::new(log.last().map_or(0, |entry| entry >> 32)),
            durable: position(log, log.len()),
            floor: Lsn::new(self.disk.exposed as u64),
        }]
    }

    fn start(&mut self, seed: u64, now: Micros) {
        self.boot += 2;
        let ms = |ms: u64| ms * MS;
        // Shorter than a run.
        let settings = Settings {
            heartbeat: ms(250),
            suspect_after: ms(700),
            rejoin: (ms(500), ms(2_000)),
            register_every: ms(4_000),
            claim_patience: ms(4_000),
            ..Settings::default()
        };
        let may =
            May { create: (self.at == 0 && self.store.value() == 1).then_some(1), join: true };
        let (promised, max_epoch_seen) = (self.disk.promised, self.disk.max_epoch_seen);
        let local = Local { promised, max_epoch_seen, tips: self.tips(), may };
        let me = Identity {
            cluster: ClusterId::new(7),
            boot: BootId::new(self.boot),
            member: self.member(),
        };
        let core = Core::new(settings, Seal::new(None), me, local, seed, self.clock(now));
        self.shell = Some(Shell {
            core,
            rule: AckRule::Nobody,
            commit: 0,
            own: None,
            link: None,
            bucket_holds: 0,
            peer_holds: None,
            quiesced: None,
            lease_until: 0,
            rule_at: 0,
            wake_at: None,
        });
    }
}

impl World {
    pub(super) fn restart(&mut self, at: usize) {
        if self.nodes[at].shell.is_some() {
            return;
        }
        let (seed, now) = (self.random.random(), self.now);
        self.nodes[at].start(seed, now);
        let process = self.nodes[at].process();
        self.note(|| format!("{at} starts as {process:?}"));
        self.tell(at, Event::Tick);
        if !std::mem::replace(&mut self.nodes[at].steps, true) {
            self.at(self.now, What::Step(at));
        }
    }

    pub(super) fn wake(&mut self, at: usize, process: Process) {
        let node = &mut self.nodes[at];
        let Some(shell) = node.shell.as_mut().filter(|_| node.boot == process.boot.value()) else {
            return;
        };
        shell.wake_at = None;
        self.tell(at, Event::Tick);
    }

    /// Hands an event to the core and carries out what it asks for.
    pub(super) fn tell(&mut self, at: usize, event: Event) {
        let now = self.now;
        let node = &mut self.nodes[at];
        if now < node.paused_until {
            // It learns of its links and commands when it goes on.
            let (process, until) = (node.process(), node.paused_until);
            return self.at(until, What::Own(at, process, Later::Event(event)));
        }
        let clock = node.clock(now);
        let Some(shell) = &mut node.shell else { return };
        let mut effects = Vec::new();
        shell.core.handle(clock, event, &mut effects);
        for effect in effects {
            self.carry_out(at, effect);
        }
        self.schedule_wake(at);
    }

    fn schedule_wake(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let process = node.process();
        let Some(deadline) = node.shell.as_ref().and_then(|shell| shell.core.next_deadline())
        else {
            return;
        };
        let when = node.true_time(deadline).max(self.now + 1);
        let Some(shell) = &mut node.shell else { return };
        if shell.wake_at.is_none_or(|known| when < known) {
            shell.wake_at = Some(when);
            self.at(when, What::Wake(at, process));
        }
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        self.note(|| match &effect {
            Effect::Bucket(token, request) => format!("{at} {} #{token}", request.op.name()),
            Effect::Send(Message::Heartbeat { .. } | Message::Alive { .. }) => String::new(),
            Effect::Send(Message::LeaseGrant { .. }) | Effect::Lease { .. } => String::new(),
            effect => format!("{at} {effect:?}"),
        });
        let process = self.nodes[at].process();
        let later = |later| What::Own(at, process, later);
        match effect {
            Effect::Bucket(token, request) => {
                let fate = fate(self, at, request.op.mutates());
                let id = self.bucket.start(request.op);
                self.start_request(at, id, token, fate);
            }
            Effect::Send(message) => self.send(at, Packet::Election(message)),
            Effect::Promise(epoch) => self.after(MS, 10 * MS, later(Later::Promise(epoch))),
            Effect::Saw(epoch) => {
                let seen = &mut self.nodes[at].disk.max_epoch_seen;
                *seen = epoch.max(*seen);
            }
            Effect::Check { chain, base } => {
                let log = &self.nodes[at].disk.log;
                let lsn = base[0].lsn.value() as usize;
                let held = lsn <= log.len() && position(log, lsn) == base[0];
                let event = Event::Checked { chain, held };
                self.after(MS, 5 * MS, later(Later::Event(event)));
            }
            Effect::Recover { epoch, chain } => {
                self.begin_own(at, epoch);
                self.after(MS, 20 * MS, later(Later::Recover(epoch, chain)));
            }
            Effect::Place { link, .. } => {
                let shell = self.nodes[at].shell();
                shell.bucket_holds = link.base[0].lsn.value() as usize;
                shell.link = Some(link);
            }
            Effect::Lead { config } => self.lead(at, &config),
            Effect::StepDown(_) => {
                let shell = self.nodes[at].shell();
                (shell.own, shell.link, shell.quiesced) = (None, None, None);
                shell.rule = AckRule::Nobody;
            }
            Effect::AckRule { number, rule } => {
                let wait = self.random.random_range(0..20 * MS);
                let shell = self.nodes[at].shell.as_mut().expect("alive");
                shell.rule_at = (self.now + wait).max(shell.rule_at);
                let when = shell.rule_at;
                self.at(when, later(Later::Rule(number, rule)));
            }
            Effect::Lease { until } => self.nodes[at].shell().lease_until = until,
            Effect::Quiesce { epoch } => self.nodes[at].shell().quiesced = Some(epoch),
            Effect::Resume => self.nodes[at].shell().quiesced = None,
            Effect::Follow { .. }
            | Effect::Leave
            | Effect::Aim(_)
            | Effect::Answer { .. }
            | Effect::Announce(_) => {}
        }
    }

    fn start_request(&mut self, at: usize, id: u64, token: Token, fate: Fate) {
        let process = self.nodes[at].process();
        let (there, back) =
            (self.random.random_range(5..60) * MS, self.random.random_range(5..60) * MS);
        let applied = self.now + there;
        let (apply, answer) = match fate {
            Fate::Honest | Fate::SentTwice => (Some(applied), applied + back),
            Fate::Unreachable => (None, self.now + there),
            Fate::NoAnswer => (None, self.now + 2_000 * MS),
            Fate::AnswerLost => (Some(applied), self.now + 2_000 * MS),
            Fate::Late => {
                let late = self.random.random_range(2_000..6_000) * MS;
                (Some(self.now + late), self.now + 2_000 * MS - 1)
            }
        };
        if let Some(when) = apply {
            self.at(when, What::Apply(id));
        }
        self.at(answer, What::Own(at, process, Later::Answer(id, token, fate)));
    }

    pub(super) fn own(&mut self, at: usize, later: Later) {
        match later {
            Later::Event(event) => self.tell(at, event),
            Later::Rule(number, rule) => {
                let log = self.nodes[at].disk.log.clone();
                let Some(shell) = &mut self.nodes[at].shell else { return };
                if shell.own.is_some_and(|(.., leads)| leads) {
                    shell.rule = rule;
                }
                let commit = vec![position(&log, shell.commit.min(log.len()))];
                self.tell(at, Event::Ruled { number, commit });
                self.acknowledge_all(at);
            }
            Later::Promise(epoch) => {
                let promised = &mut self.nodes[at].disk.promised;
                *promised = epoch.max(*promised);
                let tips = self.nodes[at].tips();
                self.tell(at, Event::PromiseDurable { epoch, tips });
            }
            Later::Recover(epoch, chain) => self.recover(at, epoch, &chain),
            Later::Answer(id, token, fate) => {
                let outcome = self.bucket.answer(id, fate);
                self.tell(at, Event::Bucket(Completion { token, outcome }));
            }
            Later::Crash => self.crash(at),
        }
    }
}

impl Node {
    pub(super) fn shell(&mut self) -> &mut Shell {
        self.shell.as_mut().expect("carried out for a process that is there")
    }
}
