//! Nodes that don't lead: creating, joining, promising, granting, what they believe, claiming.

use celeriant_schema::StoreId;
use celeriant_schema::peer::{Message, Tip};
use celeriant_storage::bucket::{Done, ETag, Op};

use super::rig::*;
use crate::election::register::{Link, Phase, RegisterError, Seal, Set};
use crate::election::vocabulary::*;

fn deposed(messages: &[Message]) -> bool {
    messages.iter().any(|message| matches!(message, Message::Deposed { .. }))
}

// ---- the first start -------------------------------------------------------------------------

#[test]
fn the_first_node_makes_the_register_and_leads_with_the_bucket() {
    let mut rig = Rig::new(None);
    rig.serve();
    let (token, op, config) = rig.swap();
    assert!(matches!(op, Op::PutIfAbsent { .. }), "{op:?}");
    assert_eq!((config.ver, config.epoch, config.phase), (1, epoch(1), Phase::Active));
    assert_eq!(config.active.set, Set::Bucket(ME));
    assert_eq!(config.active.chain, [Link { epoch: epoch(1), base: at(0) }]);
    assert!(rig.lead().is_none(), "leads before the register is known to say so");
    let done = rig.apply(op);
    rig.complete(token, Ok(done));
    assert!(rig.lead().is_none(), "leads before its promise is durable (R6)");
    rig.obey();
    assert_eq!(rig.lead().map(|config| config.epoch), Some(epoch(1)));
    assert_eq!(rig.rule().map(|(_, rule)| rule), None, "obey took it");
    assert_eq!(rig.role(), RoleName::Leading);
}

#[test]
fn a_directory_that_was_a_single_nodes_is_adopted_in_an_epoch_of_its_own() {
    let mut rig = Rig::with(None, |_, local| local.tips[0].epoch = epoch(41));
    rig.serve();
    let (_, _, config) = rig.swap();
    assert_eq!((config.epoch, config.active.epoch), (epoch(42), epoch(42)));
}

#[test]
fn a_single_nodes_history_is_not_given_up_for_anothers() {
    let mut alone = in_bucket(peer());
    alone.members.retain(|member| member.store == PEER);
    let mut rig = Rig::with(Some(&alone), |_, local| {
        local.tips[0].durable = at(5)[0];
        (local.tips[0].epoch, local.promised, local.max_epoch_seen) =
            (epoch(1), epoch(1), epoch(0));
    });
    rig.run(10_000);
    assert_eq!(rig.config(), alone);
    assert_eq!(rig.core.status().distrust, Some(Distrust::OwnHistory));
    assert!(!rig.has(|effect| matches!(effect, Effect::Saw(_))), "it would forget why");
    // Where there is no register, it makes one.
    let mut rig = Rig::with(None, |_, local| local.tips[0].durable = at(5)[0]);
    rig.obey();
    assert_eq!((rig.role(), rig.config().members), (RoleName::Leading, vec![member(ME)]));
    assert!(rig.has(|effect| matches!(effect, Effect::Saw(_))));
}

#[test]
fn of_two_first_nodes_one_creates_and_the_other_joins() {
    let mut rig = Rig::new(None);
    rig.serve();
    let mut other = in_bucket(peer());
    other.members.retain(|member| member.store == PEER);
    rig.write(&other);
    rig.serve();
    rig.serve();
    let (_, _, config) = rig.swap();
    assert_eq!(config.members, [member(PEER), member(ME)]);
    assert_eq!((config.ver, config.epoch, config.leader), (6, epoch(3), peer()));
    rig.run(500);
    assert_eq!(rig.role(), RoleName::Following);
}

#[test]
fn a_node_that_may_not_create_or_join_says_so_and_does_nothing() {
    let mut rig = Rig::with(None, |_, local| local.may = May::default());
    rig.run(60_000);
    assert_eq!(rig.core.status().distrust, Some(Distrust::NotCreated));
    assert!(rig.register.is_none());

    let mut alone = in_bucket(peer());
    alone.members.retain(|member| member.store == PEER);
    let mut rig = Rig::with(Some(&alone), |_, local| local.may = May::default());
    rig.run(60_000);
    assert_eq!(rig.config(), alone, "a store that is no member claimed or joined");
}

