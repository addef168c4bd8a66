//! Leaders that hand over, shut down, or do what an operator says; and whoever is handed the lead.

use celeriant_schema::StoreId;
use celeriant_schema::peer::{Features, Message, Tip};
use celeriant_storage::bucket::Effect as Left;

use super::rig::*;
use crate::election::register::{Active, Config, Link, Member, Phase, Seal, Set};
use crate::election::vocabulary::*;

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
fn a_follower_is_told_to_ask_the_leader() {
    let mut rig = Rig::following(&pair(peer()));
    let command = Command::Replace { lost: PEER, member: member(StoreId::new(3)) };
    rig.event(Event::Command { id: 1, command });
    assert_eq!(rig.answer(), Some(Err(Refused::NotLeading)));
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
