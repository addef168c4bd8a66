//! Money that moves: accounts, writers that transfer between them, and a ledger of what they were
//! promised.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use celeriant_client::{
    Aggregate, AggregateKey, Client, ClientId, ExecuteError, Receipt, Stamp, Writer,
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::super::failure::Failure;
use super::stage::SHARDS;
use super::{PATIENCE, failed};

const ACCOUNTS: usize = 48;
const OPENED_WITH: u64 = 1_000;
/// How many move money at the same time.
pub(super) const WRITERS: usize = 16;
/// Of a writer between transfers: the demo is about what happens, not about speed.
const PAUSE: Duration = Duration::from_millis(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What can happen to an account.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) enum Entry {
    Opened { amount: u64 },
    Withdrawn { amount: u64, transfer: u64 },
    Deposited { amount: u64, transfer: u64 },
}

/// An account, as its events make it.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) balance: u64,
}

impl Aggregate for Account {
    type Event = Entry;

    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Opened { amount } | Entry::Deposited { amount, .. } => self.balance += amount,
            Entry::Withdrawn { amount, .. } => self.balance -= amount,
        }
    }
}

/// There is not enough money for it.
struct NotEnough;

fn transfer(from: &Account, amount: u64, transfer: u64) -> Result<[Vec<Entry>; 2], NotEnough> {
    if from.balance < amount {
        return Err(NotEnough);
    }
    Ok([vec![Entry::Withdrawn { amount, transfer }], vec![Entry::Deposited { amount, transfer }]])
}

/// Something that the store said is done.
pub(super) struct Promise {
    pub(super) transfer: u64,
    pub(super) amount: u64,
    pub(super) receipt: Receipt,
}

/// All accounts, and what was promised about them.
pub(super) struct Bank {
    client: Client,
    accounts: Arc<[AggregateKey]>,
    ledger: Arc<Mutex<Ledger>>,
    /// Numbers of writers are never used again.
    writers: Mutex<u64>,
}

/// What writers were told.
#[derive(Default)]
struct Ledger {
    promises: Vec<Promise>,
    receipts_at: Vec<Instant>,
    errors: Vec<String>,
}

impl Bank {
    /// Opens all accounts.
    pub(super) async fn open(client: Client) -> Result<Self, Failure> {
        let accounts: Result<Vec<AggregateKey>, _> =
            (0..ACCOUNTS).map(|number| format!("demo/account/{number}").parse()).collect();
        let accounts: Arc<[AggregateKey]> = accounts.map_err(|_| failed("a key"))?.into();
        let writer = writer(&client, 0);
        for account in accounts.iter() {
            let open = |_: &Account| vec![Entry::Opened { amount: OPENED_WITH }];
            writer.execute(account, open).await.map_err(|error| failed(error.to_string()))?;
        }
        Ok(Self { client, accounts, ledger: Arc::default(), writers: Mutex::new(1) })
    }

    pub(super) fn accounts(&self) -> &[AggregateKey] {
        &self.accounts
    }

    /// How many shards have accounts.
    pub(super) fn shards(&self) -> usize {
        let mut shards: Vec<_> = self.accounts.iter().map(|key| key.shard(SHARDS)).collect();
        shards.sort_unstable();
        shards.dedup();
        shards.len()
    }

    /// How much money there is.
    pub(super) fn money(&self) -> u64 {
        ACCOUNTS as u64 * OPENED_WITH
    }

    /// How many transfers were promised.
    pub(super) fn promised(&self) -> usize {
        lock(&self.ledger).promises.len()
    }

    /// Looks at what was promised.
    pub(super) fn with_promises<T>(&self, look: impl FnOnce(&[Promise]) -> T) -> T {
        look(&lock(&self.ledger).promises)
    }

    /// The longest time without a receipt, in ms, from the last one before `since` on.
    pub(super) fn pause_since(&self, since: Instant) -> u64 {
        let receipts_at = &lock(&self.ledger).receipts_at;
        let first = receipts_at.partition_point(|at| *at <= since).saturating_sub(1);
        let gaps = receipts_at[first..].windows(2).map(|two| two[1].duration_since(two[0]));
        gaps.max().map_or(0, |gap| gap.as_millis() as u64)
    }

