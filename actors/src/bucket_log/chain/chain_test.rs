//! Chains, made by hand. Random lives are in `lives_test.rs`.

use std::collections::VecDeque;

use bytes::Bytes;
use celeriant_storage::bucket::{Conflict, Done, ETag, Lane, Op};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::bucket_log::rig::{CLUSTER, FakeBucket, FakeLog, frame, settings};
use crate::bucket_log::slot::{Name, Round};

fn seal() -> Seal {
    Seal::new(None)
}

fn name(epoch: u64, slot: u64) -> Name {
    Name { cluster: CLUSTER, epoch: Epoch::new(epoch), slot }
}

fn key(epoch: u64, slot: u64) -> String {
    name(epoch, slot).key().as_str().to_owned()
}

/// One shard, whose log has frames of one record each.
struct Rig {
    bucket: FakeBucket,
    /// What is, or should be, in the bucket.
    whole: FakeLog,
    links: Vec<Link>,
}

impl Rig {
    fn new() -> Self {
        let mut rng = SmallRng::seed_from_u64(2);
        let mut whole = FakeLog::default();
        for _ in 0..20 {
            let next = frame(ShardId::new(0), 1, whole.end(), 1, 1, &mut rng);
            whole.frames.push(next);
        }
        Self { bucket: FakeBucket::new(1, 0), whole, links: Vec::new() }
    }

    /// Of the whole log.
    fn position(&self, lsn: usize) -> Position {
        lsn.checked_sub(1).map(|at| self.whole.frames[at].end).unwrap_or_default()
    }

    fn prefix(&self, lsn: usize) -> FakeLog {
        FakeLog { frames: self.whole.frames[..lsn].to_vec() }
    }

    fn link(&mut self, epoch: u64, base: usize) {
        let base = vec![self.position(base)];
        self.links.push(Link { epoch: Epoch::new(epoch), base });
    }

    /// A slot with these frames of the whole log.
    fn slot(&mut self, epoch: u64, slot: u64, frames: std::ops::RangeInclusive<usize>) {
        let frames = self.whole.frames[frames.start() - 1..*frames.end()].to_vec();
        self.put(epoch, slot, Round::from([(ShardId::new(0), frames)]));
    }

    fn put(&mut self, epoch: u64, slot: u64, round: Round) {
        let body = slot::data(&name(epoch, slot), 1, &round, &seal());
        self.bucket.objects.insert(key(epoch, slot), body);
    }

    fn fence(&mut self, epoch: u64, slot: u64) {
        let body = slot::fence(&name(epoch, slot), 77, &seal());
        self.bucket.objects.insert(key(epoch, slot), body);
    }

    fn read(&mut self, own: FakeLog) -> Result<Outcome, ChainError> {
        let links = self.links.clone();
        let start = Start { cluster: CLUSTER, links, own: vec![own.end()], nonce: 3 };
        let mut reader = Reader::new(start, seal(), settings())?;
        let mut outcome = Outcome { log: own, cuts: Vec::new(), given: Vec::new(), finds: 0 };
        let mut events = VecDeque::from([Event::Tick]);
        let mut effects = Vec::new();
        for now in 0..100_000 {
            let completion = self.bucket.step().map(|(_, it)| Event::Bucket(it));
            events.extend(completion);
            let event = events.pop_front().unwrap_or(Event::Tick);
            reader.handle(now * 100, event, &mut effects);
            for effect in effects.drain(..) {
                match effect {
                    Effect::Bucket(token, request) => self.bucket.start(0, token, request),
                    Effect::Done { ends } => {
                        assert_eq!(ends, [outcome.log.end()]);
                        return Ok(outcome);
                    }
                    Effect::Failed(error) => return Err(error),
                    other => events.extend(outcome.take(other)),
                }
            }
        }
        panic!("no end")
    }
}

#[derive(Debug)]
struct Outcome {
    log: FakeLog,
    cuts: Vec<u64>,
    /// Frames that were handed out, by their lsns.
    given: Vec<(u64, u64)>,
    finds: usize,
}

