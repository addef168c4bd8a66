//! What arrives at a shard, and what takes care of it.

use celeriant_schema::limits::LIST_PAGE_MAX;
use celeriant_schema::{Refusal, Request, Response};
use celeriant_storage::directory::Pins;

use super::core::{Core, Effect, Owed, Role};
use crate::clock::Micros;
use crate::replicator::orders::Report;
use crate::work::{Answer, AnswerKind, Step, Task, Work};

impl<R> Core<R> {
    pub(super) fn take(&mut self, now: Micros, work: Work<R>, effects: &mut Vec<Effect<R>>) {
        match work {
            Work::Task(task) => self.take_task(now, task, effects),
            Work::Step(step) => self.take_step(now, step, effects),
        }
    }

    fn take_step(&mut self, now: Micros, step: Step, effects: &mut Vec<Effect<R>>) {
        match step {
            Step::Reserve { txn, coordinator, mode, part } => {
                self.reserve(txn, coordinator, mode, part, effects);
            }
            Step::Append { txn, participants, decision } if self.has_leg(txn) => {
                self.owed.push_back(Owed::Append { txn, participants, decision });
                self.pay_owed(now, effects);
            }
            Step::Release { txn } => self.release(now, txn, effects),
            Step::Settle { txn } if self.has_leg(txn) => {
                // Shown at once: its answer may be out already, whatever the log has room for.
                self.show_leg(txn);
                self.owed.push_back(Owed::Settle { txn });
                self.pay_owed(now, effects);
            }
            // Of a leadership that is over.
            Step::Append { .. } | Step::Settle { .. } => {}
            Step::Joined { txn } => {
                self.failure = self.joined(txn, effects).err();
            }
            Step::Sought { txn, by } => self.sought(txn, by, effects),
            Step::Trace { txn } => match self.trace(txn) {
                Ok(trace) => effects.push(Effect::Report(Report::Traced { txn, trace })),
                Err(fault) => self.park(Work::Step(step), fault.into(), effects),
            },
            Step::Feed { ask, look: None } => self.ask_feed(ask, effects),
            Step::Feed { ask, look: Some(look) } => self.answer_feed(ask, look, effects),
            Step::Listen { watch } => self.listen(watch, effects),
            Step::Unlisten { watch } => self.unlisten(watch),
            Step::Nudge => self.nudged(),
            Step::Compact { order } => self.order_compaction(order, effects),
            Step::SchemasRead { org, outcome } => self.schemas_read(now, &org, &outcome, effects),
            list @ Step::List { .. } => self.list(list, effects),
        }
    }

    fn take_task(&mut self, now: Micros, task: Task<R>, effects: &mut Vec<Effect<R>>) {
        if task.deadline.is_some_and(|deadline| now >= deadline) {
            let refusal = Refusal::DeadlineExceeded { definite: true };
            return effects.push(Effect::Reply(task.route, Response::Refused(refusal)));
        }
        let is_leading = matches!(self.role, Role::Leading(_));
        match &task.request {
            Request::Write(_) if !is_leading => {
                effects.push(Effect::Reply(task.route, Response::Refused(self.refusal())));
            }
            Request::Write(write) if self.cannot_take(&write.members).is_some() => {
                if let Some(refusal) = self.cannot_take(&write.members) {
                    effects.push(Effect::Reply(task.route, Response::Refused(refusal)));
                }
            }
            Request::Write(_) if !self.backlog.is_empty() || self.is_quiesced() => {
                self.backlog.push_back(Work::Task(task));
            }
            Request::Write(write) => match self.held(&write.members).cloned() {
                Some(key) => self.wait_for(&key, Work::Task(task)),
                None => self.write(now, task, effects),
            },
            Request::Read(_) | Request::Head(_) => self.read(now, task, effects),
            Request::Ping => effects.push(Effect::Reply(task.route, Response::Pong)),
            Request::Admin(_) => self.audit(task, effects),
            Request::List(_) | Request::Feed(_) => {
                unreachable!("listings and feeds are not asked of one shard")
            }
        }
    }

    /// Goes on with this shard's names for a listing.
    fn list(&mut self, step: Step, effects: &mut Vec<Effect<R>>) {
        let Step::List { gather, coordinator, query, mut listing } = step else { return };
        let parents: &[&str] = match (&query.org, &query.kind) {
            (None, _) => &[],
            (Some(org), None) => &[org],
            (Some(org), Some(kind)) => &[org, kind],
        };
        let (prefix, after) = (query.prefix.as_str(), query.after.as_deref());
        let limit = query.limit.clamp(1, LIST_PAGE_MAX) as usize;
        let before = listing.seen();
        match self.directory.list(parents, prefix, after, limit, &mut listing, &self.pins) {
            Ok(true) => {
                let kind = AnswerKind::Listed { gather, page: listing.page };
                effects.push(Effect::Answer(coordinator, Answer { shard: self.shard, kind }));
            }
            // Others first.
            Ok(false) => {
                let step = Step::List { gather, coordinator, query, listing };
                effects.push(Effect::Tell(self.shard, step));
            }
            Err(fault) => {
                if listing.seen() != before {
                    // What led to those names is behind it.
                    self.pins = Pins::default();
                }
                let step = Step::List { gather, coordinator, query, listing };
                self.park(Work::Step(step), fault.into(), effects);
            }
        }
    }
}
