//! A leader and a follower with logs in memory, a session that delivers in any order between lanes
//! and may be lost at any time, and a bucket that holds more and more.
//!
//! The election is played by the world: it has rules, further epochs, new leaderships and a
//! follower that is replaced by an empty one.

use std::collections::{BTreeMap, VecDeque};

use celeriant_schema::peer::Position;
use celeriant_schema::{BootId, Epoch, Hash, Lsn};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::rig::{BYTES, FakeLog, FakeNode, SHARDS, WINDOW_BYTES};
use super::*;
use crate::election::register::{Active, Phase, Process, Set};
use crate::election::vocabulary::{AckRule, Place, Reason};

pub(super) const LEADER: usize = 0;
pub(super) const FOLLOWER: usize = 1;
const ME: StoreId = StoreId::new(1);

/// What the election of the leader has got to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Promising,
    Recovering,
    Placing,
    Leading,
}

struct World {
    rng: SmallRng,
    now: Micros,
    nodes: [FakeNode; 2],
    is_up: bool,
    /// What is on its way from each node: control and bulk.
    lanes: [[VecDeque<Message>; 2]; 2],
    stage: Stage,
    /// The whole log is in a second place.
    is_placed: bool,
    link: Link,
    /// Whether the term's set is with the bucket.
    uploads: bool,
    /// What the bucket holds.
    bucket: BTreeMap<ShardId, Position>,
    rule: AckRule,
    number: u64,
    /// The newest rule is known to be in force.
    is_ruled: bool,
    is_quiet: bool,
    check: Option<bool>,
    stores: u128,
    /// What the lives together must have met.
    reached: BTreeMap<&'static str, usize>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut logs = [Vec::new(), Vec::new()];
        for _ in 0..SHARDS {
            let mut log = FakeLog::default();
            (0..rng.random_range(0..6)).for_each(|_| drop(log.seal(&mut rng)));
            log.commit = Lsn::new(rng.random_range(0..=log.end().lsn.value()));
            let mut other = log.clone();
            // What was never acknowledged may be missing here, and something else be there.
            while other.ends.len() > 1
                && other.before(other.ends.len() - 1).lsn >= log.commit
                && rng.random_bool(0.5)
            {
                other.ends.pop();
            }
            (0..rng.random_range(0..3)).for_each(|_| drop(other.seal(&mut rng)));
            (0..rng.random_range(0..3)).for_each(|_| drop(log.seal(&mut rng)));
            logs[LEADER].push(log);
            logs[FOLLOWER].push(other);
        }
        let [leader, follower] = logs;
        let nodes = [FakeNode::new(ME, leader), FakeNode::new(StoreId::new(2), follower)];
        let link = Link { epoch: Epoch::new(1), base: Vec::new() };
        Self {
            rng,
            now: 0,
            nodes,
            is_up: false,
            lanes: Default::default(),
            stage: Stage::Promising,
            is_placed: false,
            link,
            uploads: false,
            bucket: BTreeMap::new(),
            rule: AckRule::Nobody,
            number: 0,
            is_ruled: false,
            is_quiet: false,
            check: None,
            stores: 2,
            reached: BTreeMap::new(),
        }
    }

    fn tell(&mut self, node: usize, event: Event) {
        let mut effects = Vec::new();
        self.nodes[node].core.handle(self.now, event, &mut effects);
        self.carry_out(node, effects);
    }

    fn order(&mut self, command: Command) {
        self.tell(LEADER, Event::Command(command));
    }

    fn flush(&mut self, node: usize) {
        let mut effects = Vec::new();
        self.nodes[node].core.flush(self.now, &mut effects);
        self.carry_out(node, effects);
    }

    fn carry_out(&mut self, node: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(message) => {
                    assert!(self.is_up, "{message:?} without a session");
                    self.lanes[node][usize::from(message.is_bulk())].push_back(message);
                }
                Effect::Shard(shard, order) => self.nodes[node].orders.push_back((shard, order)),
                Effect::Election(fact) => self.hear(node, fact),
                Effect::Log(LogOrder::Upload { link, sealed }) => {
                    self.bucket = all(SHARDS).zip(link.base).collect();
                    let ends = self.nodes[LEADER].logs().map(FakeLog::end);
                    assert!(sealed.into_iter().eq(ends), "uploads end elsewhere");
                }
                Effect::Log(LogOrder::Stop) => self.bucket.clear(),
                _ => {}
            }
        }
    }

    fn reach(&mut self, what: &'static str) {
        *self.reached.entry(what).or_default() += 1;
    }

    // ---- the elections -----------------------------------------------------------------------

    fn hear(&mut self, node: usize, fact: Fact) {
        match fact {
            Fact::Message(Message::Promise { epoch, .. }) if epoch >= self.nodes[node].promised => {
                self.nodes[node].promised = epoch;
                self.tell(node, Event::Command(Command::Promised(epoch)));
            }
            Fact::PromiseDurable { epoch, tips } if node == FOLLOWER => {
                let answer = Message::Promised { epoch, tips };
                self.tell(node, Event::Command(Command::Send(answer)));
            }
            Fact::PromiseDurable { epoch, .. } => self.promised(epoch),
            Fact::Recovered { epoch, base } => self.recovered(epoch, base),
            Fact::Placed { epoch, place } if epoch == self.epoch() => {
                assert_eq!(self.stage, Stage::Placing);
                self.is_placed = true;
                match place {
                    Place::Peer(store) => {
                        self.reach("placed at the peer");
                        assert_eq!(store, self.nodes[FOLLOWER].store);
                        self.check_equal();
                    }
                    Place::Bucket => {
                        self.reach("placed in the bucket");
                        let ends = self.nodes[LEADER].logs().map(FakeLog::end);
                        assert!(self.bucket.values().copied().eq(ends), "not in the bucket");
                    }
                }
            }
            Fact::Ruled { number, commit } if number == self.number => {
                self.is_ruled = true;
                let mut told = commit.iter().zip(self.nodes[LEADER].logs());
                assert!(told.all(|(at, log)| at.lsn <= log.commit), "{commit:?}");
            }
            Fact::FollowerHolds { store, upto, .. } => {
                self.reach("follower holds");
                if store == self.nodes[FOLLOWER].store {
                    let mut held = upto.iter().zip(all(SHARDS));
                    assert!(held.all(|(upto, shard)| self.is_at_follower(shard, *upto)));
                }
            }
            Fact::TipHeldByPeer { tips, .. } => {
                self.reach("quiet");
                self.check_equal();
                let ends = self.nodes[LEADER].logs().map(FakeLog::end);
                assert!(tips.iter().map(|tip| tip.durable).eq(ends));
            }
            Fact::Checked { held, .. } => {
                self.reach("checked");
                assert_eq!(Some(held), self.check.take());
            }
            Fact::FollowerCaughtUp { .. } => self.reach("caught up"),
            _ => {}
        }
    }

    fn epoch(&self) -> Epoch {
        self.nodes[LEADER].promised
    }

    /// A new leadership of the same process.
    fn take_over(&mut self) {
        self.order(Command::StepDown(Reason::Started));
        (self.is_quiet, self.stage) = (false, Stage::Promising);
        self.set_rule(AckRule::Nobody);
        let epoch = Epoch::new(self.epoch().value() + 1);
        self.nodes[LEADER].promised = epoch;
        self.order(Command::Promised(epoch));
    }

    fn promised(&mut self, epoch: Epoch) {
        if epoch == self.epoch() && self.stage == Stage::Promising {
            self.stage = Stage::Recovering;
            self.order(Command::Recover { epoch, chain: Vec::new() });
        }
    }

    fn recovered(&mut self, epoch: Epoch, base: Vec<Position>) {
        if epoch != self.epoch() || self.stage != Stage::Recovering {
            return;
        }
        assert_eq!(base, self.nodes[LEADER].commits());
        self.stage = Stage::Placing;
        // Whoever is named leader has nothing to place.
        self.is_placed = self.rng.random_bool(0.2);
        if self.is_placed {
            return self.lead();
        }
        self.link = Link { epoch, base };
        let link = self.link.clone();
        self.order(Command::Place { link, peer: Some(self.nodes[FOLLOWER].store) });
    }

    /// The register says that it leads: what it placed, or a further epoch.
    fn lead(&mut self) {
        let further = self.stage == Stage::Leading;
        if !(further || self.stage == Stage::Placing && self.is_placed) {
            return;
        }
        if further {
            let epoch = Epoch::new(self.epoch().value() + 1);
            self.nodes[LEADER].promised = epoch;
            self.uploads = !self.uploads;
            self.link = Link { epoch, base: self.nodes[LEADER].commits() };
            self.reach("further epochs");
        } else {
            let is_ours = self.link.epoch == self.epoch();
            self.uploads = is_ours && self.rng.random_bool(0.5);
        }
        self.stage = Stage::Leading;
        let (epoch, leader) = (self.epoch(), Process { store: ME, boot: BootId::new(1) });
        let chain = if self.uploads { vec![self.link.clone()] } else { Vec::new() };
        let set = if self.uploads { Set::Bucket(ME) } else { self.pair() };
        let config = Config {
            cluster: Default::default(),
            shards: SHARDS,
            ver: 1,
            epoch,
            phase: Phase::Active,
            leader,
            active: Active { epoch, leader, set, chain },
            lease: None,
            members: Vec::new(),
            feature_level: 1,
            nonce: 0,
        };
        self.order(Command::Lead(Box::new(config)));
        self.set_rule(AckRule::Set(set));
        self.order(Command::Promised(epoch));
    }

    fn pair(&self) -> Set {
        Set::pair(ME, self.nodes[FOLLOWER].store)
    }

    fn set_rule(&mut self, rule: AckRule) {
        (self.rule, self.is_ruled) = (rule, false);
        self.number += 1;
        self.order(Command::AckRule { number: self.number, rule });
    }

    // ---- what happens ------------------------------------------------------------------------

    fn step(&mut self) {
        self.now += self.rng.random_range(0..20);
        let node = self.rng.random_range(0..2);
        match self.rng.random_range(0..100) {
            0..12 => self.seal(),
            12..40 => self.deliver(node),
            40..65 => self.work(node),
            65..74 => self.flush_disk(node),
            74..85 => self.flush(node),
            85..88 => self.heartbeat(),
            88..91 => self.set_up(!self.is_up),
            91..93 => self.upload(),
            93..95 if self.stage == Stage::Leading => {
                let rule = match self.rng.random_range(0..3) {
                    0 => AckRule::Nobody,
                    1 if self.uploads => AckRule::Both(Set::Bucket(ME), self.pair()),
                    _ if self.uploads => AckRule::Set(Set::Bucket(ME)),
                    _ => AckRule::Set(self.pair()),
                };
                self.set_rule(rule);
            }
            95 if self.stage == Stage::Leading => {
                self.is_quiet = !self.is_quiet;
                let epoch = self.epoch();
                let quiesce = Command::Quiesce { epoch };
                self.order(if self.is_quiet { quiesce } else { Command::Resume });
            }
            96 => self.ask_check(),
            97 if self.rng.random_bool(0.2) => self.replace_follower(),
            98 => self.lead(),
            99 if self.rng.random_bool(0.3) => self.take_over(),
            _ => {}
        }
        self.check();
    }

    fn seal(&mut self) {
        let shard = ShardId::new(self.rng.random_range(0..SHARDS));
        let sealer = self.nodes[LEADER].shards.get_mut(&shard).expect("known");
        if sealer.leads.is_some() && !sealer.is_quiet {
            let report = sealer.seal(&mut self.rng);
            self.tell(LEADER, Event::Shard(shard, report));
        }
    }

    fn deliver(&mut self, from: usize) {
        let lane = self.rng.random_range(0..2);
        if let Some(message) = self.lanes[from][lane].pop_front() {
            self.tell(1 - from, Event::Received(message));
        }
    }

    fn work(&mut self, node: usize) {
        let Some((of, order)) = self.nodes[node].orders.pop_front() else { return };
        let shard = self.nodes[node].shards.get_mut(&of).expect("known");
        let commit = shard.log.commit;
        let is_survey = matches!(order, Order::Survey { .. });
        let reports = shard.work(of, order, &mut self.rng);
        if node == LEADER && !is_survey {
            self.check_commit(of, commit);
        }
        self.report(node, of, reports);
    }

    fn flush_disk(&mut self, node: usize) {
        let of = ShardId::new(self.rng.random_range(0..SHARDS));
        let (mut reports, shard) = (Vec::new(), self.nodes[node].shards.get_mut(&of));
        let shard = shard.expect("known");
        let commit = shard.log.commit;
        shard.flush(of, &mut reports);
        if node == LEADER {
            self.check_commit(of, commit);
        }
        self.report(node, of, reports);
    }

    fn report(&mut self, node: usize, shard: ShardId, reports: Vec<Report>) {
        for report in reports {
            self.tell(node, Event::Shard(shard, report));
        }
    }

    fn heartbeat(&mut self) {
        let (number, epoch, ver) = (0, self.epoch(), 1);
        let message = Message::Heartbeat { number, epoch, ver, shards: Vec::new() };
        self.order(Command::Send(message));
        self.order(Command::Send(Message::Promise { epoch, ver }));
    }

    /// The bucket holds some more of a shard's log.
    fn upload(&mut self) {
        let shard = ShardId::new(self.rng.random_range(0..SHARDS));
        let Some(held) = self.bucket.get_mut(&shard) else { return };
        let ends = &self.nodes[LEADER].shards[&shard].log.ends;
        let Some(next) = ends.iter().find(|end| end.lsn > held.lsn).copied() else { return };
        *held = next;
        self.tell(LEADER, Event::Log(LogNews::Held(shard, next)));
    }

    fn ask_check(&mut self) {
        if self.check.is_some() || self.stage == Stage::Leading {
            return;
        }
        let mut base = self.nodes[LEADER].commits();
        let expected = self.rng.random_bool(0.5) || base[0] == Position::default();
        if !expected {
            base[0].hash = Hash([7; 32]);
        }
        self.check = Some(expected);
        self.order(Command::Check { chain: Epoch::new(1), base });
    }

    fn set_up(&mut self, is_up: bool) {
        if is_up == self.is_up {
            return;
        }
        self.is_up = is_up;
        self.lanes = Default::default();
        for node in [LEADER, FOLLOWER] {
            let peer = self.nodes[1 - node].store;
            self.tell(node, if is_up { Event::Up(peer) } else { Event::Down { in_order: false } });
        }
    }

    /// Its disk is lost: an empty one comes.
    fn replace_follower(&mut self) {
        self.set_up(false);
        self.reach("replaced");
        self.stores += 1;
        let logs = vec![FakeLog::default(); SHARDS.into()];
        self.nodes[FOLLOWER] = FakeNode::new(StoreId::new(self.stores), logs);
    }

    // ---- what must hold ----------------------------------------------------------------------

    fn is_at_follower(&self, shard: ShardId, upto: Lsn) -> bool {
        let log = &self.nodes[FOLLOWER].shards[&shard].log;
        let own =
            self.nodes[LEADER].shards[&shard].log.ends.iter().take_while(|end| end.lsn <= upto);
        let theirs = log.ends[..log.durable].iter().take_while(|end| end.lsn <= upto);
        own.eq(theirs)
    }

    fn is_in(&self, set: Set, shard: ShardId, upto: Lsn) -> bool {
        match set {
            Set::Bucket(_) => self.bucket.get(&shard).is_some_and(|held| held.lsn >= upto),
            pair => pair == self.pair() && self.is_at_follower(shard, upto),
        }
    }

    /// R1, R2: what is committed now is where the rule wants it, once that is in force.
    fn check_commit(&self, shard: ShardId, before: Lsn) {
        let commit = self.nodes[LEADER].shards[&shard].log.commit;
        if commit == before || !self.is_ruled {
            return;
        }
        let holds = match self.rule {
            AckRule::Nobody => false,
            AckRule::Set(set) => self.is_in(set, shard, commit),
            AckRule::Both(one, two) => {
                self.is_in(one, shard, commit) && self.is_in(two, shard, commit)
            }
        };
        assert!(holds, "shard {shard} commits {before}..{commit} by {:?}", self.rule);
    }

    fn check_equal(&self) {
        let [leader, follower] = &self.nodes;
        let ends = |node: &FakeNode| node.logs().map(|log| log.ends.clone()).collect::<Vec<_>>();
        assert_eq!(ends(leader), ends(follower), "not equal");
    }

    fn check(&self) {
        let [leader, follower] = &self.nodes;
        // What the follower shows is the leader's.
        for (shard, own) in &follower.shards {
            let shown = own.log.ends.iter().filter(|end| end.lsn <= own.log.commit);
            let leaders = &leader.shards[shard].log.ends;
            for end in shown {
                assert!(leaders.contains(end), "shard {shard}: {end:?} is shown, but not led");
            }
        }
        let in_flight: usize = self.lanes[LEADER][1].iter().map(bulk_bytes).sum();
        let most = WINDOW_BYTES + 2 * BYTES * usize::from(SHARDS);
        assert!(in_flight <= most, "{in_flight} bytes are on their way");
    }

    fn is_at_rest(&self) -> bool {
        let all_committed = |log: &FakeLog| log.commit == log.end().lsn;
        self.lanes.as_flattened().iter().all(VecDeque::is_empty)
            && self.nodes.iter().all(|node| node.orders.is_empty())
            && self.stage == Stage::Leading
            && self.nodes.iter().all(|node| node.logs().all(all_committed))
    }
}

