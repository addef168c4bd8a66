//! The coordinator, step by step.

use std::sync::Arc;

use celeriant_schema::{
    AggregateKey, AggregateReceipt, AlreadyApplied, ClientId, Conflict, EncodedEvents, Guard, Hash,
    Member, Refusal, Response, Sequence, ShardId, Stamp, TxnId, Version,
};

use super::*;
use crate::verdict::SequenceFinding;

const TXN: TxnId = TxnId {
    epoch: celeriant_schema::Epoch::new(1),
    boot: celeriant_schema::BootId::new(1),
    counter: 7,
};

fn key(id: &str) -> AggregateKey {
    AggregateKey::new("o", "t", id).expect("valid")
}

fn begun(shards: u16) -> Core<&'static str> {
    begun_with(shards, &[])
}

/// Every shard has these members.
fn begun_with(shards: u16, members: &[Member]) -> Core<&'static str> {
    let mut core = Core::new(3);
    let members = members.to_vec();
    let part = || {
        let members = members.clone();
        Arc::new(Part { client_id: ClientId::NONE, write_hash: Hash::ZERO, members })
    };
    core.begin(Begin::Write {
        txn: TXN,
        route: "client",
        deadline: None,
        order: vec![key("b"), key("a")],
        parts: (0..shards).map(|shard| (ShardId::new(shard), part())).collect(),
    });
    core
}

