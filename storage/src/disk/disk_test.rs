//! The contract of `Disk`, run against every implementation on real files.

use std::collections::BTreeMap;
use std::fs;
use std::future::poll_fn;
use std::path::Path;
use std::task::Poll;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::buffer::BLOCK_BYTES;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A disk of the wanted kind in a new directory; `None` where the system refuses that kind.
#[allow(clippy::disallowed_macros)] // A test that is skipped must say so.
fn disk_in(path: &Path, kind: Kind) -> Option<FileDisk> {
    let disk = open(path, kind).expect("the directory opens");
    let offered = disk.kind() == kind;
    if !offered {
        eprintln!("skipped: this system offers no disk of kind '{kind}'");
    }
    offered.then_some(disk)
}

/// Waits for `count` completions; by token.
async fn complete<D: Disk>(disk: &mut D, count: usize) -> BTreeMap<Token, Result<Done, DiskError>> {
    let mut completions = BTreeMap::new();
    while completions.len() < count {
        let next = poll_fn(|cx| disk.poll_complete(cx)).await;
        let again = completions.insert(next.token, next.outcome);
        assert!(again.is_none(), "token {} completed twice", next.token);
    }
    completions
}

/// Takes one look: hands over what was started.
async fn poll_once<D: Disk>(disk: &mut D) -> Option<Completion> {
    poll_fn(|cx| match disk.poll_complete(cx) {
        Poll::Ready(completion) => Poll::Ready(Some(completion)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

async fn create<D: Disk>(disk: &mut D, name: &str, len: u64, head: &'static [u8]) -> FileId {
    let op = Op::Create { name: name.into(), len, written: len, head: Bytes::from_static(head) };
    match run(disk, op).await {
        Ok(Done::Opened { file, len: made }) => {
            assert_eq!(made, len);
            file
        }
        other => panic!("create: {other:?}"),
    }
}

async fn open_file<D: Disk>(disk: &mut D, name: &str) -> (FileId, u64) {
    match run(disk, Op::Open { name: name.into() }).await {
        Ok(Done::Opened { file, len }) => (file, len),
        other => panic!("open: {other:?}"),
    }
}

async fn read<D: Disk>(disk: &mut D, file: FileId, offset: u64, len: u32) -> AlignedBuffer {
    match run(disk, Op::Read { file, offset, len }).await {
        Ok(Done::Read(buffer)) => buffer,
        other => panic!("read: {other:?}"),
    }
}

async fn write<D: Disk>(disk: &mut D, file: FileId, offset: u64, buffer: AlignedBuffer) {
    let len = buffer.len();
    match run(disk, Op::Write { file, offset, buffer }).await {
        Ok(Done::Written(buffer)) => assert_eq!(buffer.len(), len),
        other => panic!("write: {other:?}"),
    }
}

async fn list<D: Disk>(disk: &mut D) -> Vec<(String, u64)> {
    match run(disk, Op::List).await {
        Ok(Done::Listed(files)) => files,
        other => panic!("list: {other:?}"),
    }
}

fn block_of(number: u64) -> AlignedBuffer {
    let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
    for word in block.as_mut_slice().chunks_exact_mut(8) {
        word.copy_from_slice(&number.to_le_bytes());
    }
    block
}

async fn every_operation_does_what_it_says<D: Disk>(disk: &mut D, path: &Path) {
    assert_eq!(list(disk).await, []);
    let file = create(disk, "b.seg", 5 * BLOCK, b"head").await;
    let whole = read(disk, file, 0, 5 * 4096).await;
    assert_eq!(whole.len(), 5 * BLOCK_BYTES);
    assert_eq!(&whole[..4], b"head");
    assert!(whole[4..].iter().all(|&byte| byte == 0));

    write(disk, file, 2 * BLOCK, block_of(42)).await;
    assert_eq!(&read(disk, file, 2 * BLOCK, 4096).await[..], &block_of(42)[..]);
    assert_eq!(fs::read(path.join("b.seg")).expect("the file")[8192..12_288], block_of(42)[..]);

    let head = Bytes::from_static(b"head");
    let sparse = Op::Create { name: "c.seg".into(), len: 5 * BLOCK, written: BLOCK, head };
    let Ok(Done::Opened { file: sparse, len }) = run(disk, sparse).await else { panic!("create") };
    assert_eq!(len, 5 * BLOCK, "whole, whatever is written of it");
    write(disk, sparse, 3 * BLOCK, block_of(7)).await;
    let whole = read(disk, sparse, 0, 5 * 4096).await;
    assert_eq!((&whole[..4], &whole[3 * 4096..4 * 4096]), (&b"head"[..], &block_of(7)[..]));
    assert!(whole[4 * 4096..].iter().all(|&byte| byte == 0));
    assert!(matches!(run(disk, Op::Close { file: sparse }).await, Ok(Done::Ok)));
    assert!(matches!(run(disk, Op::Remove { name: "c.seg".into() }).await, Ok(Done::Ok)));

    let put = Op::Put { name: "a.idx".into(), content: Bytes::from_static(b"first") };
    assert!(matches!(run(disk, put).await, Ok(Done::Ok)));
    let put = Op::Put { name: "a.idx".into(), content: Bytes::from_static(b"second one") };
    assert!(matches!(run(disk, put).await, Ok(Done::Ok)));
    let expected = [("a.idx".to_owned(), 10), ("b.seg".to_owned(), 5 * BLOCK)];
    assert_eq!(list(disk).await, expected);

    let (small, len) = open_file(disk, "a.idx").await;
    assert_ne!(small, file);
    assert_eq!(len, 10);
    assert_eq!(&read(disk, small, 0, 8192).await[..], b"second one");

    assert!(matches!(run(disk, Op::Close { file: small }).await, Ok(Done::Ok)));
    assert!(matches!(run(disk, Op::Remove { name: "a.idx".into() }).await, Ok(Done::Ok)));
    assert_eq!(list(disk).await, expected[1..]);
}

async fn reads_stop_at_the_end_of_the_file<D: Disk>(disk: &mut D, path: &Path) {
    fs::write(path.join("odd"), vec![9; 10_000]).expect("a file");
    let (file, len) = open_file(disk, "odd").await;
    assert_eq!(len, 10_000);
    for (offset, asked, got) in
        [(0, 4096, 4096), (0, 65_536, 10_000), (8192, 4096, 1808), (12_288, 4096, 0), (0, 0, 0)]
    {
        let buffer = read(disk, file, offset, asked).await;
        assert_eq!(buffer.len(), got, "{asked} bytes at {offset}");
        assert!(buffer.iter().all(|&byte| byte == 9));
    }
}

async fn what_is_missing_is_not_found<D: Disk>(disk: &mut D, _path: &Path) {
    for op in [Op::Open { name: "no.seg".into() }, Op::Remove { name: "no.seg".into() }] {
        let error = run(disk, op).await.expect_err("there is none");
        assert!(error.is_not_found(), "{error}");
        assert!(!error.is_full());
        assert!(error.to_string().contains("no.seg"), "{error}");
    }
}

async fn create_replaces_a_file<D: Disk>(disk: &mut D, path: &Path) {
    fs::write(path.join("a"), vec![7; 100_000]).expect("a file");
    let file = create(disk, "a", 2 * BLOCK, b"").await;
    assert!(read(disk, file, 0, 8192).await.iter().all(|&byte| byte == 0));
    assert_eq!(list(disk).await, [("a".to_owned(), 2 * BLOCK)]);
}

async fn a_create_that_does_not_fit_leaves_nothing<D: Disk>(disk: &mut D, path: &Path) {
    let op = Op::Create { name: "huge".into(), len: 1 << 50, written: 1 << 50, head: Bytes::new() };
    let error = run(disk, op).await.expect_err("no disk is that large");
    assert_eq!(error.op, "create");
    assert_eq!(list(disk).await, []);
    assert_eq!(fs::read_dir(path).expect("the directory").count(), 0);
}

async fn a_file_is_written_front_to_back_and_synced<D: Disk>(disk: &mut D, path: &Path) {
    fs::write(path.join("a.run"), vec![7; 100_000]).expect("a file");
    let file = match run(disk, Op::Make { name: "a.run".into() }).await {
        Ok(Done::Opened { file, len: 0 }) => file,
        other => panic!("make: {other:?}"),
    };
    assert_eq!(read(disk, file, 0, 4096).await.len(), 0);
    for at in 0..64 {
        disk.start(at, Op::Extend { file, offset: at * BLOCK, buffer: block_of(at) });
    }
    for (token, outcome) in complete(disk, 64).await {
        assert!(matches!(outcome, Ok(Done::Written(buffer)) if buffer[..] == block_of(token)[..]));
    }
    assert!(matches!(run(disk, Op::Sync { file }).await, Ok(Done::Ok)));
    assert_eq!(list(disk).await, [("a.run".to_owned(), 64 * BLOCK)]);
    for (block, number) in read(disk, file, 0, 64 * 4096).await.chunks(BLOCK_BYTES).zip(0..) {
        assert!(block == block_of(number).as_slice());
    }
    assert_eq!(open_file(disk, "a.run").await.1, 64 * BLOCK);
    assert!(matches!(run(disk, Op::Close { file }).await, Ok(Done::Ok)));
}

async fn names_are_never_half_made<D: Disk>(disk: &mut D, path: &Path) {
    fs::write(path.join(".a.new"), b"half of it").expect("a file");
    assert_eq!(list(disk).await, []);
    create(disk, "a", BLOCK, b"").await;
    assert_eq!(fs::read_dir(path).expect("the directory").count(), 1);
}

async fn large_transfers_arrive_whole<D: Disk>(disk: &mut D, _path: &Path) {
    const BYTES: usize = 16 << 20;
    let file = create(disk, "a", BYTES as u64 + BLOCK, b"").await;
    let mut buffer = AlignedBuffer::with_capacity(BYTES);
    for number in 0..(BYTES / BLOCK_BYTES) as u64 {
        buffer.extend_from_slice(&block_of(number));
    }
    let expected = AlignedBuffer::copy_of(&buffer);
    write(disk, file, BLOCK, buffer).await;
    let found = read(disk, file, BLOCK, BYTES as u32).await;
    assert!(found.as_slice() == expected.as_slice());
}

async fn many_operations_at_once_all_complete<D: Disk>(disk: &mut D, _path: &Path) {
    const BLOCKS: u64 = 1_000;
    let file = create(disk, "a", BLOCKS * BLOCK, b"").await;
    // 7 has no divisor in common with the number of blocks: visits each once, out of order.
    for i in 0..BLOCKS {
        let at = i * 7 % BLOCKS;
        disk.start(at, Op::Write { file, offset: at * BLOCK, buffer: block_of(at) });
    }
    for (token, outcome) in complete(disk, BLOCKS as usize).await {
        assert!(matches!(outcome, Ok(Done::Written(buffer)) if buffer[..] == block_of(token)[..]));
    }
    for at in (0..BLOCKS).rev() {
        disk.start(at, Op::Read { file, offset: at * BLOCK, len: 4096 });
    }
    for (token, outcome) in complete(disk, BLOCKS as usize).await {
        assert!(matches!(outcome, Ok(Done::Read(buffer)) if buffer[..] == block_of(token)[..]));
    }
}

async fn ten_thousand_writes_four_deep_are_all_there<D: Disk>(disk: &mut D, path: &Path) {
    const WRITES: u64 = 10_000;
    let file = create(disk, "a", WRITES * BLOCK, b"").await;
    let mut started = 0;
    let mut completed = 0;
    while completed < WRITES {
        while started < WRITES && started - completed < 4 {
            let offset = started * BLOCK;
            disk.start(started, Op::Write { file, offset, buffer: block_of(started) });
            started += 1;
        }
        let next = poll_fn(|cx| disk.poll_complete(cx)).await;
        assert!(matches!(next.outcome, Ok(Done::Written(_))), "{:?}", next.outcome);
        completed += 1;
    }
    let content = fs::read(path.join("a")).expect("the file");
    for (number, block) in content.chunks_exact(BLOCK_BYTES).enumerate() {
        assert!(block == block_of(number as u64).as_slice(), "block {number}");
    }
}

async fn slow_operations_do_not_hold_transfers_up<D: Disk>(disk: &mut D, _path: &Path) {
    let file = create(disk, "a", 4 * BLOCK, b"").await;
    disk.start(
        1,
        Op::Create { name: "b".into(), len: 8 << 20, written: 8 << 20, head: Bytes::new() },
    );
    disk.start(2, Op::Put { name: "c".into(), content: Bytes::from_static(b"small") });
    disk.start(3, Op::Write { file, offset: 0, buffer: block_of(3) });
    disk.start(4, Op::Read { file, offset: BLOCK, len: 4096 });
    disk.start(5, Op::List);
    for (token, outcome) in complete(disk, 5).await {
        assert!(outcome.is_ok(), "{token}: {outcome:?}");
    }
}

async fn nothing_in_flight_stays_pending<D: Disk>(disk: &mut D, _path: &Path) {
    assert!(poll_once(disk).await.is_none());
    let file = create(disk, "a", BLOCK, b"").await;
    assert!(poll_once(disk).await.is_none());
    write(disk, file, 0, block_of(1)).await;
    assert!(poll_once(disk).await.is_none());
}

async fn a_task_that_waits_is_woken<D: Disk>(disk: &mut D, _path: &Path) {
    let file = create(disk, "a", BLOCK, b"").await;
    for number in 0..50 {
        // Alone in the runtime: without a wake this would wait for ever.
        write(disk, file, 0, block_of(number)).await;
        assert_eq!(&read(disk, file, 0, 4096).await[..], &block_of(number)[..]);
    }
}

macro_rules! contract {
    ($($kind:ident $module:ident),*; $names:tt) => {
        $(contract!(@ $kind $module $names);)*
    };
    (@ $kind:ident $module:ident ($($name:ident),* $(,)?)) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $name() {
                    let dir = tempfile::tempdir().expect("a directory");
                    if let Some(mut disk) = super::disk_in(dir.path(), super::Kind::$kind) {
                        super::$name(&mut disk, dir.path()).await;
                    }
                }
            )*
        }
    };
}

contract! { Uring uring, Pool pool, Buffered buffered; (
    every_operation_does_what_it_says,
    reads_stop_at_the_end_of_the_file,
    what_is_missing_is_not_found,
    create_replaces_a_file,
    a_create_that_does_not_fit_leaves_nothing,
    a_file_is_written_front_to_back_and_synced,
    names_are_never_half_made,
    large_transfers_arrive_whole,
    many_operations_at_once_all_complete,
    slow_operations_do_not_hold_transfers_up,
    nothing_in_flight_stays_pending,
    a_task_that_waits_is_woken,
) }

#[tokio::test]
async fn ten_thousand_writes_are_all_there() {
    let dir = tempfile::tempdir().expect("a directory");
    if let Some(mut disk) = disk_in(dir.path(), Kind::Uring) {
        ten_thousand_writes_four_deep_are_all_there(&mut disk, dir.path()).await;
    }
}

/// A file of `blocks` numbered blocks and a disk that has it open.
async fn numbered(kind: Kind, blocks: u64) -> Option<(TempDir, FileDisk, FileId)> {
    let dir = tempfile::tempdir().expect("a directory");
    let mut content = AlignedBuffer::default();
    (0..blocks).for_each(|number| content.extend_from_slice(&block_of(number)));
    fs::write(dir.path().join("a"), &content[..]).expect("a file");
    let mut disk = disk_in(dir.path(), kind)?;
    let (file, _) = open_file(&mut disk, "a").await;
    Some((dir, disk, file))
}

#[tokio::test]
async fn dropping_a_disk_waits_for_what_the_kernel_still_reads_and_writes() {
    for kind in [Kind::Uring, Kind::Pool, Kind::Buffered] {
        for round in 0..20 {
            let Some((_dir, mut disk, file)) = numbered(kind, 512).await else { continue };
            for token in 0..64 {
                disk.start(token, Op::Read { file, offset: token * 8 * BLOCK, len: 8 * 4096 });
                let buffer = block_of(token);
                disk.start(1_000 + token, Op::Write { file, offset: token * BLOCK, buffer });
            }
            if round % 2 == 0 {
                poll_once(&mut disk).await;
            }
            drop(disk);
            // Memory that a late read would hit.
            let fresh: Vec<_> = (0..64).map(|_| AlignedBuffer::zeroed(8 * BLOCK_BYTES)).collect();
            tokio::task::yield_now().await;
            assert!(fresh.iter().all(|buffer| buffer.iter().all(|&byte| byte == 0)));
        }
    }
}

#[tokio::test]
async fn dropping_a_disk_ends_a_long_create() {
    for kind in [Kind::Uring, Kind::Pool] {
        let dir = tempfile::tempdir().expect("a directory");
        let Some(mut disk) = disk_in(dir.path(), kind) else { continue };
        disk.start(
            1,
            Op::Create { name: "a".into(), len: 4 << 30, written: 4 << 30, head: Bytes::new() },
        );
        poll_once(&mut disk).await;
        drop(disk);
        assert_eq!(fs::read_dir(dir.path()).expect("the directory").count(), 0);
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::Builder::new().spawn(work).expect("a thread")
}

#[test]
fn an_idle_disk_moves_to_another_thread_and_runtime() {
    let block_on = |future: std::pin::Pin<Box<dyn Future<Output = _> + Send>>| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(future)
    };
    let made = block_on(Box::pin(async {
        let (dir, mut disk, file) = numbered(Kind::Uring, 4).await?;
        write(&mut disk, file, 0, block_of(10)).await;
        Some((dir, disk, file))
    }));
    let Some((dir, mut disk, file)) = made else { return };
    // Another runtime on this thread, then another thread.
    let made = block_on(Box::pin(async move {
        write(&mut disk, file, BLOCK, block_of(11)).await;
        Some((dir, disk, file))
    }));
    let Some((_dir, mut disk, file)) = made else { return };
    let moved = spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            write(&mut disk, file, 2 * BLOCK, block_of(12)).await;
            let found = read(&mut disk, file, 0, 3 * 4096).await;
            for (block, number) in found.chunks_exact(BLOCK_BYTES).zip(10..) {
                assert!(block == block_of(number).as_slice());
            }
        });
    });
    moved.join().expect("the other thread served it");
}

