//! The HTTP file server of one thread.

use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::listener::lacks_descriptors;
use crate::proactor::net::{self, ListenOptions};
use crate::proactor::{Address, Callback, Fd, Handle, Op, Proactor};
use crate::{Listener, Protocol, RouteChoice, Tls, Transport, TransportOptions};

use super::clock::Clock;
use super::gate::{Entry, Gate};
use super::http::{
    Cache, CacheCounts, Connection, DateCache, Http, Moment, Place, Responses, Site, Times,
};
use super::observe::{Observer, Observers};
use super::open::open_beneath;
use super::pages::{Page, Pages};
use super::server_stats::{OpenFileStats, ServerStats, UploadStats};
use super::uploads::Uploads;
use super::worker;

/// How a [`Server`] serves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    /// How files travel. Default: as the transport decides.
    pub route: RouteChoice,
    /// What clients are allowed; [`Server::set_limits`] changes it.
    pub limits: Limits,
    /// Counts the connections of all servers that share it. One above its limit is answered with
    /// 503 and ended. Default: no limit.
    pub gate: Option<Arc<Gate>>,
    /// How many files are kept open between requests, each for at most a second; a file and its
    /// compressed forms count as one. They give way where descriptors run out. Default: 256, of the
    /// 1024 that are usual for a process; the program allows as many as half of its own limit.
    pub open_files: usize,
    /// What is sent besides the files as they are. Default: nothing.
    pub site: Site,
    /// Whether files may be put below the directory, and by whom. Default: they may not.
    pub uploads: Option<Uploads>,
    /// Serves over TLS (https; RFC 9110, section 4.2.2). Its ALPN, if any, must be
    /// `http/1.1`. A handshake may take as long as a request's head
    /// ([`Limits::header_timeout`]), whatever is said here. Default: as plain text.
    pub tls: Option<Tls>,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            route: RouteChoice::Auto,
            limits: Limits::default(),
            gate: None,
            open_files: 256,
            site: Site::new(),
            uploads: None,
            tls: None,
        }
    }
}

/// What a client is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// How long a connection may wait between requests. Default: a minute.
    pub idle_timeout: Duration,
    /// How long a client may take to send the head of a request; and, before that, for TLS's
    /// handshake. Default: 15 seconds.
    pub header_timeout: Duration,
    /// How long a client may take none of a response, or send none of an upload. Default: a minute.
    pub send_timeout: Duration,
    /// How many bytes of content a connection gets in a second, at most; heads, and what is made and
    /// no longer than a KiB, are not held back. Default: no limit.
    pub rate: Option<u64>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            idle_timeout: Duration::from_secs(60),
            header_timeout: Duration::from_secs(15),
            send_timeout: Duration::from_secs(60),
            rate: None,
        }
    }
}

/// An HTTP/1.1 server of the regular files below a directory, on one proactor.
///
/// Times are counted in ticks of a second, by one timer that runs while there are connections: a
/// time-out comes up to a second late.
pub struct Server {
    shared: Rc<Shared>,
    listener: Listener,
}

impl Server {
    /// Listens on an address and serves what is below `root`, an opened directory.
    ///
    /// # Errors
    /// Those of listening, as they are; `NotADirectory`.
    pub fn bind(
        proactor: &Proactor,
        root: Fd,
        address: &Address,
        listen: &ListenOptions,
        options: ServerOptions,
    ) -> io::Result<Server> {
        Server::from_socket(proactor, root, net::listen(address, listen)?, options)
    }

