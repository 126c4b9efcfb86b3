//! Buffers that the kernel reads from ([`SendBuf`]) and writes to ([`RecvBuf`], leased from a
//! [`BufGroup`]).

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use bytes::{Buf, Bytes, BytesMut};

use crate::port::Port;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard};
use crate::sys;

/// Bytes to be sent: shared, or owned so that the buffer can be used again afterwards.
pub enum SendBuf {
    /// Bytes that others may hold too.
    Shared(Bytes),
    /// A buffer of the caller's own; it comes back with the completion, capacity and all.
    Owned(BytesMut),
}

impl SendBuf {
    /// No bytes.
    pub const fn new() -> SendBuf {
        SendBuf::Shared(Bytes::new())
    }
}

impl Default for SendBuf {
    fn default() -> SendBuf {
        SendBuf::new()
    }
}

impl Deref for SendBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            SendBuf::Shared(bytes) => bytes,
            SendBuf::Owned(bytes) => bytes,
        }
    }
}

impl SendBuf {
    /// Takes the first `n` bytes off.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn advance(&mut self, n: usize) {
        match self {
            SendBuf::Shared(bytes) => bytes.advance(n),
            SendBuf::Owned(bytes) => bytes.advance(n),
        }
    }
}

impl From<Bytes> for SendBuf {
    fn from(bytes: Bytes) -> SendBuf {
        SendBuf::Shared(bytes)
    }
}

impl From<BytesMut> for SendBuf {
    fn from(bytes: BytesMut) -> SendBuf {
        SendBuf::Owned(bytes)
    }
}

impl fmt::Debug for SendBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SendBuf").field(&self.len()).finish()
    }
}

/// A set of equal buffers, leased one by one to received data. On the ring the kernel picks them
/// from a provided buffer ring; on the emulated port they are taken as data is read.
pub(crate) struct BufGroup {
    /// From `Vec`, zeroed, so that pages no buffer ever used cost nothing.
    memory: NonNull<u8>,
    count: u16,
    size: usize,
    /// Ids of buffers that no one holds.
    free: Mutex<Vec<u16>>,
    /// A receive waits for a buffer: whoever gives one back wakes the loop.
    starved: AtomicBool,
    port: Arc<Port>,
}

// SAFETY: a buffer's bytes are touched only by whoever holds its id (the kernel or one `RecvBuf`),
// and ids are handed out and taken back through the mutex.
unsafe impl Sync for BufGroup {}
// SAFETY: nothing in it is bound to a thread.
unsafe impl Send for BufGroup {}

impl BufGroup {
    pub(crate) fn new(count: u16, size: usize, port: Arc<Port>) -> Arc<BufGroup> {
        let memory = Box::into_raw(vec![0_u8; usize::from(count) * size].into_boxed_slice());
        Arc::new(BufGroup {
            memory: NonNull::new(memory.cast()).expect("a box is not null"),
            count,
            size,
            free: Mutex::new((0..count).rev().collect()),
            starved: AtomicBool::new(false),
            port,
        })
    }

