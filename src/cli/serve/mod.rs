//! `spliceport serve`: the order in which a server starts, and its end.
//!
//! What needs rights comes first (limits, files, sockets), then rights are given up (user, sandbox),
//! then threads are started.

mod access_log;
mod listen;
mod manager;
mod metrics;
mod sandbox;
mod syscalls;
mod thread;
mod tls;
mod user;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};

use rustix::fs::{Access, AtFlags, accessat};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::proactor::Fd;
use crate::streamer::{Gate, Limits, ServerOptions, Uploads};

use super::args::{Command, Serve};
use super::error::Failure;
use super::line_queue::Queue;
use super::messages;
use super::settings::{self, Refused, Settings};
use super::signals::{self, Told};
use access_log::AccessLog;
pub(super) use access_log::LogFormat;
use metrics::{Board, Exporter, Reloads};
use thread::{Begun, Plan, ThreadHandle};
use tls::Identity;

/// The threads, once they have begun.
type Threads = Arc<Mutex<Vec<Arc<ThreadHandle>>>>;

pub(super) fn run(args: &Serve, settings: Settings, call: Vec<OsString>) -> Result<(), Failure> {
    if args.operation.print_config {
        return print(&settings.to_toml());
    }
    for name in settings::unknown_variables(std::env::vars_os().map(|(name, _)| name)) {
        log::warn!("the variable {name} sets nothing: there is no such option");
    }
    let descriptors = raise_open_files();
    let root = open_root(args)?;
    let site = args.content.site()?;
    let uploads = uploads(args)?;
    let identity = Identity::of(args)?;
    let account = match &args.operation.user {
        Some(name) => Some(user::find("--user", name)?),
        None => None,
    };
    if let Some(account) = &account {
        account.check_unprivileged()?;
    }
    let cpus = || std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = args.threads.map_or_else(cpus, usize::from);
    let doors = listen::open(args, threads)?;
    let log = args.operation.access_log.as_deref();
    let log = log.map(|path| access_log::Target::open(path, account.as_ref()));
    let log = log.transpose()?;
    let metrics = metrics::open(&args.operation)?;
    if let Some(account) = account {
        account.become_it()?;
    }
    check_root(args, &root)?;
    check_fallback(args, &root);
    let needs = sandbox::Needs {
        root: &root,
        uploads: args.upload,
        config: args.operation.config.as_deref(),
        error_pages: &args.content.error_pages(),
        certificates: tls::directories(args),
        socket: doors.file.as_ref().map(super::SocketFile::path),
        log: log.as_ref().and_then(access_log::Target::place),
        metrics: metrics
            .as_ref()
            .and_then(|door| Some(door.file.as_ref()?.path())),
    };
    sandbox::enter(args.operation.sandbox, &needs)?;
    let failed = |e: io::Error| Failure::io("cannot start a thread", &e);
    messages::queue().map_err(failed)?;
    let log = log.map(AccessLog::start).transpose().map_err(failed)?;

    let gate = args.operation.max_connections.map(gate_for);
    let begun = Threads::default();
    let reloads = Arc::<Reloads>::default();
    let board = metrics.is_some().then(|| Arc::new(Board::new(threads)));
    let reload = Reload {
        call,
        settings,
        gate: gate.clone(),
        log: log.as_ref().map(AccessLog::queue),
        identity: identity.clone(),
        threads: Arc::clone(&begun),
        reloads: Arc::clone(&reloads),
    };
    let stop = watch(reload).map_err(|e| Failure::io("cannot watch for signals", &e))?;
    let tls = identity.map(|identity| identity.tls());
    let tls = tls.transpose()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let plan = Plan {
        backend: args.backend.backend,
        root,
        options: ServerOptions {
            route: args.route.route,
            limits: limits(args),
            open_files: open_files(descriptors, threads, args.content.precompressed),
            gate,
            site,
            uploads,
            tls,
            ..ServerOptions::default()
        },
        log: log.as_ref().map(AccessLog::queue),
        log_format: args.operation.log_format,
        stop,
        stop_timeout: args.stop_timeout,
        board: board.clone(),
    };

    let (ready, all_ready) = mpsc::channel();
    let mut running = vec![];
    for (index, socket) in doors.sockets.into_iter().enumerate() {
        let (plan, ready) = (plan.clone(), ready.clone());
        let spawned = std::thread::Builder::new()
            .name(format!("serve-{index}"))
            .spawn(move || {
                let stop = plan.stop.clone();
                thread::or_stop(&stop, || thread::serve(plan, index, socket, ready))
            });
        running.push(spawned.map_err(failed)?);
    }
    drop(ready);
    let mut backend = None;
    while let Ok(Begun {
        backend: kind,
        thread,
    }) = all_ready.recv()
    {
        // The channel ends when each thread has either said this or failed.
        backend = Some(kind);
        lock(&begun).push(thread);
    }
    let mut told_at = String::new();
    let mut exporter = None;
    let mut result = Ok(());
    if let (Some(door), Some(board), Some(_)) = (metrics, board, backend) {
        told_at = format!("metrics on http://{}/metrics\n", door.bound);
        let log = log.as_ref().map(AccessLog::queue);
        match Exporter::start(door, board, Arc::clone(&begun), reloads, log) {
            Ok(started) => exporter = Some(started),
            Err(failure) => {
                result = Err(failure);
                plan.stop.request_once();
            }
        }
    }
    if plan.stop.requests() == 0
        && let Some(backend) = backend
    {
        let bound = &doors.bound;
        print(&format!(
            "listening on {scheme}://{bound} (backend {backend})\n{told_at}"
        ))
        .unwrap_or_else(|e| log::warn!("{e}"));
        manager::ready();
    }
    for thread in running {
        let ended = thread.join();
        let ended = ended.unwrap_or_else(|_| Err(Failure::new("a thread panicked")));
        result = result.and(ended);
    }
    if let Some(log) = log {
        log.finish();
    }
    // Until here, how far the end has got can be asked.
    if let Some(exporter) = exporter {
        exporter.stop();
    }
    result
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let done = stdout.write_all(text.as_bytes());
    done.and_then(|()| stdout.flush())
        .map_err(|e| Failure::io("standard output can't be written to", &e))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// What can be changed while it runs.
fn limits(args: &Serve) -> Limits {
    Limits {
        idle_timeout: args.idle_timeout,
        header_timeout: args.header_timeout,
        send_timeout: args.send_timeout,
        rate: args.operation.rate,
    }
}

/// The settings that [`Reload::run`] lets take effect.
const LIVE: [&str; 17] = [
    "idle-timeout",
    "header-timeout",
    "send-timeout",
    "stop-timeout",
    "rate",
    "max-connections",
    "cache-control",
    "cors",
    "download",
    "error-page",
    "fallback",
    "header",
    "hidden",
    "list",
    "precompressed",
    "tls-cert",
    "tls-key",
];

fn gate_for(connections: u32) -> Arc<Gate> {
    Arc::new(Gate::new(connections as usize))
}

/// What a SIGHUP needs.
struct Reload {
    call: Vec<OsString>,
    settings: Settings,
    gate: Option<Arc<Gate>>,
    log: Option<Arc<Queue>>,
    identity: Option<Arc<Identity>>,
    threads: Threads,
    reloads: Arc<Reloads>,
}

impl Reload {
    /// Does what a SIGHUP asks for: the access log, the settings and the certificate are three
    /// things, and none waits for another that can't be had.
    fn run(&mut self) {
        if let Some(log) = &self.log {
            log.reopen();
        }
        let again = "mend that and send SIGHUP again";
        let settings = self.read_again();
        if let Err(e) = &settings {
            log::error!("the settings stay as they are: {e}; {again}");
        }
        let identity = self.identity.as_ref().map_or(Ok(()), |i| i.reload());
        if let Err(e) = &identity {
            log::error!("the certificate stays as it is: {e}; {again}");
        }
        self.reloads.count(settings.is_ok() && identity.is_ok());
    }

    /// Reads the settings again, and gives the threads what can be changed. Where they can't be read,
    /// they stay as they are.
    fn read_again(&mut self) -> Result<(), String> {
        let (args, settings) = match settings::read(&self.call) {
            Ok(read) => read,
            Err(Refused::Call(e)) => return Err(e.to_string()),
            Err(Refused::File(e)) => return Err(e.to_string()),
        };
        let Command::Serve(args) = args.command else {
            return Ok(());
        };
        // Error pages are read again, whether or not they are other files now.
        let site = match args.content.site() {
            Ok(site) => site,
            Err(e) => return Err(e.to_string()),
        };
        if let Some(identity) = &self.identity {
            identity.rename(&args).map_err(|e| e.to_string())?;
        }
        let changed = settings.changed(&self.settings);
        let can_change = |name: &&str| {
            let gate_stays = self.gate.is_some() && args.operation.max_connections.is_some();
            let operation = &args.operation;
            let named = operation.tls_cert.is_some() && operation.tls_key.is_some();
            let tls_stays = self.identity.is_some() && named;
            LIVE.contains(name)
                && match *name {
                    "max-connections" => gate_stays,
                    "tls-cert" | "tls-key" => tls_stays,
                    _ => true,
                }
        };
        for name in changed.iter().filter(|name| !can_change(name)) {
            log::warn!("{name} has changed: that takes effect at the next start");
        }
        if let (Some(gate), Some(connections)) = (&self.gate, args.operation.max_connections) {
            gate.set_limit(connections as usize);
        }
        let (limits, stop_timeout) = (limits(&args), args.stop_timeout);
        for thread in lock(&self.threads).iter() {
            let site = site.clone();
            thread.tell(move |_, serving| {
                serving.set_limits(limits, stop_timeout);
                serving.set_site(site);
            });
        }
        log::info!("the settings have been read again");
        self.settings = settings;
        Ok(())
    }
}

fn watch(mut reload: Reload) -> io::Result<signals::Stop> {
    signals::watch_for_all(move |told| match told {
        Told::Stop => manager::stopping(),
        Told::HangUp => {
            manager::reloading();
            reload.run();
            manager::ready();
        }
    })
}

/// The environment variable that may hold the token.
const TOKEN: &str = "SPLICEPORT_UPLOAD_TOKEN";

/// Who may upload, if anybody may.
fn uploads(args: &Serve) -> Result<Option<Uploads>, Failure> {
    if !args.upload {
        return Ok(None);
    }
    let token = match (&args.upload_token, &args.upload_token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path)
                .map_err(|e| Failure::io(format!("cannot read {}", path.display()), &e))?;
            text.lines().next().unwrap_or_default().trim().to_owned()
        }
        (None, None) => std::env::var(TOKEN).map_err(|_| {
            Failure::new(format!(
                "uploads need a token: name a file that holds one with --upload-token-file, or \
                 set {TOKEN}"
            ))
        })?,
    };
    let uploads = Uploads::new(args.upload_limit, &token);
    uploads
        .map(Some)
        .map_err(|e| Failure::io("the upload token can't be used", &e))
}

