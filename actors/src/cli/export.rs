//! `export`: all events that a selector covers, in one file, to keep or to check elsewhere.
//!
//! ```text
//! the feed, page by page ─▶ its chains computed ─▶ FILE.part ─▶ synced ─▶ FILE
//! ```
//! What goes into an export has been verified, so one that can be made is one that verifies. It
//! ends at what was there when it began; of an aggregate of which something was deleted meanwhile,
//! at the notice of that. Of every aggregate 100 bytes are kept in memory, besides two pages.

pub(super) mod file;

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::time::Duration;

use celeriant_client::{Client, Selector, Watch};
use celeriant_schema::FeedPage;
use celeriant_schema::audit::histories::{Checked, Histories, HistoryError};
use serde_json::json;

use self::file::{Header, Mark, Writer};
use super::args::Global;
use super::connect;
use super::failure::Failure;
use super::output::Output;

/// What to take out, and where to.
#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// org/type/id, org/type, org, or '*'
    selector: Selector,
    /// A new file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// How long a page waits for the notice of what it leaves out.
const NOTICE_WAIT: Duration = Duration::from_secs(1);
/// So many times: a notice is committed when its events are left out, and told soon.
const NOTICE_WAITS_MAX: u32 = 30;

pub(super) async fn run(export: Export, global: &Global, output: &Output) -> Result<(), Failure> {
    let Export { selector, out } = export;
    if out.exists() {
        return Err(Failure::usage(format!("{}: is there already", out.display())));
    }
    let client = connect(global).await?;
    let part = PathBuf::from(format!("{}.part", out.display()));
    let made = make(&client, &selector, &part).await;
    let (checked, bytes) = match made {
        Ok(made) => made,
        Err(failure) => {
            // Half of an export is none; that it stays is no reason to hide why.
            let _ = fs::remove_file(&part);
            return Err(failure);
        }
    };
    fs::rename(&part, &out)?;
    sync_parent(&out)?;
    let Checked { aggregates, events, granted, notices, upto } = checked;
    let path = out.display().to_string();
    match output.is_json() {
        true => output.json(&json!({
            "exported": path, "bytes": bytes, "selector": selector.to_string(),
            "stamp": upto.value(), "aggregates": aggregates, "events": events + granted,
            "granted": granted, "notices": notices,
        })),
        false => output.line(&format!(
            "{path}: {} events of {aggregates} aggregates, {notices} deletions and trims, up to \
             stamp {upto}; {bytes} bytes",
            events + granted
        )),
    }
}

/// Writes an export; what is in it, and its size in bytes.
async fn make(
    client: &Client,
    selector: &Selector,
    part: &Path,
) -> Result<(Checked, u64), Failure> {
    let cluster = client.cluster().map(|cluster| cluster.to_string());
    let cluster = cluster.ok_or_else(|| Failure::Node("no node says whose it is".into()))?;
    let header = Header::new(cluster, selector.to_string());
    let mut writer = Writer::new(BufWriter::new(File::create(part)?), &header)?;
    let checked = copy(client.watch(selector.clone()).until_now(), selector, &mut writer).await?;
    let (out, bytes) = writer.end(&Mark::of(&checked))?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok((checked, bytes))
}

async fn copy<W: io::Write>(
    mut watch: Watch,
    selector: &Selector,
    writer: &mut Writer<W>,
) -> Result<Checked, Failure> {
    let mismatch = |error| Failure::Mismatch(format!("the store's own answer: {error}"));
    let mut histories = Histories::new(selector.clone());
    let mut end = None;
    loop {
        let page = watch.clone().raw_page().await?;
        histories.take(&page).map_err(mismatch)?;
        if !page.batches.is_empty() {
            writer.page(&page)?;
        }
        watch = watch.after(page.upto);
        if page.upto >= *end.get_or_insert(page.head) {
            let rest = rest(watch, &mut histories, writer).await?;
            rest.map_err(mismatch)?;
            let mut checked = histories.finish().map_err(mismatch)?;
            checked.upto = page.upto;
            return Ok(checked);
        }
    }
}

/// What pages left out was taken away behind where the export ends: of those aggregates, and only
/// of those, it goes on until that is told.
async fn rest<W: io::Write>(
    watch: Watch,
    histories: &mut Histories,
    writer: &mut Writer<W>,
) -> Result<Result<(), HistoryError>, Failure> {
    let (mut watch, mut waits) = (watch.checkpoints(NOTICE_WAIT), 0);
    while !histories.is_whole() && waits < NOTICE_WAITS_MAX {
        let page = watch.clone().raw_page().await?;
        waits += u32::from(page.upto >= page.head);
        watch = watch.after(page.upto);
        for batch in page.batches {
            if histories.is_open(&batch.key) {
                let page = FeedPage { batches: vec![batch], upto: page.upto, head: page.head };
                if let Err(error) = histories.take(&page) {
                    return Ok(Err(error));
                }
                writer.page(&page)?;
            }
        }
    }
    Ok(Ok(()))
}

/// The name of a file is in its directory.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
