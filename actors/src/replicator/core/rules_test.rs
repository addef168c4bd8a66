//! Single rules of a leader, one event after the other.

use celeriant_schema::peer::{Committed, FramePlace, Position};
use celeriant_schema::{BootId, Hash, Lsn, Stamp, TxnId, WriteId};

use super::rules_rig::*;
use super::*;
use crate::election::register::Set;
use crate::election::vocabulary::{AckRule, Place, Reason};
use crate::settlement::Trace;

#[test]
fn another_store_holds_nothing_and_what_the_rule_does_not_name_does_not_count() {
    let mut rig = Rig::leading(Set::pair(ME, PEER));
    rig.meet(PEER, 2);
    assert_eq!(rig.held(), Some(Lsn::new(5)));
    rig.report(Report::Sealed(frames(5, 6)));
    rig.ack(2, 6);
    assert_eq!(rig.held(), Some(Lsn::new(6)));
    rig.event(Event::Down { in_order: false });
    assert_eq!(rig.held(), None, "what was acknowledged is held");
    rig.meet(StoreId::new(3), 2);
    assert_eq!(rig.held(), Some(Lsn::ZERO), "by another store, which the rule doesn't name");
    rig.command(Command::AckRule { number: 9, rule: AckRule::Set(Set::pair(ME, StoreId::new(3))) });
    assert_eq!(rig.held(), Some(Lsn::new(5)));
}

#[test]
fn a_store_that_comes_back_without_what_it_had_acknowledged_is_no_place_any_more() {
    let mut rig = Rig::leading(Set::pair(ME, PEER));
    rig.meet(PEER, 2);
    rig.report(Report::Sealed(frames(5, 6)));
    rig.ack(2, 6);
    assert_eq!(rig.held(), Some(Lsn::new(6)));
    rig.event(Event::Down { in_order: false });
    rig.out.clear();
    rig.event(Event::Up(PEER));
    rig.message(Message::Promised { epoch: epoch(2), tips: vec![tip(6)] });
    assert!(!rig.silent(), "it has everything");
    rig.event(Event::Down { in_order: false });
    rig.out.clear();
    // Its disk was replaced by a snapshot of it.
    rig.meet(PEER, 2);
    assert!(rig.silent());
    let alarm = |effect: &Effect| matches!(effect, Effect::Alarm(_)).then_some(());
    assert!(rig.take(alarm).is_some());
    assert_eq!(rig.held(), Some(Lsn::new(5)));
    rig.now += 10_000 * MS;
    rig.flush();
    assert!(!rig.counts(), "it does not hold what it had acknowledged");
    rig.report(Report::Read(frames(5, 6)));
    rig.ack(2, 6);
    assert_eq!(rig.held(), Some(Lsn::new(6)), "it has caught up");
    rig.flush();
    assert!(rig.counts());
}

#[test]
fn a_store_that_comes_back_with_something_else_is_no_place_either_however_long_it_is() {
    let mut rig = Rig::leading(Set::pair(ME, PEER));
    rig.meet(PEER, 2);
    rig.report(Report::Sealed(frames(5, 6)));
    rig.ack(2, 6);
    rig.event(Event::Down { in_order: false });
    rig.out.clear();
    rig.event(Event::Up(PEER));
    let other = |lsn| Position { hash: Hash([99; 32]), ..at(lsn) };
    let tips = vec![Tip { durable: other(7), ..tip(7) }];
    rig.message(Message::Promised { epoch: epoch(2), tips });
    assert!(!rig.silent(), "it may have everything");
    // Both logs are the same up to 5.
    let found = |before, end| Some(FramePlace { epoch: epoch(1), before, end });
    let cut = loop {
        if let Some((request, lsn)) = rig.order(|order| match order {
            Order::Find { request, lsn } => Some((*request, lsn.value())),
            _ => None,
        }) {
            let frame = if lsn > 5 { found(at(5), at(6)) } else { found(at(3), at(5)) };
            rig.report(Report::Found { request, frame });
        } else if let Some((request, lsn)) = rig.sent(|message| match message {
            Message::Locate { request, lsn, .. } => Some((*request, lsn.value())),
            _ => None,
        }) {
            let frame = if lsn > 5 { found(at(5), other(lsn)) } else { found(at(3), at(5)) };
            rig.message(Message::Located { request, shard: SHARD, frame });
        } else {
            break rig.sent(|message| match message {
                Message::Cut { request, to, .. } => Some((*request, *to)),
                _ => None,
            });
        }
    };
    let (request, to) = cut.expect("cuts");
    assert_eq!(to, at(5));
    rig.message(Message::CutDone { request, tip: tip(5) });
    assert!(rig.silent(), "it had acknowledged 6");
    rig.now += 10_000 * MS;
    rig.flush();
    assert!(!rig.counts());
}

