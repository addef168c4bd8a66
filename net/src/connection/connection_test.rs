//! What a connection promises, with a fake service, over pipes and over real sockets.

#![allow(clippy::disallowed_methods)] // Tests own their tasks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use celeriant_schema::wire::{self, Outbound};
use celeriant_schema::{
    AggregateKey, EncodedEvents, Guard, HeadQuery, ListQuery, Member, Page, ReadQuery, Receipt,
    Refusal, Request, Response, Stamp, Version, Write,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

mod following;

use super::*;
use crate::listener::{self, Door};
use crate::settings::Shutdown;

/// Answers at once, or when told to; notes what it was given.
#[derive(Clone, Default)]
struct Fake {
    state: Arc<Mutex<State>>,
    hold: bool,
}

#[derive(Default)]
struct State {
    batches: Vec<usize>,
    held: VecDeque<(Incoming, ReplySender)>,
}

impl Service for Fake {
    fn submit(&self, requests: Vec<Incoming>, replies: &ReplySender) {
        let mut state = self.state.lock().expect("not poisoned");
        state.batches.push(requests.len());
        if self.hold {
            let held = requests.into_iter().map(|request| (request, replies.clone()));
            return state.held.extend(held);
        }
        let answer = |request: Incoming| answer(&request);
        replies.send(requests.into_iter().map(answer).collect());
    }
}

impl Fake {
    fn holding() -> Self {
        Self { hold: true, ..Self::default() }
    }

    fn held(&self) -> usize {
        self.state.lock().expect("not poisoned").held.len()
    }

    fn batches(&self) -> Vec<usize> {
        self.state.lock().expect("not poisoned").batches.clone()
    }

    fn release(&self, count: usize) {
        let mut state = self.state.lock().expect("not poisoned");
        for _ in 0..count {
            let Some((request, replies)) = state.held.pop_front() else { return };
            replies.send(vec![answer(&request)]);
        }
    }
}

fn answer(request: &Incoming) -> Reply {
    let response = match &request.request {
        Request::Ping | Request::Admin(_) => Response::Pong,
        Request::Write(write) => Response::Receipt(Receipt {
            stamp: Stamp::new(write.members.len() as u64),
            already_applied: false,
            writes: Vec::new(),
        }),
        Request::Read(query) => Response::Page(Page {
            version: query.from,
            stamp: Stamp::new(1),
            batches: Vec::new(),
            next: None,
        }),
        Request::Head(query) => Response::Refused(Refusal::NotFound { key: query.key.clone() }),
        Request::Feed(query) => Response::Feed(following::page(query)),
        // Stands for an answer that is large.
        Request::List(_) => Response::List(celeriant_schema::ListPage {
            names: vec!["n".repeat(128); 400],
            more: false,
        }),
    };
    Reply { id: request.id, response }
}

fn key() -> AggregateKey {
    "acme/account/alice".parse().expect("valid")
}

fn write() -> Request {
    let member = |id: &str| Member {
        key: AggregateKey::new("acme", "account", id).expect("valid"),
        guard: Guard::Exact(Version::new(3)),
        sequence: None,
        events: events(),
        retention: None,
    };
    Request::Write(Write {
        client_id: celeriant_schema::ClientId::NONE,
        members: vec![member("a"), member("b")],
    })
}

fn events() -> EncodedEvents {
    let event = celeriant_schema::Event {
        event_type: "Withdrawn".into(),
        schema: celeriant_schema::SchemaVersion { major: 1, minor: 0 },
        content_type: celeriant_schema::ContentType::Json,
        payload: Bytes::from_static(b"{}"),
        event_id: None,
        metadata: Vec::new(),
        envelope: None,
        client_time: 1,
    };
    EncodedEvents::encode(&[event]).expect("valid")
}

fn list() -> Request {
    Request::List(ListQuery {
        org: None,
        kind: None,
        prefix: String::new(),
        after: None,
        limit: 1000,
    })
}

fn read() -> Request {
    Request::Read(ReadQuery { from: Version::new(5), ..ReadQuery::all(key()) })
}

fn head() -> Request {
    Request::Head(HeadQuery { key: key(), client: None, min_stamp: None, any: false })
}

fn hello() -> BytesMut {
    let mut out = BytesMut::new();
    let hello =
        wire::Hello { min_protocol: 1, max_protocol: 9, client_name: "test".into(), api_key: None };
    wire::encode_hello(&hello, &mut out);
    out
}

fn put(out: &mut BytesMut, id: u64, request: &Request) {
    wire::encode_request(id, 0, request, out).expect("valid");
}

/// The client's end: sends bytes, takes frames.
struct Peer<S> {
    stream: S,
    input: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    fn new(stream: S) -> Self {
        Self { stream, input: BytesMut::new() }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("open");
    }

    /// `None`: the server has closed.
    async fn next(&mut self) -> Option<Outbound> {
        loop {
            if let Some(frame) = wire::split_frame(&mut self.input, 1 << 24).expect("small") {
                return Some(wire::decode_outbound(frame).expect("well-formed"));
            }
            if self.stream.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                assert!(self.input.is_empty(), "half a frame at the end");
                return None;
            }
        }
    }

    async fn response(&mut self) -> (u64, Response) {
        match self.next().await {
            Some(Outbound::Response { id, response }) => (id, response),
            other => panic!("{other:?} is not an answer"),
        }
    }

    async fn welcomed(mut self) -> Self {
        self.send(&hello()).await;
        assert!(matches!(self.next().await, Some(Outbound::Welcome(w)) if w.protocol == 1));
        self
    }
}

