//! Runs against a map, with pages missing, damaged and few.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::codec::crc32c;
use crate::testing::{Dice, cases, identity};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Files of runs, and a cache of so few pages that most are read again and again.
struct Shelf {
    files: BTreeMap<u32, Bytes>,
    cached: RefCell<VecDeque<(PagePlace, Bytes)>>,
    cached_max: usize,
    reads: usize,
}

impl Pages for Shelf {
    fn page(&self, place: PagePlace) -> Option<Bytes> {
        let mut cached = self.cached.borrow_mut();
        let at = cached.iter().position(|(cached, _)| *cached == place)?;
        let entry = cached.remove(at)?;
        cached.push_back(entry.clone());
        Some(entry.1)
    }
}

impl Shelf {
    fn new(cached_max: usize) -> Self {
        let (files, cached) = (BTreeMap::new(), RefCell::default());
        Self { files, cached, cached_max, reads: 0 }
    }

    fn with(rows: &Model, cached_max: usize) -> (Self, Run) {
        let mut shelf = Self::new(cached_max);
        let run = shelf.add(7, rows);
        (shelf, run)
    }

    fn add(&mut self, number: u32, rows: &Model) -> Run {
        let (file, run) = build(number, rows);
        self.files.insert(number, file);
        run
    }

    /// Calls again with what was missing until there is an answer.
    fn ask<T>(&mut self, mut ask: impl FnMut(&Self) -> Result<T, Fault>) -> T {
        loop {
            match ask(self) {
                Ok(answer) => return answer,
                Err(Fault::Missing(place)) => self.read(place),
                Err(fault) => panic!("{fault:?}"),
            }
        }
    }

    fn read(&mut self, place: PagePlace) {
        assert!(self.page(place).is_none(), "{place:?} was there");
        let start = place.offset() as usize;
        let bytes = self.files[&place.run].slice(start..start + place.bytes() as usize);
        verify(&bytes, &identity(), place).expect("intact");
        self.reads += 1;
        let cached = self.cached.get_mut();
        cached.push_back((place, bytes));
        if cached.len() > self.cached_max {
            cached.pop_front();
        }
    }

    fn all(&mut self, run: &Run, from: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut cursor = run.cursor(from);
        let mut rows = Vec::new();
        while self.ask(|pages| cursor.advance(pages)) {
            rows.push((cursor.key().to_vec(), cursor.value().to_vec()));
        }
        rows
    }
}

/// Rows whose key has an even last byte are filtered.
fn is_filtered(key: &[u8]) -> bool {
    key.last().is_none_or(|byte| byte % 2 == 0)
}

/// The file of a run, and the run as it is opened from it.
fn build(number: u32, rows: &Model) -> (Bytes, Run) {
    let mut builder = Builder::new(identity(), number);
    let mut file = Vec::new();
    for (key, value) in rows {
        builder.push(key, value, is_filtered(key));
        if builder.ready() {
            file.extend_from_slice(&builder.take());
        }
    }
    let (rest, made) = builder.finish(FileId(3), 5, Holds::default());
    file.extend_from_slice(&rest);
    let run = open(number, &file).expect("intact");
    assert_eq!((run.rows(), run.aggregates(), run.file()), (rows.len() as u64, 5, FileId(3)));
    assert_eq!((run.footer, &run.top), (made.footer, &made.top), "as it was made");
    assert_eq!(run.pages() as usize * PAGE_BYTES, file.len());
    (file.into(), run)
}

fn open(number: u32, file: &[u8]) -> Result<Run, Fault> {
    let damaged = |flaw| Fault::Damaged(PagePlace::leaf(number, 0), flaw);
    let last = &file[file.len() - PAGE_BYTES..];
    let footer = Footer::decode(last, &identity(), number, file.len() as u64).map_err(damaged)?;
    let start = footer.top_offset() as usize;
    let top = Bytes::copy_from_slice(&file[start..start + footer.top_bytes() as usize]);
    Run::open(&identity(), footer, FileId(3), top)
}

