//! Opening, refusing and updating data directories on the real file system.

use tempfile::TempDir;

use super::*;

fn options() -> Options {
    Options {
        format: Some(Format {
            store: StoreId::new(11),
            cluster: ClusterId::new(22),
            shard_count: 3,
        }),
        shard_count: None,
        // Wherever the tests' temporary directories are.
        allow_buffered: true,
    }
}

fn existing() -> Options {
    Options { format: None, ..options() }
}

fn formatted() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    drop(DataDir::open(dir.path(), &options()).expect("it is formatted"));
    dir
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("the directory");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn an_empty_or_missing_directory_becomes_a_store_once() {
    let parent = tempfile::tempdir().expect("a directory");
    let path = parent.path().join("deep/down");
    let store = DataDir::open(&path, &options()).expect("it is formatted");
    assert!(store.is_fresh());
    assert_eq!(store.superblock().store, StoreId::new(11));
    assert_eq!(store.superblock().cluster, ClusterId::new(22));
    assert_eq!(store.shard_path(ShardId::new(2)), path.join("shard-0002"));
    assert_eq!(names(&path), ["lock", "node", "shard-0000", "shard-0001", "shard-0002"]);
    drop(store);

    let mut other = options();
    other.format =
        Some(Format { store: StoreId::new(99), cluster: ClusterId::new(99), shard_count: 9 });
    let store = DataDir::open(&path, &other).expect("it opens");
    assert!(!store.is_fresh());
    assert_eq!(store.superblock().store, StoreId::new(11));
    assert_eq!(store.superblock().shard_count, 3);
}

#[test]
fn an_interrupted_formatting_is_done_again() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("shard-0000")).expect("a directory");
    fs::write(dir.path().join(".node.new"), b"half").expect("a file");
    fs::write(dir.path().join("lock"), b"1\n").expect("a file");
    let store = DataDir::open(dir.path(), &options()).expect("it is formatted");
    assert!(store.is_fresh());
    assert_eq!(names(dir.path()).len(), 5);
}

#[test]
fn a_directory_with_foreign_files_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["thesis.doc", "a", "b", "shard-1"] {
        fs::write(dir.path().join(name), b"precious").expect("a file");
    }
    let error = DataDir::open(dir.path(), &options()).expect_err("it isn't ours");
    assert!(matches!(&error, Error::Foreign { names, .. } if *names == ["a", "b", "shard-1"]));
    assert!(error.to_string().contains("a, b, shard-1"), "{error}");
    assert_eq!(names(dir.path()), ["a", "b", "shard-1", "thesis.doc"]);
}

#[test]
fn a_directory_that_is_no_store_is_refused_unless_it_may_be_formatted() {
    let dir = tempfile::tempdir().expect("a directory");
    for path in [dir.path().to_path_buf(), dir.path().join("none")] {
        let error = DataDir::open(&path, &existing()).expect_err("nothing there");
        assert!(matches!(error, Error::NotAStore { .. }), "{error}");
        assert!(matches!(Superblock::of(&path), Err(Error::NotAStore { .. })));
    }
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn a_store_without_its_superblock_is_never_formatted() {
    let dir = formatted();
    fs::write(dir.path().join("shard-0001/00000000.seg"), b"events").expect("a file");
    fs::remove_file(dir.path().join("node")).expect("it was there");
    let error = DataDir::open(dir.path(), &options()).expect_err("it is damaged");
    assert!(matches!(error, Error::SuperblockMissing { .. }), "{error}");
    assert!(dir.path().join("shard-0001/00000000.seg").exists());
}

#[test]
fn a_directory_in_use_is_refused_with_the_holders_pid() {
    let dir = formatted();
    let holder = DataDir::open(dir.path(), &existing()).expect("it opens");
    let error = DataDir::open(dir.path(), &existing()).expect_err("it is in use");
    assert!(matches!(error, Error::InUse { pid: Some(pid), .. } if pid == std::process::id()));
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    assert_eq!(*holder.superblock(), Superblock::of(dir.path()).expect("tools may read"));
    drop(holder);
    DataDir::open(dir.path(), &existing()).expect("it is free again");
}

/// Runs as the other process of the next test: holds the directory until its input ends.
#[test]
fn holder_of_a_directory() {
    let Ok(path) = std::env::var("CELERIANT_TEST_HOLD") else { return };
    let store = DataDir::open(Path::new(&path), &existing()).expect("it opens");
    fs::write(Path::new(&path).join("shard-0000/held"), b"").expect("a file");
    io::copy(&mut io::stdin(), &mut io::sink()).expect("input ends");
    drop(store);
}

#[test]
fn another_process_keeps_the_directory_until_it_is_killed() {
    let dir = formatted();
    let mut holder = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "store::store_test::holder_of_a_directory"])
        .env("CELERIANT_TEST_HOLD", dir.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("it starts");
    while !dir.path().join("shard-0000/held").exists() {
        assert!(holder.try_wait().expect("a child").is_none(), "the holder gave up");
        std::thread::yield_now();
    }
    let error = DataDir::open(dir.path(), &existing()).expect_err("it is in use");
    assert!(matches!(error, Error::InUse { pid: Some(pid), .. } if pid == holder.id()));
    holder.kill().expect("it is killed");
    holder.wait().expect("it ends");
    DataDir::open(dir.path(), &existing()).expect("the lock went with the process");
}

