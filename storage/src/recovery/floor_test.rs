//! What is not committed enters the log and not the directory.

use celeriant_schema::Stamp;

use super::*;
use crate::directory::Applier;
use crate::log::Step;
use crate::testing::{Dice, Feed, Follower, MemoryDisk, Rig, identity, now, small_settings};

/// A leader's random life, and a follower that has all of it durable and nothing committed.
fn followed(seed: u64, steps: u64) -> (Rig, Feed, Follower) {
    let mut dice = Dice::new(seed);
    let (mut leader, mut feed) = (Rig::new(small_settings()), Feed::default());
    for _ in 0..steps {
        leader.step(&mut dice);
        feed.collect(&leader);
    }
    while leader.disk.waiting() > 0 {
        leader.finish(0).expect("a healthy disk");
    }
    let mut follower = Follower::new(small_settings());
    follower.catch_up(&feed);
    (leader, feed, follower)
}

fn reopened(follower: &Follower, committed: Lsn) -> Follower {
    let disk = MemoryDisk::with_files(follower.disk.files.clone());
    let known = Known { committed, cut_after: None };
    Follower::open(disk, small_settings(), known).expect("intact")
}

#[test]
fn the_directory_ends_at_the_floor_wherever_that_is() {
    for seed in 0..6 {
        let (leader, feed, follower) = followed(seed, 300);
        for frame in feed.frames.iter().step_by(5) {
            let committed = frame.place.end.lsn;
            let mut again = reopened(&follower, committed);
            assert_eq!(again.log.committed(), committed);
            assert_eq!(again.log.tip().durable, feed.end());
            again.check(&leader);
            let sent = feed.frames.iter().filter(|frame| frame.place.before.lsn >= committed);
            assert!(again.tail.iter().map(|it| &it.bytes).eq(sent.map(|it| &it.bytes)));
            again.commit(feed.end().lsn);
            again.settle();
            again.check(&leader);
        }
    }
}

#[test]
fn a_floor_within_a_frame_leaves_that_frame_out() {
    let (leader, feed, follower) = followed(3, 200);
    let is_wide = |frame: &&crate::log::SealedFrame| {
        frame.place.end.lsn.value() - frame.place.before.lsn.value() > 1
    };
    let wide = feed.frames.iter().find(is_wide).expect("a frame of several records").place;
    let again = reopened(&follower, Lsn::new(wide.end.lsn.value() - 1));
    assert_eq!(again.log.committed(), wide.before.lsn);
    again.check(&leader);
}

#[test]
fn a_note_of_what_is_committed_is_enough() {
    let (leader, feed, mut follower) = followed(5, 60);
    let committed = feed.frames[feed.frames.len() / 2].place.end.lsn;
    follower.commit(committed);
    follower.settle();
    let before = reopened(&follower, Lsn::ZERO).log.committed();
    assert_eq!(before, Lsn::ZERO, "nothing says so durably");
    follower.note_watermark();
    follower.settle();
    let again = reopened(&follower, Lsn::ZERO);
    assert_eq!(again.log.committed(), committed);
    again.check(&leader);
}

#[test]
fn a_checkpoint_lies_where_everything_is_committed() {
    for seed in 0..4 {
        let (leader, feed, mut follower) = followed(seed, 900);
        for frame in feed.frames.iter().step_by(3) {
            follower.commit(frame.place.end.lsn);
            follower.settle();
            let name = crate::manifest::MANIFEST_NAME;
            let Some(content) = follower.disk.files.get(name) else { continue };
            let manifest = crate::manifest::Manifest::decode(content, &identity());
            let position = manifest.expect("intact").checkpoint.position;
            assert!(position.lsn <= follower.log.committed());
        }
        assert!(follower.directory.run_count() > 0, "it was written out");
        let again = reopened(&follower, Lsn::ZERO);
        assert!(again.report.runs_opened > 0);
        again.check(&leader);
    }
}

#[test]
#[should_panic(expected = "is applied, the checkpoint is at")]
fn a_directory_that_holds_more_than_is_committed_is_not_written_out() {
    let (_, feed, mut follower) = followed(7, 900);
    follower.commit(feed.frames[10].place.end.lsn);
    follower.settle();
    let tail = std::mem::take(&mut follower.tail);
    for frame in tail {
        follower.applier.frame(&mut follower.directory, &frame).expect("intact");
    }
    follower.commit(feed.frames[11].place.end.lsn);
}

#[test]
fn for_a_node_on_its_own_everything_that_is_durable_is_committed() {
    let (leader, feed, follower) = followed(2, 300);
    let mut disk = MemoryDisk::with_files(follower.disk.files.clone());
    let recovered = now(recover(&mut disk, identity(), &small_settings())).expect("intact");
    assert_eq!(recovered.log.committed(), feed.end().lsn);
    assert!(recovered.tail.is_empty());
    let rig = follower.snapshot(&leader).open().expect("intact");
    assert_eq!(rig.recovered_tip, feed.end().lsn);
}

#[test]
fn a_long_tail_is_handed_over_in_part_and_the_rest_is_read() {
    let settings =
        Settings { segment_bytes_first: 4 << 20, segment_bytes_max: 4 << 20, ..small_settings() };
    let (mut leader, mut feed) = (Rig::new(settings), Feed::default());
    while feed.frames.iter().map(|it| it.bytes.len()).sum::<usize>() < 2 * TAIL_BYTES_MAX {
        leader.append(&[feed.frames.len() as u64], &[500_000], false);
        leader.pump();
        feed.collect(&leader);
        leader.settle();
    }
    let mut follower = Follower::new(settings);
    follower.catch_up(&feed);
    let mut disk = MemoryDisk::with_files(follower.disk.files.clone());
    let recovered = now(recover_member(&mut disk, identity(), &settings, Known::default()));
    let Recovered { mut log, mut directory, pending, tail, .. } = recovered.expect("intact");
    assert!(tail.iter().map(|it| it.bytes.len()).sum::<usize>() <= TAIL_BYTES_MAX);
    let last = tail.last().expect("a part of it").last_lsn;
    assert!(last < log.durable());
    let mut step = log.read_after(last, log.durable(), 1 << 20);
    while let Step::Read(search, op) = step {
        let Ok(crate::disk::Done::Read(read)) = disk.perform_now(op) else { panic!("reads") };
        step = log.found(search, read).expect("intact");
    }
    let Step::Frames { before, .. } = step else { panic!("{step:?}") };
    assert_eq!(before.lsn, last);
    let mut applier = Applier::new(pending);
    tail.iter().for_each(|it| applier.frame(&mut directory, it).expect("intact"));
    log.commit(last);
    assert_eq!((log.committed(), directory.unwritten_bytes() > 0), (last, true));
    assert!(log.last_stamp() > Stamp::ZERO);
}

#[test]
fn for_frames_that_were_made_elsewhere_only_the_watermark_vouches() {
    let (_, feed, follower) = followed(9, 400);
    let again = reopened(&follower, Lsn::ZERO);
    assert_eq!(again.log.tip().durable, feed.end());
    // The watermark was noted at rotations; nothing else vouches for a frame that was made
    // elsewhere.
    assert!(again.report.secured_bytes > 0);
    assert_eq!(reopened(&again, Lsn::ZERO).report.secured_bytes, 0, "the note of the start does");
}

#[test]
fn what_others_knew_is_noted_at_the_start() {
    let (_, feed, follower) = followed(5, 60);
    let committed = feed.frames[7].place.end.lsn;
    let again = reopened(&follower, committed);
    assert_eq!(reopened(&again, Lsn::ZERO).log.committed(), committed);
}
