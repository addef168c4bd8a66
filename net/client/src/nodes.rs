//! Where the next request goes: the one place that decides it, without I/O, clock or randomness.
//!
//! ```text
//!               ┌ leader: believed to lead until somebody knows better
//! nodes   A     B     C      in the order of the URL; then those that were only heard of
//!         │     │     └ down until t      not reached, or lost: nothing is asked of it until then
//!         │     └ refused until t         said that it does not lead: no write until then
//!         └ behind until t                did not reach a stamp in time: no `any` read until then
//! ```
//!
//! A request for the leader goes to the node that may be asked first: the leader, or the next one
//! in turn while that one is down. Every wait is longer than the one before and has jitter, so that
//! two nodes that both point at the other, or a store without a leader, are asked a few times a
//! second and no more. A read that any node may answer goes to one that does not lead, in rotation,
//! and every second attempt of it to the leader.
//!
//! What is heard may be old: the answer of a node that used to lead can arrive after a newer one
//! was found. `turn` numbers beliefs; news about an earlier one changes nothing.
//! Deliberately absent: connections (`link`), and whether to send again (`resend`).

#[cfg(test)]
mod nodes_test;

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::url;

/// Addresses known at a time: those of the URL, and those that nodes named.
pub(crate) const NODES_MAX: usize = 2 * url::ADDRESSES_MAX;

/// A node that cannot be reached is left alone this long at first,
const DOWN_FIRST: Duration = Duration::from_millis(10);
/// and this long at most, or for as long as the attempt to reach it took.
const DOWN_MAX: Duration = Duration::from_secs(1);
/// A node that does not lead is not asked to for this long at first,
const SEARCH_FIRST: Duration = Duration::from_millis(10);
/// and this long at most: so much later than possible a new leader is found.
const SEARCH_MAX: Duration = Duration::from_millis(250);

/// So many times longer each time. A hand-over takes some 100 ms: were it 2, the wait that is under
/// way when it is over would be most of what a writer notices of it.
const SEARCH_GROWTH: f64 = 1.4;

/// Names a node for as long as its client lives; never used for another address.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct NodeId(u64);

/// Who may answer a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    /// The node that leads.
    Leader,
    /// Any node; this is the request's attempt with that number, from 0.
    Any(u32),
}

/// Where to send, and not before when.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Choice {
    pub(crate) node: NodeId,
    /// It may be asked now if this is not later.
    pub(crate) at: Instant,
    /// It is not the one that is believed to lead, and is asked because any node will do.
    pub(crate) spread: bool,
    turn: u64,
}

/// All that is known about where the nodes are and which of them leads.
#[derive(Debug)]
pub(crate) struct Nodes {
    nodes: Vec<Node>,
    leader: NodeId,
    /// Number of the belief about who leads.
    turn: u64,
    search: Backoff,
    next_id: u64,
    rotation: usize,
    seed: u64,
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    address: String,
    from_url: bool,
    down: Backoff,
    down_until: Option<Instant>,
    refused_until: Option<Instant>,
    behind_until: Option<Instant>,
}

impl Nodes {
    /// Believes that the first address leads. `addresses` are not none.
    pub(crate) fn new(addresses: Vec<String>, seed: u64) -> Self {
        assert!((1..=url::ADDRESSES_MAX).contains(&addresses.len()), "{}", addresses.len());
        let search = Backoff::new(SEARCH_FIRST, SEARCH_MAX, seed).growing(SEARCH_GROWTH);
        let (nodes, leader) = (Vec::new(), NodeId(0));
        let mut all = Self { nodes, leader, turn: 0, search, next_id: 0, rotation: 0, seed };
        for address in addresses {
            all.add(address, true);
        }
        all
    }

    /// All nodes, in the order in which they were named.
    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    /// Whether there is only one.
    pub(crate) fn is_alone(&self) -> bool {
        self.nodes.len() == 1
    }

    /// Where a node is; `None` once it is forgotten.
    pub(crate) fn address(&self, id: NodeId) -> Option<&str> {
        self.nodes.iter().find(|node| node.id == id).map(|node| node.address.as_str())
    }

    /// Where a request goes.
    pub(crate) fn choose(&mut self, now: Instant, place: Place) -> Choice {
        match place {
            Place::Any(attempt) if attempt % 2 == 0 => {
                self.follower(now).unwrap_or_else(|| self.first_in_turn(now))
            }
            _ => self.first_in_turn(now),
        }
    }

