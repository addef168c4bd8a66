//! Times pieces of work with criterion.

use std::time::Duration;

use criterion::{Criterion, Throughput};

use super::measured::Work;

/// The `main` of a benchmark: times `works` as the group `name`.
pub(crate) fn time(name: &str, works: Vec<Work>) {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut group = criterion.benchmark_group(name);
    for mut work in works {
        group.throughput(Throughput::Elements(work.units));
        group.bench_function(work.name, |bencher| bencher.iter(|| (work.run)()));
    }
    group.finish();
    criterion.final_summary();
}
