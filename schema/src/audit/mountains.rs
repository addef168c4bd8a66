//! A Merkle mountain range: many hashes in order, one head for all of them, short proofs.
//!
//! ```text
//!        ┌─ 3 ─┐
//!      ┌─┴┐  ┌┴─┐  ┌─┴┐
//!      0  1  2  3  4  5  6        7 leaves: mountains of 4, 2 and 1; their tops make the head
//! ```
//! Mountains are perfect binary trees, one for each bit of the number of leaves. Appending touches
//! only the newest, nothing is ever rewritten, and log2(n) hashes are all that must be kept.
//! (P. Todd, "Merkle Mountain Ranges", 2012.) Leaves, nodes and heads are hashed under keys of
//! their own, so none passes for another.

use crate::codec::{DecodeError, Reader};
use crate::hash::Hash;

const LEAF_KEY: &[u8; 32] = b"celeriant mountain leaf v1      ";
const NODE_KEY: &[u8; 32] = b"celeriant mountain node v1      ";
const HEAD_KEY: &[u8; 32] = b"celeriant mountain head v1      ";

/// Stands for all leaves up to `count`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// How many leaves.
    pub count: u64,
    /// Covers their number, order and content.
    pub hash: Hash,
}

/// All that must be kept of the leaves so far: the tops of the mountains.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Mountains {
    count: u64,
    /// From the largest, oldest mountain to the newest.
    tops: Vec<Hash>,
}

impl Mountains {
    /// How many leaves.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Takes the next leaf.
    pub fn push(&mut self, leaf: Hash) {
        self.push_noting(leaf, |_, _, _| {});
    }

    /// The head over all leaves so far.
    pub fn head(&self) -> Head {
        Head { count: self.count, hash: head_hash(self.count, &self.tops) }
    }

    /// Tells `note` of every two mountains that become one: how many there are before the left one,
    /// and both tops.
    fn push_noting(&mut self, leaf: Hash, mut note: impl FnMut(usize, Hash, Hash)) {
        let mut top = leaf_hash(leaf);
        // As many as the old count has ones at its end.
        for _ in 0..self.count.trailing_ones() {
            let Some(left) = self.tops.pop() else { break };
            note(self.tops.len(), left, top);
            top = node_hash(left, top);
        }
        self.tops.push(top);
        self.count += 1;
    }
}

/// Makes the proof for one leaf while all of them go by once.
#[derive(Clone, Debug)]
pub struct Prover {
    mountains: Mountains,
    index: u64,
    /// Position, among the mountains, of the one that holds the leaf.
    at: usize,
    path: Vec<Hash>,
}

impl Prover {
    /// For the leaf at `index`, from 0.
    pub fn new(index: u64) -> Self {
        Self { mountains: Mountains::default(), index, at: 0, path: Vec::new() }
    }

    /// For the leaf that comes next, behind those that `mountains` has.
    pub fn for_next(mountains: Mountains) -> Self {
        Self { index: mountains.count, mountains, at: 0, path: Vec::new() }
    }

    /// Takes the next leaf, the first one first.
    pub fn push(&mut self, leaf: Hash) {
        let number = self.mountains.count;
        if number == self.index {
            self.at = self.mountains.tops.len();
        }
        let (known, path, at) = (number >= self.index, &mut self.path, &mut self.at);
        self.mountains.push_noting(leaf, |before, left, right| {
            if known && *at == before {
                path.push(right);
            } else if known && *at == before + 1 {
                path.push(left);
                *at = before;
            }
        });
    }

    /// The proof against the head over all leaves so far; `None` if the leaf was not among them.
    pub fn finish(self) -> Option<(Proof, Head)> {
        let head = self.mountains.head();
        if self.index >= head.count {
            return None;
        }
        let mut others = self.mountains.tops;
        others.remove(self.at);
        let proof = Proof { index: self.index, count: head.count, path: self.path, others };
        Some((proof, head))
    }
}

/// That one leaf is at its place among the leaves of a head.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proof {
    index: u64,
    count: u64,
    /// The neighbours, from the leaf up to its mountain's top.
    path: Vec<Hash>,
    /// The tops of the other mountains, oldest first.
    others: Vec<Hash>,
}

impl Proof {
    /// Place of the leaf, from 0.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Whether `leaf` is at this proof's place among the leaves that `head` stands for.
    pub fn proves(&self, leaf: Hash, head: &Head) -> bool {
        let Some((mountain, height, within)) = place(self.index, self.count) else { return false };
        let mountains = self.count.count_ones() as usize;
        if head.count != self.count
            || self.path.len() != height as usize
            || self.others.len() + 1 != mountains
        {
            return false;
        }
        let mut top = leaf_hash(leaf);
        for (level, neighbour) in self.path.iter().enumerate() {
            top = match within >> level & 1 {
                0 => node_hash(top, *neighbour),
                _ => node_hash(*neighbour, top),
            };
        }
        let mut tops = self.others.clone();
        tops.insert(mountain, top);
        head_hash(self.count, &tops) == head.hash
    }

    /// As bytes: index, count, then the path's length and its hashes, then the other tops.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(17 + 32 * (self.path.len() + self.others.len()));
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.push(self.path.len() as u8);
        self.path.iter().chain(&self.others).for_each(|hash| out.extend_from_slice(&hash.0));
        out
    }

    /// Reads a proof. That it can be read does not say that it proves anything.
    ///
    /// # Errors
    /// When it is not of a possible shape.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes, "proof");
        let (index, count, len) = (input.u64()?, input.u64()?, input.u8()?);
        let shape = DecodeError::Length { what: "proof" };
        let (_, height, _) = place(index, count).ok_or(shape.clone())?;
        if u32::from(len) != height {
            return Err(shape);
        }
        let path = (0..height).map(|_| input.hash()).collect::<Result<_, _>>()?;
        let others = (1..count.count_ones()).map(|_| input.hash()).collect::<Result<_, _>>()?;
        input.finish()?;
        Ok(Self { index, count, path, others })
    }
}

