//! What the benchmarks start with: options, limits, a network of their own, and a directory that is
//! removed in the end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What the command line asks for.
#[derive(Debug, Default)]
pub struct Options {
    /// The benchmarks to run; none means all.
    pub benches: Vec<String>,
    /// Fewer cells and shorter rounds.
    pub quick: bool,
    /// Write the report and its figures.
    pub report: bool,
    /// Write the report from the figures of the last run, and measure nothing.
    pub render: bool,
    /// Measure only servers whose names contain this.
    pub only: Option<String>,
    /// Where figures and report are written.
    pub results: PathBuf,
}

/// How the program is called.
pub const USAGE: &str =
    "usage: cargo bench -- [BENCH...] [--quick] [--report] [--only TEXT] [--results DIR]
       cargo bench -- --render [--results DIR]

BENCH is transport, requests, stalled, cold, relay or claims; none means all.
  --quick        fewer cells and shorter rounds
  --report       write report.md, the figures (JSON) and the plots (SVG)
  --render       write them again from the figures that are there
  --only TEXT    only servers whose names contain TEXT
  --results DIR  where to write; benches/results by default";

impl Options {
    /// From the command line; what Cargo adds to it is passed over.
    pub fn parse(args: &[String], benches: &[&str]) -> Result<Options, String> {
        let mut options = Options {
            results: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/results")),
            ..Options::default()
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--bench" => {}
                "--quick" => options.quick = true,
                "--report" => options.report = true,
                "--render" => options.render = true,
                "--only" => options.only = Some(value()?.to_owned()),
                "--results" => options.results = value()?.into(),
                name if benches.contains(&name) => options.benches.push(name.to_owned()),
                other => return Err(format!("there is no benchmark and no option {other}")),
            }
        }
        Ok(options)
    }

    /// Whether a benchmark was asked for.
    pub fn runs(&self, bench: &str) -> bool {
        self.benches.is_empty() || self.benches.iter().any(|b| b == bench)
    }

    /// Whether a server is to be measured.
    pub fn wants(&self, server: &str) -> bool {
        self.only
            .as_deref()
            .is_none_or(|only| server.contains(only))
    }
}

/// Prepares this process and all that it starts. Gives what could not be had, in words for the
/// report.
pub fn prepare() -> Vec<String> {
    let mut notes = Vec::new();
    let (wanted, got) = (65_536, raise_descriptors(65_536));
    if got < wanted {
        notes.push(format!(
            "{got} open files at most (a hard limit): a server that holds a file for each of 10 000 \
             connections needs more"
        ));
    }
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        notes.push(
            "one processor only: servers and load share it, and no figure is worth much".into(),
        );
    }
    if let Err(e) = own_network() {
        notes.push(format!(
            "no network namespace of its own ({e}; it needs root): the system's congestion control \
             and whatever else goes over its loopback count"
        ));
    } else if let Err(e) = fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "cubic") {
        notes.push(format!(
            "not with cubic ({e}): it has to be among the system's \
             net.ipv4.tcp_allowed_congestion_control"
        ));
    }
    notes
}

/// How many descriptors a process of ours may have.
pub fn descriptors() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes the struct alone.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur
}

/// Raises the limit as far as may be, and gives it.
fn raise_descriptors(count: u64) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel reads and writes the structs alone.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        if limit.rlim_max < count {
            let more = libc::rlimit {
                rlim_cur: count,
                rlim_max: count,
            };
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const more) == 0 {
                return count;
            }
        }
        limit.rlim_cur = limit.rlim_max.min(count);
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
    limit.rlim_cur
}

/// A network namespace for this process and its children, with its own loopback and buffers, so
/// that every server has the same and nothing else is on it.
fn own_network() -> io::Result<()> {
    // SAFETY: the request is a zeroed C struct with the interface's name; the socket is ours.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNET) < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        let result = libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request);
        let error = io::Error::last_os_error();
        libc::close(socket);
        if result < 0 {
            return Err(error);
        }
    }
    // The kernel's defaults. All ends of all connections are on this machine, and with larger ones
    // their queues reach the limit for TCP's memory (tcp_mem), where the kernel drops segments.
    fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 131072 6291456")?;
    fs::write("/proc/sys/net/ipv4/tcp_wmem", "4096 16384 4194304")?;
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65000")
}

/// The directories that there are, to be removed if a signal ends the process.
static SCRATCHES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Lets SIGINT, SIGTERM and SIGHUP end this process with its directories removed. Its children end
/// with it.
pub fn end_cleanly() {
    // SAFETY: the sets are on this stack frame, and filled before they are read.
    let signals = unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&raw mut signals, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut());
        signals
    };
    std::thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: as above.
        unsafe { libc::sigwait(&raw const signals, &raw mut signal) };
        for root in SCRATCHES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            remove(root);
        }
        std::process::exit(128 + signal);
    });
}

fn remove(root: &Path) {
    // What is mounted there goes first.
    if let Ok(stuck) = std::ffi::CString::new(format!("{}/files/stuck", root.display())) {
        // SAFETY: the path ends with a zero.
        unsafe { libc::umount2(stuck.as_ptr(), libc::MNT_DETACH) };
    }
    if let Err(e) = fs::remove_dir_all(root) {
        eprintln!("{} could not be removed: {e}", root.display());
    }
}

/// A directory for a benchmark's files (`files`) and for what servers keep (`state`).
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> io::Result<Scratch> {
        let root = std::env::temp_dir().join(format!("spliceport-{name}-{}", std::process::id()));
        SCRATCHES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(root.clone());
        let scratch = Scratch(root);
        fs::create_dir_all(scratch.files())?;
        fs::create_dir_all(scratch.state())?;
        Ok(scratch)
    }

    pub fn files(&self) -> PathBuf {
        self.0.join("files")
    }

    pub fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    /// So many files in `files`, `00000.bin` and on, in the page cache and on the disk. Nothing that
    /// a server may say of them is longer for one than for another.
    pub fn many(&self, count: u64, size: u64) -> io::Result<()> {
        let content = vec![b'x'; size as usize];
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000);
        for number in 0..count {
            let mut file = fs::File::create(self.files().join(format!("{number:05}.bin")))?;
            io::Write::write_all(&mut file, &content)?;
            file.set_modified(long_ago)?;
        }
        // What is being written back would be in the way.
        let directory = fs::File::open(self.files())?;
        // SAFETY: takes a descriptor, and touches no memory.
        match unsafe { libc::syncfs(std::os::fd::AsRawFd::as_raw_fd(&directory)) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// A file in `files`, of so many bytes, in the page cache and on the disk.
    pub fn file(&self, name: &str, size: u64) -> io::Result<PathBuf> {
        let path = self.files().join(name);
        let block: Vec<u8> = (0..1 << 20).map(|i: u32| ((i * 31) >> 3) as u8).collect();
        let mut file = fs::File::create(&path)?;
        let mut left = size;
        while left > 0 {
            let len = left.min(block.len() as u64);
            io::Write::write_all(&mut file, &block[..len as usize])?;
            left -= len;
        }
        file.sync_all()?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        SCRATCHES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|root| *root != self.0);
        remove(&self.0);
    }
}
