//! A shard that follows: what it takes, what it shows, how it comes to lead and to follow again.

use std::sync::Arc;

use celeriant_schema::peer::Position;
use celeriant_schema::{
    ClientId, EncodedEvents, Epoch, Guard, Hash, HeadQuery, Lsn, Member, Refusal, Request,
    Response, Retention, ShardId, Stamp, TxnId,
};

use super::rig::{Rig, key, member, write};
use crate::replicator::orders::{Frames, Lead, Order, Report};
use crate::shard::Joints;
use crate::work::{Decision, Mode, Part, Step, Work};

/// A leader of epoch 1 whose commits wait for nobody in these tests but the test.
fn leader(shard: u16) -> Rig {
    let mut leader = Rig::follower(shard, &Joints::default()).lead(1);
    leader.hold_elsewhere(1);
    leader
}

/// What the leader has sealed since last asked.
fn sealed(leader: &mut Rig) -> Vec<Frames> {
    leader.flush();
    let frames = leader.reports().into_iter().filter_map(|report| match report {
        Report::Sealed(frames) => Some(frames),
        _ => None,
    });
    frames.collect()
}

fn epoch(number: u64) -> Epoch {
    Epoch::new(number)
}

/// The follower takes all of it, and says how far it is.
fn accept(follower: &mut Rig, frames: Vec<Frames>) -> Vec<Report> {
    let mut reports = Vec::new();
    for Frames { before, bytes, .. } in frames {
        reports.extend(follower.order(Order::Accept { epoch: epoch(1), before, bytes }));
    }
    reports
}

fn commit(follower: &mut Rig, lsn: u64) {
    follower.order(Order::Commit { commit: Lsn::new(lsn), closed: Stamp::new(lsn) });
}

fn follower(joints: &Joints, shard: u16) -> Rig {
    let mut follower = Rig::follower(shard, joints);
    let promised = follower.order(Order::Promise { epoch: epoch(1) });
    assert!(
        matches!(&promised[..], [Report::Promised { tip, .. }] if tip.durable.lsn == Lsn::ZERO)
    );
    follower
}

fn head(id: &str, any: bool) -> Request {
    Request::Head(HeadQuery { key: key(id), client: None, min_stamp: None, any })
}

