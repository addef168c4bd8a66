//! Samples, and what is said of several: the median of each figure, and the range of the rates.

use std::collections::BTreeMap;

use crate::plan::Point;

/// One run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Operations acknowledged; of streams, events read.
    pub(crate) per_second: f64,
    /// Half were faster.
    pub(crate) p50_ms: f64,
    /// 99 of 100 were faster.
    pub(crate) p99_ms: f64,
    /// Operations that failed.
    pub(crate) errors: u64,
    /// Of the server, per operation.
    pub(crate) server_cpu_us: Option<f64>,
    /// Of the program that made the load.
    pub(crate) client_cpu_seconds: Option<f64>,
    /// Bytes sent to the device per byte of encoded records.
    pub(crate) written_per_byte: Option<f64>,
    /// Of the server, at the end.
    pub(crate) resident_mib: Option<f64>,
}

impl Sample {
    /// For a person who watches.
    pub(crate) fn line(&self) -> String {
        let Self { per_second, p50_ms, p99_ms, errors, .. } = self;
        format!("{per_second:>10.0}/s  p50 {p50_ms:.3} ms  p99 {p99_ms:.3} ms  {errors} errors")
    }
}

/// Several runs of the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary {
    /// Median of each figure by itself.
    pub(crate) median: Sample,
    /// Least operations a second.
    pub(crate) min: f64,
    /// Most operations a second.
    pub(crate) max: f64,
    /// Of all runs.
    pub(crate) errors: u64,
    /// How many runs.
    pub(crate) runs: usize,
}

impl Summary {
    fn of(samples: &[Sample]) -> Self {
        let each = |figure: fn(&Sample) -> f64| median(samples.iter().map(figure).collect());
        let some = |figure: fn(&Sample) -> Option<f64>| {
            let known: Vec<f64> = samples.iter().filter_map(figure).collect();
            (!known.is_empty()).then(|| median(known))
        };
        let rates = || samples.iter().map(|sample| sample.per_second);
        let errors = samples.iter().map(|sample| sample.errors).sum();
        Self {
            median: Sample {
                per_second: each(|sample| sample.per_second),
                p50_ms: each(|sample| sample.p50_ms),
                p99_ms: each(|sample| sample.p99_ms),
                errors,
                server_cpu_us: some(|sample| sample.server_cpu_us),
                client_cpu_seconds: some(|sample| sample.client_cpu_seconds),
                written_per_byte: some(|sample| sample.written_per_byte),
                resident_mib: some(|sample| sample.resident_mib),
            },
            min: rates().fold(f64::INFINITY, f64::min),
            max: rates().fold(0.0, f64::max),
            errors,
            runs: samples.len(),
        }
    }
}

/// The middle one; of an even number, the lower of the two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}

/// Everything that was measured.
pub(crate) struct Results {
    samples: BTreeMap<(Point, &'static str), Vec<Sample>>,
    /// What was not, and why.
    pub(crate) skipped: Vec<String>,
}

impl Results {
    /// Nothing yet but what cannot be measured here.
    pub(crate) fn new(skipped: Vec<String>) -> Self {
        skipped.iter().for_each(|reason| warn(reason));
        Self { samples: BTreeMap::new(), skipped }
    }

    /// Adds a run.
    pub(crate) fn add(&mut self, point: &Point, system: &'static str, sample: Sample) {
        self.samples.entry((*point, system)).or_default().push(sample);
    }

    /// Says that something is not measured, once.
    pub(crate) fn skip(&mut self, reason: String) {
        if !self.skipped.contains(&reason) {
            warn(&reason);
            self.skipped.push(reason);
        }
    }

    /// Whether anything was measured.
    pub(crate) fn has_any(&self) -> bool {
        !self.samples.is_empty()
    }

    /// What is known of a system at a point.
    pub(crate) fn of(&self, point: &Point, system: &'static str) -> Option<Summary> {
        self.samples.get(&(*point, system)).map(|samples| Summary::of(samples))
    }

    /// Best median of a system over all points without pipelining.
    pub(crate) fn best(&self, system: &'static str) -> Option<f64> {
        let lone =
            self.samples.iter().filter(|((point, name), _)| *name == system && point.pipeline == 1);
        lone.map(|(_, samples)| Summary::of(samples).median.per_second).reduce(f64::max)
    }

    /// Ratio of two systems' medians at a point.
    pub(crate) fn ratio(
        &self,
        point: &Point,
        system: &'static str,
        to: &'static str,
    ) -> Option<f64> {
        let (ours, theirs) = (self.of(point, system)?, self.of(point, to)?);
        Some(ours.median.per_second / theirs.median.per_second)
    }
}

fn warn(reason: &str) {
    eprintln!("\n*** NOT MEASURED *** {reason}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_quoted_with_its_range() {
        let sample = |per_second, errors| Sample { per_second, errors, ..Sample::default() };
        let summary = Summary::of(&[sample(9.0, 0), sample(1.0, 2), sample(4.0, 0)]);
        assert_eq!((summary.median.per_second, summary.min, summary.max), (4.0, 1.0, 9.0));
        assert_eq!((summary.errors, summary.runs), (2, 3));
        assert!(summary.median.server_cpu_us.is_none());
        assert_eq!(median(vec![4.0, 2.0]), 2.0);
    }
}
