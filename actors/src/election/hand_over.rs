//! Planned hand-over: `cluster handover`, SIGTERM, a rolling upgrade, a sick disk.
//!
//! ```text
//!   GET ──▶ Quiesce ──▶ F holds the tip ──▶ CAS: epoch+1, Active, leader F (its boot) ──▶ HandOver
//!               └─ called off: too slow, F lost ──▶ Resume
//! ```
//! From the order to quiesce on nothing is appended and no lease is relied on, so that the new
//! leader begins with the whole log and with nobody who might still read from the old one. Writes
//! pause for the CAS only: the register is read before, and its new content goes to the heir, who
//! believes it as if it had read it.
//!
//! A process that ends hands over to {F,S3}: both have everything up to the tip, so that the tip is
//! the base of F's bucket log. It is the hand-over to {F,L} and F's ejection of L in one.

use celeriant_schema::peer::{Message, REGISTER_BYTES_MAX, Tip};
use celeriant_schema::{Epoch, StoreId};
use celeriant_storage::bucket::ETag;

use super::claim::after;
use super::core::{Core, Role};
use super::register::{Link, Process, Set};
use super::swap::{Intent, Swap};
use super::vocabulary::{Effect, Reason, Refused};
use crate::clock::Micros;

/// One that is under way.
#[derive(Debug)]
pub(super) struct HandOver {
    /// The command's; `None` = the process ends.
    id: Option<u64>,
    /// Called off then. Off at most: writes pause for longer, or it comes to nothing.
    until: Micros,
    /// Nothing is appended any more.
    is_quiet: bool,
    /// Who holds the leader's whole log, and what that is.
    held: Option<(StoreId, Vec<Tip>)>,
}

impl Core {
    /// Begins, if there is somebody who could lead.
    pub(super) fn begin_hand_over(&mut self, id: Option<u64>) -> Result<(), Refused> {
        let Role::Leading(leading) = &self.role else { return Err(Refused::NotLeading) };
        if self.hand_over.is_some() || self.access.swap().is_some() || leading.preparing.is_some() {
            return Err(Refused::Busy);
        }
        if let Some(distrust) = self.access.distrust() {
            return Err(Refused::Distrusted(distrust.clone()));
        }
        self.heir()?;
        let until = self.now.saturating_add(self.settings.hand_over_within);
        self.hand_over = Some(HandOver { id, until, is_quiet: false, held: None });
        Ok(())
    }

    /// Stops appending, once the register can be changed at once.
    fn quiesce(&mut self) {
        let (Some(epoch), true) = (self.own_epoch(), self.fresh()) else { return };
        let Some(hand_over) = &mut self.hand_over else { return };
        if !std::mem::replace(&mut hand_over.is_quiet, true) {
            self.drop_lease();
            self.out.push(Effect::Quiesce { epoch });
        }
    }

    /// Who would lead: the process at the other end of the link, if its store is in the set.
    fn heir(&self) -> Result<Process, Refused> {
        let Some(config) = self.access.config() else { return Err(Refused::NotLeading) };
        let Set::Pair(..) = config.active.set else {
            return Err(Refused::NotInSync("the set is this node and the bucket"));
        };
        let store = config.active.set.other(self.me.member.store);
        if store.is_none_or(|store| config.member(store).is_none()) {
            return Err(Refused::NotInSync("it is being replaced"));
        }
        let peer = self.peer.filter(|peer| Some(peer.store) == store);
        peer.ok_or(Refused::NotInSync("there is no link to it"))
    }

    /// The other store holds the end of the log.
    pub(super) fn take_tip_held(&mut self, of: Epoch, store: StoreId, tips: Vec<Tip>) {
        if self.own_epoch() == Some(of)
            && let Some(hand_over) = &mut self.hand_over
        {
            hand_over.held = Some((store, tips));
        }
    }

    /// The process that is named is one of the store that acknowledged the tip.
    pub(super) fn hand_over_is_ready(&self) -> bool {
        let held = self.hand_over.as_ref().and_then(|hand_over| hand_over.held.as_ref());
        held.is_some_and(|(store, _)| self.heir().is_ok_and(|heir| heir.store == *store))
    }

