//! The writing half: makes the next outgoing operation from the queue's head, and takes its
//! completion in. At most one is under way at a time.
//!
//! Small things are gathered: bytes written, and files small enough to be copied, go into one
//! buffer and leave in one send. Larger files leave natively, piece by piece, the bytes before
//! them as a header. Large bytes are sent from where they are.
//!
//! What was gathered is only counted as such (`gathered` in the queue's entries); it stays in the
//! queue until the kernel took it. So a send that was cut short, cancelled or refused costs no
//! more than gathering again, and a stalled peer holds no buffer: after a short send the socket is
//! polled before the next.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use proactor::{
    Completion, Fd, Interest, Op, Open, Output, SendBuf, SendFile, SendFileEnd, Token, net,
};

use super::appetite::Appetite;
use super::conn::{Conn, Event, Key, Medium, Phase, State, WriteEnd};
use super::file::{Body, FileSend, Next};
use super::queue::Entry;
use super::shared::Shared;
use crate::route::{Decision, Route, is_refusal, method};
use crate::send::End;

/// From this size on bytes are sent from where they are, rather than copied together.
const LARGE: usize = 16 << 10;

/// At most so many bytes go before a file as its header.
const HEADER: usize = 16 << 10;

/// At most so many buffers, and about so many bytes, go in a vectored send.
const VECTORED: (usize, usize) = (64, 1 << 20);

/// How long a worker gathers what a reader gives in small portions.
const READER_PATIENCE: Duration = Duration::from_micros(500);

/// What the outgoing operation is.
enum Doing {
    /// A send of gathered bytes: so many.
    Send(usize),
    /// A send of what was read of a stream.
    Chunk(u64, usize),
    /// A native piece of a file, behind a header of so many bytes.
    Piece {
        id: u64,
        header: usize,
        route: Route,
    },
    /// A read of a file into the buffer of gathered bytes.
    Fill(u64),
    /// A read of a stream.
    Stream(u64),
    /// A wait until a stream can be read.
    StreamReady,
    /// A reader's read on a worker.
    Reader(u64),
    /// Opening a file once more.
    Reopen(u64),
    /// A wait for room in the socket.
    Room,
    /// A wait for the time when more may leave.
    Pace,
}

/// The outgoing operation, and what the last one left behind.
#[derive(Default)]
pub(crate) struct Out {
    /// The number of the last operation.
    number: u32,
    busy: Option<(Token, Doing)>,
    /// A cancel of the operation has been asked for.
    interrupted: bool,
    /// The kernel did not take all of the last send: wait for room.
    full: bool,
    /// Something may be held back for what follows (`MSG_MORE`).
    corked: bool,
    /// Sends in the queue are to be stopped.
    stops: bool,
    appetite: Appetite,
    /// The operation under way counts among the large ones.
    large: bool,
}

impl Out {
    pub(crate) fn is_idle(&self) -> bool {
        self.busy.is_none()
    }

    /// The number of the operation under way.
    pub(crate) fn number(&self) -> Option<u32> {
        self.busy.as_ref().map(|_| self.number)
    }

    /// The operation's completion will not come.
    pub(crate) fn abandon(&mut self) {
        self.busy = None;
        self.large = false;
    }
}

/// What a worker brings back of a reader.
struct ReadBack {
    reader: Box<dyn Read + Send>,
    buf: BytesMut,
    result: io::Result<End>,
}

impl Conn {
    /// Starts what is next, if nothing is under way. Returns early where something is to be told
    /// first.
    pub(crate) fn flush(self: &Rc<Self>, state: &mut State) {
        while state.out.is_idle()
            && state.events.is_empty()
            && matches!(state.phase, Phase::Open | Phase::Closing)
        {
            if state.out.stops {
                self.finish_stopped(state);
            }
            if let Some(file) = state.queue.file_mut(0) {
                file.start();
                if let Some(end) = file.verdict()
                    && let Some(file) = state.queue.take(0)
                {
                    self.finish(&mut state.events, file, end);
                    continue;
                }
                state.queue.recount(0);
            }
            if state.queue.is_empty() {
                self.idle(state);
                return;
            }
            if state.out.full {
                self.wait_for_room(state);
                return;
            }
            self.start_next(state);
        }
    }

