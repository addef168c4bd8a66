//! The registry: what is found where, who may register what, and which writes are refused.

use bytes::Bytes;

use super::*;
use crate::event::{ContentType, EncodedEvents, Envelope, Event};
use crate::ids::ClientId;
use crate::request::{Guard, Member};
use crate::samples::plain_event;
use crate::system::Format;

const CLOSED: &str = r#"{"type":"object","properties":{"n":{"type":"integer"}},
    "required":["n"],"additionalProperties":false}"#;
const WIDER: &str = r#"{"type":"object","properties":{"n":{"type":"integer"},"m":{}},
    "required":["n"],"additionalProperties":false}"#;
const STRICTER: &str = r#"{"type":"object","properties":{"n":{"type":"integer","minimum":0}},
    "required":["n"],"additionalProperties":false}"#;

fn json(text: &str) -> SchemaSource {
    let text = Bytes::copy_from_slice(text.as_bytes());
    SchemaSource { format: Format::JsonSchema, message: String::new(), text }
}

fn name(text: &str) -> SchemaName {
    text.parse().expect("valid")
}

/// A node's registry, and what it shares.
#[derive(Default)]
struct World {
    registry: Registry,
    validators: Validators,
}

impl World {
    fn apply(&mut self, event: SystemEvent) {
        let version = self.registry.version(event.org()).next();
        self.registry.apply(event, version, &self.validators);
    }

    fn register(&mut self, schema: &str, text: &str) -> Result<(), Refusal> {
        match self.registry.propose(name(schema), json(text), false)? {
            Proposal::Append(event, version) => {
                assert_eq!(version, self.registry.version("acme"));
                self.apply(event);
            }
            Proposal::Known => {}
        }
        Ok(())
    }

    fn set_policy(&mut self, kind: Option<&str>, closed: bool, allow_encrypted: bool) {
        let policy = Policy { closed, allow_encrypted };
        let kind = kind.map(str::to_owned);
        self.apply(SystemEvent::PolicySet { org: "acme".into(), kind, policy });
    }

    fn check(&self, key: &str, events: &[Event]) -> Result<(), Refusal> {
        self.registry.check_write(&write(key, events))
    }

