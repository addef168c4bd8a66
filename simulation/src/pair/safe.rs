//! The superblock of a simulated machine: which store it is, and the epochs that it has promised
//! and seen. Outlives every process.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use celeriant_actors::election::Keeper;
use celeriant_schema::{Epoch, StoreId};
use celeriant_storage::store::Error;

use crate::disk::Power;
use crate::overseer::Overseer;
use crate::rng::Rng;

/// What is in the superblock. Cheap to clone: all clones are one.
#[derive(Clone)]
pub struct Safe {
    inner: Arc<Mutex<Inner>>,
    power: Arc<Power>,
    node: usize,
    overseer: Overseer,
}

struct Inner {
    store: StoreId,
    promised: Epoch,
    seen: Epoch,
    /// Which process it belongs to; keepers of earlier ones are dead.
    generation: u64,
    fails: bool,
    /// How often it really failed.
    failures: u64,
    rng: Rng,
}

impl Safe {
    /// A new store of node `node`.
    pub fn new(node: usize, mut rng: Rng, power: Arc<Power>, overseer: &Overseer) -> Self {
        let store = new_store(&mut rng);
        let (promised, seen) = (Epoch::default(), Epoch::default());
        let inner = Inner { store, promised, seen, generation: 0, fails: false, failures: 0, rng };
        let inner = Arc::new(Mutex::new(inner));
        Self { inner, power, node, overseer: overseer.clone() }
    }

    /// The disk is wiped: another store, which has promised nothing. Returns which it was.
    pub fn wipe(&self, keeps_name: bool) -> StoreId {
        let mut inner = self.lock();
        let fresh = new_store(&mut inner.rng);
        let store = if keeps_name { inner.store } else { fresh };
        (inner.promised, inner.seen) = (Epoch::default(), Epoch::default());
        std::mem::replace(&mut inner.store, store)
    }

    /// It is as it was when that had been promised and seen.
    pub fn restore(&self, (promised, seen): (Epoch, Epoch)) {
        let mut inner = self.lock();
        (inner.promised, inner.seen) = (promised, seen);
    }

    /// Which store it is.
    pub fn store(&self) -> StoreId {
        self.lock().store
    }

    /// Highest promised epoch, and highest that was seen in the register.
    pub fn epochs(&self) -> (Epoch, Epoch) {
        let inner = self.lock();
        (inner.promised, inner.seen)
    }

    /// The next change fails, and may be there or not.
    pub fn fail_next(&self, fails: bool) {
        self.lock().fails = fails;
    }

    /// Whether the next change fails.
    pub fn is_ailing(&self) -> bool {
        self.lock().fails
    }

    /// How often a change failed.
    pub fn failures(&self) -> u64 {
        self.lock().failures
    }

    /// A handle for a new process. A forgetful one writes nothing down.
    pub fn attach(&self, is_forgetful: bool) -> SimKeeper {
        let mut inner = self.lock();
        inner.generation += 1;
        let generation = inner.generation;
        drop(inner);
        SimKeeper { safe: self.clone(), generation, is_forgetful }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn new_store(rng: &mut Rng) -> StoreId {
    StoreId::new(u128::from(rng.number()) << 64 | u128::from(rng.number()))
}

/// One process' way to a [`Safe`].
pub struct SimKeeper {
    safe: Safe,
    generation: u64,
    is_forgetful: bool,
}

impl Keeper for SimKeeper {
    fn raise(&mut self, promised: Epoch, seen: Epoch) -> Result<(), Error> {
        let mut inner = self.safe.lock();
        if inner.generation != self.generation || self.safe.power.is_off() {
            return Err(Error::Poisoned);
        }
        if self.is_forgetful {
            return Ok(());
        }
        let goes = self.safe.power.count();
        let fails = std::mem::take(&mut inner.fails);
        inner.failures += u64::from(fails);
        if !(goes || fails) || inner.rng.chance(500) {
            inner.promised = promised.max(inner.promised);
            inner.seen = seen.max(inner.seen);
            let (promised, seen) = (inner.promised, inner.seen);
            self.safe.overseer.promised(self.safe.node, promised, seen);
        }
        drop(inner);
        if goes {
            self.safe.power.cut();
        }
        if goes || fails {
            let source = io::Error::other("simulated");
            let (doing, path) = ("write", PathBuf::from("node"));
            return Err(Error::Io { doing, path, source });
        }
        Ok(())
    }
}