impl Outcome {
    fn take(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Find { shard, lsn } => {
                self.finds += 1;
                Some(Event::Found { shard, lsn, frame: self.log.find(lsn) })
            }
            Effect::Cut { to, .. } => {
                self.cuts.push(to.lsn.value());
                self.log.cut(to);
                None
            }
            Effect::Frames { shard, frames } => {
                self.given.push((frames.before.lsn.value() + 1, frames.end.lsn.value()));
                self.log.take(&frames);
                Some(Event::Taken(shard))
            }
            _ => None,
        }
    }
}

#[test]
fn an_empty_log_is_fenced_at_its_first_slot() {
    let mut rig = Rig::new();
    rig.link(2, 3);
    let outcome = rig.read(rig.prefix(3)).expect("read");
    assert_eq!((outcome.log, outcome.given.len()), (rig.prefix(3), 0));
    assert_eq!(rig.bucket.made, [key(2, 0)]);
    let body = &rig.bucket.objects[&key(2, 0)];
    let slot = Slot::decode(&name(2, 0), body, &seal());
    assert_eq!(slot, Ok(Slot { nonce: 3, content: Content::Fence }));
}

#[test]
fn logs_are_read_in_order_and_what_is_void_is_not() {
    let mut rig = Rig::new();
    rig.link(2, 1);
    rig.slot(2, 0, 2..=3);
    rig.slot(2, 1, 4..=6);
    rig.slot(2, 2, 7..=8);
    // The next log begins inside of a slot; another claimant has fenced the last one.
    rig.link(4, 5);
    rig.slot(4, 0, 6..=6);
    rig.link(5, 6);
    rig.link(9, 6);
    rig.slot(9, 0, 7..=9);
    rig.fence(9, 1);
    rig.slot(9, 2, 10..=11);
    let outcome = rig.read(rig.prefix(1)).expect("read");
    assert_eq!(outcome.log, rig.prefix(9));
    assert_eq!(outcome.given, [(2, 3), (4, 5), (6, 6), (7, 9)]);
    assert!(rig.bucket.made.is_empty(), "no fence in earlier logs, none where there is one");
    // Again, with all of it: nothing is handed out.
    let again = rig.read(rig.prefix(9)).expect("read");
    assert_eq!((again.given.len(), again.cuts.len()), (0, 0));
    assert_eq!(again.log, rig.prefix(9));
}

#[test]
fn the_own_log_is_kept_as_far_as_it_is_the_chain() {
    let mut rig = Rig::new();
    rig.link(2, 2);
    rig.slot(2, 0, 3..=10);
    rig.slot(2, 1, 11..=12);
    let mut rng = SmallRng::seed_from_u64(4);
    for same in 2..=12 {
        for more in 0..8 {
            let mut own = rig.prefix(same);
            for _ in 0..more {
                own.seal(ShardId::new(0), 2, &mut rng);
            }
            rig.bucket.objects.remove(&key(2, 2));
            let outcome = rig.read(own).expect("read");
            assert_eq!(outcome.log, rig.prefix(12), "{same} frames, {more} others");
            let cuts = if more > 0 { vec![same as u64] } else { Vec::new() };
            assert_eq!(outcome.cuts, cuts, "{same} frames, {more} others");
            let given: u64 = outcome.given.iter().map(|(first, last)| last + 1 - first).sum();
            assert_eq!(given, 12 - same as u64, "nothing twice");
            assert!(outcome.finds <= 6, "{} questions", outcome.finds);
        }
    }
}

#[test]
fn a_log_that_does_not_hold_the_base_is_refused() {
    let mut rig = Rig::new();
    rig.link(2, 3);
    let base = rig.position(3);
    let refused = ChainError::BaseNotHeld { shard: ShardId::new(0), base };
    let mut rng = SmallRng::seed_from_u64(4);
    let mut other = rig.prefix(2);
    let shorter = other.clone();
    for _ in 0..3 {
        let next = frame(ShardId::new(0), 2, other.end(), 1, 1, &mut rng);
        other.frames.push(next);
    }
    let as_long = FakeLog { frames: other.frames[..3].to_vec() };
    for own in [shorter, other, as_long] {
        assert_eq!(rig.read(own).expect_err("refused"), refused);
    }
    assert!(rig.bucket.made.is_empty(), "nothing was fenced");
}

