//! Bad input and bad manners: a clear answer, bounded memory, and everybody else is served.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::node;
use crate::support::{Http, Node, wait};

const EVENTS: &str = "/v1/aggregates/acme/order/1/events";
const MEMORY: usize = 96 << 20;

fn append(http: &Http) {
    http.post(EVENTS, &[], &json!({"events": [{"type": "T", "data": 1}]})).expect(201);
}

/// Memory grows by no more than is allowed for, and comes back.
fn memory_is_flat(node: &Node, before: usize) {
    let grown = || node.resident_bytes().saturating_sub(before);
    wait::until("memory to come back", || (grown() < MEMORY).then_some(()));
}

#[test]
fn what_is_not_understood_is_refused_with_its_place() {
    let (_dir, _node, http) = node();
    let json = [("content-type", "application/json")];
    let post = |body: &[u8]| http.request("POST", EVENTS, &json, body).problem(400);
    for (body, part) in [
        (&b"{"[..], "EOF"),
        (b"[]", "an object with events"),
        (b"{\"events\":[{\"type\":\"T\",\"data\":\"\xff\"}]}", "utf-8"),
        (b"{\"events\":[{\"type\":\"T\",\"data\":1}],\"expct\":1}", "expct"),
        (b"{\"events\":[{\"type\":\"T\",\"data\":1}],\"expect\":-1}", "expect"),
        (b"{\"events\":[{\"type\":\"T\"}]}", "events[0].data"),
        (b"{\"events\":[{\"type\":\"\",\"data\":1}]}", "events[0]"),
        (b"{\"events\":[{\"type\":\"T\",\"data\":1,\"meta\":{\"a\":1}}]}", "invalid type"),
    ] {
        let problem = post(body);
        let message = problem["message"].as_str().expect("text").to_owned();
        assert!(message.contains(part), "{}: {message}", String::from_utf8_lossy(body));
    }
    let deep = ["[".repeat(100_000), "]".repeat(100_000)].concat();
    let deep = format!("{{\"events\":[{{\"type\":\"T\",\"data\":{deep}}}]}}");
    let answer = http.request("POST", EVENTS, &json, deep.as_bytes());
    assert!(matches!(answer.status, 201 | 400), "opaque, or refused: {}", answer.status);
    for path in [
        "/v1/aggregates/acme/order/%ff/events",
        "/v1/aggregates/acme/order/a%2Fb/events",
        "/v1/aggregates/acme/order/%2e%2e/events",
        "/v1/aggregates/acme/or:der/1/events",
        "/v1/aggregates/acme/order/1/events?from=%ff",
        "/v1/aggregates/acme/order/1/events?from=9007199254740992",
        "/v1/aggregates/acme/order/1/events?from=-1",
        "/v1/aggregates/acme/order/1/events?backwards=yes",
        "/v1/aggregates/acme/order/1/events?limit=1&limit=2",
        "/v1/aggregates/acme/order/1/events?client_id=me",
        "/v1/feed?selector=acme&after=99999999999999999999",
        "/v1/feed?selector=acme&limit=0",
    ] {
        assert_eq!(http.get(path).problem(400)["error"], "InvalidArgument", "{path}");
    }
    append(&http);
    let trim = "/v1/aggregates/acme/order/1/trim";
    for (body, part) in [
        (&b""[..], "EOF"),
        (b"5", "an object with keep_from"),
        (b"{}", "keep_from"),
        (b"{\"keep_from\":0}", "starts at 1"),
        (b"{\"keep_from\":-1}", "expected u64"),
        (b"{\"keep_from\":9007199254740992}", "2^53"),
        (b"{\"keep_from\":1,\"delete\":{}}", "delete"),
    ] {
        let problem = http.request("POST", trim, &json, body).problem(400);
        let message = problem["message"].as_str().expect("text").to_owned();
        assert!(message.contains(part), "{}: {message}", String::from_utf8_lossy(body));
    }
    http.request("POST", trim, &[], b"{\"keep_from\":1}").problem(415);
    for path in [
        "/v1/aggregates/acme/order/%ff",
        "/v1/aggregates/acme/order/%2e%2e",
        "/v1/aggregates/acme/or:der/1",
        "/v1/aggregates/acme/order/1?never_recreate=yes",
        "/v1/aggregates/acme/order/1?recreate=0",
    ] {
        let refused = http.request("DELETE", path, &[], b"").problem(400);
        assert_eq!(refused["error"], "InvalidArgument", "{path}");
    }
    let head = http.get("/v1/aggregates/acme/order/1/head").expect(200);
    assert_eq!((&head["deleted"], &head["first_available"]), (&json!(false), &json!(1)));
}

