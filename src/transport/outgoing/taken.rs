//! Completions of outgoing operations: what the kernel took, and what that ends.

use std::any::Any;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Buf;
use proactor::{Completion, ForwardEnd, Op, Output, SendBuf, SendFileEnd};

use super::Doing;
use crate::route::Route;
use crate::send::End;
use crate::transport::conn::{Conn, State};
use crate::transport::events::Event;
use crate::transport::file::Body;

impl Conn {
    /// Takes the completion of an outgoing operation in.
    pub(crate) fn went_out(
        self: &Rc<Self>,
        state: &mut State,
        number: u32,
        completion: Completion,
    ) {
        let current = state.out.number == number;
        let Some((_, doing)) = state.out.busy.take_if(|_| current) else {
            return self.discard(state, completion);
        };
        self.end_large(state, completion.transferred);
        let before = state.out.sent;
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
        if state.out.tells && state.out.sent > before {
            state.events.push_back(Event::BytesSent(state.out.sent));
        }
        state.out.drained |= state.queue.is_empty();
        if let Some(file) = state.queue.file_mut(0)
            && file.progress.is_some()
            && file.sent > file.reported
            && file.verdict().is_none()
        {
            let id = file.id;
            state.events.push_back(Event::Progress(id));
        }
    }

    /// What an operation brought that nobody waits for.
    pub(super) fn discard(&self, state: &mut State, completion: Completion) {
        let what: Box<dyn Any> = match (completion.result, completion.op) {
            (Ok(Output::Worked(back)), _) => back,
            (_, Some(op @ Op::Work(_))) => Box::new(op),
            (_, op) => return self.reclaim(op),
        };
        state.events.push_back(Event::Discard(what));
    }

    /// Buffers of an operation that nobody waits for.
    pub(super) fn reclaim(&self, op: Option<Op>) {
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
        state.out.sent += n as u64;
        let State { queue, events, .. } = state;
        let written = queue.consume(n, |file| {
            let end = file.verdict().unwrap_or(End::Complete);
            self.finish(events, file, end);
        });
        let mut stats = self.shared.stats.borrow_mut();
        stats.written += written as u64;
        stats.sent.add(Route::Copy, (n - written) as u64);
        // What is encrypted can't be gathered anew.
        if state.tls.is_none() {
            queue.ungather();
        }
    }

    fn sent(self: &Rc<Self>, state: &mut State, len: usize, completion: Completion) {
        let taken = completion.transferred as usize;
        let counts = match state.tls {
            Some(_) => self.records_taken(state, taken, completion.op),
            None => {
                self.reclaim(completion.op);
                taken
            }
        };
        self.consume(state, counts);
        state.out.full = taken < len;
        // It would have pushed out what the one before held back, and did not.
        state.out.corked |= taken == 0;
        if let Err(e) = completion.result {
            self.send_failed(state, e);
        }
        if state.tls.is_some() {
            self.end_failed(state);
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
        state.out.sent += completion.transferred;
        let at = state.queue.find(id);
        if let Some(file) = at.and_then(|at| state.queue.file_mut(at)) {
            file.took(completion.transferred);
            if completion.transferred > 0 {
                file.routes.insert(Route::Copy);
                let mut stats = self.shared.stats.borrow_mut();
                stats.sent.add(Route::Copy, completion.transferred);
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
        let left_over = match completion.op {
            Some(Op::Forward(op)) => op.head,
            _ => SendBuf::new(),
        };
        self.consume(state, header - header_left.min(header));
        state.out.sent += completion.transferred;
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
            let mut stats = self.shared.stats.borrow_mut();
            stats.sent.add(route, completion.transferred);
        }
        // A drain in the middle of a piece is held back for the next, which may not come.
        let whole = matches!(
            completion.result,
            Ok(Output::Sent(SendFileEnd::Complete) | Output::Forwarded(_))
        );
        state.out.corked |= !whole;
        // What the kernel took from a relayed connection, and the peer did not: it goes next.
        if let (Body::Stream { chunk, .. }, false) = (&mut file.body, left_over.is_empty()) {
            *chunk = match left_over {
                SendBuf::Owned(bytes) => bytes,
                SendBuf::Shared(bytes) => bytes.into(),
            };
        }
        match completion.result {
            Ok(Output::Sent(SendFileEnd::EndOfFile)) => file.native_ended(),
            Ok(Output::Forwarded(ForwardEnd::EndOfStream)) => file.end_here(),
            Ok(Output::Forwarded(ForwardEnd::NoPipe)) => file.no_pipe = true,
            Ok(Output::Forwarded(ForwardEnd::SourceFailed(e))) => file.native_failed(e, first),
            Ok(Output::Forwarded(ForwardEnd::TargetFailed(e))) => self.peer_gone(state, e),
            Ok(Output::Sent(SendFileEnd::NoPipe)) => {
                self.shared.stats.borrow_mut().no_pipe += 1;
                let stuck = file.no_pipe;
                file.no_pipe = true;
                if stuck && !self.shared.pipes {
                    file.refuse();
                } else if stuck {
                    // A stream that may not be copied: there will be a pipe some time.
                    let soon = proactor::now() + Duration::from_millis(10);
                    self.wait_until(state, soon);
                }
            }
            Ok(Output::Sent(SendFileEnd::SourceFailed(e))) => {
                file.native_failed(e, first);
                self.shared.stats.borrow_mut().refused += u64::from(file.refused);
            }
            Ok(Output::Sent(SendFileEnd::SocketFailed(e))) => self.peer_gone(state, e),
            Ok(_) => file.no_pipe = false,
            Err(e) if e.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(e) => file.failed(e),
        }
        state.queue.recount(at);
    }
}
