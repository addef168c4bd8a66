//! Frames are found and read back wherever they lie.

use bytes::BytesMut;

use super::*;
use crate::disk::Done;
use crate::error::Error;
use crate::testing::{Dice, Feed, Rig, small_settings};

/// Carries a search out. Returns what it came to, and how many reads that took.
fn carry_out(rig: &mut Rig, mut step: Step) -> (Result<Step, Damage>, usize) {
    let mut reads = 0;
    while let Step::Read(search, op) = step {
        reads += 1;
        let Ok(Done::Read(read)) = rig.disk.perform_now(op) else { panic!("a read reads") };
        match rig.log.found(search, read) {
            Ok(next) => step = next,
            Err(damage) => return (Err(damage), reads),
        }
    }
    (Ok(step), reads)
}

fn locate(rig: &mut Rig, lsn: Lsn) -> Option<FramePlace> {
    let step = rig.log.locate(lsn);
    match carry_out(rig, step).0 {
        Ok(Step::Place(place)) => Some(place),
        Ok(Step::Nothing) => None,
        other => panic!("{other:?}"),
    }
}

/// A log over several segments, frames of several sizes.
fn long() -> (Rig, Feed) {
    let (mut rig, mut feed) = (Rig::new(small_settings()), Feed::default());
    let mut dice = Dice::new(11);
    while !rig.log.has_segment(6) {
        rig.step(&mut dice);
        feed.collect(&rig);
    }
    while rig.disk.waiting() > 0 {
        rig.finish(0).expect("a healthy disk");
    }
    rig.pump();
    feed.collect(&rig);
    while rig.disk.waiting() > 0 {
        rig.finish(0).expect("a healthy disk");
    }
    (rig, feed)
}

/// The same log with nothing in memory of where its frames lie.
fn reopened(rig: &Rig) -> Rig {
    let mut rig = rig.snapshot().open().expect("intact");
    rig.settle();
    rig
}

#[test]
fn every_record_is_found_in_its_frame() {
    let (rig, feed) = long();
    let count = rig.log.durable().value();
    for mut rig in [reopened(&rig), rig] {
        assert_eq!(locate(&mut rig, Lsn::ZERO), None);
        for lsn in 1..=count {
            let place = locate(&mut rig, Lsn::new(lsn)).expect("there");
            let known = feed.frames.iter().find(|frame| frame.place.end.lsn.value() >= lsn);
            assert_eq!(Some(place), known.map(|frame| frame.place));
        }
        let last = locate(&mut rig, Lsn::new(1 << 40)).expect("there");
        assert_eq!(last.end, rig.log.tip().durable);
        let oldest = rig.log.landmarks.oldest().expect("some");
        assert!(oldest.lsn.value() <= count, "recovery passed some");
    }
}

#[test]
fn what_is_behind_a_stamp_is_found_wherever_that_is() {
    let (rig, feed) = long();
    let stamps = |frame: &crate::log::SealedFrame| {
        let header = FrameHeader::decode(&frame.bytes).expect("a frame");
        (header.first_stamp.value(), header.last_stamp.value())
    };
    let end = feed.end();
    for mut rig in [reopened(&rig), rig] {
        let mut before = 0;
        for frame in &feed.frames {
            let (first, last) = stamps(frame);
            for after in [before, first - 1, last - 1] {
                let step = rig.log.read_behind(Stamp::new(after), end.lsn, 1);
                let Ok(Step::Frames { end, .. }) = carry_out(&mut rig, step).0 else {
                    panic!("nothing behind {after}")
                };
                assert_eq!(end, frame.place.end, "behind {after}");
            }
            before = last;
        }
        let step = rig.log.read_behind(Stamp::new(1 << 50), end.lsn, 1);
        let found = carry_out(&mut rig, step).0;
        assert!(matches!(found, Ok(Step::Nothing)), "{found:?}");
    }
}

#[test]
fn frames_come_back_whole_in_order_and_about_as_many_as_wanted() {
    let (rig, feed) = long();
    let all = feed.behind(Position::default(), usize::MAX);
    let end = feed.end();
    for bytes_max in [1, 10_000, 64 << 10, 1 << 20] {
        let mut rig = reopened(&rig);
        let (mut read, mut at, mut reads, mut pieces) =
            (BytesMut::new(), Position::default(), 0, 0);
        while at.lsn < end.lsn {
            let step = rig.log.read_after(at.lsn, end.lsn, bytes_max);
            let (step, more) = carry_out(&mut rig, step);
            let Ok(Step::Frames { before, frames, .. }) = step else { panic!("{step:?}") };
            assert_eq!(before, at);
            let is_one = FrameHeader::decode(&frames).expect("intact").frame_bytes();
            assert!(frames.len() <= bytes_max || frames.len() == is_one);
            read.extend_from_slice(&frames);
            let last = feed.frames.iter().take_while(|it| it.place.before.lsn < at.lsn).count();
            at = feed.frames[last..]
                .iter()
                .scan(0, |sum, it| {
                    *sum += it.bytes.len();
                    (*sum <= frames.len()).then_some(it.place.end)
                })
                .last()
                .expect("a frame at least");
            (reads, pieces) = (reads + more, pieces + 1);
        }
        assert!(read == all, "other bytes than were sealed");
        // One read a piece; a second where a frame is larger or a segment ends; the first search.
        assert!(reads <= 2 * pieces + 16, "{reads} reads for {pieces} pieces");
    }
}