struct Fixture {
    task: JoinHandle<Ended>,
    shutdown: Shutdown,
}

fn open(service: &Fake, settings: Settings, pipe: usize) -> (Peer<DuplexStream>, Fixture) {
    let (near, far) = duplex(pipe);
    let shutdown = Shutdown::new();
    let serving = serve(far, service.clone(), Rights::all(), Arc::new(settings), shutdown.stop());
    (Peer::new(near), Fixture { task: tokio::spawn(serving), shutdown })
}

async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn everything_read_at_once_is_submitted_at_once_and_answered_by_id() {
    let service = Fake::default();
    let (peer, _fixture) = open(&service, Settings::default(), 1 << 20);
    let mut peer = peer.welcomed().await;
    let mut bytes = BytesMut::new();
    for (id, request) in [(7, write()), (3, read()), (9, head()), (4, Request::Ping)] {
        put(&mut bytes, id, &request);
    }
    peer.send(&bytes).await;
    for expected in [7, 3, 9, 4] {
        let (id, response) = peer.response().await;
        assert_eq!(id, expected);
        match id {
            7 => assert!(matches!(response, Response::Receipt(r) if r.stamp == Stamp::new(2))),
            3 => assert!(matches!(response, Response::Page(p) if p.version == Version::new(5))),
            9 => assert_eq!(response, Response::Refused(Refusal::NotFound { key: key() })),
            _ => assert_eq!(response, Response::Pong),
        }
    }
    assert_eq!(service.batches(), [4]);
}

#[tokio::test]
async fn bytes_split_at_every_place_mean_the_same() {
    let mut bytes = hello();
    put(&mut bytes, 1, &write());
    put(&mut bytes, 2, &read());
    wire::encode_ping(&mut bytes);
    for place in 1..bytes.len() {
        let service = Fake::default();
        let (mut peer, _fixture) = open(&service, Settings::default(), 1 << 20);
        peer.send(&bytes[..place]).await;
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        peer.send(&bytes[place..]).await;
        assert!(matches!(peer.next().await, Some(Outbound::Welcome(_))), "at {place}");
        // The ping is answered by the connection itself, so it may overtake.
        let mut ids = Vec::new();
        for _ in 0..3 {
            match peer.next().await {
                Some(Outbound::Response { id, .. }) => ids.push(id),
                Some(Outbound::Pong) => {}
                other => panic!("{other:?} at {place}"),
            }
        }
        assert_eq!(ids, [1, 2], "at {place}");
    }
}

