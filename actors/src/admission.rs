//! Backpressure, once, at the door: what is inside the node is bounded in bytes.
//!
//! Mailboxes behind the door need no limit of their own: everything in them holds a permit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a request costs beyond its own bytes while it waits: its place in queues and its answer.
const OVERHEAD_BYTES: usize = 512;

/// The node's budget for requests that are not yet answered.
#[derive(Clone, Debug)]
pub struct Admission {
    used: Arc<AtomicUsize>,
    limit: usize,
}

/// A request's share of the budget; returned when dropped.
#[derive(Debug)]
pub struct Permit {
    used: Arc<AtomicUsize>,
    bytes: usize,
}

impl Admission {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { used: Arc::new(AtomicUsize::new(0)), limit }
    }

    /// Takes room for a request of `bytes` on the wire, or `None` when the node is full.
    pub fn admit(&self, bytes: usize) -> Option<Permit> {
        let bytes = bytes + OVERHEAD_BYTES;
        // Add first, look after: two racers may both be refused, never both be let in.
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let permit = Permit { used: Arc::clone(&self.used), bytes };
        (before + bytes <= self.limit).then_some(permit)
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_node_refuses_and_takes_again_when_something_is_answered() {
        let door = Admission::new(2 * (OVERHEAD_BYTES + 100));
        let first = door.admit(100).expect("room");
        let _second = door.admit(100).expect("room");
        assert!(door.admit(0).is_none());
        drop(first);
        assert!(door.admit(100).is_some());
    }
}