#[test]
fn a_chain_with_a_hole_is_refused() {
    let hole = |change: fn(&mut Rig)| {
        let mut rig = Rig::new();
        rig.link(2, 1);
        rig.slot(2, 0, 2..=3);
        rig.slot(2, 1, 4..=6);
        rig.link(3, 6);
        rig.slot(3, 0, 7..=8);
        change(&mut rig);
        let error = rig.read(rig.prefix(1)).expect_err("refused");
        assert!(rig.bucket.made.is_empty(), "fenced though {error}");
        error
    };
    let (epoch, shard) = (Epoch::new(2), ShardId::new(0));
    let missing = hole(|rig| drop(rig.bucket.objects.remove(&key(2, 1))));
    assert_eq!(missing, ChainError::Missing { epoch, slot: 1 });
    let fenced = hole(|rig| rig.fence(2, 1));
    assert_eq!(fenced, ChainError::FencedEarly { epoch, slot: 1 });
    let gap = hole(|rig| rig.slot(2, 1, 5..=6));
    assert!(matches!(gap, ChainError::Gap { slot: 1, found, .. } if found.lsn == Lsn::new(4)));
    let overlap = hole(|rig| rig.slot(2, 1, 3..=6));
    assert!(matches!(overlap, ChainError::Gap { slot: 1, found, .. } if found.lsn == Lsn::new(2)));
    let later = hole(|rig| rig.slot(3, 0, 8..=8));
    assert!(matches!(later, ChainError::Gap { slot: 0, .. }));
    let copied = hole(|rig| {
        let body = rig.bucket.objects[&key(2, 0)].clone();
        rig.bucket.objects.insert(key(2, 1), body);
    });
    let error = SlotError::Elsewhere { epoch, slot: 0 };
    assert_eq!(copied, ChainError::Slot { epoch, slot: 1, error });
    let garbage = hole(|rig| {
        rig.bucket.objects.insert(key(3, 0), Bytes::from_static(b"what?"));
    });
    let error = SlotError::NotSlot;
    assert_eq!(garbage, ChainError::Slot { epoch: Epoch::new(3), slot: 0, error });
    let missed = hole(|rig| rig.links[1].base[0].hash = Default::default());
    assert_eq!(missed, ChainError::BaseMissed { epoch, shard });
    let stranger = hole(|rig| {
        let mut rng = SmallRng::seed_from_u64(1);
        let frames = frame(ShardId::new(1), 2, Position::default(), 1, 1, &mut rng);
        rig.put(2, 1, Round::from([(ShardId::new(1), vec![frames])]));
    });
    let shard = ShardId::new(1);
    assert_eq!(stranger, ChainError::NoSuchShard { epoch, slot: 1, shard });
}

#[test]
fn frames_that_are_not_what_their_slot_says_are_refused() {
    let changes: [fn(&mut Frames, &Rig); 5] = [
        // Not a frame; of another shard; not what is before it; a gap; not where it ends.
        |it, _| it.bytes = Bytes::from(vec![0; 4096]),
        |it, _| {
            let mut rng = SmallRng::seed_from_u64(1);
            let other = frame(ShardId::new(5), 1, it.before, 1, 1, &mut rng);
            (it.end, it.bytes) = (other.end, other.bytes);
        },
        |it, rig| it.bytes = rig.whole.frames[7].bytes.clone(),
        |it, rig| {
            let with_gap = [&it.bytes[..], &rig.whole.frames[3].bytes[..]].concat();
            (it.end, it.bytes) = (rig.position(4), with_gap.into());
        },
        |it, rig| it.end = rig.position(5),
    ];
    for change in changes {
        let mut rig = Rig::new();
        rig.link(2, 1);
        let mut frames = rig.whole.frames[1].clone();
        change(&mut frames, &rig);
        rig.put(2, 0, Round::from([(ShardId::new(0), vec![frames])]));
        let error = rig.read(rig.prefix(1)).expect_err("refused");
        assert!(matches!(error, ChainError::Frames { slot: 0, .. }), "{error}");
    }
}

#[test]
fn chains_that_make_no_sense_are_refused() {
    let mut rig = Rig::new();
    assert!(matches!(rig.read(FakeLog::default()), Err(ChainError::Chain(_))), "empty");
    for second in [(2, 4), (1, 4), (3, 1)] {
        rig.links.clear();
        rig.link(2, 2);
        rig.link(second.0, second.1);
        assert!(matches!(rig.read(rig.prefix(2)), Err(ChainError::Chain(_))), "{second:?}");
    }
    rig.links.truncate(1);
    rig.links[0].base.push(Position::default());
    assert!(matches!(rig.read(rig.prefix(2)), Err(ChainError::Chain(_))), "another shape");
}

