//! I5: whoever is activated has all acknowledged entries on its own disk.

use celeriant_actors::election::register::Config;

use super::Violations;
use super::i04_two_places::{Entry, Places};

const RULE: &str = "I5";

/// A configuration has become the active one.
pub fn check<'a>(
    places: &Places<'_>,
    acknowledged: impl Iterator<Item = Entry<'a>>,
    config: &Config,
    violations: &Violations,
) {
    let leader = config.active.leader.store;
    for entry in acknowledged {
        violations.check(RULE, places.on_disk(leader, entry), || {
            format!("{leader} leads epoch {} without {entry:?}", config.epoch)
        });
    }
}
