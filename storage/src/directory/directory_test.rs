//! The directory against a model, with rows spread over memtable, frozen table and several runs,
//! and hardly any page in memory.

use celeriant_schema::limits::SEQUENCES_REMEMBERED;
use celeriant_schema::{Epoch, ListPage};
use proptest::prelude::*;

use super::*;
use crate::DirectoryBudget;
use crate::disk::{Disk, Op};
use crate::manifest::Position;
use crate::testing::{Dice, MemoryDisk, cases, identity, small_settings};

/// What a directory must say of one aggregate.
#[derive(Default)]
struct Known {
    /// With events.
    batches: Vec<AppliedBatch>,
    sequences: BTreeMap<ClientId, Vec<Sequence>>,
    /// All batches with sequences, as far as they are not forgotten.
    used: Vec<AppliedBatch>,
    /// The newest batch of all.
    last: Option<AppliedBatch>,
    first_available: u64,
}

struct World {
    disk: MemoryDisk,
    directory: Directory,
    model: BTreeMap<AggregateKey, Known>,
    outcomes: BTreeMap<TxnId, bool>,
    erasures: Vec<Erasure>,
    /// Erasures among them, in the order of stamps.
    due: Vec<Due>,
    applied: u64,
}

fn key(text: &str) -> AggregateKey {
    text.parse().expect("a key")
}

fn tiny() -> Settings {
    let directory = DirectoryBudget { memtable_bytes: 24 << 10, cache_bytes: 24 << 10 };
    Settings { directory, ..small_settings() }
}

impl World {
    fn new(settings: &Settings) -> Self {
        Self {
            disk: MemoryDisk::default(),
            directory: Directory::open(identity(), settings, 1, Checkpoint::default(), Vec::new()),
            model: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            erasures: Vec::new(),
            due: Vec::new(),
            applied: 0,
        }
    }

    fn apply(&mut self, key: &AggregateKey, events: u64, client: u128, is_sequenced: bool) {
        self.apply_batch(key, events, client, is_sequenced, None);
    }

    fn apply_batch(
        &mut self,
        key: &AggregateKey,
        events: u64,
        client: u128,
        is_sequenced: bool,
        retention: Option<Retention>,
    ) {
        self.applied += 1;
        let at = self.applied;
        let known = self.model.entry(key.clone()).or_default();
        if let Some(Retention::Delete { forget_sequences: true, .. }) = retention {
            known.sequences.clear();
            known.used.clear();
        }
        let first = known.batches.last().map_or(1, |last| last.last_version.value() + 1);
        let client_id = ClientId::new(client);
        let used = known.sequences.entry(client_id).or_default();
        let sequence = is_sequenced.then(|| Sequence::new(used.len() as u64 + 1));
        used.extend(sequence);
        let batch = AppliedBatch {
            first_version: Version::new(first),
            last_version: Version::new(first + events - 1),
            hash: Hash([at as u8; 32]),
            server_time: at as i64 * 10,
            stamp: Stamp::new(at * 100),
            last_stamp: Stamp::new(at * 100 + events),
            write_stamp: Stamp::new(at * 100 + events + 1),
            client_id,
            sequence,
            write_hash: Hash([!at as u8; 32]),
            retention,
            location: BatchLocation {
                segment: 1 + (at / 100) as u32,
                frame_offset: at as u32,
                frame_bytes: 4096,
                record_offset: 3,
                batch_offset: 104,
            },
        };
        assert!(self.directory.continues(key, &batch));
        self.directory.apply(key, &batch);
        known.last = Some(batch);
        known.used.extend(sequence.map(|_| batch));
        let upto = match retention {
            None => {
                known.batches.push(batch);
                return;
            }
            Some(Retention::Delete { .. }) => first - 1,
            Some(Retention::Trim { keep_from }) => (keep_from.value() - 1).min(first - 1),
        };
        known.first_available = known.first_available.max(upto + 1);
        let upto = Version::new(upto);
        let erasure = Erasure { stamp: batch.stamp, key: key.clone(), upto };
        self.erasures.push(erasure.clone());
        self.due.push(Due::Erasure(erasure));
    }