    /// Nothing is queued.
    fn idle(self: &Rc<Self>, state: &mut State) {
        let Some(fd) = state.fd.clone() else { return };
        state.out.full = false;
        state.queue.shrink();
        if std::mem::take(&mut state.out.corked)
            && self.medium == Medium::Tcp
            && let Err(e) = net::set_nodelay(&fd)
        {
            log::debug!("held back bytes could not be pushed out: {e}");
        }
        if state.write_end == WriteEnd::Wanted {
            state.write_end = WriteEnd::Done;
            if let Err(e) = net::shutdown(&fd, std::net::Shutdown::Write) {
                self.peer_gone(state, e);
                return;
            }
        }
        if matches!(state.phase, Phase::Closing) {
            self.begin_ending(state, None, End::Cancelled);
        }
    }

    fn start(self: &Rc<Self>, state: &mut State, op: Op, doing: Doing) {
        if !matches!(state.phase, Phase::Open | Phase::Closing) {
            return self.reclaim(Some(op));
        }
        state.out.number = state.out.number.wrapping_add(1);
        state.out.interrupted = false;
        let key = Key::Out(state.out.number);
        self.begin_large(state, &op);
        match self.submit(op, key) {
            Some(token) => state.out.busy = Some((token, doing)),
            None => self.proactor_gone(state),
        }
    }

    /// Bounds what may wait unsent for the peer, before an operation of many bytes.
    fn begin_large(&self, state: &mut State, op: &Op) {
        let len = match op {
            Op::SendFile(op) => op.len,
            Op::Send { buf, .. } => buf.len() as u64,
            Op::SendVectored { bufs, .. } => bufs.iter().map(|b| b.len() as u64).sum(),
            _ => 0,
        };
        state.out.large = self.medium == Medium::Tcp && Appetite::matters(len);
        if state.out.large
            && let Some(fd) = &state.fd
        {
            state.out.appetite.begin(fd, self.shared.large.get());
            self.shared.large.set(self.shared.large.get() + 1);
        }
    }

    /// An operation of many bytes is over.
    fn end_large(&self, state: &mut State, taken: u64) {
        if std::mem::take(&mut state.out.large) {
            self.shared.large.set(self.shared.large.get() - 1);
            if let Some(fd) = &state.fd {
                state.out.appetite.took(fd, taken);
            }
        }
    }

    fn wait_for_room(self: &Rc<Self>, state: &mut State) {
        let Some(fd) = state.fd.clone() else { return };
        state.out.full = false;
        let interest = Interest::WRITABLE;
        self.start(state, Op::Poll { fd, interest }, Doing::Room);
    }

    fn wait_until(self: &Rc<Self>, state: &mut State, at: Instant) {
        self.start(state, Op::Timeout { at }, Doing::Pace);
    }

    /// Makes an operation of the queue's head. Where that shows a send to be over, none.
    fn start_next(self: &Rc<Self>, state: &mut State) {
        let Some(socket) = state.fd.clone() else {
            return;
        };
        let (data, data_len) = state.queue.leading_data();
        let Some(file) = state.queue.file_mut(data) else {
            return self.send_data(state, socket, data, data_len, false);
        };
        file.start();
        let next = file.next();
        match next {
            Next::Head if file.head.len() >= LARGE => {
                if data == 0 {
                    return self.send_head(state, socket);
                }
                self.send_data(state, socket, data, data_len, false);
            }
            Next::Over(End::Complete | End::EndOfFile) | Next::Head => {
                self.send_data(state, socket, data, data_len, true);
            }
            Next::Seekable => match file.decide(self.shared.backend) {
                Decision::Copy => self.send_data(state, socket, data, data_len, true),
                Decision::Native(route, len) if data_len <= HEADER => {
                    self.send_piece(state, socket, data, data_len, route, len);
                }
                Decision::Native(..) => self.send_data(state, socket, data, data_len, false),
                Decision::Refuse if data > 0 => {
                    self.send_data(state, socket, data, data_len, false);
                }
                Decision::Refuse => file.refuse(),
            },
            _ if data > 0 => self.send_data(state, socket, data, data_len, false),
            Next::Chunk => self.send_chunk(state, socket),
            Next::Stream => match file.decide(self.shared.backend) {
                Decision::Native(route, len) => {
                    self.send_piece(state, socket, 0, 0, route, len);
                }
                Decision::Copy => self.read_stream(state),
                Decision::Refuse => file.refuse(),
            },
            Next::Reader => self.read_reader(state),
            Next::Reopen => self.reopen(state),
            Next::Over(_) => {}
        }
    }

