//! Balances of accounts in an SQLite database, exactly once: killed at any moment and started
//! again, it goes on where its last transaction left off.
//!
//! `cargo run -p celeriant-client --example projection [FILE]` against a node at `CELERIANT_URL`
//! (default `celeriant://localhost:7440`); `bank_transfer` makes something to see.

use celeriant_client::{Client, Error, Projection, Selector, Stamp, Watched};
use rusqlite::{Connection, OptionalExtension, params};

/// What can go wrong, on either side.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Store(#[from] Error),
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
}

/// The table of balances, and beside it how far it has got.
struct Balances {
    database: Connection,
}

impl Balances {
    fn open(path: &str) -> Result<Self, Failed> {
        let database = Connection::open(path)?;
        database.execute_batch(
            "CREATE TABLE IF NOT EXISTS balance (account TEXT PRIMARY KEY, amount INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS cursor (
                 one INTEGER PRIMARY KEY CHECK (one = 1), stamp INTEGER NOT NULL);",
        )?;
        Ok(Self { database })
    }
}

/// How much an event adds to its account.
fn change(event: &celeriant_client::Recorded) -> Result<i64, Error> {
    let amount = || event.to_json::<serde_json::Value>().map(|data| data["amount"].as_i64());
    Ok(match event.event_type.as_str() {
        "Deposited" => amount()?.unwrap_or(0),
        "Withdrawn" => -amount()?.unwrap_or(0),
        _ => 0,
    })
}

impl Projection for Balances {
    type Error = Failed;

    async fn cursor(&mut self) -> Result<Option<Stamp>, Failed> {
        let stored = self.database.query_row("SELECT stamp FROM cursor", [], |row| row.get(0));
        Ok(stored.optional()?.map(|stamp: i64| Stamp::new(stamp.unsigned_abs())))
    }

    async fn apply(&mut self, changes: Vec<Watched>, cursor: Stamp) -> Result<(), Failed> {
        let transaction = self.database.transaction()?;
        for told in &changes {
            match told {
                Watched::Batch { key, batch } => {
                    for event in &batch.events {
                        transaction.execute(
                            "INSERT INTO balance VALUES (?1, ?2)
                             ON CONFLICT (account) DO UPDATE SET amount = amount + excluded.amount",
                            params![key.as_str(), change(event)?],
                        )?;
                    }
                }
                Watched::Deleted { key, .. } => {
                    transaction
                        .execute("DELETE FROM balance WHERE account = ?1", [key.as_str()])?;
                }
                // What was summed up stays.
                Watched::Trimmed { .. } | Watched::Checkpoint { .. } => {}
            }
        }
        // Stamps are below 2^53.
        let stamp = cursor.value().cast_signed();
        transaction.execute("INSERT OR REPLACE INTO cursor VALUES (1, ?1)", [stamp])?;
        transaction.commit()?;
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failed> {
    let url = std::env::var("CELERIANT_URL");
    let client = Client::connect(url.as_deref().unwrap_or("celeriant://localhost:7440")).await?;
    let file = std::env::args().nth(1).unwrap_or_else(|| "balances.db".into());
    let mut balances = Balances::open(&file)?;
    let accounts = Selector::of_type("examples", "account");
    // Without `until_now` it would follow for ever.
    client.watch(accounts).until_now().project(&mut balances).await?;
    let mut rows = balances.database.prepare("SELECT account, amount FROM balance ORDER BY 1")?;
    for row in rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))? {
        let (account, amount): (String, i64) = row?;
        println!("{amount:>10}  {account}");
    }
    Ok(())
}
