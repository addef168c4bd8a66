//! The log's promises: order, depth, space, poison.

use celeriant_schema::limits::SECTOR_BYTES;

use celeriant_schema::record::EpochStart;

use super::*;
use crate::frame::verify;
use crate::testing::{Dice, Fate, Rig, identity, small_settings};

fn settled(settings: Settings) -> Rig {
    let mut rig = Rig::new(settings);
    rig.settle();
    rig
}

fn large_segments() -> Settings {
    Settings { segment_bytes_first: 256 << 10, ..small_settings() }
}

#[test]
fn durable_moves_in_log_order_whatever_completes_first() {
    let mut rig = settled(large_segments());
    let before = rig.log.durable();
    for number in 0..4 {
        assert!(rig.append(&[number], &[100], false));
        rig.pump();
    }
    assert_eq!(rig.disk.waiting(), 4);
    for last in [3, 2, 1] {
        rig.finish(last).expect("a healthy disk");
        assert_eq!(rig.log.durable(), before);
    }
    rig.finish(0).expect("a healthy disk");
    assert_eq!(rig.log.durable(), before.plus(4));
    rig.check();
}

#[test]
fn no_more_frames_are_in_flight_than_the_write_depth_and_the_rest_shares_one() {
    let mut rig = settled(large_segments());
    for number in 0..20 {
        assert!(rig.append(&[number], &[100], false));
        rig.pump();
        assert!(rig.disk.waiting() <= 4);
    }
    let before = rig.log.durable();
    (0..4).for_each(|_| rig.finish(0).expect("a healthy disk"));
    assert_eq!(rig.log.durable(), before.plus(4));
    assert_eq!(rig.disk.waiting(), 0, "what arrives with the completions may still join");
    rig.pump();
    assert_eq!(rig.disk.waiting(), 1, "sixteen records wait in one frame");
    rig.settle();
    rig.check();
}

#[test]
fn with_a_write_in_flight_a_small_frame_waits_for_more() {
    let mut rig = settled(Settings { fill_bytes: 4096, ..large_segments() });
    assert!(rig.append(&[1], &[100], false));
    rig.pump();
    assert!(rig.append(&[2], &[100], false));
    rig.pump();
    assert_eq!(rig.disk.waiting(), 1);
    assert!(rig.append(&[3], &[2000, 2000], false));
    rig.pump();
    assert_eq!(rig.disk.waiting(), 2);
    rig.settle();
}

#[test]
fn a_frame_as_large_as_the_one_in_flight_does_not_wait() {
    let mut rig = settled(Settings { fill_bytes: 64 << 10, ..large_segments() });
    assert!(rig.append(&[1], &[100], false));
    rig.pump();
    assert!(rig.append(&[2], &[2000], false));
    rig.pump();
    assert_eq!(rig.disk.waiting(), 1, "one sector is in flight, less than that is open");
    assert!(rig.append(&[3], &[2000], false));
    rig.pump();
    assert_eq!(rig.disk.waiting(), 2);
    assert!(rig.append(&[4], &[2000, 2000], false));
    rig.pump();
    assert_eq!(rig.disk.waiting(), 2, "the largest in flight has two sectors");
    rig.settle();
    rig.check();
}

#[test]
fn bytes_in_flight_stay_within_what_recovery_looks_through() {
    let segment_bytes = 128 << 20;
    let mut rig = settled(Settings {
        write_depth: 16,
        segment_bytes_first: segment_bytes,
        segment_bytes_max: segment_bytes,
        ..small_settings()
    });
    for number in 0..6 {
        rig.append(&[number], &[8 << 20], false);
        rig.pump();
    }
    assert_eq!(rig.disk.waiting(), 3, "four of them with their headers are more than 32 MiB");
    rig.settle();
    rig.check();
}

#[test]
fn each_frame_says_what_was_durable_when_it_was_made() {
    let mut rig = settled(large_segments());
    let durable = rig.log.durable();
    for number in 0..3 {
        assert!(rig.append(&[number], &[100], false));
        rig.pump();
    }
    rig.settle();
    let content = &rig.disk.files["00000001.seg"];
    for frame in 2..5 {
        let page = &content[frame * SECTOR_BYTES..(frame + 1) * SECTOR_BYTES];
        assert_eq!(verify(page, &identity()).expect("intact").durable_upto, durable);
    }
}

