//! What a shard's disk holds after a delete, and what it does about it.

use std::sync::Arc;

use celeriant_schema::{
    BootId, EncodedEvents, Epoch, Guard, Member, ReadQuery, Request, Response, Retention, ShardId,
    TxnId, Version, Write,
};

use super::PLACES_MAX;
use crate::shard::core::rig::{Rig, events, key, member, write};
use crate::work::{Decision, Mode, Part, Step, Task, Work};

fn taking(id: &str, retention: Retention) -> Request {
    let (key, events) = (key(id), EncodedEvents::default());
    let (guard, retention) = (Guard::Any, Some(retention));
    write(vec![Member { key, guard, sequence: None, events, retention }])
}

fn take(rig: &mut Rig, id: &str, retention: Retention) {
    let answer = rig.ask(taking(id, retention));
    assert!(matches!(answer, Response::Receipt(_)), "{answer:?}");
}

fn append(rig: &mut Rig, id: &str, count: usize) {
    let answer = rig.ask(write(vec![member(id, Guard::Any, count)]));
    assert!(matches!(answer, Response::Receipt(_)), "{answer:?}");
}

fn read(rig: &mut Rig, id: &str) -> Vec<u64> {
    match rig.ask(Request::Read(ReadQuery::all(key(id)))) {
        Response::Page(page) => {
            let events = page.batches.iter().flat_map(|batch| &batch.events);
            events.map(|event| event.version.value()).collect()
        }
        other => panic!("a page, not {other:?}"),
    }
}

fn order(rig: &mut Rig, number: u64) {
    rig.send(vec![Work::Step(Step::Compact { order: number })]);
    wait(rig, number);
}

fn wait(rig: &mut Rig, number: u64) {
    rig.flush();
    for _ in 0..100 {
        if told(rig)[0] >= number {
            return;
        }
        rig.tick();
        rig.flush();
    }
    panic!("order {number} is not carried out: {:?}", told(rig));
}

/// Orders done, erased up to, reclaimed, erased.
fn told(rig: &Rig) -> [u64; 4] {
    rig.core.standing.compacted()[0].get()
}

/// How often the log holds the payload.
fn payloads(rig: &mut Rig) -> usize {
    let secret = SECRET.as_bytes();
    let count = |content: &[u8]| content.windows(secret.len()).filter(|it| *it == secret).count();
    (1..).map_while(|number| rig.segment(number)).map(|content| count(&content)).sum()
}

const SECRET: &str = "zQ8xV-secret-4fJw9";

fn secret(id: &str, count: usize) -> Request {
    let (key, guard, events) = (key(id), Guard::Any, events(count, SECRET));
    write(vec![Member { key, guard, sequence: None, events, retention: None }])
}

fn secrets(rig: &mut Rig, id: &str, count: usize) {
    assert!(matches!(rig.ask(secret(id, count)), Response::Receipt(_)));
}

const DELETE: Retention = Retention::Delete { recreate: true, forget_sequences: false };

#[test]
fn what_was_deleted_leaves_the_disk_when_an_operator_orders_it() {
    let mut rig = Rig::new();
    secrets(&mut rig, "subject", 3);
    append(&mut rig, "kept", 2);
    take(&mut rig, "subject", DELETE);
    assert_eq!(payloads(&mut rig), 3, "a delete alone hides");
    order(&mut rig, 1);
    assert_eq!(payloads(&mut rig), 0);
    let [_, upto, reclaimed, erased] = told(&rig);
    assert!(upto > 0 && reclaimed > 100_000 && erased > 3 * SECRET.len() as u64);
    assert_eq!(read(&mut rig, "kept"), [1, 2]);
    append(&mut rig, "subject", 1);
    assert_eq!(read(&mut rig, "subject"), [4]);
    let mut rig = rig.restarted();
    assert_eq!((read(&mut rig, "subject"), read(&mut rig, "kept")), (vec![4], vec![1, 2]));
    assert_eq!(rig.core.directory().erased().value(), upto, "it is noted");
}

#[test]
fn an_order_does_not_wait_for_what_is_deleted_after_it() {
    let mut rig = Rig::new();
    secrets(&mut rig, "subject", 3);
    take(&mut rig, "subject", DELETE);
    // So that the log can go on in the next segment at once.
    while !rig.core.log.has_segment(2) {
        append(&mut rig, "busy", 20);
    }
    let later = [secret("later", 1), taking("later", DELETE)].map(task);
    rig.send(vec![Work::Step(Step::Compact { order: 1 })]);
    rig.send(later.into());
    wait(&mut rig, 1);
    assert_eq!(payloads(&mut rig), 1, "of the later one");
    order(&mut rig, 2);
    assert_eq!(payloads(&mut rig), 0);
}

