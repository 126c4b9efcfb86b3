//! What the tests of the program share: running it, speaking HTTP to it byte by byte, waiting
//! with a limit.

#![allow(dead_code, reason = "each test program uses its part")]

#[path = "../../proactor/tests/common/not_run.rs"]
mod not_run;
pub use not_run::not_run;

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The limit of every wait: never reached where all is well, whatever the machine's load.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Makes two tests of each function: one on the ring, one on the emulated port.
#[macro_export]
macro_rules! on_both_backends {
    ($($name:ident),* $(,)?) => {
        mod ring {
            $(#[test]
            fn $name() {
                super::$name($crate::support::ring());
            })*
        }
        mod emulated {
            $(#[test]
            fn $name() {
                super::$name("emulated");
            })*
        }
    };
}

/// The ring, or, where io_uring is denied to the tests on purpose (`SPLICEPORT_TEST_DENIED=1`), the
/// program's own choice.
pub fn ring() -> &'static str {
    match std::env::var_os("SPLICEPORT_TEST_DENIED").is_some_and(|value| value == "1") {
        true => "auto",
        false => "ring",
    }
}

/// The backend that runs where this one is asked for: `auto` is asked for only where io_uring is
/// denied.
pub fn that_runs(backend: &str) -> &str {
    if backend == "auto" {
        "emulated"
    } else {
        backend
    }
}

/// The program with arguments.
pub fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spliceport"));
    command
        .args(args)
        .env_remove("SPLICEPORT_BACKEND")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

/// A running program; killed when the test is over.
pub struct Running {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    said: Arc<Mutex<Vec<u8>>>,
    /// Fills `said`.
    reader: Option<thread::JoinHandle<()>>,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stderr: String,
}

impl Ended {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

impl Running {
    pub fn start(mut command: Command) -> Running {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = child.stdout.take().map(BufReader::new);
        let mut pipe = child.stderr.take().expect("stderr is a pipe");
        let said = Arc::new(Mutex::new(Vec::new()));
        let reader = thread::spawn({
            let said = Arc::clone(&said);
            let mut some = [0; 4096];
            move || {
                while let Ok(n @ 1..) = pipe.read(&mut some) {
                    said.lock().unwrap().extend_from_slice(&some[..n]);
                }
            }
        });
        Running {
            child,
            stdout,
            said,
            reader: Some(reader),
        }
    }

    /// Its next line.
    pub fn line(&mut self) -> String {
        let mut stdout = self
            .stdout
            .take()
            .expect("lines are read one after the other");
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = stdout.read_line(&mut line);
            let _ = sender.send((line, stdout));
        });
        let (line, stdout) = receiver.recv_timeout(LIMIT).expect("a line in time");
        self.stdout = Some(stdout);
        if line.is_empty() {
            panic!("it said nothing, and ended: {:?}", self.end());
        }
        line.trim_end().to_owned()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs");
    }

    /// What it has said on standard error until now.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned()
    }

    /// Waits until it has said this on standard error.
    pub fn wait_until_said(&self, text: &str) {
        wait_for(text, || self.said().contains(text).then_some(()));
    }

    /// Waits for its end.
    pub fn end(&mut self) -> Ended {
        let status = wait_for("the program's end", || {
            self.child.try_wait().expect("it is our child")
        });
        let _ = self.reader.take().map(|thread| thread.join());
        let stderr = self.said();
        Ended { status, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let (Some(reader), true) = (self.reader.take(), thread::panicking()) {
            let _ = reader.join();
            eprintln!("the program said: {}", self.said());
        }
    }
}

/// Runs a program that ends by itself.
pub fn run(command: Command) -> Ended {
    Running::start(command).end()
}

/// A FIFO that has a reader which does not read.
pub fn fifo(path: &Path) -> File {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let mut options = File::options();
    options
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32);
    options.open(path).unwrap()
}

/// `serve` by a shell, which does something first.
pub fn serve_after(shell: &str, backend: &str, directory: &Path, args: &[&str]) -> Command {
    let program = env!("CARGO_BIN_EXE_spliceport");
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{shell}; exec \"$0\" \"$@\""), program])
        .args(["serve", "--listen", "127.0.0.1:0", "--threads", "1"])
        .args(["--backend", backend])
        .args(args)
        .arg(directory)
        .stdin(Stdio::null());
    command
}

