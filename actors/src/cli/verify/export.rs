//! `verify --export`: a file that `export` made, without the store.
//!
//! ```text
//! every block's hash ─▶ every aggregate's chain ─▶ the end mark's numbers
//!                         └▶ where a proof is: the store's own log, up to the audit head
//! ```
//! An audit head stands for frames, and an export has none: what was around the events in their
//! writes is not in it. So a head alone says nothing about an export but whose it is. A proof that
//! one event is in the frames (`audit prove`) carries the event's hash, which stands for all events
//! of the aggregate before it: with a proof of the last event, the whole history was in the store.
//! 100 bytes of memory an aggregate, and one page.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use celeriant_client::audit::{AuditHead, Included};
use celeriant_client::{AggregateKey, KeyError, Selector, Version};
use celeriant_schema::FeedPage;
use celeriant_schema::audit::histories::{Checked, Histories};
use serde_json::json;

use super::super::audit;
use super::super::export::file::{Block, Flaw, Header, Mark, Reader};
use super::super::failure::Failure;
use super::super::output::Output;

/// What an export is held against.
pub(in crate::cli) struct Against {
    head: AuditHead,
    proofs: Vec<Held>,
}

/// A proof, and what of the export it is about.
struct Held {
    key: AggregateKey,
    version: Version,
    included: Included,
    /// Events whose hashes lead up to it; `None`: the export does not have it.
    events: Option<u64>,
}

impl Against {
    /// Reads what `audit head` and `audit prove` have printed.
    ///
    /// # Errors
    /// What cannot be read is wrong usage, what proves nothing a mismatch.
    pub(in crate::cli) fn read(head: &Path, proofs: &[PathBuf]) -> Result<Self, Failure> {
        let head = audit::read_head(head)?;
        let held = |path: &PathBuf| {
            let proof = audit::read_proof(path)?.proof;
            let included = audit::check(&proof, &head, path)?;
            let key = proof.key.parse();
            let key = key.map_err(|error| Failure::usage(format!("{}: {error}", proof.key)))?;
            Ok(Held { key, version: proof.version.into(), included, events: None })
        };
        let proofs = proofs.iter().map(held).collect::<Result<_, Failure>>()?;
        Ok(Self { head, proofs })
    }
}

/// Verifies the export at `path`.
pub(in crate::cli) fn run(
    path: &Path,
    mut against: Option<Against>,
    output: &Output,
) -> Result<(), Failure> {
    let name = path.display();
    let input = File::open(path).map_err(|error| Failure::usage(format!("{name}: {error}")))?;
    let mut verifier = match Reader::open(BufReader::new(input)) {
        Ok(reader) => Verifier { reader, against: &mut against },
        Err(flaw) => return Err(wrong(path, &Wrong::File(flaw))),
    };
    let verified = verifier.verify();
    let (selector, checked) = verified.map_err(|error| wrong(path, &error))?;
    print(path, &selector, &checked, against.as_ref(), output)
}

fn wrong(path: &Path, error: &Wrong) -> Failure {
    Failure::Mismatch(format!("{}: {error}", path.display()))
}

/// The first thing that does not match.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error(transparent)]
    File(#[from] Flaw),
    #[error("in the block at byte {at}: {what}")]
    Content { at: u64, what: String },
}

struct Verifier<'a, R> {
    reader: Reader<R>,
    against: &'a mut Option<Against>,
}