#[test]
fn by_two_rules_the_lesser_place_counts_and_that_is_said_before_it_is_confirmed() {
    let mut rig = Rig::leading(Set::Bucket(ME));
    rig.meet(PEER, 2);
    rig.report(Report::Sealed(frames(5, 6)));
    rig.event(Event::Log(LogNews::Held(SHARD, at(6))));
    assert_eq!(rig.held(), Some(Lsn::new(6)));
    let rule = AckRule::Both(Set::Bucket(ME), Set::pair(ME, PEER));
    rig.out.clear();
    rig.command(Command::AckRule { number: 3, rule });
    let orders: Vec<_> = rig.out.drain(..).collect();
    let [Effect::Shard(_, Order::Held(held)), Effect::Shard(_, Order::Confirm { number })] =
        orders[..]
    else {
        panic!("{orders:?}");
    };
    assert_eq!(held, Lsn::new(5));
    rig.report(Report::Confirmed { number, commit: at(5) });
    let ruled = rig.fact(|fact| match fact {
        Fact::Ruled { number, commit } => Some((*number, commit.clone())),
        _ => None,
    });
    assert_eq!(ruled, Some((3, vec![at(5)])));
    rig.command(Command::AckRule { number: 4, rule: AckRule::Nobody });
    assert_eq!(rig.held(), Some(Lsn::ZERO));
}

#[test]
fn a_further_epoch_keeps_what_is_held_and_counts_again_only_after_comparing() {
    let mut rig = Rig::leading(Set::pair(ME, PEER));
    rig.meet(PEER, 2);
    rig.report(Report::Sealed(frames(5, 6)));
    rig.out.clear();
    rig.lead(3, Set::pair(ME, PEER));
    let renewed = |order: &Order| matches!(order, Order::Renew { .. }).then_some(());
    assert!(rig.order(renewed).is_some());
    assert_eq!(rig.held(), Some(Lsn::new(5)), "still");
    let asked = rig.sent(|message| match message {
        Message::Promise { epoch, .. } => Some(*epoch),
        _ => None,
    });
    assert_eq!(asked, Some(epoch(3)));
    rig.command(Command::Promised(epoch(3)));
    let durable = |fact: &Fact| matches!(fact, Fact::PromiseDurable { .. }).then_some(());
    assert!(rig.fact(durable).is_some(), "its own promise needs no shard");
    rig.ack(2, 6);
    rig.ack(3, 6);
    assert_eq!(rig.held(), None, "of the epoch before, and without a comparison");
    rig.report(Report::Sealed(frames(6, 7)));
    let sent = |message: &Message| matches!(message, Message::Append { .. }).then_some(());
    assert!(rig.sent(sent).is_none());
    rig.reconcile(3);
    let read = |order: &Order| matches!(order, Order::Read { .. }).then_some(());
    assert!(rig.order(read).is_some(), "what was on its way is sent again");
    rig.report(Report::Read(frames(5, 6)));
    rig.ack(2, 6);
    assert_eq!(rig.held(), None, "an acknowledgement of the epoch before");
    rig.ack(3, 6);
    assert_eq!(rig.held(), Some(Lsn::new(6)));
}

