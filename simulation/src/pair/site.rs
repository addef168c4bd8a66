//! One node of a pair: its machine, which outlives every process, and the process that runs now.

use std::future::{Future, poll_fn, ready};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};

use celeriant_actors::bucket_log::{self, BucketLogs};
use celeriant_actors::clock::Clock;
use celeriant_actors::election::register::{Member, Seal};
use celeriant_actors::election::vocabulary::May;
use celeriant_actors::election::{self};
use celeriant_actors::node::pair::Pair;
use celeriant_actors::node::{Components, Error, Membership, Node, Placement};
use celeriant_actors::replicator::core::Settings as ReplicatorSettings;
use celeriant_schema::peer::{Features, Hello};
use celeriant_schema::{Epoch, StoreId};

use super::betrayal::{Betrayal, Betrayed};
use super::network::{Network, Visitor};
use super::safe::Safe;
use super::seams::Seen;
use crate::bucket::Cloud;
use crate::client::address_of;
use crate::damage::Scar;
use crate::disk::SimDisk;
use crate::gate::Gated;
use crate::link::End;
use crate::machine::{Machine, random_of};
use crate::overseer::Overseer;
use crate::rng::Rng;
use crate::timeline::Micros;
use crate::wire::Wire;

/// What every node can read and write.
pub(super) const FEATURES: Features = Features { min: 1, max: 2 };

/// One node.
pub(super) struct Site {
    pub(super) index: usize,
    pub(super) machine: Machine,
    pub(super) safe: Safe,
    /// The store that its certificate is for.
    pub(super) certified: StoreId,
    /// What its directory says that it is, if that is a copy of another's.
    pub(super) copied: Option<Copied>,
    /// Where its log is not what was written, by shard.
    pub(super) scars: Vec<(usize, Scar)>,
    /// There is something like that.
    pub(super) damaged: Arc<AtomicBool>,
    /// Where its peer finds it.
    pub(super) address: String,
    pub(super) wire: Wire,
    pub(super) stage: Stage,
    /// Powers of the next process.
    pub(super) may: May,
    /// Disk errors that a process has stopped for.
    pub(super) seen_ailments: u64,
    /// Starts that failed in a row.
    pub(super) starts_failed: u32,
    /// It stays down once it has stopped in good order.
    pub(super) stays_down: bool,
    /// Operations with which power goes during the next starts.
    pub(super) trips: Vec<u64>,
    pub(super) rng: Rng,
}

/// Who a copied directory says that it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copied {
    pub(super) store: StoreId,
    pub(super) epochs: (Epoch, Epoch),
}

/// What its process is doing.
pub(super) enum Stage {
    /// There is none until then.
    Down { until: Micros },
    /// It recovers.
    Starting(Pin<Box<dyn Future<Output = Result<Node, Error>>>>),
    /// It serves.
    Up(Box<Node>),
    /// It ends in good order.
    Stopping(Pin<Box<dyn Future<Output = ()>>>),
}

/// What became of a process.
pub(super) enum Turn {
    PowerWent,
    Started(Box<Result<Node, Error>>),
    Failed(Error),
    Stopped,
}

/// What all processes of a pair are made with.
#[derive(Clone)]
pub(super) struct Grounds {
    pub(super) network: Network,
    pub(super) cloud: Cloud,
    pub(super) overseer: Overseer,
    pub(super) election: election::Settings,
    pub(super) replicator: ReplicatorSettings,
    pub(super) betrayal: Option<Betrayal>,
}

/// Which end of the cable is node `index`'s.
pub(super) fn end_of(index: usize) -> End {
    End::BOTH[index]
}

