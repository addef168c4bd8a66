//! What a shard is told about its log, carried out in order.
//!
//! An order that must wait for the disk holds back those behind it. A promise overtakes frames of
//! lower epochs: they count for nothing any more, and a full disk must not keep a node from
//! promising.

use celeriant_schema::peer::Position;
use celeriant_schema::{BootId, Epoch, Lsn, Stamp};
use celeriant_storage::Error;

use super::commit::Elsewhere;
use super::core::{Core, Effect, Owed, Role};
use super::search::Purpose;
use crate::clock::Micros;
use crate::replicator::orders::{Lead, Order, Report};
use crate::work::Work;

/// What only a shard that leads keeps.
#[derive(Debug)]
pub(super) struct Leadership {
    /// The epoch that it leads.
    pub(super) epoch: Epoch,
    /// The first one of this leadership.
    pub(super) since: Epoch,
    pub(super) boot: BootId,
    /// Attempts of writes so far.
    pub(super) attempts: u64,
    /// Appends nothing new.
    pub(super) is_quiesced: bool,
    /// Whom to tell when all that was begun has ended.
    quiesce: Option<Epoch>,
    /// What was reported so far.
    sealed: Lsn,
    committed: (Lsn, Stamp),
}

/// The log must be opened anew before anything else happens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reopen {
    /// Because it must end there: request, epoch and place of [`Order::Cut`].
    pub cut: Option<(u64, Epoch, Position)>,
}

impl<R> Core<R> {
    /// Takes orders, in their order.
    ///
    /// # Errors
    /// Every error of the log path. The shard must stop.
    pub fn order(
        &mut self,
        now: Micros,
        orders: Vec<Order>,
        effects: &mut Vec<Effect<R>>,
    ) -> Result<(), Error> {
        for order in orders {
            if let Order::Promise { epoch: promised } = order {
                self.orders.retain(|order| match order {
                    Order::Accept { epoch, .. } => *epoch >= promised,
                    _ => true,
                });
            }
            self.orders.push_back(order);
        }
        self.carry_out(now, effects)?;
        self.assert_invariants();
        Ok(())
    }

    /// Orders that are not carried out, for the core that comes after this one.
    pub fn take_orders(&mut self) -> Vec<Order> {
        self.orders.drain(..).collect()
    }

    /// Work that is not done and can be, by the core that comes after this one.
    pub fn take_carried(&mut self) -> Vec<Work<R>> {
        std::mem::take(&mut self.carried)
    }

    /// Carries out what need not wait.
    pub(super) fn carry_out(
        &mut self,
        now: Micros,
        effects: &mut Vec<Effect<R>>,
    ) -> Result<(), Error> {
        while !self.is_closing
            && let Some(mut order) = self.orders.pop_front()
        {
            if !self.obey(now, &mut order, effects)? {
                self.orders.push_front(order);
                break;
            }
        }
        Ok(())
    }

    /// Carries out one order; `false` if it must wait.
    fn obey(
        &mut self,
        now: Micros,
        order: &mut Order,
        effects: &mut Vec<Effect<R>>,
    ) -> Result<bool, Error> {
        match order {
            Order::Read { after, bytes_max } => self.read_frames(*after, *bytes_max, effects),
            Order::Find { request, lsn } => {
                self.find_frame(Purpose::Find { request: *request }, *lsn, effects);
            }
            Order::Locate { request, lsn } => {
                self.find_frame(Purpose::Locate { request: *request }, *lsn, effects);
            }
            Order::Confirm { number } => {
                let (number, commit) = (*number, self.log.committed_position());
                effects.push(Effect::Report(Report::Confirmed { number, commit }));
            }
            Order::Trace { txn } => {
                let step = crate::work::Step::Trace { txn: *txn };
                self.take(now, crate::work::Work::Step(step), effects);
            }
            Order::Held(upto) => self.held_elsewhere(now, *upto, effects),
            Order::Leased => self.resume_unproven(effects),
            order => match &self.role {
                Role::Following(_) => return self.obey_following(now, order, effects),
                Role::Leading(_) => self.obey_leading(now, order, effects),
            },
        }
        Ok(true)
    }

    fn obey_following(
        &mut self,
        now: Micros,
        order: &mut Order,
        effects: &mut Vec<Effect<R>>,
    ) -> Result<bool, Error> {
        let Role::Following(follower) = &mut self.role else { return Ok(true) };
        match order {
            Order::Accept { .. } => return Ok(self.accept(order, effects)),
            Order::Commit { commit, closed } => self.learn_commit(*commit, *closed, effects)?,
            Order::Promise { epoch } => {
                let epoch = *epoch;
                follower.epoch = epoch.max(follower.epoch);
                self.forget_elsewhere();
                if !self.log.is_settled() {
                    return Ok(false);
                }
                effects.push(Effect::Report(Report::Promised { epoch, tip: self.log.tip() }));
            }
            Order::Cut { epoch, .. } if *epoch != follower.epoch => {}
            Order::Cut { request, epoch, to } => {
                if !self.log.is_settled() {
                    return Ok(false);
                }
                if let Some(reopen) = self.cut((*request, *epoch, *to), effects) {
                    self.close(reopen, effects);
                }
            }
            Order::Survey { epoch } => {
                if !self.log.is_settled() || !self.show_all(effects)? {
                    return Ok(false);
                }
                let Role::Following(follower) = &self.role else { return Ok(true) };
                let named = follower.pending().map(|leg| (leg.txn, leg.participants.clone()));
                let (epoch, pending, tip) = (*epoch, named.collect(), self.log.tip());
                effects.push(Effect::Report(Report::Surveyed { epoch, tip, pending }));
            }
            Order::Lead(lead) => self.lead(now, lead, effects),
            Order::StepDown => self.forget_elsewhere(),
            // Of a leadership that is over.
            _ => {}
        }
        Ok(true)
    }