#[test]
fn segments_double_up_to_their_limit() {
    let mut rig = settled(small_settings());
    while !rig.log.has_segment(5) {
        rig.append(&[1], &[3000, 3000, 3000], false);
        rig.settle();
    }
    let sizes: Vec<_> = rig
        .disk
        .files
        .iter()
        .filter(|(name, _)| name.ends_with(".seg"))
        .map(|(_, content)| content.len() >> 10)
        .collect();
    assert_eq!(sizes, [64, 128, 256, 256, 256]);
    rig.check();
}

#[test]
fn a_segments_first_frame_waits_until_everything_before_is_durable() {
    let mut dice = Dice::new(5);
    for _ in 0..10 {
        let mut rig = Rig::new(Settings { segment_bytes_first: 16 << 10, ..small_settings() });
        for _ in 0..300 {
            rig.step(&mut dice);
            let mut segments = rig.log.in_flight.iter().map(|frame| frame.segment);
            let first = segments.next();
            assert!(segments.all(|segment| Some(segment) == first));
        }
    }
}

#[test]
fn a_full_disk_stops_admission_and_loses_nothing() {
    let mut rig = settled(small_settings());
    // Room for one more segment and no run.
    rig.disk.room = Some(128 << 10);
    let mut appended = 0;
    loop {
        if rig.append(&[appended % 5], &[900], appended % 3 == 0) {
            appended += 1;
            rig.resolve(0, true);
        } else if rig.log.full() {
            break;
        }
        rig.settle();
    }
    assert!(appended > 20, "{appended} writes fit");
    rig.check();
    rig.retry_space();
    rig.settle();
    assert!(!rig.append(&[1], &[900], false));
    assert!(rig.log.full() && rig.log.lacks_space(), "still full");
    rig.disk.room = None;
    rig.retry_space();
    rig.settle();
    assert!(rig.append(&[1], &[900], false));
    rig.settle();
    rig.check();
    assert!(rig.directory.run_count() > 0, "the directory is written out once there is room");
    rig.snapshot().open().expect("intact");
}

#[test]
fn a_full_device_is_not_mistaken_for_frames_in_flight() {
    let mut rig = settled(Settings { frame_bytes_soft: 4096, ..large_segments() });
    rig.disk.room = Some(0);
    while rig.log.space.active_has_place(150 << 10) {
        assert!(rig.append(&[1], &[900], false));
        rig.settle();
    }
    // The device is full, but these only wait for the frames in flight.
    while rig.append(&[1], &[3000], false) {
        rig.pump();
    }
    assert!(rig.log.full() && !rig.log.lacks_space());
    rig.settle();
    assert!(rig.append(&[1], &[3000], false));
}

#[test]
fn on_a_full_disk_every_undecided_leg_can_still_be_resolved() {
    let mut rig = settled(small_settings());
    rig.disk.room = Some(0);
    let mut number = 0;
    while rig.append(&[number], &[600], true) {
        rig.settle();
        number += 1;
    }
    assert!(rig.log.full() && number > 1);
    for _ in 0..number {
        assert!(rig.resolve(0, true));
        rig.settle();
    }
    assert_eq!(rig.undecided(), 0);
    rig.check();
}

#[test]
fn after_a_failed_write_the_log_takes_and_acknowledges_nothing() {
    let mut rig = settled(large_segments());
    for number in 0..2 {
        assert!(rig.append(&[number], &[100], false));
        rig.pump();
    }
    let durable = rig.log.durable();
    rig.disk.broken = true;
    assert!(matches!(rig.finish(0), Err(Error::Io(_))));
    rig.disk.broken = false;
    assert!(matches!(rig.finish(0), Err(Error::Poisoned)));
    assert_eq!(rig.log.durable(), durable);
    assert!(!rig.log.fits(1, 0) && !rig.log.fits_resolve());
    rig.pump();
    rig.note_watermark();
    assert_eq!(rig.disk.waiting(), 0);
    assert!(!rig.log.idle());
}

