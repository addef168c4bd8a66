//! Recovers a shard's image outside of any world, and says what the log is then.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use celeriant_schema::limits::LIST_PAGE_MAX;
use celeriant_schema::{AggregateKey, Epoch, Hash, Lsn, Stamp, TxnId};
use celeriant_storage::directory::{Directory, Fault, Listing, Pins};
use celeriant_storage::disk::Disk;
use celeriant_storage::recovery::{Recovered, recover};
use celeriant_storage::{Damage, Error, Identity, Settings};

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
    ///
    /// # Errors
    /// A page of its directory is damaged.
    pub fn of<D: Disk>(recovered: &mut Recovered, disk: &mut D) -> Result<Self, Damage> {
        let pending = recovered.pending.iter().map(|leg| (leg.txn, leg.lsn)).collect();
        Ok(Self {
            next_lsn: recovered.log.next_lsn(),
            tip_hash: recovered.log.tip_hash(),
            highest: (recovered.max_stamp, recovered.max_epoch),
            pending,
            heads: heads(&mut recovered.directory, disk)?,
        })
    }
}

/// Recovers an image; returns what it is then, the log and what it says. A directory that turns out
/// to be damaged is given up and made anew by another start, as a node would.
///
/// # Errors
/// As recovery.
pub fn reopen(
    files: &Files,
    identity: Identity,
    settings: &Settings,
) -> Result<(Files, Recovered, LogState), Error> {
    let media = Media::alone(7, files.clone());
    let start = || {
        let mut disk = media.attach();
        let Some(recovered) = run_to_end(recover(&mut disk, identity, settings)) else {
            unreachable!("a disk with power completes everything")
        };
        let (mut recovered, image) = (recovered?, media.image());
        let state = LogState::of(&mut recovered, &mut disk)?;
        Ok((image, recovered, state))
    };
    match start() {
        // A directory that was made anew is not damaged again.
        Err(Error::Damage(damage)) if is_of_directory(&damage) => start(),
        ended => ended,
    }
}

fn is_of_directory(damage: &Damage) -> bool {
    damage.file.ends_with(".run")
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

/// Asks a directory, and loads the pages that the answer lacks.
///
/// # Errors
/// A page is damaged: the directory has been given up, and the next start makes it anew.
pub fn ask<D: Disk, T>(
    directory: &mut Directory,
    disk: &mut D,
    mut question: impl FnMut(&Directory, &Pins) -> Result<T, Fault>,
) -> Result<T, Damage> {
    let mut pins = Pins::default();
    let mut ops = Vec::new();
    loop {
        match question(directory, &pins) {
            Ok(answer) => return Ok(answer),
            Err(Fault::Missing(page)) => directory.load(page, &mut ops),
            Err(Fault::Damaged(damage)) => directory.condemn(damage, &mut ops),
        }
        let mut pages = Vec::new();
        while pages.is_empty() {
            ops.drain(..).for_each(|(token, op)| disk.start(token, op));
            let Some(completion) = run_to_end(poll_fn(|cx| disk.poll_complete(cx))) else {
                unreachable!("a disk with power completes everything")
            };
            pages = match directory.complete(completion, &mut ops) {
                Ok(pages) => pages,
                Err(Error::Damage(damage)) => return Err(damage),
                Err(error) => panic!("a disk that works fails: {error}"),
            };
        }
        pages.into_iter().for_each(|(page, bytes)| pins.add(page, bytes));
    }
}

/// Every aggregate: key, version, chain hash.
type Heads = Vec<(AggregateKey, u64, Hash)>;

fn heads<D: Disk>(directory: &mut Directory, disk: &mut D) -> Result<Heads, Damage> {
    let mut heads = Vec::new();
    for org in all(directory, disk, &[])? {
        for kind in all(directory, disk, &[&org])? {
            for id in all(directory, disk, &[&org, &kind])? {
                let Ok(key) = AggregateKey::new(&org, &kind, &id) else { continue };
                let head = ask(directory, disk, |directory, pins| directory.head(&key, pins))?;
                heads.extend(head.map(|head| (key, head.version.value(), head.hash)));
            }
        }
    }
    Ok(heads)
}

fn all<D: Disk>(
    directory: &mut Directory,
    disk: &mut D,
    parents: &[&str],
) -> Result<Vec<String>, Damage> {
    let mut names: Vec<String> = Vec::new();
    loop {
        let after = names.last().map(String::as_str);
        let mut next = Listing::with_deleted();
        let is_complete = ask(directory, disk, |directory, pins| {
            directory.list(parents, "", after, LIST_PAGE_MAX as usize, &mut next, pins)
        })?;
        let more = (next.page.more || !is_complete) && !next.page.names.is_empty();
        names.extend(next.page.names);
        if !more {
            return Ok(names);
        }
    }
}
