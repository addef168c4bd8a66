//! Names in order: orgs, an org's types, a type's ids.
//!
//! One ordered set of keys; the next org or type is found by seeking past everything of the one
//! before, so a page costs what it returns. Joined text sorts like the parts because `/` ranks
//! below every character of a name (schema::key), and 0xFF, which is in no name, ranks above all of
//! them.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;

use celeriant_schema::key::compare_key_text;
use celeriant_schema::{AggregateKey, ListPage};

use super::{Directory, Fault, Pins};

/// A key, or a place between keys. Ordered by its text.
#[derive(Clone, Debug)]
enum Mark {
    Key(AggregateKey),
    Between(Vec<u8>),
}

impl Mark {
    fn text(&self) -> &[u8] {
        match self {
            Self::Key(key) => key.as_bytes(),
            Self::Between(text) => text,
        }
    }
}

impl Ord for Mark {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_key_text(self.text(), other.text())
    }
}

impl PartialOrd for Mark {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Mark {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Mark {}

/// All keys of a directory in order.
#[derive(Debug, Default)]
pub(super) struct Names {
    keys: BTreeSet<Mark>,
}

/// Above every name that starts with what is before it.
const ABOVE: u8 = 0xff;

impl Names {
    pub(super) fn insert(&mut self, key: &AggregateKey) {
        self.keys.insert(Mark::Key(key.clone()));
    }

    /// Names below `parent` (empty, `org/` or `org/type/`) that start with `prefix`, after `after`.
    fn page(&self, parent: &str, prefix: &str, after: Option<&str>, limit: usize) -> ListPage {
        let mut page = ListPage::default();
        let seek = |parts: &[&[u8]]| Mark::Between(parts.concat());
        let mut from = match after {
            Some(after) if after >= prefix => {
                Bound::Excluded(seek(&[parent.as_bytes(), after.as_bytes(), b"/", &[ABOVE]]))
            }
            _ => Bound::Included(seek(&[parent.as_bytes(), prefix.as_bytes()])),
        };
        while let Some(key) = self.keys.range((from, Bound::Unbounded)).next() {
            let Some(name) = name_below(key.text(), parent, prefix) else { break };
            if page.names.len() == limit {
                page.more = true;
                break;
            }
            from = Bound::Excluded(seek(&[parent.as_bytes(), name.as_bytes(), b"/", &[ABOVE]]));
            page.names.push(name.to_owned());
        }
        page
    }
}

/// The name in `text` that follows `parent`, if it starts with `prefix`.
fn name_below<'a>(text: &'a [u8], parent: &str, prefix: &str) -> Option<&'a str> {
    let rest = text.strip_prefix(parent.as_bytes())?;
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    let name = std::str::from_utf8(&rest[..end]).ok()?;
    name.starts_with(prefix).then_some(name)
}

impl Directory {
    /// Names that start with `prefix`, after `after`, at most `limit`: orgs, or types of `org`, or
    /// ids of `org`'s aggregates of type `kind`.
    ///
    /// # Errors
    /// A page is missing or damaged.
    pub fn list(
        &self,
        org: Option<&str>,
        kind: Option<&str>,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        _: &Pins,
    ) -> Result<ListPage, Fault> {
        let parent = match (org, kind) {
            (None, _) => String::new(),
            (Some(org), None) => format!("{org}/"),
            (Some(org), Some(kind)) => format!("{org}/{kind}/"),
        };
        Ok(self.names.page(&parent, prefix, after, limit))
    }
}
