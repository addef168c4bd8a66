//! What a watch answers, and when.

use std::sync::Arc;

use bytes::Bytes;
use celeriant_schema::{
    AggregateKey, BatchHeader, BootId, ClientId, Epoch, Event, FeedBatch, FeedPage, FeedQuery,
    Hash, Notice, ReadBatch, ReadEvent, Request, Retention, Selector, ShardId, Stamp, Version,
    WriteId,
};

use super::super::topics::TOPICS_MAX;
use super::{CATCHING_UP_MAX, Core, Effect, IDLE_TICKS};
use crate::work::{FeedNews, FeedPart, Step, Task};

/// One event of `key` with that stamp; its type is `T` and the stamp's last digit.
fn batch(key: &str, stamp: u64) -> FeedBatch {
    let event = Event::plain(
        format!("T{}", stamp % 10),
        celeriant_schema::ContentType::Bytes,
        Bytes::new(),
    );
    let mut body = Vec::new();
    event.encode_into(&mut body).expect("valid");
    let version = Version::new(stamp);
    let header = BatchHeader {
        first_version: version,
        last_version: version,
        client_id: ClientId::NONE,
        sequence: None,
        server_time: 0,
        stamp: Stamp::new(stamp),
        write_id: WriteId { epoch: Epoch::new(1), boot: BootId::new(1), counter: stamp },
    };
    let events = vec![ReadEvent { version, hash: Hash::ZERO, body: body.into() }];
    let key: AggregateKey = key.parse().expect("valid");
    FeedBatch { key, batch: ReadBatch { header, events }, notice: None }
}

/// The notice that all before was deleted.
fn deleted(key: &str, stamp: u64) -> FeedBatch {
    let mut notice = batch(key, stamp);
    notice.batch.header.last_version = Version::new(stamp - 1);
    notice.batch.events.clear();
    let what = Retention::Delete { recreate: true, forget_sequences: false };
    notice.notice = Some(Notice { what, hash: Hash::ZERO });
    notice
}

struct Rig {
    core: Core<u32>,
    now: u64,
    busy: u64,
    pages: Vec<(u32, FeedPage)>,
    steps: Vec<(u16, Step)>,
    refused: Vec<u32>,
}

impl Rig {
    fn new(shards: u16) -> Self {
        let (pages, steps, refused) = (Vec::new(), Vec::new(), Vec::new());
        Self { core: Core::new(0, shards), now: 0, busy: 0, pages, steps, refused }
    }

    /// One that its shards tell everything behind `upto`.
    fn live(shards: u16, upto: u64) -> Self {
        let mut rig = Self::new(shards);
        rig.poll(99, "*", None, 0);
        for shard in 0..shards {
            rig.hear(shard, FeedNews::Listening { upto: Stamp::new(upto) });
        }
        assert_eq!(rig.answers(), [(99, vec![], upto)]);
        rig.steps.clear();
        rig
    }

    fn poll(&mut self, route: u32, selector: &str, after: Option<u64>, wait_ms: u32) {
        let query = FeedQuery {
            selector: selector.parse().expect("valid"),
            types: Vec::new(),
            after: after.map(Stamp::new),
            wait_ms,
            headers_only: false,
            more: 0,
        };
        self.ask(route, query);
    }

    fn ask(&mut self, route: u32, query: FeedQuery) {
        let mut effects = Vec::new();
        let task = Task { route, deadline: None, request: Request::Feed(query) };
        self.core.take(self.now, task, &mut effects);
        self.core.settle(self.now, self.busy, &mut effects);
        self.deliver(effects);
    }

    fn hear(&mut self, shard: u16, news: FeedNews) {
        let mut effects = Vec::new();
        self.core.hear(self.now, ShardId::new(shard), news, &mut effects);
        self.core.settle(self.now, self.busy, &mut effects);
        self.deliver(effects);
    }

    fn told(&mut self, shard: u16, batches: &[FeedBatch], upto: u64) {
        let batches: Arc<[FeedBatch]> = batches.to_vec().into();
        self.hear(shard, FeedNews::Told { batches, upto: Stamp::new(upto) });
    }

    fn tick(&mut self, now: u64) {
        self.now = now;
        let mut effects = Vec::new();
        self.core.tick(now, &mut effects);
        self.core.settle(now, self.busy, &mut effects);
        self.deliver(effects);
    }

