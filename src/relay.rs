//! [`relay`]: two connections joined. Each direction is a send of one whose source is the other:
//! so order, back-pressure, routes and counts are those of sends.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use proactor::{Callback, Op, Token};

use crate::route::{RouteChoice, Routes};
use crate::send::{End, SendOptions, SendOutcome};
use crate::source::Kind;
use crate::transport::{Ceded, Transport};

/// How to [`relay`]; everything has a default.
#[derive(Clone, Debug, Default)]
pub struct RelayOptions {
    idle: Option<Duration>,
    route: RouteChoice,
}

impl RelayOptions {
    /// The defaults.
    pub fn new() -> RelayOptions {
        RelayOptions::default()
    }

    /// The time after which a relay ends in which no byte went either way, with
    /// [`End::TimedOut`]. Default: never.
    pub fn idle(mut self, time: Duration) -> RelayOptions {
        self.idle = Some(time);
        self
    }

    /// Which way the bytes go: for tests and measurements. [`Route::Copy`](crate::Route::Copy)
    /// copies; all others splice. Default: [`RouteChoice::Auto`].
    pub fn route(mut self, route: RouteChoice) -> RelayOptions {
        self.route = route;
        self
    }
}

/// What became of one direction of a relay.
#[derive(Debug)]
pub struct Flow {
    /// The number of bytes that the kernel took for the receiving side; exact, whatever the end.
    pub bytes: u64,
    /// How it ended: [`End::EndOfFile`] where the sending side ended its stream and all of it was
    /// passed on; [`End::PeerGone`] where one of the two was lost; [`End::Cancelled`] by the
    /// handle, or because the other direction failed; [`End::TimedOut`], or [`End::Closing`] where
    /// one of the two was closing from the start.
    pub end: End,
    /// Which routes carried bytes.
    pub routes: Routes,
    /// The error, where it was no success: always there then.
    pub error: Option<io::Error>,
}

/// What became of a relay.
#[derive(Debug)]
#[must_use]
pub struct RelayOutcome {
    /// From the first transport to the second.
    pub forth: Flow,
    /// From the second transport to the first.
    pub back: Flow,
}

impl RelayOutcome {
    /// Whether both directions came to their streams' ends.
    pub fn is_success(&self) -> bool {
        self.forth.end == End::EndOfFile && self.back.end == End::EndOfFile
    }
}

/// Joins two connections: what arrives on each leaves on the other, from here on and for good.
/// Their protocols hear no more of data, only, in the end, of `connection_lost`. `on_end` is called
/// once, from the loop, when both directions have ended (but not if the proactor is gone before).
///
/// - What either has received and not delivered goes first, and what was written to either before
///   goes before that. Receives of files that are queued come first as well.
/// - The bytes go from socket to pipe to socket without a copy through user space; without a pipe,
///   or where the kernel refuses, they are copied. A side that takes nothing holds back the other's
///   sender: what waits for it is bounded by a pipe (1 MiB by default) and the kernel's own
///   buffers, and it holds no thread. When pipes are scarce it waits in memory instead.
/// - A side that ends its stream has the other's write side ended, behind all that it sent
///   (half-close); its own direction goes on. When both have ended, both are closed.
/// - If either is lost, or the relay is cancelled or idle for too long, both are aborted.
///
/// The write side of both is the relay's, from when the other's stream is: what is written meanwhile
/// leaves when its direction has ended, if ever. Both must belong to the same proactor.
pub fn relay(
    a: &Transport,
    b: &Transport,
    options: RelayOptions,
    on_end: impl FnOnce(RelayOutcome) + 'static,
) -> RelayHandle {
    let joint = Rc::new(Joint {
        ends: [a.clone(), b.clone()],
        options,
        state: RefCell::new(State {
            flows: [None, None],
            bytes: [0, 0],
            last: proactor::now(),
            timer: None,
            cancelled: false,
            timed_out: false,
            on_end: Some(Box::new(on_end)),
        }),
    });
    joint.watch();
    for direction in [Direction::Forth, Direction::Back] {
        let of = Rc::clone(&joint);
        if !joint
            .from(direction)
            .cede(move |ceded| of.ceded(direction, ceded))
        {
            // From the loop, as everything.
            let of = Rc::clone(&joint);
            let tell = Callback::once(move |_, _| of.ceded(direction, None));
            drop(a.proactor().submit(Op::Nop, tell));
        }
    }
    RelayHandle {
        joint: Rc::downgrade(&joint),
    }
}

/// A relay under way. Dropping it changes nothing.
#[derive(Clone)]
pub struct RelayHandle {
    joint: Weak<Joint>,
}

impl RelayHandle {
    /// Ends the relay at once: both connections are aborted, and the outcome says
    /// [`End::Cancelled`] for each direction that had not ended.
    pub fn cancel(&self) {
        if let Some(joint) = self.joint.upgrade() {
            joint.state.borrow_mut().cancelled = true;
            joint.abort();
        }
    }

    /// The number of bytes passed on so far: from the first to the second, and back. `None` once it
    /// is over.
    pub fn bytes(&self) -> Option<(u64, u64)> {
        let joint = self.joint.upgrade()?;
        let [forth, back] = joint.state.borrow().bytes;
        Some((forth, back))
    }
}

impl fmt::Debug for RelayHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayHandle")
            .field("bytes", &self.bytes())
            .finish()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forth,
    Back,
}

type OnEnd = Box<dyn FnOnce(RelayOutcome)>;

/// What the two directions share. Their sends and loans keep it.
struct Joint {
    ends: [Transport; 2],
    options: RelayOptions,
    state: RefCell<State>,
}

