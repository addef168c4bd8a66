//! What happened in a run, as one number: the same seed must give the same number, always and
//! everywhere.
//!
//! Everything that crosses a seam is folded in: operations of disks and their ends, requests and
//! answers, faults, with their virtual times. The last lines can be kept as text, to see where two
//! runs part.

use std::collections::VecDeque;
use std::fmt::Arguments;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A run's trace. Cheap to clone: all clones write to one trace.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    hash: u64,
    entries: u64,
    keep: usize,
    lines: VecDeque<String>,
    echo: bool,
}

impl Trace {
    /// A trace that also keeps its last `keep` lines.
    pub fn keeping(keep: usize) -> Self {
        let trace = Self::default();
        trace.lock().keep = keep;
        trace
    }

    /// Prints every line to stderr as it happens.
    pub fn echo(&self) {
        self.lock().echo = true;
    }

    /// Folds one happening in. `words` are hashed; `text` is only formed when lines are kept.
    pub fn note(&self, words: &[u64], text: Arguments<'_>) {
        let mut inner = self.lock();
        inner.entries += 1;
        for word in words {
            inner.hash = fold(inner.hash, *word);
        }
        if inner.echo {
            eprintln!("{text}");
        }
        if inner.keep > 0 {
            if inner.lines.len() == inner.keep {
                inner.lines.pop_front();
            }
            inner.lines.push_back(text.to_string());
        }
    }

    /// The number.
    pub fn hash(&self) -> u64 {
        self.lock().hash
    }

    /// How many happenings are in it.
    pub fn entries(&self) -> u64 {
        self.lock().entries
    }

    /// The lines that were kept, oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number that stands for `bytes`, for traces only.
pub fn digest(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut hash = bytes.len() as u64;
    for word in words {
        hash = fold(hash, u64::from_le_bytes(*word));
    }
    rest.iter().fold(hash, |hash, byte| fold(hash, u64::from(*byte)))
}

/// Mixes a word into a hash.
pub fn fold(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_content_change_the_hash() {
        let of = |entries: &[u64]| {
            let trace = Trace::default();
            entries.iter().for_each(|entry| trace.note(&[*entry], format_args!("")));
            trace.hash()
        };
        assert_eq!(of(&[1, 2]), of(&[1, 2]));
        assert_ne!(of(&[1, 2]), of(&[2, 1]));
        assert_ne!(of(&[1, 2]), of(&[1, 3]));
    }
}