    /// As [`bind`](Server::bind), on a socket that listens already.
    ///
    /// # Errors
    /// Those of accepting; `NotADirectory`.
    pub fn from_socket(
        proactor: &Proactor,
        root: Fd,
        socket: Fd,
        options: ServerOptions,
    ) -> io::Result<Server> {
        if root.kind() != crate::proactor::FileKind::Directory {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let (device, _) = root.identity()?;
        Server::begin(proactor, Content::Directory(root, device), socket, options)
    }

    /// A server without files, on a socket that listens already: it answers GET and HEAD with pages
    /// that are made for each request. What `options` says of files is of no account.
    ///
    /// # Errors
    /// Those of accepting.
    pub fn of_pages(
        proactor: &Proactor,
        pages: Arc<dyn Pages>,
        socket: Fd,
        mut options: ServerOptions,
    ) -> io::Result<Server> {
        options.uploads = None;
        Server::begin(proactor, Content::Pages(pages), socket, options)
    }

    fn begin(
        proactor: &Proactor,
        content: Content,
        socket: Fd,
        mut options: ServerOptions,
    ) -> io::Result<Server> {
        let site = std::mem::take(&mut options.site);
        let shared = Rc::new(Shared {
            site: RefCell::new(Rc::new(site)),
            cache: RefCell::new(Cache::new(options.open_files)),
            limits: Cell::new(options.limits),
            options,
            observers: RefCell::default(),
            content,
            uploads: Cell::default(),
            proactor: proactor.handle(),
            clock: Clock::new(proactor.handle()),
            connections: RefCell::default(),
            responses: RefCell::default(),
            dates: DateCache::default(),
            failures: Cell::new(0),
            listed: Arc::default(),
            listings: Cell::new(0),
            tick: Cell::new(0),
            ticking: Cell::new(false),
            stopping: Cell::new(false),
        });
        let transport = shared.transport_options();
        let for_each = Rc::clone(&shared);
        let factory = move |_: &Fd| {
            let place = match &for_each.options.gate {
                None => Place::Free,
                Some(gate) => match gate.enter() {
                    Entry::Admitted(pass) => Place::Admitted(pass),
                    Entry::TurnedAway(pass) => Place::TurnedAway(pass),
                    Entry::Full => {
                        if let Some(observers) = for_each.observers() {
                            observers.tell(|o| o.connection_refused());
                        }
                        return None;
                    }
                },
            };
            let connection = Connection::new(Rc::clone(&for_each), place);
            Some(Box::new(Http(connection)) as Box<dyn Protocol>)
        };
        let listener = Listener::from_fd(proactor, socket, transport, factory)?;
        let sheds = Rc::downgrade(&shared);
        listener.on_exhausted(move || sheds.upgrade().is_some_and(|shared| shared.shed()));
        Ok(Server { shared, listener })
    }

    /// Has an observer told of all connections that come from now on, besides those that are told
    /// already.
    pub fn observe(&self, observer: Rc<dyn Observer>) {
        let mut observers = self.shared.observers.borrow_mut();
        let more = observers.take().unwrap_or_default().and(observer);
        *observers = Some(Rc::new(more));
    }

    /// Where it listens.
    ///
    /// # Errors
    /// getsockname(2)'s.
    pub fn local_addr(&self) -> io::Result<Address> {
        self.listener.local_addr()
    }

    /// The number of connections.
    pub fn connections(&self) -> usize {
        self.shared.connections.borrow().len()
    }

    /// What it has done, beside what observers are told of.
    pub fn stats(&self) -> ServerStats {
        let cache = self.shared.cache.borrow();
        let CacheCounts {
            hits,
            misses,
            checks,
        } = cache.counts();
        ServerStats {
            open_files: OpenFileStats {
                open: cache.len(),
                hits,
                misses,
                checks,
            },
            uploads: self.shared.uploads.get(),
        }
    }

    /// Changes what clients are allowed, for connections that there are as well; a file that is being
    /// sent keeps its rate, and a TLS handshake under way its time.
    pub fn set_limits(&self, limits: Limits) {
        self.shared.limits.set(limits);
        self.listener.set_options(self.shared.transport_options());
    }

    /// Changes what is sent besides the files as they are, from the next response on.
    pub fn set_site(&self, site: Site) {
        *self.shared.site.borrow_mut() = Rc::new(site);
        // Open files have their fields ready.
        self.shared.cache.borrow_mut().clear();
    }

    /// Ends it gracefully: no more connections are accepted, those that wait for a request are
    /// closed, the others when the responses under way have been sent.
    pub fn stop(&self) {
        self.listener.close();
        self.shared.stopping.set(true);
        for connection in self.shared.all() {
            connection.stop();
        }
    }

    /// Ends all connections at once, transfers under way with them.
    pub fn abort(&self) {
        self.listener.close();
        self.shared.stopping.set(true);
        for connection in self.shared.all() {
            connection.abort();
        }
    }
}

/// What a server answers with.
enum Content {
    /// The files below it, and the device that it is on.
    Directory(Fd, u64),
    Pages(Arc<dyn Pages>),
}

/// What the connections of a server share.
pub(super) struct Shared {
    /// As they were at the start; what can change is in the cells below.
    pub(super) options: ServerOptions,
    limits: Cell<Limits>,
    site: RefCell<Rc<Site>>,
    /// `None` where nobody observes.
    observers: RefCell<Option<Rc<Observers>>>,
    content: Content,
    uploads: Cell<UploadStats>,
    proactor: Handle,
    pub(super) cache: RefCell<Cache>,
    pub(super) responses: RefCell<Responses>,
    pub(super) dates: DateCache,
    /// What could not be opened since the last sweep.
    failures: Cell<u64>,
    /// How many bytes of listings there are.
    pub(super) listed: Arc<AtomicUsize>,
    /// How many directories are being listed.
    pub(super) listings: Cell<usize>,
    clock: Clock,
    connections: RefCell<Slab<Rc<Connection>>>,
    /// Seconds of the sweep's clock.
    tick: Cell<u32>,
    /// The sweep's timer is armed.
    ticking: Cell<bool>,
    stopping: Cell<bool>,
}

impl Shared {
    pub(super) fn tick(&self) -> u32 {
        self.tick.get()
    }

