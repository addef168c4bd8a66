//! Sees every durable write and every answer at the moment it happens, and checks what can be
//! checked then.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use celeriant_schema::{Request, Response, limits::SECTOR_BYTES};
use celeriant_storage::Identity;

use crate::disk::Files;
use crate::history::History;
use crate::invariants::i02_log_matching::Logs;
use crate::invariants::i06_acknowledged_is_durable::Durable;
use crate::invariants::i07_exposed_is_final::Exposed;
use crate::invariants::i08_one_entry_per_position::Acknowledged;
use crate::invariants::{
    Violations, i07_exposed_is_final, i12_no_cut, i17_recovery_is_idempotent, i22_caps,
};
use crate::ledger::{Place, receipt_of};
use crate::originals::Originals;
use crate::walk::{Walked, segments, walk_all};
use crate::wire::Eyes;

/// The invariants that are checked while a run goes on. Cheap to clone: all clones are one.
#[derive(Clone)]
pub struct Watcher {
    state: Arc<Mutex<State>>,
    violations: Violations,
    frame_bytes_max: usize,
}

#[derive(Default)]
struct State {
    logs: Logs,
    durable: Durable,
    exposed: Exposed,
    acknowledged: Acknowledged,
    originals: Originals,
}

impl Watcher {
    /// Reports to `violations`; no frame may have more than `frame_bytes_max`.
    pub fn new(violations: Violations, frame_bytes_max: usize) -> Self {
        Self { state: Arc::default(), violations, frame_bytes_max }
    }

    /// Every frame as it was written.
    pub fn originals(&self) -> Originals {
        self.lock().originals.clone()
    }

    /// A write has become durable.
    pub fn durable(&self, identity: &Identity, name: &str, offset: u64, bytes: &[u8]) {
        if !name.ends_with(".seg") || offset < SECTOR_BYTES as u64 {
            return;
        }
        let Some(frame) = Walked::parse(name, offset, bytes, identity) else { return };
        i22_caps::check_frame(&frame, self.frame_bytes_max, &self.violations);
        let mut state = self.lock();
        state.logs.note(identity.shard, &frame, &self.violations);
        state.durable.note(&frame);
        state.originals.note(identity.shard, frame);
    }

    /// The node serves again; `images` are its shards'. What is there is durable, whoever was told;
    /// and nothing that was told may be missing, unless damage (`intact` is false) hides it for
    /// now.
    pub fn recovered<'a>(&self, images: impl Iterator<Item = (Identity, &'a Files)>, intact: bool) {
        let mut left = Durable::default();
        let mut state = self.lock();
        let state = &mut *state;
        for (identity, files) in images {
            let segments: Vec<_> = segments(files).collect();
            let frames = walk_all(&segments, &identity);
            if intact {
                let log = (&segments[..], &frames[..]);
                i17_recovery_is_idempotent::check_tail(log, &identity, &self.violations);
            }
            for frame in frames {
                if intact {
                    state.logs.in_log(identity.shard, &frame, &self.violations);
                }
                left.note(&frame);
                state.originals.note(identity.shard, frame);
            }
        }
        if intact {
            i12_no_cut::check(&left, &state.acknowledged, &state.exposed, &self.violations);
            state.durable = left;
        } else {
            state.durable.merge(left);
        }
    }

    /// The end: everything that was seen is there.
    pub fn check_final(&self, history: &History) {
        i07_exposed_is_final::check_final(&self.lock().exposed, history, &self.violations);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Eyes for Watcher {
    fn answer(&self, _: Place, request: &Request, response: &Response) {
        i22_caps::check_answer(response, &self.violations);
        let mut state = self.lock();
        let state = &mut *state;
        if let Some(receipt) = receipt_of(response) {
            state.durable.check(receipt, &self.violations);
            state.acknowledged.note(receipt, &self.violations);
            state.exposed.receipt(receipt, &self.violations);
        }
        match (request, response) {
            (Request::Read(query), Response::Page(page)) => {
                state.exposed.page(&query.key, page, &self.violations);
            }
            (Request::Head(query), Response::Head(head)) => {
                state.exposed.entry(&query.key, head.version, head.hash, &self.violations);
            }
            _ => {}
        }
    }

    fn stray(&self, number: u64) {
        self.violations.add("answers", format_args!("request {number} has a second answer"));
    }
}
