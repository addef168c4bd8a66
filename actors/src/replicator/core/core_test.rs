//! A leader and a follower with logs in memory and a session that delivers in any order between
//! lanes and may be lost at any time.

use std::collections::{BTreeMap, VecDeque};

use celeriant_schema::peer::{FramePlace, Position};
use celeriant_schema::{Hash, Lsn, Stamp};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::super::orders::Frames;
use super::*;

const SHARDS: u16 = 3;
const WINDOW_BYTES: usize = 300;

/// A frame is 40 bytes here: its last lsn and its hash.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct FakeLog {
    /// Ends of frames.
    ends: Vec<Position>,
    commit: Lsn,
}

impl FakeLog {
    fn end(&self) -> Position {
        self.ends.last().copied().unwrap_or_default()
    }

    fn seal(&mut self, rng: &mut SmallRng) -> Frames {
        let before = self.end();
        let lsn = Lsn::new(before.lsn.value() + rng.random_range(1..4));
        let mut hash = [0; 32];
        rng.fill(&mut hash);
        self.ends.push(Position { lsn, hash: Hash(hash) });
        self.frames(before, 1)
    }

    /// Up to `count` frames behind `before`.
    fn frames(&self, before: Position, count: usize) -> Frames {
        let from = self.ends.iter().position(|end| end.lsn > before.lsn).expect("there are some");
        assert_eq!(self.before(from), before, "reads begin where a frame ends");
        let ends = &self.ends[from..self.ends.len().min(from + count)];
        let mut bytes = Vec::new();
        for end in ends {
            bytes.extend_from_slice(&end.lsn.value().to_le_bytes());
            bytes.extend_from_slice(&end.hash.0);
        }
        Frames { before, end: *ends.last().expect("one"), bytes: bytes.into() }
    }

    fn before(&self, at: usize) -> Position {
        at.checked_sub(1).map(|at| self.ends[at]).unwrap_or_default()
    }

    fn find(&self, lsn: Lsn) -> Option<FramePlace> {
        let containing = self.ends.iter().position(|end| end.lsn >= lsn);
        let at = containing.or(self.ends.len().checked_sub(1))?;
        Some(FramePlace { epoch: Epoch::new(1), before: self.before(at), end: self.ends[at] })
    }

    fn accept(&mut self, before: Position, bytes: &[u8]) -> bool {
        if before != self.end() {
            return false;
        }
        for frame in bytes.chunks(40) {
            let lsn = Lsn::new(u64::from_le_bytes(frame[..8].try_into().expect("8")));
            self.ends.push(Position { lsn, hash: Hash(frame[8..].try_into().expect("32")) });
        }
        true
    }
}

struct FakeNode {
    core: Core,
    epoch: Epoch,
    /// By the shards: they hear of it later.
    promised: BTreeMap<ShardId, Epoch>,
    logs: BTreeMap<ShardId, FakeLog>,
    orders: VecDeque<(ShardId, Order)>,
    held: BTreeMap<ShardId, Lsn>,
    is_complete: bool,
}

impl FakeNode {
    fn new(logs: Vec<FakeLog>) -> Self {
        let logs: BTreeMap<_, _> = (0..).map(ShardId::new).zip(logs).collect();
        let mut node = Self {
            core: Core::new(WINDOW_BYTES, Epoch::new(1), Vec::new()),
            epoch: Epoch::new(1),
            promised: BTreeMap::new(),
            logs,
            orders: VecDeque::new(),
            held: BTreeMap::new(),
            is_complete: false,
        };
        node.core = Core::new(WINDOW_BYTES, node.epoch, node.tips());
        node
    }

    fn tips(&self) -> Vec<Tip> {
        let tip = |(shard, log): (&ShardId, &FakeLog)| tip(*shard, log);
        self.logs.iter().map(tip).collect()
    }

