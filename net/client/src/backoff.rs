//! How long to wait before trying again: longer each time, and never in step with others.

use std::time::Duration;

/// Waits between attempts, growing up to a limit, each taken at random from its upper half.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    first: Duration,
    max: Duration,
    growth: f64,
    random: u64,
}

impl Backoff {
    /// Each is twice the one before. Two seeds give two rhythms, see [`seed`].
    pub(crate) fn new(first: Duration, max: Duration, seed: u64) -> Self {
        Self { next: first, first, max, growth: 2.0, random: seed | 1 }
    }

    /// Each is `growth` times the one before.
    pub(crate) fn growing(self, growth: f64) -> Self {
        Self { growth, ..self }
    }

    /// The wait before the next attempt.
    pub(crate) fn wait(&mut self) -> Duration {
        let whole = self.next;
        self.next = whole.mul_f64(self.growth).min(self.max);
        // xorshift64*
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let share = (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f64;
        whole.mul_f64(0.5 + share / f64::from(1 << 25))
    }

    /// It worked: the next failure starts over.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Not predictable, not equal on two machines: more is not needed.
pub(crate) fn seed() -> u64 {
    uuid::Uuid::new_v4().as_u128() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_differ() {
        let (first, max) = (Duration::from_millis(10), Duration::from_millis(80));
        let mut backoff = Backoff::new(first, max, seed());
        let waits: Vec<Duration> = (0..8).map(|_| backoff.wait()).collect();
        for (at, wait) in waits.iter().enumerate() {
            let whole = (first * (1 << at.min(3))).min(max);
            assert!(*wait >= whole / 2 && *wait <= whole, "{wait:?} of {whole:?}");
        }
        assert_ne!(waits[4], waits[5]);
        backoff.reset();
        assert!(backoff.wait() <= first);
    }
}
