//! Tests of packing: nothing but what shall go is lost, whatever fails on the way.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::frame::{FrameHeader, verify};
use crate::log::SealedFrame;
use crate::recovery::Known;
use crate::testing::{
    Dice, Fate, Feed, Follower, MemoryDisk, Rig, Snapshot, cases, identity, small_settings,
};

fn busy(seed: u64, steps: usize) -> (Rig, Dice) {
    let (mut rig, mut dice) = (Rig::new(small_settings()), Dice::new(seed));
    for _ in 0..steps {
        rig.compacting_step(&mut dice).expect("a healthy disk");
    }
    (rig, dice)
}

fn random_fate(dice: &mut Dice) -> Fate {
    [Fate::Drop, Fate::Keep, Fate::Tear][dice.roll(3) as usize]
}

fn crash(rig: Rig, dice: &mut Dice) -> Rig {
    let mut fates = Dice::new(dice.roll(1 << 40));
    rig.restart(|_| random_fate(&mut fates), dice)
}

/// Packs every segment that can be packed.
fn pack_all(rig: &mut Rig) {
    rig.settle();
    for at in 0..u64::from(rig.log.sealed_upto()) {
        assert!(rig.compact(at));
        rig.settle();
        assert!(rig.compactor.is_idle());
    }
}

proptest! {
    #![proptest_config(cases(12))]
    #[test]
    fn a_crash_at_any_time_leaves_what_was_not_erased_and_nothing_that_was(seed in any::<u64>()) {
        let (mut rig, mut dice) = busy(seed, 600);
        for _ in 0..3 {
            rig = crash(rig, &mut dice);
            for _ in 0..300 {
                rig.compacting_step(&mut dice).expect("a healthy disk");
            }
        }
        pack_all(&mut rig);
        rig.settle();
        rig = crash(rig, &mut dice);
        rig.settle();
    }
}

#[test]
fn random_lives_meet_everything_that_packing_can_meet() {
    let (mut packed, mut again, mut erased) = (0, 0, 0);
    for seed in 0..12 {
        let (rig, mut dice) = busy(seed, 1500);
        let segments = rig.erasures.packed.clone();
        packed += segments.len();
        again +=
            segments.iter().filter(|it| segments.iter().filter(|i| i == it).count() > 1).count();
        erased += rig.erasures.bytes_erased;
        crash(rig, &mut dice);
    }
    assert!(packed > 30 && again > 5 && erased > 10_000, "{packed} {again} {erased}");
}

#[test]
fn a_crash_at_any_step_of_packing_leaves_the_one_file_or_the_other() {
    let (mut rig, _) = busy(5, 1200);
    pack_all(&mut rig);
    (0..40).for_each(|number| rig.want_erased(number, 60));
    let whole: Snapshot = rig.snapshot();
    let mut interrupted = 0;
    for crash_after in 0.. {
        let mut rig = whole.open().expect("a clean stop");
        rig.settle();
        let tip = rig.log.tip_hash();
        rig.disk.crash_after = Some(crash_after);
        rig.disk.dice = Some(Dice::new(crash_after));
        let done = (0..u64::from(rig.log.sealed_upto())).all(|at| {
            rig.compact(at);
            while rig.disk.waiting() > 0 {
                if rig.finish(0).is_err() {
                    return false;
                }
            }
            true
        });
        let again = rig.snapshot().open().expect("a crash is no damage");
        assert_eq!(again.recovered_hash, tip);
        if done {
            assert!(again.erasures.bytes_erased > 1000);
            break;
        }
        interrupted += 1;
    }
    assert!(interrupted > 10, "{interrupted}");
}