#[test]
fn a_failed_note_of_the_watermark_is_fatal_too() {
    let mut rig = settled(large_segments());
    rig.note_watermark();
    rig.disk.broken = true;
    assert!(matches!(rig.finish(0), Err(Error::Io(_))));
    assert!(!rig.log.fits(1, 0));
}

#[test]
fn a_record_larger_than_a_frame_never_fits_and_one_as_large_does() {
    let mut rig = settled(large_segments());
    let max = rig.log.record_bytes_max();
    assert!(!rig.log.fits(max + 1, 0));
    let room = max - 300;
    assert!(!rig.append(&[1], &[room], false), "a spare must be made first");
    rig.settle();
    assert!(rig.append(&[1], &[room], false));
    rig.settle();
    rig.check();
    rig.snapshot().open().expect("intact");
}

#[test]
fn the_watermark_is_written_only_when_it_says_something_new() {
    let mut rig = settled(large_segments());
    rig.note_watermark();
    assert_eq!(rig.disk.waiting(), 1);
    assert!(!rig.log.idle());
    rig.finish(0).expect("a healthy disk");
    rig.note_watermark();
    assert_eq!(rig.disk.waiting(), 0);
    assert!(rig.log.idle());
    assert!(rig.append(&[1], &[100], false));
    rig.settle();
    let before = rig.disk.changes;
    rig.note_watermark();
    rig.settle();
    assert_eq!(rig.disk.changes, before + 1);
}

#[test]
fn the_watermark_uses_its_two_slots_in_turn() {
    let mut rig = settled(large_segments());
    let mut turns = Vec::new();
    for number in 0..4 {
        assert!(rig.append(&[number], &[100], false));
        rig.settle();
        rig.note_watermark();
        rig.settle();
        turns.push(rig.log.notes.watermark().turn);
    }
    assert!(turns.windows(2).all(|pair| pair[1] == pair[0] + 1), "{turns:?}");
}

#[test]
fn a_segment_takes_frames_only_when_the_watermark_counts_it() {
    let mut rig = settled(small_settings());
    while rig.log.notes.is_idle() {
        assert!(rig.append(&[1], &[900], false));
        rig.pump();
        while rig.disk.waiting() > 0 && rig.log.notes.is_idle() {
            rig.finish(0).expect("a healthy disk");
        }
    }
    assert!(rig.log.has_segment(2), "it is made");
    assert!(!rig.log.space.has_place(60 << 10, 0), "but not counted");
    rig.settle();
    assert!(rig.log.space.has_place(60 << 10, 0));
}

#[test]
fn a_leg_is_open_at_a_checkpoint_until_the_decision_over_it_is_durable() {
    let mut rig = settled(large_segments());
    let open = |rig: &Rig| rig.log.checkpoint().1.map(|leg| leg.lsn).collect::<Vec<_>>();
    assert!(rig.append(&[9], &[100], true));
    rig.pump();
    assert_eq!(open(&rig), [], "it is not durable itself");
    rig.settle();
    let leg = rig.log.durable();
    assert_eq!(open(&rig), [leg]);
    assert!(rig.append(&[2], &[100], false));
    rig.pump();
    assert!(rig.resolve(0, true));
    rig.pump();
    assert_eq!(rig.disk.waiting(), 2, "a frame, and the decision behind it");
    rig.finish(0).expect("a healthy disk");
    assert_eq!(open(&rig), [leg]);
    rig.finish(0).expect("a healthy disk");
    assert_eq!(open(&rig), []);
    let (position, _) = rig.log.checkpoint();
    assert_eq!((position.lsn, position.hash), (rig.log.durable(), rig.log.tip_hash()));
}

#[test]
fn space_for_decisions_is_kept_in_the_spare_too() {
    let mut rig = settled(Settings { segment_bytes_first: 16 << 10, ..small_settings() });
    rig.append(&[0], &[6000], false);
    rig.settle();
    assert!(rig.log.space.has_place(28 << 10, 0), "the spare has 32 KiB");
    assert!(rig.log.space.has_place(24 << 10, 4 << 10));
    assert!(!rig.log.space.has_place(28 << 10, 4 << 10));
}

