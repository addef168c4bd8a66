//! I13: with at most one failed place and a stable network writes resume within the bound, with at
//! most three claims.

use super::Violations;
use crate::timeline::Micros;

const RULE: &str = "I13";
/// Claims that one incident may cost.
const CLAIMS_MAX: u64 = 3;

/// While clients wrote and things went wrong, no write was acknowledged for so long.
pub fn check_pause(pause: Micros, at_most: Micros, violations: &Violations) {
    violations.check(RULE, pause <= at_most, || {
        format!("no write was acknowledged for {pause} µs, at most {at_most} are allowed")
    });
}

/// A stretch of time in which nothing goes wrong any more.
#[derive(Clone, Copy, Debug)]
pub struct Calm {
    /// When it began.
    pub since: Micros,
    /// Claims before it.
    pub claims: u64,
}

impl Calm {
    /// It ends, or its writes are all that was wanted.
    pub fn check_claims(&self, claims: u64, violations: &Violations) {
        let claims = claims - self.claims;
        violations.check(RULE, claims <= CLAIMS_MAX, || {
            format!("{claims} claims since nothing is wrong any more, at {} µs", self.since)
        });
    }

    /// A first write was acknowledged then, or never.
    pub fn check_resumed(&self, at: Option<Micros>, within: Micros, violations: &Violations) {
        violations.check(RULE, at.is_some_and(|at| at - self.since <= within), || {
            let after = at.map(|at| at - self.since);
            format!("writes resumed after {after:?} µs, at most {within} are allowed")
        });
    }
}