fn bulk_bytes(message: &Message) -> usize {
    let Message::Append { frames, .. } = message else { panic!("{message:?} is not bulk") };
    frames.len()
}

/// Everything that is under way ends; the pair holds and commits everything.
fn come_to_rest(world: &mut World, seed: u64) {
    for step in 0..20_000 {
        world.now += 1;
        let node = world.rng.random_range(0..2);
        world.work(node);
        world.deliver(node);
        world.flush_disk(node);
        world.flush(node);
        match step {
            200 => world.set_up(false),
            201 => world.set_up(true),
            _ if step % 50 == 0 && world.stage == Stage::Leading => {
                if world.uploads {
                    world.lead();
                } else if world.rule != AckRule::Set(world.pair()) {
                    world.set_rule(AckRule::Set(world.pair()));
                }
                world.heartbeat();
            }
            _ if step % 50 == 0 => world.lead(),
            _ => {}
        }
        world.check();
        if step > 300 && world.is_at_rest() {
            return;
        }
    }
    panic!("seed {seed}: no rest, {:?}, {:?}, up {}", world.stage, world.rule, world.is_up);
}

/// A leader that is at rest can hand over.
fn hand_over(world: &mut World, seed: u64) {
    let before = world.reached.get("quiet").copied();
    world.order(Command::Resume);
    world.order(Command::Quiesce { epoch: world.epoch() });
    for _ in 0..1_000 {
        world.work(LEADER);
        world.flush(LEADER);
    }
    assert!(world.reached.get("quiet").copied() > before, "seed {seed}: the tip is not held");
}

#[test]
fn whatever_happens_the_follower_becomes_equal_and_only_what_the_rule_allows_is_committed() {
    let mut reached: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..1_000 {
        let mut world = World::new(seed);
        world.take_over();
        (0..world.rng.random_range(0..600)).for_each(|_| world.step());
        come_to_rest(&mut world, seed);
        world.check_equal();
        hand_over(&mut world, seed);
        world
            .reached
            .into_iter()
            .for_each(|(what, times)| *reached.entry(what).or_default() += times);
    }
    let all = ["placed at the peer", "placed in the bucket", "follower holds", "quiet", "checked"];
    for what in all.into_iter().chain(["caught up", "further epochs", "replaced"]) {
        assert!(reached.get(what).is_some_and(|times| *times > 50), "{what}: {reached:?}");
    }
}
