//! `spliceport send` and `spliceport receive`: a file arrives whole or not at all, on both
//! backends.

mod support;

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use spliceport::proactor::net::{self, ListenOptions};
use spliceport::proactor::{Address, BackendChoice, Fd, Proactor};
use spliceport::streamer::{self, ReceiverOptions, SenderOptions};
use support::*;
use tempfile::TempDir;

on_both_backends! {
    brings_files_of_all_sizes,
    goes_every_route,
    goes_over_unix_sockets,
    replaces_a_file_only_by_a_whole_one,
    leaves_nothing_of_a_broken_transfer,
    refuses_strangers,
    removes_what_it_has_when_stopped,
    gives_up_when_time_is_over,
    notices_that_the_receiver_went_away,
    passes_on_what_the_receiver_says,
    fails_when_the_file_shrinks,
    stops_sending_on_a_signal,
    takes_nothing_behind_the_file,
    leaves_no_timer,
}

struct Receiver {
    running: Running,
    address: String,
    dir: TempDir,
}

impl Receiver {
    fn start(backend: &str) -> Receiver {
        Receiver::with(backend, &[])
    }

    fn with(backend: &str, more: &[&str]) -> Receiver {
        let dir = tempfile::tempdir().unwrap();
        let address = "127.0.0.1:0".to_owned();
        Receiver::at(backend, dir, &address, more)
    }

    fn at(backend: &str, dir: TempDir, address: &str, more: &[&str]) -> Receiver {
        let mut command = program(&["receive", address, "--backend", backend]);
        command.arg(dir.path().join("target")).args(more);
        let mut running = Running::start(command);
        let line = running.line();
        let runs = that_runs(backend);
        let address = line
            .strip_prefix("listening on ")
            .and_then(|rest| rest.strip_suffix(&format!(" (backend {runs})")))
            .unwrap_or_else(|| panic!("unexpected line {line:?}"))
            .to_owned();
        Receiver {
            running,
            address,
            dir,
        }
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("target")
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// What is in the target's directory.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut names: Vec<_> = entries.map(|entry| name(entry.unwrap())).collect();
        names.sort();
        names
    }
}

fn send(backend: &str, file: &Path, address: &str, more: &[&str]) -> Ended {
    let mut command = program(&["send", "--backend", backend]);
    command.arg(file).arg(address).args(more);
    run(command)
}

fn source(content: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("source");
    fs::write(&path, content).unwrap();
    (dir, path)
}

/// The rest of what a peer says.
fn answer(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    // A reset behind the answer is an end as well.
    let _ = stream.read_to_string(&mut text);
    text
}

fn brings_files_of_all_sizes(backend: &str) {
    for size in [0, 1, 4096, 100_000, (5 << 20) + 3] {
        let content = pattern(size);
        let (_dir, path) = source(&content);
        let mut receiver = Receiver::start(backend);
        let sent = send(backend, &path, &receiver.address, &[]);
        assert_eq!(sent.code(), Some(0), "{sent:?}");
        let summary = format!("sent {size} bytes in ");
        assert!(sent.stderr.starts_with(&summary), "{sent:?}");
        for word in [
            " s (",
            " MiB/s), route ",
            &format!("backend {}\n", that_runs(backend)),
        ] {
            assert!(sent.stderr.contains(word), "{sent:?}");
        }
        // It is there before the sender hears of it.
        assert_same(&fs::read(receiver.target()).unwrap(), &content, size);
        let received = receiver.running.end();
        assert_eq!(received.code(), Some(0), "{received:?}");
        let summary = format!("received {size} bytes in ");
        assert!(received.stderr.starts_with(&summary), "{received:?}");
        assert_eq!(received.stderr.lines().count(), 1, "{received:?}");
        assert_eq!(receiver.names(), ["target"]);
    }
}

fn goes_every_route(backend: &str) {
    let content = pattern((3 << 20) + 77);
    let (_dir, path) = source(&content);
    for route in ["copy", "chain", "inline", "sendfile"] {
        let mut receiver = Receiver::with(backend, &["--no-sync"]);
        let sent = send(backend, &path, &receiver.address, &["--route", route]);
        assert_eq!(sent.code(), Some(0), "{sent:?}");
        let named = format!("route {route}, ");
        assert!(sent.stderr.contains(&named), "{sent:?}");
        assert_eq!(receiver.running.end().code(), Some(0));
        assert_same(&fs::read(receiver.target()).unwrap(), &content, route);
    }
}

fn goes_over_unix_sockets(backend: &str) {
    let content = pattern(1 << 20);
    let (_dir, path) = source(&content);
    let dir = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", dir.path().join("socket").display());
    let mut receiver = Receiver::at(backend, dir, &address, &[]);
    assert_eq!(receiver.address, address);
    let sent = send(backend, &path, &address, &[]);
    assert_eq!(sent.code(), Some(0), "{sent:?}");
    assert_eq!(receiver.running.end().code(), Some(0));
    assert_same(&fs::read(receiver.target()).unwrap(), &content, "unix");
    assert_eq!(receiver.names(), ["target"], "the socket's file is gone");
}

