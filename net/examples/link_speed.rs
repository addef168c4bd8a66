//! How fast the link is on this machine, beside a plain TCP copy: both on loopback, one thread a
//! side.
//!
//! ```text
//! cargo run --release -p celeriant-net --example link_speed -- [MiB, 1024 unless said]
//! ```
//! Sends bulk messages of 256 KiB as fast as the link takes them, and a small control message each
//! millisecond that comes back at once. Prints MB/s, CPU seconds a GB (both sides), round trips and
//! the process' peak memory.

// A measurement looks at the clock and starts its own threads.
#![allow(clippy::disallowed_methods)]

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use celeriant_net::link::quic::{QuicLink, Settings};
use celeriant_net::link::{Event, Lane, Link, Sent, SessionId, Target, next_event};
use celeriant_net::tls::{Authority, Credentials, Material, Name, Subject, Validity};
use celeriant_schema::peer::Hello;
use celeriant_schema::{BootId, ClusterId, StoreId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const BATCH_BYTES: usize = 256 << 10;

fn main() -> Outcome<()> {
    let mebibytes = std::env::args().nth(1).map_or(Ok(1024), |n| n.parse::<usize>())?;
    let batches = mebibytes * (1 << 20) / BATCH_BYTES;
    let meter = Meter::start()?;
    tcp(batches)?;
    meter.print("TCP", batches)?;
    print_trips("control under bulk", link(batches)?);
    println!("peak memory {}", status("VmHWM:"));
    Ok(())
}

fn print_trips(what: &str, mut trips: Vec<Duration>) {
    trips.sort_unstable();
    let Some(last) = trips.last() else { return };
    let at = |per_mille: usize| trips[(trips.len() - 1) * per_mille / 1000];
    let (count, p50, p99) = (trips.len(), at(500), at(990));
    println!("{what}: {count} round trips, p50 {p50:?}, p99 {p99:?}, max {last:?}");
}

/// What a stretch of work took.
struct Meter {
    began: Instant,
    cpu: f64,
}

impl Meter {
    fn start() -> Outcome<Self> {
        Ok(Self { began: Instant::now(), cpu: cpu_seconds()? })
    }

    fn print(&self, name: &str, batches: usize) -> Outcome<()> {
        let (seconds, cpu) = (self.began.elapsed().as_secs_f64(), cpu_seconds()? - self.cpu);
        let bytes = (batches * BATCH_BYTES) as f64;
        let (speed, cpu) = (bytes / 1e6 / seconds, cpu / (bytes / 1e9));
        println!("{name}: {speed:.0} MB/s, {cpu:.2} CPU s/GB, {seconds:.2} s");
        Ok(())
    }
}

/// Both sides at once, each on a thread with a runtime of its own, as a task like any other: what
/// `block_on` is given gets a turn only after 61 turns of tasks.
fn both<T: Send + 'static>(
    receiver: impl Future<Output = Outcome<()>> + Send + 'static,
    sender: impl Future<Output = Outcome<T>> + Send + 'static,
) -> Outcome<T> {
    // Sockets and timers are looked at after so many turns; 61, unless said, are milliseconds here.
    let runtime =
        || tokio::runtime::Builder::new_current_thread().enable_all().event_interval(4).build();
    let other =
        std::thread::spawn(move || runtime()?.block_on(async { tokio::spawn(receiver).await? }));
    let result = runtime()?.block_on(async { tokio::spawn(sender).await? })?;
    other.join().map_err(|_| "the receiver panicked")??;
    Ok(result)
}

fn tcp(batches: usize) -> Outcome<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let receive = async move {
        let (mut stream, _) = TcpListener::from_std(listener)?.accept().await?;
        let mut buffer = vec![0; BATCH_BYTES];
        while stream.read(&mut buffer).await? > 0 {}
        stream.write_all(b"done").await?;
        Ok(())
    };
    both(receive, async move {
        let mut stream = TcpStream::connect(address).await?;
        let batch = vec![7; BATCH_BYTES];
        for _ in 0..batches {
            stream.write_all(&batch).await?;
        }
        stream.shutdown().await?;
        let mut done = Vec::new();
        stream.read_to_end(&mut done).await?;
        Ok(())
    })
}

