//! Recovers a shard's image outside of any world, and says what the log is then.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use celeriant_schema::limits::LIST_PAGE_MAX;
use celeriant_schema::{AggregateKey, Epoch, Hash, ListPage, Lsn, Stamp, TxnId};
use celeriant_storage::directory::Directory;
use celeriant_storage::recovery::{Recovered, recover};
use celeriant_storage::{Error, Identity, Settings};

use crate::disk::{Fate, Files, Flight, Media};

/// What a recovered log is: everything that must not depend on how often it was recovered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogState {
    /// Where it goes on.
    pub next_lsn: Lsn,
    /// Hash of its last frame.
    pub tip_hash: Hash,
    /// Highest stamp and epoch.
    pub highest: (Stamp, Epoch),
    /// Undecided legs.
    pub pending: Vec<(TxnId, Lsn)>,
    /// Every aggregate: key, version, chain hash.
    pub heads: Vec<(AggregateKey, u64, Hash)>,
}

impl LogState {
    /// Of a log that has just been recovered.
    pub fn of(recovered: &Recovered) -> Self {
        let pending = recovered.pending.iter().map(|leg| (leg.txn, leg.lsn)).collect();
        Self {
            next_lsn: recovered.log.next_lsn(),
            tip_hash: recovered.log.tip_hash(),
            highest: (recovered.max_stamp, recovered.max_epoch),
            pending,
            heads: heads(&recovered.directory),
        }
    }
}

/// Recovers an image; returns what it is then, and the log.
///
/// # Errors
/// As recovery.
pub fn reopen(
    files: &Files,
    identity: Identity,
    settings: &Settings,
) -> Result<(Files, Recovered), Error> {
    let media = Media::alone(7, files.clone());
    let mut disk = media.attach();
    match run_to_end(recover(&mut disk, identity, settings)) {
        Some(recovered) => recovered.map(|recovered| (media.image(), recovered)),
        None => unreachable!("a disk with power completes everything"),
    }
}

/// Recovers an image and loses power with operation `operation` of it (from 1); returns what `fate`
/// leaves, or `None` when recovery needs fewer operations. Also gives how many were in flight.
pub fn reopen_until(
    files: &Files,
    identity: Identity,
    settings: &Settings,
    operation: u64,
    fate: &mut dyn FnMut(&Flight) -> Fate,
) -> Option<Files> {
    let media = Media::alone(7, files.clone());
    media.power().trip_at(operation);
    let mut disk = media.attach();
    if run_to_end(recover(&mut disk, identity, settings)).is_some() {
        return None;
    }
    media.crash(fate);
    Some(media.image())
}

/// Polls a future whose disk completes when asked; `None` when it waits for a disk without power.
pub fn run_to_end<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn heads(directory: &Directory) -> Vec<(AggregateKey, u64, Hash)> {
    let mut heads = Vec::new();
    for org in all(|after| directory.orgs("", after, LIST_PAGE_MAX as usize)) {
        for kind in all(|after| directory.types(&org, "", after, LIST_PAGE_MAX as usize)) {
            for id in all(|after| directory.ids(&org, &kind, "", after, LIST_PAGE_MAX as usize)) {
                let Ok(key) = AggregateKey::new(&org, &kind, &id) else { continue };
                if let Some(head) = directory.head(&key) {
                    heads.push((key, head.version.value(), head.hash));
                }
            }
        }
    }
    heads
}

fn all(mut page: impl FnMut(Option<&str>) -> ListPage) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    loop {
        let next = page(names.last().map(String::as_str));
        let more = next.more && !next.names.is_empty();
        names.extend(next.names);
        if !more {
            return names;
        }
    }
}
