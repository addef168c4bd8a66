//! What was measured: latencies of operations that succeeded, and errors by name.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Longest latency that is told apart, in ns: an hour.
const LATENCY_MAX: u64 = 3_600_000_000_000;

/// Of one thread, or of all together.
pub(super) struct Stats {
    /// In ns, three significant digits.
    latencies: Histogram<u64>,
    errors: BTreeMap<String, u64>,
}

/// Shared by the connections of a thread.
#[derive(Clone)]
pub(super) struct Shared(Rc<RefCell<Stats>>);

pub(super) fn shared() -> Shared {
    Shared(Rc::new(RefCell::new(Stats::new())))
}

/// What one connection read, page after page.
pub(super) struct Reading {
    /// Latencies of pages.
    pub(super) pages: Stats,
    /// What counts.
    pub(super) events: u64,
    /// How long it read.
    pub(super) seconds: f64,
}

impl Reading {
    /// The result of all that read at the same time.
    pub(super) fn result(all: Vec<Self>) -> Value {
        let (mut pages, mut events, mut seconds) = (Stats::new(), 0, 0.0_f64);
        for reading in all {
            pages.add(reading.pages);
            events += reading.events;
            seconds = seconds.max(reading.seconds);
        }
        let mut result = pages.to_json(seconds);
        result["operations"] = json!(events);
        result["per_second"] = json!((events as f64 / seconds).round());
        result
    }
}

impl Shared {
    pub(super) fn record(&self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(LATENCY_MAX);
        self.0.borrow_mut().latencies.saturating_record(nanos);
    }

    pub(super) fn error(&self, name: &str) {
        self.0.borrow_mut().add_error(name, 1);
    }

    pub(super) fn take(&self) -> Stats {
        std::mem::replace(&mut self.0.borrow_mut(), Stats::new())
    }
}

impl Stats {
    pub(super) fn new() -> Self {
        let latencies = Histogram::new_with_bounds(1, LATENCY_MAX, 3);
        // The bounds are constants; they either always work or never.
        let latencies = latencies.unwrap_or_else(|error| panic!("histogram bounds: {error}"));
        Self { latencies, errors: BTreeMap::new() }
    }

    pub(super) fn operations(&self) -> u64 {
        self.latencies.len()
    }

    pub(super) fn add(&mut self, other: Self) {
        // Same bounds on both sides: nothing can be out of range.
        let _ = self.latencies.add(&other.latencies);
        for (name, count) in &other.errors {
            self.add_error(name, *count);
        }
    }

    pub(super) fn with_error(mut self, name: &str) -> Self {
        self.add_error(name, 1);
        self
    }

    fn add_error(&mut self, name: &str, count: u64) {
        *self.errors.entry(name.to_owned()).or_default() += count;
    }

    /// How often which error came.
    pub(super) fn errors_text(&self) -> &BTreeMap<String, u64> {
        &self.errors
    }

    /// The result, in the fixed shape.
    pub(super) fn to_json(&self, seconds: f64) -> Value {
        let at = |quantile| ms(self.latencies.value_at_quantile(quantile));
        json!({
            "operations": self.operations(),
            "seconds": round(seconds),
            "per_second": round(self.operations() as f64 / seconds),
            "p50_ms": at(0.5),
            "p95_ms": at(0.95),
            "p99_ms": at(0.99),
            "p999_ms": at(0.999),
            "max_ms": ms(self.latencies.max()),
            "errors": self.errors.values().sum::<u64>(),
        })
    }
}

fn ms(nanos: u64) -> f64 {
    round(nanos as f64 / 1e6)
}

fn round(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

/// CPU time that this process has used, in seconds.
pub(super) fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up_and_the_result_has_the_fixed_shape() {
        let (a, b) = (shared(), shared());
        for ms in 1..=100 {
            a.record(Duration::from_millis(ms));
        }
        b.record(Duration::from_millis(500));
        b.error("Conflict");
        let mut all = a.take();
        all.add(b.take());
        let shape = all.to_json(2.0);
        let names: Vec<&str> = shape.as_object().expect("object").keys().map(|k| &**k).collect();
        let mut expected = [
            "operations",
            "seconds",
            "per_second",
            "p50_ms",
            "p95_ms",
            "p99_ms",
            "p999_ms",
            "max_ms",
            "errors",
        ];
        expected.sort_unstable();
        let mut sorted = names;
        sorted.sort_unstable();
        assert_eq!(sorted, expected);
        assert_eq!(shape["operations"], 101);
        assert_eq!(shape["per_second"], 50.5);
        assert_eq!(shape["errors"], 1);
        let p50 = shape["p50_ms"].as_f64().expect("a number");
        assert!((50.0..52.0).contains(&p50), "{p50}");
        assert!(shape["max_ms"].as_f64().expect("a number") >= 500.0);
    }
}
