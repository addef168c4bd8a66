//! An operation between its start and its end, and what it leaves behind.

use std::fmt;
use std::io;

use bytes::Bytes;
use celeriant_storage::buffer::{AlignedBuffer, BLOCK_BYTES};
use celeriant_storage::disk::{Completion, DiskError, Done, FileId, Op, Token};

use super::files::SECTOR;
use super::{Files, State};
use crate::timeline::Micros;
use crate::trace::digest;

/// An operation that has not ended.
#[derive(Debug)]
pub struct Flight {
    /// Counts the directory's operations.
    pub number: u64,
    /// The caller's.
    pub token: Token,
    /// What it is.
    pub op: Op,
    /// How it will end, if power stays.
    pub outcome: Outcome,
}

/// How much later than it says a lying disk has done a write, in µs.
const LATE: Micros = 50_000;

/// How an operation ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// As it should.
    Succeeds,
    /// With an I/O error.
    Fails,
    /// For lack of space.
    Full,
    /// Planted bug: says that it succeeded, and has done nothing.
    Lie,
    /// Planted bug: does what was promised earlier, and says nothing.
    Late,
}

/// What a crash does to an operation in flight.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fate {
    /// Nothing of it is there.
    Drop,
    /// All of it is there.
    Keep,
    /// Each sector is there if its bit (index mod 64) is set. A file that was being made may be
    /// short.
    Tear(u64),
}

impl Fate {
    pub(super) fn code(&self) -> u64 {
        match self {
            Self::Drop => 0,
            Self::Keep => 1,
            Self::Tear(mask) => 2 ^ mask.rotate_left(8),
        }
    }
}

impl Flight {
    /// Whether a crash can leave a trace of it.
    pub fn changes(&self) -> bool {
        let lie = self.outcome == Outcome::Lie;
        !lie && matches!(
            self.op,
            Op::Write { .. }
                | Op::Create { .. }
                | Op::Make { .. }
                | Op::Extend { .. }
                | Op::Sync { .. }
                | Op::Put { .. }
                | Op::Remove { .. }
        )
    }

    /// Whether a crash can leave a part of it.
    pub fn tears(&self) -> bool {
        matches!(self.op, Op::Write { .. } | Op::Create { .. } | Op::Extend { .. })
    }

    /// # Panics
    /// When the operation is one that no caller may start.
    pub(super) fn assert_legal(&self, state: &State) {
        let files = &state.durable;
        let aligned = |number: u64| number.is_multiple_of(BLOCK_BYTES as u64);
        match &self.op {
            Op::Create { len, head, .. } => {
                assert!(aligned(*len) && head.len() as u64 <= *len, "{self}: size");
            }
            Op::Write { file, offset, buffer } => {
                let name = files.name_of(*file);
                let size = files.content(name).unwrap_or_default().len() as u64;
                let len = buffer.len() as u64;
                assert!(aligned(*offset) && aligned(len) && len > 0, "{self}: alignment");
                assert!(offset + len <= size, "{self}: {name} has {size} bytes");
            }
            Op::Extend { file, offset, buffer } => {
                let size = files.content(files.name_of(*file)).unwrap_or_default().len() as u64;
                let end = state.extends(*file).fold(size, u64::max);
                let len = buffer.len() as u64;
                assert!(aligned(*offset) && aligned(len) && len > 0, "{self}: alignment");
                assert!(*offset == end, "{self}: it ends at {end}");
            }
            Op::Sync { file } => {
                files.name_of(*file);
                assert!(state.extends(*file).next().is_none(), "{self}: while it is extended");
            }
            Op::Read { file, offset, len } => {
                files.name_of(*file);
                assert!(aligned(*offset) && aligned(u64::from(*len)), "{self}: alignment");
            }
            _ => {}
        }
    }

    pub(super) fn digest(&self) -> u64 {
        match &self.op {
            Op::List => 1,
            Op::Open { name } => 2 ^ digest(name.as_bytes()),
            Op::Create { name, len, head, .. } => 3 ^ digest(name.as_bytes()) ^ digest(head) ^ len,
            Op::Put { name, content } => 4 ^ digest(name.as_bytes()) ^ digest(content),
            Op::Write { file, offset, buffer } => {
                5 ^ digest(buffer) ^ offset.rotate_left(20) ^ u64::from(file.0)
            }
            Op::Read { file, offset, len } => {
                6 ^ offset.rotate_left(20) ^ u64::from(file.0) ^ u64::from(*len).rotate_left(40)
            }
            Op::Close { file } => 7 ^ u64::from(file.0),
            Op::Remove { name } => 8 ^ digest(name.as_bytes()),
            Op::Make { name } => 9 ^ digest(name.as_bytes()),
            Op::Extend { file, offset, buffer } => {
                10 ^ digest(buffer) ^ offset.rotate_left(20) ^ u64::from(file.0)
            }
            Op::Sync { file } => 11 ^ u64::from(file.0),
        }
    }
}

