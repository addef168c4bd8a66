//! A small random world for the election core: two nodes, a bucket, a link, and what goes wrong.
//!
//! ```text
//!   world    time, faults, link, invariants        node     disk and shards around one core
//!   bucket   the register and the epochs' logs
//! ```
//! Everything happens at a moment of true time, in one order that the seed decides. Nodes' clocks
//! run at rates that differ by up to 6 %, which is within the margins of R16. Logs are real (short
//! lists of entries), so that a mistake of the core shows as an acknowledged entry that is lost or
//! as a lease that hides one, not only as a state that looks wrong.
//! Deliberately absent: several shards, damaged logs, slots that arrive after the fence.

mod bucket;
mod node;
mod replicator;

use std::collections::BTreeMap;

use celeriant_schema::peer::Message;
use celeriant_schema::{Epoch, StoreId};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use self::bucket::{Bucket, Fate};
use self::node::{Later, Node};
use super::register::{Phase, Process, Set};
use super::vocabulary::{Command, Event};
use crate::clock::Micros;

const MS: Micros = 1_000;
/// Faults happen for so long; then comes the quiet end.
const ROUGH: Micros = 8_000 * MS;
/// Whatever was under way has ended by then: requests that arrive late, pauses.
const SETTLED: Micros = ROUGH + 6_500 * MS;
/// Bound of I13, generously: whatever was left behind, a pair is led again.
const BOUND: Micros = ROUGH + 14_000 * MS;
/// Claims that an end may take (I13).
const CLAIMS_MAX: u64 = 3;

/// One entry of a log: its epoch, and below it a number that is never used twice.
pub(super) type Entry = u64;

/// What travels between the nodes.
#[derive(Clone, Debug)]
pub(super) enum Packet {
    Election(Message),
    /// A leader's or claimant's whole log, as in the model.
    Append {
        epoch: Epoch,
        log: Vec<Entry>,
        commit: usize,
    },
    Ack {
        epoch: Epoch,
        upto: usize,
        store: StoreId,
    },
}

