//! Several runs as one: every key once, with the values that each run has for it.

use bytes::Bytes;

use super::{Cursor, Fault, Pages, Run};
use crate::error::Flaw;

/// Goes through several runs at once, upwards.
#[derive(Debug)]
pub(crate) struct Merge {
    /// Newest first.
    inputs: Vec<Input>,
    /// Of the row that is given out.
    key: Vec<u8>,
    values: Vec<Bytes>,
}

#[derive(Debug)]
struct Input {
    cursor: Cursor,
    stands: Stands,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stands {
    /// Behind a row that was given out.
    Behind,
    /// On one that was not.
    On,
    AtEnd,
}

impl Merge {
    /// Over `runs`, newest first.
    pub(crate) fn new(runs: Vec<Run>) -> Self {
        let input = |run: Run| Input { cursor: run.cursor(&[]), stands: Stands::Behind };
        let inputs = runs.into_iter().map(input).collect();
        Self { inputs, key: Vec::new(), values: Vec::new() }
    }

    /// Gives at most `rows_max` keys to `row`, each with its values, newest first. `true`: that was
    /// all of them.
    ///
    /// # Errors
    /// As [`Fault`] says. What was given to `row` by then is not given again.
    pub(crate) fn step(
        &mut self,
        pages: &impl Pages,
        rows_max: usize,
        row: &mut impl FnMut(&[u8], &[Bytes]),
    ) -> Result<bool, Fault> {
        for _ in 0..rows_max {
            for input in &mut self.inputs {
                input.arrive(&self.key, pages)?;
            }
            if !self.give(row) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gives out the lowest key.
    fn give(&mut self, row: &mut impl FnMut(&[u8], &[Bytes])) -> bool {
        let on = self.inputs.iter().filter(|input| input.stands == Stands::On);
        let Some(lowest) = on.map(|input| input.cursor.key()).min() else { return false };
        self.key.clear();
        self.key.extend_from_slice(lowest);
        self.values.clear();
        for input in &mut self.inputs {
            if input.stands == Stands::On && input.cursor.key() == self.key {
                self.values.push(input.cursor.value());
                input.stands = Stands::Behind;
            }
        }
        row(&self.key, &self.values);
        true
    }
}

impl Input {
    /// Goes to the row behind `given`, the one that was given out last.
    fn arrive(&mut self, given: &[u8], pages: &impl Pages) -> Result<(), Fault> {
        if self.stands == Stands::Behind {
            let is_row = self.cursor.advance(pages)?;
            if is_row && self.cursor.key() <= given && !given.is_empty() {
                return Err(self.cursor.damaged(Flaw::Chain("leaves out of order")));
            }
            self.stands = if is_row { Stands::On } else { Stands::AtEnd };
        }
        Ok(())
    }
}