    #[track_caller]
    fn refuses(&self, key: &str, events: &[Event], at: (u32, &str), expected: &str) {
        match self.check(key, events) {
            Err(Refusal::SchemaViolation { key: named, event, path, reason }) => {
                assert_eq!((named.as_str(), event, path.as_str()), (key, at.0, at.1));
                assert!(reason.contains(expected), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}

fn write(key: &str, events: &[Event]) -> Write {
    let member = Member {
        key: key.parse().expect("valid"),
        guard: Guard::Any,
        sequence: None,
        events: EncodedEvents::encode(events).expect("valid"),
        retention: None,
    };
    Write { client_id: ClientId::NONE, members: vec![member] }
}

fn event(event_type: &str, minor: u16, payload: &str) -> Event {
    let schema = SchemaVersion { major: 1, minor };
    Event { schema, ..plain_event(event_type, payload.as_bytes()) }
}

#[test]
fn a_write_conforms_or_its_event_place_and_reason_are_named() {
    let mut world = World::default();
    let (good, bad) = (event("Placed", 0, r#"{"n":1}"#), event("Placed", 0, r#"{"n":"x"}"#));
    assert_eq!(
        world.check("acme/order/1", std::slice::from_ref(&bad)),
        Ok(()),
        "nothing is registered"
    );
    world.register("acme/order/Placed@1.0", CLOSED).expect("valid");
    assert_eq!(world.check("acme/order/1", std::slice::from_ref(&good)), Ok(()));
    world.refuses("acme/order/1", &[good.clone(), bad.clone()], (1, "/n"), "integer");
    assert_eq!(world.check("acme/cart/1", std::slice::from_ref(&bad)), Ok(()), "another type");
    assert_eq!(world.check("other/order/1", &[bad]), Ok(()), "another org");
    let unknown = event("Placed", 7, "{}");
    world.refuses("acme/order/1", &[unknown], (0, ""), "version 1.7 of Placed is not registered");
    let other = Event { content_type: ContentType::Bytes, ..good };
    world.refuses("acme/order/1", &[other], (0, ""), "content type");
}

#[test]
fn a_types_own_schema_goes_before_the_orgs() {
    let mut world = World::default();
    world.register("acme/*/Placed@1.0", "false").expect("valid");
    world.register("acme/order/Placed@1.0", "true").expect("valid");
    let placed = [event("Placed", 0, "1")];
    assert_eq!(world.check("acme/order/1", &placed), Ok(()));
    world.refuses("acme/cart/1", &placed, (0, ""), "");
}

#[test]
fn a_closed_type_takes_only_what_has_a_schema() {
    let mut world = World::default();
    world.register("acme/*/Known@1.0", "true").expect("valid");
    world.set_policy(None, true, false);
    world.set_policy(Some("log"), false, false);
    assert_eq!(world.check("acme/order/1", &[event("Known", 0, "1")]), Ok(()));
    let unknown = [event("Unknown", 0, "1")];
    world.refuses("acme/order/1", &unknown, (0, ""), "event type Unknown has no schema");
    assert_eq!(world.check("acme/log/1", &unknown), Ok(()));
    world.set_policy(None, false, false);
    assert_eq!(world.check("acme/order/1", &unknown), Ok(()));
}

#[test]
fn encrypted_events_of_a_type_with_a_schema_need_its_policys_leave() {
    let mut world = World::default();
    world.register("acme/order/Placed@1.0", CLOSED).expect("valid");
    let envelope = Some(Envelope { key_id: "k".into(), nonce: [0; 24] });
    let secret = [Event { envelope: envelope.clone(), ..event("Placed", 0, "?") }];
    world.refuses("acme/order/1", &secret, (0, ""), "encrypted");
    assert_eq!(
        world.check("acme/order/1", &[Event { envelope, ..event("Other", 0, "?") }]),
        Ok(())
    );
    world.set_policy(Some("order"), false, true);
    assert_eq!(world.check("acme/order/1", &secret), Ok(()));
}

#[test]
fn a_registered_schema_never_changes() {
    let mut world = World::default();
    world.register("acme/order/Placed@1.0", CLOSED).expect("valid");
    let before = world.registry.version("acme");
    world.register("acme/order/Placed@1.0", CLOSED).expect("the same again");
    assert_eq!(world.registry.version("acme"), before);
    let refused = world.register("acme/order/Placed@1.0", WIDER);
    assert_eq!(refused, Err(Refusal::SchemaExists { schema: "acme/order/Placed@1.0".into() }));
}

#[test]
fn a_minor_version_follows_the_one_before_it_and_a_major_starts_anew() {
    let mut world = World::default();
    world.register("acme/order/Placed@1.0", CLOSED).expect("valid");
    world.register("acme/order/Placed@1.1", WIDER).expect("compatible");
    let refused = world.register("acme/order/Placed@1.2", STRICTER).expect_err("narrower");
    let Refusal::SchemaIncompatible { schema, reasons } = refused else { panic!("{refused:?}") };
    assert_eq!(schema, "acme/order/Placed@1.2");
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(world.register("acme/order/Placed@1.0", STRICTER).is_err());
    world.register("acme/order/Placed@2.5", STRICTER).expect("another major");
    assert!(matches!(
        world.register("acme/order/Placed@2.4", STRICTER),
        Err(Refusal::InvalidArgument { .. })
    ));
    world.register("acme/cart/Placed@1.7", STRICTER).expect("another type");
    assert!(matches!(
        world.register("acme/order/Bad@1.0", "{"),
        Err(Refusal::SchemaInvalid { .. })
    ));
}

#[test]
fn what_is_undecided_can_be_forced_but_a_violation_cannot() {
    let mut world = World::default();
    let pattern = |pattern: &str| format!(r#"{{"pattern":"{pattern}"}}"#);
    world.register("acme/order/Placed@1.0", &pattern("^a")).expect("valid");
    world.register("acme/order/Placed@1.1", &pattern("^ab?")).expect_err("undecided");
    let propose = |force, text: &str| {
        world.registry.propose(name("acme/order/Placed@1.1"), json(text), force)
    };
    let Ok(Proposal::Append(event, _)) = propose(true, &pattern("^ab?")) else { panic!() };
    assert!(matches!(event, SystemEvent::SchemaRegistered { forced: true, .. }));
    propose(true, r#"{"pattern":"^a","maxLength":1}"#).expect_err("narrower");
}

#[test]
fn every_registry_that_took_the_same_events_says_the_same_whatever_came_twice() {
    let mut world = World::default();
    world.register("acme/order/Placed@1.0", CLOSED).expect("valid");
    world.set_policy(None, true, false);
    let events = [
        SystemEvent::SchemaRegistered {
            name: name("acme/order/Placed@1.0"),
            source: json(CLOSED),
            forced: false,
        },
        SystemEvent::PolicySet {
            org: "acme".into(),
            kind: None,
            policy: Policy { closed: true, allow_encrypted: false },
        },
    ];
    let mut other = Registry::default();
    for _ in 0..2 {
        for (version, event) in (1..).map(Version::new).zip(events.clone()) {
            other.apply(event, version, &world.validators);
        }
    }
    assert_eq!(other.version("acme"), world.registry.version("acme"));
    assert_eq!(other.policy("acme", "order"), world.registry.policy("acme", "order"));
    world.set_policy(None, false, false);
    let stale = events[1].clone();
    world.registry.apply(stale, Version::new(2), &world.validators);
    assert!(!world.registry.policy("acme", "order").closed, "what came later holds");
    let names = |registry: &Registry| -> Vec<String> {
        registry.schemas("acme").map(|(name, _)| name.to_string()).collect()
    };
    assert_eq!(names(&other), ["acme/order/Placed@1.0"]);
    assert_eq!(names(&other), names(&world.registry));
    let found = |registry: &Registry| {
        let version = SchemaVersion { major: 1, minor: 0 };
        let found = registry.lookup("acme", "order", "Placed", version).expect("registered");
        found.validator.clone().expect("compiled")
    };
    assert!(Arc::ptr_eq(&found(&other), &found(&world.registry)), "compiled once");
}

#[test]
fn a_schema_that_no_longer_compiles_refuses_writes_instead_of_letting_them_pass() {
    let mut world = World::default();
    world.apply(SystemEvent::SchemaRegistered {
        name: name("acme/order/Placed@1.0"),
        source: json(r#"{"type":"nonsense"}"#),
        forced: false,
    });
    world.refuses("acme/order/1", &[event("Placed", 0, "{}")], (0, ""), "cannot be used any more");
}