impl<R: Read> Verifier<'_, R> {
    /// What was selected, and what there is of it.
    fn verify(&mut self) -> Result<(String, Checked), Wrong> {
        let Header { cluster, selector, .. } = self.reader.header().clone();
        if self.against.as_ref().is_some_and(|against| against.head.cluster != cluster) {
            return Err(self.wrong(&"it is of another cluster than the audit head"));
        }
        let parsed: Selector = selector.parse().map_err(|error: KeyError| self.wrong(&error))?;
        let mut histories = Histories::new(parsed);
        let mark = loop {
            match self.reader.next()? {
                Block::Page(page) => {
                    histories.take(&page).map_err(|error| self.wrong(&error))?;
                    let held = hold(&page, &histories, self.against);
                    held.map_err(|what| self.wrong(&what))?;
                }
                Block::End(mark) => break mark,
            }
        };
        let ended = ends(&mark, &histories, self.against.as_ref());
        ended.map_err(|what| self.wrong(&what))?;
        let mut checked = histories.finish().map_err(|error| self.wrong(&error))?;
        // Pages may reach further, of what was deleted meanwhile.
        checked.upto = mark.stamp.into();
        match Mark::of(&checked) == mark {
            true => Ok((selector, checked)),
            false => Err(self.wrong(&"the end mark tells of more or less than there is")),
        }
    }

    fn wrong(&self, what: &dyn std::fmt::Display) -> Wrong {
        Wrong::Content { at: self.reader.at(), what: what.to_string() }
    }
}

/// Where a proof is about an event of `page`, it has to have that hash.
fn hold(
    page: &FeedPage,
    histories: &Histories,
    against: &mut Option<Against>,
) -> Result<(), String> {
    let held = against.iter_mut().flat_map(|against| &mut against.proofs);
    for Held { key, version, included, events } in held {
        let of_key = page.batches.iter().filter(|batch| batch.key == *key);
        let found = of_key.flat_map(|batch| &batch.batch.events).find(|it| it.version == *version);
        let Some(found) = found else { continue };
        if found.hash != included.hash {
            return Err(format!(
                "{key}: version {version} has hash {}, but is proved to have {}",
                found.hash, included.hash
            ));
        }
        let since = histories.standing(key).map_or(*version, |(_, since)| since);
        *events = Some((version.value() + 1).saturating_sub(since.value()));
    }
    Ok(())
}

/// What was proved to be in the store by then, and not taken away since, is in the export.
fn ends(mark: &Mark, histories: &Histories, against: Option<&Against>) -> Result<(), String> {
    let upto = mark.stamp.into();
    for held in against.iter().flat_map(|against| &against.proofs) {
        let Held { key, version, .. } = held;
        if !histories.selector().matches(key) {
            continue;
        }
        let at = histories.standing(key).map(|(chain, _)| chain.version());
        if held.events.is_none() && held.included.stamp <= upto && at < Some(*version) {
            return Err(format!("{key}: version {version} is proved to have been, and is missing"));
        }
    }
    Ok(())
}

fn print(
    path: &Path,
    selector: &str,
    checked: &Checked,
    against: Option<&Against>,
    output: &Output,
) -> Result<(), Failure> {
    let Checked { aggregates, events, granted, notices, upto } = checked;
    let proofs = against.map_or(&[][..], |against| &against.proofs);
    let proved: u64 = proofs.iter().filter_map(|held| held.events).sum();
    let absent = proofs.iter().filter(|held| held.events.is_none()).count();
    let counted = proofs.len() - absent;
    if output.is_json() {
        let mut report = json!({
            "verified": true, "export": path.display().to_string(), "selector": selector,
            "stamp": upto.value(), "aggregates": aggregates, "events": events,
            "granted": granted, "notices": notices,
        });
        if against.is_some() {
            let proofs = json!({"aggregates": counted, "events": proved, "absent": absent});
            report["in_the_log"] = proofs;
        }
        return output.json(&report);
    }
    output.line(&format!(
        "{events} events of {aggregates} aggregates have the hashes that they should, up to stamp \
         {upto}"
    ))?;
    if *granted > 0 {
        output.line(&format!(
            "{granted} more follow what was taken away: their hashes were taken for granted"
        ))?;
    }
    if against.is_some() {
        output.line(&format!(
            "{proved} events of {counted} aggregates are proved to be in the log that the head \
             stands for; of the others it says nothing: an export has no frames"
        ))?;
    }
    if absent > 0 {
        output.line(&format!("{absent} proofs are of events that the export does not have"))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "export/export_test.rs"]
mod tests;
