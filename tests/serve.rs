//! `spliceport serve`: what a client sees, on both backends.

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::Signal;
use support::*;

on_both_backends! {
    ends_idle_and_slow_connections,
    keeps_slow_readers,
    a_killed_server_is_seen_by_its_clients,
    finishes_transfers_when_stopped,
    finishes_transfers_with_requests_behind_them_when_stopped,
    stops_at_once_on_the_second_signal,
    stops_after_the_time_limit,
    ends_when_a_thread_fails,
    serves_unix_sockets,
    serves_with_several_threads,
    goes_on_serving_when_nobody_reads_what_it_says,
    serves_more_files_than_it_may_open,
}

fn ends_idle_and_slow_connections(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let big = make_big(&dir.path().join("big"));
    let limits = [
        "--idle-timeout",
        "1",
        "--header-timeout",
        "1",
        "--send-timeout",
        "1",
    ];
    let server = Server::with(backend, dir.path(), &limits);
    let before = sockets_of(&server);
    let mut new = server.connect();
    let mut idle = server.connect();
    idle.get("/a");
    assert_eq!(idle.got().status, 200);
    // As some old clients do; it is no request.
    idle.send(b"\r\n");
    let mut slow = server.connect();
    slow.send(b"GET /a HTTP/1.1\r\nHost:");
    let mut stalled = server.connect();
    stalled.get("/big");
    assert_eq!(stalled.head().status, 200);
    new.assert_ended();
    idle.assert_ended();
    assert_eq!(slow.got().status, 408);
    slow.assert_ended();
    drop(slow);
    // The server gives the stalled one up while nobody reads; only then do we.
    wait_for("the end of the stalled connection", || {
        (sockets_of(&server) == before).then_some(())
    });
    assert!(stalled.rest().len() < big);
}

fn keeps_slow_readers(backend: &str) {
    let dir = directory(&[]);
    let size = make_big(&dir.path().join("big"));
    let server = Server::with(backend, dir.path(), &["--send-timeout", "2"]);
    let (mut slow, left) = wait_for("a reader without too long a pause", || {
        let mut slow = server.connect();
        rustix::net::sockopt::set_socket_recv_buffer_size(&slow.stream, 64 << 10).unwrap();
        slow.get("/big");
        assert_eq!(slow.head().length(), size);
        let mut left = size;
        // So little that for long the server's socket takes no more.
        let steady = unhurried(&[10_000; 70], Duration::from_millis(100), |some| {
            slow.try_take(*some).is_some_and(|got| {
                left -= got.len();
                true
            })
        });
        steady.then_some((slow, left))
    });
    assert_eq!(slow.take(left).len(), left);
}

/// How many sockets a server has open.
fn sockets_of(server: &Server) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", server.running.id()));
    let targets = descriptors
        .expect("it runs")
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

/// Its kernel sends what it had taken, and then the end: short of what was promised.
fn a_killed_server_is_seen_by_its_clients(backend: &str) {
    let dir = directory(&[]);
    let size = make_big(&dir.path().join("big"));
    let mut server = Server::start(backend, dir.path());
    let mut client = server.connect();
    client.get("/big");
    assert_eq!(client.head().length(), size);
    client.take(10_000);
    server.running.signal(Signal::KILL);
    assert_eq!(server.running.end().code(), None);
    let came = 10_000 + client.rest().len();
    assert!(came < size, "{came} of {size} bytes");
}

fn finishes_transfers_when_stopped(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let size = make_big(&dir.path().join("big"));
    let mut server = Server::start(backend, dir.path());
    let mut idle = server.connect();
    idle.get("/a");
    assert_eq!(idle.got().status, 200);
    let mut busy = server.connect();
    busy.get("/big");
    assert_eq!(busy.head().length(), size);
    busy.take(10_000);
    server.running.signal(Signal::TERM);
    idle.assert_ended();
    wait_for("the listener's end", || {
        std::net::TcpStream::connect(&server.address).err()
    });
    assert_eq!(busy.take(size - 10_000).len(), size - 10_000);
    busy.assert_ended();
    drop(busy);
    let ended = server.running.end();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(ended.stderr, "");
}

fn finishes_transfers_with_requests_behind_them_when_stopped(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let size = make_big(&dir.path().join("big"));
    let mut server = Server::start(backend, dir.path());
    let mut busy = server.connect();
    busy.get("/big");
    assert_eq!(busy.head().length(), size);
    busy.take(10_000);
    server.running.signal(Signal::TERM);
    wait_for("the listener's end", || {
        std::net::TcpStream::connect(&server.address).err()
    });
    // Left unread, these would make the kernel throw the end of the response away.
    for _ in 0..10 {
        busy.get("/a");
    }
    let mut left = size - 10_000;
    while left > 0 {
        let n = left.min(1 << 20);
        assert_eq!(busy.take(n).len(), n);
        left -= n;
        thread::sleep(Duration::from_millis(2));
    }
    busy.assert_ended();
    drop(busy);
    let ended = server.running.end();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
}

