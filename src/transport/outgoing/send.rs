//! Sends: what is gathered of the queue's head into one, and how files go natively.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use bytes::BytesMut;
use proactor::{BackendKind, Fd, Forward, Op, SendBuf, SendFile, net};

use super::Doing;
use crate::route::{Decision, Route, method};
use crate::send::End;
use crate::transport::conn::{Conn, State};
use crate::transport::file::{Body, FileSend, Next};
use crate::transport::queue::Entry;
use crate::transport::shared::Shared;

/// From this size on bytes are sent from where they are, rather than copied together.
pub(super) const LARGE: usize = 16 << 10;

/// At most so many buffers, and about so many bytes, go in a vectored send.
const VECTORED: (usize, usize) = (64, 1 << 20);

impl Conn {
    /// Sends the leading data, `entries` of them; and, with `files`, small files that follow.
    pub(super) fn send_data(
        self: &Rc<Self>,
        state: &mut State,
        socket: Fd,
        entries: usize,
        bytes: usize,
        files: bool,
    ) {
        if state.tls.is_some() {
            return self.gather(state, socket);
        }
        let fits = bytes <= Shared::BUFFER - if files { LARGE } else { 0 };
        let small = entries > 0 && bytes / entries < LARGE / 4;
        if (files && fits) || (entries > 1 && (fits || small)) {
            return self.gather(state, socket);
        }
        let more = state.queue.comes_at_once(entries);
        if entries == 1 {
            if let Some(Entry::Data(data)) = state.queue.get_mut(0) {
                data.gathered = data.bytes.len();
                let buf = SendBuf::Shared(data.bytes.clone());
                self.send(state, socket, buf, more);
            }
            return;
        }
        let mut bufs = Vec::with_capacity(entries.min(VECTORED.0));
        let mut len = 0;
        while let Some(Entry::Data(data)) = state.queue.get_mut(bufs.len()) {
            if bufs.len() == VECTORED.0 || len >= VECTORED.1 {
                break;
            }
            data.gathered = data.bytes.len();
            len += data.gathered;
            bufs.push(data.bytes.clone());
        }
        let more = state.queue.comes_at_once(bufs.len());
        let more = self.cork(state, more, len as u64);
        let op = Op::SendVectored { socket, bufs, more };
        self.start(state, op, Doing::Send(len));
    }

    pub(super) fn send(self: &Rc<Self>, state: &mut State, socket: Fd, buf: SendBuf, more: bool) {
        let buf = match state.tls {
            None => Some(buf),
            Some(_) => self.seal(state, buf),
        };
        if let Some(buf) = buf {
            self.send_as_is(state, socket, buf, more);
        }
    }

    pub(in crate::transport) fn send_as_is(
        self: &Rc<Self>,
        state: &mut State,
        socket: Fd,
        buf: SendBuf,
        more: bool,
    ) {
        let len = buf.len();
        let more = self.cork(state, more, len as u64);
        self.start(state, Op::Send { socket, buf, more }, Doing::Send(len));
    }

    /// Before a send of `len` bytes, with or without `more` at hand behind them: has the socket hold
    /// back what is no full segment, or no longer. Returns whether more is to be expected.
    fn cork(&self, state: &mut State, more: bool, len: u64) -> bool {
        if state.out.streams || (more && len >= net::LONG) {
            self.hold_back(state);
        } else if !more && state.out.held {
            self.push_out(state);
        }
        state.out.corked = more || (state.out.streams && state.out.held);
        state.out.corked
    }

    /// Sends bytes in memory that belong to a file send at the queue's head.
    pub(super) fn send_head(self: &Rc<Self>, state: &mut State, socket: Fd) {
        let Some(file) = state.queue.file_mut(0) else {
            return;
        };
        let most = match state.tls {
            None => file.head.len(),
            Some(_) => file.head.len().min(Shared::BUFFER),
        };
        let len = match file.allowed(most as u64) {
            Ok(len) => len as usize,
            Err(at) => return self.wait_until(state, at),
        };
        file.gathered = len;
        let head = file.head.slice(..len);
        let more = match file.is_gathered() {
            true => state.queue.comes_at_once(1),
            false => file.comes_at_once(),
        };
        self.send(state, socket, head.into(), more);
    }