#[test]
fn a_quiet_log_is_handed_over_only_when_the_follower_holds_its_end() {
    let mut rig = Rig::leading(Set::Bucket(ME));
    rig.meet(PEER, 2);
    rig.report(Report::Sealed(frames(5, 6)));
    rig.event(Event::Log(LogNews::Held(SHARD, at(6))));
    rig.command(Command::Quiesce { epoch: epoch(2) });
    rig.report(Report::Quiesced { epoch: epoch(2), tip: tip(6) });
    rig.flush();
    let held = |fact: &Fact| matches!(fact, Fact::TipHeldByPeer { .. }).then_some(());
    assert!(rig.fact(held).is_none(), "the bucket is not the peer");
    rig.ack(2, 6);
    rig.flush();
    assert!(rig.fact(held).is_some());
    rig.flush();
    assert!(rig.fact(held).is_none(), "once");
    rig.command(Command::Resume);
    rig.report(Report::Quiesced { epoch: epoch(2), tip: tip(6) });
    rig.flush();
    assert!(rig.fact(held).is_none(), "called off");
}

#[test]
fn a_follower_that_owes_an_answer_for_too_long_is_silent_until_it_answers() {
    let mut rig = Rig::leading(Set::pair(ME, PEER));
    rig.meet(PEER, 2);
    assert_eq!(rig.core.next_deadline(), None, "nothing is owed");
    rig.report(Report::Sealed(frames(5, 6)));
    rig.flush();
    assert_eq!(rig.core.next_deadline(), Some(500 * MS));
    rig.now = 499 * MS;
    rig.flush();
    assert!(!rig.silent());
    rig.now = 500 * MS;
    rig.flush();
    assert!(rig.silent());
    rig.flush();
    assert!(!rig.silent(), "once");
    rig.ack(2, 6);
    rig.out.clear();
    rig.flush();
    let upto = rig.fact(|fact| match fact {
        Fact::FollowerHolds { upto, .. } => Some(upto.clone()),
        _ => None,
    });
    assert_eq!(upto, Some(vec![Lsn::new(6)]), "at once: it ends the silence");
}

#[test]
fn with_the_bucket_a_follower_that_goes_must_catch_up_anew() {
    let mut rig = Rig::leading(Set::Bucket(ME));
    rig.meet(PEER, 2);
    let caught_up = |fact: &Fact| matches!(fact, Fact::FollowerCaughtUp { .. }).then_some(());
    rig.flush();
    assert!(rig.fact(caught_up).is_some());
    rig.event(Event::Down { in_order: false });
    assert!(rig.silent());
    rig.meet(PEER, 2);
    rig.flush();
    assert!(rig.fact(caught_up).is_some());
}

#[test]
fn rounds_of_earlier_epochs_go_when_both_disks_hold_what_they_can_hold() {
    let mut rig = Rig::leading(Set::pair(ME, PEER));
    let cleans = |rig: &mut Rig| {
        rig.take(|effect| match effect {
            Effect::Log(LogOrder::CleanUp(facts)) => Some(facts.clone()),
            _ => None,
        })
    };
    rig.flush();
    assert!(cleans(&mut rig).is_none(), "without the follower");
    rig.meet(PEER, 2);
    assert!(cleans(&mut rig).is_none(), "not known to be durable here");
    rig.report(Report::Committed { commit: Lsn::new(5), closed: Stamp::new(1) });
    rig.flush();
    let facts = cleans(&mut rig).expect("an order");
    assert!(facts.frees(epoch(1)) && !facts.frees(epoch(2)));
    rig.flush();
    assert!(cleans(&mut rig).is_none(), "once a term");

    let mut rig = Rig::leading(Set::Bucket(ME));
    rig.meet(PEER, 2);
    rig.report(Report::Committed { commit: Lsn::new(5), closed: Stamp::new(1) });
    rig.flush();
    assert!(cleans(&mut rig).is_none(), "a chain rests on the bucket");

    let mut rig = Rig::leading(Set::pair(ME, PEER));
    rig.report(Report::Committed { commit: Lsn::new(5), closed: Stamp::new(1) });
    rig.meet(StoreId::new(9), 2);
    rig.flush();
    assert!(cleans(&mut rig).is_none(), "another store holds it");
}

