//! Line charts as SVG that a person can read: no scripts, no fonts, no resources from elsewhere;
//! colours for light and dark.
//!
//! Both axes are logarithmic in effect: connections stand side by side, each about four times the
//! one before, and the vertical axis is in powers of ten.

use std::fmt::Write;

use crate::plan::{Plan, Point, Work};
use crate::summary::{Results, Summary};
use crate::{CELERIANT, FUNCTION, INSERT, UMADB};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 740.0;
const TOP: f64 = 76.0;
const BOTTOM: f64 = 366.0;

const SYSTEMS: [(&str, &str); 4] =
    [(CELERIANT, "ours"), (FUNCTION, "function"), (INSERT, "insert"), (UMADB, "umadb")];

const STYLE: &str = "\
    text { font: 13px system-ui, sans-serif; fill: #24292f }
    .title { font-weight: 600; font-size: 15px }
    .back { fill: #ffffff }
    .grid { stroke: #d0d7de; stroke-width: 1 }
    .line, .range { fill: none; stroke-width: 2 }
    .dashed { stroke-dasharray: 5 4 }
    .ours { stroke: #0969da } circle.ours { fill: #0969da }
    .function { stroke: #bc4c00 } circle.function { fill: #bc4c00 }
    .insert { stroke: #8250df } circle.insert { fill: #8250df }
    .umadb { stroke: #1a7f37 } circle.umadb { fill: #1a7f37 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .back { fill: #0d1117 }
      .grid { stroke: #30363d }
      .ours { stroke: #58a6ff } circle.ours { fill: #58a6ff }
      .function { stroke: #f0883e } circle.function { fill: #f0883e }
      .insert { stroke: #bc8cff } circle.insert { fill: #bc8cff }
      .umadb { stroke: #3fb950 } circle.umadb { fill: #3fb950 }
    }
";

/// Writes a second, with the range of the runs.
pub(crate) fn throughput(plan: &Plan, results: &Results) -> String {
    let rate: Figure =
        |summary| Reading { low: summary.min, value: summary.median.per_second, high: summary.max };
    Chart::new(plan, results, &[rate]).draw("Acknowledged durable writes a second", "connections")
}

/// p50 as a line, p99 dashed.
pub(crate) fn latency(plan: &Plan, results: &Results) -> String {
    let p50: Figure = |summary| Reading::single(summary.median.p50_ms);
    let p99: Figure = |summary| Reading::single(summary.median.p99_ms);
    let title = "Latency of a durable write in ms: p50, and p99 dashed";
    Chart::new(plan, results, &[p50, p99]).draw(title, "connections")
}

/// What is drawn of a summary.
type Figure = fn(&Summary) -> Reading;

#[derive(Clone, Copy)]
struct Reading {
    low: f64,
    value: f64,
    high: f64,
}

impl Reading {
    fn single(value: f64) -> Self {
        Self { low: value, value, high: value }
    }
}

/// A line of the chart: place on the horizontal axis, reading.
struct Series {
    class: &'static str,
    dashed: bool,
    readings: Vec<(usize, Reading)>,
}

struct Chart {
    points: Vec<Point>,
    named: Vec<(&'static str, &'static str)>,
    series: Vec<Series>,
    /// Powers of ten at the bottom and at the top.
    decades: (i32, i32),
}

impl Chart {
    fn new(plan: &Plan, results: &Results, figures: &[Figure]) -> Self {
        let writes = plan.points.iter().filter(|point| point.work == Work::Write);
        let points: Vec<Point> = writes.copied().collect();
        let (mut series, mut named) = (Vec::new(), Vec::new());
        for (system, class) in SYSTEMS {
            let summaries: Vec<(usize, Summary)> = (0..points.len())
                .filter_map(|at| Some((at, results.of(&points[at], system)?)))
                .collect();
            if summaries.is_empty() {
                continue;
            }
            named.push((system, class));
            for (at, figure) in figures.iter().enumerate() {
                let readings = summaries.iter().map(|(at, summary)| (*at, figure(summary)));
                // A logarithm has no zero.
                let readings = readings.filter(|(_, reading)| reading.low > 0.0).collect();
                series.push(Series { class, dashed: at > 0, readings });
            }
        }
        let all = || series.iter().flat_map(|series| &series.readings);
        let low = all().map(|(_, reading)| reading.low).fold(f64::INFINITY, f64::min);
        let high = all().map(|(_, reading)| reading.high).fold(0.0, f64::max);
        let decades = match low.is_finite() {
            true => {
                let bottom = low.log10().floor() as i32;
                (bottom, (high.log10().ceil() as i32).max(bottom + 1))
            }
            false => (0, 1),
        };
        Self { points, named, series, decades }
    }

    fn x(&self, at: usize) -> f64 {
        LEFT + (RIGHT - LEFT) * (at as f64 + 0.5) / self.points.len().max(1) as f64
    }

    fn y(&self, value: f64) -> f64 {
        let (bottom, top) = self.decades;
        BOTTOM - (BOTTOM - TOP) * (value.log10() - f64::from(bottom)) / f64::from(top - bottom)
    }

    fn draw(&self, title: &str, below: &str) -> String {
        let mut svg = String::new();
        // Writing to a string does not fail.
        let _ = self.draw_into(&mut svg, title, below);
        svg
    }

    fn draw_into(&self, svg: &mut String, title: &str, below: &str) -> std::fmt::Result {
        writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             role=\"img\" aria-label=\"{title}\">"
        )?;
        writeln!(svg, "  <style>\n{STYLE}  </style>")?;
        writeln!(svg, "  <rect class=\"back\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>")?;
        writeln!(svg, "  <text class=\"title\" x=\"{LEFT}\" y=\"26\">{title}</text>")?;
        self.legend(svg)?;
        self.axes(svg, below)?;
        self.series.iter().try_for_each(|series| self.line(svg, series))?;
        writeln!(svg, "</svg>")
    }

    fn legend(&self, svg: &mut String) -> std::fmt::Result {
        let mut x = LEFT;
        for (name, class) in &self.named {
            writeln!(svg, "  <path class=\"line {class}\" d=\"M {x} 48 h 22\"/>")?;
            writeln!(svg, "  <text x=\"{}\" y=\"52\">{name}</text>", x + 28.0)?;
            x += 52.0 + 7.4 * name.len() as f64;
        }
        Ok(())
    }

    fn axes(&self, svg: &mut String, below: &str) -> std::fmt::Result {
        let (bottom, top) = self.decades;
        for decade in bottom..=top {
            let y = self.y(10_f64.powi(decade));
            writeln!(svg, "  <path class=\"grid\" d=\"M {LEFT} {y:.1} H {RIGHT}\"/>")?;
            let (label, middle) = (power_of_ten(decade), y + 4.0);
            let x = LEFT - 8.0;
            writeln!(
                svg,
                "  <text x=\"{x}\" y=\"{middle:.1}\" text-anchor=\"end\">{label}</text>"
            )?;
        }
        for (at, point) in self.points.iter().enumerate() {
            let (x, y, label) = (self.x(at), BOTTOM + 20.0, point.size());
            writeln!(svg, "  <text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{label}</text>")?;
        }
        let (x, y) = ((LEFT + RIGHT) / 2.0, BOTTOM + 42.0);
        let below = match self.points.iter().any(|point| point.pipeline > 1) {
            true => format!("{below} (× requests in flight)"),
            false => below.to_owned(),
        };
        writeln!(svg, "  <text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{below}</text>")
    }

    fn line(&self, svg: &mut String, series: &Series) -> std::fmt::Result {
        let class = series.class;
        // Pipelined points are something else: dots beside the line.
        let lone = series.readings.iter().filter(|(at, _)| self.points[*at].pipeline == 1);
        let places: Vec<String> = lone
            .map(|(at, reading)| format!("{:.1} {:.1}", self.x(*at), self.y(reading.value)))
            .collect();
        if places.len() > 1 {
            let dashed = if series.dashed { " dashed" } else { "" };
            let path = places.join(" L ");
            writeln!(svg, "  <path class=\"line {class}{dashed}\" d=\"M {path}\"/>")?;
        }
        for (at, reading) in &series.readings {
            let (x, y) = (self.x(*at), self.y(reading.value));
            if reading.low < reading.high {
                let (low, high) = (self.y(reading.low), self.y(reading.high));
                writeln!(
                    svg,
                    "  <path class=\"range {class}\" d=\"M {x:.1} {low:.1} V {high:.1}\"/>"
                )?;
            }
            let radius = if series.dashed { 2.5 } else { 4.0 };
            writeln!(
                svg,
                "  <circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\">\
                 <title>{}</title></circle>",
                exact(reading.value)
            )?;
        }
        Ok(())
    }
}

fn exact(value: f64) -> String {
    if value < 100.0 { format!("{value:.3}") } else { crate::report::thousands(value) }
}

fn power_of_ten(decade: i32) -> String {
    match decade {
        6.. => format!("{} M", crate::report::thousands(10_f64.powi(decade - 6))),
        0..6 => crate::report::thousands(10_f64.powi(decade)),
        _ => format!("{:.*}", -decade as usize, 10_f64.powi(decade)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_values_are_drawn_higher() {
        let point = Point { work: Work::Write, connections: 1, pipeline: 1 };
        let (points, named, series) = (vec![point], Vec::new(), Vec::new());
        let chart = Chart { points, named, series, decades: (3, 5) };
        assert_eq!((chart.y(1e3), chart.y(1e5)), (BOTTOM, TOP));
        assert!(chart.y(2e4) < chart.y(1e4));
        assert_eq!(
            [power_of_ten(-2), power_of_ten(4), power_of_ten(7)],
            ["0.01", "10,000", "10 M"]
        );
    }
}