fn stops_at_once_on_the_second_signal(backend: &str) {
    let dir = directory(&[]);
    let size = make_big(&dir.path().join("big"));
    let mut server = Server::start(backend, dir.path());
    let mut busy = server.connect();
    busy.get("/big");
    assert_eq!(busy.head().length(), size);
    server.running.signal(Signal::INT);
    wait_for("the listener's end", || {
        std::net::TcpStream::connect(&server.address).err()
    });
    server.running.signal(Signal::INT);
    let ended = server.running.end();
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("second signal"), "{ended:?}");
    assert!(busy.rest().len() < size);
}

fn stops_after_the_time_limit(backend: &str) {
    let dir = directory(&[]);
    let size = make_big(&dir.path().join("big"));
    let mut server = Server::with(backend, dir.path(), &["--stop-timeout", "0.2"]);
    let mut busy = server.connect();
    busy.get("/big");
    assert_eq!(busy.head().length(), size);
    server.running.signal(Signal::TERM);
    let ended = server.running.end();
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("--stop-timeout"), "{ended:?}");
    assert!(busy.rest().len() < size);
}

fn ends_when_a_thread_fails(backend: &str) {
    let dir = directory(&[]);
    let mut command = std::process::Command::new("sh");
    // Not all of the threads get the descriptors that they need.
    let script = "ulimit -n 24 && exec \"$0\" serve --backend \"$1\" --listen 127.0.0.1:0 \
                  --threads 12 \"$2\"";
    let program = env!("CARGO_BIN_EXE_spliceport");
    command.args(["-c", script, program, backend]);
    command.arg(dir.path());
    let ended = run(command);
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("Too many open files"), "{ended:?}");
}

fn serves_unix_sockets(backend: &str) {
    let content = pattern(500_000);
    let dir = directory(&[("a", &content)]);
    let socket = dir.path().join("socket");
    let listen = format!("unix:{}", socket.display());
    for threads in ["1", "2"] {
        let more = ["--listen", listen.as_str(), "--threads", threads];
        let mut server = Server::with(backend, dir.path(), &more);
        assert_eq!(server.address, listen);
        let stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut client = Client::new(stream);
        client.get("/a");
        assert_same(&client.got().body, &content, "over a Unix socket");
        // A second one is told that the path is taken.
        let mut second = program(&["serve", "--backend", backend, "--listen", &listen]);
        second.arg(dir.path());
        let second = run(second);
        assert_eq!(second.code(), Some(1), "{second:?}");
        assert!(second.stderr.contains(&listen), "{second:?}");
        server.running.signal(Signal::TERM);
        assert_eq!(server.running.end().code(), Some(0));
        assert!(!socket.exists());
    }
    // What a killed one left behind is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    Server::with(backend, dir.path(), &["--listen", &listen]);
}

fn serves_with_several_threads(backend: &str) {
    let content = pattern(100_000);
    let dir = directory(&[("a", &content)]);
    let mut server = Server::with(backend, dir.path(), &["--threads", "3"]);
    let mut clients: Vec<_> = (0..24).map(|_| server.connect()).collect();
    for round in 0..3 {
        for client in &mut clients {
            client.get("/a");
        }
        for client in &mut clients {
            assert_same(&client.got().body, &content, round);
        }
    }
    // Its port is taken, for one that would share it as well.
    for threads in ["1", "2"] {
        let mut second = program(&["serve", "--backend", backend, "--threads", threads]);
        second.args(["--listen", &server.address]).arg(dir.path());
        let second = run(second);
        assert_eq!(second.code(), Some(1), "{second:?}");
        let named = second.stderr.contains(&server.address);
        assert!(named && second.stderr.contains("another"), "{second:?}");
    }
    server.running.signal(Signal::TERM);
    assert_eq!(server.running.end().code(), Some(0));
    for client in &mut clients {
        client.assert_ended();
    }
}