#[tokio::test]
async fn a_pipe_of_one_byte_carries_everything() {
    let service = Fake::default();
    let (peer, _fixture) = open(&service, Settings::default(), 1);
    let mut peer = peer.welcomed().await;
    let mut bytes = BytesMut::new();
    put(&mut bytes, 1, &write());
    put(&mut bytes, 2, &head());
    peer.send(&bytes).await;
    assert_eq!(peer.response().await.0, 1);
    assert_eq!(peer.response().await.0, 2);
}

#[tokio::test]
async fn a_client_with_too_many_unanswered_requests_is_not_read_from() {
    let service = Fake::holding();
    let settings = Settings { requests_max: 10, ..Settings::default() };
    let (peer, _fixture) = open(&service, settings, 1 << 20);
    let mut peer = peer.welcomed().await;
    let mut bytes = BytesMut::new();
    for id in 1..=1000 {
        put(&mut bytes, id, &Request::Ping);
    }
    peer.send(&bytes).await;
    until(|| service.held() == 10).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(service.held(), 10);
    for id in 1..=1000 {
        until(|| service.held() > 0).await;
        assert!(service.held() <= 10);
        service.release(1);
        assert_eq!(peer.response().await.0, id);
    }
}

#[tokio::test]
async fn a_client_with_too_many_unanswered_bytes_is_not_read_from() {
    let service = Fake::holding();
    let page = celeriant_schema::limits::PAGE_BYTES_TARGET;
    let settings = Settings { bytes_max: 4 * page, ..Settings::default() };
    let (peer, _fixture) = open(&service, settings, 1 << 20);
    let mut peer = peer.welcomed().await;
    let mut bytes = BytesMut::new();
    for id in 1..=100 {
        put(&mut bytes, id, &read());
    }
    peer.send(&bytes).await;
    until(|| service.held() == 4).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(service.held(), 4, "every read may bring a page");
}