#[test]
fn a_restarted_log_goes_on_where_it_ended() {
    let mut rig = settled(large_segments());
    for number in 0..5 {
        assert!(rig.append(&[number], &[100], false));
    }
    rig.settle();
    let end = rig.log.next_lsn();
    let mut rig = rig.restart(|_| Fate::Drop, &mut Dice::new(1));
    assert_eq!(rig.log.next_lsn(), end.next(), "behind the EpochStart of the new process");
    assert!(rig.append(&[0, 7], &[100, 5000], false));
    rig.settle();
    rig.check();
}

#[test]
fn a_sealed_frame_is_there_before_it_is_durable_and_stays_the_same_memory() {
    let mut rig = settled(large_segments());
    let durable = rig.log.durable();
    for number in 0..3 {
        assert!(rig.append(&[number], &[100], false));
        assert_eq!(rig.log.sealed(durable).count(), number as usize);
        rig.pump();
    }
    let sealed: Vec<_> = rig.log.sealed(durable).collect();
    assert_eq!(sealed.len(), 3);
    assert_eq!(rig.log.sealed(durable.next()).count(), 2);
    assert_eq!(sealed[2].place.end, rig.log.sealed_end());
    for (frame, next) in sealed.iter().zip(&sealed[1..]) {
        assert_eq!(frame.place.end, next.place.before);
    }
    for frame in &sealed {
        let header = verify(&frame.bytes, &identity()).expect("intact");
        assert_eq!(header.place(), frame.place);
        let mut ops = Vec::new();
        let progress = rig.log.complete(rig.disk.finish(0), &mut ops).expect("a healthy disk");
        let [durable] = &progress.frames[..] else { panic!("one frame a write") };
        assert_eq!(durable.bytes.as_ptr(), frame.bytes.as_ptr(), "copied once");
    }
    assert_eq!(rig.log.sealed(Lsn::ZERO).count(), 0);
}

#[test]
fn what_is_open_is_sealed_in_the_epoch_that_it_was_appended_in() {
    let mut rig = settled(large_segments());
    let before = rig.log.durable();
    assert!(rig.append(&[1], &[100], false));
    rig.log.lead(Epoch::new(5), BootId::new(50));
    assert!(!rig.log.fits(1, 0) && !rig.log.fits_resolve(), "the open frame takes nothing more");
    rig.log.lead(Epoch::new(6), BootId::new(60));
    rig.pump();
    assert!(rig.log.fits(1, 0));
    let stamp = Stamp::new(rig.log.last_stamp().value() + 1);
    let start = EpochStart { epoch: Epoch::new(6), boot: BootId::new(60), server_time: 5, stamp };
    rig.log.append_epoch_start(&start);
    rig.pump();
    let headers: Vec<_> = rig.log.sealed(before).map(|frame| frame.bytes).collect();
    let made = headers.iter().map(|frame| verify(frame, &identity()).expect("intact"));
    let made: Vec<_> = made.map(|header| (header.epoch.value(), header.boot.value())).collect();
    assert_eq!(made, [(1, 31), (6, 60)]);
}

#[test]
fn who_has_resigned_appends_nothing_and_loses_nothing() {
    let mut rig = settled(large_segments());
    let before = rig.log.durable();
    assert!(rig.append(&[1], &[100], false));
    rig.log.resign();
    assert!(!rig.log.fits(1, 0));
    rig.settle();
    assert_eq!(rig.log.durable(), before.next());
    assert!(!rig.log.fits(1, 0));
}

#[test]
#[should_panic(expected = "epoch 1 after 1")]
fn nobody_continues_an_epoch() {
    let mut rig = settled(large_segments());
    rig.log.lead(Epoch::new(1), BootId::new(77));
}

#[test]
fn memory_of_the_largest_frames_is_not_kept() {
    let bytes = 128 << 20;
    let mut rig = settled(Settings {
        segment_bytes_first: bytes,
        segment_bytes_max: bytes,
        ..small_settings()
    });
    for size in [100, 6 << 20] {
        assert!(rig.append(&[size as u64], &[size], false));
        rig.settle();
    }
    assert!(rig.log.buffers.iter().all(|buffer| buffer.capacity() <= BUFFER_BYTES_KEPT));
}
