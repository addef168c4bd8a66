//! The report as Markdown, next to its charts.

use std::fmt::Write;
use std::fs;

use crate::machine::Machine;
use crate::plan::{Plan, Point, Work};
use crate::summary::{Results, Summary};
use crate::{
    ALONE_TLS, CELERIANT, FUNCTION, Failure, INSERT, ONE_AGGREGATE, PAIR, STANDBY, UMADB, chart,
    targets,
};

/// Targets that other tools look at.
const ELSEWHERE: &str = "cold reads, watching, memory and start at 10 million \
    aggregates, idle connections, cost of growth";

/// Writes report and charts.
pub(crate) fn write(
    plan: &Plan,
    machine: &Machine,
    versions: &[String],
    results: &Results,
) -> Result<(), Failure> {
    fs::create_dir_all(&plan.report_dir)?;
    let mut text = String::new();
    head(&mut text, plan, machine, versions)?;
    writes(&mut text, plan, results)?;
    pairs(&mut text, plan, results)?;
    others(&mut text, plan, results)?;
    costs(&mut text, plan, results)?;
    judge(&mut text, results, machine)?;
    missing(&mut text, results)?;
    fs::write(plan.report_dir.join("report.md"), text)?;
    fs::write(plan.report_dir.join("throughput.svg"), chart::throughput(plan, results))?;
    fs::write(plan.report_dir.join("latency.svg"), chart::latency(plan, results))?;
    Ok(())
}

fn head(
    text: &mut String,
    plan: &Plan,
    machine: &Machine,
    versions: &[String],
) -> Result<(), Failure> {
    let date = crate::process::output(std::process::Command::new("date").args(["-u", "+%F"]))?;
    writeln!(text, "# Benchmark\n")?;
    if !plan.is_serious() {
        writeln!(text, "**A trial run, too short to be quoted.**\n")?;
    }
    writeln!(text, "Made by `tests/bench/run` on {}, commit {}.\n", date.trim(), plan.commit)?;
    writeln!(
        text,
        "{} cores ({}), shared by servers and client; {:.0} GiB; {}; {}; a 4 KiB durable write \
         takes {:.3} ms. {}. Loopback, plaintext where nothing else is said, {} thread(s) and {} \
         shard(s) of ours (transfers: two shards), PostgreSQL with fsync on.\n",
        machine.cores,
        machine.processor,
        machine.memory_gib,
        machine.kernel,
        machine.disk,
        machine.durable_write_ms,
        versions.join("; "),
        plan.threads,
        plan.shards,
    )?;
    writeln!(
        text,
        "One small guarded event of 100 bytes per acknowledged write, closed loop, durable before \
         the answer. Median of {} runs of {} s after {} s of warm-up, alternating, each from an \
         empty store; minimum and maximum in brackets.\n",
        plan.repeat, plan.duration, plan.warmup,
    )?;
    Ok(())
}

fn points<'a>(
    plan: &'a Plan,
    wanted: impl Fn(Work) -> bool + 'a,
) -> impl Iterator<Item = &'a Point> {
    plan.points.iter().filter(move |point| wanted(point.work))
}

fn writes(text: &mut String, plan: &Plan, results: &Results) -> Result<(), Failure> {
    let systems = [CELERIANT, FUNCTION, INSERT, UMADB];
    writeln!(text, "## Writes a second\n")?;
    writeln!(text, "![writes a second by connections](throughput.svg)\n")?;
    let names = systems.join(" | ");
    writeln!(text, "| connections | {names} | × function | × INSERT | × UmaDB |")?;
    writeln!(text, "| --- | --- | --- | --- | --- | --- | --- | --- |")?;
    for point in points(plan, |work| work == Work::Write) {
        write!(text, "| {} |", point.title())?;
        for system in systems {
            let cell = results.of(point, system).map_or_else(|| "–".into(), rate_cell);
            write!(text, " {cell} |")?;
        }
        for system in [FUNCTION, INSERT, UMADB] {
            let ratio = results.ratio(point, CELERIANT, system);
            write!(text, " {} |", ratio.map_or_else(|| "–".into(), |r| format!("{r:.2}")))?;
        }
        writeln!(text)?;
    }
    writeln!(text, "\n## Latency, p50 / p99 in ms\n")?;
    writeln!(text, "![latency by connections](latency.svg)\n")?;
    writeln!(text, "| connections | {names} |\n| --- | --- | --- | --- | --- |")?;
    for point in points(plan, |work| work == Work::Write) {
        write!(text, "| {} |", point.title())?;
        for system in systems {
            let cell = results.of(point, system).map_or_else(|| "–".into(), latency_cell);
            write!(text, " {cell} |")?;
        }
        writeln!(text)?;
    }
    writeln!(text)?;
    Ok(())
}

