//! Leaders at rest: leases, heartbeats, and what is asked of the bucket meanwhile.

use celeriant_schema::StoreId;
use celeriant_schema::peer::Message;
use celeriant_storage::bucket::Op;

use super::rig::*;
use crate::election::vocabulary::*;

// ---- leases: R5, R16 -------------------------------------------------------------------------

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
