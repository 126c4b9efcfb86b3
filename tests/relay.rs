//! Two connections joined: what each side gets, and how the joint says it ended.

mod common;

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::*;
use spliceport::proactor::{BackendChoice, Fd, Proactor, net};
use spliceport::{
    End, ReceiveOptions, RelayHandle, RelayOptions, RelayOutcome, Route, RouteChoice, SendOptions,
    Sink, Transport, relay,
};

const LEN: usize = 3_000_000;

const WAYS: [RouteChoice; 2] = [RouteChoice::Auto, RouteChoice::Force(Route::Copy)];

struct Joined {
    a: Transport,
    b: Transport,
    records: [Record; 2],
    cell: Rc<RefCell<Option<RelayOutcome>>>,
    handle: RelayHandle,
}

/// Joins two connections.
fn join_them(proactor: &Proactor, a: Fd, b: Fd, options: RelayOptions) -> Joined {
    let (a, first) = over(proactor, a);
    let (b, second) = over(proactor, b);
    let (cell, handle) = begin(&a, &b, options);
    Joined {
        a,
        b,
        records: [first, second],
        cell,
        handle,
    }
}

fn begin(
    a: &Transport,
    b: &Transport,
    options: RelayOptions,
) -> (Rc<RefCell<Option<RelayOutcome>>>, RelayHandle) {
    let cell = Rc::new(RefCell::new(None));
    let keep = Rc::clone(&cell);
    let handle = relay(a, b, options, move |outcome| {
        assert!(keep.borrow_mut().replace(outcome).is_none(), "called twice");
    });
    assert!(cell.borrow().is_none(), "called from inside the call");
    (cell, handle)
}

impl Joined {
    #[track_caller]
    fn wait(&self, proactor: &Proactor) -> RelayOutcome {
        run_until(proactor, "a relay's end", || self.cell.borrow().is_some());
        assert_eq!(self.handle.bytes(), None);
        let outcome = self.cell.borrow_mut().take().unwrap();
        run_until(proactor, "the connections' ends", || {
            self.records.iter().all(Record::is_lost)
        });
        for record in &self.records {
            assert!(record.received().is_empty());
            assert!(!record.has(&Note::End));
        }
        outcome
    }
}

fn way(route: RouteChoice) -> RelayOptions {
    RelayOptions::new().route(route)
}

/// Writes, ends its side, and reads to the end, on threads of its own.
fn exchange(mut peer: TcpStream, bytes: Vec<u8>) -> std::thread::JoinHandle<Vec<u8>> {
    let reader = read_all(peer.try_clone().unwrap());
    std::thread::spawn(move || {
        peer.write_all(&bytes).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        reader.join().unwrap()
    })
}