    fn take_away(&mut self, key: &AggregateKey, dice: &mut Dice) {
        let Some(known) = self.model.get(key) else { return };
        let newest = known.batches.last().map_or(0, |last| last.last_version.value());
        let flag = |dice: &mut Dice| dice.roll(2) == 0;
        // A shard trims nothing that is deleted.
        let last = known.last.and_then(|last| last.retention);
        let kinds = if matches!(last, Some(Retention::Delete { .. })) { 1 } else { 2 };
        let retention = match dice.roll(kinds) {
            0 => Retention::Delete { recreate: flag(dice), forget_sequences: flag(dice) },
            _ => Retention::Trim { keep_from: Version::new(1 + dice.roll(newest + 2)) },
        };
        let client = u128::from(dice.roll(4));
        self.apply_batch(key, 0, client, flag(dice), Some(retention));
    }

    fn check_erasures(&mut self, dice: &mut Dice) {
        let after = Stamp::new(dice.roll(self.applied * 100 + 1));
        let max = 1 + dice.roll(20) as usize;
        let behind = self.erasures.iter().filter(|erasure| erasure.stamp > after);
        let expected: Vec<_> = behind.take(max).cloned().collect();
        let found = self.ask(|directory, pins| directory.erasures(after, max, pins));
        assert_eq!(found, expected);
        let behind = self.due.iter().filter(|due| due.stamp() > after);
        let expected: Vec<_> = behind.take(max).cloned().collect();
        let found = self.ask(|directory, pins| directory.due(after, max, pins));
        assert_eq!(found, expected);
    }

    /// A leg at the end of what is applied; its first batch is that of `key`.
    fn decide(&mut self, key: &AggregateKey, commit: bool) {
        self.applied += 1;
        let at = self.applied;
        let txn = TxnId { epoch: Epoch::new(1), counter: at, ..TxnId::default() };
        self.directory.note_outcome(txn, Lsn::new(at), commit);
        self.outcomes.insert(txn, commit);
        let first = self.model.get(key).and_then(|known| known.batches.last());
        if let Some(first) = first.filter(|_| !commit) {
            let (stamp, location) = (Stamp::new(at * 100), first.location);
            self.directory.note_aborted(stamp, txn, &[(key.clone(), *first)]);
            self.due.push(Due::Leg(AbortedLeg { stamp, txn, location }));
        }
    }

    fn maintain(&mut self) {
        let mut ops = Vec::new();
        let lsn = Lsn::new(self.applied);
        if self.directory.must_freeze(lsn, 0) {
            let position =
                Position { lsn, last_stamp: Stamp::new(u64::MAX), ..Position::default() };
            self.directory.freeze(position, 0, std::iter::empty());
        }
        self.directory.advance(&mut ops);
        self.start(ops);
    }

    fn start(&mut self, ops: Vec<(Token, Op)>) {
        ops.into_iter().for_each(|(token, op)| self.disk.start(token, op));
    }

    fn finish(&mut self, at: usize) -> Vec<(Missing, Bytes)> {
        let completion = self.disk.finish(at);
        let mut ops = Vec::new();
        let pages = self.directory.complete(completion, &mut ops).expect("a healthy disk");
        self.start(ops);
        pages
    }

    fn settle(&mut self) {
        self.maintain();
        while self.disk.waiting() > 0 {
            self.finish(0);
        }
        assert!(self.directory.idle());
    }

    /// Asks, and loads what is missing, as a shard does.
    fn ask<T>(&mut self, mut lookup: impl FnMut(&Directory, &Pins) -> Result<T, Fault>) -> T {
        let mut pins = Pins::default();
        loop {
            let missing = match lookup(&self.directory, &pins) {
                Ok(answer) => return answer,
                Err(Fault::Missing(missing)) => missing,
                Err(Fault::Damaged(damage)) => panic!("{damage}"),
            };
            let mut ops = Vec::new();
            self.directory.load(missing, &mut ops);
            self.directory.load(missing, &mut ops);
            assert_eq!(ops.len(), 1, "a page is read once");
            self.start(ops);
            loop {
                let at = self.disk.waiting() - 1;
                if let Some((page, bytes)) = self.finish(at).pop() {
                    assert_eq!(page, missing);
                    pins.add(page, bytes);
                    break;
                }
            }
        }
    }

