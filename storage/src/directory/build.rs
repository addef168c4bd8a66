//! A run in the making, row by row: from a memtable, or from several runs.
//!
//! One operation is under way at a time: make the file, extend it piece by piece, sync it. Between
//! two operations lies one piece of bounded work.

use bytes::Bytes;

use super::lookup::damage;
use super::memtable::{Memtable, Position};
use super::rows::{Joiner, RowKind, combine};
use crate::Identity;
use crate::buffer::AlignedBuffer;
use crate::disk::{Done, FileId, Op};
use crate::error::{Damage, Flaw};
use crate::run::{Builder, Fault, Holds, Merge, PagePlace, Pages, Run, Stretch, run_name};

/// Rows that a merge joins before it looks how much they are.
const ROWS_STEP: usize = 256;
/// How much a merge reads of a run at a time, in pages.
const STRETCH_PAGES: u32 = 32;

/// A run in the making.
#[derive(Debug)]
pub(super) struct Build {
    identity: Identity,
    pub(super) number: u32,
    file: Option<FileId>,
    builder: Option<Builder>,
    offset: u64,
    aggregates: u64,
    holds: Holds,
    work: Work,
    stage: Stage,
    /// The page from which on an input is being read.
    reading: Option<PagePlace>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Filling,
    /// The last piece is under way.
    Last,
    Syncing,
}

#[derive(Debug)]
enum Work {
    Flush {
        position: Position,
        value: Vec<u8>,
    },
    Merge(Box<Merging>),
    /// Everything has been handed out.
    Done(Run),
}

#[derive(Debug)]
struct Merging {
    merge: Merge,
    inputs: Vec<Input>,
    joiner: Joiner,
}

#[derive(Debug)]
struct Input {
    run: Run,
    stretch: Option<Stretch>,
}

impl Pages for Vec<Input> {
    fn page(&self, place: PagePlace) -> Option<Bytes> {
        let input = self.iter().find(|input| input.run.number() == place.run)?;
        input.stretch.as_ref()?.page(place)
    }
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Next {
    Start(Op),
    /// The file is durable.
    Ready(Run),
    Damaged(Damage),
}

impl Build {
    /// Of a table that is given to every step; `runs` is empty then. Or of `runs`, newest first.
    pub(super) fn begin(identity: Identity, number: u32, runs: &[Run]) -> (Self, Op) {
        let work = if runs.is_empty() {
            Work::Flush { position: Position::start(), value: Vec::new() }
        } else {
            let inputs = runs.iter().map(|run| Input { run: run.clone(), stretch: None }).collect();
            let (merge, joiner) = (Merge::new(runs.to_vec()), Joiner::default());
            Work::Merge(Box::new(Merging { merge, inputs, joiner }))
        };
        let build = Self {
            identity,
            number,
            file: None,
            builder: Some(Builder::new(identity, number)),
            offset: 0,
            aggregates: 0,
            holds: Holds::default(),
            work,
            stage: Stage::Filling,
            reading: None,
        };
        (build, Op::Make { name: run_name(number) })
    }

    /// There is a file.
    pub(super) fn is_made(&self) -> bool {
        self.file.is_some()
    }

    /// Takes the end of what was under way, and goes on.
    pub(super) fn taken(&mut self, done: Done, table: Option<&Memtable>) -> Next {
        match done {
            Done::Opened { file, .. } => self.file = Some(file),
            Done::Read(buffer) => {
                if let Err(damage) = self.read(buffer.into_bytes()) {
                    return Next::Damaged(damage);
                }
            }
            _ => {}
        }
        self.step(table)
    }

    /// A stretch of an input has been read.
    fn read(&mut self, bytes: Bytes) -> Result<(), Damage> {
        let (Work::Merge(merging), Some(PagePlace { run, page, .. })) =
            (&mut self.work, self.reading.take())
        else {
            panic!("run {} reads nothing", self.number)
        };
        let stretch = Stretch::verified(bytes, &self.identity, run, page).map_err(damage_of)?;
        let input = merging.inputs.iter_mut().find(|input| input.run.number() == run);
        let Some(input) = input else { panic!("run {run} is no input") };
        input.stretch = Some(stretch);
        Ok(())
    }

