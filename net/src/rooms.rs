//! How many of one org may be there at a time: connections, and watchers.
//!
//! ```text
//! connection says who it is ── sit ──▶ Room "connections" ─┐
//! feed that waits, watch ───── sit ──▶ Room "watchers" ────┴▶ Seat, until it ends
//! ```
//! A seat is taken per org that has a limit; whoever has none takes no lock. Counted on each node.
//! Deliberately absent: whose org it is (`rights`), what the limits are (`actors::quotas`), and all
//! orgs together (`listener`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use celeriant_schema::Refusal;

/// When there is no seat: somebody may leave by then.
const FULL_RETRY_MS: u32 = 1_000;

/// How many an org may have at a time; `None`: as many as there are.
pub type Most = Box<dyn Fn(&str) -> Option<u64> + Send + Sync>;

/// Both of a node.
#[derive(Clone, Debug)]
pub struct Rooms {
    /// For connections.
    pub connections: Arc<Room>,
    /// For those who wait for news.
    pub watchers: Arc<Room>,
}

/// Seats for one kind of guests.
pub struct Room {
    what: &'static str,
    most: Most,
    /// Orgs that have somebody there, and how many.
    taken: Mutex<BTreeMap<Box<str>, u64>>,
    refused: AtomicU64,
}

/// One guest of one org. Leaves when it is dropped.
#[derive(Debug)]
pub struct Seat {
    room: Arc<Room>,
    org: Box<str>,
}

impl Rooms {
    /// Nobody is there yet.
    pub fn new(connections: Most, watchers: Most) -> Self {
        Self {
            connections: Arc::new(Room::new("connections", connections)),
            watchers: Arc::new(Room::new("watchers", watchers)),
        }
    }
}

impl Room {
    fn new(what: &'static str, most: Most) -> Self {
        Self { what, most, taken: Mutex::default(), refused: AtomicU64::new(0) }
    }

    /// Guests who found no seat, since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// A seat of each of `orgs` that has a limit, besides those in `seats`.
    ///
    /// # Errors
    /// `Overloaded` when one of them has no more; seats of those before it are kept.
    pub(crate) fn sit<'a>(
        self: &Arc<Self>,
        orgs: impl IntoIterator<Item = &'a str>,
        seats: &mut Vec<Seat>,
    ) -> Result<(), Refusal> {
        for org in orgs {
            // What the store keeps about itself is nobody's.
            let most = if org.starts_with('$') { None } else { (self.most)(org) };
            let Some(most) = most else { continue };
            if !seats.iter().any(|seat| &*seat.org == org) {
                seats.push(self.take(org, most)?);
            }
        }
        Ok(())
    }

    fn take(self: &Arc<Self>, org: &str, most: u64) -> Result<Seat, Refusal> {
        let mut taken = self.taken();
        let count = taken.get(org).copied().unwrap_or(0);
        if count >= most {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let what = format!("quota of {org}: {}", self.what);
            return Err(Refusal::Overloaded { what, retry_after_ms: FULL_RETRY_MS });
        }
        taken.insert(org.into(), count + 1);
        Ok(Seat { room: Arc::clone(self), org: org.into() })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<Box<str>, u64>> {
        // Poisoned: each count is a number, which is whole.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        if let Some(count) = taken.get_mut(&self.org) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.org);
            }
        }
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("what", &self.what).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> Arc<Room> {
        let most = |org: &str| match org {
            "acme" => Some(2),
            "free" => None,
            _ => Some(1),
        };
        Arc::new(Room::new("watchers", Box::new(most)))
    }

    #[test]
    fn an_org_has_as_many_seats_as_it_may_and_gets_back_those_that_are_left() {
        let room = room();
        let sit = |orgs: &[&str]| {
            let mut seats = Vec::new();
            room.sit(orgs.iter().copied(), &mut seats).map(|()| seats)
        };
        let first = sit(&["acme"]).expect("a seat");
        let _second = sit(&["acme", "rival"]).expect("seats");
        let refused = sit(&["acme"]).expect_err("full");
        assert!(matches!(&refused, Refusal::Overloaded { what, .. }
            if what == "quota of acme: watchers"));
        assert!(sit(&["rival"]).is_err() && sit(&["other"]).is_ok(), "each its own");
        assert_eq!(room.refused(), 2);
        drop(first);
        // One that finds no seat for one of its orgs takes none.
        assert!(sit(&["acme", "rival"]).is_err());
        let mut kept = sit(&["acme"]).expect("it is free again");
        room.sit(["acme"], &mut kept).expect("it has one");
        assert_eq!(kept.len(), 1);
        for _ in 0..10 {
            std::mem::forget(sit(&["free", "$system"]).expect("no limit"));
        }
        drop((kept, _second));
        assert!(room.taken().is_empty(), "nothing is kept of who is gone");
    }
}