    pub(crate) fn count(&self) -> u16 {
        self.count
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The address of a buffer, for the kernel or for a read into it. Whoever writes there must
    /// hold the id.
    pub(crate) fn address(&self, id: u16) -> *mut u8 {
        assert!(id < self.count);
        self.memory
            .as_ptr()
            .wrapping_add(usize::from(id) * self.size)
    }

    /// Whether [`take`](BufGroup::take) would find one.
    pub(crate) fn has_free(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Takes a free buffer's id.
    pub(crate) fn take(&self) -> Option<u16> {
        self.lock().pop()
    }

    /// Moves all free ids out.
    pub(crate) fn take_all(&self, into: &mut Vec<u16>) {
        let mut free = self.lock();
        if !free.is_empty() {
            into.append(&mut free);
        }
    }

    /// Gives an id back that [`take`](BufGroup::take) gave.
    pub(crate) fn give(&self, id: u16) {
        self.lock().push(id);
        if self.starved.load(Ordering::Relaxed) && self.starved.swap(false, Ordering::AcqRel) {
            self.port.notify();
        }
    }

    /// Has the loop woken when a buffer is given back.
    pub(crate) fn set_starved(&self) {
        self.starved.store(true, Ordering::SeqCst);
        // One may have been given back since it was missed.
        if self.has_free() {
            self.port.notify();
        }
    }

    /// Receives into a free buffer without waiting; `None` where there is none.
    pub(crate) fn recv(this: &Arc<Self>, socket: BorrowedFd<'_>) -> Option<io::Result<RecvBuf>> {
        let id = this.take()?;
        // SAFETY: we hold the buffer's id, so its `size` bytes are ours alone.
        let result = unsafe { sys::recv_raw(socket, this.address(id), this.size) };
        Some(match result {
            // SAFETY: we hold the id still, and give it up here.
            Ok(n) if n > 0 => Ok(unsafe { BufGroup::filled(this, id, n) }),
            other => {
                this.give(id);
                other.map(|_| RecvBuf::end())
            }
        })
    }

    /// A free buffer, leased whole.
    #[cfg(all(test, loom))]
    pub(crate) fn lease(this: &Arc<Self>) -> Option<RecvBuf> {
        let id = this.take()?;
        // SAFETY: the id was just taken.
        Some(unsafe { BufGroup::filled(this, id, this.size) })
    }

    /// Wraps what was written to a buffer.
    ///
    /// # Safety
    /// The caller holds `id` (from [`take`](BufGroup::take) or [`take_all`](BufGroup::take_all)),
    /// and gives it up: neither it nor the kernel touches the buffer from here on.
    pub(crate) unsafe fn filled(this: &Arc<Self>, id: u16, len: usize) -> RecvBuf {
        assert!(id < this.count && len <= this.size);
        RecvBuf {
            len,
            lease: Some((Arc::clone(this), id)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u16>> {
        self.free.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for BufGroup {
    fn drop(&mut self) {
        let len = usize::from(self.count) * self.size;
        let memory = std::ptr::slice_from_raw_parts_mut(self.memory.as_ptr(), len);
        // SAFETY: this is the box that `new` took apart, and its length. Every `RecvBuf` holds an
        // `Arc` of the group, and so does a ring for as long as the kernel may write here.
        drop(unsafe { Box::from_raw(memory) });
    }
}

/// Received bytes, in a buffer of the proactor's that is used again when this is dropped.
///
/// There is a limited number of these buffers: copy what is to be kept for long.
pub struct RecvBuf {
    len: usize,
    lease: Option<(Arc<BufGroup>, u16)>,
}

impl RecvBuf {
    /// The end of a stream: no bytes, no buffer.
    pub(crate) fn end() -> RecvBuf {
        RecvBuf {
            len: 0,
            lease: None,
        }
    }
}

impl Deref for RecvBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.lease {
            None => &[],
            // SAFETY: this lease alone holds the id, so nobody writes there until it is dropped;
            // `len` was checked against the buffer's size, and the group outlives the borrow.
            Some((group, id)) => unsafe {
                std::slice::from_raw_parts(group.address(*id), self.len)
            },
        }
    }
}

impl Drop for RecvBuf {
    fn drop(&mut self) {
        if let Some((group, id)) = self.lease.take() {
            group.give(id);
        }
    }
}

impl fmt::Debug for RecvBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RecvBuf").field(&self.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn group(count: u16, size: usize) -> Arc<BufGroup> {
        BufGroup::new(count, size, Port::new().unwrap())
    }

    /// Writes to a buffer as the kernel does: by its address.
    fn fill(group: &Arc<BufGroup>, text: &[u8]) -> RecvBuf {
        let id = group.take().unwrap();
        assert!(text.len() <= group.size());
        // SAFETY: we hold the id, and the text fits.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), group.address(id), text.len());
            BufGroup::filled(group, id, text.len())
        }
    }

    #[test]
    fn buffers_are_apart_and_come_back() {
        let group = group(4, 8);
        for round in 0..3 {
            let texts = [b"aaaaaaaa", b"bbbbbbbb", b"cccccccc", b"dddddddd"];
            let all = texts.map(|text| fill(&group, text));
            assert!(!group.has_free());
            assert_eq!(group.take(), None, "round {round}");
            for (buf, text) in all.iter().zip(texts) {
                assert_eq!(buf[..], text[..]);
            }
            drop(all);
            let mut ids = Vec::new();
            group.take_all(&mut ids);
            ids.sort_unstable();
            assert_eq!(ids, [0, 1, 2, 3]);
            ids.into_iter().for_each(|id| group.give(id));
        }
    }

    #[test]
    fn a_buffer_outlives_all_else_and_crosses_threads() {
        let group = group(2, 8);
        let (first, second) = (fill(&group, b"one"), fill(&group, b"two"));
        drop(group);
        let other = std::thread::spawn(move || first.len() + second.len());
        assert_eq!(other.join().unwrap(), 6);
    }

    #[test]
    fn one_is_written_while_another_is_read() {
        let group = group(2, 4);
        let read = fill(&group, b"read");
        let text = &read[..];
        let written = std::thread::scope(|scope| {
            let group = &group;
            let writer = scope.spawn(move || fill(group, b"more"));
            assert_eq!(text, b"read");
            writer.join().unwrap()
        });
        assert_eq!((text, &written[..]), (&b"read"[..], &b"more"[..]));
    }

    #[test]
    #[should_panic(expected = "len <= this.size")]
    fn more_than_a_buffer_holds_is_refused() {
        let group = group(1, 4);
        let id = group.take().unwrap();
        // SAFETY: the id is held; the length is what is refused.
        drop(unsafe { BufGroup::filled(&group, id, 5) });
    }

    #[test]
    #[cfg_attr(miri, ignore = "recv(2)")]
    fn receiving_takes_a_buffer_only_for_bytes() {
        let group = group(1, 4);
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let recv = || BufGroup::recv(&group, ours.as_fd());
        let error = recv().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        peer.write_all(b"123456").unwrap();
        let data = recv().unwrap().unwrap();
        assert_eq!(&data[..], b"1234");
        assert!(recv().is_none(), "no buffer is free");
        drop(data);
        assert_eq!(&recv().unwrap().unwrap()[..], b"56");
        drop(peer);
        assert!(recv().unwrap().unwrap().is_empty());
        assert!(group.has_free());
    }

    #[test]
    fn what_is_sent_advances() {
        let kinds = [
            SendBuf::from(Bytes::from_static(b"abcdef")),
            SendBuf::from(BytesMut::from(&b"abcdef"[..])),
        ];
        for mut buf in kinds {
            buf.advance(2);
            assert_eq!(&buf[..], b"cdef");
            buf.advance(4);
            assert!(buf.is_empty());
        }
        assert!(SendBuf::default().is_empty());
    }
}
