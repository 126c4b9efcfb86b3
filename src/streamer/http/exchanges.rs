//! The account of a connection's exchanges, for those who [observe](crate::streamer::Observer) the
//! server; there is none where nobody does.
//!
//! Responses are bytes of one stream, in the order of their requests. So an exchange is known by
//! where its response ends in that stream, and is over when the kernel has taken so many bytes of
//! the connection, or the connection is lost. Whatever way the bytes go, none can be missed, and
//! none told of twice.

use std::cell::{OnceCell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::time::Instant;

use crate::streamer::observe::{Address, Ending, Exchange, Head, Observers};
use crate::{End, Routes, SendOutcome, Transport};

use super::connection::Connection;
use super::moment::Times;
use super::request::MAX_HEAD;
use super::status::Status;

/// One exchange that is not over.
struct Open {
    head: Vec<u8>,
    method: Option<&'static str>,
    begun: Times,
    /// Where its response begins in the stream.
    start: u64,
    /// Its response, once all of that is queued.
    response: Option<Response>,
    /// What came of its content.
    received: u64,
    routes: Routes,
}

/// A response that is queued.
struct Response {
    status: u16,
    /// Where its content is in the stream.
    content: Range<u64>,
}

/// The exchanges of a connection.
pub(super) struct Exchanges {
    observers: Rc<Observers>,
    /// The client's address.
    remote: OnceCell<Address>,
    account: RefCell<Account>,
}

struct Account {
    /// The observers know of the connection.
    made: bool,
    open: VecDeque<Open>,
    /// The number of exchanges that are over.
    over: u64,
    /// Bytes queued at the transport since the beginning.
    queued: u64,
    /// When the request began of which only a part is there.
    begun: Option<Times>,
    /// Why the connection is being cut: the first reason there is.
    cut: Option<Ending>,
}

impl Exchanges {
    pub(super) fn new(observers: Rc<Observers>) -> Exchanges {
        let account = RefCell::new(Account {
            made: false,
            open: VecDeque::new(),
            over: 0,
            queued: 0,
            begun: None,
            cut: None,
        });
        Exchanges {
            observers,
            remote: OnceCell::new(),
            account,
        }
    }

    /// Tells of the exchanges that are over: those whose last byte is among the first `sent` of the
    /// connection; all, where it is lost.
    fn tell(&self, sent: u64, now: Instant, lost: Option<Ending>) {
        loop {
            let over = self.account.borrow_mut().take_over(sent, lost.is_some());
            let Some(open) = over else { return };
            // Of a range of the stream, what the kernel took.
            let taken = |range: &Range<u64>| sent.clamp(range.start, range.end) - range.start;
            let (status, header_end, content_bytes, whole) = match &open.response {
                Some(Response { status, content }) => (
                    Some(*status),
                    content.start,
                    taken(content),
                    content.end <= sent,
                ),
                None => (None, sent.max(open.start), 0, false),
            };
            let exchange = Exchange {
                remote: self.remote.get(),
                head: Head(&open.head),
                method: open.method,
                status,
                header_bytes: taken(&(open.start..header_end)),
                content_bytes,
                received_bytes: open.received,
                begun: open.begun.day,
                duration: now.saturating_duration_since(open.begun.steady),
                ending: match lost {
                    Some(ending) if !whole => ending,
                    _ => Ending::Whole,
                },
                routes: open.routes,
            };
            self.observers.tell(|o| o.exchange_over(&exchange));
            self.observers.recycle(open.head);
        }
    }

    /// The connection is over.
    fn end(&self, sent: u64, now: Instant, ending: Ending) {
        if std::mem::take(&mut self.account.borrow_mut().made) {
            self.tell(sent, now, Some(ending));
            self.observers.tell(|o| o.connection_lost());
        }
    }
}

impl Drop for Exchanges {
    /// A connection that nobody was told the end of, such as one of a loop that is gone.
    fn drop(&mut self) {
        let ending = self.account.borrow().cut.unwrap_or(Ending::Stopped);
        self.end(0, Instant::now(), ending);
    }
}

impl Account {
    /// Takes the first exchange out, if it is over.
    fn take_over(&mut self, sent: u64, lost: bool) -> Option<Open> {
        let first = self.open.front()?;
        let sent = matches!(&first.response, Some(r) if r.content.end <= sent);
        if !sent && !lost {
            return None;
        }
        self.over += 1;
        self.open.pop_front()
    }
}

/// What is done for the account. All of it is nothing where there is none.
impl Connection {
    pub(super) fn begin_account(&self, transport: &Transport, admitted: bool) {
        let Some(exchanges) = &self.exchanges else {
            return;
        };
        transport.tell_bytes_sent(true);
        exchanges.account.borrow_mut().made = true;
        if let Ok(remote) = transport.peer_addr() {
            let _ = exchanges.remote.set(remote);
        }
        exchanges.observers.tell(|o| o.connection_made(admitted));
    }

    pub(super) fn end_account(&self, error: Option<&io::Error>) {
        let Some(exchanges) = &self.exchanges else {
            return;
        };
        let cut = exchanges.account.borrow().cut;
        let ending = cut.unwrap_or(match error {
            // A callback that panicked.
            Some(e) if e.kind() == io::ErrorKind::Other => Ending::Failed,
            Some(_) => Ending::PeerGone,
            None => Ending::Stopped,
        });
        let sent = self
            .transport()
            .map_or(0, |transport| transport.bytes_sent());
        exchanges.end(sent, self.server.times().steady, ending);
    }

    /// A part of a request's head has come.
    pub(super) fn exchange_begins(&self) {
        if let Some(exchanges) = &self.exchanges {
            let mut account = exchanges.account.borrow_mut();
            account.begun.get_or_insert_with(|| self.server.times());
        }
    }

    /// A request is taken up, or what came in its place refused.
    #[inline]
    pub(super) fn begin_exchange(&self, head: &[u8]) {
        if let Some(exchanges) = &self.exchanges {
            self.begin(exchanges, head);
        }
    }

    fn begin(&self, exchanges: &Exchanges, head: &[u8]) {
        let mut account = exchanges.account.borrow_mut();
        let begun = account.begun.take();
        let open = Open {
            head: exchanges.observers.keep(head),
            method: method(head),
            begun: begun.unwrap_or_else(|| self.server.times()),
            start: account.queued,
            response: None,
            received: 0,
            routes: Routes::default(),
        };
        account.open.push_back(open);
        drop(account);
        exchanges.observers.tell(|o| o.request_taken());
    }

    /// So many bytes have been queued at the transport.
    #[inline]
    pub(super) fn queued(&self, bytes: u64) {
        if let Some(exchanges) = &self.exchanges {
            exchanges.account.borrow_mut().queued += bytes;
        }
    }

    /// All of the response to the last request is queued; the last `content` bytes are its content.
    #[inline]
    pub(super) fn response_queued(&self, status: Status, content: u64) {
        log::trace!("{} with {content} bytes", status.code);
        if let Some(exchanges) = &self.exchanges {
            let mut account = exchanges.account.borrow_mut();
            let end = account.queued;
            if let Some(open) = account.open.back_mut() {
                open.response = Some(Response {
                    status: status.code,
                    content: end - content..end,
                });
            }
        }
    }

    /// The number of the last exchange.
    pub(super) fn exchange(&self) -> u64 {
        let number = |exchanges: &Exchanges| {
            let account = exchanges.account.borrow();
            account.over + account.open.len() as u64
        };
        self.exchanges.as_deref().map_or(0, number)
    }

    /// A file has been sent, or not, for the exchange with this number.
    pub(super) fn carried(&self, exchange: u64, outcome: &SendOutcome) {
        let Some(exchanges) = &self.exchanges else {
            return;
        };
        {
            let mut account = exchanges.account.borrow_mut();
            let at = exchange.checked_sub(account.over + 1);
            let open = at.and_then(|at| account.open.get_mut(at as usize));
            if let Some(open) = open {
                open.routes.insert_all(outcome.routes);
            }
        }
        match outcome.end {
            End::Truncated | End::Failed => self.cut(Ending::Failed),
            End::PeerGone => self.cut(Ending::PeerGone),
            _ => {}
        }
    }

    /// So much of the last request's content has come.
    pub(super) fn content_received(&self, bytes: u64) {
        if let Some(exchanges) = &self.exchanges
            && let Some(open) = exchanges.account.borrow_mut().open.back_mut()
        {
            open.received = bytes;
        }
    }

    /// The connection is going to be cut, unless that was said before.
    pub(super) fn cut(&self, ending: Ending) {
        if let Some(exchanges) = &self.exchanges {
            exchanges.account.borrow_mut().cut.get_or_insert(ending);
        }
    }

    /// The kernel has taken so many bytes of the connection.
    pub(super) fn bytes_sent(&self, total: u64) {
        if let Some(exchanges) = &self.exchanges {
            exchanges.tell(total, self.server.times().steady, None);
        }
    }
}

/// As much of what came as can be kept of a request that is no request.
pub(super) fn head_of(data: &[u8]) -> &[u8] {
    let data = &data[..data.len().min(MAX_HEAD)];
    let end = data.windows(4).position(|four| four == b"\r\n\r\n");
    end.map_or(data, |end| &data[..end + 4])
}

/// The method that a request begins with, where it is defined by RFC 9110 or RFC 5789.
fn method(head: &[u8]) -> Option<&'static str> {
    const METHODS: [&str; 9] = [
        "GET", "HEAD", "OPTIONS", "PUT", "POST", "DELETE", "PATCH", "TRACE", "CONNECT",
    ];
    METHODS.into_iter().find(|method| {
        let rest = head.strip_prefix(method.as_bytes());
        rest.is_some_and(|rest| rest.starts_with(b" "))
    })
}