/// What happens at a moment.
#[derive(Debug)]
enum What {
    /// The node's replicator looks around.
    Step(usize),
    /// The core wants to be woken; of that process.
    Wake(usize, Process),
    Deliver {
        to: usize,
        session: u64,
        packet: Packet,
    },
    /// A request takes effect in the bucket.
    Apply(u64),
    /// Something of a node's own, of that process.
    Own(usize, Process, Later),
    Restart(usize),
    Connect,
    Fault,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) now: Micros,
    random: SmallRng,
    agenda: BTreeMap<(Micros, u64), What>,
    serial: u64,
    nodes: [Node; 2],
    bucket: Bucket,
    /// Of the link that is up; messages of another are lost.
    session: Option<u64>,
    /// Of a hundred packets so many are lost.
    loss: u32,
    /// Everything that was ever acknowledged.
    acked: Vec<Entry>,
    /// Who led which epoch.
    leaders: BTreeMap<Epoch, Process>,
    wiped: bool,
    pub(super) trace: Vec<String>,
    pub(super) tracing: bool,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let nodes = [0, 1].map(|at| Node::new(at, &mut random));
        let mut world = Self {
            seed,
            now: 0,
            random,
            agenda: BTreeMap::new(),
            serial: 0,
            nodes,
            bucket: Bucket::default(),
            session: None,
            loss: 0,
            acked: Vec::new(),
            leaders: BTreeMap::new(),
            wiped: false,
            trace: Vec::new(),
            tracing: false,
        };
        world.at(0, What::Restart(0));
        let second = world.random.random_range(0..1_000) * MS;
        world.at(second, What::Restart(1));
        world.at(0, What::Connect);
        world.at(2_000 * MS, What::Fault);
        world
    }

    /// Faults, then a quiet end. Panics, with the seed, when something is not as it must be.
    pub(super) fn run(&mut self) {
        self.run_until(ROUGH);
        self.calm_down();
        let (claims, acked) = (self.bucket.claims, self.acked.len());
        self.run_until(SETTLED);
        while self.now < BOUND && !(self.is_pair() && self.acked.len() > acked) {
            self.run_until(self.now + 500 * MS);
        }
        let claims = self.bucket.claims - claims;
        self.check(claims <= CLAIMS_MAX, || format!("I13: {claims} claims in the quiet end"));
        let grown = self.acked.len() > acked;
        self.check(grown, || "I13: nothing was acknowledged in the quiet end".into());
        self.check(self.is_pair(), || "I18: everything is not in two places".into());
    }

    fn is_pair(&self) -> bool {
        self.bucket.config().is_some_and(|config| {
            config.phase == Phase::Active && matches!(config.active.set, Set::Pair(..))
        })
    }

    pub(super) fn len(&self) -> usize {
        self.acked.len()
    }

    fn run_until(&mut self, end: Micros) {
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), what) = entry.remove_entry();
            self.now = at;
            self.happen(what);
        }
        self.now = end;
    }

    fn at(&mut self, at: Micros, what: What) {
        self.serial += 1;
        self.agenda.insert((at, self.serial), what);
    }

    fn after(&mut self, least: Micros, most: Micros, what: What) {
        let wait = self.random.random_range(least..=most);
        self.at(self.now + wait, what);
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Step(at) => {
                self.step(at);
                self.after(70 * MS, 130 * MS, What::Step(at));
            }
            What::Wake(at, process) => self.wake(at, process),
            What::Deliver { to, session, packet } => {
                if self.session == Some(session) {
                    self.deliver(to, packet);
                }
            }
            What::Apply(id) => self.bucket.apply(id, self.seed),
            What::Own(at, process, later) if self.nodes[at].is(process) => {
                // A process that stands still gets its news when it goes on, in their order.
                match self.nodes[at].paused_until {
                    until if self.now < until => self.at(until, What::Own(at, process, later)),
                    _ => self.own(at, later),
                }
            }
            What::Own(..) => {}
            What::Restart(at) => self.restart(at),
            What::Connect => self.connect(),
            What::Fault => self.fault(),
        }
    }

    pub(super) fn check(&self, holds: bool, what: impl Fn() -> String) {
        if !holds {
            let from = self.trace.len().saturating_sub(400);
            let trace = self.trace[from..].join("\n");
            panic!("{trace}\nseed {} at {} ms: {}", self.seed, self.now / MS, what());
        }
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        let text = if self.tracing { text() } else { String::new() };
        if !text.is_empty() {
            self.trace.push(format!("{:>6} {text}", self.now / MS));
        }
    }

    // ---- the link ----------------------------------------------------------------------------

    fn send(&mut self, from: usize, packet: Packet) {
        let (Some(session), false) = (self.session, self.random.random_range(0..100) < self.loss)
        else {
            return;
        };
        self.after(MS / 2, 5 * MS, What::Deliver { to: from ^ 1, session, packet });
    }

    fn connect(&mut self) {
        let both = self.nodes.iter().all(|node| node.shell.is_some());
        if !both || self.session.is_some() {
            return self.after(50 * MS, 300 * MS, What::Connect);
        }
        self.serial += 1;
        self.session = Some(self.serial);
        self.note(|| "link up".into());
        for at in 0..2 {
            let peer = self.nodes[at ^ 1].process();
            self.tell(at, Event::PeerUp(peer));
        }
    }

    fn disconnect(&mut self) {
        if self.session.take().is_some() {
            self.note(|| "link down".into());
            (0..2).for_each(|at| self.tell(at, Event::PeerDown));
            self.after(50 * MS, 3_000 * MS, What::Connect);
        }
    }

    // ---- what goes wrong ---------------------------------------------------------------------

    fn fault(&mut self) {
        if self.now > ROUGH {
            return;
        }
        let at = self.random.random_range(0..2);
        let some = self.random.random_range(100..3_000) * MS;
        match self.random.random_range(0..12) {
            0 | 1 => self.crash(at),
            2 | 3 => self.disconnect(),
            4 => self.loss = self.random.random_range(0..60),
            5 => self.nodes[at].reaches_bucket ^= true,
            6 => self.bucket.down_until = self.now + some,
            7 if self.nodes[at].paused_until < self.now => {
                self.nodes[at].paused_until = self.now + some;
            }
            7 => {}
            8 => self.command(at, Command::HandOver),
            9 => {
                self.note(|| format!("{at} shuts down"));
                self.tell(at, Event::ShuttingDown);
                let process = self.nodes[at].process();
                self.at(self.now + some, What::Own(at, process, Later::Crash));
            }
            10 => self.bucket.lies = self.random.random_range(0..40),
            _ => self.wipe(at),
        }
        self.after(50 * MS, 1_200 * MS, What::Fault);
    }

    fn command(&mut self, at: usize, command: Command) {
        self.note(|| format!("{at} is told: {command:?}"));
        self.tell(at, Event::Command { id: 0, command });
    }

    pub(super) fn crash(&mut self, at: usize) {
        if self.nodes[at].shell.take().is_none() {
            return;
        }
        self.note(|| format!("{at} crashes"));
        self.nodes[at].paused_until = 0;
        self.disconnect();
        self.after(50 * MS, 2_500 * MS, What::Restart(at));
    }

    /// A disk is lost, when everything is in two places: one failure is what the cluster survives.
    fn wipe(&mut self, at: usize) {
        let logs = [&self.nodes[0].disk.log, &self.nodes[1].disk.log];
        let whole = logs.iter().all(|log| log.starts_with(&self.acked));
        let pair = self.is_pair();
        let calm = self.bucket.down_until < self.now && self.nodes[at ^ 1].shell.is_some();
        if self.wiped || !whole || !pair || !calm {
            return;
        }
        self.wiped = true;
        self.note(|| format!("{at} loses its disk"));
        self.crash(at);
        self.nodes[at].wipe();
    }

    fn calm_down(&mut self) {
        self.note(|| "quiet".into());
        (self.loss, self.bucket.lies, self.bucket.down_until) = (0, 0, 0);
        for at in 0..2 {
            self.nodes[at].reaches_bucket = true;
            // What was shutting down is started again.
            if self.nodes[at].shell.as_ref().is_some_and(|shell| shell.is_stopped()) {
                self.crash(at);
            }
        }
    }

    // ---- invariants --------------------------------------------------------------------------

    /// I1: one process an epoch.
    fn note_leader(&mut self, epoch: Epoch, process: Process) {
        let known = *self.leaders.entry(epoch).or_insert(process);
        self.check(known == process, || format!("I1: {known:?} and {process:?} lead {epoch}"));
    }

    /// I8, I4: acknowledged once and for ever.
    fn acknowledge(&mut self, by: usize, position: usize, entry: Entry) {
        match self.acked.get(position) {
            Some(known) => {
                let known = *known;
                self.check(known == entry, || {
                    format!("I8: {known:?} and {entry:?} acknowledged at {position}")
                });
            }
            None => {
                self.acked.push(entry);
                self.check_leases(by);
            }
        }
    }

    /// I11: nobody may answer by a lease while another acknowledges.
    fn check_leases(&self, by: usize) {
        let other = &self.nodes[by ^ 1];
        let holds = other.shell.as_ref().is_some_and(|shell| {
            self.now >= other.paused_until && shell.answers_by_lease(other.clock(self.now))
        });
        self.check(!holds, || format!("I11: {} relies on a lease, {by} acknowledges", by ^ 1));
    }
}