    /// Time passes in which the thread does other things.
    fn rest(&mut self, until: u64) {
        (self.now, self.busy) = (until, self.busy + until - self.now);
        let mut effects = Vec::new();
        self.core.settle(self.now, self.busy, &mut effects);
        self.deliver(effects);
    }

    /// Answers what the shards were asked, as if this were all that they have.
    fn answer_asks(&mut self, batches: &[FeedBatch], upto: u64) -> usize {
        let steps = std::mem::take(&mut self.steps);
        let mut asks = 0;
        for (shard, step) in steps {
            let Step::Feed { ask, .. } = step else { continue };
            asks += 1;
            let mine = batches.iter().filter(|batch| batch.batch.header.stamp > ask.after);
            let batches = if shard == 0 { mine.cloned().collect() } else { Vec::new() };
            let (upto, head) = (Stamp::new(upto), Stamp::new(upto));
            let part = FeedPart { batches, upto, head };
            self.hear(shard, FeedNews::Part { number: ask.number, part });
        }
        asks
    }

    fn deliver(&mut self, effects: Vec<Effect<u32>>) {
        for effect in effects {
            match effect {
                Effect::Step(shard, step) => self.steps.push((shard.value(), step)),
                Effect::Reply(route, page) => self.pages.push((route, page)),
                Effect::Refuse(route, _) => self.refused.push(route),
            }
        }
    }

    /// Who was answered, the stamps told, and the checkpoint.
    fn answers(&mut self) -> Vec<(u32, Vec<u64>, u64)> {
        let stamps = |page: &FeedPage| {
            page.batches.iter().map(|batch| batch.batch.header.stamp.value()).collect()
        };
        let pages = std::mem::take(&mut self.pages).into_iter();
        pages.map(|(route, page)| (route, stamps(&page), page.upto.value())).collect()
    }

    fn refused(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.refused)
    }
}

#[test]
fn shards_are_merged_by_stamp_and_none_is_passed() {
    let mut rig = Rig::live(2, 100);
    rig.poll(1, "*", Some(100), 1_000);
    rig.told(0, &[batch("a/t/1", 103), batch("a/t/1", 106)], 110);
    assert_eq!(rig.answers(), [], "shard 1 may still come up with something before");
    assert!(matches!(rig.steps[..], [(1, Step::Nudge)]), "and is asked for it");
    rig.told(1, &[], 101);
    assert_eq!(rig.steps.len(), 1, "once: it tells by itself when it knows more");
    rig.told(1, &[batch("a/t/2", 104)], 105);
    assert_eq!(rig.answers(), [(1, vec![103, 104], 105)]);
    rig.poll(1, "*", Some(105), 1_000);
    rig.told(1, &[], 120);
    assert_eq!(rig.answers(), [(1, vec![106], 110)]);
}

#[test]
fn a_watcher_is_told_what_it_watches_and_waits_for_the_rest_until_its_time_is_over() {
    let mut rig = Rig::live(1, 100);
    rig.poll(1, "a/t", Some(100), 2_000);
    rig.poll(2, "a/t/2", Some(100), 2_000);
    rig.poll(3, "b", Some(100), 2_000);
    rig.told(0, &[batch("a/t/1", 101)], 101);
    assert_eq!(rig.answers(), [(1, vec![101], 101)]);
    rig.told(0, &[batch("a/t/2", 103)], 104);
    assert_eq!(rig.answers(), [(2, vec![103], 104)]);
    rig.tick(1_000_000);
    assert_eq!(rig.answers(), []);
    rig.tick(2_000_000);
    assert_eq!(rig.answers(), [(3, vec![], 104)], "a checkpoint: it gets on all the same");
}

#[test]
fn types_are_filtered_and_nobody_is_woken_for_others() {
    let mut rig = Rig::live(1, 100);
    let types = vec![Bytes::from_static(b"T5")];
    let selector = Selector::All;
    let after = Some(Stamp::new(100));
    let query = FeedQuery { selector, types, after, wait_ms: 5_000, headers_only: false, more: 0 };
    rig.ask(1, query);
    rig.told(0, &[batch("a/t/1", 104)], 104);
    assert_eq!(rig.answers(), []);
    rig.told(0, &[batch("a/t/1", 105), batch("a/t/1", 106)], 106);
    assert_eq!(rig.answers(), [(1, vec![105], 106)]);
}

