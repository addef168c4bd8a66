//! Memory that Direct I/O accepts: 4,096-byte aligned, whole blocks, grown like a vector.
//!
//! ```text
//!   0              len                           capacity
//!   |--- content ----|--- nothing to rely on --------|   boundaries: n × 4,096
//! ```
//! Only content is initialised; what becomes content without having been written is zeroed then, so
//! padding never leaks an earlier frame. Zeroing all memory when it is allocated would cost more
//! than filling it: the allocator does that by hand for memory that is aligned like this.
//!
//! Deliberately absent: pools, reference counts, writing through a shared handle. One of the two
//! places with `unsafe` (the other is `disk::uring`).
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

use bytes::Bytes;
use celeriant_schema::limits::SECTOR_BYTES;

/// Alignment and granularity of Direct I/O, in bytes. Covers 512-byte and 4-KiB devices.
pub const BLOCK_BYTES: usize = SECTOR_BYTES;

/// A growable byte buffer whose memory can be handed to the device as it is.
pub struct AlignedBuffer {
    start: NonNull<u8>,
    len: usize,
    /// A multiple of `BLOCK_BYTES`, never zero.
    capacity: usize,
}

// SAFETY: the buffer owns its allocation alone; nothing in it depends on the thread.
unsafe impl Send for AlignedBuffer {}
// SAFETY: `&AlignedBuffer` only gives out `&[u8]`; every write needs `&mut`.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// Room for at least `bytes`, rounded up to whole blocks (one at least); empty.
    pub fn with_capacity(bytes: usize) -> Self {
        let capacity = round_up(bytes.max(1));
        let layout = layout(capacity);
        // SAFETY: the layout's size is at least one block, so not zero.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, len: 0, capacity }
    }

    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        let mut buffer = Self::with_capacity(len);
        buffer.resize(len);
        buffer
    }

    /// A copy of `content`.
    pub fn copy_of(content: &[u8]) -> Self {
        let mut buffer = Self::with_capacity(content.len());
        buffer.extend_from_slice(content);
        buffer
    }

    /// Bytes of content.
    pub fn len(&self) -> usize {
        self.len
    }

    /// There is no content.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes it can hold without moving.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The content is whole blocks, as a `Write` demands.
    pub fn is_block_multiple(&self) -> bool {
        self.len.is_multiple_of(BLOCK_BYTES)
    }

    /// The content.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `len <= capacity` bytes from `start` are allocated and initialised (whatever
        // raises `len` writes the bytes first), and nothing writes them while `self` is borrowed.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The content, to write.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` makes the access exclusive.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Appends `content`, growing if it must.
    pub fn extend_from_slice(&mut self, content: &[u8]) {
        self.reserve(content.len());
        // SAFETY: `reserve` made room for `content.len()` bytes behind `len`; `content` cannot lie
        // in there, because `&mut self` is exclusive.
        unsafe {
            let to = self.start.as_ptr().add(self.len);
            to.copy_from_nonoverlapping(content.as_ptr(), content.len());
        }
        self.len += content.len();
    }

    /// Appends `count` zero bytes and returns them, to be encoded into.
    pub fn extend_zeroed(&mut self, count: usize) -> &mut [u8] {
        let at = self.len;
        self.resize(at + count);
        &mut self.as_mut_slice()[at..]
    }

    /// Appends zeroes up to the next block boundary.
    pub fn pad_to_block(&mut self) {
        self.resize(round_up(self.len));
    }

    /// Sets the length; bytes that are new read as zero.
    pub fn resize(&mut self, len: usize) {
        if len > self.len {
            let more = len - self.len;
            self.reserve(more);
            // SAFETY: `reserve` made room for `more` bytes behind `len`.
            unsafe { self.start.as_ptr().add(self.len).write_bytes(0, more) };
        }
        self.len = len;
    }

    /// Cuts the content to at most `len` bytes; the capacity stays.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Forgets the content; the capacity stays.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Makes room for `additional` bytes after the content; at least doubles when it must move.
    pub fn reserve(&mut self, additional: usize) {
        let Some(needed) = self.len.checked_add(additional) else {
            panic!("a buffer of {} + {additional} bytes", self.len)
        };
        if needed > self.capacity {
            let mut larger = Self::with_capacity(needed.max(self.capacity * 2));
            larger.extend_from_slice(self);
            *self = larger;
        }
    }

    /// The content as shared bytes, without a copy. The memory stays as large as the capacity.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// First byte of the memory, for the kernel to read from.
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    /// First byte of the memory, for the kernel to write to.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc` with the layout of this very capacity.
        unsafe { dealloc(self.start.as_ptr(), layout(self.capacity)) }
    }
}