fn goes_on_serving_when_nobody_reads_what_it_says(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    make_big(&dir.path().join("big"));
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("stderr");
    let _reader = fifo(&path);
    // Full before it has said anything.
    let mut options = File::options();
    options
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32);
    let mut writer = options.open(&path).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    let shell = format!("exec 2> {}", path.display());
    let mut command = serve_after(&shell, backend, dir.path(), &["--stop-timeout", "1"]);
    command.env("RUST_LOG", "spliceport::streamer=trace");
    let mut server = Server::running(backend, command);
    let mut client = server.connect();
    // More than the queue holds, too.
    for _ in 0..20_000 / 50 {
        client.send(&b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50));
        for _ in 0..50 {
            assert_eq!(client.got().body, b"hello");
        }
    }
    // One that the stop has to cut, and to tell of.
    let mut stalled = server.connect();
    stalled.get("/big");
    assert_eq!(stalled.head().status, 200);
    server.running.signal(Signal::TERM);
    assert_eq!(server.running.end().code(), Some(1));
}

fn serves_more_files_than_it_may_open(backend: &str) {
    const DESCRIPTORS: usize = 64;
    let dir = directory(&[]);
    for i in 0..4 * DESCRIPTORS {
        fs::write(dir.path().join(i.to_string()), i.to_string()).unwrap();
    }
    let shell = format!("ulimit -n {DESCRIPTORS}");
    let mut server = Server::running(backend, serve_after(&shell, backend, dir.path(), &[]));
    let mut client = server.connect();
    let mut get = |i: usize| {
        client.get(&format!("/{i}"));
        let got = client.got();
        assert_eq!((got.status, got.body), (200, i.to_string().into_bytes()));
    };
    (0..2 * DESCRIPTORS).for_each(&mut get);
    // Connections take what is left besides the files that are kept open, and these give way to
    // files that are wanted...
    let descriptors = format!("/proc/{}/fd", server.running.id());
    let left = || DESCRIPTORS - fs::read_dir(&descriptors).unwrap().count();
    let mut others = Vec::new();
    while left() > 1 {
        let mut other = server.connect();
        other.get("/0");
        assert_eq!(other.got().status, 200);
        others.push(other);
        assert!(others.len() < DESCRIPTORS);
        (2 * DESCRIPTORS..2 * DESCRIPTORS + 30).for_each(&mut get);
    }
    // ... and to connections.
    others.clear();
    wait_for("room", || (left() > DESCRIPTORS / 4).then_some(()));
    (0..2 * DESCRIPTORS).for_each(&mut get);
    for _ in 0..left() + 4 {
        let mut other = server.connect();
        other.get("/0");
        assert_eq!(other.got().status, 200);
        others.push(other);
    }
    server.running.signal(Signal::TERM);
    let said = server.running.end().stderr;
    assert!(!said.contains("can be accepted"), "{said}");
}

#[test]
fn warns_of_what_does_nothing() {
    let dir = directory(&[("a.html", b"hello")]);
    for (file, warned) in [("b.html", true), ("a.html", false)] {
        let args = ["--fallback", file];
        let mut command = serve_after(":", "emulated", dir.path(), &args);
        if warned {
            command.env("SPLICEPORT_RAET", "1M");
        }
        let mut server = Server::running("emulated", command);
        server.running.signal(Signal::TERM);
        let ended = server.running.end();
        assert_eq!(ended.code(), Some(0));
        for said in ["--fallback b.html", "SPLICEPORT_RAET"] {
            assert_eq!(ended.stderr.contains(said), warned, "{}", ended.stderr);
        }
    }
}

#[test]
fn says_what_is_wrong() {
    let dir = directory(&[("a", b"hello")]);
    let path = dir.path().to_str().expect("UTF-8");
    let file = format!("{path}/a");
    let none = format!("{path}/none");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for (args, code, said) in [
        (vec!["serve", &none], 1, vec![none.as_str(), "No such file"]),
        (vec!["serve", &file], 1, vec![file.as_str(), "directory"]),
        (
            vec!["serve", path, "--listen", "here"],
            2,
            vec!["\"here\"", "HOST:PORT"],
        ),
        (
            vec!["serve", path, "--listen", "192.0.2.1:80"],
            1,
            vec!["192.0.2.1:80", "no such address"],
        ),
        (
            vec!["serve", path, "--listen", &taken],
            1,
            vec![taken.as_str(), "another program"],
        ),
        (vec!["serve", path, "--threads", "0"], 2, vec!["--threads"]),
        (vec!["serve", path, "--backend", "x"], 2, vec!["emulated"]),
        (vec!["serve", path, "--route", "x"], 2, vec!["sendfile"]),
        (vec!["serve", path, "--nonsense"], 2, vec!["--nonsense"]),
        (vec![], 2, vec!["Usage"]),
    ] {
        let ended = run(program(&args));
        assert_eq!(ended.code(), Some(code), "{args:?}: {ended:?}");
        for word in said {
            assert!(ended.stderr.contains(word), "{args:?}: {ended:?}");
        }
    }
}
