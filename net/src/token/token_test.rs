//! Tokens as text: what is read, what is forged, what time does.

use celeriant_schema::{ApiKey, SECRET_BYTES};

use super::*;

fn key(secret: u8) -> ApiKey {
    ApiKey::new(ApiKeyId::new(7), [secret; SECRET_BYTES])
}

fn new() -> NewToken {
    NewToken {
        selectors: vec!["acme/list/größe & ü".into(), "rival".into(), "a/b".into()],
        rights: vec!["watch".into(), "read".into()],
        client_id: Some("0192a5c6-7d1e-4e0f-9a53-2f2b6c1d8e01".into()),
        seconds: None,
    }
}

/// Made by other implementations of BLAKE3 and Ed25519: what backends make by themselves must stay
/// good. Of `key(1)`.
const GOLDEN_KEY: &str = "c608b96929ce0fc7edd14706ef3fc5d94c8980ed49b954ccf440af5ee0352aeb";
const GOLDEN: &str = concat!(
    "celeriant_token_0000000000000007.",
    "eyJzZWxlY3RvcnMiOlsiYWNtZS9saXN0L2Zvb2QiXSwicmlnaHRzIjpbInJlYWQi",
    "LCJ3YXRjaCJdLCJtYWRlX2F0IjoxMDAwMDAwLCJleHBpcmVzX2F0Ijo2MTAwMDAwMH0.",
    "6d08de66f69c4735e956f9de25a575177983f7fc32aeed0fe41587c30969a214",
    "9e04e75daa243b0e3c42cf86445f549a9b8a72755277b4fa9197de40fa373202",
);

fn token(scope: Scope) -> Token {
    Token::new(&key(1), scope).expect("short")
}

#[test]
fn a_token_is_read_as_it_is_written_and_fits_into_headers_and_addresses() {
    let scope = Scope::new(&new(), 1_000).expect("a scope");
    let text = token(scope.clone()).reveal();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    assert!(text.chars().all(plain), "{text}");
    let read: Token = text.parse().expect("as it is written");
    assert_eq!((read.scope(), read.key()), (&scope, key(1).id()));
    assert!(read.is_of(&token_key(&key(1))));
    assert!(!read.is_of(&token_key(&key(2))), "another key's");
    assert_eq!(scope.expires_at(), 1_000 + LASTS_S as i64 * MICROS);
    let signature = text.rsplit('.').next().expect("a signature");
    assert!(!format!("{read:?} {TokenError}").contains(&signature[..8]));
}

#[test]
fn anybody_who_has_the_key_makes_the_same_token() {
    assert_eq!(token_key(&key(1)).to_string(), GOLDEN_KEY);
    let (selectors, rights) = (vec!["acme/list/food".into()], vec!["read".into(), "watch".into()]);
    let new = NewToken { selectors, rights, client_id: None, seconds: Some(60) };
    let made = token(Scope::new(&new, MICROS).expect("a scope"));
    assert_eq!(made.reveal(), GOLDEN);
    let golden: Token = GOLDEN.parse().expect("a token");
    assert!(golden.is_of(&GOLDEN_KEY.parse().expect("a public key")));
}

#[test]
fn no_byte_of_a_token_can_be_changed() {
    let text = token(Scope::new(&new(), 0).expect("a scope")).reveal();
    let known = token_key(&key(1));
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
        let changed = String::from_utf8(bytes).expect("ASCII");
        let read = changed.parse::<Token>();
        assert!(read.is_err() || read.is_ok_and(|token| !token.is_of(&known)), "{at}");
    }
    // What another key's holder says of this one.
    let [_, content, signature] = text.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let other_key = ApiKey::new(ApiKeyId::new(8), [2; SECRET_BYTES]);
    let other = Token::new(&other_key, Scope::new(&new(), 0).expect("one"));
    let other = other.expect("short").reveal();
    let head = other.split('.').next().expect("a head");
    for forged in [format!("{head}.{content}.{signature}"), format!("{head}.{content}")] {
        assert!(!forged.parse::<Token>().is_ok_and(|token| token.is_of(&token_key(&other_key))));
    }
    let (twice, once) = (format!("{text}.{signature}"), text.trim_end_matches(signature));
    // Half a signature is what a code (MAC) was.
    let code = format!("{once}{}", &signature[..64]);
    for bad in ["", "celeriant_token_", &text[1..], &twice, once, &code, &key(1).reveal()] {
        assert_eq!(bad.parse::<Token>().map(drop), Err(TokenError), "{bad}");
    }
    assert!("x".repeat(TOKEN_BYTES_MAX + 1).parse::<Token>().is_err());
}

