//! What a node does that doesn't lead: keep its promises, grant a lease, wait until it may claim.
//!
//! ```text
//!   Promise, or a heartbeat of a new epoch ──▶ Effect::Promise ──▶ Promised, Effect::Follow (R6)
//!   heartbeat of that epoch ──▶ Alive, LeaseGrant (R5, R16)          of a lower one ──▶ Deposed
//!   silence, grants and leases over, back-off over ──▶ GET ──▶ claim
//! ```
//! A claim that is under way changes nothing here: the node goes on as a follower until the claim
//! is known to be in the register, so that one that is stuck in a dying bucket stops nobody.
//! Deliberately absent: frames (R10 is the replicator's).

use celeriant_schema::Epoch;
use celeriant_schema::peer::{Message, Tip};

use super::core::{Core, Role};
use super::register::{Active, Config, Link, Phase, Process, Set};
use super::settings::{Settings, from_ms, longer};
use super::swap::Intent;
use super::vocabulary::{Distrust, Effect, Reason, Refused};
use crate::clock::Micros;

/// Epochs that a recovery leaves out: a store that was given up may have promised some, and must
/// not depose anybody when it comes back.
const RECOVERY_LEAP: u64 = 1_000;

/// A lease that somebody else holds by the register.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct LeaseSeen {
    epoch: Epoch,
    seq: u64,
    /// When it was first seen; the holder counts from before.
    pub(super) at: Micros,
    pub(super) ttl_ms: u32,
}

/// An open claim in the register.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ClaimSeen {
    epoch: Epoch,
    /// When it was first seen.
    pub(super) at: Micros,
}

impl Core {
    /// The link to the peer came up or went down.
    pub(super) fn meet(&mut self, peer: Option<Process>) {
        self.peer = peer;
        self.pulse.promised = None;
        if let Some(peer) = peer {
            self.met = Some(peer);
            self.hear_follower(peer.store);
        }
    }

    /// R6: whether what comes in `epoch` is heard: nothing below a promise, nor what another says
    /// in an epoch that this process leads or takes over.
    fn hears(&self, epoch: Epoch) -> bool {
        epoch >= self.promising.0 && self.own_epoch().is_none_or(|own| epoch > own)
    }

    fn refuse(&mut self) {
        let ver = self.access.config().map_or(0, |config| config.ver);
        self.out.push(Effect::Send(Message::Deposed { epoch: self.promising.0, ver }));
    }

    /// A claimant or leader asks for a promise: it has a newer epoch, or a new link.
    pub(super) fn asked_to_promise(&mut self, peer: Process, epoch: Epoch) {
        if !self.hears(epoch) {
            return self.refuse();
        }
        self.heard_at = self.now;
        let under_way = self.promising == (epoch, Some(peer)) && self.promised < epoch;
        if under_way {
            return;
        }
        self.step_down(Reason::Deposed { epoch });
        self.promising = (epoch, Some(peer));
        self.out.push(Effect::Promise(epoch));
    }

    /// The promise is durable: go on with what it was for.
    pub(super) fn take_promise(&mut self, epoch: Epoch, tips: Vec<Tip>) {
        self.promised = self.promised.max(epoch);
        match self.role {
            Role::TakingOver(_) => self.promised_own(epoch),
            Role::Following { .. } => {
                let (asked, peer) = self.promising;
                let Some(peer) = peer.filter(|_| asked == epoch) else { return };
                if self.peer != Some(peer) {
                    return;
                }
                self.out.push(Effect::Send(Message::Promised { epoch, tips }));
                self.note_epoch(epoch);
                let leader = Some((peer.store, epoch));
                if !matches!(self.role, Role::Following { leader: known } if known == leader) {
                    self.out.push(Effect::Follow { leader: peer.store, epoch });
                    self.change_role(Role::Following { leader }, Reason::Promised { epoch });
                }
            }
            Role::Leading(_) | Role::Stopped => {}
        }
    }

    pub(super) fn take_heartbeat(&mut self, peer: Process, number: u64, epoch: Epoch) {
        let known = matches!(self.role, Role::Following { leader } if leader
            == Some((peer.store, epoch)));
        // First contact in a newer epoch: promise first.
        if !known || !self.hears(epoch) {
            return self.asked_to_promise(peer, epoch);
        }
        self.heard_at = self.now;
        let (promised, leading) = (self.promised, false);
        self.out.push(Effect::Send(Message::Alive { number, promised, leading }));
        // A claim that is under way may turn out to be won at any moment.
        if self.access.swap().is_none() {
            self.grant(number, epoch);
        }
    }

