//! Recovery held against a model of what was appended: crashes, damage, interrupted starts.

use proptest::prelude::*;

use super::*;
use crate::manifest::MANIFEST_NAME;
use crate::segment::segment_name;
use crate::testing::{Dice, Fate, MemoryDisk, Rig, Snapshot, cases, identity, now, small_settings};

fn random_fate(dice: &mut Dice) -> Fate {
    match dice.roll(3) {
        0 => Fate::Drop,
        1 => Fate::Keep,
        _ => Fate::Tear,
    }
}

fn crash_randomly(rig: Rig, dice: &mut Dice) -> Rig {
    let mut fates = dice.clone();
    rig.restart(|_| random_fate(&mut fates), dice)
}

/// A busy shard's life up to a crash, as files and what they must say.
fn crashed(seed: u64) -> Snapshot {
    let mut dice = Dice::new(seed);
    let mut rig = Rig::new(small_settings());
    (0..600 + dice.roll(600)).for_each(|_| rig.step(&mut dice));
    let mut fates = dice.clone();
    let mut snapshot = rig.snapshot();
    snapshot.files = rig.disk.crash(|_| random_fate(&mut fates), &mut dice);
    snapshot
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn what_was_acknowledged_survives_any_crash(seed in any::<u64>()) {
        let mut dice = Dice::new(seed);
        let mut rig = Rig::new(small_settings());
        for _ in 0..4 {
            (0..dice.roll(400)).for_each(|_| rig.step(&mut dice));
            rig = crash_randomly(rig, &mut dice);
        }
    }

    #[test]
    fn completions_in_any_order_recover_to_what_was_appended(seed in any::<u64>()) {
        let mut dice = Dice::new(seed);
        let mut rig = Rig::new(small_settings());
        (0..500).for_each(|_| rig.step(&mut dice));
        rig.settle();
        rig.check();
        let appended = rig.log.next_lsn();
        let hash = rig.log.tip_hash();
        let rig = rig.snapshot().open().expect("intact");
        prop_assert_eq!(rig.recovered_tip.next(), appended);
        prop_assert_eq!(rig.recovered_hash, hash);
    }
}

#[test]
fn random_lives_meet_everything_that_recovery_can_meet() {
    let mut seen = Report::default();
    let mut pending = 0;
    for seed in 0..60 {
        let rig = crashed(seed).open().expect("a crash is no damage");
        seen.frames_read += rig.report.frames_read;
        seen.runs_opened += rig.report.runs_opened;
        seen.cut_bytes += rig.report.cut_bytes;
        seen.cut_frames += rig.report.cut_frames;
        seen.secured_bytes += rig.report.secured_bytes;
        seen.removed.extend(rig.report.removed.clone());
        pending += rig.undecided();
    }
    assert!(seen.frames_read > 0 && seen.runs_opened > 0, "{seen:?}");
    assert!(seen.removed.iter().any(|name| name.ends_with(".run")), "{seen:?}");
    assert!(seen.removed.iter().any(|name| name.ends_with(".seg")), "{seen:?}");
    assert!(seen.cut_bytes > 0 && seen.cut_frames > 0 && seen.secured_bytes > 0, "{seen:?}");
    assert!(pending > 0);
}

#[test]
fn a_crash_at_any_step_of_recovery_leaves_the_same_log() {
    let mut interrupted = 0;
    for seed in 0..10 {
        let snapshot = crashed(seed);
        let whole = snapshot.open().expect("a crash is no damage");
        for crash_after in 0.. {
            let mut disk = MemoryDisk::with_files(snapshot.files.clone());
            disk.crash_after = Some(crash_after);
            disk.dice = Some(Dice::new(seed * 1000 + crash_after));
            let first = now(recover(&mut disk, identity(), &small_settings()));
            if first.is_ok() {
                break;
            }
            interrupted += 1;
            let again = snapshot.open_with(disk.files).expect("a crash is no damage");
            assert_eq!(again.recovered_tip, whole.recovered_tip);
            assert_eq!(again.recovered_hash, whole.recovered_hash);
        }
    }
    assert!(interrupted > 50, "{interrupted}");
}

#[test]
fn a_crash_at_any_step_of_the_first_start_leaves_an_empty_log() {
    for crash_after in 0..10 {
        for seed in 0..20 {
            let mut disk = MemoryDisk::default();
            disk.crash_after = Some(crash_after);
            disk.dice = Some(Dice::new(seed));
            let _ = now(recover(&mut disk, identity(), &small_settings()));
            let mut disk = MemoryDisk::with_files(disk.files);
            let again = now(recover(&mut disk, identity(), &small_settings()));
            let again = again.expect("nothing was ever appended");
            assert_eq!(again.log.next_lsn(), Lsn::new(1));
        }
    }
}

