//! Pages of runs that were read lately.
//!
//! Bounded by bytes. Nodes, which every lookup of a run needs, are kept apart from leaves: however
//! many leaves a scan reads, it pushes out no node, and what nodes do not need is the leaves'.

use bytes::Bytes;
use foldhash::fast::FixedState;
use quick_cache::Weighter;
use quick_cache::unsync::{Cache, DefaultLifecycle};

use crate::run::PagePlace;

#[derive(Clone, Debug)]
struct PageBytes;

impl Weighter<PagePlace, Bytes> for PageBytes {
    fn weight(&self, _: &PagePlace, page: &Bytes) -> u64 {
        // The entry and its bookkeeping count too.
        page.len() as u64 + 160
    }
}

type Pages = Cache<PagePlace, Bytes, PageBytes, FixedState, DefaultLifecycle<PagePlace, Bytes>>;

/// Two caches within one budget.
pub(super) struct PageCache {
    nodes: Pages,
    leaves: Pages,
    bytes: u64,
}

impl std::fmt::Debug for PageCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (nodes, leaves) = (self.nodes.len(), self.leaves.len());
        f.debug_struct("PageCache").field("nodes", &nodes).field("leaves", &leaves).finish()
    }
}

fn is_node(place: &PagePlace) -> bool {
    place.count > 1
}

impl PageCache {
    /// Holds at most `bytes` bytes.
    pub(super) fn new(bytes: usize) -> Self {
        let bytes = bytes as u64;
        let pages = |bytes: u64| {
            let estimated = (bytes / 4096).clamp(16, 1 << 20) as usize;
            let lifecycle = DefaultLifecycle::default();
            Pages::with(estimated, bytes, PageBytes, FixedState::with_seed(0), lifecycle)
        };
        Self { nodes: pages(bytes / 8), leaves: pages(bytes - bytes / 8), bytes }
    }

    /// Divides the budget anew: the runs' nodes have about so many bytes.
    pub(super) fn divide(&mut self, node_bytes: u64) {
        let nodes = node_bytes.clamp(self.bytes / 8, self.bytes / 4 * 3);
        // The one that shrinks goes first.
        if nodes < self.nodes.capacity() {
            self.nodes.set_capacity(nodes);
            self.leaves.set_capacity(self.bytes - nodes);
        } else {
            self.leaves.set_capacity(self.bytes - nodes);
            self.nodes.set_capacity(nodes);
        }
    }

    pub(super) fn get(&self, place: &PagePlace) -> Option<Bytes> {
        let pages = if is_node(place) { &self.nodes } else { &self.leaves };
        pages.get(place).cloned()
    }

    pub(super) fn insert(&mut self, place: PagePlace, page: Bytes) {
        let pages = if is_node(&place) { &mut self.nodes } else { &mut self.leaves };
        pages.insert(place, page);
    }

    /// A run is gone.
    pub(super) fn forget(&mut self, run: u32) {
        self.nodes.retain(|place, _| place.run != run);
        self.leaves.retain(|place, _| place.run != run);
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.nodes.weight() + self.leaves.weight()
    }
}