#[test]
fn what_is_before_the_ring_comes_from_the_shards_and_joins_without_gap_or_double() {
    let mut rig = Rig::live(2, 100);
    rig.told(0, &[batch("a/t/1", 101)], 101);
    rig.told(1, &[], 101);
    rig.poll(1, "*", Some(40), 1_000);
    assert_eq!(rig.answer_asks(&[batch("a/t/1", 50), batch("a/t/1", 101)], 101), 2);
    assert_eq!(rig.answers(), [(1, vec![50, 101], 101)]);
    rig.poll(1, "*", Some(101), 1_000);
    rig.told(0, &[batch("a/t/1", 102)], 102);
    rig.told(1, &[], 102);
    assert_eq!(rig.answers(), [(1, vec![102], 102)]);
}

#[test]
fn a_part_that_ends_early_holds_the_others_back() {
    let mut rig = Rig::live(2, 100);
    rig.poll(1, "*", Some(10), 0);
    let steps = std::mem::take(&mut rig.steps);
    for (shard, step) in steps {
        let Step::Feed { ask, .. } = step else { panic!("{step:?}") };
        let (batches, upto) = match shard {
            0 => (vec![batch("a/t/1", 20), batch("a/t/1", 30)], 30),
            _ => (vec![batch("a/t/2", 25)], 25),
        };
        let part = FeedPart { batches, upto: Stamp::new(upto), head: Stamp::new(100) };
        rig.hear(shard, FeedNews::Part { number: ask.number, part });
    }
    assert_eq!(rig.answers(), [(1, vec![20, 25], 25)]);
}

#[test]
fn an_aggregate_is_asked_of_its_own_shard_only() {
    let mut rig = Rig::live(4, 100);
    let key: AggregateKey = "a/t/1".parse().expect("valid");
    rig.poll(1, "a/t/1", Some(10), 0);
    let asked: Vec<u16> = rig.steps.iter().map(|(shard, _)| *shard).collect();
    assert_eq!(asked, [key.shard(4).value()]);
}

#[test]
fn a_watch_that_lost_the_thread_begins_again_and_nobody_misses_anything() {
    let mut rig = Rig::live(1, 100);
    rig.poll(1, "*", Some(100), 60_000);
    rig.hear(0, FeedNews::Lost);
    assert!(rig.steps.iter().any(|(_, step)| matches!(step, Step::Listen { .. })));
    assert_eq!(rig.answer_asks(&[], 100), 1, "whoever waits reads the log");
    assert_eq!((rig.answers(), rig.steps.len()), (vec![], 0), "and does not ask in circles");
    rig.hear(0, FeedNews::Listening { upto: Stamp::new(107) });
    assert_eq!(rig.answer_asks(&[batch("a/t/1", 105)], 107), 1, "what came meanwhile is there");
    assert_eq!(rig.answers(), [(1, vec![105], 107)]);
}

#[test]
fn few_read_the_log_at_a_time_and_all_get_their_turn() {
    let mut rig = Rig::live(1, 100);
    let many = CATCHING_UP_MAX as u32 + 3;
    for route in 0..many {
        rig.poll(route, "*", Some(10), 0);
    }
    assert_eq!(rig.answer_asks(&[batch("a/t/1", 50)], 100), CATCHING_UP_MAX);
    assert_eq!(rig.answer_asks(&[batch("a/t/1", 50)], 100), 3);
    assert_eq!(rig.answers().len(), many as usize);
}

#[test]
fn whoever_queues_for_the_log_and_finds_it_in_the_ring_leaves_the_turn_to_the_next() {
    let mut rig = Rig::new(1);
    let many = 3 * CATCHING_UP_MAX as u32;
    for route in 0..many {
        rig.poll(route, "*", Some(100), 60_000);
    }
    let asks = std::mem::take(&mut rig.steps);
    rig.hear(0, FeedNews::Listening { upto: Stamp::new(100) });
    rig.steps = asks;
    assert_eq!(rig.answer_asks(&[], 100), CATCHING_UP_MAX);
    rig.told(0, &[batch("a/t/1", 101)], 101);
    assert_eq!(rig.answers().len(), many as usize);
}