impl fmt::Display for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.number;
        match &self.op {
            Op::List => write!(f, "#{number} list"),
            Op::Open { name } => write!(f, "#{number} open {name}"),
            Op::Create { name, len, .. } => write!(f, "#{number} create {name} of {len}"),
            Op::Make { name } => write!(f, "#{number} make {name}"),
            Op::Extend { file, offset, buffer } => {
                write!(f, "#{number} extend {file:?} at {offset} by {}", buffer.len())
            }
            Op::Sync { file } => write!(f, "#{number} sync {file:?}"),
            Op::Put { name, content } => write!(f, "#{number} put {name} of {}", content.len()),
            Op::Write { file, offset, buffer } => {
                write!(f, "#{number} write {file:?} at {offset} of {}", buffer.len())
            }
            Op::Read { file, offset, len } => {
                write!(f, "#{number} read {file:?} at {offset} of {len}")
            }
            Op::Close { file } => write!(f, "#{number} close {file:?}"),
            Op::Remove { name } => write!(f, "#{number} remove {name}"),
        }
    }
}

impl State {
    /// Where the parts end that are being appended to a file.
    fn extends(&self, of: FileId) -> impl Iterator<Item = u64> {
        self.flights.values().filter_map(move |flight| match &flight.op {
            Op::Extend { file, offset, buffer } if *file == of => {
                Some(offset + buffer.len() as u64)
            }
            _ => None,
        })
    }

    /// What a crash decides on besides the operations in flight: the making of each file that was
    /// not synced.
    pub(super) fn unsynced(&self, durable: &Files) -> Vec<(String, Flight)> {
        let of = |(number, name): (u64, &str)| {
            let op = Op::Make { name: name.to_owned() };
            let flight = Flight { number, token: Token::MAX, op, outcome: Outcome::Succeeds };
            (name.to_owned(), flight)
        };
        (self.next..).zip(durable.unsynced()).map(of).collect()
    }

    /// Ends an operation as was decided when it started.
    pub(super) fn complete(&mut self, flight: Flight) -> Option<Completion> {
        let Flight { token, op, outcome, .. } = flight;
        let outcome = match outcome {
            Outcome::Succeeds => self.succeed(op),
            Outcome::Lie => match op {
                Op::Write { buffer, .. } => Ok(Done::Written(buffer)),
                _ => Ok(Done::Ok),
            },
            Outcome::Late => {
                // Its file may be closed by now; then the lie stays one.
                let _ = self.succeed(op);
                return None;
            }
            Outcome::Full => Err(error(&op, io::ErrorKind::StorageFull)),
            Outcome::Fails => {
                let error = error(&op, io::ErrorKind::Other);
                let fate = Fate::Tear(self.rng.number());
                apply(&mut self.durable, &op, &fate);
                Err(error)
            }
        };
        Some(Completion { token, outcome })
    }

    /// A lying disk makes two of a write: one that answers in time, one that is done much later.
    pub(super) fn perhaps_lie(
        &mut self,
        at: Micros,
        number: u64,
        op: Op,
        outcome: Outcome,
    ) -> (Op, Outcome) {
        let Op::Write { file, offset, buffer } = op else { return (op, outcome) };
        if !self.ailments.lies || outcome != Outcome::Succeeds {
            return (Op::Write { file, offset, buffer }, outcome);
        }
        let copy = Op::Write { file, offset, buffer: AlignedBuffer::copy_of(&buffer) };
        let late = Flight { number, token: Token::MAX, op: copy, outcome: Outcome::Late };
        self.flights.insert((at + LATE, number), late);
        (Op::Write { file, offset, buffer }, Outcome::Lie)
    }

    /// What was reported too early and is still under way reaches the device: the handle that it
    /// was for is closed by a process that goes on.
    pub(super) fn end_late_writes(&mut self) {
        let late = self.flights.extract_if(.., |_, flight| flight.outcome == Outcome::Late);
        for (_, flight) in late {
            apply(&mut self.durable, &flight.op, &Fate::Keep);
        }
    }