/// The version that an `any` read sees; 0 = nothing.
fn version(rig: &mut Rig, id: &str) -> u64 {
    match rig.ask(head(id, true)) {
        Response::Head(head) => head.version.value(),
        Response::Refused(Refusal::NotFound { .. }) => 0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_committed_is_not_shown() {
    let (mut leader, mut follower) = (leader(0), follower(&Joints::default(), 0));
    leader.request(1, write(vec![member("a", Guard::NoStream, 1)]));
    let reports = accept(&mut follower, sealed(&mut leader));
    let durable = reports.iter().rev().find_map(|report| match report {
        Report::Durable { tip, .. } => Some(tip.durable),
        _ => None,
    });
    assert_eq!(durable, Some(leader.core.log.sealed_end()), "the same bytes, the same hash");
    assert_eq!(version(&mut follower, "a"), 0);
    commit(&mut follower, 1);
    assert_eq!(version(&mut follower, "a"), 0, "only the epoch's first record");
    commit(&mut follower, 2);
    assert_eq!(version(&mut follower, "a"), 1);
}

#[test]
fn whoever_needs_the_leader_is_refused() {
    let mut follower = follower(&Joints::default(), 0);
    let writing = write(vec![member("a", Guard::Any, 1)]);
    for request in [writing, head("a", false)] {
        let answer = follower.ask(request);
        assert!(matches!(answer, Response::Refused(Refusal::NoLeader)), "{answer:?}");
    }
}

#[test]
fn frames_that_do_not_continue_the_log_or_are_of_a_lower_epoch_are_not_taken() {
    let (mut leader, mut follower) = (leader(0), follower(&Joints::default(), 0));
    leader.request(1, write(vec![member("a", Guard::NoStream, 1)]));
    let mut frames = sealed(&mut leader);
    let first = frames.remove(0);
    let refused = accept(&mut follower, frames);
    assert!(matches!(refused[..], [Report::Refused { .. }]), "{refused:?}");
    follower.order(Order::Promise { epoch: epoch(2) });
    assert!(accept(&mut follower, vec![first]).is_empty(), "epoch 2 is promised");
    assert_eq!(follower.core.log.durable(), Lsn::ZERO);
}

#[test]
fn a_cut_keeps_what_was_shown_and_drops_what_was_not() {
    let joints = Joints::default();
    let (mut leader, mut follower) = (leader(0), follower(&joints, 0));
    leader.request(1, write(vec![member("a", Guard::NoStream, 1)]));
    let first = sealed(&mut leader);
    let kept = first[first.len() - 1].end;
    accept(&mut follower, first);
    leader.request(1, write(vec![member("b", Guard::NoStream, 1)]));
    accept(&mut follower, sealed(&mut leader));
    commit(&mut follower, 2);
    let cut = |to| Order::Cut { request: 7, epoch: epoch(1), to };
    // Below what is shown: never.
    let refused = follower.order(cut(Position { lsn: Lsn::new(1), hash: Hash::ZERO }));
    assert!(matches!(refused[..], [Report::Quarantined(_)]), "{refused:?}");
    assert!(follower.reopen.is_none());
    follower.order(cut(kept));
    let mut follower = follower.reopened(&joints);
    let done = follower.reports();
    assert!(
        matches!(&done[..], [Report::Cut { request: 7, tip, .. }] if tip.durable == kept),
        "{done:?}"
    );
    assert_eq!((version(&mut follower, "a"), version(&mut follower, "b")), (1, 0));
    let done = follower.order(cut(kept));
    assert!(matches!(done[..], [Report::Cut { .. }]), "it ends there already: {done:?}");
}

const TXN: TxnId =
    TxnId { epoch: Epoch::new(1), boot: celeriant_schema::BootId::new(1), counter: 9 };

/// The leader's part of a write over shards 0 and 1, committed there.
fn leg(leader: &mut Rig, id: &str) {
    let members = vec![member(id, Guard::NoStream, 1)];
    let part = Arc::new(Part { client_id: ClientId::NONE, write_hash: Hash::ZERO, members });
    let participants = Arc::from([ShardId::new(0), ShardId::new(1)]);
    let (coordinator, mode, txn) = (0, Mode::Try, TXN);
    leader.send(vec![Work::Step(Step::Reserve { txn, coordinator, mode, part })]);
    let decision = Decision::default();
    leader.send(vec![Work::Step(Step::Append { txn, participants, decision })]);
    leader.flush();
    leader.hold_elsewhere(2);
}

#[test]
fn a_write_over_two_shards_is_shown_by_both_or_by_none() {
    let joints = Joints::default();
    let mut leaders = [leader(0), leader(1)];
    let mut followers = [follower(&joints, 0), follower(&joints, 1)];
    leg(&mut leaders[0], "a");
    leg(&mut leaders[1], "b");
    accept(&mut followers[0], sealed(&mut leaders[0]));
    commit(&mut followers[0], 2);
    assert_eq!(version(&mut followers[0], "a"), 0, "half of it");
    // Its Resolve is there, and the other leg is not: nothing behind it is shown.
    leaders[0].send(vec![Work::Step(Step::Settle { txn: TXN })]);
    leaders[0].request(1, write(vec![member("c", Guard::NoStream, 1)]));
    accept(&mut followers[0], sealed(&mut leaders[0]));
    commit(&mut followers[0], 4);
    assert_eq!((version(&mut followers[0], "a"), version(&mut followers[0], "c")), (0, 0));
    let asked = std::mem::take(&mut followers[0].told);
    assert!(matches!(asked[..], [(_, Step::Sought { .. })]), "{asked:?}");
    // The other leg comes: both show it, whichever is asked first.
    accept(&mut followers[1], sealed(&mut leaders[1]));
    commit(&mut followers[1], 2);
    assert_eq!(version(&mut followers[1], "b"), 1);
    // Its part is shown when it is looked at; what follows waits until it is told.
    assert_eq!((version(&mut followers[0], "a"), version(&mut followers[0], "c")), (1, 0));
    let told = std::mem::take(&mut followers[1].told);
    assert!(matches!(told[..], [(shard, Step::Joined { .. })] if shard == ShardId::new(0)));
    followers[0].send(told.into_iter().map(|(_, step)| Work::Step(step)).collect());
    assert_eq!((version(&mut followers[0], "a"), version(&mut followers[0], "c")), (1, 1));
}

#[test]
fn a_part_that_was_resolved_before_a_restart_is_found_by_asking() {
    let joints = Joints::default();
    let mut leaders = [leader(0), leader(1)];
    let mut followers = [follower(&joints, 0), follower(&joints, 1)];
    leg(&mut leaders[0], "a");
    leg(&mut leaders[1], "b");
    for at in 0..2 {
        accept(&mut followers[at], sealed(&mut leaders[at]));
        commit(&mut followers[at], 2);
        leaders[at].send(vec![Work::Step(Step::Settle { txn: TXN })]);
    }
    accept(&mut followers[0], sealed(&mut leaders[0]));
    commit(&mut followers[0], 3);
    // Another process: nothing is known of the write but what the logs say.
    let joints = Joints::default();
    let [resolved, open] = followers;
    let restart = |mut rig: Rig| {
        rig.reopen = Some(crate::shard::Reopen { cut: None });
        let mut rig = rig.reopened(&joints);
        rig.order(Order::Promise { epoch: epoch(1) });
        rig
    };
    let (mut resolved, mut open) = (restart(resolved), restart(open));
    assert_eq!((version(&mut resolved, "a"), version(&mut open, "b")), (1, 0));
    accept(&mut open, sealed(&mut leaders[1]));
    commit(&mut open, 3);
    let asked = std::mem::take(&mut open.told);
    assert!(matches!(asked[..], [(shard, Step::Sought { .. })] if shard == ShardId::new(0)));
    resolved.send(asked.into_iter().map(|(_, step)| Work::Step(step)).collect());
    let told = std::mem::take(&mut resolved.told);
    open.send(told.into_iter().map(|(_, step)| Work::Step(step)).collect());
    assert_eq!(version(&mut open, "b"), 1);
}

#[test]
fn who_comes_to_lead_shows_everything_and_goes_on_where_the_log_ends() {
    let (mut leader, mut follower) = (leader(0), follower(&Joints::default(), 0));
    leader.request(1, write(vec![member("a", Guard::NoStream, 1)]));
    accept(&mut follower, sealed(&mut leader));
    let surveyed = follower.order(Order::Survey { epoch: epoch(2) });
    assert!(matches!(surveyed[..], [Report::Surveyed { .. }]), "{surveyed:?}");
    assert_eq!(version(&mut follower, "a"), 1, "R11");
    let boot = celeriant_schema::BootId::new(2);
    let lead = Lead { epoch: epoch(2), boot, decisions: Arc::default() };
    let begun = follower.order(Order::Lead(lead));
    assert!(!begun.iter().any(|report| matches!(report, Report::Leading { .. })), "{begun:?}");
    let leads = follower.order(Order::Held(Lsn::new(3)));
    assert!(leads.iter().any(|report| matches!(report, Report::Leading { .. })), "{leads:?}");
    follower.request(5, write(vec![member("a", super::rig::exact(1), 1)]));
    follower.flush();
    assert!(follower.replies().is_empty(), "the other place does not hold it");
    follower.hold_elsewhere(4);
    assert!(matches!(follower.replies()[..], [(5, Response::Receipt(_))]));
}

#[test]
fn who_stops_leading_says_what_is_unknown_and_what_was_not_done() {
    let joints = Joints::default();
    let mut leader = leader(0);
    leader.request(1, write(vec![member("a", Guard::NoStream, 1)]));
    leader.flush();
    // Rests on what is not committed.
    leader.request(2, write(vec![member("a", Guard::NoStream, 1)]));
    leader.order(Order::Quiesce { epoch: epoch(1) });
    leader.request(3, write(vec![member("b", Guard::NoStream, 1)]));
    assert!(leader.replies().is_empty());
    leader.order(Order::StepDown);
    let mut replies = leader.replies();
    replies.sort_by_key(|(route, _)| *route);
    let refusals: Vec<&Refusal> = replies
        .iter()
        .map(|(_, response)| match response {
            Response::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(refusals, [&Refusal::UnknownOutcome, &Refusal::UnknownOutcome, &Refusal::NoLeader]);
    // The tail stays, and is not shown.
    let mut leader = leader.reopened(&joints);
    assert_eq!((leader.core.log.durable(), version(&mut leader, "a")), (Lsn::new(2), 0));
}

#[test]
fn what_the_other_place_held_of_one_leadership_says_nothing_about_the_next() {
    let (mut leader, mut follower) = (leader(0), follower(&Joints::default(), 0));
    leader.request(1, write(vec![member("a", Guard::NoStream, 1)]));
    accept(&mut follower, sealed(&mut leader));
    follower.order(Order::Held(Lsn::new(1_000)));
    follower.order(Order::StepDown);
    let mut follower = follower.lead(2);
    follower.request(5, write(vec![member("b", Guard::NoStream, 1)]));
    follower.flush();
    assert!(follower.replies().is_empty(), "nobody holds it");
}

#[test]
fn frames_are_found_and_read_back_also_those_that_are_not_durable() {
    let mut leader = leader(0);
    leader.request(1, write(vec![member("a", Guard::NoStream, 1)]));
    let frames = sealed(&mut leader);
    let read = leader.order(Order::Read { after: frames[0].before.lsn, bytes_max: 1 });
    assert!(read.iter().any(|report| matches!(report, Report::Read(read) if *read == frames[0])));
    leader.request(1, write(vec![member("b", Guard::NoStream, 1)]));
    let mut effects = Vec::new();
    leader.core.pump(&mut effects);
    let end = leader.core.log.sealed_end();
    assert!(end.lsn > leader.core.log.durable(), "it is on its way");
    let order = Order::Find { request: 3, lsn: end.lsn };
    leader.core.order(0, vec![order], &mut effects).expect("the disk works");
    let found = effects.iter().any(|effect| {
        matches!(effect, super::Effect::Report(Report::Found { request: 3, frame: Some(place) })
            if place.end == end)
    });
    assert!(found, "{effects:?}");
}

#[test]
fn an_answer_that_needs_a_lease_waits_for_one_and_not_for_ever() {
    let mut leader = leader(0);
    assert!(leader.core.hold_unproven(0, 9, Response::Pong).is_none());
    let mut effects = Vec::new();
    leader.core.order(1, vec![Order::Leased], &mut effects).expect("the disk works");
    assert!(matches!(effects[..], [super::Effect::Read(9, Response::Pong)]), "{effects:?}");
    assert!(leader.core.hold_unproven(0, 9, Response::Pong).is_none());
    leader.core.tick(4_999_999, &mut effects).expect("the disk works");
    effects.clear();
    leader.core.tick(5_000_000, &mut effects).expect("the disk works");
    let refused = |effect: &super::Effect<u32>| {
        matches!(effect, super::Effect::Reply(9, Response::Refused(Refusal::NoLeader)))
    };
    assert!(effects.iter().any(refused), "{effects:?}");
}

#[test]
fn an_answer_that_loses_its_lease_to_a_step_down_is_given_back() {
    let mut leader = leader(0);
    assert!(leader.core.hold_unproven(0, 9, Response::Pong).is_none());
    let mut effects = Vec::new();
    // In one mail, as a hand-over gives them: the shell looks at the lease after both.
    leader.core.order(1, vec![Order::Leased, Order::StepDown], &mut effects).expect("it works");
    assert!(matches!(effects[0], super::Effect::Read(9, Response::Pong)), "{effects:?}");
    let given_back = leader.core.hold_unproven(1, 9, Response::Pong);
    assert!(matches!(given_back, Some((9, Response::Refused(Refusal::NoLeader)))));
}

#[test]
fn what_was_told_as_complete_stays_so_for_whoever_follows_after_leading() {
    let joints = Joints::default();
    let mut leader = leader(0);
    leader.request(1, write(vec![member("a", Guard::NoStream, 1)]));
    leader.flush();
    leader.order(Order::Held(leader.core.log.durable()));
    let told = leader.core.closed_stamp();
    assert!(told > Stamp::ZERO);
    // What is appended now may be committed by the next leader: it is not told as complete.
    leader.request(2, write(vec![member("b", Guard::NoStream, 1)]));
    leader.order(Order::StepDown);
    let follower = leader.reopened(&joints);
    assert_eq!(follower.core.closed_stamp(), told);
}

#[test]
fn an_order_to_compact_waits_until_what_the_log_has_is_known_to_be_committed() {
    let (mut leader, mut follower) = (leader(0), follower(&Joints::default(), 0));
    leader.request(1, write(vec![member("a", Guard::NoStream, 3)]));
    accept(&mut follower, sealed(&mut leader));
    leader.hold_elsewhere(2);
    let retention = Some(Retention::Delete { recreate: true, forget_sequences: false });
    let (key, events) = (key("a"), EncodedEvents::default());
    let taking = Member { key, guard: Guard::Any, sequence: None, events, retention };
    leader.request(2, write(vec![taking]));
    accept(&mut follower, sealed(&mut leader));
    leader.hold_elsewhere(3);
    let answers = leader.replies();
    assert!(matches!(answers[..], [_, (2, Response::Receipt(_))]), "{answers:?}");
    let done = |follower: &mut Rig| {
        for _ in 0..5 {
            follower.flush();
            follower.tick();
        }
        let [done, _, _, erased] = follower.core.standing.compacted()[0].get();
        (done, erased > 0)
    };
    commit(&mut follower, 2);
    follower.send(vec![Work::Step(Step::Compact { order: 1 })]);
    assert_eq!(done(&mut follower), (0, false), "the delete is durable here, and acknowledged");
    commit(&mut follower, 3);
    assert_eq!(done(&mut follower), (1, true));
}
