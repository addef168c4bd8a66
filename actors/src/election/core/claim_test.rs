//! Claimants: from a claim to a leader, one rule after the other (R7).

use celeriant_schema::StoreId;
use celeriant_schema::peer::Message;
use celeriant_storage::bucket::Effect as Left;

use super::rig::*;
use crate::election::register::{CHAIN_LINKS_MAX, Link, Phase, Set};
use crate::election::settings::Settings;
use crate::election::vocabulary::*;

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
