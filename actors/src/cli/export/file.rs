//! An export's bytes: blocks that are chained, so that no byte changes unnoticed.
//!
//! ```text
//! | magic 8 | header (JSON) | page (zstd) | page | … | end mark (JSON) |
//!             each: | kind u8 | 0 0 0 | bytes u32 | packed u32 | hash 32 | packed bytes |
//! ```
//! A hash covers the one before it, so blocks cannot be left out, swapped or come from elsewhere;
//! without an end mark the file was cut. Who can write the file can compute all of it anew: then
//! only the events' own chains, receipts and proofs tell. Bytes in docs/export.md.

use std::io::{self, Read, Write};

use bytes::Bytes;
use celeriant_schema::audit::histories::Checked;
use celeriant_schema::limits::RESPONSE_BYTES_MAX;
use celeriant_schema::{DecodeError, FeedPage, Hash, wire};
use serde::{Deserialize, Serialize};

/// The version of the format, and of a page's bytes in it.
const FORMAT: u32 = 1;
const MAGIC: [u8; 8] = *b"CLREXP\r\n";
/// Key of blocks' hashes. Public: it only tells kinds of hashes apart.
const BLOCK_HASH_KEY: &[u8; 32] = b"celeriant export block v1       ";
const BLOCK_HEADER: usize = 12;
const HASH: usize = 32;
/// As fast as the wire.
const LEVEL: i32 = 3;

const KIND_HEADER: u8 = 0;
const KIND_PAGE: u8 = 1;
const KIND_END: u8 = 2;

/// What an export is of.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli) struct Header {
    celeriant_export: u32,
    /// The cluster, as a UUID.
    pub(in crate::cli) cluster: String,
    /// What was selected.
    pub(in crate::cli) selector: String,
}

impl Header {
    pub(in crate::cli) fn new(cluster: String, selector: String) -> Self {
        Self { celeriant_export: FORMAT, cluster, selector }
    }
}

/// The end of an export, and what is before it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli) struct Mark {
    /// Everything that was selected and has a stamp up to here was there.
    pub(in crate::cli) stamp: u64,
    aggregates: u64,
    events: u64,
    notices: u64,
}

impl Mark {
    /// Behind what was checked.
    pub(in crate::cli) fn of(checked: &Checked) -> Self {
        let Checked { aggregates, events, granted, notices, upto } = *checked;
        Self { stamp: upto.value(), aggregates, events: events + granted, notices }
    }
}

/// Why a file is not a whole export.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum Flaw {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It begins with other bytes.
    #[error("is no export, or its first bytes were changed")]
    NotAnExport,
    /// Nothing wrong, but later than this program.
    #[error("has format {0}, and this program knows up to {FORMAT}")]
    Format(u32),
    /// Some of it is missing.
    #[error("was cut: it ends in the block at byte {0}, without an end mark")]
    Cut(u64),
    /// It goes on.
    #[error("goes on behind its end mark, at byte {0}")]
    Beyond(u64),
    /// It is not what was written.
    #[error("the block at byte {0} was changed, or does not belong behind the one before it")]
    Changed(u64),
    /// Written like this, by whoever wrote it.
    #[error("the block at byte {at} makes no sense: {reason}")]
    Malformed {
        /// Where it starts.
        at: u64,
        /// What is wrong.
        reason: String,
    },
}

/// Writes an export, front to back.
pub(in crate::cli) struct Writer<W> {
    out: W,
    last: Hash,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    pub(in crate::cli) fn new(mut out: W, header: &Header) -> io::Result<Self> {
        out.write_all(&MAGIC)?;
        let mut writer = Self { out, last: Hash::ZERO, bytes: MAGIC.len() as u64 };
        writer.json(KIND_HEADER, header)?;
        Ok(writer)
    }

    pub(in crate::cli) fn page(&mut self, page: &FeedPage) -> io::Result<()> {
        let plain = wire::encode_feed_page(page);
        let packed = zstd::bulk::compress(&plain, LEVEL)?;
        self.block(KIND_PAGE, plain.len(), &packed)
    }

    /// The end mark; what was written to, and how much.
    pub(in crate::cli) fn end(mut self, mark: &Mark) -> io::Result<(W, u64)> {
        self.json(KIND_END, mark)?;
        self.out.flush()?;
        Ok((self.out, self.bytes))
    }

    fn json(&mut self, kind: u8, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_vec(value)?;
        self.block(kind, text.len(), &text)
    }

    fn block(&mut self, kind: u8, plain: usize, packed: &[u8]) -> io::Result<()> {
        let mut header = [0; BLOCK_HEADER];
        header[0] = kind;
        header[4..8].copy_from_slice(&length(plain)?.to_le_bytes());
        header[8..].copy_from_slice(&length(packed.len())?.to_le_bytes());
        self.last = block_hash(&self.last, &header, packed);
        self.out.write_all(&header)?;
        self.out.write_all(&self.last.0)?;
        self.out.write_all(packed)?;
        self.bytes += (BLOCK_HEADER + HASH + packed.len()) as u64;
        Ok(())
    }
}

