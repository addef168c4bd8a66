//! Token buckets of orgs, two each: how many, and how many bytes. Pure but for a lock.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use celeriant_schema::Refusal;

use crate::clock::Micros;

/// What a second brings, of both; `None`: whatever is asked for.
pub(super) type Rates = [Option<u64>; 2];

/// Highest rate, so that a bucket can be counted in millionths.
pub(super) const RATE_MAX: u64 = 1 << 40;
/// Orgs whose buckets are remembered; with more, those that are full are forgotten.
const ORGS_MAX: usize = 1 << 14;
const MILLION: i64 = 1_000_000;

/// Of all orgs, for one kind of requests.
#[derive(Default)]
pub(super) struct Buckets {
    of_orgs: Mutex<BTreeMap<String, [Bucket; 2]>>,
    refused: AtomicU64,
}

/// How much is left, in millionths, and when that was.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: i64,
    level: i64,
    at: Micros,
}

impl Buckets {
    /// Requests that came too soon, since the start.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Takes one, and so many bytes, of each org that is named.
    ///
    /// # Errors
    /// `Overloaded`, with when there is something again; then nothing was taken.
    pub(super) fn take(
        &self,
        now: Micros,
        what: &str,
        costs: &[(&str, Rates, u64)],
    ) -> Result<(), Refusal> {
        let mut of_orgs = self.lock();
        for (org, rates, _) in costs {
            let of_org = of(&mut of_orgs, org, *rates, now);
            let wait_ms = of_org.iter_mut().map(|bucket| bucket.wait_ms(now)).max();
            if let Some(retry_after_ms) = wait_ms.filter(|wait| *wait > 0) {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let what = format!("quota of {org}: {what}");
                return Err(Refusal::Overloaded { what, retry_after_ms });
            }
        }
        for (org, rates, bytes) in costs {
            let [number, of_bytes] = of(&mut of_orgs, org, *rates, now);
            number.take(1);
            of_bytes.take(*bytes);
        }
        Ok(())
    }

    /// Takes bytes of what was let in at `now`.
    pub(super) fn take_bytes(&self, now: Micros, org: &str, rates: Rates, bytes: u64) {
        let mut of_orgs = self.lock();
        let [_, of_bytes] = of(&mut of_orgs, org, rates, now);
        of_bytes.take(bytes);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, [Bucket; 2]>> {
        // Poisoned: each bucket is a number, which is whole.
        self.of_orgs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The buckets of an org.
fn of<'a>(
    of_orgs: &'a mut BTreeMap<String, [Bucket; 2]>,
    org: &str,
    rates: Rates,
    now: Micros,
) -> &'a mut [Bucket; 2] {
    let is_new = !of_orgs.contains_key(org);
    if is_new && of_orgs.len() >= ORGS_MAX {
        of_orgs.retain(|_, of_org| of_org.iter_mut().any(|bucket| !bucket.is_full(now)));
    }
    // Its name is copied when it is new.
    if is_new {
        of_orgs.insert(org.to_owned(), rates.map(|rate| Bucket::full(rate, now)));
    }
    of_orgs.get_mut(org).unwrap_or_else(|| unreachable!("{org} was put there"))
}

impl fmt::Debug for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buckets").field("refused", &self.refused).finish_non_exhaustive()
    }
}

impl Bucket {
    /// `None`: bottomless.
    fn full(rate: Option<u64>, now: Micros) -> Self {
        let rate = rate.map_or(i64::MAX / MILLION, |rate| rate.min(RATE_MAX) as i64);
        Self { rate, level: rate * MILLION, at: now }
    }

    /// May overdraw.
    fn take(&mut self, amount: u64) {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        self.level = self.level.saturating_sub(amount.saturating_mul(MILLION));
    }

    fn refill(&mut self, now: Micros) {
        let elapsed = i64::try_from(now.saturating_sub(self.at)).unwrap_or(i64::MAX);
        let brought = elapsed.saturating_mul(self.rate);
        self.level = self.level.saturating_add(brought).min(self.rate * MILLION);
        self.at = now.max(self.at);
    }

    fn is_full(&mut self, now: Micros) -> bool {
        self.refill(now);
        self.level == self.rate * MILLION
    }

    /// How long until something can be taken; 0: now.
    fn wait_ms(&mut self, now: Micros) -> u32 {
        self.refill(now);
        if self.level > 0 {
            return 0;
        }
        // A rate per second brings that many millionths in a microsecond.
        let micros = self.level.saturating_neg() / self.rate + 1;
        u32::try_from(micros / 1_000 + 1).unwrap_or(u32::MAX)
    }
}
