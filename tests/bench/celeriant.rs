//! Ours: a server of its own for every sample, driven by `celeriant bench`.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::plan::{Plan, Point, Work};
use crate::process::{Server, output};
use crate::summary::Sample;
use crate::{CELERIANT, Failure};

/// Events of the aggregate that is streamed.
const STREAM_EVENTS: usize = 100_000;

/// Name and version.
pub(crate) fn version(plan: &Plan) -> String {
    output(Command::new(&plan.celeriant).arg("--version"))
        .map_or_else(|_| CELERIANT.to_owned(), |text| text.trim().to_owned())
}

/// One sample of `work` at the size of `point`.
pub(crate) fn sample(plan: &Plan, point: &Point, work: Work) -> Result<Sample, Failure> {
    let data = plan.work_dir.join("celeriant");
    let shards = if point.work == Work::Transfer { plan.shards.max(2) } else { plan.shards };
    let mut command = Command::new(&plan.celeriant);
    command.args(["--format", "json", "dev", "--listen", "127.0.0.1:0"]);
    command.arg("--data-dir").arg(&data);
    command.args(["--threads", &plan.threads.to_string(), "--shards", &shards.to_string()]);
    let (server, line) = Server::start(&mut command, &plan.work_dir.join("celeriant.log"), true)?;
    let ready: Value = serde_json::from_str(&line)?;
    let url = ready["url"].as_str().ok_or("the server did not say its url")?;
    let sample = load(plan, point, work, url, server.pid());
    drop(server);
    fs::remove_dir_all(&data)?;
    sample
}

/// Puts `work` of the size of `point` on a server that runs.
pub(crate) fn load(
    plan: &Plan,
    point: &Point,
    work: Work,
    url: &str,
    server: u32,
) -> Result<Sample, Failure> {
    let word = match work {
        Work::Write | Work::Pair => "write",
        Work::Transfer => "transfer",
        Work::Read => "read",
        Work::Stream => "stream",
    };
    let out = plan.work_dir.join("celeriant.json");
    let mut command = Command::new(&plan.celeriant);
    command.args(["--url", url, "--format", "json", "bench", word]);
    for (flag, value) in [
        ("--connections", point.connections.to_string()),
        ("--pipeline", point.pipeline.to_string()),
        ("--duration", plan.duration.to_string()),
        ("--warmup", plan.warmup.to_string()),
        ("--server-pid", server.to_string()),
    ] {
        command.args([flag, &value]);
    }
    if work == Work::Stream {
        command.args(["--events", &STREAM_EVENTS.to_string()]);
    }
    // An error of some requests is in the file, and makes the exit code 1.
    let ended = output(command.arg("--out").arg(&out));
    let text = fs::read_to_string(&out);
    let Ok(text) = text else { return Err(ended.err().unwrap_or("no result".into())) };
    fs::remove_file(&out)?;
    let report: Value = serde_json::from_str(&text)?;
    let number = |place: &str| report.pointer(place).and_then(Value::as_f64);
    let result = |name: &str| number(&format!("/result/{name}")).unwrap_or(0.0);
    let operations = result("operations");
    if operations == 0.0 {
        let why = report["errors_by_name"].to_string();
        return Err(format!("nothing was acknowledged in {} s, errors {why}", plan.duration).into());
    }
    let per_operation = |value: Option<f64>| value.map(|value| value / operations);
    let micros = |value: f64| value * 1e6;
    let encoded = number("/record_bytes").map(|bytes| bytes * operations);
    Ok(Sample {
        per_second: result("per_second"),
        p50_ms: result("p50_ms"),
        p99_ms: result("p99_ms"),
        errors: result("errors") as u64,
        server_cpu_us: per_operation(number("/server/cpu_seconds")).map(micros),
        client_cpu_seconds: number("/client_cpu_seconds"),
        written_per_byte: number("/server/write_bytes").zip(encoded).map(|(w, e)| w / e),
        resident_mib: number("/server/resident_bytes").map(|bytes| bytes / f64::from(1 << 20)),
    })
}