#[test]
fn a_follower_that_leaves_in_good_order_is_not_waited_for() {
    for in_order in [true, false] {
        let mut rig = Rig::leading(Set::pair(ME, PEER));
        rig.meet(PEER, 2);
        rig.event(Event::Down { in_order });
        assert_eq!(rig.silent(), in_order);
    }
}

#[test]
fn a_follower_is_judged_by_the_fastest_of_many_acknowledgements() {
    let mut rig = Rig::leading(Set::pair(ME, PEER));
    rig.meet(PEER, 2);
    let pace = |fact: &Fact| match fact {
        Fact::FollowerPace { fastest, .. } => Some(*fastest),
        _ => None,
    };
    rig.flush();
    let append = |rig: &mut Rig, lsn: u64, took: u64| {
        rig.report(Report::Sealed(frames(lsn - 1, lsn)));
        rig.flush();
        rig.now += took * 1_000;
        rig.ack(2, lsn);
        rig.flush();
        rig.fact(pace)
    };
    // Nine, for long enough: too few.
    for lsn in 6..15 {
        assert_eq!(append(&mut rig, lsn, 2_000), None);
    }
    assert_eq!(append(&mut rig, 15, 1_500), Some(1_500_000));
    // Many, but not for long enough; and one hiccup among them.
    for lsn in 16..66 {
        assert_eq!(append(&mut rig, lsn, if lsn == 40 { 900 } else { 10 }), None);
    }
    rig.now += 10_000_000;
    assert_eq!(append(&mut rig, 66, 7_000), Some(10_000));
}

#[test]
fn whoever_steps_down_tells_its_shards_first_and_knows_nothing_of_them() {
    let mut rig = Rig::leading(Set::pair(ME, PEER));
    rig.meet(PEER, 2);
    rig.out.clear();
    rig.command(Command::StepDown(Reason::Started));
    assert!(matches!(rig.out[0], Effect::Shard(_, Order::StepDown)), "{:?}", rig.out);
    rig.command(Command::AckRule { number: 5, rule: AckRule::Nobody });
    rig.ack(2, 6);
    assert_eq!(rig.held(), None);
    rig.command(Command::Promised(epoch(6)));
    let durable = |fact: &Fact| matches!(fact, Fact::PromiseDurable { .. }).then_some(());
    assert!(rig.fact(durable).is_none());
    rig.report(Report::Promised { epoch: epoch(6), tip: tip(9) });
    assert!(rig.fact(durable).is_some());
}

#[test]
fn nothing_is_held_before_shards_lead_and_a_survey_that_is_not_over_begins_anew() {
    let mut rig = Rig::new();
    rig.command(Command::Promised(epoch(2)));
    rig.report(Report::Promised { epoch: epoch(2), tip: tip(5) });
    rig.command(Command::Place { link: Link { epoch: epoch(2), base: vec![at(3)] }, peer: None });
    rig.meet(PEER, 2);
    let placed = rig.fact(|fact| match fact {
        Fact::Placed { place, .. } => Some(*place),
        _ => None,
    });
    assert_eq!(placed, Some(Place::Peer(PEER)));
    rig.event(Event::Log(LogNews::Held(SHARD, at(5))));
    rig.flush();
    let placed =
        |fact: &Fact| matches!(fact, Fact::Placed { place: Place::Bucket, .. }).then_some(());
    assert!(rig.fact(placed).is_some());
    rig.lead(2, Set::pair(ME, PEER));
    let survey = |order: &Order| match order {
        Order::Survey { epoch } => Some(*epoch),
        _ => None,
    };
    assert_eq!(rig.order(survey), Some(epoch(2)));
    rig.lead(3, Set::Bucket(ME));
    assert_eq!(rig.order(survey), Some(epoch(3)), "not over");
    assert_eq!(rig.held(), None);
    rig.report(Report::Surveyed { epoch: epoch(2), tip: tip(5), pending: Vec::new() });
    assert_eq!(rig.held(), None);
    rig.report(Report::Surveyed { epoch: epoch(3), tip: tip(5), pending: Vec::new() });
    let at_lead = rig.out.iter().position(|e| matches!(e, Effect::Shard(_, Order::Lead(_))));
    let at_held = rig.out.iter().position(|e| matches!(e, Effect::Shard(_, Order::Held(_))));
    assert!(at_lead.expect("leads") < at_held.expect("is told"));
    assert_eq!(rig.held(), Some(Lsn::new(5)), "from the base of its own log");
}