#[test]
fn whoever_reads_all_that_the_store_keeps_of_a_key_makes_no_token_of_it() {
    let scope = || Scope::new(&new(), 0).expect("a scope");
    let (hash, public) = (key(1).hash().to_string(), token_key(&key(1)));
    let bytes: [u8; 32] = array_from_hex(&hash).expect("32 bytes");
    let derived = blake3::derive_key("celeriant 2026 code of a token of an api key", &bytes);
    for stolen in [bytes, *public.as_bytes(), derived] {
        let forged = Token::new(&ApiKey::new(key(1).id(), stolen), scope()).expect("short");
        assert!(!forged.is_of(&public), "as if it were the secret");
        let pair = Ed25519KeyPair::from_seed_unchecked(&stolen).expect("32 bytes");
        let mut signature = [0; SIGNATURE_BYTES];
        signature.copy_from_slice(pair.sign(forged.signed.as_bytes()).as_ref());
        assert!(!Token { signature, ..forged }.is_of(&public), "as if it were the seed");
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_its_name() {
    let refused = |change: fn(&mut NewToken)| {
        let mut asked = new();
        change(&mut asked);
        match Scope::new(&asked, 0) {
            Err(Refusal::InvalidArgument { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(|new| new.selectors.clear()), "selectors");
    assert_eq!(refused(|new| new.selectors = vec!["a".into(); SELECTORS_MAX + 1]), "selectors");
    assert_eq!(refused(|new| new.selectors = vec!["a\nb".into()]), "selectors");
    assert_eq!(refused(|new| new.selectors = vec!["$other".into()]), "selectors");
    assert_eq!(refused(|new| new.rights.clear()), "rights");
    for right in ["admin", "schema", "retain", "all", "*", ""] {
        let asked = NewToken { rights: vec!["read".into(), right.into()], ..new() };
        assert!(Scope::new(&asked, 0).is_err(), "{right}");
    }
    assert_eq!(refused(|new| new.client_id = Some("x".into())), "client_id");
    let nobody = ClientId::NONE.to_string();
    assert!(Scope::new(&NewToken { client_id: Some(nobody), ..new() }, 0).is_err());
    assert_eq!(refused(|new| new.seconds = Some(0)), "seconds");
    assert_eq!(refused(|new| new.seconds = Some(LASTS_S_MAX + 1)), "seconds");
    let ids = (0..SELECTORS_MAX).map(|at| format!("a/{}/{at}{}", "b".repeat(128), "c".repeat(120)));
    let scope = Scope::new(&NewToken { selectors: ids.collect(), ..new() }, 0).expect("a scope");
    let long = Token::new(&key(1), scope);
    assert!(matches!(long, Err(Refusal::TooLarge { .. })), "{long:?}");
}

#[test]
fn a_token_counts_from_a_minute_before_it_is_made_until_it_ends_and_no_longer_than_any_may() {
    const START: i64 = 1_000_000 * MICROS;
    let lasting = |seconds| NewToken { seconds: Some(seconds), ..new() };
    let scope = Scope::new(&lasting(60), START).expect("a scope");
    let skew = SKEW_S_MAX as i64 * MICROS;
    let rows = [
        (START - skew - 1, false),
        (START - skew, true),
        (START, true),
        (START + 60 * MICROS - 1, true),
        (START + 60 * MICROS, false),
    ];
    for (now, counts) in rows {
        assert_eq!(scope.check(now).is_ok(), counts, "{now}");
    }
    let key_ends = scope.clone().until(Some(START + 5));
    assert_eq!(
        (key_ends.check(START + 4).is_ok(), key_ends.check(START + 5).is_ok()),
        (true, false)
    );
    assert_eq!(scope.clone().until(None), scope);
    // Whoever makes tokens by himself may write anything.
    let longest = Scope::new(&lasting(LASTS_S_MAX), START).expect("a scope");
    assert_eq!(longest.check(START), Ok(()));
    for (made_at, expires_at) in
        [(0, i64::MAX), (i64::MIN, i64::MAX), (START - 1, longest.expires_at)]
    {
        let forever = Scope { made_at, expires_at, ..longest.clone() };
        assert!(forever.check(START).is_err(), "{made_at} to {expires_at}");
    }
}
