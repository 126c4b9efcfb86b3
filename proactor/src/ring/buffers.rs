//! The provided buffer ring: buffers of the [`BufGroup`] that the kernel may pick for received
//! data (io_uring_register_buf_ring(3), Linux 5.19).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::buf::{BufGroup, RecvBuf};
use crate::sys;

pub(super) struct Buffers {
    group: Arc<BufGroup>,
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    mask: u16,
    tail: u16,
    /// Buffers that the kernel holds.
    provided: u16,
    ids: Vec<u16>,
}

impl Buffers {
    /// The only group of a ring.
    pub(super) const GROUP: u16 = 0;

    /// Makes and registers the ring. It must outlive `ring`.
    pub(super) fn register(ring: &IoUring, group: Arc<BufGroup>) -> io::Result<Buffers> {
        let count = group.count();
        debug_assert!(count.is_power_of_two());
        let size = usize::from(count) * size_of::<BufRingEntry>();
        let layout = Layout::from_size_align(size, sys::page_size())
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        // SAFETY: the layout's size isn't zero, since there is at least one buffer.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(entries) = NonNull::new(memory.cast::<BufRingEntry>()) else {
            handle_alloc_error(layout)
        };
        let mut buffers = Buffers {
            group,
            entries,
            layout,
            mask: count - 1,
            tail: 0,
            provided: 0,
            ids: Vec::new(),
        };
        // SAFETY: the memory is page-aligned, of `count` entries, zeroed, and is freed only after
        // the ring is closed (`register`'s contract, kept by the order of `Ring`'s fields).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                entries.as_ptr() as u64,
                count,
                Self::GROUP,
                0,
            )?;
        }
        buffers.provide();
        Ok(buffers)
    }

    /// Gives the kernel all buffers that no one holds. True if there were any.
    pub(super) fn provide(&mut self) -> bool {
        self.group.take_all(&mut self.ids);
        if self.ids.is_empty() {
            return false;
        }
        for id in self.ids.drain(..) {
            // SAFETY: the index is masked to the entries. The kernel reads an entry only once the
            // tail has passed it, and there are never more buffers than entries.
            let entry = unsafe { &mut *self.entries.as_ptr().add((self.tail & self.mask).into()) };
            entry.set_addr(self.group.address(id) as u64);
            entry.set_len(self.group.size() as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            self.provided += 1;
        }
        // SAFETY: the first entry is initialised, and its `resv` field is the ring's tail, which
        // only we write.
        let tail =
            unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
        true
    }

    /// Takes a buffer over that the kernel has filled.
    pub(super) fn filled(&mut self, id: u16, len: usize) -> RecvBuf {
        self.provided -= 1;
        self.group.filled(id, len)
    }

    /// Whether the kernel has buffers to pick from.
    pub(super) fn has_any(&self) -> bool {
        self.provided > 0
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `register` with this layout; the kernel's ring is closed.
        unsafe { dealloc(self.entries.as_ptr().cast(), self.layout) };
    }
}
