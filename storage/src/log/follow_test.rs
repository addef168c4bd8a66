//! What is taken from a leader and what is not, and what a crash leaves of it.

use bytes::BytesMut;
use celeriant_schema::record::{EpochStart, Resolve};
use celeriant_schema::{BootId, ClusterId, Epoch, Hash, Lsn, Stamp, TxnId};
use proptest::prelude::*;

use super::*;
use crate::disk::Disk;
use crate::frame::{Builder, Context, verify};
use crate::recovery::Known;
use crate::testing::{Dice, Fate, Feed, Follower, Rig, cases, identity, small_settings};
use crate::{Identity, Settings};

fn large_segments() -> Settings {
    Settings { segment_bytes_first: 256 << 10, ..small_settings() }
}

/// A leader that made `count` small frames, one after the other.
fn led(settings: Settings, count: u64) -> (Rig, Feed) {
    let (mut rig, mut feed) = (Rig::new(settings), Feed::default());
    for number in 0..count {
        rig.pump();
        feed.collect(&rig);
        rig.settle();
        assert!(rig.append(&[number % 40], &[300], false));
    }
    rig.pump();
    feed.collect(&rig);
    rig.settle();
    (rig, feed)
}

fn random_fate(dice: &mut Dice) -> Fate {
    match dice.roll(3) {
        0 => Fate::Drop,
        1 => Fate::Keep,
        _ => Fate::Tear,
    }
}

/// A leader and its follower, either of which crashes now and then.
fn live(seed: u64, settings: Settings) -> (Rig, Feed, Follower) {
    let mut dice = Dice::new(seed);
    let (mut leader, mut feed) = (Rig::new(settings), Feed::default());
    let mut follower = Follower::new(settings);
    for _ in 0..6 {
        for _ in 0..dice.roll(250) {
            leader.step(&mut dice);
            feed.collect(&leader);
            // Behind for a while, then several writes at a time.
            for _ in 0..if dice.roll(12) == 0 { dice.roll(20) } else { 0 } {
                follower.step(&feed, leader.log.durable(), &leader, &mut dice);
            }
        }
        follower.check(&leader);
        let mut fates = dice.clone();
        if dice.roll(3) == 0 {
            leader = leader.restart(|_| random_fate(&mut fates), &mut dice);
            feed.cut(&leader);
        }
        let committed = if dice.roll(2) == 0 { follower.log.committed() } else { Lsn::ZERO };
        let known = Known { committed, cut_after: None };
        follower = follower.restart(|_| random_fate(&mut fates), &mut dice, known);
        if follower.log.durable() > leader.recovered_tip.max(feed.end().lsn) {
            let known = Known { cut_after: Some(feed.end()), ..known };
            follower = follower.restart(|_| Fate::Keep, &mut dice, known);
            assert_eq!(follower.log.sealed_end(), feed.end());
        }
        follower.check(&leader);
    }
    (leader, feed, follower)
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn a_follower_has_what_it_reported_and_shows_what_is_committed(seed in any::<u64>()) {
        let (mut leader, mut feed, mut follower) = live(seed, small_settings());
        leader.pump();
        while leader.disk.waiting() > 0 {
            feed.collect(&leader);
            leader.finish(0).expect("a healthy disk");
            leader.pump();
        }
        feed.collect(&leader);
        follower.catch_up(&feed);
        follower.commit(feed.end().lsn);
        follower.settle();
        follower.check(&leader);
        let rig = follower.snapshot(&leader).open().expect("intact");
        prop_assert_eq!((rig.recovered_tip, rig.recovered_hash), (feed.end().lsn, feed.end().hash));
    }
}