#[test]
fn a_node_without_a_place_finds_soon_that_it_was_given_one() {
    let mut config = pair(peer());
    config.members[0].store = StoreId::new(3);
    let mut rig = Rig::new(Some(&config));
    rig.run(10_000);
    assert_eq!(rig.config(), config);

    config.members[0].store = ME;
    config.ver += 1;
    rig.write(&config);
    rig.run(1_000);
    // Whom it now talks to; an operator waits for it.
    assert!(rig.has(|effect| matches!(effect, Effect::Aim(Some(to)) if to.store == PEER)));
}

#[test]
fn an_unknown_creation_is_resolved_by_reading() {
    let mut rig = Rig::new(None);
    rig.serve();
    let (token, op, _) = rig.swap();
    rig.apply(op.clone());
    rig.complete(token, lost(&op));
    rig.run(1_000);
    assert_eq!((rig.role(), rig.config().ver), (RoleName::Leading, 2), "and renewed its lease");
}

// ---- R6: promises ----------------------------------------------------------------------------

#[test]
fn a_promise_is_told_only_when_it_is_durable() {
    let mut rig = Rig::following(&pair(peer()));
    rig.message(Message::Promise { epoch: epoch(4), ver: 6 });
    assert!(rig.messages().is_empty());
    assert!(rig.has(|effect| matches!(effect, Effect::Promise(e) if *e == epoch(4))));
    rig.event(Event::PromiseDurable { epoch: epoch(4), tips: vec![Tip::default()] });
    let promised = Message::Promised { epoch: epoch(4), tips: vec![Tip::default()] };
    assert_eq!(rig.messages(), [promised]);
    let new = epoch(4);
    let follows = |e: &Effect| matches!(e, Effect::Follow { leader: PEER, epoch } if *epoch == new);
    assert!(rig.has(follows));
}

#[test]
fn nothing_below_a_promise_is_heard() {
    let mut rig = Rig::following(&pair(peer()));
    rig.message(Message::Promise { epoch: epoch(4), ver: 6 });
    // Also while it is being made durable.
    rig.heartbeat(2);
    assert!(deposed(&rig.messages()));
    rig.obey();
    rig.out.clear();
    rig.heartbeat(3);
    rig.message(Message::Promise { epoch: epoch(3), ver: 5 });
    let messages = rig.messages();
    assert_eq!(messages, vec![Message::Deposed { epoch: epoch(4), ver: 5 }; 2]);
}

#[test]
fn a_heartbeat_of_a_new_epoch_is_answered_after_the_promise() {
    let mut rig = Rig::following(&in_bucket(peer()));
    let beat = |number| Message::Heartbeat { number, epoch: epoch(4), ver: 6, shards: vec![] };
    rig.message(beat(2));
    assert!(rig.messages().is_empty());
    rig.obey();
    assert!(matches!(rig.messages()[..], [Message::Promised { .. }]));
    rig.message(beat(3));
    assert!(
        matches!(rig.messages()[..], [Message::Alive { promised, .. }, Message::LeaseGrant { .. }]
        if promised == epoch(4))
    );
}

#[test]
fn a_claimant_does_not_hear_another_in_its_own_epoch() {
    let mut rig = Rig::following(&pair(peer()));
    rig.run(3_000);
    assert_eq!(rig.role(), RoleName::TakingOver);
    rig.out.clear();
    rig.message(Message::Promise { epoch: epoch(4), ver: 6 });
    assert!(deposed(&rig.messages()));
    assert_eq!(rig.role(), RoleName::TakingOver);
    // A higher one is.
    rig.message(Message::Promise { epoch: epoch(5), ver: 7 });
    assert!(rig.step_down().is_some());
}

// ---- when to claim: R16 ----------------------------------------------------------------------

#[test]
fn a_follower_claims_when_silence_and_its_grant_are_over() {
    let mut rig = Rig::following(&pair(peer()));
    rig.run(1_090);
    assert_eq!(rig.config(), pair(peer()));
    rig.run(20);
    let config = rig.config();
    assert_eq!((config.ver, config.epoch, config.phase), (6, epoch(4), Phase::Claimed));
    assert_eq!((config.leader, config.active), (me(), pair(peer()).active));
    assert_ne!(config.nonce, pair(peer()).nonce);
}