#[test]
fn nothing_that_is_not_durable_is_read() {
    let (mut rig, _) = long();
    let durable = rig.log.durable();
    for number in 60..62 {
        assert!(rig.append(&[number], &[100], false));
        rig.pump();
    }
    // On the disk, and not yet known to be.
    let late = [rig.disk.finish(0), rig.disk.finish(0)];
    assert!(matches!(rig.log.read_after(durable, durable.next(), 4096), Step::Nothing));
    let step = rig.log.read_after(Lsn::new(durable.value() - 1), durable.plus(9), 1 << 20);
    let Ok(Step::Frames { frames, .. }) = carry_out(&mut rig, step).0 else { panic!("none") };
    let last = FrameHeader::decode(&frames).expect("intact");
    assert_eq!((last.last_lsn(), last.frame_bytes()), (durable, frames.len()));
    assert_eq!(locate(&mut rig, durable.next()).map(|it| it.end.lsn), Some(durable));
    assert_eq!(rig.log.sealed(durable).count(), 2, "that comes from memory");
    late.into_iter().for_each(|completion| rig.complete(completion).expect("a healthy disk"));
    assert_eq!(locate(&mut rig, durable.next()).map(|it| it.end.lsn), Some(durable.next()));
}

#[test]
fn only_frames_up_to_what_is_wanted_are_read() {
    let (mut rig, feed) = long();
    let (first, second) = (feed.frames[4].place, feed.frames[5].place);
    for upto in second.before.lsn.next().value()..=second.end.lsn.value() {
        let step = rig.log.read_after(first.before.lsn, Lsn::new(upto), 1 << 20);
        let Ok(Step::Frames { before, frames, .. }) = carry_out(&mut rig, step).0 else { panic!() };
        assert_eq!(before, first.before);
        assert_eq!(frames, feed.behind(before, 2));
    }
    let step = rig.log.read_after(first.before.lsn, first.end.lsn, 1 << 20);
    let Ok(Step::Frames { frames, .. }) = carry_out(&mut rig, step).0 else { panic!() };
    assert_eq!(frames, feed.frames[4].bytes);
}

#[test]
fn damage_is_named_with_its_place_and_frames_before_it_are_read() {
    let (mut rig, feed) = long();
    let damaged = &feed.frames[7];
    let name = segment_name(1);
    let start = SECTOR_BYTES + feed.frames[..7].iter().map(|it| it.bytes.len()).sum::<usize>();
    rig.disk.files.get_mut(&name).expect("there")[start + 700] ^= 1;
    for after in 0..7 {
        let before = feed.frames[after].place.before;
        let step =
            rig.log.read_after(before.lsn, Lsn::new(1 << 40), feed.frames[after].bytes.len());
        let (step, _) = carry_out(&mut rig, step);
        assert!(matches!(step, Ok(Step::Frames { .. })), "{after}: {step:?}");
    }
    let step = rig.log.read_after(damaged.place.before.lsn, damaged.place.end.lsn, 4096);
    let Err(damage) = carry_out(&mut rig, step).0 else { panic!("was missed") };
    assert_eq!((damage.segment, damage.offset), (1, start as u64));
    assert_eq!(damage.lsn, damaged.place.before.lsn.next());
    assert_eq!(damage.what, Flaw::BodyChecksum);
    assert!(matches!(Error::from(damage), Error::Damage(_)));
}

#[test]
fn a_frame_that_is_known_to_be_there_and_is_not_is_damage_and_no_end_of_its_segment() {
    let (mut rig, feed) = long();
    let lost = &feed.frames[7];
    let start = SECTOR_BYTES + feed.frames[..7].iter().map(|it| it.bytes.len()).sum::<usize>();
    let file = rig.disk.files.get_mut(&segment_name(1)).expect("there");
    file[start..start + lost.bytes.len()].fill(0);
    let after = FrameHeader::decode(&feed.frames[6].bytes).expect("a frame").last_stamp;
    let place = (1, (start / SECTOR_BYTES) as u32);
    let step = rig.log.read_behind_from(place, after, Lsn::new(1 << 40), 4096);
    let Err(damage) = carry_out(&mut rig, step).0 else { panic!("was passed over") };
    assert_eq!((damage.segment, damage.offset), (1, start as u64));
}

#[test]
fn an_empty_log_has_nothing_to_read() {
    let rig = Rig::new(small_settings());
    assert!(matches!(rig.log.locate(Lsn::new(5)), Step::Nothing));
    assert!(matches!(rig.log.read_after(Lsn::ZERO, Lsn::new(5), 4096), Step::Nothing));
}