fn replaces_a_file_only_by_a_whole_one(backend: &str) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("target"), "before").unwrap();
    let mut receiver = Receiver::at(backend, dir, "127.0.0.1:0", &[]);
    let mut stream = receiver.connect();
    stream.write_all(b"SPLICEPORT/1 10\n12345").unwrap();
    drop(stream);
    assert_eq!(receiver.running.end().code(), Some(1));
    assert_eq!(fs::read(receiver.target()).unwrap(), b"before");
    assert_eq!(receiver.names(), ["target"]);

    let mut receiver = Receiver::at(backend, receiver.dir, "127.0.0.1:0", &[]);
    let mut stream = receiver.connect();
    // In pieces, the first line too.
    for piece in [&b"SPLICE"[..], b"PORT/1 1", b"0", b"\n123", b"45678", b"90"] {
        stream.write_all(piece).unwrap();
        thread::yield_now();
    }
    assert_eq!(answer(&mut stream), "OK 10\n");
    assert_eq!(receiver.running.end().code(), Some(0));
    assert_eq!(fs::read(receiver.target()).unwrap(), b"1234567890");
    assert_eq!(receiver.names(), ["target"]);
    // As any new file: not the temporary file's own mode.
    let mode = fs::metadata(receiver.target())
        .unwrap()
        .permissions()
        .mode();
    let new = receiver.dir.path().join("new");
    fs::write(&new, "").unwrap();
    assert_eq!(mode, fs::metadata(new).unwrap().permissions().mode());
}

fn leaves_nothing_of_a_broken_transfer(backend: &str) {
    let large = format!("SPLICEPORT/1 {}\n{}", 10 << 20, "x".repeat(3 << 20));
    for (bytes, said) in [
        ("", "before it said what it sends"),
        ("SPLICEPORT/1 10", "before it said what it sends"),
        ("SPLICEPORT/1 10\n", "after 0 of 10 bytes"),
        ("SPLICEPORT/1 10\n123456789", "after 9 of 10 bytes"),
        (large.as_str(), "of 10485760 bytes"),
    ] {
        // Once with an orderly end, once with a reset.
        for reset in [false, true] {
            let mut receiver = Receiver::start(backend);
            let mut stream = receiver.connect();
            stream.write_all(bytes.as_bytes()).unwrap();
            if reset {
                let time = Some(std::time::Duration::ZERO);
                rustix::net::sockopt::set_socket_linger(&stream, time).unwrap();
            }
            drop(stream);
            let ended = receiver.running.end();
            assert_eq!(ended.code(), Some(1), "{ended:?}");
            // A reset may overtake what was sent before it.
            let said = if reset { "the sender ended" } else { said };
            assert!(ended.stderr.contains(said), "{ended:?}");
            assert!(ended.stderr.contains("target"), "{ended:?}");
            assert!(receiver.names().is_empty(), "{:?}", receiver.names());
        }
    }
}

fn refuses_strangers(backend: &str) {
    for (bytes, said) in [
        (
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            "no spliceport sender",
        ),
        (b"SPLICEPORT/2 10\n", "no spliceport sender"),
        (b"SPLICEPORT/1 ten\n", "no spliceport sender"),
        (b"SPLICEPORT/1 3\n1234", "more than the 3 bytes"),
    ] {
        let mut receiver = Receiver::start(backend);
        let mut stream = receiver.connect();
        stream.write_all(bytes).unwrap();
        let answered = answer(&mut stream);
        assert!(answered.starts_with("ERROR "), "{answered:?}");
        assert!(answered.contains(said), "{answered:?}");
        drop(stream);
        let ended = receiver.running.end();
        assert_eq!(ended.code(), Some(1), "{ended:?}");
        assert!(ended.stderr.contains(said), "{ended:?}");
        assert!(receiver.names().is_empty(), "{:?}", receiver.names());
    }
}

fn removes_what_it_has_when_stopped(backend: &str) {
    for signal in [Signal::INT, Signal::TERM] {
        // Before anyone came.
        let mut receiver = Receiver::start(backend);
        receiver.running.signal(signal);
        let ended = receiver.running.end();
        assert_eq!(ended.code(), Some(1), "{ended:?}");
        assert!(ended.stderr.contains("signal"), "{ended:?}");
        assert!(receiver.names().is_empty());

        // In the middle.
        let mut receiver = Receiver::start(backend);
        let mut stream = receiver.connect();
        stream.write_all(b"SPLICEPORT/1 9000000\n").unwrap();
        stream.write_all(&pattern(4_000_000)).unwrap();
        // What there is of it has no name.
        assert!(receiver.names().is_empty());
        receiver.running.signal(signal);
        assert!(answer(&mut stream).starts_with("ERROR "));
        drop(stream);
        let ended = receiver.running.end();
        assert_eq!(ended.code(), Some(1), "{ended:?}");
        assert!(receiver.names().is_empty(), "{:?}", receiver.names());
    }
}

