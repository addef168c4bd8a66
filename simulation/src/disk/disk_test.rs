//! The simulated disk keeps the contract of the seam, and breaks it only as it may.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use celeriant_storage::buffer::AlignedBuffer;
use celeriant_storage::disk::{Completion, Disk, Done, FileId, Op};

use super::*;

fn next(disk: &mut SimDisk) -> Completion {
    match disk.poll_complete(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(completion) => completion,
        Poll::Pending => panic!("nothing completes"),
    }
}

fn run(disk: &mut SimDisk, op: Op) -> Result<Done, celeriant_storage::disk::DiskError> {
    disk.start(1, op);
    next(disk).outcome
}

fn create(disk: &mut SimDisk, name: &str, len: u64) -> FileId {
    let op = Op::Create { name: name.into(), len, written: len, head: Bytes::from_static(b"head") };
    match run(disk, op) {
        Ok(Done::Opened { file, .. }) => file,
        other => panic!("{other:?}"),
    }
}

fn write(file: FileId, offset: u64, byte: u8) -> Op {
    Op::Write { file, offset, buffer: AlignedBuffer::copy_of(&[byte; 4096]) }
}

#[test]
fn what_completed_survives_and_what_did_not_ends_as_fate_says() {
    for (fate, sectors) in [(Fate::Drop, 0), (Fate::Keep, 8), (Fate::Tear(0b1010_0001), 3)] {
        let media = Media::alone(1, Files::default());
        let mut disk = media.attach();
        let file = create(&mut disk, "a", 16384);
        run(&mut disk, write(file, 0, 1)).expect("durable");
        disk.start(7, write(file, 4096, 2));
        media.crash(&mut |_| fate.clone());
        let image = media.image();
        let content = image.content("a").expect("is there");
        assert_eq!(content.len(), 16384);
        assert!(content[..4096].iter().all(|byte| *byte == 1));
        let survived = content[4096..8192].chunks(SECTOR).filter(|s| s[0] == 2).count();
        assert_eq!(survived, sectors, "{fate:?}");
    }
}

#[test]
fn a_handle_of_a_process_that_crashed_is_dead() {
    let media = Media::alone(1, Files::default());
    let mut old = media.attach();
    media.crash(&mut |_| Fate::Drop);
    let mut new = media.attach();
    old.start(1, Op::List);
    assert!(old.poll_complete(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(matches!(run(&mut new, Op::List), Ok(Done::Listed(files)) if files.is_empty()));
}

#[test]
fn a_put_is_all_or_nothing_whatever_happens() {
    for mask in 0..64 {
        let media = Media::alone(1, Files::default());
        let mut disk = media.attach();
        let put = |content: &'static [u8]| Op::Put {
            name: "a".into(),
            content: Bytes::from_static(content),
        };
        run(&mut disk, put(b"old")).expect("durable");
        disk.start(2, put(b"new"));
        media.crash(&mut |_| Fate::Tear(mask));
        let image = media.image();
        assert!(matches!(image.content("a"), Some(b"old" | b"new")));
    }
}

#[test]
fn a_file_that_was_not_synced_is_lost_or_whole_or_torn() {
    for synced in [false, true] {
        for fate in [Fate::Drop, Fate::Keep, Fate::Tear(1), Fate::Tear(6 << 8)] {
            let media = Media::alone(1, Files::default());
            let mut disk = media.attach();
            let file = match run(&mut disk, Op::Make { name: "a".into() }) {
                Ok(Done::Opened { file, len: 0 }) => file,
                other => panic!("{other:?}"),
            };
            for offset in [0, 4096] {
                let buffer = AlignedBuffer::copy_of(&[1; 4096]);
                run(&mut disk, Op::Extend { file, offset, buffer }).expect("written");
            }
            if synced {
                run(&mut disk, Op::Sync { file }).expect("durable");
            }
            assert_eq!(media.in_flight().len(), usize::from(!synced));
            let image = media.image_after(&mut |_| fate.clone());
            media.crash(&mut |_| fate.clone());
            assert!(image.same_content(&media.image()));
            let sectors = image.content("a").map(|content| {
                let is_there = |sector: &&[u8]| sector[0] == 1;
                (content.len(), content.chunks(SECTOR).filter(is_there).count())
            });
            let expected = match fate {
                _ if synced => Some((8192, 16)),
                Fate::Drop => None,
                Fate::Keep => Some((8192, 16)),
                Fate::Tear(1) => Some((8192, 1)),
                Fate::Tear(_) => Some((6 * SECTOR, 0)),
            };
            assert_eq!(sectors, expected, "{fate:?}");
        }
    }
}

#[test]
fn what_was_synced_stays_when_what_follows_is_lost() {
    let media = Media::alone(1, Files::default());
    let mut disk = media.attach();
    let file = create(&mut disk, "a", 4096);
    let extend = |offset| Op::Extend { file, offset, buffer: AlignedBuffer::zeroed(4096) };
    run(&mut disk, extend(4096)).expect("written");
    run(&mut disk, Op::Sync { file }).expect("durable");
    run(&mut disk, extend(8192)).expect("written");
    disk.start(5, Op::Sync { file });
    media.crash(&mut |_| Fate::Drop);
    assert_eq!(media.image().content("a").map(<[u8]>::len), Some(8192));
}

#[test]
fn a_disk_without_space_takes_writes_but_no_files() {
    let media = Media::alone(1, Files::default());
    let mut disk = media.attach();
    let file = create(&mut disk, "a", 8192);
    media.ail(|ailments| ailments.full = true);
    let refused = run(
        &mut disk,
        Op::Create { name: "b".into(), len: 4096, written: 4096, head: Bytes::new() },
    );
    assert!(refused.is_err_and(|error| error.is_full()));
    run(&mut disk, write(file, 0, 1)).expect("has its space");
}

#[test]
fn power_goes_with_exactly_the_operation_that_was_named() {
    let media = Media::alone(1, Files::default());
    media.power().trip_at(3);
    let mut disk = media.attach();
    let file = create(&mut disk, "a", 8192);
    run(&mut disk, write(file, 0, 1)).expect("durable");
    disk.start(3, write(file, 4096, 2));
    assert!(media.power().is_off());
    assert!(disk.poll_complete(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(media.in_flight().len(), 1);
}

#[test]
fn a_failed_write_says_so_and_leaves_anything() {
    let media = Media::alone(3, Files::default());
    let mut disk = media.attach();
    let file = create(&mut disk, "a", 8192);
    media.ail(|ailments| ailments.pending.push(Ailment::FailWrite));
    assert!(run(&mut disk, write(file, 0, 1)).is_err());
    run(&mut disk, write(file, 0, 1)).expect("only once");
}

#[test]
#[should_panic(expected = "alignment")]
fn an_unaligned_write_is_its_callers_mistake() {
    let media = Media::alone(1, Files::default());
    let mut disk = media.attach();
    let file = create(&mut disk, "a", 8192);
    disk.start(1, Op::Write { file, offset: 100, buffer: AlignedBuffer::zeroed(4096) });
}