    /// What the next connection's transport is made with.
    fn transport_options(&self) -> TransportOptions {
        let transport = TransportOptions::default().route(self.options.route);
        match self.options.tls.clone() {
            Some(tls) => transport.tls(tls.handshake_timeout(self.limits().header_timeout)),
            None => transport,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits.get()
    }

    pub(super) fn site(&self) -> Rc<Site> {
        Rc::clone(&self.site.borrow())
    }

    pub(super) fn moment(&self) -> Moment {
        self.clock.moment()
    }

    pub(super) fn times(&self) -> Times {
        self.clock.times()
    }

    /// Those who are to be told of a new connection.
    pub(super) fn observers(&self) -> Option<Rc<Observers>> {
        self.observers.borrow().clone()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Opens what is at a path below the directory, as [`open_beneath`] does. Where there are no
    /// descriptors left, those that are only kept for later are given up for it.
    pub(super) fn open(
        self: &Rc<Self>,
        path: CString,
        done: impl FnOnce(io::Result<Fd>) + 'static,
    ) {
        let Content::Directory(root, _) = &self.content else {
            return done(Err(io::ErrorKind::NotFound.into()));
        };
        let (shared, again) = (Rc::clone(self), path.clone());
        open_beneath(&self.proactor, root, path, move |opened| match &opened {
            Err(error) if lacks_descriptors(error) && shared.shed() => {
                if let Content::Directory(root, _) = &shared.content {
                    open_beneath(&shared.proactor, root, again, done);
                }
            }
            _ => done(opened),
        });
    }

    /// Logs that something can't be opened; once a second, and then how many more there were.
    pub(super) fn tell_failure(&self, name: &[u8], error: &io::Error) {
        let before = self.failures.get();
        self.failures.set(before + 1);
        if before == 0 {
            let name = String::from_utf8_lossy(name);
            log::error!("{name:?} can't be opened: {error}");
        }
    }

    /// The directory that is served, if one is, and its device.
    pub(super) fn root(&self) -> Option<(&Fd, u64)> {
        match &self.content {
            Content::Directory(root, device) => Some((root, *device)),
            Content::Pages(_) => None,
        }
    }

    /// Does on a worker thread what may wait for a disk. `work` gets the served directory.
    pub(super) fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Fd) -> io::Result<T> + Send + 'static,
        done: impl FnOnce(io::Result<T>) + 'static,
    ) {
        match &self.content {
            Content::Directory(root, _) => {
                let root = root.clone();
                worker::run(&self.proactor, move || work(&root), done);
            }
            Content::Pages(_) => done(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    /// Whether there are pages instead of files.
    pub(super) fn makes_pages(&self) -> bool {
        matches!(self.content, Content::Pages(_))
    }

    /// Makes the page at a path, on a worker thread; none where there is none.
    pub(super) fn make_page(
        &self,
        path: Vec<u8>,
        accept: Option<Vec<u8>>,
        done: impl FnOnce(io::Result<Option<Page>>) + 'static,
    ) {
        match &self.content {
            Content::Directory(..) => done(Ok(None)),
            Content::Pages(pages) => {
                let pages = Arc::clone(pages);
                let make = move || Ok(pages.page(&path, accept.as_deref()));
                worker::run(&self.proactor, make, done);
            }
        }
    }

    /// Counts what becomes of an upload.
    pub(super) fn count_upload(&self, count: impl FnOnce(&mut UploadStats)) {
        let mut uploads = self.uploads.get();
        count(&mut uploads);
        self.uploads.set(uploads);
    }

    /// The methods that there are, as fields.
    pub(super) fn allow(&self) -> &'static str {
        self.site().options(self.options.uploads.is_some())
    }

    /// A path has another file now.
    pub(super) fn forget(&self, path: &[u8]) {
        self.cache.borrow_mut().forget(path);
    }

    /// How many bytes a peer has taken, where that can be told.
    pub(super) fn taken(transport: &Transport) -> Option<u64> {
        net::send_progress(&transport.fd()?).ok()
    }

    /// Gives the present `Date` to `use_it`.
    pub(super) fn with_date<T>(&self, use_it: impl FnOnce(&str) -> T) -> T {
        self.dates.with(self.moment().second, use_it)
    }

    /// Takes a connection into the sweep; the key is for [`remove`](Shared::remove).
    pub(super) fn add(self: &Rc<Self>, connection: Rc<Connection>) -> usize {
        let key = self.connections.borrow_mut().insert(connection);
        self.arm();
        key
    }

    pub(super) fn remove(&self, key: usize) {
        let removed = self.connections.borrow_mut().try_remove(key);
        drop(removed);
    }

    fn all(&self) -> Vec<Rc<Connection>> {
        let connections = self.connections.borrow();
        connections.iter().map(|(_, c)| Rc::clone(c)).collect()
    }

    fn arm(self: &Rc<Self>) {
        if self.ticking.replace(true) {
            return;
        }
        let shared = Rc::clone(self);
        let at = Instant::now() + Duration::from_secs(1);
        let callback = Callback::once(move |_, completion| {
            shared.ticking.set(false);
            if completion.result.is_ok() {
                shared.sweep();
            }
        });
        // Only a proactor that is going away refuses.
        drop(self.proactor.submit(Op::Timeout { at }, callback));
    }

    /// Once a second: ends the connections whose time is over, closes files nobody asked for.
    fn sweep(self: &Rc<Self>) {
        self.tick.set(self.tick.get().wrapping_add(1));
        let failures = self.failures.take();
        if failures > 1 {
            log::error!("{} more could not be opened", failures - 1);
        }
        let overdue: Vec<_> = {
            let connections = self.connections.borrow();
            let connections = connections.iter().map(|(_, connection)| connection);
            let connections = connections.inspect(|c| c.look());
            connections.filter(|c| c.is_overdue()).cloned().collect()
        };
        for connection in overdue {
            connection.time_out();
        }
        self.responses.borrow_mut().forget();
        self.expire();
        if !self.cache.borrow().is_empty() || !self.connections.borrow().is_empty() {
            self.arm();
        }
    }

    /// Closes files that are too old, so many in a turn that nobody waits for it.
    fn expire(self: &Rc<Self>) {
        if !self.cache.borrow_mut().expire(self.moment()) {
            return;
        }
        let shared = Rc::clone(self);
        let at = Instant::now() + Duration::from_millis(1);
        let callback = Callback::once(move |_, completion| {
            if completion.result.is_ok() {
                shared.expire();
            }
        });
        drop(self.proactor.submit(Op::Timeout { at }, callback));
    }

    /// Closes the files that are only kept for later. Whether there were any.
    fn shed(&self) -> bool {
        self.responses.borrow_mut().forget();
        self.cache.borrow_mut().shed()
    }
}
