//! What a server's observers are told: each exchange once, with what was taken of its response and
//! how it ended.

mod common;

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use common::*;
use rustix::net::{RecvFlags, recv};
use spliceport::proactor::net::ListenOptions;
use spliceport::proactor::{Address, Fd, Proactor};
use spliceport::streamer::{
    Ending, Exchange, Gate, Limits, Observer, Server, ServerOptions, Uploads,
};
use tempfile::TempDir;

/// An exchange, as it was told.
#[derive(Debug, PartialEq)]
struct Told {
    line: String,
    status: Option<u16>,
    content: u64,
    received: u64,
    ending: Ending,
}

/// Notes all, and checks what holds of all.
#[derive(Default)]
struct Notes {
    exchanges: RefCell<Vec<Told>>,
    headers: Cell<u64>,
    connections: Cell<(u32, u32, u32)>,
    requests: Cell<usize>,
    /// The clients have no address.
    unix: Cell<bool>,
}

impl Observer for Notes {
    fn connection_made(&self, admitted: bool) {
        let (made, away, lost) = self.connections.get();
        let away = away + u32::from(!admitted);
        self.connections.set((made + 1, away, lost));
    }

    fn connection_lost(&self) {
        let (made, away, lost) = self.connections.get();
        self.connections.set((made, away, lost + 1));
    }

    fn request_taken(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    fn exchange_over(&self, exchange: &Exchange<'_>) {
        let remote = exchange.remote.and_then(Address::as_inet);
        let loopback = remote.is_some_and(|remote| remote.ip().is_loopback());
        assert_ne!(loopback, self.unix.get());
        assert!(exchange.duration < LIMIT);
        if exchange.status == Some(200) && exchange.content_bytes > 1 << 20 {
            assert!(!exchange.routes.is_empty());
        }
        self.headers.set(self.headers.get() + exchange.header_bytes);
        self.exchanges.borrow_mut().push(Told {
            line: String::from_utf8_lossy(exchange.head.line()).into_owned(),
            status: exchange.status,
            content: exchange.content_bytes,
            received: exchange.received_bytes,
            ending: exchange.ending,
        });
        assert!(self.exchanges.borrow().len() <= self.requests.get());
    }
}

impl Notes {
    fn all_over(&self) -> bool {
        let (made, _, lost) = self.connections.get();
        made == lost && made > 0 && self.requests.get() == self.exchanges.borrow().len()
    }
}

fn told(line: &str, status: impl Into<Option<u16>>, content: u64, ending: Ending) -> Told {
    Told {
        line: line.to_owned(),
        status: status.into(),
        content,
        received: 0,
        ending,
    }
}

const BIG: u64 = 64 << 20;

fn site() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "hello").unwrap();
    fs::write(dir.path().join("b"), vec![7; 100_000]).unwrap();
    let big = fs::File::create(dir.path().join("big")).unwrap();
    big.set_len(BIG).unwrap();
    dir
}

