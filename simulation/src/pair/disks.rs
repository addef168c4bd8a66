//! What becomes of a node's disks as a whole, and what an operator does about it.
//!
//! ```text
//!   wipe       empty disks                                   ─┐
//!   clone      the leader's directory, copied: does not start ├─▶ another store takes the place
//!   lose-write, misdirect-write   a log with a scar: never   ─┘   of the lost one
//!              led by, never voted with, once that is known
//!   restore    the directory as it was: what it had acknowledged is gone, and its leader sees it
//! ```
//! One place at a time: what two places hold is lost when both are.

use std::fmt;
use std::sync::atomic::Ordering;

use celeriant_actors::election::register::Set;
use celeriant_actors::election::vocabulary::Command;
use celeriant_schema::{Epoch, StoreId};

use super::World;
use super::betrayal::Betrayal;
use super::inject::Heal;
use super::site::{Copied, Site, Stage};
use crate::damage::{Witness, spoil};
use crate::disk::Files;
use crate::fault::Fault;
use crate::power_cut::Crash;
use crate::timeline::Micros;
use crate::world::spawn;

/// How soon an operator tries again, in µs at least and at most.
const AGAIN: (Micros, Micros) = (300_000, 3_000_000);

/// A node's directory as it was.
#[derive(Clone)]
pub(super) struct Snapshot {
    store: StoreId,
    epochs: (Epoch, Epoch),
    /// By shard.
    files: Vec<Files>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "of {}, which had promised {}", self.store, self.epochs.0)
    }
}

impl World {
    /// Whether everything is in two places, both of them in use and whole: one may be lost.
    fn may_lose_a_place(&self) -> bool {
        let stores = [0, 1].map(|node: usize| self.sites[node].safe.store());
        let register = self.overseer.register();
        let rules = register.is_some_and(|c| c.active.set == Set::pair(stores[0], stores[1]));
        let whole = self.sites.iter().all(|site| site.scars.is_empty() && site.copied.is_none());
        rules && self.is_in_sync() && whole && self.overseer.is_whole()
    }

    fn may_lose_follower(&self, node: usize) -> bool {
        self.leader() == Some(1 - node) && self.may_lose_a_place()
    }

    /// The follower's disks are replaced by empty ones. An operator says so, later.
    pub(super) fn wipe(&mut self, node: usize, fault: &Fault) -> bool {
        if !self.may_lose_follower(node) {
            return false;
        }
        let at = self.timeline.now() + fault.lasts;
        self.down(node, &mut Crash::any(), at);
        let keeps_name = self.shape.betrayal == Some(Betrayal::WipedStoreKeepsItsName);
        let lost = self.empty(node, keeps_name);
        self.heal_at(at, Heal::Replace { node, lost });
        true
    }

    /// Empty disks, formatted anew. Returns which store is gone.
    fn empty(&mut self, node: usize, keeps_name: bool) -> StoreId {
        let site = &mut self.sites[node];
        let lost = site.safe.wipe(keeps_name);
        site.machine.medias.iter().for_each(|media| media.replace(Files::default()));
        site.scars.clear();
        site.damaged.store(false, Ordering::Relaxed);
        site.copied = None;
        // A directory is formatted for the certificate that it is to be used with.
        site.certified = site.safe.store();
        self.overseer.wiped(node, site.safe.store());
        lost
    }

    /// The follower is started on a copy of the leader's directory.
    pub(super) fn clone_leader(&mut self, node: usize, fault: &Fault) -> bool {
        if !self.may_lose_follower(node) {
            return false;
        }
        let now = self.timeline.now();
        self.down(node, &mut Crash::any(), now + 1_000);
        let certified = self.sites[node].certified;
        let lost = self.empty(node, false);
        let Snapshot { store, epochs, files } = self.snapshot(1 - node);
        let site = &mut self.sites[node];
        // It is as it was for the node that it was copied from, and the certificate is not.
        (site.copied, site.certified) = (Some(Copied { store, epochs }), certified);
        site.machine.medias.iter().zip(files).for_each(|(media, files)| media.replace(files));
        self.heal_at(now + fault.lasts, Heal::Uncopy { node, lost });
        true
    }

    /// The operator sees why it does not start.
    pub(super) fn uncopy(&mut self, node: usize, lost: StoreId) {
        let now = self.timeline.now();
        self.down(node, &mut Crash::any(), now + 1_000);
        self.empty(node, false);
        self.heal_at(now + 1_000, Heal::Replace { node, lost });
    }

    fn snapshot(&self, node: usize) -> Snapshot {
        let site = &self.sites[node];
        let files = site.machine.medias.iter().map(|media| media.image()).collect();
        Snapshot { store: site.safe.store(), epochs: site.safe.epochs(), files }
    }