#[test]
fn logs_that_contradict_each_other_are_not_led() {
    let mut rig = Rig::new();
    let me = Identity { store: ME, boot: BootId::new(7), shards: 3 };
    rig.core = Core::new(me, Settings::default(), epoch(1));
    rig.lead(2, Set::Bucket(ME));
    let txn: TxnId = WriteId::default();
    let shards: Vec<_> = all(3).collect();
    for shard in &shards {
        let pending = if *shard == SHARD { vec![(txn, shards.clone())] } else { Vec::new() };
        let report = Report::Surveyed { epoch: epoch(2), tip: tip(5), pending };
        rig.event(Event::Shard(*shard, report));
    }
    for (shard, trace) in [(1, Trace::Resolved(true)), (2, Trace::Nothing)] {
        rig.event(Event::Shard(ShardId::new(shard), Report::Traced { txn, trace }));
    }
    assert!(rig.fact(unhealthy).is_some());
    let led = |order: &Order| matches!(order, Order::Lead(_) | Order::Held(_)).then_some(());
    assert!(rig.order(led).is_none());
}

#[test]
fn one_promise_a_session_and_epoch_is_asked_for_and_heartbeats_say_what_is_committed() {
    let mut rig = Rig::leading(Set::pair(ME, PEER));
    let asks = |rig: &mut Rig| {
        rig.command(Command::Send(Message::Promise { epoch: epoch(2), ver: 2 }));
        let asked = |message: &Message| matches!(message, Message::Promise { .. }).then_some(());
        rig.sent(asked).is_some()
    };
    rig.event(Event::Up(PEER));
    assert!(asks(&mut rig), "at once, by itself");
    assert!(!asks(&mut rig));
    rig.event(Event::Down { in_order: false });
    rig.meet(PEER, 2);
    let beat = |rig: &mut Rig| {
        let (number, epoch, ver, shards) = (8, epoch(2), 2, Vec::new());
        rig.command(Command::Send(Message::Heartbeat { number, epoch, ver, shards }));
        rig.sent(|message| match message {
            Message::Heartbeat { number: 8, shards, .. } => Some(shards.clone()),
            _ => None,
        })
    };
    let (commit, closed) = (Lsn::new(5), Stamp::new(4));
    rig.report(Report::Committed { commit, closed });
    assert_eq!(beat(&mut rig), Some(vec![Committed { shard: SHARD, commit, closed }]));
    assert_eq!(beat(&mut rig), Some(Vec::new()), "no news");
}