    /// Goes on when nothing of it is under way.
    fn step(&mut self, table: Option<&Memtable>) -> Next {
        let Some(file) = self.file else { panic!("a step of run {} without a file", self.number) };
        match self.stage {
            Stage::Filling => {}
            Stage::Last => {
                self.stage = Stage::Syncing;
                return Next::Start(Op::Sync { file });
            }
            Stage::Syncing => match &self.work {
                Work::Done(run) => return Next::Ready(run.clone()),
                _ => unreachable!("synced before the last row"),
            },
        }
        let Some(builder) = &mut self.builder else { unreachable!("rows are left to build") };
        let (aggregates, holds) = (&mut self.aggregates, &mut self.holds);
        let mut sink = Sink { builder, aggregates, holds };
        let is_last = match &mut self.work {
            Work::Flush { position, value } => {
                let Some(table) = table else { panic!("a flush without its table") };
                fill(table, position, value, &mut sink)
            }
            Work::Merge(merging) => match merging.fill(&mut sink) {
                Ok(is_last) => is_last,
                Err(Fault::Missing(place)) => {
                    self.reading = Some(place);
                    return Next::Start(merging.read_at(place));
                }
                Err(fault) => return Next::Damaged(damage_of(fault)),
            },
            Work::Done(_) => unreachable!("rows behind the last"),
        };
        let buffer = if is_last { self.end(file) } else { builder.take() };
        let offset = self.offset;
        self.offset += buffer.len() as u64;
        Next::Start(Op::Extend { file, offset, buffer })
    }

    fn end(&mut self, file: FileId) -> AlignedBuffer {
        let Some(builder) = self.builder.take() else { unreachable!("ended twice") };
        let (buffer, run) = builder.finish(file, self.aggregates, self.holds);
        self.work = Work::Done(run);
        self.stage = Stage::Last;
        buffer
    }
}

/// Where rows go.
struct Sink<'a> {
    builder: &'a mut Builder,
    aggregates: &'a mut u64,
    holds: &'a mut Holds,
}

impl Sink<'_> {
    fn push(&mut self, key: &[u8], value: &[u8], kind: RowKind) {
        *self.aggregates += u64::from(kind == RowKind::Head);
        self.holds.cuts |= kind == RowKind::Cut;
        self.holds.aborted |= kind == RowKind::Aborted;
        self.builder.push(key, value, kind.is_filtered());
    }
}

/// True when everything is handed out.
fn fill(table: &Memtable, at: &mut Position, value: &mut Vec<u8>, sink: &mut Sink<'_>) -> bool {
    while !sink.builder.ready() {
        if !table.next_row(at, value, |key, value, kind| sink.push(key, value, kind)) {
            return true;
        }
    }
    false
}

impl Merging {
    fn fill(&mut self, sink: &mut Sink<'_>) -> Result<bool, Fault> {
        let Self { merge, inputs, joiner } = self;
        let mut flaw = None;
        while !sink.builder.ready() {
            let mut row = |key: &[u8], values: &[Bytes]| {
                let joined = combine(key, values).and_then(|value| {
                    joiner.push(key, &value, |key, value, kind| sink.push(key, value, kind))
                });
                if let Err(found) = joined {
                    flaw.get_or_insert(found);
                }
            };
            let stepped = merge.step(&*inputs, ROWS_STEP, &mut row);
            if let Some(flaw) = flaw {
                let run = inputs.first().map_or(0, |input| input.run.number());
                return Err(Fault::Damaged(PagePlace { run, page: 0, count: 1 }, flaw));
            }
            if stepped? {
                joiner.flush(|key, value, kind| sink.push(key, value, kind));
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn read_at(&self, place: PagePlace) -> Op {
        let input = self.inputs.iter().find(|input| input.run.number() == place.run);
        let Some(Input { run, .. }) = input else { panic!("{place:?} is of no input") };
        let pages = STRETCH_PAGES.min(run.pages() - place.page).max(u32::from(place.count));
        Op::Read { file: run.file(), offset: place.offset(), len: pages * 4096 }
    }
}

fn damage_of(fault: Fault) -> Damage {
    match fault {
        Fault::Damaged(place, flaw) => damage(place, flaw),
        Fault::Missing(place) => damage(place, Flaw::Missing),
    }
}
