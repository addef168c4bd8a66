//! Measures durable 4 KiB writes on the device under a directory, the way a log does them.
//!
//! `cargo run --release -p celeriant-storage --example disk_latency [DIR] [WRITES]`

// It measures time and prints: that is all it is for.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros)]

use std::collections::VecDeque;
use std::future::poll_fn;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use celeriant_storage::buffer::{AlignedBuffer, BLOCK_BYTES};
use celeriant_storage::disk::{self, Disk, DiskError, Done, FileDisk, FileId, Kind, Op};

const FILE_BYTES: u64 = 16 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().unwrap_or_else(|| ".".to_owned());
    let writes: u64 = arguments.next().map_or(Ok(5_000), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("disk                    depth   p50 µs   p99 µs   max µs   writes/s");
    for kind in [Kind::Uring, Kind::Pool, Kind::Buffered] {
        for depth in [1, 4] {
            runtime.block_on(measure(Path::new(&dir), kind, depth, writes))?;
        }
    }
    Ok(())
}

async fn measure(dir: &Path, kind: Kind, depth: usize, writes: u64) -> Result<(), DiskError> {
    const NAME: &str = "disk_latency.seg";
    let mut disk = disk::open(dir, kind)?;
    let create =
        Op::Create { name: NAME.into(), len: FILE_BYTES, written: FILE_BYTES, head: Bytes::new() };
    let Done::Opened { file, .. } = disk::run(&mut disk, create).await? else {
        panic!("create opens the file")
    };
    let started = Instant::now();
    let mut latencies = write_all(&mut disk, file, depth, writes).await?;
    let elapsed = started.elapsed();
    disk::run(&mut disk, Op::Remove { name: NAME.into() }).await?;

    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize].as_micros();
    println!(
        "{:<24}{depth:>5}{:>9}{:>9}{:>9}{:>11.0}",
        disk.kind().to_string(),
        at(0.5),
        at(0.99),
        at(1.0),
        writes as f64 / elapsed.as_secs_f64()
    );
    Ok(())
}

async fn write_all(
    disk: &mut FileDisk,
    file: FileId,
    depth: usize,
    writes: u64,
) -> Result<Vec<Duration>, DiskError> {
    let mut free: VecDeque<_> = (0..depth).map(|_| AlignedBuffer::zeroed(BLOCK_BYTES)).collect();
    let mut starts = vec![Instant::now(); writes as usize];
    let mut latencies = Vec::with_capacity(writes as usize);
    let mut next = 0;
    while latencies.len() < writes as usize {
        while next < writes
            && let Some(buffer) = free.pop_front()
        {
            let offset = next * BLOCK_BYTES as u64 % FILE_BYTES;
            starts[next as usize] = Instant::now();
            disk.start(next, Op::Write { file, offset, buffer });
            next += 1;
        }
        let completion = poll_fn(|cx| disk.poll_complete(cx)).await;
        latencies.push(starts[completion.token as usize].elapsed());
        if let Done::Written(buffer) = completion.outcome? {
            free.push_back(buffer);
        }
    }
    Ok(latencies)
}