#[test]
fn a_disk_dropped_on_another_thread_gives_its_memory_up() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let busy = runtime.expect("a runtime").block_on(async {
        let (dir, mut disk, file) = numbered(Kind::Uring, 512).await?;
        for token in 0..64 {
            disk.start(token, Op::Read { file, offset: token * 8 * BLOCK, len: 8 * 4096 });
        }
        poll_once(&mut disk).await;
        Some((dir, disk))
    });
    let Some((_dir, disk)) = busy else { return };
    spawn(move || drop(disk)).join().expect("it ended");
}

#[tokio::test]
async fn leftovers_of_an_interrupted_process_are_removed_at_open() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in [".00000001.seg.new", ".probe", "00000000.seg"] {
        fs::write(dir.path().join(name), b"x").expect("a file");
    }
    let mut disk = open(dir.path(), Kind::Uring).expect("it opens");
    assert_eq!(list(&mut disk).await, [("00000000.seg".to_owned(), 1)]);
    assert_eq!(fs::read_dir(dir.path()).expect("the directory").count(), 1);
}

#[test]
fn a_missing_directory_is_not_found() {
    let dir = tempfile::tempdir().expect("a directory");
    for kind in [Kind::Uring, Kind::Pool, Kind::Buffered] {
        let error = open(&dir.path().join("none"), kind).expect_err("there is none");
        assert!(error.is_not_found(), "{error}");
    }
}

