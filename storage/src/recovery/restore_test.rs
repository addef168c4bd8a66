//! Starts from a manifest and runs: crashes at every step of upkeep, damage in every byte, and how
//! much is read.

use std::task::{Context, Poll};

use proptest::prelude::*;

use super::*;
use crate::disk::{Completion, Op, Token};
use crate::recovery::{Recovered, find_outcomes, recover};
use crate::testing::{Dice, Fate, MemoryDisk, Rig, Snapshot, cases, identity, now, small_settings};
use crate::{DirectoryBudget, Settings};

/// A directory that is written out every few batches.
fn hasty() -> Settings {
    let directory = DirectoryBudget { memtable_bytes: 24 << 10, cache_bytes: 32 << 10 };
    Settings { directory, checkpoint_bytes: 32 << 10, ..small_settings() }
}

/// A shard's life of so many steps; ends early when its disk fails.
fn live(rig: &mut Rig, steps: u64, dice: &mut Dice) -> bool {
    (0..steps).all(|_| rig.try_step(dice).is_ok())
}

/// A folder with a checkpoint, some runs, an undecided leg and a tail.
fn settled() -> Snapshot {
    let mut rig = Rig::new(hasty());
    let mut dice = Dice::new(21);
    while rig.directory.run_count() < 3 || rig.undecided() == 0 {
        live(&mut rig, 50, &mut dice);
        rig.settle();
    }
    rig.snapshot()
}

fn files(snapshot: &Snapshot, ending: &str) -> Vec<String> {
    snapshot.files.keys().filter(|name| name.ends_with(ending)).cloned().collect()
}

#[test]
fn a_crash_at_any_step_of_upkeep_leaves_a_directory_that_says_the_same() {
    let mut crashes = 0;
    let mut seen = crate::recovery::Report::default();
    for crash_after in 0.. {
        let mut dice = Dice::new(5);
        let mut rig = Rig::new(hasty());
        rig.disk.crash_after = Some(crash_after);
        rig.disk.dice = Some(Dice::new(crash_after));
        if live(&mut rig, 700, &mut dice) {
            break;
        }
        crashes += 1;
        let acknowledged = rig.log.durable();
        let mut snapshot = rig.snapshot();
        snapshot.files = rig.disk.crash(|_| Fate::Drop, &mut dice);
        // Opening holds everything against the model.
        let rig = snapshot.open().expect("a crash is no damage");
        assert!(rig.recovered_tip >= acknowledged, "crash after {crash_after}");
        assert!(!rig.report.rebuilt, "crash after {crash_after}: {:?}", rig.report);
        seen.runs_opened = seen.runs_opened.max(rig.report.runs_opened);
        seen.removed.extend(rig.report.removed.clone());
    }
    assert!(crashes > 120 && seen.runs_opened > 3, "{crashes} crashes, {seen:?}");
    assert!(seen.removed.iter().any(|name| name.ends_with(".run")));
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn lives_with_many_checkpoints_survive_any_crash(seed in any::<u64>()) {
        let mut dice = Dice::new(seed);
        let mut rig = Rig::new(hasty());
        for _ in 0..5 {
            live(&mut rig, dice.roll(500), &mut dice);
            let mut fates = dice.clone();
            let fate = |_: &Op| match fates.roll(3) {
                0 => Fate::Drop,
                1 => Fate::Keep,
                _ => Fate::Tear,
            };
            rig = rig.restart(fate, &mut dice);
            prop_assert!(!rig.report.rebuilt);
        }
    }
}