    /// R16: counted from after receiving, and with a margin. A node that will not claim again for
    /// another reason grants as well: its next process waits.
    fn grant(&mut self, number: u64, epoch: Epoch) {
        let lasts_ms = (self.settings.grant / 1_000) as u32;
        let until = self.now.saturating_add(longer(from_ms(lasts_ms)));
        self.granted_until = self.granted_until.max(until);
        self.out.push(Effect::Send(Message::LeaseGrant { number, epoch, lasts_ms }));
    }

    pub(super) fn take_lease_back(&mut self, peer: Process, epoch: Epoch) {
        if matches!(self.role, Role::Following { leader } if leader == Some((peer.store, epoch))) {
            self.granted_until = self.now;
        }
    }

    /// The peer speaks of an epoch that the register was not seen in: look.
    pub(super) fn note_epoch(&mut self, epoch: Epoch) {
        if self.access.config().is_none_or(|config| epoch > config.epoch) {
            self.access.doubt();
        }
    }

    /// R16: a challenger counts from when it first saw a lease.
    pub(super) fn note_lease(&mut self) {
        let Some(config) = self.access.config() else { return };
        let (epoch, now) = (config.active.epoch, self.now);
        self.lease_seen = config.lease.map(|lease| {
            let known = self.lease_seen.filter(|l| (l.epoch, l.seq) == (epoch, lease.seq));
            let (seq, ttl_ms) = (lease.seq, lease.ttl_ms);
            known.unwrap_or(LeaseSeen { epoch, seq, at: now, ttl_ms })
        });
    }

    pub(super) fn note_claim(&mut self) {
        let Some(config) = self.access.config() else { return };
        let (epoch, now) = (config.epoch, self.now);
        let claimed = config.phase == Phase::Claimed;
        self.claim_seen = claimed.then(|| {
            let known = self.claim_seen.filter(|claim| claim.epoch == epoch);
            known.unwrap_or(ClaimSeen { epoch, at: now })
        });
    }

    /// What is due while it follows.
    pub(super) fn follow(&mut self) {
        if self.stop_by.is_some() {
            if !self.waits_for_heir() {
                self.stop();
            }
            return;
        }
        if let Some(swap) = self.access.swap() {
            // The leader is back, or this node must not lead: find out, and try no more.
            let back = self.heard_at > swap.since;
            if swap.intent == Intent::Claim && swap.wanted && (back || self.unhealthy) {
                self.access.give_up();
            }
            return;
        }
        let Some(config) = self.access.config() else { return };
        let (me, epoch) = (self.me.process(), config.epoch);
        // Handed over, or just created. An epoch that this process promised was its own once, or
        // never will be (R8); one that it proposed itself rests on what it has given up since.
        let given = epoch > self.proposed || config.ver == 1;
        let named = config.phase == Phase::Active && config.leader == me && given;
        if named && epoch > self.promising.0 && !self.unhealthy {
            return self.take_named(epoch);
        }
        let is_member = config.member(me.store).is_some();
        if !is_member {
            self.join();
        } else if self.is_out_of_date() {
            self.refresh();
        } else if self.may_try() && self.fresh() {
            self.claim();
        }
        // Nobody talks to a node without a place: that it was given one it only finds out here.
        let Settings { register_every, renew_every, .. } = self.settings;
        let every = if is_member { register_every } else { renew_every };
        let stale_at = self.access.stale_at(every);
        self.want_read |= self.due(stale_at);
    }

    /// Whether it is time to claim. Timers only: what a claim may rest on is in `claim.rs`.
    fn may_try(&mut self) -> bool {
        let Some(config) = self.access.config() else { return false };
        if self.unhealthy || self.access.distrust().is_some() {
            return false;
        }
        let (own, leader, active) = (self.me.member.store, config.leader, config.active.leader);
        let alone = config.active.set == Set::Bucket(own);
        let mut at = self.backing_off_until;
        // Nobody waits for the process that it was itself.
        if leader.store != own || active.store != own {
            at = at.max(self.heard_at.saturating_add(self.settings.claim_after));
        }
        // R16. Alone with the bucket nobody else could hold a lease.
        if !alone {
            at = at.max(self.granted_until);
        }
        if let Some(lease) = self.lease_seen.filter(|_| !alone) {
            at = at.max(lease.at.saturating_add(longer(from_ms(lease.ttl_ms))));
        }
        // A claimant that is known to have restarted is no claimant any more.
        let restarted = self.peer.is_some_and(|peer| peer.store == leader.store && peer != leader);
        if let Some(claim) = self.claim_seen.filter(|_| leader.store != own && !restarted) {
            at = at.max(claim.at.saturating_add(self.settings.claim_patience));
        }
        self.due(at)
    }