/// A reader past its start, of a log without slots.
fn reading(rig: &mut Rig) -> (Reader, Vec<(Token, Op)>) {
    rig.link(2, 0);
    let links = rig.links.clone();
    let start = Start { cluster: CLUSTER, links, own: vec![Position::default()], nonce: 3 };
    let mut reader = Reader::new(start, seal(), settings()).expect("a chain");
    let sent = tell(&mut reader, Event::Tick);
    (reader, sent)
}

fn tell(reader: &mut Reader, event: Event) -> Vec<(Token, Op)> {
    let mut effects = Vec::new();
    reader.handle(0, event, &mut effects);
    let operation = |effect| match effect {
        Effect::Bucket(token, request) => Some((token, request)),
        _ => None,
    };
    let sent = effects.into_iter().filter_map(operation);
    let of_fence = |op: &Op, lane| matches!(op, Op::Get { .. }) || lane == Lane::Control;
    sent.inspect(|(_, it)| assert!(of_fence(&it.op, it.lane))).map(|(t, it)| (t, it.op)).collect()
}

fn answer(reader: &mut Reader, token: Token, done: Done) -> Vec<(Token, Op)> {
    tell(reader, Event::Bucket(Completion { token, outcome: Ok(done) }))
}

#[test]
fn a_round_that_comes_before_the_fence_counts_and_the_fence_goes_behind_it() {
    let mut rig = Rig::new();
    let (mut reader, sent) = reading(&mut rig);
    assert_eq!(sent.len(), 4, "read ahead");
    for (token, _) in &sent[1..] {
        assert!(answer(&mut reader, *token, Done::Absent).is_empty(), "in order");
    }
    let fence = answer(&mut reader, sent[0].0, Done::Absent);
    assert!(matches!(&fence[..], [(_, Op::PutIfAbsent { key, .. })] if key == &name(2, 0).key()));
    let asks = answer(&mut reader, fence[0].0, Done::Conflict(Conflict::Precondition));
    assert!(matches!(&asks[..], [(_, Op::Get { key })] if key == &name(2, 0).key()));
    rig.slot(2, 0, 1..=2);
    let late = Done::Found { etag: ETag::new("x"), body: rig.bucket.objects[&key(2, 0)].clone() };
    let next = answer(&mut reader, asks[0].0, late);
    // The next was seen to be absent: only a put can tell whether it still is.
    assert!(matches!(&next[..], [(_, Op::PutIfAbsent { key, .. })] if key == &name(2, 1).key()));
}

#[test]
fn it_is_done_when_everything_is_taken() {
    let mut rig = Rig::new();
    rig.slot(2, 0, 1..=2);
    rig.fence(2, 1);
    let (mut reader, sent) = reading(&mut rig);
    let mut effects = Vec::new();
    for (token, op) in &sent[..2] {
        let body = rig.bucket.objects[op.subject()].clone();
        let outcome = Ok(Done::Found { etag: ETag::new("x"), body });
        reader.handle(0, Event::Bucket(Completion { token: *token, outcome }), &mut effects);
    }
    assert!(matches!(&effects[..], [Effect::Frames { .. }]), "{effects:?}");
    assert_eq!(reader.next_deadline(), None);
    reader.handle(0, Event::Taken(ShardId::new(0)), &mut effects);
    assert!(matches!(&effects[..], [_, Effect::Done { .. }]), "{effects:?}");
}

#[test]
fn no_more_than_four_slots_are_in_memory() {
    let mut rig = Rig::new();
    for slot in 0..12 {
        rig.slot(2, slot, slot as usize + 1..=slot as usize + 1);
    }
    let (mut reader, sent) = reading(&mut rig);
    let mut sent = VecDeque::from(sent);
    let mut reads = 0;
    while let Some((token, op)) = sent.pop_front() {
        reads += 1;
        let body = rig.bucket.objects[op.subject()].clone();
        sent.extend(answer(&mut reader, token, Done::Found { etag: ETag::new("x"), body }));
    }
    assert_eq!(reads, 4, "nothing is taken");
    let more = tell(&mut reader, Event::Taken(ShardId::new(0)));
    assert_eq!(more.len(), 1);
}