#[test]
fn a_crash_at_any_step_of_a_rebuild_leaves_the_same_log() {
    let mut snapshot = settled();
    let whole = snapshot.open().expect("intact");
    snapshot.files.get_mut(MANIFEST_NAME).expect("there")[50] ^= 1;
    let mut crashes = 0;
    for crash_after in 0.. {
        let mut disk = MemoryDisk::with_files(snapshot.files.clone());
        disk.crash_after = Some(crash_after);
        disk.dice = Some(Dice::new(crash_after));
        if now(recover(&mut disk, identity(), &hasty())).is_ok() {
            break;
        }
        crashes += 1;
        let again = snapshot.open_with(disk.files).expect("a crash is no damage");
        assert_eq!(again.recovered_tip, whole.recovered_tip);
        assert_eq!(again.recovered_hash, whole.recovered_hash);
        assert_eq!(again.undecided(), whole.undecided());
    }
    assert!(crashes > 15, "{crashes}");
}

#[test]
fn a_leg_that_was_shown_before_its_decision_was_durable_is_not_applied_twice() {
    let mut rig = Rig::new(hasty());
    rig.settle();
    assert!(rig.append(&[1, 2], &[200, 100], true));
    rig.settle();
    rig.show(0);
    while rig.directory.run_count() < 2 {
        rig.append(&[3], &[900], false);
        rig.settle();
    }
    let mut rig = rig.snapshot().open().expect("intact");
    assert_eq!((rig.undecided(), rig.shown()), (1, 1));
    // Also through a further checkpoint, and with the directory made anew.
    let before = rig.log.durable();
    while rig.log.durable() < before.plus(60) {
        rig.append(&[3], &[900], false);
        rig.settle();
    }
    let mut snapshot = rig.snapshot();
    let rig = snapshot.open().expect("intact");
    assert_eq!((rig.undecided(), rig.shown(), rig.report.rebuilt), (1, 1, false));
    let mut rig = snapshot.open().expect("intact");
    assert!(rig.resolve(0, true));
    rig.settle();
    rig.check();
    snapshot = rig.snapshot();
    assert_eq!(snapshot.open().expect("intact").undecided(), 0);
    snapshot.files.remove(MANIFEST_NAME);
    let rig = snapshot.open().expect("a directory is no loss");
    assert!(rig.report.rebuilt && rig.undecided() == 0);
}

#[test]
fn a_missing_manifest_or_run_is_no_loss() {
    let snapshot = settled();
    let whole = snapshot.open().expect("intact");
    assert!(!whole.report.rebuilt && whole.report.runs_opened >= 3);
    for name in [files(&snapshot, ".run"), files(&snapshot, MANIFEST_NAME)].concat() {
        let mut files = snapshot.files.clone();
        files.remove(&name);
        let mut rig = snapshot.open_with(files).expect("a directory is no loss");
        assert!(rig.report.rebuilt && rig.recovered_tip == whole.recovered_tip, "{name}");
        rig.settle();
        let again = rig.snapshot().open().expect("intact");
        assert!(!again.report.rebuilt && again.report.runs_opened > 0, "{name}");
    }
}

