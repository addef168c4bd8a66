//! Load for UmaDB in the shape of `celeriant bench write`: each connection appends one small event
//! at a time to an aggregate (a tag) of its own, on condition that it is where it was left.
//!
//! `umadb-load URL CONNECTIONS WARMUP_SECONDS DURATION_SECONDS` prints one line of JSON.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Barrier;
use tokio::task::LocalSet;
use umadb_client::UmaDbClient;
use umadb_dcb::{DcbAppendCondition, DcbEvent, DcbEventStoreAsync, DcbQuery, DcbQueryItem};

type Failure = Box<dyn std::error::Error>;

/// How long a server may take to come up.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one connection did.
#[derive(Default)]
struct Done {
    /// Of appends that ended while measuring, in ns.
    latencies: Vec<u64>,
    operations: u64,
    errors: u64,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, connections, warmup, duration] = arguments.as_slice() else {
        return Err("umadb-load URL CONNECTIONS WARMUP_SECONDS DURATION_SECONDS".into());
    };
    let connections: usize = connections.parse()?;
    let (warmup, duration) = (seconds(warmup)?, seconds(duration)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ready = Rc::new(Barrier::new(connections));
    let tasks = LocalSet::new();
    let handles: Vec<_> = (0..connections)
        .map(|number| {
            let (url, ready) = (url.clone(), Rc::clone(&ready));
            tasks.spawn_local(connection(url, number, ready, warmup, duration))
        })
        .collect();
    let mut all = Done::default();
    runtime.block_on(tasks.run_until(async {
        for handle in handles {
            let done = handle.await.map_err(|error| error.to_string())??;
            all.latencies.extend(done.latencies);
            all.operations += done.operations;
            all.errors += done.errors;
        }
        Ok::<(), String>(())
    }))?;
    all.latencies.sort_unstable();
    let count = all.latencies.len();
    let at = |part: f64| match count {
        0 => 0.0,
        _ => all.latencies[((count - 1) as f64 * part) as usize] as f64 / 1e6,
    };
    let result = serde_json::json!({
        "operations": count, "total_operations": all.operations, "errors": all.errors,
        "per_second": count as f64 / duration.as_secs_f64(),
        "p50_ms": at(0.5), "p99_ms": at(0.99),
    });
    println!("{result}");
    Ok(())
}

fn seconds(text: &str) -> Result<Duration, Failure> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}

async fn connection(
    url: String,
    number: usize,
    ready: Rc<Barrier>,
    warmup: Duration,
    duration: Duration,
) -> Result<Done, String> {
    let tag = format!("account:{number}");
    let event = || DcbEvent::default().event_type("Added").tags([tag.clone()]).data([b'x'; 100]);
    let query = DcbQuery::new().item(DcbQueryItem::new().tags([tag.clone()]));
    let begun = Instant::now();
    let client = loop {
        match UmaDbClient::new(url.clone()).connect_async().await {
            Ok(client) => break Ok(client),
            Err(_) if begun.elapsed() < PATIENCE => {}
            Err(error) => break Err(error.to_string()),
        }
    };
    // Also when it failed: the others wait for everybody.
    ready.wait().await;
    let client = client?;
    let from = Instant::now() + warmup;
    let (mut done, mut after) = (Done::default(), None);
    loop {
        let sent = Instant::now();
        if sent >= from + duration {
            return Ok(done);
        }
        let condition = DcbAppendCondition { fail_if_events_match: query.clone(), after };
        match client.append(vec![event()], Some(condition), None).await {
            Ok(position) => {
                after = Some(position);
                done.operations += 1;
                let now = Instant::now();
                if sent >= from && now < from + duration {
                    done.latencies.push((now - sent).as_nanos() as u64);
                }
            }
            Err(_) => {
                done.errors += 1;
                if done.errors > 100 {
                    return Ok(done);
                }
            }
        }
    }
}
