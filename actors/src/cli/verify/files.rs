//! `verify --data`: a data directory, without a node.
//!
//! One line for everything that does not match, in the order of shards and logs, then what was
//! looked at. The first is the error.

use std::io;
use std::path::Path;

use celeriant_client::audit::{AuditHead, ShardHead};
use celeriant_schema::ShardId;
use celeriant_storage::verify::{Finding, Options, Report, verify};
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::output::Output;

/// Verifies `dir`, and that its logs begin as `head` says.
pub(in crate::cli) fn run(
    dir: &Path,
    aggregates_max: usize,
    head: Option<&AuditHead>,
    output: &Output,
) -> Result<(), Failure> {
    let of = |shard: &ShardHead| (ShardId::new(shard.shard), shard.frames);
    let heads = head.into_iter().flat_map(|head| &head.shards).map(of).collect();
    let options = Options { aggregates_max, heads };
    let mut report = verify(dir, &options).map_err(|error| unreadable(dir, &error))?;
    if let Some(head) = head {
        hold_against(head, &mut report);
    }
    for finding in &report.findings {
        match output.is_json() {
            true => output.json(&shape(finding))?,
            false => output.line(&format!("MISMATCH  {finding}"))?,
        }
    }
    match output.is_json() {
        true => output.json(&summary(&report))?,
        false => output.line(&words(&report))?,
    }
    match report.findings.first() {
        None => Ok(()),
        Some(first) => Err(Failure::Mismatch(first.to_string())),
    }
}

/// Every shard that does not begin as the head says is a finding.
fn hold_against(head: &AuditHead, report: &mut Report) {
    let mut find = |shard: &ShardHead, what: String| {
        let (file, lsn) = (format!("shard-{:04}", shard.shard), Some(shard.lsn.into()));
        let (offset, event, shard) = (0, None, Some(ShardId::new(shard.shard)));
        report.findings.push(Finding { file, offset, shard, lsn, event, what });
    };
    let is_own = report.cluster.is_none_or(|own| head.cluster.parse() == Ok(own));
    for expected in &head.shards {
        let found = report.heads_wanted.iter().find(|it| it.shard.value() == expected.shard);
        match found {
            _ if !is_own => find(expected, "the audit head is of another cluster".into()),
            _ if expected.frames == 0 => {}
            None => find(expected, format!("has fewer than {} frames", expected.frames)),
            Some(found) if found.head != expected.head() => find(
                expected,
                format!(
                    "its first {} frames have hash {}, and had {}",
                    expected.frames, found.head.hash, expected.hash
                ),
            ),
            Some(_) => {}
        }
    }
}

fn unreadable(dir: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("{}: {error}", dir.display()))
}

fn shape(finding: &Finding) -> Value {
    let (key, version) = match &finding.event {
        Some((key, version)) => (Some(key.as_str()), Some(version.value())),
        None => (None, None),
    };
    json!({
        "mismatch": finding.what, "file": finding.file, "offset": finding.offset,
        "shard": finding.shard.map(|shard| shard.value()),
        "lsn": finding.lsn.map(|lsn| lsn.value()), "key": key, "version": version,
    })
}

fn summary(report: &Report) -> Value {
    json!({
        "verified": report.findings.is_empty(), "mismatches": report.findings.len(),
        "shards": report.heads.len(), "frames": report.frames, "records": report.records,
        "aggregates": report.aggregates, "events": report.events,
        "directory_rows": report.rows, "running": report.is_running,
    })
}

fn words(report: &Report) -> String {
    let Report { frames, aggregates, events, .. } = report;
    let (shards, mismatches) = (report.heads.len(), report.findings.len());
    let counted =
        format!("{shards} shards, {frames} frames, {aggregates} aggregates with {events} events");
    let outcome = match mismatches {
        0 => "everything has the checksums and hashes that it should".to_owned(),
        some => format!("{some} place(s) do not match, the first of them first"),
    };
    let running = match report.is_running {
        true => " (a node has the directory: only what was durable when this began)",
        false => "",
    };
    format!("{counted}: {outcome}{running}")
}
