//! Leaders that lose their follower, take it back, and meet a register that they did not write.

use celeriant_schema::peer::{Features, Message};
use celeriant_schema::{Lsn, StoreId};
use celeriant_storage::bucket::Effect as Left;

use super::rig::*;
use crate::election::register::{Link, Phase, Set};
use crate::election::vocabulary::*;

fn holds(store: StoreId, of: u64, upto: u64) -> Event {
    Event::FollowerHolds { store, epoch: epoch(of), upto: vec![Lsn::new(upto)] }
}

/// A leader with the bucket whose follower has everything: asks for both.
fn readmitting() -> (Rig, (u64, AckRule)) {
    let mut rig = Rig::leading(&in_bucket(me()));
    rig.event(Event::FollowerCaughtUp { store: PEER });
    if rig.has(|effect| matches!(effect, Effect::Bucket(..))) {
        rig.serve();
    }
    let rule = rig.rule().expect("a rule");
    (rig, rule)
}

// ---- follower lost: R1, R2, R15 --------------------------------------------------------------

#[test]
fn a_lost_follower_is_replaced_by_the_bucket_from_the_commit_position_on() {
    let mut rig = Rig::leading(&pair(me()));
    rig.run_with_follower(2_000);
    rig.wait(490);
    assert!(rig.request().is_none());
    rig.wait(20);
    rig.wait(1_000);
    assert!(rig.rule().is_none(), "freezes before the bucket has answered (R15)");
    rig.serve();
    let rule = rig.rule().expect("a rule");
    assert_eq!(rule.1, AckRule::Nobody);
    assert!(rig.request().is_none(), "sent before every shard has frozen (R2)");
    rig.ruled((rule.0 - 1, rule.1));
    assert!(rig.request().is_none(), "that was another rule");
    rig.ruled(rule);
    let (token, op, config) = rig.swap();
    assert_eq!((config.ver, config.epoch, config.phase), (6, epoch(4), Phase::Active));
    assert_eq!((config.leader, config.active.set), (me(), Set::Bucket(ME)));
    assert_eq!(config.active.chain, [Link { epoch: epoch(4), base: at(4) }]);
    assert!(rig.rule().is_none());
    let done = rig.apply(op);
    rig.complete(token, Ok(done));
    assert_eq!(rig.lead().map(|config| config.epoch), Some(epoch(4)));
    assert_eq!(rig.rule().map(|(_, rule)| rule), Some(AckRule::Set(Set::Bucket(ME))));
}

#[test]
fn a_follower_that_answers_is_not_lost_unless_the_replicator_says_so() {
    let mut rig = Rig::leading(&pair(me()));
    rig.run_with_follower(5_000);
    assert_eq!(rig.config(), pair(me()));
    rig.event(Event::FollowerSilent { store: PEER });
    rig.obey();
    assert_eq!(rig.config().active.set, Set::Bucket(ME));
}

#[test]
fn a_dead_bucket_does_not_put_the_leader_in_doubt() {
    let mut rig = Rig::leading(&pair(me()));
    rig.run_with_follower(2_000);
    for _ in 0..20 {
        rig.wait(600);
        rig.fail(Left::None);
        assert!(rig.rule().is_none(), "froze without a reading (R15)");
        rig.wait(2_000);
    }
    // And the follower is back before the bucket is.
    rig.alive();
    rig.event(holds(PEER, 3, 4));
    rig.serve();
    assert!(rig.rule().is_none());
}

#[test]
fn in_doubt_nothing_is_acknowledged_until_a_read_says_what_became_of_it() {
    let (mut rig, rule) = frozen();
    rig.ruled(rule);
    let (token, op, _) = rig.swap();
    rig.complete(token, lost(&op));
    // The follower is back, the bucket is not: frozen, whatever happens.
    for _ in 0..10 {
        rig.alive();
        rig.event(holds(PEER, 3, 4));
        rig.wait(3_000);
        rig.fail(Left::None);
        assert!(rig.rule().is_none() && rig.lead().is_none());
    }
    // It had happened.
    rig.apply(op);
    rig.wait(3_000);
    rig.serve();
    assert_eq!(rig.lead().map(|config| config.epoch), Some(epoch(4)));
    assert_eq!(rig.rule().map(|(_, rule)| rule), Some(AckRule::Set(Set::Bucket(ME))));
}