    /// §3 "create": the first node, and no register. A directory that was a single node's is
    /// adopted the same way; its epoch must not have been used by what it has already (R8).
    pub(super) fn create(&mut self) {
        let Some(feature_level) = self.may.create.filter(|_| !self.unhealthy) else {
            self.access.disbelieve(self.now, Distrust::NotCreated);
            return;
        };
        let used = self.tips_at_start.iter().map(|tip| tip.epoch).max().unwrap_or_default();
        let epoch = Epoch::new(used.max(self.promised).value() + 1);
        self.make(Intent::Create, epoch, feature_level);
    }

    /// The bucket is lost for good, and an operator says that this log has everything: as with
    /// "create", so that all of it goes to the new bucket and to whoever joins.
    pub(super) fn begin_recover(&mut self, id: u64, above: Epoch) -> Result<(), Refused> {
        let is_missing = matches!(self.access.distrust(), Some(Distrust::Missing { .. }));
        if !is_missing || !matches!(self.role, Role::Following { .. }) {
            return Err(Refused::Impossible(
                "recovery is for a node that finds no `config` in its bucket, but has seen one",
            ));
        }
        if self.access.config().is_some() {
            return Err(Refused::Impossible(
                "this process knows a `config` that was lost since: restart it with the new bucket",
            ));
        }
        let Some(feature_level) = self.may.create.filter(|_| !self.unhealthy) else {
            return Err(Refused::Impossible("this node may not create a cluster"));
        };
        if self.access.swap().is_some() {
            return Err(Refused::Busy);
        }
        let seen = self.access.max_epoch_seen().max(self.promised).max(above);
        let epoch = Epoch::new(seen.value().saturating_add(RECOVERY_LEAP));
        self.make(Intent::Recover(id), epoch, feature_level);
        Ok(())
    }

    /// A register that this process leads by, with the bucket, and that rests on nothing else.
    fn make(&mut self, intent: Intent, epoch: Epoch, feature_level: u16) {
        let leader = self.me.process();
        let base = vec![Default::default(); self.tips_at_start.len()];
        let chain = vec![Link { epoch, base }];
        let active = Active { epoch, leader, set: Set::Bucket(leader.store), chain };
        let config = Config {
            cluster: self.me.cluster,
            shards: self.tips_at_start.len() as u16,
            ver: 1,
            epoch,
            phase: Phase::Active,
            leader,
            active,
            lease: Some(self.first_lease()),
            members: vec![self.me.member.clone()],
            feature_level,
            nonce: 0,
        };
        self.swap(intent, config);
    }

    /// The register does not say of this node what is true.
    pub(super) fn is_out_of_date(&self) -> bool {
        let told = self.access.config().and_then(|config| config.member(self.me.member.store));
        self.access.distrust().is_none() && told.is_some_and(|told| *told != self.me.member)
    }

    /// Another address, or another version of the program, since it was put into the register.
    pub(super) fn refresh(&mut self) {
        let Some(mut config) = self.access.config().cloned() else { return };
        if !self.fresh() || self.access.swap().is_some() {
            return;
        }
        let of_own = config.members.iter_mut().find(|m| m.store == self.me.member.store);
        let Some(member) = of_own else { return };
        *member = self.me.member.clone();
        config.ver += 1;
        self.swap(Intent::Refresh, config);
    }

    /// §3 "admit": into the free place, if there is one.
    fn join(&mut self) {
        let Some(config) = self.access.config() else { return };
        let speaks = self.me.member.speaks(config.feature_level);
        let free = config.members.len() == 1 && config.phase == Phase::Active && speaks;
        if !free || !self.may.join || self.access.distrust().is_some() || !self.fresh() {
            return;
        }
        if self.own_history {
            self.access.disbelieve(self.now, Distrust::OwnHistory);
            return;
        }
        if let Some(mut config) = self.access.config().cloned() {
            config.ver += 1;
            config.members.push(self.me.member.clone());
            self.swap(Intent::Join, config);
        }
    }
}