    /// Sends the leading data, `entries` of them; and, with `files`, small files that follow.
    fn send_data(
        self: &Rc<Self>,
        state: &mut State,
        socket: Fd,
        entries: usize,
        bytes: usize,
        files: bool,
    ) {
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
        state.out.corked = more;
        let op = Op::SendVectored { socket, bufs, more };
        self.start(state, op, Doing::Send(len));
    }

    fn send(self: &Rc<Self>, state: &mut State, socket: Fd, buf: SendBuf, more: bool) {
        let len = buf.len();
        state.out.corked = more;
        self.start(state, Op::Send { socket, buf, more }, Doing::Send(len));
    }

    /// Sends bytes in memory that belong to a file send at the queue's head.
    fn send_head(self: &Rc<Self>, state: &mut State, socket: Fd) {
        let Some(file) = state.queue.file_mut(0) else {
            return;
        };
        let len = match file.allowed(file.head.len() as u64) {
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
                    let gathered = gather_file(file, &mut buf, room, self.shared.backend);
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
    fn fill(self: &Rc<Self>, state: &mut State, at: usize, buf: BytesMut, len: usize) {
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
    fn send_piece(
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
        state.out.corked = more;
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
    fn send_chunk(self: &Rc<Self>, state: &mut State, socket: Fd) {
        let Some(file) = state.queue.file_mut(0) else {
            return;
        };
        let id = file.id;
        let (Body::Stream { chunk, .. } | Body::Reader { chunk, .. }) = &mut file.body else {
            return;
        };
        let buf = std::mem::take(chunk);
        let len = buf.len();
        state.out.corked = false;
        let op = Op::Send {
            socket,
            buf: buf.into(),
            more: false,
        };
        self.start(state, op, Doing::Chunk(id, len));
    }

    /// Reads from a pipe, socket or device at the queue's head that is to be copied.
    fn read_stream(self: &Rc<Self>, state: &mut State) {
        let Some(file) = state.queue.file_mut(0) else {
            return;
        };
        let len = match file.allowed(chunk_len(file)) {
            Ok(len) => len as usize,
            Err(at) => return self.wait_until(state, at),
        };
        file.no_pipe = false;
        let id = file.id;
        let Body::Stream { fd, .. } = &file.body else {
            return;
        };
        let op = Op::Read {
            file: fd.clone(),
            buf: self.shared.buffer(),
            len,
            offset: None,
        };
        self.start(state, op, Doing::Stream(id));
    }

    /// Lets a worker read from the reader at the queue's head.
    fn read_reader(self: &Rc<Self>, state: &mut State) {
        let Some(file) = state.queue.file_mut(0) else {
            return;
        };
        let len = match file.allowed(chunk_len(file)) {
            Ok(len) => len as usize,
            Err(at) => return self.wait_until(state, at),
        };
        let id = file.id;
        let Body::Reader { reader, .. } = &mut file.body else {
            return;
        };
        let Some(reader) = reader.take() else {
            // It panicked in its worker.
            file.failure = Some(io::Error::other("the reader is gone"));
            return;
        };
        let buf = self.shared.buffer();
        let work = move || {
            let back = read_on_worker(reader, buf, len);
            Ok(Box::new(back) as Box<dyn std::any::Any + Send>)
        };
        self.start(state, Op::Work(Box::new(work)), Doing::Reader(id));
    }

    /// Opens the file at the queue's head once more, without the flags that it was opened with.
    fn reopen(self: &Rc<Self>, state: &mut State) {
        let Some(file) = state.queue.file_mut(0) else {
            return;
        };
        let id = file.id;
        let Body::Seekable { fd, .. } = &file.body else {
            return;
        };
        let path = CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let Ok(path) = path else { return };
        let open = Open {
            dir: None,
            path,
            flags: libc::O_RDONLY | libc::O_NOCTTY | libc::O_NONBLOCK,
            mode: 0,
            beneath: false,
        };
        self.start(state, Op::Open(open), Doing::Reopen(id));
    }

    /// Asks the operation under way to end. One that only fetches bytes is left to itself: its
    /// completion changes nothing any more, and may take its time.
    pub(crate) fn interrupt(self: &Rc<Self>, state: &mut State) {
        let Some((token, doing)) = &state.out.busy else {
            return;
        };
        self.handle.cancel(*token);
        state.out.interrupted = true;
        if matches!(
            doing,
            Doing::Fill(_)
                | Doing::Stream(_)
                | Doing::StreamReady
                | Doing::Reader(_)
                | Doing::Reopen(_)
        ) {
            state.out.busy = None;
            state.queue.ungather();
        }
    }

    /// Stops a send.
    pub(crate) fn stop(self: &Rc<Self>, state: &mut State, id: u64, end: End) {
        let Some(at) = state.queue.find(id) else {
            return;
        };
        let Some(file) = state.queue.file_mut(at) else {
            return;
        };
        if file.verdict().is_some() {
            return;
        }
        let busy = match &state.out.busy {
            None => false,
            Some((_, Doing::Room | Doing::Pace | Doing::StreamReady)) => at == 0,
            Some((_, Doing::Send(_))) => file.gathered > 0,
            Some((
                _,
                Doing::Chunk(of, _)
                | Doing::Piece { id: of, .. }
                | Doing::Fill(of)
                | Doing::Stream(of)
                | Doing::Reader(of)
                | Doing::Reopen(of),
            )) => *of == id || file.gathered > 0,
        };
        if !busy && file.sent == 0 {
            if let Some(file) = state.queue.take(at) {
                self.finish(&mut state.events, file, end);
            }
            return;
        }
        file.stop.get_or_insert(end);
        state.out.stops = true;
        if busy && !state.out.interrupted {
            self.interrupt(state);
        }
    }

    /// Ends the sends that were to be stopped when an operation had something of them.
    fn finish_stopped(self: &Rc<Self>, state: &mut State) {
        state.out.stops = false;
        while let Some(file) = state.queue.take_where(|file| file.stop.is_some()) {
            let end = file.verdict().or(file.stop).unwrap_or(End::Cancelled);
            self.finish(&mut state.events, file, end);
        }
    }

    /// Takes the completion of an outgoing operation in.
    pub(crate) fn went_out(
        self: &Rc<Self>,
        state: &mut State,
        number: u32,
        completion: Completion,
    ) {
        let current = state.out.number == number;
        let Some((_, doing)) = state.out.busy.take_if(|_| current) else {
            return self.reclaim(completion.op);
        };
        self.end_large(state, completion.transferred);
        let cancelled = completion.is_cancelled();
        if cancelled && !state.out.interrupted {
            self.proactor_gone(state);
        }
        match doing {
            Doing::Send(len) => self.sent(state, len, completion),
            Doing::Chunk(id, len) => self.sent_chunk(state, id, len, completion),
            Doing::Piece { id, header, route } => {
                self.sent_piece(state, id, header, route, completion);
            }
            Doing::Fill(id) => self.filled(state, id, completion),
            Doing::Stream(id) => self.read_back(state, id, completion),
            Doing::Reader(id) => self.reader_back(state, id, completion),
            Doing::Reopen(id) => {
                let opened = match completion.result {
                    Ok(Output::Opened(fd)) => Ok(fd),
                    Ok(_) => Err(io::ErrorKind::Other.into()),
                    Err(e) => Err(e),
                };
                let at = state.queue.find(id);
                if let Some(file) = at.and_then(|at| state.queue.file_mut(at)) {
                    file.reopened(opened);
                }
            }
            Doing::Room | Doing::Pace | Doing::StreamReady => match completion.result {
                Err(e) if !cancelled => self.peer_gone(state, e),
                _ => {}
            },
        }
        if let Some(file) = state.queue.file_mut(0)
            && file.progress.is_some()
            && file.sent > file.reported
            && file.verdict().is_none()
        {
            let id = file.id;
            state.events.push_back(Event::Progress(id));
        }
    }

    /// Buffers of an operation that nobody waits for.
    fn reclaim(&self, op: Option<Op>) {
        if let Some(
            Op::Read { buf, .. }
            | Op::Send {
                buf: SendBuf::Owned(buf),
                ..
            },
        ) = op
        {
            self.shared.recycle(buf);
        }
    }

    /// So many of the gathered bytes have been taken; the sends that are over by that end.
    fn consume(&self, state: &mut State, n: usize) {
        let State { queue, events, .. } = state;
        queue.consume(n, |file| {
            let end = file.verdict().unwrap_or(End::Complete);
            self.finish(events, file, end);
        });
        queue.ungather();
    }

    fn sent(self: &Rc<Self>, state: &mut State, len: usize, completion: Completion) {
        let taken = completion.transferred as usize;
        self.reclaim(completion.op);
        self.consume(state, taken);
        state.out.full = taken < len;
        if let Err(e) = completion.result {
            self.send_failed(state, e);
        }
    }

    fn send_failed(self: &Rc<Self>, state: &mut State, error: io::Error) {
        match error.raw_os_error() {
            Some(libc::ECANCELED) => {}
            Some(libc::EAGAIN) => state.out.full = true,
            _ => self.peer_gone(state, error),
        }
    }

    fn sent_chunk(self: &Rc<Self>, state: &mut State, id: u64, len: usize, completion: Completion) {
        let left = len - completion.transferred as usize;
        let Some(Op::Send {
            buf: SendBuf::Owned(mut buf),
            ..
        }) = completion.op
        else {
            return;
        };
        buf.advance(buf.len() - left.min(buf.len()));
        let at = state.queue.find(id);
        if let Some(file) = at.and_then(|at| state.queue.file_mut(at)) {
            file.took(completion.transferred);
            if completion.transferred > 0 {
                file.routes.insert(Route::Copy);
            }
            if left > 0
                && let Body::Stream { chunk, .. } | Body::Reader { chunk, .. } = &mut file.body
            {
                *chunk = buf;
            } else {
                self.shared.recycle(buf);
            }
        }
        if let Some(at) = at {
            state.queue.recount(at);
        }
        if let Err(e) = completion.result {
            self.send_failed(state, e);
        }
    }

    fn sent_piece(
        self: &Rc<Self>,
        state: &mut State,
        id: u64,
        header: usize,
        route: Route,
        completion: Completion,
    ) {
        let header_left = match &completion.op {
            Some(Op::SendFile(op)) => op.header.len(),
            _ => 0,
        };
        self.consume(state, header - header_left.min(header));
        let Some(at) = state.queue.find(id) else {
            return;
        };
        let Some(file) = state.queue.file_mut(at) else {
            return;
        };
        let first = file.sent == 0 && completion.transferred == 0;
        file.took(completion.transferred);
        if completion.transferred > 0 {
            file.routes.insert(route);
        }
        // A drain in the middle of a piece is held back for the next, which may not come.
        let whole = matches!(completion.result, Ok(Output::Sent(SendFileEnd::Complete)));
        state.out.corked |= !whole;
        match completion.result {
            Ok(Output::Sent(SendFileEnd::EndOfFile)) => file.end_here(),
            Ok(Output::Sent(SendFileEnd::NoPipe)) => {
                let stuck = file.no_pipe;
                file.no_pipe = true;
                if stuck {
                    // A stream that may not be copied: there will be a pipe some time.
                    let soon = Instant::now() + Duration::from_millis(10);
                    self.wait_until(state, soon);
                }
            }
            Ok(Output::Sent(SendFileEnd::SourceFailed(e))) => {
                if is_refusal(&e, first) {
                    file.refused = true;
                } else {
                    file.failed(e);
                }
            }
            Ok(Output::Sent(SendFileEnd::SocketFailed(e))) => self.peer_gone(state, e),
            Ok(_) => file.no_pipe = false,
            Err(e) if e.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(e) => file.failed(e),
        }
        state.queue.recount(at);
    }

    /// A file was read behind the gathered bytes.
    fn filled(self: &Rc<Self>, state: &mut State, id: u64, completion: Completion) {
        let Some(Op::Read { buf, .. }) = completion.op else {
            return state.queue.ungather();
        };
        let Some(at) = state.queue.find(id) else {
            self.shared.recycle(buf);
            return state.queue.ungather();
        };
        let Some(file) = state.queue.file_mut(at) else {
            return;
        };
        match completion.result {
            Ok(_) if completion.transferred == 0 => file.end_here(),
            Ok(_) => {
                file.gathered += completion.transferred as usize;
                file.no_pipe = false;
            }
            Err(e) if e.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(e) => file.read_failed(e),
        }
        let whole = file.gathered > 0 && file.is_gathered();
        let more = file.gathered > 0 && state.queue.comes_at_once(at + usize::from(whole));
        match state.fd.clone() {
            Some(socket) if !buf.is_empty() => self.send(state, socket, buf.into(), more),
            _ => {
                self.shared.recycle(buf);
                state.queue.ungather();
            }
        }
    }

    /// A stream was read.
    fn read_back(self: &Rc<Self>, state: &mut State, id: u64, completion: Completion) {
        let Some(Op::Read { buf, .. }) = completion.op else {
            return;
        };
        let at = state.queue.find(id);
        let Some(file) = at.and_then(|at| state.queue.file_mut(at)) else {
            return self.shared.recycle(buf);
        };
        let Body::Stream { fd, chunk } = &mut file.body else {
            return self.shared.recycle(buf);
        };
        match completion.result {
            Ok(_) if completion.transferred > 0 => {
                *chunk = buf;
                return;
            }
            Ok(_) => file.end_here(),
            Err(e) => match e.raw_os_error() {
                Some(libc::ECANCELED) => {}
                Some(libc::EAGAIN) => {
                    let fd = fd.clone();
                    let interest = Interest::READABLE;
                    self.start(state, Op::Poll { fd, interest }, Doing::StreamReady);
                }
                _ => file.failed(e),
            },
        }
        self.shared.recycle(buf);
    }

    /// A reader was read.
    fn reader_back(self: &Rc<Self>, state: &mut State, id: u64, completion: Completion) {
        let at = state.queue.find(id);
        let Some(file) = at.and_then(|at| state.queue.file_mut(at)) else {
            return;
        };
        let Body::Reader { reader, chunk } = &mut file.body else {
            return;
        };
        match completion.result {
            Ok(Output::Worked(back)) => {
                let Ok(back) = back.downcast::<ReadBack>() else {
                    return;
                };
                *reader = Some(back.reader);
                *chunk = back.buf;
                match back.result {
                    Ok(End::EndOfFile) => file.end_here(),
                    Ok(_) => {}
                    Err(e) => file.failure = Some(e),
                }
            }
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(e) => file.failure = Some(e),
        }
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
    backend: proactor::BackendKind,
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
        match file.decide(backend) {
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

/// How much of a stream is read at a time.
fn chunk_len(file: &FileSend) -> u64 {
    file.left().unwrap_or(u64::MAX).min(Shared::BUFFER as u64)
}

/// Reads until the buffer has `len` bytes, the end, an error, or patience is at its end.
fn read_on_worker(mut reader: Box<dyn Read + Send>, mut buf: BytesMut, len: usize) -> ReadBack {
    let start = Instant::now();
    buf.resize(len, 0);
    let mut filled = 0;
    let result = loop {
        if filled == len || (filled > 0 && start.elapsed() > READER_PATIENCE) {
            break Ok(End::Complete);
        }
        match reader.read(&mut buf[filled..]) {
            Ok(0) => break Ok(End::EndOfFile),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => break Err(e),
        }
    };
    buf.truncate(filled);
    ReadBack {
        reader,
        buf,
        result,
    }
}