fn link(batches: usize) -> Outcome<Vec<Duration>> {
    let validity = Validity {
        from: SystemTime::now() - Duration::from_secs(3600),
        lasts: Duration::from_secs(86_400),
    };
    let authority = Authority::new("speed", validity)?;
    let node = |store: u128| -> Outcome<(Hello, Credentials)> {
        let (cluster, store) = (ClusterId::new(1), StoreId::new(store));
        let node = Some(Name { cluster, store });
        let subject = Subject { name: "node".into(), node, ..Subject::default() };
        let issued = authority.issue(&subject, validity)?;
        let ca = &authority.issued().certificate;
        let material = Material::from_pem(ca, &issued.certificate, &issued.key)?;
        let hello = Hello { cluster, store, boot: BootId::new(1), ..Hello::default() };
        Ok((hello, Credentials::of(material)))
    };
    let (theirs, ours) = (node(1)?, node(2)?);
    let (tell, told) = tokio::sync::oneshot::channel();
    let receive = async move {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut link = QuicLink::bind(any, theirs.0, theirs.1, Settings::default())?;
        tell.send(link.local_address()?).map_err(|_| "nobody wants to know")?;
        take_all(&mut link, batches).await;
        Ok(())
    };
    both(receive, async move {
        let address = told.await?.to_string();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));

        let mut link = QuicLink::bind(any, ours.0, ours.1, Settings::default())?;
        link.aim(Target { store: None, addresses: vec![address] });
        let alone = ping_for(&mut link, Duration::from_secs(1)).await?;
        print_trips("control alone", alone);
        let meter = Meter::start()?;
        let trips = send_all(&mut link, batches).await;
        meter.print("link", batches)?;
        println!("{:?}", link.path());
        link.shut().await;
        trips
    })
}

/// Counts bulk, sends control back, says when all is there.
async fn take_all(link: &mut QuicLink, batches: usize) {
    let mut received = 0;
    loop {
        match next_event(link).await {
            Event::Received { session, lane: Lane::Control, message } => {
                // Full or gone: then the round trip is not counted.
                let _ = link.send(session, Lane::Control, message);
            }
            Event::Received { session, lane: Lane::Bulk, .. } => {
                received += 1;
                if received == batches {
                    let _ = link.send(session, Lane::Control, Bytes::from_static(b"done"));
                }
            }
            Event::Down { .. } => return,
            _ => {}
        }
    }
}

/// Nothing but round trips, one each millisecond.
async fn ping_for(link: &mut QuicLink, lasts: Duration) -> Outcome<Vec<Duration>> {
    let Event::Up { session, .. } = next_event(link).await else { return Err("no session".into()) };
    let mut trips = Vec::new();
    let mut pings = tokio::time::interval(Duration::from_millis(1));
    pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let began = Instant::now();
    while began.elapsed() < lasts {
        pings.tick().await;
        let at = Instant::now();
        let _ = link.send(session, Lane::Control, Bytes::from_static(b"ping"));
        if let Event::Down { reason, .. } = next_event(link).await {
            return Err(reason.into());
        }
        trips.push(at.elapsed());
    }
    Ok(trips)
}

async fn send_all(link: &mut QuicLink, batches: usize) -> Outcome<Vec<Duration>> {
    let batch = Bytes::from(vec![7; BATCH_BYTES]);
    let (mut sent, session, mut trips) = (0, SessionId::NONE.next(), Vec::new());
    let mut pings = tokio::time::interval(Duration::from_millis(1));
    pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let began = Instant::now();
    loop {
        while sent < batches && link.send(session, Lane::Bulk, batch.clone()) == Sent::Taken {
            sent += 1;
        }
        tokio::select! {
            biased;
            event = next_event(link) => match event {
                Event::Received { message, .. } if *message == *b"done" => return Ok(trips),
                Event::Received { message, .. } => {
                    let nanos = message.first_chunk::<8>().map_or(0, |n| u64::from_le_bytes(*n));
                    trips.push(began.elapsed() - Duration::from_nanos(nanos));
                }
                Event::Down { reason, .. } => return Err(reason.into()),
                _ => {}
            },
            _ = pings.tick() => {
                let nanos = began.elapsed().as_nanos() as u64;
                let ping = Bytes::copy_from_slice(&nanos.to_le_bytes());
                let _ = link.send(session, Lane::Control, ping);
            }
        }
    }
}

/// User and system time of this process, both threads.
fn cpu_seconds() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = behind_name.split_whitespace().skip(11).take(2).map(|n| n.parse().unwrap_or(0.0));
    // The kernel tells hundredths of a second.
    Ok(ticks.sum::<f64>() / 100.0)
}

fn status(field: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap_or(" unknown").trim().to_owned()
}
