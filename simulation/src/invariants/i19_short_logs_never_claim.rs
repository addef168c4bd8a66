//! I19: a corrupt, quarantined or short log never claims: whoever claims is one of the pair that
//! rules, or durably holds what the ruling chain begins with.

use celeriant_actors::election::register::{Config, Set};
use celeriant_schema::{ShardId, StoreId};

use super::Violations;
use super::i12_no_cut::Held;

const RULE: &str = "I19";

/// A node with that store and those disks has written a claim.
pub fn check((store, held): (StoreId, &Held), config: &Config, violations: &Violations) {
    if let Set::Pair(..) = config.active.set {
        return violations.check(RULE, config.active.set.has(store), || {
            format!("{store} claims epoch {}, {} rules", config.epoch, config.active.set)
        });
    }
    let base = config.active.chain.first().map(|link| link.base.as_slice()).unwrap_or_default();
    for (shard, position) in (0..).map(ShardId::new).zip(base) {
        let has = position.lsn.value() == 0 || held.ends_somewhere_at(shard, position.hash);
        violations.check(RULE, has, || {
            format!("{store} claims epoch {} without {position:?} of {shard}", config.epoch)
        });
    }
}