impl Default for AlignedBuffer {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuffer({} of {} bytes)", self.len, self.capacity)
    }
}

/// `bytes` rounded up to whole blocks.
fn round_up(bytes: usize) -> usize {
    let Some(rounded) = bytes.checked_next_multiple_of(BLOCK_BYTES) else {
        panic!("a buffer of {bytes} bytes")
    };
    rounded
}

fn layout(capacity: usize) -> Layout {
    match Layout::from_size_align(capacity, BLOCK_BYTES) {
        Ok(layout) => layout,
        Err(_) => panic!("a buffer of {capacity} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_aligned(buffer: &AlignedBuffer) -> bool {
        buffer.as_ptr().addr().is_multiple_of(BLOCK_BYTES)
            && buffer.capacity().is_multiple_of(BLOCK_BYTES)
    }

    #[test]
    fn memory_is_aligned_and_whole_blocks_at_every_size() {
        for bytes in [0, 1, 4095, 4096, 4097, 70_000, 1 << 20, (3 << 20) + 1] {
            let buffer = AlignedBuffer::with_capacity(bytes);
            assert!(is_aligned(&buffer), "{buffer:?}");
            assert!(buffer.capacity() >= bytes.max(1));
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn content_survives_growth() {
        let mut buffer = AlignedBuffer::default();
        let mut expected = Vec::new();
        for i in 0..5_000u32 {
            buffer.extend_from_slice(&i.to_le_bytes());
            expected.extend_from_slice(&i.to_le_bytes());
            assert!(buffer.len() <= buffer.capacity());
        }
        assert!(is_aligned(&buffer));
        assert_eq!(buffer.as_slice(), expected);
    }

    #[test]
    fn padding_never_shows_content_that_was_cut_off() {
        let mut buffer = AlignedBuffer::copy_of(&[0xff; 9_000]);
        buffer.clear();
        buffer.extend_from_slice(b"head");
        buffer.extend_zeroed(6)[5] = 7;
        buffer.pad_to_block();
        assert_eq!(buffer.len(), BLOCK_BYTES);
        assert_eq!(&buffer[..10], b"head\0\0\0\0\0\x07");
        assert!(buffer[10..].iter().all(|&byte| byte == 0));
        buffer.resize(20_000);
        assert!(buffer[10..].iter().all(|&byte| byte == 0));
        buffer.truncate(4);
        buffer.resize(10);
        assert_eq!(&buffer[..], b"head\0\0\0\0\0\0");
    }

    #[test]
    fn padding_a_full_block_adds_nothing() {
        let mut buffer = AlignedBuffer::zeroed(2 * BLOCK_BYTES);
        buffer.pad_to_block();
        assert_eq!(buffer.len(), 2 * BLOCK_BYTES);
        assert!(buffer.is_block_multiple());
    }

    #[test]
    fn shared_bytes_are_the_same_memory() {
        let buffer = AlignedBuffer::copy_of(b"a frame");
        let address = buffer.as_ptr();
        let bytes = buffer.into_bytes();
        assert_eq!(&bytes[..], b"a frame");
        assert_eq!(bytes.as_ptr(), address);
    }
}
