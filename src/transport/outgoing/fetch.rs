//! Fetches: reads of what is not at hand (cold files, pipes, readers), away from the loop.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use proactor::{Completion, Interest, Op, Open, Output};

use super::Doing;
use crate::send::End;
use crate::transport::conn::{Conn, State};
use crate::transport::events::Event;
use crate::transport::file::{Body, FileSend};
use crate::transport::shared::Shared;

/// How long a worker gathers what a reader gives in small portions.
const READER_PATIENCE: Duration = Duration::from_micros(500);

/// What a worker brings back of a reader.
struct ReadBack {
    reader: Box<dyn Read + Send>,
    buf: BytesMut,
    result: io::Result<End>,
}

impl Conn {
    /// Reads from a pipe, socket or device at the queue's head that is to be copied.
    pub(super) fn read_stream(self: &Rc<Self>, state: &mut State) {
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
    pub(super) fn read_reader(self: &Rc<Self>, state: &mut State) {
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
    pub(super) fn reopen(self: &Rc<Self>, state: &mut State) {
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

    /// A file was read behind the gathered bytes.
    pub(super) fn filled(self: &Rc<Self>, state: &mut State, id: u64, completion: Completion) {
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
    pub(super) fn read_back(self: &Rc<Self>, state: &mut State, id: u64, completion: Completion) {
        let Some(Op::Read { buf, .. }) = completion.op else {
            return;
        };
        let at = state.queue.find(id);
        let Some(file) = at.and_then(|at| state.queue.file_mut(at)) else {
            return self.shared.recycle(buf);
        };
        let Body::Stream { fd, chunk, .. } = &mut file.body else {
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
    pub(super) fn reader_back(self: &Rc<Self>, state: &mut State, id: u64, completion: Completion) {
        let Some(at) = state.queue.find(id) else {
            return self.discard(state, completion);
        };
        let Some(file) = state.queue.file_mut(at) else {
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
            // The reader goes with the work that was not done.
            Err(e) if e.raw_os_error() == Some(libc::ECANCELED) => {
                if let Some(op) = completion.op {
                    state.events.push_back(Event::Discard(Box::new(op)));
                }
            }
            Err(e) => file.failure = Some(e),
        }
    }
}

/// How much of a stream is read at a time.
fn chunk_len(file: &FileSend) -> u64 {
    file.left().unwrap_or(u64::MAX).min(Shared::BUFFER as u64)
}

/// Reads until the buffer has `len` bytes, the end, an error, or patience is at its end.
fn read_on_worker(mut reader: Box<dyn Read + Send>, mut buf: BytesMut, len: usize) -> ReadBack {
    let start = proactor::now();
    buf.resize(len, 0);
    let mut filled = 0;
    let result = loop {
        if filled == len || (filled > 0 && proactor::now() - start > READER_PATIENCE) {
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
