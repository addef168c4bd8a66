//! The end of a core whose shard goes on with another: everybody who waits is told.
//!
//! What was appended has an unknown outcome: it stays in the log, and the next leader decides.
//! Everything else has certainly not happened and may be sent again, here or to the leader.

use celeriant_schema::{Refusal, Response};

use super::core::{Core, Effect, Then};
use crate::work::{Step, Work};

impl<R> Core<R> {
    /// Answers everything that waits here. Nothing may be asked of this core any more.
    pub(super) fn abandon(&mut self, effects: &mut Vec<Effect<R>>) {
        let unknown = || Response::Refused(Refusal::UnknownOutcome);
        for pending in std::mem::take(&mut self.pending) {
            match pending.then {
                Then::Write { route, .. } | Then::Reply { route, .. } => {
                    effects.push(Effect::Reply(route, unknown()));
                }
                Then::Leg { .. }
                | Then::Mark
                | Then::Aborted
                | Then::Ready(_)
                | Then::Answer { .. } => {}
            }
        }
        self.owed.clear();
        self.legs.clear();
        self.promised_bytes = 0;
        let mut waiting: Vec<Work<R>> = std::mem::take(&mut self.backlog).into();
        waiting.extend(self.accepted.take_waiting());
        waiting.extend(self.cold.take_all());
        waiting.extend(self.schemas.take_waiting());
        let asks = self.take_asks();
        self.carried.extend(asks);
        let undone = Response::Refused(self.refusal());
        let tasks = waiting.into_iter().filter_map(|work| match work {
            Work::Task(task) => Some(task.route),
            // The core that comes after this one answers it. Who seeks a part of a write asks once.
            Work::Step(Step::List { .. } | Step::Feed { .. } | Step::Sought { .. }) => {
                self.carried.push(work);
                None
            }
            // Its coordinator is told below.
            Work::Step(_) => None,
        });
        let reads = self.reads.take_all();
        let unproven = std::mem::take(&mut self.unproven).into_iter().map(|(_, route, _)| route);
        let routes = tasks.chain(reads).chain(unproven).chain(self.audits.take_all());
        effects.extend(routes.map(|route| Effect::Reply(route, undone.clone())));
        effects.push(Effect::StoppedLeading);
    }
}
