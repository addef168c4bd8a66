//! How much of its thread a watch takes when others want it.
//!
//! Whoever writes must not notice how many watch. On a thread that has time deliveries leave at
//! once; on one that has none they get a fourteenth of it, and what piles up meanwhile leaves
//! together, in fewer and larger pages: that costs a thousand watchers some tenths of a second
//! instead of costing the writers most of the thread.
//!
//! ```text
//! time that passes ─► balance (bounded) ─► deliveries, each at its price
//!       └ all of it, less twice what the others take, but never less than that
//! ```
//! Prices are estimates; what they miss counts as work of others, which only makes it thriftier.

use celeriant_schema::FeedPage;

use super::ring::page_bytes;
use crate::clock::Micros;

/// Of a thread that is full, in thousandths.
const LEAST: i64 = 70;
/// How far back it is remembered what others take, in µs.
const MEMORY: Micros = 10_000;
/// Looks at the thread that are closer than this say little.
const LOOK_MIN: Micros = 500;
/// Most that is saved up, in µs: what others may have to wait at once.
const SAVED_MAX: i64 = 2_000;
/// What it takes to deliver a page, in ns: most of it is the kernel's.
const PAGE_NS: i64 = 8_000;
/// And each KiB of it.
const KIB_NS: i64 = 2_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Share {
    /// Of the latest look: when, and how long the thread had worked by then.
    at: Micros,
    busy: Micros,
    /// What others take, in thousandths.
    others: i64,
    /// May be spent, in ns.
    balance: i64,
    /// Was spent since the latest look, in ns.
    spent: i64,
}

impl Default for Share {
    fn default() -> Self {
        Self { at: 0, busy: 0, others: 0, balance: SAVED_MAX * 1_000, spent: 0 }
    }
}

impl Share {
    /// At `now` the thread has worked for `busy` µs since it began.
    pub(super) fn look(&mut self, now: Micros, busy: Micros) {
        let passed = now.saturating_sub(self.at);
        if passed < LOOK_MIN {
            return;
        }
        let worked = busy.saturating_sub(self.busy).min(passed) as i64 * 1_000;
        let passed_ns = passed as i64 * 1_000;
        let others = (worked - self.spent).max(0) * 1_000 / passed_ns;
        let weight = passed.min(MEMORY) as i64;
        self.others += (others - self.others) * weight / MEMORY as i64;
        let earns = (1_000 - 2 * self.others).max(LEAST);
        self.balance = (self.balance + passed_ns / 1_000 * earns).min(SAVED_MAX * 1_000);
        (self.at, self.busy, self.spent) = (now, busy, 0);
    }

    /// Whether something may be delivered now.
    pub(super) fn is_left(&self) -> bool {
        self.balance > 0
    }

    /// A page is delivered.
    pub(super) fn spend(&mut self, page: &FeedPage) {
        let bytes: usize = page.batches.iter().map(page_bytes).sum();
        let price = PAGE_NS + bytes as i64 * KIB_NS / 1_024;
        self.balance -= price;
        self.spent += price;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages delivered in a second in which others work so many µs of each ms, if there are always
    /// some to deliver, and what they cost is what it is thought to cost.
    fn pages(others: u64) -> i64 {
        let (mut share, mut busy, mut pages) = (Share::default(), 0, 0);
        for ms in 1..=1_000 {
            busy += others;
            share.look(ms * 1_000, busy.min(ms * 1_000));
            let mut room = 1_000_u64.saturating_sub(others).max(200) as i64 * 1_000;
            while share.is_left() && room > 0 {
                share.spend(&FeedPage::default());
                (pages, room) = (pages + 1, room - PAGE_NS);
                busy += PAGE_NS as u64 / 1_000;
            }
        }
        pages
    }

    #[test]
    fn a_thread_that_has_time_gives_it_and_one_that_has_none_a_little() {
        let whole = 1_000_000_000 / PAGE_NS;
        let permille = |others| pages(others) * 1_000 / whole;
        assert!(permille(0) > 950, "{}", permille(0));
        assert!(permille(100) > 750, "{}", permille(100));
        assert!((65..=90).contains(&permille(600)), "{}", permille(600));
        assert!((65..=90).contains(&permille(1_000)), "{}", permille(1_000));
    }

    #[test]
    fn what_is_saved_up_is_soon_spent() {
        let mut share = Share::default();
        share.look(60_000_000, 0);
        let mut pages = 0;
        while share.is_left() {
            share.spend(&FeedPage::default());
            pages += 1;
        }
        assert_eq!(pages, SAVED_MAX * 1_000 / PAGE_NS);
    }
}