#[test]
fn packing_makes_a_log_smaller_and_erasing_smaller_still() {
    let (mut rig, _) = busy(9, 1500);
    pack_all(&mut rig);
    let (saved, erased) = (rig.erasures.bytes_saved, rig.erasures.bytes_erased);
    assert!(saved > 0, "{saved}");
    (0..40).for_each(|number| rig.want_erased(number, 100));
    pack_all(&mut rig);
    assert!(rig.erasures.bytes_erased > erased);
    assert!(rig.erasures.bytes_saved > saved);
    let files = rig.disk.files.len();
    pack_all(&mut rig);
    assert_eq!(rig.disk.files.len(), files, "nothing is left over");
    rig.check();
}

#[test]
fn the_directory_is_made_anew_from_packed_segments() {
    let (mut rig, _) = busy(11, 1500);
    (0..40).for_each(|number| rig.want_erased(number, 50));
    pack_all(&mut rig);
    let mut snapshot = rig.snapshot();
    assert!(snapshot.files.keys().filter(|name| name.ends_with(".pack")).count() > 1);
    snapshot.files.retain(|name, _| !name.ends_with(".run") && name != "manifest");
    let again = snapshot.open().expect("the log says everything");
    assert!(again.report.frames_read > 10);
}

#[test]
fn a_full_disk_undoes_the_file_in_the_making_and_nothing_else() {
    let (mut rig, _) = busy(13, 1200);
    rig.settle();
    for room in (0..400 << 10).step_by(12 << 10) {
        rig.disk.room = Some(room);
        let before: Vec<_> = rig.disk.files.keys().cloned().collect();
        let postponed = rig.erasures.postponed;
        assert!(rig.compact(0));
        rig.settle();
        assert!(rig.compactor.is_idle());
        if rig.erasures.postponed == postponed {
            assert!(room > 0);
            break;
        }
        assert!(rig.disk.files.keys().eq(&before), "with {room} bytes");
    }
    assert!(rig.erasures.postponed > 0);
    rig.disk.room = None;
    rig.check();
}

#[test]
fn the_old_file_stays_while_somebody_reads_it() {
    let (mut rig, _) = busy(17, 1200);
    rig.settle();
    let (fetch, op) = rig.log.fetch(1, 4096, 4096).expect("there");
    let name = rig.log.source(1).expect("there").name(1);
    rig.compact(0);
    rig.settle();
    assert!(!rig.compactor.is_idle() && rig.disk.files.contains_key(&name));
    let Ok(Done::Read(read)) = rig.disk.perform_now(op) else { panic!("not read") };
    let header = FrameHeader::decode(&fetch.take(read).expect("as it was")).expect("a frame");
    assert_eq!(header.first_lsn, Lsn::new(1));
    rig.advance_compactor();
    rig.settle();
    assert!(rig.compactor.is_idle() && !rig.disk.files.contains_key(&name));
}

#[test]
fn damage_in_a_packed_segment_is_seen_and_never_served() {
    let (mut rig, _) = busy(19, 1200);
    pack_all(&mut rig);
    let mut snapshot = rig.snapshot();
    let name = rig.log.source(1).expect("there").name(1);
    snapshot.files.retain(|name, _| !name.ends_with(".run") && name != "manifest");
    let len = snapshot.files[&name].len();
    for at in [8, 100, len - 4096 + 33, len - 8192, len - 1] {
        let Err(Error::Damage(damage)) = snapshot.open_flipped(&name, at) else {
            panic!("byte {at} of {len}")
        };
        assert_eq!(damage.segment, 1, "{damage}");
    }
    snapshot.files.remove(&name);
    assert!(matches!(snapshot.open(), Err(Error::Damage(_))), "missing");
}

#[test]
fn what_is_in_the_last_segment_can_be_sealed_without_a_further_write() {
    let mut rig = Rig::new(small_settings());
    rig.append(&[1], &[3000, 20], false);
    rig.settle();
    assert_eq!(rig.log.sealed_upto(), 0);
    while !rig.log.roll(0) {
        rig.settle();
    }
    assert_eq!(rig.log.sealed_upto(), 1);
    rig.want_erased(1, 50);
    pack_all(&mut rig);
    assert!(rig.erasures.bytes_erased > 3000);
    let mut again = rig.snapshot().open().expect("nothing is in the active segment");
    assert_eq!(again.report.secured_bytes, 0);
    again.append(&[1, 2], &[100], false);
    again.settle();
    again.check();
    again.snapshot().open().expect("it goes on in the next segment");
}

