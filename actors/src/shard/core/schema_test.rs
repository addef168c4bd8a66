//! What a shard takes when its org has schemas.

use std::sync::Arc;

use celeriant_schema::registry::{Registry, Validators};
use celeriant_schema::system::{Policy, SystemEvent, schemas_of};
use celeriant_schema::{
    ClientId, EncodedEvents, Guard, Member, Refusal, Request, Response, Version, Write,
};

use super::rig::{Rig, member, sequenced, write};
use crate::work::{Step, Work};

fn closed() -> SystemEvent {
    let policy = Policy { closed: true, allow_encrypted: false };
    SystemEvent::PolicySet { org: "acme".into(), kind: None, policy }
}

fn demand() -> Request {
    let events = EncodedEvents::encode(&[closed().to_event(1)]).expect("valid");
    let key = schemas_of("acme").expect("valid");
    let members = vec![Member {
        key,
        guard: Guard::Exact(Version::NONE),
        sequence: None,
        events,
        retention: None,
    }];
    Request::Write(Write { client_id: ClientId::NONE, members })
}

/// What the registrar does when it is asked.
fn read(rig: &mut Rig) {
    let mut registry = Registry::default();
    registry.apply(closed(), Version::new(1), &Validators::default());
    rig.orgs.insert("acme".into(), registry.org("acme").expect("applied"));
    let step = Step::SchemasRead { org: "acme".into(), outcome: Ok(()) };
    rig.send(vec![Work::Step(step)]);
    rig.flush();
}

fn append(id: &str) -> Request {
    write(vec![member(id, Guard::Any, 1)])
}

fn is_violation(response: &Response) -> bool {
    matches!(response, Response::Refused(Refusal::SchemaViolation { .. }))
}

#[test]
fn what_was_registered_holds_from_the_moment_it_is_committed() {
    let mut rig = Rig::new();
    assert!(matches!(rig.ask(append("a")), Response::Receipt(_)));
    rig.request(1, demand());
    rig.request(2, append("a"));
    rig.flush();
    assert!(rig.replies().iter().all(|(_, response)| matches!(response, Response::Receipt(_))));

    rig.request(3, append("a"));
    rig.request(4, append("b"));
    rig.flush();
    assert!(rig.replies().is_empty(), "not known yet");
    assert_eq!(rig.wanted, [("acme".to_owned(), Version::new(1))], "asked for once");
    read(&mut rig);
    let replies = rig.replies();
    let routes: Vec<u32> = replies.iter().map(|(route, _)| *route).collect();
    assert_eq!(routes, [3, 4], "in the order in which they came");
    assert!(replies.iter().all(|(_, response)| is_violation(response)), "{replies:?}");
    assert!(rig.reads.ends_with(&[3, 4]), "a refusal needs the proof of a read");
    assert!(is_violation(&rig.ask(append("a"))));
    assert_eq!(rig.wanted.len(), 1, "it is known now");
}

#[test]
fn what_has_landed_is_not_checked_again() {
    let mut rig = Rig::new();
    let again = || sequenced("a", Guard::Any, 1, "x");
    let Response::Receipt(first) = rig.ask(again()) else { panic!("lands") };
    rig.ask(demand());
    rig.request(1, again());
    read(&mut rig);
    let replies = rig.replies();
    let [(1, Response::Receipt(receipt))] = &replies[..] else { panic!("{replies:?}") };
    assert_eq!((receipt.stamp, receipt.already_applied), (first.stamp, true));
    assert!(is_violation(&rig.ask(sequenced("a", Guard::Any, 2, "x"))));
}

#[test]
fn schemas_that_cannot_be_read_stop_writes_and_say_why() {
    let mut rig = Rig::new();
    rig.ask(demand());
    rig.request(1, append("a"));
    let outcome = Err("the moon is full".to_owned());
    rig.send(vec![Work::Step(Step::SchemasRead { org: "acme".into(), outcome })]);
    let replies = rig.replies();
    let [(1, Response::Refused(Refusal::Overloaded { what, .. }))] = &replies[..] else {
        panic!("{replies:?}")
    };
    assert!(what.contains("the moon is full"), "{what}");
    rig.request(2, append("a"));
    assert_eq!(rig.wanted.len(), 2, "and are tried again");
    read(&mut rig);
    assert!(is_violation(&rig.replies()[0].1));
}

#[test]
fn orgs_without_schemas_wait_for_nothing() {
    let mut rig = Rig::new();
    assert!(matches!(rig.ask(append("a")), Response::Receipt(_)));
    assert!(rig.wanted.is_empty());
    assert_eq!(Arc::strong_count(&rig.orgs), 2);
}
