//! The same requests by both ways in, HTTP and the binary protocol: what counts is what is shown.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::BytesMut;
use celeriant_schema::wire::{self, Outbound};
use celeriant_schema::{Response, SECRET_BYTES};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::service::{Incoming, Reply, ReplySender, Service};
use crate::settings::Shutdown;

/// Answers everything, and notes what got as far as that.
#[derive(Clone, Default)]
struct Yes(Arc<Mutex<Vec<Request>>>);

impl Service for Yes {
    fn submit(&self, requests: Vec<Incoming>, replies: &ReplySender) {
        for Incoming { id, request, .. } in requests {
            self.0.lock().expect("whole").push(request);
            replies.send(vec![Reply { id, response: Response::Pong }]);
        }
    }
}

impl Yes {
    fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut self.0.lock().expect("whole"))
    }
}

/// A client's end of a connection.
struct Client {
    stream: DuplexStream,
    input: BytesMut,
}

impl Client {
    /// Says hello with `shown` on a connection with `rights`.
    async fn connect<V: Service>(
        service: &V,
        rights: &Rights,
        shown: &Credential,
    ) -> Result<Self, Refusal> {
        let (far, near) = tokio::io::duplex(1 << 20);
        let (service, rights) = (service.clone(), rights.clone());
        let shutdown = Shutdown::new();
        tokio::spawn(async move {
            let stop = shutdown.stop();
            crate::connection::serve(near, service, rights, Arc::default(), stop).await
        });
        let mut client = Self { stream: far, input: BytesMut::new() };
        let hello = wire::Hello {
            min_protocol: wire::PROTOCOL_MIN,
            max_protocol: wire::PROTOCOL_MAX,
            client_name: "test".into(),
            api_key: Some(shown.clone()),
        };
        let mut bytes = BytesMut::new();
        wire::encode_hello(&hello, &mut bytes);
        client.stream.write_all(&bytes).await.expect("open");
        match client.next().await {
            Outbound::Welcome(_) => Ok(client),
            Outbound::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    async fn ask(&mut self, request: &Request) -> Result<Response, Refusal> {
        let mut bytes = BytesMut::new();
        wire::encode_request(1, 0, request, &mut bytes).expect("valid");
        self.stream.write_all(&bytes).await.expect("open");
        match self.next().await {
            Outbound::Response { id: 1, response: Response::Refused(refusal) } => Err(refusal),
            Outbound::Response { id: 1, response } => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    async fn next(&mut self) -> Outbound {
        loop {
            if let Some(frame) = wire::split_frame(&mut self.input, 1 << 24).expect("small") {
                return wire::decode_outbound(frame).expect("well-formed");
            }
            assert_ne!(self.stream.read_buf(&mut self.input).await.expect("open"), 0, "closed");
        }
    }
}

/// What becomes of `requests` by both ways, which is one.
async fn both_ways(
    rights: &Rights,
    shown: &str,
    requests: &[Request],
) -> Result<Vec<Result<(), Refusal>>, Refusal> {
    let (by_http, by_wire) = (Yes::default(), Yes::default());
    let header = format!("Bearer {shown}");
    let http = crate::http::ask_as(by_http.clone(), rights, &header, requests).await;
    let shown: Credential = shown.parse().expect("from afar");
    let wire = match Client::connect(&by_wire, rights, &shown).await {
        Ok(mut client) => {
            let mut outcomes = Vec::new();
            for request in requests {
                outcomes.push(client.ask(request).await);
            }
            Ok(outcomes)
        }
        Err(refusal) => Err(refusal),
    };
    assert_eq!(http, wire);
    assert_eq!(by_http.asked(), by_wire.asked(), "what is refused gets nowhere");
    wire.map(|outcomes| outcomes.into_iter().map(|outcome| outcome.map(drop)).collect())
}

fn new_token(selectors: &[&str], rights: &[&str], client_id: Option<ClientId>) -> NewToken {
    let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
    let client_id = client_id.map(|client| client.to_string());
    NewToken { selectors: texts(selectors), rights: texts(rights), client_id, seconds: Some(60) }
}

fn token(key: &ApiKey, new: &NewToken) -> Token {
    Token::new(key, Scope::new(new, NOW).expect("a scope")).expect("short")
}

fn under(client_id: ClientId) -> Request {
    let Request::Write(write) = write(&[("acme/account/a", true)]) else { unreachable!() };
    Request::Write(Write { client_id, ..write })
}

#[tokio::test]
async fn the_whole_matrix_is_the_same_for_a_token_and_a_key_whichever_way_they_come_in() {
    let key = secret(1);
    let ring = keyring([keyed(&key, &["acme:*:all"]), bound(2, Some(ClientId::new(2)))]);
    let clear = Rights::all().with_keys(Some(Arc::clone(&ring)), true);
    let nobody = Rights::none().with_keys(Some(Arc::clone(&ring)), true);
    let certificate = holder(&["rival:*:all"]).with_keys(Some(ring), true);
    let clients = [1, 2, 3].map(ClientId::new).into_iter().chain([ClientId::NONE]);
    let requests = own().into_iter().map(|(own, _)| own).chain(foreign()).chain(clients.map(under));
    // A guard alone is refused for what it is.
    let requests: Vec<Request> = requests.filter(|request| request.check().is_ok()).collect();
    assert!(requests.len() >= own().len() + foreign().len());
    for selectors in [&["acme/account"][..], &["acme/account/a", "acme/order"], &["*"]] {
        for granted in crate::token::RIGHTS {
            for client_id in [None, Some(ClientId::new(3))] {
                let token = token(&key, &new_token(selectors, &[granted.name()], client_id));
                let expected = nobody.with_token(&token).expect("a token");
                let expected: Vec<_> = requests.iter().map(|it| expected.check(it)).collect();
                for shown_to in [&nobody, &certificate, &clear] {
                    let outcomes = both_ways(shown_to, &token.reveal(), &requests).await;
                    assert_eq!(outcomes.as_ref(), Ok(&expected), "{selectors:?} {client_id:?}");
                }
                assert!(expected.iter().any(Result::is_ok));
                let codes = expected.iter().filter_map(|it| it.as_ref().err()).map(Refusal::code);
                assert!(codes.clone().all(|code| code == 1005) && codes.count() > 0);
            }
        }
    }
    for key in [secret(1), secret(2)] {
        let expected = nobody.with_key(&key).expect("a key");
        let expected: Vec<_> = requests.iter().map(|it| expected.check(it)).collect();
        assert_eq!(both_ways(&nobody, &key.reveal(), &requests).await, Ok(expected));
    }
}

#[tokio::test]
async fn what_is_not_good_is_refused_with_the_same_words_whichever_way_it_comes_in() {
    let (key, old_key, unknown) = (secret(1), secret(2), secret(3));
    let (old_id, old) = keyed(&old_key, &["*:*:all"]);
    let old = Arc::new(Holder { token_key: None, ..(*old).clone() });
    let ring = keyring([keyed(&key, &["acme:*:all"]), (old_id, old)]);
    let nobody = Rights::none().with_keys(Some(Arc::clone(&ring)), true);
    let new = new_token(&["acme"], &["read"], None);
    let good = token(&key, &new).reveal();
    let forger = ApiKey::new(key.id(), [9; SECRET_BYTES]);
    let at = |now| Token::new(&key, Scope::new(&new, now).expect("a scope")).expect("short");
    let shown = [
        token(&forger, &new).reveal(),
        token(&old_key, &new).reveal(),
        token(&unknown, &new).reveal(),
        at(NOW - 60_000_000).reveal(),
        at(NOW + 61_000_000).reveal(),
        good[..good.len() - 1].to_owned(),
        good.replacen('.', "x", 1),
        forger.reveal(),
        unknown.reveal(),
    ];
    for shown in shown {
        let refused = both_ways(&nobody, &shown, &[read("acme/account/a")]).await;
        let refused = refused.expect_err("it is not good");
        assert_eq!(refused.code(), 1004, "{shown}");
        let tail = &shown[shown.len() - 16..];
        assert!(!refused.to_string().contains(tail), "{refused}");
    }
    let seen = Rights::none().with_keys(Some(ring), false);
    for shown in [&good, &key.reveal()] {
        assert!(both_ways(&seen, shown, &[Request::Ping]).await.is_err(), "others saw it");
        assert_eq!(both_ways(&nobody, shown, &[Request::Ping]).await, Ok(vec![Ok(())]));
    }
}

#[tokio::test]
async fn a_token_ends_on_a_connection_that_is_up_and_nobody_waits_beyond_that() {
    let now = Arc::new(AtomicI64::new(NOW));
    let clock = Arc::clone(&now);
    let ring = Keyring::new(Box::new(move || clock.load(Ordering::Relaxed)));
    let key = secret(1);
    ring.publish([keyed(&key, &["*:*:all"])].into());
    let nobody = Rights::none().with_keys(Some(Arc::new(ring)), true);
    let new = NewToken { seconds: Some(2), ..new_token(&["acme"], &["read", "watch"], None) };
    let token = token(&key, &new).reveal().parse().expect("a token");
    let service = Yes::default();
    let mut client = Client::connect(&service, &nobody, &token).await.expect("it is good");
    let waiting = |wait_ms| match feed("acme") {
        Request::Feed(query) => Request::Feed(FeedQuery { wait_ms, ..query }),
        _ => unreachable!("it is one"),
    };
    for wait_ms in [0, 1_500, 30_000] {
        assert_eq!(client.ask(&waiting(wait_ms)).await, Ok(Response::Pong));
    }
    let waits = service.asked().into_iter().map(|asked| match asked {
        Request::Feed(query) => query.wait_ms,
        _ => unreachable!("it is one"),
    });
    assert_eq!(waits.collect::<Vec<_>>(), [0, 1_500, 2_001], "until it is over");
    now.store(NOW + 2_000_000, Ordering::Relaxed);
    for request in [waiting(30_000), waiting(0), read("acme/account/a"), Request::Ping] {
        let refused = client.ask(&request).await.expect_err("it is over");
        assert_eq!(refused.code(), 1004);
        assert!(refused.to_string().contains("ask for another"), "{refused}");
    }
    assert_eq!(service.asked(), []);
}

/// Takes back all keys before it answers.
#[derive(Clone)]
struct Late(Arc<Keyring>);

impl Service for Late {
    fn submit(&self, requests: Vec<Incoming>, replies: &ReplySender) {
        self.0.publish(std::collections::BTreeMap::new());
        for Incoming { id, .. } in requests {
            let response = Response::Feed(celeriant_schema::FeedPage::default());
            replies.send(vec![Reply { id, response }]);
        }
    }
}

#[tokio::test]
async fn who_is_taken_back_while_he_waits_is_told_nothing_new() {
    let key = secret(1);
    let new = new_token(&["acme"], &["watch"], None);
    for shown in [key.reveal(), token(&key, &new).reveal()] {
        let [(one, by_http), (other, by_wire)] = [(); 2].map(|()| {
            let ring = keyring([keyed(&key, &["acme:*:all"])]);
            (Rights::none().with_keys(Some(Arc::clone(&ring)), true), Late(ring))
        });
        let (news, header) = (feed("acme"), format!("Bearer {shown}"));
        let news = std::slice::from_ref(&news);
        let http = crate::http::ask_as(by_http, &one, &header, news).await;
        let http = http.expect("it was good").remove(0).expect_err("not any more");
        let shown = shown.parse().expect("from afar");
        let client = Client::connect(&by_wire, &other, &shown).await;
        let wire = client.expect("it was good").ask(&news[0]).await.expect_err("not any more");
        assert_eq!((http.code(), http), (1004, wire));
    }
}

/// A key counts on for who waits, as long as it counts.
#[test]
fn a_wait_is_as_long_as_was_asked_where_nothing_ends() {
    let mut request = feed("acme");
    let Request::Feed(query) = &mut request else { unreachable!("it is one") };
    query.wait_ms = 60_000;
    let asked = request.clone();
    for rights in [Rights::all(), key_holder(&["*:*:all"]), holder(&["*:*:all"])] {
        rights.shorten_wait(&mut request);
        assert_eq!(request, asked);
    }
    let (id, of) = keyed(&secret(1), &["*:*:all"]);
    let ends = Holder { expires_at: Some(NOW + 5_000), ..(*of).clone() };
    let nobody = Rights::none().with_keys(Some(keyring([(id, Arc::new(ends))])), true);
    nobody.with_key(&secret(1)).expect("a key").shorten_wait(&mut request);
    assert!(matches!(request, Request::Feed(query) if query.wait_ms == 6));
}