    /// Calls that failed: an error of the store, or no answer in time.
    pub(super) fn errors(&self) -> Vec<String> {
        lock(&self.ledger).errors.clone()
    }

    /// The newest stamp of a promise.
    pub(super) fn newest(&self) -> Stamp {
        let newest = |promises: &[Promise]| promises.iter().map(|p| p.receipt.stamp).max();
        self.with_promises(newest).unwrap_or(Stamp::ZERO)
    }

    /// What the leader says that all accounts hold together.
    pub(super) async fn sum(&self) -> Result<u64, Failure> {
        let mut sum = 0;
        for key in self.accounts.iter() {
            let mut account = Account::default();
            for batch in self.client.read(key).collect().await? {
                for event in &batch.events {
                    account.apply(event.to_typed()?);
                }
            }
            sum += account.balance;
        }
        Ok(sum)
    }

    /// Money begins to move.
    pub(super) fn load(&self) -> Load<'_> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut next = lock(&self.writers);
        let tasks = (0..WRITERS).map(|_| {
            let number = *next;
            *next += 1;
            let teller = Teller {
                writer: writer(&self.client, number),
                number,
                accounts: Arc::clone(&self.accounts),
                ledger: Arc::clone(&self.ledger),
                stop: Arc::clone(&stop),
            };
            tokio::spawn(teller.run())
        });
        let tasks = tasks.collect();
        Load { bank: self, stop, tasks }
    }
}

/// Money that is moving.
pub(super) struct Load<'a> {
    bank: &'a Bank,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl<'a> Load<'a> {
    /// A view of what others have set going.
    pub(super) fn of(bank: &'a Bank) -> Self {
        Self { bank, stop: Arc::default(), tasks: Vec::new() }
    }

    /// Waits until so many more transfers are promised.
    pub(super) async fn wait_for(&self, more: usize) -> Result<(), Failure> {
        let (began, before) = (Instant::now(), self.bank.promised());
        while self.bank.promised() < before + more {
            if began.elapsed() > PATIENCE {
                let done = self.bank.promised() - before;
                return Err(failed(format!("{done} of {more} transfers within {PATIENCE:?}")));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Waits until what was begun is done.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.map_err(|error| failed(format!("a writer stopped: {error}")))?;
        }
        Ok(())
    }
}

/// One that moves money.
struct Teller {
    writer: Writer,
    number: u64,
    accounts: Arc<[AggregateKey]>,
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
}

impl Teller {
    async fn run(self) {
        // Any numbers will do, as long as they differ.
        let mut random = self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for count in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let from = (random >> 33) as usize % self.accounts.len();
            let step = 1 + (random >> 48) as usize % (self.accounts.len() - 1);
            let to = (from + step) % self.accounts.len();
            let amount = 1 + (random >> 20) % 50;
            self.transfer(from, to, amount, self.number * 1_000_000 + count).await;
            sleep(PAUSE).await;
        }
    }

    async fn transfer(&self, from: usize, to: usize, amount: u64, number: u64) {
        let keys = [&self.accounts[from], &self.accounts[to]];
        let decide = |[from, _]: [&Account; 2]| transfer(from, amount, number);
        let outcome = self.writer.execute_many(keys, decide).await;
        let mut ledger = lock(&self.ledger);
        match outcome {
            Ok(outcome) => {
                if let Some(receipt) = outcome.receipt {
                    ledger.promises.push(Promise { transfer: number, amount, receipt });
                    ledger.receipts_at.push(Instant::now());
                }
            }
            Err(ExecuteError::Refused(NotEnough)) => {}
            Err(ExecuteError::Store(error)) => ledger.errors.push(error.to_string()),
        }
    }
}

fn writer(client: &Client, number: u64) -> Writer {
    client.writer(ClientId::new(0xde_0000_0000 + u128::from(number))).with_timeout(PATIENCE)
}

/// A writer that panicked is found when its task is waited for.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
