//! Bytes between a socket and a connection's buffers, without waiting memory.
//!
//! Reading goes through one scratch buffer per thread; what arrived is copied out exactly. So a
//! connection that waits for its client holds no read buffer, and requests that are being worked
//! on keep alive only the bytes that came, not a large chunk with a little in it. The copy costs a
//! few per cent of what decoding costs.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes taken by one read.
pub(super) const READ_BYTES: usize = 64 << 10;

/// An output buffer of up to this many bytes is kept by an idle connection.
const IDLE_OUTPUT_BYTES: usize = 4 << 10;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// Reads once, appending to `input`. `Ok(0)`: the peer sends nothing any more.
pub(super) fn poll_read<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        let read = buffer.filled();
        if input.is_empty() {
            // A fresh buffer of exactly this size: the old one belongs to requests under way.
            *input = BytesMut::from(read);
        } else {
            input.extend_from_slice(read);
        }
        Poll::Ready(Ok(read.len()))
    })
}

/// Writes once from `output`, and flushes when it is empty. `Ok(())`: some progress was made.
pub(super) fn poll_write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    output: &mut BytesMut,
) -> Poll<io::Result<()>> {
    let written = ready!(Pin::new(&mut *stream).poll_write(cx, output))?;
    if written == 0 {
        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
    }
    output.advance(written);
    if output.is_empty() {
        if output.capacity() > IDLE_OUTPUT_BYTES {
            *output = BytesMut::new();
        } else {
            output.clear();
        }
    }
    Poll::Ready(Ok(()))
}
