//! Leaders: losing the follower, taking it back, leases, hand-over, operators.

use celeriant_schema::peer::{Features, Message, Tip};
use celeriant_schema::{Lsn, StoreId};
use celeriant_storage::bucket::{Effect as Left, Op};

use super::rig::*;
use crate::election::register::{Active, Config, Link, Member, Phase, Seal, Set};
use crate::election::vocabulary::*;

const PAIR: Set = Set::Pair(ME, PEER);

fn holds(store: StoreId, of: u64, upto: u64) -> Event {
    Event::FollowerHolds { store, epoch: epoch(of), upto: vec![Lsn::new(upto)] }
}

/// A leader of the pair that has just frozen: the register was read, the CAS not sent.
fn frozen() -> (Rig, (u64, AckRule)) {
    let mut rig = Rig::leading(&pair(me()));
    rig.event(Event::FollowerSilent { store: PEER });
    while rig.has(|effect| matches!(effect, Effect::Bucket(..))) {
        rig.get();
    }
    let rule = rig.rule().expect("a rule");
    (rig, rule)
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

// ---- leases: R5, R16 -------------------------------------------------------------------------

fn beat(rig: &mut Rig) -> u64 {
    rig.messages();
    rig.wait(100);
    let beat = rig.messages().into_iter().find_map(|message| match message {
        Message::Heartbeat { number, .. } => Some(number),
        _ => None,
    });
    beat.expect("a heartbeat")
}

#[test]
fn a_grant_counts_from_before_the_heartbeat_and_with_a_margin() {
    let mut rig = Rig::leading(&pair(me()));
    let number = beat(&mut rig);
    let sent = rig.now;
    rig.wait(300);
    let grant = Message::LeaseGrant { number, epoch: epoch(3), lasts_ms: 1_000 };
    rig.message(grant.clone());
    assert_eq!(rig.lease(), Some(sent + 950 * MS));
    // No heartbeat of that number, or another epoch.
    rig.message(Message::LeaseGrant { number: number + 99, epoch: epoch(3), lasts_ms: 9_000 });
    rig.message(Message::LeaseGrant { number, epoch: epoch(2), lasts_ms: 9_000 });
    assert_eq!(rig.lease(), None);
}

#[test]
fn only_the_store_that_the_set_names_grants() {
    let mut rig = Rig::leading(&pair(me()));
    rig.event(Event::PeerUp(process(StoreId::new(9), 1)));
    let grant = |number| Message::LeaseGrant { number, epoch: epoch(3), lasts_ms: 1_000 };
    rig.wait(100);
    (0..9).for_each(|number| rig.message(grant(number)));
    assert_eq!(rig.lease(), None);

    // A member that is to take the place of the store that the set names.
    let third = process(StoreId::new(3), 1);
    let mut config = pair(me());
    config.members[1] = member(third.store);
    let mut rig = Rig::new(Some(&config));
    rig.obey();
    rig.event(Event::PeerUp(third));
    rig.message(Message::Promised { epoch: epoch(3), tips: Vec::new() });
    let number = beat(&mut rig);
    rig.lease();
    rig.message(grant(number));
    assert_eq!(rig.lease(), None);

    let mut rig = Rig::leading(&in_bucket(me()));
    let number = beat(&mut rig);
    rig.lease();
    rig.message(grant(number));
    assert_eq!(rig.lease(), None, "with the bucket the register's lease is the only one");
}

#[test]
fn the_registers_lease_is_renewed_and_counts_from_before_the_first_try() {
    let mut rig = Rig::leading(&in_bucket(me()));
    rig.lease();
    let seq = rig.config().lease.expect("a lease").seq;
    let (token, op) = rig.until_put();
    let sent = rig.now;
    rig.apply(op.clone());
    rig.wait(500);
    rig.complete(token, lost(&op));
    rig.wait(300);
    rig.get();
    assert_eq!(rig.lease(), Some(sent + 2_850 * MS));
    let config = rig.config();
    assert_eq!((config.lease.map(|l| l.seq), config.epoch), (Some(seq + 1), epoch(3)));
    rig.run(10_000);
    assert!(rig.config().lease.expect("a lease").seq >= seq + 10);
    assert!(rig.rule().is_none() && rig.lead().is_none(), "a renewal is no reconfiguration");
}

#[test]
fn a_renewal_that_lost_grants_nothing() {
    let mut rig = Rig::leading(&in_bucket(me()));
    rig.lease();
    let (token, op) = rig.until_put();
    let mut config = rig.config();
    // Two others came first: the version is past, the lease is not there.
    (config.ver, config.nonce) = (config.ver + 2, 1);
    rig.write(&config);
    let done = rig.apply(op);
    rig.complete(token, Ok(done));
    rig.get();
    assert_eq!((rig.lease(), rig.role()), (None, RoleName::Leading));
}

// ---- hand-over -------------------------------------------------------------------------------

fn handing_over() -> Rig {
    let mut rig = Rig::leading(&pair(me()));
    rig.event(Event::Command { id: 1, command: Command::HandOver });
    assert!(rig.has(|effect| matches!(effect, Effect::Quiesce { epoch: e } if *e == epoch(3))));
    rig
}

fn tip_held(store: StoreId) -> Event {
    let tips = vec![Tip { durable: at(4)[0], ..Tip::default() }];
    Event::TipHeldByPeer { epoch: epoch(3), store, tips }
}

#[test]
fn a_hand_over_names_the_process_of_the_store_that_holds_the_tip() {
    let mut rig = handing_over();
    rig.wait(10);
    assert!(rig.core.access.swap().is_none(), "before the other holds the tip");
    rig.event(tip_held(PEER));
    let (token, op) = rig.until_put();
    let returned = Message::LeaseReturn { epoch: epoch(3) };
    assert!(rig.messages().contains(&returned), "the lease is given back before");
    let done = rig.apply(op);
    rig.complete(token, Ok(done));
    let config = rig.config();
    assert_eq!((config.epoch, config.phase, config.leader), (epoch(4), Phase::Active, peer()));
    assert_eq!((config.active.set, config.active.leader), (PAIR, peer()));
    assert_eq!(rig.step_down(), Some(Reason::HandedOver));
    assert_eq!(rig.answer(), Some(Ok(())));
    assert!(rig.messages().iter().any(|m| matches!(m, Message::HandOver { .. })));
}

#[test]
fn writes_pause_for_one_request_to_the_bucket() {
    let mut rig = Rig::leading(&pair(me()));
    // What is known of the register is too old for a change.
    rig.run_with_follower(2_000);
    rig.event(Event::Command { id: 1, command: Command::HandOver });
    let is_quiet = |rig: &Rig| rig.has(|effect| matches!(effect, Effect::Quiesce { .. }));
    assert!(!is_quiet(&rig), "writes go on while the register is read");
    rig.get();
    assert!(is_quiet(&rig));
    rig.event(tip_held(PEER));
    let (token, op) = rig.request().expect("a request");
    assert!(op.mutates(), "{op:?}: the register was read before");
    let done = rig.apply(op);
    rig.complete(token, Ok(done));
    let told = rig.messages().into_iter().find(|m| matches!(m, Message::HandOver { .. }));
    // The heir asks nobody.
    let mut heir = Rig::following(&pair(peer()));
    let Some(Message::HandOver { epoch: of, etag, .. }) = told else { panic!("{told:?}") };
    let config = Config { leader: me(), ..rig.config() };
    let active = Active { leader: me(), ..config.active.clone() };
    let register = Config { active, ..config }.encode(&Seal::new(None));
    heir.message(Message::HandOver { epoch: of, register, etag });
    assert!(heir.has(|effect| matches!(effect, Effect::Promise(epoch) if *epoch == of)));
    heir.event(Event::PromiseDurable { epoch: of, tips: vec![Tip::default()] });
    assert_eq!(
        (heir.role(), heir.lead().map(|config| config.epoch)),
        (RoleName::Leading, Some(of))
    );
}

#[test]
fn a_hand_over_waits_for_a_bucket_that_does_not_answer_while_writes_go_on() {
    let mut rig = Rig::leading(&pair(me()));
    rig.run_with_follower(2_000);
    rig.event(Event::Command { id: 1, command: Command::HandOver });
    for _ in 0..60 {
        rig.wait(100);
        rig.alive();
    }
    assert!(!rig.has(|effect| matches!(effect, Effect::Quiesce { .. } | Effect::Resume)));
    assert!(matches!(rig.answer(), Some(Err(Refused::CalledOff(_)))));
}

#[test]
fn nothing_is_handed_over_to_another_store_than_the_one_that_holds_the_tip() {
    let mut rig = handing_over();
    rig.event(tip_held(StoreId::new(9)));
    rig.run(100);
    assert_eq!(rig.config(), pair(me()));
    rig.event(tip_held(PEER));
    // The other end of the link is another store now.
    let mut rig = handing_over();
    rig.event(Event::PeerUp(process(StoreId::new(9), 1)));
    rig.event(tip_held(PEER));
    rig.run(100);
    assert_eq!(rig.config(), pair(me()));
    // Restarted since: the process that is there now is named.
    let mut rig = handing_over();
    rig.event(Event::PeerUp(process(PEER, 21)));
    rig.event(tip_held(PEER));
    rig.run(100);
    assert_eq!(rig.config().leader, process(PEER, 21));
}

#[test]
fn no_lease_is_relied_on_while_handing_over() {
    let mut rig = Rig::leading(&pair(me()));
    let number = beat(&mut rig);
    let grant = Message::LeaseGrant { number, epoch: epoch(3), lasts_ms: 1_000 };
    rig.message(grant.clone());
    assert!(rig.lease() > Some(0));
    rig.event(Event::Command { id: 1, command: Command::HandOver });
    assert_eq!(rig.lease(), Some(0));
    rig.message(grant);
    assert_eq!(rig.lease(), None);
}

#[test]
fn a_hand_over_that_is_in_doubt_appends_nothing_until_it_is_known() {
    let mut rig = handing_over();
    rig.event(tip_held(PEER));
    let (token, op) = rig.until_put();
    rig.complete(token, lost(&op));
    for _ in 0..10 {
        rig.wait(3_000);
        rig.alive();
        rig.fail(Left::None);
        assert!(!rig.has(|effect| matches!(effect, Effect::Resume)));
    }
    rig.apply(op);
    rig.wait(3_000);
    rig.serve();
    assert_eq!(rig.step_down(), Some(Reason::HandedOver));
}

#[test]
fn a_hand_over_that_takes_too_long_is_called_off() {
    let mut rig = handing_over();
    rig.run_with_follower(5_100);
    assert!(rig.has(|effect| matches!(effect, Effect::Resume)));
    assert!(matches!(rig.answer(), Some(Err(Refused::CalledOff(_)))));
    assert_eq!(rig.role(), RoleName::Leading);
    rig.event(tip_held(PEER));
    rig.run(100);
    assert_eq!(rig.config(), pair(me()), "that was the one that was called off");
}

#[test]
fn a_follower_that_is_lost_during_a_hand_over_calls_it_off() {
    let mut rig = handing_over();
    rig.event(Event::FollowerSilent { store: PEER });
    rig.run(10);
    assert!(rig.has(|effect| matches!(effect, Effect::Resume)));
    assert_eq!(rig.config().active.set, Set::Bucket(ME));
}

#[test]
fn there_is_no_hand_over_to_nobody() {
    let ask = |rig: &mut Rig| {
        rig.event(Event::Command { id: 1, command: Command::HandOver });
        rig.answer().expect("an answer").expect_err("a refusal")
    };
    assert!(matches!(ask(&mut Rig::leading(&in_bucket(me()))), Refused::NotInSync(_)));
    assert_eq!(ask(&mut Rig::following(&pair(peer()))), Refused::NotLeading);
    let mut rig = Rig::leading(&pair(me()));
    rig.event(Event::PeerDown);
    assert!(matches!(ask(&mut rig), Refused::NotInSync(_)));
    rig.event(Event::PeerUp(process(StoreId::new(9), 1)));
    assert!(matches!(ask(&mut rig), Refused::NotInSync(_)));
    let (mut rig, _) = frozen();
    assert_eq!(ask(&mut rig), Refused::Busy);
    let mut rig = handing_over();
    assert_eq!(ask(&mut rig), Refused::Busy);
}

#[test]
fn a_leader_that_shuts_down_hands_over_and_stops() {
    let mut rig = Rig::leading(&pair(me()));
    rig.event(Event::ShuttingDown);
    assert!(rig.has(|effect| matches!(effect, Effect::Quiesce { .. })));
    rig.event(tip_held(PEER));
    rig.run(10);
    // The heir leads with the bucket: this process is as good as gone.
    let config = rig.config();
    assert_eq!((config.leader, config.active.set), (peer(), Set::Bucket(PEER)));
    assert_eq!(config.active.chain, [Link { epoch: epoch(4), base: at(4) }]);
    assert_eq!(rig.role(), RoleName::Following, "the heir may not have heard of it");
    rig.message(Message::Promise { epoch: epoch(4), ver: 6 });
    assert_eq!(rig.role(), RoleName::Stopped);
    assert!(rig.has(|effect| matches!(effect, Effect::Leave)));
    assert_eq!(rig.core.next_deadline(), None);
}

#[test]
fn whoever_has_handed_over_and_ends_waits_for_a_silent_heir_for_a_while() {
    for lost in [true, false] {
        let mut rig = Rig::leading(&pair(me()));
        rig.event(Event::ShuttingDown);
        rig.event(tip_held(PEER));
        rig.run(10);
        if lost {
            rig.event(Event::PeerDown);
            assert_eq!(rig.role(), RoleName::Stopped);
        }
        rig.run(5_000);
        assert_eq!((rig.role(), rig.config().leader), (RoleName::Stopped, peer()));
    }
}

#[test]
fn whoever_shuts_down_and_cannot_hand_over_stops() {
    let mut rig = Rig::leading(&in_bucket(me()));
    rig.event(Event::ShuttingDown);
    assert_eq!(rig.role(), RoleName::Stopped);
    assert_eq!(rig.rule().map(|(_, rule)| rule), Some(AckRule::Nobody));

    let mut rig = Rig::leading(&pair(me()));
    rig.event(Event::ShuttingDown);
    rig.run_with_follower(6_000);
    assert_eq!(rig.role(), RoleName::Stopped, "the follower never got the tip");

    let mut rig = Rig::following(&pair(peer()));
    rig.event(Event::ShuttingDown);
    rig.run(60_000);
    assert_eq!((rig.role(), rig.config()), (RoleName::Stopped, pair(peer())));
}

// ---- operators -------------------------------------------------------------------------------

#[test]
fn a_lost_member_is_replaced_and_the_configuration_stays() {
    let mut rig = Rig::leading(&pair(me()));
    let command = |lost, new| Command::Replace { lost, member: member(StoreId::new(new)) };
    rig.event(Event::Command { id: 1, command: command(PEER, 3) });
    let (token, op, config) = rig.swap();
    assert_eq!((config.ver, config.epoch, &config.active), (6, epoch(3), &pair(me()).active));
    assert_eq!(config.members, [member(ME), member(StoreId::new(3))]);
    assert!(rig.answer().is_none());
    rig.event(Event::Command { id: 2, command: command(PEER, 4) });
    assert_eq!(rig.answer(), Some(Err(Refused::Busy)));
    let done = rig.apply(op);
    rig.complete(token, Ok(done));
    assert_eq!(rig.answer(), Some(Ok(())));
    for (lost, new) in [(ME, 4), (PEER, 4), (StoreId::new(3), 1), (StoreId::new(3), 3)] {
        rig.event(Event::Command { id: 3, command: command(lost, new) });
        assert!(matches!(rig.answer(), Some(Err(Refused::Impossible(_)))), "{lost} by {new}");
    }
    let nameless = Member { node: String::new(), ..member(StoreId::new(4)) };
    let newer = Member { features: Features { min: 2, max: 3 }, ..member(StoreId::new(4)) };
    for member in [nameless, newer] {
        let command = Command::Replace { lost: StoreId::new(3), member };
        rig.event(Event::Command { id: 3, command });
        assert!(matches!(rig.answer(), Some(Err(Refused::Impossible(_)))));
    }
    // The set still names the old store, so nobody is handed anything, whoever is there.
    rig.event(Event::Command { id: 4, command: Command::HandOver });
    assert!(matches!(rig.answer(), Some(Err(Refused::NotInSync(_)))));
    rig.event(Event::PeerUp(process(StoreId::new(3), 1)));
    rig.event(Event::Command { id: 4, command: Command::HandOver });
    assert!(matches!(rig.answer(), Some(Err(Refused::NotInSync(_)))));
}

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

#[test]
fn a_follower_is_told_to_ask_the_leader() {
    let mut rig = Rig::following(&pair(peer()));
    let command = Command::Replace { lost: PEER, member: member(StoreId::new(3)) };
    rig.event(Event::Command { id: 1, command });
    assert_eq!(rig.answer(), Some(Err(Refused::NotLeading)));
}

// ---- signs of life ---------------------------------------------------------------------------

#[test]
fn a_leader_asks_for_the_promise_until_it_is_given_and_then_sends_heartbeats() {
    let mut rig = Rig::new(Some(&pair(me())));
    rig.obey();
    rig.event(Event::PeerUp(peer()));
    rig.wait(250);
    let asked = Message::Promise { epoch: epoch(3), ver: 5 };
    assert_eq!(rig.messages(), vec![asked.clone(); 3]);
    rig.message(Message::Promised { epoch: epoch(3), tips: vec![] });
    rig.wait(200);
    assert!(rig.messages().iter().all(|m| matches!(m, Message::Heartbeat { .. })));
    // Another link: whoever is there now may be another process.
    rig.event(Event::PeerDown);
    rig.event(Event::PeerUp(peer()));
    rig.wait(100);
    assert!(rig.messages().contains(&asked));
}

#[test]
fn reads_that_wait_for_a_proof_get_one_at_once() {
    let mut rig = Rig::leading(&pair(me()));
    let beats = |rig: &mut Rig| {
        let is_beat = |message: &Message| matches!(message, Message::Heartbeat { .. });
        rig.messages().into_iter().filter(is_beat).count()
    };
    rig.wait(150);
    beats(&mut rig);
    rig.event(Event::ProofWanted);
    assert_eq!(beats(&mut rig), 1, "one ping for all that wait");
    for _ in 0..9 {
        rig.wait(1);
        rig.event(Event::ProofWanted);
    }
    assert_eq!(beats(&mut rig), 0);
    rig.wait(1);
    assert_eq!(beats(&mut rig), 1);

    let mut rig = Rig::leading(&in_bucket(me()));
    rig.run(100);
    rig.out.clear();
    rig.event(Event::ProofWanted);
    let (token, op, config) = rig.swap();
    assert_eq!(config.lease.map(|lease| lease.seq), rig.config().lease.map(|l| l.seq + 1));
    rig.lease();
    let done = rig.apply(op);
    rig.complete(token, Ok(done));
    assert!(rig.lease() > Some(rig.now));
}

#[test]
fn a_promise_that_was_given_to_a_claim_is_not_asked_for_again_once_it_leads() {
    let mut rig = Rig::new(Some(&pair(me())));
    rig.obey();
    rig.event(Event::PeerUp(peer()));
    rig.message(Message::Promised { epoch: epoch(3), tips: vec![] });
    rig.messages();
    // As when the claim is activated: another role, the same epoch. Whoever carries messages to the
    // peer asks once a session and epoch, so that a second question is never answered.
    let leading = crate::election::reconfigure::Leading::new(epoch(3), rig.now);
    rig.core.change_role(crate::election::core::Role::Leading(leading), Reason::Activated);
    rig.wait(300);
    let messages = rig.messages();
    assert!(messages.iter().all(|message| matches!(message, Message::Heartbeat { .. })));
    assert!(!messages.is_empty());
}

#[test]
fn nobody_but_a_member_is_asked_for_a_promise() {
    let mut rig = Rig::new(Some(&pair(me())));
    rig.obey();
    rig.event(Event::PeerUp(process(StoreId::new(9), 1)));
    rig.wait(300);
    assert!(rig.messages().is_empty());
}

#[test]
fn one_request_is_in_flight_and_reads_are_rare_when_all_is_well() {
    let mut rig = Rig::leading(&pair(me()));
    let mut reads = 0;
    for _ in 0..600 {
        rig.wait(100);
        rig.alive();
        let count = rig.out.iter().filter(|e| matches!(e, Effect::Bucket(..))).count();
        assert!(count <= 1);
        if let Some((token, op)) = rig.request() {
            assert!(matches!(op, Op::Get { .. }));
            reads += 1;
            let done = rig.apply(op);
            rig.complete(token, Ok(done));
        }
        rig.messages();
    }
    assert!((1..=2).contains(&reads), "{reads} reads in a minute");
}
