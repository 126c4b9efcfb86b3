//! What is to leave, in order, and the account of it: which bytes wait, which are in the operation
//! under way ("gathered"), what all that counts for the write limits. Moves nothing itself.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::file::FileSend;
use crate::route::Route;

pub(crate) enum Entry {
    Data(Data),
    File(Box<FileSend>),
}

/// Bytes that were written; never empty.
pub(crate) struct Data {
    /// What has not been sent of them.
    pub(crate) bytes: Bytes,
    /// How many of these are in the operation under way.
    pub(crate) gathered: usize,
}

pub(crate) struct Queue {
    entries: VecDeque<Entry>,
    /// Bytes in data entries.
    data: usize,
    /// What files count for the write limits; each may count anything.
    weights: u128,
    /// What a file counts that names no weight.
    default_weight: usize,
}

impl Queue {
    pub(crate) fn new(default_weight: usize) -> Queue {
        Queue {
            entries: VecDeque::new(),
            data: 0,
            weights: 0,
            default_weight,
        }
    }

    pub(crate) fn push_data(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.data += bytes.len();
        self.push(Entry::Data(Data { bytes, gathered: 0 }));
    }

    pub(crate) fn push_file(&mut self, mut file: Box<FileSend>) {
        file.counted = file.weigh(self.default_weight);
        self.weights += u128::from(file.counted);
        self.push(Entry::File(file));
    }