fn say(core: &mut Core<&'static str>, shard: u16, kind: AnswerKind) -> Vec<Effect<&'static str>> {
    let mut effects = Vec::new();
    core.handle(0, Answer { shard: ShardId::new(shard), kind }, &mut effects);
    effects
}

fn conflict(id: &str) -> AnswerKind {
    let (key, expected, actual) = (key(id), Guard::NoStream, Version::new(4));
    let conflicts = vec![Conflict { key, expected, actual }];
    AnswerKind::Found { txn: TXN, findings: Findings { conflicts, ..Findings::default() } }
}

fn committed(id: &str, stamp: u64) -> AnswerKind {
    let version = Version::new(1);
    let receipt = AggregateReceipt {
        key: key(id),
        first_version: version,
        last_version: version,
        hash: Hash::ZERO,
    };
    AnswerKind::Committed { txn: TXN, receipts: vec![receipt], stamp: Stamp::new(stamp) }
}

fn steps(effects: &[Effect<&'static str>]) -> Vec<String> {
    let name = |effect: &Effect<&'static str>| match effect {
        Effect::Step(shard, Step::Reserve { mode, .. }) => format!("reserve {shard} {mode:?}"),
        Effect::Step(shard, Step::Append { .. }) => format!("append {shard}"),
        Effect::Step(shard, Step::Release { .. }) => format!("release {shard}"),
        Effect::Step(shard, Step::Settle { .. }) => format!("settle {shard}"),
        Effect::Step(shard, step) => format!("{step:?} {shard}"),
        Effect::Reply(..) | Effect::Refuse(..) => "reply".into(),
    };
    effects.iter().map(name).collect()
}

#[test]
fn a_write_is_decided_only_when_every_leg_is_committed() {
    let mut core = begun(2);
    assert!(say(&mut core, 1, AnswerKind::Held { txn: TXN }).is_empty());
    let appends = say(&mut core, 0, AnswerKind::Held { txn: TXN });
    assert_eq!(steps(&appends), ["append 0", "append 1"]);
    let Effect::Step(_, Step::Append { decision, .. }) = &appends[0] else { panic!("append") };
    assert!(say(&mut core, 0, committed("a", 10)).is_empty());
    assert!(!decision.is_decided());
    let end = say(&mut core, 1, committed("b", 9));
    assert!(decision.is_decided(), "before anybody is told");
    assert_eq!(steps(&end), ["reply", "settle 0", "settle 1"]);
    let Effect::Reply("client", Response::Receipt(receipt)) = &end[0] else { panic!("{end:?}") };
    assert_eq!(receipt.stamp, Stamp::new(10));
    assert_eq!(receipt.writes[0].key, key("b"), "in the request's order");
    assert!(core.is_quiet());
}

#[test]
fn a_refusal_releases_what_is_held_and_appends_nothing() {
    let mut core = begun(2);
    assert!(say(&mut core, 0, conflict("a")).is_empty());
    let end = say(&mut core, 1, AnswerKind::Held { txn: TXN });
    assert_eq!(steps(&end), ["release 1", "reply"]);
    let Effect::Refuse(_, Refusal::Conflict { conflicts, already_applied }) = &end[1] else {
        panic!("{end:?}")
    };
    assert_eq!((conflicts.len(), already_applied), (1, &AlreadyApplied::None));
    assert!(core.is_quiet());
}

#[test]
fn a_write_that_one_shard_has_forgotten_has_no_receipt_of_the_others_alone() {
    let (guard, sequence) = (Guard::Any, Sequence::new(1));
    let events = EncodedEvents::default();
    let member = Member { key: key("a"), guard, sequence: Some(sequence), events, retention: None };
    let mut core = begun_with(2, &[member]);
    let (version, stamp) = (Version::new(1), Stamp::new(5));
    let receipt = AggregateReceipt {
        key: key("a"),
        first_version: version,
        last_version: version,
        hash: Hash::ZERO,
    };
    let sequences = vec![SequenceFinding::Landed { sequence, receipt, stamp }];
    let findings = Findings { sequences, ..Findings::default() };
    assert!(say(&mut core, 0, AnswerKind::Found { txn: TXN, findings }).is_empty());
    let end = say(&mut core, 1, AnswerKind::Held { txn: TXN });
    let stale = Refusal::SequenceStale { key: key("a"), sequence };
    assert!(matches!(&end[1], Effect::Refuse(_, refusal) if *refusal == stale), "{end:?}");
}

#[test]
fn under_contention_shards_are_taken_in_ascending_order() {
    let mut core = begun(3);
    say(&mut core, 2, AnswerKind::Held { txn: TXN });
    say(&mut core, 0, AnswerKind::Busy { txn: TXN });
    let again = say(&mut core, 1, AnswerKind::Held { txn: TXN });
    assert_eq!(steps(&again), ["release 1", "release 2", "reserve 0 Wait"]);
    assert_eq!(steps(&say(&mut core, 0, AnswerKind::Held { txn: TXN })), ["reserve 1 Wait"]);
    assert_eq!(steps(&say(&mut core, 1, AnswerKind::Held { txn: TXN })), ["reserve 2 Wait"]);
    let appends = say(&mut core, 2, AnswerKind::Held { txn: TXN });
    assert_eq!(steps(&appends), ["append 0", "append 1", "append 2"]);
}

#[test]
fn a_refusal_under_contention_still_names_every_conflict() {
    let mut core = begun(3);
    say(&mut core, 0, AnswerKind::Busy { txn: TXN });
    say(&mut core, 1, conflict("a"));
    say(&mut core, 2, AnswerKind::Held { txn: TXN });
    say(&mut core, 0, AnswerKind::Held { txn: TXN });
    let checks = say(&mut core, 1, conflict("a"));
    assert_eq!(steps(&checks), ["release 0", "reserve 0 Check", "reserve 2 Check"]);
    say(&mut core, 2, conflict("b"));
    let end = say(&mut core, 0, AnswerKind::Found { txn: TXN, findings: Findings::default() });
    let Effect::Refuse(_, Refusal::Conflict { conflicts, .. }) = &end[0] else { panic!("{end:?}") };
    let keys: Vec<_> = conflicts.iter().map(|conflict| conflict.key.clone()).collect();
    assert_eq!(keys, [key("b"), key("a")], "both, in the request's order");
}

#[test]
fn a_deadline_that_passes_before_the_append_is_definite() {
    let mut core = Core::new(0);
    let part =
        || Arc::new(Part { client_id: ClientId::NONE, write_hash: Hash::ZERO, members: vec![] });
    core.begin(Begin::Write {
        txn: TXN,
        route: "client",
        deadline: Some(5),
        order: vec![],
        parts: vec![(ShardId::new(0), part()), (ShardId::new(1), part())],
    });
    let mut effects = Vec::new();
    for shard in 0..2 {
        let answer = Answer { shard: ShardId::new(shard), kind: AnswerKind::Held { txn: TXN } };
        core.handle(5, answer, &mut effects);
    }
    assert_eq!(steps(&effects), ["release 0", "release 1", "reply"]);
}

#[test]
fn a_shard_without_space_refuses_the_whole_write() {
    let mut core = begun(2);
    let refusal = Refusal::Overloaded { what: "disk".into(), retry_after_ms: 1 };
    say(&mut core, 0, AnswerKind::Refused { txn: TXN, refusal });
    let end = say(&mut core, 1, AnswerKind::Held { txn: TXN });
    assert_eq!(steps(&end), ["release 1", "reply"]);
}
