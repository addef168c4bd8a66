//! What a writer remembers of aggregates: their state as of a version, and who is at work on them.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use celeriant_schema::{AggregateKey, AggregateReceipt, Sequence, Stamp, Version};
use tokio::sync::OwnedMutexGuard;

use crate::aggregate::Aggregate;

/// Aggregates remembered by one writer; the half that was used longest ago is forgotten then.
const REMEMBERED_MAX: usize = 4096;

/// State of some aggregates, each behind the lock that serialises executions for it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    by_key: BTreeMap<AggregateKey, (u64, Arc<Place>)>,
    clock: u64,
}

type Place = tokio::sync::Mutex<Option<Box<dyn Any + Send>>>;

/// The lock of one aggregate.
pub(super) type Guard = OwnedMutexGuard<Option<Box<dyn Any + Send>>>;

/// What is known of one aggregate.
#[derive(Debug, Default)]
pub(super) struct Known<A> {
    pub(super) state: A,
    /// The state holds everything up to here.
    pub(super) version: Version,
    /// The highest sequence this client has used up to that version.
    pub(super) sequence: Option<Sequence>,
    /// The batch that has it, if it was seen.
    pub(super) own: Option<(AggregateReceipt, Stamp)>,
    /// Was read at all.
    pub(super) loaded: bool,
}

impl Memory {
    /// Waits until nobody else of this writer is at work on `key`.
    pub(super) async fn lock(&self, key: &AggregateKey) -> Guard {
        let place = self.place(key);
        place.lock_owned().await
    }

    fn place(&self, key: &AggregateKey) -> Arc<Place> {
        // A panic while holding it leaves at worst one aggregate forgotten.
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.clock += 1;
        let now = places.clock;
        if let Some((used, place)) = places.by_key.get_mut(key) {
            *used = now;
            return Arc::clone(place);
        }
        if places.by_key.len() >= REMEMBERED_MAX {
            places.forget_half();
        }
        let place = Arc::new(Place::default());
        places.by_key.insert(key.detached(), (now, Arc::clone(&place)));
        place
    }
}

impl Places {
    /// What is in use stays: a lock that two could hold would serialise nothing.
    fn forget_half(&mut self) {
        let mut times: Vec<u64> = self.by_key.values().map(|(used, _)| *used).collect();
        let middle = times.len() / 2;
        let (_, limit, _) = times.select_nth_unstable(middle);
        let limit = *limit;
        self.by_key.retain(|_, (used, place)| *used > limit || Arc::strong_count(place) > 1);
    }
}

/// Takes what is remembered out of a locked place: if the execution is abandoned half-way, nothing
/// half-changed stays behind.
pub(super) fn recall<A: Aggregate>(guard: &mut Guard) -> Known<A> {
    let known = guard.take().and_then(|known| known.downcast::<Known<A>>().ok());
    known.map_or_else(Known::default, |known| *known)
}

/// Puts it back.
pub(super) fn remember<A: Aggregate>(guard: &mut Guard, known: Known<A>) {
    **guard = Some(Box::new(known));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_is_bounded_and_keeps_what_is_in_use() {
        let memory = Memory::default();
        let key = |at: usize| AggregateKey::new("o", "t", &at.to_string()).expect("valid");
        let busy = memory.lock(&key(0)).await;
        for at in 1..3 * REMEMBERED_MAX {
            drop(memory.lock(&key(at)).await);
        }
        assert!(memory.places.lock().expect("not poisoned").by_key.len() <= REMEMBERED_MAX + 1);
        assert!(memory.place(&key(0)).try_lock().is_err(), "still the lock that is held");
        drop(busy);
        assert!(memory.place(&key(0)).try_lock().is_ok());
    }
}
