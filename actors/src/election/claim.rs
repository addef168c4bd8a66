//! Claim → promise → seal → recover → place → activate (R6 to R8, R13, §3 "take-over").
//!
//! ```text
//!   claim ─CAS─▶ Promise ─▶ Recover ─▶ Place ─CAS─▶ lead        by a claim
//!                Promise ─────────────────────────▶ lead        named leader by the register
//! ```
//! Every step before the last leaves the configuration before it in force: a crash or a step-down
//! anywhere costs nothing but time.
//! Deliberately absent: when to claim (`follow.rs`).

use celeriant_schema::peer::Position;
use celeriant_schema::{Epoch, StoreId};

use super::core::{Core, Role};
use super::reconfigure::Leading;
use super::register::{CHAIN_LINKS_MAX, Config, Link, Phase, Set};
use super::swap::Intent;
use super::vocabulary::{Effect, Place, Reason};
use crate::clock::Micros;

/// An epoch that is this process's, but not led yet.
#[derive(Debug)]
pub(super) struct TakeOver {
    pub(super) epoch: Epoch,
    pub(super) step: Step,
}

/// What it waits for.
#[derive(Debug)]
pub(super) enum Step {
    /// The own promise.
    Promise,
    /// The log.
    Recover,
    /// A second place.
    Place {
        /// Of the set with the bucket.
        chain: Vec<Link>,
        /// The first place that has everything.
        placed: Option<Set>,
    },
}

/// §3: whether the ruling configuration lets `store` claim. (a) One of the pair, with a log that is
/// whole; (b) whoever durably holds the base of the chain. A member in either case.
fn may_claim(config: &Config, store: StoreId, base_held: bool) -> bool {
    config.member(store).is_some()
        && match config.active.set {
            Set::Pair(..) => config.active.set.has(store),
            Set::Bucket(_) => base_held,
        }
}

impl Core {
    /// 1: the register says who may try. What is known of it is fresh.
    pub(super) fn claim(&mut self) {
        let Some(config) = self.access.config() else { return };
        let base_held = config.base().is_some_and(|base| self.base_held == Some(base.epoch));
        let eligible = may_claim(config, self.me.member.store, base_held);
        match config.base() {
            // Whether the log holds it may change until then: ask anew each time.
            Some(base) if !eligible && !self.checking => {
                let (chain, base) = (base.epoch, base.base.clone());
                self.checking = true;
                self.out.push(Effect::Check { chain, base });
            }
            _ if eligible => self.send_claim(),
            _ => {}
        }
    }

    fn send_claim(&mut self) {
        let Some(mut config) = self.access.config().cloned() else { return };
        config.ver += 1;
        config.epoch = after(config.epoch);
        config.phase = Phase::Claimed;
        config.leader = self.me.process();
        // Where it is found now: the register has no other place for that.
        for member in &mut config.members {
            if member.store == self.me.member.store {
                *member = self.me.member.clone();
            }
        }
        self.base_held = None;
        self.swap(Intent::Claim, config);
    }

    /// The log does, or does not, hold the base of a chain.
    pub(super) fn take_check(&mut self, chain: Epoch, held: bool) {
        self.checking = false;
        self.base_held = held.then_some(chain);
        if !held {
            self.back_off();
        }
    }

    /// 2: known to be in the register, so promise.
    pub(super) fn claim_won(&mut self, epoch: Epoch) {
        // The peer may have claimed a later one meanwhile, and have this node's word already; or
        // the log is known to be damaged since.
        let free = epoch > self.promising.0 && !self.unhealthy;
        if matches!(self.role, Role::Following { .. }) && free {
            self.take_over(epoch, Reason::ClaimWon);
        }
    }

    /// Planned hand-over, or a register that it just made: nothing to recover or place.
    pub(super) fn take_named(&mut self, epoch: Epoch) {
        let made = self.access.config().is_some_and(|config| config.ver == 1);
        let reason = match self.reason() {
            Reason::Recovered => Reason::Recovered,
            _ if made => Reason::Created,
            _ => Reason::HandedToUs,
        };
        self.take_over(epoch, reason);
    }

    fn take_over(&mut self, epoch: Epoch, reason: Reason) {
        self.promising = (epoch, None);
        self.out.push(Effect::Promise(epoch));
        self.change_role(Role::TakingOver(TakeOver { epoch, step: Step::Promise }), reason);
    }

    /// 3: promised. Whoever was named leader leads; a claimant recovers.
    pub(super) fn promised_own(&mut self, epoch: Epoch) {
        let Role::TakingOver(take_over) = &mut self.role else { return };
        let Some(config) = self.access.config() else { return };
        if epoch < take_over.epoch || !matches!(take_over.step, Step::Promise) {
            return;
        }
        let epoch = take_over.epoch;
        if config.phase == Phase::Active {
            return self.start_to_lead(epoch);
        }
        take_over.step = Step::Recover;
        let chain = config.active.chain.clone();
        self.out.push(Effect::Recover { epoch, chain });
    }