#[test]
fn another_shard_count_is_refused() {
    let dir = formatted();
    let asked = Options { shard_count: Some(4), ..options() };
    let error = DataDir::open(dir.path(), &asked).expect_err("it has 3");
    assert!(matches!(error, Error::ShardCount { found: 3, asked: 4, .. }), "{error}");
    let asked = Options { shard_count: Some(3), ..options() };
    DataDir::open(dir.path(), &asked).expect("it has 3");
}

#[test]
fn a_shard_that_is_gone_is_refused_not_made_again() {
    let dir = formatted();
    fs::remove_dir(dir.path().join("shard-0001")).expect("it was there");
    let error = DataDir::open(dir.path(), &options()).expect_err("it is gone");
    assert!(matches!(error, Error::ShardMissing { .. }), "{error}");
}

#[test]
fn epochs_only_grow_and_survive() {
    let dir = formatted();
    let mut store = DataDir::open(dir.path(), &existing()).expect("it opens");
    assert_eq!(store.take_epoch(Epoch::new(0)).expect("durable"), Epoch::new(1));
    assert_eq!(store.take_epoch(Epoch::new(7)).expect("durable"), Epoch::new(8));
    assert_eq!(store.superblock().epoch_seen, Epoch::new(0), "no register");
    store.raise_epochs(Epoch::new(3), Epoch::new(20)).expect("durable");
    drop(store);
    let mut store = DataDir::open(dir.path(), &existing()).expect("it opens");
    assert_eq!(store.superblock().epoch_promised, Epoch::new(8));
    assert_eq!(store.superblock().epoch_seen, Epoch::new(20));
    let generation = store.superblock().generation;
    store.raise_epochs(Epoch::new(8), Epoch::new(20)).expect("nothing to do");
    assert_eq!(store.superblock().generation, generation);
    assert_eq!(store.take_epoch(Epoch::new(0)).expect("durable"), Epoch::new(21));
    assert_eq!(store.superblock().epoch_seen, Epoch::new(21), "the pair must not take it back");
}

#[test]
fn one_damaged_copy_of_the_superblock_is_used_around_and_repaired() {
    for at in [0, 100, 4095, 4096, 8191] {
        let dir = formatted();
        let mut store = DataDir::open(dir.path(), &existing()).expect("it opens");
        store.raise_epochs(Epoch::new(5), Epoch::new(6)).expect("durable");
        drop(store);
        let name = dir.path().join("node");
        let mut content = fs::read(&name).expect("the file");
        content[at] ^= 1;
        fs::write(&name, content).expect("a file");
        let store = DataDir::open(dir.path(), &existing()).expect("the other copy is good");
        assert_eq!(store.superblock().epoch_promised, Epoch::new(5));
        let content = fs::read(&name).expect("the file");
        assert!(content[..4096] == content[4096..], "both are good again");
    }
}

#[test]
fn two_damaged_copies_or_a_newer_format_are_refused_and_left_as_they_are() {
    let dir = formatted();
    let name = dir.path().join("node");
    let good = fs::read(&name).expect("the file");
    let mut bad = good.clone();
    bad[30] ^= 1;
    bad[5000] ^= 1;
    for content in [bad, Vec::new(), vec![0; 8192]] {
        fs::write(&name, &content).expect("a file");
        let error = DataDir::open(dir.path(), &options()).expect_err("it is damaged");
        assert!(matches!(error, Error::SuperblockDamaged { .. }), "{error}");
        assert_eq!(fs::read(&name).expect("the file"), content);
    }
    let mut newer = good[..4096].to_vec();
    newer[8] = 2;
    let checksum = crate::codec::crc32c(&newer[..4092]);
    newer[4092..].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&name, [newer.clone(), newer].concat()).expect("a file");
    let error = DataDir::open(dir.path(), &options()).expect_err("it is newer");
    assert!(matches!(error, Error::NewerFormat { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn a_file_system_in_memory_is_refused_unless_allowed() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
    let strict = Options { allow_buffered: false, ..options() };
    if let Err(error) = DataDir::open(dir.path(), &strict) {
        assert!(matches!(error, Error::BuffersSilently { .. }), "{error}");
        assert!(error.to_string().contains("tmpfs"), "{error}");
        assert!(!dir.path().join("node").exists());
    } else {
        panic!("/dev/shm was taken for a disk");
    }
    DataDir::open(dir.path(), &options()).expect("it is allowed");
}