    /// Brings bytes and small files together in one buffer, and sends it.
    fn gather(self: &Rc<Self>, state: &mut State, socket: Fd) {
        let mut buf = self.shared.buffer();
        let (backend, streams) = (self.shared.backend, state.out.streams);
        let mut at = 0;
        // A file's bytes are in the buffer, or a file was passed.
        let mut files = false;
        let mut pause = None;
        while buf.len() < Shared::BUFFER {
            let room = Shared::BUFFER - buf.len();
            match state.queue.get_mut(at) {
                None => break,
                Some(Entry::Data(data)) => {
                    let len = data.bytes.len().min(room);
                    if len >= LARGE && files {
                        break;
                    }
                    buf.extend_from_slice(&data.bytes[..len]);
                    data.gathered = len;
                    if len < data.bytes.len() {
                        break;
                    }
                }
                Some(Entry::File(file)) => {
                    if files && file.needs_turn() {
                        break;
                    }
                    file.start();
                    let gathered = gather_file(file, &mut buf, room, backend, streams);
                    state.queue.recount(at);
                    match gathered {
                        Gathered::All => files = true,
                        Gathered::Part => break,
                        Gathered::NotYet(when) => {
                            pause = Some(when);
                            break;
                        }
                        Gathered::Cold(len) => {
                            if files {
                                break;
                            }
                            return self.fill(state, at, buf, len);
                        }
                    }
                }
            }
            at += 1;
        }
        if !buf.is_empty() {
            let more = state.queue.comes_at_once(at);
            return self.send(state, socket, buf.into(), more);
        }
        self.shared.recycle(buf);
        if let Some(when) = pause {
            self.wait_until(state, when);
        }
    }

    /// Reads a file behind what is in the buffer already, away from the loop.
    pub(super) fn fill(self: &Rc<Self>, state: &mut State, at: usize, buf: BytesMut, len: usize) {
        let Some(file) = state.queue.file_mut(at) else {
            return;
        };
        let (id, offset) = (file.id, file.offset());
        let Body::Seekable { fd, .. } = &file.body else {
            return;
        };
        let op = Op::Read {
            file: fd.clone(),
            buf,
            len,
            offset: Some(offset),
        };
        self.start(state, op, Doing::Fill(id));
    }

    /// Sends a piece of a file natively, the data before it as its header.
    pub(super) fn send_piece(
        self: &Rc<Self>,
        state: &mut State,
        socket: Fd,
        entries: usize,
        bytes: usize,
        route: Route,
        len: u64,
    ) {
        let Some(file) = state.queue.file_mut(entries) else {
            return;
        };
        let len = match file.allowed(len) {
            Ok(len) => len,
            Err(_) if entries > 0 => return self.send_data(state, socket, entries, bytes, false),
            Err(at) => return self.wait_until(state, at),
        };
        let (id, left) = (file.id, file.left());
        let (fd, offset, stream) = match &file.body {
            Body::Seekable { fd, .. } => (fd.clone(), Some(file.offset()), false),
            Body::Stream {
                fd, relayed: true, ..
            } => {
                let fd = fd.clone();
                self.push_out(state);
                let op = Forward {
                    head: SendBuf::new(),
                    from: fd,
                    to: socket,
                    offset: None,
                    len,
                    some: true,
                    method: method(route),
                };
                let doing = Doing::Piece {
                    id,
                    header: 0,
                    route,
                };
                return self.start(state, Op::Forward(Box::new(op)), doing);
            }
            Body::Stream { fd, .. } => (fd.clone(), None, true),
            _ => return,
        };
        let last = left.is_some_and(|left| left <= len);
        let more = match file.pacing {
            Some(_) => false,
            None if last => state.queue.comes_at_once(entries + 1),
            // A stream may keep what follows waiting.
            None => left.is_some() && !stream,
        };
        let more = match stream {
            true => {
                self.push_out(state);
                state.out.corked = more;
                more
            }
            false => self.cork(state, more, len),
        };
        let header = self.header(state, entries, bytes);
        let op = SendFile {
            header,
            file: fd,
            socket,
            offset,
            len,
            more,
            method: method(route),
        };
        let doing = Doing::Piece {
            id,
            header: bytes,
            route,
        };
        self.start(state, Op::SendFile(op), doing);
    }

