//! I1: version and epoch of the register strictly grow, at most one process leads an epoch.

use std::collections::BTreeMap;

use celeriant_actors::election::register::{Config, Phase, Process, RegisterError};
use celeriant_schema::Epoch;

use super::{Violations, i14_register_trusted, i21_feature_levels};

const RULE: &str = "I1";

/// Everything that the register has been.
#[derive(Debug, Default)]
pub struct Register {
    current: Option<Config>,
    /// The highest version that any node wrote.
    newest: Option<Config>,
    leaders: BTreeMap<Epoch, Process>,
    claims: u64,
    changes: u64,
}

impl Register {
    /// What it is now.
    pub fn current(&self) -> Option<&Config> {
        self.current.as_ref()
    }

    /// What rules: the newest that any node wrote, whatever an operator has made of it.
    pub fn ruling(&self) -> Option<&Config> {
        self.newest.as_ref()
    }

    /// How many claims there were.
    pub fn claims(&self) -> u64 {
        self.claims
    }

    /// Who claimed or leads an epoch.
    pub fn leader(&self, epoch: Epoch) -> Option<Process> {
        self.leaders.get(&epoch).copied()
    }

    /// An operator's mistake, or an old backup: it is what it is.
    pub fn meddled_with(&mut self, after: Option<Config>) {
        self.current = after;
    }

    /// A node changed it.
    pub fn changed(&mut self, after: Result<Config, RegisterError>, violations: &Violations) {
        let Ok(after) = after else {
            return violations.add(RULE, format_args!("an unreadable register: {after:?}"));
        };
        self.changes += 1;
        self.check_order(&after, violations);
        i21_feature_levels::check(&after, violations);
        let before = *self.leaders.entry(after.epoch).or_insert(after.leader);
        violations.check(RULE, before == after.leader, || {
            format!("epoch {} is {before:?}'s and {:?}'s", after.epoch, after.leader)
        });
        let known = self.current.as_ref().map(|current| current.epoch);
        self.claims += u64::from(after.phase == Phase::Claimed && known != Some(after.epoch));
        self.newest = Some(after.clone());
        self.current = Some(after);
    }

    fn check_order(&self, after: &Config, violations: &Violations) {
        let Some(newest) = &self.newest else { return };
        i14_register_trusted::check(self.current.as_ref(), newest, violations);
        i21_feature_levels::check_order(newest, after, violations);
        let (ver, epoch) = (newest.ver + 1, newest.epoch.value());
        let grows = after.ver == ver && (epoch..=epoch + 1).contains(&after.epoch.value());
        violations.check(RULE, grows, || {
            let (before, now) = ((newest.ver, newest.epoch), (after.ver, after.epoch));
            format!("the register went from {before:?} to {now:?}")
        });
        let same_set = newest.active.set == after.active.set;
        violations.check(RULE, same_set || after.epoch > newest.active.epoch, || {
            format!("another set in epoch {}: {after:?}", after.epoch)
        });
    }
}