    /// Carries out a shard's order.
    fn work(&mut self, shard: ShardId, order: Order) -> Option<Report> {
        let log = self.logs.get_mut(&shard).expect("known");
        let promised = self.promised.entry(shard).or_default();
        Some(match order {
            Order::Promise { epoch } => {
                *promised = epoch;
                Report::Promised { epoch, tip: tip(shard, log) }
            }
            Order::Accept { epoch, .. } | Order::Cut { epoch, .. } if epoch < *promised => {
                return None;
            }
            Order::Held(upto) => {
                let held = self.held.entry(shard).or_default();
                *held = upto.max(*held);
                return None;
            }
            Order::Read { after, .. } => {
                let from = log.ends.iter().rposition(|end| end.lsn <= after);
                let before = from.map(|at| log.ends[at]).unwrap_or_default();
                Report::Read(log.frames(before, 2))
            }
            Order::Find { request, lsn } => Report::Found { request, frame: log.find(lsn) },
            Order::Locate { request, lsn } => Report::Located { request, frame: log.find(lsn) },
            Order::Accept { epoch, before, bytes } => {
                if !log.accept(before, &bytes) {
                    return Some(Report::Refused { epoch, tip: tip(shard, log) });
                }
                Report::Durable { epoch, tip: tip(shard, log) }
            }
            Order::Commit { commit, .. } => {
                log.commit = log.commit.max(commit.min(log.end().lsn));
                return None;
            }
            order @ (Order::Confirm { .. }
            | Order::Survey { .. }
            | Order::Trace { .. }
            | Order::Lead(_)
            | Order::Renew { .. }
            | Order::Quiesce { .. }
            | Order::Resume
            | Order::Leased
            | Order::StepDown) => panic!("{order:?}"),
            Order::Cut { request, epoch, to } => {
                assert!(to.lsn >= log.commit, "a cut at {} below {}", to.lsn, log.commit);
                log.ends.retain(|end| end.lsn <= to.lsn);
                assert_eq!(log.end(), to, "a cut within a frame, or of another log");
                Report::Cut { request, epoch, tip: tip(shard, log) }
            }
        })
    }
}

fn tip(shard: ShardId, log: &FakeLog) -> Tip {
    Tip { shard, epoch: Epoch::new(1), durable: log.end(), floor: log.commit }
}

const LEADER: usize = 0;
const FOLLOWER: usize = 1;

