//! Uploads, one decision at a time. Random lives are in `lives_test.rs`.

use bytes::Bytes;
use celeriant_storage::bucket::{
    BucketError, Cause, Conflict, Done, ETag, Effect as Left, Lane as Way, Op, Outcome,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::bucket_log::rig::{CLUSTER, FakeLog, frame, settings};
use crate::bucket_log::slot::{Content, Slot};

const MS: Micros = 1_000;

struct Rig {
    uploader: Uploader,
    logs: Vec<FakeLog>,
    now: Micros,
    rng: SmallRng,
    /// Puts and gets under way.
    sent: Vec<(Token, Op)>,
    said: Vec<String>,
    reads: Vec<(ShardId, Lsn, u32)>,
}

fn seal() -> Seal {
    Seal::new(None)
}

fn position_of(number: u64) -> String {
    format!("held {number}")
}

impl Rig {
    /// Two shards whose logs have `behind` frames above the base.
    fn new(behind: usize) -> Self {
        let mut rng = SmallRng::seed_from_u64(5);
        let mut logs = vec![FakeLog::default(); 2];
        for (shard, log) in (0..2).map(ShardId::new).zip(&mut logs) {
            for _ in 0..behind {
                let next = frame(shard, 1, log.end(), 1, 1, &mut rng);
                log.frames.push(next);
            }
        }
        let start = Start {
            cluster: CLUSTER,
            epoch: Epoch::new(4),
            base: vec![Position::default(); 2],
            sealed: logs.iter().map(FakeLog::end).collect(),
            seed: 9,
        };
        let uploader = Uploader::new(start, seal(), settings());
        let (sent, said, reads) = (Vec::new(), Vec::new(), Vec::new());
        Self { uploader, logs, now: 10 * MS, rng, sent, said, reads }
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Bucket(token, request) => {
                    assert_eq!(request.lane, Way::Data);
                    self.sent.push((token, request.op));
                }
                Effect::Read { shard, after, bytes_max } => {
                    self.reads.push((shard, after, bytes_max));
                }
                Effect::Held { shard, upto } => {
                    self.said.push(format!("{shard} held {}", upto.lsn))
                }
                Effect::Complete => self.said.push("complete".to_owned()),
                Effect::Fenced { slot } => self.said.push(format!("fenced at {slot}")),
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.uploader.handle(self.now, event, &mut effects);
        self.take(effects);
    }

    fn flush(&mut self) {
        let mut effects = Vec::new();
        self.uploader.flush(self.now, &mut effects);
        self.take(effects);
    }

    fn flush_after(&mut self, wait: Micros) {
        self.now += wait;
        self.flush();
    }

    /// A frame of so many sectors.
    fn seal(&mut self, shard: u16, sectors: usize) {
        let log = &mut self.logs[usize::from(shard)];
        let next = frame(ShardId::new(shard), 4, log.end(), 1, sectors, &mut self.rng);
        log.frames.push(next.clone());
        self.handle(Event::Sealed(ShardId::new(shard), next));
    }

    fn answer(&mut self, (token, _): &(Token, Op), outcome: Outcome) {
        self.handle(Event::Bucket(Completion { token: *token, outcome }));
    }

    fn answer_first(&mut self, outcome: Outcome) -> (Token, Op) {
        let first = self.sent.remove(0);
        self.answer(&first, outcome);
        first
    }

    fn answer_reads(&mut self) {
        for (shard, after, bytes) in std::mem::take(&mut self.reads) {
            let frames = self.logs[usize::from(shard.value())].read(after, bytes as usize);
            self.handle(Event::Read(shard, frames));
        }
    }

    fn said(&mut self) -> Vec<String> {
        std::mem::take(&mut self.said)
    }
}

fn put() -> Outcome {
    Ok(Done::Put { etag: ETag::new("x") })
}

fn found(body: Bytes) -> Outcome {
    Ok(Done::Found { etag: ETag::new("x"), body })
}

fn lost(op: &Op) -> Outcome {
    Err(BucketError::lost(op, Cause::Lost, ""))
}

fn body_of(op: &Op) -> Bytes {
    let Op::PutIfAbsent { body, .. } = op else { panic!("{op:?}") };
    body.clone()
}

/// Shards and ends of a round.
fn content(op: &Op) -> Vec<(u16, u64, usize)> {
    let (epoch, slot) = Name::numbers_of(op.subject()).expect("a slot");
    let name = Name { cluster: CLUSTER, epoch, slot };
    match Slot::decode(&name, &body_of(op), &seal()).expect("a slot").content {
        Content::Data(parts) => parts
            .iter()
            .map(|it| (it.shard.value(), it.frames.end.lsn.value(), it.frames.bytes.len() / 4096))
            .collect(),
        Content::Fence => panic!("a fence"),
    }
}

#[test]
fn the_first_rounds_go_at_once_and_the_interval_bounds_how_often() {
    let mut rig = Rig::new(0);
    rig.flush();
    assert_eq!(rig.said(), ["complete"], "nothing is sealed, nothing is put");
    for _ in 0..FIRST_ROUNDS {
        rig.seal(0, 1);
        rig.seal(1, 1);
        rig.flush();
        let [(_, op)] = &rig.sent[..] else { panic!("{}", rig.sent.len()) };
        assert_eq!(content(op).len(), 2, "frames of any shards");
        assert_eq!(rig.uploader.next_deadline(), None);
        rig.answer_first(put());
        rig.flush();
        assert!(rig.said().contains(&"complete".to_owned()));
    }
    let begun = rig.now;
    // The bucket was fast.
    rig.seal(0, 1);
    rig.flush_after(20 * MS);
    assert!(rig.sent.is_empty());
    assert_eq!(rig.uploader.next_deadline(), Some(begun + 50 * MS));
    rig.seal(0, 1);
    rig.flush_after(30 * MS);
    let first = FIRST_ROUNDS + 2;
    assert_eq!(content(&rig.sent[0].1), [(0, first, 2)], "what arrived meanwhile, in one");
    // It is slow: the next one begins while that is under way.
    rig.seal(1, 1);
    rig.flush_after(50 * MS);
    assert_eq!(rig.sent.len(), 2);
    // Idle for long.
    rig.answer_first(put());
    rig.answer_first(put());
    rig.flush_after(1_000 * MS);
    assert!(rig.sent.is_empty(), "no empty rounds");
    assert_eq!(rig.uploader.next_deadline(), None);
    rig.seal(1, 1);
    rig.flush();
    assert_eq!(rig.sent.len(), 1);
}

#[test]
fn a_full_round_waits_for_nothing_and_a_large_frame_travels_alone() {
    let mut rig = Rig::new(0);
    rig.seal(0, 3);
    rig.seal(1, 8);
    rig.seal(0, 1);
    rig.flush();
    let rounds: Vec<_> = rig.sent.iter().map(|(_, op)| content(op)).collect();
    // The last frame came when there was no room: it is read later.
    assert_eq!(rounds, [vec![(0, 1, 3)], vec![(1, 1, 8)]]);
    assert_eq!(rig.reads, [(ShardId::new(0), Lsn::new(1), 4096)]);
    let frames = rig.logs[0].read(Lsn::new(1), 4096);
    rig.handle(Event::Read(ShardId::new(0), frames));
    rig.flush_after(50 * MS);
    assert_eq!(content(&rig.sent[2].1), [(0, 2, 1)]);
}

#[test]
fn slots_count_only_without_a_gap_below() {
    let mut rig = Rig::new(0);
    for _ in 0..5 {
        rig.seal(0, 1);
        rig.flush_after(50 * MS);
    }
    assert_eq!(rig.sent.len(), 4, "four under way");
    for at in [3, 1] {
        let sent = rig.sent.remove(at);
        rig.answer(&sent, put());
        rig.answer(&sent, put());
    }
    assert!(rig.said().is_empty());
    rig.answer_first(put());
    assert_eq!(rig.said(), ["0 held 1", "0 held 2"]);
    rig.answer_first(put());
    assert_eq!(rig.said(), ["0 held 3", "0 held 4"]);
    rig.flush();
    assert_eq!(content(&rig.sent[0].1), [(0, 5, 1)]);
}

#[test]
fn a_retry_puts_the_same_bytes_and_only_a_read_decides() {
    let mut rig = Rig::new(0);
    rig.seal(0, 1);
    rig.flush();
    let (_, first) = rig.sent[0].clone();
    let outcome = lost(&first);
    rig.answer_first(outcome);
    rig.flush();
    assert!(rig.sent.is_empty(), "after a pause");
    rig.flush_after(MS);
    assert!(matches!(&rig.sent[0].1, Op::Get { key } if key.as_str() == first.subject()));
    rig.answer_first(Ok(Done::Absent));
    rig.flush_after(20 * MS);
    assert_eq!(body_of(&rig.sent[0].1), body_of(&first));
    rig.answer_first(Ok(Done::Conflict(Conflict::Precondition)));
    assert!(rig.said().is_empty(), "hearsay");
    rig.flush();
    rig.answer_first(found(body_of(&first)));
    assert_eq!(rig.said(), ["0 held 1"]);
}

#[test]
fn what_was_never_sent_is_sent_again_without_asking() {
    let mut rig = Rig::new(0);
    rig.seal(0, 1);
    rig.flush();
    let outcome = |op: &Op| Err(BucketError::new(op, Cause::Unreachable, Left::None, ""));
    for failures in 1..12 {
        let (_, op) = rig.sent[0].clone();
        assert_eq!(op.name(), "put_if_absent");
        rig.answer_first(outcome(&op));
        let wait = rig.uploader.next_deadline().expect("again") - rig.now;
        assert_eq!(wait, (MS << (failures - 1)).min(20 * MS));
        rig.flush_after(wait);
    }
}

#[test]
fn another_body_at_one_of_our_slots_ends_it() {
    let name = Name { cluster: CLUSTER, epoch: Epoch::new(4), slot: 1 };
    let fence = slot::fence(&name, 1, &seal());
    for body in [fence, Bytes::from_static(b"anything")] {
        let mut rig = Rig::new(0);
        for _ in 0..3 {
            rig.seal(0, 1);
            rig.flush_after(50 * MS);
        }
        let second = rig.sent.remove(1);
        rig.answer(&second, Ok(Done::Conflict(Conflict::Concurrent)));
        rig.flush();
        let ask = rig.sent.pop().expect("a read");
        rig.answer(&ask, found(body));
        assert_eq!(rig.said(), ["fenced at 1"]);
        rig.answer_first(put());
        rig.answer_first(put());
        rig.seal(0, 1);
        rig.flush_after(1_000 * MS);
        assert!(rig.said().is_empty() && rig.sent.is_empty() && rig.reads.is_empty());
        assert_eq!(rig.uploader.next_deadline(), None);
    }
}

#[test]
fn what_lies_below_its_start_is_read_from_the_log() {
    let mut rig = Rig::new(9);
    let mut rounds = Vec::new();
    for _ in 0..20 {
        rig.flush_after(50 * MS);
        rig.answer_reads();
        while let Some((_, op)) = rig.sent.first() {
            rounds.push(content(op));
            rig.answer_first(put());
        }
    }
    let said = rig.said();
    let last: Vec<_> = said[said.len() - 3..].iter().map(String::as_str).collect();
    assert_eq!(last, ["0 held 9", "1 held 9", "complete"]);
    let sectors: usize = rounds.iter().flatten().map(|(_, _, sectors)| sectors).sum();
    assert_eq!(sectors, 18, "each frame once: {rounds:?}");
    assert_eq!(said.iter().filter(|it| it.ends_with("complete")).count(), 1);
    assert!(said.iter().any(|it| it.ends_with(&position_of(1))));
}

#[test]
fn memory_is_bounded_while_the_bucket_is_away() {
    let mut rig = Rig::new(0);
    for _ in 0..500 {
        rig.seal(0, 1);
        rig.seal(1, 2);
        rig.flush_after(MS);
        rig.answer_reads();
        assert!(rig.uploader.memory_bytes() < 6 * (17 << 10), "{}", rig.uploader.memory_bytes());
    }
    assert_eq!(rig.sent.len(), 4);
    assert!(rig.uploader.next_deadline().is_none(), "only the bucket can help");
}

#[test]
fn nonces_are_fresh_for_every_slot_epoch_and_seed() {
    let start = |epoch, seed| Start {
        cluster: CLUSTER,
        epoch: Epoch::new(epoch),
        base: Vec::new(),
        sealed: Vec::new(),
        seed,
    };
    let mut nonces = Vec::new();
    for (epoch, seed) in [(1, 1), (1, 2), (2, 1)] {
        let uploader = Uploader::new(start(epoch, seed), seal(), settings());
        nonces.extend([uploader.nonce(0), uploader.nonce(1)]);
    }
    let distinct: std::collections::BTreeSet<_> = nonces.iter().collect();
    assert_eq!(distinct.len(), 6);
}