/// Of a leaf: which mountain it is in, that one's height, and its place within. `None` if there is
/// no such leaf.
fn place(index: u64, count: u64) -> Option<(usize, u32, u64)> {
    let mut before = 0;
    for (mountain, height) in (0..64).rev().filter(|bit| count >> bit & 1 == 1).enumerate() {
        let size = 1_u64 << height;
        if index - before < size {
            return Some((mountain, height, index - before));
        }
        before += size;
    }
    None
}

fn leaf_hash(leaf: Hash) -> Hash {
    blake3::keyed_hash(LEAF_KEY, &leaf.0).into()
}

fn node_hash(left: Hash, right: Hash) -> Hash {
    let mut both = [0; 64];
    both[..32].copy_from_slice(&left.0);
    both[32..].copy_from_slice(&right.0);
    blake3::keyed_hash(NODE_KEY, &both).into()
}

fn head_hash(count: u64, tops: &[Hash]) -> Hash {
    let mut hasher = blake3::Hasher::new_keyed(HEAD_KEY);
    hasher.update(&count.to_le_bytes());
    tops.iter().for_each(|top| {
        hasher.update(&top.0);
    });
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::samples::damage;

    fn leaf(number: u64) -> Hash {
        blake3::hash(&number.to_le_bytes()).into()
    }

    fn mountains(count: u64) -> Mountains {
        let mut mountains = Mountains::default();
        (0..count).for_each(|number| mountains.push(leaf(number)));
        mountains
    }

    fn prove(index: u64, count: u64) -> (Proof, Head) {
        let mut prover = Prover::new(index);
        (0..count).for_each(|number| prover.push(leaf(number)));
        prover.finish().expect("it is among them")
    }

    #[test]
    fn heads_never_change() {
        let heads = [0, 1, 2, 3, 7].map(|count| mountains(count).head().hash.to_string());
        assert_eq!(heads, GOLDEN);
    }

    /// Also made by another implementation.
    const GOLDEN: [&str; 5] = [
        "0e70611b9a3beca77b81293e94976fbf94cef9227354de8d826951c12af5c2aa",
        "f2e883935f8bca332cb53f356de89d557f0898a0ef23f9ec92698426b5cb961f",
        "a6d0eb7132a4c13010fe95b1bd70907fb4bd39b9c0731e55f2bb525a6bd328cb",
        "a39b8c6fa2f68c6843c2cfb4fd8ced4ff2ced713c13f8b303dd3a8ae53d3f570",
        "acdc6bc1dd20dfc6f454e63002f9949f4d58ddff1289569629fdee17fd1ae416",
    ];

    #[test]
    fn a_head_is_what_the_picture_says() {
        let [a, b, c] = [0, 1, 2].map(|number| leaf_hash(leaf(number)));
        assert_eq!(mountains(3).head().hash, head_hash(3, &[node_hash(a, b), c]));
        assert_eq!(mountains(3).tops.len(), 2);
    }

    #[test]
    fn every_leaf_of_every_small_range_is_proved_and_nothing_else() {
        for count in 1..=33 {
            let expected = mountains(count).head();
            for index in 0..count {
                let (proof, head) = prove(index, count);
                assert_eq!(head, expected);
                assert!(proof.proves(leaf(index), &head), "{index} of {count}");
                assert!(!proof.proves(leaf(index + 1), &head), "{index} of {count}");
                let other = Head { count: count + 1, ..head };
                assert!(!proof.proves(leaf(index), &other), "{index} of {count}");
                assert!(!proof.proves(leaf(index), &mountains(count + 1).head()));
            }
            let mut prover = Prover::new(count);
            (0..count).for_each(|number| prover.push(leaf(number)));
            assert!(prover.finish().is_none());
        }
    }

    #[test]
    fn a_damaged_proof_proves_nothing() {
        let (proof, head) = prove(5, 11);
        assert_eq!(Proof::decode(&proof.encode()).as_ref(), Ok(&proof));
        damage(&proof.encode(), |bytes| {
            if let Ok(damaged) = Proof::decode(bytes) {
                assert!(damaged == proof || !damaged.proves(leaf(5), &head), "{damaged:?}");
            }
        });
    }

    proptest! {
        #[test]
        fn proofs_are_as_long_as_the_logarithm(
            (count, index) in (1..5000_u64).prop_flat_map(|count| (Just(count), 0..count)),
        ) {
            let (proof, head) = prove(index, count);
            prop_assert!(proof.proves(leaf(index), &head));
            let hashes = proof.path.len() + proof.others.len();
            prop_assert!(hashes as u32 <= 2 * count.ilog2() + 1, "{hashes} hashes for {count}");
        }

        #[test]
        fn another_leaf_anywhere_is_another_head(
            (count, index) in (1..300_u64).prop_flat_map(|count| (Just(count), 0..count)),
        ) {
            let mut changed = Mountains::default();
            (0..count).for_each(|n| changed.push(leaf(if n == index { n + 1_000 } else { n })));
            prop_assert_ne!(changed.head(), mountains(count).head());
            let (proof, _) = prove(index, count);
            prop_assert!(!proof.proves(leaf(index), &changed.head()));
        }

        #[test]
        fn any_bytes_are_a_proof_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Ok(proof) = Proof::decode(&bytes) {
                prop_assert_eq!(proof.encode(), bytes);
            }
        }
    }
}
