//! Every bound of the system that more than one part relies on, in one place.
//!
//! A limit that only one module cares about lives in that module. The asserts at the end hold the
//! limits against each other: a write that a client may send must fit into a frame of the log.

/// Longest org, type or id of an aggregate key, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest aggregate key as text, `org/type/id`, in bytes.
pub const KEY_BYTES_MAX: usize = 3 * NAME_BYTES_MAX + 2;
/// Longest event type name, in bytes.
pub const EVENT_TYPE_BYTES_MAX: usize = 64;
/// Most metadata entries of one event.
pub const METADATA_ENTRIES_MAX: usize = 32;
/// Longest metadata key, in bytes.
pub const METADATA_KEY_BYTES_MAX: usize = 64;
/// Longest metadata value, in bytes.
pub const METADATA_VALUE_BYTES_MAX: usize = 1024;
/// Longest encryption key id of an envelope, in bytes.
pub const ENVELOPE_KEY_ID_BYTES_MAX: usize = 128;
/// Largest payload of one event, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;
/// Payloads above this are stored after a frame's metadata, so that scanning metadata skips them.
pub const INLINE_PAYLOAD_BYTES_MAX: usize = 2 << 10;
/// Most aggregates of one write.
pub const WRITE_MEMBERS_MAX: usize = 1024;
/// Most events of one batch (one write to one aggregate).
pub const BATCH_EVENTS_MAX: usize = 4096;
/// Most events of one write, over all of its aggregates.
pub const WRITE_EVENTS_MAX: usize = 16_384;
/// Largest encoded request, in bytes. Larger ones are refused with `TooLarge`.
pub const REQUEST_BYTES_MAX: usize = 12 << 20;
/// Largest order of an operator, in bytes.
pub const ADMIN_BYTES_MAX: usize = 1 << 20;
/// Largest text of a payload schema, in bytes.
pub const SCHEMA_BYTES_MAX: usize = 256 << 10;
/// Longest name of a Protobuf message, with its package, in bytes.
pub const SCHEMA_MESSAGE_BYTES_MAX: usize = 256;
/// Most reasons that a refused schema is told.
pub const SCHEMA_REASONS_MAX: usize = 32;
/// Largest response frame, in bytes.
pub const RESPONSE_BYTES_MAX: usize = 16 << 20;
/// Largest frame of a shard's log, in bytes, header and padding included.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// A frame that has grown to this is sealed even if more records wait: keeps device writes short.
pub const FRAME_BYTES_SOFT: usize = 1 << 20;
/// Most records of one frame.
pub const FRAME_RECORDS_MAX: usize = 1 << 16;
/// Sector that Direct I/O and torn-write reasoning count in, in bytes.
pub const SECTOR_BYTES: usize = 4096;
/// How many sequences with receipts are remembered per (client, aggregate).
pub const SEQUENCES_REMEMBERED: usize = 16;
/// Most shards of a cluster.
pub const SHARDS_MAX: u16 = 1024;
/// Bytes of events that one page of a read carries, unless a single batch is larger.
pub const PAGE_BYTES_TARGET: usize = 256 << 10;
/// Most names on one page of a listing.
pub const LIST_PAGE_MAX: u32 = 1000;
/// Event types that one read may filter by.
pub const FILTER_TYPES_MAX: usize = 64;
/// Selectors that one feed may be about.
pub const FEED_SELECTORS_MAX: usize = 64;
/// Pages of a feed that may follow the first without being asked for.
pub const FEED_MORE_MAX: u16 = 1000;
/// The page with which the frames of one answer come to this is its last, in bytes: what a client
/// that asks for many pages must be ready to hold.
pub const FEED_ANSWER_BYTES: usize = 1 << 20;
/// Longest that a page of a feed may wait for something to be in it, in ms.
pub const FEED_WAIT_MS_MAX: u32 = 60_000;
/// Requests of one connection that may be unanswered at a time.
pub const CONNECTION_REQUESTS_MAX: usize = 4096;
/// Bytes of requests of one connection that may be unanswered at a time.
pub const CONNECTION_BYTES_MAX: usize = 32 << 20;
/// Longest token of an API key as text, in bytes: it must fit into a request's head over HTTP.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;
/// Largest hello, in bytes: before it, nobody gets more than this. A token and some names.
pub const HELLO_BYTES_MAX: usize = 9 << 10;
/// Versions, sequences and stamps stay below this, so that every JSON reader keeps them exact.
pub const NUMBER_MAX: u64 = 1 << 53;

const _: () = {
    assert!(KEY_BYTES_MAX < u16::MAX as usize);
    assert!(PAYLOAD_BYTES_MAX < REQUEST_BYTES_MAX);
    // Hashes, headers and padding that a record adds to a request's bytes: 40 bytes an event, less
    // than 64 a member, two a shard; one frame's header.
    assert!(BATCH_EVENTS_MAX <= WRITE_EVENTS_MAX);
    assert!(
        REQUEST_BYTES_MAX
            + WRITE_EVENTS_MAX * 40
            + WRITE_MEMBERS_MAX * 64
            + SHARDS_MAX as usize * 2
            + 2 * SECTOR_BYTES
            <= FRAME_BYTES_MAX
    );
    // What a page adds to the largest batch: 40 bytes an event and a few words.
    assert!(REQUEST_BYTES_MAX + BATCH_EVENTS_MAX * 40 + SECTOR_BYTES <= RESPONSE_BYTES_MAX);
    assert!(FRAME_BYTES_SOFT < FRAME_BYTES_MAX);
    // A registered schema is the payload of an event, beside its names.
    assert!(SCHEMA_BYTES_MAX + SECTOR_BYTES < PAYLOAD_BYTES_MAX);
    assert!(REQUEST_BYTES_MAX <= CONNECTION_BYTES_MAX);
    assert!(REQUEST_BYTES_MAX < RESPONSE_BYTES_MAX);
    assert!(INLINE_PAYLOAD_BYTES_MAX < PAGE_BYTES_TARGET);
    // What is beside it: a header, the client's name, some numbers, and what a later one adds.
    assert!(TOKEN_BYTES_MAX + 512 <= HELLO_BYTES_MAX);
    assert!(FRAME_BYTES_MAX.is_multiple_of(SECTOR_BYTES));
};
