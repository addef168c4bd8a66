//! Which schemas hold for a write, as one shard knows it (semantics.md §8).
//!
//! ```text
//! write ── its org is known to be up to date? ──yes──► checked when it is about to be appended
//!               └ no: the shard's mark says how far it must be known
//!                     known that far ──► up to date until the mark moves
//!                     not            ──► wait; the node's registrar reads and compiles
//! ```
//! The mark lives in this shard's log, and moves with a registration in all shards at once: so no
//! shard takes what another one already refuses, and what a new leader knows is what was decided.
//! A write that is on its way while a registration is decided may have been looked at before, and
//! land with a higher stamp: it was sent before anybody had been told.

use std::collections::BTreeMap;
use std::sync::Arc;

use celeriant_schema::registry::Org;
use celeriant_schema::system::mark_of;
use celeriant_schema::{Member, Refusal, Response, Version};
use celeriant_storage::directory::Fault;
use dashmap::DashMap;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::core::{Core, Effect};
use crate::clock::Micros;
use crate::work::{Answer, AnswerKind, Step, Work};

/// What the node knows of the schemas of its orgs: written by the registrar, read by all shards.
pub type Orgs = DashMap<String, Arc<Org>>;

/// Orgs that a shard remembers as up to date; with more, it begins anew.
const CURRENT_MAX: usize = 1 << 16;
/// When an org's schemas cannot be read.
const UNREADABLE_RETRY_MS: u32 = 1_000;

/// What a shard knows.
#[derive(Debug)]
pub(super) struct Schemas<R> {
    orgs: Arc<Orgs>,
    /// Of the cluster.
    shards: u16,
    /// Orgs whose mark has not moved since this was looked up; `None`: nothing was ever said.
    current: HashMap<Box<str>, Option<Arc<Org>>, FixedState>,
    /// What waits until the registrar has read an org's schemas.
    waiting: BTreeMap<String, Vec<Work<R>>>,
}

/// Why it is not known whether a write conforms.
pub(super) enum Unknown {
    /// A page of the directory is not in memory.
    Page(Fault),
    /// The org's schemas have not been read.
    Unread(String, Version),
}

impl<R> Schemas<R> {
    /// How many shards the cluster has.
    pub(super) fn shards(&self) -> u16 {
        self.shards
    }

    pub(super) fn new(orgs: Arc<Orgs>, shards: u16) -> Self {
        let current = HashMap::with_hasher(FixedState::default());
        Self { orgs, shards, current, waiting: BTreeMap::new() }
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The mark of an org moves, or may.
    pub(super) fn forget(&mut self, org: &str) {
        self.current.remove(org);
    }

    /// Any mark may have moved.
    pub(super) fn forget_all(&mut self) {
        self.current.clear();
    }

    /// Forgets who waits; returns them.
    pub(super) fn take_waiting(&mut self) -> impl Iterator<Item = Work<R>> + use<R> {
        std::mem::take(&mut self.waiting).into_values().flatten()
    }

    /// Checks the events of a write whose orgs are all known.
    pub(super) fn check(&self, members: &[Member]) -> Result<(), Refusal> {
        for member in members.iter().filter(|member| !member.events.is_empty()) {
            match self.current.get(member.key.org()) {
                Some(None) => {}
                Some(Some(org)) => org.check_member(member)?,
                // A registration is under way.
                None => {
                    let org = self.orgs.get(member.key.org()).map(|org| Arc::clone(&org));
                    org.map_or(Ok(()), |org| org.check_member(member))?;
                }
            }
        }
        Ok(())
    }
}

impl<R> Core<R> {
    /// Makes sure that the schemas of all orgs of a write are known, as far as this shard's marks
    /// say that there are any. Whether there are: else nothing has to be checked.
    pub(super) fn know_schemas(&mut self, members: &[Member]) -> Result<bool, Unknown> {
        let mut any = false;
        let mut last = "";
        for key in members.iter().map(|member| &member.key) {
            if key.org() == last || key.is_system() {
                continue;
            }
            last = key.org();
            any |= match self.schemas.current.get(last) {
                Some(known) => known.is_some(),
                None => self.know_org(last)?,
            };
        }
        Ok(any)
    }

    fn know_org(&mut self, org: &str) -> Result<bool, Unknown> {
        if self.schemas.waiting.contains_key(org) {
            // Behind those that came first.
            return Err(Unknown::Unread(org.to_owned(), Version::NONE));
        }
        let Ok(mark) = mark_of(org, self.shard, self.schemas.shards) else {
            unreachable!("{org} is an org of a valid key");
        };
        // Its registration may have been answered before this shard heard of the decision.
        self.show_if_decided(&mark);
        let head = self.directory.standing(&mark, &self.pins).map_err(Unknown::Page)?;
        let wanted = head.map_or(Version::NONE, |head| head.version);
        let known = match wanted {
            Version::NONE => None,
            _ => self.schemas.orgs.get(org).map(|org| Arc::clone(&org)),
        };
        if known.as_ref().map_or(Version::NONE, |org| org.version()) < wanted {
            return Err(Unknown::Unread(org.to_owned(), wanted));
        }
        let any = known.is_some();
        let moves = self.accepted.find(&mark).is_some_and(|state| state.hold.is_some());
        if !moves {
            if self.schemas.current.len() >= CURRENT_MAX {
                self.schemas.forget_all();
            }
            self.schemas.current.insert(org.into(), known);
        }
        Ok(any)
    }

    /// Keeps work until what it lacks is known.
    pub(super) fn wait_to_know(
        &mut self,
        work: Work<R>,
        lacks: Unknown,
        effects: &mut Vec<Effect<R>>,
    ) {
        match lacks {
            Unknown::Page(fault) => self.park(work, fault.into(), effects),
            Unknown::Unread(org, version) => {
                let waiting = self.schemas.waiting.entry(org.clone()).or_default();
                if waiting.is_empty() {
                    effects.push(Effect::Schemas { org, version });
                }
                waiting.push(work);
            }
        }
    }

    /// The registrar has read an org's schemas as far as it was asked to, or says why not.
    pub(super) fn schemas_read(
        &mut self,
        now: Micros,
        org: &str,
        outcome: &Result<(), String>,
        effects: &mut Vec<Effect<R>>,
    ) {
        let waiting = self.schemas.waiting.remove(org).unwrap_or_default();
        let Err(reason) = outcome else {
            return waiting.into_iter().for_each(|work| self.take(now, work, effects));
        };
        let what = format!("schemas of {org}, which cannot be read: {reason}");
        let refusal = Refusal::Overloaded { what, retry_after_ms: UNREADABLE_RETRY_MS };
        for work in waiting {
            match work {
                Work::Task(task) => {
                    effects.push(Effect::Reply(task.route, Response::Refused(refusal.clone())));
                }
                Work::Step(Step::Reserve { txn, coordinator, .. }) => {
                    let kind = AnswerKind::Refused { txn, refusal: refusal.clone() };
                    effects.push(Effect::Answer(coordinator, Answer { shard: self.shard, kind }));
                }
                Work::Step(step) => unreachable!("{step:?} needs no schemas"),
            }
        }
    }
}
