//! What has gone wrong around a node, as far as it noticed: the last of it, in memory, so that the
//! simulator can re-enact it.
//!
//! ```text
//!   replicator: session lost, back (same process, another) ┐
//!   election:   bucket fails, answers; handed over          ├──► Chronicle ──► scenario (TOML)
//! ```
//! A node sees effects, not causes: a peer that is silent may be cut off or dead. What is written
//! down is the simplest cause that has the same effect: a peer that comes back as another process
//! was down, one that comes back as the same was out of reach. This node is the scenario's node 0.
//!
//! Deliberately absent: clients' requests, disks (a process whose disk fails ends, and its memory
//! with it), anything durable.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::Micros;
use crate::election::register::Process;

/// Incidents that are remembered; of more, the latest.
const INCIDENTS_MAX: usize = 256;

/// How long the scenario goes on behind the last incident, in ms.
const AFTER_MS: u64 = 5_000;

/// What a scenario needs besides incidents: a small pair under a mixed load.
const STAGE: &str = include_str!("chronicle/stage.toml");

/// Cheap to clone: all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Chronicle(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    incidents: VecDeque<Incident>,
    /// Since when there is no session, and with whom the last one was.
    alone: Option<(Micros, Process)>,
    /// The last session's.
    peer: Option<Process>,
    /// Since when the bucket fails.
    without_bucket: Option<Micros>,
}

#[derive(Clone, Copy, Debug)]
struct Incident {
    at: Micros,
    kind: &'static str,
    node: u16,
    lasts: Micros,
}

impl Chronicle {
    /// There is a session with that process.
    pub fn met(&self, now: Micros, peer: Process) {
        let mut inner = self.lock();
        inner.peer = Some(peer);
        if let Some((at, before)) = inner.alone.take() {
            let kind = if before.boot == peer.boot { "link-partition" } else { "stay-down" };
            inner.note(Incident { at, kind, node: 1, lasts: now.saturating_sub(at) });
        }
    }

    /// The session is over.
    pub fn parted(&self, now: Micros) {
        let mut inner = self.lock();
        inner.alone = inner.peer.map(|peer| inner.alone.unwrap_or((now, peer)));
    }

    /// A request to the bucket has come to its end.
    pub fn bucket(&self, now: Micros, answers: bool) {
        let mut inner = self.lock();
        match inner.without_bucket {
            None if !answers => inner.without_bucket = Some(now),
            Some(at) if answers => {
                inner.without_bucket = None;
                let lasts = now.saturating_sub(at);
                inner.note(Incident { at, kind: "bucket-cut-to", node: 0, lasts });
            }
            _ => {}
        }
    }

    /// This node has handed over.
    pub fn handed_over(&self, now: Micros) {
        self.lock().note(Incident { at: now, kind: "hand-over", node: 0, lasts: 0 });
    }

    /// As a scenario of the simulator; what still lasts, lasts until `now`.
    pub fn scenario(&self, now: Micros) -> String {
        let inner = self.lock();
        let mut all: Vec<Incident> = inner.incidents.iter().copied().collect();
        let lasting = |at: Micros, kind, node| {
            let lasts = now.saturating_sub(at);
            Incident { at, kind, node, lasts }
        };
        all.extend(inner.alone.map(|(at, _)| lasting(at, "stay-down", 1)));
        all.extend(inner.without_bucket.map(|at| lasting(at, "bucket-cut-to", 0)));
        drop(inner);
        all.sort_by_key(|incident| incident.at);
        let begin = all.first().map_or(0, |first| first.at);
        let ends = all.iter().map(|incident| incident.at - begin + incident.lasts);
        let duration_ms = ends.max().unwrap_or_default() / 1_000 + AFTER_MS;
        let mut text = format!("seed = 1\nduration_ms = {duration_ms}\n{STAGE}");
        for Incident { at, kind, node, lasts } in all {
            // A second of calm first. Writing to a string does not fail.
            let at = at - begin + 1_000_000;
            let _ = write!(
                text,
                "\n[[faults]]\nat = {at}\nkind = \"{kind}\"\nnode = {node}\nlasts = {lasts}\n"
            );
        }
        text
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Poisoned: whoever panicked noted an incident as a whole, or did not.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn note(&mut self, incident: Incident) {
        if self.incidents.len() == INCIDENTS_MAX {
            self.incidents.pop_front();
        }
        self.incidents.push_back(incident);
    }
}

#[cfg(test)]
mod tests {
    use celeriant_schema::{BootId, StoreId};

    use super::*;

    fn peer(boot: u64) -> Process {
        Process { store: StoreId::new(2), boot: BootId::new(boot) }
    }

    fn faults(chronicle: &Chronicle, now: Micros) -> Vec<String> {
        let text = chronicle.scenario(now);
        let blocks = text.split("[[faults]]\n").skip(1);
        blocks.map(|block| block.trim_end().replace('\n', ", ")).collect()
    }

    #[test]
    fn what_was_seen_becomes_the_simplest_cause() {
        let chronicle = Chronicle::default();
        chronicle.parted(5);
        assert_eq!(faults(&chronicle, 9), [""; 0], "nobody was there before");
        chronicle.met(10, peer(1));
        chronicle.parted(1_000);
        chronicle.parted(1_500);
        chronicle.met(3_000, peer(1));
        chronicle.bucket(4_000, false);
        chronicle.bucket(4_500, false);
        chronicle.bucket(6_000, true);
        chronicle.bucket(6_500, true);
        chronicle.handed_over(7_000);
        chronicle.parted(8_000);
        chronicle.met(9_000, peer(2));
        chronicle.parted(9_500);
        let seen = faults(&chronicle, 10_000);
        assert_eq!(
            seen,
            [
                "at = 1000000, kind = \"link-partition\", node = 1, lasts = 2000",
                "at = 1003000, kind = \"bucket-cut-to\", node = 0, lasts = 2000",
                "at = 1006000, kind = \"hand-over\", node = 0, lasts = 0",
                "at = 1007000, kind = \"stay-down\", node = 1, lasts = 1000",
                "at = 1008500, kind = \"stay-down\", node = 1, lasts = 500",
            ]
        );
    }

    #[test]
    fn of_too_many_the_latest_are_kept() {
        let chronicle = Chronicle::default();
        (0..1_000).for_each(|at| chronicle.handed_over(at));
        let seen = faults(&chronicle, 1_000);
        assert_eq!(seen.len(), INCIDENTS_MAX);
        assert_eq!(seen[0], "at = 1000000, kind = \"hand-over\", node = 0, lasts = 0");
    }
}