#[test]
fn a_reader_of_the_log_gets_the_frames_of_before_with_zeroes_for_what_is_erased() {
    let (mut rig, _) = busy(23, 1500);
    rig.settle();
    let before = frames(&mut rig);
    (0..40).for_each(|number| rig.want_erased(number, 80));
    pack_all(&mut rig);
    let after = frames(&mut rig);
    assert_eq!(before.len(), after.len());
    let mut changed = 0;
    for (old, new) in before.iter().zip(&after) {
        let (was, is) = (FrameHeader::decode(old), FrameHeader::decode(new));
        let (was, is) = (was.expect("a frame"), is.expect("a frame"));
        assert_eq!((was.hash, was.meta_len, was.blob_len), (is.hash, is.meta_len, is.blob_len));
        changed += usize::from(was.body_checksum != is.body_checksum);
    }
    assert!(changed > 10, "{changed}");
}

#[test]
fn a_follower_takes_erased_frames_and_ends_with_the_same_log() {
    let (mut rig, _) = busy(29, 1500);
    (0..40).for_each(|number| rig.want_erased(number, 70));
    pack_all(&mut rig);
    assert!(rig.erasures.bytes_erased > 10_000);
    let sealed = |bytes: Bytes| SealedFrame {
        place: FrameHeader::decode(&bytes).expect("a frame").place(),
        bytes,
    };
    let feed = Feed { frames: frames(&mut rig).into_iter().map(sealed).collect() };
    let mut follower = Follower::new(small_settings());
    follower.catch_up(&feed);
    follower.commit(rig.log.durable());
    follower.settle();
    assert_eq!(follower.log.sealed_end(), rig.log.sealed_end());
    assert_eq!(follower.log.committed(), rig.log.committed());
    let known = Known { committed: rig.log.durable(), ..Known::default() };
    let files = follower.disk.files.clone();
    let mut again = Follower::open(MemoryDisk::with_files(files), small_settings(), known)
        .expect("a follower's log is read like any other");
    assert_eq!(again.log.sealed_end(), rig.log.sealed_end());
    again.settle();
}

/// How often a payload is in any file, as it lies there, and in the log, unpacked.
fn found(rig: &mut Rig, payload: &[u8]) -> (usize, usize) {
    let count = |content: &[u8]| content.windows(payload.len()).filter(|it| *it == payload).count();
    let unpacked = frames(rig).iter().map(|frame| count(frame)).sum();
    (rig.disk.files.values().map(|content| count(content)).sum(), unpacked)
}

/// Nothing to find for `verify` in what lies on the rig's disk.
fn verify_all(rig: &mut Rig) {
    rig.note_watermark();
    rig.settle();
    let dir = tempfile::tempdir().expect("a directory");
    for (name, content) in &rig.disk.files {
        std::fs::write(dir.path().join(name), content).expect("a file");
    }
    let report = crate::verify::verify(dir.path(), &Default::default()).expect("readable");
    assert_eq!(report.findings, []);
}

fn roll(rig: &mut Rig) {
    rig.settle();
    while !rig.log.roll(0) {
        rig.settle();
    }
}