#[test]
fn what_is_in_doubt_and_not_there_is_sent_again_as_it_was() {
    let (mut rig, rule) = frozen();
    rig.ruled(rule);
    let (token, op, _) = rig.swap();
    rig.complete(token, lost(&op));
    rig.wait(250);
    rig.serve();
    assert!(rig.rule().is_none(), "it may happen yet");
    rig.wait(250);
    let (token, again, _) = rig.swap();
    assert_eq!(format!("{op:?}"), format!("{again:?}"));
    // Never sent, but the first one was; and the follower is back.
    rig.alive();
    rig.event(holds(PEER, 3, 4));
    rig.complete(
        token,
        Err(celeriant_storage::bucket::BucketError::unsent(
            &again,
            celeriant_storage::bucket::Cause::Busy,
        )),
    );
    assert!(rig.rule().is_none(), "the first try is still in doubt");
    rig.run(1_000);
    assert_eq!(rig.config().active.set, Set::Bucket(ME));
}

#[test]
fn what_was_never_sent_is_in_no_doubt() {
    let (mut rig, rule) = frozen();
    rig.ruled(rule);
    rig.alive();
    rig.event(holds(PEER, 3, 4));
    rig.fail(Left::None);
    assert_eq!(rig.rule().map(|(_, rule)| rule), Some(AckRule::Set(PAIR)));
}

#[test]
fn a_follower_that_is_back_before_the_change_is_sent_ends_the_freeze() {
    let (mut rig, rule) = frozen();
    rig.event(holds(PEER, 3, 4));
    assert_eq!(rig.rule().map(|(_, rule)| rule), Some(AckRule::Set(PAIR)));
    rig.ruled(rule);
    assert!(rig.request().is_none());
}

#[test]
fn a_leader_whose_change_lost_is_deposed() {
    let (mut rig, rule) = frozen();
    rig.ruled(rule);
    let other = claimed(&pair(me()), peer());
    rig.write(&other);
    rig.serve();
    assert!(rig.step_down().is_none(), "a conflict is hearsay");
    rig.serve();
    assert_eq!(rig.step_down(), Some(Reason::Deposed { epoch: epoch(4) }));
    assert!(rig.lead().is_none());
    assert_eq!(rig.config(), other);
}

// ---- follower back ---------------------------------------------------------------------------

#[test]
fn a_follower_returns_when_it_holds_what_was_committed_when_both_became_necessary() {
    let (mut rig, rule) = readmitting();
    assert_eq!(rule.1, AckRule::Both(Set::Bucket(ME), PAIR));
    rig.event(holds(PEER, 3, 9));
    rig.out.retain(|effect| !matches!(effect, Effect::Bucket(..)));
    assert!(rig.core.access.swap().is_none(), "sent before every shard knows (R2)");
    rig.commit = 10;
    rig.ruled(rule);
    assert!(rig.core.access.swap().is_none(), "the follower lacks 10");
    rig.event(holds(PEER, 3, 10));
    let swap = rig.core.access.swap().expect("a change");
    assert_eq!((swap.sent.epoch, swap.sent.active.set), (epoch(4), PAIR));
    assert!(swap.sent.active.chain.is_empty() && swap.sent.lease.is_none());
    rig.run(10);
    assert_eq!(rig.config().active.set, PAIR);
    assert_eq!(rig.lead().map(|config| config.epoch), Some(epoch(4)));
}

#[test]
fn in_doubt_about_the_followers_return_both_are_needed() {
    let (mut rig, rule) = readmitting();
    rig.ruled(rule);
    rig.event(holds(PEER, 3, 4));
    let (token, op) = rig.until_put();
    rig.complete(token, lost(&op));
    rig.event(Event::FollowerSilent { store: PEER });
    for _ in 0..5 {
        rig.wait(3_000);
        rig.fail(Left::None);
    }
    assert!(rig.rule().is_none() && rig.lead().is_none());
    rig.apply(op);
    rig.wait(3_000);
    rig.serve();
    assert_eq!(rig.lead().map(|config| config.active.set), Some(PAIR));
}

#[test]
fn what_a_store_acknowledged_counts_for_that_store_and_this_leadership_only() {
    let (mut rig, rule) = readmitting();
    rig.ruled(rule);
    rig.event(holds(StoreId::new(9), 3, 99));
    rig.event(holds(PEER, 2, 99));
    rig.event(holds(PEER, 4, 99));
    assert!(rig.core.access.swap().is_none());
    rig.event(holds(PEER, 3, 4));
    assert!(rig.core.access.swap().is_some());
}