    /// Keeps a hand-over going or calls it off; begins one when the process ends.
    pub(super) fn go_on_handing_over(&mut self, lost: bool) {
        if self.access.swap().is_some() {
            return;
        }
        match &self.hand_over {
            Some(hand_over) => {
                let until = hand_over.until;
                let is_quiet = hand_over.is_quiet;
                if lost || self.due(until) {
                    return self.call_off_hand_over(match is_quiet {
                        true => "the other node did not get the whole log in time",
                        false => "the bucket did not answer in time, or the other node is lost",
                    });
                }
            }
            None if self.stop_by.is_some() => {
                // What cannot be now may be possible when another change is done.
                let _ = self.begin_hand_over(None);
            }
            None => {}
        }
        if self.hand_over.as_ref().is_some_and(|hand_over| !hand_over.is_quiet) {
            self.quiesce();
        }
    }

    /// Whether the process must not lead any longer because it ends.
    pub(super) fn must_stop(&mut self) -> bool {
        let Some(by) = self.stop_by else { return false };
        let hopeless = self.heir().is_err() && self.access.swap().is_none();
        self.due(by) || hopeless
    }

    /// What is quiesced is whole at the heir: now the register.
    pub(super) fn send_hand_over(&mut self) {
        let (Ok(heir), Some(config)) = (self.heir(), self.access.config()) else { return };
        let Some((_, tips)) = self.hand_over.as_ref().and_then(|h| h.held.as_ref()) else { return };
        let epoch = after(config.epoch);
        let mut sent = config.activated(epoch, heir, config.active.set, Vec::new());
        if self.stop_by.is_some() {
            assert_eq!(tips.len(), usize::from(config.shards), "an end of every shard");
            let base = tips.iter().map(|tip| tip.durable).collect();
            sent.active.set = Set::Bucket(heir.store);
            sent.active.chain = vec![Link { epoch, base }];
            sent.lease = Some(self.first_lease());
        }
        let given_up = config.epoch;
        self.swap(Intent::HandOver, sent);
        self.out.push(Effect::Send(Message::LeaseReturn { epoch: given_up }));
    }

    /// The register names the heir.
    pub(super) fn handed_over(&mut self, swap: &Swap) {
        let Some(hand_over) = self.hand_over.take() else { return };
        if let Some(id) = hand_over.id {
            self.out.push(Effect::Answer { id, result: Ok(()) });
        }
        let epoch = swap.sent.epoch;
        if let Some((register, etag)) = self.access.copy() {
            let fits = register.len() <= REGISTER_BYTES_MAX;
            let register = if fits { register } else { Default::default() };
            let etag = etag.as_str().to_owned();
            self.out.push(Effect::Send(Message::HandOver { epoch, register, etag }));
        }
        self.given = self.stop_by.is_some().then_some(epoch);
        self.step_down(Reason::HandedOver);
    }

    /// Whether this process, which ends, must not leave yet: what it last said would be lost with
    /// the session. An heir that leads asks for a promise.
    pub(super) fn waits_for_heir(&mut self) -> bool {
        let (Some(given), Some(by)) = (self.given, self.stop_by) else { return false };
        given > self.promising.0 && self.peer.is_some() && !self.due(by)
    }

    /// The leader before says that the register names this process. What it says there is what the
    /// register was, and that is all that a read could tell.
    pub(super) fn take_hand_over(&mut self, epoch: Epoch, register: &[u8], etag: String) {
        if self.access.take_copy(self.now, register, ETag::new(etag)) {
            self.note_register();
        } else {
            self.note_epoch(epoch);
        }
    }

    pub(super) fn call_off_hand_over(&mut self, why: &'static str) {
        let Some(hand_over) = self.hand_over.take() else { return };
        if let Role::Leading(leading) = &mut self.role {
            leading.preparing = None;
        }
        if hand_over.is_quiet {
            self.out.push(Effect::Resume);
        }
        if let Some(id) = hand_over.id {
            self.out.push(Effect::Answer { id, result: Err(Refused::CalledOff(why)) });
        }
    }
}
