//! Moves money between accounts from several tasks at once; no money appears or disappears.
//!
//! `cargo run -p celeriant-client --example bank_transfer` against a node at `CELERIANT_URL`
//! (default `celeriant://localhost:7440`).

#![allow(clippy::disallowed_methods)] // Concerns the server: an application may draw random ids.

use celeriant_client::{Aggregate, AggregateKey, Client, ExecuteError};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

#[derive(Debug, Deserialize, Serialize)]
enum AccountEvent {
    Opened { owner: String },
    Deposited { amount: u64 },
    Withdrawn { amount: u64 },
}

#[derive(Debug, Default)]
struct Account {
    owner: String,
    balance: u64,
}

impl Aggregate for Account {
    type Event = AccountEvent;

    fn apply(&mut self, event: AccountEvent) {
        match event {
            AccountEvent::Opened { owner } => self.owner = owner,
            AccountEvent::Deposited { amount } => self.balance += amount,
            AccountEvent::Withdrawn { amount } => self.balance -= amount,
        }
    }
}

#[derive(Debug)]
enum No {
    AlreadyOpen,
    NotEnough { balance: u64 },
}

impl std::fmt::Display for No {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AlreadyOpen => f.write_str("the account is open already"),
            Self::NotEnough { balance } => write!(f, "there is only {balance}"),
        }
    }
}

impl Account {
    fn open(&self, owner: &str, amount: u64) -> Result<Vec<AccountEvent>, No> {
        if !self.owner.is_empty() {
            return Err(No::AlreadyOpen);
        }
        Ok(vec![AccountEvent::Opened { owner: owner.into() }, AccountEvent::Deposited { amount }])
    }

    fn withdraw(&self, amount: u64) -> Result<Vec<AccountEvent>, No> {
        if amount > self.balance {
            return Err(No::NotEnough { balance: self.balance });
        }
        Ok(vec![AccountEvent::Withdrawn { amount }])
    }
}

/// One decision over two accounts: what it returns is written to both or to none.
fn transfer(from: &Account, _to: &Account, amount: u64) -> Result<[Vec<AccountEvent>; 2], No> {
    Ok([from.withdraw(amount)?, vec![AccountEvent::Deposited { amount }]])
}

async fn balance(client: &Client, key: &AggregateKey) -> Result<Account, celeriant_client::Error> {
    let mut account = Account::default();
    for batch in client.read(key).collect().await? {
        for event in &batch.events {
            account.apply(event.to_typed()?);
        }
    }
    Ok(account)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("CELERIANT_URL");
    let client = Client::connect(url.as_deref().unwrap_or("celeriant://localhost:7440")).await?;
    let run = uuid::Uuid::new_v4();
    let account = |owner: &str| AggregateKey::new("examples", "account", &format!("{owner}-{run}"));
    let (alice, bob) = (account("alice")?, account("bob")?);

    // In a service: a fixed id, the same for all of its replicas.
    let writer = client.writer(uuid::Uuid::new_v4());
    writer.execute(&alice, |account: &Account| account.open("Alice", 100)).await?;
    writer.execute(&bob, |account: &Account| account.open("Bob", 100)).await?;

    // Twenty transfers back and forth at once, by writers that know nothing of each other.
    let mut transfers = JoinSet::new();
    for round in 0..20_u64 {
        let writer = client.writer(uuid::Uuid::new_v4());
        let (from, to) = if round % 2 == 0 {
            (alice.clone(), bob.clone())
        } else {
            (bob.clone(), alice.clone())
        };
        transfers.spawn(async move {
            writer
                .execute_many([&from, &to], |[from, to]: [&Account; 2]| {
                    transfer(from, to, round + 1)
                })
                .await
        });
    }
    let mut decisions = 0;
    while let Some(done) = transfers.join_next().await {
        match done? {
            Ok(outcome) => decisions += outcome.decisions,
            Err(ExecuteError::Refused(no)) => println!("refused: {no}"),
            Err(ExecuteError::Store(error)) => return Err(error.into()),
        }
    }
    println!("20 transfers took {decisions} decisions");

    let (alice, bob) = (balance(&client, &alice).await?, balance(&client, &bob).await?);
    println!("{} has {}, {} has {}", alice.owner, alice.balance, bob.owner, bob.balance);
    assert_eq!(alice.balance + bob.balance, 200, "no money appears or disappears");
    Ok(())
}