#[test]
fn a_grant_is_kept_however_soon_the_leader_is_missed() {
    let mut rig = Rig::with(Some(&pair(peer())), |settings, _| settings.claim_after = 10 * MS);
    rig.event(Event::PeerUp(peer()));
    rig.message(Message::Promise { epoch: epoch(3), ver: 5 });
    rig.obey();
    rig.wait(500);
    rig.heartbeat(2);
    assert!(granted(&rig.messages()));
    rig.run(1_040);
    assert_eq!(rig.config(), pair(peer()), "claimed within its grant");
    rig.run(20);
    assert_eq!(rig.config().phase, Phase::Claimed);
}

#[test]
fn a_lease_that_is_given_back_binds_no_longer() {
    let mut rig = Rig::with(Some(&pair(peer())), |settings, _| settings.claim_after = 10 * MS);
    rig.event(Event::PeerUp(peer()));
    rig.message(Message::Promise { epoch: epoch(3), ver: 5 });
    rig.obey();
    rig.wait(500);
    rig.heartbeat(2);
    rig.message(Message::LeaseReturn { epoch: epoch(2) });
    rig.run(100);
    assert_eq!(rig.config(), pair(peer()), "that was another epoch's");
    rig.message(Message::LeaseReturn { epoch: epoch(3) });
    rig.run(100);
    assert_eq!(rig.config().phase, Phase::Claimed);
}

#[test]
fn nothing_is_granted_while_a_claim_may_be_won_at_any_moment() {
    let mut rig = Rig::following(&pair(peer()));
    rig.wait(1_300);
    rig.serve();
    let (token, op, _) = rig.swap();
    rig.heartbeat(2);
    let messages = rig.messages();
    assert!(matches!(messages[..], [Message::Alive { .. }]), "{messages:?}");
    // And it is known to be won only now.
    let done = rig.apply(op);
    rig.complete(token, Ok(done));
    assert_eq!(rig.role(), RoleName::TakingOver);
}

#[test]
fn a_restarted_leader_of_the_pair_waits_one_lease_and_one_of_the_bucket_does_not() {
    let mut rig = Rig::new(Some(&pair(process(ME, 9))));
    rig.run(1_040);
    assert_eq!(rig.config().phase, Phase::Active);
    rig.run(20);
    assert_eq!((rig.config().phase, rig.config().leader), (Phase::Claimed, me()));

    let mut rig = Rig::new(Some(&in_bucket(process(ME, 9))));
    rig.run(1);
    assert_eq!((rig.config().phase, rig.config().leader), (Phase::Claimed, me()));
}

#[test]
fn a_challenger_waits_until_the_lease_has_stood_still() {
    let mut rig = Rig::following(&in_bucket(peer()));
    let mut config = in_bucket(peer());
    // Renewed each second while nobody is heard: the leader lives.
    for _ in 0..20 {
        rig.run(1_000);
        assert_eq!(rig.config(), config);
        config.ver += 1;
        config.nonce += 1;
        config.lease.as_mut().expect("a lease").seq += 1;
        rig.write(&config);
    }
    // It first saw the last one at most one wait later.
    rig.run(3_100);
    assert_eq!(rig.config(), config, "claimed too early");
    rig.run(3_400);
    assert_eq!((rig.config().phase, rig.config().ver), (Phase::Claimed, config.ver + 1));
}

#[test]
fn a_renewal_between_reading_and_claiming_wins() {
    let mut rig = Rig::following(&in_bucket(peer()));
    let mut config = in_bucket(peer());
    let (token, op) = rig.until_put();
    config.ver += 1;
    config.nonce += 1;
    rig.write(&config);
    let done = rig.apply(op);
    rig.complete(token, Ok(done));
    rig.serve();
    assert_eq!(rig.role(), RoleName::Following);
    assert_eq!(rig.config(), config);
}

// ---- who may claim ---------------------------------------------------------------------------

#[test]
fn a_store_that_is_no_member_never_claims() {
    let mut config = pair(peer());
    config.members[0].store = StoreId::new(3);
    let mut rig = Rig::new(Some(&config));
    rig.run(60_000);
    assert_eq!(rig.config(), config);
}

#[test]
fn a_member_outside_the_ruling_pair_never_claims() {
    let mut config = pair(peer());
    config.active.set = Set::pair(PEER, StoreId::new(3));
    let mut rig = Rig::new(Some(&config));
    rig.run(60_000);
    assert_eq!(rig.config(), config);
}

