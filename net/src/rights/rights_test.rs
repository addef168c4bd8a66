//! Every request against every grant, of one's own org and of another.

#![allow(clippy::disallowed_methods)] // Certificates are valid now.

mod tokens;
mod ways;

use std::time::{Duration, SystemTime};

use celeriant_schema::{
    ContentType, EncodedEvents, Event, FeedQuery, Guard, HeadQuery, Member, ReadQuery, Retention,
    SchemaVersion, StoreId, Version,
};
use rustls::pki_types::pem::PemObject;

use super::*;
use crate::keyring::Holder;
use crate::tls::{Authority, Subject, Validity};

const CLUSTER: ClusterId = ClusterId::new(7);

/// Of one who shows a certificate with these names.
fn shown(uris: Vec<String>, cluster: Option<ClusterId>) -> Rights {
    let from = SystemTime::now() - Duration::from_secs(3600);
    let valid = Validity { from, lasts: Duration::from_secs(86_400) };
    let subject = Subject { name: "someone".into(), uris, ..Subject::default() };
    let issued = Authority::new("test", valid).and_then(|ca| ca.issue(&subject, valid));
    let pem = issued.expect("made").certificate;
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
    Rights::of(&certificate, cluster)
}

fn holder(grants: &[&str]) -> Rights {
    let uri = |text: &&str| text.parse::<Grant>().expect("a grant").uri(CLUSTER);
    shown(grants.iter().map(uri).collect(), Some(CLUSTER))
}

/// Now, for keys.
const NOW: i64 = 1_000;

fn secret(id: u64) -> ApiKey {
    ApiKey::new(ApiKeyId::new(id), [id as u8; celeriant_schema::SECRET_BYTES])
}

fn keyed(key: &ApiKey, grants: &[&str]) -> (ApiKeyId, Arc<Holder>) {
    let holder = Holder {
        name: "test".into(),
        hash: key.hash(),
        token_key: Some(crate::token::token_key(key)),
        grants: grants.iter().map(|text| text.parse().expect("a grant")).collect(),
        client_id: None,
        created_at: 0,
        expires_at: None,
    };
    (key.id(), Arc::new(holder))
}

/// One that names a client id.
fn bound(id: u64, client_id: Option<ClientId>) -> (ApiKeyId, Arc<Holder>) {
    let (id, of) = keyed(&secret(id), &["acme:account:append"]);
    (id, Arc::new(Holder { client_id, ..(*of).clone() }))
}

/// A keyring with these.
fn keyring(holders: impl IntoIterator<Item = (ApiKeyId, Arc<Holder>)>) -> Arc<Keyring> {
    let keyring = Keyring::new(Box::new(|| NOW));
    keyring.publish(holders.into_iter().collect());
    Arc::new(keyring)
}

/// Of one who shows nothing but a key with these grants.
fn key_holder(grants: &[&str]) -> Rights {
    let key = secret(1);
    let nobody = Rights::none().with_keys(Some(keyring([keyed(&key, grants)])), true);
    nobody.with_key(&key).expect("a key")
}

fn key(text: &str) -> AggregateKey {
    text.parse().expect("a key")
}

fn write(members: &[(&str, bool)]) -> Request {
    let event = Event {
        event_type: "T".into(),
        schema: SchemaVersion::FIRST,
        content_type: ContentType::Json,
        payload: "1".into(),
        event_id: None,
        metadata: Vec::new(),
        envelope: None,
        client_time: 0,
    };
    let member = |(text, appends): &(&str, bool)| {
        let events = if *appends { vec![event.clone()] } else { Vec::new() };
        let events = EncodedEvents::encode(&events).expect("small");
        Member { key: key(text), guard: Guard::Exists, sequence: None, events, retention: None }
    };
    let members = members.iter().map(member).collect();
    Request::Write(Write { client_id: celeriant_schema::ClientId::NONE, members })
}

/// A write that appends to the first, if there is one, and takes away from the second.
fn taking(appended: Option<&str>, taken: &str, what: Retention) -> Request {
    let appended: Vec<_> = appended.into_iter().map(|text| (text, true)).collect();
    let Request::Write(mut write) = write(&appended) else { unreachable!("it is one") };
    write.members.push(Member {
        key: key(taken),
        guard: Guard::Any,
        sequence: None,
        events: EncodedEvents::default(),
        retention: Some(what),
    });
    Request::Write(write)
}

const DELETE: Retention = Retention::Delete { recreate: true, forget_sequences: false };
const TRIM: Retention = Retention::Trim { keep_from: Version::NONE.next() };

fn list(org: Option<&str>, kind: Option<&str>) -> Request {
    let (org, kind) = (org.map(str::to_owned), kind.map(str::to_owned));
    Request::List(ListQuery { org, kind, prefix: String::new(), after: None, limit: 1 })
}