#[test]
fn nobody_waits_for_ever_to_be_told_where_to_begin() {
    let mut rig = Rig::new(2);
    rig.poll(1, "*", None, 0);
    rig.poll(2, "*", None, 3_000);
    rig.hear(0, FeedNews::Listening { upto: Stamp::new(100) });
    rig.tick(999_999);
    assert!(rig.refused().is_empty());
    rig.tick(1_000_000);
    assert_eq!(rig.refused(), [1]);
    let mut effects = Vec::new();
    rig.core.release(&mut effects);
    rig.core.settle(rig.now, rig.busy, &mut effects);
    rig.deliver(effects);
    assert_eq!(rig.refused(), [2]);
    rig.poll(3, "*", None, 0);
    assert_eq!((rig.refused(), rig.answers()), (vec![3], vec![]), "never the beginning of all");
}

#[test]
fn what_was_deleted_is_told_no_more_however_old_the_cursor() {
    let mut rig = Rig::live(1, 100);
    rig.told(0, &[batch("a/t/1", 101), batch("a/t/2", 102)], 102);
    rig.poll(1, "*", Some(100), 0);
    assert_eq!(rig.answers(), [(1, vec![101, 102], 102)], "nothing is deleted yet");
    let all = [batch("a/t/1", 103), deleted("a/t/1", 104), batch("a/t/1", 105)];
    rig.told(0, &all, 105);
    rig.poll(2, "*", Some(100), 0);
    assert_eq!(rig.answers(), [(2, vec![102, 104, 105], 105)]);
}

#[test]
fn what_nobody_watches_is_not_kept_and_whoever_comes_later_reads_the_log() {
    let mut rig = Rig::live(1, 100);
    rig.poll(1, "b", Some(100), 60_000);
    rig.told(0, &[batch("a/t/1", 101)], 101);
    assert_eq!(rig.core.ring.newest(1).count(), 1, "somebody has asked for everything");
    for tick in 1..10 {
        rig.tick(tick);
    }
    let all = [batch("a/t/1", 102), batch("b/t/1", 103), batch("a/t/1", 104)];
    rig.told(0, &all, 104);
    assert_eq!(rig.answers(), [(1, vec![103], 104)]);
    rig.poll(2, "a/t", Some(100), 60_000);
    assert_eq!(rig.answers(), [], "102 and 104 are not here");
    assert_eq!(rig.answer_asks(&[batch("a/t/1", 102), batch("a/t/1", 104)], 104), 1);
    assert_eq!(rig.answers(), [(2, vec![102, 104], 104)]);
    rig.poll(2, "a/t", Some(104), 60_000);
    rig.told(0, &[batch("a/t/1", 105)], 105);
    assert_eq!(rig.answers(), [(2, vec![105], 105)], "and from now on here");
}

#[test]
fn of_more_selectors_than_are_kept_the_log_is_read() {
    let mut rig = Rig::live(1, 100);
    for number in 0..=TOPICS_MAX as u32 {
        rig.poll(number, &format!("a/t{number}"), None, 0);
    }
    rig.answers();
    let late = format!("a/t{TOPICS_MAX}/1");
    rig.poll(1, "a/t1", Some(100), 60_000);
    rig.poll(2, &format!("a/t{TOPICS_MAX}"), Some(100), 60_000);
    assert_eq!(rig.answer_asks(&[], 100), 1, "one of them has no topic");
    rig.told(0, &[batch("a/t1/1", 101), batch(&late, 102)], 102);
    assert_eq!(rig.answers(), [(1, vec![101], 102)]);
    assert_eq!(rig.answer_asks(&[batch(&late, 102)], 102), 1);
    assert_eq!(rig.answers(), [(2, vec![102], 102)]);
}

#[test]
fn the_ring_forgets_the_oldest_and_says_so() {
    let mut rig = Rig::live(1, 100);
    let many: Vec<FeedBatch> = (0..60_000).map(|n| batch("a/t/1", 101 + n)).collect();
    rig.told(0, &many, 60_100);
    rig.poll(1, "*", Some(60_099), 0);
    assert_eq!(rig.answers(), [(1, vec![60_100], 60_100)]);
    rig.poll(2, "*", Some(100), 0);
    assert!(rig.answers().is_empty(), "it is not there any more, so the log is read");
    assert_eq!(rig.answer_asks(&many[..5], 105), 1);
    assert_eq!(rig.answers(), [(2, vec![101, 102, 103, 104, 105], 105)]);
}