/// Whether the kernel has all that `--sandbox required` asks for; says so where it hasn't.
pub fn can_sandbox() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    let version: [u32; 2] = std::array::from_fn(|_| numbers.next().unwrap_or(0));
    let can = version >= [6, 7];
    if !can {
        not_run("--sandbox required needs the Landlock of Linux 6.7");
    }
    can
}

/// Asks until there is an answer, for at most [`LIMIT`].
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Does something with one after the other, with this rest before each. False, and perhaps before
/// all were done, where the machine made a pause of more than a second: of what a server ends after a
/// second, that shows nothing. Where it was done without one, it must have succeeded.
pub fn unhurried<T: Debug>(all: &[T], rest: Duration, mut act: impl FnMut(&T) -> bool) -> bool {
    let mut before = Instant::now();
    for one in all {
        thread::sleep(rest);
        let done = act(one);
        let now = Instant::now();
        if now.duration_since(std::mem::replace(&mut before, now)) >= Duration::from_secs(1) {
            return false;
        }
        assert!(done, "{one:?} failed though there was no pause");
    }
    true
}

/// A running `serve`.
pub struct Server {
    pub running: Running,
    pub address: String,
}

impl Server {
    pub fn start(backend: &str, directory: &Path) -> Server {
        Server::with(backend, directory, &[])
    }

    pub fn with(backend: &str, directory: &Path, more: &[&str]) -> Server {
        let mut command = program(&["serve", "--backend", backend]);
        command.arg(directory);
        if !more.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        if !more.contains(&"--threads") {
            command.args(["--threads", "1"]);
        }
        command.args(more);
        Server::running(backend, command)
    }

    /// The one that a command starts, which listens on TCP and has this backend.
    pub fn running(backend: &str, command: Command) -> Server {
        let runs = that_runs(backend);
        let mut running = Running::start(command);
        let line = running.line();
        let address = line
            .strip_prefix("listening on http")
            .map(|rest| rest.strip_prefix('s').unwrap_or(rest))
            .and_then(|rest| rest.strip_prefix("://"))
            .and_then(|rest| rest.strip_suffix(&format!(" (backend {runs})")))
            .unwrap_or_else(|| panic!("unexpected line {line:?}"))
            .to_owned();
        Server { running, address }
    }

    pub fn connect(&self) -> Client<TcpStream> {
        let stream = TcpStream::connect(&self.address).expect("it accepts");
        stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
        stream.set_write_timeout(Some(LIMIT)).expect("a time limit");
        Client::new(stream)
    }

    /// One request on a connection of its own.
    pub fn ask(&self, request: &[u8]) -> Response {
        let mut client = self.connect();
        client.send(request);
        client.response(request)
    }

    /// One GET, with more header lines.
    pub fn get(&self, target: &str, fields: &str) -> Response {
        self.ask(format!("GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n").as_bytes())
    }
}

/// An HTTP client that does nothing by itself.
pub struct Client<S> {
    pub stream: S,
    buffer: Vec<u8>,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut found = self
            .fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice in {:?}", self.fields);
        value
    }

    pub fn length(&self) -> usize {
        let length = self.field("Content-Length").expect("a length");
        length.parse().expect("a number")
    }
}

