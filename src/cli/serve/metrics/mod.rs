//! Metrics (`--metrics`): a server of one page, on an address and a thread of its own.
//!
//! Threads count in plain numbers of their own ([`counts`]), and say them when a scrape asks
//! ([`board`]); what they are called is in [`text`]. The page is made on a worker of the exporter's
//! loop, which may wait for threads that are busy.

mod board;
mod counts;
mod histogram;
mod process;
mod text;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::cli::address;
use crate::cli::error::Failure;
use crate::cli::line_queue::Queue;
use crate::cli::operation::Operation;
use crate::cli::{SocketFile, listen};
use crate::proactor::net::{self, ListenOptions};
use crate::proactor::{Address, BackendChoice, Fd, Proactor, Remote};
use crate::streamer::{Gate, Limits, Page, Pages, Server, ServerOptions};

use super::Threads;
use super::listen::give;
pub(super) use board::{Board, Seat};
use process::Process;
use text::{ProcessFigures, Told};

/// How long a scrape waits for a thread. Prometheus waits 10 s for a scrape, if not told otherwise.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many scrapers may be connected.
const MAX_CONNECTIONS: usize = 16;
/// How long scrapes under way have when all else is over.
const LAST_SCRAPE: Duration = Duration::from_secs(2);

/// What is opened before the process gives up its rights.
pub(super) struct Door {
    socket: Fd,
    pub(super) bound: Address,
    pub(super) file: Option<SocketFile>,
    process: Process,
}

/// Listens for scrapers, where there are to be some.
///
/// # Errors
/// The address is none, or can't be had; there is no /proc.
pub(super) fn open(operation: &Operation) -> Result<Option<Door>, Failure> {
    let Some(text) = &operation.metrics else {
        return Ok(None);
    };
    let address = address::resolve(text)?.swap_remove(0);
    let failed = |e| Failure::io(format!("cannot listen on {text} for --metrics"), &e);
    let (socket, file) = listen(&address, &ListenOptions::default()).map_err(failed)?;
    if let Some(file) = &file {
        give(operation, file.path())?;
    }
    let process = Process::open();
    Ok(Some(Door {
        bound: net::local_address(&socket).map_err(failed)?,
        socket,
        file,
        process: process
            .map_err(|e| Failure::io("--metrics needs /proc, and it can't be read", &e))?,
    }))
}

/// How often the settings were read again, with what they name.
#[derive(Default)]
pub(super) struct Reloads(Mutex<Reloaded>);

/// What a scrape is told of at once, so that its figures agree with one another.
#[derive(Clone, Copy, Default)]
struct Reloaded {
    succeeded: u64,
    failed: u64,
    last_failed: bool,
    /// When it succeeded last.
    at: Option<SystemTime>,
}

impl Reloads {
    pub(super) fn count(&self, succeeded: bool) {
        let mut reloaded = super::lock(&self.0);
        if succeeded {
            reloaded.at = Some(SystemTime::now());
            reloaded.succeeded += 1;
        } else {
            reloaded.failed += 1;
        }
        reloaded.last_failed = !succeeded;
    }
}

fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// The page of metrics.
struct Scraper {
    board: Arc<Board>,
    threads: Threads,
    reloads: Arc<Reloads>,
    log: Option<Arc<Queue>>,
    process: Process,
}

impl Scraper {
    fn told(&self) -> Told {
        let threads = super::lock(&self.threads).clone();
        let seconds = |millis: u64| millis as f64 / 1e3;
        let started = millis(self.process.started);
        let reloaded = *super::lock(&self.reloads.0);
        let read = reloaded.at.map_or(started, millis);
        let process = &self.process;
        Told {
            threads: self.board.gather(&threads, PATIENCE),
            process: ProcessFigures {
                started: seconds(started),
                cpu_seconds: process.cpu_seconds(),
                resident_bytes: process.resident_bytes().ok(),
                open_descriptors: process.open_descriptors().ok(),
                most_descriptors: process.most_descriptors(),
            },
            log_dropped: self.log.as_ref().map(|log| log.dropped()),
            reloads: [reloaded.succeeded, reloaded.failed],
            settings: (!reloaded.last_failed, seconds(read)),
        }
    }
}

impl Pages for Scraper {
    fn page(&self, path: &[u8], accept: Option<&[u8]>) -> Option<Page> {
        if path != b"metrics" {
            return None;
        }
        let page = text::page(self.told(), accept);
        page.map_err(|e| log::error!("the metrics can't be written: {e}"))
            .ok()
    }
}

/// The thread that answers scrapers.
pub(super) struct Exporter {
    thread: JoinHandle<()>,
    ended: Arc<AtomicBool>,
    remote: Remote,
    /// Removed in the end.
    _file: Option<SocketFile>,
}

impl Exporter {
    /// Begins to answer.
    ///
    /// # Errors
    /// Those of threads and loops.
    pub(super) fn start(
        door: Door,
        board: Arc<Board>,
        threads: Threads,
        reloads: Arc<Reloads>,
        log: Option<Arc<Queue>>,
    ) -> Result<Exporter, Failure> {
        let Door {
            socket,
            file,
            process,
            ..
        } = door;
        let scraper = Scraper {
            board,
            threads,
            reloads,
            log,
            process,
        };
        let ended = Arc::<AtomicBool>::default();
        let (begun, has_begun) = mpsc::channel();
        let end = Arc::clone(&ended);
        let spawned = std::thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || match begin(socket, scraper) {
                Ok((proactor, server)) => {
                    let _ = begun.send(Ok(proactor.remote()));
                    if let Err(e) = run(&proactor, &server, &end) {
                        log::error!("metrics are not answered any more: {e}");
                    }
                }
                Err(failure) => {
                    let _ = begun.send(Err(failure));
                }
            });
        let thread = spawned.map_err(|e| Failure::io("cannot start a thread", &e))?;
        let remote = has_begun.recv();
        let remote = remote.unwrap_or_else(|_| Err(Failure::new("the thread of metrics panicked")));
        Ok(Exporter {
            thread,
            ended,
            remote: remote?,
            _file: file,
        })
    }

    /// Ends it, when it has answered those who have asked.
    pub(super) fn stop(self) {
        self.ended.store(true, Ordering::Release);
        // A loop that is gone has ended.
        let _ = self.remote.post(|_| {});
        if self.thread.join().is_err() {
            log::error!("the thread of metrics panicked");
        }
    }
}

fn begin(socket: Fd, scraper: Scraper) -> Result<(Proactor, Server), Failure> {
    // It works wherever the program runs, and answers a few requests a minute.
    let proactor = crate::cli::proactor(BackendChoice::Emulated)?;
    let options = ServerOptions {
        limits: Limits {
            header_timeout: Duration::from_secs(5),
            send_timeout: Duration::from_secs(10),
            ..Limits::default()
        },
        gate: Some(Arc::new(Gate::new(MAX_CONNECTIONS))),
        ..ServerOptions::default()
    };
    let server = Server::of_pages(&proactor, Arc::new(scraper), socket, options);
    let server = server.map_err(|e| Failure::io("cannot accept connections", &e))?;
    Ok((proactor, server))
}

fn run(proactor: &Proactor, server: &Server, ended: &AtomicBool) -> std::io::Result<()> {
    while !ended.load(Ordering::Acquire) {
        proactor.run_once(None)?;
    }
    server.stop();
    let end = Instant::now() + LAST_SCRAPE;
    while server.connections() > 0 {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            server.abort();
        }
        proactor.run_once(Some(left))?;
    }
    Ok(())
}