    fn succeed(&mut self, op: Op) -> Result<Done, DiskError> {
        match op {
            Op::List => Ok(Done::Listed(self.durable.list())),
            Op::Open { ref name } => match self.durable.open(name) {
                Some((file, len)) => Ok(Done::Opened { file, len }),
                None => Err(error(&op, io::ErrorKind::NotFound)),
            },
            Op::Create { ref name, .. } | Op::Make { ref name } => {
                apply(&mut self.durable, &op, &Fate::Keep);
                match self.durable.open(name) {
                    Some((file, len)) => Ok(Done::Opened { file, len }),
                    None => Err(error(&op, io::ErrorKind::NotFound)),
                }
            }
            Op::Write { .. } => {
                apply(&mut self.durable, &op, &Fate::Keep);
                let Op::Write { file, offset, buffer } = op else { unreachable!("it is a write") };
                if let Some(observer) = self.observer.clone() {
                    observer(self.durable.name_of(file), offset, &buffer);
                }
                Ok(Done::Written(buffer))
            }
            Op::Extend { .. } => {
                apply(&mut self.durable, &op, &Fate::Keep);
                let Op::Extend { buffer, .. } = op else { unreachable!("it is one") };
                Ok(Done::Written(buffer))
            }
            Op::Read { file, offset, len } => {
                let content = self.durable.content(self.durable.name_of(file)).unwrap_or_default();
                let from = (offset as usize).min(content.len());
                let to = (from + len as usize).min(content.len());
                Ok(Done::Read(AlignedBuffer::copy_of(&content[from..to])))
            }
            Op::Close { file } => {
                self.durable.close(file);
                Ok(Done::Ok)
            }
            Op::Remove { ref name } if self.durable.content(name).is_none() => {
                Err(error(&op, io::ErrorKind::NotFound))
            }
            Op::Put { .. } | Op::Remove { .. } | Op::Sync { .. } => {
                if let Op::Remove { name } = &op {
                    self.packed += u64::from(self.durable.is_packed_anew(name));
                }
                apply(&mut self.durable, &op, &Fate::Keep);
                Ok(Done::Ok)
            }
        }
    }
}

/// Leaves of `op` what `fate` says.
pub(super) fn apply(durable: &mut Files, op: &Op, fate: &Fate) {
    if *fate == Fate::Drop {
        return;
    }
    match (op, fate) {
        (Op::Write { file, offset, buffer }, fate) => {
            let name = durable.name_of(*file).to_owned();
            durable.write(&name, *offset, buffer, |index| survives(fate, index));
        }
        (Op::Extend { file, offset, buffer }, fate) => {
            let name = durable.name_of(*file).to_owned();
            durable.extend(&name, *offset, buffer, |index| survives(fate, index));
        }
        (Op::Create { name, len, head, .. }, Fate::Tear(mask)) => {
            tear_create(durable, name, *len, head, *mask);
        }
        (Op::Create { name, len, head, .. }, _) => {
            let mut content = head.to_vec();
            content.resize(*len as usize, 0);
            durable.put(name, content);
        }
        // All or nothing: the lowest bit of a tear decides.
        (_, Fate::Tear(mask)) if mask & 1 == 0 => {}
        (Op::Make { name }, _) => durable.make(name),
        (Op::Sync { file }, _) => {
            let name = durable.name_of(*file).to_owned();
            durable.sync(&name);
        }
        (Op::Put { name, content }, _) => durable.put(name, content.to_vec()),
        (Op::Remove { name }, _) => {
            durable.remove(name);
        }
        _ => {}
    }
}

/// A file that was being made: not there, or short, with some of its first bytes.
fn tear_create(durable: &mut Files, name: &str, len: u64, head: &Bytes, mask: u64) {
    if mask.is_multiple_of(3) {
        return;
    }
    let sectors = len / SECTOR as u64;
    let kept = if mask % 3 == 1 { sectors } else { (mask >> 8) % (sectors + 1) };
    durable.put(name, vec![0; kept as usize * SECTOR]);
    durable.write(name, 0, head, |index| survives(&Fate::Tear(mask), index));
}

fn survives(fate: &Fate, sector: usize) -> bool {
    match fate {
        Fate::Drop => false,
        Fate::Keep => true,
        Fate::Tear(mask) => mask >> (sector % 64) & 1 == 1,
    }
}

fn error(op: &Op, kind: io::ErrorKind) -> DiskError {
    let (op, name) = match op {
        Op::List => ("list", String::new()),
        Op::Open { name } => ("open", name.clone()),
        Op::Create { name, .. } => ("create", name.clone()),
        Op::Make { name } => ("make", name.clone()),
        Op::Extend { file, offset, .. } => ("extend", format!("{file:?} at {offset}")),
        Op::Sync { file } => ("sync", format!("{file:?}")),
        Op::Put { name, .. } => ("put", name.clone()),
        Op::Write { file, offset, .. } => ("write", format!("{file:?} at {offset}")),
        Op::Read { file, offset, .. } => ("read", format!("{file:?} at {offset}")),
        Op::Close { file } => ("close", format!("{file:?}")),
        Op::Remove { name } => ("remove", name.clone()),
    };
    DiskError { op, name, source: io::Error::new(kind, "simulated") }
}