impl<S: Read + Write> Client<S> {
    pub fn new(stream: S) -> Client<S> {
        Client {
            stream,
            buffer: Vec::new(),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("it reads");
    }

    /// Sends a GET on a connection that stays.
    pub fn get(&mut self, target: &str) {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut piece = [0; 64 << 10];
        let n = loop {
            // A read with a time limit is not begun again after a stop of the whole process.
            match self.stream.read(&mut piece) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.buffer.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    /// The head of the next response.
    pub fn head(&mut self) -> Response {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            let n = self.fill().expect("a response in time");
            let so_far = String::from_utf8_lossy(&self.buffer);
            assert!(n > 0, "the connection ended in a head: {so_far:?}");
        };
        let head = String::from_utf8(self.buffer[..end].to_vec()).expect("ASCII");
        self.buffer.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default();
        let code = status.strip_prefix("HTTP/1.1 ").and_then(|s| s.get(..3));
        let field = |line: &str| {
            let (name, value) = line.split_once(':').expect("a field");
            (name.to_owned(), value.trim_start().to_owned())
        };
        Response {
            status: code.and_then(|c| c.parse().ok()).expect("a status"),
            fields: lines.map(field).collect(),
            body: Vec::new(),
        }
    }

    /// So many bytes.
    pub fn take(&mut self, length: usize) -> Vec<u8> {
        let taken = self.try_take(length);
        taken.unwrap_or_else(|| panic!("the connection ended after {}", self.buffer.len()))
    }

    /// The same; `None` where the connection ends before.
    pub fn try_take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill().ok().filter(|n| *n > 0)?;
        }
        let rest = self.buffer.split_off(length);
        Some(std::mem::replace(&mut self.buffer, rest))
    }

    /// The whole response to `request`, which tells whether there is a body.
    pub fn response(&mut self, request: &[u8]) -> Response {
        let mut response = self.head();
        if !request.starts_with(b"HEAD ") && !matches!(response.status, 204 | 304) {
            response.body = self.take(response.length());
        }
        response
    }

    /// The whole response to a GET.
    pub fn got(&mut self) -> Response {
        self.response(b"GET ")
    }

    /// What is left until the connection ends, in whatever way.
    pub fn rest(&mut self) -> Vec<u8> {
        while let Ok(1..) = self.fill() {}
        std::mem::take(&mut self.buffer)
    }

    /// Nothing more comes, and the connection ends in order.
    pub fn assert_ended(&mut self) {
        let n = self.fill().expect("the end of the stream in time");
        let more = String::from_utf8_lossy(&self.buffer);
        assert!(n == 0 && self.buffer.is_empty(), "there was more: {more:?}");
    }
}

/// A directory with files, which were last changed a day ago.
pub fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, content).expect("a file");
        age(&path);
    }
    dir
}

/// Makes a file one that was last changed a day ago.
pub fn age(path: &Path) {
    let file = fs::File::open(path).expect("it is there");
    let day = Duration::from_secs(24 * 60 * 60);
    file.set_modified(SystemTime::now() - day)
        .expect("its time can be set");
}

/// Makes a file that no socket's buffers hold wholly.
pub fn make_big(path: &Path) -> usize {
    let size = 96 << 20;
    let file = fs::File::create(path).expect("a file");
    file.set_len(size as u64).expect("room");
    size
}

/// Lets a system call fail, in this thread and those it starts, as a seccomp profile does.
pub fn deny(call: i64, errno: i32) {
    seccompiler::apply_filter(&filter(&[call], errno)).expect("filters may be set");
}

/// The same for a program that is to be started, and several calls.
pub fn deny_in(command: &mut Command, calls: &[i64], errno: i32) {
    let filter = filter(calls, errno);
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(move || {
            seccompiler::apply_filter(&filter).map_err(|_| io::ErrorKind::Other.into())
        });
    }
}

fn filter(calls: &[i64], errno: i32) -> seccompiler::BpfProgram {
    use seccompiler::{SeccompAction, SeccompFilter};
    let filter = SeccompFilter::new(
        calls.iter().map(|call| (*call, Vec::new())).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        std::env::consts::ARCH
            .try_into()
            .expect("a known processor"),
    );
    filter.and_then(TryInto::try_into).expect("a filter")
}

/// Bytes that differ from one place to another.
pub fn pattern(len: usize) -> Vec<u8> {
    let byte = |i: usize| (i ^ (i >> 8) ^ (i >> 16) ^ (i / 251)) as u8;
    (0..len).map(byte).collect()
}

/// Compares without printing megabytes.
pub fn assert_same(left: &[u8], right: &[u8], what: impl Debug) {
    assert_eq!(left.len(), right.len(), "lengths differ: {what:?}");
    let differs = left.iter().zip(right).position(|(a, b)| a != b);
    assert_eq!(differs, None, "bytes differ: {what:?}");
}