/// By direction.
struct State {
    flows: [Option<Flow>; 2],
    bytes: [u64; 2],
    /// When a byte went last.
    last: Instant,
    timer: Option<Token>,
    /// By the handle, or for being idle.
    cancelled: bool,
    timed_out: bool,
    on_end: Option<OnEnd>,
}

impl Joint {
    fn from(&self, direction: Direction) -> &Transport {
        &self.ends[direction as usize]
    }

    fn to(&self, direction: Direction) -> &Transport {
        &self.ends[1 - direction as usize]
    }

    /// A side's stream is ours, or won't be.
    fn ceded(self: &Rc<Self>, direction: Direction, ceded: Option<Ceded>) {
        let Some(ceded) = ceded else {
            let over_tls = self.ends.iter().any(Transport::is_over_tls);
            let end = match self.state.borrow().cancelled {
                true => End::Cancelled,
                false if over_tls => End::Failed,
                false => End::Closing,
            };
            let flow = Flow {
                bytes: 0,
                end,
                routes: Routes::NONE,
                error: Some(error_of(end)),
            };
            self.ended(direction, flow);
            return self.abort();
        };
        let kind = match ceded.ended {
            true => Kind::Bytes(ceded.head),
            false => Kind::Connection {
                fd: ceded.fd,
                head: ceded.head,
            },
        };
        let of = Rc::downgrade(self);
        let options = SendOptions::new()
            .route(self.options.route)
            .write_weight(0)
            .keep_connection(true)
            .progress(move |_, bytes| {
                if let Some(joint) = of.upgrade() {
                    joint.passed(direction, bytes);
                }
            });
        let of = Rc::clone(self);
        self.to(direction)
            .send_file(kind, options, move |_, outcome| {
                of.sent(direction, outcome);
            });
    }

    fn passed(&self, direction: Direction, bytes: u64) {
        let mut state = self.state.borrow_mut();
        state.bytes[direction as usize] = bytes;
        state.last = proactor::now();
    }

    /// A direction's send is over.
    fn sent(self: &Rc<Self>, direction: Direction, outcome: SendOutcome) {
        // One without bytes is complete wherever it stands in a queue: not where that was dropped.
        let dropped = outcome.is_success() && self.state.borrow().cancelled;
        let whole = outcome.is_success() && !dropped;
        let end = match outcome.end {
            _ if dropped => End::Cancelled,
            // All that the source, a connection, can fail with is that its peer is gone.
            End::Failed | End::Truncated => End::PeerGone,
            End::Complete => End::EndOfFile,
            end => end,
        };
        self.passed(direction, outcome.sent);
        let flow = Flow {
            bytes: outcome.sent,
            end,
            routes: outcome.routes,
            error: outcome
                .error
                .or_else(|| dropped.then(|| error_of(End::Cancelled))),
        };
        let to = self.to(direction);
        if whole && to.can_write_eof() {
            // Refused where it can't be ended alone, and that was asked.
            drop(to.write_eof());
        } else if whole {
            to.close();
        }
        self.ended(direction, flow);
        if !whole {
            self.abort();
        }
    }

    fn ended(self: &Rc<Self>, direction: Direction, mut flow: Flow) {
        let done = {
            let mut state = self.state.borrow_mut();
            if state.timed_out && flow.end == End::Cancelled {
                flow.end = End::TimedOut;
                flow.error = Some(error_of(End::TimedOut));
            }
            state.flows[direction as usize] = Some(flow);
            state.flows.iter().all(Option::is_some)
        };
        if done {
            self.finish();
        }
    }

    fn finish(&self) {
        let (flows, on_end, timer) = {
            let mut state = self.state.borrow_mut();
            let flows = [state.flows[0].take(), state.flows[1].take()];
            (flows, state.on_end.take(), state.timer.take())
        };
        if let Some(timer) = timer {
            self.ends[0].proactor().cancel(timer);
        }
        for end in &self.ends {
            end.close();
        }
        if let ([Some(forth), Some(back)], Some(on_end)) = (flows, on_end) {
            on_end(RelayOutcome { forth, back });
        }
    }

    fn abort(&self) {
        for end in &self.ends {
            end.abort();
        }
    }

    /// Looks again when the relay will have been idle for too long, unless it goes on.
    fn watch(self: &Rc<Self>) {
        let Some(idle) = self.options.idle else {
            return;
        };
        let last = self.state.borrow().last;
        // A time that can't be told never comes.
        let Some(at) = last.checked_add(idle) else {
            return;
        };
        let of = Rc::downgrade(self);
        let look = Callback::once(move |_, completion| {
            if let (Some(joint), Ok(_)) = (of.upgrade(), completion.result) {
                joint.look(idle);
            }
        });
        let timer = self.ends[0].proactor().submit(Op::Timeout { at }, look);
        self.state.borrow_mut().timer = timer.ok();
    }

    fn look(self: &Rc<Self>, idle: Duration) {
        let over = {
            let mut state = self.state.borrow_mut();
            state.timer = None;
            let over = proactor::now().saturating_duration_since(state.last) >= idle;
            state.timed_out |= over;
            state.cancelled |= over;
            over
        };
        if over {
            self.abort();
        } else {
            self.watch();
        }
    }
}

fn error_of(end: End) -> io::Error {
    let (kind, text) = match end {
        End::TimedOut => (io::ErrorKind::TimedOut, "the relay was idle for too long"),
        End::Closing => (io::ErrorKind::NotConnected, "the transport is closing"),
        End::Failed => (
            io::ErrorKind::Unsupported,
            "a connection over TLS can't be relayed",
        ),
        _ => (io::ErrorKind::Other, "the relay was cancelled"),
    };
    io::Error::new(kind, text)
}