/// Like the directory's: a name, and some rows of it.
fn directory_like(aggregates: u64) -> Model {
    let mut rows = Model::new();
    for number in 0..aggregates {
        let name = format!("acme\0order\0{:016x}\0", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for (kind, bytes) in [(2, 82), (4, 100), (5, 40)] {
            let key = [name.as_bytes(), &[kind]].concat();
            rows.insert(key, vec![number as u8; bytes]);
        }
    }
    rows
}

fn a_key() -> impl Strategy<Value = Vec<u8>> {
    // Few letters and long repetitions: keys share much, end early, and have zeroes.
    let part = (0..3usize, 0..4u8, 1..60usize).prop_map(|(count, byte, len)| match count {
        0 => vec![byte],
        1 => vec![byte; len],
        _ => vec![byte, byte ^ 1, byte],
    });
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

fn rows() -> impl Strategy<Value = Model> {
    let value = (0..255u8, prop_oneof![0..40usize, 0..40usize, 0..ROW_VALUE_BYTES_MAX])
        .prop_map(|(byte, len)| vec![byte; len]);
    prop::collection::btree_map(a_key(), value, 0..150)
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn a_run_answers_like_a_map(rows in rows(), asked in prop::collection::vec(a_key(), 20)) {
        let (mut shelf, run) = Shelf::with(&rows, 3);
        for key in rows.keys().chain(&asked) {
            let expected = rows.get(key).filter(|_| is_filtered(key));
            if expected.is_some() || is_filtered(key) {
                let found = shelf.ask(|pages| run.get(key, pages));
                prop_assert_eq!(found.as_deref(), expected.map(Vec::as_slice));
            }
            let found = shelf.ask(|pages| run.floor(key, pages));
            let expected = rows.range(..=key.clone()).next_back();
            let found = found.as_ref().map(|(key, value)| (key.as_slice(), &value[..]));
            prop_assert_eq!(found, expected.map(|(key, value)| (key.as_slice(), &value[..])));
        }
        for from in &asked {
            let expected = rows.range(from.clone()..);
            let expected: Vec<_> = expected.map(|(k, v)| (k.clone(), v.clone())).collect();
            prop_assert_eq!(shelf.all(&run, from), expected);
        }
    }

    #[test]
    fn a_merge_gives_every_key_once_with_its_values_newest_first(
        inputs in prop::collection::vec(rows(), 0..5),
        rows_max in 1..50usize,
    ) {
        let mut shelf = Shelf::new(1);
        let runs = inputs.iter().zip(1..).map(|(rows, number)| shelf.add(number, rows)).collect();
        let mut merge = Merge::new(runs);
        let mut found = Vec::new();
        let mut row = |key: &[u8], values: &[Bytes]| {
            found.push((key.to_vec(), values.iter().map(|it| it.to_vec()).collect()));
        };
        while !shelf.ask(|pages| merge.step(pages, rows_max, &mut row)) {}
        let mut expected: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
        for (key, value) in inputs.iter().flatten() {
            expected.entry(key.clone()).or_default().push(value.clone());
        }
        prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn an_absent_key_costs_one_page_and_a_present_one_two() {
    let rows = directory_like(20_000);
    let (mut shelf, run) = Shelf::with(&rows, 1000);
    assert!(run.top.len() >= PAGE_BYTES && run.rows() == 60_000);
    let mut looked_at_leaves = 0;
    for (number, key) in rows.keys().filter(|key| is_filtered(key)).enumerate() {
        if number % 20 != 0 {
            continue;
        }
        let (mut absent, before) = (key.clone(), shelf.reads);
        shelf.cached.get_mut().clear();
        assert!(shelf.ask(|pages| run.get(key, pages)).is_some());
        assert_eq!(shelf.reads, before + 2);
        absent.insert(key.len() - 1, b'x');
        shelf.cached.get_mut().clear();
        assert!(shelf.ask(|pages| run.get(&absent, pages)).is_none());
        looked_at_leaves += shelf.reads - before - 3;
        assert!(shelf.ask(|pages| run.get(&absent, pages)).is_none());
    }
    assert!(looked_at_leaves <= 10, "{looked_at_leaves} of 2,000 leaves");
}

#[test]
fn few_keys_that_are_absent_look_as_if_they_were_there() {
    let rows = directory_like(30_000);
    let (mut shelf, run) = Shelf::with(&rows, 1000);
    let mut wrong = 0;
    for number in 0..100_000u64 {
        let hash = number.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let absent = format!("acme\0order\0{hash:016x}\0\x02");
        wrong += u32::from(shelf.ask(|pages| run.may_hold(absent.as_bytes(), pages)));
    }
    assert!(wrong <= 500, "{wrong} of 100,000");
    const { assert!(filter::FILTER_ROWS_MAX as usize * 12 <= PAGE_BYTES * 8) };
}

#[test]
fn reading_on_needs_leaves_only_and_each_once() {
    let rows = directory_like(20_000);
    let (mut shelf, run) = Shelf::with(&rows, 1);
    assert_eq!(shelf.all(&run, &[]).len(), rows.len());
    let leaves = (0..run.pages()).filter(|page| {
        let content = &shelf.files[&7][*page as usize * PAGE_BYTES..];
        Rows::of(&content[..PAGE_BYTES], Kind::Leaf).is_ok()
    });
    assert_eq!(shelf.reads, leaves.count());
}

#[test]
fn a_stretch_serves_a_merge_instead_of_single_pages() {
    let rows = directory_like(5_000);
    let (file, run) = build(7, &rows);
    let mut merge = Merge::new(vec![run.clone()]);
    let mut stretch = Stretch::verified(Bytes::new(), &identity(), 7, 0).expect("empty");
    let (mut stretches, mut found) = (0, 0);
    loop {
        match merge.step(&stretch, 100, &mut |_, values| found += values.len()) {
            Ok(true) => break,
            Ok(false) => {}
            Err(Fault::Missing(place)) => {
                let start = place.offset() as usize;
                let end = file.len().min(start + 64 * PAGE_BYTES);
                let content = file.slice(start..end);
                stretch = Stretch::verified(content, &identity(), 7, place.page).expect("intact");
                stretches += 1;
            }
            Err(fault) => panic!("{fault:?}"),
        }
    }
    assert_eq!(found, rows.len());
    assert_eq!(stretches, (run.pages() as usize).div_ceil(64));
    let mut damaged = file.to_vec();
    damaged[5000] ^= 1;
    let fault = Stretch::verified(damaged.into(), &identity(), 7, 0).expect_err("damaged");
    assert_eq!(fault, Fault::Damaged(PagePlace::leaf(7, 1), Flaw::BodyChecksum));
}

#[test]
fn the_largest_rows_fit_and_are_found() {
    let key = |number: u8| [vec![9; ROW_KEY_BYTES_MAX - 1], vec![number]].concat();
    let rows = (0..=255).map(|number| (key(number), vec![number; ROW_VALUE_BYTES_MAX])).collect();
    let (mut shelf, run) = Shelf::with(&rows, 3);
    for (key, value) in &rows {
        let found = shelf.ask(|pages| run.floor(key, pages));
        assert_eq!(found, Some((key.clone(), Bytes::from(value.clone()))));
    }
    assert_eq!(shelf.all(&run, &[]).len(), 256);
}

#[test]
fn a_run_without_rows_has_nothing() {
    let (mut shelf, run) = Shelf::with(&Model::new(), 1);
    assert_eq!((run.pages(), run.rows()), (1, 0));
    assert_eq!(shelf.ask(|pages| run.get(b"a", pages)), None);
    assert_eq!(shelf.ask(|pages| run.floor(b"a", pages)), None);
    assert_eq!(shelf.all(&run, &[]), []);
    assert_eq!(shelf.reads, 0);
}

#[test]
fn every_changed_byte_is_noticed() {
    let (file, run) = build(7, &directory_like(30));
    let first = run.first_span().expect("intact").expect("has rows");
    let mut dice = Dice::new(5);
    for at in 0..file.len() {
        let mut changed = file.to_vec();
        changed[at] ^= 1 << dice.roll(8);
        let page = (at / PAGE_BYTES) as u32;
        let noticed = if page >= run.footer.top_first {
            open(7, &changed).is_err()
        } else {
            let leaf = page < first.node;
            let place =
                if leaf { PagePlace::leaf(7, page) } else { PagePlace::node(7, first.node) };
            let start = place.offset() as usize;
            let bytes = Bytes::from(changed).slice(start..start + place.bytes() as usize);
            verify(&bytes, &identity(), place).is_err()
        };
        assert!(noticed, "byte {at}, of page {page}");
    }
}

#[test]
fn a_page_of_another_place_or_run_or_shard_is_not_believed() {
    let (file, run) = build(7, &directory_like(100));
    let leaf = file.slice(..PAGE_BYTES);
    assert_eq!(verify(&leaf, &identity(), PagePlace::leaf(7, 0)), Ok(()));
    let wrong = |place| verify(&leaf, &identity(), place);
    assert_eq!(wrong(PagePlace::leaf(7, 1)), Err(Flaw::Foreign("page")));
    assert_eq!(wrong(PagePlace::leaf(8, 0)), Err(Flaw::Foreign("run")));
    assert_eq!(wrong(PagePlace::node(7, 0)), Err(Flaw::Lengths));
    let other = Identity { shard: celeriant_schema::ShardId::new(99), ..identity() };
    assert_eq!(verify(&leaf, &other, PagePlace::leaf(7, 0)), Err(Flaw::Foreign("shard")));
    let leaves = file.slice(..2 * PAGE_BYTES);
    let as_node = verify(&leaves, &identity(), PagePlace::node(7, 0));
    assert_eq!(as_node, Err(Flaw::Magic("node of a run")));
    // A file that was cut has another last page.
    let cut = &file[..file.len() - PAGE_BYTES];
    assert!(open(7, cut).is_err() && run.pages() > 2);
}

#[test]
fn the_bytes_are_these() {
    let (file, _) = build(0x0102_0304, &directory_like(300));
    let page = &file[..PAGE_BYTES];
    let cluster = identity().cluster.value().to_le_bytes();
    let shard = identity().shard.value().to_le_bytes();
    assert_eq!(page[4..8], [1, 0, shard[0], shard[1]]);
    assert_eq!(page[8..24], cluster);
    assert_eq!(page[24..32], [4, 3, 2, 1, 0, 0, 0, 0]);
    assert_eq!(&page[40..52], b"acme\0order\0\x30");
    assert_eq!(page[36..40], (29u32 << 10 | 82 << 20).to_le_bytes());
    assert_eq!(&file[file.len() - PAGE_BYTES + 36..][..10], b"CLRRUN\r\n\x01\0");
    let golden = (file.len() / PAGE_BYTES, crc32c(&file), hash(b""), hash(b"acme\0order\0"));
    assert_eq!(golden, (24, 1_185_116_945, 18_045_060_210_114_981_133, 937_960_745_700_916_982));
}

#[test]
#[should_panic(expected = "rows out of order")]
fn rows_that_do_not_ascend_are_their_makers_mistake() {
    let mut builder = Builder::new(identity(), 1);
    builder.push(b"b", b"", true);
    builder.push(b"b", b"", true);
}