#[test]
fn recovery_of_a_clean_stop_changes_nothing() {
    let mut rig = Rig::new(small_settings());
    let mut dice = Dice::new(3);
    (0..500).for_each(|_| rig.step(&mut dice));
    rig.settle();
    rig.note_watermark();
    rig.settle();
    let snapshot = rig.snapshot();
    let mut disk = MemoryDisk::with_files(snapshot.files.clone());
    let report = now(recover(&mut disk, identity(), &small_settings())).expect("intact").report;
    assert_eq!((report.cut_bytes, report.secured_bytes), (0, 0));
    assert_eq!(disk.files, snapshot.files);
}

/// A log of three frames in one segment of 16 KiB, without a manifest, the watermark at 0.
fn three_frames() -> Snapshot {
    let settings = Settings { segment_bytes_first: 16 << 10, ..small_settings() };
    let mut rig = Rig::new(settings);
    rig.settle();
    for number in 0..2 {
        assert!(rig.append(&[number], &[700, 700], false));
        rig.settle();
    }
    rig.snapshot()
}

#[test]
fn every_flipped_byte_of_a_segment_is_damage() {
    let snapshot = three_frames();
    assert_eq!(snapshot.open().expect("intact").report.frames_read, 3);
    for at in 0..snapshot.files[&segment_name(1)].len() {
        let Err(Error::Damage(damage)) = snapshot.open_flipped(&segment_name(1), at) else {
            panic!("byte {at} was not missed")
        };
        assert_eq!(damage.segment, 1, "{damage}");
        assert!(damage.offset <= at as u64 && at as u64 - damage.offset < 4096, "{damage}");
    }
}

#[test]
fn every_flipped_byte_of_the_watermark_is_seen() {
    let mut rig = Rig::new(small_settings());
    rig.settle();
    rig.note_watermark();
    rig.settle();
    let snapshot = rig.snapshot();
    for at in 0..snapshot.files[WATERMARK_NAME].len() {
        match snapshot.open_flipped(WATERMARK_NAME, at) {
            Ok(rig) => assert_eq!(rig.report.watermark_slots_damaged, 1, "byte {at}"),
            Err(error) => assert!(matches!(error, Error::Damage(_)), "byte {at}: {error}"),
        }
    }
}

/// Four frames in flight, then a crash that keeps those in `kept`; `durable` are written before.
fn in_flight_crash(durable: usize, kept: &[usize]) -> (Snapshot, Lsn) {
    // Large enough that no spare is made meanwhile: that would note the watermark.
    let mut rig = Rig::new(Settings { segment_bytes_first: 256 << 10, ..small_settings() });
    rig.settle();
    for number in 0..durable as u64 {
        assert!(rig.append(&[number], &[300], false));
        rig.settle();
    }
    let acknowledged = rig.log.durable();
    for number in 10..14 {
        assert!(rig.append(&[number], &[300], false));
        rig.pump();
    }
    assert_eq!(rig.disk.waiting(), 4);
    let mut snapshot = rig.snapshot();
    let mut at = 0;
    let fate = |_: &crate::disk::Op| {
        at += 1;
        if kept.contains(&(at - 1)) { Fate::Keep } else { Fate::Drop }
    };
    snapshot.files = rig.disk.crash(fate, &mut Dice::new(0));
    (snapshot, acknowledged)
}

#[test]
fn a_hole_is_cut_with_the_frames_behind_it() {
    for kept in [vec![1, 2, 3], vec![0, 2, 3], vec![0, 1, 3], vec![3], vec![]] {
        let (snapshot, acknowledged) = in_flight_crash(2, &kept);
        let mut rig = snapshot.open().expect("a crash is no damage");
        let whole = (0..).take_while(|at| kept.contains(at)).count();
        assert_eq!(rig.recovered_tip, acknowledged.plus(whole as u64), "{kept:?}");
        assert_eq!(rig.report.cut_frames as usize, kept.len() - whole, "{kept:?}");
        // The log goes on in the same place, and what was cut never comes back.
        assert!(rig.append(&[50], &[100], false));
        rig.settle();
        let rig = rig.snapshot().open().expect("intact");
        assert_eq!(rig.report.cut_frames, 0, "{kept:?}");
    }
}

