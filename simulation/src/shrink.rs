//! The smallest scenario that still fails in the same way.

use crate::scenario::Scenario;
use crate::trace::Trace;
use crate::world::run;

/// Leaves faults, clients and time out as long as the first broken rule stays broken. `None` when
/// the scenario does not fail at all.
pub fn shrink(scenario: &Scenario, tell: &mut dyn FnMut(&str)) -> Option<Scenario> {
    let rule = broken(scenario)?;
    let mut best = scenario.clone();
    let mut fails = |candidate: &Scenario| broken(candidate) == Some(rule);
    loop {
        let before = (best.faults.len(), best.duration_ms, best.workload.clients);
        shrink_faults(&mut best, &mut fails);
        shrink_time(&mut best, &mut fails);
        shrink_clients(&mut best, &mut fails);
        let after = (best.faults.len(), best.duration_ms, best.workload.clients);
        tell(&format!("{} faults, {} ms, {} clients", after.0, after.1, after.2));
        if before == after {
            return Some(best);
        }
    }
}

fn broken(scenario: &Scenario) -> Option<&'static str> {
    run(scenario, &Trace::default()).violations.first().map(|violation| violation.rule)
}

/// Takes out halves, then quarters … then single faults.
fn shrink_faults(best: &mut Scenario, fails: &mut impl FnMut(&Scenario) -> bool) {
    let mut size = best.faults.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < best.faults.len() {
            let mut candidate = best.clone();
            candidate.faults.drain(at..(at + size).min(best.faults.len()));
            match fails(&candidate) {
                true => *best = candidate,
                false => at += size,
            }
        }
        size /= 2;
    }
}

fn shrink_time(best: &mut Scenario, fails: &mut impl FnMut(&Scenario) -> bool) {
    for per_cent in [25, 50, 75, 90] {
        let mut candidate = best.clone();
        candidate.duration_ms = best.duration_ms * per_cent / 100;
        if candidate.duration_ms > 0 && fails(&candidate) {
            *best = candidate;
            return;
        }
    }
}

fn shrink_clients(best: &mut Scenario, fails: &mut impl FnMut(&Scenario) -> bool) {
    while best.workload.clients > 1 {
        let mut candidate = best.clone();
        candidate.workload.clients -= 1;
        if !fails(&candidate) {
            return;
        }
        *best = candidate;
    }
}
