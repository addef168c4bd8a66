//! The proof: what was promised, held against what each node has by itself.

use std::collections::BTreeMap;

use celeriant_client::{Aggregate, AggregateKey, Client, Hash};

use super::super::failure::Failure;
use super::bank::{Account, Bank, Entry};
use super::connect;
use super::stage::Stage;

/// So many problems are named.
const PROBLEMS_MAX: usize = 10;

/// What came of it.
pub(super) struct Found {
    /// Promises that were looked up.
    pub(super) receipts: usize,
    /// Events on both nodes together.
    pub(super) events: usize,
    pub(super) nodes: Vec<NodeFound>,
    /// What is not as promised.
    pub(super) problems: Vec<String>,
}

/// What one node has.
pub(super) struct NodeFound {
    pub(super) name: &'static str,
    /// Promises that it keeps.
    pub(super) kept: usize,
    pub(super) events: usize,
    pub(super) sum: u64,
}

/// One event of an account.
struct Seen {
    hash: Hash,
    entry: Entry,
}

/// A node's copy of all accounts: their events in order.
type Copy = BTreeMap<String, Vec<Seen>>;

/// What became of a transfer: amounts withdrawn and deposited, how often.
#[derive(Default)]
struct Legs {
    withdrawn: Vec<u64>,
    deposited: Vec<u64>,
}

/// Looks everything up on each node.
pub(super) async fn prove(stage: &mut Stage, bank: &Bank) -> Result<Found, Failure> {
    stage.whole().await?;
    let receipts = bank.with_promises(<[_]>::len);
    let mut found = Found { receipts, events: 0, nodes: Vec::new(), problems: Vec::new() };
    for at in 0..2 {
        // A client that knows one node only, and reads what any node may answer, reads from it.
        let client = connect(&stage.url_of(at)).await?;
        let (name, mut problems) = (stage.name(at), Vec::new());
        let copy = read(&client, bank, &mut problems).await?;
        let node = NodeFound {
            name,
            kept: kept(bank, &copy, &mut problems),
            events: copy.values().map(Vec::len).sum(),
            sum: sum(&copy),
        };
        if node.sum != bank.money() {
            problems.push(format!("accounts hold {}, not {}", node.sum, bank.money()));
        }
        check_transfers(bank, &copy, &mut problems);
        problems.truncate(PROBLEMS_MAX);
        found.problems.extend(problems.into_iter().map(|problem| format!("{name}: {problem}")));
        found.events += node.events;
        found.nodes.push(node);
    }
    Ok(found)
}

async fn read(client: &Client, bank: &Bank, problems: &mut Vec<String>) -> Result<Copy, Failure> {
    let mut copy = Copy::new();
    for key in bank.accounts() {
        copy.insert(key.to_string(), read_one(client, key, bank, problems).await?);
    }
    Ok(copy)
}

async fn read_one(
    client: &Client,
    key: &AggregateKey,
    bank: &Bank,
    problems: &mut Vec<String>,
) -> Result<Vec<Seen>, Failure> {
    let mut seen = Vec::new();
    for batch in client.read(key).any().min_stamp(bank.newest()).collect().await? {
        for event in &batch.events {
            if event.version.value() != seen.len() as u64 + 1 {
                problems.push(format!("{key}: version {} after {}", event.version, seen.len()));
            }
            seen.push(Seen { hash: event.hash, entry: event.to_typed()? });
        }
    }
    Ok(seen)
}

/// How many promises this copy keeps: each write at its version, with its hash.
fn kept(bank: &Bank, copy: &Copy, problems: &mut Vec<String>) -> usize {
    let mut kept = 0;
    bank.with_promises(|promises| {
        for promise in promises {
            let is_kept = promise.receipt.writes.iter().all(|write| {
                let events = copy.get(write.key.as_str());
                let at = (write.last_version.value() as usize).saturating_sub(1);
                let there = events.and_then(|events| events.get(at));
                there.is_some_and(|seen| {
                    seen.hash == write.hash && number(&seen.entry) == Some(promise.transfer)
                })
            });
            match is_kept {
                true => kept += 1,
                false => problems.push(format!("transfer {} is lost", promise.transfer)),
            }
        }
    });
    kept
}

/// Every transfer once and whole, and none that nobody was promised.
fn check_transfers(bank: &Bank, copy: &Copy, problems: &mut Vec<String>) {
    let mut transfers: BTreeMap<u64, Legs> = BTreeMap::new();
    for seen in copy.values().flatten() {
        match seen.entry {
            Entry::Opened { .. } => {}
            Entry::Withdrawn { amount, transfer } => {
                transfers.entry(transfer).or_default().withdrawn.push(amount);
            }
            Entry::Deposited { amount, transfer } => {
                transfers.entry(transfer).or_default().deposited.push(amount);
            }
        }
    }
    bank.with_promises(|promises| {
        let promised: BTreeMap<u64, u64> =
            promises.iter().map(|promise| (promise.transfer, promise.amount)).collect();
        for (number, legs) in &transfers {
            let (out, into) = (&legs.withdrawn, &legs.deposited);
            if out.len() > 1 || into.len() > 1 {
                problems.push(format!("transfer {number} landed twice: {out:?} → {into:?}"));
            } else if out != into {
                problems.push(format!("transfer {number} is not whole: {out:?} → {into:?}"));
            } else if promised.get(number) != out.first() {
                problems.push(format!("transfer {number} of {out:?} was promised to nobody"));
            }
        }
    });
}

fn sum(copy: &Copy) -> u64 {
    let balance = |events: &Vec<Seen>| {
        let mut account = Account::default();
        for seen in events {
            account.apply(seen.entry);
        }
        account.balance
    };
    copy.values().map(balance).sum()
}

fn number(entry: &Entry) -> Option<u64> {
    match entry {
        Entry::Opened { .. } => None,
        Entry::Withdrawn { transfer, .. } | Entry::Deposited { transfer, .. } => Some(*transfer),
    }
}
