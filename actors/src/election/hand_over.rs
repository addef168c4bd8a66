//! Planned hand-over: `cluster handover`, SIGTERM, a rolling upgrade, a sick disk.
//!
//! ```text
//!   Quiesce ──▶ F holds the tip ──▶ GET ──▶ CAS: epoch+1, Active, leader F (its boot) ──▶ HandOver
//!      └─ called off: too slow, F lost ──▶ Resume
//! ```
//! From the order to quiesce on nothing is appended and no lease is relied on, so that the new
//! leader begins with the whole log and with nobody who might still read from the old one.

use celeriant_schema::peer::{Message, Tip};
use celeriant_schema::{Epoch, StoreId};

use super::claim::after;
use super::core::{Core, Role};
use super::register::{Process, Set};
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
    /// Who holds the leader's whole log, and what that is.
    held: Option<(StoreId, Vec<Tip>)>,
}

impl Core {
    /// Stops appending, if there is somebody who could lead.
    pub(super) fn begin_hand_over(&mut self, id: Option<u64>) -> Result<(), Refused> {
        let Role::Leading(leading) = &self.role else { return Err(Refused::NotLeading) };
        let epoch = leading.epoch;
        if self.hand_over.is_some() || self.access.swap().is_some() || leading.preparing.is_some() {
            return Err(Refused::Busy);
        }
        if let Some(distrust) = self.access.distrust() {
            return Err(Refused::Distrusted(distrust.clone()));
        }
        self.heir()?;
        let until = self.now.saturating_add(self.settings.hand_over_within);
        self.hand_over = Some(HandOver { id, until, held: None });
        self.drop_lease();
        self.out.push(Effect::Quiesce { epoch });
        Ok(())
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
                if lost || self.due(until) {
                    self.call_off_hand_over("the other node did not get the whole log in time");
                }
            }
            None if self.stop_by.is_some() => {
                // What cannot be now may be possible when another change is done.
                let _ = self.begin_hand_over(None);
            }
            None => {}
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
        let epoch = after(config.epoch);
        let sent = config.activated(epoch, heir, config.active.set, Vec::new());
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
        let (epoch, ver) = (swap.sent.epoch, swap.sent.ver);
        if let Some((_, tips)) = hand_over.held {
            self.out.push(Effect::Send(Message::HandOver { epoch, ver, tips }));
        }
        self.step_down(Reason::HandedOver);
    }

    pub(super) fn call_off_hand_over(&mut self, why: &'static str) {
        let Some(hand_over) = self.hand_over.take() else { return };
        if let Role::Leading(leading) = &mut self.role {
            leading.preparing = None;
        }
        self.out.push(Effect::Resume);
        if let Some(id) = hand_over.id {
            self.out.push(Effect::Answer { id, result: Err(Refused::CalledOff(why)) });
        }
    }
}
