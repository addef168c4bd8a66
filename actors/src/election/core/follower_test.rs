//! Nodes that don't lead: creating, joining, promising, granting, claiming, taking over.

use celeriant_schema::StoreId;
use celeriant_schema::peer::{Message, Tip};
use celeriant_storage::bucket::{Done, ETag, Effect as Left, Op};

use super::rig::*;
use crate::election::register::{CHAIN_LINKS_MAX, Link, Phase, RegisterError, Seal, Set};
use crate::election::settings::Settings;
use crate::election::vocabulary::*;

fn deposed(messages: &[Message]) -> bool {
    messages.iter().any(|message| matches!(message, Message::Deposed { .. }))
}

fn granted(messages: &[Message]) -> bool {
    messages.iter().any(|message| matches!(message, Message::LeaseGrant { .. }))
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
    rig.run(1_190);
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

// ---- claim, promise, recover, place, activate: R7 --------------------------------------------

#[test]
fn a_claim_is_followed_by_promise_recovery_placement_and_activation_in_this_order() {
    let mut rig = Rig::following(&pair(peer()));
    rig.wait(1_300);
    rig.serve();
    rig.serve();
    rig.out.retain(|effect| !matches!(effect, Effect::Announce(_) | Effect::Saw(_)));
    assert!(matches!(rig.out[..], [Effect::Promise(e)] if e == epoch(4)), "{:?}", rig.out);
    rig.out.clear();
    rig.event(Event::PromiseDurable { epoch: epoch(4), tips: vec![] });
    let recovers = |e: &Effect| matches!(e, Effect::Recover { chain, .. } if chain.is_empty());
    assert!(rig.has(recovers));
    rig.event(Event::Recovered { epoch: epoch(4), base: at(7) });
    let link = Link { epoch: epoch(4), base: at(7) };
    let places =
        |e: &Effect| matches!(e, Effect::Place { link: l, peer: Some(PEER) } if *l == link);
    assert!(rig.has(places));
    rig.event(Event::Placed { epoch: epoch(4), place: Place::Bucket });
    let (token, op, config) = rig.swap();
    assert_eq!((config.ver, config.epoch, config.phase), (7, epoch(4), Phase::Active));
    assert_eq!((config.leader, config.active.leader), (me(), me()));
    assert_eq!((config.active.set, &config.active.chain), (Set::Bucket(ME), &vec![link.clone()]));
    assert!(config.lease.is_some());
    assert!(rig.lead().is_none() && rig.rule().is_none(), "serves before the activation (R7)");
    let done = rig.apply(op);
    rig.complete(token, Ok(done));
    assert_eq!(rig.lead().map(|config| config.ver), Some(7));
    assert_eq!(rig.rule().map(|(_, rule)| rule), Some(AckRule::Set(Set::Bucket(ME))));
}

#[test]
fn an_activation_that_nobody_knows_of_serves_nothing_until_it_is_read() {
    let mut rig = Rig::following(&pair(peer()));
    rig.run(1_300);
    rig.event(Event::Placed { epoch: epoch(4), place: Place::Bucket });
    let (token, op, _) = rig.swap();
    rig.complete(token, lost(&op));
    rig.wait(150);
    assert!(rig.lead().is_none());
    rig.wait(100);
    // Not there: the same bytes again.
    rig.serve();
    rig.wait(250);
    let (token, again, _) = rig.swap();
    assert_eq!(format!("{op:?}"), format!("{again:?}"));
    // The first one was only late; the second one meets it.
    rig.apply(op);
    let done = rig.apply(again);
    rig.complete(token, Ok(done));
    assert!(rig.lead().is_none(), "a conflict is hearsay");
    rig.serve();
    assert_eq!(rig.lead().map(|config| config.ver), Some(7));
}

#[test]
fn a_log_that_the_peer_holds_is_activated_as_a_pair_with_members_only() {
    let mut rig = Rig::following(&pair(peer()));
    rig.run(1_300);
    for place in [Place::Peer(StoreId::new(9)), Place::Peer(ME)] {
        rig.event(Event::Placed { epoch: epoch(4), place });
    }
    rig.event(Event::Placed { epoch: epoch(3), place: Place::Bucket });
    assert!(rig.request().is_none(), "placed nowhere that counts");
    rig.event(Event::Placed { epoch: epoch(4), place: Place::Peer(PEER) });
    let (_, _, config) = rig.swap();
    assert_eq!(config.active.set, Set::pair(ME, PEER));
    assert!(config.active.chain.is_empty() && config.lease.is_none());
}

#[test]
fn a_claim_over_the_bucket_recovers_from_its_chain_and_continues_it() {
    let mut rig = Rig::new(Some(&in_bucket(process(ME, 9))));
    rig.serve();
    assert!(rig.has(|e| matches!(e, Effect::Check { base, .. } if *base == at(4))));
    rig.event(Event::Checked { chain: epoch(3), held: true });
    rig.serve();
    rig.event(Event::PromiseDurable { epoch: epoch(4), tips: vec![] });
    let chain = in_bucket(peer()).active.chain;
    assert!(rig.has(|e| matches!(e, Effect::Recover { chain: c, .. } if *c == chain)));
    rig.event(Event::Recovered { epoch: epoch(4), base: at(6) });
    rig.event(Event::Placed { epoch: epoch(4), place: Place::Bucket });
    let (_, _, config) = rig.swap();
    let own = Link { epoch: epoch(4), base: at(6) };
    assert_eq!(config.active.chain, [chain[0].clone(), own]);
}

/// The chain of the activation after a recovery that ended at `end`.
fn chain_after(chain: Vec<Link>, end: u64) -> (Vec<Link>, Vec<Link>) {
    let mut config = in_bucket(process(ME, 9));
    let last = chain.last().expect("a link").epoch;
    (config.epoch, config.active.epoch, config.active.chain) = (last, last, chain);
    let mut rig = Rig::new(Some(&config));
    rig.commit = end;
    rig.run(1);
    let placed = rig.take(|effect| match effect {
        Effect::Place { link, .. } => Some(link.clone()),
        _ => None,
    });
    let epoch = rig.config().epoch;
    rig.event(Event::Placed { epoch, place: Place::Bucket });
    (rig.swap().2.active.chain, placed.into_iter().collect())
}

#[test]
fn a_bucket_log_without_slots_is_left_out_of_the_chain() {
    let links = [(3, 4), (5, 9)].map(|(e, lsn)| Link { epoch: epoch(e), base: at(lsn) });
    let (chain, _) = chain_after(links.to_vec(), 9);
    let own = Link { epoch: epoch(6), base: at(9) };
    assert_eq!(chain, [links[0].clone(), own]);
}

#[test]
fn a_chain_that_is_full_begins_anew_with_everything_above_its_base() {
    let count = CHAIN_LINKS_MAX as u64;
    let links: Vec<_> = (1..=count).map(|e| Link { epoch: epoch(e), base: at(10 + e) }).collect();
    let (chain, placed) = chain_after(links, 100);
    assert_eq!(chain, [Link { epoch: epoch(count + 1), base: at(11) }]);
    assert_eq!(placed, chain, "all of it is uploaded");
}

#[test]
fn a_take_over_that_fails_is_given_up_and_tried_again_later() {
    let failures = [
        |epoch| Event::RecoverFailed { epoch, why: "slot missing".into() },
        |epoch| Event::PlaceFailed { epoch, why: "fenced".into() },
    ];
    for failure in failures {
        let mut rig = Rig::following(&pair(peer()));
        rig.run(1_300);
        rig.event(failure(epoch(3)));
        assert_eq!(rig.role(), RoleName::TakingOver, "that was another epoch");
        rig.event(failure(epoch(4)));
        assert!(rig.step_down().is_some());
        rig.run(900);
        assert_eq!(rig.config().epoch, epoch(4), "backs off");
        rig.run(3_000);
        assert_eq!((rig.config().epoch, rig.config().leader), (epoch(5), me()));
        // Late answers of the first one change nothing.
        rig.event(Event::Placed { epoch: epoch(4), place: Place::Bucket });
        rig.event(Event::Recovered { epoch: epoch(4), base: at(1) });
        assert!(rig.request().is_none());
    }
}

#[test]
fn a_claimant_that_is_overtaken_stops() {
    let mut rig = Rig::following(&pair(peer()));
    rig.run(1_300);
    let over = claimed(&rig.config(), peer());
    rig.write(&over);
    rig.run(1_100);
    assert_eq!(rig.step_down(), Some(Reason::Deposed { epoch: epoch(5) }));
    rig.event(Event::Placed { epoch: epoch(4), place: Place::Bucket });
    assert!(rig.request().is_none());
}

#[test]
fn a_claimant_that_loses_backs_off() {
    let mut rig = Rig::following(&pair(peer()));
    rig.wait(1_300);
    rig.serve();
    let other = claimed(&pair(peer()), peer());
    rig.write(&other);
    rig.serve();
    rig.serve();
    assert_eq!(rig.role(), RoleName::Following);
    rig.run(9_900);
    assert_eq!(rig.config(), other, "an open claim of a live process has time");
    rig.run(3_000);
    assert_eq!((rig.config().epoch, rig.config().leader), (epoch(5), me()));
}

#[test]
fn a_claimant_that_loses_to_somebody_who_is_gone_backs_off_nevertheless() {
    let mut rig = Rig::following(&pair(peer()));
    rig.wait(1_300);
    rig.serve();
    let other = claimed(&pair(peer()), process(PEER, 19));
    rig.write(&other);
    rig.serve();
    rig.serve();
    rig.run(990);
    assert_eq!(rig.config(), other);
    rig.run(2_100);
    assert_eq!((rig.config().epoch, rig.config().leader), (epoch(5), me()));
}

#[test]
fn a_claim_of_a_process_that_is_known_to_be_gone_holds_nobody_up() {
    let mut rig = Rig::following(&claimed(&pair(peer()), process(PEER, 19)));
    rig.run(1_300);
    assert_eq!((rig.config().epoch, rig.config().leader), (epoch(5), me()));
}

#[test]
fn a_claim_that_is_stuck_stops_nobody() {
    let mut rig = Rig::following(&pair(peer()));
    rig.wait(1_300);
    rig.serve();
    rig.fail(Left::Unknown);
    rig.wait(1);
    rig.heartbeat(2);
    assert!(
        matches!(rig.messages()[..], [Message::Alive { promised, .. }] if promised == epoch(3))
    );
    // The leader is back, so the claim is not sent again; when it is not there, it is dropped.
    rig.wait(250);
    rig.get();
    rig.heartbeat(3);
    assert!(granted(&rig.messages()));
    assert_eq!(rig.role(), RoleName::Following);
    assert!(rig.request().is_none());
}

#[test]
fn a_claim_that_lands_after_it_was_dropped_is_not_taken_up() {
    let mut rig = Rig::following(&pair(peer()));
    rig.wait(1_300);
    rig.serve();
    let (token, op, _) = rig.swap();
    rig.wait(1);
    rig.heartbeat(2);
    rig.complete(token, lost(&op));
    rig.wait(250);
    rig.serve();
    rig.apply(op);
    rig.heartbeat(3);
    rig.out.clear();
    for number in 4..400 {
        rig.run(100);
        rig.heartbeat(number);
    }
    assert_eq!(rig.role(), RoleName::Following);
    assert!(rig.lead().is_none());
}

#[test]
fn an_epoch_that_the_peer_has_this_nodes_word_for_is_not_taken_over() {
    let mut rig = Rig::following(&pair(peer()));
    rig.wait(1_300);
    rig.serve();
    let (token, op, _) = rig.swap();
    let done = rig.apply(op);
    // The peer claimed epoch 5 before this node learnt that it had won 4.
    rig.message(Message::Promise { epoch: epoch(5), ver: 7 });
    rig.complete(token, Ok(done));
    assert_eq!(rig.role(), RoleName::Following);
    rig.obey();
    assert!(!rig.has(|effect| matches!(effect, Effect::Recover { .. })));
}

#[test]
fn a_lost_bucket_is_recovered_from_by_an_operator_only() {
    let seen = |_: &mut Settings, local: &mut Local| {
        (local.promised, local.max_epoch_seen) = (epoch(7), epoch(8));
    };
    let mut rig = Rig::with(None, seen);
    rig.run(10_000);
    assert!(rig.register.is_none());
    let recover =
        |above| Event::Command { id: 4, command: Command::Recover { above: epoch(above) } };
    rig.event(recover(20));
    // The answer is lost, and the bucket shows it late.
    let (token, op) = rig.until_put();
    rig.complete(token, lost(&op));
    rig.run(10_000);
    assert_eq!(rig.answer(), Some(Ok(())));
    let config = rig.config();
    assert_eq!(config.epoch, epoch(1_020));
    assert_eq!((config.active.set, config.members.len()), (Set::Bucket(ME), 1));
    let status = rig.core.status();
    assert_eq!(
        (status.role, status.reason, status.distrust),
        (RoleName::Leading, Reason::Recovered, None)
    );
    rig.event(recover(20));
    assert!(matches!(rig.answer(), Some(Err(Refused::Impossible(_)))), "there is one");
}

#[test]
fn a_recovery_that_meets_a_register_is_called_off() {
    let seen = |_: &mut Settings, local: &mut Local| local.max_epoch_seen = epoch(8);
    let mut rig = Rig::with(None, seen);
    rig.run(1_000);
    rig.event(Event::Command { id: 4, command: Command::Recover { above: epoch(8) } });
    let (token, op) = rig.until_put();
    // Somebody has put an old copy back.
    rig.write(&pair(peer()));
    let done = rig.apply(op);
    rig.complete(token, Ok(done));
    rig.run(5_000);
    assert!(matches!(rig.answer(), Some(Err(Refused::CalledOff(_)))));
    assert_eq!((rig.config(), rig.role()), (pair(peer()), RoleName::Following));
}

#[test]
fn a_node_that_is_found_elsewhere_now_says_so_in_the_register() {
    let mut config = pair(peer());
    config.members[0].clients = "there:1".into();
    let mut rig = Rig::following(&config);
    rig.obey();
    let told = rig.config();
    assert_eq!((told.ver, told.members[0].clients.as_str()), (config.ver + 1, ""));
    assert_eq!((told.epoch, told.active), (config.epoch, config.active));
    rig.run(100);
    assert_eq!(rig.config().ver, config.ver + 1, "once");
}

// ---- handed over -----------------------------------------------------------------------------

#[test]
fn a_status_says_how_its_node_came_to_lead() {
    let mut rig = Rig::new(None);
    rig.obey();
    assert_eq!((rig.role(), rig.core.status().reason), (RoleName::Leading, Reason::Created));
    let mut rig = Rig::following(&pair(peer()));
    rig.write(&pair(peer()).activated(epoch(4), me(), Set::pair(ME, PEER), vec![]));
    let (register, etag) = (Default::default(), String::new());
    rig.message(Message::HandOver { epoch: epoch(4), register, etag });
    rig.obey();
    assert_eq!((rig.role(), rig.core.status().reason), (RoleName::Leading, Reason::HandedToUs));
}

#[test]
fn the_process_that_the_register_names_promises_and_leads_at_once() {
    let mut rig = Rig::following(&pair(peer()));
    let mut config = pair(peer()).activated(epoch(4), me(), Set::pair(ME, PEER), vec![]);
    config.nonce = 99;
    rig.write(&config);
    let (register, etag) = (Default::default(), String::new());
    rig.message(Message::HandOver { epoch: epoch(4), register, etag });
    rig.serve();
    assert!(rig.lead().is_none(), "leads before it promised");
    rig.obey();
    assert_eq!(rig.lead(), Some(config));
}

#[test]
fn a_register_that_the_peer_tells_is_believed_only_if_it_is_the_next() {
    let handed = pair(peer()).activated(epoch(4), me(), Set::pair(ME, PEER), vec![]);
    let seal = Seal::new(Some(b"a secret of somebody else"));
    let old = pair(me());
    for register in [old.encode(&Seal::new(None)), handed.encode(&seal)] {
        let mut rig = Rig::following(&pair(peer()));
        rig.message(Message::HandOver { epoch: epoch(4), register, etag: "\"9\"".into() });
        assert!(!rig.has(|effect| matches!(effect, Effect::Promise(_))));
        rig.obey();
        assert_eq!((rig.core.status().distrust, rig.role()), (None, RoleName::Following));
    }
}

#[test]
fn a_read_that_was_sent_before_the_peer_told_the_register_says_nothing() {
    let mut rig = Rig::following(&pair(peer()));
    rig.message(Message::Deposed { epoch: epoch(3), ver: 6 });
    let (token, op) = rig.request().expect("a read");
    let before = rig.apply(op);
    let handed = pair(peer()).activated(epoch(4), me(), Set::pair(ME, PEER), vec![]);
    rig.write(&handed);
    let (register, etag) = rig.register.clone().expect("a register");
    let etag = etag.as_str().to_owned();
    rig.message(Message::HandOver { epoch: epoch(4), register, etag });
    rig.complete(token, Ok(before));
    assert_eq!(rig.core.status().distrust, None, "an older one than was told");
    rig.obey();
    assert_eq!(rig.lead(), Some(handed));
}

#[test]
fn a_process_that_was_restarted_is_not_the_one_that_the_register_names() {
    let config = pair(process(ME, 9));
    let mut rig = Rig::new(Some(&config));
    rig.run(500);
    assert!(rig.lead().is_none());
    rig.run(1_000);
    assert_eq!((rig.config().phase, rig.config().leader), (Phase::Claimed, me()), "R8: it claims");
}

#[test]
fn a_process_never_leads_an_epoch_twice() {
    let mut rig = Rig::leading(&pair(me()));
    rig.message(Message::Deposed { epoch: epoch(4), ver: 6 });
    assert_eq!(rig.step_down(), Some(Reason::Deposed { epoch: epoch(4) }));
    // The register still names it: it claims like anybody else.
    rig.run(5_000);
    assert!(rig.lead().is_none());
    assert_eq!((rig.config().phase, rig.config().epoch), (Phase::Claimed, epoch(4)));
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
