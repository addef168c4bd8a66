//! Who waits for something to happen, found by what happened: the cost of an event does not grow
//! with the watchers that it does not concern.

use std::collections::BTreeMap;

use celeriant_schema::AggregateKey;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::core::Poll;

/// See the module.
#[derive(Debug)]
pub(super) struct Waiting<R> {
    next: u64,
    polls: BTreeMap<u64, Poll<R>>,
    /// By selector, as text.
    by_selector: HashMap<String, Vec<u64>, FixedState>,
}

impl<R> Default for Waiting<R> {
    fn default() -> Self {
        let by_selector = HashMap::with_hasher(FixedState::default());
        Self { next: 0, polls: BTreeMap::new(), by_selector }
    }
}

impl<R> Waiting<R> {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.polls.len()
    }

    /// One more.
    pub(super) fn add(&mut self, poll: Poll<R>) {
        self.next += 1;
        // Of several selectors, each finds it.
        for selector in poll.query.selector.parts() {
            self.by_selector.entry(selector.to_string()).or_default().push(self.next);
        }
        self.polls.insert(self.next, poll);
    }

    /// Takes those out whom an event of `key` may concern.
    pub(super) fn take_concerned(&mut self, key: &AggregateKey) -> Vec<Poll<R>> {
        let mut taken = Vec::new();
        if self.by_selector.is_empty() {
            return taken;
        }
        let text = key.as_str();
        let [org, kind] = key.separators();
        for selector in ["*", &text[..org], &text[..kind], text] {
            let Some(numbers) = self.by_selector.remove(selector) else { continue };
            taken.reserve(numbers.len());
            for number in numbers {
                let Some(poll) = self.polls.remove(&number) else { continue };
                for other in poll.query.selector.parts() {
                    self.forget(number, &other.to_string(), selector);
                }
                taken.push(poll);
            }
        }
        taken
    }

    /// It is not found by `selector` any more, unless `gone` says that nobody is.
    fn forget(&mut self, number: u64, selector: &str, gone: &str) {
        if selector == gone {
            return;
        }
        if let Some(waiting) = self.by_selector.get_mut(selector) {
            waiting.retain(|waiting| *waiting != number);
            if waiting.is_empty() {
                self.by_selector.remove(selector);
            }
        }
    }

    /// Takes one out.
    fn take(&mut self, number: u64) -> Option<Poll<R>> {
        let poll = self.polls.remove(&number)?;
        for selector in poll.query.selector.parts() {
            self.forget(number, &selector.to_string(), "");
        }
        Some(poll)
    }

    /// Takes those out that are.
    pub(super) fn take_if(&mut self, is_due: impl Fn(&Poll<R>) -> bool) -> Vec<Poll<R>> {
        let due = self.polls.iter().filter(|(_, poll)| is_due(poll)).map(|(number, _)| *number);
        let due: Vec<u64> = due.collect();
        due.into_iter().filter_map(|number| self.take(number)).collect()
    }
}