#[test]
fn frames_that_nobody_vouches_for_are_written_again() {
    let (snapshot, acknowledged) = in_flight_crash(3, &[0, 1, 2, 3]);
    let rig = snapshot.open().expect("a crash is no damage");
    assert_eq!(rig.recovered_tip, acknowledged.plus(4));
    // Those in flight say that what was acknowledged is durable, and nothing about themselves.
    assert_eq!(rig.report.secured_bytes, 4 * 4096);
    let again = rig.snapshot().open().expect("intact");
    assert_eq!(again.report.secured_bytes, 0, "the watermark vouches for them now");
}

#[test]
fn a_hole_below_a_later_durable_upto_is_damage() {
    let (snapshot, _) = in_flight_crash(3, &[0, 1, 2, 3]);
    // The EpochStart and three writes are durable; the frames behind say so.
    for frame in 1..5 {
        let mut files = snapshot.files.clone();
        let content = files.get_mut(&segment_name(1)).expect("there");
        content[frame * 4096..(frame + 1) * 4096].fill(0);
        let Err(Error::Damage(damage)) = snapshot.open_with(files.clone()) else {
            panic!("frame {frame} was not missed")
        };
        assert_eq!(damage.what, Flaw::Durable("a later frame"));
        assert_eq!(damage.offset, frame as u64 * 4096);
        assert_eq!(damage.lsn, Lsn::new(frame as u64));
    }
}

#[test]
fn a_tail_below_the_watermark_is_damage_and_stays_untouched() {
    let mut rig = Rig::new(small_settings());
    rig.settle();
    assert!(rig.append(&[1], &[300], false));
    rig.settle();
    rig.note_watermark();
    rig.settle();
    let snapshot = rig.snapshot();
    let mut files = snapshot.files.clone();
    files.get_mut(&segment_name(1)).expect("there")[2 * 4096..].fill(0);
    let mut disk = MemoryDisk::with_files(files.clone());
    let found = now(recover(&mut disk, identity(), &small_settings()));
    let Err(Error::Damage(damage)) = found else { panic!("nothing was missed") };
    assert_eq!(damage.what, Flaw::Durable("the watermark"));
    assert_eq!(disk.files, files);
}

#[test]
fn a_watermark_that_knows_another_frame_is_damage() {
    let mut rig = Rig::new(small_settings());
    rig.settle();
    rig.note_watermark();
    rig.settle();
    let snapshot = rig.snapshot();
    let mut files = snapshot.files.clone();
    let content = files.get_mut(WATERMARK_NAME).expect("there");
    let slots: Vec<_> = (0..2)
        .filter_map(|slot| {
            let page = &content[slot * SECTOR_BYTES..(slot + 1) * SECTOR_BYTES];
            Watermark::decode(page, slot as u64, &identity()).expect("intact")
        })
        .collect();
    let newest = slots.iter().max_by_key(|note| note.turn).expect("noted");
    let other = Watermark { hash: celeriant_schema::Hash([1; 32]), ..*newest };
    let at = other.slot_offset() as usize;
    content[at..at + SECTOR_BYTES].copy_from_slice(&other.encode(&identity()));
    let Err(Error::Damage(damage)) = snapshot.open_with(files) else { panic!("was missed") };
    assert_eq!((damage.what, damage.lsn), (Flaw::Hash, newest.durable));
}

#[test]
fn remains_behind_a_segment_that_the_next_one_continues_are_damage() {
    let mut rig = Rig::new(Settings { segment_bytes_first: 16 << 10, ..small_settings() });
    while !rig.log.has_segment(3) {
        rig.append(&[1], &[6000], false);
        rig.settle();
    }
    let mut snapshot = rig.snapshot();
    snapshot.files.retain(|name, _| !name.ends_with(".run") && name != MANIFEST_NAME);
    snapshot.open().expect("a directory is no loss");
    let content = snapshot.files.get_mut(&segment_name(1)).expect("there");
    let end = content.len() - 4096 + 512;
    assert!(content[end - 512..].iter().all(|byte| *byte == 0), "the last sector is unused");
    content[end] = 1;
    let Err(Error::Damage(damage)) = snapshot.open() else { panic!("was missed") };
    assert_eq!(damage.what, Flaw::Durable("the next segment"));
}

#[test]
fn missing_files_are_damage() {
    let mut rig = Rig::new(Settings { segment_bytes_first: 16 << 10, ..small_settings() });
    while !rig.log.has_segment(4) || rig.directory.run_count() < 2 {
        rig.append(&[1], &[500], false);
        rig.settle();
    }
    let snapshot = rig.snapshot();
    let is_needed = |name: &&String| name.ends_with(".seg") || *name == WATERMARK_NAME;
    let names = snapshot.files.keys().filter(is_needed).cloned();
    for name in names.collect::<Vec<_>>() {
        let mut files = snapshot.files.clone();
        files.remove(&name);
        let Err(Error::Damage(damage)) = snapshot.open_with(files) else {
            panic!("{name} was not missed")
        };
        assert_eq!((damage.file, damage.what), (name, Flaw::Missing));
    }
}

