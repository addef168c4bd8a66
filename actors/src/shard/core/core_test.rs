//! The shard's promises, one by one (semantics.md §2–§5).

use std::sync::Arc;

use celeriant_schema::{
    AlreadyApplied, Guard, HeadQuery, ReadQuery, Receipt, Refusal, Request, Response, ShardId,
    TxnId, Version,
};

use super::rig::{Rig, exact, key, member, sequenced, write};
use crate::work::{AnswerKind, Decision, Mode, Part, Step, Work};

fn receipt(response: Response) -> Receipt {
    match response {
        Response::Receipt(receipt) => receipt,
        other => panic!("a receipt, not {other:?}"),
    }
}

fn refusal(response: Response) -> Refusal {
    match response {
        Response::Refused(refusal) => refusal,
        other => panic!("a refusal, not {other:?}"),
    }
}

fn read(id: &str) -> Request {
    Request::Read(ReadQuery::all(key(id)))
}

fn head(id: &str) -> Request {
    Request::Head(HeadQuery { key: key(id), client: None, min_stamp: None, any: false })
}

fn version(rig: &mut Rig, id: &str) -> u64 {
    match rig.ask(head(id)) {
        Response::Head(head) => head.version.value(),
        Response::Refused(Refusal::NotFound { .. }) => 0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_guard_passes_exactly_when_it_should() {
    let cases = [
        (Guard::Any, true, true),
        (Guard::NoStream, true, false),
        (Guard::Exists, false, true),
        (exact(0), true, false),
        (exact(1), false, true),
        (exact(2), false, false),
    ];
    for (guard, on_new, on_one_event) in cases {
        let mut rig = Rig::new();
        let new = rig.ask(write(vec![member("new", guard, 1)]));
        assert_eq!(matches!(new, Response::Receipt(_)), on_new, "{guard:?} on a new aggregate");
        rig.ask(write(vec![member("old", Guard::Any, 1)]));
        let old = rig.ask(write(vec![member("old", guard, 1)]));
        assert_eq!(matches!(old, Response::Receipt(_)), on_one_event, "{guard:?} at version 1");
    }
}

#[test]
fn a_conflict_names_every_failed_aggregate_and_appends_nothing() {
    let mut rig = Rig::new();
    rig.ask(write(vec![member("a", Guard::Any, 2)]));
    let members =
        vec![member("b", Guard::Exists, 1), member("c", Guard::Any, 1), member("a", exact(1), 1)];
    let Refusal::Conflict { conflicts, already_applied } = refusal(rig.ask(write(members))) else {
        panic!("a conflict")
    };
    let named: Vec<_> = conflicts.iter().map(|c| (c.key.id(), c.actual.value())).collect();
    assert_eq!(named, [("b", 0), ("a", 2)]);
    assert_eq!(already_applied, AlreadyApplied::None);
    assert_eq!((version(&mut rig, "b"), version(&mut rig, "c")), (0, 0));
}

#[test]
fn nothing_is_answered_or_visible_before_it_is_durable() {
    let mut rig = Rig::new();
    rig.request(1, write(vec![member("a", Guard::Any, 1)]));
    assert!(rig.replies().is_empty());
    rig.request(2, head("a"));
    let early = rig.replies();
    assert!(matches!(&early[..], [(2, Response::Refused(Refusal::NotFound { .. }))]), "{early:?}");
    rig.flush();
    assert!(matches!(&rig.replies()[..], [(1, Response::Receipt(_))]));
    assert_eq!(version(&mut rig, "a"), 1);
}

#[test]
fn nothing_is_answered_or_visible_before_the_other_place_holds_it() {
    let mut rig = Rig::paired();
    rig.request(1, write(vec![member("a", Guard::NoStream, 1)]));
    rig.request(2, write(vec![member("b", Guard::NoStream, 1)]));
    rig.flush();
    rig.request(3, write(vec![member("a", Guard::NoStream, 1)]));
    assert!(rig.replies().is_empty(), "durable here is not enough, nor for a refusal (R3)");
    assert!(matches!(refusal(rig.ask(head("a"))), Refusal::NotFound { .. }));
    rig.hold_elsewhere(2);
    assert!(rig.replies().is_empty(), "a frame commits as a whole");
    rig.hold_elsewhere(3);
    let routes: Vec<u32> = rig.replies().into_iter().map(|(route, _)| route).collect();
    assert_eq!(routes, [1, 2, 3]);
    rig.hold_elsewhere(2);
    assert_eq!(version(&mut rig, "a"), 1, "what is committed stays so");
}

#[test]
fn the_other_place_may_be_ahead_of_this_disk() {
    let mut rig = Rig::paired();
    rig.request(1, write(vec![member("a", Guard::NoStream, 1)]));
    rig.hold_elsewhere(2);
    assert!(rig.replies().is_empty(), "it is not durable here");
    rig.flush();
    receipt(rig.replies().remove(0).1);
}

#[test]
fn a_refusal_that_rests_on_uncommitted_state_waits_for_it() {
    let mut rig = Rig::new();
    rig.request(1, write(vec![member("a", Guard::NoStream, 1)]));
    rig.request(2, write(vec![member("a", Guard::NoStream, 1)]));
    assert!(rig.replies().is_empty(), "the conflict would leak version 1");
    rig.flush();
    let replies = rig.replies();
    assert!(matches!(&replies[0], (1, Response::Receipt(_))));
    assert!(matches!(&replies[1], (2, Response::Refused(Refusal::Conflict { .. }))));
    assert_eq!(rig.reads, [2], "a deposed leader may commit what its successor has taken over");
}

#[test]
fn a_guard_without_events_protects_and_appends_nothing() {
    let mut rig = Rig::new();
    rig.ask(write(vec![member("limit", Guard::Any, 3)]));
    let guarded = |version| {
        let mut limit = member("limit", exact(version), 0);
        limit.events = celeriant_schema::EncodedEvents::default();
        write(vec![limit, member("spend", Guard::Any, 1)])
    };
    assert!(matches!(refusal(rig.ask(guarded(2))), Refusal::Conflict { .. }));
    let done = receipt(rig.ask(guarded(3)));
    assert_eq!(done.writes.len(), 1, "only what was appended is in the receipt");
    assert_eq!(version(&mut rig, "limit"), 3);
}

#[test]
fn a_retry_gets_the_original_receipt_in_flight_and_later_and_after_a_restart() {
    let mut rig = Rig::new();
    rig.request(1, sequenced("a", Guard::Any, 1, "x"));
    rig.request(2, sequenced("a", Guard::Any, 1, "x"));
    assert!(rig.replies().is_empty(), "a duplicate of a write in flight waits for it");
    rig.flush();
    let mut replies = rig.replies();
    let second = receipt(replies.remove(1).1);
    let first = receipt(replies.remove(0).1);
    assert!(second.already_applied && !first.already_applied);
    assert_eq!((&first.writes, first.stamp), (&second.writes, second.stamp));

    let mut rig = rig.restarted();
    let third = receipt(rig.ask(sequenced("a", Guard::Any, 1, "x")));
    assert_eq!((third.already_applied, &third.writes), (true, &first.writes));
    assert_eq!(version(&mut rig, "a"), 1);
}

#[test]
fn a_retry_whose_version_is_stale_by_its_own_doing_is_told_so() {
    let mut rig = Rig::new();
    let first = receipt(rig.ask(sequenced("a", Guard::NoStream, 1, "x")));
    let Refusal::Conflict { already_applied, .. } =
        refusal(rig.ask(sequenced("a", Guard::NoStream, 1, "x")))
    else {
        panic!("a conflict")
    };
    let AlreadyApplied::Receipt(again) = already_applied else { panic!("{already_applied:?}") };
    assert_eq!(again.writes, first.writes);
}

#[test]
fn sequences_are_dense_and_not_reusable() {
    let mut rig = Rig::new();
    let gap = refusal(rig.ask(sequenced("a", Guard::Any, 2, "x")));
    assert!(matches!(gap, Refusal::SequenceGap { expected, .. } if expected.value() == 1));
    rig.ask(sequenced("a", Guard::Any, 1, "x"));
    let reused = refusal(rig.ask(sequenced("a", Guard::Any, 1, "other")));
    assert!(matches!(reused, Refusal::SequenceReused { .. }));
    for sequence in 2..=18 {
        receipt(rig.ask(sequenced("a", Guard::Any, sequence, "x")));
    }
    let stale = refusal(rig.ask(sequenced("a", Guard::Any, 1, "x")));
    assert!(matches!(stale, Refusal::SequenceStale { .. }), "{stale:?}");
    let oldest = receipt(rig.ask(sequenced("a", Guard::Any, 3, "x")));
    assert_eq!(oldest.writes[0].first_version.value(), 3, "16 are remembered");
    let Refusal::Conflict { already_applied, .. } =
        refusal(rig.ask(sequenced("a", Guard::NoStream, 1, "x")))
    else {
        panic!("a conflict")
    };
    assert_eq!(already_applied, AlreadyApplied::Unknown);
}

#[test]
fn pages_come_from_memory_and_from_the_log_alike() {
    let mut rig = Rig::new();
    let first = receipt(rig.ask(write(vec![member("a", Guard::Any, 3)])));
    rig.ask(write(vec![member("a", exact(3), 2)]));
    let warm = rig.ask(read("a"));
    let Response::Page(page) = &warm else { panic!("{warm:?}") };
    let versions: Vec<u64> =
        page.batches.iter().flat_map(|b| &b.events).map(|e| e.version.value()).collect();
    assert_eq!(versions, [1, 2, 3, 4, 5]);
    assert_eq!(page.batches[0].events[2].hash, first.writes[0].hash);
    assert_eq!(page.next, None);
    let mut rig = rig.restarted();
    let Response::Page(cold) = rig.ask(read("a")) else { panic!("a page") };
    assert_eq!(cold.batches, page.batches);
}

#[test]
fn a_read_never_splits_a_batch_and_says_where_to_go_on() {
    let mut rig = Rig::new();
    for count in [2, 3, 1] {
        rig.ask(write(vec![member("a", Guard::Any, count)]));
    }
    let ask = |rig: &mut Rig, backwards, from, to| {
        let Request::Read(query) = read("a") else { unreachable!() };
        let query = ReadQuery { limit: Some(1), backwards, from, to, ..query };
        let Response::Page(page) = rig.ask(Request::Read(query)) else { panic!("a page") };
        (page.batches[0].events.len(), page.next.map(Version::value))
    };
    assert_eq!(ask(&mut rig, false, Version::NONE, None), (2, Some(3)));
    assert_eq!(ask(&mut rig, false, Version::new(3), None), (3, Some(6)));
    assert_eq!(ask(&mut rig, false, Version::new(6), None), (1, None));
    assert_eq!(ask(&mut rig, true, Version::NONE, None), (1, Some(5)));
    assert_eq!(ask(&mut rig, true, Version::NONE, Some(Version::new(5))), (3, Some(2)));
    assert_eq!(ask(&mut rig, true, Version::NONE, Some(Version::new(2))), (2, None));
}

const TXN: TxnId = TxnId {
    epoch: celeriant_schema::Epoch::new(1),
    boot: celeriant_schema::BootId::new(1),
    counter: 99,
};

fn reserve(id: &str, mode: Mode) -> Work<u32> {
    let members = vec![member(id, Guard::Any, 1)];
    let (client_id, write_hash) = Default::default();
    let part = Arc::new(Part { client_id, write_hash, members });
    Work::Step(Step::Reserve { txn: TXN, coordinator: 0, mode, part })
}

fn append_leg(decision: &Decision) -> Work<u32> {
    let participants = [ShardId::new(0), ShardId::new(1)].into();
    Work::Step(Step::Append { txn: TXN, participants, decision: decision.clone() })
}

#[test]
fn a_leg_is_invisible_until_the_write_is_decided_and_then_at_once() {
    let mut rig = Rig::new();
    let decision = Decision::default();
    rig.send(vec![reserve("a", Mode::Try)]);
    assert!(matches!(rig.answers()[..], [ref a] if matches!(a.kind, AnswerKind::Held { .. })));
    rig.send(vec![append_leg(&decision)]);
    rig.flush();
    assert!(matches!(rig.answers()[..], [ref a] if matches!(a.kind, AnswerKind::Committed { .. })));
    assert_eq!(version(&mut rig, "a"), 0, "committed here, but not decided");
    rig.request(5, write(vec![member("a", exact(1), 1)]));
    rig.flush();
    assert!(rig.replies().is_empty(), "a later write waits for the decision");
    decision.decide();
    assert_eq!(version(&mut rig, "a"), 1, "decided, although the shard was not told yet");
    rig.send(vec![Work::Step(Step::Settle { txn: TXN })]);
    rig.flush();
    assert!(matches!(rig.replies()[..], [(5, Response::Receipt(_))]));
    assert_eq!(version(&mut rig, "a"), 2);
}

#[test]
fn a_released_hold_lets_the_queue_go_on_in_order() {
    let mut rig = Rig::new();
    rig.send(vec![reserve("a", Mode::Try)]);
    rig.request(1, write(vec![member("a", exact(0), 1)]));
    rig.request(2, write(vec![member("a", exact(1), 1)]));
    rig.request(3, write(vec![member("b", exact(0), 1)]));
    rig.flush();
    assert!(matches!(rig.replies()[..], [(3, Response::Receipt(_))]), "others are not held up");
    rig.send(vec![Work::Step(Step::Release { txn: TXN })]);
    rig.flush();
    let replies = rig.replies();
    assert!(matches!(replies[..], [(1, Response::Receipt(_)), (2, Response::Receipt(_))]));
}

#[test]
fn read_stamps_stop_before_an_undecided_leg() {
    let mut rig = Rig::new();
    let decision = Decision::default();
    rig.send(vec![reserve("a", Mode::Try), append_leg(&decision)]);
    rig.flush();
    let later = receipt(rig.ask(write(vec![member("b", Guard::Any, 1)])));
    assert!(rig.core.closed_stamp() < later.stamp, "the leg may still become visible below it");
    decision.decide();
    rig.send(vec![Work::Step(Step::Settle { txn: TXN })]);
    rig.flush();
    assert!(rig.core.closed_stamp() >= later.stamp);
}

#[test]
fn writes_behind_one_that_waits_for_the_directory_keep_their_order() {
    let mut rig = Rig::scarce();
    let both = |a, b| vec![member("a", a, 1), member("b", b, 1)];
    receipt(rig.ask(write(both(Guard::NoStream, Guard::NoStream))));
    for n in 0..2_000 {
        receipt(rig.ask(write(vec![member(&format!("other{n}"), Guard::NoStream, 1)])));
    }
    rig.request(1, write(both(Guard::Any, Guard::Any)));
    assert!(rig.core.cold.held(&both(Guard::Any, Guard::Any)).is_some(), "it waits for pages");
    rig.request(2, write(vec![member("b", exact(2), 1)]));
    rig.request(3, write(both(exact(2), exact(3))));
    rig.flush();
    let order: Vec<u32> = rig
        .replies()
        .into_iter()
        .map(|(route, answer)| {
            receipt(answer);
            route
        })
        .collect();
    assert_eq!(order, [1, 2, 3]);
}
