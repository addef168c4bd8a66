//! What of a rig's log shall be erased, and what surely is.

use super::*;
use crate::compact::Outcome;
use crate::directory::{AbortedLeg, Due};
use crate::frame::Erase;

/// Erasures that were asked for, and those that were done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Erasures {
    /// Events up to there may be gone.
    wanted: BTreeMap<AggregateKey, Version>,
    /// Events up to there are gone from this segment.
    done: BTreeMap<(u32, AggregateKey), Version>,
    /// Legs that were aborted, and are gone.
    legs: BTreeSet<TxnId>,
    /// What the segment in hand is packed without.
    in_hand: Vec<Erase>,
    /// Segments that were packed, with how many bytes of events were erased in all.
    pub(crate) packed: Vec<u32>,
    pub(crate) bytes_erased: u64,
    pub(crate) bytes_saved: i64,
    /// How often there was no room.
    pub(crate) postponed: u32,
}

impl Erasures {
    /// Up to which version events of `key` are surely gone from `segment`, and may be.
    pub(super) fn of(&self, key: &AggregateKey, segment: u32) -> (Version, Version) {
        let done = self.done.get(&(segment, key.clone())).copied().unwrap_or_default();
        (done, self.wanted.get(key).copied().unwrap_or_default())
    }

    /// Whether a leg that was aborted is surely gone.
    pub(super) fn is_gone(&self, txn: TxnId) -> bool {
        self.legs.contains(&txn)
    }

    pub(super) fn compacted(&mut self, outcome: Option<Outcome>) {
        match outcome {
            None => {}
            Some(Outcome::Packed { segment, bytes_before, bytes_after, bytes_erased }) => {
                self.packed.push(segment);
                self.bytes_erased += bytes_erased;
                self.bytes_saved += bytes_before as i64 - bytes_after as i64;
                for erase in std::mem::take(&mut self.in_hand) {
                    match erase {
                        Erase::Batch { key, upto, .. } => {
                            self.done.insert((segment, key), upto);
                        }
                        Erase::Leg(leg) => drop(self.legs.insert(leg.txn)),
                    }
                }
            }
            Some(Outcome::NoRoom { .. }) => self.postponed += 1,
        }
    }
}

impl Rig {
    /// Events of aggregate `number` up to the `part`-th part of a hundred shall go.
    pub(crate) fn want_erased(&mut self, number: u64, part: u64) {
        let key = key(number);
        let Some(head) = self.head(&key) else { return };
        let upto = Version::new(head.version.value() * part / 100);
        let wanted = self.erasures.wanted.entry(key).or_default();
        *wanted = upto.max(*wanted);
    }

    /// Begins to pack the `at`-th sealed segment; false if that cannot be.
    pub(crate) fn compact(&mut self, at: u64) -> bool {
        let sealed = u64::from(self.log.sealed_upto());
        if sealed == 0 || !self.compactor.is_idle() {
            return false;
        }
        let segment = (1 + at % sealed) as u32;
        let mut erases = Vec::new();
        for (key, upto) in &self.erasures.wanted {
            // What was shown before a crash may not be known yet.
            let Some(head) = self.head(key) else { continue };
            let upto = &head.version.min(*upto);
            let mut next = Version::new(1);
            while next <= *upto {
                let found = self
                    .ask(|directory, pins| directory.locate(key, next, *upto, false, 1000, pins));
                let Some((_, last, _)) = found.last() else { panic!("nothing from {next} on") };
                next = last.next();
                let here = found.iter().filter(|(_, _, at)| at.segment == segment);
                let (upto, key) = (*upto, || key.clone());
                erases.extend(here.map(|(first, _, location)| {
                    let (first, location) = (*first, *location);
                    Erase::Batch { key: key(), location, first, upto }
                }));
            }
        }
        let legs = self.aborted().into_iter().filter(|leg| leg.location.segment == segment);
        erases.extend(legs.map(Erase::Leg));
        self.erasures.in_hand = erases.clone();
        self.compactor.pack(&self.log, segment, erases);
        self.advance_compactor();
        true
    }

    /// Every leg that was aborted, as the directory knows it.
    pub(crate) fn aborted(&self) -> Vec<AbortedLeg> {
        let due = self.ask(|directory, pins| directory.due(Stamp::ZERO, usize::MAX, pins));
        let leg = |due| match due {
            Due::Leg(leg) => leg,
            Due::Erasure(erasure) => panic!("nobody deleted {erasure:?}"),
        };
        due.into_iter().map(leg).collect()
    }

    pub(crate) fn advance_compactor(&mut self) {
        let mut ops = Vec::new();
        self.compactor.advance(&mut ops);
        self.start(ops);
    }

    /// One random step of a busy shard that is being compacted meanwhile.
    pub(crate) fn compacting_step(&mut self, dice: &mut Dice) -> Result<(), Error> {
        match dice.roll(24) {
            0 => self.want_erased(dice.roll(40), dice.roll(101)),
            1 | 2 => drop(self.compact(dice.roll(64))),
            3 if dice.roll(8) == 0 => drop(self.log.roll(0)),
            _ => self.try_step(dice)?,
        }
        Ok(())
    }
}