    fn first_in_turn(&self, now: Instant) -> Choice {
        let leader = self.nodes.iter().position(|node| node.id == self.leader).unwrap_or(0);
        let in_turn = self.nodes[leader..].iter().chain(&self.nodes[..leader]);
        let (at, node) = in_turn
            .map(|node| {
                (node.down_until.max(node.refused_until).map_or(now, |at| at.max(now)), node.id)
            })
            // The first of those that can be asked equally soon.
            .min_by_key(|(at, _)| *at)
            .unwrap_or((now, self.leader));
        Choice { node, at, spread: false, turn: self.turn }
    }

    fn follower(&mut self, now: Instant) -> Option<Choice> {
        self.rotation = self.rotation.wrapping_add(1);
        let ready = |until: Option<Instant>| until.is_none_or(|at| at <= now);
        let may_answer = |node: &&Node| {
            node.id != self.leader && ready(node.down_until) && ready(node.behind_until)
        };
        let count = self.nodes.iter().filter(may_answer).count();
        let nth = self.rotation.checked_rem(count)?;
        let node = self.nodes.iter().filter(may_answer).nth(nth)?.id;
        Some(Choice { node, at: now, spread: true, turn: self.turn })
    }

    /// The node answered as only a leader does.
    pub(crate) fn leads(&mut self, choice: Choice) {
        if choice.node != self.leader {
            if choice.turn != self.turn || self.find(choice.node).is_none() {
                return;
            }
            self.follow(choice.node);
        }
        self.search.reset();
        if let Some(node) = self.find(choice.node) {
            node.refused_until = None;
        }
    }

    /// The node said that it does not lead; `hint`: the address of the one that does.
    pub(crate) fn does_not_lead(&mut self, now: Instant, choice: Choice, hint: Option<&str>) {
        if choice.turn != self.turn {
            return;
        }
        // Of many requests that were refused at the same time, the first one says it.
        let wait = match self.find(choice.node) {
            Some(node) if node.refused_until.is_none_or(|at| at <= now) => self.search.wait(),
            _ => Duration::ZERO,
        };
        if let Some(node) = self.find(choice.node) {
            node.refused_until = node.refused_until.max(Some(now + wait));
        }
        let Some(address) = hint.and_then(|hint| url::address(hint).ok()) else { return };
        let known = self.nodes.iter().find(|node| node.address == address).map(|node| node.id);
        let leader = known.unwrap_or_else(|| self.add(address, false));
        if leader != choice.node && leader != self.leader {
            self.follow(leader);
        }
    }

    /// The node did not have what a reader asked for, `took` after it was asked.
    pub(crate) fn is_behind(&mut self, now: Instant, choice: Choice, took: Duration) {
        if let Some(node) = self.find(choice.node) {
            // So at most half of the time is spent with waiting for it.
            node.behind_until = Some(now + took);
        }
    }

    /// The node was not reached, or lost; noticing it `took` this long.
    pub(crate) fn down(&mut self, now: Instant, id: NodeId, took: Duration) {
        let alone = self.is_alone();
        let Some(node) = self.find(id) else { return };
        if node.down_until.is_some_and(|at| at > now) {
            return;
        }
        let wait = node.down.wait();
        // With others to ask, at most half of the time is spent with waiting for it.
        node.down_until = Some(now + if alone { wait } else { wait.max(took) });
    }

    /// Whether nothing is to be asked of the node now.
    pub(crate) fn is_down(&self, now: Instant, id: NodeId) -> bool {
        let node = self.nodes.iter().find(|node| node.id == id);
        node.and_then(|node| node.down_until).is_some_and(|at| at > now)
    }

    /// The node answered something.
    pub(crate) fn up(&mut self, id: NodeId) {
        if let Some(node) = self.find(id) {
            node.down.reset();
            node.down_until = None;
        }
    }

    fn follow(&mut self, leader: NodeId) {
        self.leader = leader;
        self.turn += 1;
    }

    fn find(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.iter_mut().find(|node| node.id == id)
    }

    fn add(&mut self, address: String, from_url: bool) -> NodeId {
        if self.nodes.len() == NODES_MAX {
            // The URL names at most half of them: there is one, and the oldest goes.
            let old = self.nodes.iter().position(|node| !node.from_url && node.id != self.leader);
            old.map(|old| self.nodes.remove(old));
        }
        let id = NodeId(self.next_id);
        self.next_id += 1;
        let seed = self.seed.rotate_left(17) ^ self.next_id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let down = Backoff::new(DOWN_FIRST, DOWN_MAX, seed);
        let (down_until, refused_until, behind_until) = (None, None, None);
        self.nodes.push(Node {
            id,
            address,
            from_url,
            down,
            down_until,
            refused_until,
            behind_until,
        });
        id
    }
}