    fn check_key(&mut self, key: &AggregateKey, dice: &mut Dice) {
        let head = self.ask(|directory, pins| directory.head(key, pins));
        let standing = self.ask(|directory, pins| directory.standing(key, pins));
        let Some(known) = self.model.get(key) else {
            assert_eq!((head, standing), (None, None));
            return;
        };
        let (first, last) = (known.batches[0], known.last.expect("a batch"));
        let delete = match last.retention {
            Some(Retention::Delete { recreate, .. }) => Some(recreate),
            _ => None,
        };
        let expected = Head {
            version: last.last_version,
            hash: last.hash,
            created: first.server_time,
            updated: last.server_time,
            stamp: last.last_stamp,
            deleted: delete.is_some(),
            first_available: Version::new(known.first_available.max(1)),
        };
        assert_eq!(head, Some(expected), "{key}");
        let Head { version, hash, deleted, first_available, .. } = expected;
        let expected = Standing { version, hash, deleted, is_final: delete == Some(false) };
        let first = self.ask(|directory, pins| directory.first_available(key, pins));
        assert_eq!(first, first_available, "{key}");
        assert_eq!(standing, Some(expected), "{key}");
        self.check_places(key, dice);
        for client in 0..5 {
            self.check_sequences(key, ClientId::new(client));
        }
    }

    fn check_sequences(&mut self, key: &AggregateKey, client: ClientId) {
        let found = self.ask(|directory, pins| directory.sequences(key, client, pins));
        let last = self.ask(|directory, pins| directory.last_sequence(key, client, pins));
        assert_eq!(last, found.as_ref().and_then(|found| found.newest().copied()));
        let known = &self.model[key];
        let used: Vec<_> = known.used.iter().filter(|batch| batch.client_id == client).collect();
        let recent = &used[used.len().saturating_sub(SEQUENCES_REMEMBERED)..];
        let found = found.unwrap_or_default();
        assert_eq!(found.iter().count(), recent.len(), "{key} {client:?}");
        for (remembered, batch) in found.iter().zip(recent) {
            let expected = Remembered {
                sequence: batch.sequence.expect("used"),
                first_version: batch.first_version,
                last_version: batch.last_version,
                hash: batch.hash,
                stamp: batch.write_stamp,
                write_hash: batch.write_hash,
            };
            assert_eq!(*remembered, expected, "{key}");
        }
    }

    fn check_places(&mut self, key: &AggregateKey, dice: &mut Dice) {
        let newest = self.model[key].batches.last().map_or(0, |last| last.last_version.value());
        let from = dice.roll(newest + 2);
        let to = from + dice.roll(newest + 2);
        let (from, to) = (Version::new(from), Version::new(to));
        let (backwards, max) = (dice.roll(2) == 0, 1 + dice.roll(200) as usize);
        let overlaps =
            |batch: &&AppliedBatch| batch.last_version >= from && batch.first_version <= to;
        let batches = self.model[key].batches.iter().filter(overlaps);
        let mut expected: Vec<_> =
            batches.map(|it| (it.first_version, it.last_version, it.location)).collect();
        if backwards {
            expected.reverse();
        }
        let found =
            self.ask(|directory, pins| directory.locate(key, from, to, backwards, max, pins));
        assert!(found.len() <= max && expected.starts_with(&found), "{key} {from}..={to}");
        assert_eq!(found.is_empty(), expected.is_empty(), "{key} {from}..={to}");
        let at = dice.roll(self.applied + 2) as u32;
        let found = self.ask(|directory, pins| directory.next_batch(key, (1 + at / 100, at), pins));
        let mut behind = self.model[key].batches.iter().map(|batch| batch.location);
        assert_eq!(found, behind.find(|location| location.frame_offset >= at), "{key} {at}");
    }

