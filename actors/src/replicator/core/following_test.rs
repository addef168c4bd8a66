//! Single rules of a follower, one event after the other.

use super::rules_rig::*;
use super::*;
use crate::election::register::Set;

#[test]
fn a_promise_is_durable_when_every_shard_has_carried_it_out_also_after_the_session() {
    let mut rig = Rig::new();
    rig.event(Event::Up(PEER));
    rig.command(Command::Promised(epoch(4)));
    let promise = |order: &Order| matches!(order, Order::Promise { .. }).then_some(());
    assert!(rig.order(promise).is_some());
    rig.event(Event::Down { in_order: false });
    rig.event(Event::Up(PEER));
    assert!(rig.out.is_empty());
    rig.report(Report::Promised { epoch: epoch(3), tip: tip(1) });
    assert!(rig.out.is_empty(), "of another promise");
    rig.report(Report::Promised { epoch: epoch(4), tip: tip(2) });
    let tips = rig.fact(|fact| match fact {
        Fact::PromiseDurable { tips, .. } => Some(tips.clone()),
        _ => None,
    });
    assert_eq!(tips, Some(vec![tip(2)]));
    let promised = |message: &Message| matches!(message, Message::Promised { .. }).then_some(());
    assert!(rig.sent(promised).is_none(), "that is the election's to say");
}

/// A follower of epoch 4 whose log ends at 2 and was compared.
fn following() -> Rig {
    let mut rig = Rig::new();
    rig.event(Event::Up(PEER));
    rig.command(Command::Promised(epoch(4)));
    rig.report(Report::Promised { epoch: epoch(4), tip: tip(2) });
    rig.command(Command::Send(Message::Promised { epoch: epoch(4), tips: vec![tip(2)] }));
    rig.message(Message::Cut { request: 1, shard: SHARD, epoch: epoch(4), to: at(2) });
    rig.out.clear();
    rig
}

#[test]
fn a_cut_of_an_earlier_answer_counts_for_nothing() {
    let mut rig = following();
    rig.command(Command::Promised(epoch(4)));
    rig.report(Report::Promised { epoch: epoch(4), tip: tip(3) });
    rig.out.clear();
    rig.message(Message::Cut { request: 1, shard: SHARD, epoch: epoch(4), to: at(3) });
    rig.message(append(4));
    assert!(rig.out.is_empty(), "{:?}", rig.out);
    rig.command(Command::Send(Message::Promised { epoch: epoch(4), tips: vec![tip(3)] }));
    rig.message(Message::Cut { request: 2, shard: SHARD, epoch: epoch(4), to: at(3) });
    let done = |message: &Message| matches!(message, Message::CutDone { .. }).then_some(());
    assert!(rig.sent(done).is_some());
}

#[test]
fn a_log_that_was_made_the_leaders_is_not_cut_in_its_epoch_but_compared_again() {
    let mut rig = following();
    rig.message(append(4));
    rig.report(Report::Durable { epoch: epoch(4), tip: tip(3) });
    rig.out.clear();
    rig.message(Message::Cut { request: 2, shard: SHARD, epoch: epoch(4), to: at(2) });
    let cut = |order: &Order| matches!(order, Order::Cut { .. }).then_some(());
    assert!(rig.order(cut).is_none());
    rig.report(Report::Promised { epoch: epoch(4), tip: tip(3) });
    let tips = rig.sent(|message| match message {
        Message::Promised { tips, .. } => Some(tips.clone()),
        _ => None,
    });
    assert_eq!(tips, Some(vec![tip(3)]));
    // In the next epoch it may have to be cut.
    rig.command(Command::Promised(epoch(5)));
    rig.report(Report::Promised { epoch: epoch(5), tip: tip(3) });
    rig.command(Command::Send(Message::Promised { epoch: epoch(5), tips: vec![tip(3)] }));
    rig.message(Message::Cut { request: 3, shard: SHARD, epoch: epoch(5), to: at(2) });
    assert!(rig.order(cut).is_some());
}

#[test]
fn what_is_refused_is_answered_with_an_end_that_is_durable() {
    let mut rig = following();
    rig.report(Report::Refused { epoch: epoch(4), tip: tip(2) });
    let promised = |message: &Message| matches!(message, Message::Promised { .. }).then_some(());
    assert!(rig.sent(promised).is_none());
    let promise = |order: &Order| matches!(order, Order::Promise { .. }).then_some(());
    assert!(rig.order(promise).is_some());
    rig.message(append(4));
    assert!(rig.out.is_empty(), "nothing is taken meanwhile");
    rig.report(Report::Promised { epoch: epoch(4), tip: tip(3) });
    assert!(rig.sent(promised).is_some());
}

#[test]
fn a_leader_of_a_lower_epoch_is_told() {
    let mut rig = following();
    rig.message(append(3));
    let deposed = rig.sent(|message| match message {
        Message::Deposed { epoch, .. } => Some(*epoch),
        _ => None,
    });
    assert_eq!(deposed, Some(epoch(4)));
    assert!(rig.out.is_empty(), "{:?}", rig.out);
}

#[test]
fn a_shard_that_must_not_be_cut_makes_the_log_unhealthy_and_the_leader_hears_of_it() {
    let mut rig = following();
    rig.report(Report::Quarantined("shown".into()));
    assert_eq!(rig.fact(unhealthy).as_deref(), Some("shard 0: shown"));
    let told = |message: &Message| matches!(message, Message::Quarantined { .. }).then_some(());
    assert!(rig.sent(told).is_some());
    let mut rig = Rig::leading(Set::pair(ME, PEER));
    rig.meet(PEER, 2);
    rig.message(Message::Quarantined { shard: SHARD, reason: "shown".into() });
    assert!(rig.silent());
}

#[test]
fn what_becomes_durable_of_a_lower_epoch_is_not_acknowledged() {
    let mut rig = following();
    rig.message(append(4));
    rig.command(Command::Promised(epoch(5)));
    rig.report(Report::Durable { epoch: epoch(4), tip: tip(3) });
    let acked = |message: &Message| matches!(message, Message::Ack { .. }).then_some(());
    rig.flush();
    assert!(rig.sent(acked).is_none());
    let mut rig = following();
    rig.message(append(4));
    rig.report(Report::Durable { epoch: epoch(4), tip: tip(3) });
    rig.flush();
    assert!(rig.sent(acked).is_some());
}
