//! I21: every member can read and write what is written at the cluster's level, which is never
//! lowered.

use celeriant_actors::election::register::Config;

use super::Violations;

const RULE: &str = "I21";

/// The register has become this.
pub fn check(config: &Config, violations: &Violations) {
    let level = config.feature_level;
    for member in &config.members {
        violations.check(RULE, member.speaks(level), || {
            format!("{} speaks {:?}, the level is {level}", member.node, member.features)
        });
    }
}

/// A node has changed it from one to the other.
pub fn check_order(before: &Config, after: &Config, violations: &Violations) {
    let (before, after) = (before.feature_level, after.feature_level);
    violations.check(RULE, after >= before, || format!("the level went from {before} to {after}"));
}
