//! The one generator that a run's chances come from: xoshiro256++, written here so that a seed
//! means the same run on every machine and with every version of every dependency.

/// A seeded stream of numbers. Fork it by name: streams of different parts don't disturb each
/// other.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut mixer = seed;
        let mut next = || {
            mixer = mixer.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(mixer)
        };
        Self { state: [next(), next(), next(), next()] }
    }

    /// A stream of its own for the part called `name`; the same whenever it is asked for.
    #[must_use]
    pub fn fork(&self, name: &str) -> Self {
        let seed = name.bytes().fold(self.state[0] ^ self.state[2], |seed, byte| {
            mix(seed ^ u64::from(byte).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        });
        Self::new(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let t = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= t;
        *d = d.rotate_left(45);
        result
    }

    /// A number below `bound`; 0 when the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.number()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// An index into `weights`, each as likely as it weighs.
    pub fn weighted(&mut self, weights: &[u64]) -> usize {
        let mut left = self.below(weights.iter().sum());
        for (index, weight) in weights.iter().enumerate() {
            if left < *weight {
                return index;
            }
            left -= weight;
        }
        weights.len().saturating_sub(1)
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_numbers_everywhere() {
        let mut rng = Rng::new(7);
        let first = [rng.number(), rng.number(), rng.number()];
        assert_eq!(first, [0x0e2c_1a00_2aae_913d, 0x2c0f_c8dd_fa4e_9e14, 0xb7b3_11b3_b0d4_5872]);
    }

    #[test]
    fn forks_differ_by_name_only() {
        let rng = Rng::new(7);
        assert_eq!(rng.fork("disk").number(), rng.fork("disk").number());
        assert_ne!(rng.fork("disk").number(), rng.fork("clock").number());
    }

    #[test]
    fn weights_of_zero_are_never_picked() {
        let mut rng = Rng::new(1);
        assert!((0..100).all(|_| rng.weighted(&[0, 3, 0]) == 1));
    }
}