fn gives_up_when_time_is_over(backend: &str) {
    let mut receiver = Receiver::with(backend, &["--timeout", "0.2"]);
    let ended = receiver.running.end();
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("took too long"), "{ended:?}");
    assert!(receiver.names().is_empty());

    // A sender that is slow by its own choice; the receiver notices its end.
    let (_dir, path) = source(&pattern(1 << 20));
    let mut receiver = Receiver::start(backend);
    let slow = ["--rate", "16K", "--timeout", "0.5"];
    let sent = send(backend, &path, &receiver.address, &slow);
    assert_eq!(sent.code(), Some(1), "{sent:?}");
    assert!(sent.stderr.contains("took too long"), "{sent:?}");
    assert_eq!(receiver.running.end().code(), Some(1));
    assert!(receiver.names().is_empty());
}

/// A peer of `send` that the test plays itself.
fn play(part: impl FnOnce(&mut TcpStream) + Send + 'static) -> (String, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let player = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        part(&mut stream);
    });
    (address, player)
}

fn notices_that_the_receiver_went_away(backend: &str) {
    let (_dir, path) = source(&pattern(30 << 20));
    // Midway; without reading at all; after everything, but before the confirmation.
    for take in [1 << 20, 0, usize::MAX] {
        let (address, player) = play(move |stream| {
            let mut piece = vec![0; 64 << 10];
            let mut left = take.min((30 << 20) + "SPLICEPORT/1 31457280\n".len());
            while left > 0 {
                let n = piece.len().min(left);
                stream.read_exact(&mut piece[..n]).unwrap();
                left -= n;
            }
        });
        let sent = send(backend, &path, &address, &[]);
        assert_eq!(sent.code(), Some(1), "{sent:?}");
        assert!(sent.stderr.contains("before it confirmed"), "{sent:?}");
        assert!(sent.stderr.contains(&address), "{sent:?}");
        player.join().unwrap();
    }
}