fn pairs(text: &mut String, plan: &Plan, results: &Results) -> Result<(), Failure> {
    if points(plan, |work| work == Work::Pair).next().is_none() {
        return Ok(());
    }
    let systems = [PAIR, STANDBY, ALONE_TLS, CELERIANT];
    writeln!(text, "## Two nodes\n")?;
    writeln!(
        text,
        "Ours: TLS with certificates of both ends, between the nodes and with clients; an embedded \
         bucket. PostgreSQL: plaintext, every transaction on both disks before it is answered. \
         Writes a second, p50 / p99 in ms.\n"
    )?;
    writeln!(text, "| connections | {} | × standby | TLS / plaintext |", systems.join(" | "))?;
    writeln!(text, "| --- | --- | --- | --- | --- | --- | --- |")?;
    for point in points(plan, |work| work == Work::Pair) {
        write!(text, "| {} |", point.size())?;
        for system in systems {
            let cell = results.of(point, system).map_or_else(
                || "–".into(),
                |summary| format!("{}; {}", rate_cell(summary), latency_cell(summary)),
            );
            write!(text, " {cell} |")?;
        }
        for (ours, other) in [(PAIR, STANDBY), (ALONE_TLS, CELERIANT)] {
            let ratio = results.ratio(point, ours, other);
            write!(text, " {} |", ratio.map_or_else(|| "–".into(), |r| format!("{r:.2}")))?;
        }
        writeln!(text)?;
    }
    writeln!(text)?;
    Ok(())
}

fn others(text: &mut String, plan: &Plan, results: &Results) -> Result<(), Failure> {
    writeln!(text, "## Transfers and reads\n")?;
    writeln!(text, "Streams count events, and their latencies are those of a page.\n")?;
    writeln!(text, "| work | what | a second | p50 / p99 ms |\n| --- | --- | --- | --- |")?;
    for point in points(plan, |work| !matches!(work, Work::Write | Work::Pair)) {
        for system in [CELERIANT, ONE_AGGREGATE] {
            let Some(summary) = results.of(point, system) else { continue };
            let (rate, latency) = (rate_cell(summary), latency_cell(summary));
            writeln!(text, "| {} | {system} | {rate} | {latency} |", point.title())?;
        }
    }
    writeln!(text)?;
    Ok(())
}

fn costs(text: &mut String, plan: &Plan, results: &Results) -> Result<(), Failure> {
    writeln!(text, "## What it costs\n")?;
    writeln!(
        text,
        "Server CPU of ours is that of the measured seconds; of the others that of a whole run, \
         connecting included. Client CPU is that of `celeriant bench`, warm-up included. Written \
         bytes are what the kernel sent to the device for the process (making files ahead \
         included) per byte of encoded records.\n"
    )?;
    writeln!(
        text,
        "| work | server CPU µs/op | client CPU s | written / encoded | resident MiB | errors | \
         function CPU µs/op | INSERT | UmaDB |"
    )?;
    writeln!(text, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
    for point in &plan.points {
        let Some(ours) = results.of(point, CELERIANT) else { continue };
        let cell = |value: Option<f64>| value.map_or_else(|| "–".into(), |v| format!("{v:.2}"));
        let cpu = |system| cell(results.of(point, system).and_then(|s| s.median.server_cpu_us));
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            point.title(),
            cell(ours.median.server_cpu_us),
            cell(ours.median.client_cpu_seconds),
            cell(ours.median.written_per_byte),
            ours.median.resident_mib.map_or_else(|| "–".into(), thousands),
            ours.errors,
            cpu(FUNCTION),
            cpu(INSERT),
            cpu(UMADB),
        )?;
    }
    writeln!(text)?;
    Ok(())
}

fn judge(text: &mut String, results: &Results, machine: &Machine) -> Result<(), Failure> {
    writeln!(text, "## Against the targets\n")?;
    writeln!(text, "| work | target | measured | |\n| --- | --- | --- | --- |")?;
    for target in targets::all(results, machine) {
        let (found, verdict) = match target.found {
            Some((found, true)) => (found, "met"),
            Some((found, false)) => (found, "**missed**"),
            None => ("–".into(), "**not measured**"),
        };
        writeln!(text, "| {} | {} | {found} | {verdict} |", target.work, target.asked)?;
    }
    writeln!(text)?;
    Ok(())
}

fn missing(text: &mut String, results: &Results) -> Result<(), Failure> {
    writeln!(text, "## Not measured\n")?;
    writeln!(text, "- {ELSEWHERE}: other tools")?;
    for reason in &results.skipped {
        writeln!(text, "- **skipped**: {}", reason.replace('\n', " "))?;
    }
    Ok(())
}

fn rate_cell(summary: Summary) -> String {
    let rate = thousands(summary.median.per_second);
    let errors = match summary.errors {
        0 => String::new(),
        errors => format!(", {errors} errors"),
    };
    match summary.runs {
        1 => format!("{rate}{errors}"),
        _ => format!("{rate} [{}–{}]{errors}", thousands(summary.min), thousands(summary.max)),
    }
}

fn latency_cell(summary: Summary) -> String {
    format!("{:.2} / {:.2}", summary.median.p50_ms, summary.median.p99_ms)
}

/// A whole number with commas.
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{:.0}", number.round());
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && digit.is_ascii_digit() {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_readable() {
        let cases = [(0.0, "0"), (999.4, "999"), (1e3, "1,000"), (1_234_567.0, "1,234,567")];
        cases.iter().for_each(|(number, text)| assert_eq!(thousands(*number), *text));
    }
}
