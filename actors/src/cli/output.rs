//! Printing: JSON lines for scripts, aligned columns for people.

use std::io::{self, BufWriter, IsTerminal, Write};

use serde_json::Value;

use super::args::Format;
use super::failure::Failure;

/// How and where results are printed.
#[derive(Debug)]
pub(super) struct Output {
    format: Format,
}

impl Output {
    /// `None`: a table on a terminal, JSON otherwise.
    pub(super) fn new(format: Option<Format>) -> Self {
        let by_terminal = || if io::stdout().is_terminal() { Format::Table } else { Format::Json };
        Self { format: format.unwrap_or_else(by_terminal) }
    }

    pub(super) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints one object on one line.
    pub(super) fn json(&self, value: &Value) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{value}")?;
        Ok(())
    }

    /// Prints a line for people.
    pub(super) fn line(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        Ok(())
    }

    /// Something that prints many lines.
    pub(super) fn lines(&self) -> BufWriter<io::Stdout> {
        BufWriter::with_capacity(64 << 10, io::stdout())
    }

    /// Prints names and values under each other.
    pub(super) fn fields(&self, fields: &[(&str, String)]) -> Result<(), Failure> {
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut stdout = io::stdout().lock();
        for (name, value) in fields {
            writeln!(stdout, "{name:<width$}  {value}")?;
        }
        Ok(())
    }

    /// Prints rows under a heading, columns aligned.
    pub(super) fn table(&self, heading: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        let mut widths: Vec<usize> = heading.iter().map(|name| name.chars().count()).collect();
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut stdout = io::stdout().lock();
        let heading: Vec<String> = heading.iter().map(|name| (*name).to_owned()).collect();
        for row in std::iter::once(&heading).chain(rows) {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            writeln!(stdout, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }

    /// Says on stderr what went wrong.
    pub(super) fn failure(&self, failure: &Failure) {
        let text = match self.format {
            Format::Json => failure.to_json().to_string(),
            Format::Table => format!("error: {failure}"),
        };
        // Nobody is left to tell when stderr is closed.
        let _ = writeln!(io::stderr(), "{text}");
    }
}
