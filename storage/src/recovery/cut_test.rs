//! A log ends where it is told, whole or not at all, and never below what is committed.

use std::collections::BTreeMap;

use celeriant_schema::peer::Position;
use celeriant_schema::record::EpochStart;
use celeriant_schema::{BootId, Epoch, Hash, Lsn, Stamp};

use super::*;
use crate::Settings;
use crate::recovery::{Known, recover_member};
use crate::testing::{Dice, Fate, Feed, Follower, MemoryDisk, Rig, identity, now, small_settings};

/// A follower whose log is the leader's `feed`, up to the given frame committed.
struct Behind {
    leader: Rig,
    feed: Feed,
    files: BTreeMap<String, Vec<u8>>,
    settings: Settings,
    committed: Lsn,
}

/// `committed` of `count` frames, over segments of 16, 32, 64 … KiB.
fn behind(committed: usize, count: usize) -> Behind {
    let settings = Settings { segment_bytes_first: 16 << 10, ..small_settings() };
    let (mut leader, mut feed) = (Rig::new(settings), Feed::default());
    while feed.frames.len() < count {
        leader.append(&[feed.frames.len() as u64 % 40], &[300, 2500], false);
        leader.pump();
        feed.collect(&leader);
        leader.settle();
    }
    let mut follower = Follower::new(settings);
    follower.catch_up(&feed);
    let committed = feed.frames[committed - 1].place.end.lsn;
    follower.commit(committed);
    follower.note_watermark();
    follower.settle();
    Behind { leader, feed, files: follower.disk.files, settings, committed }
}

impl Behind {
    fn recover(&self, disk: MemoryDisk, cut_after: Option<Position>) -> Result<Follower, Error> {
        Follower::open(disk, self.settings, Known { committed: Lsn::ZERO, cut_after })
    }

    fn disk(&self) -> MemoryDisk {
        MemoryDisk::with_files(self.files.clone())
    }

    /// The cut log goes on with other frames than before, and what was cut never comes back.
    fn goes_on(&self, cut: &Follower) {
        let mut rig = cut.snapshot(&self.leader).open().expect("intact");
        assert_eq!(rig.recovered_tip, cut.log.durable());
        for number in 0..20 {
            rig.append(&[number], &[700], false);
            rig.settle();
        }
        let end = rig.log.sealed_end();
        let rig = rig.restart(|_| Fate::Drop, &mut Dice::new(1));
        assert_eq!((rig.recovered_tip, rig.recovered_hash), (end.lsn, end.hash));
        assert_eq!(rig.report.cut_bytes, 0);
    }
}

#[test]
fn a_log_ends_at_any_frame_that_is_not_below_what_is_committed() {
    let behind = behind(6, 24);
    let mut gone = 0;
    for frame in 0..24 {
        let end = behind.feed.frames[frame].place.end;
        let mut disk = behind.disk();
        let known = Known { committed: Lsn::ZERO, cut_after: Some(end) };
        let refused = now(recover_member(&mut disk, identity(), &behind.settings, known));
        if end.lsn < behind.committed {
            let Err(Error::Uncut { lsn, why: Uncut::Committed(floor) }) = refused else {
                panic!("cut below the floor: {refused:?}")
            };
            assert_eq!((lsn, floor), (end.lsn, behind.committed));
            assert_eq!(disk.files, behind.files);
            continue;
        }
        let cut = behind.recover(behind.disk(), Some(end)).expect("it is there");
        assert_eq!(cut.log.tip().durable, end);
        assert_eq!(cut.log.committed(), behind.committed);
        cut.check(&behind.leader);
        for number in 1..8 {
            let is_there = cut.disk.files.contains_key(&segment_name(number));
            assert_eq!(cut.log.has_segment(number), is_there, "segment {number}");
            gone += u32::from(!is_there && behind.files.contains_key(&segment_name(number)));
        }
        let again = behind.recover(MemoryDisk::with_files(cut.disk.files.clone()), None);
        assert_eq!(again.expect("intact").log.tip().durable, end);
        behind.goes_on(&cut);
    }
    assert!(gone > 0, "a cut removes segments");
}

#[test]
fn a_log_of_which_nothing_is_committed_is_cut_as_a_whole() {
    let mut behind = behind(1, 10);
    let mut follower = Follower::new(behind.settings);
    follower.catch_up(&behind.feed);
    behind.files = follower.disk.files;
    let cut = behind.recover(behind.disk(), Some(Position::default())).expect("not committed");
    assert_eq!(cut.log.tip().durable, Position::default());
    behind.goes_on(&cut);
}

#[test]
fn a_position_that_is_not_in_the_log_is_refused_and_nothing_is_touched() {
    let behind = behind(2, 12);
    let end = behind.feed.frames[5].place.end;
    for other in [
        Position { hash: Hash([1; 32]), ..end },
        Position { lsn: behind.feed.end().lsn.next(), ..end },
        Position { lsn: end.lsn.next(), ..end },
    ] {
        let mut disk = behind.disk();
        let known = Known { committed: Lsn::ZERO, cut_after: Some(other) };
        let refused = now(recover_member(&mut disk, identity(), &behind.settings, known));
        let refused = refused.expect_err("no such position");
        assert!(matches!(refused, Error::Uncut { why: Uncut::NotThere, .. }), "{refused}");
        assert_eq!(disk.files, behind.files);
    }
}

#[test]
fn what_others_know_to_be_committed_is_not_cut_either() {
    let behind = behind(2, 12);
    let (end, known) = (behind.feed.frames[5].place.end, behind.feed.frames[8].place.end.lsn);
    let known = Known { committed: known, cut_after: Some(end) };
    let refused = Follower::open(behind.disk(), behind.settings, known).err();
    assert!(matches!(refused, Some(Error::Uncut { why: Uncut::Committed(_), .. })), "{refused:?}");
}