    /// What the other place holds of one leadership's log says nothing about another's.
    fn forget_elsewhere(&mut self) {
        if let Elsewhere::Upto(held) = &mut self.elsewhere {
            *held = Lsn::ZERO;
        }
    }

    fn obey_leading(&mut self, now: Micros, order: &mut Order, effects: &mut Vec<Effect<R>>) {
        let Role::Leading(leading) = &mut self.role else { return };
        match order {
            Order::Renew { epoch } => {
                leading.epoch = *epoch;
                self.log.lead(leading.epoch, leading.boot);
                self.owed.push_back(Owed::Start);
                self.owed.push_back(Owed::Ready(*epoch));
                self.pay_owed(now, effects);
            }
            Order::Quiesce { epoch } => {
                (leading.is_quiesced, leading.quiesce) = (true, Some(*epoch));
                self.refuse_reservations(effects);
            }
            Order::Resume => {
                (leading.is_quiesced, leading.quiesce) = (false, None);
                self.resume_backlog(now, effects);
            }
            Order::StepDown => self.close(Reopen { cut: None }, effects),
            // It follows nobody.
            _ => {}
        }
    }

    /// Leads a log that is committed to its end.
    fn lead(&mut self, now: Micros, lead: &Lead, effects: &mut Vec<Effect<R>>) {
        assert_eq!(self.committed, self.log.durable(), "surveyed before it leads");
        // All of the log is committed (R11), and so is what was told as complete here.
        self.stamps.note(self.closed_stamp().max(self.log.last_stamp()));
        self.standing.settle(self.shard);
        let Lead { epoch, boot, decisions } = lead;
        let leading = Role::Leading(Leadership {
            epoch: *epoch,
            since: *epoch,
            boot: *boot,
            attempts: 0,
            is_quiesced: false,
            quiesce: None,
            sealed: self.committed,
            committed: (self.committed, Stamp::ZERO),
        });
        let Role::Following(follower) = std::mem::replace(&mut self.role, leading) else {
            unreachable!("only who follows is told to lead");
        };
        self.log.lead(*epoch, *boot);
        // A follower does not look at what it shows.
        self.schemas.forget_all();
        self.owed.push_back(Owed::Start);
        for leg in follower.into_pending() {
            let Some(commit) = decisions.get(&leg.txn) else {
                unreachable!("{} was surveyed, so it is decided", leg.txn);
            };
            self.joints.resolved(leg.txn, self.shard);
            self.settle_recovered(leg, *commit);
        }
        self.owed.push_back(Owed::Ready(*epoch));
        self.pay_owed(now, effects);
    }

    /// Nothing more happens here until the log is opened anew: everybody who waits is told.
    fn close(&mut self, reopen: Reopen, effects: &mut Vec<Effect<R>>) {
        // Before what is not committed is forgotten: the next leader may commit it yet.
        self.shown = self.closed_stamp();
        self.is_closing = true;
        self.lose_listeners(effects);
        self.abandon(effects);
        effects.push(Effect::Reopen(reopen));
    }

    /// Tells what is sealed and committed since the last time.
    pub fn report(&mut self, effects: &mut Vec<Effect<R>>) {
        self.tell_listeners(effects);
        if let Some(position) = self.standing.positions().get(usize::from(self.shard.value())) {
            let elsewhere = match (self.elsewhere, &self.role) {
                (Elsewhere::Upto(held), Role::Leading(_)) => Some(held),
                _ => None,
            };
            position.note(self.log.durable(), self.committed, elsewhere);
        }
        if self.elsewhere == Elsewhere::Alone {
            return;
        }
        let closed = self.closed_stamp();
        let is_at_rest = self.is_at_rest();
        let Role::Leading(leading) = &mut self.role else { return };
        for frame in self.log.sealed(leading.sealed) {
            leading.sealed = frame.place.end.lsn;
            let (before, end, bytes) = (frame.place.before, frame.place.end, frame.bytes);
            let frames = crate::replicator::orders::Frames { before, end, bytes };
            effects.push(Effect::Report(Report::Sealed(frames)));
        }
        let committed = (self.committed, closed);
        if committed != leading.committed {
            leading.committed = committed;
            let (commit, closed) = committed;
            effects.push(Effect::Report(Report::Committed { commit, closed }));
        }
        if is_at_rest && let Some(epoch) = leading.quiesce.take() {
            let tip = self.log.tip();
            effects.push(Effect::Report(Report::Quiesced { epoch, tip }));
        }
    }

    /// Everything that was begun has ended.
    fn is_at_rest(&self) -> bool {
        let nothing_owed = self.owed.is_empty() && self.legs.is_empty();
        nothing_owed && self.pending.is_empty() && self.log.idle()
    }
}