#[test]
fn random_lives_meet_everything_that_following_can_meet() {
    let mut seen = [0; 4];
    for seed in 0..12 {
        let (.., follower) = live(seed, small_settings());
        seen.iter_mut().zip(follower.met).for_each(|(seen, met)| *seen += met);
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn frames_are_written_byte_for_byte_and_reported_like_ones_own() {
    let (_, feed) = led(large_segments(), 9);
    let mut follower = Follower::new(large_segments());
    assert_eq!(follower.offer(&feed, 10), Ok(()));
    assert_eq!(follower.disk.waiting(), 1, "what came together is one write");
    assert_eq!(follower.log.sealed_end(), feed.end());
    assert_eq!(follower.log.durable(), Lsn::ZERO);
    let frames = follower.finish(0);
    assert_eq!(follower.log.tip().durable, feed.end());
    for (durable, sent) in frames.iter().zip(&feed.frames) {
        assert_eq!(durable.bytes, sent.bytes);
        assert_eq!((durable.last_lsn, durable.hash), (sent.place.end.lsn, sent.place.end.hash));
        let at = durable.frame_offset as usize * SECTOR_BYTES;
        let content = &follower.disk.files["00000001.seg"][at..][..sent.bytes.len()];
        assert_eq!(content, sent.bytes);
        assert!(verify(content, &identity()).is_ok());
    }
    assert_eq!(frames.len(), 10);
    assert_eq!(follower.log.committed(), Lsn::ZERO, "nobody said so");
    assert_eq!(follower.directory.unwritten_bytes(), 0);
}

#[test]
fn every_flipped_byte_of_a_frame_is_refused_and_nothing_is_taken() {
    let (_, feed) = led(large_segments(), 2);
    let mut follower = Follower::new(large_segments());
    assert_eq!(follower.offer(&feed, 1), Ok(()));
    follower.settle();
    let end = follower.log.sealed_end();
    let frame = feed.behind(end, 1);
    for at in 0..frame.len() {
        let mut flipped = frame.to_vec();
        flipped[at] ^= 0x10;
        let mut flipped = Bytes::from(flipped);
        let mut ops = Vec::new();
        let outcome = follower.log.follow(&mut flipped, &mut ops);
        assert!(matches!(outcome, Err(Refused::Flawed(_))), "byte {at}: {outcome:?}");
        assert_eq!((flipped.len(), ops.len()), (frame.len(), 0));
        assert_eq!(follower.log.sealed_end(), end);
    }
    for len in [100, 600, 4000] {
        let mut cut = frame.slice(..len);
        let outcome = follower.log.follow(&mut cut, &mut Vec::new());
        assert!(matches!(outcome, Err(Refused::Flawed(_))), "{len}: {outcome:?}");
    }
    assert_eq!(follower.offer(&feed, 9), Ok(()));
}

#[test]
fn frames_before_the_first_that_is_refused_are_taken() {
    let (_, feed) = led(large_segments(), 4);
    let mut follower = Follower::new(large_segments());
    let mut joined = BytesMut::from(&feed.behind(Default::default(), 3)[..]);
    joined.extend_from_slice(&feed.frames[4].bytes);
    let (mut frames, mut ops) = (joined.freeze(), Vec::new());
    assert_eq!(follower.log.follow(&mut frames, &mut ops), Err(Refused::Apart("lsn")));
    assert_eq!(follower.log.sealed_end(), feed.frames[2].place.end);
    assert_eq!(frames, feed.frames[4].bytes);
    assert_eq!(ops.len(), 1);
}

/// A frame with one `EpochStart`, or a `Resolve`, behind `after`.
fn made(after: &Follower, epoch: u64, prev_hash: Hash, cluster: u128, txn: Option<Lsn>) -> Bytes {
    let mut builder = Builder::new();
    let stamp = Stamp::new(after.log.last_stamp().value() + 1);
    let (epoch, boot) = (Epoch::new(epoch), BootId::new(7));
    let start = EpochStart { epoch, boot, server_time: 5, stamp };
    let resolve = |leg_lsn| Resolve { txn: TxnId::default(), commit: true, leg_lsn, stamp };
    match txn {
        None => builder.push((stamp, stamp), EpochStart::LEN, |meta, _, _| start.encode(meta)),
        Some(leg_lsn) => {
            let resolve = resolve(leg_lsn);
            builder.push((stamp, stamp), Resolve::LEN, |meta, _, _| resolve.encode(meta))
        }
    };
    let end = after.log.sealed_end();
    let context = Context {
        identity: Identity { cluster: ClusterId::new(cluster), ..identity() },
        epoch,
        boot,
        first_lsn: end.lsn.next(),
        durable_upto: end.lsn,
        prev_hash,
    };
    builder.seal(&context, None).1.into_bytes()
}

#[test]
fn an_intact_frame_that_does_not_belong_here_is_refused() {
    let (_, feed) = led(large_segments(), 3);
    let mut follower = Follower::new(large_segments());
    follower.catch_up(&feed);
    let hash = follower.log.sealed_end().hash;
    let ours = identity().cluster.value();
    let cases = [
        (made(&follower, 1, Hash([9; 32]), ours, None), Refused::Apart("hash of the frame before")),
        (made(&follower, 0, hash, ours, None), Refused::Apart("epoch")),
        (made(&follower, 1, hash, ours + 1, None), Refused::Flawed(Flaw::Foreign("cluster"))),
        (
            made(&follower, 1, hash, ours, Some(Lsn::new(2))),
            Refused::Flawed(Flaw::Chain("a Resolve without its leg")),
        ),
        (feed.frames[3].bytes.clone(), Refused::Apart("lsn")),
    ];
    for (frame, refused) in cases {
        let mut frames = frame.clone();
        let outcome = follower.log.follow(&mut frames, &mut Vec::new());
        assert_eq!((outcome, frames), (Err(refused), frame));
        assert_eq!(follower.log.sealed_end(), feed.end());
    }
    let mut frame = made(&follower, 2, hash, ours, None);
    assert_eq!(follower.log.follow(&mut frame, &mut Vec::new()), Ok(()));
}

#[test]
fn no_more_writes_are_in_flight_than_the_write_depth() {
    let (_, feed) = led(large_segments(), 12);
    let mut follower = Follower::new(large_segments());
    (0..4).for_each(|_| assert_eq!(follower.offer(&feed, 2), Ok(())));
    assert_eq!(follower.offer(&feed, 2), Err(Refused::Busy));
    assert_eq!(follower.disk.waiting(), 4);
    follower.finish(3);
    assert_eq!(follower.offer(&feed, 2), Err(Refused::Busy), "the first write is not durable");
    assert_eq!(follower.finish(0).len(), 2);
    assert_eq!(follower.offer(&feed, 2), Ok(()));
    follower.catch_up(&feed);
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let (_, feed) = led(small_settings(), 60);
    let mut follower = Follower::new(small_settings());
    follower.disk.room = Some(0);
    let refused = loop {
        match follower.offer(&feed, 3) {
            Ok(()) => follower.settle(),
            Err(Refused::Busy) if follower.disk.waiting() > 0 => follower.settle(),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, Refused::NoRoom);
    let taken = follower.log.sealed_end();
    assert!(taken.lsn > Lsn::new(10) && taken != feed.end());
    follower.retry_space();
    follower.settle();
    assert_eq!(follower.offer(&feed, 3), Err(Refused::NoRoom));
    follower.disk.room = None;
    follower.retry_space();
    follower.settle();
    assert_eq!(follower.log.tip().durable, taken);
    follower.catch_up(&feed);
}

#[test]
fn a_segment_is_made_for_a_frame_that_the_present_one_has_no_room_for() {
    let (mut leader, mut feed) = led(small_settings(), 0);
    while !leader.append(&[1], &[58_000], false) {
        leader.settle();
    }
    leader.pump();
    feed.collect(&leader);
    let mut follower = Follower::new(small_settings());
    assert_eq!(follower.offer(&feed, 2), Err(Refused::Busy));
    assert_eq!(follower.log.sealed_end(), feed.frames[0].place.end);
    follower.settle();
    assert_eq!(follower.offer(&feed, 1), Err(Refused::Busy), "it is being made");
    follower.settle();
    assert_eq!(follower.offer(&feed, 1), Ok(()));
    follower.settle();
    assert_eq!(follower.log.tip().durable, feed.end());
}

#[test]
fn what_a_frame_says_of_its_makers_disk_is_not_believed_here() {
    let (leader, feed) = led(large_segments(), 6);
    // The leader had each frame durable before it made the next.
    assert!(feed.frames.iter().all(|frame| {
        let header = verify(&frame.bytes, &identity()).expect("intact");
        header.durable_upto == frame.place.before.lsn
    }));
    for kept in 0..4 {
        let mut follower = Follower::new(large_segments());
        follower.catch_up(&Feed { frames: feed.frames[..2].to_vec() });
        (0..4).for_each(|_| assert_eq!(follower.offer(&feed, 1), Ok(())));
        let before = follower.log.durable();
        let mut at = 0;
        let fate = |_: &Op| {
            at += 1;
            if at - 1 == kept { Fate::Keep } else { Fate::Drop }
        };
        let mut follower = follower.restart(fate, &mut Dice::new(1), Known::default());
        let whole = u64::from(kept == 0);
        assert_eq!(follower.log.durable(), before.plus(whole));
        assert_eq!(u64::from(follower.report.cut_frames), 1 - whole);
        follower.catch_up(&feed);
        follower.commit(feed.end().lsn);
        follower.check(&leader);
    }
}

#[test]
fn a_follower_that_leads_goes_on_in_a_higher_epoch() {
    let (_, feed) = led(large_segments(), 3);
    let mut follower = Follower::new(large_segments());
    follower.catch_up(&feed);
    assert!(!follower.log.fits(1, 0));
    let before = follower.log.durable();
    follower.log.lead(Epoch::new(2), BootId::new(9));
    let stamp = Stamp::new(follower.log.last_stamp().value() + 1);
    let start = EpochStart { epoch: Epoch::new(2), boot: BootId::new(9), server_time: 5, stamp };
    follower.log.append_epoch_start(&start);
    let mut ops = Vec::new();
    follower.log.pump(&mut ops);
    assert_eq!(ops.len(), 2, "the frame, and a note that frames of this epoch are made here");
    for (token, op) in ops {
        follower.disk.start(token, op);
    }
    follower.settle();
    assert_eq!(follower.log.durable(), before.next());
    assert_eq!(follower.log.tip().epoch, Epoch::new(2));
    assert_eq!(follower.log.committed(), Lsn::ZERO);
    follower.log.commit(before.next());
    assert_eq!(follower.log.committed(), before.next());
}