/// Allows this process as many descriptors as it may allow itself: each connection has one, and
/// the usual soft limit of 1024 is there for programs that use select(2). Returns how many it may have.
fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(e) = setrlimit(Resource::Nofile, raised) {
        log::debug!("the limit of open files stays as it is: {e}");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many files each thread may keep open: all of them together at most half of the descriptors
/// (they give way to connections), and no more than take some 20 MiB of memory.
fn open_files(descriptors: u64, threads: usize, precompressed: bool) -> usize {
    const MOST: u64 = 16_384;
    // With the compressed forms, which count as one with their file.
    let forms = if precompressed { 4 } else { 1 };
    let share = (descriptors / 2).min(MOST) / threads as u64 / forms;
    usize::try_from(share).unwrap_or(usize::MAX)
}

/// The directory that a path's file is in.
fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn open_root(args: &Serve) -> Result<Fd, Failure> {
    let path = args.directory.display();
    let failed = |e: io::Error| Failure::io(format!("cannot open the directory {path}"), &e);
    let root = File::open(&args.directory).map_err(failed)?;
    if !root.metadata().map_err(failed)?.is_dir() {
        return Err(Failure::new(format!(
            "{path} is no directory: name the directory whose files are to be served"
        )));
    }
    Ok(Fd::new(root))
}

/// Whether the user that serves may look up names in the directory: it may have been opened by
/// root, and would then have nothing to serve.
fn check_root(args: &Serve, root: &Fd) -> Result<(), Failure> {
    accessat(root, ".", Access::EXEC_OK, AtFlags::empty()).map_err(|e| {
        let path = args.directory.display();
        Failure::io(format!("cannot serve what is in {path}"), &e.into())
    })
}

/// Warns of a fallback that is not there: it may come later.
fn check_fallback(args: &Serve, root: &Fd) {
    let Some(file) = &args.content.fallback else {
        return;
    };
    let path = file.trim_start_matches('/');
    if let Err(e) = accessat(root, path, Access::READ_OK, AtFlags::empty()) {
        let (e, directory) = (io::Error::from(e), args.directory.display());
        log::warn!(
            "--fallback {file}: there is no such file to be read in {directory}, for now: {e}"
        );
    }
}