#[test]
fn the_payloads_of_an_aborted_leg_leave_the_disk_and_those_of_an_undecided_one_stay() {
    let mut rig = Rig::new(small_settings());
    assert!(rig.append(&[1], &[90], false));
    assert!(rig.append(&[1, 2], &[3000], true));
    assert!(rig.append(&[3], &[3000], true));
    rig.settle();
    let legs = rig.undecided_payloads();
    let [aborted, undecided] = &legs[..] else { panic!("{} legs", legs.len()) };
    assert_eq!((aborted.len(), undecided.len()), (2, 1));
    assert!(rig.resolve(0, false));
    roll(&mut rig);
    for payload in aborted.iter().chain(undecided) {
        assert_eq!(found(&mut rig, payload), (1, 1), "an abort alone hides");
    }
    pack_all(&mut rig);
    for payload in aborted {
        assert_eq!(found(&mut rig, payload), (0, 0));
    }
    assert_eq!(found(&mut rig, &undecided[0]).1, 1);
    let erased = rig.erasures.bytes_erased;
    assert!(erased > 6000, "{erased}");
    rig.check();
    verify_all(&mut rig);
    // The chain of an aggregate goes on where it was, and what is undecided can still commit.
    assert!(rig.append(&[1], &[80], false));
    assert!(rig.resolve(0, true));
    roll(&mut rig);
    pack_all(&mut rig);
    rig.check();
    verify_all(&mut rig);
    assert_eq!(found(&mut rig, &undecided[0]).1, 1);
    assert_eq!(rig.erasures.bytes_erased, erased, "once is enough");
    rig.snapshot().open().expect("a clean stop").check();
}

#[test]
fn an_abort_is_known_after_a_restart_from_a_checkpoint_or_from_the_log_alone() {
    let mut rig = Rig::new(small_settings());
    assert!(rig.append(&[1, 2], &[900], true));
    rig.settle();
    let payload = rig.undecided_payloads()[0][0].clone();
    assert!(rig.resolve(0, false));
    rig.settle();
    assert_eq!(rig.directory.run_count(), 0);
    let in_memory = rig.snapshot();
    while rig.directory.run_count() < 2 {
        rig.append(&[3], &[900], false);
        rig.settle();
    }
    let in_runs = rig.snapshot();
    let mut without = in_runs.clone();
    without.files.remove(crate::manifest::MANIFEST_NAME);
    let mut older = in_runs.clone();
    let manifest = older.files.get_mut(crate::manifest::MANIFEST_NAME).expect("there");
    let known = crate::manifest::Manifest::decode(manifest, &identity()).expect("intact");
    let left_out = crate::manifest::Manifest { knows_aborted: false, ..known };
    *manifest = left_out.encode(&identity()).to_vec();
    for (snapshot, rebuilt) in
        [(in_memory, false), (in_runs, false), (without, true), (older, true)]
    {
        let mut rig = snapshot.open().expect("a clean stop");
        assert_eq!((rig.report.rebuilt, rig.aborted().len()), (rebuilt, 1));
        roll(&mut rig);
        assert_eq!(found(&mut rig, &payload), (1, 1));
        pack_all(&mut rig);
        assert_eq!(found(&mut rig, &payload), (0, 0));
        verify_all(&mut rig);
    }
}

/// Every frame, as a peer that catches up gets it.
fn frames(rig: &mut Rig) -> Vec<Bytes> {
    let mut found = Vec::new();
    let mut after = Lsn::ZERO;
    while after < rig.log.durable() {
        let mut step = rig.log.read_after(after, rig.log.durable(), 64 << 10);
        let frames = loop {
            match step {
                crate::log::Step::Read(search, op) => {
                    let Ok(Done::Read(read)) = rig.disk.perform_now(op) else { panic!("not read") };
                    step = rig.log.found(search, read).expect("intact");
                }
                crate::log::Step::Frames { end, mut frames, .. } => {
                    after = end.lsn;
                    let mut split = Vec::new();
                    while !frames.is_empty() {
                        let len = FrameHeader::decode(&frames).expect("a frame").frame_bytes();
                        split.push(frames.split_to(len));
                    }
                    break split;
                }
                other => panic!("{other:?}"),
            }
        };
        for frame in &frames {
            verify(frame, &identity()).expect("intact");
        }
        found.extend(frames);
    }
    found
}