on_both_backends! {
    fn both_ways_at_once(proactor: Proactor) {
        for route in WAYS {
            let ((a, client), (b, server)) = (tcp(), tcp());
            let joined = join_them(&proactor, a, b, way(route));
            let client = exchange(client, contents(0, LEN));
            let server = exchange(server, contents(9, LEN + 1));
            assert_same(&join(&proactor, client), &contents(9, LEN + 1));
            assert_same(&join(&proactor, server), &contents(0, LEN));
            let outcome = joined.wait(&proactor);
            assert!(outcome.is_success(), "{outcome:?}");
            let counts = (outcome.forth.bytes, outcome.back.bytes);
            assert_eq!(counts, (LEN as u64, LEN as u64 + 1));
            if let RouteChoice::Force(route) = route {
                assert_eq!(outcome.forth.routes.iter().collect::<Vec<_>>(), [route]);
            } else {
                assert!(!outcome.forth.routes.contains(Route::Copy));
            }
            assert_eq!(proactor.stats().pipes_leased, 0);
        }
    }

    fn word_by_word(proactor: Proactor) {
        for route in WAYS {
            let ((a, mut client), (b, mut server)) = (tcp(), tcp());
            let joined = join_them(&proactor, a, b, way(route));
            let talk = std::thread::spawn(move || {
                let mut word = [0; 5];
                for _ in 0..50 {
                    client.write_all(b"hello").unwrap();
                    server.read_exact(&mut word).unwrap();
                    assert_eq!(&word, b"hello");
                    server.write_all(b"there").unwrap();
                    client.read_exact(&mut word).unwrap();
                    assert_eq!(&word, b"there");
                }
                (client, server)
            });
            let ends = join(&proactor, talk);
            run_until(&proactor, "the counts", || {
                joined.handle.bytes() == Some((250, 250))
            });
            drop(ends);
            let outcome = joined.wait(&proactor);
            assert!(outcome.is_success(), "{outcome:?}");
        }
    }

    fn a_half_closed_side_goes_on_receiving(proactor: Proactor) {
        for route in WAYS {
            let ((a, mut client), (b, mut server)) = (tcp(), tcp());
            let joined = join_them(&proactor, a, b, way(route));
            client.write_all(b"request").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let asked = read_all(server.try_clone().unwrap());
            assert_eq!(join(&proactor, asked), b"request");
            run_a_while(&proactor);
            assert!(joined.cell.borrow().is_none());
            let answer = read_all(client);
            let writer = std::thread::spawn(move || {
                server.write_all(&contents(0, LEN)).unwrap();
            });
            join(&proactor, writer);
            assert_same(&join(&proactor, answer), &contents(0, LEN));
            let outcome = joined.wait(&proactor);
            assert!(outcome.is_success(), "{outcome:?}");
            assert_eq!((outcome.forth.bytes, outcome.back.bytes), (7, LEN as u64));
        }
    }

    fn what_was_there_before_goes_first(proactor: Proactor) {
        for route in WAYS {
            let ((a, mut client), (b, mut server)) = (tcp(), tcp());
            let (a, first) = over(&proactor, a);
            let (b, second) = over(&proactor, b);
            run_until(&proactor, "the beginning", || first.has(&Note::Made) && second.has(&Note::Made));
            // Received and held; written; to be received as a file.
            a.pause_reading();
            client.write_all(b"filedata").unwrap();
            run_a_while(&proactor);
            b.write(&b"greeting "[..]).unwrap();
            let file = empty_file();
            let kept = file.try_clone().unwrap();
            let received = Rc::new(RefCell::new(0));
            let count = Rc::clone(&received);
            a.receive_file(Sink::file(file, ..4), ReceiveOptions::new(), move |_, outcome| {
                *count.borrow_mut() = outcome.received;
            });
            let sent = send(&b, file_of(b"banner "), SendOptions::new());
            let (cell, _handle) = begin(&a, &b, way(route));
            client.write_all(b" and more").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            server.shutdown(Shutdown::Write).unwrap();
            let mut got = Vec::new();
            let reader = std::thread::spawn(move || {
                server.read_to_end(&mut got).unwrap();
                got
            });
            assert_eq!(join(&proactor, reader), b"greeting banner data and more");
            run_until(&proactor, "the end", || cell.borrow().is_some());
            let outcome = cell.borrow_mut().take().unwrap();
            assert!(outcome.is_success(), "{outcome:?}");
            assert_eq!((outcome.forth.bytes, outcome.back.bytes), (13, 0));
            assert_eq!((*received.borrow(), kept.metadata().unwrap().len()), (4, 4));
            assert_eq!(sent.sent(), 7);
        }
    }

    fn a_side_that_had_ended(proactor: Proactor) {
        for route in WAYS {
            let ((a, mut client), (b, server)) = (tcp(), tcp());
            let (a, first) = over(&proactor, a);
            let (b, _second) = over(&proactor, b);
            first.half_open.set(true);
            client.write_all(b"told").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            run_until(&proactor, "its end", || first.has(&Note::End));
            let (cell, _handle) = begin(&a, &b, way(route));
            let client = read_all(client);
            let server = exchange(server, b"late".to_vec());
            assert_eq!(join(&proactor, server), b"");
            assert_eq!(join(&proactor, client), b"late");
            run_until(&proactor, "the end", || cell.borrow().is_some());
            assert!(cell.borrow_mut().take().unwrap().is_success());
        }
    }

    fn a_stalled_side_holds_back_the_other(proactor: Proactor) {
        for route in WAYS {
            let ((a, client), (b, server)) = (tight_tcp(), tight_tcp());
            let joined = join_them(&proactor, a, b, way(route));
            client.set_nonblocking(true).unwrap();
            // Until nothing goes in any more: then all is full.
            let mut written = 0_usize;
            let bytes = contents(0, 64 << 20);
            let mut quiet = 0;
            while quiet < 5 {
                match (&client).write(&bytes[written..]) {
                    Ok(n) => (written, quiet) = (written + n, 0),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        run_a_while(&proactor);
                        quiet += 1;
                    }
                    Err(e) => panic!("{e}"),
                }
            }
            assert!(written < 8 << 20, "{written} bytes are under way");
            assert_eq!(proactor.stats().workers, 0);
            // The other direction goes on all the same.
            (&server).write_all(b"back").unwrap();
            run_until(&proactor, "the count", || {
                joined.handle.bytes().is_some_and(|(_, back)| back == 4)
            });
            client.shutdown(Shutdown::Write).unwrap();
            let reader = read_all(server.try_clone().unwrap());
            server.shutdown(Shutdown::Write).unwrap();
            assert_same(&join(&proactor, reader), &bytes[..written]);
            assert!(joined.wait(&proactor).is_success());
        }
    }

    fn a_reset_is_passed_on(proactor: Proactor) {
        for route in WAYS {
            for first in [false, true] {
                let ((a, mut client), (b, mut server)) = (tcp(), tcp());
                let joined = join_them(&proactor, a, b, way(route));
                client.write_all(b"hello").unwrap();
                server.write_all(b"there").unwrap();
                run_until(&proactor, "the counts", || joined.handle.bytes() == Some((5, 5)));
                let (gone, mut left) = if first { (client, server) } else { (server, client) };
                net::set_reset_on_close(&Fd::new(OwnedFd::from(gone))).unwrap();
                let outcome = joined.wait(&proactor);
                assert!(!outcome.is_success());
                assert_eq!((outcome.forth.bytes, outcome.back.bytes), (5, 5));
                let ends = [outcome.forth.end, outcome.back.end];
                assert!(ends.contains(&End::PeerGone), "{ends:?}");
                assert!(outcome.forth.error.is_some() && outcome.back.error.is_some());
                let mut word = [0; 5];
                left.read_exact(&mut word).unwrap();
                let error = left.read(&mut word).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            }
        }
    }

    fn idle_ones_end(proactor: Proactor) {
        for route in WAYS {
            let mut time = Duration::from_millis(150);
            let (joined, _client, mut server, dots) = loop {
                let ((a, mut client), (b, mut server)) = (tcp(), tcp());
                server.set_nonblocking(true).unwrap();
                let start = Instant::now();
                let joined = join_them(&proactor, a, b, way(route).idle(time));
                let is_over = || joined.cell.borrow().is_some();
                // What goes on is not idle, however slowly.
                let (mut moved, mut dots) = (start, 0);
                while !is_over() && start.elapsed() < time * 2 {
                    let now = Instant::now();
                    client.write_all(b".").unwrap();
                    let mut arrived = || server.read(&mut [0]).is_ok_and(|n| n == 1);
                    run_until(&proactor, "a dot", || arrived() || is_over());
                    if !is_over() {
                        (moved, dots) = (now, dots + 1);
                        proactor.run_once(Some(time / 8)).unwrap();
                    }
                }
                if !is_over() {
                    break (joined, client, server, dots);
                }
                // The machine was so slow that nothing had moved for as long.
                assert!(moved.elapsed() >= time, "{dots} dots");
                time *= 2;
            };
            let outcome = joined.wait(&proactor);
            let ends = (outcome.forth.end, outcome.back.end);
            assert_eq!(ends, (End::TimedOut, End::TimedOut));
            assert_eq!(outcome.forth.error.unwrap().kind(), io::ErrorKind::TimedOut);
            assert_eq!(outcome.forth.bytes, dots);
            server.set_nonblocking(false).unwrap();
            assert_eq!(server.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
    }

    fn cancelled_ones_end(proactor: Proactor) {
        for route in WAYS {
            for early in [true, false] {
                let ((a, mut client), (b, _server)) = (tcp(), tcp());
                let joined = join_them(&proactor, a, b, way(route));
                client.write_all(b"hello").unwrap();
                if !early {
                    run_until(&proactor, "the count", || joined.handle.bytes() == Some((5, 0)));
                }
                joined.handle.cancel();
                let outcome = joined.wait(&proactor);
                let ends = (outcome.forth.end, outcome.back.end);
                assert_eq!(ends, (End::Cancelled, End::Cancelled));
                assert_eq!(outcome.forth.bytes, if early { 0 } else { 5 });
                assert!(joined.a.is_closing() && joined.b.is_closing());
            }
        }
    }

    fn one_that_is_closing_can_t_be_joined(proactor: Proactor) {
        let ((a, _client), (b, _server)) = (tcp(), tcp());
        let (a, _first) = over(&proactor, a);
        let (b, second) = over(&proactor, b);
        run_until(&proactor, "the beginning", || second.has(&Note::Made));
        a.close();
        let (cell, _handle) = begin(&a, &b, RelayOptions::new());
        run_until(&proactor, "the end", || cell.borrow().is_some());
        let outcome = cell.borrow_mut().take().unwrap();
        assert_eq!(outcome.forth.end, End::Closing);
        assert!(outcome.back.error.is_some());
        run_until(&proactor, "the other's end", || second.is_lost());
    }

    fn a_stream_that_was_given_away_is_not_received_from(proactor: Proactor) {
        for turns in [0, 3] {
            let ((a, client), (b, server)) = (tcp(), tcp());
            let joined = join_them(&proactor, a, b, RelayOptions::new());
            for _ in 0..turns {
                proactor.run_once(Some(Duration::ZERO)).unwrap();
            }
            let cell = Rc::new(RefCell::new(None));
            let keep = Rc::clone(&cell);
            let file = Fd::new(OwnedFd::from(empty_file()));
            let sink = Sink::file(file, ..1000);
            drop(joined.a.receive_file(sink, ReceiveOptions::new(), move |_, outcome| {
                keep.borrow_mut().replace(outcome);
            }));
            let client = exchange(client, contents(0, LEN));
            let server = exchange(server, Vec::new());
            assert_same(&join(&proactor, server), &contents(0, LEN));
            join(&proactor, client);
            assert!(joined.wait(&proactor).is_success());
            let outcome = cell.borrow_mut().take().expect("it has ended");
            assert_eq!((outcome.received, outcome.end), (0, End::Failed));
            let error = outcome.error.map(|e| e.kind());
            assert_eq!(error, Some(io::ErrorKind::InvalidInput));
        }
    }

    fn leaves_no_timer(proactor: Proactor) {
        // The longest time there is is none.
        for idle in [Duration::from_secs(3600), Duration::MAX] {
            let ((a, client), (b, server)) = (tcp(), tcp());
            let joined = join_them(&proactor, a, b, RelayOptions::new().idle(idle));
            let client = exchange(client, contents(0, 1000));
            let server = exchange(server, contents(1, 1000));
            join(&proactor, client);
            join(&proactor, server);
            assert!(joined.wait(&proactor).is_success());
            drop(joined);
            run_until(&proactor, "the end of all operations", || {
                proactor.stats().in_flight == 0
            });
        }
    }

    fn unix_sockets(proactor: Proactor) {
        for route in WAYS {
            let (a, mut client) = std::os::unix::net::UnixStream::pair().unwrap();
            let (b, server) = tcp();
            let joined = join_them(&proactor, Fd::new(OwnedFd::from(a)), b, way(route));
            let reader = read_all(client.try_clone().unwrap());
            let writer = std::thread::spawn(move || {
                client.write_all(&contents(0, LEN)).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            });
            let server = exchange(server, contents(5, LEN));
            assert_same(&join(&proactor, server), &contents(0, LEN));
            assert_same(&join(&proactor, reader), &contents(5, LEN));
            join(&proactor, writer);
            assert!(joined.wait(&proactor).is_success());
        }
    }

    fn small_buffers(proactor: Proactor) {
        for route in WAYS {
            let ((a, client), (b, server)) = (small_tcp(), small_tcp());
            let joined = join_them(&proactor, a, b, way(route));
            let client = exchange(client, contents(0, 30_000));
            let server = exchange(server, contents(7, 20_000));
            assert_same(&join(&proactor, client), &contents(7, 20_000));
            assert_same(&join(&proactor, server), &contents(0, 30_000));
            assert!(joined.wait(&proactor).is_success());
        }
    }

    fn many_at_once(proactor: Proactor) {
        many(&proactor, 64, 200_000);
        assert_eq!(proactor.stats().pipes_leased, 0);
    }

    fn the_proactor_may_go(proactor: Proactor) {
        let ((a, mut client), (b, _server)) = (tcp(), tcp());
        let joined = join_them(&proactor, a, b, RelayOptions::new());
        client.write_all(b"hello").unwrap();
        run_a_while(&proactor);
        drop(proactor);
        assert!(!joined.cell.borrow_mut().take().unwrap().is_success());
        assert!(joined.records.iter().all(Record::is_lost));
    }
}

fn file_of(bytes: &[u8]) -> std::fs::File {
    use std::io::Seek;
    let mut file = empty_file();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// So many relays at once.
fn many(proactor: &Proactor, count: usize, len: usize) {
    let all: Vec<_> = (0..count)
        .map(|i| {
            let ((a, client), (b, server)) = (tcp(), tcp());
            let joined = join_them(proactor, a, b, RelayOptions::new());
            let client = exchange(client, contents(i as u64, len));
            let server = exchange(server, contents(2 * i as u64, len));
            (joined, client, server)
        })
        .collect();
    for (i, (joined, client, server)) in all.into_iter().enumerate() {
        assert_same(&join(proactor, client), &contents(2 * i as u64, len));
        assert_same(&join(proactor, server), &contents(i as u64, len));
        assert!(joined.wait(proactor).is_success());
    }
}

/// With few pipes, and with none, the bytes are the same.
#[test]
fn few_pipes() {
    for backend in [BackendChoice::Ring, BackendChoice::Emulated] {
        for pipes in [0, 1, 3] {
            let Ok(proactor) = Proactor::builder().backend(backend).pipes(pipes).build() else {
                continue;
            };
            many(&proactor, 10, 300_000);
            assert_eq!(proactor.stats().pipes_leased, 0);
        }
    }
}

/// The example, as its users run it.
#[test]
fn the_proxy_example() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let example = std::path::Path::new(env!("CARGO_BIN_EXE_spliceport"))
        .with_file_name("examples")
        .join("proxy");
    if !example.exists() {
        return not_run("the example is built by `cargo test` and `cargo build --examples`");
    }
    let mut proxy = Command::new(example)
        .args(["127.0.0.1:0", &server.local_addr().unwrap().to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(proxy.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address = line
        .trim()
        .strip_prefix("listening on ")
        .unwrap()
        .to_owned();
    let client = TcpStream::connect(address).unwrap();
    let client = exchange(client, contents(0, LEN));
    let (peer, _) = server.accept().unwrap();
    let peer = exchange(peer, contents(3, LEN));
    assert_same(&client.join().unwrap(), &contents(3, LEN));
    assert_same(&peer.join().unwrap(), &contents(0, LEN));
    proxy.kill().unwrap();
    proxy.wait().unwrap();
}