#[test]
fn what_a_store_holds_says_nothing_about_the_one_that_replaces_it() {
    let (mut rig, rule) = readmitting();
    rig.event(holds(PEER, 3, 99));
    // Another store says something, too: that takes nothing away from what the member said.
    rig.event(holds(StoreId::new(9), 3, 1));
    let mut config = rig.config();
    (config.ver, config.nonce) = (config.ver + 1, 1);
    config.members[1] = member(StoreId::new(3));
    rig.write(&config);
    rig.ruled(rule);
    let swap = rig.core.access.swap().expect("the member's word counts");
    assert_eq!(swap.sent.active.set, PAIR);
    // It loses to the operator's; now the new store is asked for everything, and has nothing.
    rig.event(Event::FollowerCaughtUp { store: PEER });
    rig.run_with_follower(200);
    rig.event(Event::FollowerCaughtUp { store: StoreId::new(3) });
    rig.run(100);
    assert_eq!(rig.config().active.set, Set::Bucket(ME));
    rig.event(holds(StoreId::new(3), 3, 4));
    rig.run(100);
    assert_eq!(rig.config().active.set, Set::pair(ME, StoreId::new(3)));
}

#[test]
fn a_change_that_lands_after_its_leadership_makes_nobody_leader() {
    // Both ways, in doubt when something else ends the leadership.
    let eject = || {
        let (mut rig, rule) = frozen();
        rig.ruled(rule);
        rig
    };
    let readmit = || {
        let (mut rig, rule) = readmitting();
        rig.ruled(rule);
        rig.event(holds(PEER, 3, 4));
        rig
    };
    for mut rig in [eject(), readmit()] {
        let (token, op) = rig.until_put();
        rig.complete(token, lost(&op));
        rig.message(Message::Deposed { epoch: epoch(9), ver: 5 });
        assert!(rig.step_down().is_some());
        rig.apply(op);
        assert_eq!((rig.config().epoch, rig.config().leader), (epoch(4), me()));
        rig.run_with_follower(900);
        assert!(rig.lead().is_none(), "took what it had given up for a hand-over");
        rig.run(4_000);
        assert_eq!((rig.config().phase, rig.config().epoch), (Phase::Claimed, epoch(5)));
    }
}

#[test]
fn the_lease_is_given_up_before_the_follower_returns() {
    let mut rig = Rig::leading(&in_bucket(me()));
    rig.run_with_follower(1_000);
    assert!(rig.lease() > Some(rig.now));
    rig.event(Event::FollowerCaughtUp { store: PEER });
    rig.wait(1);
    while rig.has(|effect| matches!(effect, Effect::Bucket(..))) {
        rig.serve();
    }
    let order: Vec<_> = rig
        .out
        .iter()
        .filter_map(|effect| match effect {
            Effect::Lease { until } => Some(*until == 0),
            Effect::AckRule { rule: AckRule::Both(..), .. } => Some(false),
            _ => None,
        })
        .collect();
    assert_eq!(order, [true, false], "first the lease, then the order that is answered");
    // A renewal meanwhile doesn't bring it back, not even for a moment.
    rig.lease();
    for _ in 0..30 {
        rig.wait(100);
        rig.alive();
        if rig.has(|effect| matches!(effect, Effect::Bucket(..))) {
            rig.serve();
        }
    }
    assert!(!rig.has(|effect| matches!(effect, Effect::Lease { until } if *until > 0)));
}

/// The follower is no place any more, and has caught up again at once.
fn lose_and_catch_up(rig: &mut Rig, loss: Event) {
    rig.event(loss);
    rig.obey();
    assert_eq!(rig.config().active.set, Set::Bucket(ME));
    let of = rig.config().epoch.value();
    rig.alive();
    rig.event(Event::FollowerCaughtUp { store: PEER });
    rig.event(holds(PEER, of, 4));
}

fn waits(rig: &mut Rig, ms: u64) {
    if ms > 200 {
        rig.run_with_follower(ms - 200);
        assert_eq!(rig.config().active.set, Set::Bucket(ME), "{ms} ms");
    }
    rig.run_with_follower(400);
    assert_eq!(rig.config().active.set, PAIR, "{ms} ms");
}