    /// 4: the log is what it must be; bring it to a second place.
    pub(super) fn take_recovery(&mut self, epoch: Epoch, base: Vec<Position>) {
        let Role::TakingOver(take_over) = &mut self.role else { return };
        let Some(config) = self.access.config() else { return };
        if epoch != take_over.epoch || !matches!(take_over.step, Step::Recover) {
            return;
        }
        assert_eq!(base.len(), usize::from(config.shards), "a position for every shard");
        let chain = extended(&config.active.chain, Link { epoch, base });
        let link = chain[chain.len() - 1].clone();
        take_over.step = Step::Place { chain, placed: None };
        let peer = config.other_member(self.me.member.store).map(|member| member.store);
        self.out.push(Effect::Place { link, peer });
    }

    /// The whole log is in a second place; the first one counts.
    pub(super) fn take_placement(&mut self, of: Epoch, place: Place) {
        let own = self.me.member.store;
        let Role::TakingOver(TakeOver { epoch, step }) = &mut self.role else { return };
        let Step::Place { placed, .. } = step else { return };
        let Some(config) = self.access.config().filter(|_| *epoch == of) else { return };
        let set = match place {
            Place::Bucket => Set::Bucket(own),
            // What a store acknowledged counts for that store only.
            Place::Peer(store) if store != own && config.member(store).is_some() => {
                Set::pair(own, store)
            }
            Place::Peer(_) => return,
        };
        placed.get_or_insert(set);
    }

    pub(super) fn fail_take_over(&mut self, of: Epoch, reason: Reason) {
        if matches!(&self.role, Role::TakingOver(take_over) if take_over.epoch == of) {
            self.step_down(reason);
        }
    }

    /// What is due in a take-over.
    pub(super) fn go_on_taking_over(&mut self) {
        if self.stop_by.is_some() {
            return self.stop();
        }
        let Role::TakingOver(TakeOver { epoch, step }) = &self.role else { return };
        let epoch = *epoch;
        if !matches!(step, Step::Promise) {
            self.send_pulse();
        }
        // Whether it is still its claim is looked at as often as a change would require.
        if self.access.swap().is_some() || !self.fresh() {
            return;
        }
        let Role::TakingOver(TakeOver { step: Step::Place { chain, placed }, .. }) = &self.role
        else {
            return;
        };
        let (Some(set), Some(config)) = (*placed, self.access.config()) else { return };
        let in_bucket = matches!(set, Set::Bucket(_));
        let chain = if in_bucket { chain.clone() } else { Vec::new() };
        let mut sent = config.activated(epoch, self.me.process(), set, chain);
        sent.lease = in_bucket.then(|| self.first_lease());
        self.swap(Intent::Activate, sent);
    }

    /// 6: the activation is known to be in the register. Sent first at `since`.
    pub(super) fn activated(&mut self, epoch: Epoch, since: Micros) {
        if !matches!(&self.role, Role::TakingOver(take_over) if take_over.epoch == epoch) {
            return;
        }
        self.start_to_lead(epoch);
        self.hold_bucket_lease(since);
    }

    fn start_to_lead(&mut self, epoch: Epoch) {
        let Some(config) = self.access.config() else { return };
        assert!(config.epoch == epoch && config.phase == Phase::Active, "{config:?}");
        self.out.push(Effect::Lead { config: Box::new(config.clone()) });
        let reason = match self.reason() {
            named @ (Reason::Created | Reason::Recovered | Reason::HandedToUs) => named.clone(),
            _ => Reason::Activated,
        };
        self.change_role(Role::Leading(Leading::new(epoch, self.now)), reason);
    }
}

/// The epoch after.
pub(super) fn after(epoch: Epoch) -> Epoch {
    Epoch::new(epoch.value() + 1)
}

/// The bucket logs that a claimant's own one continues. A last one without a slot says nothing and
/// is left out; where there is no room the own one holds everything above the first base.
fn extended(chain: &[Link], own: Link) -> Vec<Link> {
    let mut links = chain.to_vec();
    if links.last().is_some_and(|last| last.base == own.base) {
        links.pop();
    }
    if links.len() == CHAIN_LINKS_MAX {
        return vec![Link { epoch: own.epoch, base: links.swap_remove(0).base }];
    }
    links.push(own);
    links
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::election::core::rig::{ME, PEER, in_bucket, pair, peer};

    #[test]
    fn only_a_member_with_a_right_to_it_may_claim() {
        let (pair, in_bucket) = (pair(peer()), in_bucket(peer()));
        assert!(may_claim(&pair, ME, false) && may_claim(&pair, PEER, false));
        assert!(may_claim(&in_bucket, ME, true) && may_claim(&in_bucket, PEER, true));
        assert!(!may_claim(&in_bucket, ME, false), "without the base");
        // An operator has replaced it.
        let replaced = |mut config: Config| {
            config.members[0].store = StoreId::new(3);
            config
        };
        assert!(!may_claim(&replaced(pair.clone()), ME, true));
        assert!(!may_claim(&replaced(in_bucket), ME, true));
        assert!(!may_claim(&replaced(pair), StoreId::new(3), true), "not in the pair yet");
    }
}