#[test]
fn another_shards_folder_is_refused() {
    let snapshot = three_frames();
    for other in [
        Identity { shard: celeriant_schema::ShardId::new(9), ..identity() },
        Identity { cluster: celeriant_schema::ClusterId::new(1), ..identity() },
    ] {
        let mut disk = MemoryDisk::with_files(snapshot.files.clone());
        let refused = now(recover(&mut disk, other, &small_settings()));
        assert!(matches!(refused, Err(Error::Damage(Damage { what: Flaw::Foreign(_), .. }))));
        assert_eq!(disk.files, snapshot.files);
    }
}

#[test]
fn a_leg_is_resolved_long_after_the_checkpoint_that_names_it() {
    for commit in [true, false] {
        let mut rig = Rig::new(Settings { segment_bytes_first: 16 << 10, ..small_settings() });
        rig.settle();
        assert!(rig.append(&[1, 2], &[200], true));
        while !rig.log.has_segment(4) || rig.directory.run_count() < 2 {
            rig.append(&[3], &[900], false);
            rig.settle();
        }
        let mut rig = rig.snapshot().open().expect("intact");
        assert!(rig.report.runs_opened >= 2 && !rig.report.rebuilt);
        assert_eq!(rig.undecided(), 1, "recovery hands the leg to the node");
        assert!(rig.resolve(0, commit));
        rig.settle();
        rig.check();
        let txn = rig.legs()[0];
        let runs = rig.disk.files.keys().filter(|name| name.ends_with(".run")).cloned();
        let before: Vec<_> = runs.collect();
        while before.iter().any(|name| rig.disk.files.contains_key(name)) {
            rig.append(&[3], &[900], false);
            rig.settle();
        }
        let asked = [TxnId { counter: 99, ..txn }, txn];
        let mut disk = MemoryDisk::with_files(rig.snapshot().files);
        let mut recovered = now(recover(&mut disk, identity(), &small_settings())).expect("intact");
        assert!(recovered.pending.is_empty() && recovered.outcomes.is_empty());
        let found = find_outcomes(&mut disk, &mut recovered, &asked);
        assert_eq!(now(found).expect("intact"), [None, Some(commit)]);
    }
}

#[test]
fn a_slot_that_reads_again_later_does_not_miss_what_was_removed() {
    let mut rig = Rig::new(small_settings());
    rig.settle();
    while !rig.log.has_segment(2) {
        rig.append(&[1], &[900], false);
        rig.settle();
    }
    let snapshot = rig.snapshot();
    let slot = |number: usize| number * SECTOR_BYTES..(number + 1) * SECTOR_BYTES;
    let notes = &snapshot.files[WATERMARK_NAME];
    let note = |number: usize| {
        Watermark::decode(&notes[slot(number)], number as u64, &identity()).ok().flatten()
    };
    let newest = if note(0).map(|it| it.turn) > note(1).map(|it| it.turn) { 0 } else { 1 };
    assert!(note(newest).is_some_and(|note| note.segments_made == 2));
    // The newest note, which counts segment 2, cannot be read for a while.
    let mut files = snapshot.files.clone();
    files.get_mut(WATERMARK_NAME).expect("there")[slot(newest)][9] ^= 1;
    let mut disk = MemoryDisk::with_files(files.clone());
    for crash_after in 0.. {
        disk = MemoryDisk::with_files(files.clone());
        disk.crash_after = Some(crash_after);
        let first = now(recover(&mut disk, identity(), &small_settings()));
        let is_whole = first.is_ok();
        let is_unchanged = disk.files[WATERMARK_NAME] == files[WATERMARK_NAME];
        let is_there = disk.files.contains_key(&segment_name(2));
        assert!(is_there || !is_unchanged, "removed before it was noted");
        if is_unchanged {
            // It reads again: nothing is missing.
            let page = &snapshot.files[WATERMARK_NAME][slot(newest)];
            let content = disk.files.get_mut(WATERMARK_NAME).expect("there");
            content[slot(newest)].copy_from_slice(page);
        }
        let again = snapshot.open_with(disk.files.clone()).expect("no loss");
        assert_eq!(again.recovered_tip.next(), rig.log.next_lsn());
        if is_whole {
            break;
        }
    }
    assert!(disk.files[WATERMARK_NAME] != files[WATERMARK_NAME]);
}