#[test]
fn a_body_that_is_too_large_is_refused_before_it_is_taken() {
    let (_dir, node, http) = node();
    append(&http);
    let before = node.resident_bytes();
    let head = "POST /v1/write HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    // Only claimed.
    let claimed = format!("{head}content-length: 99999999999\r\n\r\n");
    let problem = http.send(claimed.as_bytes()).problem(413);
    assert_eq!((&problem["error"], &problem["what"]), (&json!("TooLarge"), &json!("body")));
    assert_eq!(http.send(format!("{head}content-length: x\r\n\r\n").as_bytes()).status, 400);
    // Sent, in chunks that claim nothing.
    let mut stream = http.connect();
    stream.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes()).expect("read");
    let chunk = [b"100000\r\n", &vec![b' '; 1 << 20][..], b"\r\n"].concat();
    let refused = (0..64).any(|_| stream.write_all(&chunk).is_err());
    assert!(refused || answers(&mut stream, "413"), "it takes no more than it says");
    memory_is_flat(&node, before);
    let large = json!({"events": [{"type": "T", "data_base64": "A".repeat(12 << 20)}]});
    assert_eq!(http.post(EVENTS, &[], &large).problem(413)["error"], "TooLarge");
    append(&http);
}

fn answers(stream: &mut TcpStream, status: &str) -> bool {
    let mut answer = [0; 64];
    let read = stream.read(&mut answer).unwrap_or(0);
    String::from_utf8_lossy(&answer[..read]).contains(status)
}

#[test]
fn heads_without_end_and_noise_end_by_themselves() {
    let (_dir, node, http) = node();
    append(&http);
    let before = node.resident_bytes();
    let long = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(1 << 20));
    assert!(matches!(http.send(long.as_bytes()).status, 0 | 400 | 414 | 431));
    let headers = (0..1_000).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let many = format!("GET /v1/orgs HTTP/1.1\r\n{headers}\r\n");
    assert!(matches!(http.send(many.as_bytes()).status, 0 | 400 | 431));
    let mut noise = 1_u64;
    for _ in 0..100 {
        let mut bytes = vec![0; 1000];
        for byte in &mut bytes {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (noise >> 56) as u8;
        }
        bytes.extend_from_slice(b"\r\n\r\n");
        http.send(&bytes);
    }
    append(&http);
    memory_is_flat(&node, before);
}

#[test]
fn a_thousand_who_say_nothing_more_disturb_nobody() {
    let (_dir, node, http) = node();
    append(&http);
    let before = node.resident_bytes();
    // Half a head, half a body, and watches where nothing happens.
    let mut held: Vec<TcpStream> = Vec::new();
    for n in 0..300 {
        let mut stream = http.connect();
        let text: &[u8] = match n % 3 {
            0 => b"",
            1 => b"GET /v1/orgs HT",
            _ => {
                b"POST /v1/write HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                   content-length: 10000000\r\n\r\n{"
            }
        };
        stream.write_all(text).expect("it reads");
        held.push(stream);
    }
    let open = |_| http.open("/v1/watch?selector=acme/nothing&from=start", &[]);
    let watches: Vec<_> = (0..700).map(open).collect();
    assert!(watches.iter().all(|watch| watch.head.status == 200));
    append(&http);
    memory_is_flat(&node, before);
    drop((held, watches));
    append(&http);
    assert_eq!(node.terminate(), Some(0));
}

#[test]
fn a_reader_that_takes_nothing_holds_a_page_and_others_go_on() {
    let (_dir, node, http) = node();
    let event = json!({"type": "T", "data": "x".repeat(100_000)});
    let events: Vec<Value> = vec![event; 10];
    for _ in 0..40 {
        http.post(EVENTS, &[], &json!({"events": events})).expect(201);
    }
    let before = node.resident_bytes();
    let lines = [("accept", "application/x-ndjson")];
    let slow: Vec<_> = (0..20).map(|_| http.open(EVENTS, &lines)).collect();
    let watches: Vec<_> =
        (0..20).map(|_| http.open("/v1/watch?selector=acme&from=start", &[])).collect();
    let whole = http.request("GET", EVENTS, &lines, b"");
    assert!(whole.is_whole && whole.body.len() > 40_000_000, "somebody else reads it all");
    append(&http);
    memory_is_flat(&node, before);
    drop((slow, watches));
}