/// What becomes of a request.
fn fate(world: &mut World, at: usize, mutates: bool) -> Fate {
    let down = world.now < world.bucket.down_until || !world.nodes[at].reaches_bucket;
    let lies = world.bucket.lies;
    match (down, mutates && world.chance(lies)) {
        (true, _) if world.chance(50) => Fate::Unreachable,
        (true, _) => Fate::NoAnswer,
        (false, true) => match world.random.random_range(0..4) {
            0 => Fate::AnswerLost,
            1 => Fate::Late,
            2 => Fate::SentTwice,
            _ => Fate::NoAnswer,
        },
        (false, false) => Fate::Honest,
    }
}

/// How many seeds the test runs.
pub(super) const SEEDS: u64 = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// One that fails is run again, and says what happened.
    fn run(seed: u64) -> usize {
        let run = |tracing| {
            let mut world = World::new(seed);
            world.tracing = tracing;
            world.run();
            world.len()
        };
        std::panic::catch_unwind(|| run(false)).unwrap_or_else(|_| run(true))
    }

    /// Two threads: the machine that runs the tests has at least two cores.
    #[test]
    fn nothing_is_lost_nobody_leads_twice_and_in_the_end_a_pair_is_led() {
        let half = |from: u64| (from..SEEDS).step_by(2).map(run).sum::<usize>();
        let total = std::thread::scope(|scope| {
            let other = scope.spawn(|| half(1));
            let one = half(0);
            one + other.join().expect("the other half")
        });
        assert!(total > SEEDS as usize * 30, "{total} entries in {SEEDS} worlds: hardly any life");
    }
}
