//! What is watched: who waits for something of it, and where in the ring that is. So the cost of an
//! event does not grow with the watchers that it does not concern, nor that of a watcher with the
//! events that do not concern him, which the ring does not even keep.
//!
//! ```text
//! event ─► its key, type, org, and all ─► topics ─┬─► numbers of ring entries, one list a topic
//!                                                 └─► who waits is due
//! ```
//! A topic begins with whoever watches first, and ends a little after nobody did any more. What was
//! before it is in the log.

use std::collections::VecDeque;

use celeriant_schema::{AggregateKey, Selector, Stamp};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::core::Poll;

/// Numbers in all lists together; more, and they begin anew.
const LISTED_MAX: usize = 1 << 20;

/// Topics at a time: of a selector beyond them the log is read, which finds the same.
pub(super) const TOPICS_MAX: usize = 100_000;
/// A topic ends after so many looks without anybody: more than the longest that one who goes on may
/// have to wait for a thread that is full.
const UNUSED_MAX: u8 = 5;

/// See the module.
#[derive(Debug)]
pub(super) struct Topics<R> {
    next: u64,
    topics: HashMap<u64, Topic<R>, FixedState>,
    /// By their selectors, as text.
    by_text: HashMap<String, u64, FixedState>,
    /// Those that have that plain selector among theirs.
    by_part: HashMap<String, Vec<u64>, FixedState>,
    waiting: usize,
    listed: usize,
}

#[derive(Debug)]
struct Topic<R> {
    selector: Selector,
    waiting: Vec<Poll<R>>,
    /// Entries of the ring that are of it.
    entries: VecDeque<u64>,
    /// Those behind this are listed.
    from: Stamp,
    /// Looks since somebody wanted something of it.
    unused: u8,
}

impl<R> Default for Topics<R> {
    fn default() -> Self {
        Self {
            next: 0,
            topics: HashMap::default(),
            by_text: HashMap::default(),
            by_part: HashMap::default(),
            waiting: 0,
            listed: 0,
        }
    }
}

impl<R> Topics<R> {
    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The topic of a selector. If there is none it begins, if there is room: what shards tell
    /// behind `from` will be listed.
    pub(super) fn begin(&mut self, selector: &Selector, from: Stamp) -> Option<u64> {
        let is_full = self.topics.len() >= TOPICS_MAX;
        let text = match self.by_text.entry(selector.to_string()) {
            Entry::Occupied(number) => return Some(*number.get()),
            Entry::Vacant(_) if is_full => return None,
            Entry::Vacant(text) => text,
        };
        self.next += 1;
        text.insert(self.next);
        for part in selector.parts() {
            self.by_part.entry(part.to_string()).or_default().push(self.next);
        }
        let (selector, waiting, entries) = (selector.clone(), Vec::new(), VecDeque::new());
        self.topics.insert(self.next, Topic { selector, waiting, entries, from, unused: 0 });
        Some(self.next)
    }

    /// The topic of a selector, if there is one.
    pub(super) fn find(&self, selector: &Selector) -> Option<u64> {
        self.by_text.get(selector.to_string().as_str()).copied()
    }

    /// One more waits, of a topic that is: nothing in the ring is for him.
    pub(super) fn add(&mut self, topic: u64, poll: Poll<R>) {
        let Some(topic) = self.topics.get_mut(&topic) else {
            unreachable!("who waits has looked into the list of his topic")
        };
        topic.waiting.push(poll);
        self.waiting += 1;
    }

    /// Whether somebody watches `key`.
    pub(super) fn is_watched(&self, key: &AggregateKey) -> bool {
        !self.topics.is_empty() && parts(key).into_iter().any(|it| self.by_part.contains_key(it))
    }

    /// Entry `number` of the ring, the newest, is an event of `key`; takes those out whom it may
    /// concern.
    pub(super) fn told(&mut self, number: u64, key: &AggregateKey, into: &mut Vec<Poll<R>>) {
        for part in parts(key) {
            for topic in self.by_part.get(part).into_iter().flatten() {
                let Some(topic) = self.topics.get_mut(topic) else { continue };
                // Of several selectors more than one may have it.
                if topic.entries.back() != Some(&number) {
                    topic.entries.push_back(number);
                    self.listed += 1;
                }
                self.waiting -= topic.waiting.len();
                into.append(&mut topic.waiting);
            }
        }
    }

    /// The ring's entries of a topic behind `after`, and maybe some before; `None`: not known.
    pub(super) fn entries(&mut self, topic: u64, after: Stamp) -> Option<&VecDeque<u64>> {
        let topic = self.topics.get_mut(&topic)?;
        topic.unused = 0;
        (topic.from <= after).then_some(&topic.entries)
    }

    /// Takes those out that are.
    pub(super) fn take_if(&mut self, is_due: impl Fn(&Poll<R>) -> bool) -> Vec<Poll<R>> {
        let topics = self.topics.values_mut();
        let due: Vec<_> =
            topics.flat_map(|topic| topic.waiting.extract_if(.., |poll| is_due(poll))).collect();
        self.waiting -= due.len();
        due
    }

    /// The ring begins with entry `first`, and shards have told up to `latest`: forgets what is not
    /// there any more, and, once in a while, topics that nobody wanted for some time.
    pub(super) fn look(&mut self, first: u64, latest: Stamp, is_time: bool) {
        let is_full = self.is_full();
        self.listed = 0;
        let mut gone = Vec::new();
        self.topics.retain(|_, topic| {
            if is_full {
                (topic.entries, topic.from) = (VecDeque::new(), latest);
            }
            let old = topic.entries.partition_point(|entry| *entry < first);
            topic.entries.drain(..old);
            topic.unused += u8::from(is_time);
            let stays = topic.unused <= UNUSED_MAX || !topic.waiting.is_empty();
            if !topic.waiting.is_empty() {
                topic.unused = 0;
            }
            match stays {
                true => self.listed += topic.entries.len(),
                false => gone.push(topic.selector.clone()),
            }
            stays
        });
        for selector in gone {
            self.by_text.remove(selector.to_string().as_str());
            for part in selector.parts() {
                let Entry::Occupied(mut of_part) = self.by_part.entry(part.to_string()) else {
                    continue;
                };
                of_part.get_mut().retain(|topic| self.topics.contains_key(topic));
                if of_part.get().is_empty() {
                    of_part.remove();
                }
            }
        }
    }

    /// Whether the lists have become long: a look makes them shorter.
    pub(super) fn is_full(&self) -> bool {
        self.listed > LISTED_MAX
    }
}

/// The plain selectors that have `key`.
fn parts(key: &AggregateKey) -> [&str; 4] {
    let text = key.as_str();
    let [org, kind] = key.separators();
    ["*", &text[..org], &text[..kind], text]
}
