//! Measures the production client against the embedded bucket, over HTTP on loopback.
//!
//! `cargo run --release -p celeriant-storage --features s3,embedded-bucket --example bucket_latency
//! [DIR] [OPERATIONS]`

// It measures time and prints: that is all it is for.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros)]

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::time::{Duration, Instant};

use bytes::Bytes;
use celeriant_storage::bucket::embedded::{self, EmbeddedBucket, Faults};
use celeriant_storage::bucket::s3::{Credentials, S3Bucket, Settings};
use celeriant_storage::bucket::{Bucket, Done, Key, Op, Request, run};

const DEADLINE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().unwrap_or_else(|| ".".to_owned());
    let count: u64 = arguments.next().map_or(Ok(500), |text| text.parse())?;
    let dir = std::path::Path::new(&dir).join(format!("bucket-latency-{}", std::process::id()));
    let serve = embedded::Settings::new(&dir, "objects", "key", "secret");
    let server = EmbeddedBucket::start(serve, Faults::default())?;
    let credentials = Credentials::Static { access_key: "key".into(), secret_key: "secret".into() };
    let settings = Settings {
        endpoint: Some(server.endpoint()),
        credentials,
        ..Settings::new("s3://objects/bench".parse()?)
    };
    let mut bucket = S3Bucket::open(settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    println!("operation                  depth   p50 µs   p99 µs   max µs      per s");
    for (what, bytes, depth) in [
        ("create", 1_000, 1),
        ("create", 64 << 10, 1),
        ("create", 4 << 20, 1),
        ("create", 64 << 10, 4),
        ("create", 4 << 20, 4),
    ] {
        let count = if bytes > 1 << 20 { count / 10 } else { count };
        runtime.block_on(measure(&mut bucket, what, bytes, depth, count, |at| {
            let body = Bytes::from(vec![at as u8; bytes]);
            Op::PutIfAbsent { key: Key::new(format!("{bytes}/{depth}/{at}")), body }
        }));
    }
    for bytes in [1_000, 64 << 10, 4 << 20] {
        let count = if bytes > 1 << 20 { count / 10 } else { count };
        runtime.block_on(measure(&mut bucket, "get", bytes, 1, count, |at| Op::Get {
            key: Key::new(format!("{bytes}/1/{at}")),
        }));
    }
    runtime.block_on(replace(&mut bucket, count));
    drop(server);
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

async fn measure(
    bucket: &mut S3Bucket,
    what: &str,
    bytes: usize,
    depth: u64,
    count: u64,
    op: impl Fn(u64) -> Op,
) {
    let began = Instant::now();
    let (mut started, mut times) = (BTreeMap::new(), Vec::new());
    let mut next = 0;
    while times.len() < count as usize {
        while next < count && started.len() < depth as usize {
            started.insert(next, Instant::now());
            bucket.start(next, Request::data(op(next), DEADLINE));
            next += 1;
        }
        let completion = poll_fn(|cx| bucket.poll_complete(cx)).await;
        assert!(completion.outcome.is_ok(), "{:?}", completion.outcome);
        times.extend(started.remove(&completion.token).map(|at| at.elapsed()));
    }
    report(&format!("{what} {bytes} B"), depth, times, began.elapsed());
}

async fn replace(bucket: &mut S3Bucket, count: u64) {
    let key = Key::new("config");
    let first = Op::PutIfAbsent { key: key.clone(), body: Bytes::from_static(b"0") };
    let Ok(Done::Put { mut etag }) = run(bucket, Request::control(first, DEADLINE)).await else {
        return println!("the register could not be made");
    };
    let (began, mut times) = (Instant::now(), Vec::new());
    for at in 1..=count {
        let body = Bytes::from(format!("{at:01000}"));
        let op = Op::PutIfMatch { key: key.clone(), etag: etag.clone(), body };
        let sent = Instant::now();
        match run(bucket, Request::control(op, DEADLINE)).await {
            Ok(Done::Put { etag: made }) => etag = made,
            other => return println!("{other:?}"),
        }
        times.push(sent.elapsed());
    }
    report("compare and swap 1000 B", 1, times, began.elapsed());
}

fn report(what: &str, depth: u64, mut times: Vec<Duration>, took: Duration) {
    times.sort_unstable();
    let at = |per_mille: usize| times[(times.len() - 1) * per_mille / 1000].as_micros();
    let per_second = times.len() as f64 / took.as_secs_f64();
    println!("{what:25} {depth:6} {:8} {:8} {:8} {per_second:10.0}", at(500), at(990), at(1000));
}