mod misuse {
    use super::*;

    async fn one_block_written_at(offset: u64, bytes: usize, kind: Kind) {
        let Some((_dir, mut disk, file)) = numbered(kind, 4).await else {
            panic!("unaligned: this system offers no such disk")
        };
        disk.start(1, Op::Write { file, offset, buffer: AlignedBuffer::zeroed(bytes) });
    }

    #[tokio::test]
    #[should_panic(expected = "unaligned")]
    async fn an_unaligned_write_panics() {
        one_block_written_at(512, 4096, Kind::Uring).await;
    }

    #[tokio::test]
    #[should_panic(expected = "unaligned")]
    async fn a_write_of_half_a_block_panics() {
        one_block_written_at(0, 2048, Kind::Buffered).await;
    }

    #[tokio::test]
    #[should_panic(expected = "leaves a of 16384 bytes")]
    async fn a_write_beyond_the_file_panics() {
        one_block_written_at(4 * BLOCK, 4096, Kind::Buffered).await;
    }

    #[tokio::test]
    #[should_panic(expected = "no place to extend it")]
    async fn an_extension_that_leaves_a_gap_panics() {
        let made = numbered(Kind::Buffered, 4).await;
        let (_dir, mut disk, file) = made.expect("always offered");
        disk.start(1, Op::Extend { file, offset: 5 * BLOCK, buffer: block_of(1) });
    }

    #[tokio::test]
    #[should_panic(expected = "unaligned read")]
    async fn an_unaligned_read_panics() {
        let made = numbered(Kind::Buffered, 4).await;
        let (_dir, mut disk, file) = made.expect("always offered");
        disk.start(1, Op::Read { file, offset: 0, len: 100 });
    }

    #[tokio::test]
    #[should_panic(expected = "is not open")]
    async fn a_closed_file_panics() {
        let made = numbered(Kind::Buffered, 4).await;
        let (_dir, mut disk, file) = made.expect("always offered");
        disk.start(1, Op::Close { file });
        disk.start(2, Op::Read { file, offset: 0, len: 4096 });
    }
}