#[test]
fn every_flipped_byte_of_the_manifest_makes_the_directory_anew() {
    let snapshot = settled();
    for at in 0..snapshot.files[MANIFEST_NAME].len() {
        match snapshot.open_flipped(MANIFEST_NAME, at) {
            Ok(rig) => assert!(rig.report.rebuilt, "byte {at}"),
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
}

/// Reads every row of a recovered directory, through the loads of a node.
fn read_everything(disk: &mut MemoryDisk, mut recovered: Recovered) -> Result<(), Error> {
    let directory = &mut recovered.directory;
    for number in 0..40 {
        let key = celeriant_schema::AggregateKey::new("acme", "order", &format!("o-{number}"));
        let key = key.expect("a key");
        let mut pins = crate::directory::Pins::default();
        let mut names = crate::directory::Listing::default();
        loop {
            let first = celeriant_schema::Version::new(1);
            let last = celeriant_schema::Version::new(1 << 50);
            let client = celeriant_schema::ClientId::new(77);
            let looked = directory
                .head(&key, &pins)
                .and_then(|_| directory.sequences(&key, client, &pins))
                .and_then(|_| directory.locate(&key, first, last, true, 1 << 20, &pins))
                .and_then(|_| directory.list(&[], "", None, 99, &mut names, &pins));
            let mut ops = Vec::new();
            match looked {
                Ok(_) => break,
                Err(crate::directory::Fault::Missing(page)) => directory.load(page, &mut ops),
                Err(crate::directory::Fault::Damaged(it)) => directory.condemn(it, &mut ops),
            }
            for (page, bytes) in now(drive(disk, directory, &mut ops))? {
                pins.add(page, bytes);
            }
        }
    }
    Ok(())
}

#[test]
fn every_flipped_byte_of_a_run_is_seen_before_it_is_believed() {
    let snapshot = settled();
    let manifest = &snapshot.files[MANIFEST_NAME];
    let manifest = Manifest::decode(manifest, &identity()).expect("intact");
    let (mut rebuilt, mut condemned, mut unread) = (0, 0, 0);
    for (number, pages) in manifest.runs {
        // Every page, at places that move through it.
        for at in (0..pages as usize * PAGE_BYTES).step_by(509) {
            let name = run_name(number);
            let mut files = snapshot.files.clone();
            files.get_mut(&name).expect("there")[at] ^= 0x10;
            let mut disk = MemoryDisk::with_files(files);
            let recovered = now(recover(&mut disk, identity(), &hasty())).expect("no loss");
            if recovered.report.rebuilt {
                rebuilt += 1;
                continue;
            }
            let Err(error) = read_everything(&mut disk, recovered) else {
                unread += 1;
                continue;
            };
            assert!(matches!(&error, Error::Damage(damage) if damage.file == name), "{error}");
            condemned += 1;
            if condemned % 16 == 0 {
                let rig = snapshot.open_with(disk.files).expect("a directory is no loss");
                assert!(rig.report.rebuilt, "byte {at} of {name}");
            }
        }
    }
    assert!(rebuilt > 5 && condemned > 30, "{rebuilt} rebuilt, {condemned} condemned");
    assert!(unread < condemned / 4, "{unread} were never read, {condemned} were");
}

#[test]
fn a_merge_that_meets_damage_stops_the_shard_and_the_next_start_begins_anew() {
    let snapshot = settled();
    let mut files = snapshot.files.clone();
    for name in self::files(&snapshot, ".run") {
        files.get_mut(&name).expect("there")[100] ^= 1;
    }
    let mut disk = MemoryDisk::with_files(files);
    let mut recovered = now(recover(&mut disk, identity(), &hasty())).expect("footers are intact");
    assert!(!recovered.report.rebuilt);
    let damaged = loop {
        // Rows in new runs bring the merge about.
        let key = celeriant_schema::AggregateKey::new("z", "z", "z").expect("a key");
        let directory = &mut recovered.directory;
        let at = directory.run_count() as u64;
        directory.note_outcome(Default::default(), Lsn::new(at), false);
        let (lsn, last_stamp) = (Lsn::new(1 << 40 | at), celeriant_schema::Stamp::new(u64::MAX));
        let position = Position { lsn, last_stamp, ..Position::default() };
        assert!(directory.standing(&key, &Default::default()).is_ok() || at > 0);
        directory.freeze(position, 0, std::iter::empty());
        let mut ops = Vec::new();
        directory.advance(&mut ops);
        match now(drive(&mut disk, directory, &mut ops)) {
            Ok(_) => assert!(at < 30, "{at} runs and no merge"),
            Err(error) => break error,
        }
    };
    assert!(matches!(damaged, Error::Damage(_)), "{damaged}");
    assert!(!disk.files.contains_key(MANIFEST_NAME));
    let rig = snapshot.open_with(disk.files).expect("a directory is no loss");
    assert!(rig.report.rebuilt);
}

#[test]
fn a_log_below_what_the_manifest_says_is_damage() {
    let mut rig = Rig::new(hasty());
    let mut dice = Dice::new(2);
    live(&mut rig, 400, &mut dice);
    rig.settle();
    let manifest = &rig.disk.files[MANIFEST_NAME];
    let position = Manifest::decode(manifest, &identity()).expect("intact").checkpoint.position;
    let snapshot = rig.snapshot();
    let mut files = snapshot.files.clone();
    // The log loses its last frames, and the watermark forgets that they were there.
    let watermark = Watermark { turn: 2, segments_made: position.segment, ..Watermark::default() };
    let slots = files.get_mut(crate::watermark::WATERMARK_NAME).expect("there");
    slots[..SECTOR_BYTES].copy_from_slice(&watermark.encode(&identity()));
    slots[SECTOR_BYTES..].fill(0);
    files.retain(|name, _| {
        crate::segment::number_of(name, "seg").is_none_or(|number| number <= position.segment)
    });
    let start = (position.offset - u64::from(position.frame_bytes)) as usize;
    let name = crate::segment::segment_name(position.segment);
    files.get_mut(&name).expect("there")[start..].fill(0);
    let mut disk = MemoryDisk::with_files(files);
    let found = now(recover(&mut disk, identity(), &hasty()));
    let Err(Error::Damage(damage)) = found else { panic!("nothing was missed") };
    // What the manifest knew is noted by then, before the manifest goes.
    let known = [Flaw::Durable("the watermark"), Flaw::Durable("the manifest")];
    assert!(known.contains(&damage.what), "{damage}");
    let again = now(recover(&mut MemoryDisk::with_files(disk.files), identity(), &hasty()));
    assert!(matches!(again, Err(Error::Damage(_))), "it stays missing");
}

#[test]
fn another_shards_manifest_is_refused() {
    let snapshot = settled();
    let mut files = snapshot.files.clone();
    let manifest = Manifest::decode(&files[MANIFEST_NAME], &identity()).expect("intact");
    let other = crate::Identity { shard: celeriant_schema::ShardId::new(9), ..identity() };
    files.insert(MANIFEST_NAME.into(), manifest.encode(&other).to_vec());
    let Err(Error::Damage(damage)) = snapshot.open_with(files) else { panic!("was taken") };
    assert_eq!(damage.what, Flaw::Foreign("shard"));
}

/// Counts what is read.
struct Counting {
    disk: MemoryDisk,
    reads: u64,
    bytes: u64,
}

impl Disk for Counting {
    fn start(&mut self, token: Token, op: Op) {
        if let Op::Read { len, .. } = &op {
            self.reads += 1;
            self.bytes += u64::from(*len);
        }
        self.disk.start(token, op);
    }

    fn poll_complete(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        self.disk.poll_complete(cx)
    }
}

#[test]
fn what_a_start_reads_does_not_grow_with_the_log() {
    let mut rig = Rig::new(hasty());
    let mut dice = Dice::new(6);
    let mut most = Vec::new();
    for _ in 0..3 {
        let mut worst = (0, 0);
        for _ in 0..6 {
            live(&mut rig, 500, &mut dice);
            while rig.resolve(0, true) {}
            rig.settle();
            let disk = MemoryDisk::with_files(rig.snapshot().files);
            let mut disk = Counting { disk, reads: 0, bytes: 0 };
            let recovered = now(recover(&mut disk, identity(), &hasty())).expect("intact");
            assert!(recovered.report.frames_read < 40, "{:?}", recovered.report);
            worst = worst.max((disk.reads, disk.bytes));
        }
        most.push(worst);
    }
    let segments = rig.disk.files.keys().filter(|name| name.ends_with(".seg")).count();
    assert!(segments > 12, "{segments} segments");
    assert!(most[2].0 <= most[0].0 + 16 && most[2].0 < 48, "reads and bytes: {most:?}");
}

#[test]
fn nobody_finds_an_outcome_of_a_write_that_never_was() {
    let snapshot = settled();
    let mut disk = MemoryDisk::with_files(snapshot.files);
    let mut recovered = now(recover(&mut disk, identity(), &hasty())).expect("intact");
    let txn = celeriant_schema::TxnId::default();
    let found = now(find_outcomes(&mut disk, &mut recovered, &[txn, txn]));
    assert_eq!(found.expect("intact"), [None, None]);
}
