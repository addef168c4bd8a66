//! The group commit, timed: records into the open frame, sealing, checking a frame again.
//!
//! `cargo bench -p celeriant-storage`. What is run is in `frames/work.rs`, which the instruction
//! counts of `celeriant-actors` run too.

#[path = "frames/nowhere.rs"]
mod nowhere;
#[path = "frames/work.rs"]
mod work;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frames");
    for mut work in work::all() {
        group.throughput(Throughput::Elements(work.units));
        group.bench_function(work.name, |bencher| bencher.iter(|| (work.run)()));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = frames
}
criterion_main!(benches);
