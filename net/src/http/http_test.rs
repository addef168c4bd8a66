//! Limits and times of a gateway, each with a value small enough to see it: real sockets, a service
//! that answers what a test says.

use std::sync::Mutex;

use bytes::Bytes;
use celeriant_schema::{
    BatchHeader, ClientId, EncodedEvents, Event, FeedBatch, FeedPage, Hash, Page, ReadBatch,
    ReadEvent, Stamp, Version, WriteId,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::service::{Incoming, Reply, ReplySender};
use crate::settings::Shutdown;

type Script = dyn FnMut(Request) -> Option<Response> + Send;

/// Answers at once by a script; `None` = never.
#[derive(Clone)]
struct Scripted(Arc<Mutex<Box<Script>>>);

impl Service for Scripted {
    fn submit(&self, requests: Vec<Incoming>, replies: &ReplySender) {
        for Incoming { id, request, .. } in requests {
            let response = (self.0.lock().expect("whole"))(request);
            if let Some(response) = response {
                replies.send(vec![Reply { id, response }]);
            }
        }
    }
}

/// Runs `test` against a gateway, then stops that and waits for its end.
async fn with<T: Future<Output = ()>>(
    settings: Settings,
    script: impl FnMut(Request) -> Option<Response> + Send + 'static,
    test: impl FnOnce(std::net::SocketAddr) -> T,
) {
    let listener = crate::bind(([127, 0, 0, 1], 0).into(), false).expect("a port");
    let address = listener.local_addr().expect("bound");
    let shutdown = Shutdown::new();
    let service = Scripted(Arc::new(Mutex::new(Box::new(script))));
    let serving = serve(listener, service, None, settings, Door::default(), shutdown.stop());
    let testing = async {
        test(address).await;
        shutdown.trigger();
    };
    let both = async { tokio::join!(serving, testing) };
    timeout(Duration::from_secs(30), both).await.expect("it ends");
}

fn pong(_: Request) -> Option<Response> {
    Some(Response::Pong)
}

async fn connect(address: std::net::SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(text.as_bytes()).await.expect("it reads");
    stream
}

/// What comes until the connection ends.
async fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    // A connection that is cut off is an end, too.
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

async fn ask(address: std::net::SocketAddr, path: &str) -> String {
    let text = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    rest(connect(address, &text).await).await
}

#[track_caller]
fn has(answer: &str, status: u16, part: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
    assert!(answer.contains(part), "{part} is not in {answer}");
}

fn post(length: usize, body: &str) -> String {
    format!(
        "POST /v1/write HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

const SOON: Duration = Duration::from_millis(100);

#[tokio::test]
async fn one_too_many_is_told_so_and_let_in_when_another_has_left() {
    let settings = Settings { connections_max: 1, ..Settings::default() };
    with(settings, pong, async |address| {
        let mut first = connect(address, "GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").await;
        first.read_u8().await.expect("it is served");
        let refused = ask(address, "/health/live").await;
        has(&refused, 503, "\"error\":\"Overloaded\"");
        drop(first);
        let mut answer = refused;
        while answer.starts_with("HTTP/1.1 503") {
            answer = ask(address, "/health/live").await;
        }
        has(&answer, 200, "\"live\":true");
    })
    .await;
}

#[tokio::test]
async fn heads_and_bodies_that_do_not_come_end_by_themselves() {
    let settings = Settings { head_timeout: SOON, body_timeout: SOON, ..Settings::default() };
    with(settings, pong, async |address| {
        assert_eq!(rest(connect(address, "GET /health").await).await, "");
        let slow = rest(connect(address, &post(1000, "{")).await).await;
        has(&slow, 408, "\"definite\":true");
    })
    .await;
}

#[tokio::test]
async fn bodies_share_a_budget_and_a_claim_takes_nothing_of_it() {
    let settings = Settings { body_bytes_max: 1000, bodies_bytes_max: 1000, ..Settings::default() };
    with(settings, pong, async |address| {
        has(&rest(connect(address, &post(1001, "")).await).await, 413, "\"limit\":1000");
        let _claims = connect(address, &post(1000, "")).await;
        let holds = connect(address, &post(1000, &" ".repeat(900))).await;
        let body = "x".repeat(500);
        loop {
            let answer = rest(connect(address, &post(500, &body)).await).await;
            // What was sent before may arrive after.
            if answer.starts_with("HTTP/1.1 503") {
                has(&answer, 503, "\"what\":\"bodies of requests\"");
                break;
            }
            has(&answer, 400, "body");
        }
        drop(holds);
        loop {
            let answer = rest(connect(address, &post(500, &body)).await).await;
            if answer.starts_with("HTTP/1.1 400") {
                break;
            }
        }
    })
    .await;
}

/// Pages of one event with so many bytes each, without end.
fn pages(bytes: usize) -> impl FnMut(Request) -> Option<Response> + Send + 'static {
    let body = event_body(bytes);
    move |request| {
        let Request::Read(query) = request else { return None };
        let version = query.from.max(Version::new(1));
        let batches = vec![batch(version, body.clone())];
        let next = Some(version.next());
        Some(Response::Page(Page { version, stamp: Stamp::new(1), batches, next }))
    }
}

fn event_body(bytes: usize) -> Bytes {
    let event = Event::plain("T", celeriant_schema::ContentType::Bytes, vec![7; bytes]);
    EncodedEvents::encode(&[event]).expect("valid").as_bytes().clone()
}

fn batch(version: Version, body: Bytes) -> ReadBatch {
    let header = BatchHeader {
        first_version: version,
        last_version: version,
        client_id: ClientId::NONE,
        sequence: None,
        server_time: 0,
        stamp: Stamp::new(version.value()),
        write_id: WriteId::default(),
    };
    ReadBatch { header, events: vec![ReadEvent { version, hash: Hash::ZERO, body }] }
}

const EVENTS: &str = "/v1/aggregates/a/b/c/events";

#[tokio::test]
async fn a_page_that_nobody_takes_holds_its_room_until_its_reader_is_cut_off() {
    let settings = Settings {
        pages_max: 1,
        request_timeout: SOON,
        stall_timeout: 5 * SOON,
        ..Settings::default()
    };
    // More than the system keeps for a connection.
    with(settings, pages(8_000_000), async |address| {
        let text = format!("GET {EVENTS} HTTP/1.1\r\nhost: x\r\n\r\n");
        let mut slow = connect(address, &text).await;
        slow.read_u8().await.expect("it begins");
        let small = ask(address, EVENTS).await;
        has(&small, 503, "pages that their readers have not taken");
        assert!(small.contains("retry-after: 1"), "{small}");
        let mut answer = small;
        while answer.starts_with("HTTP/1.1 503") {
            answer = ask(address, EVENTS).await;
        }
        has(&answer, 200, "\"version\":1");
        assert!(rest(slow).await.len() < 10_000_000, "it is cut off");
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_breaks_says_why_and_is_not_whole() {
    let mut pages = pages(10);
    let script = move |request: Request| match &request {
        Request::Read(query) if query.from.value() > 2 => {
            Some(Response::Refused(Refusal::NoLeader))
        }
        _ => pages(request),
    };
    with(Settings::default(), script, async |address| {
        let text =
            format!("GET {EVENTS} HTTP/1.1\r\nhost: x\r\naccept: application/x-ndjson\r\n\r\n");
        let answer = rest(connect(address, &text).await).await;
        has(&answer, 200, "\"version\":2");
        assert!(answer.contains("\"error\":\"NoLeader\""), "{answer}");
        assert!(!answer.ends_with("0\r\n\r\n"), "cut short: {answer}");
    })
    .await;
}

#[tokio::test]
async fn a_watch_lives_while_nothing_happens_and_ends_when_it_cannot_go_on() {
    let mut asked = 0;
    let script = move |request: Request| {
        let Request::Feed(query) = request else { return None };
        asked += 1;
        let page =
            |batches, upto| FeedPage { batches, upto: Stamp::new(upto), head: Stamp::new(9) };
        let key = "a/b/c".parse().expect("a key");
        Some(match asked {
            1 => {
                assert_eq!((query.after, query.wait_ms), (Some(Stamp::new(3)), 0));
                let batch = batch(Version::new(5), event_body(1));
                Response::Feed(page(vec![FeedBatch { key, batch, notice: None }], 7))
            }
            2 => {
                assert_eq!((query.after, query.wait_ms), (Some(Stamp::new(7)), 5_000));
                Response::Feed(page(Vec::new(), 9))
            }
            3 => Response::Feed(page(Vec::new(), 9)),
            _ => Response::Refused(Refusal::Internal { id: 1 }),
        })
    };
    with(Settings::default(), script, async |address| {
        let answer = ask(address, "/v1/watch?selector=a&from=3").await;
        has(&answer, 200, "text/event-stream");
        let parts = [
            "retry: 1000\n\n",
            "id: 5\nevent: append\ndata: {\"key\":\"a/b/c\"",
            "id: 7\nevent: checkpoint\ndata: {\"checkpoint\":7,\"caught_up\":false}\n\n",
            "id: 9\nevent: checkpoint\ndata: {\"checkpoint\":9,\"caught_up\":true}\n\n",
            ": nothing new\n\n",
            "event: problem\ndata: {\"error\":\"Internal\"",
        ];
        let mut left = answer.as_str();
        for part in parts {
            let at = left.find(part).unwrap_or_else(|| panic!("{part} is not in {left}"));
            left = &left[at + part.len()..];
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_refused_before_a_stream_begins_has_a_status() {
    let script = |_| Some(Response::Refused(Refusal::NotLeader { leader: Some("b:7440".into()) }));
    with(Settings::default(), script, async |address| {
        for path in [EVENTS, "/v1/watch?selector=a", "/v1/feed?selector=a", "/v1/orgs"] {
            let answer = ask(address, path).await;
            has(&answer, 503, "\"leader\":\"b:7440\"");
            assert!(answer.contains("retry-after: 1"), "{answer}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_stop_answers_what_was_asked_and_ends_watches() {
    // A watch would wait for longer than a stop does.
    let drain_timeout = 30 * SOON;
    let settings = Settings { request_timeout: 2 * SOON, drain_timeout, ..Settings::default() };
    let asked = Arc::new(tokio::sync::Notify::new());
    let tell = Arc::clone(&asked);
    let script = move |request| match request {
        Request::Feed(query) if query.wait_ms == 0 => Some(Response::Feed(FeedPage::default())),
        // Never: whoever waits has a time of his own.
        Request::Read(_) => {
            tell.notify_one();
            None
        }
        _ => None,
    };
    let (watch, read) = (Mutex::new(None), Mutex::new(None));
    with(settings, script, async |address| {
        let text = "GET /v1/watch?selector=a HTTP/1.1\r\nhost: x\r\n\r\n";
        let mut stream = connect(address, text).await;
        stream.read_u8().await.expect("it begins");
        *watch.lock().expect("whole") = Some(stream);
        let text = format!("GET {EVENTS} HTTP/1.1\r\nhost: x\r\n\r\n");
        *read.lock().expect("whole") = Some(connect(address, &text).await);
        asked.notified().await;
    })
    .await;
    let stream = watch.lock().expect("whole").take().expect("it was there");
    let told = rest(stream).await;
    assert!(told.ends_with("0\r\n\r\n") && !told.contains("problem"), "in good order: {told}");
    let stream = read.lock().expect("whole").take().expect("it was there");
    has(&rest(stream).await, 504, "\"error\":\"DeadlineExceeded\"");
}