#[test]
fn a_crash_at_any_step_of_a_cut_leaves_one_log_or_the_other() {
    let (mut before, mut between) = (0, 0);
    for (seed, frame) in [(1, 6), (2, 7), (3, 11), (4, 20), (5, 23)] {
        let behind = behind(6, 24);
        let (whole, end) = (behind.feed.end(), behind.feed.frames[frame].place.end);
        for crash_after in 0.. {
            let mut disk = behind.disk();
            disk.crash_after = Some(crash_after);
            disk.dice = Some(Dice::new(seed * 1000 + crash_after));
            let known = Known { committed: Lsn::ZERO, cut_after: Some(end) };
            let first = now(recover_member(&mut disk, identity(), &behind.settings, known));
            if first.is_ok() {
                break;
            }
            let files = disk.files;
            let alone = behind.recover(MemoryDisk::with_files(files.clone()), None);
            let alone = alone.expect("a crash is no damage").log.tip().durable;
            assert!(alone == whole || alone == end, "crash after {crash_after}: {alone:?}");
            *if alone == whole { &mut before } else { &mut between } += 1;
            let again = behind.recover(MemoryDisk::with_files(files.clone()), Some(end));
            let again = again.expect("a crash is no damage");
            assert_eq!(again.log.tip().durable, end, "crash after {crash_after}");
            behind.goes_on(&again);
            // A cut that is begun can end earlier still, and never later.
            if alone == end && frame > 6 {
                let later = behind.recover(MemoryDisk::with_files(files.clone()), Some(whole));
                assert!(frame == 23 || later.is_err());
                let earlier = behind.feed.frames[frame - 1].place.end;
                let cut = behind.recover(MemoryDisk::with_files(files), Some(earlier));
                assert_eq!(cut.expect("not committed").log.tip().durable, earlier);
            }
        }
    }
    assert!(before > 4 && between > 10, "{before} before the note, {between} behind it");
}

#[test]
fn a_cut_that_is_done_is_in_both_slots_so_that_none_can_bring_it_back() {
    let behind = behind(6, 24);
    let end = behind.feed.frames[9].place.end;
    let cut = behind.recover(behind.disk(), Some(end)).expect("it is there");
    let name = crate::watermark::WATERMARK_NAME;
    let mut rig = cut.snapshot(&behind.leader).open().expect("intact");
    assert!(rig.append(&[1], &[100], false));
    rig.settle();
    for slot in 0..2 {
        let mut files = cut.disk.files.clone();
        files.get_mut(name).expect("there")[slot * 4096 + 9] ^= 1;
        let again = behind.recover(MemoryDisk::with_files(files), None).expect("one slot is left");
        assert_eq!(again.log.tip().durable, end);
    }
}

#[test]
fn a_damaged_slot_beside_a_cut_that_is_begun_is_damage() {
    let behind = behind(6, 24);
    let end = behind.feed.frames[22].place.end;
    let mut disk = behind.disk();
    disk.crash_after = Some(1);
    let known = Known { committed: Lsn::ZERO, cut_after: Some(end) };
    now(recover_member(&mut disk, identity(), &behind.settings, known)).expect_err("a crash");
    let alone = behind.recover(MemoryDisk::with_files(disk.files.clone()), None).expect("begun");
    assert_eq!(alone.log.tip().durable, end, "the first step is the note");
    for slot in 0..2 {
        let mut files = disk.files.clone();
        files.get_mut(crate::watermark::WATERMARK_NAME).expect("there")[slot * 4096 + 9] ^= 1;
        match behind.recover(MemoryDisk::with_files(files), None) {
            Err(Error::Damage(_)) => {}
            Ok(whole) => assert_eq!(whole.log.tip().durable, behind.feed.end()),
            Err(error) => panic!("{error}"),
        }
    }
}

/// A node that was told of nothing committed and led: its own frames are behind those of `feed`.
fn deposed(feed: &Feed, settings: Settings) -> BTreeMap<String, Vec<u8>> {
    let mut node = Follower::new(settings);
    node.catch_up(feed);
    let (epoch, boot) = (Epoch::new(2), BootId::new(9));
    node.log.lead(epoch, boot);
    for _ in 0..9 {
        let stamp = Stamp::new(node.log.last_stamp().value() + 1);
        node.log.append_epoch_start(&EpochStart { epoch, boot, server_time: 5, stamp });
        let mut ops = Vec::new();
        node.log.pump(&mut ops);
        ops.into_iter().for_each(|(token, op)| node.disk.start(token, op));
        node.settle();
    }
    node.note_watermark();
    node.settle();
    node.disk.files
}

#[test]
fn a_deposed_leader_gives_up_frames_that_it_made_itself() {
    let behind = behind(1, 8);
    let files = deposed(&behind.feed, behind.settings);
    let end = behind.feed.end();
    for crash_after in 0.. {
        let mut disk = MemoryDisk::with_files(files.clone());
        disk.crash_after = Some(crash_after);
        disk.dice = Some(Dice::new(crash_after));
        let known = Known { committed: Lsn::ZERO, cut_after: Some(end) };
        let first = now(recover_member(&mut disk, identity(), &behind.settings, known));
        let again = behind.recover(MemoryDisk::with_files(disk.files), Some(end));
        let again = again.expect("a crash is no damage");
        assert_eq!(again.log.tip().durable, end, "crash after {crash_after}");
        behind.goes_on(&again);
        if first.is_ok() {
            assert!(crash_after > 3);
            break;
        }
    }
}
