//! A shard's decisions, timed: from an accepted write to its receipt, and a read from memory.
//!
//! `cargo bench -p celeriant-actors --bench core`. What is run is in `core/work.rs`, which
//! `instructions.rs` counts too.

#[path = "../../storage/benches/frames/nowhere.rs"]
mod nowhere;
#[path = "core/work.rs"]
mod work;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn core(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core");
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
    targets = core
}
criterion_main!(benches);