#[test]
fn a_trim_takes_what_is_before_it_and_leaves_the_rest_of_the_batch() {
    let mut rig = Rig::new();
    secrets(&mut rig, "subject", 4);
    take(&mut rig, "subject", Retention::Trim { keep_from: Version::new(4) });
    order(&mut rig, 1);
    assert_eq!((payloads(&mut rig), read(&mut rig, "subject")), (1, vec![4]));
}

#[test]
fn what_is_in_a_full_segment_goes_by_itself() {
    let mut rig = Rig::new();
    secrets(&mut rig, "subject", 3);
    take(&mut rig, "subject", DELETE);
    rig.tick();
    rig.flush();
    assert_eq!(payloads(&mut rig), 3, "its segment takes frames");
    while !rig.core.log.has_segment(3) {
        append(&mut rig, "busy", 20);
    }
    rig.tick();
    rig.flush();
    rig.tick();
    rig.flush();
    assert_eq!(payloads(&mut rig), 0);
    assert!(rig.core.directory().erased().value() > 0);
    let versions = read(&mut rig, "busy").len();
    assert!(versions > 100, "{versions}");
}

#[test]
fn an_aggregate_that_is_larger_than_a_pass_goes_in_several() {
    let mut rig = Rig::new();
    for _ in 0..PLACES_MAX / 16 + 700 {
        let members = (0..16).map(|_| member("subject", Guard::Any, 1));
        rig.send(members.map(|it| task(write(vec![it]))).collect());
        rig.flush();
        rig.replies();
    }
    secrets(&mut rig, "other", 1);
    take(&mut rig, "subject", DELETE);
    take(&mut rig, "other", DELETE);
    order(&mut rig, 1);
    assert_eq!(payloads(&mut rig), 0);
    assert!(told(&rig)[3] > 2 * PLACES_MAX as u64, "{:?}", told(&rig));
}

const TXN: TxnId = TxnId { epoch: Epoch::new(1), boot: BootId::new(1), counter: 99 };

#[test]
fn a_part_of_a_write_over_several_shards_that_is_decided_late_is_erased_too() {
    let mut rig = Rig::new();
    secrets(&mut rig, "late", 3);
    secrets(&mut rig, "soon", 1);
    let Request::Write(Write { members, .. }) = taking("late", DELETE) else { unreachable!() };
    let (client_id, write_hash) = Default::default();
    let part = Arc::new(Part { client_id, write_hash, members });
    let participants = [ShardId::new(0), ShardId::new(1)].into();
    let decision = Decision::default();
    let mode = Mode::Try;
    rig.send(vec![
        Work::Step(Step::Reserve { txn: TXN, coordinator: 0, mode, part }),
        Work::Step(Step::Append { txn: TXN, participants, decision: decision.clone() }),
    ]);
    rig.flush();
    take(&mut rig, "soon", DELETE);
    rig.send(vec![Work::Step(Step::Compact { order: 1 })]);
    for _ in 0..5 {
        rig.flush();
        rig.tick();
    }
    assert_eq!(told(&rig)[..2], [0, 0], "something at a lower stamp may still be taken away");
    decision.decide();
    rig.send(vec![Work::Step(Step::Settle { txn: TXN })]);
    wait(&mut rig, 1);
    assert_eq!(payloads(&mut rig), 0);
}

#[test]
fn a_segment_stays_sealed_while_a_frame_behind_it_waits_for_its_commit() {
    let mut rig = Rig::paired();
    rig.hold_elsewhere(1 << 40);
    secrets(&mut rig, "subject", 1);
    while !rig.core.log.has_segment(3) {
        append(&mut rig, "busy", 20);
    }
    secrets(&mut rig, "subject", 1);
    take(&mut rig, "subject", DELETE);
    rig.hold_elsewhere(0);
    rig.send(vec![Work::Step(Step::Compact { order: 1 })]);
    rig.request(7, write(vec![member("busy", Guard::Any, 1)]));
    wait(&mut rig, 1);
    assert!(rig.core.committed() < rig.core.log.durable());
    assert_eq!(payloads(&mut rig), 0);
}

fn task(request: Request) -> Work<u32> {
    Work::Task(Task { route: 0, deadline: None, request })
}
