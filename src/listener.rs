//! [`Listener`]: accepts connections and makes each a transport.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use proactor::net::{self, ListenOptions};
use proactor::{Address, Callback, Completion, Fd, Handle, Handler, Op, Output, Proactor, Token};

use crate::protocol::Protocol;
use crate::transport::{Transport, TransportOptions};

type Factory = Box<dyn FnMut(&Fd) -> Option<Box<dyn Protocol>>>;

/// A listening socket. Dropping it closes it; connections go on.
pub struct Listener {
    inner: Rc<Inner>,
}

struct Inner {
    handle: Handle,
    options: RefCell<TransportOptions>,
    socket: RefCell<Option<Fd>>,
    /// Away while it is being called.
    factory: RefCell<Option<Factory>>,
    op: Cell<Option<Token>>,
    /// Gives descriptors up that can be spared; whether there were any.
    give_up: RefCell<Option<Box<dyn Fn() -> bool>>>,
    /// Accepting has failed, and no connection has been accepted since.
    recovering: Cell<bool>,
}

const ACCEPT: u64 = 0;
const RETRY: u64 = 1;

/// How long accepting pauses after it failed.
const RECOVERY: Duration = Duration::from_millis(100);

impl Listener {
    /// Listens at an address. For each connection the factory makes a protocol; with `None` it is
    /// refused: closed at once. A panic in the factory refuses the connection too.
    ///
    /// Where accepting fails, since descriptors or memory are exhausted or for whatever reason may
    /// pass, it pauses and is tried again.
    ///
    /// # Errors
    /// Those of [`proactor::net::listen`].
    pub fn bind(
        proactor: &Proactor,
        address: &Address,
        listen: &ListenOptions,
        options: TransportOptions,
        factory: impl FnMut(&Fd) -> Option<Box<dyn Protocol>> + 'static,
    ) -> io::Result<Listener> {
        let fd = net::listen(address, listen)?;
        Listener::from_fd(proactor, fd, options, factory)
    }

    /// Takes over a socket that listens already (socket activation). It is made non-blocking.
    ///
    /// # Errors
    /// `InvalidInput` where it is no socket that listens; the kernel's refusal to make it
    /// non-blocking.
    pub fn from_fd(
        proactor: &Proactor,
        fd: Fd,
        options: TransportOptions,
        factory: impl FnMut(&Fd) -> Option<Box<dyn Protocol>> + 'static,
    ) -> io::Result<Listener> {
        if !net::is_listening(&fd) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "connections can be accepted only from a socket that listens",
            ));
        }
        fd.set_nonblocking()?;
        let inner = Rc::new(Inner {
            handle: proactor.handle(),
            options: RefCell::new(options),
            socket: RefCell::new(Some(fd)),
            factory: RefCell::new(Some(Box::new(factory))),
            give_up: RefCell::default(),
            op: Cell::new(None),
            recovering: Cell::new(false),
        });
        inner.accept();
        Ok(Listener { inner })
    }

    /// The address it is bound to: with port 0 asked for, the one that the kernel chose.
    ///
    /// # Errors
    /// `NotConnected` once closed; the kernel's.
    pub fn local_addr(&self) -> io::Result<Address> {
        match &*self.inner.socket.borrow() {
            Some(socket) => net::local_address(socket),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Changes what transports are made with, from the next connection on.
    pub fn set_options(&self, options: TransportOptions) {
        *self.inner.options.borrow_mut() = options;
    }

    /// Has descriptors that can be spared given up where there is none for a connection: `give_up` says
    /// whether there were any, and the connection is accepted at once. Where there were none, or it
    /// panics, accepting pauses as it does without.
    pub fn on_exhausted(&self, give_up: impl Fn() -> bool + 'static) {
        *self.inner.give_up.borrow_mut() = Some(Box::new(give_up));
    }

    /// Stops accepting. Connections go on.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.inner.close();
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("address", &self.local_addr().ok())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn submit(self: &Rc<Self>, op: Op, key: u64) {
        let handler = Rc::clone(self) as Rc<dyn Handler>;
        let token = self.handle.submit(op, Callback::Handler(handler, key));
        self.op.set(token.ok());
    }

    fn accept(self: &Rc<Self>) {
        let socket = self.socket.borrow().clone();
        if let Some(listener) = socket {
            self.submit(Op::AcceptMulti { listener }, ACCEPT);
        }
    }

    fn close(&self) {
        let socket = self.socket.borrow_mut().take();
        drop(socket);
        if let Some(token) = self.op.get() {
            self.handle.cancel(token);
        }
        let factory = self.factory.borrow_mut().take();
        drop(factory);
    }

    fn gives_up(&self) -> bool {
        let give_up = self.give_up.borrow();
        let Some(give_up) = &*give_up else {
            return false;
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(give_up)).unwrap_or_else(|_| {
            log::error!("what was to give descriptors up panicked");
            false
        })
    }

    fn is_closed(&self) -> bool {
        self.socket.borrow().is_none()
    }

    fn accepted(&self, proactor: &Proactor, fd: Fd) {
        if self.is_closed() {
            return;
        }
        let Some(mut factory) = self.factory.borrow_mut().take() else {
            return;
        };
        let call = std::panic::AssertUnwindSafe(|| factory(&fd));
        let protocol = std::panic::catch_unwind(call).unwrap_or_else(|_| {
            log::error!("a factory panicked: its connection is refused");
            None
        });
        if self.is_closed() {
            drop(factory);
        } else {
            *self.factory.borrow_mut() = Some(factory);
        }
        let Some(protocol) = protocol else { return };
        let transport = Transport::accepted(proactor, fd, protocol, &self.options.borrow());
        match transport {
            Ok(transport) => transport.begin(),
            Err(e) => log::warn!("an accepted connection is dropped: {e}"),
        }
    }

    fn failed(self: &Rc<Self>, error: &io::Error) {
        match error.raw_os_error() {
            Some(libc::ECANCELED) => {}
            // One connection was gone before it was accepted.
            Some(libc::ECONNABORTED | libc::EPROTO) => {
                log::debug!("a connection was gone before it was accepted: {error}");
                self.accept();
            }
            // The socket will never give one.
            Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP) => {
                log::error!("accepting has ended: {error}");
                self.close();
            }
            _ if lacks_descriptors(error) && self.gives_up() => self.accept(),
            // What is exhausted or forbidden, or a network that is down: it may pass, and may not
            // for long.
            _ => {
                if self.recovering.replace(true) {
                    log::debug!("still no connection can be accepted: {error}");
                } else {
                    log::warn!("no connection can be accepted for now: {error}");
                }
                let at = proactor::now() + RECOVERY;
                self.submit(Op::Timeout { at }, RETRY);
            }
        }
    }
}

impl Handler for Inner {
    fn complete(self: Rc<Self>, proactor: &Proactor, key: u64, completion: Completion) {
        let last = !completion.more();
        if last {
            self.op.set(None);
        }
        match completion.result {
            Ok(Output::Accepted(fd)) => {
                self.recovering.set(false);
                self.accepted(proactor, fd);
                if last {
                    self.accept();
                }
            }
            Ok(_) if key == RETRY => self.accept(),
            Ok(_) => {}
            Err(e) if last => self.failed(&e),
            Err(e) => log::debug!("accept: {e}"),
        }
    }
}

/// Whether something failed for want of a descriptor.
pub(crate) fn lacks_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
