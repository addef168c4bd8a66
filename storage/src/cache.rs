//! Frames that were read or written lately, so that hot aggregates are not read from disk.
//!
//! Bounded by bytes. A frame that is used once leaves before one that is used often, so that
//! reading a long aggregate from end to end does not push everything else out. Deliberately absent:
//! anything that is not committed, and knowledge of what is in a frame.

use bytes::Bytes;
use foldhash::fast::FixedState;
use quick_cache::Weighter;
use quick_cache::unsync::{Cache, DefaultLifecycle};

/// Segment number and offset in sectors.
type Place = (u32, u32);

#[derive(Clone, Debug)]
struct FrameBytes;

impl Weighter<Place, Bytes> for FrameBytes {
    fn weight(&self, _: &Place, frame: &Bytes) -> u64 {
        // The entry and its bookkeeping count too: many small frames must not exceed the budget.
        frame.len() as u64 + 128
    }
}

/// A cache of whole frames.
pub struct FrameCache {
    frames: Cache<Place, Bytes, FrameBytes, FixedState, DefaultLifecycle<Place, Bytes>>,
}

impl std::fmt::Debug for FrameCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (frames, bytes) = (self.frames.len(), self.frames.weight());
        f.debug_struct("FrameCache").field("frames", &frames).field("bytes", &bytes).finish()
    }
}

impl FrameCache {
    /// Holds at most `bytes` bytes.
    pub fn new(bytes: u64) -> Self {
        // One group commit of a busy shard is tens of kilobytes.
        let estimated = (bytes / (16 << 10)).clamp(16, 1 << 20) as usize;
        let lifecycle = DefaultLifecycle::default();
        let hasher = FixedState::with_seed(0);
        Self { frames: Cache::with(estimated, bytes, FrameBytes, hasher, lifecycle) }
    }

    /// The frame at sector `frame_offset` of `segment`.
    pub fn get(&self, segment: u32, frame_offset: u32) -> Option<Bytes> {
        self.frames.get(&(segment, frame_offset)).cloned()
    }

    /// Keeps a frame, if it is not too large for the cache as a whole.
    pub fn insert(&mut self, segment: u32, frame_offset: u32, frame: Bytes) {
        self.frames.insert((segment, frame_offset), frame);
    }

    /// Lets go of a frame: it is not what should be there.
    pub fn forget(&mut self, segment: u32, frame_offset: u32) {
        self.frames.remove(&(segment, frame_offset));
    }

    /// Lets go of every frame of a segment. Looks at all that there are.
    pub fn forget_segment(&mut self, segment: u32) {
        self.frames.retain(|place, _| place.0 != segment);
    }

    /// Bytes in use.
    pub fn bytes(&self) -> u64 {
        self.frames.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(fill: u8) -> Bytes {
        Bytes::from(vec![fill; 4096])
    }

    #[test]
    fn what_is_forgotten_is_gone() {
        let mut cache = FrameCache::new(64 << 10);
        cache.insert(1, 2, frame(3));
        cache.forget(1, 2);
        assert_eq!((cache.get(1, 2), cache.bytes()), (None, 0));
        (0..4).for_each(|at| cache.insert(1 + at % 2, at, frame(3)));
        cache.forget_segment(2);
        assert_eq!((cache.get(2, 1), cache.get(2, 3)), (None, None));
        assert!(cache.get(1, 0).is_some() && cache.get(1, 2).is_some());
    }

    #[test]
    fn the_cache_stays_within_its_bytes() {
        let mut cache = FrameCache::new(64 << 10);
        (0..1000).for_each(|n| cache.insert(1, n, frame(n as u8)));
        assert!(cache.bytes() <= 64 << 10);
        cache.insert(2, 0, Bytes::from(vec![0; 1 << 20]));
        assert!(cache.bytes() <= 64 << 10, "a frame larger than the cache is not kept");
    }

    #[test]
    fn a_scan_does_not_push_out_what_is_used_often() {
        let mut cache = FrameCache::new(256 << 10);
        (0..8).for_each(|n| cache.insert(1, n, frame(1)));
        for n in 0..4000 {
            (0..8).for_each(|hot| {
                cache.get(1, hot);
            });
            cache.insert(2, n, frame(2));
        }
        let kept = (0..8).filter(|hot| cache.get(1, *hot).is_some()).count();
        assert_eq!(kept, 8);
        assert_eq!(cache.get(1, 3), Some(frame(1)));
    }
}
