//! The provided buffer ring: buffers of the [`BufGroup`] that the kernel may pick for received
//! data (io_uring_register_buf_ring(3), Linux 5.19).

use crate::sync::Arc;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::buf::{BufGroup, RecvBuf};
use crate::sys;

use super::queues::Queues;

pub(super) struct Buffers {
    group: Arc<BufGroup>,
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    mask: u16,
    tail: u16,
    /// How many buffers the kernel holds, and which.
    provided: u16,
    held: Vec<bool>,
    ids: Vec<u16>,
}

impl Buffers {
    /// The only group of a ring.
    pub(super) const GROUP: u16 = 0;

    /// Makes and registers the ring. It must outlive `queues`, and be leaked with whatever receive
    /// is not over when that goes.
    pub(super) fn register(queues: &mut Queues, group: Arc<BufGroup>) -> io::Result<Buffers> {
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
            held: vec![false; count.into()],
            ids: Vec::new(),
        };
        // SAFETY: the memory is page-aligned, of `count` entries, zeroed (the tail too), and freed
        // only when the ring is closed and no receive is left (see `drop`).
        unsafe {
            queues.register_buf_ring(entries.as_ptr() as u64, count, Self::GROUP)?;
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
            // SAFETY: the index is masked to the entries. The kernel reads entries from its head to
            // the tail that we published, and has moved its head past an entry before it posts the
            // completion that gives the buffer back. There are as many entries as buffers, and we
            // hold this one: so at least one entry is not between the two, the one behind the
            // tail. The first entry's `resv` is the tail itself, which no setter here touches.
            let entry = unsafe { &mut *self.entries.as_ptr().add((self.tail & self.mask).into()) };
            entry.set_addr(self.group.address(id) as u64);
            entry.set_len(self.group.size() as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            self.provided += 1;
            self.held[usize::from(id)] = true;
        }
        // SAFETY: the tail lies in the first entry's `resv` field: allocated, aligned to two bytes,
        // and no reference to that entry is left. Only we write it; the kernel reads it with
        // acquire, against which this releases the entries written above.
        let tail =
            unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
        true
    }

    /// Takes a buffer over that a completion has named.
    pub(super) fn filled(&mut self, id: u16, len: usize) -> RecvBuf {
        let held = std::mem::replace(&mut self.held[usize::from(id)], false);
        assert!(held, "the kernel gave a buffer back that it did not have");
        self.provided -= 1;
        // SAFETY: the buffer was the kernel's (checked), and so came here from `take_all`; a
        // completion that names it is the kernel's last touch of it.
        unsafe { BufGroup::filled(&self.group, id, len) }
    }

    /// Whether the kernel has buffers to pick from.
    pub(super) fn has_any(&self) -> bool {
        self.provided > 0
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `register` with this layout. Closing a ring does not wait for its
        // requests, but there is none left that could pick a buffer: else `Ring::abandon` has
        // leaked this. The kernel has pinned the pages themselves for as long as it looks at them.
        unsafe { dealloc(self.entries.as_ptr().cast(), self.layout) };
    }
}