#[tokio::test]
async fn a_client_that_does_not_read_gets_no_more_than_fits_and_then_everything() {
    let service = Fake::default();
    let settings = Settings { bytes_max: 1 << 20, ..Settings::default() };
    let (peer, fixture) = open(&service, settings, 16 << 10);
    let peer = peer.welcomed().await;
    let (mut reader, mut writer) = tokio::io::split(peer.stream);
    // 2,000 answers of 50 KiB: 100 MB that must not pile up in the node.
    let sending = tokio::spawn(async move {
        for id in 1..=2000 {
            let mut bytes = BytesMut::new();
            put(&mut bytes, id, &list());
            writer.write_all(&bytes).await.expect("open");
        }
    });
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    let submitted: usize = service.batches().iter().sum();
    assert!(submitted < 500, "{submitted} answers wait for a client that does not read");
    assert!(!fixture.task.is_finished());

    let mut input = BytesMut::new();
    let mut answered = 0;
    while answered < 2000 {
        assert_ne!(reader.read_buf(&mut input).await.expect("open"), 0);
        while let Some(frame) = wire::split_frame(&mut input, 1 << 24).expect("small") {
            assert!(matches!(wire::decode_outbound(frame), Ok(Outbound::Response { .. })));
            answered += 1;
        }
    }
    sending.await.expect("sent");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_for_a_minute_is_cut_off() {
    let service = Fake::default();
    let (peer, fixture) = open(&service, Settings::default(), 1 << 10);
    let mut peer = peer.welcomed().await;
    let mut bytes = BytesMut::new();
    put(&mut bytes, 1, &list());
    peer.send(&bytes).await;
    assert!(matches!(fixture.task.await, Ok(Ended::TimedOut)));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_introduce_itself_is_cut_off() {
    let service = Fake::default();
    let (_peer, fixture) = open(&service, Settings::default(), 1 << 10);
    let begin = Instant::now();
    assert!(matches!(fixture.task.await, Ok(Ended::TimedOut)));
    assert!(begin.elapsed() < Duration::from_secs(6));

    // Half a hello is no hello, and a byte now and then does not help.
    let (mut peer, mut fixture) = open(&service, Settings::default(), 1 << 10);
    for byte in &hello()[..20] {
        peer.send(&[*byte]).await;
        tokio::select! {
            biased;
            ended = &mut fixture.task => return assert!(matches!(ended, Ok(Ended::TimedOut))),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
    panic!("nineteen seconds and still there");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_stays_and_an_answer_may_take_long() {
    let service = Fake::holding();
    let (peer, _fixture) = open(&service, Settings::default(), 1 << 10);
    let mut peer = peer.welcomed().await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let mut bytes = BytesMut::new();
    put(&mut bytes, 1, &Request::Ping);
    peer.send(&bytes).await;
    until(|| service.held() == 1).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    service.release(1);
    assert_eq!(peer.response().await.0, 1);
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused_by_its_id_and_the_connection_lives() {
    let service = Fake::default();
    let (peer, _fixture) = open(&service, Settings::default(), 1 << 20);
    let mut peer = peer.welcomed().await;
    let mut bytes = BytesMut::new();
    put(&mut bytes, 5, &write());
    // The last bytes of the request are gone, the frame is whole.
    let cut = bytes.len() - 7;
    bytes.truncate(cut);
    bytes[..4].copy_from_slice(&(cut as u32 - 4).to_le_bytes());
    put(&mut bytes, 6, &Request::Ping);
    peer.send(&bytes).await;
    let (mut refused, mut alive) = (false, false);
    for _ in 0..2 {
        match peer.response().await {
            (5, Response::Refused(Refusal::InvalidArgument { .. })) => refused = true,
            (6, Response::Pong) => alive = true,
            other => panic!("{other:?}"),
        }
    }
    assert!(refused && alive);
    assert_eq!(service.batches(), [1]);
}

#[tokio::test]
async fn a_broken_frame_ends_the_connection_after_what_came_before_is_answered() {
    let absurd = u32::MAX.to_le_bytes();
    let short = [3, 0, 0, 0, 1, 2, 3];
    for broken in [&absurd[..], &short[..], &hello()[..]] {
        let service = Fake::default();
        let (peer, fixture) = open(&service, Settings::default(), 1 << 20);
        let mut peer = peer.welcomed().await;
        let mut bytes = BytesMut::new();
        put(&mut bytes, 1, &Request::Ping);
        bytes.extend_from_slice(broken);
        put(&mut bytes, 2, &Request::Ping);
        peer.send(&bytes).await;
        assert_eq!(peer.response().await, (1, Response::Pong));
        assert!(matches!(peer.next().await, Some(Outbound::Refused(_))));
        assert!(peer.next().await.is_none());
        drop(peer);
        assert!(matches!(fixture.task.await, Ok(Ended::Refused(_))));
        assert_eq!(service.batches(), [1], "nothing behind it is done");
    }
}

#[tokio::test]
async fn nothing_but_a_hello_comes_first_and_a_large_one_is_refused_unread() {
    let mut ping = BytesMut::new();
    put(&mut ping, 1, &Request::Ping);
    let large = (HELLO_BYTES_MAX as u32 + 1).to_le_bytes();
    for first in [&ping[..], &large[..], b"GET / HTTP/1.1\r\n\r\n"] {
        let service = Fake::default();
        let (mut peer, _fixture) = open(&service, Settings::default(), 1 << 20);
        peer.send(first).await;
        assert!(matches!(peer.next().await, Some(Outbound::Refused(_))), "{first:?}");
        assert!(peer.next().await.is_none());
        assert_eq!(service.batches(), [0; 0]);
    }
}

#[tokio::test]
async fn a_client_of_the_future_is_told_what_is_spoken_here() {
    let (mut peer, _fixture) = open(&Fake::default(), Settings::default(), 1 << 20);
    let mut bytes = BytesMut::new();
    let hello = wire::Hello {
        min_protocol: 700,
        max_protocol: 701,
        client_name: "t".into(),
        api_key: None,
    };
    wire::encode_hello(&hello, &mut bytes);
    peer.send(&bytes).await;
    let refused = Refusal::UnsupportedProtocol { min: 1, max: 1 };
    assert_eq!(peer.next().await, Some(Outbound::Refused(refused)));
    assert!(peer.next().await.is_none());
}

#[tokio::test]
async fn a_client_that_has_finished_asking_is_still_answered() {
    let service = Fake::holding();
    let (peer, fixture) = open(&service, Settings::default(), 1 << 20);
    let mut peer = peer.welcomed().await;
    let mut bytes = BytesMut::new();
    put(&mut bytes, 1, &write());
    peer.send(&bytes).await;
    peer.stream.shutdown().await.expect("open");
    until(|| service.held() == 1).await;
    service.release(1);
    assert_eq!(peer.response().await.0, 1);
    assert!(peer.next().await.is_none());
    assert!(matches!(fixture.task.await, Ok(Ended::Closed)));
}

#[tokio::test]
async fn a_stopping_node_answers_what_was_submitted_and_takes_nothing_more() {
    let service = Fake::holding();
    let (peer, fixture) = open(&service, Settings::default(), 1 << 20);
    let mut peer = peer.welcomed().await;
    let mut bytes = BytesMut::new();
    put(&mut bytes, 1, &write());
    peer.send(&bytes).await;
    until(|| service.held() == 1).await;
    fixture.shutdown.trigger();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    peer.send(&bytes).await;
    service.release(1);
    assert_eq!(peer.response().await.0, 1);
    assert!(peer.next().await.is_none());
    assert!(matches!(fixture.task.await, Ok(Ended::Stopped)));
    assert_eq!(service.batches(), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_never_answers_cannot_hold_up_the_end() {
    let service = Fake::holding();
    let (peer, fixture) = open(&service, Settings::default(), 1 << 20);
    let mut peer = peer.welcomed().await;
    let mut bytes = BytesMut::new();
    put(&mut bytes, 1, &write());
    peer.send(&bytes).await;
    until(|| service.held() == 1).await;
    fixture.shutdown.trigger();
    assert!(matches!(fixture.task.await, Ok(Ended::TimedOut)));
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_waits_has_a_seat_until_it_is_answered() {
    let script = seats_of_feeds();
    // Without the refusals there would be nothing to wait for.
    tokio::time::timeout(Duration::from_secs(30), script).await.expect("it ends");
}

async fn seats_of_feeds() {
    let service = Fake::holding();
    let shutdown = Shutdown::new();
    let most = |most: u64| -> crate::rooms::Most { Box::new(move |_| Some(most)) };
    let rooms = crate::Rooms::new(most(0), most(1));
    let rights = Rights::all().with_rooms(Some(rooms.clone()));
    let (near, far) = duplex(1 << 16);
    let serving = serve(far, service.clone(), rights, Arc::default(), shutdown.stop());
    let task = tokio::spawn(serving);
    // In the clear a connection is of no org, but its watchers watch one.
    let mut peer = Peer::new(near).welcomed().await;
    let feed = |selector: &str, wait_ms| {
        let selector = selector.parse().expect("valid");
        Request::Feed(celeriant_schema::FeedQuery { selector, wait_ms, ..Default::default() })
    };
    let asked = [
        feed("acme/a", 1_000),
        feed("acme", 1_000),
        feed("acme", 0),
        feed("rival/b\nacme/b", 1_000),
        feed("rival", 1_000),
        feed("*", 1_000),
    ];
    let mut bytes = BytesMut::new();
    for (id, request) in (1..).zip(&asked) {
        put(&mut bytes, id, request);
    }
    peer.send(&bytes).await;
    for id in [2, 4] {
        let refused = peer.response().await;
        let (number, Response::Refused(Refusal::Overloaded { what, .. })) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((number, what.as_str()), (id, "quota of acme: watchers"));
    }
    assert_eq!((service.held(), rooms.watchers.refused()), (4, 2));
    service.release(1);
    assert_eq!(peer.response().await.0, 1);
    let mut bytes = BytesMut::new();
    put(&mut bytes, 7, &asked[1]);
    peer.send(&bytes).await;
    until_async(|| service.held() == 4).await;
    // Who is gone leaves his seats.
    drop(peer);
    service.release(4);
    assert!(matches!(task.await, Ok(Ended::Closed | Ended::Failed(_))));
    let rights = Rights::all().with_rooms(Some(rooms));
    assert!(rights.sit_to_watch(&"acme\nrival".parse().expect("valid")).is_ok());
}

#[test]
fn an_idle_connection_costs_little() {
    let connection = std::mem::size_of::<Connection<TcpStream, Fake>>();
    let (near, far) = duplex(64);
    let future = serve(far, Fake::default(), Rights::all(), Arc::default(), Shutdown::new().stop());
    let task = std::mem::size_of_val(&future);
    drop(near);
    assert!(connection < 2 << 10, "{connection} bytes");
    assert!(task < 8 << 10, "{task} bytes");
}

async fn listen(service: &Fake, settings: Settings) -> (std::net::SocketAddr, Door, Shutdown) {
    let address = "127.0.0.1:0".parse().expect("valid");
    let listener = listener::bind(address, false).expect("loopback");
    let address = listener.local_addr().expect("bound");
    let (door, shutdown) = (Door::default(), Shutdown::new());
    let stop = shutdown.stop();
    let serving =
        listener::serve(listener, service.clone(), Arc::new(settings), door.clone(), stop);
    tokio::spawn(serving);
    (address, door, shutdown)
}

#[tokio::test]
async fn a_full_node_says_so_and_takes_clients_again_when_one_leaves() {
    let settings = Settings { connections_max: 2, ..Settings::default() };
    let (address, door, _shutdown) = listen(&Fake::default(), settings).await;
    let connect = || async { Peer::new(TcpStream::connect(address).await.expect("listening")) };
    let first = connect().await.welcomed().await;
    let _second = connect().await.welcomed().await;
    let mut third = connect().await;
    let refused = third.next().await;
    assert!(matches!(refused, Some(Outbound::Refused(Refusal::Overloaded { .. }))), "{refused:?}");
    assert!(third.next().await.is_none());
    drop(first);
    until_async(|| door.open() < 2).await;
    let _fourth = connect().await.welcomed().await;
}

/// Like [`until`], but lets the sockets' driver run.
async fn until_async(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn random_bytes_on_the_port_harm_nobody() {
    let service = Fake::default();
    let (address, door, _shutdown) = listen(&service, Settings::default()).await;
    let mut good =
        Peer::new(TcpStream::connect(address).await.expect("listening")).welcomed().await;
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    for round in 0..200 {
        let mut peer = Peer::new(TcpStream::connect(address).await.expect("listening"));
        let mut bytes = if round % 2 == 0 { hello() } else { BytesMut::new() };
        for _ in 0..round * 8 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            bytes.extend_from_slice(&random.to_le_bytes());
        }
        // The node may close before everything is written.
        let _ = peer.stream.write_all(&bytes).await;
        let _ = peer.stream.shutdown().await;
        while let Ok(count) = peer.stream.read_buf(&mut peer.input).await {
            if count == 0 {
                break;
            }
        }
    }
    let mut bytes = BytesMut::new();
    put(&mut bytes, 1, &Request::Ping);
    good.send(&bytes).await;
    assert_eq!(good.response().await, (1, Response::Pong));
    until_async(|| door.open() == 1).await;
}

#[tokio::test]
async fn a_client_that_vanishes_takes_nothing_with_it() {
    let service = Fake::holding();
    let (address, door, _shutdown) = listen(&service, Settings::default()).await;
    let mut peer =
        Peer::new(TcpStream::connect(address).await.expect("listening")).welcomed().await;
    let mut bytes = BytesMut::new();
    put(&mut bytes, 1, &write());
    peer.send(&bytes).await;
    until_async(|| service.held() == 1).await;
    // Unread bytes and no farewell: the system sends a reset.
    socket2::SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).expect("open");
    drop(peer);
    until_async(|| door.open() == 0).await;
    service.release(1);
    let mut other =
        Peer::new(TcpStream::connect(address).await.expect("listening")).welcomed().await;
    wire::encode_ping(&mut bytes);
    other.send(&bytes[bytes.len() - 16..]).await;
    assert_eq!(other.next().await, Some(Outbound::Pong));
}
