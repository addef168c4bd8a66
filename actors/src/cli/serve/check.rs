//! `server check`: what would stand in the way of a start, found without starting.
//!
//! Looks at the data directory, its file system, the time that a durable write takes and the clock;
//! for one of a pair also at its certificate and at the bucket. Leaves the directory as it was.

mod pair;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use celeriant_actors::settings::{Loaded, Settings};
use celeriant_schema::Stamp;
use celeriant_storage::store::{DataDir, FileSystem, Options};
use serde_json::json;

use super::super::failure::Failure;
use super::super::output::Output;

/// Durable writes that are timed.
const WRITES: usize = 50;

struct Finding {
    what: &'static str,
    good: bool,
    said: String,
}

/// Prints every finding; fails if one of them is bad.
pub(super) async fn run(loaded: &Loaded, output: &Output) -> Result<(), Failure> {
    let settings = &loaded.settings;
    let mut findings = vec![Finding {
        what: "configuration",
        good: true,
        said: format!("valid; {} threads, {} bytes of memory", settings.threads, settings.memory),
    }];
    let notes = loaded.notes.iter();
    findings.extend(notes.map(|n| Finding { what: "configuration", good: true, said: n.clone() }));
    findings.extend(certificates(settings));
    findings.push(data_dir(settings));
    findings.extend(disk(&settings.data_dir));
    findings.push(clock());
    if let Some(pair) = &settings.pair {
        findings.extend(pair::look(pair, settings).await);
    }
    for finding in &findings {
        if output.is_json() {
            let (what, ok, said) = (finding.what, finding.good, &finding.said);
            output.json(&json!({"check": what, "ok": ok, "message": said}))?;
        } else {
            let mark = if finding.good { "ok " } else { "BAD" };
            output.line(&format!("{mark}  {:<13}  {}", finding.what, finding.said))?;
        }
    }
    let bad = findings.iter().filter(|finding| !finding.good);
    let reasons: Vec<String> = bad.map(|f| format!("{}: {}", f.what, f.said)).collect();
    if reasons.is_empty() { Ok(()) } else { Err(Failure::Usage(reasons)) }
}

fn certificates(settings: &Settings) -> Option<Finding> {
    let finding = |good, said| Some(Finding { what: "certificates", good, said });
    let usable = super::credentials(settings)
        .and_then(|credentials| super::door(settings, credentials.clone()).map(|_| credentials));
    match (usable, settings.clients) {
        (Err(error), _) => finding(false, error.to_string()),
        (Ok(None), _) => None,
        (Ok(Some(own)), auth) => {
            let days = own.current().good_for(SystemTime::now()).as_secs() / 86_400;
            let said = match auth {
                Some(auth) => format!("clients come over TLS, their certificates are {auth}"),
                None => "clients come without TLS".to_owned(),
            };
            finding(days > 0, format!("usable for {days} more days; {said}"))
        }
    }
}

fn data_dir(settings: &Settings) -> Finding {
    let path = &settings.data_dir;
    let finding = |good, said| Finding { what: "data_dir", good, said };
    if is_empty(path) {
        return finding(true, format!("{} is empty: a new store will be made", path.display()));
    }
    let options = Options { format: None, shard_count: settings.shards, allow_buffered: false };
    match DataDir::open(path, &options) {
        Ok(data) => {
            let superblock = data.superblock();
            let (shards, cluster) = (superblock.shard_count, superblock.cluster);
            finding(true, format!("{} has {shards} shards of cluster {cluster}", path.display()))
        }
        Err(error) => finding(false, error.to_string()),
    }
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).map_or_else(
        |error| error.kind() == io::ErrorKind::NotFound,
        |mut entries| entries.next().is_none(),
    )
}

fn disk(path: &Path) -> Vec<Finding> {
    let finding = |good, said| Finding { what: "disk", good, said };
    let Some(existing) = path.ancestors().find_map(existing) else {
        return vec![finding(false, format!("nothing above {} exists", path.display()))];
    };
    let mut findings = Vec::new();
    match FileSystem::of(&existing) {
        Ok(file_system) => match file_system.objection() {
            None => findings.push(finding(true, format!("{file_system}"))),
            Some(why) => findings.push(finding(false, format!("{file_system} {why}"))),
        },
        Err(error) => findings.push(finding(false, format!("{}: {error}", existing.display()))),
    }
    match time_durable_writes(&existing) {
        Ok(times) => {
            let (middle, worst) = (times[times.len() / 2], times[times.len() - 1]);
            let said = format!("4 KiB written and fdatasync: median {middle:?}, worst {worst:?}");
            findings.push(finding(true, said));
        }
        Err(error) => findings.push(finding(false, format!("durable write: {error}"))),
    }
    findings
}

/// The directory itself, if there is one; a bare name lies in the current directory.
fn existing(path: &Path) -> Option<PathBuf> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    path.is_dir().then(|| path.to_path_buf())
}

fn time_durable_writes(directory: &Path) -> io::Result<Vec<Duration>> {
    let name = directory.join(".probe");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&name)?;
    let mut times = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        let started = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    fs::remove_file(&name)?;
    times.sort_unstable();
    Ok(times)
}

fn clock() -> Finding {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
    let good = micros > Stamp::ORIGIN_UNIX_MICROS;
    let said = match good {
        true => "after 2025-01-01".to_owned(),
        false => "shows a time before 2025: stamps would not follow it".to_owned(),
    };
    Finding { what: "clock", good, said }
}