/// A server that is observed, and a client of it.
fn serve(proactor: &Proactor, options: ServerOptions) -> (TempDir, Server, Rc<Notes>, TcpStream) {
    let any = Address::from("127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap());
    let (dir, server, notes) = serve_at(proactor, &any, options);
    let client = connect(&server);
    (dir, server, notes, client)
}

fn serve_at(
    proactor: &Proactor,
    address: &Address,
    options: ServerOptions,
) -> (TempDir, Server, Rc<Notes>) {
    let dir = site();
    let root = Fd::new(fs::File::open(dir.path()).unwrap());
    let server = Server::bind(proactor, root, address, &ListenOptions::default(), options).unwrap();
    let notes = Rc::<Notes>::default();
    server.observe(Rc::clone(&notes) as Rc<dyn Observer>);
    (dir, server, notes)
}

fn connect(server: &Server) -> TcpStream {
    let address = server.local_addr().unwrap().as_inet().unwrap();
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client
}

fn quick(limits: Limits) -> ServerOptions {
    let mut options = ServerOptions::default();
    options.limits = limits;
    options
}

fn get(target: &str, more: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: x\r\n{more}\r\n")
}

on_both_backends! {
    fn pipelined_requests_are_told_in_their_order(proactor: Proactor) {
        let (_dir, _server, notes, mut client) = serve(&proactor, ServerOptions::default());
        let requests = [
            get("/a", ""),
            get("/b", ""),
            get("/none", ""),
            "HEAD /b HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            get("/b", "Range: bytes=10-19\r\n"),
            get("/b", "Range: bytes=0-0,50-60\r\n"),
            get("/a", "If-Modified-Since: Fri, 31 Dec 2100 00:00:00 GMT\r\n"),
            get("/a", ""),
            "POST /a HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "no request\r\n\r\n".to_owned(),
        ];
        client.write_all(requests.concat().as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let got = join(&proactor, read_all(client));
        run_until(&proactor, "the end", || notes.all_over());
        let exchanges = notes.exchanges.borrow();
        let all: u64 = exchanges.iter().map(|e| e.content).sum();
        assert_eq!(notes.headers.get() + all, got.len() as u64);
        let parts = exchanges[5].content;
        assert!(parts > 12, "{parts}");
        let whole = |line, status, content| told(line, status, content, Ending::Whole);
        let expected = [
            whole("GET /a HTTP/1.1", 200, 5),
            whole("GET /b HTTP/1.1", 200, 100_000),
            whole("GET /none HTTP/1.1", 404, 14),
            whole("HEAD /b HTTP/1.1", 200, 0),
            whole("GET /b HTTP/1.1", 206, 10),
            whole("GET /b HTTP/1.1", 206, parts),
            whole("GET /a HTTP/1.1", 304, 0),
            whole("GET /a HTTP/1.1", 200, 5),
            whole("POST /a HTTP/1.1", 405, 23),
            whole("no request", 400, 16),
        ];
        assert_eq!(exchanges[..], expected);
    }

    fn a_client_that_leaves_is_told_of_with_what_was_taken(proactor: Proactor) {
        let (_dir, _server, notes, mut client) = serve(&proactor, ServerOptions::default());
        client.write_all([get("/big", ""), get("/a", "")].concat().as_bytes()).unwrap();
        let mut some = vec![0; 100_000];
        let reading = std::thread::spawn(move || {
            client.read_exact(&mut some).unwrap();
        });
        join(&proactor, reading);
        run_until(&proactor, "the end", || notes.all_over());
        let exchanges = notes.exchanges.borrow();
        let taken = exchanges[0].content;
        assert!((90_000..BIG).contains(&taken), "{taken}");
        let cut = |line, content| told(line, 200, content, Ending::PeerGone);
        let expected = [cut("GET /big HTTP/1.1", taken), cut("GET /a HTTP/1.1", 0)];
        assert_eq!(exchanges[..], expected);
    }

    fn a_file_that_is_cut_is_told_of_as_a_failure(proactor: Proactor) {
        let (dir, _server, notes, mut client) = serve(&proactor, ServerOptions::default());
        client.write_all(get("/big", "").as_bytes()).unwrap();
        let mut one = [0];
        let reading = std::thread::spawn(move || {
            client.read_exact(&mut one).unwrap();
            client
        });
        let client = join(&proactor, reading);
        let big = fs::File::options().write(true).open(dir.path().join("big")).unwrap();
        big.set_len(1).unwrap();
        let reader = read_until_error(client);
        let _ = join(&proactor, reader);
        run_until(&proactor, "the end", || notes.all_over());
        let exchanges = notes.exchanges.borrow();
        assert_eq!(exchanges.len(), 1);
        assert_eq!((exchanges[0].status, exchanges[0].ending), (Some(200), Ending::Failed));
        assert!(exchanges[0].content < BIG);
    }

    fn time_outs_are_told_of(proactor: Proactor) {
        let limits = Limits {
            header_timeout: Duration::ZERO,
            send_timeout: Duration::ZERO,
            ..Limits::default()
        };
        let (_dir, server, notes, mut slow) = serve(&proactor, quick(limits));
        slow.write_all(b"GET /a HT").unwrap();
        let mut stalled = connect(&server);
        stalled.write_all(get("/big", "").as_bytes()).unwrap();
        run_until(&proactor, "the time-outs", || notes.exchanges.borrow().len() == 2);
        drop((slow, stalled));
        run_until(&proactor, "the end", || notes.all_over());
        let mut exchanges = notes.exchanges.take();
        exchanges.sort_by_key(|e| e.status);
        assert_eq!((exchanges[0].status, exchanges[0].ending), (Some(200), Ending::TimedOut));
        assert_eq!(exchanges[1], told("GET /a HT", 408, 20, Ending::Whole));
    }

    fn the_servers_end_is_told_of(proactor: Proactor) {
        let (_dir, server, notes, mut client) = serve(&proactor, ServerOptions::default());
        client.write_all(get("/big", "").as_bytes()).unwrap();
        let client = join(&proactor, std::thread::spawn(move || {
            client.read_exact(&mut [0]).unwrap();
            client
        }));
        // This one waits for its file still.
        let mut other = connect(&server);
        other.write_all(get("/big", "").as_bytes()).unwrap();
        run_until(&proactor, "the request", || notes.requests.get() == 2);
        server.abort();
        run_until(&proactor, "the end", || notes.all_over());
        let exchanges = notes.exchanges.borrow();
        assert!(exchanges.iter().all(|e| e.ending == Ending::Stopped), "{exchanges:?}");
        assert!(exchanges.iter().any(|e| e.status == Some(200) && e.content < BIG));
        drop((client, other));
    }

    fn the_loops_end_is_told_of(proactor: Proactor) {
        let (_dir, server, notes, mut client) = serve(&proactor, ServerOptions::default());
        client.write_all(get("/big", "").as_bytes()).unwrap();
        run_until(&proactor, "the request", || notes.requests.get() == 1);
        drop(proactor);
        drop(server);
        assert!(notes.all_over());
        assert_eq!(notes.exchanges.borrow().len(), 1);
        drop(client);
    }

    fn what_is_told_of_is_what_arrives(proactor: Proactor) {
        // Over a Unix socket all that the kernel took can be read, whatever ended it.
        let limits = Limits { send_timeout: Duration::ZERO, ..Limits::default() };
        let mut proactor = Some(proactor);
        for ending in [Ending::TimedOut, Ending::Failed, Ending::Stopped] {
            for the_loops_end in [false, true] {
                if the_loops_end && ending != Ending::Stopped {
                    continue;
                }
                let options = match ending {
                    Ending::TimedOut => quick(limits),
                    _ => ServerOptions::default(),
                };
                let at = path();
                let address = std::os::unix::net::SocketAddr::from_pathname(&at).unwrap();
                let running = proactor.as_ref().unwrap();
                let (dir, server, notes) = serve_at(running, &address.into(), options);
                notes.unix.set(true);
                let mut client = UnixStream::connect(&at).unwrap();
                client.set_read_timeout(Some(LIMIT)).unwrap();
                client.write_all(get("/big", "").as_bytes()).unwrap();
                run_until(running, "a beginning", || recv(&client, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT).is_ok());
                let mut reading = None;
                match ending {
                    Ending::Failed => {
                        let big = fs::File::options().write(true).open(dir.path().join("big")).unwrap();
                        big.set_len(1).unwrap();
                        // It is seen when there is room again.
                        reading = Some(read_until_error(client.try_clone().unwrap()));
                    }
                    Ending::Stopped if !the_loops_end => server.abort(),
                    _ => {}
                }
                if the_loops_end {
                    drop(proactor.take());
                } else {
                    run_until(running, "the end", || notes.all_over());
                }
                assert!(notes.all_over());
                let reading = reading.unwrap_or_else(|| read_until_error(client));
                let (got, _) = reading.join().unwrap();
                let exchanges = notes.exchanges.borrow();
                let told = if the_loops_end { Ending::Failed } else { ending };
                assert_eq!((exchanges.len(), exchanges[0].ending), (1, told));
                let content = exchanges[0].content;
                assert!(content < BIG);
                assert_eq!(got.len() as u64, notes.headers.get() + content, "{ending:?}");
                fs::remove_file(at).unwrap();
            }
        }
    }

    fn uploads_are_told_of(proactor: Proactor) {
        let mut options = ServerOptions::default();
        options.uploads = Some(Uploads::new(1 << 20, "t").unwrap());
        let (_dir, server, notes, mut client) = serve(&proactor, options);
        let put = |name, more| {
            let head = "Host: x\r\nAuthorization: Bearer t\r\nContent-Length: 10\r\n";
            format!("PUT /{name} HTTP/1.1\r\n{head}{more}\r\n")
        };
        let asking = put("new", "Expect: 100-continue\r\n");
        client.write_all(asking.as_bytes()).unwrap();
        let mut word = [0; 25];
        let asked = std::thread::spawn(move || {
            client.read_exact(&mut word).unwrap();
            client.write_all(b"0123456789").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            client
        });
        let client = join(&proactor, asked);
        let got = join(&proactor, read_all(client));
        run_until(&proactor, "the end", || notes.all_over());
        // The word to go on counts as the header's.
        let content = notes.exchanges.borrow()[0].content;
        assert_eq!(notes.headers.get() + content, 25 + got.len() as u64);
        let mut gone = connect(&server);
        gone.write_all(put("other", "").as_bytes()).unwrap();
        gone.write_all(b"01234").unwrap();
        run_until(&proactor, "the request", || notes.requests.get() == 2);
        drop(gone);
        run_until(&proactor, "the end", || notes.all_over());
        let exchanges = notes.exchanges.borrow();
        assert_eq!((exchanges[0].status, exchanges[0].received), (Some(201), 10));
        let mut cut = told("PUT /other HTTP/1.1", None, 0, Ending::PeerGone);
        cut.received = exchanges[1].received;
        assert!(cut.received <= 5);
        assert_eq!(exchanges[1..], [cut]);
    }

    fn connections_above_the_limit_are_told_of(proactor: Proactor) {
        let mut options = ServerOptions::default();
        options.gate = Some(std::sync::Arc::new(Gate::new(0)));
        let (_dir, _server, notes, client) = serve(&proactor, options);
        let _ = join(&proactor, read_until_error(client));
        run_until(&proactor, "the end", || notes.all_over());
        assert_eq!(notes.connections.get(), (1, 1, 1));
        let expected = [told("", 503, 24, Ending::Whole)];
        assert_eq!(notes.exchanges.borrow()[..], expected[..]);
    }
}