struct World {
    rng: SmallRng,
    nodes: [FakeNode; 2],
    is_up: bool,
    /// What is on its way from each node: control and bulk.
    lanes: [[VecDeque<Message>; 2]; 2],
    rule: Rule,
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
        let nodes = logs.map(FakeNode::new);
        Self { rng, nodes, is_up: false, lanes: Default::default(), rule: Rule::Nobody }
    }

    fn tell(&mut self, node: usize, event: Event) {
        let mut effects = Vec::new();
        self.nodes[node].core.handle(event, &mut effects);
        self.carry_out(node, effects);
    }

    fn flush(&mut self, node: usize) {
        let mut effects = Vec::new();
        self.nodes[node].core.flush(&mut effects);
        self.carry_out(node, effects);
    }

    fn carry_out(&mut self, node: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(message) => {
                    assert!(self.is_up, "{message:?} without a session");
                    self.lanes[node][usize::from(message.is_bulk())].push_back(message);
                }
                Effect::Shard(shard, order) => {
                    let is_ack = matches!(order, Order::Held(_));
                    assert!(!is_ack || self.rule == Rule::Follower, "{order:?} by no rule");
                    self.nodes[node].orders.push_back((shard, order));
                }
                Effect::Election(Message::Promise { epoch, .. }) => {
                    if epoch >= self.nodes[node].epoch {
                        self.nodes[node].epoch = epoch;
                        self.tell(node, Event::Promised(epoch));
                    }
                }
                Effect::Complete(epoch) => {
                    assert_eq!(epoch, self.nodes[node].epoch);
                    self.nodes[node].is_complete = true;
                    self.check_complete();
                }
                Effect::Election(_) | Effect::Stale(_) => {}
            }
        }
    }

    fn check_complete(&self) {
        let [leader, follower] = &self.nodes;
        let ends = |node: &FakeNode| node.logs.values().map(|l| l.ends.clone()).collect::<Vec<_>>();
        assert_eq!(ends(leader), ends(follower), "complete, but not equal");
    }

    fn lead(&mut self) {
        let leader = &mut self.nodes[LEADER];
        leader.epoch = Epoch::new(leader.epoch.value() + 1);
        leader.is_complete = false;
        let (epoch, tips) = (leader.epoch, leader.tips());
        self.tell(LEADER, Event::Lead { epoch, ver: 1, tips });
        self.tell(LEADER, Event::Rule(self.rule));
    }

    fn step(&mut self) {
        let node = self.rng.random_range(0..2);
        match self.rng.random_range(0..100) {
            0..15 => self.seal(),
            15..45 => self.deliver(node),
            45..75 => self.work(node),
            75..90 => self.flush(node),
            90..93 => {
                let mut effects = Vec::new();
                self.nodes[node].core.heartbeat(&mut effects);
                self.carry_out(node, effects);
            }
            93..96 => self.set_up(!self.is_up),
            96..98 => {
                self.rule = if self.rng.random_bool(0.7) { Rule::Follower } else { Rule::Nobody };
                self.tell(LEADER, Event::Rule(self.rule));
            }
            _ => self.lead(),
        }
        self.check();
    }

    fn seal(&mut self) {
        let shard = ShardId::new(self.rng.random_range(0..SHARDS));
        let leader = &mut self.nodes[LEADER];
        let frame = leader.logs.get_mut(&shard).expect("known").seal(&mut self.rng);
        leader.is_complete = false;
        self.tell(LEADER, Event::Shard(shard, Report::Sealed(frame)));
        let commit = match self.rule {
            Rule::Follower => self.nodes[LEADER].held.get(&shard).copied().unwrap_or_default(),
            // As if the bucket stood in for the follower.
            Rule::Nobody => self.nodes[LEADER].logs[&shard].end().lsn,
        };
        let closed = Stamp::ZERO;
        self.tell(LEADER, Event::Shard(shard, Report::Committed { commit, closed }));
    }

    fn deliver(&mut self, from: usize) {
        let lane = self.rng.random_range(0..2);
        if let Some(message) = self.lanes[from][lane].pop_front() {
            self.tell(1 - from, Event::Received(message));
        }
    }

    fn work(&mut self, node: usize) {
        let Some((shard, order)) = self.nodes[node].orders.pop_front() else { return };
        if let Some(report) = self.nodes[node].work(shard, order) {
            self.tell(node, Event::Shard(shard, report));
        }
    }

    fn set_up(&mut self, is_up: bool) {
        if is_up == self.is_up {
            return;
        }
        self.is_up = is_up;
        self.lanes = Default::default();
        for node in [LEADER, FOLLOWER] {
            self.tell(node, if is_up { Event::Up } else { Event::Down });
        }
    }

    fn is_at_rest(&self) -> bool {
        self.lanes.as_flattened().iter().all(VecDeque::is_empty)
            && self.nodes.iter().all(|node| node.orders.is_empty())
            && self.nodes[LEADER].is_complete
    }

    /// What a leader's shard was told that the follower holds, it holds.
    fn check(&self) {
        let [leader, follower] = &self.nodes;
        for (shard, held) in &leader.held {
            let equal = leader.logs[shard].ends.iter().take_while(|end| end.lsn <= *held);
            assert!(
                equal.eq(follower.logs[shard].ends.iter().take_while(|end| end.lsn <= *held)),
                "shard {shard}: held up to {held}, but {:?}",
                follower.logs[shard]
            );
        }
        // What the follower shows is the leader's.
        for (shard, log) in &follower.logs {
            let shown = log.ends.iter().filter(|end| end.lsn <= log.commit);
            let leaders = &leader.logs[shard].ends;
            for end in shown {
                assert!(leaders.contains(end), "shard {shard}: {end:?} is shown, but not led");
            }
        }
        let in_flight: usize = self.lanes[LEADER][1].iter().map(bulk_bytes).sum();
        let most = WINDOW_BYTES + 80 * usize::from(SHARDS);
        assert!(in_flight <= most, "{in_flight} bytes are on their way");
    }
}

fn bulk_bytes(message: &Message) -> usize {
    let Message::Append { frames, .. } = message else { panic!("{message:?} is not bulk") };
    frames.len()
}

#[test]
fn whatever_happens_the_follower_becomes_equal_and_holds_what_it_is_said_to_hold() {
    for seed in 0..2_000 {
        let mut world = World::new(seed);
        world.lead();
        (0..world.rng.random_range(0..400)).for_each(|_| world.step());
        world.rule = Rule::Follower;
        world.tell(LEADER, Event::Rule(Rule::Follower));
        world.set_up(false);
        world.set_up(true);
        for _ in 0..5_000 {
            let node = world.rng.random_range(0..2);
            world.work(node);
            world.deliver(node);
            world.flush(node);
            world.check();
            if world.is_at_rest() {
                break;
            }
        }
        assert!(world.nodes[LEADER].is_complete, "seed {seed}");
        world.check_complete();
        for (shard, log) in &world.nodes[LEADER].logs {
            let held = world.nodes[LEADER].held.get(shard).copied().unwrap_or_default();
            assert_eq!(held, log.end().lsn, "seed {seed}");
        }
    }
}