fn length(bytes: usize) -> io::Result<u32> {
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= RESPONSE_BYTES_MAX);
    length.ok_or_else(|| io::Error::other("a page is larger than an answer can be"))
}

fn block_hash(last: &Hash, header: &[u8; BLOCK_HEADER], packed: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new_keyed(BLOCK_HASH_KEY);
    hasher.update(&last.0).update(header).update(packed);
    hasher.finalize().into()
}

/// What comes next in an export.
#[derive(Debug)]
pub(in crate::cli) enum Block {
    /// Events.
    Page(FeedPage),
    /// The end mark.
    End(Mark),
}

/// Reads an export, front to back, one block at a time.
#[derive(Debug)]
pub(in crate::cli) struct Reader<R> {
    input: R,
    header: Header,
    last: Hash,
    /// Of the latest block, and of what is behind it.
    place: (u64, u64),
}

/// A block as it lies there, with a hash that is right.
struct Raw {
    kind: u8,
    bytes: usize,
    packed: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// Why it is no export that can be read.
    pub(in crate::cli) fn open(mut input: R) -> Result<Self, Flaw> {
        let mut magic = [0; MAGIC.len()];
        read(&mut input, &mut magic, || Flaw::NotAnExport)?;
        if magic != MAGIC {
            return Err(Flaw::NotAnExport);
        }
        let start = MAGIC.len() as u64;
        let header = Header { celeriant_export: FORMAT, cluster: "".into(), selector: "".into() };
        let mut reader = Self { input, header, last: Hash::ZERO, place: (start, start) };
        let raw = reader.raw()?;
        let text: serde_json::Value = reader.json(&raw, KIND_HEADER)?;
        match text["celeriant_export"].as_u64().and_then(|format| u32::try_from(format).ok()) {
            Some(FORMAT) => reader.header = reader.json(&raw, KIND_HEADER)?,
            Some(later) => return Err(Flaw::Format(later)),
            None => return Err(reader.malformed("it has no format")),
        }
        Ok(reader)
    }

    /// What the export is of.
    pub(in crate::cli) fn header(&self) -> &Header {
        &self.header
    }

    /// Where the latest block starts, in bytes.
    pub(in crate::cli) fn at(&self) -> u64 {
        self.place.0
    }

    /// The next block. Behind an end mark nothing may come.
    ///
    /// # Errors
    /// The first thing that is not as it was written.
    pub(in crate::cli) fn next(&mut self) -> Result<Block, Flaw> {
        let raw = self.raw()?;
        if raw.kind != KIND_PAGE {
            let mark = self.json(&raw, KIND_END)?;
            return match self.input.read(&mut [0])? {
                0 => Ok(Block::End(mark)),
                _ => Err(Flaw::Beyond(self.place.1)),
            };
        }
        let plain = zstd::bulk::decompress(&raw.packed, raw.bytes);
        let plain = plain.map_err(|error| self.malformed(error))?;
        if plain.len() != raw.bytes {
            return Err(self.malformed("it has another length"));
        }
        let page = wire::decode_feed_page(&Bytes::from(plain));
        Ok(Block::Page(page.map_err(|error: DecodeError| self.malformed(error))?))
    }

    fn raw(&mut self) -> Result<Raw, Flaw> {
        let at = self.place.1;
        let mut header = [0; BLOCK_HEADER];
        let mut hash = Hash::ZERO;
        read(&mut self.input, &mut header, || Flaw::Cut(at))?;
        read(&mut self.input, &mut hash.0, || Flaw::Cut(at))?;
        let number =
            |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[at + byte])) as usize;
        let (kind, bytes, packed) = (header[0], number(4), number(8));
        if bytes.max(packed) > RESPONSE_BYTES_MAX {
            return Err(Flaw::Changed(at));
        }
        let mut packed = vec![0; packed];
        read(&mut self.input, &mut packed, || Flaw::Cut(at))?;
        self.place = (at, at + (BLOCK_HEADER + HASH + packed.len()) as u64);
        self.last = block_hash(&self.last, &header, &packed);
        if self.last != hash {
            return Err(Flaw::Changed(at));
        }
        Ok(Raw { kind, bytes, packed })
    }

    fn json<T: for<'a> Deserialize<'a>>(&self, raw: &Raw, kind: u8) -> Result<T, Flaw> {
        if raw.kind != kind || raw.bytes != raw.packed.len() {
            return Err(self.malformed(format!("kind {} is not to be here", raw.kind)));
        }
        serde_json::from_slice(&raw.packed).map_err(|error| self.malformed(error))
    }

    fn malformed(&self, reason: impl ToString) -> Flaw {
        Flaw::Malformed { at: self.place.0, reason: reason.to_string() }
    }
}

/// Fills `bytes`, or says how it is when there are fewer.
fn read(input: &mut impl Read, bytes: &mut [u8], short: impl Fn() -> Flaw) -> Result<(), Flaw> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => short(),
        _ => Flaw::Io(error),
    })
}