    fn list(
        &mut self,
        parents: &[&str],
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> ListPage {
        let mut listing = Listing::default();
        let list = |it: &Directory, pins: &Pins, listing: &mut Listing| {
            it.list(parents, prefix, after, limit, listing, pins)
        };
        while !self.ask(|it, pins| list(it, pins, &mut listing)) {}
        listing.page
    }

    fn check_names(&mut self, org: Option<&str>, kind: Option<&str>, prefix: &str, limit: usize) {
        let mut names: Vec<&str> = Vec::new();
        for (key, known) in &self.model {
            let taken = known.last.and_then(|last| last.retention);
            let is_deleted = matches!(taken, Some(Retention::Delete { .. }));
            let name = match (org, kind) {
                (Some(_), Some(_)) if is_deleted => continue,
                (None, _) => key.org(),
                (Some(org), None) if key.org() == org => key.kind(),
                (Some(org), Some(kind)) if key.org() == org && key.kind() == kind => key.id(),
                _ => continue,
            };
            if name.starts_with(prefix) && names.last() != Some(&name) {
                names.push(name);
            }
        }
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let mut listed: Vec<String> = Vec::new();
        let parents: Vec<&str> = org.into_iter().chain(kind.filter(|_| org.is_some())).collect();
        loop {
            let after = listed.last().cloned();
            let page = self.list(&parents, prefix, after.as_deref(), limit);
            assert!(page.names.len() <= limit);
            listed.extend(page.names);
            assert_eq!(page.more, listed.len() < names.len());
            if !page.more {
                break;
            }
        }
        assert_eq!(listed, names);
    }

    fn random_key(dice: &mut Dice) -> AggregateKey {
        // One is hot: its places fill many rows.
        if dice.roll(3) == 0 {
            return key("b/hot/1");
        }
        let org = ["a", "b", "b-"][dice.roll(3) as usize];
        let kind = ["x", "x-", "y"][dice.roll(3) as usize];
        key(&format!("{org}/{kind}/{}", dice.roll(40)))
    }

    fn step(&mut self, dice: &mut Dice) {
        match dice.roll(10) {
            0..=5 if !self.directory.is_full() => {
                let key = Self::random_key(dice);
                let (events, client) = (1 + dice.roll(3), u128::from(dice.roll(4)));
                self.apply(&key, events, client, dice.roll(3) > 0);
                self.maintain();
            }
            6 if dice.roll(3) == 0 && !self.directory.is_full() => {
                let key = Self::random_key(dice);
                self.take_away(&key, dice);
                self.maintain();
            }
            6 if !self.directory.is_full() => {
                let key = Self::random_key(dice);
                self.decide(&key, dice.roll(2) == 0);
            }
            7 if dice.roll(4) == 0 => {
                let key = Self::random_key(dice);
                self.check_key(&key, dice);
            }
            8 if dice.roll(16) == 0 => self.check_all_names(1 + dice.roll(9) as usize),
            _ if self.disk.waiting() > 0 => {
                let at = dice.roll(self.disk.waiting() as u64) as usize;
                self.finish(at);
                self.maintain();
            }
            _ => self.maintain(),
        }
    }

    fn check_all_names(&mut self, limit: usize) {
        self.check_names(None, None, "", limit);
        self.check_names(Some("b"), None, "x", limit);
        self.check_names(Some("b"), Some("x"), "", limit);
        self.check_names(Some("a"), Some("y"), "1", limit);
        self.check_names(Some("nobody"), Some("y"), "", limit);
    }

    fn check(&mut self, dice: &mut Dice) {
        let keys: Vec<_> = self.model.keys().cloned().collect();
        keys.iter().for_each(|key| self.check_key(key, dice));
        self.check_all_names(7);
        (0..20).for_each(|_| self.check_erasures(dice));
        for (txn, commit) in self.outcomes.clone() {
            assert_eq!(self.ask(|directory, pins| directory.outcome(txn, pins)), Some(commit));
        }
        let never = TxnId { epoch: Epoch::new(2), ..TxnId::default() };
        assert_eq!(self.ask(|directory, pins| directory.outcome(never, pins)), None);
    }
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn a_directory_says_what_was_applied_wherever_the_rows_are(seed in any::<u64>()) {
        let mut dice = Dice::new(seed);
        let mut world = World::new(&tiny());
        for _ in 0..4 {
            (0..dice.roll(1200)).for_each(|_| world.step(&mut dice));
            world.check(&mut dice);
        }
    }
}

#[test]
fn rows_really_lie_in_tables_and_several_runs() {
    let mut dice = Dice::new(3);
    let mut world = World::new(&tiny());
    let (mut most, mut merged, mut both) = (0, false, false);
    for _ in 0..6000 {
        let before = world.directory.run_count();
        world.step(&mut dice);
        let runs = world.directory.run_count();
        most = most.max(runs);
        merged |= runs < before;
        both |= world.directory.frozen.is_some() && runs > 2;
    }
    assert!(most >= 4 && merged && both, "{most} runs");
    world.settle();
    assert!(world.directory.run_count() <= 12);
    let files: Vec<_> = world.disk.files.keys().filter(|name| name.ends_with(".run")).collect();
    assert_eq!(files.len(), world.directory.run_count(), "replaced files are gone: {files:?}");
}

#[test]
fn memory_stays_within_the_budget_and_a_full_table_says_so() {
    let mut world = World::new(&tiny());
    let budget = tiny().directory;
    let mut number = 0;
    // Nothing is ever written: two tables fill up, then there is no place.
    while !world.directory.is_full() {
        number += 1;
        world.apply(&key(&format!("a/b/{number}")), 1, 1, true);
        world.maintain();
    }
    assert!(world.directory.unwritten_bytes() < budget.memtable_bytes + (1 << 10));
    assert!(number > 20, "{number} aggregates");
    world.settle();
    assert!(!world.directory.is_full());
    world.settle();
    for number in 1..=number {
        let key = key(&format!("a/b/{number}"));
        assert!(world.ask(|directory, pins| directory.standing(&key, pins)).is_some());
        assert!(world.directory.pages.bytes() <= budget.cache_bytes as u64);
    }
}

#[test]
fn a_pair_that_was_never_seen_costs_no_read_once_the_filters_are_in_memory() {
    let directory = DirectoryBudget { cache_bytes: 256 << 10, ..tiny().directory };
    let mut world = World::new(&Settings { directory, ..tiny() });
    for number in 0..400 {
        world.apply(&key(&format!("a/b/{number}")), 1, 1, true);
        world.settle();
    }
    let seen = |world: &mut World, number: u64, client: u128| {
        let key = key(&format!("a/b/{number}"));
        let client = ClientId::new(client);
        world.ask(|directory, pins| directory.sequences(&key, client, pins)).is_some()
    };
    assert!(seen(&mut world, 0, 1));
    assert!(world.directory.run_count() > 0);
    (0..50).for_each(|number| assert!(!seen(&mut world, number, 2)));
    let pins = Pins::default();
    let mut missing = 0;
    for number in 50..400 {
        let key = key(&format!("a/b/{number}"));
        match world.directory.sequences(&key, ClientId::new(2), &pins) {
            Ok(found) => assert!(found.is_none()),
            Err(_) => missing += 1,
        }
    }
    assert!(missing < 20, "{missing} of 350 needed a leaf");
}

#[test]
fn a_full_disk_loses_nothing_and_is_tried_again() {
    let mut dice = Dice::new(8);
    let mut world = World::new(&tiny());
    for room in [0, 4096, 40_000, 200_000] {
        world.disk.room = Some(room);
        for _ in 0..2000 {
            world.step(&mut dice);
        }
        while world.disk.waiting() > 0 {
            world.finish(0);
        }
        if room < 40_000 {
            assert!(world.directory.lacks_space() && world.directory.is_full(), "{room}");
        }
        world.disk.room = None;
        world.check(&mut dice);
        world.directory.retry_space();
        world.settle();
        assert!(!world.directory.lacks_space() && !world.directory.is_full());
        world.check(&mut dice);
    }
    let files = world.disk.files.keys().filter(|name| name.ends_with(".run")).count();
    assert_eq!(files, world.directory.run_count(), "what came to nothing is gone");
}

#[test]
#[should_panic(expected = "batch 3..=3 on version 1")]
fn a_batch_that_leaves_a_gap_is_never_taken() {
    let mut world = World::new(&tiny());
    world.apply(&key("a/b/c"), 1, 1, false);
    let first = world.model[&key("a/b/c")].batches[0];
    let (first_version, last_version) = (Version::new(3), Version::new(3));
    let gap = AppliedBatch { first_version, last_version, ..first };
    assert!(!world.directory.continues(&key("a/b/c"), &gap));
    world.directory.apply(&key("a/b/c"), &gap);
}

#[test]
fn names_are_listed_in_order_by_prefix_and_page() {
    let mut world = World::new(&tiny());
    for text in ["b/x/1", "a/x/1", "a/y/1", "a/y/2", "a/y/10", "a-b/x/1", "a/y-/3", "ab/x/1"] {
        world.apply(&key(text), 1, 1, true);
    }
    let mut names = |org, kind, prefix, after, limit| {
        let parents: Vec<&str> = [org, kind].into_iter().flatten().collect();
        let page = world.list(&parents, prefix, after, limit);
        (page.names.join(" "), page.more)
    };
    let (a, y) = (Some("a"), Some("y"));
    assert_eq!(names(None, None, "", None, 9), ("a a-b ab b".into(), false));
    assert_eq!(names(None, None, "a", None, 2), ("a a-b".into(), true));
    assert_eq!(names(None, None, "a", Some("a-b"), 2), ("ab".into(), false));
    assert_eq!(names(None, None, "a", Some("zz"), 2), ("".into(), false));
    assert_eq!(names(a, None, "", None, 9), ("x y y-".into(), false));
    assert_eq!(names(Some("zz"), None, "", None, 9), ("".into(), false));
    assert_eq!(names(a, y, "", None, 2), ("1 10".into(), true));
    assert_eq!(names(a, y, "", Some("10"), 2), ("2".into(), false));
    assert_eq!(names(a, y, "1", Some("0"), 9), ("1 10".into(), false));
    assert_eq!(names(a, y, "2", None, 0), ("".into(), true));
}

#[test]
fn deleted_aggregates_are_in_no_listing_until_they_are_begun_anew_and_few_are_passed_at_a_time() {
    let mut world = World::new(&tiny());
    let all = 3 * 1024;
    let delete = Retention::Delete { recreate: true, forget_sequences: false };
    for id in 0..all {
        let key = key(&format!("a/x/{id:05}"));
        world.apply(&key, 1, 1, false);
        // Some are deleted in the run or the table that has them, some in a later one.
        if id % 2 == 0 {
            world.apply_batch(&key, 0, 1, false, Some(delete));
        }
        world.maintain();
    }
    for id in (0..all).filter(|id| id % 2 == 1 && *id != all - 1) {
        world.apply_batch(&key(&format!("a/x/{id:05}")), 0, 1, false, Some(delete));
        world.maintain();
    }
    let (last, parents) = (format!("{:05}", all - 1), ["a", "x"]);
    let page = world.list(&parents, "", None, 9);
    assert_eq!((page.names, page.more), (vec![last.clone()], false));
    // A turn ends by itself, and the next one goes on behind it.
    let (mut listing, mut turns) = (Listing::default(), 1);
    while !world.ask(|it, pins| it.list(&parents, "", None, 1, &mut listing, pins)) {
        turns += 1;
    }
    assert_eq!((listing.page.names, turns), (vec![last], 3));
    world.apply(&key("a/x/00004"), 1, 1, false);
    assert_eq!(world.list(&parents, "", None, 1).names, ["00004"]);
    assert_eq!(world.list(&["a"], "", None, 9).names, ["x"], "a type stays");
    let mut with = Listing::with_deleted();
    assert!(world.ask(|it, pins| it.list(&parents, "0000", None, 99, &mut with, pins)));
    assert_eq!(with.page.names.len(), 10);
}
