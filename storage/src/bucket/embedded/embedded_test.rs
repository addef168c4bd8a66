//! The server itself: what it refuses, before anybody speaks proper S3.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use super::*;

fn bucket(dir: &std::path::Path) -> EmbeddedBucket {
    let mut settings = Settings::new(dir, "objects", "key", "secret");
    settings.body_bytes_max = 100_000;
    EmbeddedBucket::start(settings, Faults::default()).expect("starts")
}

/// Sends bytes, ends the sending side, and returns all that comes back.
fn exchange(bucket: &EmbeddedBucket, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(bucket.address()).expect("connects");
    // It may have hung up in the middle of it.
    let _ = stream.write_all(request);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Asks as a client does that wants one answer. Whoever hangs up before it comes may get none.
fn ask(bucket: &EmbeddedBucket, request: &str) -> String {
    let mut stream = TcpStream::connect(bucket.address()).expect("connects");
    let request = request.replacen("host: x", "host: x\r\nconnection: close", 1);
    stream.write_all(request.as_bytes()).expect("is read");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    answer
}

#[test]
fn what_is_not_signed_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let bucket = bucket(dir.path());
    let get = ask(&bucket, "GET /objects/config HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(get.starts_with("HTTP/1.1 403"), "{get}");
    let put = "PUT /objects/config HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi";
    let put = ask(&bucket, put);
    assert!(put.starts_with("HTTP/1.1 403"), "{put}");
    assert!(!dir.path().join("config").exists());
}

#[test]
fn hostile_requests_end_with_an_error_or_a_closed_connection() {
    let dir = tempfile::tempdir().expect("a directory");
    let bucket = bucket(dir.path());
    let long_head = format!("GET /objects/{} HTTP/1.1\r\n", "x".repeat(200_000));
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(5_000));
    let huge = "PUT /objects/a HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n";
    let past_u64 =
        "PUT /objects/a HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n";
    let form = "POST /objects HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\
                content-type: multipart/form-data; boundary=b\r\n\r\n";
    let bad_chunks =
        "PUT /objects/a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
    let auth = "GET /objects/a HTTP/1.1\r\nhost: x\r\nauthorization: AWS4-HMAC-SHA256 ,,,=\r\n\r\n";
    let escape = "GET /%zz/%00%ff HTTP/1.1\r\nhost: x\r\n\r\n";
    let garbage: Vec<u8> = (0..50_000_u32).map(|n| (n * 31 % 251) as u8).collect();
    let texts = [&long_head, &many_headers, huge, past_u64, form, bad_chunks, auth, escape, ""];
    for request in texts.map(str::as_bytes).into_iter().chain([&garbage[..]]) {
        let answer = exchange(&bucket, request);
        let refused = answer.is_empty()
            || answer.starts_with("HTTP/1.1 4")
            || answer.starts_with("HTTP/1.1 501");
        assert!(refused, "{answer}");
    }
    let alive = ask(&bucket, "GET /objects/a HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(alive.starts_with("HTTP/1.1 403"), "{alive}");
}

#[test]
fn a_body_that_never_ends_is_not_collected() {
    let dir = tempfile::tempdir().expect("a directory");
    let bucket = bucket(dir.path());
    let mut request =
        b"PUT /objects/a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..400 {
        request.extend_from_slice(b"2000\r\n");
        request.extend_from_slice(&[b'x'; 0x2000]);
        request.extend_from_slice(b"\r\n");
    }
    let answer = exchange(&bucket, &request);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[test]
fn a_bucket_stops_when_it_is_dropped_and_its_directory_is_free() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = bucket(dir.path());
    let address = first.address();
    let idle = TcpStream::connect(address).expect("connects");
    drop(first);
    assert!(TcpStream::connect(address).is_err(), "nobody listens");
    drop(idle);
    drop(bucket(dir.path()));
}
