//! `inspect`: what the files of a data directory hold, offline and read-only.
//!
//! One item a line, in log order: `node`, then per shard `shard`, `watermark`, `manifest`, `run`,
//! `segment`, `frame`, `record` (with `batch` below it, and `event` if asked), `unfinished`, `end`.
//! Damage is named with its place, does not stop the walk, and makes the exit code 1.

use std::io::{self, Write};
use std::path::Path;

use celeriant_net::json;
use celeriant_schema::record::{BatchView, Record, WriteRecord};
use celeriant_schema::{ClientId, Event, Guard};
use celeriant_storage::inspect::{Folder, Frame, Item, PlacedRecord, folders};
use celeriant_storage::store::Superblock;
use serde_json::{Map, Value, json};

use super::args::Inspect;
use super::failure::Failure;
use super::output::Output;

/// Prints it; fails when something is damaged.
pub(super) fn run(inspect: &Inspect, output: &Output) -> Result<(), Failure> {
    let usage = |error: io::Error| Failure::usage(format!("{}: {error}", inspect.dir.display()));
    let paths = folders(&inspect.dir).map_err(usage)?;
    if paths.is_empty() {
        let why = "holds no shards: give a data directory or one shard's directory in it";
        return Err(Failure::usage(format!("{} {why}", inspect.dir.display())));
    }
    let mut printer =
        Printer { lines: output.lines(), json: output.is_json(), events: inspect.events, bad: 0 };
    printer.node(&inspect.dir)?;
    for path in &paths {
        let folder = Folder::open(path)?;
        printer.folder(&folder)?;
        for item in folder.walk() {
            printer.item(item?)?;
        }
    }
    printer.lines.flush()?;
    match printer.bad {
        0 => Ok(()),
        bad => Err(Failure::Node(format!("{bad} damaged place(s), named above"))),
    }
}

struct Printer<W> {
    lines: W,
    json: bool,
    events: bool,
    bad: usize,
}

impl<W: Write> Printer<W> {
    /// One line: an object, or its name and fields, indented by what it is part of.
    fn put(&mut self, depth: usize, name: &str, fields: Value) -> Result<(), Failure> {
        let Value::Object(fields) = fields else { return Ok(()) };
        if self.json {
            let mut object = Map::new();
            object.insert("item".into(), json!(name));
            object.extend(fields);
            writeln!(self.lines, "{}", Value::Object(object))?;
            return Ok(());
        }
        write!(self.lines, "{:indent$}{name}", "", indent = depth * 2)?;
        for (field, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            match value.as_str() {
                Some(text) => write!(self.lines, "  {field}={text}")?,
                None => write!(self.lines, "  {field}={value}")?,
            }
        }
        writeln!(self.lines)?;
        Ok(())
    }

    fn damage(&mut self, depth: usize, fields: Value) -> Result<(), Failure> {
        self.bad += 1;
        self.put(depth, "DAMAGE", fields)
    }

    /// Only of a whole data directory; a shard's directory has no superblock.
    fn node(&mut self, dir: &Path) -> Result<(), Failure> {
        if !dir.join("node").exists() {
            return Ok(());
        }
        match Superblock::of(dir) {
            Ok(node) => {
                let fields = json!({
                    "store": node.store.to_string(), "cluster": node.cluster.to_string(),
                    "shards": node.shard_count, "generation": node.generation,
                    "epoch_promised": node.epoch_promised.value(),
                    "epoch_seen": node.epoch_seen.value(),
                });
                self.put(0, "node", fields)
            }
            Err(error) => self.damage(0, json!({"file": "node", "what": error.to_string()})),
        }
    }

    fn folder(&mut self, folder: &Folder) -> Result<(), Failure> {
        let identity = folder.identity;
        let fields = json!({
            "path": folder.path.display().to_string(),
            "shard": identity.map(|identity| identity.shard.value()),
            "cluster": identity.map(|identity| identity.cluster.to_string()),
            "segments": folder.segments.len(), "runs": folder.runs.len(),
        });
        self.put(0, "shard", fields)?;
        for slot in &folder.watermark {
            match slot {
                Ok(Some(mark)) => {
                    let (turn, durable) = (mark.turn, mark.durable.value());
                    let fields = json!({"turn": turn, "durable": durable,
                        "hash": mark.hash.to_string(), "segments_made": mark.segments_made});
                    self.put(1, "watermark", fields)?;
                }
                Ok(None) => {}
                // Rewritten in turns: one torn slot is what a power cut leaves.
                Err(flaw) => self.put(1, "watermark", json!({"unusable": flaw.to_string()}))?,
            }
        }
        self.directory(folder)?;
        for name in &folder.strangers {
            self.put(1, "stranger", json!({"name": name}))?;
        }
        Ok(())
    }

    /// Derived from the segments: what is unusable is made anew by the next start.
    fn directory(&mut self, folder: &Folder) -> Result<(), Failure> {
        match &folder.manifest {
            None => {}
            Some(Ok(manifest)) => {
                let from = &manifest.checkpoint.position;
                let runs: Vec<u32> = manifest.runs.iter().map(|(run, _)| *run).collect();
                let fields = json!({"runs": runs, "replay_from": from.lsn.value(),
                    "segment": from.segment, "offset": from.offset,
                    "open_legs": manifest.checkpoint.legs.len()});
                self.put(1, "manifest", fields)?;
            }
            Some(Err(flaw)) => self.put(1, "manifest", json!({"unusable": flaw.to_string()}))?,
        }
        for run in &folder.runs {
            let fields = match &run.rows {
                Ok(rows) => json!({"run": run.number, "bytes": run.bytes, "heads": rows.heads,
                    "clients": rows.clients, "places": rows.places, "batches": rows.batches,
                    "outcomes": rows.outcomes}),
                Err(flaw) => {
                    json!({"run": run.number, "bytes": run.bytes, "unusable": flaw.to_string()})
                }
            };
            self.put(1, "run", fields)?;
        }
        Ok(())
    }

