//! Signs of life and leases (R5, R16).
//!
//! ```text
//!   {L,F}    heartbeat ──▶ LeaseGrant      L counts from before sending, minus 5 %
//!                                          F counts from after receiving, plus 5 %
//!   {L,S3}   lease.seq + 1 by CAS          L counts from before the first try, minus 5 %
//!                                          F counts from seeing it first, plus 5 %
//! ```
//! Where reads wait for a lease, the next heartbeat or renewal is sent at once, one for all.
//!
//! Nothing but linearizable reads rests on a lease: with clocks whose rates differ by more than the
//! margins, one of those may miss a write that a new leader has acknowledged just now. Writes don't
//! look at any clock.

use std::collections::VecDeque;

use celeriant_schema::peer::Message;
use celeriant_schema::{Epoch, StoreId};

use super::core::{Core, Role};
use super::reconfigure::Change;
use super::register::Set;
use super::settings::{from_ms, shorter};
use super::swap::{Intent, Swap};
use super::vocabulary::{Effect, Reason};
use crate::clock::Micros;

/// Heartbeats whose sending time is remembered: an answer that comes later than that many
/// heartbeats grants nothing.
const BEATS_MAX: usize = 32;
/// Least time between two heartbeats that reads wait for: so many are enough for all of them, and
/// their answers come before their numbers are forgotten.
const BEAT_SPACING: Micros = 10_000;

/// Signs of life of a claimant or leader.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// Of the last heartbeat.
    pub(super) number: u64,
    next_at: Micros,
    /// Epoch that the peer promised on this link.
    pub(super) promised: Option<Epoch>,
    /// When the last ones were sent, oldest first.
    sent: VecDeque<(u64, Micros)>,
}

impl Pulse {
    /// Another role: no heartbeat that was answered before counts. Numbers go on, and a promise
    /// holds for its epoch, whatever becomes of it here: it is asked for once.
    pub(super) fn restart(&mut self) {
        *self = Self { number: self.number, promised: self.promised, ..Self::default() };
    }
}

impl Core {
    /// Tells the peer that this epoch is this process's: by asking for its promise until it is
    /// given, then by heartbeats.
    pub(super) fn send_pulse(&mut self) {
        let (Some(epoch), Some(config)) = (self.own_epoch(), self.access.config()) else { return };
        let ver = config.ver;
        let talks = self.peer.is_some_and(|peer| config.member(peer.store).is_some());
        if !talks || !self.due(self.pulse.next_at) {
            return;
        }
        self.pulse.next_at = self.now.saturating_add(self.settings.heartbeat);
        self.due(self.pulse.next_at);
        if self.pulse.promised != Some(epoch) {
            return self.out.push(Effect::Send(Message::Promise { epoch, ver }));
        }
        self.pulse.number += 1;
        let (number, shards) = (self.pulse.number, Vec::new());
        if self.pulse.sent.len() == BEATS_MAX {
            self.pulse.sent.pop_front();
        }
        self.pulse.sent.push_back((number, self.now));
        self.out.push(Effect::Send(Message::Heartbeat { number, epoch, ver, shards }));
    }

    /// R5: reads ask for more than is known.
    pub(super) fn hurry_proof(&mut self) {
        let Some(config) = self.access.config() else { return };
        let (in_bucket, now) = (matches!(config.active.set, Set::Bucket(_)), self.now);
        let Role::Leading(leading) = &mut self.role else { return };
        if in_bucket {
            leading.renew_at = leading.renew_at.min(now);
        } else {
            let last = self.pulse.sent.back().map_or(0, |(_, at)| *at);
            let soon = now.max(last.saturating_add(BEAT_SPACING));
            self.pulse.next_at = self.pulse.next_at.min(soon);
        }
    }

    pub(super) fn take_promised(&mut self, epoch: Epoch) {
        if self.own_epoch() == Some(epoch) {
            if self.pulse.promised != Some(epoch) {
                self.pulse.next_at = self.now;
            }
            self.pulse.promised = Some(epoch);
        } else {
            self.take_deposed(epoch);
        }
    }

    /// R9: the peer promised, or knows of, a higher epoch.
    pub(super) fn take_deposed(&mut self, epoch: Epoch) {
        if self.own_epoch().is_some_and(|own| epoch > own) {
            self.step_down(Reason::Deposed { epoch });
        }
    }

    /// A higher version of the same epoch deposes nobody; but what is it?
    pub(super) fn take_deposed_or_news(&mut self, epoch: Epoch, ver: u64) {
        self.take_deposed(epoch);
        if self.access.config().is_some_and(|config| ver > config.ver) {
            self.access.doubt();
        }
    }

    /// A follower of the set grants: nobody else's word counts (R5).
    pub(super) fn take_grant(&mut self, store: StoreId, number: u64, of: Epoch, lasts_ms: u32) {
        let Some(config) = self.access.config() else { return };
        let leads = matches!(&self.role, Role::Leading(leading) if leading.epoch == of);
        let counts = config.active.set.other(self.me.member.store) == Some(store);
        let sent = self.pulse.sent.iter().find(|(known, _)| *known == number);
        if let Some((_, at)) = sent.filter(|_| leads && counts) {
            self.hold_lease(at.saturating_add(shorter(from_ms(lasts_ms))));
        }
    }

    /// The register says that this process leads with the bucket, since `since` or later.
    pub(super) fn hold_bucket_lease(&mut self, since: Micros) {
        let lease = self.access.config().and_then(|config| config.lease);
        if let Some(lease) = lease {
            self.hold_lease(since.saturating_add(shorter(from_ms(lease.ttl_ms))));
        }
    }

    fn hold_lease(&mut self, until: Micros) {
        let handing_over = self.hand_over.is_some();
        let Role::Leading(leading) = &mut self.role else { return };
        let readmitting = matches!(leading.preparing, Some(Change::Readmit(_)));
        if until > leading.lease_until && !handing_over && !readmitting {
            leading.lease_until = until;
            self.out.push(Effect::Lease { until });
        }
    }

    /// The next configuration's challenger waits for no lease of this one: a follower that comes
    /// back has granted nothing yet, an heir leads at once. So it is given up before the register
    /// is changed; the answer to the next order says that no read relies on it any more.
    pub(super) fn drop_lease(&mut self) {
        let Role::Leading(leading) = &mut self.role else { return };
        if std::mem::take(&mut leading.lease_until) > 0 {
            self.out.push(Effect::Lease { until: 0 });
        }
    }

    /// Renews the lease in the register when it is time. Off at most: it lapses, and linearizable
    /// reads ask the register.
    pub(super) fn renew(&mut self) {
        let Role::Leading(leading) = &self.role else { return };
        let at = leading.renew_at;
        let Some(config) = self.access.config() else { return };
        let in_bucket = matches!(config.active.set, Set::Bucket(_));
        if !in_bucket || self.access.distrust().is_some() || !self.due(at) {
            return;
        }
        let Some(mut config) = self.access.config().cloned() else { return };
        let mut lease = config.lease.unwrap_or_else(|| self.first_lease());
        lease.seq += 1;
        lease.ttl_ms = self.first_lease().ttl_ms;
        config.lease = Some(lease);
        config.ver += 1;
        self.swap(Intent::Renew, config);
        self.renew_later();
    }

    pub(super) fn renew_later(&mut self) {
        let at = self.now.saturating_add(self.settings.renew_every);
        if let Role::Leading(leading) = &mut self.role {
            leading.renew_at = at;
        }
        self.due(at);
    }

    pub(super) fn renewed(&mut self, swap: &Swap) {
        self.hold_bucket_lease(swap.since);
    }
}