#[test]
fn a_chain_is_made_the_log_and_confirmed_before_it_is_recovered() {
    let mut rig = Rig::new();
    rig.command(Command::Promised(epoch(6)));
    rig.report(Report::Promised { epoch: epoch(6), tip: tip(5) });
    rig.out.clear();
    let chain = vec![Link { epoch: epoch(4), base: vec![at(3)] }];
    rig.command(Command::Recover { epoch: epoch(6), chain });
    assert!(
        matches!(&rig.out[..], [Effect::Log(LogOrder::Recover { own, .. })] if own[..] == [at(5)])
    );
    rig.out.clear();
    rig.event(Event::Log(LogNews::Find { shard: SHARD, lsn: Lsn::new(4) }));
    let find = rig.order(|order| match order {
        Order::Find { request, .. } => Some(*request),
        _ => None,
    });
    rig.report(Report::Found { request: find.expect("asks"), frame: None });
    assert!(matches!(&rig.out[..], [Effect::Log(LogOrder::Found { lsn, .. })] if lsn.value() == 4));
    rig.out.clear();
    rig.event(Event::Log(LogNews::Cut(SHARD, at(3))));
    rig.event(Event::Log(LogNews::Frames(SHARD, frames(3, 4))));
    rig.event(Event::Log(LogNews::Frames(SHARD, frames(4, 6))));
    let accepted = |order: &Order| matches!(order, Order::Accept { .. }).then_some(());
    assert!(
        matches!(&rig.out[0], Effect::Shard(_, Order::Cut { epoch: of, .. }) if *of == epoch(6))
    );
    assert!(rig.order(accepted).is_some() && rig.order(accepted).is_some());
    rig.out.clear();
    rig.report(Report::Durable { epoch: epoch(6), tip: tip(6) });
    let taken = |effect: &Effect| matches!(effect, Effect::Log(LogOrder::Taken(_))).then_some(());
    assert!(rig.take(taken).is_some() && rig.take(taken).is_some() && rig.take(taken).is_none());
    rig.event(Event::Log(LogNews::Recovered { epoch: epoch(6), ends: vec![at(6)] }));
    let recovered = |fact: &Fact| match fact {
        Fact::Recovered { base, .. } => Some(base.clone()),
        _ => None,
    };
    assert_eq!(rig.fact(recovered), None);
    let number = rig.order(|order| match order {
        Order::Confirm { number } => Some(*number),
        _ => None,
    });
    rig.report(Report::Confirmed { number: number.expect("asks"), commit: at(3) });
    assert_eq!(rig.fact(recovered), Some(vec![at(6)]));
    rig.command(Command::Place { link: Link { epoch: epoch(6), base: vec![at(6)] }, peer: None });
    rig.flush();
    let placed =
        |fact: &Fact| matches!(fact, Fact::Placed { place: Place::Bucket, .. }).then_some(());
    assert!(rig.fact(placed).is_some(), "nothing is missing there");
}

#[test]
fn a_fence_ends_placing_or_leading() {
    let mut rig = Rig::new();
    rig.command(Command::Promised(epoch(2)));
    rig.report(Report::Promised { epoch: epoch(2), tip: tip(5) });
    rig.command(Command::Place { link: Link { epoch: epoch(2), base: vec![at(3)] }, peer: None });
    rig.event(Event::Log(LogNews::Fenced));
    let failed = |fact: &Fact| matches!(fact, Fact::PlaceFailed { .. }).then_some(());
    assert!(rig.fact(failed).is_some());
    let mut rig = Rig::leading(Set::Bucket(ME));
    rig.event(Event::Log(LogNews::Fenced));
    let fenced = |fact: &Fact| matches!(fact, Fact::Fenced { .. }).then_some(());
    assert!(rig.fact(fenced).is_some());
}

#[test]
fn a_lease_is_known_before_reads_are_looked_at_again() {
    let mut rig = Rig::leading(Set::Bucket(ME));
    rig.command(Command::Lease { until: 77 });
    assert!(matches!(rig.out[..], [Effect::Lease(77), Effect::Shard(_, Order::Leased)]));
}

#[test]
fn reads_go_to_whoever_asked() {
    let mut rig = Rig::leading(Set::Bucket(ME));
    rig.event(Event::Log(LogNews::Read { shard: SHARD, after: Lsn::new(3), bytes_max: 9 }));
    rig.report(Report::Read(frames(2, 3)));
    let read = |effect: &Effect| matches!(effect, Effect::Log(LogOrder::Read(..))).then_some(());
    assert!(rig.take(read).is_none(), "nobody asked for that");
    rig.report(Report::Read(frames(3, 5)));
    assert!(rig.take(read).is_some());
    rig.report(Report::Read(frames(3, 5)));
    assert!(rig.take(read).is_none(), "twice");
}