#[test]
fn a_log_without_the_base_of_the_chain_never_claims() {
    let mut rig = Rig::following(&in_bucket(peer()));
    let mut asked = 0;
    for _ in 0..300 {
        rig.wait(100);
        if rig.has(|effect| matches!(effect, Effect::Bucket(..))) {
            rig.serve();
        }
        let check = rig.take(|effect| match effect {
            Effect::Check { chain, base } => Some((*chain, base.clone())),
            _ => None,
        });
        if let Some((chain, base)) = check {
            assert_eq!((chain, base), (epoch(3), at(4)));
            asked += 1;
            rig.event(Event::Checked { chain, held: false });
        }
    }
    assert_eq!(rig.config(), in_bucket(peer()));
    assert!(asked > 3, "asks again, because its log may grow");
}

#[test]
fn a_damaged_log_never_claims() {
    for config in [pair(peer()), pair(process(ME, 9)), in_bucket(process(ME, 9))] {
        let mut rig = Rig::new(Some(&config));
        rig.event(Event::LogUnhealthy { why: "EIO".into() });
        rig.run(60_000);
        assert_eq!(rig.config(), config);
    }
    // Not even what it is named for.
    let mut rig = Rig::following(&pair(peer()));
    rig.event(Event::LogUnhealthy { why: "EIO".into() });
    rig.write(&pair(peer()).activated(epoch(4), me(), Set::pair(ME, PEER), vec![]));
    rig.run(60_000);
    assert_eq!((rig.role(), rig.lead()), (RoleName::Following, None));
}

// ---- I14: what to believe --------------------------------------------------------------------

#[test]
fn a_register_that_is_missing_older_foreign_or_damaged_is_refused() {
    let seen = |rig: &mut Rig| {
        rig.run(60_000);
        assert_eq!(rig.role(), RoleName::Following);
        rig.core.status().distrust.expect("a refusal")
    };
    let mut missing = Rig::with(None, |_, local| local.max_epoch_seen = epoch(1));
    assert_eq!(seen(&mut missing), Distrust::Missing { seen: epoch(1) });
    assert!(missing.register.is_none(), "made a new one");

    let older = pair(process(ME, 9));
    let mut rig = Rig::with(Some(&older), |_, local| local.max_epoch_seen = epoch(4));
    assert!(matches!(seen(&mut rig), Distrust::Older { .. }));
    assert_eq!(rig.config(), older);

    let mut foreign = pair(process(ME, 9));
    foreign.shards = 2;
    let mut rig = Rig::new(Some(&foreign));
    let refusal = seen(&mut rig);
    assert!(matches!(refusal, Distrust::Unreadable(RegisterError::Shards { .. })), "{refusal}");

    let mut rig = Rig::new(None);
    let sealed = pair(peer()).encode(&Seal::new(Some(b"another")));
    rig.register = Some((sealed, ETag::new("x")));
    let refusal = seen(&mut rig);
    assert_eq!(refusal, Distrust::Unreadable(RegisterError::Forged));
}

#[test]
fn a_register_that_comes_back_is_believed_again() {
    let mut rig = Rig::following(&pair(peer()));
    let kept = rig.register.take();
    rig.run(10_000);
    assert_eq!(rig.core.status().distrust, Some(Distrust::Missing { seen: epoch(3) }));
    rig.register = kept;
    rig.run(10_000);
    assert_eq!(rig.core.status().distrust, None);
    assert_eq!(rig.config().leader, me());
}

#[test]
fn every_new_epoch_is_remembered() {
    let mut rig = Rig::new(Some(&pair(peer())));
    rig.serve();
    assert!(rig.has(|effect| matches!(effect, Effect::Saw(e) if *e == epoch(3))));
}

#[test]
fn completions_that_nobody_waits_for_change_nothing() {
    let mut rig = Rig::following(&pair(peer()));
    rig.wait(1_300);
    let (token, op) = rig.request().expect("a get");
    let found = rig.apply(op);
    let put = Done::Put { etag: ETag::new("x") };
    rig.complete(token + 1, Ok(put.clone()));
    rig.complete(token, Ok(found.clone()));
    rig.swap();
    // Twice, and an answer to another question.
    rig.complete(token, Ok(found));
    rig.complete(token, Ok(put));
    assert!(rig.request().is_none());
    assert_eq!(rig.role(), RoleName::Claiming);
}
