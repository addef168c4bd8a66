//! The same requests with tokens: less than a key, down to one aggregate.

use super::*;

/// Of one who shows a token of a key with these grants: these rights on these selectors.
fn token_holder(grants: &[&str], selectors: &[&str], rights: &[&str]) -> Rights {
    let key = secret(1);
    let nobody = Rights::none().with_keys(Some(keyring([keyed(&key, grants)])), true);
    let scope = Scope::new(&new_token(selectors, rights), NOW).expect("a scope");
    // By itself, as a backend may: whatever the key allows.
    let token = Token::new(&key, scope).expect("short");
    nobody.with_token(&token).expect("a token")
}

fn new_token(selectors: &[&str], rights: &[&str]) -> NewToken {
    let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
    let (selectors, rights) = (texts(selectors), texts(rights));
    NewToken { selectors, rights, client_id: None, seconds: None }
}

/// Whether it is of the store as a whole: nothing for a token.
fn is_of_the_store(request: &Request) -> bool {
    let Request::Admin(order) = request else { return false };
    !std::str::from_utf8(order).expect("text").contains(r#""order":"schema""#)
}

#[test]
fn a_token_allows_its_rights_on_its_selectors_and_nothing_else() {
    for granted in crate::token::RIGHTS {
        let rights = [granted.name()];
        let of_type = token_holder(&["*:*:all"], &["acme/account"], &rights);
        let of_one = token_holder(&["*:*:all"], &["acme/account/a"], &rights);
        for (request, needed) in own() {
            let is_right = needed.is_none_or(|needed| needed == granted);
            let allowed = is_right && !is_of_the_store(&request);
            assert_eq!(of_type.check(&request).is_ok(), allowed, "{} {request:?}", granted.name());
            // Nothing of the type as a whole, and nothing of its neighbours.
            let only_a = match &request {
                Request::List(_) | Request::Admin(_) => false,
                Request::Feed(query) => query.selector.to_string() == "acme/account/a",
                _ => true,
            };
            assert_eq!(of_one.check(&request).is_ok(), allowed && only_a, "{request:?}");
        }
        let others = [
            read("acme/account/b"),
            head("acme/account/b"),
            write(&[("acme/account/a", true), ("acme/account/b", true)]),
            write(&[("acme/account/a", true), ("acme/account/b", false)]),
            feed("acme/account/b"),
        ];
        let others = foreign().into_iter().chain(others);
        for request in others {
            let refused = of_one.check(&request);
            assert!(matches!(refused, Err(Refusal::PermissionDenied { .. })), "{request:?}");
        }
        assert!(foreign().iter().all(|request| of_type.check(request).is_err()));
    }
}

#[test]
fn a_token_of_everything_stays_out_of_what_the_store_keeps_about_itself() {
    let all = token_holder(&["*:*:all"], &["*", "$system/keys/keys"], &["read", "append", "watch"]);
    for request in [list(None, None), feed("*"), feed("acme"), read("rival/account/a")] {
        assert_eq!(all.check(&request), Ok(()), "{request:?}");
    }
    let own = [
        read("$system/keys/keys"),
        write(&[("$system/keys/keys", true)]),
        feed("$system/keys/keys"),
        taking(None, "acme/account/a", DELETE),
        taking(Some("acme/account/a"), "acme/account/a", TRIM),
    ];
    for request in own.iter().chain(&[order(r#"{"order":"status"}"#)]) {
        assert!(all.check(request).is_err(), "{request:?}");
    }
}

#[test]
fn a_token_never_allows_more_than_its_key_and_ends_with_it() {
    let [own, other] = [read("acme/account/a"), read("rival/account/a")];
    // Whoever holds a key can write any token, and a key can be less than he thinks.
    let rights = token_holder(&["acme:account:read"], &["*"], &["read", "append"]);
    assert_eq!(rights.check(&own), Ok(()));
    assert!(rights.check(&other).is_err());
    assert!(rights.check(&write(&[("acme/account/a", true)])).is_err());

    let key = secret(1);
    let ring = keyring([keyed(&key, &["acme:*:all"])]);
    let shown = Rights::all().with_keys(Some(Arc::clone(&ring)), true);
    let by_key = shown.with_key(&key).expect("a key");
    let token = by_key
        .make_token(Some(&key.clone().into()), &new_token(&["acme/account"], &["read"]))
        .expect("less");
    // Who may do everything may do less with a token: a proxy shows what its browsers show.
    let both = shown.with_token(&token).expect("a token");
    assert_eq!(both.check(&own), Ok(()));
    assert!(both.check(&other).is_err() && shown.check(&other).is_ok());
    let certificate = holder(&["rival:*:all"]).with_keys(Some(Arc::clone(&ring)), true);
    assert!(certificate.with_token(&token).expect("a token").check(&other).is_err());
    assert_eq!(both.who(), "a token of key 0000000000000001 test");

    let seen = Rights::none().with_keys(Some(Arc::clone(&ring)), false);
    assert!(matches!(seen.with_token(&token), Err(Refusal::Unauthenticated { .. })));
    ring.publish(std::collections::BTreeMap::new());
    assert!(matches!(both.check(&own), Err(Refusal::Unauthenticated { .. })), "revoked");
    assert!(matches!(shown.with_token(&token), Err(Refusal::Unauthenticated { .. })));
    // Another key of the same name.
    let other = ApiKey::new(key.id(), [9; celeriant_schema::SECRET_BYTES]);
    ring.publish([keyed(&other, &["*:*:all"])].into());
    assert!(matches!(shown.with_token(&token), Err(Refusal::Unauthenticated { .. })));
}

#[test]
fn a_token_ends_on_a_connection_that_is_up() {
    let now = Arc::new(std::sync::atomic::AtomicI64::new(NOW));
    let clock = Arc::clone(&now);
    let ring = Keyring::new(Box::new(move || clock.load(std::sync::atomic::Ordering::Relaxed)));
    let key = secret(1);
    ring.publish([keyed(&key, &["*:*:all"])].into());
    let nobody = Rights::none().with_keys(Some(Arc::new(ring)), true);
    let asked = NewToken { seconds: Some(1), ..new_token(&["acme"], &["watch"]) };
    let token = nobody
        .with_key(&key)
        .expect("a key")
        .make_token(Some(&key.clone().into()), &asked)
        .expect("a token");
    let rights = nobody.with_token(&token).expect("a token");
    assert_eq!(rights.check(&feed("acme")), Ok(()));
    now.store(NOW + 1_000_000, std::sync::atomic::Ordering::Relaxed);
    for over in [rights.check(&feed("acme")), nobody.with_token(&token).map(drop)] {
        assert!(over.expect_err("over").to_string().contains("ask for another"));
    }
}

#[test]
fn a_token_is_made_by_whoever_shows_a_key_and_of_less_than_that_allows() {
    let key = secret(1);
    let (id, of) = keyed(&key, &["acme:account:read,append", "acme:*:watch"]);
    let of = Holder { expires_at: Some(NOW + 5), ..(*of).clone() };
    let ring = keyring([(id, Arc::new(of))]);
    let certificate = holder(&["rival:*:all"]).with_keys(Some(Arc::clone(&ring)), true);
    let shown = certificate.with_key(&key).expect("a key");
    let make = |selectors: &[&str], rights: &[&str]| {
        shown.make_token(Some(&key.clone().into()), &new_token(selectors, rights))
    };
    let token = make(&["acme/account", "acme/account/a"], &["read", "append", "watch"]);
    assert_eq!(token.expect("less").scope().expires_at(), NOW + 5, "no longer than its key");
    assert!(make(&["acme"], &["watch"]).is_ok());
    for (selector, right, resource) in [
        ("acme", "read", "acme/*"),
        ("acme/order", "append", "acme/order"),
        ("acme/order/a", "read", "acme/order"),
        ("*", "watch", "*"),
        // What the certificate allows beside it is not the key's.
        ("rival/account", "read", "rival/account"),
        ("$system/keys/keys", "read", "*"),
    ] {
        match make(&["acme/account", selector], &[right]) {
            Err(Refusal::PermissionDenied { resource: said, .. }) => assert_eq!(said, resource),
            other => panic!("{selector} {right}: {other:?}"),
        }
    }
    let token = make(&["acme/account"], &["read"]).expect("less");
    let lent = certificate.with_token(&token).expect("a token");
    let asked = new_token(&["acme/account"], &["read"]);
    for without in [&lent, &certificate, &Rights::all(), &Rights::none()] {
        let refused = without.make_token(None, &asked);
        assert!(matches!(refused, Err(Refusal::Unauthenticated { .. })), "{refused:?}");
    }
    let text = token.reveal().parse().expect("a token, from afar");
    let refused = lent.make_token(Some(&Credential::Token(text)), &asked).expect_err("a token");
    assert!(refused.to_string().contains("a token makes no tokens"), "{refused}");
    let forged = ApiKey::new(id, [9; celeriant_schema::SECRET_BYTES]);
    let refused = shown.make_token(Some(&forged.into()), &asked);
    assert!(matches!(refused, Err(Refusal::Unauthenticated { .. })), "{refused:?}");
    ring.publish(std::collections::BTreeMap::new());
    assert!(matches!(
        shown.make_token(Some(&key.clone().into()), &asked),
        Err(Refusal::Unauthenticated { .. })
    ));
}

#[test]
fn a_key_from_before_tokens_were_signed_makes_none_and_says_so() {
    let key = secret(1);
    let (id, of) = keyed(&key, &["*:*:all"]);
    let old = Holder { token_key: None, ..(*of).clone() };
    let nobody = Rights::none().with_keys(Some(keyring([(id, Arc::new(old))])), true);
    let asked = new_token(&["acme"], &["read"]);
    let by_key = nobody.with_key(&key).expect("it opens what it did");
    assert_eq!(by_key.check(&read("acme/account/a")), Ok(()));
    let by_itself = Token::new(&key, Scope::new(&asked, NOW).expect("a scope")).expect("short");
    for refused in [
        by_key.make_token(Some(&key.clone().into()), &asked).map(drop),
        nobody.with_token(&by_itself).map(drop),
    ] {
        let refused = refused.expect_err("it makes none").to_string();
        assert!(refused.contains("create another"), "{refused}");
    }
}

#[test]
fn a_token_that_names_a_client_is_for_writes_under_that_one_only() {
    let (mine, other, free) = (ClientId::new(1), ClientId::new(2), ClientId::new(3));
    let ring = keyring([bound(1, Some(mine)), bound(2, Some(other)), bound(3, None)]);
    let nobody = Rights::none().with_keys(Some(ring), true);
    let asked = |client: Option<ClientId>| NewToken {
        client_id: client.map(|client| client.to_string()),
        ..new_token(&["acme/account/a"], &["append"])
    };
    // Made without a node, which is not asked whether the key allows it.
    let lent = |id, client| {
        let scope = Scope::new(&asked(client), NOW).expect("a scope");
        let token = Token::new(&secret(id), scope).expect("short");
        nobody.with_token(&token).expect("a token")
    };
    let may = |rights: &Rights| {
        [mine, other, free, ClientId::NONE].map(|client_id| {
            let Request::Write(write) = write(&[("acme/account/a", true)]) else { unreachable!() };
            rights.check(&Request::Write(Write { client_id, ..write })).is_ok()
        })
    };
    assert_eq!(may(&lent(3, Some(free))), [false, false, true, false], "not even under none");
    assert_eq!(may(&lent(3, None)), [false, false, true, true], "as with the key");
    assert_eq!(may(&lent(1, None)), [true, false, false, true]);
    assert_eq!(may(&lent(1, Some(mine))), [true, false, false, false]);
    // Nobody lends what is another's.
    for (id, client) in [(3, other), (1, free), (1, other)] {
        assert_eq!(may(&lent(id, Some(client))), [false; 4], "{id} {client}");
        let key = nobody.with_key(&secret(id)).expect("a key");
        let refused = key.make_token(Some(&secret(id).into()), &asked(Some(client)));
        assert!(matches!(refused, Err(Refusal::PermissionDenied { .. })), "{refused:?}");
    }
}

#[test]
fn a_connection_is_of_the_orgs_that_its_grants_name_or_its_token_s_selectors() {
    let orgs = |rights: &Rights| rights.orgs().into_iter().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(orgs(&holder(&["acme:a:read", "acme:b:read", "rival:*:all"])), ["acme", "rival"]);
    assert_eq!(orgs(&key_holder(&["acme:a:read"])), ["acme"]);
    let none: [&str; 0] = [];
    // Of none: an operator, a node, and who comes in the clear.
    assert_eq!(orgs(&holder(&["acme:a:read", "*:b:read"])), none);
    assert_eq!((orgs(&Rights::all()), orgs(&Rights::none())), (Vec::new(), Vec::new()));
    let lent =
        |selectors| orgs(&token_holder(&["acme:*:all", "rival:*:all"], selectors, &["read"]));
    assert_eq!(lent(&["acme/a/b", "acme/b"]), ["acme"]);
    assert_eq!(lent(&["*"]), ["acme", "rival"], "no more than its key");

    let most = |most: u64| -> crate::rooms::Most { Box::new(move |_| Some(most)) };
    let rooms = Rooms::new(most(1), most(0));
    let here = |rights: Rights| rights.with_rooms(Some(rooms.clone()));
    let mut seats = Vec::new();
    let acme = here(holder(&["acme:*:all"]));
    assert_eq!(acme.sit(&mut seats), Ok(()));
    assert_eq!(acme.sit(&mut seats), Ok(()), "it has its seat");
    let both = here(holder(&["acme:*:all", "rival:*:all"]));
    assert!(matches!(both.sit(&mut Vec::new()), Err(Refusal::Overloaded { .. })));
    assert_eq!(here(holder(&["*:*:all"])).sit(&mut Vec::new()), Ok(()));
    // Who watches for others does not count.
    let node = Name { cluster: CLUSTER, store: StoreId::new(3) }.to_string();
    let node = here(shown(vec![node], Some(CLUSTER)));
    let selector = "acme".parse().expect("a selector");
    assert!(node.sit_to_watch(&selector).is_ok());
    assert!(
        acme.sit_to_watch(&selector).is_err()
            && here(Rights::all()).sit_to_watch(&selector).is_err()
    );
}