fn feed(selector: &str) -> Request {
    let selector = selector.parse().expect("a selector");
    Request::Feed(FeedQuery { selector, ..FeedQuery::default() })
}

fn read(text: &str) -> Request {
    Request::Read(ReadQuery::all(key(text)))
}

fn head(text: &str) -> Request {
    Request::Head(HeadQuery { key: key(text), client: None, min_stamp: None, any: false })
}

fn order(text: &str) -> Request {
    Request::Admin(text.to_owned().into())
}

/// What it takes. A kind of request that is new must be thought of here before this compiles.
fn row(request: &Request) -> &'static str {
    match request {
        Request::Ping => "ping",
        Request::Write(_) => "write",
        Request::Read(_) => "read",
        Request::Head(_) => "head",
        Request::List(_) => "list",
        Request::Feed(_) => "feed",
        Request::Admin(_) => "order",
    }
}

/// Requests, and the one operation on `acme/account` that allows each; `None`: whoever is known.
fn own() -> Vec<(Request, Option<Operation>)> {
    use Operation::{Append, Read, Retain, Schema, Watch};
    let registered =
        r#"{"order":"schema","do":"register","schema":"acme/account/T@1.0","text":""}"#;
    let policy = r#"{"order":"schema","do":"policy","org":"acme","type":"account"}"#;
    vec![
        (Request::Ping, None),
        (write(&[("acme/account/a", true)]), Some(Append)),
        (write(&[("acme/account/a", false)]), Some(Read)),
        (taking(None, "acme/account/a", DELETE), Some(Retain)),
        (taking(None, "acme/account/a", TRIM), Some(Retain)),
        (read("acme/account/a"), Some(Read)),
        (head("acme/account/a"), Some(Read)),
        (list(Some("acme"), Some("account")), Some(Read)),
        (feed("acme/account"), Some(Watch)),
        (feed("acme/account/a"), Some(Watch)),
        (feed("acme/account/a\nacme/account/b"), Some(Watch)),
        (order(registered), Some(Schema)),
        (order(policy), Some(Schema)),
        (order(r#"{"order":"schema","do":"show","schema":"acme/account/T@1.0"}"#), Some(Read)),
        (order(r#"{"order":"status"}"#), None),
        (order(r#"{"order":"audit","do":"frames","shard":0,"after":0}"#), None),
        (order(r#"{"order":"audit","do":"event","key":"acme/account/a"}"#), Some(Read)),
    ]
}

/// What grants on `acme/account` never allow, whichever they are.
fn foreign() -> Vec<Request> {
    vec![
        write(&[("acme/order/a", true)]),
        write(&[("rival/account/a", true)]),
        write(&[("acme/account/a", true), ("rival/account/a", false)]),
        write(&[("acme/account/a", true), ("rival/account/a", true)]),
        taking(None, "acme/order/a", DELETE),
        taking(None, "rival/account/a", TRIM),
        taking(Some("acme/account/a"), "rival/account/a", DELETE),
        taking(Some("rival/account/a"), "acme/account/a", TRIM),
        read("rival/account/a"),
        read("acme/order/a"),
        read("$system/schemas/acme"),
        head("rival/account/a"),
        list(None, None),
        list(Some("acme"), None),
        list(Some("rival"), Some("account")),
        feed("*"),
        feed("acme"),
        feed("rival/account"),
        feed("acme/account\nrival/account"),
        feed("rival/account/a"),
        order(r#"{"order":"schema","do":"register","schema":"acme/*/T@1.0","text":""}"#),
        order(r#"{"order":"schema","do":"register","schema":"rival/account/T@1.0","text":""}"#),
        order(r#"{"order":"schema","do":"policy","org":"acme"}"#),
        order(r#"{"order":"schema","do":"list","org":"acme"}"#),
        order(r#"{"order":"schema","do":"erase","org":"acme","type":"account"}"#),
        order(r#"{"order":"status","do":"register"}"#),
        order(r#"{"order":"audit","do":"event","key":"rival/account/a"}"#),
        order(r#"{"order":"audit","do":"event","key":"$system/schemas/acme"}"#),
        order(r#"{"order":"audit","do":"event"}"#),
        order(r#"{"order":"audit"}"#),
        order(r#"{"order":"hand-over"}"#),
        order(r#"{"order":"replace","lost":"","member":{}}"#),
        order(r#"{"order":"recover","above":1}"#),
        order(r#"{"order":"record"}"#),
        order(r#"{"order":"key","do":"create","name":"x","grants":["acme:account:read"]}"#),
        order(r#"{"order":"key","do":"list"}"#),
        order(r#"{"order":"key","do":"revoke","id":"0000000000000001"}"#),
        order(r#"{"order":"for","by":"me","what":{"order":"status"}}"#),
        read("$system/keys/keys"),
        read("$system/audit/2026-11"),
        write(&[("$system/keys/keys", true)]),
        feed("$system/keys/keys"),
        order("no order"),
    ]
}

#[test]
fn a_grant_allows_its_operations_on_its_own_and_nothing_else() {
    // Whatever way its holder shows it.
    for of in [holder, key_holder] {
        let all = of(&["*:*:all"]);
        for granted in Operation::ALL {
            allows_only(granted, &of(&[&format!("acme:account:{}", granted.name())]), &all);
        }
        let everything = of(&["acme:account:all"]);
        for request in foreign() {
            assert!(everything.check(&request).is_err(), "{request:?}");
            assert_eq!(all.check(&request), Ok(()), "{request:?}");
        }
    }
    let mut kinds: Vec<&str> = own().iter().map(|(request, _)| row(request)).collect();
    kinds.dedup();
    assert_eq!(kinds, ["ping", "write", "read", "head", "list", "feed", "order"]);
}

/// What `granted` on `acme/account` allows, row by row; `all` allows everything.
fn allows_only(granted: Operation, rights: &Rights, all: &Rights) {
    for (request, needed) in own() {
        let allowed = needed.is_none_or(|needed| needed == granted);
        let result = rights.check(&request);
        assert_eq!(result.is_ok(), allowed, "{} {request:?}", granted.name());
        if let Err(refusal) = result {
            let Refusal::PermissionDenied { action, resource } = refusal else {
                panic!("{refusal}")
            };
            assert_eq!(Some(action.as_str()), needed.map(Operation::name));
            assert_eq!(resource, "acme/account");
        }
        assert_eq!(all.check(&request), Ok(()));
    }
}

#[test]
fn an_orgs_grant_covers_all_of_its_types_and_several_grants_add_up() {
    let rights = holder(&["acme:*:read,watch", "rival:account:append"]);
    for request in [read("acme/order/a"), list(Some("acme"), None), feed("acme")] {
        assert_eq!(rights.check(&request), Ok(()), "{request:?}");
    }
    assert_eq!(rights.check(&write(&[("rival/account/a", true), ("acme/x/y", false)])), Ok(()));
    // Neither appending nor reading allows to take away, and taking away allows neither.
    assert!(rights.check(&taking(None, "rival/account/a", DELETE)).is_err());
    let retaining = holder(&["acme:*:append", "rival:*:retain"]);
    let both = |appended| taking(Some(appended), "rival/account/a", TRIM);
    assert_eq!(retaining.check(&both("acme/account/a")), Ok(()));
    assert!(retaining.check(&both("rival/account/b")).is_err());
    assert!(rights.check(&read("rival/account/a")).is_err());
    assert!(rights.check(&write(&[("acme/account/a", true)])).is_err());
    // An operator of one org is no operator of the store.
    assert!(holder(&["acme:*:admin"]).check(&order(r#"{"order":"hand-over"}"#)).is_err());
}

#[test]
fn nothing_is_granted_that_is_not_said() {
    let of_another = |text: &str| text.parse::<Grant>().expect("a grant").uri(ClusterId::new(8));
    let nothing = [
        shown(Vec::new(), Some(CLUSTER)),
        shown(vec!["https://example.com/".into()], Some(CLUSTER)),
        shown(vec![of_another("*:*:all")], Some(CLUSTER)),
    ];
    for rights in &nothing {
        assert!(matches!(
            rights.check(&read("acme/account/a")),
            Err(Refusal::PermissionDenied { .. })
        ));
        assert_eq!(rights.check(&Request::Ping), Ok(()));
    }
    let nobody = Rights::anonymous(Vec::new());
    for request in own().into_iter().map(|(request, _)| request).chain(foreign()) {
        let is_ping = request == Request::Ping;
        match nobody.check(&request) {
            Ok(()) => assert!(is_ping, "{request:?}"),
            Err(refusal) => assert!(matches!(refusal, Refusal::Unauthenticated { .. })),
        }
    }
}

#[test]
fn a_node_of_the_cluster_may_do_everything_and_one_of_another_nothing() {
    let node = |cluster| Name { cluster, store: StoreId::new(3) }.to_string();
    let own = shown(vec![node(CLUSTER)], Some(CLUSTER));
    let other = shown(vec![node(ClusterId::new(8))], Some(CLUSTER));
    for request in foreign() {
        assert_eq!(own.check(&request), Ok(()));
        assert!(other.check(&request).is_err(), "{request:?}");
    }
}

#[test]
fn a_key_adds_to_a_certificate_until_it_is_revoked_or_over() {
    let key = secret(1);
    let ring = keyring([keyed(&key, &["rival:account:read"])]);
    let certificate = holder(&["acme:account:read"]).with_keys(Some(Arc::clone(&ring)), true);
    let both = certificate.with_key(&key).expect("a key");
    let reads = [read("acme/account/a"), read("rival/account/a")];
    for request in &reads {
        assert_eq!(both.check(request), Ok(()), "{request:?}");
    }
    assert!(certificate.check(&reads[1]).is_err(), "without the key");
    assert!(both.check(&write(&[("rival/account/a", true)])).is_err());

    // The connection is up, and its key counts no more: neither does what else it showed.
    ring.publish(std::collections::BTreeMap::new());
    for request in &reads {
        assert!(matches!(both.check(request), Err(Refusal::Unauthenticated { .. })));
        assert_eq!(certificate.check(&reads[0]), Ok(()));
    }
    for (end, counts) in [(NOW, false), (NOW + 1, true)] {
        let (id, of) = keyed(&key, &["*:*:all"]);
        let of = Holder { expires_at: Some(end), ..(*of).clone() };
        ring.publish([(id, Arc::new(of))].into());
        assert_eq!(both.check(&reads[0]).is_ok(), counts, "{end}");
        assert_eq!(certificate.with_key(&key).is_ok(), counts, "{end}");
    }
}

#[test]
fn what_is_no_key_here_opens_nothing() {
    let ring = keyring([keyed(&secret(1), &["*:*:all"])]);
    let nobody = Rights::none().with_keys(Some(Arc::clone(&ring)), true);
    let forged = ApiKey::new(ApiKeyId::new(1), [9; celeriant_schema::SECRET_BYTES]);
    for key in [secret(2), forged] {
        assert!(matches!(nobody.with_key(&key), Err(Refusal::Unauthenticated { .. })), "{key:?}");
    }
    let seen = Rights::none().with_keys(Some(ring), false);
    let refused = seen.with_key(&secret(1)).expect_err("others have seen it").to_string();
    assert!(refused.contains("revoke"), "{refused}");
    assert!(Rights::all().with_key(&secret(1)).is_err(), "where there is no keyring");
    let unread = Some(Arc::new(Keyring::new(Box::new(|| NOW))));
    let early = Rights::none().with_keys(unread, true).with_key(&secret(1));
    assert!(matches!(early, Err(Refusal::Overloaded { .. })), "worth trying again");
}

#[test]
fn a_client_id_that_a_key_names_is_its_holder_s_and_binds_him() {
    let (mine, other, free) = (ClientId::new(1), ClientId::new(2), ClientId::new(3));
    let ring = keyring([bound(1, Some(mine)), bound(2, Some(other)), bound(3, None)]);
    let nobody = Rights::none().with_keys(Some(Arc::clone(&ring)), true);
    let by = |id| nobody.with_key(&secret(id)).expect("a key");
    let may = |rights: &Rights, client_id| {
        let Request::Write(write) = write(&[("acme/account/a", true)]) else { unreachable!() };
        match rights.check(&Request::Write(Write { client_id, ..write })) {
            Ok(()) => true,
            Err(Refusal::PermissionDenied { action, resource }) => {
                assert_eq!((action.as_str(), resource), ("append", format!("client {client_id}")));
                false
            }
            Err(refusal) => panic!("{refusal}"),
        }
    };
    let nameless = ClientId::NONE;
    let rows = [mine, other, free, nameless].map(|id| (may(&by(1), id), may(&by(3), id)));
    assert_eq!(rows, [(true, false), (false, false), (false, true), (true, true)]);
    // A certificate that names one binds its holder, and lets in where a key has the same.
    let grant = "acme:account:append".parse::<Grant>().expect("a grant").uri(CLUSTER);
    let uris = vec![grant, crate::tls::client_uri(CLUSTER, mine)];
    let certificate = shown(uris, Some(CLUSTER)).with_keys(Some(ring), true);
    let rows = [mine, other, free, nameless].map(|id| may(&certificate, id));
    assert_eq!(rows, [true, false, false, true]);
    // Both may be shown.
    let both = certificate.with_key(&secret(2)).expect("a key");
    assert_eq!([mine, other, free].map(|id| may(&both, id)), [true, true, false]);
}

#[test]
fn it_is_known_by_name_who_gives_an_order() {
    let ring = || Some(keyring([keyed(&secret(1), &["*:*:all"])]));
    let certificate = holder(&["acme:*:read"]).with_keys(ring(), true);
    assert_eq!(certificate.who(), "certificate someone");
    let both = certificate.with_key(&secret(1)).expect("a key").who();
    assert_eq!(both, "certificate someone and key 0000000000000001 test");
    let node = shown(vec![Name { cluster: CLUSTER, store: StoreId::new(3) }.to_string()], None);
    assert_eq!(node.who(), "node someone");
    assert_eq!(Rights::all().who(), "somebody in the clear");
}
