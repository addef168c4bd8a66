//! What a shard's disk holds after a delete, and what it does about it.

use std::sync::Arc;

use celeriant_schema::{
    BootId, ClientId, EncodedEvents, Epoch, Guard, Hash, Lsn, Member, ReadQuery, Request, Response,
    Retention, ShardId, Stamp, TxnId, Version,
};

use super::PLACES_MAX;
use crate::replicator::orders::{Order, Report};
use crate::shard::Joints;
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

fn secret_member(id: &str, count: usize) -> Member {
    let (key, guard, events) = (key(id), Guard::Any, events(count, SECRET));
    Member { key, guard, sequence: None, events, retention: None }
}

fn secret(id: &str, count: usize) -> Request {
    write(vec![secret_member(id, count)])
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

const TXN: TxnId = TxnId { epoch: Epoch::new(1), boot: BootId::new(1), counter: 9 };

/// This shard's part of a write over two, durable here and not decided.
fn open_leg(rig: &mut Rig, members: Vec<Member>) -> Decision {
    let part = Arc::new(Part { client_id: ClientId::NONE, write_hash: Hash::ZERO, members });
    let participants = Arc::from([ShardId::new(0), ShardId::new(1)]);
    let (coordinator, mode, txn, decision) = (0, Mode::Try, TXN, Decision::default());
    rig.send(vec![Work::Step(Step::Reserve { txn, coordinator, mode, part })]);
    let append = Step::Append { txn, participants, decision: decision.clone() };
    rig.send(vec![Work::Step(append)]);
    rig.flush();
    decision
}

fn commit_leg(rig: &mut Rig, decision: &Decision) {
    decision.decide();
    rig.send(vec![Work::Step(Step::Settle { txn: TXN })]);
    rig.flush();
}

/// Some seconds pass; the order is not carried out.
fn waits_in_vain(rig: &mut Rig, order: u64) {
    rig.send(vec![Work::Step(Step::Compact { order })]);
    for _ in 0..5 {
        rig.flush();
        rig.tick();
    }
    rig.flush();
    assert!(told(rig)[0] < order, "{:?}", told(rig));
}

#[test]
fn a_part_of_an_aborted_write_leaves_the_disk_and_its_aggregate_goes_on() {
    let mut rig = Rig::new();
    append(&mut rig, "subject", 1);
    open_leg(&mut rig, vec![secret_member("subject", 3), secret_member("other", 1)]);
    // The other part is not there: whoever leads next decides against it.
    let mut rig = rig.restarted();
    assert_eq!((payloads(&mut rig), read(&mut rig, "subject")), (4, vec![1]), "an abort hides");
    append(&mut rig, "subject", 1);
    order(&mut rig, 1);
    assert_eq!((payloads(&mut rig), rig.files_with(SECRET.as_bytes())), (0, Vec::new()));
    assert!(told(&rig)[3] > 4 * SECRET.len() as u64, "{:?}", told(&rig));
    let erased = rig.core.directory().erased();
    append(&mut rig, "other", 1);
    // The start follows every chain.
    let mut rig = rig.restarted_in(3);
    assert_eq!((read(&mut rig, "subject"), read(&mut rig, "other")), (vec![1, 2], vec![1]));
    assert_eq!(rig.core.directory().erased(), erased, "it is noted");
    order(&mut rig, 1);
    assert_eq!((payloads(&mut rig), told(&rig)[3]), (0, 0), "there was nothing left to do");
}

#[test]
fn a_part_that_is_not_decided_stays_and_whatever_is_due_behind_it_waits() {
    let mut rig = Rig::new();
    let decision = open_leg(&mut rig, vec![secret_member("subject", 2)]);
    secrets(&mut rig, "gone", 1);
    take(&mut rig, "gone", DELETE);
    waits_in_vain(&mut rig, 1);
    assert_eq!(payloads(&mut rig), 3);
    commit_leg(&mut rig, &decision);
    wait(&mut rig, 1);
    assert_eq!((payloads(&mut rig), read(&mut rig, "subject")), (2, vec![1, 2]));
}

#[test]
fn a_delete_that_is_decided_after_later_ones_is_not_forgotten() {
    let mut rig = Rig::new();
    secrets(&mut rig, "subject", 2);
    let (key, events) = (key("subject"), EncodedEvents::default());
    let retention = Some(DELETE);
    let member = Member { key, guard: Guard::Any, sequence: None, events, retention };
    let decision = open_leg(&mut rig, vec![member]);
    secrets(&mut rig, "gone", 1);
    take(&mut rig, "gone", DELETE);
    waits_in_vain(&mut rig, 1);
    commit_leg(&mut rig, &decision);
    wait(&mut rig, 1);
    assert_eq!(payloads(&mut rig), 0);
}

/// The follower takes what the leader sealed in `epoch`, all of which is committed.
fn follow(leader: &mut Rig, follower: &mut Rig, epoch: u64, upto: u64) {
    leader.flush();
    for report in leader.reports() {
        let Report::Sealed(frames) = report else { continue };
        let (epoch, before, bytes) = (Epoch::new(epoch), frames.before, frames.bytes);
        follower.order(Order::Accept { epoch, before, bytes });
    }
    follower.order(Order::Commit { commit: Lsn::new(upto), closed: Stamp::new(upto) });
}

#[test]
fn what_was_aborted_leaves_the_disks_of_both_nodes_once_that_is_committed() {
    let mut leader = Rig::follower(0, &Joints::default()).lead(1);
    leader.hold_elsewhere(1);
    open_leg(&mut leader, vec![secret_member("subject", 2)]);
    leader.hold_elsewhere(2);
    let mut follower = Rig::follower(0, &Joints::default());
    follower.order(Order::Promise { epoch: Epoch::new(1) });
    follow(&mut leader, &mut follower, 1, 2);
    waits_in_vain(&mut follower, 1);
    assert_eq!((payloads(&mut leader), payloads(&mut follower)), (2, 2));
    // Another leadership, which decides against it.
    leader.order(Order::StepDown);
    let mut leader = leader.reopened(&Joints::default()).lead(2);
    waits_in_vain(&mut leader, 1);
    assert_eq!(payloads(&mut leader), 2, "the other place does not hold the abort");
    leader.hold_elsewhere(4);
    wait(&mut leader, 1);
    follower.order(Order::Promise { epoch: Epoch::new(2) });
    follow(&mut leader, &mut follower, 2, 4);
    wait(&mut follower, 1);
    for node in [&mut leader, &mut follower] {
        assert_eq!((payloads(node), node.files_with(SECRET.as_bytes())), (0, Vec::new()));
    }
    assert_eq!(told(&leader)[3], told(&follower)[3]);
}

#[test]
fn an_order_is_done_when_what_was_durable_then_is_known_to_be_committed() {
    let mut leader = Rig::follower(0, &Joints::default()).lead(1);
    leader.hold_elsewhere(1);
    for request in [secret("subject", 2), taking("subject", DELETE)] {
        leader.request(0, request);
        leader.flush();
    }
    leader.hold_elsewhere(3);
    let mut follower = Rig::follower(0, &Joints::default());
    follower.order(Order::Promise { epoch: Epoch::new(1) });
    follow(&mut leader, &mut follower, 1, 2);
    waits_in_vain(&mut follower, 1);
    assert_eq!(payloads(&mut follower), 2, "the delete is here, and not shown");
    follow(&mut leader, &mut follower, 1, 3);
    wait(&mut follower, 1);
    assert_eq!(payloads(&mut follower), 0);
}

fn task(request: Request) -> Work<u32> {
    Work::Task(Task { route: 0, deadline: None, request })
}