#[test]
fn a_follower_that_is_lost_again_soon_waits_longer_each_time() {
    let mut rig = Rig::leading(&pair(me()));
    for wait in [0, 5_000, 10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000] {
        lose_and_catch_up(&mut rig, Event::FollowerSilent { store: PEER });
        waits(&mut rig, wait);
    }
    // It held for the longest wait.
    rig.run_with_follower(300_000);
    lose_and_catch_up(&mut rig, Event::FollowerSilent { store: PEER });
    waits(&mut rig, 0);
}

#[test]
fn a_follower_that_was_started_anew_is_no_flapping_one() {
    let mut rig = Rig::leading(&pair(me()));
    for boot in 21..25 {
        rig.event(Event::FollowerSilent { store: PEER });
        rig.obey();
        rig.event(Event::PeerDown);
        rig.event(Event::PeerUp(process(PEER, boot)));
        let of = rig.config().epoch.value();
        rig.event(Event::FollowerCaughtUp { store: PEER });
        rig.event(holds(PEER, of, 4));
        waits(&mut rig, 0);
    }
}

#[test]
fn a_follower_that_is_slower_than_the_bucket_is_ejected_and_waits() {
    let mut rig = Rig::leading(&pair(me()));
    // The bucket answers at once here, and waits 50 ms for its round.
    let pace = |ms: u64| Event::FollowerPace { store: PEER, fastest: ms * MS };
    rig.event(pace(50));
    rig.run_with_follower(1_000);
    assert_eq!(rig.config().active.set, PAIR);
    rig.event(Event::FollowerPace { store: StoreId::new(9), fastest: 60 * MS });
    rig.run_with_follower(1_000);
    assert_eq!(rig.config().active.set, PAIR, "of another store");
    for wait in [5_000, 10_000, 20_000] {
        lose_and_catch_up(&mut rig, pace(51));
        assert_eq!(rig.core.status().reason, Reason::FollowerSlow);
        waits(&mut rig, wait);
    }
}

// ---- R9: adopted or deposed ------------------------------------------------------------------

#[test]
fn a_higher_version_of_the_same_configuration_deposes_nobody() {
    let mut rig = Rig::leading(&in_bucket(me()));
    let mut config = rig.config();
    (config.ver, config.nonce) = (config.ver + 1, 1);
    config.members[1] = member(StoreId::new(3));
    rig.write(&config);
    rig.run(1_100);
    assert_eq!((rig.role(), rig.step_down()), (RoleName::Leading, None));
    assert!(rig.has(|effect| matches!(effect, Effect::Aim(Some(m)) if m.store.value() == 3)));
    rig.run(1_000);
    assert!(rig.config().ver > config.ver, "renews on");
    // Only the new store's word counts now.
    rig.event(Event::FollowerCaughtUp { store: PEER });
    rig.run(1_000);
    assert!(
        !rig.has(|effect| { matches!(effect, Effect::AckRule { rule: AckRule::Both(..), .. }) })
    );
}

#[test]
fn a_change_that_lost_to_an_operators_is_made_again() {
    let (mut rig, rule) = frozen();
    rig.ruled(rule);
    let mut config = pair(me());
    (config.ver, config.nonce) = (6, 1);
    config.members[1] = member(StoreId::new(3));
    rig.write(&config);
    rig.run(10);
    assert_eq!((rig.role(), rig.config().ver), (RoleName::Leading, 7));
    assert_eq!(rig.config().active.set, Set::Bucket(ME));
    assert_eq!(rig.config().members, config.members);
}

#[test]
fn a_change_that_happened_is_recognised_behind_an_operators() {
    let (mut rig, rule) = frozen();
    rig.ruled(rule);
    let (token, op, sent) = rig.swap();
    rig.apply(op.clone());
    let mut config = sent.clone();
    (config.ver, config.nonce) = (sent.ver + 1, 1);
    config.members[1] = member(StoreId::new(3));
    rig.write(&config);
    rig.complete(token, lost(&op));
    rig.wait(250);
    rig.serve();
    assert_eq!(rig.lead(), Some(config));
}