    /// The leading data in one buffer.
    fn header(&self, state: &mut State, entries: usize, bytes: usize) -> SendBuf {
        let mut buf = BytesMut::new();
        for at in 0..entries {
            let Some(Entry::Data(data)) = state.queue.get_mut(at) else {
                break;
            };
            data.gathered = data.bytes.len();
            if entries == 1 {
                return SendBuf::Shared(data.bytes.clone());
            }
            buf.reserve(bytes - buf.len());
            buf.extend_from_slice(&data.bytes);
        }
        buf.into()
    }

    /// Sends what was read of a stream at the queue's head.
    pub(super) fn send_chunk(self: &Rc<Self>, state: &mut State, socket: Fd) {
        let Some(file) = state.queue.file_mut(0) else {
            return;
        };
        let id = file.id;
        let (Body::Stream { chunk, .. } | Body::Reader { chunk, .. }) = &mut file.body else {
            return;
        };
        let buf = std::mem::take(chunk);
        let len = buf.len();
        if state.tls.is_some() {
            file.gathered = len;
            return self.send(state, socket, buf.into(), false);
        }
        // The next is not there yet.
        self.push_out(state);
        let op = Op::Send {
            socket,
            buf: buf.into(),
            more: false,
        };
        self.start(state, op, Doing::Chunk(id, len));
    }
}

/// How far a file was gathered.
enum Gathered {
    All,
    Part,
    /// Nothing; it is to be paced.
    NotYet(Instant),
    /// Nothing: its next bytes, so many of them, aren't at hand.
    Cold(usize),
}

/// Gathers as much of a file as fits, is at hand, and may be copied.
fn gather_file(
    file: &mut FileSend,
    buf: &mut BytesMut,
    room: usize,
    backend: BackendKind,
    streams: bool,
) -> Gathered {
    let most = buf.len() + room;
    loop {
        let room = most - buf.len();
        let next = file.next();
        match next {
            Next::Over(End::Complete | End::EndOfFile) => return Gathered::All,
            Next::Over(_) | Next::Chunk | Next::Stream | Next::Reader | Next::Reopen => {
                return Gathered::Part;
            }
            _ if room == 0 => return Gathered::Part,
            Next::Head | Next::Seekable => {}
        }
        let want = file.left().unwrap_or(u64::MAX).min(room as u64);
        let paced = file.pacing.is_some() || file.progress.is_some();
        if paced && file.gathered > 0 {
            return Gathered::Part;
        }
        let want = match file.allowed(want) {
            Ok(want) => want as usize,
            Err(at) => return Gathered::NotYet(at),
        };
        if matches!(next, Next::Head) {
            let head = file.head_rest();
            let len = want.min(head.len());
            buf.extend_from_slice(&head[..len]);
            file.gathered += len;
            continue;
        }
        match file.decide(backend, streams) {
            Decision::Copy => {}
            Decision::Native(..) | Decision::Refuse => return Gathered::Part,
        }
        let offset = file.offset();
        let Body::Seekable { fd, .. } = &file.body else {
            return Gathered::Part;
        };
        match fd.read_nowait(buf, want, offset) {
            Ok(0) => file.end_here(),
            Ok(n) => {
                file.gathered += n;
                file.no_pipe = false;
            }
            Err(_) if file.gathered > 0 => return Gathered::Part,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Gathered::Cold(want),
            Err(e) => file.read_failed(e),
        }
    }
}