#[test]
fn a_page_ends_somewhere_and_the_next_goes_on_there() {
    let mut rig = Rig::live(1, 100);
    let many: Vec<FeedBatch> = (0..3_000).map(|n| batch("a/t/1", 101 + n)).collect();
    rig.told(0, &many, 3_100);
    let (mut after, mut seen, mut pages) = (100, Vec::new(), 0);
    while after < 3_100 {
        rig.poll(1, "*", Some(after), 0);
        let (_, stamps, upto) = rig.answers().remove(0);
        (after, pages) = (upto, pages + 1);
        seen.extend(stamps);
    }
    assert_eq!(seen, (101..=3_100).collect::<Vec<u64>>());
    assert!(pages > 2, "{pages}");
}

#[test]
fn a_node_that_is_about_to_stop_lets_nobody_wait() {
    let mut rig = Rig::live(1, 100);
    rig.poll(1, "*", Some(100), 60_000);
    let mut effects = Vec::new();
    rig.core.release(&mut effects);
    rig.core.settle(rig.now, rig.busy, &mut effects);
    rig.deliver(effects);
    assert_eq!(rig.answers(), [(1, vec![], 100)]);
    rig.poll(2, "*", Some(100), 60_000);
    assert_eq!(rig.answers(), [(2, vec![], 100)]);
}

#[test]
fn without_watchers_shards_are_told_to_be_silent_and_later_again_to_tell() {
    let mut rig = Rig::live(2, 100);
    for tick in 0..u64::from(IDLE_TICKS) {
        rig.tick(tick);
    }
    let silent = |(_, step): &(u16, Step)| matches!(step, Step::Unlisten { .. });
    assert_eq!(rig.steps.iter().filter(|step| silent(step)).count(), 2);
    rig.told(0, &[batch("a/t/1", 105)], 105);
    rig.steps.clear();
    rig.poll(1, "*", None, 0);
    assert_eq!(rig.steps.len(), 2);
    for shard in 0..2 {
        rig.hear(shard, FeedNews::Listening { upto: Stamp::new(120) });
    }
    assert_eq!(rig.answers(), [(1, vec![], 120)]);
}

#[test]
fn a_poll_that_does_not_wait_hears_how_far_shards_are_and_not_how_far_they_have_told() {
    let mut rig = Rig::live(2, 100);
    rig.poll(1, "*", Some(100), 0);
    assert_eq!(rig.answers(), []);
    assert_eq!(rig.answer_asks(&[], 120), 2);
    assert_eq!(rig.answers(), [(1, vec![], 120)]);
}

#[test]
fn on_a_busy_thread_watchers_get_less_often_more_and_nobody_misses_anything() {
    const WATCHERS: u32 = 1_000;
    let mut rig = Rig::live(1, 100);
    let selectors = ["*", "a/t", "a/t/1", "a/t/1\na/t/2", "b"];
    let selector = |route: u32| selectors[route as usize % selectors.len()];
    for route in 0..WATCHERS {
        rig.poll(route, selector(route), Some(100), 60_000);
    }
    let mut seen = vec![Vec::new(); WATCHERS as usize];
    let (mut pages, mut stamp) = (0, 100);
    let mut take = |rig: &mut Rig| {
        for (route, stamps, upto) in rig.answers() {
            pages += 1;
            seen[route as usize].extend(stamps);
            rig.poll(route, selector(route), Some(upto), 60_000);
        }
    };
    // A second: 100 events, and others always have something to do.
    for ms in 1..=1_000_u64 {
        rig.rest(ms * 1_000);
        if ms % 10 == 0 {
            stamp += 1;
            rig.told(0, &[batch(&format!("a/t/{}", ms / 10 % 3), stamp)], stamp);
        }
        if ms % 100 == 0 {
            // As if ten seconds passed.
            rig.tick(ms * 1_000);
        }
        take(&mut rig);
    }
    assert!(!rig.steps.iter().any(|(_, step)| matches!(step, Step::Feed { .. })), "from memory");
    for ms in 1_001..=1_200_u64 {
        rig.rest(ms * 1_000);
        take(&mut rig);
    }
    assert_eq!(rig.core.next_look(rig.now), None, "nothing is left");
    for (route, seen) in seen.iter().enumerate() {
        let wanted = (101..=200).filter(|stamp| {
            let key = format!("a/t/{}", (stamp - 100) % 3).parse().expect("valid");
            selector(route as u32).parse::<Selector>().expect("valid").matches(&key)
        });
        assert_eq!(*seen, wanted.collect::<Vec<u64>>(), "watcher {route}");
    }
    let deliveries: usize = seen.iter().map(Vec::len).sum();
    assert!(pages * 3 < deliveries, "{deliveries} deliveries in {pages} pages");
}
