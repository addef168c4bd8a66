//! Pauses between attempts: doubling, jittered, bounded. Randomness is a seed, time the caller's.

use std::time::Duration;

/// Pauses of one link.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
    state: u64,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Self { min, max, failures: 0, state: seed }
    }

    /// How long to wait after one more failure: between a half and all of `min`, twice that after
    /// the second, up to `max`.
    pub(crate) fn pause(&mut self) -> Duration {
        let doubled = self.min.saturating_mul(1 << self.failures.min(16)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let half = doubled / 2;
        half + half.mul_f64(self.fraction())
    }

    /// An attempt came to something.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// SplitMix64; the top 53 bits are a number below 1.
    fn fraction(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_differ_by_seed() {
        let [min, max] = [50, 1000].map(Duration::from_millis);
        let mut backoff = Backoff::new(min, max, 1);
        for step in 0..40_u32 {
            let whole = min.saturating_mul(1 << step.min(10)).min(max);
            let pause = backoff.pause();
            assert!(pause >= whole / 2 && pause <= whole, "{step}: {pause:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= min);
        let first = |seed| Backoff::new(min, max, seed).pause();
        assert_eq!(first(7), first(7));
        assert_ne!(first(7), first(8));
    }
}
