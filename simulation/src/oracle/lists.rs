//! Listings: every name that existed before the asking, no name that did not exist before the
//! answer; of aggregates none that was deleted all the time between.

use std::collections::BTreeMap;

use celeriant_schema::key::SYSTEM_ORG;
use celeriant_schema::{AggregateKey, ListPage, ListQuery, Version, limits::LIST_PAGE_MAX};

use super::{Evidence, When};
use crate::ledger::{Order, Place};

/// When each name came into being: not before the first, known from the second.
pub(super) struct Names {
    orgs: BTreeMap<String, (Order, Order)>,
    kinds: BTreeMap<(String, String), (Order, Order)>,
    ids: BTreeMap<(String, String, String), (Order, Order)>,
}

impl Names {
    /// As anybody, or as that process had told.
    pub(super) fn new(evidence: &Evidence, place: Option<Place>) -> Self {
        let (mut orgs, mut kinds, mut ids) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        // The store's own is there from the first registration on: which one that was is not known.
        let first = evidence.registrations.iter().map(|it| it.first_sent).min();
        orgs.extend(first.map(|first| (SYSTEM_ORG.to_owned(), (first, Order::MAX))));
        for (key, batches) in &evidence.history.aggregates {
            let Some(origin) = batches.first().and_then(|batch| batch.origin) else { continue };
            let Some(operation) = evidence.operations.get(origin) else { continue };
            let life = (operation.first_sent(), evidence.progress.born(place, key));
            let (org, kind, id) =
                (key.org().to_owned(), key.kind().to_owned(), key.id().to_owned());
            merge(orgs.entry(org.clone()).or_insert(life), life);
            merge(kinds.entry((org.clone(), kind.clone())).or_insert(life), life);
            merge(ids.entry((org, kind, id)).or_insert(life), life);
        }
        Self { orgs, kinds, ids }
    }

    pub(super) fn check(
        &self,
        evidence: &Evidence,
        query: &ListQuery,
        page: &ListPage,
        when: When,
    ) -> Result<(), String> {
        let When { sent, answered, .. } = when;
        let limit = query.limit.clamp(1, LIST_PAGE_MAX) as usize;
        if page.names.len() > limit || !page.names.is_sorted() {
            return Err(format!("{} names for a limit of {limit}, or unsorted", page.names.len()));
        }
        let after = |name: &str| query.after.as_deref().is_none_or(|after| name > after);
        let mut lives = self.lives(query);
        lives.retain(|name, _| name.starts_with(&query.prefix) && after(name));
        for name in &page.names {
            if lives.get(name.as_str()).is_none_or(|(born, _)| *born >= answered) {
                return Err(format!("{name} is listed and was not there"));
            }
            if !lived(evidence, query, name, when).0 {
                return Err(format!("{name} is listed and was deleted"));
            }
        }
        let end = page.names.last().filter(|_| page.more);
        let missing = lives.iter().find(|(name, (_, known))| {
            let covered = end.is_none_or(|end| **name <= end.as_str());
            let is_listed = page.names.iter().any(|listed| listed == *name);
            *known < sent && covered && !is_listed && lived(evidence, query, name, when).1
        });
        match missing {
            Some((name, _)) => Err(format!("{name} was there and is not listed")),
            None if page.more && page.names.is_empty() => Err("an empty page with more".into()),
            None => Ok(()),
        }
    }

    fn lives(&self, query: &ListQuery) -> BTreeMap<&str, (Order, Order)> {
        match (&query.org, &query.kind) {
            (None, _) => self.orgs.iter().map(|(name, life)| (name.as_str(), *life)).collect(),
            (Some(org), None) => {
                let mine = self.kinds.iter().filter(|((other, _), _)| other == org);
                mine.map(|((_, name), life)| (name.as_str(), *life)).collect()
            }
            (Some(org), Some(kind)) => {
                let mine = self.ids.iter().filter(|((o, k, _), _)| o == org && k == kind);
                mine.map(|((_, _, name), life)| (name.as_str(), *life)).collect()
            }
        }
    }
}

/// Whether an aggregate can have been there, and whether it was all the time. Orgs and types are,
/// once they are.
fn lived(evidence: &Evidence, query: &ListQuery, name: &str, when: When) -> (bool, bool) {
    let (Some(org), Some(kind)) = (&query.org, &query.kind) else { return (true, true) };
    let Ok(key) = AggregateKey::new(org, kind, name) else { return (true, false) };
    let lives = |step| {
        let at = evidence.history.standing(&key, step);
        at.version > Version::NONE && !at.deleted
    };
    let mut steps = evidence.steps(&key, when);
    (steps.clone().any(lives), steps.all(lives))
}

fn merge(into: &mut (Order, Order), life: (Order, Order)) {
    *into = (into.0.min(life.0), into.1.min(life.1));
}