    fn push(&mut self, entry: Entry) {
        if self.entries.capacity() == 0 {
            // A head and its file: what stalled clients leave in thousands of queues.
            self.entries.reserve_exact(2);
        }
        self.entries.push_back(entry);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of data.
    pub(crate) fn data_len(&self) -> usize {
        self.data
    }

    /// What counts for the write limits.
    pub(crate) fn pressure(&self) -> u64 {
        u64::try_from(self.data as u128 + self.weights).unwrap_or(u64::MAX)
    }

    /// A file without a weight of its own counts `weight` from now on.
    pub(crate) fn set_default_weight(&mut self, weight: usize) {
        self.default_weight = weight;
        for at in 0..self.entries.len() {
            self.recount(at);
        }
    }

    /// Brings a file's share of the pressure up to date.
    pub(crate) fn recount(&mut self, at: usize) {
        if let Some(Entry::File(file)) = self.entries.get_mut(at) {
            let counts = file.weigh(self.default_weight);
            self.weights = self.weights - u128::from(file.counted) + u128::from(counts);
            file.counted = counts;
        }
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut Entry> {
        self.entries.get_mut(at)
    }

    pub(crate) fn file_mut(&mut self, at: usize) -> Option<&mut FileSend> {
        match self.entries.get_mut(at) {
            Some(Entry::File(file)) => Some(file),
            _ => None,
        }
    }

    /// Where a send stands in the queue.
    pub(crate) fn find(&self, id: u64) -> Option<usize> {
        let is_it = |e: &Entry| matches!(e, Entry::File(file) if file.id == id);
        self.entries.iter().position(is_it)
    }

    /// The data entries before the first file: how many, and how many bytes. Of very many, only
    /// the first: more than leave at a time.
    pub(crate) fn leading_data(&self) -> (usize, usize) {
        const ENOUGH: usize = 2 << 20;
        let mut len = 0;
        let mut bytes = 0;
        for entry in &self.entries {
            let Entry::Data(data) = entry else { break };
            if bytes > ENOUGH {
                break;
            }
            len += 1;
            bytes += data.bytes.len();
        }
        (len, bytes)
    }

    /// Whether an entry at `from` or behind brings bytes at once.
    pub(crate) fn comes_at_once(&self, from: usize) -> bool {
        match self.entries.get(from) {
            None => false,
            Some(Entry::Data(_)) => true,
            Some(Entry::File(file)) => file.comes_at_once(),
        }
    }

    /// The kernel took `n` of the gathered bytes. Entries that are over by that leave the queue;
    /// the sends among them go to `over`. Returns how many of the bytes were written ones; the rest
    /// are of files.
    pub(crate) fn consume(&mut self, mut n: usize, mut over: impl FnMut(Box<FileSend>)) -> usize {
        let before = self.data;
        while let Some(entry) = self.entries.front_mut() {
            let done = match entry {
                Entry::Data(data) => {
                    let taken = n.min(data.gathered);
                    data.bytes.advance(taken);
                    data.gathered -= taken;
                    self.data -= taken;
                    n -= taken;
                    data.bytes.is_empty()
                }
                Entry::File(file) => {
                    let taken = n.min(file.gathered);
                    file.gathered -= taken;
                    n -= taken;
                    file.took(taken as u64);
                    if taken > 0 {
                        file.routes.insert(Route::Copy);
                    }
                    file.gathered == 0 && file.is_gathered()
                }
            };
            self.recount(0);
            if !done {
                break;
            }
            if let Some(file) = self.take(0) {
                over(file);
            }
        }
        debug_assert_eq!(n, 0, "more was sent than was gathered");
        before - self.data
    }

    /// The operation is over: what it did not send waits again.
    pub(crate) fn ungather(&mut self) {
        for entry in &mut self.entries {
            match entry {
                Entry::Data(data) if data.gathered > 0 => data.gathered = 0,
                Entry::File(file) if file.gathered > 0 => file.gathered = 0,
                // A send without bytes may stand between those that have some.
                Entry::File(file) if file.is_started() => {}
                _ => break,
            }
        }
    }

    /// Takes an entry out; returns it if it is a send.
    pub(crate) fn take(&mut self, at: usize) -> Option<Box<FileSend>> {
        match self.entries.remove(at)? {
            Entry::Data(data) => {
                self.data -= data.bytes.len();
                None
            }
            Entry::File(file) => {
                self.weights -= u128::from(file.counted);
                Some(file)
            }
        }
    }

    /// Takes the first send out for which `wanted` is true.
    pub(crate) fn take_where(
        &mut self,
        mut wanted: impl FnMut(&FileSend) -> bool,
    ) -> Option<Box<FileSend>> {
        let is_it = |e: &Entry| matches!(e, Entry::File(file) if wanted(file));
        let at = self.entries.iter().position(is_it)?;
        self.take(at)
    }

    /// Drops all data; the sends go to `over`.
    pub(crate) fn clear(&mut self, mut over: impl FnMut(Box<FileSend>)) {
        let entries = std::mem::take(&mut self.entries);
        self.data = 0;
        self.weights = 0;
        for entry in entries {
            if let Entry::File(file) = entry {
                over(file);
            }
        }
    }

    /// Gives memory back that a long queue needed.
    pub(crate) fn shrink(&mut self) {
        if self.entries.is_empty() && self.entries.capacity() > 64 {
            self.entries = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SendOptions;
    use crate::route::RouteChoice;
    use crate::source::Kind;

    fn file(id: u64, len: usize, options: SendOptions) -> Box<FileSend> {
        let kind = Kind::Bytes(Bytes::from(vec![0; len]));
        let on_sent = Box::new(|_: &_, _| {});
        Box::new(FileSend::new(id, kind, options, RouteChoice::Auto, on_sent))
    }

    /// Gathers all that there is; it is in memory.
    fn gather(queue: &mut Queue) -> usize {
        let mut total = 0;
        for entry in &mut queue.entries {
            total += match entry {
                Entry::Data(data) => {
                    data.gathered = data.bytes.len();
                    data.gathered
                }
                Entry::File(file) => {
                    file.start();
                    file.gathered = file.head.len();
                    file.gathered
                }
            };
        }
        total
    }

    fn queue() -> Queue {
        let mut queue = Queue::new(65);
        queue.push_data(Bytes::new());
        queue.push_data(Bytes::from_static(b"0123456789"));
        queue.push_file(file(1, 5, SendOptions::new()));
        queue.push_file(file(2, 0, SendOptions::new()));
        queue.push_data(Bytes::from_static(b"abc"));
        queue.push_file(file(3, 100, SendOptions::new().write_weight(7)));
        queue
    }

    #[test]
    fn bytes_and_weights_are_counted() {
        let mut queue = queue();
        assert_eq!(queue.data_len(), 13);
        // What a file counts is known once it is started.
        assert_eq!(queue.pressure(), 13 + 65 + 65 + 7);
        gather(&mut queue);
        for at in 0..5 {
            queue.recount(at);
        }
        assert_eq!(queue.pressure(), 13 + 5 + 7);
        queue.set_default_weight(3);
        assert_eq!(queue.pressure(), 13 + 3 + 7);
        assert_eq!(queue.leading_data(), (1, 10));
    }

    #[test]
    fn weights_may_be_anything() {
        let mut queue = Queue::new(usize::MAX);
        queue.push_data(Bytes::from_static(b"abc"));
        queue.push_file(file(1, 5, SendOptions::new()));
        queue.push_file(file(2, 5, SendOptions::new().write_weight(usize::MAX)));
        assert_eq!(queue.pressure(), u64::MAX);
        queue.set_default_weight(1);
        assert_eq!(queue.pressure(), u64::MAX);
        drop(queue.take(2));
        assert_eq!(queue.pressure(), 3 + 1);
        queue.set_default_weight(usize::MAX);
        assert_eq!(queue.pressure(), u64::MAX);
        drop(queue.take(1));
        assert_eq!(queue.pressure(), 3);
    }

    #[test]
    fn what_was_taken_leaves_in_order() {
        for step in 1..=118 {
            let mut queue = queue();
            let mut left = gather(&mut queue);
            assert_eq!(left, 118);
            let mut over = Vec::new();
            while left > 0 {
                let n = left.min(step);
                queue.consume(n, |file| over.push((file.id, file.sent)));
                left -= n;
                queue.ungather();
                gather(&mut queue);
                assert_eq!(queue.is_empty(), left == 0);
            }
            assert_eq!(over, [(1, 5), (2, 0), (3, 100)]);
            assert_eq!((queue.data_len(), queue.pressure()), (0, 0));
        }
    }

    #[test]
    fn what_is_taken_out_counts_no_more() {
        let mut queue = queue();
        let at = queue.find(2).unwrap();
        assert_eq!(queue.take(at).map(|file| file.id), Some(2));
        assert!(queue.find(2).is_none());
        assert_eq!(queue.pressure(), 13 + 65 + 7);
        assert!(queue.take(0).is_none());
        assert_eq!(queue.pressure(), 3 + 65 + 7);
        let mut over = Vec::new();
        queue.clear(|file| over.push(file.id));
        assert_eq!(over, [1, 3]);
        assert_eq!(queue.pressure(), 0);
        assert!(queue.is_empty());
    }
}