#[test]
fn every_sign_of_a_newer_epoch_ends_a_leadership_at_once() {
    let signs = [
        Event::Message(Message::Deposed { epoch: epoch(4), ver: 6 }),
        Event::Message(Message::Promise { epoch: epoch(4), ver: 6 }),
        Event::Message(Message::Alive { number: 1, promised: epoch(4), leading: false }),
        Event::Message(Message::Promised { epoch: epoch(4), tips: vec![] }),
        Event::Message(Message::Heartbeat { number: 1, epoch: epoch(4), ver: 6, shards: vec![] }),
        Event::Fenced { epoch: epoch(3) },
        Event::LogUnhealthy { why: "EIO".into() },
    ];
    for sign in signs {
        let mut rig = Rig::leading(&pair(me()));
        let name = format!("{sign:?}");
        rig.event(sign);
        assert!(rig.step_down().is_some(), "{name}");
        assert_eq!(rig.rule().map(|(_, rule)| rule), Some(AckRule::Nobody), "{name}");
        assert_eq!(rig.lease(), Some(0), "{name}");
    }
    let mut rig = Rig::leading(&pair(me()));
    rig.write(&claimed(&pair(me()), peer()));
    rig.run_with_follower(31_000);
    assert!(rig.step_down().is_some(), "reads the register now and then");
}

#[test]
fn old_news_ends_nothing() {
    let mut rig = Rig::leading(&pair(me()));
    rig.message(Message::Deposed { epoch: epoch(3), ver: 4 });
    rig.message(Message::Alive { number: 1, promised: epoch(3), leading: false });
    rig.event(Event::Fenced { epoch: epoch(2) });
    assert_eq!(rig.role(), RoleName::Leading);
    rig.message(Message::Deposed { epoch: epoch(3), ver: 6 });
    rig.serve();
    assert_eq!(rig.role(), RoleName::Leading, "a version is looked at, an epoch obeyed");
    // What the leader before says is refused.
    rig.message(Message::Promise { epoch: epoch(2), ver: 4 });
    assert!(rig.messages().iter().any(|m| matches!(m, Message::Deposed { .. })));
}

// ---- I14 -------------------------------------------------------------------------------------

#[test]
fn without_a_register_a_healthy_pair_goes_on_and_nothing_is_reconfigured() {
    let mut rig = Rig::leading(&pair(me()));
    rig.register = None;
    rig.run_with_follower(40_000);
    assert_eq!((rig.role(), rig.rule()), (RoleName::Leading, None));
    assert_eq!(rig.core.status().distrust, Some(Distrust::Missing { seen: epoch(3) }));
    rig.event(Event::FollowerSilent { store: PEER });
    rig.run(10_000);
    assert!(rig.rule().is_none() && rig.register.is_none());
}

#[test]
fn with_the_bucket_nothing_is_acknowledged_without_a_register() {
    let mut rig = Rig::leading(&in_bucket(me()));
    rig.wait(1_000);
    rig.register = None;
    while rig.has(|effect| matches!(effect, Effect::Bucket(..))) {
        rig.serve();
        rig.wait(1_500);
    }
    assert_eq!(rig.rule().map(|(_, rule)| rule), Some(AckRule::Nobody));
}

#[test]
fn a_register_of_the_same_version_with_other_content_is_refused() {
    let mut rig = Rig::leading(&pair(me()));
    let mut config = pair(me());
    config.nonce += 1;
    rig.write(&config);
    rig.run_with_follower(31_000);
    assert_eq!(rig.core.status().distrust, Some(Distrust::Rewritten { ver: 5 }));
}

// ---- feature level ---------------------------------------------------------------------------

#[test]
fn the_feature_level_rises_when_both_can_read_it_and_never_falls() {
    let mut config = pair(me());
    config.members[1].features = Features { min: 1, max: 3 };
    let of_this_node = |rig: &mut Rig, max| rig.core.me.member.features = Features { min: 1, max };
    let mut rig = Rig::leading(&config);
    rig.run_with_follower(1_000);
    assert_eq!(rig.config(), config, "this node cannot read it");
    // As after a start of a newer program; but that is another process.
    of_this_node(&mut rig, 2);
    rig.run_with_follower(1_000);
    assert_eq!((rig.config().feature_level, rig.config().ver), (2, config.ver + 2));
    of_this_node(&mut rig, 1);
    rig.run_with_follower(1_000);
    assert_eq!(rig.config().feature_level, 2);

    let mut config = in_bucket(me());
    config.members.iter_mut().for_each(|m| m.features = Features { min: 1, max: 2 });
    let mut rig = Rig::with(Some(&config), |_, _| {});
    of_this_node(&mut rig, 2);
    rig.run(3_000);
    assert_eq!(rig.config().feature_level, 1, "only when both are there");
}