    fn item(&mut self, item: Item) -> Result<(), Failure> {
        match item {
            Item::Segment(file) => match &file.header {
                Ok(header) => {
                    let fields = json!({"segment": file.number, "bytes": file.bytes,
                        "lsn_hint": header.lsn_hint.value()});
                    self.put(1, "segment", fields)
                }
                Err(flaw) => {
                    self.put(1, "segment", json!({"segment": file.number, "bytes": file.bytes}))?;
                    self.damage(2, json!({"segment": file.number, "what": flaw.to_string()}))
                }
            },
            Item::Frame(frame) => self.frame(&frame),
            Item::Unfinished { segment, offset, bytes } => {
                let fields = json!({"segment": segment, "offset": offset, "bytes": bytes});
                self.put(2, "unfinished", fields)
            }
            Item::Damage(damage) => {
                let fields = json!({"file": damage.file, "offset": damage.offset,
                    "lsn": damage.lsn.value(), "what": damage.what.to_string()});
                self.damage(2, fields)
            }
            Item::End { segment, offset, unused } => {
                let fields = json!({"segment": segment, "offset": offset, "unused": unused});
                self.put(2, "end", fields)
            }
        }
    }

    fn frame(&mut self, frame: &Frame) -> Result<(), Failure> {
        let header = &frame.header;
        let fields = json!({
            "segment": frame.segment, "offset": frame.offset, "bytes": header.frame_bytes(),
            "epoch": header.epoch.value(), "boot": format!("{:016x}", header.boot.value()),
            "first_lsn": header.first_lsn.value(), "records": header.count,
            "durable_upto": header.durable_upto.value(),
            "first_stamp": header.first_stamp.value(), "last_stamp": header.last_stamp.value(),
            "prev_hash": header.prev_hash.to_string(), "hash": header.hash.to_string(),
        });
        self.put(2, "frame", fields)?;
        frame.records.iter().try_for_each(|record| self.record(record, frame))
    }

    fn record(&mut self, placed: &PlacedRecord, frame: &Frame) -> Result<(), Failure> {
        let lsn = placed.lsn.value();
        match &placed.record {
            Record::Write(write) => self.write(lsn, "write", write, frame),
            Record::Leg(leg) => self.write(lsn, "leg", leg, frame),
            Record::Resolve(resolve) => {
                let fields = json!({"lsn": lsn, "kind": "resolve",
                    "txn": resolve.txn.to_string(), "commit": resolve.commit,
                    "leg_lsn": resolve.leg_lsn.value(), "stamp": resolve.stamp.value()});
                self.put(3, "record", fields)
            }
            Record::EpochStart(start) => {
                let fields = json!({"lsn": lsn, "kind": "epoch_start",
                    "epoch": start.epoch.value(), "boot": format!("{:016x}", start.boot.value()),
                    "server_time": json::time(start.server_time), "stamp": start.stamp.value()});
                self.put(3, "record", fields)
            }
        }
    }

    fn write(
        &mut self,
        lsn: u64,
        kind: &str,
        write: &WriteRecord,
        frame: &Frame,
    ) -> Result<(), Failure> {
        let client = write.client_id;
        let participants: Vec<u16> = write.participants.iter().map(|s| s.value()).collect();
        let fields = json!({
            "lsn": lsn, "kind": kind, "write_id": write.write_id.to_string(),
            "client_id": (client != ClientId::NONE).then(|| client.to_string()),
            "server_time": json::time(write.server_time), "stamp": write.stamp.value(),
            "participants": (kind == "leg").then_some(participants),
        });
        self.put(3, "record", fields)?;
        write.batches.iter().try_for_each(|batch| self.batch(lsn, batch, frame))
    }

    fn batch(&mut self, lsn: u64, batch: &BatchView, frame: &Frame) -> Result<(), Failure> {
        let guard = match batch.guard {
            Guard::Any => json!("any"),
            Guard::NoStream => json!("none"),
            Guard::Exists => json!("exists"),
            Guard::Exact(version) => json!(version.value()),
        };
        let fields = json!({
            "lsn": lsn, "key": batch.key.as_str(), "expect": guard,
            "first_version": batch.first_version.value(),
            "last_version": batch.last_version.value(),
            "sequence": batch.sequence.map(|sequence| sequence.value()),
            "hash": batch.hash.to_string(),
        });
        self.put(4, "batch", fields)?;
        if !self.events {
            return Ok(());
        }
        for (stored, version) in batch.events(&frame.blobs).zip(batch.first_version.value()..) {
            if let Ok(erased) = &stored
                && erased.is_erased()
            {
                let hash = erased.hash.to_string();
                self.put(5, "event", json!({"version": version, "erased": true, "hash": hash}))?;
                continue;
            }
            let event = stored.and_then(|stored| Ok((Event::decode(&stored.body())?, stored.hash)));
            match event {
                Ok((event, hash)) => {
                    let fields = json!({"version": version, "type": event.event_type,
                        "content_type": json::content_type(event.content_type),
                        "payload_bytes": event.payload.len(), "hash": hash.to_string()});
                    self.put(5, "event", fields)?;
                }
                Err(error) => {
                    self.damage(5, json!({"version": version, "what": error.to_string()}))?;
                }
            }
        }
        Ok(())
    }
}
