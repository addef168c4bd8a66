//! Codecs and keys, timed: what the wire and the router cost per request.
//!
//! `cargo bench -p celeriant-schema`. What is run is in `codec/work.rs`, which the instruction
//! counts of `celeriant-actors` run too.

#[path = "codec/work.rs"]
mod work;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
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
    targets = codec
}
criterion_main!(benches);
