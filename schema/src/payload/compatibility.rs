//! What is found when a schema is compared with the one before it.

use std::fmt;

use crate::limits::SCHEMA_REASONS_MAX;

/// Everything that stands against a schema as the next minor version, each thing with its place.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Compatibility {
    violations: Vec<String>,
    undecided: Vec<String>,
}

impl Compatibility {
    /// What is certainly not compatible; at most [`SCHEMA_REASONS_MAX`].
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// What the rules cannot decide; at most [`SCHEMA_REASONS_MAX`]. An operator may.
    pub fn undecided(&self) -> &[String] {
        &self.undecided
    }

    /// Nothing stands against it.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.undecided.is_empty()
    }

    pub(super) fn violation(&mut self, path: &str, reason: impl fmt::Display) {
        push(&mut self.violations, path, reason);
    }

    pub(super) fn undecided_at(&mut self, path: &str, reason: impl fmt::Display) {
        push(&mut self.undecided, path, reason);
    }
}

fn push(list: &mut Vec<String>, path: &str, reason: impl fmt::Display) {
    if list.len() < SCHEMA_REASONS_MAX {
        let place = if path.is_empty() { "schema" } else { path };
        list.push(format!("{place}: {reason}"));
    }
}
