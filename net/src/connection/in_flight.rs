//! Which requests of a connection are unanswered, and what they may cost.
//!
//! Requests travel through the node under an id of the connection's own making (place and
//! generation), so that a client that uses an id twice harms only itself, and an answer that comes
//! twice, or too late, is recognised and dropped.

use celeriant_schema::Request;
use celeriant_schema::limits::PAGE_BYTES_TARGET;

/// Table sizes up to this are kept when nothing is in flight: 64 × 32 bytes.
const IDLE_SLOTS: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Slot {
    client_id: u64,
    charge: usize,
    generation: u32,
    used: bool,
}

/// The unanswered requests of one connection.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    slots: Vec<Slot>,
    free: Vec<u32>,
    count: usize,
    bytes: usize,
    generation: u32,
}

impl InFlight {
    /// Requests unanswered.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// What they and their answers may take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The client's id of the request that travels as `id`; `None`: no such one waits.
    pub(super) fn client_id(&self, id: u64) -> Option<u64> {
        let slot = self.slots.get(id as u32 as usize)?;
        (slot.used && slot.generation == (id >> 32) as u32).then_some(slot.client_id)
    }

    /// Notes a request; returns the id under which it travels through the node.
    pub(super) fn begin(&mut self, client_id: u64, charge: usize) -> u64 {
        self.generation = self.generation.wrapping_add(1);
        let slot = Slot { client_id, charge, generation: self.generation, used: true };
        let place = match self.free.pop() {
            Some(place) => {
                self.slots[place as usize] = slot;
                place
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        self.count += 1;
        self.bytes += charge;
        u64::from(slot.generation) << 32 | u64::from(place)
    }

    /// Notes the answer; returns the client's id. `None`: this request is not waiting.
    pub(super) fn finish(&mut self, id: u64) -> Option<u64> {
        let client_id = self.client_id(id)?;
        let place = id as u32;
        let slot = &mut self.slots[place as usize];
        slot.used = false;
        let charge = slot.charge;
        self.free.push(place);
        self.count -= 1;
        self.bytes -= charge;
        if self.count == 0 && self.slots.capacity() > IDLE_SLOTS {
            // An idle connection holds next to nothing.
            (self.slots, self.free) = (Vec::new(), Vec::new());
        }
        Some(client_id)
    }
}

/// What a request may take while it is unanswered: itself, and the answer it asks for.
pub(super) fn charge(request: &Request, wire_bytes: usize) -> usize {
    let answer = match request {
        Request::Read(_) => PAGE_BYTES_TARGET,
        // A page of a feed mostly waits, and is small when there is something.
        Request::List(_) | Request::Feed(_) => 64 << 10,
        Request::Write(write) => 128 * write.members.len(),
        Request::Head(_) | Request::Ping => 256,
        Request::Admin(_) => 16 << 10,
    };
    wire_bytes + answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_once_and_only_for_its_own_request() {
        let mut table = InFlight::default();
        let first = table.begin(7, 100);
        assert_eq!(table.finish(first), Some(7));
        let second = table.begin(7, 10);
        assert_ne!(first, second, "the same place, another generation");
        assert_eq!(table.finish(first), None);
        assert_eq!((table.count(), table.bytes()), (1, 10));
        assert_eq!(table.finish(second), Some(7));
        assert_eq!(table.finish(second), None);
        assert_eq!(table.finish(u64::MAX), None);
        assert_eq!((table.count(), table.bytes()), (0, 0));
    }

    #[test]
    fn an_idle_table_gives_its_memory_back() {
        let mut table = InFlight::default();
        let ids: Vec<u64> = (0..4096).map(|id| table.begin(id, 1)).collect();
        for id in ids {
            assert!(table.finish(id).is_some());
        }
        assert_eq!(table.slots.capacity(), 0);
    }
}
