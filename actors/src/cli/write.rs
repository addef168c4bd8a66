//! `write`: one atomic write over many aggregates, from JSON (`celeriant_net::json`).

use celeriant_client::{Client, Event, Write};
use celeriant_net::json::{self, Writing};
use celeriant_schema::event::unix_micros;

use super::append::{print_receipt, read_file};
use super::args::{Global, WriteFile};
use super::connect;
use super::failure::Failure;
use super::output::Output;

/// Writes and prints the receipt.
pub(super) async fn run(write: WriteFile, global: &Global, output: &Output) -> Result<(), Failure> {
    let text = read_file(&write.file)?;
    let writing = json::parse_write(&text, unix_micros())
        .map_err(|refusal| Failure::usage(format!("{}: {refusal}", write.file.display())))?;
    let client = connect(global).await?;
    print_receipt(&into_write(writing, &client).await?, output)
}

fn into_write(writing: Writing, client: &Client) -> Write {
    let mut write = client.write();
    if let Some(client_id) = writing.client_id {
        write = write.client(client_id);
    }
    for part in writing.parts {
        let events = part.events.into_iter().map(Event::from);
        write = match part.retention {
            None => write.append(&part.key, events),
            Some(retention) => write.take_away(&part.key, retention),
        };
        write = write.expect(part.guard);
        if let Some(sequence) = part.sequence {
            write = write.sequence(sequence);
        }
    }
    write
}
