//! I14: a register that is missing, older or foreign is changed by nobody.

use celeriant_actors::election::register::Config;

use super::Violations;

const RULE: &str = "I14";

/// A node has changed the register, which was `base`; the newest that any node wrote before is
/// `newest`.
pub fn check(base: Option<&Config>, newest: &Config, violations: &Violations) {
    violations.check(RULE, base.is_some_and(|base| base.ver == newest.ver), || {
        let base = base.map(|base| (base.ver, base.epoch));
        format!("ver {} was known, {base:?} was there and was changed", newest.ver)
    });
}