impl Site {
    pub(super) fn node(&self) -> Option<&Node> {
        match &self.stage {
            Stage::Up(node) => Some(node),
            _ => None,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.node().is_some()
    }

    /// What its directory says that it is.
    fn identity(&self) -> Copied {
        let own = || Copied { store: self.safe.store(), epochs: self.safe.epochs() };
        self.copied.unwrap_or_else(own)
    }

    /// Its entry of the register.
    pub(super) fn member(&self) -> Member {
        Member {
            store: self.safe.store(),
            node: format!("{}", (b'a' + self.index as u8) as char),
            clients: address_of(self.index),
            replication: self.address.clone(),
            features: FEATURES,
        }
    }

    /// A new process.
    pub(super) fn begin(&mut self, grounds: &Grounds) {
        let power = &self.machine.power;
        power.restore();
        if let Some(operation) = self.trips.pop() {
            power.trip_at(power.operations() + operation);
        }
        let boot = self.machine.next_boot();
        let Copied { store, epochs } = self.identity();
        let gate = self.machine.gate.clone();
        let member = Member { store, ..self.member() };
        let hello = Hello {
            cluster: self.machine.cluster,
            store: member.store,
            boot,
            format: 1,
            shards: self.machine.medias.len() as u16,
            features: member.features,
            address: member.replication.clone(),
        };
        let Grounds { network, cloud, overseer, election, replicator, betrayal } = grounds;
        let seed = self.rng.number();
        let (node, certified) = (self.index, self.certified);
        let link = match network.connect(Visitor { node, hello, certified, gate: &gate, seed }) {
            Ok(link) => link,
            Err(error) => {
                self.stage = Stage::Starting(Box::pin(ready(Err(error))));
                return;
            }
        };
        overseer.begins(self.index, member.store, boot);
        let node = self.index as u16;
        // Two lanes of one process: handles of the same generation.
        let buckets = cloud.attach_two(node);
        let betrayed = |bucket| Betrayed::new(Gated::new(bucket, &gate), *betrayal);
        let buckets = (betrayed(buckets.0), betrayed(buckets.1));
        let seed = u128::from(self.rng.number()) << 64 | u128::from(self.rng.number());
        let log = bucket_log::Settings::default();
        let log = BucketLogs::new(self.machine.cluster, bucket_log::Seal::new(None), log, seed);
        let pair = Pair {
            member,
            link: Betrayed::new(Seen::new(link, self.index, overseer), *betrayal),
            buckets,
            log: Box::new(log),
            keeper: Box::new(self.safe.attach(*betrayal == Some(Betrayal::PromisesForgotten))),
            epochs,
            may: self.may,
            seal: Seal::new(None),
            election: *election,
            replicator: *replicator,
            seed: self.rng.number(),
        };
        let components: Components<Gated<SimDisk>> = Components {
            cluster: self.machine.cluster,
            boot,
            clock: Arc::clone(&self.machine.clock) as Arc<dyn Clock>,
            disks: self.machine.disks(),
            placement: Placement::Here,
            membership: Membership::Pair(pair.into()),
            random: random_of(boot),
        };
        self.stage = Stage::Starting(Box::pin(Node::start(self.machine.settings(), components)));
    }

    /// The next thing that becomes of its process.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        if let Stage::Down { .. } = self.stage {
            return Poll::Pending;
        }
        if self.machine.power.poll_off(cx).is_ready() {
            return Poll::Ready(Turn::PowerWent);
        }
        match &mut self.stage {
            Stage::Down { .. } => Poll::Pending,
            Stage::Starting(start) => {
                start.as_mut().poll(cx).map(|started| Turn::Started(Box::new(started)))
            }
            Stage::Up(node) => pin!(node.failed()).poll(cx).map(Turn::Failed),
            Stage::Stopping(stop) => stop.as_mut().poll(cx).map(|()| Turn::Stopped),
        }
    }

    /// Ends in good order.
    pub(super) fn stop(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Down { until: Micros::MAX }) {
            Stage::Up(node) => self.stage = Stage::Stopping(Box::pin(node.stop())),
            other => self.stage = other,
        }
    }

    /// The process is gone; its disks' operations in flight are not.
    pub(super) fn end(&mut self, until: Micros) {
        match std::mem::replace(&mut self.stage, Stage::Down { until }) {
            Stage::Up(node) => node.kill(),
            // What it had begun is cut off from its disks and waits for ever.
            Stage::Starting(_) | Stage::Stopping(_) | Stage::Down { .. } => {}
        }
        self.machine.gate.open();
        self.machine.clock.stand_still(false);
    }
}

/// The next thing that becomes of a process of `sites`, and of which.
pub(super) async fn next_turn(sites: &mut [Site]) -> (usize, Turn) {
    poll_fn(|cx| {
        for site in &mut *sites {
            if let Poll::Ready(turn) = site.poll(cx) {
                return Poll::Ready((site.index, turn));
            }
        }
        Poll::Pending
    })
    .await
}