fn passes_on_what_the_receiver_says(backend: &str) {
    let (_dir, path) = source(&pattern(10_000));
    for (answer, said) in [
        ("ERROR no space left\n", "no space left"),
        ("OK 9999\n", "no spliceport receiver"),
        ("HTTP/1.1 400 Bad Request\r\n", "no spliceport receiver"),
    ] {
        let (address, player) = play(move |stream| {
            stream.write_all(answer.as_bytes()).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let sent = send(backend, &path, &address, &[]);
        assert_eq!(sent.code(), Some(1), "{sent:?}");
        assert!(sent.stderr.contains(said), "{sent:?}");
        player.join().unwrap();
    }
}

fn fails_when_the_file_shrinks(backend: &str) {
    let (_dir, path) = source(&[]);
    let size = 96 << 20;
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(size).unwrap();
    let (address, player) = play(move |stream| {
        let mut piece = vec![0; 1 << 20];
        stream.read_exact(&mut piece).unwrap();
        file.set_len(4096).unwrap();
        let rest = stream.read_to_end(&mut Vec::new());
        assert!(rest.is_err() || rest.is_ok_and(|n| (n as u64) < size));
    });
    let sent = send(backend, &path, &address, &[]);
    assert_eq!(sent.code(), Some(1), "{sent:?}");
    assert!(sent.stderr.contains("shorter"), "{sent:?}");
    player.join().unwrap();
}

fn stops_sending_on_a_signal(backend: &str) {
    let (_dir, path) = source(&pattern(1 << 20));
    let (started, has_started) = mpsc::channel();
    let (address, player) = play(move |stream| {
        stream.read_exact(&mut [0; 100]).unwrap();
        started.send(()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let mut command = program(&["send", "--backend", backend, "--rate", "16K"]);
    command.arg(&path).arg(&address);
    let mut sender = Running::start(command);
    has_started.recv_timeout(LIMIT).unwrap();
    sender.signal(Signal::TERM);
    let sent = sender.end();
    assert_eq!(sent.code(), Some(1), "{sent:?}");
    assert!(sent.stderr.contains("signal"), "{sent:?}");
    player.join().unwrap();
}

#[test]
fn says_what_is_wrong() {
    let (dir, file) = source(b"hello");
    let file = file.to_str().unwrap();
    let path = dir.path().to_str().unwrap();
    let none = format!("{path}/none");
    let deep = format!("{path}/none/target");
    let fifo = format!("{path}/fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, fifo.as_str(), kind, mode, 0).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    // A port that nobody listens on: this one, from now on.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = free.local_addr().unwrap().to_string();
    drop(free);
    for (args, code, said) in [
        (
            vec!["send", &none, &silent],
            1,
            vec![none.as_str(), "No such file"],
        ),
        (
            vec!["send", path, &silent],
            1,
            vec![path, "no regular file"],
        ),
        (
            vec!["send", &fifo, &silent],
            1,
            vec![&fifo, "no regular file"],
        ),
        (
            vec!["send", file, &silent],
            1,
            vec![&silent, "nothing listens there"],
        ),
        (vec!["send", file, "here"], 2, vec!["\"here\"", "HOST:PORT"]),
        (
            vec!["send", file, &silent, "--rate", "0"],
            2,
            vec!["--rate"],
        ),
        (vec!["send", file], 2, vec!["ADDR"]),
        (
            vec!["receive", "127.0.0.1:0", path],
            1,
            vec![path, "is a directory"],
        ),
        (
            vec!["receive", "127.0.0.1:0", &fifo],
            1,
            vec![&fifo, "no regular file"],
        ),
        (
            vec!["receive", "127.0.0.1:0", &deep],
            1,
            vec![&deep, "No such file"],
        ),
        (
            vec!["receive", &taken, &none],
            1,
            vec![&taken, "another program"],
        ),
        (
            vec!["receive", "127.0.0.1:x", &none],
            2,
            vec!["127.0.0.1:x"],
        ),
    ] {
        let ended = run(program(&args));
        assert_eq!(ended.code(), Some(code), "{args:?}: {ended:?}");
        for word in said {
            assert!(ended.stderr.contains(word), "{args:?}: {ended:?}");
        }
    }
    let entries = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(entries, 2, "nothing was left behind");
}

/// A proactor of this process's own.
fn proactor(backend: &str) -> Proactor {
    let backend = match backend {
        "ring" => BackendChoice::Ring,
        "emulated" => BackendChoice::Emulated,
        _ => BackendChoice::Auto,
    };
    Proactor::builder().backend(backend).build().unwrap()
}

/// A socket that listens, and where.
fn listening() -> (Fd, Address) {
    let any = Address::from("127.0.0.1:0".parse::<SocketAddr>().unwrap());
    let socket = net::listen(&any, &ListenOptions::default()).unwrap();
    let address = net::local_address(&socket).unwrap();
    (socket, address)
}

/// All that the sender sends is there before the receiver looks: what follows the file comes along
/// with its last bytes, in another buffer than the first line.
fn takes_nothing_behind_the_file(backend: &str) {
    const LEN: usize = 40_000;
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    let proactor = proactor(backend);
    let (socket, address) = listening();
    let mut stream = TcpStream::connect(address.as_inet().unwrap()).unwrap();
    let mut bytes = format!("SPLICEPORT/1 {LEN}\n").into_bytes();
    bytes.extend(pattern(LEN));
    bytes.push(b'x');
    stream.write_all(&bytes).unwrap();
    let ended = Rc::new(RefCell::new(None));
    let done = Rc::clone(&ended);
    let options = ReceiverOptions::default();
    let _receiving = streamer::receive(&proactor, socket, &target, options, move |result| {
        done.borrow_mut().replace(result);
    })
    .unwrap();
    // The receiver waits for us to have read what it says.
    let peer = thread::spawn(move || answer(&mut stream));
    let result = wait_for("the end of the transfer", || {
        let _ = proactor.run_once(Some(Duration::from_millis(5)));
        ended.borrow_mut().take()
    });
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    assert!(peer.join().unwrap().starts_with("ERROR "));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

fn leaves_no_timer(backend: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::write(&source, pattern(1000)).unwrap();
    // The longest time there is is none.
    for timeout in [Duration::from_secs(3600), Duration::MAX] {
        let proactor = proactor(backend);
        let (socket, address) = listening();
        let left = Rc::new(Cell::new(2));
        let done = Rc::clone(&left);
        let mut options = ReceiverOptions::default();
        options.timeout = Some(timeout);
        let _receiving = streamer::receive(&proactor, socket, &target, options, move |result| {
            assert_eq!(result.unwrap().bytes, 1000);
            done.set(done.get() - 1);
        })
        .unwrap();
        let done = Rc::clone(&left);
        let mut options = SenderOptions::default();
        options.timeout = Some(timeout);
        let file = Fd::from(fs::File::open(&source).unwrap());
        streamer::send(&proactor, file, &address, options, move |result| {
            assert_eq!(result.unwrap().bytes, 1000);
            done.set(done.get() - 1);
        })
        .unwrap();
        wait_for("the end of all operations", || {
            let _ = proactor.run_once(Some(Duration::from_millis(5)));
            (left.get() == 0 && proactor.stats().in_flight == 0).then_some(())
        });
    }
}