    /// Somebody takes a snapshot, and will restore it.
    pub(super) fn take_snapshot(&mut self, node: usize, fault: &Fault) -> bool {
        let (snapshot, at) = (self.snapshot(node), self.timeline.now() + fault.lasts);
        self.heal_at(at, Heal::Restore { node, snapshot: Box::new(snapshot) });
        true
    }

    /// A follower has its directory as it was. Only while nothing else is wrong: a store that is
    /// behind what it has acknowledged is found out by its leader, and by nobody else.
    pub(super) fn restore(&mut self, node: usize, snapshot: Snapshot) {
        let same = self.sites[node].safe.store() == snapshot.store;
        if !same || !self.is_calm() || !self.may_lose_follower(node) {
            return self.reached.note("snapshot not restored");
        }
        let until = self.timeline.now() + self.rng.between(100, 200_000);
        self.down(node, &mut Crash::any(), until);
        let site = &mut self.sites[node];
        site.safe.restore(snapshot.epochs);
        let medias = site.machine.medias.iter().zip(&snapshot.files);
        medias.for_each(|(media, files)| media.replace(files.clone()));
        let identities = (0..).map(|shard| site.machine.identity(shard));
        self.overseer.restored(node, snapshot.epochs.0, identities.zip(&snapshot.files));
        self.reached.note("snapshot restored");
    }

    /// Nothing is wrong, and nothing is about to be.
    fn is_calm(&self) -> bool {
        let is_calm = |site: &Site| {
            let pending = site.machine.medias.iter().any(|media| media.is_ailing());
            !pending && !site.safe.is_ailing() && !site.machine.power.is_tripped()
        };
        let bucket = self.grounds.cloud.is_ailing();
        self.heals.is_empty() && !bucket && self.sites.iter().all(is_calm)
    }

    /// A write of a log is not where it was reported to be. An operator acts, later, whoever has
    /// noticed by then.
    pub(super) fn spoil_write(&mut self, node: usize, fault: &Fault) -> bool {
        if !self.may_lose_a_place() {
            return false;
        }
        let machine = &self.sites[node].machine;
        let shard = usize::from(fault.shard) % machine.medias.len();
        let media = machine.medias[shard].clone();
        let scars = spoil(&media.image(), &machine.identity(shard), Witness::Watermark, fault);
        if scars.is_empty() {
            return false;
        }
        scars.iter().for_each(|scar| scar.inflict(&media));
        self.sites[node].damaged.store(true, Ordering::Relaxed);
        self.sites[node].scars = scars.into_iter().map(|scar| (shard, scar)).collect();
        self.excuses.rot = true;
        self.heal_at(self.timeline.now() + fault.lasts, Heal::Scrap(node));
        // Half of them are to be met by a start.
        if fault.amount.is_multiple_of(2) {
            self.crash(node, &mut Crash::any());
        }
        true
    }

    /// A node with a damaged disk is taken out of service; once the other one leads, it gets
    /// another disk.
    pub(super) fn scrap(&mut self, node: usize) {
        let now = self.timeline.now();
        if !matches!(self.sites[node].stage, Stage::Down { until: Micros::MAX }) {
            self.down(node, &mut Crash::any(), Micros::MAX);
        }
        let other = 1 - node;
        let leads = self.overseer.register().is_some_and(|register| {
            register.epoch == register.active.epoch
                && register.leader.store == self.sites[other].safe.store()
        });
        if !leads || !self.sites[other].is_up() {
            return self.heal_at(now + AGAIN.0, Heal::Scrap(node));
        }
        let lost = self.empty(node, false);
        self.sites[node].stage = Stage::Down { until: now + 1_000 };
        self.reached.note("damaged disk replaced");
        self.heal_at(now + 1_000, Heal::Replace { node, lost });
    }

    /// An operator orders it again and again until it is done.
    pub(super) fn order_replacement(&mut self, node: usize, lost: StoreId) {
        let member = self.sites[node].member();
        let there = self.overseer.register().is_some_and(|c| c.member(member.store).is_some());
        if there {
            return;
        }
        let leader = self.leader().and_then(|leader| self.sites[leader].node());
        if let Some(cluster) = leader.and_then(|leader| leader.cluster().cloned()) {
            let reached = self.reached.clone();
            spawn(async move {
                let outcome = cluster.command(Command::Replace { lost, member }).await;
                reached.note(match outcome {
                    Ok(()) => "replacement done".into(),
                    Err(refused) => format!("replacement refused: {refused}"),
                });
            });
        }
        self.faults_injected += 1;
        // Never in step with anything that a node does.
        let again = self.rng.between(AGAIN.0, AGAIN.1);
        self.heal_at(self.timeline.now() + again, Heal::Replace { node, lost });
    }
}
